"""What a model looked at: which windows of a clip add to a score, and which places of a window.

Shapes: S segments of a clip, G groups of eight ticks packed in a byte, H rows, W columns, V windows
of a clip, C features of a window or channels of a map, h and w those of a map, L tokens, D width of
the shared space, N pictures.

Source: R. R. Selvaraju et al., "Grad-CAM", arXiv:1610.02391, for places. Windows are weighed by the
gradient times what it is the gradient of.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikedata import SpikeDataError
from spklip.model import stages_of

MOST_EXTRA_TOKENS = 8
"""Tokens at most that stand before those of the places: a class, registers."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Which windows and places of a clip speak for a text."""

    score: float
    """Cosine of clip and text, -1 to 1."""
    weight_v: Tensor
    """float32 (V,), what each window adds to the score; negative where it speaks against."""
    centre_v: Tensor
    """float32 (V,), middle tick of each window; segments are laid end to end."""
    map_vhw: Tensor
    """float32 (V, H, W), what each place adds, 0 where it speaks against; pixels as they came in.

    Windows of one clip compare with each other. The unit is nobody's.
    """
    attention_lvv: Tensor
    """float32 (L, V, V), for each layer of the Transformer over windows how much a window (rows)
    heeds each of all (columns), mean over heads; rows sum to 1."""


@dataclass(frozen=True, eq=False)
class MapPlace:
    """Where inside a tower the last map of a picture is."""

    module: nn.Module
    """Part of the tower."""
    before: bool
    """Whether it is what the part is given, or else what it gives."""


def explain(model: Any, packed_sghw: Tensor, ticks: int, text_d: Tensor) -> Explanation:
    """Explain the score of one clip and one text.

    The score is their cosine. In its gradients the length of the clip's vector is held as it is, so
    that where the vector is linear in the windows' features, the windows' weights add up to the
    score. Windows are weighed at what a joint image and text encoder scales to unit length, where
    it does so, and else at ``model.window_features``.

    The model is left as it was: no weight, gradient or mode changes.

    Args:
        model: SpklipModel, in any mode; it judges here.
        packed_sghw: uint8 (S, G, H, W), one clip.
        ticks: ticks of a segment.
        text_d: float (D,), embedding of the text; its length does not count.

    Returns:
        Score, weights and maps, on the CPU.

    Raises:
        ValueError: the text has length zero, or the clip is no input of the model.
        SpikeDataError: the image encoder has no map of places.

    Source: Grad-CAM, arXiv:1610.02391.
    """
    length = float(text_d.norm())
    if not length > 0:
        raise ValueError(f"text_d must be a vector with a direction, got length {length}")
    with _judging(model), torch.enable_grad():
        with _cut_at(find_map(model)) as cut:
            feature_1vc, centre_v = model.window_features(packed_sghw[None], ticks)
        score, weighed = _score(model, feature_1vc, centre_v, text_d / length)
        attention_lvv = _window_attention(model.video, feature_1vc, centre_v)
        weighed_slope, map_slope = torch.autograd.grad(score, [weighed, cut[0]])
    weight_v = (weighed_slope * weighed).reshape(len(centre_v), -1).sum(dim=1)
    map_vhw = _class_activation(as_map(cut[0].detach()), as_map(map_slope))
    return Explanation(
        score=float(score.detach()),
        weight_v=weight_v.detach().float().cpu(),
        centre_v=centre_v.float().cpu(),
        map_vhw=_on_pixels(model, map_vhw, packed_sghw.shape[-2:]).cpu(),
        attention_lvv=attention_lvv,
    )


def _score(
    model: Any, feature_1vc: Tensor, centre_v: Tensor, text_d: Tensor
) -> tuple[Tensor, Tensor]:
    """Score of a clip, and the tensor at which its windows are weighed."""
    weighed = [feature_1vc]
    hooks = []
    if getattr(model.video, "joint", False):
        # Windows are scaled to unit length first: along itself, a feature has no gradient.
        norm = model.video.norm
        hooks = [norm.register_forward_pre_hook(lambda _, given: weighed.append(given[0]))]
    try:
        clip_d = model.video.read(feature_1vc, centre_v)[0].float()
    finally:
        for hook in hooks:
            hook.remove()
    length = clip_d.detach().norm().clamp_min(1e-12)
    return clip_d @ text_d.to(clip_d) / length, weighed[-1]


def _window_attention(video: Any, feature_1vc: Tensor, centre_v: Tensor) -> Tensor:
    """Attention of every layer of a Transformer over windows, (L, V, V); spikes have none."""
    layers = list(getattr(video.temporal, "layers", []))
    given: list[Tensor] = []
    hooks = [
        layer.self_attn.register_forward_pre_hook(lambda _, args: given.append(args[0]))
        for layer in layers
    ]
    try:
        video.read(feature_1vc, centre_v)
    finally:
        for hook in hooks:
            hook.remove()
    attention_lvv = torch.zeros(len(layers), len(centre_v), len(centre_v))
    with torch.no_grad():
        for number, (layer, x_1vd) in enumerate(zip(layers, given, strict=True)):
            attention_lvv[number] = layer.self_attn(x_1vd, x_1vd, x_1vd)[1][0]
    return attention_lvv


def _class_activation(map_nchw: Tensor, slope_nchw: Tensor) -> Tensor:
    """Grad-CAM, (N, h, w): channels weighed by their mean gradient, and what is positive kept."""
    share_nc = slope_nchw.mean(dim=(2, 3))
    return F.relu(torch.einsum("nc,nchw->nhw", share_nc, map_nchw)).float()


def as_map(seen: Tensor) -> Tensor:
    """A map (N, C, h, w) as it is; tokens (N, L, C) as the square map that their last ones are.

    Raises:
        SpikeDataError: too many tokens are left over.
    """
    if seen.ndim == 4:
        return seen
    side = math.isqrt(seen.shape[1])
    extra = seen.shape[1] - side * side
    if extra > MOST_EXTRA_TOKENS:
        raise SpikeDataError(
            f"the image encoder has {seen.shape[1]} tokens, which are no square map and up to "
            f"{MOST_EXTRA_TOKENS} more; its places cannot be shown"
        )
    return seen[:, extra:].transpose(1, 2).reshape(len(seen), -1, side, side)


def _on_pixels(model: Any, map_vhw: Tensor, size: torch.Size) -> Tensor:
    """The maps stretched over the planes (H, W); pixels that belong to no cell are 0."""
    height, width = size
    cell = 1 if model.config.image_encoder else model.config.pool_px
    seen = height // cell * cell, width // cell * cell
    large_v1hw = F.interpolate(map_vhw[:, None], seen, mode="bilinear", align_corners=False)
    return F.pad(large_v1hw[:, 0], (0, width - seen[1], 0, height - seen[0]))


def find_map(model: Any) -> MapPlace:
    """Where the last map of a model's pictures is.

    That of a tower on pictures is the tower's own output, else that of its last stage, if these
    are maps. Of tokens it is what the last stage is given: behind it a tower may read its class
    token alone, and no place has a gradient. A tower without stages has it where a part of it
    gives the last map of more than one place. Of a tower from scratch it is the last block's.

    Raises:
        SpikeDataError: there is none.
    """
    if not model.config.image_encoder:
        return MapPlace(model.video.backbone.blocks[-1], before=False)
    if model.config.encoder != "cnn":
        return MapPlace(model.video.encoder.tower.blocks[-1], before=False)
    tower = model.video.encoder.tower
    shapes = _shapes(model)
    stages = stages_of(tower)
    for part in [tower, *stages[-1:]]:
        dims = len(shapes.get(part, ()))
        if dims == 4 or (dims == 3 and part is not tower):
            return MapPlace(part, before=dims == 3)
    maps = [m for m, shape in shapes.items() if len(shape) == 4 and math.prod(shape[2:]) > 1]
    if not maps:
        name = model.config.image_encoder
        raise SpikeDataError(f"image_encoder {name!r}: has no map of places that could be shown")
    return MapPlace(maps[-1], before=False)


def _shapes(model: Any) -> dict[nn.Module, torch.Size]:
    """Shape of what each part of an image tower gives for a black picture, in order of giving."""
    encoder = model.video.encoder
    found: dict[nn.Module, torch.Size] = {}

    def note(part: nn.Module, _: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor):
            found.pop(part, None)
            found[part] = first.shape

    hooks = [part.register_forward_hook(note) for part in encoder.tower.modules()]
    try:
        with torch.no_grad():
            encoder(torch.zeros(1, 3, encoder.size_px, encoder.size_px, device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextlib.contextmanager
def _cut_at(place: MapPlace) -> Iterator[list[Tensor]]:
    """Begin the graph of gradients at a map, which is the one tensor of the list afterwards."""
    seen: list[Tensor] = []

    def cut(first: Tensor) -> Tensor:
        seen.append(first.detach().requires_grad_())
        return seen[-1].clone()  # what comes next may work in place

    def cut_input(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (cut(given[0]), *given[1:])

    def cut_output(_: Any, __: Any, output: Any) -> Any:
        return (cut(output[0]), *output[1:]) if isinstance(output, tuple) else cut(output)

    part = place.module
    hook = (
        part.register_forward_pre_hook(cut_input)
        if place.before
        else part.register_forward_hook(cut_output)
    )
    try:
        yield seen
    finally:
        hook.remove()


@contextlib.contextmanager
def _judging(model: nn.Module) -> Iterator[None]:
    """A model in evaluation, none of whose weights asks for a gradient; afterwards as it was."""
    modes = [(module, module.training) for module in model.modules()]
    learns = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in learns:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, learnt in learns:
            parameter.requires_grad_(learnt)
