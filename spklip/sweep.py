"""Several runs of one recipe: which they are, what is done of them, and doing the rest.

Each run has a folder of its own, named as the run, which is what ``spklip-train`` would have made
of the same recipe. Beside these folders lie ``sweep.json``, ``sweep.csv`` and ``sweep.html``.
"""

import gc
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from spikedata import RecipeError, SpikeDataError, load_recipe, shown
from spklip.building import new_config
from spklip.recipe import Recipe, read_recipe
from spklip.run_folder import (
    check_folder,
    check_same,
    has_checkpoints,
    is_finished,
    is_run,
)
from spklip.splits import find_data, open_splits
from spklip.sweep_report import headline_numbers, write_tables

SWEEP_VERSION = 1
"""Version of the layout of ``sweep.json``."""

State = Literal["done", "unfinished", "waiting", "failed"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,98}[A-Za-z0-9_+-]|[A-Za-z0-9]")
MOST_RUNS = 1_000
"""Of a sweep."""
_TAKEN = ("sweep.json", "sweep.csv", "sweep.html")
_KEY = re.compile(r"\w+(\.\w+)+")
_MOST_LETTERS = 24
"""Longest value that stands in the name of a run of a grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Several runs of one recipe, as a sweep file tells them."""

    recipe: str
    """Recipe file: beside the sweep file, a path, or the name of a packaged one."""
    set: tuple[str, ...] = ()
    """``section.key=value`` words for all runs; the words of a run win."""
    runs: dict[str, Any] = field(default_factory=dict)
    """Name of each run, and the list of its words."""
    vary: dict[str, Any] = field(default_factory=dict)
    """Keys, and the list of values of each: a run for every combination, named by its values."""

    def __post_init__(self) -> None:
        for name, words in self.runs.items():
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                said = f"expected a list of KEY=VALUE words, got {shown(words)}"
                raise ValueError(f"runs: {name}: {said}")
        for key, values in self.vary.items():
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                raise ValueError(f"vary: expected a key such as train.seed, got {shown(key)}")
            if not isinstance(values, list) or not values:
                raise ValueError(f"vary: {key}: expected a list of values, got {shown(values)}")
        runs = len(self.runs) + math.prod(map(len, self.vary.values())) * bool(self.vary)
        if runs > MOST_RUNS:
            raise ValueError(f"makes {runs:,} runs; at most {MOST_RUNS:,} are done")
        _check_names([name for name, _ in self.each()])

    def each(self) -> list[tuple[str, tuple[str, ...]]]:
        """Name and words of each run: the named ones, then the grid, its last key fastest."""
        return [(name, tuple(words)) for name, words in self.runs.items()] + _grid(self.vary)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """One run of a sweep."""

    name: str
    """Its name, and that of its folder."""
    overrides: tuple[str, ...]
    """Its own ``section.key=value`` words."""
    recipe: Recipe
    """What it does."""
    folder: Path
    """Where it is written."""
    state: State
    """``done``, ``unfinished`` (goes on from a checkpoint) or ``waiting``."""


def read_sweep(path: Path | str) -> Sweep:
    """Read a sweep file.

    Raises:
        RecipeError: unreadable, an unknown key, no runs, or names that cannot be folders.
    """
    return load_recipe(path, Sweep)


def plan_sweep(
    sweep: Sweep, recipe: Path, out: Path, words: Sequence[str] = (), *, overwrite: bool = False
) -> list[PlannedRun]:
    """Read the recipe of every run, and see what is done; changes nothing.

    Args:
        sweep: which runs.
        recipe: the recipe file.
        out: folder of all runs.
        words: ``section.key=value`` words for all runs, over those of the sweep's ``set``.
        overwrite: take what was done before as not done.

    Raises:
        RecipeError: a recipe that does not fit, or a word whose key the runs set themselves.
        SpikeDataError: a folder that is no run's, or a run of another recipe.
    """
    if is_run(out):
        raise SpikeDataError(f"{out}: is a run; name another folder with --out")
    runs = sweep.each()
    for word in words:
        key = word.partition("=")[0]
        for name, own in runs:
            if key in [other.partition("=")[0] for other in own]:
                raise RecipeError(f"override {shown(word)}: run {name} sets {key} itself")
    common = [*sweep.set, *words]
    return [_plan(name, own, recipe, out / name, common, overwrite) for name, own in runs]


def run_sweep(
    sweep: Sweep,
    recipe: Path,
    out: Path,
    words: Sequence[str] = (),
    *,
    overwrite: bool = False,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any] | None:
    """Do all runs that are not done, one after the other, and make one table of all.

    A run that fails is told and the rest goes on; it is tried again by the next call. The table is
    written after each run. Under torchrun every process calls this; the first one tells and writes.

    Args:
        sweep: which runs.
        recipe: the recipe file.
        out: folder to make.
        words: ``section.key=value`` words for all runs.
        overwrite: do all runs again.
        progress: show bars on standard error.
        tell: is given a line when a run begins or fails.

    Returns:
        What ``sweep.json`` holds; None in the other processes of a distributed run.

    Raises:
        SpikeDataError: what :func:`plan_sweep` refuses, before anything is run.
    """
    from spklip.train import processes_of  # noqa: PLC0415  # transformers.Trainer: two seconds

    runs = plan_sweep(sweep, recipe, out, words, overwrite=overwrite)
    first = processes_of(runs[0].recipe.train).is_main_process
    rows = [_row(run) for run in runs]
    told = {"sweep_version": SWEEP_VERSION, "name": out.resolve().name, "recipe": sweep.recipe}
    table = told | {"set": [*sweep.set, *words], "runs": rows}
    if first:
        out.mkdir(parents=True, exist_ok=True)
        write_tables(table, out)
    for number, run in enumerate(runs):
        if run.state != "done":
            if first:
                tell(f"run {number + 1} of {len(runs)}: {run.name}")
            rows[number] = _run_one(run, overwrite, progress, tell if first else lambda line: None)
            if first:
                write_tables(table, out)
    return table if first else None


def _run_one(
    run: PlannedRun, overwrite: bool, progress: bool, tell: Callable[[str], None]
) -> dict[str, Any]:
    from spklip.run import run_recipe  # noqa: PLC0415  # transformers.Trainer: two seconds

    try:
        metrics = run_recipe(
            run.recipe, run.folder, resume=not overwrite, overwrite=overwrite, progress=progress
        )
    except SpikeDataError as error:
        tell(f"failed: {run.name}: {error}")
        return _described(run, "failed") | {"error": str(error)}
    finally:
        gc.collect()  # trainer and model know each other; the next run needs their memory
    return _described(run, "done") | (headline_numbers(metrics) if metrics else {})


def _row(run: PlannedRun) -> dict[str, Any]:
    """What is known of a run before it is done; of a finished one all."""
    described = _described(run, run.state)
    if run.state != "done":
        return described
    path = run.folder / "metrics.json"
    try:
        return described | headline_numbers(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SpikeDataError(
            f"{path}: cannot be read ({error}). Delete it, and the run is judged again"
        ) from error


def _described(run: PlannedRun, state: State) -> dict[str, Any]:
    return {"name": run.name, "overrides": list(run.overrides), "state": state}


def _plan(
    name: str,
    own: tuple[str, ...],
    path: Path,
    folder: Path,
    common: Sequence[str],
    overwrite: bool,
) -> PlannedRun:
    try:
        recipe = read_recipe(path, [*common, *own])
        if recipe.model.checkpoint is None:
            new_config(recipe.model)
    except SpikeDataError as error:
        raise RecipeError(f"run {name}: {error}") from error
    state: State = "waiting"
    if overwrite or not has_checkpoints(folder) and not is_finished(folder):
        check_folder(recipe, folder, resume=True, overwrite=overwrite)
    else:
        state = "done" if is_finished(folder) else "unfinished"
        before = read_recipe(folder / "recipe.yaml")
        check_same(before, _resolved(recipe, before), folder)
    return PlannedRun(name=name, overrides=own, recipe=recipe, folder=folder, state=state)


def _resolved(recipe: Recipe, before: Recipe) -> Recipe:
    """The recipe as a run writes it down, to be compared with what one wrote before."""
    data = recipe.data
    path = find_data(None, Path.cwd()) if data.path is None else data.path
    size = data.size
    if size is None and before.data.size is not None:
        size = open_splits(recipe).size
    return replace(recipe, data=replace(data, path=path, size=size))


def _check_names(names: Sequence[Any]) -> None:
    if not names:
        raise ValueError("names no run: give some under runs or vary")
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.lower() in _TAKEN:
            raise ValueError(
                f"run {shown(name)}: its name becomes that of a folder; expected up to 100 "
                "letters, digits, '.', '_', '+' or '-', the first a letter or digit, "
                "the last no '.'"
            )
        if name.lower() in seen:
            raise ValueError(f"runs {seen[name.lower()]!r} and {name!r} would be one folder")
        seen[name.lower()] = name


def _grid(vary: Mapping[str, Sequence[Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """Name and words of every combination."""
    if not vary:
        return []
    short = _short_keys(list(vary))
    found = []
    for values in itertools.product(*vary.values()):
        pairs = list(zip(vary, values, strict=True))
        name = "-".join(f"{short[key]}-{_short_value(value)}" for key, value in pairs)
        found.append((name, tuple(f"{key}={_as_yaml(key, value)}" for key, value in pairs)))
    return found


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last word of each key where that tells them apart, else the whole key."""
    last = [key.rpartition(".")[2] for key in keys]
    return {k: word if last.count(word) == 1 else k for k, word in zip(keys, last, strict=True)}


def _short_value(value: Any) -> str:
    """A value as part of a folder's name; a digest where it would not be the value itself."""
    text = "_".join(map(_plain_text, value if isinstance(value, list) else [value]))
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip(".-")
    number = isinstance(value, int | float)
    if (safe == text or number) and len(text) <= _MOST_LETTERS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"{safe[:_MOST_LETTERS]}-{digest}" if safe else digest


def _plain_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _as_yaml(key: str, value: Any) -> str:
    """A value as YAML on one line, which JSON is."""
    try:
        return value if _reads_as_itself(value) else json.dumps(value)
    except TypeError as error:
        raise ValueError(
            f"vary: {key}: {shown(value)} is no plain value; write it in quotes"
        ) from error


def _reads_as_itself(value: Any) -> bool:
    """Whether a text needs no quotes to be read as that text, as most names do not."""
    return (
        isinstance(value, str)
        and bool(re.fullmatch(r"[A-Za-z][\w./-]*", value))
        and (yaml.safe_load(value) == value)
    )
