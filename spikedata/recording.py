"""A camera's stream, as it comes, into a store; and what was left of one that was cut off.

One thread reads into a ring of bounded memory, this one decodes, and a crew compresses. A plane is
kept as soon as it is whole; a clip is there when it ends, and when its writer is killed all but its
last second, or last 32 MiB of bits, can be kept with ``resume``.

Shapes: g groups of eight ticks, H rows, W columns, N planes, B bytes a plane.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import TICKS_PER_GROUP
from spikedata.camera import Camera, FrameFinder, LostSpan, PlaneDecoder, find_camera
from spikedata.clip import Clip
from spikedata.clips import (
    ClipWriter,
    Crew,
    StoreConfig,
    StoredClip,
    StoreWriter,
    change_store,
    create_store,
    format_at,
)
from spikedata.errors import SpikeDataError, StoreError
from spikedata.incoming import Incoming, ReadAhead, open_incoming
from spikedata.provenance import versions
from spikedata.remote import on_disk
from spikedata.stream import check_tick_rate_hz

_BLOCK_TICKS = 128
"""Ticks read at a time: a chunk of the store."""
_LEAST_BLOCKS = 4
"""Blocks of the ring below which they are cut shorter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordingStep:
    """How far a run of :func:`record_stream` is."""

    clip_id: str
    ticks: int
    """Whole ticks so far, of all clips."""
    duration_s: float
    bytes: int
    """Bytes of the stream so far."""
    ring_fill: float
    """How full the ring is, 0 to 1."""
    spikes_per_tick: float
    """Of all pixels together, over what is compressed of this clip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordingReport:
    """What a run of :func:`record_stream` did."""

    out: Path
    clips: tuple[str, ...]
    """Ids of the clips that came."""
    kept: tuple[str, ...] = ()
    """Ids of clips that were cut off before, of which what was whole is kept now."""
    ticks: int = 0
    """Whole ticks, of the clips that came."""
    duration_s: float = 0.0
    bytes: int = 0
    """Bytes of the stream that were read."""
    spikes: int = 0
    ended: str = ""
    """Why it ended."""
    is_broken: bool = False
    """Whether that is an error."""
    reader_waited_s: float = 0.0
    """How long the reader found no room in the ring, so that the sender had to wait."""
    ring_bytes: int = 0
    ring_fullest: float = 0.0
    """The fullest that the ring was, 0 to 1."""
    cut_bytes: int = 0
    """Bytes of the planes that the stream began and ended inside."""
    lost: tuple[LostSpan, ...] = ()
    """What did not arrive between, as far as the stream tells; ticks count from its beginning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordingConfig:
    """What is to be taken of a stream, and as what.

    Raises:
        RecordingError: there is no such camera.
        ValueError: a number is out of range, or the camera's files are no streams.
    """

    camera: str = "vidar"
    """Whose planes they are: a name, or HxW; see :func:`find_camera`."""
    clip: Clip = Clip(id="recording")
    """Id, label and what else is known. Where there is such a clip, and for all clips of a split,
    the id gets a number."""
    flip: bool | None = None
    """Turn rows upside down; None: as the camera needs."""
    tick_rate_hz: float | None = None
    """Ticks a second; None: the camera's."""
    ticks: int | None = None
    """How many to take; None: all."""
    duration_s: float | None = None
    """How many seconds of ticks to take, if that is less."""
    split_ticks: int | None = None
    """Begin another clip after so many, a multiple of eight."""
    follow: bool = False
    """Wait for more at the end of a file, until told to stop."""
    level: int = 1
    """Effort of compression, 1 to 19: two cores keep up with 1; ``pack`` makes it smaller later."""
    ring_bytes: int = 256 << 20
    """Memory for what waits to be decoded: of 250x400 at 20 kHz, a second."""
    workers: int = 1
    """Threads that decode and compress; another one reads."""

    def __post_init__(self) -> None:
        if self.layout.is_array:
            raise ValueError(f"camera {self.camera}: its files are arrays, no stream")
        if self.tick_rate_hz is not None:
            check_tick_rate_hz(self.tick_rate_hz)
        lasting = self.duration_s
        if lasting is not None and not (lasting > 0 and math.isfinite(lasting * self.rate_hz)):
            raise ValueError(f"duration_s must be a positive number of seconds, got {lasting}")
        split, most = self.split_ticks, self.most_ticks
        if most is not None and most < 1:
            raise ValueError(f"ticks must be positive, got {most}")
        if split is not None and (split < 1 or split % TICKS_PER_GROUP):
            raise ValueError(f"a split must be after a multiple of 8 ticks, got {split}")
        if self.ring_bytes < 1 or self.workers < 1:
            raise ValueError(
                f"ring_bytes and workers must be positive, got {self.ring_bytes}, {self.workers}"
            )

    @property
    def layout(self) -> Camera:
        """The camera."""
        return find_camera(self.camera)

    @property
    def is_flipped(self) -> bool:
        """Whether rows are turned upside down."""
        return self.layout.bottom_up if self.flip is None else self.flip

    @property
    def rate_hz(self) -> float:
        """Ticks a second."""
        return self.layout.tick_rate_hz if self.tick_rate_hz is None else self.tick_rate_hz

    @property
    def most_ticks(self) -> int | None:
        """How many to take; None: all."""
        if self.duration_s is None:
            return self.ticks
        lasting = round(self.duration_s * self.rate_hz)
        return lasting if self.ticks is None else min(self.ticks, lasting)


def record_stream(
    source: Path | str | None,
    out: Path | str,
    config: RecordingConfig | None = None,
    *,
    resume: bool = False,
    progress: Callable[[RecordingStep], object] = lambda _: None,
    tell: Callable[[str], object] = lambda _: None,
    stop: threading.Event | None = None,
) -> RecordingReport:
    """Take a camera's stream into a store until it ends, every whole tick of it.

    Args:
        source: a path (a named pipe, a device, a file), ``-`` for standard input,
            ``tcp://HOST:PORT`` to connect to, ``tcp-listen://HOST:PORT`` to wait for a connection
            at; None: nowhere, to keep what was cut off and no more.
        out: store to write.
        config: what to take, and as what.
        resume: go on with a store that is there: what is whole of recordings that were cut off is
            kept as clips of their own, and what comes now is further clips.
        progress: called in this thread after each block.
        tell: told what a user should know while it runs.
        stop: set it to end: what has arrived until then is kept.

    Raises:
        SpikeDataError: the source or the store cannot be opened, no whole plane arrived, or the
            disk is full and nothing could be kept.
        ValueError: an option is out of range.
    """
    config, out, stop = config or RecordingConfig(), on_disk(out), stop or threading.Event()
    options = StoreConfig(zstd_level=config.level)
    if out.exists() and not resume:
        raise StoreError(f"{out}: exists. Give --resume to go on with it, or choose another --out")
    run = _Run(config, progress, tell)
    with _told_of(out):
        if source is None:
            with _opened(out, config, options, resume=resume) as writer:
                run.keep_cut_off(writer)
                return run.report(out)
        # Before the store: where nothing comes there is none.
        with open_incoming(source, follow=config.follow, stop=stop, tell=tell) as incoming:
            tell(f"recording {source} as {config.camera}")
            run.ring = _ring(config, incoming, stop)
            with run.ring, Crew(config.workers - 1) as crew:
                if run.has_begun() or resume:
                    with _opened(out, config, options, resume=resume) as writer:
                        run.keep_cut_off(writer)
                        run.all_clips(writer, crew, str(source))
    report = run.report(out)
    if not report.ticks:
        raise SpikeDataError(
            f"{source}: {report.ended}, before {config.layout.plane_bytes:,} bytes of a whole "
            f"plane were kept ({report.bytes:,} bytes came). Wrong --camera? See `spikedata "
            "cameras`"
        )
    for caution in _cautions(report):
        tell(caution)
    return report


def _cautions(report: RecordingReport) -> Iterator[str]:
    """What a user should know of how it went."""
    if report.cut_bytes:
        yield f"{report.cut_bytes:,} bytes of planes that are not whole were left out"
    if report.lost:
        ticks, size = sum(s.ticks for s in report.lost), sum(s.bytes for s in report.lost)
        yield (
            f"about {ticks:,} ticks were lost on the way, in {len(report.lost):,} places, "
            f"{size:,} bytes"
        )
    if report.reader_waited_s:
        yield (
            f"the ring was full for {report.reader_waited_s:.1f} s: the sender had to wait, and "
            "one that cannot has lost something. A larger --ring-mb or more --workers help"
        )


def _ring(config: RecordingConfig, incoming: Incoming, stop: threading.Event) -> ReadAhead:
    """A reader of whole planes, as far as the layout tells where they begin."""
    plane_bytes, most = config.layout.plane_bytes, config.most_ticks
    fitting = config.ring_bytes // _LEAST_BLOCKS // plane_bytes // TICKS_PER_GROUP
    block_ticks = TICKS_PER_GROUP * max(1, min(_BLOCK_TICKS // TICKS_PER_GROUP, fitting))
    marked = config.layout.layout == "half_rows"  # a plane is not as many bytes as came for it
    return ReadAhead(
        incoming,
        block_bytes=block_ticks * plane_bytes,
        ring_bytes=config.ring_bytes,
        most_bytes=None if most is None or marked else most * plane_bytes,
        stop=stop,
    )


class _Planes:
    """Whole planes of a stream, as packed groups; fed block by block."""

    def __init__(self, config: RecordingConfig) -> None:
        self.ticks = 0
        """Whole planes so far."""
        self.cut_bytes = 0
        self.lost: list[LostSpan] = []
        self._camera, self._most = config.layout, config.most_ticks
        self._decoder = PlaneDecoder(self._camera, config.is_flipped)
        self._finder = FrameFinder() if self._camera.layout == "half_rows" else None
        self._rest_nb = np.empty((TICKS_PER_GROUP, self._camera.plane_bytes), np.uint8)
        self._rest = 0

    @property
    def is_enough(self) -> bool:
        """Whether there are as many as asked for."""
        return self._most is not None and self.ticks >= self._most

    def feed(self, block_b: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Whole groups, uint8 (g, H, W), of the next bytes, uint8 (bytes,)."""
        size = self._camera.plane_bytes
        if self._finder is not None:
            for _, frames_nb in self._finder.feed(block_b):
                self.lost = self._finder.lost
                yield from self._groups(frames_nb)
            return
        whole, self.cut_bytes = divmod(len(block_b), size)  # only the last block may be cut
        yield from self._groups(block_b[: whole * size].reshape(whole, size))

    def finish(self) -> Iterator[NDArray[np.uint8]]:
        """The last group, of which only a part is used, if there is one."""
        if self._finder is not None and not self.is_enough:
            self._finder.finish()
            self.cut_bytes = self._finder.cut_bytes
        if self._rest:
            self._rest_nb[self._rest :] = 0
            yield self._decoded(self._rest_nb)

    def _groups(self, planes_nb: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        if self._most is not None:
            planes_nb = planes_nb[: self._most - self.ticks]
        self.ticks += len(planes_nb)
        if self._rest:  # first what waits
            taken = min(TICKS_PER_GROUP - self._rest, len(planes_nb))
            self._keep(planes_nb[:taken])
            planes_nb = planes_nb[taken:]
            if self._rest == TICKS_PER_GROUP:
                self._rest = 0
                yield self._decoded(self._rest_nb)
        whole = len(planes_nb) // TICKS_PER_GROUP * TICKS_PER_GROUP
        if whole:
            yield self._decoded(planes_nb[:whole])
        self._keep(planes_nb[whole:])

    def _keep(self, planes_nb: NDArray[np.uint8]) -> None:
        self._rest_nb[self._rest : self._rest + len(planes_nb)] = planes_nb
        self._rest += len(planes_nb)

    def _decoded(self, planes_nb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        groups = len(planes_nb) // TICKS_PER_GROUP
        packed_ghw = np.empty((groups, *self._camera.size), np.uint8)
        self._decoder.decode(np.ascontiguousarray(planes_nb), packed_ghw)
        return packed_ghw


@dataclass
class _Take:
    """One clip of a run that is being written."""

    target: ClipWriter
    clip: Clip
    first_tick: int
    about: dict[str, Any] = field(default_factory=dict)


class _Run:
    """One run: the clips that come of it."""

    def __init__(
        self,
        config: RecordingConfig,
        progress: Callable[[RecordingStep], object],
        tell: Callable[[str], object],
    ) -> None:
        self.config = config
        self.planes = _Planes(config)
        self.stored: list[StoredClip] = []
        self.kept: list[str] = []
        self.ring: ReadAhead | None = None
        self.error: OSError | None = None
        self._progress, self._tell = progress, tell
        self._bytes = 0
        self._groups = self._all_groups()
        self._first_ghw: NDArray[np.uint8] | None = None

    def has_begun(self) -> bool:
        """Wait for the first whole group; False if none comes."""
        self._first_ghw = next(self._groups, None)
        return self._first_ghw is not None

    def keep_cut_off(self, writer: StoreWriter) -> None:
        """Make clips of recordings that were cut off, as far as they are whole."""
        for folder in writer.cut_off():
            target, ticks, about = writer.go_on(folder)
            with target:
                if not ticks:
                    self._tell(f"{about.clip.id} was cut off before any of it was on the disk")
                    continue
                target.finish(ticks=ticks, attributes=about.attributes)
            self._tell(f"{about.clip.id} was cut off; {ticks:,} ticks of it are kept")
            self.kept.append(about.clip.id)

    def all_clips(self, writer: StoreWriter, crew: Crew, source: str) -> None:
        """Write what comes, one clip after another, until it ends."""
        block_ghw = self._first_ghw
        while block_ghw is not None and self.error is None:
            clip = self._next_clip(writer, source)
            about = self._about(source)
            size = {"height_px": block_ghw.shape[1], "width_px": block_ghw.shape[2]}
            with writer.clip(
                clip,
                **size,
                tick_rate_hz=self.config.rate_hz,
                crew=crew,
                live=about,
            ) as target:
                first = sum(stored.ticks for stored in self.stored)
                take = _Take(target, clip, first, about)
                block_ghw = self._fill(take, block_ghw)
                self._end(take, is_last=block_ghw is None)

    def _all_groups(self) -> Iterator[NDArray[np.uint8]]:
        assert self.ring is not None
        for block_b in self.ring:
            self._bytes += len(block_b)
            yield from self.planes.feed(block_b)
            if self.planes.is_enough:
                break
        yield from self.planes.finish()

    def _fill(self, take: _Take, block_ghw: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        """Append until the clip is as long as it may be; gives what is of the next one."""
        split = self.config.split_ticks
        try:
            while block_ghw is not None:
                most = None if split is None else (split - take.target.ticks) // TICKS_PER_GROUP
                take.target.append(block_ghw[:most])
                self._step(take)
                if most is not None and len(block_ghw) >= most:
                    rest_ghw = block_ghw[most:]
                    return rest_ghw if len(rest_ghw) else next(self._groups, None)
                block_ghw = next(self._groups, None)
        except OSError as error:
            self.error = error
        return None

    def _end(self, take: _Take, *, is_last: bool) -> None:
        """Finish a clip; what the disk has no room for is told, and not in it."""
        ticks = min(take.target.ticks, self.planes.ticks - take.first_tick)
        if self.error is None:
            try:
                self._finish(take, ticks, is_last=is_last)
                return
            except OSError as error:
                self.error = error
        ticks = min(ticks, take.target.cut_back())
        if ticks:
            self._finish(take, ticks, is_last=True)

    def _finish(self, take: _Take, ticks: int, *, is_last: bool) -> None:
        about = take.about
        camera = {"name": self.config.camera, "flip": self.config.is_flipped}
        camera["skipped"] = self.planes.cut_bytes if is_last else 0
        end = take.first_tick + ticks
        lost = [
            [span.tick - take.first_tick, span.ticks, span.bytes]
            for span in self.planes.lost
            if take.first_tick <= span.tick < end or (is_last and span.tick == end)
        ]
        about["camera"] = camera | ({"lost": lost} if lost else {})
        about["recording"] |= self._account() | {"ended": self._ended(is_last=is_last)}
        self.stored.append(take.target.finish(ticks=ticks, attributes=about))

    def _account(self) -> dict[str, Any]:
        ring = self.ring
        return (
            {}
            if ring is None
            else {
                "reader_waited_s": round(ring.waited_s, 3),
                "ring_bytes": ring.bytes,
                "ring_fullest": round(ring.fullest, 6),
            }
        )

    def _ended(self, *, is_last: bool) -> str:
        if self.error is not None:
            return self.error.strerror or str(self.error)
        if not is_last:
            return "split"
        if self.planes.is_enough or self.ring is None:
            return "as many ticks as asked for"
        return self.ring.ended

    def _about(self, source: str) -> dict[str, Any]:
        """What is known of a clip when it begins."""
        told: dict[str, Any] = {
            "from": source,
            "started_utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "ended": "killed",
        }
        if self.stored:
            told["continues"] = {"clip": self.stored[-1].id, "gap": False}
        elif self.kept:
            told["continues"] = {"clip": self.kept[-1], "gap": True}
        camera = {"name": self.config.camera, "flip": self.config.is_flipped, "skipped": 0}
        return {"camera": camera, "recording": told, "versions": versions()}

    def _next_clip(self, writer: StoreWriter, source: str) -> Clip:
        """The next clip, under an id that is free."""
        clip, number = self.config.clip, 1
        source_of = clip.source or {"name": source}
        clip_id = clip.id if self.config.split_ticks is None else f"{clip.id}_{number:04d}"
        taken = {clip_id.casefold() for clip_id in writer.taken}
        while clip_id.casefold() in taken:
            number += 1
            clip_id = f"{clip.id}_{number:04d}"
        return replace(clip, id=clip_id, source=source_of)

    def _step(self, take: _Take) -> None:
        spikes = take.target.spikes / max(1, take.target.ticks)
        self._progress(
            RecordingStep(
                clip_id=take.clip.id,
                ticks=self.planes.ticks,
                duration_s=self.planes.ticks / self.config.rate_hz,
                bytes=self._bytes,
                ring_fill=0.0 if self.ring is None else self.ring.fill,
                spikes_per_tick=spikes,
            )
        )

    def report(self, out: Path) -> RecordingReport:
        """What was done."""
        ring = self.ring
        if ring is None:
            return RecordingReport(out=out, clips=(), kept=tuple(self.kept))
        ticks = sum(stored.ticks for stored in self.stored)
        return RecordingReport(
            out=out,
            clips=tuple(stored.id for stored in self.stored),
            kept=tuple(self.kept),
            ticks=ticks,
            duration_s=ticks / self.config.rate_hz,
            bytes=self._bytes,
            spikes=sum(stored.spikes or 0 for stored in self.stored),
            ended=self._ended(is_last=True),
            is_broken=ring.is_broken or self.error is not None,
            reader_waited_s=ring.waited_s,
            ring_bytes=ring.bytes,
            ring_fullest=ring.fullest,
            cut_bytes=self.planes.cut_bytes,
            lost=tuple(self.planes.lost),
        )


@contextlib.contextmanager
def _told_of(out: Path) -> Iterator[None]:
    """Tell of what the system refuses in one line."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{out}: {error.strerror or error}. `spikedata record --resume --out {out}` keeps what "
            "is whole of a recording that was cut off"
        ) from error


def _opened(
    out: Path, config: RecordingConfig, options: StoreConfig, *, resume: bool
) -> StoreWriter:
    """A store for the clips, new or there."""
    label = config.clip.label
    if resume and format_at(out) == "zarr":
        with contextlib.ExitStack() as on_error:
            writer = on_error.enter_context(change_store(out, options=options, goes_on=True))
            if label is not None:
                writer.add_class(label)
            on_error.pop_all()
        return writer
    names = [] if label is None else [label]
    recipe = {"cameras": [config.camera]}
    return create_store(
        out, recipe=recipe, class_names=names, name=out.stem, options=options, resume=resume
    )
