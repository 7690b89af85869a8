"""Numbers that tell one spike stream from another: firing rate and inter-spike intervals.

:func:`profile` works them out from the sums of :func:`spikedata.analysis.scanning.scan`; see
``compare.py``.

Shapes: T ticks, H rows, W columns, L lengths of an interval, K tiles of the picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.analysis.scanning import PixelMaps, Scan

Array = NDArray[np.float64]


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
    """Statistics of a recording from its :func:`~spikedata.analysis.scanning.scan`.

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


def _profile(
    maps: PixelMaps,
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
    scale = 1 / MEDIAN_OF_NORMAL / 6
    prnu = scale * _median(grain_hw[bright_hw] / inner_hw[bright_hw])
    return prnu, scale * _median(grain_hw[inner_hw <= darkest])


MEDIAN_OF_NORMAL = 0.6745
"""Median of the absolute value of a normal variable with spread 1."""


def _line_noise(rate_n: Array) -> float:
    """Spread of single rows (or columns) about their neighbours, relative to the mean rate."""
    mean = float(rate_n.mean())
    if len(rate_n) < 3 or not mean:
        return math.nan
    bend_n = np.abs(rate_n[:-2] - 2 * rate_n[1:-1] + rate_n[2:])
    return float(np.median(bend_n) / MEDIAN_OF_NORMAL / math.sqrt(6) / mean)


def _flicker(rate_t: Array, tick_rate_hz: float) -> float:
    """Amplitude at 100 or 120 Hz by least squares; NaN below one whole period of 100 Hz."""
    mean = float(rate_t.mean())
    if not mean or len(rate_t) < tick_rate_hz / 100 or tick_rate_hz <= 240:
        return math.nan
    waves = [fit_waves(rate_t, [hz / tick_rate_hz])[0][0] for hz in MAINS_HZ]
    return float(max(waves)) / mean


MAINS_HZ = (100.0, 120.0)
"""Lamps flicker at twice the frequency of the mains, of 50 or 60 Hz."""


def fit_waves(rate_t: Array, cycles_per_tick_n: Sequence[float]) -> tuple[Array, Array]:
    """Fit sine waves of given frequencies to a series, all at once, by least squares.

    Returns:
        amplitude_n: float64, of each wave.
        rest_t: float64 (T,), the series without its mean and them.
    """
    angle_tn = 2 * np.pi * np.outer(np.arange(len(rate_t)), cycles_per_tick_n)
    basis_tk = np.hstack([np.ones((len(rate_t), 1)), np.cos(angle_tn), np.sin(angle_tn)])
    fitted_k = np.linalg.lstsq(basis_tk, rate_t)[0]
    cosine_n, sine_n = np.split(fitted_k[1:], 2)
    return np.hypot(cosine_n, sine_n), rate_t - basis_tk @ fitted_k


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
