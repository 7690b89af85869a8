"""Simple answers the model has to beat: firing rates, intervals, coarse counts, and chance.

Shapes: B clips, S segments, G groups of 8 ticks, H rows, W columns, N clips, C classes, D features,
h and w rows and columns of a shrunk picture.

All features come from the very windows the model sees. Mean rates and their histogram throw time
away, and intervals throw away place and order: if one of them does as well as the model, the model
has not read motion. Spike counts keep both, coarsely; ``conv3d`` reads them.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spklip.evaluate import fit_linear
from spklip.model import exposures

IMAGE_PX = 16
"""Longer side of the mean-rate image a classifier sees."""
HISTOGRAM_BINS = 32
"""Bins of the firing-rate histogram, 0 to 1 spikes a tick."""
INTERVAL_BINS = 32
"""Bins of the inter-spike intervals: 1 to 31 ticks, and longer."""

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
    return _shrink(rate_bhw, longer_px).flatten(1)


def _shrink(rate_nhw: Tensor, longer_px: int) -> Tensor:
    """Pictures shrunk by area until the longer side is ``longer_px``, (N, h, w); never enlarged."""
    height, width = rate_nhw.shape[1:]
    shrink = min(1.0, longer_px / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    return torch.nn.functional.adaptive_avg_pool2d(rate_nhw[:, None], size)[:, 0]


def rate_histogram(rate_bhw: Tensor, bins: int = HISTOGRAM_BINS) -> Tensor:
    """Share of pixels in each band of firing rate: (B, bins), each row sums to 1."""
    bin_bp = (rate_bhw.flatten(1) * bins).long().clamp(0, bins - 1)
    count_bk = torch.zeros(len(rate_bhw), bins, device=rate_bhw.device)
    count_bk.scatter_add_(1, bin_bp, torch.ones_like(bin_bp, dtype=count_bk.dtype))
    return count_bk / bin_bp.shape[1]


def interval_histogram(packed_bsghw: Tensor, ticks: int, bins: int = INTERVAL_BINS) -> Tensor:
    """Share of the inter-spike intervals of each length, over all pixels of a clip.

    An interval is the step from a spike to the pixel's next one in the same segment. Bytes are
    taken one by one with a state a pixel: how many ticks before the byte the last spike was. What
    a byte adds, and the state after it, follow from state and byte, so it is enough to count how
    often each pair of them occurs.

    Args:
        packed_bsghw: uint8 (B, S, G, H, W), eight ticks a byte.
        ticks: ticks of one segment.
        bins: bin k holds intervals of k + 1 ticks; the last one, longer ones too.

    Returns:
        share_bk: float32 (B, bins); each row sums to 1, or is 0 where a clip has no interval.

    Raises:
        ValueError: the groups cannot hold exactly ``ticks`` ticks, or there is no bin.
    """
    clips, segments, groups = packed_bsghw.shape[:3]
    if bins < 1 or groups != -(-ticks // 8):
        raise ValueError(
            f"expected 1 bin or more and {-(-ticks // 8)} groups of {ticks} ticks, "
            f"got {bins} and {groups}"
        )
    seen_bn = packed_bsghw.new_zeros((clips, 256 * (bins + 1)), dtype=torch.int64)
    next_n = _next_state(bins).to(packed_bsghw.device)
    for segment in range(segments):
        state_bp = packed_bsghw.new_full((clips, packed_bsghw[0, 0, 0].numel()), bins).int()
        for group in range(groups):
            used = 255 >> max(0, 8 * (group + 1) - ticks)
            byte_bp = packed_bsghw[:, segment, group].flatten(1) & used
            pair_bp = state_bp * 256 + byte_bp
            for seen_n, pair_p in zip(seen_bn, pair_bp, strict=True):
                seen_n += torch.bincount(pair_p, minlength=len(seen_n))
            state_bp = torch.index_select(next_n, 0, pair_bp.flatten()).view_as(pair_bp)
    count_bk = seen_bn.cpu().double() @ _intervals(bins)  # whole numbers: exact
    share_bk = count_bk / count_bk.sum(dim=1, keepdim=True).clamp_min(1)
    return share_bk.float().to(packed_bsghw.device)


@functools.cache
def _next_state(bins: int) -> Tensor:
    """State after each state and byte, int32 ((bins + 1) * 256,).

    State k: the last spike was k + 1 ticks before the byte begins; bins - 1: so many or more;
    bins: there was none.
    """
    state_n1 = torch.arange(bins + 1)[:, None]
    waited_nv = torch.where(state_n1 < bins, (state_n1 + 8).clamp_max(bins - 1), bins)
    since_v = torch.tensor([8 - byte.bit_length() for byte in range(256)]).clamp_max(bins - 1)
    spiked_v = torch.arange(256) > 0
    return torch.where(spiked_v, since_v, waited_nv).flatten().int()


@functools.cache
def _intervals(bins: int) -> Tensor:
    """Intervals of each length that end in a byte, by state and byte: float64 (.., bins)."""
    count_nvk = torch.zeros(bins + 1, 256, bins, dtype=torch.float64)
    for byte in range(1, 256):
        bits = [bit for bit in range(8) if byte >> bit & 1]
        for earlier, later in itertools.pairwise(bits):
            count_nvk[:, byte, min(later - earlier, bins) - 1] += 1
        state_n = torch.arange(bins)
        count_nvk[state_n, byte, (state_n + bits[0]).clamp_max(bins - 1)] += 1
    return count_nvk.flatten(0, 1)


def spike_counts(
    packed_bsghw: Tensor, ticks: int, *, bins_per_segment: int, longer_px: int
) -> Tensor:
    """Mean firing rate of each bin of ticks, shrunk by area: what a 3-D CNN on counts sees.

    Args:
        packed_bsghw: uint8 (B, S, G, H, W), eight ticks a byte.
        ticks: ticks of one segment.
        bins_per_segment: bins; where they do not divide the ticks, some are a tick longer.
        longer_px: longer side of a picture; smaller ones stay as they are.

    Returns:
        rate_bthw: float32 (B, S * bins_per_segment, h, w), spikes a tick, 0 to 1, in time order.

    Raises:
        ValueError: not packed planes of ``ticks`` ticks, or a bin would be empty.
    """
    if not 1 <= bins_per_segment <= ticks:
        raise ValueError(f"{ticks} ticks cannot fill {bins_per_segment} bins")
    packed_nghw = packed_bsghw.flatten(0, 1)
    edges = [k * ticks // bins_per_segment for k in range(bins_per_segment + 1)]
    rates = [
        _shrink(exposures(packed_nghw, ticks, [begin], end - begin)[:, 0], longer_px)
        for begin, end in itertools.pairwise(edges)
    ]
    return torch.stack(rates, dim=1).reshape(len(packed_bsghw), -1, *rates[0].shape[1:])


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
