"""A corpus of videos to a store of spikes: several clips at once, resumable, never half-written.

The file is long because a run on workers of an engine stands beside that in threads: it is the same
plan, the same work on a part of the clips, and the same report.
"""

import errno
import json
import logging
import math
import platform
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spikedata.analysis import simulate_like, still_sensor
from spikedata.clip import Clip, check_distinct_ids
from spikedata.clips import (
    CLIPS,
    ClipWriter,
    Crew,
    LentStore,
    RunNotes,
    StoredClip,
    StoreWriter,
    create_store,
    open_spikes,
    part_writer,
    recipe_of_store,
    size_on_disk,
)
from spikedata.corpora import Corpus, CorpusClip, clip_id_of, count, local_copy
from spikedata.engines import MOST_ATTEMPTS, Engine, LaneClosedError, check_ray, ray_workers
from spikedata.errors import RecipeError, SpikeDataError, StoreError
from spikedata.outputs import Failure, failure_file, identity, write_failures
from spikedata.provenance import versions
from spikedata.recipe import from_dict, load_recipe, parse_recipe, to_dict
from spikedata.remote import is_remote, place
from spikedata.simulator import (
    Device,
    SensorConfig,
    check_device,
    load_sensor,
    simulate,
    with_maps_beside,
)
from spikedata.video import (
    Video,
    VideoConfig,
    find_interpolator,
    more_frames,
    open_video,
    steps_per_frame,
)

FRAMES_PER_BLOCK = 64
"""Most frames decoded and simulated at a time; bounds memory, changes no bit."""
BLOCK_BYTES = 1 << 25
"""Most bytes of these frames, unless one frame has more: 32 MiB are 16 frames of 1080p."""

Block = NDArray[np.uint8]

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationRecipe:
    """All that decides what a simulated store holds of each clip."""

    sensor: SensorConfig = field(default_factory=SensorConfig)
    """The camera that is simulated."""
    video: VideoConfig = field(default_factory=VideoConfig)
    """How the videos are read."""
    interpolator: str | None = None
    """What makes frames between frames before the sensor: ``flow`` or ``package.module:function``;
    None leaves it to the sensor's ``interpolation``."""
    tick_rate_hz: float | None = None
    """Ticks a second wanted; each clip gets the nearest whole number of ticks per frame."""
    split: int = 1
    """Which of the official splits the clips' ``split`` comes from."""

    def __post_init__(self) -> None:
        if self.tick_rate_hz is not None and not 0 < self.tick_rate_hz < math.inf:
            raise ValueError(f"tick_rate_hz must be a positive number, got {self.tick_rate_hz}")

    def sensor_at(self, frame_rate: Fraction) -> SensorConfig:
        """The sensor for a video of this frame rate.

        Raises:
            ValueError: the tick rate gives less than one tick a frame, or too many.
        """
        if self.tick_rate_hz is None:
            return self.sensor
        ticks_per_frame = round(self.tick_rate_hz / frame_rate)
        if ticks_per_frame < 1:
            raise ValueError(
                f"tick rate {self.tick_rate_hz:g} Hz is below the frame rate "
                f"{float(frame_rate):g} Hz; give --fps or a higher --tick-rate"
            )
        return replace(self.sensor, ticks_per_frame=ticks_per_frame)


def simulation_recipe(
    overrides: Sequence[str] = (), *, sensor: str = "ideal", file: Path | str | None = None
) -> SimulationRecipe:
    """The recipe of a simulation: a file's, or a sensor's with all else as usual.

    Args:
        overrides: ``key.sub=value`` words that win, for example ``sensor.threshold=1.5``.
        sensor: a preset or a sensor's own file, see :func:`load_sensor`; not looked at if there
            is a ``file``.
        file: YAML with the keys of :class:`SimulationRecipe`, such as a published data set has.
            A file of maps that its sensor names is looked for beside it.

    Raises:
        RecipeError: no such file or preset, an unknown key, or an impossible value; or the file
            names a function that is not named in ``overrides`` too.
    """
    if file is not None:
        recipe = load_recipe(file, SimulationRecipe, overrides)
        if not any(word.startswith("interpolator=") for word in overrides):
            check_names_no_function(recipe, str(file))
        return replace(recipe, sensor=with_maps_beside(recipe.sensor, Path(file).parent))
    text = json.dumps({"sensor": to_dict(load_sensor(sensor))})
    return parse_recipe(text, SimulationRecipe, overrides, where="options")


def check_names_no_function(recipe: SimulationRecipe, where: str) -> None:
    """Refuse a recipe from elsewhere that would run a function: only its user may name one.

    Raises:
        RecipeError: it names one.
    """
    name = recipe.interpolator
    if name is not None and name != "flow":
        raise RecipeError(
            f"{where}: names a function, {name!r}, that is not run unless you name it too: give "
            f"--interpolation {name} if you know what it does"
        )


class Filmed:
    """One clip of a corpus while it is simulated: frames in, packed ticks out."""

    def __init__(
        self,
        item: CorpusClip,
        path: Path,
        video: Video,
        recipe: SimulationRecipe,
        *,
        threads: int,
        device: Device,
        stop: threading.Event | None,
        frames: int,
    ) -> None:
        self.sensor = recipe.sensor_at(video.frame_rate).resolved(video.transfer)
        self.height_px, self.width_px = video.height_px, video.width_px
        self.tick_rate_hz = float(self.sensor.ticks_per_frame * video.frame_rate)
        self._item, self._path, self._recipe, self._video = item, path, recipe, video
        self._threads, self._device, self._stop = threads, device, stop
        self._frames, self._most_frames = 0, frames

    def clip(self) -> Clip:
        """The clip with digest and size of its video, which is read for that."""
        source = self._item.clip.source | identity(self._path)
        return replace(self._item.clip, source=source)

    @property
    def ticks(self) -> int:
        """Ticks of the frames that were decoded: of the clip, once its blocks have ended."""
        return self._frames * self.sensor.ticks_per_frame

    def attributes(self) -> dict[str, Any]:
        """How it was made; final once its blocks have ended."""
        return {
            "sensor": to_dict(self.sensor),
            "video": self._video.account(),
            "versions": versions() | _interpolator_version(self._recipe),
        }

    def blocks(self) -> Iterator[Block]:
        """Frames to packed ticks, by way of more frames if the recipe says so; once.

        Yields:
            packed_ghw: uint8 (G, H, W), whole groups except at the clip's end. Only the frames
                that these ticks need have been decoded, and at most a block more.
        """
        blocks, sensor = self._counted(), self.sensor
        if self._recipe.interpolator:
            steps = steps_per_frame(sensor.ticks_per_frame)
            make = find_interpolator(self._recipe.interpolator)
            blocks = more_frames(blocks, steps, interpolator=make)
            ticks = sensor.ticks_per_frame // steps
            sensor = replace(sensor, ticks_per_frame=ticks, interpolation="linear")
        return simulate(
            blocks, sensor, clip_id=self._item.clip.id, threads=self._threads, device=self._device
        )

    def _counted(self) -> Iterator[Block]:
        """The video's frames, counted on the way, cut off when the run is told to stop."""
        fitting = BLOCK_BYTES // (self.height_px * self.width_px)
        for luma_nhw in self._video.blocks(max(1, min(self._most_frames, fitting))):
            if self._stop is not None and self._stop.is_set():
                raise CancelledError
            self._frames += len(luma_nhw)
            yield luma_nhw


@contextmanager
def film(
    item: CorpusClip,
    recipe: SimulationRecipe,
    *,
    threads: int = 1,
    device: Device = "cpu",
    stop: threading.Event | None = None,
    frames: int = FRAMES_PER_BLOCK,
) -> Iterator[Filmed]:
    """Open one clip of a corpus to simulate it; the video is closed in the end.

    Args:
        item: the clip and its video.
        recipe: sensor and video settings.
        threads: how many share the pixels; the bits are the same.
        device: where it is done; the bits are the same.
        stop: set it to end early, with a ``CancelledError``.
        frames: most frames decoded at a time; the bits are the same.

    Raises:
        SpikeDataError: the video cannot be read.
        ValueError: its frame rate and the recipe's tick rate do not fit.
    """
    how = recipe.video
    if item.capture_fps is not None:
        how = replace(how, capture_fps=item.capture_fps)
    with local_copy(item.path) as path, open_video(path, how) as video:
        shared: dict[str, Any] = {"threads": threads, "device": device, "stop": stop}
        yield Filmed(item, path, video, recipe, frames=frames, **shared)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationReport:
    """What a run of :func:`simulate_corpus` did."""

    store: Path
    written: int
    skipped: int
    failures: tuple[Failure, ...]
    stopped: bool
    """True if the run was told to stop before all clips were tried."""
    failure_file: Path
    """JSON Lines, one failure a line; absent if there was none."""
    losses: dict[str, int]
    """What was lost or made good in the clips of the run, summed; see ``StoredClip.losses``."""
    notes: tuple[str, ...]
    """What else a user should know of the run, a sentence each."""


Progress = Callable[[StoredClip | Failure], None]
Unfinished = tuple[ClipWriter, int, dict[str, Any]]


def simulate_corpus(
    corpus: Corpus,
    out: Path | str,
    recipe: SimulationRecipe,
    *,
    workers: int | None = None,
    device: Device | None = None,
    engine: Engine = "local",
    address: str | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> SimulationReport:
    """Simulate every clip of ``corpus`` into the store ``out``.

    A store that is already there is continued: clips it holds are skipped. The bits of a clip
    depend on the recipe, the clip id and the video alone, not on who makes it, or interruptions.
    A clip whose video has another size now than when it was made counts as a failure.

    Args:
        corpus: clips and the videos they come from.
        out: path of the store.
        recipe: sensor and video settings; a store made with others is refused.
        workers: clips simulated at once, one thread each; default 1, of ``ray`` all its cores.
        device: where the sensor is simulated; default ``cpu``, of ``ray`` GPUs too if it has any.
        engine: ``local``, or workers of ``ray``, whose nodes find all files at the same paths.
        address: of its cluster, see :func:`spikedata.engines.ray_workers`.
        progress: called in this thread for each clip, with what is stored of it or with its
            failure; for those already there at once.
        stop: set it to end early; what is unfinished is removed, what is finished stays.

    Returns:
        Counts, and one :class:`Failure` for each clip that could not be made. The same list is
        written to ``<out stem>.failures.jsonl`` beside the store, or that file is removed.

    Raises:
        SpikeDataError: ``out`` is something else, was made with another recipe, or holds one of
            the clips with another label, caption, split, group or licence; the disk is full (what
            was finished before stays); or there is no such engine or cluster.
        ValueError: ``workers`` is not positive, or two clips have the same id.
    """
    out = place(out)
    _check_run(corpus, recipe, workers, device, engine)
    with create_store(
        out,
        recipe=_recipe_to_note(out, recipe),
        class_names=corpus.class_names,
        name=data_set_name(corpus),
        resume=out.exists(),
    ) as writer:
        run = _CorpusRun(writer, recipe, device or "cpu", stop or threading.Event(), progress)
        with run.failures_kept(failure_file(out)):
            todo = run.begin(corpus)
            if engine == "ray":
                run.on_ray(todo, address=address, workers=workers, device=device)
            else:
                run.on_this_machine(todo, workers or 1)
    write_failures(failure_file(out), run.failures)
    return run.report(out)


def _check_run(
    corpus: Corpus,
    recipe: SimulationRecipe,
    workers: int | None,
    device: Device | None,
    engine: Engine,
) -> None:
    """Refuse what cannot be done before anything is written."""
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    check_distinct_ids(item.clip.id for item in corpus.clips)
    if engine == "ray":
        check_ray()
        device = "cpu"  # what else there is the nodes know
    check_tools(recipe, device or "cpu")


class _Writer(Protocol):
    """Where clips go: a store, or one that was lent."""

    path: Path

    def clip(
        self,
        clip: Clip,
        *,
        height_px: int,
        width_px: int,
        tick_rate_hz: float,
        crew: Crew | None = None,
    ) -> ClipWriter: ...

    def check_in_place(self) -> None: ...


class _Run:
    """Clips made one after the other, several at once: all of a run, or the part of a worker."""

    def __init__(
        self,
        writer: _Writer,
        recipe: SimulationRecipe,
        device: Device,
        stop: threading.Event,
        progress: Progress | None,
    ) -> None:
        self.writer = writer
        self.recipe = recipe
        self.device = device
        self.stop = stop
        self.progress = progress or (lambda _: None)

    def make(self, todo: Iterable[CorpusClip], workers: int, threads: int = 1) -> None:
        """Try each clip; at most ``workers`` are simulated at a time, with ``threads`` each."""
        waiting = iter(todo)
        most = 2 * workers  # as many again may wait for the disk while these have the cores
        with (
            ThreadPoolExecutor(workers, thread_name_prefix="simulate") as cores,
            ThreadPoolExecutor(most, thread_name_prefix="finish") as disk,
        ):
            under_way: dict[Future[StoredClip], CorpusClip] = {}
            try:
                while True:
                    while len(under_way) < most and (ready := next(waiting, None)):
                        coming = cores.submit(self.to_shards, ready, threads)
                        under_way[disk.submit(self.finish, coming)] = ready
                    if not under_way:
                        return
                    wait(under_way, return_when=FIRST_COMPLETED)
                    for future in [future for future in under_way if future.done()]:
                        self.account_for(future, under_way.pop(future))
            except BaseException:
                self.stop.set()
                raise

    def account_for(self, future: Future[StoredClip], item: CorpusClip) -> None:
        """Tell of a finished clip, or of why it could not be made."""
        try:
            stored = future.result()
        except CancelledError:
            return
        except Exception as error:  # whatever one video does, the others go on
            self.writer.check_in_place()
            if isinstance(error, OSError) and (advice := _ends_all(error, self.writer.path)):
                raise StoreError(
                    f"{self.writer.path}: {error.strerror} while writing {item.clip.id}. "
                    f"Finished clips are kept; {advice} and run the same command again"
                ) from error
            self.fail(item, _told(error))
            return
        self.take(stored)

    def take(self, stored: StoredClip) -> None:
        """Count a clip that was made."""
        self.progress(stored)

    def fail(self, item: CorpusClip, said: str) -> None:
        """Tell why a clip could not be made."""
        self.progress(Failure(id=item.clip.id, path=str(item.path), error=said))

    def to_shards(self, item: CorpusClip, threads: int) -> Unfinished:
        """Decode, simulate and compress one clip."""
        if self.stop.is_set():
            raise CancelledError
        filming = film(item, self.recipe, threads=threads, device=self.device, stop=self.stop)
        # This thread compresses too.
        with filming as filmed, Crew(threads - 1) as crew, ExitStack() as undo:
            target = undo.enter_context(
                self.writer.clip(
                    filmed.clip(),
                    height_px=filmed.height_px,
                    width_px=filmed.width_px,
                    tick_rate_hz=filmed.tick_rate_hz,
                    crew=crew,
                )
            )
            with closing(_one_ahead(filmed.blocks(), threads)) as blocks:
                for packed_ghw in blocks:
                    target.append(packed_ghw)
            target.flush()
            undo.pop_all()  # whoever finishes the clip removes it if that fails
            return target, filmed.ticks, filmed.attributes()

    def finish(self, coming: Future[Unfinished]) -> StoredClip:
        """Put a clip in its place, in a thread that may wait for the disk: a core does not."""
        target, ticks, attributes = coming.result()
        with target:
            return target.finish(ticks=ticks, attributes=attributes)


class _CorpusRun(_Run):
    """One run over a corpus: what is there is passed over, what is made is counted."""

    def __init__(self, writer: StoreWriter, *how: Any) -> None:
        super().__init__(writer, *how)
        self.store = writer
        self.written = 0
        self.skipped = 0
        self.failures: list[Failure] = []
        self._told = RunNotes()
        self._of_engine: list[str] = []
        self._other_official_splits = 0

    @contextmanager
    def failures_kept(self, path: Path) -> Iterator[None]:
        """Write the list of failures also if the run ends with an error."""
        try:
            yield
        except BaseException:
            if self.failures:
                with suppress(OSError):  # the disk may be full, which is being told
                    write_failures(path, self.failures)
            raise

    def begin(self, corpus: Corpus) -> list[CorpusClip]:
        """Count what is there or cannot be made; gives what there is to do."""
        for left_out in corpus.left_out:
            self.failures.append(left_out)
            self.progress(left_out)
        there = [(item, self.store.stored(item.clip.id)) for item in corpus.clips]
        made = [(item, stored) for item, stored in there if stored is not None]
        for item, stored in made:
            _check_same_facts(self.store.path, stored.clip, item.clip)
        for item, stored in made:
            self.skip(item, stored)
        return [item for item, stored in there if stored is None]

    def on_this_machine(self, todo: Sequence[CorpusClip], workers: int) -> None:
        """Try each clip in threads of this process."""
        # A lone clip cannot share cores with others: its own rows and chunks do.
        self.make(todo, workers, max(1, workers // max(1, len(todo))))

    def on_ray(
        self,
        todo: Sequence[CorpusClip],
        *,
        address: str | None,
        workers: int | None,
        device: Device | None,
    ) -> None:
        """Try each clip on workers of Ray, which write into the store themselves."""
        items = {item.clip.id: item for item in todo if self.is_free(item)}
        if not items:  # then there need be no cluster
            return
        with (
            self.store.lend() as lent,
            ray_workers(address=address, workers=workers, device=device) as ray,
        ):
            outcomes = ray.hand_out(
                simulate_part,
                _Lent(lent, self.recipe),
                list(items.values()),
                lost=_lost,
                stop=self.stop,
            )
            with closing(outcomes):
                for outcome in outcomes:
                    self.account_for_remote(outcome)
                    items.pop(outcome.id)
            self._of_engine += ray.notes()
        for clip_id in items:  # put into place by workers that did not live to tell
            if stored := self.store.stored(clip_id):
                self.take(stored)

    def is_free(self, item: CorpusClip) -> bool:
        """Whether the store can take the clip; else it has failed."""
        try:
            self.store.check_free(item.clip.id)
        except StoreError as error:
            self.fail(item, str(error))
            return False
        return True

    def account_for_remote(self, outcome: StoredClip | Failure) -> None:
        """Count what a worker made, or could not make."""
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
            self.progress(outcome)
        else:
            self.store.note(outcome)
            self.take(outcome)

    def skip(self, item: CorpusClip, stored: StoredClip) -> None:
        """Count a clip that is there, unless its video is another by now."""
        changed = _changed_video(item, stored.clip)
        if changed is None:
            self.skipped += 1
            self._other_official_splits += stored.clip.official_splits != item.clip.official_splits
            self._told.add(stored.size, stored.attributes)
            self.progress(stored)
        else:
            folder = self.store.path / CLIPS / item.clip.id
            self.fail(item, f"{changed}. To make the clip again, remove {folder}")

    def take(self, stored: StoredClip) -> None:
        """Count a clip that was made."""
        self.written += 1
        self._told.add(stored.size, stored.attributes)
        self.progress(stored)

    def fail(self, item: CorpusClip, said: str) -> None:
        """Note why a clip could not be made."""
        failure = Failure(id=item.clip.id, path=str(item.path), error=said)
        self.failures.append(failure)
        self.progress(failure)

    def report(self, out: Path) -> SimulationReport:
        """What was done so far."""
        return SimulationReport(
            store=out,
            written=self.written,
            skipped=self.skipped,
            failures=tuple(sorted(self.failures, key=lambda failure: failure.id)),
            stopped=self.stop.is_set(),
            failure_file=failure_file(out),
            losses=self._told.losses(),
            notes=(
                *self._told.notes(),
                *self._of_engine,
                *self.on_official_splits(),
                *self.still_lost(),
            ),
        )

    def on_official_splits(self) -> Iterator[str]:
        """Tell of clips from before whose store notes other official splits than are known now."""
        if self._other_official_splits:
            yield (
                f"{count(self._other_official_splits, 'clip')} from before: official splits stay "
                "as noted then, or not noted; to have those of today's lists, simulate into "
                "another --out"
            )

    def still_lost(self) -> Iterator[str]:
        """Tell of clips that the store lost and that were not among those of this run."""
        for lost in self.store.lost:
            if lost.path != str(self.store.path / CLIPS) and not self.store.has(lost.id):
                yield lost.note()


@dataclass(frozen=True, slots=True)
class _Lent:
    """What all parts of a run on workers elsewhere share."""

    store: LentStore
    recipe: SimulationRecipe


def simulate_part(
    shared: _Lent, items: Sequence[CorpusClip], device: Device
) -> list[StoredClip | Failure]:
    """Simulate some clips into a store that was lent; what a worker of an engine does.

    Clips that are there, of a worker that died or was too slow, are not made again.

    Raises:
        StoreError: the store cannot be seen from here, was taken back, or the disk is full.
        LaneClosedError: the device cannot be used here.
    """
    try:
        check_device(device)
    except SpikeDataError as error:
        raise LaneClosedError(str(error)) from error
    writer, outcomes = part_writer(shared.store), list[StoredClip | Failure]()
    run = _Run(writer, shared.recipe, device, threading.Event(), outcomes.append)

    def missing() -> Iterator[CorpusClip]:
        for item in items:
            try:
                stored = writer.stored(item.clip.id)
            except StoreError as error:
                run.fail(item, str(error))
                continue
            if stored is None:
                yield item
            else:
                run.take(stored)

    run.make(missing(), 1)
    return [_on_this_node(outcome) for outcome in outcomes]


def _on_this_node(outcome: StoredClip | Failure) -> StoredClip | Failure:
    """Say where a video is missing that others see."""
    if isinstance(outcome, StoredClip) or Path(outcome.path).exists():
        return outcome
    told = f"node {platform.node()} has no such file; every node must see the same files"
    return replace(outcome, error=f"{outcome.error}; {told}")


def _lost(item: CorpusClip, how: str) -> Failure:
    """A clip that cost too many workers."""
    told = f"gave up after {MOST_ATTEMPTS} workers died with it: {how}"
    return Failure(id=item.clip.id, path=str(item.path), error=told)


def simulate_recording(
    recording: Path | str,
    out: Path | str,
    sensor: SensorConfig,
    *,
    camera: str | None = None,
    threads: int = 1,
) -> StoredClip:
    """Simulate the still scene of a recording into a store of one clip, to compare the two.

    A store that holds the clip already, made of the same file with the same sensor, is left as it
    is.

    Args:
        recording: camera file, or store of one clip, whose rates give the light.
        out: store to write.
        sensor: the camera to simulate.
        camera: whose file the recording is.
        threads: how many share the pixels; the bits are the same.

    Raises:
        SpikeDataError: the recording cannot be read, or ``out`` is something else.
        ValueError: the threshold is too high for the recording's rates.
    """
    recording, out = Path(recording), Path(out)
    source = open_spikes(recording, camera=camera)
    about = {"name": recording.name, "camera": camera}
    if recording.is_file():
        about |= identity(recording)
    clip = Clip(id=clip_id_of(recording.stem), source=about)
    blocks = simulate_like(source, sensor, clip_id=clip.id, threads=threads)
    recipe = {"sensor": to_dict(sensor), "like": about}
    with create_store(
        out, recipe=recipe, class_names=(), name=clip.id, resume=out.exists()
    ) as writer:
        there = writer.stored(clip.id)
        if there is not None:
            return there
        with writer.clip(
            clip,
            height_px=source.height_px,
            width_px=source.width_px,
            tick_rate_hz=source.tick_rate_hz,
        ) as target:
            for packed_ghw in blocks:
                target.append(packed_ghw)
            ran = to_dict(still_sensor(sensor, source.ticks))
            attributes = {"sensor": ran, "versions": versions()}
            return target.finish(ticks=source.ticks, attributes=attributes)


def _check_same_facts(store: Path, there: Clip, asked: Clip) -> None:
    for key in ("label", "captions", "split", "group", "licence"):
        old, new = getattr(there, key), getattr(asked, key)
        if old != new:
            raise StoreError(
                f"{store}: clip {there.id} was made with {key} = {old!r}, now asked for {new!r}. "
                "Use the same settings, or another --out"
            )


def _changed_video(item: CorpusClip, made_of: Clip) -> str | None:
    """What tells that a video is not the one that a clip was made of; None if nothing does."""
    before, now = made_of.source.get("bytes"), item.file_bytes
    if now is None:
        if not item.path.exists():  # gone, and not needed any more
            return None
        now = size_on_disk(item.path)
    return None if before in (None, now) else f"made of a file of {before:,} bytes, now {now:,}"


def _ends_all(error: OSError, store: Path) -> str | None:
    """What is to be done about what no other clip would be spared; None of other errors."""
    if error.errno in DISK_IS_FULL:
        return "make room"
    is_of_store = is_remote(store) and str(error.filename or "").startswith(f"{store}/")
    return "see that it can be written" if is_of_store else None


_EXPECTED = (SpikeDataError, ValueError, OSError)


def _told(error: Exception) -> str:
    """One line about what went wrong; what nobody foresaw is logged with its traceback."""
    if isinstance(error, _EXPECTED):
        return str(error)
    if not isinstance(error, MemoryError):
        logging.getLogger(__name__).error("unexpected", exc_info=error)
    return f"{type(error).__name__}: {error}"


def _interpolator_version(recipe: SimulationRecipe) -> dict[str, str]:
    """The version of what decides the frames in between."""
    if recipe.interpolator != "flow":
        return {}
    import cv2  # noqa: PLC0415  # loads slowly, and only flow needs it

    return {"opencv": cv2.__version__}


def check_tools(recipe: SimulationRecipe, device: Device) -> None:
    """Miss what is missing before the first clip, not at every clip."""
    if recipe.interpolator:
        find_interpolator(recipe.interpolator)
    check_device(device)


def _recipe_to_note(out: Path, recipe: SimulationRecipe) -> dict[str, Any]:
    """The recipe as plain values; as a store that is there has it, if that means the same.

    A store of before a setting was there lacks the setting, whose default is what was done.
    """
    asked = to_dict(recipe)
    if not out.exists():
        return asked
    try:
        there = recipe_of_store(out)
        same = to_dict(from_dict(SimulationRecipe, there)) == asked
    except SpikeDataError:
        return asked
    return there if same else asked


def data_set_name(corpus: Corpus) -> str:
    """A known data set's own name; the folder's for one's own videos."""
    return corpus.name if corpus.name in ("ucf101", "hmdb51") else corpus.folder_name


def _one_ahead(blocks: Iterator[Block], threads: int) -> Generator[NDArray[np.uint8], None, None]:
    """The same blocks; if there are threads, the next is made in one while one is in use."""
    if threads == 1:
        yield from blocks
        return
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block
