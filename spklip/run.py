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
import time
from collections.abc import Mapping, Sequence
from dataclasses import make_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from spikedata import RecipeError, SpikeDataError, from_dict, to_dict
from spklip.check import check_clips, check_training
from spklip.judge import describe_splits, judge
from spklip.model import SpklipConfig, SpklipModel, build_tokenizer
from spklip.model.text_tower import text_encoder_config
from spklip.recipe import ModelConfig, Recipe, read_recipe
from spklip.report import render_report
from spklip.run_folder import is_run, prepare_folder, recipe_of, resolved_recipe, write_whole
from spklip.splits import Augmented, Splits, TextCollator, captioned_ids, open_splits
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
    recipe = replace(recipe, data=replace(recipe.data, path=splits.path))
    config, tokenizer = load_model_parts(recipe.model)
    check_training(recipe, config, splits, processes=processes.num_processes)
    with processes.main_process_first():
        if processes.is_main_process:
            prepare_folder(recipe, out, resume=resume, overwrite=overwrite)
    captioned = captioned_ids(splits.fit) if recipe.text.captions == "store" else frozenset()
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
    recipe = replace(recipe, data=replace(recipe.data, path=splits.path))
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
    recipe = replace(recipe, data=replace(recipe.data, path=splits.path))
    config, _ = load_model_parts(recipe.model)
    check_training(recipe, config, splits)
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
        SpikeDataError: the checkpoint or the named text encoder is missing, or ``changes`` do not
            make a config.
    """
    if model.checkpoint is None:
        try:
            config = SpklipConfig.preset(model.preset, **_typed(model.changes))
        except ValueError as error:
            raise SpikeDataError(f"recipe: model.changes: {error}") from error
        return config, _tokenizer(config)
    place = find_checkpoint(model.checkpoint)
    try:
        config = SpklipConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise SpikeDataError(f"{model.checkpoint}: no SPKLIP model there: {first}") from error
    if not config.text_encoder or _lacks_tokenizer(place):
        return config, _tokenizer(config)
    from transformers import AutoTokenizer  # noqa: PLC0415  # a second, for named encoders alone

    return config, AutoTokenizer.from_pretrained(place)


def _typed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` as the types of SpklipConfig's fields, by the rules of every recipe."""
    hints = SpklipConfig.__annotations__.items()
    fields = [(name, hint, None) for name, hint in hints if name != "text_config"]  # found, not set
    kind: type[Any] = make_dataclass("Changes", fields)
    typed = from_dict(kind, changes, where="recipe: model.changes")
    return {name: getattr(typed, name) for name in changes}


def _tokenizer(config: SpklipConfig) -> Any:
    try:
        text_encoder_config(config)
        return build_tokenizer(config)
    except (OSError, ValueError) as error:
        raise SpikeDataError(_no_text_encoder(config, error)) from error


def _no_text_encoder(config: SpklipConfig, error: Exception) -> str:
    first = str(error).strip().splitlines()[0]
    return f"model.changes.text_encoder {config.text_encoder!r}: cannot be loaded: {first}"


def _lacks_tokenizer(place: str) -> bool:
    """Whether ``place`` is a checkpoint written while training, which has weights alone."""
    return Path(place).is_dir() and not (Path(place) / "tokenizer_config.json").is_file()


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
        SpikeDataError: the weights of the checkpoint or of the named text encoder are missing or
            do not fit.
    """
    if model.checkpoint is None:
        try:
            return SpklipModel(config)
        except OSError as error:
            raise SpikeDataError(_no_text_encoder(config, error)) from error
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
    """The architecture with weights of no account; those of a text encoder are not fetched."""
    with torch.device(device):
        return SpklipModel(config, pretrained_text=False)


def estimate_memory(
    recipe: Recipe, config: SpklipConfig, height_px: int, width_px: int
) -> dict[str, float]:
    """Gigabytes a training step needs: weights with AdamW's state, and what backward keeps.

    The second is counted, not guessed: a quarter-size window goes through the model, and every
    tensor that autograd saves is added up and scaled to the clip's area and the batch. Work
    space of the kernels and activations of the text tower are not in it. Half precision is counted
    as float32: on a GPU, autocast runs the normalisations in float32 and they keep what
    convolutions in half precision save.
    """
    shrink = 4 if min(height_px, width_px) // config.pool_px >= 96 else 1
    small = (height_px // shrink, width_px // shrink)
    ticks = recipe.data.window_ticks // recipe.data.segments
    shape = (1, recipe.data.segments, ticks, *small)
    model = _without_weights(config, "cpu")
    weights = sum(p.numel() * (16 if p.requires_grad else 4) for p in model.parameters())
    planes = 5 * math.prod(shape)  # uint8, and float32 to pool it
    clip = (planes + _saved_bytes(model, shape)) * shrink**2
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
    write_whole(out / "report.html", render_report(metrics))
    write_whole(out / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    return metrics


def _versions() -> dict[str, str]:
    packages = {"spikedata": "spklip", "torch": "torch", "transformers": "transformers"}
    return {"python": platform.python_version()} | {
        name: version(distribution) for name, distribution in packages.items()
    }
