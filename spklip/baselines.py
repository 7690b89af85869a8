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
from spklip.model import ImageEncoder, exposures, full_range, interval_picture

IMAGE_PX = 16
"""Longer side of the mean-rate image a classifier sees."""
HISTOGRAM_BINS = 32
"""Bins of the firing-rate histogram, 0 to 1 spikes a tick."""
COUNT_BINS = 16
"""Bins in time of the counts that a 3-D CNN reads, over all segments of a window."""
INTERVAL_BINS = 32
"""Bins of the inter-spike intervals: 1 to 31 ticks, and longer."""


def mean_rate(packed_bsghw: Tensor, ticks: int) -> Tensor:
    """Spikes a tick of each pixel over a whole window, all segments together.

    Args:
        packed_bsghw: uint8 (B, S, G, H, W), eight ticks a byte.
        ticks: ticks of one segment.

    Returns:
        rate_bhw: float32 (B, H, W), 0 to 1.
    """
    rate_n1hw = exposures(packed_bsghw.flatten(0, 1), ticks, [0], ticks)
    count_bshw = (rate_n1hw * ticks).round().reshape(*packed_bsghw.shape[:2], *rate_n1hw.shape[2:])
    return count_bshw.sum(dim=1) / (packed_bsghw.shape[1] * ticks)


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
    """Features centred on the training set's mean and scaled by its deviations, plus a constant.

    A feature is divided by its deviation plus the mean deviation of all, as the model does with an
    image encoder's vectors: what a few training clips leave all but alike is not blown up. The
    constant lets a linear classifier have a bias.

    Args:
        x_nd: float (N, D), features to scale.
        train_nd: float (M, D), features of the training set.

    Returns:
        float (N, D + 1); zeros where no feature varies in training.
    """
    mean_d, spread_d = train_nd.mean(dim=0), train_nd.std(dim=0, correction=0)
    scale_d = spread_d + spread_d.mean()
    scaled_nd = torch.where(scale_d > 1e-9, (x_nd - mean_d) / scale_d.clamp_min(1e-9), 0.0)
    return torch.cat([scaled_nd, torch.ones(len(x_nd), 1)], dim=1)


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
    """What the baselines without a tower read of a batch, on the CPU."""
    rate_bhw = mean_rate(packed_bsghw, ticks)
    bins = max(1, COUNT_BINS // packed_bsghw.shape[1])
    return {
        "mean_rate": rate_image(rate_bhw).cpu(),
        "histogram": rate_histogram(rate_bhw).cpu(),
        "intervals": interval_histogram(packed_bsghw, ticks).cpu(),
        "counts": spike_counts(
            packed_bsghw, ticks, bins_per_segment=min(ticks, bins), longer_px=IMAGE_PX
        ).cpu(),
    }


class Towers:
    """A frozen image encoder on other pictures than the model's, of the same segments.

    One picture a segment, from its middle: ``tower`` is three exposures as colours, ``tower_tfp``
    one exposure in grey (TFP), ``tower_tfi`` one over the inter-spike interval (TFI).
    """

    def __init__(self, encoder: ImageEncoder, names: Sequence[str]) -> None:
        self.encoder, self.names = encoder.eval(), tuple(names)
        self.key = {"weights": encoder.weights_sha256(), "px": encoder.size_px, "of": self.names}

    @torch.no_grad()
    def features(self, packed_bsghw: Tensor, ticks: int) -> dict[str, Tensor]:
        """The encoder's mean vector over segments for each kind of picture, (B, C)."""
        return {
            name: torch.stack([self._clip(name, packed, ticks) for packed in packed_bsghw])
            for name in self.names
        }

    def _clip(self, name: str, packed_sghw: Tensor, ticks: int) -> Tensor:
        picture_schw = full_range(PICTURES[name](packed_sghw, ticks)).expand(-1, 3, -1, -1)
        vector_sc, _ = self.encoder(picture_schw, windows=len(packed_sghw))
        mean_c: Tensor = vector_sc.mean(dim=0).float().cpu()
        return mean_c


def _colours(packed_nghw: Tensor, ticks: int) -> Tensor:
    length = max(1, min(COLOUR_TICKS, ticks // 3))
    step = min(2 * COLOUR_TICKS, (ticks - length) // 2)
    first = (ticks - length - 2 * step) // 2
    return exposures(packed_nghw, ticks, [first + i * step for i in range(3)], length)


def _playback(packed_nghw: Tensor, ticks: int) -> Tensor:
    length = min(TFP_TICKS, ticks)
    return exposures(packed_nghw, ticks, [(ticks - length) // 2], length)


def _interval(packed_nghw: Tensor, ticks: int) -> Tensor:
    return interval_picture(packed_nghw, ticks, (ticks - 1) // 2)[:, None]


COLOUR_TICKS, TFP_TICKS = 15, 31
"""Ticks of an exposure of ``tower``, and of the one of ``tower_tfp``."""
PICTURES = {"tower": _colours, "tower_tfp": _playback, "tower_tfi": _interval}
LINEAR = ("tower", "tower_tfp", "tower_tfi", "mean_rate", "histogram", "intervals")
"""Baselines that are features for a linear classifier, in the order of a report."""
WITHOUT_TIME = ("tower_tfp", "tower_tfi", "mean_rate", "histogram", "intervals")
"""Baselines that cannot see what comes first."""
ROWS = ("spklip", "tower", "conv3d", *LINEAR[1:])
"""The model and all baselines, in the order of a report."""
