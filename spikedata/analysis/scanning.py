"""Two readings of a stream, whatever its length, and the sums that its statistics follow from.

Shapes: T ticks, H rows, W columns, P = H W pixels, L lengths of an interval, K tiles of the
picture, C the two halves of the time, S sums.
"""

import functools
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from spikedata.analysis.trains import NO_INTERVAL, flat_blocks, kernels
from spikedata.stream import SpikeSource

Array = NDArray[np.float64]

MIN_INTERVALS = 20
"""Variances and correlations are taken of pixels with at least so many intervals (in half of the
time, half as many)."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What two readings of a stream leave: sums that its statistics are worked out from.

    Every sum is kept for the first and the second half of the time (axis c), so that a stream can
    be compared with itself; those over many pixels are kept for tiles of the picture (axis k).
    """

    ticks: int
    tick_rate_hz: float
    tile_hw: NDArray[np.uint8]
    """uint8 (H, W): which tile a pixel belongs to."""
    count_chw: NDArray[np.int64]
    """int64 (2, H, W): spikes."""
    base_hw: NDArray[np.int64]
    """int64 (H, W): whole ticks of each pixel's mean interval, m."""
    sums_chws: NDArray[np.int64]
    """int64 (2, H, W, :data:`SUMS`): sums over a pixel's intervals."""
    lengths_chwn: NDArray[np.int64]
    """int64 (2, H, W, 3): the first three lengths of interval that occur, 0 where fewer do."""
    length_ckl: NDArray[np.int64]
    """int64 (2, tiles, longest + 1): intervals of each length; the last entry, all longer ones."""
    spikes_kt: NDArray[np.uint32]
    """uint32 (tiles, T or :data:`LONGEST_SERIES`): spikes in each tick."""

    @property
    def half_tick(self) -> int:
        """First tick of the second half."""
        return self.ticks // 2

    @property
    def segment_ticks(self) -> int:
        """Length of the pieces whose spectra are averaged.

        The largest power of two that half the kept series holds, at most 8,192.
        """
        half = max(1, self.spikes_kt.shape[1] // 2)
        return min(LONGEST_SEGMENT, 1 << (int(half).bit_length() - 1))

    @functools.cached_property
    def maps_t(self) -> "tuple[PixelMaps, PixelMaps, PixelMaps]":
        """Statistics of each pixel in the first half, the second half and all of the time."""
        return _maps_of(self, 0), _maps_of(self, 1), _maps_of(self, None)


SUMS = ("n", "d", "dd", "pairs", "a", "b", "aa", "bb", "ab", "off")
"""Sums over the intervals of a pixel. With m the whole ticks of its mean interval and d = l - m of
an interval of l ticks: number, d, d**2; over pairs of consecutive intervals a, b: number, a, b,
a**2, b**2, a b; and the number of intervals that are neither m nor m + 1. An interval belongs to
the half it ends in."""

TILES = 8
"""A picture is cut in at most so many tiles each way."""

LONGEST_SEGMENT = 1 << 13

LONGEST_SERIES = 1 << 16
"""The number of spikes of each tick is kept for so many ticks."""


def scan(source: SpikeSource, *, longest: int = 255) -> Scan:
    """Read a stream twice and sum up its spikes and intervals, in memory that T does not change.

    Args:
        source: what to read.
        longest: longer intervals are counted in the histogram as this long.

    Raises:
        ValueError: there are less than two ticks, the blocks do not hold ``ticks`` ticks, or
            ``longest`` is not positive.
    """
    if source.ticks < 2 or longest < 1:
        raise ValueError(
            f"ticks must be at least 2 and longest at least 1, got {source.ticks} and {longest}"
        )
    height, width = source.height_px, source.width_px
    count_spikes, _ = kernels()
    tile_hw = _tiles(height, width)
    last_p, first_p = (np.full(height * width, -1, np.int64) for _ in range(2))
    count_cp = np.zeros((2, height * width), np.int64)
    length_ckl = np.zeros((2, int(tile_hw.max()) + 1, longest + 1), np.int64)
    kept = min(source.ticks, LONGEST_SERIES)
    spikes_kt = np.zeros((length_ckl.shape[1], kept), np.uint32)
    state = (source.ticks // 2, tile_hw.reshape(-1), first_p, last_p)
    for tick, packed_gp in flat_blocks(source):
        count_spikes(packed_gp, tick, *state, count_cp, length_ckl, spikes_kt)
    mean_p = (last_p - first_p) // np.maximum(count_cp.sum(axis=0) - 1, 1)
    sums_cps, lengths_cpn = _sum_over_intervals(source, mean_p)
    return Scan(
        ticks=source.ticks,
        tick_rate_hz=source.tick_rate_hz,
        tile_hw=tile_hw,
        count_chw=count_cp.reshape(2, height, width),
        base_hw=mean_p.reshape(height, width),
        sums_chws=sums_cps.reshape(2, height, width, len(SUMS)),
        lengths_chwn=lengths_cpn.reshape(2, height, width, 3),
        length_ckl=length_ckl,
        spikes_kt=spikes_kt,
    )


def _sum_over_intervals(
    source: SpikeSource, mean_p: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The second reading, which needs the mean intervals of the first: sums, and three lengths."""
    _, sum_intervals = kernels()
    pixels = len(mean_p)
    sums_cps = np.zeros((2, pixels, len(SUMS)), np.int64)
    lengths_cpn = np.zeros((2, pixels, 3), np.int64)
    state = (np.full(pixels, -1, np.int64), np.full(pixels, NO_INTERVAL, np.int64))
    for tick, packed_gp in flat_blocks(source):
        sum_intervals(packed_gp, tick, source.ticks // 2, mean_p, *state, sums_cps, lengths_cpn)
    return sums_cps, lengths_cpn


def _tiles(height_px: int, width_px: int) -> NDArray[np.uint8]:
    rows, columns = min(TILES, height_px), min(TILES, width_px)
    y = np.arange(height_px) * rows // height_px
    x = np.arange(width_px) * columns // width_px
    return (y[:, None] * columns + x).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class PixelMaps:
    """Statistics of each pixel, (H, W)."""

    rate_hw: Array
    off_hw: Array
    intervals_hw: Array
    excess_hw: Array  # NaN where there are too few intervals
    relative_hw: Array
    lag1_hw: Array
    many_hw: NDArray[np.bool_]
    full_hw: NDArray[np.bool_]
    silent_hw: NDArray[np.bool_]

    def mixed(self, other: "PixelMaps", first_hw: NDArray[np.bool_]) -> "PixelMaps":
        """These where ``first_hw``, the other's elsewhere."""
        names = [field.name for field in fields(self)]
        return PixelMaps(*(np.where(first_hw, getattr(self, n), getattr(other, n)) for n in names))


def _maps_of(scanned: Scan, half: int | None) -> PixelMaps:
    """Maps of one half of the time, or of all of it."""
    if half is None:
        sums_hws, count_hw = scanned.sums_chws.sum(axis=0), scanned.count_chw.sum(axis=0)
        lengths_hwn = np.concatenate(list(scanned.lengths_chwn), axis=-1)
        ticks, least = scanned.ticks, MIN_INTERVALS
    else:
        sums_hws, count_hw = scanned.sums_chws[half], scanned.count_chw[half]
        lengths_hwn = scanned.lengths_chwn[half]
        ticks = scanned.half_tick if half == 0 else scanned.ticks - scanned.half_tick
        least = MIN_INTERVALS // 2
    n, d, dd, *of_pairs, off = np.moveaxis(sums_hws, -1, 0)
    few_hw = n < least
    # The two sums of squares are whole numbers, so an excess of nought is exactly 0.
    rest = d % np.maximum(n, 1)
    excess_hw = np.where(
        few_hw, np.nan, (n * dd - d * d - rest * (n - rest)) / np.maximum(n, 1) ** 2
    )
    mean_hw = scanned.base_hw + d / np.maximum(n, 1)
    return PixelMaps(
        rate_hw=count_hw / ticks,
        off_hw=off.astype(np.float64),
        intervals_hw=n.astype(np.float64),
        excess_hw=excess_hw,
        relative_hw=excess_hw / mean_hw**2,
        lag1_hw=np.where(few_hw, np.nan, _correlation(*of_pairs)),
        many_hw=_distinct(lengths_hwn) > 2,
        full_hw=count_hw == ticks,
        silent_hw=count_hw == 0,
    )


def _correlation(
    pairs: NDArray[np.int64],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    aa: NDArray[np.int64],
    bb: NDArray[np.int64],
    ab: NDArray[np.int64],
) -> Array:
    """Of each pixel's pairs from their sums; NaN where one of the two does not vary."""
    product = (pairs * aa - a * a).astype(np.float64) * (pairs * bb - b * b)
    known_hw = product > 0
    return np.where(
        known_hw, (pairs * ab - a * b) / np.sqrt(np.where(known_hw, product, 1)), np.nan
    )


def _distinct(lengths_hwn: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many different numbers other than 0 each pixel has."""
    sorted_hwn = np.sort(lengths_hwn, axis=-1)
    new_hwn = np.diff(sorted_hwn, axis=-1, prepend=0) > 0
    count_hw: NDArray[np.int64] = np.count_nonzero(new_hwn, axis=-1)
    return count_hw
