"""The commands `spklip-train` and `spklip-eval`: recipe in, trained and judged model out."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .common import (
    STATUS_ERROR,
    STATUS_USAGE,
    as_table,
    errors_in_one_line,
    fail,
    new_app,
    run,
    say,
)

if TYPE_CHECKING:
    from spklip import PlannedRun
from .counting import check_counting, count_to_table
from .explaining import check_explaining, explain_to_page
from .exporting import check_exporting, export_to_onnx
from .searching import check_options, use_store

PACKAGED = "spikedata_recipes"
"""The installed package that holds the recipes this project comes with."""
SWEEPS = "sweeps"
"""Its folder of sweeps."""

_OVERRIDE = re.compile(r"\w+(\.\w+)*=")

app = new_app("Train and judge SPKLIP as a recipe says.")
eval_app = new_app("Judge a trained SPKLIP model.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Change the recipe: train.max_steps=10."),
]


Recipe = Annotated[str | None, typer.Argument(help="Recipe file (.yaml), yours or a packaged one.")]
SweepFile = Annotated[
    str | None,
    typer.Option(
        "--sweep",
        metavar="FILE",
        help="Instead of RECIPE: several runs of one recipe, as this YAML file says, in folders "
        "of their own in --out, and one table of all. Done ones are skipped.",
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="Folder to make.  [default: runs/NAME of the recipe or sweep]")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done: recipe, size, clips.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run that is in the folder.")
]


@app.command()
def train(
    recipe: Recipe = None,
    overrides: Overrides = None,
    sweep: SweepFile = None,
    out: Out = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train as RECIPE says, judge the model, and write a report."""
    words = list(overrides or [])
    if sweep is not None:
        words = ([recipe] if recipe else []) + words
        _train_sweep(sweep, words, out, dry_run=dry_run, overwrite=overwrite, as_json=as_json)
        return
    if recipe is None:
        fail("give a RECIPE, or --sweep FILE for several runs of one", STATUS_USAGE)
    with errors_in_one_line():
        from spklip import read_recipe

        path = find_recipe(recipe)
        settings = read_recipe(path, words)
        from spklip import plan_run, run_recipe

        if dry_run:
            _print_plan(plan_run(settings), as_json)
            return
        folder = out or Path("runs") / path.stem
        metrics = run_recipe(settings, folder, resume=resume, overwrite=overwrite)
    if metrics is not None:
        _print_metrics(metrics, folder, as_json)


def _train_sweep(
    name: str, words: list[str], out: Path | None, *, dry_run: bool, overwrite: bool, as_json: bool
) -> None:
    """Do the runs of a sweep; status 1 if one failed."""
    if words and not _OVERRIDE.match(words[0]):
        fail(f"{words[0]}: --sweep takes no RECIPE, its file names one", STATUS_USAGE)
    with errors_in_one_line():
        from spklip import plan_sweep, read_sweep, run_sweep

        path = find_recipe(name, SWEEPS)
        sweep = read_sweep(path)
        beside = path.parent / sweep.recipe
        recipe = beside if beside.exists() else find_recipe(sweep.recipe)
        folder = out or Path("runs") / path.stem
        if dry_run:
            _print_sweep_plan(
                plan_sweep(sweep, recipe, folder, words, overwrite=overwrite), as_json
            )
            return
        table = run_sweep(sweep, recipe, folder, words, overwrite=overwrite, tell=_tell)
    if table is not None:
        _print_sweep(table, folder, as_json)


def _tell(line: str) -> None:
    from spikedata import one_line

    say(one_line(line), err=True)


def _print_sweep(table: Mapping[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        say(json.dumps(table))
    else:
        from spklip import sweep_table

        say(sweep_table(table))
        say(f"table: {out / 'sweep.csv'}, page: {out / 'sweep.html'}")
    if any(run["state"] == "failed" for run in table["runs"]):
        raise typer.Exit(STATUS_ERROR)


def _print_sweep_plan(runs: "Sequence[PlannedRun]", as_json: bool) -> None:
    plan = [
        {"name": one.name, "overrides": list(one.overrides), "state": one.state} for one in runs
    ]
    if as_json:
        say(json.dumps(plan))
        return
    say(as_table({one.name: [one.state, *one.overrides] for one in runs}))


Checkpoint = Annotated[
    str, typer.Argument(help="Run folder, saved model, or Hub model (user/name).")
]
Data = Annotated[str | None, typer.Option(help="Store or Hub data set.  [default: the run's own]")]
Split = Annotated[
    str | None,
    typer.Option(
        help="Split to judge on, or to search or embed; there also `all`.  [default: the run's "
        "test split; with --search or --embed all]"
    ),
]
EvaluationFolder = Annotated[
    Path | None,
    typer.Option(
        help="Folder to make; with --search, --explain or --energy the page.  [default: "
        "evaluation; search.html; explain.html; with --energy none]"
    ),
]
OverwriteEvaluation = Annotated[
    bool, typer.Option("--overwrite", help="Replace the evaluation or the files that are there.")
]
Search = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SENTENCE",
        help="Instead of judging, rank the clips by this sentence; may be given again.",
    ),
]
Embed = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.parquet", help="Instead of judging, write the embedding of every clip."
    ),
]
Top = Annotated[
    int | None, typer.Option(min=1, help="Clips shown of each sentence.  [default: 24]")
]
Explain = Annotated[
    bool,
    typer.Option("--explain", help="Instead of judging, show on a page what the model looked at."),
]
ClipIds = Annotated[
    list[str] | None,
    typer.Option(
        "--clip",
        metavar="ID",
        help="Test clip to explain; may be given again.  [default: 8, classes taking turns]",
    ),
]
Text = Annotated[
    str | None,
    typer.Option(
        metavar="SENTENCE",
        help="Explain the score of this sentence.  [default: the class that the model answers, "
        "and the true one]",
    ),
]
Energy = Annotated[
    bool,
    typer.Option(
        "--energy",
        help="Instead of judging, count what the video tower computes for a clip: MACs, "
        "accumulates, firing rates, energy.",
    ),
]
Costs = Annotated[
    Literal["fp32", "fp16", "int8"] | None,
    typer.Option(help="Arithmetic whose energy --energy shows.  [default: fp32]"),
]

ExportOnnx = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.onnx",
        help="Instead of judging, write the video half as ONNX: packed bits in, unit vectors out.",
    ),
]


@eval_app.command()
def evaluate(
    checkpoint: Checkpoint,
    overrides: Overrides = None,
    data: Data = None,
    split: Split = None,
    search: Search = None,
    top: Top = None,
    embed: Embed = None,
    explain: Explain = False,
    clip: ClipIds = None,
    text: Text = None,
    export_onnx: ExportOnnx = None,
    energy: Energy = False,
    costs: Costs = None,
    out: EvaluationFolder = None,
    overwrite: OverwriteEvaluation = False,
    as_json: AsJson = False,
) -> None:
    """Judge CHECKPOINT on a data set's test split, beside simple baselines and chance.

    With --search it finds clips by sentences, with --embed it writes their embeddings as Parquet,
    with both it does both; with --explain it shows what the model looked at, with --energy what its
    video tower computes, with --export-onnx it writes the model for other programs. Then nothing is
    judged.
    """
    others = [search, top, embed, explain]
    check_exporting(export_onnx, [*others, energy, clip, text, out, split, data])
    check_counting(energy, costs, others)
    check_explaining(explain, clip or [], text, [search, top, embed])
    check_options(search or [], embed, top, out)
    words = [f"data.path={json.dumps(data)}"] if data else []
    asked: Any = {"out": out, "overwrite": overwrite, "as_json": as_json}
    with errors_in_one_line():
        if export_onnx:
            settings = _settings(checkpoint, overrides or [])
            export_to_onnx(checkpoint, settings, export_onnx, overwrite=overwrite, as_json=as_json)
            return
        if search or embed:
            # The classes a run was trained on are no reason to leave other clips out.
            words = ["data.classes=[]", *(overrides or []), *words]
            settings, place = _settings(checkpoint, words), None if split == "all" else split
            use_store(
                checkpoint, settings, search or [], embed=embed, split=place, top=top, **asked
            )
            return
        words = [*(overrides or []), *words]
        words += [f"data.test_split={json.dumps(split)}"] if split else []
        settings = _settings(checkpoint, words)
        if explain:
            explain_to_page(checkpoint, settings, clips=clip or [], text=text, **asked)
        elif energy:
            count_to_table(checkpoint, settings, costs=costs, **asked)
        else:
            asked["out"] = out or Path("evaluation")
            _judge(checkpoint, settings, **asked)


def _judge(checkpoint: str, settings: Any, *, out: Path, overwrite: bool, as_json: bool) -> None:
    from spklip import evaluate_run

    metrics = evaluate_run(checkpoint, settings, out, overwrite=overwrite)
    _print_metrics(metrics, out, as_json)


def _settings(checkpoint: str, words: Sequence[str]) -> Any:
    """The recipe to feed a model by; it is told where there is none."""
    from spklip import recipe_of, recipe_of_run

    settings = recipe_of_run(checkpoint, words)
    if recipe_of(checkpoint) is None:
        say(f"{checkpoint}: has no recipe.yaml of a run; using the defaults", err=True)
    return settings


def find_recipe(name: str, folder: str = "") -> Path:
    """The file ``name``, or the packaged one of that name, in ``folder``, where there is none."""
    path = Path(name)
    if path.exists():
        return path
    from importlib.resources import files

    packaged = Path(str(files(PACKAGED))) / folder
    what = "sweep" if folder else "recipe"
    if path.suffix != ".yaml" or not (packaged / path.name).is_file():
        known = ", ".join(sorted(file.name for file in packaged.glob("*.yaml")))
        fail(f"{name}: no such {what} here, and none packaged. Packaged {what}s: {known}")
    say(f"{name}: not here; using the packaged {what} {path.name}", err=True)
    return packaged / path.name


def _print_plan(plan: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        say(json.dumps(plan))
        return
    import yaml

    say(yaml.safe_dump(plan["recipe"], sort_keys=False))
    say(as_table({key: value for key, value in plan.items() if key != "recipe"}))


def _print_metrics(metrics: Mapping[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        say(json.dumps(metrics))
        return
    from spklip import summary_table

    say(summary_table(metrics))
    say(f"report: {out / 'report.html'}")


def main() -> None:
    """Run `spklip-train`."""
    run(app)


def eval_main() -> None:
    """Run `spklip-eval`."""
    run(eval_app)
