"""Trains of spikes, one a pixel: the kernels that walk them, and what one walk tells.

Shapes: T ticks, G groups of eight ticks, H rows, W columns, P = H W pixels, L lengths of an
interval, K tiles of the picture, C the two halves of the time, S sums.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.stream import SpikeSource, SpikeStream

NO_INTERVAL = -(1 << 62)
"""Stands for the interval before a pixel's first."""
_STRIP = 64  # pixels whose state stays in the first-level cache while a block goes by


def rate_between_spikes(source: SpikeSource) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Firing rate of each pixel from its first spike to its last, and the error of that.

    A count over T ticks is wrong by up to one spike; the time from the first spike to the last
    is wrong by a fraction of a tick, which matters less the more ticks a spike takes. Both ends are
    uniform within a tick, so the error's spread is sqrt(2 / 12) ticks of that time; jitter and shot
    noise come on top.

    Args:
        source: read once.

    Returns:
        rate_hw: float64 (H, W), spikes a tick; with less than two spikes, their number over T.
        error_hw: float64 (H, W), one standard deviation; with less than two spikes, 1 / T.

    Raises:
        ValueError: the blocks do not hold ``ticks`` ticks, or there are none.
    """
    pixels = source.height_px * source.width_px
    first_p, last_p, count_p, _ = _count_trains(flat_blocks(source), pixels, longest=1)
    span_p = np.maximum(last_p - first_p, 1)
    few_p = count_p < 2
    rate_p = np.where(few_p, count_p / source.ticks, (count_p - 1) / span_p)
    error_p = np.where(few_p, 1 / source.ticks, rate_p * math.sqrt(1 / 6) / span_p)
    shape_hw = (source.height_px, source.width_px)
    return rate_p.reshape(shape_hw), error_p.reshape(shape_hw)


def count_intervals(stream: SpikeStream, *, longest: int = 255) -> NDArray[np.int64]:
    """Count the inter-spike intervals of every pixel, for short streams that are in memory.

    An interval is the number of ticks from one spike of a pixel to its next. What lies before a
    pixel's first spike and after its last is no interval.

    Args:
        stream: whose intervals.
        longest: longer intervals are counted as this long.

    Returns:
        count_l: int64 (longest + 1,): intervals of l ticks.

    Raises:
        ValueError: ``longest`` is not positive.
    """
    if longest < 1:
        raise ValueError(f"longest must be at least 1, got {longest}")
    pixels = stream.height_px * stream.width_px
    packed_gp = stream.packed_ghw.reshape(len(stream.packed_ghw), pixels)
    _, _, _, count_l = _count_trains([(0, packed_gp)], pixels, longest)
    return count_l


def _count_trains(
    blocks: Iterable[tuple[int, NDArray[np.uint8]]], pixels: int, longest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Each pixel's first and last spike and number of spikes; how many intervals of each length."""
    count_spikes, _ = kernels()
    first_p, last_p = (np.full(pixels, -1, np.int64) for _ in range(2))
    count_cp, length_ckl = np.zeros((2, pixels), np.int64), np.zeros((2, 1, longest + 1), np.int64)
    # All of the time is the second half, all of the picture one tile.
    state = (0, np.zeros(pixels, np.uint8), first_p, last_p, count_cp, length_ckl)
    for tick, packed_gp in blocks:
        count_spikes(packed_gp, tick, *state, np.zeros((1, 0), np.uint32))
    return first_p, last_p, count_cp[1], length_ckl[1, 0]


def flat_blocks(source: SpikeSource) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """First tick and groups (g, P) of each block, checked."""
    groups = 0
    for packed_ghw in source.blocks():
        if packed_ghw.shape[1:] != (source.height_px, source.width_px):
            raise ValueError(
                f"blocks must be (g, {source.height_px}, {source.width_px}), got {packed_ghw.shape}"
            )
        if len(packed_ghw):
            flat_gp = np.ascontiguousarray(packed_ghw).reshape(len(packed_ghw), -1)
            if groups + len(flat_gp) <= group_count(source.ticks):
                yield groups * TICKS_PER_GROUP, flat_gp
            groups += len(flat_gp)
    if source.ticks < 1 or groups != group_count(source.ticks):
        raise ValueError(
            f"{source.ticks} ticks need {group_count(source.ticks)} groups, at least 1, "
            f"got {groups}"
        )


@functools.cache
def kernels() -> tuple[Any, Any]:
    """The two kernels, compiled: the one that counts spikes, the one that sums up intervals."""
    import numba  # noqa: PLC0415  # half a second to load; mean rates need not wait for it

    compile_ = numba.njit(nogil=True, cache=True)
    return compile_(_count_spikes), compile_(_sum_intervals)


def _count_spikes(
    packed_gp: NDArray[np.uint8],
    first_tick: int,
    half_tick: int,
    tile_p: NDArray[np.uint8],
    first_p: NDArray[np.int64],
    last_p: NDArray[np.int64],
    count_cp: NDArray[np.int64],
    length_ckl: NDArray[np.int64],
    spikes_kt: NDArray[np.uint32],
) -> None:
    """Add a block to the counts; ``first_p`` and ``last_p`` are each pixel's spikes, -1 if none."""
    groups, pixels = packed_gp.shape
    longest, kept = length_ckl.shape[2] - 1, spikes_kt.shape[1]
    for begin in range(0, pixels, _STRIP):
        for g in range(groups):
            for p in range(begin, min(begin + _STRIP, pixels)):
                byte = packed_gp[g, p]
                tick = first_tick + 8 * g - 1
                while byte:
                    tick += 1
                    fired = byte & 1
                    byte >>= 1
                    if not fired:
                        continue
                    c = 1 if tick >= half_tick else 0
                    count_cp[c, p] += 1
                    if tick < kept:
                        spikes_kt[tile_p[p], tick] += 1
                    if last_p[p] < 0:
                        first_p[p] = tick
                    else:
                        length_ckl[c, tile_p[p], min(tick - last_p[p], longest)] += 1
                    last_p[p] = tick


def _sum_intervals(
    packed_gp: NDArray[np.uint8],
    first_tick: int,
    half_tick: int,
    mean_p: NDArray[np.int64],
    last_p: NDArray[np.int64],
    before_p: NDArray[np.int64],
    sums_cps: NDArray[np.int64],
    lengths_cpn: NDArray[np.int64],
) -> None:
    """Add a block's intervals to the sums, and their lengths to the first three of each pixel.

    The sums are those of ``scanning.SUMS``; ``before_p`` is each pixel's interval before.
    """
    groups, pixels = packed_gp.shape
    for begin in range(0, pixels, _STRIP):
        for g in range(groups):
            for p in range(begin, min(begin + _STRIP, pixels)):
                byte = packed_gp[g, p]
                tick = first_tick + 8 * g - 1
                while byte:
                    tick += 1
                    fired = byte & 1
                    byte >>= 1
                    if not fired:
                        continue
                    if last_p[p] >= 0:
                        c = 1 if tick >= half_tick else 0
                        sums_s = sums_cps[c, p]
                        length = tick - last_p[p]
                        d, a = length - mean_p[p], before_p[p]
                        sums_s[0] += 1
                        sums_s[1] += d
                        sums_s[2] += d * d
                        if a != NO_INTERVAL:
                            sums_s[3] += 1
                            sums_s[4] += a
                            sums_s[5] += d
                            sums_s[6] += a * a
                            sums_s[7] += d * d
                            sums_s[8] += a * d
                        if d < 0 or d > 1:
                            sums_s[9] += 1
                        for n in range(3):
                            known = lengths_cpn[c, p, n]
                            if known == 0:
                                lengths_cpn[c, p, n] = length
                            if known in (0, length):
                                break
                        before_p[p] = d
                    last_p[p] = tick
