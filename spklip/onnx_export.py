"""The video half of a trained model as an ONNX file, for programs that have no torch.

Packed bits go in, as a camera or a store gives them, and unit vectors come out. Batch, height and
width are free; ticks and segments are those that the model was trained on. What ONNX has no
operator for, counting bits by a table and the k-th value of a picture, is said otherwise here, and
the file's answers are compared with the model's own before it is there.

Shapes: B clips, S segments, G groups of eight ticks, T ticks of a segment, H rows, W columns,
V windows of a segment, N pictures, K exposures of a window, D features.
"""

import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikedata import SpikeDataError, to_dict, written_aside
from spklip.building import build_model, load_model_parts, of_checkpoint
from spklip.embedding import check_new
from spklip.model import PictureTower, cut_windows, pack_planes, window_starts
from spklip.recipe import Recipe
from spklip.run import package_versions

NEEDS = ("onnx", "onnxscript", "onnxruntime")
"""Packages of the extra ``onnx``."""
OPSET = 20
INPUT, OUTPUT = "packed_bsghw", "embedding_bd"
MOST_DIFFERENCE = 1e-4
"""A file whose vectors differ more from the model's is not written."""
MOST_PX = 8192
SIZES = ((2, [5, 6]), (1, [7, 5]), (3, [4, 8]))
"""Clips, and quarters of the least height and width, that a file is made from and compared on."""
LARGE = (1, [128, 150])
"""For pictures also one so large that white is not looked for at every pixel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxReport:
    """What :func:`export_onnx` wrote."""

    out: Path
    """The file."""
    segments: int
    """Segments of a clip that it takes, S."""
    ticks: int
    """Ticks of a segment, T, in ceil(T / 8) groups."""
    least_px: int
    """Rows and columns at least: below, the model is another net."""
    features: int
    """Length of a vector, D."""
    bytes: int
    """Size of the file."""
    max_difference: float
    """Largest difference of a number to the model's own, over clips of several sizes."""


def export_onnx(
    checkpoint: Path | str, recipe: Recipe, out: Path, *, overwrite: bool = False
) -> OnnxReport:
    """Write the video half of a trained model as ONNX, checked against the model.

    Input ``packed_bsghw``, uint8 (B, S, G, H, W): eight ticks a byte, the earliest in the lowest
    bit; B, H and W are free, the last two from ``least_px`` on. Pictures are taken as they are: cut
    to ``data.crop`` before. Output ``embedding_bd``, float32 (B, D), unit vectors, as
    :meth:`SpklipModel.encode_packed` gives.

    Args:
        checkpoint: a run's folder, a folder of ``save_pretrained``, or a Hub model.
        recipe: ``data.window_ticks`` and ``data.segments`` say what the model is fed.
        out: file to write; it appears whole or not at all.
        overwrite: replace ``out``.

    Raises:
        SpikeDataError: no such checkpoint, a package is missing, a part of the model that ONNX
            cannot say, vectors that differ by more than 1e-4, or ``out`` is there and
            ``overwrite`` is False.
    """
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise SpikeDataError(f"ONNX needs {', '.join(missing)}: pip install 'spklip[onnx]'")
    check_new(out, overwrite=overwrite)
    recipe = of_checkpoint(recipe, checkpoint)
    config, _ = load_model_parts(recipe.model)
    if config.encoder != "cnn":
        raise SpikeDataError(
            f"{checkpoint}: its encoder is {config.encoder}, and ONNX has no spiking neurons; only "
            "encoder cnn can be written"
        )
    segments = recipe.data.segments
    ticks = recipe.data.window_ticks // segments
    if ticks < config.hsfe_ticks:
        raise SpikeDataError(
            f"data.window_ticks gives segments of {ticks} ticks; a window of the model has "
            f"{config.hsfe_ticks}"
        )
    model: Any = build_model(recipe.model, config)
    model.eval().requires_grad_(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(out, overwrite=overwrite) as aside:
        _write(model, segments, ticks, aside, _about(recipe, model, ticks))
        difference = _largest_difference(model, segments, ticks, aside)
        if not difference <= MOST_DIFFERENCE:
            raise SpikeDataError(
                f"{out}: not written: the exported net's vectors differ from the model's by "
                f"{difference:.1e}, more than {MOST_DIFFERENCE:.0e}"
            )
    return OnnxReport(
        out=out,
        segments=segments,
        ticks=ticks,
        least_px=_least_px(model),
        features=int(config.embed_dim),
        bytes=out.stat().st_size,
        max_difference=difference,
    )


class PackedVideo(nn.Module):
    """The video half of a model in operations that ONNX has."""

    def __init__(self, model: Any, ticks: int) -> None:
        super().__init__()
        self.model, self.ticks = model, ticks

    def forward(self, packed_bsghw: Tensor) -> Tensor:
        """Packed planes to unit vectors (B, D)."""
        model, config = self.model, self.model.config
        planes_bsthw = _unpacked(packed_bsghw, self.ticks)
        if isinstance(model.video, PictureTower):
            feature_nc, centres = _picture_features(model.video, planes_bsthw)
        else:
            pooled = F.avg_pool2d(planes_bsthw.flatten(0, 1), config.pool_px)
            pooled_bsthw = pooled.reshape(*planes_bsthw.shape[:3], *pooled.shape[-2:])
            window_nkhw, centres = cut_windows(pooled_bsthw, config, torch.float32)
            feature_nc = model.video.enter(model.video.backbone(model.video.extractor(window_nkhw)))
        # The number of clips is left to be found: len() would make it a number of the file.
        feature_bvc = feature_nc.reshape(-1, centres.shape[0], feature_nc.shape[-1])
        unit_bd: Tensor = model.encode_features(feature_bvc, centres)
        return unit_bd


def _unpacked(packed_bsghw: Tensor, ticks: int) -> Tensor:
    """Spikes as 0.0 and 1.0, (B, S, T, H, W)."""
    place_811 = 2.0 ** torch.arange(8, dtype=torch.float32)[:, None, None]
    shifted_bsg8hw = torch.floor(packed_bsghw.float()[:, :, :, None] / place_811)
    return torch.remainder(shifted_bsg8hw, 2).flatten(2, 3)[:, :, :ticks]


def _picture_features(tower: PictureTower, planes_bsthw: Tensor) -> tuple[Tensor, Tensor]:
    """As :meth:`PictureTower.window_features`: (B S V, C), and the middle ticks of S V windows."""
    config, (segments, ticks) = tower.config, planes_bsthw.shape[1:3]
    starts = window_starts(ticks, config.hsfe_ticks, config.step_ticks, config.windows_per_segment)
    planes_nthw = planes_bsthw.flatten(0, 1)
    if tower.picture is not None:
        length = config.hsfe_ticks
        window_nvkhw = torch.stack([planes_nthw[:, s : s + length] for s in starts], dim=1)
        rate_nkhw = tower.picture(window_nvkhw.flatten(0, 1))
    else:
        places = [start + exposure for start in starts for exposure in config.picture_starts]
        length = config.exposure_ticks
        exposures = [planes_nthw[:, place : place + length].mean(dim=1) for place in places]
        stacked = torch.stack(exposures, dim=1)
        rate_nkhw = stacked.reshape(-1, len(config.picture_starts), *stacked.shape[-2:])
    picture_nchw = _full_range(rate_nkhw)
    if picture_nchw.shape[1] == 1:
        picture_nchw = picture_nchw.expand(-1, 3, -1, -1)
    for adapter in tower.encoder.adapters:
        adapter.windows = segments * len(starts)  # type: ignore[assignment]
    # Not its forward, which would fix the number of pictures to check and to share them out.
    seen = tower.encoder._read(picture_nchw)
    middle_v = torch.tensor(starts, dtype=torch.float32) + config.hsfe_ticks // 2
    centre_v = (torch.arange(segments)[:, None] * ticks + middle_v).flatten()
    return torch.cat(seen, dim=1), centre_v


def _full_range(rate_nchw: Tensor) -> Tensor:
    """As :func:`spklip.model.picture_tower.full_range`: the same pixel is white.

    The k-th smallest is the last of the largest n - k + 1; k is 0.99 n rounded, halves to even, in
    whole numbers.
    """
    larger: Any = torch.sym_max
    step_y, step_x = (larger(1, side // 60) for side in rate_nchw.shape[-2:])
    seen_np = rate_nchw[..., ::step_y, ::step_x].flatten(1)
    pixels = seen_np.shape[1]
    whole, rest = 99 * pixels // 100, 99 * pixels % 100
    place = whole + (rest + 49 + whole % 2) // 100
    white_n = seen_np.topk(pixels - place + 1, dim=1).values[:, -1].clamp_min(1e-3)
    return (rate_nchw / white_n[:, None, None, None]).clamp(0, 1)


def _about(recipe: Recipe, model: Any, ticks: int) -> dict[str, str]:
    """What a reader of the file has to know, as strings."""
    return {
        "spklip:checkpoint": str(recipe.model.checkpoint),
        "spklip:ticks": str(ticks),
        "spklip:least_px": str(_least_px(model)),
        "spklip:data": json.dumps(to_dict(recipe.data)),
        "spklip:versions": json.dumps(package_versions()),
    }


def _write(model: Any, segments: int, ticks: int, out: Path, about: dict[str, str]) -> None:
    free = {
        axis: torch.export.Dim(name, min=least, max=most)
        for axis, name, least, most in (
            (0, "clips", 1, 1 << 16),
            (3, "rows", _least_px(model), MOST_PX),
            (4, "columns", _least_px(model), MOST_PX),
        )
    }
    example = _example(model, segments, ticks, *SIZES[0])
    net = PackedVideo(model, ticks).eval()
    with _quietly(), torch.no_grad():
        try:
            program: Any = torch.onnx.export(
                net,
                (example,),
                dynamo=True,
                dynamic_shapes=(free,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            first = str(error.__cause__ or error).strip().splitlines()[0]
            raise SpikeDataError(
                f"this model's video half cannot be said in ONNX: {first}"
            ) from error
        program.model.metadata_props.update(about)
        program.save(str(out))


def _least_px(model: Any) -> int:
    """Side of the smallest picture whose last map has two places each way: one is another net."""
    config = model.config
    strides = 1 if config.image_encoder else 2 ** (len(config.group_blocks) + 1)
    return int(config.pool_px) * (strides + 1) if strides > 1 else 4 * int(config.pool_px)


def _example(model: Any, segments: int, ticks: int, clips: int, quarters: list[int]) -> Tensor:
    """Clips of so many quarters of the least height and width, more spikes where light would be."""
    height_px, width_px = (_least_px(model) * quarter // 4 for quarter in quarters)
    generator = torch.Generator().manual_seed(clips)
    light_hw = torch.rand(height_px, width_px, generator=generator)
    shape = (clips, segments, ticks, height_px, width_px)
    return pack_planes(torch.rand(shape, generator=generator) < light_hw)


def _largest_difference(model: Any, segments: int, ticks: int, file: Path) -> float:
    """Of the file's vectors to the model's, over clips of several sizes."""
    import onnxruntime  # noqa: PLC0415  # of the extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    found = 0.0
    sizes = (*SIZES, LARGE) if model.config.image_encoder else SIZES
    for clips, quarters in sizes:
        packed = _example(model, segments, ticks, clips, quarters)
        with torch.no_grad():
            want_bd = model.encode_packed(packed, ticks)
        (got_bd,) = session.run([OUTPUT], {INPUT: packed.numpy()})
        difference = float((torch.from_numpy(got_bd) - want_bd).abs().max())
        found = max(found, difference if math.isfinite(difference) else math.inf)
    return found


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what the exporter says of its own workings, and torch's fast path, out of it."""
    logs = [logging.getLogger(name) for name in ("torch", "onnxscript")]
    levels, fast = [log.level for log in logs], torch.backends.mha.get_fastpath_enabled()
    for log in logs:
        log.setLevel(logging.CRITICAL)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fast)
