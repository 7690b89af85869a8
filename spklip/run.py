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
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState

from spikedata import SpikeDataError, to_dict
from spklip.judge import describe_splits, judge
from spklip.model import SpklipConfig, SpklipModel, build_tokenizer
from spklip.model.text_tower import text_encoder_config
from spklip.recipe import ModelConfig, Recipe, read_recipe
from spklip.report import render_report
from spklip.splits import Augmented, Splits, TextCollator, open_splits
from spklip.train import fit, pick_precision

METRICS_VERSION = 1
"""Version of the layout of ``metrics.json``."""


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
        overwrite: delete an earlier run first.
        progress: show bars on standard error.

    Returns:
        What ``metrics.json`` holds; None in the other processes of a distributed run.

    Raises:
        SpikeDataError: no data, no checkpoint, or ``out`` holds something already.
    """
    processes = PartialState()
    splits = open_splits(recipe)
    recipe = replace(recipe, data=replace(recipe.data, path=splits.path))
    config, tokenizer = load_model_parts(recipe.model)
    with processes.main_process_first():
        if processes.is_main_process:
            _prepare_folder(recipe, out, resume=resume, overwrite=overwrite)
    prompts = splits.prompts if recipe.text.captions == "templates" else None
    started = time.perf_counter()
    model, curve = fit(
        lambda: build_model(recipe.model, config),
        Augmented(splits.fit, recipe.data),
        TextCollator(tokenizer, prompts),
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
    if (out / "metrics.json").exists() and not overwrite:
        raise SpikeDataError(f"{out}: holds an evaluation already; --overwrite replaces it")
    recipe = replace(recipe, model=ModelConfig(checkpoint=str(checkpoint)))
    config, tokenizer = load_model_parts(recipe.model)
    splits = open_splits(recipe)
    recipe = replace(recipe, data=replace(recipe.data, path=splits.path))
    model = build_model(recipe.model, config)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    out.mkdir(parents=True, exist_ok=True)
    train = _describe_training(recipe, model, [], 0.0) | {"steps": 0}
    return _judge_and_write(model, tokenizer, splits, recipe, out, train, progress)


def recipe_of_run(checkpoint: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe a run was made from, with overrides; all defaults where there is none.

    Args:
        checkpoint: a run's folder, its ``model`` folder, one of its checkpoints, or anything else.
        overrides: ``section.key=value`` words.

    Raises:
        RecipeError: an unknown key, or a value that does not fit.
    """
    path = Path(checkpoint)
    found = [folder / "recipe.yaml" for folder in [path, *path.parents][:3]]
    found = [file for file in found if file.is_file()]
    return read_recipe(found[0] if found else os.devnull, overrides)


def plan_run(recipe: Recipe) -> dict[str, Any]:
    """What a run would do, without doing it: resolved recipe, parameters, memory, clips.

    Raises:
        SpikeDataError: no data, no checkpoint.
    """
    splits = open_splits(recipe)
    recipe = replace(recipe, data=replace(recipe.data, path=splits.path))
    config, _ = load_model_parts(recipe.model)
    height_px, width_px = splits.fit[0]["packed_sghw"].shape[-2:]
    return {
        "recipe": to_dict(recipe),
        "parameters": count_parameters(config),
        "memory_gb": estimate_memory(recipe, config, int(height_px), int(width_px)),
        "clips": describe_splits(splits),
    }


def load_model_parts(model: ModelConfig) -> tuple[SpklipConfig, Any]:
    """Config and tokenizer of the recipe's ``model`` section; no weights yet.

    Raises:
        SpikeDataError: the checkpoint is missing, or ``changes`` names no field of the config.
    """
    if model.checkpoint is None:
        try:
            config = SpklipConfig.preset(model.preset, **model.changes)
        except (ValueError, TypeError) as error:
            raise SpikeDataError(f"recipe: model.changes: {error}") from error
        return config, build_tokenizer(config)
    place = find_checkpoint(model.checkpoint)
    try:
        config = SpklipConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise SpikeDataError(f"{model.checkpoint}: no SPKLIP model there: {first}") from error
    if not config.text_encoder:
        return config, build_tokenizer(config)
    from transformers import AutoTokenizer  # noqa: PLC0415  # a second, for named encoders alone

    return config, AutoTokenizer.from_pretrained(place)


def find_checkpoint(name: str) -> str:
    """Folder of a saved model (a run's folder has it in ``model/``), or a Hub name.

    Raises:
        SpikeDataError: a folder that is not there or holds no model. Nothing ever trains from
            scratch because a checkpoint is missing.
    """
    path = Path(name).expanduser()
    for folder in (path / "model", path):
        if (folder / "config.json").is_file():
            return str(folder)
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise SpikeDataError(
            f"{name}: no checkpoint there. Expected a run's folder, a folder with config.json "
            "and model.safetensors, or a Hub model (user/name)"
        )
    return name


def build_model(model: ModelConfig, config: SpklipConfig) -> SpklipModel:
    """The model, new or from its checkpoint.

    Raises:
        SpikeDataError: the checkpoint's weights are missing or do not fit.
    """
    if model.checkpoint is None:
        return SpklipModel(config)
    try:
        loaded: SpklipModel = SpklipModel.from_pretrained(find_checkpoint(model.checkpoint))
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise SpikeDataError(f"{model.checkpoint}: cannot be loaded: {first}") from error
    return loaded


def count_parameters(config: SpklipConfig) -> dict[str, int]:
    """Parameters of each part and in all; nothing is allocated."""
    model = _without_weights(config, "meta")
    parts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {**parts, "all": sum(p.numel() for p in model.parameters()), "trained": trained}


def _without_weights(config: SpklipConfig, device: str) -> SpklipModel:
    """The architecture with weights of no account; a named text encoder is not fetched."""
    known = config.to_dict()
    known["text_config"] = text_encoder_config(config).to_dict()
    with torch.device(device):
        return SpklipModel(SpklipConfig.from_dict(known))


def estimate_memory(
    recipe: Recipe, config: SpklipConfig, height_px: int, width_px: int
) -> dict[str, float]:
    """Gigabytes a training step needs: weights with AdamW's state, and what backward keeps.

    The second is counted, not guessed: a quarter-size window goes through the model, and every
    tensor that autograd saves is added up and scaled to the clip's area and the batch. Work
    space of the kernels and activations of the text tower are not in it.
    """
    shrink = 4 if min(height_px, width_px) // config.pool_px >= 96 else 1
    small = (height_px // shrink, width_px // shrink)
    ticks = recipe.data.window_ticks // recipe.data.segments
    shape = (1, recipe.data.segments, ticks, *small)
    model = _without_weights(config, "cpu")
    weights = sum(p.numel() * (16 if p.requires_grad else 4) for p in model.parameters())
    planes = 5 * math.prod(shape)  # uint8, and float32 to pool it
    half = 0.5 if pick_precision(recipe.train) != "fp32" else 1.0
    clip = (planes + half * _saved_bytes(model, shape)) * shrink**2
    activations = clip * recipe.train.batch_size
    return {
        "weights_and_adamw": round(weights / 1e9, 3),
        "activations": round(activations / 1e9, 3),
        "all": round((weights + activations) / 1e9, 3),
    }


def _saved_bytes(model: SpklipModel, shape: tuple[int, ...]) -> int:
    """Bytes autograd keeps for the backward of one embedding, parameters not counted."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()  # held, so that no address is used twice
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.train().encode_video(torch.zeros(shape, dtype=torch.uint8))
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own)


def _prepare_folder(recipe: Recipe, out: Path, *, resume: bool, overwrite: bool) -> None:
    """Check what ``out`` holds, and write recipe.yaml."""
    ours = (out / "recipe.yaml").is_file()
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise SpikeDataError(f"{out}: exists and is not a run; name another folder with --out")
    if ours and overwrite:
        shutil.rmtree(out)
    elif ours and (out / "metrics.json").exists():
        raise SpikeDataError(f"{out}: a finished run; --overwrite replaces it, --out keeps it")
    elif ours and not resume:
        raise SpikeDataError(
            f"{out}: an unfinished run; --resume goes on with it, --overwrite starts again"
        )
    elif ours:
        _check_same(read_recipe(out / "recipe.yaml"), recipe, out)
    out.mkdir(parents=True, exist_ok=True)
    text = (
        f"# The resolved recipe of this run. Again: spklip-train {out / 'recipe.yaml'} --out DIR\n"
        + yaml.safe_dump(to_dict(recipe), sort_keys=False)
    )
    _write(out / "recipe.yaml", text)


def _check_same(before: Recipe, now: Recipe, out: Path) -> None:
    old, new = _flat(to_dict(before)), _flat(to_dict(now))
    for key in old | new:
        if old.get(key) != new.get(key):
            raise SpikeDataError(
                f"{out}: was begun with {key}={old.get(key)}, the recipe now says "
                f"{new.get(key)}; --overwrite starts again, --out keeps both"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


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
        "versions": _versions(),
    }
    _write(out / "report.html", render_report(metrics))
    _write(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    return metrics


def _versions() -> dict[str, str]:
    packages = ("spikedata", "torch", "transformers")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _write(path: Path, text: str) -> None:
    """Aside, then rename: a file that is there is whole."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
