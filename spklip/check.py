"""What would stop a run later, told before it begins.

Shapes: H rows and W columns of a clip.
"""

from collections.abc import Sequence
from typing import Any

import torch

from spikedata import SpikeDataError
from spklip.batches import kept_px
from spklip.model import SpklipConfig
from spklip.recipe import DataConfig, Recipe, TrainConfig
from spklip.speed import check_compiler
from spklip.splits import Splits


def check_training(
    recipe: Recipe, config: SpklipConfig, splits: Splits, *, processes: int = 1
) -> None:
    """Check that recipe, model, clips and machine fit each other.

    Args:
        recipe: what is to be done.
        config: shape of the model.
        splits: the clips.
        processes: how many train together.

    Raises:
        SpikeDataError: clips the model cannot take, a batch without negatives, or arithmetic, a
            compiler or a tracker that the machine lacks.
    """
    check_clips(recipe.data, config, splits)
    check_precision(recipe.train)
    check_trackers(recipe.train.report_to)
    if recipe.train.compile:
        check_compiler()
    together = min(recipe.train.batch_size * processes, len(splits.fit))
    if together < 2:
        raise SpikeDataError(
            f"a step would see {together} clip (train.batch_size {recipe.train.batch_size}, "
            f"{processes} processes, {len(splits.fit)} training clips); it compares clips with "
            "each other and needs 2"
        )


def check_clips(data: DataConfig, config: SpklipConfig, splits: Splits) -> None:
    """Check that a batch of these clips can be made and that the model can take it.

    Args:
        data: which ticks of a clip, and how much of its picture.
        config: shape of the model.
        splits: the clips.

    Raises:
        SpikeDataError: too few ticks for a window, or too few pixels for a cell.
    """
    check_window(data, config, splits.path, splits.size or clip_sizes(splits)[0])


def check_window(
    data: DataConfig, config: SpklipConfig, path: str, size_px: tuple[int, int]
) -> None:
    """Check that the model can take a window of these ticks and of this size.

    Args:
        data: which ticks of a clip, and how much of its picture.
        config: shape of the model.
        path: of the clips, to be named.
        size_px: rows and columns of a picture before it is cropped.

    Raises:
        SpikeDataError: too few ticks for a window, or too few pixels for a cell.
    """
    ticks = data.window_ticks // data.segments
    if ticks < config.hsfe_ticks:
        raise SpikeDataError(
            f"data.window_ticks {data.window_ticks} in {data.segments} segments gives "
            f"{ticks} ticks each; a window of the model has {config.hsfe_ticks} "
            "(2 * radius_ticks + 1)"
        )
    height_px, width_px = size_px
    if kept_px(min(height_px, width_px), data.crop) < config.pool_px:
        raise SpikeDataError(
            f"{path}: planes of {height_px}x{width_px} pixels, cropped to {data.crop:g}, "
            f"are smaller than one cell of pool_px {config.pool_px}"
        )


def check_precision(train: TrainConfig) -> None:
    """Check that this machine has the arithmetic that ``train.precision`` asks for.

    Raises:
        SpikeDataError: it has not.
    """
    cuda = torch.cuda.is_available()
    if train.precision == "fp16" and not cuda:
        raise SpikeDataError("train.precision=fp16 needs a CUDA GPU; a CPU has fp32 and bf16")
    if train.precision == "bf16" and cuda and not torch.cuda.is_bf16_supported():
        raise SpikeDataError("train.precision=bf16: this GPU has fp32 and fp16")


PACKAGES = {"azure_ml": "azureml-mlflow", "flyte": "flytekit", "kubeflow": "kubeflow-trainer-api"}
"""Packages of trackers that are not called like them."""


def check_trackers(names: Sequence[str]) -> None:
    """Check that this machine has what ``train.report_to`` names.

    Raises:
        SpikeDataError: transformers knows no such tracker, or its package is missing.
    """
    if not names:
        return
    from transformers.integrations import integration_utils  # noqa: PLC0415  # loads trackers

    known = sorted(integration_utils.INTEGRATION_TO_CALLBACK)
    available: Any = integration_utils.get_available_reporting_integrations
    there = available()
    for name in names:
        if name not in known:
            raise SpikeDataError(
                f"train.report_to: no tracker is called {name!r}; known: {', '.join(known)}"
            )
        if name not in there:
            package = PACKAGES.get(name, name)
            raise SpikeDataError(f"train.report_to: {name} is missing: pip install {package}")


def clip_sizes(splits: Splits) -> list[tuple[int, int]]:
    """Sizes (H, W) that occur among the clips of a run, in rising order."""
    return sorted({*splits.support.sizes, *splits.test.sizes})
