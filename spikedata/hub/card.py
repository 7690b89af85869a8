"""The card of a published data set: what it is, how to read it without us, how it was made."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from spikedata.clips import ChangedClips, ClipSource, arrow_schema
from spikedata.provenance import versions
from spikedata.wording import markdown_text, printable_lines

RECIPE_FILE = "recipe.yaml"
_RECIPE_KEYS = frozenset(["sensor", "video", "interpolator", "tick_rate_hz", "split"])
"""What `spikedata simulate --recipe` reads."""

_HUB_LICENCES = frozenset(
    """
    unknown other mit apache-2.0 isc zlib unlicense wtfpl bsd bsd-2-clause bsd-3-clause
    cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 c-uda etalab-2.0 odbl odc-by pddl
    gfdl gpl gpl-2.0 gpl-3.0 agpl-3.0 lgpl lgpl-2.1 lgpl-3.0
    mpl-2.0 epl-1.0 epl-2.0 eupl-1.1
    """.split()  # noqa: SIM905  fifty strings in quotes are hard to read
)
"""The Hub's identifiers for data and code: https://huggingface.co/docs/hub/repositories-licenses."""
_SPELLINGS = {
    "apache-license-2.0": "apache-2.0",
    "cc-zero-1.0": "cc0-1.0",
    "cc0": "cc0-1.0",
    "gfdl-1.3": "gfdl",
    "mit-license": "mit",
    "odbl-1.0": "odbl",
    "odc-by-1.0": "odc-by",
    "pddl-1.0": "pddl",
}

DECODER = '''\
import numpy as np
import zstandard


def spike_planes(row):
    """Spike planes of one clip: uint8 0/1 (ticks, height, width)."""
    chunks = []
    for frame in row["bits"]:
        packed = np.frombuffer(zstandard.decompress(frame), np.uint8)
        packed = packed.reshape(row["height"], row["width"], -1)
        chunks.append(np.unpackbits(packed, axis=2, bitorder="little"))
    return np.concatenate(chunks, axis=2)[:, :, : row["ticks"]].transpose(2, 0, 1)
'''
"""Ten lines that read the bits with NumPy and zstandard alone."""

_COLUMNS = """\
| column | what |
|---|---|
| `id` | unique name of the clip |
| `preview` | picture of the first chunk's spike counts |
| `label`, `captions`, `split`, `group` | class, sentences, split; clips of a group share a scene |
| `source`, `source_sha256`, `licence` | the file it was made from |
| `ticks`, `tick_rate_hz`, `height`, `width` | size; one tick is one spike plane |
| `threshold` | full-scale ticks per spike; null for a real camera |
| `spikes`, `bits_sha256` | number of ones; SHA-256 of packed bytes, order (tick group, y, x) |
| `facts_sha256` | SHA-256 of all that is known of the clip, which `spikedata` checks |
| `provenance` | JSON: sensor, decoder, versions |
| `chunk_ticks`, `bits` | zstd frames of `chunk_ticks` ticks, bytes (height, width, tick group) |
"""


def card_text(
    clips: ClipSource,
    *,
    repo: str,
    licence: str | None,
    recipe_only: bool,
    split_bytes: Mapping[str, int],
    side_files: Collection[str] = (),
) -> str:
    """The README with its YAML header.

    Args:
        clips: what is published.
        repo: ``owner/name``.
        licence: the data set's; default what all clips agree on, else ``unknown``.
        recipe_only: the bits are left out.
        split_bytes: bytes of each split's files.
        side_files: names of the recipe and what it needs, published beside the data.
    """
    header = _yaml(_metadata(clips, licence, recipe_only, split_bytes).to_dict())
    parts = [_introduction(clips, recipe_only)]
    parts.append(_RECIPE_ONLY if recipe_only else _loading(repo, split_bytes))
    if side_files:
        commands = _COMMANDS.format(repo=repo, files=" ".join(side_files), recipe=RECIPE_FILE)
        parts.append(commands)
    parts.append(f"## Columns\n\n{_columns(recipe_only)}")
    parts.append(_making(clips))
    parts.append(_licence_text(clips, licence))
    return printable_lines(f"---\n{header}---\n\n" + "\n".join(parts))


def _yaml(values: Any, *, sort_keys: bool = False) -> str:
    """Values as YAML that reads back as them: what is not printable stands as its escape."""
    text = yaml.safe_dump(values, sort_keys=sort_keys, allow_unicode=True)
    if printable_lines(text) != text:
        text = yaml.safe_dump(values, sort_keys=sort_keys)
    return text


def _metadata(
    clips: ClipSource, licence: str | None, recipe_only: bool, split_bytes: Mapping[str, int]
) -> Any:
    """The header, a ``huggingface_hub.DatasetCardData``."""
    # half a second to load
    from datasets import DatasetInfo, Features, SplitDict, SplitInfo  # noqa: PLC0415
    from datasets.info import DatasetInfosDict  # noqa: PLC0415
    from huggingface_hub import DatasetCardData  # noqa: PLC0415

    examples = Counter(stored.clip.split or "train" for stored in clips.clips.values())
    splits = SplitDict()
    for name, size in split_bytes.items():
        splits.add(SplitInfo(name=name, num_bytes=size, num_examples=examples[name]))
    total = sum(split_bytes.values())
    info = DatasetInfo(
        features=Features.from_arrow_schema(arrow_schema(clips, with_bits=not recipe_only)),
        splits=splits,
        download_size=total,
        dataset_size=total,
    )
    told: dict[str, Any] = {**licence_metadata(_licence(clips, licence))}
    data = DatasetCardData(
        pretty_name=clips.name or "spikes",
        **told,
        task_categories=["video-classification"],
        tags=["spike-camera", "neuromorphic", "spikedata"],
        size_categories=[_size_category(len(clips.clips))],
        configs=[_config(split_bytes)],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    return data


def _config(splits: Iterable[str]) -> dict[str, Any]:
    """Which files are of which split."""
    files = [{"split": name, "path": f"data/{name}-*"} for name in splits]
    return {"config_name": "default", "data_files": files}


def _licence(clips: ClipSource, licence: str | None) -> str:
    known = {stored.clip.licence for stored in clips.clips.values()}
    if licence is None and len(known) == 1:
        licence = known.pop()
    return licence or "unknown"


def licence_metadata(stated: str) -> dict[str, str]:
    """A licence as keys of the card's header: the Hub's identifier, or ``other`` and a name.

    Args:
        stated: an SPDX identifier or any other name, in any spelling, or an address.
    """
    known = _hub_licence(stated)
    if known is not None:
        return {"license": known}
    name = re.sub(r"[^a-z0-9.]+", "-", stated.lower()).strip("-")
    link = {"license_link": stated} if re.match(r"https?://\S+$", stated) else {}
    return {"license": "other", "license_name": name, **link}


def _hub_licence(stated: str) -> str | None:
    """The Hub's identifier; None if it has none."""
    text = stated.strip().lower()
    address = re.search(r"creativecommons\.org/(?:licenses|publicdomain)/([a-z-]+)/([\d.]+)", text)
    if address:
        text = f"cc-{address[1]}-{address[2]}"
    text = re.sub(r"-(only|or-later)$", "", re.sub(r"[\s_-]+", "-", text))
    candidates = (text, _SPELLINGS.get(text, ""), f"{text}.0")
    return next((name for name in candidates if name in _HUB_LICENCES), None)


def recipe_text(recipe: Mapping[str, Any]) -> str | None:
    """``recipe.yaml``; None where the clips were not all simulated from videos with one recipe."""
    if "sensor" not in recipe or not recipe.keys() <= _RECIPE_KEYS:
        return None
    values = _yaml(dict(recipe))
    return f"# spikedata simulate VIDEOS --recipe {RECIPE_FILE}\n{values}"


def named_maps(recipe: Mapping[str, Any]) -> tuple[Path, str | None] | None:
    """The file of a calibrated sensor's maps that a recipe names, and the digest it notes."""
    noise = (recipe.get("sensor") or {}).get("noise") or {}
    return (Path(noise["maps"]), noise.get("maps_sha256")) if noise.get("maps") else None


def clips_without_folders(clips: ClipSource, maps_sha256: str | None) -> ClipSource:
    """The clips, naming files of maps but not where these lay; as they are if they do so."""
    recipe = without_folders(clips.recipe, maps_sha256)
    if recipe == clips.recipe:
        return clips
    told = {
        key: replace(stored, attributes=without_folders(stored.attributes, maps_sha256))
        for key, stored in clips.clips.items()
    }
    return ChangedClips(clips, clips=told, recipe=recipe)


def without_folders(values: Any, maps_sha256: str | None) -> Any:
    """Plain values in which every file of maps is named by base name and digest alone.

    Args:
        values: a recipe, a clip's attributes, or anything in them.
        maps_sha256: the digest, where ``values`` do not note it.
    """
    if isinstance(values, list):
        return [without_folders(value, maps_sha256) for value in values]
    if not isinstance(values, dict):
        return values
    plain = {key: without_folders(value, maps_sha256) for key, value in values.items()}
    if isinstance(plain.get("maps"), str):
        plain["maps"] = Path(plain["maps"]).name
        plain["maps_sha256"] = plain.get("maps_sha256") or maps_sha256
    return plain


def _size_category(count: int) -> str:
    for bound, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")):
        if count < bound:
            return name
    return "100K<n<1M"


def _introduction(clips: ClipSource, recipe_only: bool) -> str:
    all_clips = list(clips.clips.values())
    sizes = sorted({f"{stored.height_px}x{stored.width_px}" for stored in all_clips})
    rates = sorted({stored.tick_rate_hz for stored in all_clips})
    ticks = [stored.ticks for stored in all_clips]
    classes = len(clips.class_names)
    what = "Recipes of spike-camera clips" if recipe_only else "Spike-camera clips"
    return (
        f"# {markdown_text(clips.name or 'spikes')}\n\n"
        f"{what}: each pixel is one bit a tick, 1 where it fired.\n\n"
        f"- clips: {len(all_clips):,}; classes: {classes:,}\n"
        f"- height x width: {_some(sizes)}\n"
        f"- ticks a second: {_some([f'{rate:g}' for rate in rates])}\n"
        f"- ticks a clip: {min(ticks):,} to {max(ticks):,}\n"
    )


def _fence(text: str) -> str:
    """What stands around text as it is, and is not in it."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def _some(values: list[str]) -> str:
    return ", ".join(values) if len(values) <= 6 else f"{len(values)} from {values[0]}"


def _loading(repo: str, split_bytes: Mapping[str, int]) -> str:
    split = next(iter(split_bytes))
    return (
        "## Load\n\n"
        f'```python\nfrom datasets import load_dataset\n\nrows = load_dataset("{repo}", '
        f'split="{split}", streaming=True)\nfor row in rows.take(1):\n'
        '    print(row["id"], row["ticks"])\n```\n\n'
        "The bits need only NumPy and `pip install zstandard`:\n\n"
        f"```python\n{DECODER}```\n\n"
        "For a window of a clip, decode only the frames it touches: frame `i` holds the ticks from "
        "`i * chunk_ticks`. "
        f"`spikedata pull {repo}` turns all of it into a Zarr store.\n"
    )


_RECIPE_ONLY = """\
The licence of the source forbids copies, so this holds no bits, but all that decides them.
"""

_COMMANDS = """\
## Make the bits yourself

With the source videos in a folder VIDEOS and `pip install spklip`:

```shell
hf download {repo} {files} --repo-type dataset --local-dir .
spikedata simulate VIDEOS --recipe {recipe} --out spikes.zarr
spikedata pull {repo} --check --out spikes.zarr
```

The last command compares every clip with the digests here and tells which decoder or file
differs.
"""


def _columns(recipe_only: bool) -> str:
    lines = _COLUMNS.splitlines(keepends=True)
    if recipe_only:
        lines = [line for line in lines if "`preview`" not in line and "`bits`" not in line]
    return "".join(lines)


def _making(clips: ClipSource) -> str:
    recipe = _yaml(clips.recipe, sort_keys=True)
    fence = _fence(recipe)
    return (
        f"## How it was made\n\nWith spikedata {versions()['spikedata']}. The recipe that decides "
        f"the bits:\n\n{fence}yaml\n{recipe}{fence}\n\nWhat differs from clip to clip (decoder, "
        "frames decoded, versions) stands in each row's `provenance`.\n"
    )


def _licence_text(clips: ClipSource, licence: str | None) -> str:
    known = sorted({stored.clip.licence or "not stated" for stored in clips.clips.values()})
    own, sources = markdown_text(_licence(clips, licence)), markdown_text(_some(known))
    return (
        f"## Licence and source\n\nLicence of this data set: {own}. "
        f"Licence of the sources: {sources}. Each row's `source` and `source_sha256` name the "
        "file that the clip was made from; the rights in it stay with its owners.\n"
    )
