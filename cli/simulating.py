"""`spikedata simulate`: videos, or the still scene of a recording, to spikes.

An option that is a setting of the recipe says so in its annotation (:class:`Sets`), and what means
nothing for a still scene is marked :data:`OF_VIDEOS`: what is set, and what `--like` refuses, is
read from there.
"""

import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, get_type_hints

import typer

from .common import (
    STATUS_INTERRUPTED,
    STATUS_USAGE,
    check_engine,
    errors_in_one_line,
    fail,
    failure_line,
    is_number,
    notes_of,
    open_one,
    print_notes,
    print_result,
    progress_bar,
    usage_errors_in_one_line,
)
from .options import SPIKES, Address, AsJson, DryRun, OnEngine, WorkersOfAny

if TYPE_CHECKING:
    from spikedata import Corpus, Failure, SimulationRecipe, SimulationReport, StoredClip


@dataclass(frozen=True)
class Sets:
    """Marks an option as a setting of the recipe."""

    key: str
    """Dotted, as in a recipe file."""


class _By(TypedDict):
    """Who does the work."""

    engine: Literal["local", "ray"]
    address: str | None
    workers: int | None


OF_VIDEOS = "of videos"
"""Marks an option that means nothing for a still scene."""

CorpusArgument = Annotated[
    Path | None,
    typer.Argument(
        help="Folder of videos (UCF101, HMDB51, class folders, metadata.jsonl or .csv) or of "
        "numbered pictures, or one video."
    ),
]
Out = Annotated[Path, typer.Option(help="Store to write or continue.")]
RecipeFile = Annotated[
    Path | None,
    typer.Option(help="YAML file with all settings, such as a published data set has."),
    OF_VIDEOS,
]
Sensor = Annotated[
    str | None,
    typer.Option(
        help="Preset or YAML file: ideal, vidar-20khz, vidar-40khz, my.yaml.  [default: ideal]"
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Ticks of full-scale light that fire one spike.  [default: SENSOR's, 2]"),
    Sets("sensor.threshold"),
]
TicksPerFrame = Annotated[
    int | None,
    typer.Option(help="Ticks between two frames.  [default: SENSOR's, 10]"),
    Sets("sensor.ticks_per_frame"),
    OF_VIDEOS,
]
TickRate = Annotated[
    float | None,
    typer.Option(help="Ticks a second wanted, Hz, instead of --ticks-per-frame."),
    Sets("tick_rate_hz"),
    OF_VIDEOS,
]
Interpolation = Annotated[
    str | None,
    typer.Option(
        help="Light between two frames: hold, linear, flow (optical flow, then linear) or "
        "your own package.module:function.  [default: SENSOR's, linear]"
    ),
    OF_VIDEOS,
]
Reset = Annotated[
    Literal["subtract", "zero"] | None,
    typer.Option(help="What a spike leaves: the surplus charge, or nothing."),
    Sets("sensor.reset"),
]
Transfer = Annotated[
    Literal["identity", "srgb", "bt709", "pq", "hlg", "auto"] | None,
    typer.Option(help="Grey level to light; auto: as each video's own tag says."),
    Sets("sensor.transfer"),
    OF_VIDEOS,
]
Start = Annotated[
    Literal["random", "zero"] | None,
    typer.Option(help="Charge before the first tick."),
    Sets("sensor.start"),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed of everything random.  [default: SENSOR's, 0]"),
    Sets("sensor.seed"),
]
Others = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other value: noise.dead_time=0."),
]
Like = Annotated[
    Path | None,
    typer.Option(help="Recording of a still scene whose rates give the light, for compare."),
]
LikeCamera = Annotated[
    str | None, typer.Option(help="Camera of LIKE: a name from `spikedata cameras`.")
]
Resize = Annotated[
    str | None,
    typer.Option(metavar="HxW|N", help="Resize frames: 120x160, or the short side alone, 120."),
    Sets("video.resize"),
    OF_VIDEOS,
]
Fit = Annotated[
    Literal["stretch", "crop", "pad"] | None,
    typer.Option(help="How a frame of another aspect fills HxW.  [default: stretch]"),
    Sets("video.fit"),
    OF_VIDEOS,
]
Fps = Annotated[
    float | None,
    typer.Option(help="Resample videos to this frame rate first, Hz; of pictures, their own rate."),
    Sets("video.fps"),
    OF_VIDEOS,
]
CaptureFps = Annotated[
    float | None,
    typer.Option(help="True frame rate of videos that were filmed faster than they play, Hz."),
    Sets("video.capture_fps"),
    OF_VIDEOS,
]
Layout = Annotated[
    Literal["auto", "ucf101", "hmdb51", "folder", "metadata"] | None,
    typer.Option(help="How CORPUS is laid out.  [default: auto]"),
    OF_VIDEOS,
]
Split = Annotated[
    int | None,
    typer.Option(help="Official split of UCF101 or HMDB51: 1 to 3.  [default: 1]"),
    Sets("split"),
    OF_VIDEOS,
]
Splits = Annotated[
    Path | None,
    typer.Option(help="Folder of the official split files, if not in or beside CORPUS."),
    OF_VIDEOS,
]
Classes = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="Only these classes."), OF_VIDEOS
]
Caption = Annotated[
    list[str] | None,
    typer.Option(help="Caption template, repeatable.  [default: a video of {name}]"),
    OF_VIDEOS,
]
Limit = Annotated[
    int | None,
    typer.Option(help="At most so many clips, spread over classes and splits."),
    OF_VIDEOS,
]
Shard = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Only part I of N, one a machine; pack joins the stores."),
    OF_VIDEOS,
]
Decoder = Annotated[
    Literal["auto", "pyav", "opencv", "decord"] | None,
    typer.Option(help="What decodes videos.  [default: auto]"),
    Sets("video.decoder"),
    OF_VIDEOS,
]
Damaged = Annotated[
    Literal["keep", "refuse"] | None,
    typer.Option(help="Damaged videos: keep what can be read, or refuse.  [default: keep]"),
    Sets("video.damaged"),
    OF_VIDEOS,
]
OnDevice = Annotated[
    Literal["cpu", "cuda"] | None,
    typer.Option(
        help="Where spikes are simulated; same bits.  [default: cpu; of ray cuda where it is]"
    ),
    OF_VIDEOS,
]


def simulate(
    context: typer.Context,
    corpus: CorpusArgument = None,
    out: Out = SPIKES,
    recipe: RecipeFile = None,
    sensor: Sensor = None,
    threshold: Threshold = None,
    ticks_per_frame: TicksPerFrame = None,
    tick_rate: TickRate = None,
    interpolation: Interpolation = None,
    reset: Reset = None,
    transfer: Transfer = None,
    start: Start = None,
    seed: Seed = None,
    settings: Others = None,
    like: Like = None,
    camera: LikeCamera = None,
    resize: Resize = None,
    fit: Fit = None,
    fps: Fps = None,
    capture_fps: CaptureFps = None,
    layout: Layout = None,
    split: Split = None,
    splits: Splits = None,
    classes: Classes = None,
    caption: Caption = None,
    limit: Limit = None,
    shard: Shard = None,
    decoder: Decoder = None,
    damaged: Damaged = None,
    device: OnDevice = None,
    engine: OnEngine = "local",
    address: Address = None,
    workers: WorkersOfAny = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Turn every video of CORPUS into spikes.

    Run the same command again to go on after an interruption: whole clips are skipped. A video
    that cannot be read is listed in <out>.failures.jsonl and the rest goes on.
    """
    given = {key: value for key, value in context.params.items() if value not in (None, [], ())}
    _check_together(given)
    with errors_in_one_line():
        resolved = _resolve(recipe, sensor or "ideal", _overrides(given))
        if like is not None:
            _simulate_like(like, out, resolved, camera, workers, dry_run, as_json)
            return
        _check_fit(given, resolved)
        found = _find(given, resolved.split)
        by: _By = {"engine": engine, "address": address, "workers": workers}
        if dry_run:
            _print_plan(found, resolved, out, by, as_json)
        else:
            _simulate(found, out, resolved, device, by, as_json)


def _check_together(given: Mapping[str, Any]) -> None:
    """Refuse options that say two things, or mean nothing for a still scene."""
    check_engine(given["engine"], given.get("address"))
    if "like" in given and given["engine"] != "local":
        fail("--like simulates one still scene and takes no --engine", STATUS_USAGE)
    if "ticks_per_frame" in given and "tick_rate" in given:
        fail("give --ticks-per-frame or --tick-rate, not both", STATUS_USAGE)
    if "recipe" in given and "sensor" in given:
        fail("give --recipe or --sensor, not both: a recipe has its sensor", STATUS_USAGE)
    if ("corpus" in given) == ("like" in given):
        fail("give a folder of videos, or --like RECORDING", STATUS_USAGE)
    refused = [name for name, marks in _marks().items() if OF_VIDEOS in marks and name in given]
    if "like" in given and refused:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in refused)
        fail(f"--like simulates a still scene and takes no {names}", STATUS_USAGE)


def _check_fit(given: Mapping[str, Any], recipe: "SimulationRecipe") -> None:
    """Refuse to fit pictures into a size that nobody gave."""
    if "fit" in given and not isinstance(recipe.video.resize, tuple):
        fail("--fit: says how pictures fill --resize HxW, which is not given", STATUS_USAGE)


def _marks() -> dict[str, tuple[Any, ...]]:
    """What the annotation of each option holds."""
    hints = get_type_hints(simulate, include_extras=True)
    return {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}


def _overrides(given: Mapping[str, Any]) -> list[str]:
    """The options given, as ``key=value`` words that win over a recipe's file."""
    keys = {
        name: mark.key
        for name, marks in _marks().items()
        for mark in marks
        if isinstance(mark, Sets)
    }
    values = {key: given[name] for name, key in keys.items() if name in given}
    if "video.resize" in values:
        values["video.resize"] = _size(values["video.resize"])
    # Of two ways to say one thing, the option wins over the recipe's other way.
    if "ticks_per_frame" in given:
        values["tick_rate_hz"] = None
    interpolation = given.get("interpolation")
    if interpolation in ("hold", "linear"):
        values |= {"sensor.interpolation": interpolation, "interpolator": None}
    elif interpolation is not None:
        values["interpolator"] = interpolation
    words = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    return words + [f"sensor.{word}" for word in given.get("settings", ())]


def _size(text: str) -> list[int] | int:
    if is_number(text):
        return int(text)
    height, _, width = text.lower().partition("x")
    if not (is_number(height) and is_number(width)):
        fail(f"--resize: expected HxW or N, for example 120x160, got {text!r}", STATUS_USAGE)
    return [int(height), int(width)]


def _resolve(file: Path | None, sensor: str, words: list[str]) -> "SimulationRecipe":
    from spikedata import RecipeError, simulation_recipe

    try:
        return simulation_recipe(words, sensor=sensor, file=file)
    except RecipeError as error:
        fail(str(error), STATUS_USAGE)


def _find(given: Mapping[str, Any], split: int) -> "Corpus":
    """The corpus, or the part of it, that the options name."""
    from spikedata import find_corpus

    classes = given.get("classes", "")
    found = find_corpus(
        str(given["corpus"]),
        kind=given.get("layout", "auto"),
        split=split,
        splits=given.get("splits"),
        classes=tuple(name.strip() for name in classes.split(",")) if classes else (),
        limit=given.get("limit"),
        **({"caption_templates": given["caption"]} if "caption" in given else {}),
    )
    if "shard" not in given:
        return found
    number, _, of = given["shard"].partition("/")
    if not (is_number(number) and is_number(of)):
        fail(f"--shard: expected I/N, for example 1/8, got {given['shard']!r}", STATUS_USAGE)
    with usage_errors_in_one_line():
        return found.shard(int(number), int(of))


def _print_plan(
    corpus: "Corpus", recipe: "SimulationRecipe", out: Path, by: "_By", as_json: bool
) -> None:
    from spikedata import place, planned_workers, to_dict

    out = place(out)
    splits = Counter(item.clip.split or "none" for item in corpus.clips)
    print_notes(notes_of(corpus))
    plan: dict[str, Any] = {
        "corpus": f"{corpus.root} ({corpus.name})",
        "clips": len(corpus.clips),
        "classes": len(corpus.class_names),
        "splits": dict(sorted(splits.items())),
        "left_out": [asdict(failure) for failure in corpus.left_out],
        "notes": list(corpus.notes),
        "out": f"{out} ({'continued' if out.exists() else 'new'})",
        "engine": by["engine"],
        "workers": planned_workers(**by),
        "recipe": to_dict(recipe),
    }
    if not as_json:
        plan |= {"left_out": len(corpus.left_out)}
        del plan["notes"]
    print_result(plan, as_json)


def _simulate_like(
    recording: Path,
    out: Path,
    recipe: "SimulationRecipe",
    camera: str | None,
    workers: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    from spikedata import available_cores, simulate_recording, to_dict

    opened = open_one(recording, None, camera)
    notes = {"notes": notes_of(opened)} if as_json else {}
    if dry_run:
        sensor = to_dict(recipe.sensor)
        plan = {"like": recording, "ticks": opened.ticks, "out": out, "sensor": sensor}
        print_result(plan | notes, as_json)
        return
    with usage_errors_in_one_line():
        stored = simulate_recording(
            recording, out, recipe.sensor, camera=camera, threads=workers or available_cores()
        )
    print_result({"store": out, "clip": stored.id, "ticks": stored.ticks} | notes, as_json)


def _simulate(
    corpus: "Corpus",
    out: Path,
    recipe: "SimulationRecipe",
    device: Literal["cpu", "cuda"] | None,
    by: "_By",
    as_json: bool,
) -> None:
    from spikedata import Failure, available_cores, simulate_corpus

    if by["engine"] == "local":
        by = by | {"workers": by["workers"] or available_cores()}

    print_notes(corpus.notes)
    with _stop_on_interrupt() as stop, progress_bar(len(corpus.clips), "clip", "simulate") as bar:

        def advance(outcome: "StoredClip | Failure") -> None:
            bar.update()
            if isinstance(outcome, Failure):
                bar.write(failure_line(outcome), file=sys.stderr)

        report = simulate_corpus(
            corpus,
            out,
            recipe,
            device=device,
            **by,
            progress=advance,
            stop=stop,
        )
    _print_report(corpus, report, as_json)


def _print_report(corpus: "Corpus", report: "SimulationReport", as_json: bool) -> None:
    print_notes(report.notes)
    told: dict[str, Any] = {
        "store": str(report.store),
        "written": report.written,
        "skipped": report.skipped,
        "failed": len(report.failures),
    }
    if as_json:
        told["failed"] = [asdict(failure) for failure in report.failures]
        told |= {"losses": report.losses, "notes": [*corpus.notes, *report.notes]}
    print_result(told, as_json)
    if report.stopped:
        fail("interrupted; run the same command again to go on", STATUS_INTERRUPTED)
    if report.failures:
        tried = len(corpus.clips) + len(corpus.left_out)
        fail(f"{len(report.failures)} of {tried} clips failed; see {report.failure_file}")


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """The first Ctrl-C asks the run to stop and lets it clean up; the second kills."""
    stop = threading.Event()

    def ask(_signal: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
