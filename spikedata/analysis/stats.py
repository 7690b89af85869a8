"""Numbers that tell one spike stream from another: firing rate and inter-spike intervals.

:func:`scan` reads a stream twice and keeps what all other statistics need; see ``compare.py``.

Shapes: T ticks, G groups of eight ticks, H rows, W columns, P = H W pixels, L lengths of an
interval, K tiles of the picture, C the two halves of the time, S sums.

The file is long because what is summed and what is worked out from the sums belong together: a
change of one is a change of the other.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.stream import SpikeSource, SpikeStream


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
    def maps_t(self) -> "tuple[_Maps, _Maps, _Maps]":
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
    count_spikes, sum_intervals = _kernels()
    tile_hw = _tiles(height, width)
    last_p, first_p = (np.full(height * width, -1, np.int64) for _ in range(2))
    count_cp = np.zeros((2, height * width), np.int64)
    length_ckl = np.zeros((2, int(tile_hw.max()) + 1, longest + 1), np.int64)
    kept = min(source.ticks, LONGEST_SERIES)
    spikes_kt = np.zeros((length_ckl.shape[1], kept), np.uint32)
    state = (source.ticks // 2, tile_hw.reshape(-1), first_p, last_p)
    for tick, packed_gp in _flat_blocks(source):
        count_spikes(packed_gp, tick, *state, count_cp, length_ckl, spikes_kt)
    mean_p = (last_p - first_p) // np.maximum(count_cp.sum(axis=0) - 1, 1)
    sums_cps = np.zeros((2, height * width, len(SUMS)), np.int64)
    lengths_cpn = np.zeros((2, height * width, 3), np.int64)
    last_p, before_p = np.full_like(last_p, -1), np.full_like(last_p, _NONE)
    for tick, packed_gp in _flat_blocks(source):
        sum_intervals(
            packed_gp, tick, source.ticks // 2, mean_p, last_p, before_p, sums_cps, lengths_cpn
        )
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
    first_p, last_p, count_p, _ = _count_trains(_flat_blocks(source), pixels, longest=1)
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
    count_spikes, _ = _kernels()
    first_p, last_p = (np.full(pixels, -1, np.int64) for _ in range(2))
    count_cp, length_ckl = np.zeros((2, pixels), np.int64), np.zeros((2, 1, longest + 1), np.int64)
    # All of the time is the second half, all of the picture one tile.
    state = (0, np.zeros(pixels, np.uint8), first_p, last_p, count_cp, length_ckl)
    for tick, packed_gp in blocks:
        count_spikes(packed_gp, tick, *state, np.zeros((1, 0), np.uint32))
    return first_p, last_p, count_cp[1], length_ckl[1, 0]


_NONE = -(1 << 62)
_STRIP = 64  # pixels whose state stays in the first-level cache while a block goes by


def _flat_blocks(source: SpikeSource) -> Iterator[tuple[int, NDArray[np.uint8]]]:
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


def _tiles(height_px: int, width_px: int) -> NDArray[np.uint8]:
    rows, columns = min(TILES, height_px), min(TILES, width_px)
    y = np.arange(height_px) * rows // height_px
    x = np.arange(width_px) * columns // width_px
    return (y[:, None] * columns + x).astype(np.uint8)


@functools.cache
def _kernels() -> tuple[Any, Any]:
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
    """Add a block's intervals to :data:`SUMS` and their lengths to the first three of each pixel.

    ``before_p`` is each pixel's interval before.
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
                        if a != _NONE:
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


# --- statistics of one recording ------------------------------------------------------------

Array = NDArray[np.float64]

MIN_INTERVALS = 20
"""Variances and correlations are taken of pixels with at least so many intervals (in half of the
time, half as many)."""


@dataclass(frozen=True, eq=False)
class Profile:
    """The statistics of one recording; where nothing tells, NaN.

    A pixel that only counts light fires at intervals of two neighbouring lengths, whose variance
    is f (1 - f), f being the fraction of their mean. What exceeds that is noise.
    """

    firing_rate: float
    """Spikes per pixel and tick."""
    isi_mean: float
    """Mean inter-spike interval (ISI), ticks."""
    isi_excess_variance: float
    """ISI variance less f (1 - f), of the median pixel, ticks squared."""
    extra_isi_spread: float
    """Square root of the mean over pixels of that excess, relative to the mean interval."""
    off_neighbour_share: float
    """Share of intervals that are neither of the two lengths next to their pixel's mean."""
    lag1_correlation: float
    """Correlation of consecutive intervals, of the median pixel."""
    many_lengths_share: float
    """Share of pixels with more than two lengths of interval."""
    row_noise: float
    """Rows' own offset: spread of the rows' mean rates about a smooth course, relative."""
    column_noise: float
    """The same of columns."""
    prnu: float
    """Pixel-to-pixel spread of the rate in the brighter half of the pixels, relative."""
    dsnu: float
    """Pixel-to-pixel spread of the rate in the darkest tenth of the pixels, spikes a tick."""
    flicker: float
    """Amplitude of the mean rate at 100 or 120 Hz, whichever is more, relative."""
    saturated_share: float
    """Share of pixels that fire in every tick."""
    silent_share: float
    """Share of pixels that never fire."""
    isi_share_l: Array
    """float64 (longest + 1,): share of intervals of each length."""
    band_amplitude_b: Array
    """float64: amplitude of the mean rate in each octave, from the highest down, relative."""


def profile(scanned: Scan, *, first_half: NDArray[np.bool_] | None = None) -> Profile:
    """Statistics of a recording from its :func:`scan`.

    Args:
        scanned: the sums.
        first_half: if given, bool (K,): take of each tile the first half of the time only, or
            the second only.
    """
    if first_half is None:
        maps = scanned.maps_t[2]
        length_l = scanned.length_ckl.sum(axis=(0, 1))
        series_t = scanned.spikes_kt.sum(axis=0)
    else:
        one, other, _ = scanned.maps_t
        maps = one.mixed(other, first_half[scanned.tile_hw])
        tiles = np.arange(len(first_half))
        length_l = scanned.length_ckl[np.where(first_half, 0, 1), tiles].sum(axis=0)
        half = scanned.spikes_kt.shape[1] // 2
        series_t = scanned.spikes_kt[first_half, :half].sum(axis=0)
        series_t = series_t + scanned.spikes_kt[~first_half, half : 2 * half].sum(axis=0)
    return _profile(maps, length_l, series_t, scanned.tick_rate_hz, scanned.segment_ticks)


@dataclass(frozen=True, eq=False)
class _Maps:
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

    def mixed(self, other: "_Maps", first_hw: NDArray[np.bool_]) -> "_Maps":
        """These where ``first_hw``, the other's elsewhere."""
        names = [field.name for field in fields(self)]
        return _Maps(*(np.where(first_hw, getattr(self, n), getattr(other, n)) for n in names))


def _maps_of(scanned: Scan, half: int | None) -> _Maps:
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
    n, d, dd, pairs, a, b, aa, bb, ab, off = np.moveaxis(sums_hws, -1, 0)
    few_hw = n < least
    # The two sums of squares are whole numbers, so an excess of nought is exactly 0.
    rest = d % np.maximum(n, 1)
    excess_hw = np.where(
        few_hw, np.nan, (n * dd - d * d - rest * (n - rest)) / np.maximum(n, 1) ** 2
    )
    mean_hw = scanned.base_hw + d / np.maximum(n, 1)
    product = (pairs * aa - a * a).astype(np.float64) * (pairs * bb - b * b)
    known_hw = ~few_hw & (product > 0)
    lag1_hw = np.where(
        known_hw, (pairs * ab - a * b) / np.sqrt(np.where(known_hw, product, 1)), np.nan
    )
    return _Maps(
        rate_hw=count_hw / ticks,
        off_hw=off.astype(np.float64),
        intervals_hw=n.astype(np.float64),
        excess_hw=excess_hw,
        relative_hw=excess_hw / mean_hw**2,
        lag1_hw=lag1_hw,
        many_hw=_distinct(lengths_hwn) > 2,
        full_hw=count_hw == ticks,
        silent_hw=count_hw == 0,
    )


def _distinct(lengths_hwn: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many different numbers other than 0 each pixel has."""
    sorted_hwn = np.sort(lengths_hwn, axis=-1)
    new_hwn = np.diff(sorted_hwn, axis=-1, prepend=0) > 0
    count_hw: NDArray[np.int64] = np.count_nonzero(new_hwn, axis=-1)
    return count_hw


def _profile(
    maps: _Maps,
    length_l: NDArray[np.int64],
    series_t: NDArray[Any],
    tick_rate_hz: float,
    segment_ticks: int,
) -> Profile:
    total = max(1, int(length_l.sum()))
    rate_t = series_t / maps.rate_hw.size
    off, intervals = float(maps.off_hw.sum()), float(maps.intervals_hw.sum())
    prnu, dsnu = _grain(maps.rate_hw)
    return Profile(
        firing_rate=float(maps.rate_hw.mean()),
        isi_mean=_mean_length(length_l),
        isi_excess_variance=_median(maps.excess_hw),
        extra_isi_spread=math.sqrt(_mean(maps.relative_hw)),
        off_neighbour_share=off / intervals if intervals else math.nan,
        lag1_correlation=_median(maps.lag1_hw),
        many_lengths_share=float(maps.many_hw.mean()),
        row_noise=_line_noise(maps.rate_hw.mean(axis=1)),
        column_noise=_line_noise(maps.rate_hw.mean(axis=0)),
        prnu=prnu,
        dsnu=dsnu,
        flicker=_flicker(rate_t, tick_rate_hz),
        saturated_share=float(maps.full_hw.mean()),
        silent_share=float(maps.silent_hw.mean()),
        isi_share_l=length_l / total,
        band_amplitude_b=_octaves(rate_t, segment_ticks),
    )


def _mean_length(length_l: NDArray[np.int64]) -> float:
    total = int(length_l.sum())
    return float(length_l @ np.arange(len(length_l)) / total) if total else math.nan


def _median(values_hw: Array) -> float:
    known = values_hw[~np.isnan(values_hw)]
    return float(np.median(known)) if known.size else math.nan


def _mean(values_hw: Array) -> float:
    known = values_hw[~np.isnan(values_hw)]
    return float(known.mean()) if known.size else math.nan


def _grain(rate_hw: Array) -> tuple[float, float]:
    """Pixel-to-pixel spread among bright pixels (relative) and dark ones (spikes a tick).

    The filter (1 -2 1) both ways passes no slopes and, in the median, little texture; its output
    has six times the spread of independent pixels.

    Source: J. Immerkaer, "Fast Noise Variance Estimation", CVIU 64(2), 1996.
    """
    if min(rate_hw.shape) < 3:
        return math.nan, math.nan
    across = rate_hw[:, :-2] - 2 * rate_hw[:, 1:-1] + rate_hw[:, 2:]
    grain_hw = np.abs(across[:-2] - 2 * across[1:-1] + across[2:])
    inner_hw = rate_hw[1:-1, 1:-1]
    darkest, middle = np.quantile(inner_hw, [0.1, 0.5])
    bright_hw = inner_hw >= max(middle, 1e-9)
    scale = 1 / _MEDIAN_OF_NORMAL / 6
    prnu = scale * _median(grain_hw[bright_hw] / inner_hw[bright_hw])
    return prnu, scale * _median(grain_hw[inner_hw <= darkest])


_MEDIAN_OF_NORMAL = 0.6745
"""Median of the absolute value of a normal variable with spread 1."""


def _line_noise(rate_n: Array) -> float:
    """Spread of single rows (or columns) about their neighbours, relative to the mean rate."""
    mean = float(rate_n.mean())
    if len(rate_n) < 3 or not mean:
        return math.nan
    bend_n = np.abs(rate_n[:-2] - 2 * rate_n[1:-1] + rate_n[2:])
    return float(np.median(bend_n) / _MEDIAN_OF_NORMAL / math.sqrt(6) / mean)


def _flicker(rate_t: Array, tick_rate_hz: float) -> float:
    """Amplitude at 100 or 120 Hz by least squares; NaN below one whole period of 100 Hz."""
    mean = float(rate_t.mean())
    if not mean or len(rate_t) < tick_rate_hz / 100 or tick_rate_hz <= 240:
        return math.nan
    return max(_amplitude(rate_t, hz / tick_rate_hz) for hz in (100, 120)) / mean


def _amplitude(rate_t: Array, cycles_per_tick: float) -> float:
    angle_t = 2 * np.pi * cycles_per_tick * np.arange(len(rate_t))
    basis_tn = np.stack([np.ones_like(angle_t), np.cos(angle_t), np.sin(angle_t)], axis=1)
    _, cosine, sine = np.linalg.lstsq(basis_tn, rate_t)[0]
    return math.hypot(cosine, sine)


def _octaves(rate_t: Array, segment_ticks: int) -> Array:
    """Amplitude in each octave of frequency, highest first, relative to the mean rate."""
    mean = float(rate_t.mean()) if len(rate_t) else 0.0
    whole = len(rate_t) // segment_ticks * segment_ticks
    if not mean or not whole or segment_ticks < 4:
        return np.zeros(0)
    pieces_nt = rate_t[:whole].reshape(-1, segment_ticks)
    power_f = (np.abs(np.fft.rfft(pieces_nt, axis=1)) ** 2).mean(axis=0) * 2 / segment_ticks**2
    bands, end = [], len(power_f)
    while end > 1:
        begin = max(1, end // 2)
        bands.append(math.sqrt(power_f[begin:end].sum()) / mean)
        end = begin
    return np.array(bands)
