"""The card of a published data set: what it is, how to read it without us, how it was made."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from spikedata.parquet import ClipSource, arrow_schema
from spikedata.provenance import versions

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
) -> str:
    """The README with its YAML header.

    Args:
        clips: what is published.
        repo: ``owner/name``.
        licence: an identifier of the Hub's; default what all clips agree on, else ``unknown``.
        recipe_only: the bits are left out.
        split_bytes: bytes of each split's files.
    """
    header = yaml.safe_dump(
        _metadata(clips, licence, recipe_only, split_bytes), sort_keys=False, allow_unicode=True
    )
    parts = [_introduction(clips, recipe_only)]
    parts.append(_RECIPE_ONLY.format(repo=repo) if recipe_only else _loading(repo, split_bytes))
    parts.append(f"## Columns\n\n{_columns(recipe_only)}")
    parts.append(_making(clips))
    parts.append(_licence_text(clips, licence))
    return f"---\n{header}---\n\n" + "\n".join(parts)


def _metadata(
    clips: ClipSource, licence: str | None, recipe_only: bool, split_bytes: Mapping[str, int]
) -> dict[str, Any]:
    examples = Counter(stored.clip.split or "train" for stored in clips.clips.values())
    splits = [
        {"name": name, "num_bytes": size, "num_examples": examples[name]}
        for name, size in split_bytes.items()
    ]
    total = sum(split_bytes.values())
    info = {"features": _features(clips, recipe_only), "splits": splits}
    files = [{"split": name, "path": f"data/{name}-*"} for name in split_bytes]
    return {
        "pretty_name": clips.name or "spikes",
        "license": _licence(clips, licence),
        "task_categories": ["video-classification"],
        "tags": ["spike-camera", "neuromorphic", "spikedata"],
        "size_categories": [_size_category(len(clips.clips))],
        "dataset_info": info | {"download_size": total, "dataset_size": total},
        "configs": [{"config_name": "default", "data_files": files}],
    }


def _features(clips: ClipSource, recipe_only: bool) -> Any:
    # half a second to load
    from datasets import DatasetInfo, Features  # noqa: PLC0415

    schema = arrow_schema(clips, with_bits=not recipe_only)
    info = DatasetInfo(features=Features.from_arrow_schema(schema))
    return info._to_yaml_dict()["features"]  # what `push_to_hub` itself writes


def _licence(clips: ClipSource, licence: str | None) -> str:
    known = {stored.clip.licence for stored in clips.clips.values()}
    if licence is None and len(known) == 1:
        licence = known.pop()
    return (licence or "unknown").lower()


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
        f"# {clips.name or 'spikes'}\n\n{what}: each pixel is one bit a tick, 1 where it fired.\n\n"
        f"- clips: {len(all_clips):,}; classes: {classes:,}\n"
        f"- height x width: {_some(sizes)}\n"
        f"- ticks a second: {_some([f'{rate:g}' for rate in rates])}\n"
        f"- ticks a clip: {min(ticks):,} to {max(ticks):,}\n"
    )


def _some(values: list[str]) -> str:
    return ", ".join(values) if len(values) <= 6 else f"{len(values)} from {values[0]}"


def _loading(repo: str, split_bytes: Mapping[str, int]) -> str:
    split = next(iter(split_bytes))
    return (
        "## Load\n\n"
        f'```python\nfrom datasets import load_dataset\n\nrows = load_dataset("{repo}", '
        f'split="{split}", streaming=True)\nrow = next(iter(rows))\n```\n\n'
        "The bits need only NumPy and `pip install zstandard`:\n\n"
        f"```python\n{DECODER}```\n\n"
        "For a window of a clip, decode only the frames it touches: frame `i` holds the ticks from "
        "`i * chunk_ticks`. "
        f"`spikedata pull {repo}` turns all of it into a Zarr store.\n"
    )


_RECIPE_ONLY = """\
## Make the bits yourself

The licence of the source forbids copies, so this holds no bits, but all that decides them. With
the source videos, `pip install spikedata` and the recipe below:

```shell
spikedata simulate VIDEOS
spikedata pull {repo} --check spikes.zarr
```

The second command compares every clip with the digests here and tells which decoder or file
differs.
"""


def _columns(recipe_only: bool) -> str:
    lines = _COLUMNS.splitlines(keepends=True)
    if recipe_only:
        lines = [line for line in lines if "`preview`" not in line and "`bits`" not in line]
    return "".join(lines)


def _making(clips: ClipSource) -> str:
    recipe = yaml.safe_dump(clips.recipe, sort_keys=True, allow_unicode=True)
    return (
        f"## How it was made\n\nWith spikedata {versions()['spikedata']}. The recipe that decides "
        f"the bits:\n\n```yaml\n{recipe}```\n\nWhat differs from clip to clip (decoder, frames "
        "decoded, versions) stands in each row's `provenance`.\n"
    )


def _licence_text(clips: ClipSource, licence: str | None) -> str:
    known = sorted({stored.clip.licence or "not stated" for stored in clips.clips.values()})
    return (
        f"## Licence and source\n\nLicence of this data set: {_licence(clips, licence)}. Licence "
        f"of the sources: {_some(known)}. Each row's `source` and `source_sha256` name the file "
        "that the clip was made from; the rights in it stay with its owners.\n"
    )
