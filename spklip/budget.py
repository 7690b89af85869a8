"""What a run costs before it begins: parameters and memory, counted."""

import math
from collections.abc import Callable
from typing import Any

import torch

from spklip.model import SpklipConfig, SpklipModel, window_starts
from spklip.recipe import Recipe


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
    own = ":" in config.image_encoder  # a function of the user's knows nothing of other devices
    with torch.device("cpu" if own else device):
        return SpklipModel(config, pretrained=False)


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
    # An image tower is given pictures of one size, whatever the clip's.
    large = min(height_px, width_px) // config.pool_px >= 96 and not config.image_encoder
    shrink = 4 if large else 1
    small = (height_px // shrink, width_px // shrink)
    ticks = recipe.data.window_ticks // recipe.data.segments
    shape = (1, recipe.data.segments, ticks, *small)
    model = _without_weights(config, "cpu")
    weights = sum(p.numel() * (16 if p.requires_grad else 4) for p in model.parameters())
    if recipe.data.views and config.features_stay:
        clip = _saved_bytes(model, lambda: _read_features(model, recipe))
    else:
        planes = 5 * math.prod(shape)  # uint8, and float32 to pool it
        window = torch.zeros(shape, dtype=torch.uint8)
        clip = (planes + _saved_bytes(model, lambda: model.encode_video(window))) * shrink**2
    activations = clip * recipe.train.batch_size
    return {
        "weights_and_adamw": round(weights / 1e9, 3),
        "activations": round(activations / 1e9, 3),
        "all": round((weights + activations) / 1e9, 3),
    }


def _read_features(model: SpklipModel, recipe: Recipe) -> None:
    """One clip's embedding from features that are kept."""
    config = model.config
    ticks = recipe.data.window_ticks // recipe.data.segments
    starts = window_starts(ticks, config.hsfe_ticks, config.step_ticks, config.windows_per_segment)
    windows = recipe.data.segments * len(starts)
    encoder: Any = model.video.encoder
    width = encoder.features + encoder.moments
    model.encode_features(torch.zeros(1, windows, width), torch.arange(float(windows)))


def _saved_bytes(model: SpklipModel, embed: Callable[[], Any]) -> int:
    """Bytes autograd keeps for the backward of one embedding, parameters not counted."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()  # held, so that no address is used twice
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.train()
        embed()
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own)
