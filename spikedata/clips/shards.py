"""How the clips of a data set are shared out over files, from what is known of them alone."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from spikedata.clip import SPLITS
from spikedata.clips.rules import digest_of
from spikedata.clips.source import ClipSource
from spikedata.clips.stored import StoredClip
from spikedata.errors import StoreError

SHARD_PACKED_BYTES = 1 << 30
"""Packed bytes before compression that a shard takes; at the usual ratio about 400 MB."""
SHARD_CLIPS = 1024
"""Clips in a shard at most: a reader holds its footer, which has a few kB for each row group."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One Parquet file of a data set, planned from the clips' sizes alone."""

    name: str
    """Path in the data set, ``data/train-00000-of-00002.parquet``."""
    split: str
    clip_ids: tuple[str, ...]
    packed_bytes: int
    of_set: "ShardSet"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSet:
    """What every file of a data set says of them all, so that none goes missing unnoticed."""

    names: tuple[str, ...]
    """Names of the files, without folders."""
    sha256: str
    """Digest of the plan: of the data set's name, classes and recipe, and whose clips are where."""


def plan_shards(source: ClipSource) -> tuple[Shard, ...]:
    """Share the clips out over files: by split, in order of id, about 1 GiB of packed bits each.

    Clips without a split go to ``train``, as ``datasets`` would have it.

    Raises:
        StoreError: a clip has another split than the three there are.
    """
    by_split: dict[str, list[StoredClip]] = {}
    for stored in source.clips.values():
        split = stored.clip.split or "train"
        if split not in SPLITS:  # it becomes part of a path
            raise StoreError(f"clip {stored.clip.id}: split {split!r} is none of {SPLITS}")
        by_split.setdefault(split, []).append(stored)
    parts: dict[str, tuple[str, list[StoredClip]]] = {}
    for split in sorted(by_split):
        of_split = list(_parts(by_split[split]))
        for number, part in enumerate(of_split):
            name = f"data/{split}-{number:05d}-of-{len(of_split):05d}.parquet"
            parts[name] = split, part
    of_set = _shard_set(source, {name: part for name, (_, part) in parts.items()})
    return tuple(
        Shard(
            name=name,
            split=split,
            clip_ids=tuple(stored.id for stored in part),
            packed_bytes=sum(stored.packed_bytes for stored in part),
            of_set=of_set,
        )
        for name, (split, part) in parts.items()
    )


def _parts(clips: Iterable[StoredClip]) -> Iterator[list[StoredClip]]:
    """Clips cut into shards, in order."""
    part: list[StoredClip] = []
    room = SHARD_PACKED_BYTES
    for stored in clips:
        if part and (stored.packed_bytes > room or len(part) == SHARD_CLIPS):
            yield part
            part, room = [], SHARD_PACKED_BYTES
        part.append(stored)
        room -= stored.packed_bytes
    yield part


def _shard_set(source: ClipSource, parts: Mapping[str, Sequence[StoredClip]]) -> ShardSet:
    plan = {
        "name": source.name,
        "class_names": list(source.class_names),
        "recipe": source.recipe,
        "clips": {name: [stored.id for stored in part] for name, part in parts.items()},
    }
    names = tuple(name.rpartition("/")[2] for name in parts)
    return ShardSet(names=names, sha256=digest_of(plan))
