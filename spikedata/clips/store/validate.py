"""Hold a store to every rule of the format's document."""

from collections.abc import Collection, Iterator
from pathlib import Path

from spikedata.clips.rules import Problem, RuleBrokenError, check_id, check_label, find_collisions
from spikedata.clips.source import verify_bits
from spikedata.clips.store.catalog import read_catalog, whole_below
from spikedata.clips.store.layout import CATALOG, CLIPS, RootInfo, read_clip_metadata
from spikedata.clips.store.shard import ShardReader
from spikedata.clips.store.sharded import ShardedBits
from spikedata.clips.stored import StoredClip
from spikedata.errors import StoreError
from spikedata.remote import RemotePath, place
from spikedata.wording import printable


def store_problems(path: Path | str, *, deep: bool = True) -> list[Problem]:
    """List the rules that the store at ``path`` breaks; an empty list is a good store.

    Args:
        path: the store.
        deep: also decode every bit and compare digests and spike counts.

    Raises:
        StoreError: a file cannot be read at all.
    """
    path = place(path)
    try:
        root = RootInfo.read(path)
    except RuleBrokenError as error:
        return [Problem(error.code, None, error.message)]
    if not (path / CLIPS).is_dir():
        return [Problem("clips_missing", None, f"has no folder {CLIPS!r}")]
    if isinstance(path, RemotePath):
        names = sorted(whole_below(path / CLIPS))
    else:
        names = sorted(entry.name for entry in (path / CLIPS).iterdir() if entry.is_dir())
    problems = find_collisions(names)
    whole: dict[str, StoredClip] = {}
    for name in names:
        try:
            whole[name] = check_clip(path, name, root.class_names, deep=deep)
        except RuleBrokenError as error:
            problems.append(Problem(error.code, printable(name), error.message))
    return problems + list(_catalog_problems(path, root, whole, names))


def check_clip(
    store: Path, clip_id: str, class_names: Collection[str], *, deep: bool = True
) -> StoredClip:
    """Hold one clip to the rules, whatever a catalogue says of it.

    Args:
        store: the store.
        clip_id: the clip.
        class_names: the labels that there are.
        deep: also decode every bit and compare digest and spike count.

    Raises:
        RuleBrokenError: the clip breaks a rule.
        StoreError: a file cannot be read at all.
    """
    folder = store / CLIPS / check_id(clip_id)
    stored, layout = read_clip_metadata(folder)
    check_label(stored.clip, class_names)
    for shard in range(layout.shards):
        with ShardReader(folder, layout, shard):
            pass  # opening checks the index
    if deep:
        verify_bits(ShardedBits(folder, stored, layout))
    return stored


def _catalog_problems(
    path: Path, root: RootInfo, whole: dict[str, StoredClip], names: list[str]
) -> Iterator[Problem]:
    """What is noted of the set of clips must be so; a catalogue that no root knows may lack."""
    if root.clips is not None and root.clips != len(names):
        yield Problem("clips_differ", None, f"holds {len(names)} clips, noted were {root.clips}")
    if root.catalog_sha256 is None and not (path / CATALOG).exists():
        return
    try:
        lines = read_catalog(path, root.catalog_sha256)
    except RuleBrokenError as error:
        yield Problem(error.code, None, error.message)
        return
    for clip_id in sorted(lines.keys() - set(names)):
        yield Problem("catalog_differs", clip_id, f"is in {CATALOG} but not in the store")
    for clip_id, stored in whole.items():
        if clip_id not in lines and root.catalog_sha256 is None:
            continue  # its facts change, or a writer was killed: the clip is asked
        try:
            same = clip_id in lines and StoredClip.from_catalog_line(lines[clip_id]) == stored
        except StoreError:
            same = False
        if not same:
            yield Problem("catalog_differs", clip_id, f"{CATALOG} does not say what the clip says")
