"""Any mix of stores, camera files and folders of them -> one Zarr, Parquet, HDF5 or .dat set.

What is written is read back and compared bit for bit by digest before it takes its place, and
what it replaces stays until then. One bad source never stops the others. What workers of an engine
do of it stands here too, and is why the file is long: it is the same work, cut into parts.
"""

import contextlib
import functools
import json
import platform
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from spikedata.camera import BOTTOM_UP, Camera, camera_to_write, find_camera
from spikedata.clips import (
    CHUNK_TICKS,
    MOST_DOUBTS,
    CameraOptions,
    ClipSource,
    Crew,
    Done,
    Failed,
    Format,
    JoinedClips,
    Layout,
    LayoutDoubt,
    LentStore,
    Shard,
    StoreConfig,
    StoredClip,
    StoreWriter,
    check_chunk,
    check_replaceable,
    create_store,
    encode_all,
    in_order,
    leaks_of,
    open_any,
    part_writer,
    plan_shards,
    read_label_names,
    size_on_disk,
    tell_doubts,
    tell_lost,
    write_dat,
    write_hdf5,
    write_parquet,
    write_shard,
)
from spikedata.corpora import count
from spikedata.engines import MOST_ATTEMPTS, Engine, RayWorkers, Work, check_ray, ray_workers
from spikedata.errors import CorpusError, SpikeDataError, StoreError
from spikedata.outputs import (
    Failure,
    failure_file,
    is_being_written,
    locked,
    put_into_place,
    remove,
    write_failures,
    write_whole,
)
from spikedata.remote import RemotePath, is_remote, place
from spikedata.wording import located

DEFAULT_SOURCE = "spikes.zarr"
DEFAULT_OUT: dict[Format, str] = {
    "zarr": "packed.zarr",
    "parquet": "packed.parquet",
    "hdf5": "packed.h5",
    "dat": "packed.dat",
}
DEFAULT_LEVEL: dict[Format, int] = {"zarr": 7, "parquet": 7, "hdf5": 4, "dat": 0}
"""Effort of compression: it is done once, and read many times at the same speed."""
LEVELS: dict[Format, range] = {
    "zarr": range(1, 20),
    "parquet": range(1, 23),
    "hdf5": range(10),
    "dat": range(1),
}
"""Efforts that there are; ``.dat`` files are not compressed."""

STATE_FILE = ".spikedata.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackStep:
    """How far a run of :func:`pack_clips` is."""

    stage: Literal["write", "verify"]
    done: int
    total: int
    id: str
    """The clip just finished or given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackReport:
    """What a run of :func:`pack_clips` did."""

    out: Path
    clips: int
    packed_bytes: int
    """Size of the bits, one bit a pixel and tick."""
    stored_bytes: int
    """Size of what was written."""
    failures: tuple[Failure, ...]
    failure_file: Path
    """JSON Lines, one failure a line; absent if there was none."""
    notes: tuple[str, ...]
    """What was odd about the sources."""


def pack_clips(
    sources: Sequence[Path | str] = (),
    *,
    to: Format = "zarr",
    out: Path | str | None = None,
    camera: str | None = None,
    flip: bool | None = None,
    tick_rate_hz: float | None = None,
    layout: Layout = "auto",
    to_camera: str | None = None,
    label_names: Path | str | None = None,
    level: int | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    engine: Engine = "local",
    address: str | None = None,
    progress: Callable[[PackStep], None] | None = None,
) -> PackReport:
    """Pack clips into one data set and note its path in ``.spikedata.json`` of this directory.

    Args:
        sources: sets of clips, recordings, or folders of these (class folders give labels,
            ``metadata.jsonl`` gives more); default ``spikes.zarr``.
        to: what to write.
        out: where; default ``packed.zarr``, ``packed.parquet``, ``packed.h5`` or ``packed.dat``.
        camera: of recordings; see :func:`spikedata.camera.find_camera`.
        flip: turn their rows upside down; default what the camera needs.
        tick_rate_hz: their ticks a second; default the camera's.
        layout: whether a folder of numbered ``.dat`` files is one clip, see ``CameraOptions``.
        to_camera: layout of ``.dat`` files written, see :func:`spikedata.camera.camera_to_write`.
        label_names: names of classes that are only numbered, see ``read_label_names``.
        level: effort of compression; see :data:`LEVELS`, :data:`DEFAULT_LEVEL`.
        overwrite: replace ``out``, if spikedata wrote all of it, once the new one is whole.
        workers: clips, or chunks of one, packed at once; default 1, of ``ray`` all its cores.
        engine: ``local``, or for zarr and parquet ``ray``; see :func:`simulate_corpus`.
        address: of its cluster, see :func:`spikedata.engines.ray_workers`.
        progress: called in this thread for each clip written and for each verified.

    Returns:
        Counts, and failures: what was left out, also written to ``<out stem>.failures.jsonl``.

    Raises:
        SpikeDataError: nothing could be packed, ``out`` is not ours to replace, or the like.
        ValueError: no such level, or ``to`` does not go with ``to_camera`` or ``engine``.
    """
    out = place(out or DEFAULT_OUT[to])
    writing = _Writing(to, level, _DatLayouts(asked=to_camera, source=camera))
    _check_out(out, to, overwrite)
    _check_engine(engine, to)
    names = None if label_names is None else read_label_names(label_names)
    how = CameraOptions(
        camera=camera, flip=flip, tick_rate_hz=tick_rate_hz, layout=layout, label_names=names
    )
    found = _find(sources or [_default_source()], to, how)
    found.check_keeps_recordings(out)
    told = progress or (lambda _: None)
    if engine == "local":
        return _written(_Run(found.clips, told, workers or 1, writing), found, out, overwrite)
    with ray_workers(address=address, workers=workers, device="cpu") as ray:
        return _written(_RemoteRun(found, told, writing, ray, how), found, out, overwrite)


def _check_out(out: Path, to: Format, overwrite: bool) -> None:
    if isinstance(out, RemotePath):
        if to not in ("zarr", "parquet"):
            raise StoreError(f"{out}: {to} is written to a disk. Pack there, then copy")
        if overwrite:
            raise StoreError(
                f"{out}: nothing is replaced in object storage, where the old set would be gone "
                "before the new one is whole. Choose another --out"
            )
        return
    try:
        check_replaceable(out, overwrite=overwrite)
    except StoreError:
        if out.name:
            is_being_written(out)  # removes the lock file of a run killed at its very end
        raise


def _written(run: "_Run", found: "_Found", out: Path, overwrite: bool) -> PackReport:
    """Write into object storage, or aside on a disk."""
    if isinstance(out, RemotePath):
        _write_there(run, out)
    else:
        _write_aside(run, found, out, overwrite)
    return run.report(out)


def _write_aside(run: "_Run", found: "_Found", out: Path, overwrite: bool) -> None:
    """Write, verify, and only then put into place."""
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out) as lock, contextlib.ExitStack() as at_end:
            at_end.callback(_remove_if_possible, partial)
            remove(partial)
            run.write(partial)
            run.verify(partial)
            found.check_keeps_all(out, run.failures)
            check_replaceable(out, overwrite=overwrite)  # another run may have made it meanwhile
            lock.check()
            _remember(out)  # first: who is killed after it can run the same command again
            put_into_place(partial, out)
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror or error}; nothing was changed") from error


def _write_there(run: "_Run", out: RemotePath) -> None:
    """Write into object storage, where nothing can be moved, and verify.

    Each clip, or each Parquet file, is there whole or not at all; a run that was cut off is gone
    on with.
    """
    try:
        is_store = run.writing.to == "zarr"  # whose writer has the lock
        with contextlib.nullcontext() if is_store else locked(out):
            if not is_store:
                _refuse_other_files(out, [shard.name for shard in plan_shards(run.clips)])
            run.write(out)
        run.verify(out)
        _remember(out)
    except OSError as error:
        told = f"{out}: {error.strerror or error}; what is finished stays"
        raise StoreError(f"{told}. Run the same command again") from error


def _refuse_other_files(out: RemotePath, names: Sequence[str]) -> None:
    """Refuse to write Parquet files beside others than a run before has left of them."""
    others = sorted(set(out.names_below()) - set(names))
    if others:
        raise StoreError(f"{out / others[0]}: is there already. Choose another --out")


def _remove_if_possible(partial: Path) -> None:
    """The next run removes it else; what went wrong first is told."""
    with contextlib.suppress(OSError):
        remove(partial)


def last_packed(directory: Path | str = ".") -> Path:
    """What :func:`pack_clips` wrote last from ``directory``.

    Raises:
        StoreError: nothing was packed here, or it is gone.
    """
    directory = Path(directory)
    state = directory / STATE_FILE
    try:
        packed = str(json.loads(state.read_text(encoding="utf-8"))["packed"])
        path = place(packed) if is_remote(packed) else directory / packed
        there = path.exists()  # too long a name is an error of the system's
    except FileNotFoundError:
        raise StoreError(
            f"{directory}: nothing was packed here yet. Run `spikedata pack --to zarr`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{state}: cannot be read: {error}") from error
    if not there:
        raise StoreError(f"{path}: was packed last but is gone. Run `spikedata pack --to zarr`")
    return path


# --- sources ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """Clips of all sources that fit a format, and where they are from."""

    clips: JoinedClips
    paths: tuple[Path, ...]
    recordings: tuple[Path, ...]
    """Sources of camera files."""

    def check_keeps_recordings(self, out: Path) -> None:
        """Refuse to replace what holds original recordings.

        Raises:
            StoreError: a source of camera files is ``out`` or lies in it.
        """
        for path in self.recordings:
            if path.resolve().is_relative_to(out.resolve()):
                raise StoreError(
                    f"{out}: holds the recordings {path}, which --overwrite would remove. Choose "
                    "another --out"
                )

    def check_keeps_all(self, out: Path, failures: Sequence[Failure]) -> None:
        """Refuse to replace a source by what is less.

        Raises:
            StoreError: ``out`` is one of the sources, and something was left out.
        """
        if failures and any(path.resolve() == out.resolve() for path in self.paths):
            failure = failures[0]
            raise StoreError(
                f"{out}: would lose what cannot be packed ({failure.id}: {failure.error}). Choose "
                "another --out"
            )


def _find(sources: Sequence[Path | str], to: Format, options: CameraOptions) -> _Found:
    opened: list[ClipSource] = []
    left_out: list[Failure] = []
    for path in map(place, sources):
        try:
            source = open_any(path, options)
            source.check_finished()
            opened.append(source)
        except (SpikeDataError, OSError) as error:
            left_out.append(Failure(id=str(path), path=str(path), error=str(error)))
    clips = JoinedClips(opened, check=_CHECKS.get(to, _any_clip), left_out=tuple(left_out))
    if not clips.clips:
        if len(sources) == 1 and clips.left_out:
            raise CorpusError(located(place(sources[0]), clips.left_out[0].error))
        reasons = [located(lost.path, lost.error) for lost in clips.left_out[:3]]
        reasons = reasons or ["no clips in them"]
        raise CorpusError(f"{count(len(sources), 'source')}, nothing to pack: {'; '.join(reasons)}")
    recordings = tuple(source.path for source in opened if source.format == "dat")
    return _Found(clips, tuple(map(place, sources)), recordings)


def _any_clip(stored: StoredClip) -> None:
    """Every clip fits."""


_CHECKS: dict[Format, Callable[[StoredClip], None]] = {
    "parquet": lambda stored: check_chunk(stored, CHUNK_TICKS)
}
"""What a clip must be for a format that cannot take every one."""


def _default_source() -> Path:
    if not Path(DEFAULT_SOURCE).exists():
        raise CorpusError(
            f"{DEFAULT_SOURCE}: not here. Run `spikedata simulate VIDEOS` first, or name what to "
            "pack: `spikedata pack RECORDINGS --camera vidar`"
        )
    return Path(DEFAULT_SOURCE)


# --- writing ------------------------------------------------------------------------------------


class _Run:
    """One run over all clips: what was written, what was given up."""

    def __init__(
        self,
        clips: JoinedClips,
        progress: Callable[[PackStep], None],
        workers: int,
        writing: "_Writing",
    ) -> None:
        self.clips = clips
        self.writing = writing
        self.workers = workers
        self.written: dict[str, StoredClip] = {}
        self.failures = list(clips.left_out)
        self._doubts: list[LayoutDoubt] = []
        self._progress = progress
        self._steps = 0

    def write(self, path: Path) -> None:
        """Write every clip that can be read to ``path``."""
        self._write(path)
        if not self.written:
            first = self.failures[0]
            raise CorpusError(f"nothing could be packed: {located(first.path, first.error)}")

    def _write(self, path: Path) -> None:
        told = {"done": self.done, "failed": self.failed, "workers": self.workers}
        self.writing(self.clips, path, **told)

    def done(self, stored: StoredClip) -> None:
        self.written[stored.id] = stored
        if len(self._doubts) < MOST_DOUBTS:  # while the next clips are encoded
            doubt = self.clips.layout_doubt(stored.id)
            self._doubts += [] if doubt is None else [doubt]
        self._step("write", stored, len(self.clips.clips))

    def failed(self, stored: StoredClip, error: Exception) -> None:
        self.failures.append(
            Failure(id=stored.id, path=self.clips.origin(stored.id), error=str(error))
        )
        self._step("write", stored, len(self.clips.clips))

    def verify(self, path: Path) -> None:
        """Read everything back and compare digests.

        Raises:
            StoreError: a clip is missing or differs.
        """
        self._steps = 0
        back = open_any(path)
        if set(back.clips) != set(self.written):
            told = f": {back.left_out[0].error}" if back.left_out else ""
            raise StoreError(
                f"{path}: {len(back.clips)} of {len(self.written)} clips read back{told}"
            )

        self._verify_bits(path, back)

    def _verify_bits(self, path: Path, back: ClipSource) -> None:
        with Crew(self.workers) as crew:
            check = functools.partial(_check_reads_back, back, crew=crew)
            for stored, outcome in in_order(check, self.written.values(), crew):
                if isinstance(outcome, Exception):
                    raise _differs(path, outcome) from outcome
                self._step("verify", stored, len(self.written))

    def report(self, out: Path) -> PackReport:
        """What was done, and now lies at ``out``; failures are written beside it."""
        write_failures(failure_file(out), self.failures)
        return PackReport(
            out=out,
            clips=len(self.written),
            packed_bytes=sum(stored.packed_bytes for stored in self.written.values()),
            stored_bytes=size_on_disk(out),
            failures=tuple(self.failures),
            failure_file=failure_file(out),
            notes=(
                *self.clips.notes,
                *tell_doubts(self._doubts),
                *self.writing.layouts.notes(),
                *tell_lost({key: stored.attributes for key, stored in self.written.items()}),
                *leaks_of(self.written.values()),
                *self._of_engine(),
            ),
        )

    def _of_engine(self) -> list[str]:
        return []

    def _step(self, stage: Literal["write", "verify"], stored: StoredClip, total: int) -> None:
        self._steps += 1
        self._progress(PackStep(stage=stage, done=self._steps, total=total, id=stored.id))


@dataclass(frozen=True)
class _Writing:
    """How one format is written.

    Raises:
        ValueError: it has no such level.
    """

    to: Format
    level: int | None
    layouts: "_DatLayouts"

    def __post_init__(self) -> None:
        levels = LEVELS[self.to]
        if self.level is not None and self.level not in levels:
            raise ValueError(
                f"level of {self.to} must be {levels[0]} to {levels[-1]}, got {self.level}"
            )
        if self.layouts.asked is not None and self.to != "dat":
            raise ValueError(f"to_camera is the layout of .dat files; got to={self.to!r}")

    @property
    def effort(self) -> int:
        """The level, or the format's own."""
        return DEFAULT_LEVEL[self.to] if self.level is None else self.level

    def __call__(self, clips: ClipSource, path: Path, **told: Any) -> None:
        if self.to == "dat":
            told["camera_of"] = self.layouts
        _WRITERS[self.to](clips, path, level=self.effort, **told)


class _DatLayouts:
    """The layout that each clip's ``.dat`` file is written in, and what was chosen."""

    def __init__(self, *, asked: str | None, source: str | None) -> None:
        self.asked, self._source = asked, source
        self._chosen: dict[str, Camera] = {}
        if asked not in (None, BOTTOM_UP):
            find_camera(asked)  # no clip can be written if there is none

    def __call__(self, stored: StoredClip) -> Camera:
        size = (stored.height_px, stored.width_px)
        camera = camera_to_write(*size, asked=self.asked, source=self._source)
        self._chosen[camera.name] = camera
        return camera

    def notes(self) -> list[str]:
        """Which layouts were written, a sentence each."""
        return [f".dat files as {camera.in_words}" for _, camera in sorted(self._chosen.items())]


def _check_reads_back(back: ClipSource, stored: StoredClip, crew: Crew | None = None) -> None:
    """Read one clip of what was written, and compare.

    Raises:
        StoreError: it differs.
    """
    there = back.clips[stored.id]
    if (there.bits_sha256, there.spikes) != (stored.bits_sha256, stored.spikes):
        raise StoreError(f"clip {stored.id} is noted with another digest")
    back.verify(stored.id, crew)


def _differs(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path}: does not read back: {error}")


def _new_store(source: ClipSource, path: Path, level: int) -> StoreWriter:
    return create_store(
        path,
        recipe=source.recipe,
        class_names=source.class_names,
        name=source.name,
        options=StoreConfig(zstd_level=level),
        resume=isinstance(path, RemotePath),
    )


def _write_zarr(
    source: ClipSource, path: Path, *, level: int, workers: int, done: Done, failed: Failed
) -> None:
    with _new_store(source, path, level) as writer, Crew(workers) as crew:
        clips = _clips_to_do(writer, source, done)
        for stored in encode_all(lambda s: writer.copy(source, s, crew), clips, crew, failed):
            done(stored)


def _clips_to_do(writer: StoreWriter, source: ClipSource, done: Done) -> list[StoredClip]:
    """Clips but for those that a run before, which was cut off, has written: these are told.

    Raises:
        StoreError: the store holds other clips than those that are packed.
    """
    for stored in filter(None, map(writer.stored, writer.ids)):
        packed = source.clips.get(stored.id)
        if packed is None or (packed.bits_sha256 and packed != stored):
            raise StoreError(
                f"{writer.path}: holds another clip {stored.id} than is packed. Choose another "
                "--out"
            )
        done(stored)
    return [stored for stored in source.clips.values() if not writer.has(stored.id)]


_WRITERS: dict[Format, Callable[..., None]] = {
    "zarr": _write_zarr,
    "parquet": write_parquet,
    "hdf5": write_hdf5,
    "dat": write_dat,
}


# --- on workers of an engine ----------------------------------------------------------------------


def _check_engine(engine: Engine, to: Format) -> None:
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
            clips = _find(self.sources, self.to, replace(self.how, digests=False)).clips
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
            _check_reads_back(shared.back, stored)
        except Exception as error:
            raise _differs(shared.path, error) from error
    return list(items)


def _refusing(outcomes: Outcomes) -> Failed:
    return lambda stored, error: outcomes.append(_Refused(stored.id, str(error)))


class _RemoteRun(_Run):
    """One run whose clips are written and read back by workers of Ray."""

    def __init__(
        self,
        found: _Found,
        progress: Callable[[PackStep], None],
        writing: "_Writing",
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
        with _new_store(self.clips, path, self.writing.effort) as store, store.lend() as lent:
            shared = replace(self._shared, path=path, lent=lent)
            clips = _clips_to_do(store, self.clips, self.done)
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


# --- paths --------------------------------------------------------------------------------------


def _remember(out: Path) -> None:
    here = Path.cwd()
    path = out.resolve()
    is_below = not isinstance(path, RemotePath) and path.is_relative_to(here)
    text = path.relative_to(here).as_posix() if is_below else str(path)
    state = here / STATE_FILE
    write_whole(state, json.dumps({"packed": text}) + "\n")
