"""Windows that move along with the time: counts and intervals of packed trains, kept up to date.

Both go forwards only. From one picture to the next they look at the ticks that enter and leave,
never at all of a window again.

Shapes: G groups of eight ticks, P pixels. Ticks are counted from bit 0 of the first group.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

NO_SPIKE = -1


def move_count(
    packed_gp: NDArray[np.uint8],
    before: tuple[int, int],
    window: tuple[int, int],
    count_p: NDArray[np.int32],
) -> None:
    """Turn the spike counts of one window into those of a later one, in place.

    Args:
        packed_gp: uint8 (G, P), which holds both windows; of the first only what is not in the
            second is looked at, and nothing if they have less than half in common.
        before: first tick of the window counted, and the one after its last.
        window: likewise of the window wanted, nowhere earlier.
        count_p: int32 (P,), the spikes of ``before``, then of ``window``.

    Raises:
        ValueError: the window is not in the groups, or moves back.
    """
    (old, old_end), (first, end) = before, window
    if not (old <= first <= end <= 8 * len(packed_gp) and old_end <= end):
        raise ValueError(f"ticks {window} cannot follow {before} in {len(packed_gp)} groups")
    if 2 * (old_end - first) < end - first:
        count_p[:] = 0
        _add_spikes(packed_gp, first, end, 1, count_p)
    else:
        _add_spikes(packed_gp, old, first, -1, count_p)
        _add_spikes(packed_gp, old_end, end, 1, count_p)


@njit(cache=True, nogil=True)
def _add_spikes(packed_gp, first, end, sign, count_p):  # type: ignore[no-untyped-def]  # pragma: no cover
    for g in range(first // 8, (end + 7) // 8):
        mask = 255
        if first > 8 * g:
            mask &= 255 << (first - 8 * g)
        if end < 8 * g + 8:
            mask &= 255 >> (8 * g + 8 - end)
        in_p = packed_gp[g]
        for p in range(in_p.size):
            x = in_p[p] & mask
            x = x - ((x >> 1) & 0x55)
            x = (x & 0x33) + ((x >> 2) & 0x33)
            count_p[p] += sign * ((x + (x >> 4)) & 0x0F)


@njit(inline="always")
def _next_spike(packed_gp, p, first, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """First spike of a pixel in ticks ``first`` to ``end``, or NO_SPIKE."""
    if first >= end:
        return NO_SPIKE
    g = first // 8
    byte = packed_gp[g, p] >> (first % 8)
    tick = first
    while byte == 0:
        g += 1
        tick = 8 * g
        if tick >= end:
            return NO_SPIKE
        byte = packed_gp[g, p]
    while not byte & 1:
        byte >>= 1
        tick += 1
    return tick if tick < end else NO_SPIKE


@njit(cache=True, nogil=True)
def move_intervals(packed_gp, base, tick, known, searched, spikes_3p, interval_p):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Find the interval that ``tick`` lies in, of every pixel, or the least that it can be.

    Args:
        packed_gp: uint8 (G, P).
        base: tick of its first bit; all other ticks are counted as this one is.
        tick: the one wanted, not before that of the call before.
        known: first tick that is looked at, and the one after the last; ``tick`` is between them.
        searched: where ``known`` ended in the call before; at first, where it begins.
        spikes_3p: int64 (3, P), the last spike but one, the last one at or before ``tick``, and the
            first after it, as the call before left them; NO_SPIKE at first.
        interval_p: int32 (P,), where the intervals go, in ticks.
    """
    low, high = known
    for p in range(interval_p.size):
        before, last, after = spikes_3p[0, p], spikes_3p[1, p], spikes_3p[2, p]
        if after < 0:
            after = _next_spike(packed_gp, p, searched - base, high - base)
            after += base if after >= 0 else 0
        while 0 <= after <= tick:
            before, last = last, after
            after = _next_spike(packed_gp, p, max(last + 1, low) - base, high - base)
            after += base if after >= 0 else 0
        spikes_3p[0, p], spikes_3p[1, p], spikes_3p[2, p] = before, last, after
        if last >= low and after >= 0:
            interval_p[p] = after - last
        elif (
            last >= low
        ):  # its end is not known: no shorter than what is seen, or than the one before
            interval_p[p] = max(high - last, last - max(before, low - 1))
        elif after >= 0:
            then = _next_spike(packed_gp, p, after + 1 - base, high - base)
            then = then + base if then >= 0 else high
            interval_p[p] = max(after - low + 1, then - after)
        else:
            interval_p[p] = high - low + 1
