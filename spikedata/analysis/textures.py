"""Single pictures of spikes, unpacked and slow: the definition of what `reconstruct` gives.

All are in spikes a tick. Shapes: T ticks, H rows, W columns.

Source of TFP and TFI: L. Zhu et al., "A Retina-Inspired Sampling Method for Visual Texture
Reconstruction", ICME 2019.
"""

import numpy as np
from numpy.typing import NDArray

from spikedata.stream import SpikeStream

LEAST_EXPOSURE_TICKS = 8
"""The shortest window that an adaptive picture counts spikes of."""
MOST_DIFFERENCE = 9
"""Spikes by which the halves of a window may differ, over 3 x 3 pixels, in constant light."""


def texture_from_playback(stream: SpikeStream) -> NDArray[np.float64]:
    """TFP picture of a whole stream (cut the window you want first, with ``window``).

    Returns:
        rate_hw: float64 (H, W), spikes a tick, 0 to 1.
    """
    return stream.spike_count_hw() / stream.ticks


def texture_from_interval(stream: SpikeStream, tick: int) -> NDArray[np.float64]:
    """TFI picture of what is known: one over the interval that ``tick`` lies in.

    The interval of a pixel runs from its last spike at or before ``tick`` to its first one after.

    Args:
        stream: ticks around the one wanted; spikes outside it are not known.
        tick: which, counted from the start of ``stream``.

    Returns:
        rate_hw: float64 (H, W), spikes a tick; 0 where the stream holds only one end of the
        interval, or neither.

    Raises:
        ValueError: ``tick`` is not in the stream.
    """
    _check_tick(stream, tick)
    planes_thw = stream.unpack()
    before_thw, after_thw = planes_thw[tick::-1], planes_thw[tick + 1 :]
    if not len(after_thw):
        return np.zeros(planes_thw.shape[1:])
    known_hw = before_thw.any(axis=0) & after_thw.any(axis=0)
    interval_hw = before_thw.argmax(axis=0) + 1 + after_thw.argmax(axis=0)
    return np.where(known_hw, 1 / interval_hw, 0.0)


def least_interval(stream: SpikeStream, tick: int, reach_ticks: int) -> NDArray[np.int64]:
    """The interval that ``tick`` lies in or, where it is not seen whole, the least it can be.

    Of an interval with one end outside the ticks looked at, the part inside is a lower bound, which
    says little if the end known is near; the interval beside it is likely to be about as long.
    The longer of the two is taken. With no spike at all, the bound is all ticks looked at and one.

    Args:
        stream: spikes outside it are not known.
        tick: which, counted from the start of ``stream``.
        reach_ticks: ticks looked at, before ``tick`` and after it.

    Returns:
        interval_hw: int64 (H, W), ticks.

    Raises:
        ValueError: ``tick`` is not in the stream.
    """
    _check_tick(stream, tick)
    low, high = max(0, tick - reach_ticks), min(stream.ticks, tick + reach_ticks + 1)
    spikes_thw = stream.window(low, high - low).unpack() > 0
    time_t = np.arange(low, high)[:, None, None]
    past_thw = np.where(spikes_thw, time_t, low - 1)[: tick + 1 - low]
    future_thw = np.where(spikes_thw, time_t, high)[tick + 1 - low :]
    edge = [(2, 2), (0, 0), (0, 0)]
    before_hw, last_hw = np.sort(np.pad(past_thw, edge, constant_values=low - 1), axis=0)[-2:]
    after_hw, then_hw = np.sort(np.pad(future_thw, edge, constant_values=high), axis=0)[:2]
    begun_hw, ended_hw = last_hw >= low, after_hw < high
    before_it_hw = np.where(begun_hw & ~ended_hw, last_hw - before_hw, 0)
    after_it_hw = np.where(ended_hw & ~begun_hw, then_hw - after_hw, 0)
    beside_hw = np.maximum(before_it_hw, after_it_hw)
    interval_hw: NDArray[np.int64] = np.maximum(after_hw - last_hw, beside_hw)
    return interval_hw


def adaptive_texture(
    stream: SpikeStream, first: int, window_ticks: int, reach_ticks: int
) -> NDArray[np.float64]:
    """TFP of the longest window in which a pixel's light did not change, else TFI.

    Windows are tried from ``window_ticks`` down, each half as long as the one before, all around
    one tick, and none shorter than 8. In constant light the spikes of two equally long stretches
    differ by one at most, so over 3 x 3 pixels the two halves of a window differ by at most 9.
    Where they differ by more the light has changed. Where even the shortest window says so, the
    interval around the tick is shown.

    Args:
        stream: spikes outside it are not known.
        first: first tick of the longest window.
        window_ticks: its length.
        reach_ticks: as for :func:`least_interval`.

    Returns:
        rate_hw: float64 (H, W), spikes a tick.
    """
    rate_hw = 1 / least_interval(stream, first + window_ticks // 2, reach_ticks)
    for begin, half in reversed(nested_windows(first, window_ticks)):
        count_hw = stream.window(begin, half).spike_count_hw()
        later_hw = stream.window(begin + half, half).spike_count_hw()
        still_hw = np.abs(sum_around(later_hw - count_hw)) <= MOST_DIFFERENCE
        rate_hw[still_hw] = ((count_hw + later_hw) / (2 * half))[still_hw]
    return rate_hw


def nested_windows(first: int, window_ticks: int) -> list[tuple[int, int]]:
    """First tick and half the length of the windows that an adaptive picture tries, longest first.

    The longest is a tick shorter than ``window_ticks`` if that is odd.
    """
    middle, halves = first + window_ticks // 2, [window_ticks // 2]
    while halves[-1] // 2 >= LEAST_EXPOSURE_TICKS // 2:
        halves.append(halves[-1] // 2)
    return [(middle - half, half) for half in halves if half]


def sum_around(value_hw: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums over 3 x 3 pixels; at the edge the outermost pixels count again."""
    wide_hw = np.pad(value_hw, 1, mode="edge")
    rows_hw = wide_hw[:-2] + wide_hw[1:-1] + wide_hw[2:]
    total_hw: NDArray[np.int64] = rows_hw[:, :-2] + rows_hw[:, 1:-1] + rows_hw[:, 2:]
    return total_hw


def _check_tick(stream: SpikeStream, tick: int) -> None:
    if not 0 <= tick < stream.ticks:
        raise ValueError(f"tick {tick} is not one of the stream's {stream.ticks}")
