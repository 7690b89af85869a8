"""`spikedata demo`: the whole chain on a corpus drawn here, through the same public functions.

In its folder it does what a user would do there: draw ``shapes/``, simulate it to ``spikes.zarr``,
pack that to ``packed.zarr``, and train as the packaged recipe ``demo.yaml`` says, to ``runs/demo``.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import errors_in_one_line, progress_bar, say
from .options import AsJson, Workers

RECIPE = "demo.yaml"
"""The packaged recipe that the demo trains by."""
RUN = Path("runs") / "demo"
_SETTINGS = "demo.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """What the demo draws and how it trains."""

    seed: int = 0
    """Seed of the drawings, the spikes, the weights and the order of clips."""
    clips_per_class: int = 100
    """Training clips of each of the 12 classes."""
    test_per_class: int = 20
    """Held-out clips of each class."""
    overrides: tuple[str, ...] = ()
    """Changes to the recipe, ``section.key=value``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """What came out."""

    report: Path
    """Page with all numbers of the run."""
    seconds: dict[str, float]
    """Time each step took; a step finished by an earlier call takes none."""
    metrics: dict[str, Any]
    """What the run's ``metrics.json`` holds."""
    direction_top1: float
    """Share of test clips whose answer moves as they do, whatever its shape; chance is 1 in 4."""
    direction_top1_reversed: float
    """The same, by the direction before, of the clips played backwards: a model that reads time
    falls below chance."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder to make, or to go on in.")] = Path(
        "spikedata-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of drawings, spikes and weights.")] = 0,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Draw a labelled corpus and run the whole chain on it, without a download.

    Squares, circles and triangles move left, right, up and down; they are simulated, packed, and
    SPKLIP learns to name them: minutes on two CPU cores. Run it again to go on.

    Does it read time? The last lines tell how many answers have the right direction, and how many
    still have it when the same clips are played backwards.
    """
    with errors_in_one_line():
        result = run_demo(out, DemoConfig(seed=seed), workers=workers)
        print_demo(result, as_json=as_json)


def run_demo(out: Path, config: DemoConfig, *, workers: int | None = None) -> DemoResult:
    """Draw, simulate, pack, train and judge, all inside the folder ``out``.

    An unfinished demo with the same settings is continued: what is finished is not done again.

    Args:
        out: folder to make.
        config: what to draw and train.
        workers: clips simulated at once; all cores if None.

    Raises:
        SpikeDataError: ``out`` holds something else, a finished demo, or one with other settings.
    """
    out = out.resolve()
    _claim(out, config)
    seconds: dict[str, float] = {}
    with contextlib.chdir(out):
        with _timed("draw", seconds):
            _draw(config)
        with _timed("simulate", seconds):
            _simulate(config, workers)
        with _timed("pack", seconds):
            _pack(workers)
        with _timed("train and judge", seconds):
            _train(config)
        metrics = json.loads((RUN / "metrics.json").read_text(encoding="utf-8"))
    names = metrics["closed_set"]["spklip"]["class_names"]
    return DemoResult(
        report=out / RUN / "report.html",
        seconds=seconds,
        metrics=metrics,
        direction_top1=direction_top1(names, metrics["closed_set"]["spklip"]["confusion"]),
        direction_top1_reversed=direction_top1(names, metrics["order"]["reversed"]["confusion"]),
    )


def direction_top1(class_names: Sequence[str], confusion: Sequence[Sequence[int]]) -> float:
    """Share of answers whose direction is right, whatever the shape.

    Args:
        class_names: C names that end in ``_`` and a direction.
        confusion: C rows, one a true class, of C counts, one an answer.
    """
    ways = [name.rpartition("_")[2] for name in class_names]
    right = sum(
        count
        for way, row in zip(ways, confusion, strict=True)
        for answer, count in zip(ways, row, strict=True)
        if answer == way
    )
    return right / sum(map(sum, confusion))


def print_demo(result: DemoResult, *, as_json: bool) -> None:
    """Print the table of results and where the report lies, or all of it as JSON."""
    from spklip import summary_table

    if as_json:
        say(json.dumps(asdict(result), default=str))
        return
    say(summary_table(result.metrics))
    say(
        f"direction alone, whatever the shape: {result.direction_top1:.1%}; "
        f"clips played backwards: {result.direction_top1_reversed:.1%}; chance: 25.0%"
    )
    spent = ", ".join(f"{name} {spent:.0f} s" for name, spent in result.seconds.items())
    say(f"time: {spent}")
    say(f"report: {result.report}")


@contextlib.contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    say(f"{name} ...", err=True)
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 1)


def _claim(out: Path, config: DemoConfig) -> None:
    """Check what ``out`` holds, and write down what is made there."""
    from spikedata import SpikeDataError

    settings = json.loads(json.dumps(asdict(config)))
    noted = out / _SETTINGS
    if (out / RUN / "metrics.json").exists():
        raise SpikeDataError(
            f"{out}: a finished demo; its report is {out / RUN / 'report.html'}. "
            "Remove the folder or name another with --out"
        )
    if noted.is_file():
        before = json.loads(noted.read_text(encoding="utf-8"))
        for key in settings:
            if before.get(key) != settings[key]:
                raise SpikeDataError(
                    f"{out}: was begun with {key}={before.get(key)}, now it is {settings[key]}. "
                    "Remove the folder or name another with --out"
                )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpikeDataError(f"{out}: exists and is not a demo's folder; name another with --out")
    out.mkdir(parents=True, exist_ok=True)
    noted.write_text(json.dumps(settings) + "\n", encoding="utf-8")


def _draw(config: DemoConfig) -> None:
    from spikedata import SHAPE_CLASSES, draw_shapes

    if Path("shapes").exists():
        return
    clips = (config.clips_per_class + config.test_per_class) * len(SHAPE_CLASSES)
    with progress_bar(clips, "clip", "draw") as bar:
        draw_shapes(
            "shapes",
            clips_per_class=config.clips_per_class,
            test_per_class=config.test_per_class,
            seed=config.seed,
            progress=lambda *_: bar.update(),
        )


def _simulate(config: DemoConfig, workers: int | None) -> None:
    from spikedata import (
        SensorConfig,
        SimulationRecipe,
        SpikeDataError,
        available_cores,
        find_corpus,
        simulate_corpus,
    )

    corpus = find_corpus("shapes")
    with progress_bar(len(corpus.clips), "clip", "simulate") as bar:
        report = simulate_corpus(
            corpus,
            "spikes.zarr",
            SimulationRecipe(sensor=SensorConfig(seed=config.seed)),
            workers=workers or available_cores(),
            progress=lambda _: bar.update(),
        )
    if report.failures:
        first = report.failures[0]
        raise SpikeDataError(f"{len(report.failures)} clips failed; {first.path}: {first.error}")


def _pack(workers: int | None) -> None:
    from spikedata import available_cores, pack_clips

    if Path("packed.zarr").exists() and Path(".spikedata.json").exists():
        return
    with progress_bar(None, "clip", "pack") as bar:
        pack_clips(
            overwrite=True,  # one that was not noted was cut off
            workers=workers or available_cores(),
            progress=lambda _: bar.update(),
        )


def _train(config: DemoConfig) -> None:
    from spklip import read_recipe, run_recipe

    seeds = [f"{section}.seed={config.seed}" for section in ("data", "train", "eval")]
    recipe = read_recipe(recipe_path(), [*seeds, *config.overrides])
    run_recipe(recipe, RUN, resume=(RUN / "recipe.yaml").exists())


def recipe_path() -> Path:
    """The packaged recipe of the demo."""
    return Path(str(files("spikedata_recipes"))) / RECIPE
