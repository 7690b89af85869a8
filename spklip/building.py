"""From a recipe's ``model`` section to a model: new, from a preset, or from a checkpoint."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import Any

from spikedata import SpikeDataError, from_dict
from spklip.digests import DIGESTS, damage_of
from spklip.model import (
    SpklipConfig,
    SpklipModel,
    build_tokenizer,
    check_function,
    note_image_encoder,
    note_text_encoder,
    text_place,
)
from spklip.recipe import FROM_SCRATCH, OF_THE_CONFIG, ModelConfig, Recipe


def load_model_parts(model: ModelConfig) -> tuple[SpklipConfig, Any]:
    """Config and tokenizer of the recipe's ``model`` section; no weights yet.

    Raises:
        SpikeDataError: the checkpoint or the named text encoder is missing, a file of the
            checkpoint is not what was written, or ``changes`` do not make a config.
    """
    if model.checkpoint is None:
        config = new_config(model)
        return config, _tokenizer(config)
    place = find_checkpoint(model.checkpoint)
    damage = damage_of(Path(place))  # of a Hub model, which is no folder, the Hub knows digests
    if damage:
        raise SpikeDataError(
            f"{place}: {damage}. Take a copy that is whole or, if it was changed on purpose, "
            f"delete {DIGESTS} there"
        )
    with told_in_one_line(f"{model.checkpoint}: no SPKLIP model there"):
        config = SpklipConfig.from_pretrained(place)
    check_function(config, model.image_encoder)
    if not text_place(config) or _lacks_tokenizer(place):
        return config, _tokenizer(config)
    from transformers import AutoTokenizer  # noqa: PLC0415  # a second, for named encoders alone

    with told_in_one_line(f"{model.checkpoint}: its tokenizer cannot be loaded"):
        return config, AutoTokenizer.from_pretrained(place, trust_remote_code=False)


def of_checkpoint(recipe: Recipe, checkpoint: Path | str) -> Recipe:
    """The recipe for a saved model, and for the function that makes its tower, if one is named."""
    function = recipe.model.image_encoder if recipe.model.names_function else ""
    return replace(recipe, model=ModelConfig(checkpoint=str(checkpoint), image_encoder=function))


@contextlib.contextmanager
def told_in_one_line(what: str) -> Iterator[None]:
    """Tell in one line why a file of a model cannot be read.

    Such a file may come from anywhere, and transformers and safetensors raise what they happen to
    come upon in it.

    Raises:
        SpikeDataError: anything was raised within.
    """
    try:
        yield
    except SpikeDataError:
        raise
    except Exception as error:
        said = str(error).strip().splitlines()
        raise SpikeDataError(f"{what}: {said[0] if said else type(error).__name__}") from error


def new_config(model: ModelConfig) -> SpklipConfig:
    """Config of a model that starts from no checkpoint.

    Raises:
        SpikeDataError: ``changes`` do not make a config.
    """
    try:
        named = {
            field: getattr(model, key)
            for key, field in OF_THE_CONFIG.items()
            if getattr(model, key) != FROM_SCRATCH[key]
        }
        return SpklipConfig.preset(model.preset, **_typed(model.changes), **named)
    except (TypeError, ValueError) as error:
        raise SpikeDataError(f"recipe: model: {error}") from error


FOUND = ("text_config", "text_pooling", "image_config")
"""Fields that are noted when a model is built, and never set."""


def _typed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` as the types of SpklipConfig's fields, by the rules of every recipe."""
    hints = SpklipConfig.__annotations__.items()
    fields = [(name, hint, None) for name, hint in hints if name not in FOUND]
    kind: type[Any] = make_dataclass("Changes", fields)
    typed = from_dict(kind, changes, where="recipe: model.changes")
    return {name: getattr(typed, name) for name in changes}


def _tokenizer(config: SpklipConfig) -> Any:
    with told_in_one_line(_no_encoder(config)):
        note_image_encoder(config)
        note_text_encoder(config)
        return build_tokenizer(config)


def _no_encoder(config: SpklipConfig) -> str:
    named = f"text_encoder {config.text_encoder!r}" if config.text_encoder else "its encoders"
    return f"model: {named}: cannot be loaded"


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
        named = bool(config.text_encoder or config.image_encoder)
        with told_in_one_line(_no_encoder(config)) if named else contextlib.nullcontext():
            return SpklipModel(config)
    with told_in_one_line(f"{model.checkpoint}: cannot be loaded"):
        loaded: SpklipModel = SpklipModel.from_pretrained(
            find_checkpoint(model.checkpoint), tower_function=model.image_encoder
        )
        return loaded
