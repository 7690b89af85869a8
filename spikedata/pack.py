"""Any mix of stores, camera files and folders of them -> one Zarr, Parquet, HDF5 or .dat set.

What is written is read back and compared bit for bit by digest before it takes its place, and
what it replaces stays until then. One bad source never stops the others.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import BitsHasher, group_count
from spikedata.camera import read_recording, write_recording
from spikedata.clip import Clip
from spikedata.clips.frames import check_chunk
from spikedata.clips.opening import (
    Format,
    check_replaceable,
    checked_blocks,
    copy_clip,
    kind_at,
    open_clips,
)
from spikedata.clips.parquet import (
    CHUNK_TICKS,
    ClipSource,
    in_order,
    packed_bytes,
    plan_shards,
    write_shard,
)
from spikedata.clips.recordings import (
    METADATA_FILE,
    RECORDING_SUFFIXES,
    CameraOptions,
    RecordingItem,
    Recordings,
    recordings_below,
)
from spikedata.clips.store import StoreConfig, StoredClip, create_store
from spikedata.clips.store.layout import check_shape
from spikedata.clips.stored import check_label
from spikedata.corpora.names import clip_id_of
from spikedata.errors import CorpusError, SpikeDataError, StoreError
from spikedata.outputs import failure_file, locked, put_into_place, remove, write_failures

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
class PackFailure:
    """A source or clip that could not be packed, and why."""

    id: str
    """The clip's id, or the path where no clip was found."""
    error: str
    """One line."""


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
    failures: tuple[PackFailure, ...]
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
    level: int | None = None,
    overwrite: bool = False,
    workers: int = 1,
    progress: Callable[[PackStep], None] | None = None,
) -> PackReport:
    """Pack clips into one data set and note its path in ``.spikedata.json`` of this directory.

    Args:
        sources: stores, Parquet folders, HDF5 files, ``.dat`` and ``.npz`` files, or folders of
            these two (class folders give labels, ``metadata.jsonl`` gives more); default
            ``spikes.zarr``.
        to: what to write.
        out: where; default ``packed.zarr``, ``packed.parquet``, ``packed.h5`` or ``packed.dat``.
        camera: camera of ``.dat`` and ``.npz`` sources; see :func:`spikedata.camera.find_camera`.
        flip: turn their rows upside down; default what the camera needs.
        tick_rate_hz: their ticks a second; default the camera's.
        level: effort of compression, one of :data:`LEVELS`; default :data:`DEFAULT_LEVEL`.
        overwrite: replace ``out``, if all in it was written by spikedata, once the new one is
            whole.
        workers: clips packed at once, one thread each.
        progress: called in this thread for each clip written and for each verified.

    Returns:
        Counts, and one :class:`PackFailure` for each source or clip that was left out. The same
        list is written to ``<out stem>.failures.jsonl`` beside ``out``, or that file is removed.

    Raises:
        CorpusError: there is no source, or nothing in them could be packed.
        StoreError: ``out`` exists or is not ours to replace, another process is writing it, the
            disk is full, or what was written reads back differently; or ``out`` is a source of
            which something could not be packed.
        ValueError: there is no such level.
    """
    out = Path(out or DEFAULT_OUT[to])
    level = _checked_level(to, level)
    check_replaceable(out, overwrite=overwrite)
    found = _find(sources or [_default_source()], to, CameraOptions(camera, flip, tick_rate_hz))
    found.check_keeps_recordings(out)
    run = _Run(found, progress or (lambda _: None), workers)
    _write_aside(run, to, out, level, overwrite)
    _remember(out)
    report = PackReport(
        out=out,
        clips=len(run.written),
        packed_bytes=sum(map(packed_bytes, run.written.values())),
        stored_bytes=_size(out),
        failures=tuple(found.failures),
        failure_file=failure_file(out),
        notes=tuple(found.notes),
    )
    write_failures(report.failure_file, report.failures)
    return report


def _checked_level(to: Format, level: int | None) -> int:
    level = DEFAULT_LEVEL[to] if level is None else level
    if level not in LEVELS[to]:
        raise ValueError(f"level of {to} must be {LEVELS[to][0]} to {LEVELS[to][-1]}, got {level}")
    return level


def _write_aside(run: "_Run", to: Format, out: Path, level: int, overwrite: bool) -> None:
    """Write, verify, and only then put into place."""
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(partial), contextlib.ExitStack() as at_end:
            at_end.callback(remove, partial)
            remove(partial)
            _WRITERS[to](run, partial, level)
            if not run.written:
                raise CorpusError(f"{out}: nothing could be packed: {run.found.failures[0].error}")
            run.verify(partial, to)
            run.found.check_keeps_all(out)
            check_replaceable(out, overwrite=overwrite)  # another run may have made it meanwhile
            put_into_place(partial, out)
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror or error}; nothing was changed") from error


def last_packed(directory: Path | str = ".") -> Path:
    """What :func:`pack_clips` wrote last from ``directory``.

    Raises:
        StoreError: nothing was packed here, or it is gone.
    """
    directory = Path(directory)
    state = directory / STATE_FILE
    try:
        path = directory / str(json.loads(state.read_text(encoding="utf-8"))["packed"])
    except FileNotFoundError:
        raise StoreError(
            f"{directory}: nothing was packed here yet. Run `spikedata pack --to zarr`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{state}: cannot be read: {error}") from error
    if not path.exists():
        raise StoreError(f"{path}: was packed last but is gone. Run `spikedata pack --to zarr`")
    return path


# --- sources ------------------------------------------------------------------------------------


class _Found:
    """Clips of all sources that fit the format ``to``, seen as one source."""

    def __init__(self, to: Format) -> None:
        self._to = to
        self.clips: dict[str, StoredClip] = {}
        self.failures: list[PackFailure] = []
        self.notes: list[str] = []
        self._readers: list[ClipSource] = []
        self._reader_of: dict[str, ClipSource] = {}
        self._folded: dict[str, str] = {}
        self._paths: list[Path] = []
        self._recordings: list[Path] = []

    def add(self, path: Path, options: CameraOptions) -> None:
        """Add the clips below ``path``, or note why there are none."""
        self._paths.append(path)
        try:
            reader = self._open(path, options)
            clips = list(reader.clips.values())
        except (SpikeDataError, OSError) as error:
            self.failures.append(PackFailure(id=str(path), error=str(error)))
            return
        self._readers.append(reader)
        if isinstance(reader, Recordings):
            self._recordings.append(path)
            self.notes += reader.notes
            self.failures += [PackFailure(id=key, error=text) for key, text in reader.failures]
        for stored in clips:
            problem = self._problem(stored, reader)
            if problem is not None:
                failure = PackFailure(id=stored.clip.id, error=f"{path}: {problem}")
                self.failures.append(failure)
                continue
            self._folded[stored.clip.id.casefold()] = stored.clip.id
            self.clips[stored.clip.id] = stored
            self._reader_of[stored.clip.id] = reader

    def _problem(self, stored: StoredClip, reader: ClipSource) -> str | None:
        clip = stored.clip
        other = self._folded.get(clip.id.casefold())
        if other is not None:
            return f"clip {clip.id} cannot be added beside {other}"
        try:
            check_label(clip, reader.class_names)
            check_shape(group_count(stored.ticks), stored.height_px, stored.width_px)
            if self._to == "parquet":
                check_chunk(stored, CHUNK_TICKS)
        except StoreError as error:
            return str(error)
        return None

    def check_keeps_recordings(self, out: Path) -> None:
        """Refuse to replace what holds original recordings.

        Raises:
            StoreError: a source of camera files is ``out`` or lies in it.
        """
        for path in self._recordings:
            if path.resolve().is_relative_to(out.resolve()):
                raise StoreError(
                    f"{out}: holds the recordings {path}, which --overwrite would remove. Choose "
                    "another --out"
                )

    def check_keeps_all(self, out: Path) -> None:
        """Refuse to replace a source by what is less.

        Raises:
            StoreError: ``out`` is one of the sources, and something was left out.
        """
        if self.failures and any(path.resolve() == out.resolve() for path in self._paths):
            failure = self.failures[0]
            raise StoreError(
                f"{out}: would lose what cannot be packed ({failure.id}: {failure.error}). Choose "
                "another --out"
            )

    def _open(self, path: Path, options: CameraOptions) -> ClipSource:
        if not path.exists():
            raise CorpusError(f"{path}: no such file or folder")
        if path.suffix.lower() in RECORDING_SUFFIXES and path.is_file():
            clip = Clip(id=clip_id_of(path.stem), source={"name": path.name})
            return Recordings([RecordingItem(clip, path, options)], path.parent)
        if kind_at(path) in ("zarr", "parquet", "hdf5"):
            return open_clips(path)
        if not path.is_dir():
            raise CorpusError(f"{path}: is no store, and no .dat or .npz file")
        return recordings_below(path, options)

    @property
    def name(self) -> str:
        """That of all sources, such as the shards of one corpus; else ``spikes``."""
        names = {reader.name for reader in self._readers}
        return names.pop() if len(names) == 1 else "spikes"

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order in which all sources have them; else all that there are, sorted."""
        orders = {reader.class_names for reader in self._readers}
        return orders.pop() if len(orders) == 1 else tuple(sorted({n for o in orders for n in o}))

    @property
    def recipe(self) -> dict[str, Any]:
        """That of all sources; else one of each."""
        first, *others = [reader.recipe for reader in self._readers]
        return {"packed_from": [first, *others]} if any(r != first for r in others) else first

    def blocks(self, clip_id: str, ticks: int = 1024) -> Iterator[NDArray[np.uint8]]:
        """The clip's blocks.

        Raises:
            SpikeDataError: it cannot be read, whatever its reader raises.
        """
        try:
            yield from self._reader_of[clip_id].blocks(clip_id, ticks)
        except (OSError, ValueError, MemoryError) as error:
            raise CorpusError(f"clip {clip_id}: cannot be read: {error}") from error


def _find(sources: Sequence[Path | str], to: Format, options: CameraOptions) -> _Found:
    found = _Found(to)
    for source in sources:
        found.add(Path(source), options)
    if not found.clips:
        reason = found.failures[0].error if found.failures else "no clips in it"
        raise CorpusError(f"{', '.join(map(str, sources))}: {reason}")
    return found


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

    def __init__(self, found: _Found, progress: Callable[[PackStep], None], workers: int) -> None:
        self.found = found
        self.workers = workers
        self.written: dict[str, StoredClip] = {}
        self._progress = progress
        self._steps = 0

    def done(self, stored: StoredClip) -> None:
        self.written[stored.clip.id] = stored
        self._step("write", stored, len(self.found.clips))

    def failed(self, stored: StoredClip, error: Exception) -> None:
        self.found.failures.append(PackFailure(id=stored.clip.id, error=str(error)))
        self._step("write", stored, len(self.found.clips))

    def each(self, work: Callable[[StoredClip], StoredClip]) -> None:
        """Do ``work`` for each clip, several at once; what is wrong with a clip is noted."""
        for stored, outcome in in_order(work, self.found.clips.values(), self.workers):
            if isinstance(outcome, SpikeDataError | ValueError | MemoryError):
                self.failed(stored, outcome)
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                self.done(outcome)

    def verify(self, path: Path, to: Format) -> None:
        """Read everything back and compare digests.

        Raises:
            StoreError: a clip is missing or differs.
        """
        self._steps = 0
        back = _DatFolder(path, self.written) if to == "dat" else open_clips(path)
        if set(back.clips) != set(self.written):
            raise StoreError(f"{path}: {len(back.clips)} of {len(self.written)} clips read back")

        def check(stored: StoredClip) -> None:
            for _ in checked_blocks(back, stored):
                pass

        for stored, outcome in in_order(check, self.written.values(), self.workers):
            if isinstance(outcome, Exception):
                raise StoreError(f"{path}: does not read back: {outcome}") from outcome
            self._step("verify", stored, len(self.written))

    def _step(self, stage: Literal["write", "verify"], stored: StoredClip, total: int) -> None:
        self._steps += 1
        self._progress(PackStep(stage=stage, done=self._steps, total=total, id=stored.clip.id))


def _write_zarr(run: _Run, path: Path, level: int) -> None:
    found = run.found
    with create_store(
        path,
        recipe=found.recipe,
        class_names=found.class_names,
        name=found.name,
        options=StoreConfig(zstd_level=level),
    ) as writer:
        run.each(lambda stored: copy_clip(found, stored, writer))


def _write_parquet(run: _Run, path: Path, level: int) -> None:
    for shard in plan_shards(run.found):
        write_shard(
            run.found,
            shard,
            path / shard.name,
            level=level,
            workers=run.workers,
            done=run.done,
            failed=run.failed,
        )


def _write_hdf5(run: _Run, path: Path, level: int) -> None:
    from spikedata.clips.hdf5 import write_hdf5  # noqa: PLC0415  h5py loads when it is needed

    write_hdf5(run.found, path, level=level, workers=run.workers, done=run.done, failed=run.failed)


def _write_dat(run: _Run, path: Path, level: int) -> None:
    """Upright planes, little-endian, without padding: the camera ``HxW``; ``level`` is not used."""
    path.mkdir()

    def write(stored: StoredClip) -> StoredClip:
        file = path / _dat_name(stored)
        file.parent.mkdir(exist_ok=True)
        hasher = BitsHasher()

        def hashed() -> Iterator[NDArray[np.uint8]]:
            for block_ghw in checked_blocks(run.found, stored):
                hasher.update(block_ghw)
                yield block_ghw

        write_recording(file, hashed(), _plain_camera(stored), ticks=stored.ticks)
        return replace(stored, bits_sha256=hasher.hexdigest())

    run.each(write)
    lines = [json.dumps(_metadata_entry(run.written[key])) for key in sorted(run.written)]
    (path / METADATA_FILE).write_text("".join(line + "\n" for line in lines), encoding="utf-8")


_WRITERS: dict[Format, Callable[[_Run, Path, int], None]] = {
    "zarr": _write_zarr,
    "parquet": _write_parquet,
    "hdf5": _write_hdf5,
    "dat": _write_dat,
}


def _plain_camera(stored: StoredClip) -> str:
    return f"{stored.height_px}x{stored.width_px}"


def _dat_name(stored: StoredClip) -> str:
    folder = f"{clip_id_of(stored.clip.label)}/" if stored.clip.label else ""
    return f"{folder}{stored.clip.id}.dat"


def _metadata_entry(stored: StoredClip) -> dict[str, Any]:
    clip = stored.clip.to_dict()
    about = {key: clip[key] for key in ("id", "label", "captions", "split", "group", "licence")}
    return (
        {"file_name": _dat_name(stored)}
        | about
        | {
            "camera": _plain_camera(stored),
            "ticks": stored.ticks,
            "tick_rate_hz": stored.tick_rate_hz,
            "bits_sha256": stored.bits_sha256,
        }
    )


class _DatFolder:
    """A folder of .dat files just written, read back."""

    def __init__(self, path: Path, written: Mapping[str, StoredClip]) -> None:
        self.name, self.class_names, self.recipe = path.name, (), dict[str, Any]()
        self.clips = {key: s for key, s in written.items() if (path / _dat_name(s)).is_file()}
        self._path = path

    def blocks(self, clip_id: str, ticks: int = 1024) -> Iterator[NDArray[np.uint8]]:
        stored = self.clips[clip_id]
        path = self._path / _dat_name(stored)
        return read_recording(path, _plain_camera(stored)).blocks(ticks)


# --- paths --------------------------------------------------------------------------------------


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _remember(out: Path) -> None:
    here = Path.cwd()
    path = out.resolve()
    text = path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)
    state = here / STATE_FILE
    # Two runs that end at once, with two outputs, share this folder.
    partial = state.with_name(f"{STATE_FILE}.{os.getpid()}.partial")
    partial.write_text(json.dumps({"packed": text}) + "\n", encoding="utf-8")
    partial.replace(state)
