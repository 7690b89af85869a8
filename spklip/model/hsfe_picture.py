"""A picture of each window that begins as plain exposures and is then free to learn.

The front end is the paper's HSFE: temporal masks, branches, attention. What follows is one
convolution to red, green and blue in place of a residual extractor.

Shapes: N windows, K ticks in a window, M branches, F features a branch, H rows, W columns.

Source: SPKLIP, arXiv:2505.12656, section 3.
"""

import torch
from torch import Tensor, nn

from spklip.model.config import SpklipConfig
from spklip.model.hsfe import MultiScaleTemporalFilter, SpatialAttention

COLOURS = 3


class HsfePicture(nn.Module):
    """Windows of spikes to colour pictures; untrained, the firing rates of three exposures.

    Each exposure has a channel of its own in a branch whose crop holds it: a box over its ticks,
    at the filter's middle pixel. What an exposure does not need begins at random, as usual, with
    weights of zero behind it.

    Args:
        config: window, branches and exposures, of which the fields of ``hsfe_ticks``, ``branch_*``
            and ``picture_starts`` count.

    Raises:
        ValueError: the picture is of another number of exposures than three, or there is no
            branch left for an exposure whose crop holds it.
    """

    def __init__(self, config: SpklipConfig) -> None:
        super().__init__()
        branches, features = len(config.branch_ticks), config.branch_features
        slots = assign_exposures(config)
        self.hsfe_ticks = config.hsfe_ticks
        self.temporal = MultiScaleTemporalFilter(
            config.hsfe_ticks, config.branch_ticks, config.branch_channels, features
        )
        self.attention = SpatialAttention(branches, features)
        self.colour = nn.Conv2d(branches * features, COLOURS, 3, padding=1)
        with torch.no_grad():
            self._begin_as_exposures(config, slots)

    def _begin_as_exposures(self, config: SpklipConfig, slots: list[tuple[int, int]]) -> None:
        """Set the weights that the three exposures pass, and silence all others behind them."""
        length = config.exposure_ticks
        taps, merge = self.temporal.filter, self.temporal.merge
        # Half of everything passes the attention at first, at every pixel: the last layer doubles.
        for silent in (self.attention.second, self.colour):
            silent.weight.zero_()
            _biases(silent).zero_()
        for colour, (branch, feature) in enumerate(slots):
            channel = sum(config.branch_channels[:branch]) + feature
            place = branch * config.branch_features + feature
            start = config.picture_starts[colour]
            for layer, row in ((taps, channel), (merge, place)):
                layer.weight[row] = 0
                _biases(layer)[row] = 0
            taps.weight[channel, start : start + length, 1, 1] = 1 / length
            merge.weight[place, channel, 1, 1] = 1
            self.colour.weight[colour, place, 1, 1] = 2

    def forward(self, window_nkhw: Tensor) -> Tensor:
        """Picture windows.

        Args:
            window_nkhw: float (N, K, H, W), 1 where there is a spike, else 0.

        Returns:
            rate_nchw: float (N, 3, H, W); at first spikes a tick, 0 to 1.

        Raises:
            ValueError: not windows of K ticks.
        """
        if window_nkhw.ndim != 4 or window_nkhw.shape[1] != self.hsfe_ticks:
            raise ValueError(
                f"expected windows (N, {self.hsfe_ticks}, H, W), got {tuple(window_nkhw.shape)}"
            )
        rate_nchw: Tensor = self.colour(self.attention(self.temporal(window_nkhw)))
        return rate_nchw


def assign_exposures(config: SpklipConfig) -> list[tuple[int, int]]:
    """Branch and its feature that hold each exposure at first, one each.

    Exposures are spread over branches as far as their crops allow. Crops are nested, so whoever
    has the least choice goes first, and nobody can be left without a place that another order
    would have found.

    Raises:
        ValueError: there are not three exposures, or one has no place.
    """
    starts = config.picture_starts
    if len(starts) != COLOURS:
        raise ValueError(
            f"an HSFE picture is of {COLOURS} exposures, but a {config.picture!r} picture has "
            f"{len(starts)}: set picture='hsfe'"
        )
    holding = [_branches_holding(config, start) for start in starts]
    used = [0] * len(config.branch_ticks)
    slots = [(0, 0)] * COLOURS
    for colour in sorted(range(COLOURS), key=lambda i: len(holding[i])):
        free = [m for m in holding[colour] if used[m] < _slots_of(config, m)]
        if not free:
            raise ValueError(_no_place(config, starts[colour], holding[colour]))
        branch = min(free, key=lambda m: (used[m], -config.branch_ticks[m], m))
        slots[colour] = branch, used[branch]
        used[branch] += 1
    return slots


def _slots_of(config: SpklipConfig, branch: int) -> int:
    """Exposures that a branch can keep apart: each needs a channel and a feature."""
    return min(config.branch_channels[branch], config.branch_features)


def _branches_holding(config: SpklipConfig, start: int) -> list[int]:
    """Branches whose crop, the middle of the window, holds the exposure from tick ``start``."""
    holding = []
    for branch, ticks in enumerate(config.branch_ticks):
        first = (config.hsfe_ticks - ticks) // 2
        if first <= start and start + config.exposure_ticks <= first + ticks:
            holding.append(branch)
    return holding


def _no_place(config: SpklipConfig, start: int, holding: list[int]) -> str:
    exposure = (
        f"the exposure of ticks {start} to {start + config.exposure_ticks - 1} of a window of "
        f"{config.hsfe_ticks}"
    )
    if not holding:
        return (
            f"no branch sees {exposure}: branch_ticks are {config.branch_ticks}. Use a longer "
            "branch (and radius_ticks), or smaller exposure_ticks or exposure_step_ticks"
        )
    slots = sum(_slots_of(config, branch) for branch in holding)
    return (
        f"no place is left for {exposure}: exposures need a branch feature and channel each, and "
        f"the branches that see it, {holding} of branch_ticks {config.branch_ticks}, have {slots}. "
        "Use more branch_features or longer branches"
    )


def _biases(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
