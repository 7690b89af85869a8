"""One run over all clips: written by threads of this process, read back, and told of."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spikedata.camera import BOTTOM_UP, Camera, camera_to_write, find_camera
from spikedata.clips import (
    MOST_DOUBTS,
    ClipSource,
    Crew,
    Done,
    Failed,
    Format,
    JoinedClips,
    LayoutDoubt,
    StoreConfig,
    StoredClip,
    StoreWriter,
    create_store,
    encode_all,
    in_order,
    leaks_of,
    open_any,
    size_on_disk,
    tell_doubts,
    tell_lost,
    write_dat,
    write_hdf5,
    write_parquet,
)
from spikedata.errors import CorpusError, StoreError
from spikedata.outputs import (
    Failure,
    failure_file,
    write_failures,
)
from spikedata.remote import RemotePath
from spikedata.wording import located

DEFAULT_LEVEL: dict[Format, int] = {"zarr": 7, "parquet": 7, "hdf5": 4, "dat": 0}
"""Effort of compression: it is done once, and read many times at the same speed."""
LEVELS: dict[Format, range] = {
    "zarr": range(1, 20),
    "parquet": range(1, 23),
    "hdf5": range(10),
    "dat": range(1),
}
"""Efforts that there are; ``.dat`` files are not compressed."""


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


class PackRun:
    """One run over all clips: what was written, what was given up."""

    def __init__(
        self,
        clips: JoinedClips,
        progress: Callable[[PackStep], None],
        workers: int,
        writing: "Writing",
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
        """Count a clip that was written."""
        self.written[stored.id] = stored
        if len(self._doubts) < MOST_DOUBTS:  # while the next clips are encoded
            doubt = self.clips.layout_doubt(stored.id)
            self._doubts += [] if doubt is None else [doubt]
        self._step("write", stored, len(self.clips.clips))

    def failed(self, stored: StoredClip, error: Exception) -> None:
        """Note a clip that could not be."""
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
            check = functools.partial(check_reads_back, back, crew=crew)
            for stored, outcome in in_order(check, self.written.values(), crew):
                if isinstance(outcome, Exception):
                    raise differs(path, outcome) from outcome
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
class Writing:
    """How one format is written.

    Raises:
        ValueError: it has no such level.
    """

    to: Format
    level: int | None
    layouts: "DatLayouts"

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
        """Write all clips to ``path``."""
        if self.to == "dat":
            told["camera_of"] = self.layouts
        _WRITERS[self.to](clips, path, level=self.effort, **told)


class DatLayouts:
    """The layout that each clip's ``.dat`` file is written in, and what was chosen."""

    def __init__(self, *, asked: str | None, source: str | None) -> None:
        self.asked, self._source = asked, source
        self._chosen: dict[str, Camera] = {}
        if asked not in (None, BOTTOM_UP):
            find_camera(asked)  # no clip can be written if there is none

    def __call__(self, stored: StoredClip) -> Camera:
        """The layout for a clip."""
        size = (stored.height_px, stored.width_px)
        camera = camera_to_write(*size, asked=self.asked, source=self._source)
        self._chosen[camera.name] = camera
        return camera

    def notes(self) -> list[str]:
        """Which layouts were written, a sentence each."""
        return [f".dat files as {camera.in_words}" for _, camera in sorted(self._chosen.items())]


def check_reads_back(back: ClipSource, stored: StoredClip, crew: Crew | None = None) -> None:
    """Read one clip of what was written, and compare.

    Raises:
        StoreError: it differs.
    """
    there = back.clips[stored.id]
    if (there.bits_sha256, there.spikes) != (stored.bits_sha256, stored.spikes):
        raise StoreError(f"clip {stored.id} is noted with another digest")
    back.verify(stored.id, crew)


def differs(path: Path, error: Exception) -> StoreError:
    """The error for what reads back as something else."""
    return StoreError(f"{path}: does not read back: {error}")


def new_store(source: ClipSource, path: Path, level: int) -> StoreWriter:
    """A store for the clips; of object storage, the one that a run before was cut off in."""
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
    with new_store(source, path, level) as writer, Crew(workers) as crew:
        clips = clips_to_do(writer, source, done)
        for stored in encode_all(lambda s: writer.copy(source, s, crew), clips, crew, failed):
            done(stored)


def clips_to_do(writer: StoreWriter, source: ClipSource, done: Done) -> list[StoredClip]:
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
