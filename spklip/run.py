"""A whole run: open the data, train, judge, and leave a folder that tells everything.

The folder, ``runs/<recipe name>`` unless told otherwise:

- ``recipe.yaml``: the resolved recipe, all defaults written out;
- ``checkpoints/``: what ``resume`` goes on from;
- ``model/``: the trained model and its tokenizer (``SpklipModel.from_pretrained`` reads it);
- ``report.html``: the numbers to look at;
- ``metrics.json``: the numbers to compute with. It is written last: a folder that has it is
  finished.
"""

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from spikedata import RecipeError, SpikeDataError, to_dict, write_whole
from spklip.batches import Augmented, TextCollator
from spklip.budget import count_parameters, estimate_memory
from spklip.building import build_model, load_model_parts
from spklip.check import check_clips, check_training
from spklip.judge import describe_splits, judge
from spklip.recipe import ModelConfig, Recipe, read_recipe
from spklip.report import render_report
from spklip.run_folder import is_run, prepare_folder, recipe_of, resolved_recipe
from spklip.splits import Splits, captioned_ids, open_splits
from spklip.train import fit, pick_precision, processes_of

METRICS_VERSION = 1
"""Version of the layout of ``metrics.json``."""
ONLY_IN_TRAINING = ("model", "train", "data.sampling", "data.mirror")
"""Keys of a recipe that judging does not read, but for ``train.precision``."""


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any] | None:
    """Train as ``recipe`` says, judge the model, write it all to ``out``.

    Under torchrun every process calls this; the first one judges and writes.

    Args:
        recipe: what to do.
        out: folder to make.
        resume: go on with an unfinished run of the same recipe.
        overwrite: delete what an earlier run wrote first, and nothing else.
        progress: show bars on standard error.

    Returns:
        What ``metrics.json`` holds; None in the other processes of a distributed run.

    Raises:
        SpikeDataError: no data, no checkpoint, parts that do not fit each other, a run that
            diverged, or ``out`` holds something already.
    """
    processes = processes_of(recipe.train)
    splits = open_splits(recipe)
    recipe = replace(recipe, data=replace(recipe.data, path=splits.path, size=splits.size))
    config, tokenizer = load_model_parts(recipe.model)
    check_training(recipe, config, splits, processes=processes.num_processes)
    with processes.main_process_first():
        if processes.is_main_process:
            prepare_folder(recipe, out, resume=resume, overwrite=overwrite)
    captions_count = recipe.text.captions == "store" or not splits.class_names
    captioned = captioned_ids(splits.fit) if captions_count else frozenset()
    started = time.perf_counter()
    model, curve = fit(
        lambda: build_model(recipe.model, config),
        Augmented(splits.fit, recipe.data),
        TextCollator(tokenizer, splits.prompts, captioned),
        recipe.train,
        out / "checkpoints",
        workers=recipe.data.workers,
        resume=resume,
        progress=progress and processes.is_main_process,
    )
    seconds = time.perf_counter() - started
    if not processes.is_main_process:
        return None
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    write_whole(out / "model" / "recipe.yaml", resolved_recipe(recipe))
    train = _describe_training(recipe, model, curve, seconds)
    return _judge_and_write(model, tokenizer, splits, recipe, out, train, progress)


def evaluate_run(
    checkpoint: Path | str,
    recipe: Recipe,
    out: Path,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Judge a trained model on the data of ``recipe``; write metrics.json and report.html.

    Args:
        checkpoint: a run's folder, a folder of ``save_pretrained``, or a Hub model.
        recipe: data and evaluation settings; see :func:`recipe_of_run`.
        out: folder to make.
        overwrite: replace an earlier evaluation.
        progress: show bars on standard error.

    Raises:
        SpikeDataError: no such checkpoint, no data, or ``out`` holds an evaluation already.
    """
    if is_run(out):
        raise SpikeDataError(f"{out}: is a run, which has its own numbers; name another with --out")
    if (out / "metrics.json").exists() and not overwrite:
        raise SpikeDataError(f"{out}: holds an evaluation already; --overwrite replaces it")
    recipe = replace(recipe, model=ModelConfig(checkpoint=str(checkpoint)))
    config, tokenizer = load_model_parts(recipe.model)
    splits = open_splits(recipe)
    recipe = replace(recipe, data=replace(recipe.data, path=splits.path, size=splits.size))
    check_clips(recipe.data, config, splits)
    model = build_model(recipe.model, config)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    out.mkdir(parents=True, exist_ok=True)
    train = _describe_training(recipe, model, [], 0.0) | {"steps": 0}
    return _judge_and_write(model, tokenizer, splits, recipe, out, train, progress)


def recipe_of_run(checkpoint: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe to judge a model by: its run's, with overrides; defaults where there is none.

    Args:
        checkpoint: a run's folder, its ``model`` folder, one of its checkpoints, or anything else.
        overrides: ``section.key=value`` words.

    Raises:
        RecipeError: an unknown key, a value that does not fit, or a key that changes training
            alone.
    """
    for word in overrides:
        if word.startswith(ONLY_IN_TRAINING) and not word.startswith("train.precision="):
            raise RecipeError(f"override {word!r}: changes nothing in a model that is trained")
    return read_recipe(recipe_of(checkpoint) or os.devnull, overrides)


def plan_run(recipe: Recipe) -> dict[str, Any]:
    """What a run would do, without doing it: resolved recipe, parameters, memory, clips.

    Raises:
        SpikeDataError: no data, no checkpoint, or parts that do not fit each other.
    """
    splits = open_splits(recipe)
    recipe = replace(recipe, data=replace(recipe.data, path=splits.path, size=splits.size))
    config, _ = load_model_parts(recipe.model)
    check_training(recipe, config, splits)
    height_px, width_px = splits.fit[0]["packed_sghw"].shape[-2:]
    return {
        "recipe": to_dict(recipe),
        "parameters": count_parameters(config),
        "memory_gb": estimate_memory(recipe, config, int(height_px), int(width_px)),
        "clips": describe_splits(splits),
    }


def _describe_training(
    recipe: Recipe, model: Any, curve: list[dict[str, float]], seconds: float
) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "steps": recipe.train.max_steps,
        "batch_size": recipe.train.batch_size * PartialState().num_processes,
        "seconds": round(seconds, 2),
        "precision": pick_precision(recipe.train),
        "device": torch.cuda.get_device_name()
        if cuda
        else f"CPU, {torch.get_num_threads()} threads",
        "parameters": sum(p.numel() for p in model.parameters()),
        "curve": curve,
    }


def _judge_and_write(
    model: Any,
    tokenizer: Any,
    splits: Splits,
    recipe: Recipe,
    out: Path,
    train: dict[str, Any],
    progress: bool,
) -> dict[str, Any]:
    started = time.perf_counter()
    judged = judge(model, tokenizer, splits, recipe, progress=progress)
    metrics = {
        "metrics_version": METRICS_VERSION,
        "name": out.resolve().name,
        **judged,
        "train": train,
        "evaluation_seconds": round(time.perf_counter() - started, 2),
        "recipe": to_dict(recipe),
        "versions": package_versions(),
    }
    write_whole(out / "report.html", render_report(metrics))
    write_whole(out / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    return metrics


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    packages = {"spikedata": "spklip", "torch": "torch", "transformers": "transformers"}
    return {"python": platform.python_version()} | {
        name: version(distribution) for name, distribution in packages.items()
    }
