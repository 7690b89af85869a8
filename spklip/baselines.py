"""Simple answers the model has to beat: mean firing rates, without time, and chance.

Shapes: B clips, S segments, G groups of 8 ticks, H rows, W columns, N clips, C classes, D features.

Both feature sets come from the very windows the model sees. They throw time away: if one of them
does as well as the model, the model has not read motion.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spklip.evaluate import fit_linear

IMAGE_PX = 16
"""Longer side of the mean-rate image a classifier sees."""
HISTOGRAM_BINS = 32
"""Bins of the firing-rate histogram, 0 to 1 spikes a tick."""

_BITS_SET = torch.tensor([value.bit_count() for value in range(256)], dtype=torch.uint8)


def mean_rate(packed_bsghw: Tensor, ticks: int) -> Tensor:
    """Spikes a tick of each pixel over a whole window, all segments together.

    Args:
        packed_bsghw: uint8 (B, S, G, H, W), eight ticks a byte.
        ticks: ticks of one segment.

    Returns:
        rate_bhw: float32 (B, H, W), 0 to 1.
    """
    count_bsghw = _BITS_SET.to(packed_bsghw.device)[packed_bsghw.int()]
    return count_bsghw.sum(dim=(1, 2)).float() / (packed_bsghw.shape[1] * ticks)


def rate_image(rate_bhw: Tensor, longer_px: int = IMAGE_PX) -> Tensor:
    """Mean-rate image, shrunk by area until its longer side is ``longer_px``: (B, h * w)."""
    height, width = rate_bhw.shape[1:]
    shrink = min(1.0, longer_px / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    return torch.nn.functional.adaptive_avg_pool2d(rate_bhw[:, None], size).flatten(1)


def rate_histogram(rate_bhw: Tensor, bins: int = HISTOGRAM_BINS) -> Tensor:
    """Share of pixels in each band of firing rate: (B, bins), each row sums to 1."""
    bin_bp = (rate_bhw.flatten(1) * bins).long().clamp(0, bins - 1)
    count_bk = torch.zeros(len(rate_bhw), bins, device=rate_bhw.device)
    count_bk.scatter_add_(1, bin_bp, torch.ones_like(bin_bp, dtype=count_bk.dtype))
    return count_bk / bin_bp.shape[1]


def standardise(x_nd: Tensor, train_nd: Tensor) -> Tensor:
    """Features scaled so that the training set's have mean 0 and deviation 1, plus a constant.

    Features that never vary in training become 0. The constant lets a linear classifier have a
    bias.

    Args:
        x_nd: float (N, D), features to scale.
        train_nd: float (M, D), features of the training set.

    Returns:
        float (N, D + 1).
    """
    mean_d, spread_d = train_nd.mean(dim=0), train_nd.std(dim=0, correction=0)
    keep_d = torch.where(spread_d > 1e-6, 1 / spread_d.clamp_min(1e-6), 0.0)
    return torch.cat([(x_nd - mean_d) * keep_d, torch.ones(len(x_nd), 1)], dim=1)


def logistic_regression(
    train_nd: Tensor, label_n: Tensor, test_nd: Tensor, classes: int, *, penalty: float = 1.0
) -> Tensor:
    """Class scores of the test clips by multinomial logistic regression.

    Args:
        train_nd: float (N, D), standardised.
        label_n: int64 (N,).
        test_nd: float (N, D), standardised alike.
        classes: C; a class without training clips gets a score below that of every other one.
        penalty: L2 penalty, ``1 / C`` in scikit-learn's terms.

    Returns:
        score_nc: float64 (N, C).
    """
    start_1cd = torch.zeros(1, classes, train_nd.shape[1])
    weight_cd = fit_linear(train_nd[None], label_n[None], start_1cd, penalty=penalty)[0]
    score_nc = test_nd.double() @ weight_cd.T
    unseen_c = torch.bincount(label_n, minlength=classes) == 0
    return score_nc.masked_fill(unseen_c, -torch.inf)


def chance(train_label_n: NDArray[Any], test_label_n: NDArray[Any], classes: int) -> dict[str, Any]:
    """What answers without looking get: a uniform guess, and always the commonest class."""
    commonest = int(np.bincount(train_label_n, minlength=classes).argmax())
    return {
        "uniform_top1": 1 / classes,
        "uniform_top5": min(1.0, 5 / classes),
        "commonest_class_top1": float((np.asarray(test_label_n) == commonest).mean()),
        "commonest_class": commonest,
    }


def features(packed_bsghw: Tensor, ticks: int) -> dict[str, Tensor]:
    """Both baselines' features of a batch, on the CPU; see :func:`rate_image`."""
    rate_bhw = mean_rate(packed_bsghw, ticks)
    return {"mean_rate": rate_image(rate_bhw).cpu(), "histogram": rate_histogram(rate_bhw).cpu()}


NAMES: Sequence[str] = ("mean_rate", "histogram")
"""The baselines, in the order of a report."""
