"""Frame times: is a video's frame rate constant, and its frames at another, constant, rate.

No frame is ever blended with another: a resampled video repeats or leaves out whole frames, and
the simulator's interpolation does the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Frame = TypeVar("Frame")

_LARGEST_TERM = 1001
"""Broadcast rates are whole numbers, or whole numbers times 1000/1001."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What a video's frame times say about its rate."""

    rate: Fraction
    """Frames a second: the container's where the times agree with it, else the usual spacing's."""
    variable: bool
    """Frames are not evenly spaced."""
    longest_gap_s: Fraction = Fraction(0)
    """Longest time from one frame to the next, if the rate varies."""


def as_rate(value: float | Fraction | None) -> Fraction | None:
    """An exact rate from a container's or a library's rounded one; None if it is no rate."""
    if value is None or not np.isfinite(float(value)) or value <= 0:
        return None
    if isinstance(value, Fraction):
        return value
    near = Fraction(value).limit_denominator(_LARGEST_TERM)
    return near if near > 0 else Fraction(value)


def find_timing(
    times: NDArray[np.int64], tick_s: Fraction, stated: tuple[Fraction | None, ...]
) -> Timing | None:
    """Tell constant from variable rate.

    A rate is constant if no frame strays from an even grid by more than a quarter of the spacing
    between frames, or by one time-base tick where that is coarser: containers round times, and
    cameras jitter. A frame left out is a whole spacing, and so is never even. A variable rate is
    that of the median spacing: a pause then costs no frame of what moves before and after it.

    Args:
        times: int64 (N,), frame times in order of showing, in units of ``tick_s``.
        tick_s: seconds, the container's unit of time.
        stated: rates the container names, most trusted first.

    Returns:
        None if there are too few times and no stated rate to tell anything.
    """
    rates = [rate for rate in stated if rate is not None]
    span = int(times[-1] - times[0]) if len(times) > 1 else 0
    if span <= 0:
        return Timing(rate=rates[0], variable=False) if rates else None
    average = Fraction(len(times) - 1) / (span * tick_s)
    for rate in [*rates, average]:
        if _is_even(times, float(1 / (rate * tick_s))):
            return Timing(rate=rate, variable=False)
    gaps = np.sort(np.diff(times))
    usual = 1 / (int(gaps[len(gaps) // 2]) * tick_s) if gaps[len(gaps) // 2] else average
    near = [rate for rate in rates if Fraction(9, 10) < rate / usual < Fraction(11, 10)]
    rate = near[0] if near else usual
    return Timing(rate=rate, variable=True, longest_gap_s=int(gaps[-1]) * tick_s)


def _is_even(times: NDArray[np.int64], spacing: float) -> bool:
    stray = times - times[0] - np.arange(len(times)) * spacing
    return float(stray.max() - stray.min()) <= max(spacing / 4, min(1.001, 0.9 * spacing))


def hold_at_rate(
    timed: Iterator[tuple[Fraction, Frame]], rate: Fraction, last_s: Fraction, slack_s: Fraction
) -> Iterator[Frame]:
    """Show frames at a constant rate: each output is the latest frame at or before its time.

    The first output is the first frame. Two frames are held at most.

    Args:
        timed: (seconds, frame), in order; a time that runs backwards counts as the one before.
        rate: outputs a second.
        last_s: seconds the last frame lasts.
        slack_s: a frame this much late still counts as being at its time, since containers
            round times.
    """
    first = next(timed, None)
    if first is None:
        return
    due_s, held = first
    time_s = due_s
    step_s = 1 / rate
    for next_s, frame in timed:
        time_s = max(time_s, next_s)
        while due_s + slack_s < time_s:
            yield held
            due_s += step_s
        held = frame
    while due_s + slack_s < time_s + last_s:
        yield held
        due_s += step_s
