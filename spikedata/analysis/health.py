"""Is a spike camera well? Pixels that fire too often, never or always; flicker; what was lost.

A long recording is judged by stretches spread over it, so that the work is bounded whatever its
length. What a pixel is called rests on its rate, that of its eight neighbours, and the median of
the 5x5 pixels around it; see :class:`Health`.

Shapes: T ticks that are read, H rows, W columns, P = H W pixels, N pieces of the time, F
frequencies, K stretches.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from spikedata.analysis.stats import MAINS_HZ, MEDIAN_OF_NORMAL, fit_waves
from spikedata.analysis.trains import flat_blocks
from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.clips import Lost, lost_spans
from spikedata.stream import SpikeSource

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

MOST_TICKS = 8_192
"""Ticks of a recording that are read at most, unless told otherwise."""
STRETCH_TICKS = 4_096
"""Length of a stretch: at 20 kHz 0.2 s, which tells 100 Hz from 120 Hz."""
BLOCK_TICKS = 512
"""Ticks of a stretch that are held at once."""

HOT_TIMES = 1.5
"""A hot pixel fires so many times as often as its neighbours, at least."""
HOT_SPREADS = 8.0
"""A hot pixel's rate is so many spreads of those around it above their median, at least."""
SURE_SPREADS = 6.0
"""A hot pixel's spikes are so many times the square root of those to be expected more, at least."""
DEAD_SPIKES = 10
"""So many spikes of its neighbours make the silence of a pixel no chance."""

LEAST_PERIODS = 5
"""Of 100 Hz, that a stretch must have before flicker is looked for."""
MAINS_LEAST = 0.002
"""Flicker below this share of the mean rate is nothing."""
MAINS_POWER = 14.0
"""Flicker has so many times the median power of the frequencies around, at least: noise comes
there once in 16,000 times."""
NEAR_HZ = (40.0, 300.0)
"""The frequencies around."""

MOST_POINTS = 512
"""Points of the curve of the rate over time."""
MOST_NAMED = 200
"""Pixels that :meth:`Health.to_dict` names of each kind."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Health:
    """What :func:`measure_health` found.

    A pixel is judged by the ticks that were read. It is *saturated* if it fires in every one of
    them. It is *dead* if it fires in none, though six of its eight neighbours fire ten times or
    more; so a dead row is found, and a black surface is not. It is *hot* if it fires at least 1.5
    times as often as all of its eight neighbours but one, at least 8 robust spreads more than the
    median of the 5x5 pixels around it, and more than chance allows (6 times the square root of the
    spikes to be expected). The rules are for a picture made by a lens, in which nothing is
    narrower than a pixel: a drawn dot looks like a hot pixel, a thin black line like dead ones.
    """

    ticks: int
    """Of the recording."""
    tick_rate_hz: float
    stretches: tuple[tuple[int, int], ...]
    """First tick and number of ticks of each stretch that was read."""
    rate_hw: Array
    """float64 (H, W), spikes a tick."""
    hot_hw: Mask
    """bool (H, W)."""
    dead_hw: Mask
    """bool (H, W)."""
    saturated_hw: Mask
    """bool (H, W)."""
    tick_n: NDArray[np.int64]
    """int64 (N,): first tick of each piece of the time."""
    rate_n: Array
    """float64 (N,): mean rate of all pixels in each piece, spikes a tick."""
    frequency_hz: Array
    """float64 (F,): frequencies of the spectrum of the mean rate, without 0."""
    amplitude: Array
    """float64 (F,): amplitude of a wave of that frequency, relative to the mean rate."""
    mains: tuple[float, float] | None
    """Frequency, 100 or 120 Hz, and relative amplitude of the lamps' flicker; None if there is
    none that stands out, or the stretches are too short to tell."""
    lost: tuple[Lost, ...]
    """What was lost: the tick before which, how many ticks (estimated), in how many bytes."""

    @property
    def ticks_read(self) -> int:
        """Ticks of all stretches."""
        return sum(ticks for _, ticks in self.stretches)

    @property
    def mean_rate(self) -> float:
        """Spikes per pixel and tick."""
        return float(self.rate_hw.mean())

    @property
    def tells_flicker(self) -> bool:
        """Whether the stretches are long enough to tell the flicker of lamps."""
        shortest = min(ticks for _, ticks in self.stretches)
        return _tells_mains(shortest, self.tick_rate_hz)

    @property
    def masks(self) -> dict[str, Mask]:
        """The kinds of pixel by name: hot, dead, saturated."""
        return {"hot": self.hot_hw, "dead": self.dead_hw, "saturated": self.saturated_hw}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the maps as counts and places ``[x, y]``, at most 200 of a kind."""
        return {
            "ticks": self.ticks,
            "ticks_read": self.ticks_read,
            "stretches": [list(stretch) for stretch in self.stretches],
            "tick_rate_hz": self.tick_rate_hz,
            "height_px": self.rate_hw.shape[0],
            "width_px": self.rate_hw.shape[1],
            "mean_rate": self.mean_rate,
            "pixels": {
                name: {"count": int(mask_hw.sum()), "xy": places(mask_hw)[:MOST_NAMED].tolist()}
                for name, mask_hw in self.masks.items()
            },
            "rate_over_time": {"tick": self.tick_n.tolist(), "rate": self.rate_n.tolist()},
            "spectrum": {
                "frequency_hz": self.frequency_hz.tolist(),
                "amplitude": self.amplitude.tolist(),
            },
            "mains": None
            if self.mains is None
            else {"frequency_hz": self.mains[0], "amplitude": self.mains[1]},
            "lost": [list(span) for span in self.lost],
            "findings": self.findings(),
        }

    def findings(self) -> list[str]:
        """What there is to know, a sentence each."""
        return [*self._of_pixels(), self._of_flicker(), *self._of_lost(), *self._of_reading()]

    def _of_pixels(self) -> list[str]:
        told = [
            f"{_number(len(found), f'{name} pixel')}: {_listed(found)}."
            for name, mask_hw in self.masks.items()
            if len(found := places(mask_hw))
        ]
        return told or ["No pixel is hot, dead or saturated."]

    def _of_flicker(self) -> str:
        if self.mains is not None:
            hz, amplitude = self.mains
            return (
                f"Flicker at {hz:.0f} Hz: the mean rate swings by {amplitude:.1%}, as under lamps "
                f"on {hz / 2:.0f} Hz mains."
            )
        if self.tells_flicker:
            return "No flicker at 100 or 120 Hz."
        return f"Too short to tell flicker; {LEAST_PERIODS / MAINS_HZ[0] * 1000:.0f} ms are needed."

    def _of_lost(self) -> list[str]:
        if not self.lost:
            return []
        ticks, size = (sum(span[i] for span in self.lost) for i in (1, 2))
        places_ = _number(len(self.lost), "place")
        return [f"About {_number(ticks, 'tick')} lost in {places_}, {_number(size, 'byte')}."]

    def _of_reading(self) -> list[str]:
        if self.ticks_read == self.ticks:
            return []
        stretches = _number(len(self.stretches), "stretch", "stretches")
        return [f"Measured on {self.ticks_read:,} of {self.ticks:,} ticks, in {stretches}."]


def measure_health(source: SpikeSource, *more: SpikeSource, most_ticks: int = MOST_TICKS) -> Health:
    """Measure how well a camera and its recording are: pixels, flicker, what was lost.

    One reading; memory depends on the size of the picture and on ``most_ticks`` alone, and time on
    these where the source has ``read(start, ticks)``, as clips and recordings do.

    Args:
        source: a recording, a clip (see :func:`open_spikes`) or a stream.
        more: others of the same camera, measured with it as one: what is wrong with the camera
            stays, what a scene shows goes. Their ticks count on.
        most_ticks: of a longer source so many are read, in stretches spread over it.

    Raises:
        ValueError: ``most_ticks`` is not positive, the sources differ in size, or blocks do not
            hold the ticks that they should.
    """
    if most_ticks < TICKS_PER_GROUP:
        raise ValueError(f"most_ticks must be at least {TICKS_PER_GROUP}, got {most_ticks}")
    height, width = source.height_px, source.width_px
    count_hw = np.zeros((height, width), np.int64)
    stretches: list[tuple[int, int]] = []
    rates: list[Array] = []
    lost: list[Lost] = []
    before = 0
    for one in (source, *more):
        if (one.height_px, one.width_px) != (height, width):
            found = f"{one.height_px}x{one.width_px}"
            raise ValueError(f"sources must have one size, got {height}x{width} and {found}")
        chosen = _spread(one.ticks, most_ticks)
        blocks, lengths = _read(one, chosen), [ticks for _, ticks in chosen]
        count_p, count_t = _count(blocks, height * width, sum(lengths))
        count_hw += count_p.reshape(height, width)
        rates += np.split(count_t / (height * width), np.cumsum(lengths)[:-1])
        stretches += [(before + start, ticks) for start, ticks in chosen]
        lost += [(before + tick, ticks, size) for tick, ticks, size in _lost_of(one)]
        before += one.ticks
    read = sum(ticks for _, ticks in stretches)
    tick_n, rate_n = _over_time(stretches, rates)
    frequency_hz, amplitude = _spectrum(rates, source.tick_rate_hz)
    return Health(
        ticks=before,
        tick_rate_hz=source.tick_rate_hz,
        stretches=tuple(stretches),
        rate_hw=count_hw / read,
        hot_hw=_hot(count_hw),
        dead_hw=_dead(count_hw),
        saturated_hw=count_hw == read,
        tick_n=tick_n,
        rate_n=rate_n,
        frequency_hz=frequency_hz,
        amplitude=amplitude,
        mains=_mains(rates, source.tick_rate_hz),
        lost=tuple(lost),
    )


def places(mask_hw: Mask) -> NDArray[np.int64]:
    """Where a mask is set: int64 (N, 2) of x and y, row by row."""
    return np.argwhere(mask_hw)[:, ::-1]


def _number(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _listed(found_n2: NDArray[np.int64], most: int = 24) -> str:
    """Some places, for people."""
    told = ", ".join(f"({x}, {y})" for x, y in found_n2[:most])
    return f"{told} and {len(found_n2) - most:,} more" if len(found_n2) > most else f"at {told}"


# --- reading ------------------------------------------------------------------------------------


def _spread(ticks: int, most_ticks: int) -> list[tuple[int, int]]:
    """First tick and length of stretches of whole groups over a recording, its ends among them."""
    if ticks <= most_ticks:
        return [(0, ticks)]
    count = max(1, most_ticks // STRETCH_TICKS)
    groups = most_ticks // count // TICKS_PER_GROUP
    spare = ticks // TICKS_PER_GROUP - groups
    firsts = [spare // 2] if count == 1 else [spare * n // (count - 1) for n in range(count)]
    return [(first * TICKS_PER_GROUP, groups * TICKS_PER_GROUP) for first in firsts]


def _read(
    source: SpikeSource, stretches: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Blocks (g, P) of the stretches, with their first tick among those that are read."""
    read = getattr(source, "read", None)
    if read is None or stretches[0] == (0, source.ticks):
        yield from _cut_out(flat_blocks(source), stretches)
        return
    done = 0
    for start, ticks in stretches:
        for first in range(0, ticks, BLOCK_TICKS):
            packed_ghw = read(start + first, min(BLOCK_TICKS, ticks - first)).packed_ghw
            yield done + first, np.ascontiguousarray(packed_ghw).reshape(len(packed_ghw), -1)
        done += ticks


def _cut_out(
    blocks: Iterable[tuple[int, NDArray[np.uint8]]], stretches: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The stretches out of a source that is read from its beginning to its end."""
    for tick, packed_gp in blocks:
        done = 0
        for start, ticks in stretches:
            first = max(0, start - tick) // TICKS_PER_GROUP
            end = max(0, group_count(start + ticks) - tick // TICKS_PER_GROUP)
            if len(piece_gp := packed_gp[first:end]):
                yield done + tick + first * TICKS_PER_GROUP - start, piece_gp
            done += ticks


def _count(
    blocks: Iterable[tuple[int, NDArray[np.uint8]]], pixels: int, ticks: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Spikes of each pixel, int64 (P,), and of each tick, int64 (T,).

    Intervals do not matter here, so that bits are counted by words, ten times as fast as by the
    kernel that walks from spike to spike.
    """
    count_p, count_t = np.zeros(pixels, np.int64), np.zeros(ticks + TICKS_PER_GROUP, np.int64)
    padded_gp = np.zeros((_BYTE_GROUPS, -(-pixels // 8) * 8), np.uint8)
    for tick, packed_gp in blocks:
        for first in range(0, len(packed_gp), _BYTE_GROUPS):
            piece_gp = packed_gp[first : first + _BYTE_GROUPS]
            count_p += np.bitwise_count(piece_gp).sum(axis=0, dtype=np.uint8)
            padded_gp[: len(piece_gp), :pixels] = piece_gp
            words_gw = padded_gp[: len(piece_gp)].view(np.uint64)
            at = tick + first * TICKS_PER_GROUP
            for k in range(TICKS_PER_GROUP):
                ones_gw = np.bitwise_count(words_gw & (_LOWEST_BITS << np.uint64(k)))
                ends = at + len(piece_gp) * TICKS_PER_GROUP
                count_t[at + k : ends : TICKS_PER_GROUP] += ones_gw.sum(axis=1, dtype=np.int64)
    return count_p, count_t[:ticks]


_BYTE_GROUPS = 31
"""Groups whose spikes a byte can count: 8 of them are at most 248."""
_LOWEST_BITS = np.uint64(0x0101_0101_0101_0101)


def _lost_of(source: SpikeSource) -> tuple[Lost, ...]:
    """What a recording lost, or what the clip that it became says of that."""
    stored = getattr(source, "stored", None)
    if stored is not None:
        return lost_spans(stored.attributes)
    spans = getattr(source, "losses", ())
    return tuple((span.tick, span.ticks, span.bytes) for span in spans)


# --- pixels -------------------------------------------------------------------------------------


def _hot(count_hw: NDArray[np.int64]) -> Mask:
    """Which pixels fire far more than those around them; see :class:`Health`."""
    second_hw = np.partition(_neighbours(count_hw), -2, axis=0)[-2]
    chance_hw = SURE_SPREADS * np.sqrt(np.maximum(second_hw, 1))
    hot_hw: Mask = (count_hw >= HOT_TIMES * second_hw) & (count_hw - second_hw > chance_hw)
    around_hwyx = sliding_window_view(np.pad(count_hw, 2, mode="reflect"), (5, 5))
    around_nk = around_hwyx[hot_hw].reshape(-1, 25)
    median_n = np.median(around_nk, axis=1)
    spread_n = np.median(np.abs(around_nk - median_n[:, None]), axis=1) / MEDIAN_OF_NORMAL
    hot_hw[hot_hw] = count_hw[hot_hw] - median_n >= HOT_SPREADS * spread_n
    return hot_hw


def _dead(count_hw: NDArray[np.int64]) -> Mask:
    """Which pixels are silent though those around them fire; see :class:`Health`."""
    third_hw = np.partition(_neighbours(count_hw), 2, axis=0)[2]
    dead_hw: Mask = (count_hw == 0) & (third_hw >= DEAD_SPIKES)
    return dead_hw


def _neighbours(count_hw: NDArray[np.int64]) -> NDArray[np.int64]:
    """The eight around each pixel, int64 (8, H, W); beyond the edge, those on its other side."""
    height, width = count_hw.shape
    padded_yx = np.pad(count_hw, 1, mode="reflect")
    steps = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return np.stack([padded_yx[y : y + height, x : x + width] for y, x in steps])


# --- time ---------------------------------------------------------------------------------------


def _over_time(
    stretches: Sequence[tuple[int, int]], rates: Sequence[Array]
) -> tuple[NDArray[np.int64], Array]:
    """First tick and mean rate of pieces of the stretches, about :data:`MOST_POINTS` in all."""
    step = -(-sum(map(len, rates)) // MOST_POINTS)
    tick_n, rate_n = [], []
    for (start, ticks), rate_t in zip(stretches, rates, strict=True):
        firsts = np.arange(0, ticks, step)
        tick_n.append(start + firsts)
        lengths = np.diff(np.append(firsts, ticks))
        rate_n.append(np.add.reduceat(rate_t, firsts) / lengths)
    return np.concatenate(tick_n), np.concatenate(rate_n)


def _spectrum(rates: Sequence[Array], tick_rate_hz: float) -> tuple[Array, Array]:
    """Frequencies and relative amplitudes: Hann windows, half over one another, mean power.

    Source: P. D. Welch, "The use of fast Fourier transform for the estimation of power spectra",
    IEEE Transactions on Audio and Electroacoustics 15(2), 1967.
    """
    segment = min(STRETCH_TICKS, *map(len, rates))
    mean = float(np.concatenate(rates).mean())
    if segment < 4 or not mean:
        return np.zeros(0), np.zeros(0)
    window_t = np.hanning(segment + 1)[:segment]
    pieces_nt = np.concatenate(
        [sliding_window_view(rate_t, segment)[:: segment // 2] for rate_t in rates]
    )
    own_nt = (pieces_nt - pieces_nt.mean(axis=1, keepdims=True)) * window_t
    power_f = (np.abs(np.fft.rfft(own_nt, axis=1)) ** 2).mean(axis=0)
    amplitude = 2 / window_t.sum() * np.sqrt(power_f) / mean
    frequency_hz = np.arange(1, len(amplitude)) * tick_rate_hz / segment
    return frequency_hz, amplitude[1:]


def _tells_mains(ticks: int, tick_rate_hz: float) -> bool:
    return ticks * MAINS_HZ[0] >= LEAST_PERIODS * tick_rate_hz > LEAST_PERIODS * 2 * MAINS_HZ[1]


def _mains(rates: Sequence[Array], tick_rate_hz: float) -> tuple[float, float] | None:
    """Frequency and relative amplitude of the flicker of lamps, if it stands out.

    Both frequencies are fitted at once; what is left tells how strong any other frequency around
    them is.
    """
    mean = float(np.concatenate(rates).mean())
    shortest = min(map(len, rates))
    if not mean or not _tells_mains(shortest, tick_rate_hz):
        return None
    step_hz = tick_rate_hz / shortest
    around_hz = np.arange(NEAR_HZ[0], NEAR_HZ[1], step_hz)
    clear = np.min([np.abs(around_hz - hz) for hz in MAINS_HZ], axis=0) > 1.5 * step_hz
    around_hz = around_hz[clear & (around_hz < tick_rate_hz / 2)]
    own, others = [], []
    for rate_t in rates:
        amplitude_n, rest_t = fit_waves(rate_t, [hz / tick_rate_hz for hz in MAINS_HZ])
        own.append(amplitude_n**2)
        others.append([fit_waves(rest_t, [hz / tick_rate_hz])[0][0] ** 2 for hz in around_hz])
    power_n, around = np.mean(own, axis=0), float(np.median(np.mean(others, axis=0)))
    best = int(power_n.argmax())
    amplitude = math.sqrt(float(power_n[best])) / mean
    if amplitude < MAINS_LEAST or power_n[best] < MAINS_POWER * around:
        return None
    return MAINS_HZ[best], amplitude
