"""Is a simulated recording like a real one? Statistics of both, and how far apart they are.

How far apart is too far is told by the real recording itself. Its picture is cut in tiles and its
time in halves; for each tile a coin gives one half to recording A and the other to recording B,
and A and B are compared as the real and the simulated one are. Repeated, that gives an interval
for the distance between two recordings of one camera and scene, half as long as the real one.

Recordings of two lengths are compared over the ticks that both have: the more intervals a pixel
shows, the more lengths of them occur, and the longer ones fit in.

Shapes: G groups of eight ticks, H rows, W columns, L lengths of an interval, K tiles, B octave
bands.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.analysis.page import Page, new_figure
from spikedata.analysis.pictures import to_grey
from spikedata.analysis.scanning import Scan, scan
from spikedata.analysis.stats import Profile, profile
from spikedata.bits import TICKS_PER_GROUP, slice_ticks
from spikedata.outputs import write_whole
from spikedata.stream import SpikeSource, SpikeStream

_ROUNDING = 1e-12
_INTERVAL_PERCENT = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistic:
    """One statistic of both recordings and the distance between them."""

    name: str
    """A field of :class:`Profile`, or ``isi_histogram`` or ``spectrum``."""
    meaning: str
    """One line for people."""
    real: float | None
    """Value of the real recording; None where there is none or it is no number."""
    simulated: float | None
    """Value of the simulated one."""
    distance: float | None
    """Absolute difference; ISI histograms: area between the cumulative ones, ticks; spectra:
    root mean square of the octaves' log ratio."""
    interval: tuple[float, float] | None
    """Where 95% of the distances of the real recording from itself lie."""

    @property
    def within(self) -> bool | None:
        """The distance is not above the interval; None if either is unknown."""
        if self.distance is None or self.interval is None:
            return None
        return self.distance <= self.interval[1] + _ROUNDING


@dataclass(frozen=True, eq=False)
class Comparison:
    """What :func:`compare_streams` found."""

    ticks_of: dict[str, int]
    """How many ticks the ``real`` and the ``simulated`` recording have; as many as the shorter
    one has were compared."""
    real: Profile
    simulated: Profile
    real_scan: Scan
    simulated_scan: Scan
    statistics: tuple[Statistic, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "compared_ticks": self.real_scan.ticks,
            "real": _about(self.real_scan, self.ticks_of["real"]),
            "simulated": _about(self.simulated_scan, self.ticks_of["simulated"]),
            "statistics": {
                item.name: {
                    "meaning": item.meaning,
                    "real": item.real,
                    "simulated": item.simulated,
                    "distance": item.distance,
                    "interval": None if item.interval is None else list(item.interval),
                    "within": item.within,
                }
                for item in self.statistics
            },
        }

    def rows(self) -> list[dict[str, str]]:
        """A table for people: one dict a statistic, with the same keys."""
        verdict = {True: "yes", False: "NO", None: "-"}
        return [
            {
                "statistic": item.name,
                "real": _shown(item.real),
                "simulated": _shown(item.simulated),
                "distance": _shown(item.distance),
                "real from itself": (
                    "-"
                    if item.interval is None
                    else f"{_shown(item.interval[0])} to {_shown(item.interval[1])}"
                ),
                "within": verdict[item.within],
            }
            for item in self.statistics
        ]

    def table(self) -> str:
        """The rows as lines of aligned columns, with a head; below them what was cut, if any."""
        rows = self.rows()
        cells = [list(rows[0]), *(list(row.values()) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = (
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        )
        return "\n".join([*lines, *self.notes()])

    def notes(self) -> list[str]:
        """A line that says which recording was cut to the length of the other, if one was."""
        ticks = self.real_scan.ticks
        return [
            f"compared: the first {ticks:,} ticks; {name} has {has:,}"
            for name, has in self.ticks_of.items()
            if has > ticks
        ]


def compare_streams(
    real: SpikeSource | SpikeStream,
    simulated: SpikeSource | SpikeStream,
    *,
    splits: int = 64,
    seed: int = 0,
    threads: int = 1,
) -> Comparison:
    """Compare a simulated recording with a real one, in memory their lengths do not change.

    They need not have one length: of the longer one the first ticks are taken, as many as the
    other has. Nor one size or scene; but the statistics of the rate and of fixed patterns then
    tell the scenes apart, not the cameras.

    Args:
        real: a camera file, a clip (see :func:`open_spikes`) or a stream.
        simulated: likewise.
        splits: how often the real recording is split against itself, at least 2.
        seed: chooses the splits.
        threads: how many share the work; the result is the same.

    Raises:
        ValueError: a recording has less than 16 ticks, or ``splits`` is below 2.
    """
    if splits < 2:
        raise ValueError(f"splits must be at least 2, got {splits}")
    for name, given in (("real", real), ("simulated", simulated)):
        if given.ticks < 16:
            raise ValueError(f"{name}: at least 16 ticks are needed, got {given.ticks}")
    ticks = min(real.ticks, simulated.ticks)
    sources = [_FirstTicks(given, ticks) for given in (real, simulated)]
    with ThreadPoolExecutor(threads) as pool:
        real_scan, simulated_scan = pool.map(scan, sources)
        of_real, of_simulated = profile(real_scan), profile(simulated_scan)
        tiles = len(real_scan.spikes_kt)
        coins_nk = np.random.default_rng(seed).integers(0, 2, (splits, tiles)).astype(np.bool_)
        apart = functools.partial(_own_distances, real_scan)
        own = list(pool.map(apart, coins_nk))
    statistics = tuple(
        Statistic(
            name=name,
            meaning=MEANINGS[name],
            real=_number(getattr(of_real, name, math.nan)),
            simulated=_number(getattr(of_simulated, name, math.nan)),
            distance=_number(apart_by),
            interval=_interval([distances[name] for distances in own]),
        )
        for name, apart_by in _distances(of_real, of_simulated).items()
    )
    ticks_of = {"real": real.ticks, "simulated": simulated.ticks}
    return Comparison(ticks_of, of_real, of_simulated, real_scan, simulated_scan, statistics)


class _FirstTicks:
    """The first ticks of a recording that has as many or more."""

    def __init__(self, source: SpikeSource, ticks: int) -> None:
        self.ticks, self.tick_rate_hz = ticks, source.tick_rate_hz
        self.height_px, self.width_px = source.height_px, source.width_px
        self._source = source

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        if self.ticks == self._source.ticks:
            yield from self._source.blocks()
            return
        left = self.ticks
        for packed_ghw in self._source.blocks():
            ticks = min(left, len(packed_ghw) * TICKS_PER_GROUP)
            yield slice_ticks(packed_ghw, 0, ticks)
            left -= ticks
            if not left:
                return


MEANINGS: dict[str, str] = {
    "firing_rate": "spikes per pixel and tick",
    "isi_mean": "mean inter-spike interval, ticks",
    "isi_histogram": "share of each length of interval",
    "isi_excess_variance": "interval variance less f (1 - f), median pixel, ticks squared",
    "extra_isi_spread": "what noise adds to the intervals, relative to their mean",
    "off_neighbour_share": "share of intervals off the two lengths next to the mean",
    "lag1_correlation": "correlation of consecutive intervals, median pixel",
    "many_lengths_share": "share of pixels with more than two lengths of interval",
    "row_noise": "rows' own offset, relative",
    "column_noise": "columns' own offset, relative",
    "prnu": "pixel-to-pixel spread among bright pixels, relative",
    "dsnu": "pixel-to-pixel spread among dark pixels, spikes a tick",
    "flicker": "amplitude of the mean rate at 100 or 120 Hz, relative",
    "spectrum": "amplitude of the mean rate in each octave",
    "saturated_share": "share of pixels that fire in every tick",
    "silent_share": "share of pixels that never fire",
}
"""What is compared, in the order of the table."""


# --- distances ----------------------------------------------------------------------------------


def _own_distances(scanned: Scan, coin_k: NDArray[np.bool_]) -> dict[str, float]:
    """The recording against itself: a coin a tile says who gets which half of the time."""
    one, other = (profile(scanned, first_half=half_k) for half_k in (coin_k, ~coin_k))
    return _distances(one, other)


def _distances(one: Profile, other: Profile) -> dict[str, float]:
    """Distance of every statistic, in the order of :data:`MEANINGS`."""
    special = {
        "isi_histogram": lambda: _earth_moved(one.isi_share_l, other.isi_share_l),
        "spectrum": lambda: _log_ratio(one.band_amplitude_b, other.band_amplitude_b),
    }
    return {
        name: special[name]() if name in special else abs(getattr(one, name) - getattr(other, name))
        for name in MEANINGS
    }


def _earth_moved(one_l: NDArray[np.float64], other_l: NDArray[np.float64]) -> float:
    if not (one_l.any() and other_l.any()):
        return math.nan
    return float(np.abs(np.cumsum(one_l - other_l)).sum())


def _log_ratio(one_b: NDArray[np.float64], other_b: NDArray[np.float64]) -> float:
    if not len(one_b) or len(one_b) != len(other_b):
        return math.nan
    ratio_b = np.log(np.maximum(one_b, _FAINTEST) / np.maximum(other_b, _FAINTEST))
    return math.sqrt(float((ratio_b**2).mean()))


_FAINTEST = 1e-9
"""Amplitudes below this are rounding."""


def _interval(distances: Sequence[float]) -> tuple[float, float] | None:
    known = [apart for apart in distances if not math.isnan(apart)]
    if not known:
        return None
    low, high = np.percentile(known, _INTERVAL_PERCENT)
    return float(low), float(high)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _about(scanned: Scan, ticks: int) -> dict[str, Any]:
    return {
        "ticks": ticks,
        "height_px": scanned.tile_hw.shape[0],
        "width_px": scanned.tile_hw.shape[1],
        "tick_rate_hz": scanned.tick_rate_hz,
    }


# --- report -------------------------------------------------------------------------------------


def comparison_html(
    comparison: Comparison,
    out: Path | str,
    *,
    title: str = "Comparison",
    overwrite: bool = False,
) -> Path:
    """Write a page about a comparison: the table, interval histograms, spectra and rate maps.

    Args:
        comparison: what :func:`compare_streams` found.
        out: HTML file to write, all in one.
        title: what stands above it.
        overwrite: replace ``out``, once the new one is whole.

    Returns:
        ``out``.

    Raises:
        SpikeDataError: ``out`` is there, and ``overwrite`` is False.
    """
    page = Page(title)
    page.text(
        "The last interval is where 95% of the distances of the real recording from itself "
        "lie: its tiles, shared out by coin, first half of the time against second."
    )
    rows = comparison.rows()
    told = [
        [row["statistic"], item.meaning, *list(row.values())[1:]]
        for item, row in zip(comparison.statistics, rows, strict=True)
    ]
    marked = [n for n, item in enumerate(comparison.statistics) if item.within is False]
    page.table(("statistic", "meaning", *list(rows[0])[1:]), told, marked=marked)
    for note in comparison.notes():
        page.text(note)
    page.heading("Inter-spike intervals and mean rate")
    page.figure(_curves(comparison))
    page.heading("Firing rate of each pixel: real, simulated")
    for scanned in (comparison.real_scan, comparison.simulated_scan):
        grey_hw = to_grey(scanned.count_chw.sum(axis=0) / scanned.ticks)
        page.picture(grey_hw, "firing rate")
    write_whole(Path(out), page.render(), overwrite=overwrite)
    return Path(out)


def _curves(comparison: Comparison) -> Any:
    figure, (lengths, octaves) = new_figure(10, 3.2, columns=2)
    for name, one in (("real", comparison.real), ("simulated", comparison.simulated)):
        longest = max(8, int(np.searchsorted(np.cumsum(one.isi_share_l), 0.999)) + 2)
        lengths.step(
            np.arange(len(one.isi_share_l))[:longest],
            one.isi_share_l[:longest],
            where="mid",
            label=name,
        )
        octave = np.arange(len(one.band_amplitude_b))
        octaves.semilogy(octave, np.maximum(one.band_amplitude_b, _FAINTEST), "o-", label=name)
    octaves.yaxis.set_major_formatter("{x:g}")
    octaves.yaxis.set_minor_formatter("")
    lengths.set(xlabel="interval, ticks", ylabel="share of intervals")
    octaves.set(xlabel="octaves below half the tick rate", ylabel="relative amplitude")
    lengths.legend()
    return figure
