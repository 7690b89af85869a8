"""The same run by workers of an engine: clips, or whole Parquet files, cut into parts."""

import contextlib
import functools
import platform
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spikedata.clips import (
    CameraOptions,
    ClipSource,
    Crew,
    Failed,
    Format,
    JoinedClips,
    LentStore,
    Shard,
    StoredClip,
    encode_all,
    open_any,
    part_writer,
    plan_shards,
    write_shard,
)
from spikedata.engines import MOST_ATTEMPTS, Engine, RayWorkers, Work, check_ray
from spikedata.errors import CorpusError, StoreError
from spikedata.packing.runs import (
    PackRun,
    PackStep,
    Writing,
    check_reads_back,
    clips_to_do,
    differs,
    new_store,
)
from spikedata.packing.sources import Found, find_sources


def check_engine(engine: Engine, to: Format) -> None:
    """Refuse what an engine cannot write, before anything is opened.

    Raises:
        ValueError: the format is one file, or one folder that one process must write.
        MissingExtraError: Ray is not installed.
    """
    if engine == "local":
        return
    if to not in ("zarr", "parquet"):
        raise ValueError(f"engine {engine} writes zarr and parquet; got to={to!r}")
    check_ray()


@dataclass(frozen=True, slots=True)
class _Refused:
    """A clip that a worker could not write."""

    id: str
    error: str


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What all parts of a run share; what it opens stays open as long as a worker lives."""

    run: str
    """Tells this run from others, in which the same paths may hold something else."""
    sources: tuple[Path, ...]
    to: Format
    how: CameraOptions
    level: int
    about: tuple[str, tuple[str, ...], dict[str, Any]]
    """Name, class names and recipe of all sources together."""
    path: Path
    """What is written."""
    lent: LentStore | None = None

    @functools.cached_property
    def clips(self) -> JoinedClips:
        """All sources; of recordings the digests are known already."""
        try:
            clips = find_sources(self.sources, self.to, replace(self.how, digests=False)).clips
        except CorpusError as error:
            raise StoreError(
                f"node {platform.node()}: {error}; every node must see the same files"
            ) from error
        clips.name, clips.class_names, clips.recipe = self.about
        return clips

    @functools.cached_property
    def back(self) -> ClipSource:
        """What was written."""
        return open_any(self.path)

    def check_sees(self, stored: StoredClip) -> None:
        """Refuse a clip of a source that this node does not have.

        Raises:
            StoreError: it has not.
        """
        if stored.id not in self.clips.clips:
            raise StoreError(
                f"clip {stored.id}: node {platform.node()} has no such source; every node must "
                "see the same files"
            )


Outcomes = list[StoredClip | _Refused]
_ShardOfClips = tuple[Shard, tuple[StoredClip, ...]]


def pack_part(shared: _Shared, items: Sequence[StoredClip], _: str) -> Outcomes:
    """Copy some clips into a store that was lent; what a worker of an engine does.

    Raises:
        StoreError: the store cannot be seen from here, or was taken back.
        OSError: the disk is full, or the like.
    """
    assert shared.lent is not None
    writer, outcomes = part_writer(shared.lent), Outcomes()

    def copy(stored: StoredClip) -> StoredClip:
        shared.check_sees(stored)
        return writer.copy(shared.clips, stored)

    with Crew(1) as crew:
        outcomes += encode_all(copy, items, crew, _refusing(outcomes))
    return outcomes


def shard_part(shared: _Shared, items: Sequence[_ShardOfClips], _: str) -> Outcomes:
    """Write some shards, each whole; what a worker of an engine does.

    Raises:
        StoreError: a source cannot be seen from here.
        OSError: the disk is full, or the like.
    """
    outcomes = Outcomes()
    for shard, clips in items:
        for stored in clips:
            shared.check_sees(stored)
        known = {stored.id: stored for stored in clips}  # with digests
        shared.clips.clips = {**shared.clips.clips, **known}
        write_shard(
            shared.clips,
            shard,
            shared.path / shard.name,
            level=shared.level,
            done=outcomes.append,
            failed=_refusing(outcomes),
        )
    return outcomes


def verify_part(shared: _Shared, items: Sequence[StoredClip], _: str) -> Outcomes:
    """Read some clips of what was written; what a worker of an engine does.

    Raises:
        StoreError: one differs.
    """
    for stored in items:
        try:
            check_reads_back(shared.back, stored)
        except Exception as error:
            raise differs(shared.path, error) from error
    return list(items)


def _refusing(outcomes: Outcomes) -> Failed:
    return lambda stored, error: outcomes.append(_Refused(stored.id, str(error)))


class RemotePackRun(PackRun):
    """One run whose clips are written and read back by workers of Ray."""

    def __init__(
        self,
        found: Found,
        progress: Callable[[PackStep], None],
        writing: "Writing",
        ray: RayWorkers,
        how: CameraOptions,
    ) -> None:
        clips = found.clips
        super().__init__(clips, progress, 1, writing)
        self._ray = ray
        self._shared = _Shared(
            run=uuid.uuid4().hex,
            sources=found.paths,
            to=writing.to,
            how=how,
            level=writing.effort,
            about=(clips.name, clips.class_names, clips.recipe),
            path=Path(),
        )

    def _write(self, path: Path) -> None:
        before = len(self.failures)
        if self.writing.to == "zarr":
            self._write_zarr(path)
        else:
            self._write_parquet(path)
        # As if they had come in order.
        self.written = {key: self.written[key] for key in sorted(self.written)}
        self.failures[before:] = sorted(self.failures[before:], key=lambda failure: failure.id)

    def _write_zarr(self, path: Path) -> None:
        with new_store(self.clips, path, self.writing.effort) as store, store.lend() as lent:
            shared = replace(self._shared, path=path, lent=lent)
            clips = clips_to_do(store, self.clips, self.done)
            for outcome in self._outcomes(pack_part, shared, clips, _refused_by_death):
                if isinstance(outcome, StoredClip):
                    store.note(outcome)
                    self.done(outcome)
                else:
                    self.failed(self.clips.clips[outcome.id], StoreError(outcome.error))

    def _write_parquet(self, path: Path) -> None:
        of = self.clips.clips
        shards = [
            (shard, tuple(of[key] for key in shard.clip_ids)) for shard in plan_shards(self.clips)
        ]
        shared = replace(self._shared, path=path)
        for outcome in self._outcomes(shard_part, shared, shards, _ended_by_death):
            if isinstance(outcome, StoredClip):
                self.done(outcome)
            else:
                self.failed(of[outcome.id], StoreError(outcome.error))
        for left in path.rglob("*.partial"):  # of workers that died
            left.unlink()

    def _verify_bits(self, path: Path, back: ClipSource) -> None:
        shared, clips = replace(self._shared, path=path), list(self.written.values())
        for outcome in self._outcomes(verify_part, shared, clips, _ended_by_death):
            self._step("verify", self.written[outcome.id], len(self.written))

    def _outcomes(
        self, work: Work, shared: _Shared, items: Sequence[Any], lost: Callable[[Any, str], Any]
    ) -> Iterator[StoredClip | _Refused]:
        never = threading.Event()
        given = self._ray.hand_out(work, shared, items, lost=lost, stop=never, cost=_packed_bytes)
        with contextlib.closing(given):
            yield from given

    def _of_engine(self) -> list[str]:
        return self._ray.notes()


def _packed_bytes(item: _ShardOfClips | StoredClip) -> float:
    return item.packed_bytes if isinstance(item, StoredClip) else item[0].packed_bytes


def _refused_by_death(stored: StoredClip, how: str) -> _Refused:
    return _Refused(stored.id, f"gave up after {MOST_ATTEMPTS} workers died with it: {how}")


def _ended_by_death(item: _ShardOfClips | StoredClip, how: str) -> _Refused:
    """End a run: what is left of it would be of no use.

    Raises:
        StoreError: always.
    """
    what = f"clip {item.id}" if isinstance(item, StoredClip) else item[0].name
    raise StoreError(
        f"{what}: gave up after {MOST_ATTEMPTS} workers died with it: {how}; nothing was changed"
    )
