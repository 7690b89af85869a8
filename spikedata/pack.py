"""Any mix of stores, camera files and folders of them -> one Zarr, Parquet, HDF5 or .dat set.

What is written is read back and compared bit for bit by digest before it takes its place, and
what it replaces stays until then. One bad source never stops the others.
"""

import contextlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
    StoreConfig,
    StoredClip,
    check_chunk,
    check_replaceable,
    create_store,
    encode_all,
    in_order,
    leaks_of,
    open_any,
    read_label_names,
    size_on_disk,
    tell_doubts,
    tell_lost,
    write_dat,
    write_hdf5,
    write_parquet,
)
from spikedata.corpora import count
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
    workers: int = 1,
    progress: Callable[[PackStep], None] | None = None,
) -> PackReport:
    """Pack clips into one data set and note its path in ``.spikedata.json`` of this directory.

    Args:
        sources: sets of clips in any format, recordings, or folders of these (class folders give
            labels, ``metadata.jsonl`` gives more); default ``spikes.zarr``.
        to: what to write.
        out: where; default ``packed.zarr``, ``packed.parquet``, ``packed.h5`` or ``packed.dat``.
        camera: camera of recordings; see :func:`spikedata.camera.find_camera`.
        flip: turn their rows upside down; default what the camera needs.
        tick_rate_hz: their ticks a second; default the camera's.
        layout: whether a folder of numbered ``.dat`` files is one clip, see ``CameraOptions``.
        to_camera: layout of ``.dat`` files written, see :func:`spikedata.camera.camera_to_write`;
            default ``camera``'s own where it fits, else plain and upright.
        label_names: names of classes that are only numbered, see ``read_label_names``.
        level: effort of compression; see :data:`LEVELS`, :data:`DEFAULT_LEVEL`.
        overwrite: replace ``out``, if spikedata wrote all of it, once the new one is whole.
        workers: threads; several clips are packed at once, or several chunks of one.
        progress: called in this thread for each clip written and for each verified.

    Returns:
        Counts, and a :class:`Failure` for each source or clip that was left out, also written to
        ``<out stem>.failures.jsonl`` beside ``out``.

    Raises:
        CorpusError: there is no source, or nothing in them could be packed.
        StoreError: ``out`` exists or is not ours to replace, another process is writing it, the
            disk is full, or what was written reads back differently; or ``out`` is a source and
            something could not be packed.
        RecordingError: there is no such camera.
        ValueError: no such level, or ``to_camera`` for another format.
    """
    out = Path(out or DEFAULT_OUT[to])
    writing = _Writing(to, level, _DatLayouts(asked=to_camera, source=camera))
    _check_out(out, overwrite)
    names = None if label_names is None else read_label_names(label_names)
    how = CameraOptions(
        camera=camera, flip=flip, tick_rate_hz=tick_rate_hz, layout=layout, label_names=names
    )
    found = _find(sources or [_default_source()], to, how)
    found.check_keeps_recordings(out)
    run = _Run(found.clips, progress or (lambda _: None), workers, writing)
    _write_aside(run, found, out, overwrite)
    return run.report(out)


def _check_out(out: Path, overwrite: bool) -> None:
    try:
        check_replaceable(out, overwrite=overwrite)
    except StoreError:
        if out.name:
            is_being_written(out)  # removes the lock file of a run killed at its very end
        raise


def _write_aside(run: "_Run", found: "_Found", out: Path, overwrite: bool) -> None:
    """Write, verify, and only then put into place."""
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out) as lock, contextlib.ExitStack() as at_end:
            at_end.callback(_remove_if_possible, partial)
            at_end.enter_context(_cleared(partial))
            run.write(partial)
            run.verify(partial)
            found.check_keeps_all(out, run.failures)
            check_replaceable(out, overwrite=overwrite)  # another run may have made it meanwhile
            lock.check()
            _remember(out)  # first: who is killed after it can run the same command again
            put_into_place(partial, out)
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror or error}; nothing was changed") from error


@contextlib.contextmanager
def _cleared(partial: Path) -> Iterator[None]:
    """Take away what a killed run left; thousands of files go while the next are written.

    They lie within ``<partial>.left`` until then, and go in the next run if this is killed too.
    """
    left = partial.with_name(partial.name + ".left")
    if partial.exists() or partial.is_symlink():
        left.mkdir(exist_ok=True)
        partial.rename(left / secrets.token_hex(8))
    removing = threading.Thread(target=_remove_if_possible, args=(left,), name="remove")
    removing.start()
    try:
        yield
    finally:
        removing.join()


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
        path = directory / str(json.loads(state.read_text(encoding="utf-8"))["packed"])
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
    for path in map(Path, sources):
        try:
            source = open_any(path, options)
            source.check_finished()
            opened.append(source)
        except (SpikeDataError, OSError) as error:
            left_out.append(Failure(id=str(path), path=str(path), error=str(error)))
    clips = JoinedClips(opened, check=_CHECKS.get(to, _any_clip), left_out=tuple(left_out))
    if not clips.clips:
        if len(sources) == 1 and clips.left_out:
            raise CorpusError(located(sources[0], clips.left_out[0].error))
        reasons = [located(lost.path, lost.error) for lost in clips.left_out[:3]]
        reasons = reasons or ["no clips in them"]
        raise CorpusError(f"{count(len(sources), 'source')}, nothing to pack: {'; '.join(reasons)}")
    recordings = tuple(source.path for source in opened if source.format == "dat")
    return _Found(clips, tuple(map(Path, sources)), recordings)


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
        told = {"done": self.done, "failed": self.failed, "workers": self.workers}
        self.writing(self.clips, path, **told)
        if not self.written:
            first = self.failures[0]
            raise CorpusError(f"nothing could be packed: {located(first.path, first.error)}")

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

        with Crew(self.workers) as crew:

            def check(stored: StoredClip) -> None:
                there = back.clips[stored.id]
                if (there.bits_sha256, there.spikes) != (stored.bits_sha256, stored.spikes):
                    raise StoreError(f"clip {stored.id} is noted with another digest")
                back.verify(stored.id, crew)

            for stored, outcome in in_order(check, self.written.values(), crew):
                if isinstance(outcome, Exception):
                    raise StoreError(f"{path}: does not read back: {outcome}") from outcome
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
            ),
        )

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

    def __call__(self, clips: ClipSource, path: Path, **told: Any) -> None:
        level = DEFAULT_LEVEL[self.to] if self.level is None else self.level
        if self.to == "dat":
            told["camera_of"] = self.layouts
        _WRITERS[self.to](clips, path, level=level, **told)


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


def _write_zarr(
    source: ClipSource, path: Path, *, level: int, workers: int, done: Done, failed: Failed
) -> None:
    with (
        create_store(
            path,
            recipe=source.recipe,
            class_names=source.class_names,
            name=source.name,
            options=StoreConfig(zstd_level=level),
        ) as writer,
        Crew(workers) as crew,
    ):
        clips = source.clips.values()
        for stored in encode_all(lambda s: writer.copy(source, s, crew), clips, crew, failed):
            done(stored)


_WRITERS: dict[Format, Callable[..., None]] = {
    "zarr": _write_zarr,
    "parquet": write_parquet,
    "hdf5": write_hdf5,
    "dat": write_dat,
}


# --- paths --------------------------------------------------------------------------------------


def _remember(out: Path) -> None:
    here = Path.cwd()
    path = out.resolve()
    text = path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)
    state = here / STATE_FILE
    write_whole(state, json.dumps({"packed": text}) + "\n")
