"""Numbers that tell one spike stream from another: firing rate and inter-spike intervals.

Shapes: T ticks, G groups of eight ticks, H rows, W columns, L lengths of an interval.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikedata.stream import TICKS_PER_GROUP, group_count


def mean_rate(blocks: Iterable[NDArray[np.uint8]], ticks: int) -> NDArray[np.float64]:
    """Firing rate of each pixel over a whole stream.

    Args:
        blocks: uint8 (G, H, W), one after the other; together ``ticks`` ticks.
        ticks: T.

    Returns:
        rate_hw: float64 (H, W), spikes a tick, 0 to 1.

    Raises:
        ValueError: the blocks do not hold ``ticks`` ticks, or there are none.
    """
    count_hw: NDArray[np.int64] | None = None
    groups = 0
    for packed_ghw in blocks:
        groups += len(packed_ghw)
        block_hw = np.bitwise_count(packed_ghw).sum(axis=0, dtype=np.int64)
        count_hw = block_hw if count_hw is None else count_hw + block_hw
    _check_length(groups, ticks)
    assert count_hw is not None
    return count_hw / ticks


def _check_length(groups: int, ticks: int) -> None:
    if ticks < 1 or groups != group_count(ticks):
        raise ValueError(
            f"{ticks} ticks need {group_count(ticks)} groups, at least 1, got {groups}"
        )


@dataclass(frozen=True, eq=False)
class Intervals:
    """How often each length of an inter-spike interval (ISI) occurs."""

    count_l: NDArray[np.int64]
    """int64 (longest + 1,): intervals of l ticks; the last entry also has all longer ones."""

    @property
    def total(self) -> int:
        """Number of intervals."""
        return int(self.count_l.sum())

    @property
    def mean_ticks(self) -> float:
        """Mean interval, ticks; NaN if there is none."""
        if not self.total:
            return math.nan
        return float(self.count_l @ np.arange(len(self.count_l)) / self.total)

    def __add__(self, other: "Intervals") -> "Intervals":
        """Intervals of both; their ``longest`` must be the same."""
        return Intervals(self.count_l + other.count_l)


def count_intervals(
    blocks: Iterable[NDArray[np.uint8]], ticks: int, *, longest: int = 255
) -> Intervals:
    """Count the inter-spike intervals of every pixel.

    An interval is the number of ticks from one spike of a pixel to its next. What lies before a
    pixel's first spike and after its last is no interval. Cutting a stream into other blocks
    changes nothing.

    Args:
        blocks: uint8 (G, H, W), one after the other; together ``ticks`` ticks.
        ticks: T.
        longest: longer intervals are counted as this long.

    Raises:
        ValueError: the blocks do not hold ``ticks`` ticks, or ``longest`` is not positive.
    """
    if longest < 1:
        raise ValueError(f"longest must be at least 1, got {longest}")
    count_l = np.zeros(longest + 1, np.int64)
    last_p: NDArray[np.int64] | None = None  # tick of each pixel's last spike, -1 before the first
    groups = 0
    for packed_ghw in blocks:
        packed_gp = packed_ghw.reshape(len(packed_ghw), math.prod(packed_ghw.shape[1:]))
        if last_p is None:
            last_p = np.full(packed_gp.shape[1], -1, np.int64)
        for g, packed_p in enumerate(packed_gp):
            first_tick = (groups + g) * TICKS_PER_GROUP
            for k in range(TICKS_PER_GROUP):
                fired_n = np.flatnonzero(packed_p & (1 << k))
                before_n = last_p[fired_n]
                length_n = first_tick + k - before_n[before_n >= 0]
                count_l += np.bincount(np.minimum(length_n, longest), minlength=longest + 1)
                last_p[fired_n] = first_tick + k
        groups += len(packed_ghw)
    _check_length(groups, ticks)
    return Intervals(count_l)
