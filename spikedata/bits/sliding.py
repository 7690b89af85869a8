"""Counts and intervals of packed trains at one tick after another, many pixels at a time.

From one window to the next a count looks at the ticks that enter and leave alone. An interval looks
outwards from its tick, as far as it must. Eight pixels are handled as one uint64, which LLVM makes
vectors of.

Shapes: G groups of eight ticks, P pixels, V = P / 8. Ticks are counted from bit 0 of the first
group.
"""

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

MOST_REACH_TICKS = 2000
"""How far intervals are looked for at most: groups passed by are counted in a byte."""
_ONES = np.uint64(0x0101010101010101)
_LOW_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
_TOP_BIT = np.uint64(0x8080808080808080)
_NONE = np.uint64(8)
_STRIP = 64
"""uint64 that are searched until all of their pixels have a spike; they stay in the cache."""


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


def find_intervals(
    packed_gp: NDArray[np.uint8], tick: int, seen: tuple[int, int], interval_p: NDArray[np.int32]
) -> None:
    """Find the interval that ``tick`` lies in, of every pixel, or the least that it can be.

    Args:
        packed_gp: uint8 (G, P), contiguous, P a multiple of eight.
        tick: the one wanted.
        seen: first tick that is looked at, and the one after the last; ``tick`` is between them,
            and neither is farther from it than :data:`MOST_REACH_TICKS`.
        interval_p: int32 (P,), where the intervals go, in ticks; ``analysis.textures`` says what
            is given where one is not seen whole.

    Raises:
        ValueError: the ticks are not in the groups, or too many.
    """
    first, end = seen
    reach = max(tick - first, end - 1 - tick)
    if not 0 <= first <= tick < end <= 8 * len(packed_gp) or reach > MOST_REACH_TICKS:
        raise ValueError(f"ticks {seen} around {tick} do not fit {len(packed_gp)} groups")
    packed_gv = packed_gp.view(np.uint64)
    before_2v, after_2v = np.zeros((2, 2, packed_gv.shape[1]), np.uint64)
    missing = _search(packed_gv, tick, first, -1, before_2v)
    if tick + 1 < end:
        missing |= _search(packed_gv, tick + 1, end - 1, 1, after_2v)
    else:
        after_2v[0], missing = _NONE * _ONES, True
    before_2p, after_2p = before_2v.view(np.uint8), after_2v.view(np.uint8)
    _join(tick, before_2p, after_2p, interval_p)
    if missing:
        _bound(packed_gp, tick, seen, before_2p, after_2p, interval_p)


@njit(inline="always")
def _filled(x):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The top bit of each byte that is not zero."""
    return (((x & _LOW_BITS) + _LOW_BITS) | x) & _TOP_BIT


@njit(cache=True, nogil=True)
def _search(packed_gv, begin, last, step, out_2v):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Look for each pixel's first spike from tick ``begin`` to tick ``last``, forwards or back.

    Into ``out_2v``, bytes in each word, go how many ticks of its group come before it on the way,
    _NONE if there is no spike; and how many groups without a spike were passed. Returns whether a
    pixel has none.
    """
    missing = False
    first_group, last_group = begin // 8, last // 8
    of_first, of_last = 255 << (begin % 8), (2 << (last % 8)) - 1
    if step < 0:
        of_first, of_last = (2 << (begin % 8)) - 1, 255 << (last % 8)
    for v0 in range(0, packed_gv.shape[1], _STRIP):
        found_v = out_2v[0, v0 : v0 + _STRIP]
        passed_v = out_2v[1, v0 : v0 + _STRIP]
        group = first_group
        while True:
            own = 255
            if group == first_group:
                own &= of_first
            if group == last_group:
                own &= of_last
            mask = uint64(own) * _ONES
            in_v = packed_gv[group, v0 : v0 + _STRIP]
            left = uint64(0)
            for v in range(in_v.size):
                found = found_v[v]
                top = _filled(found)
                known = (top << uint64(1)) - (top >> uint64(7))  # all bits of such a byte
                found |= in_v[v] & mask & ~known
                empty = (_filled(found) ^ _TOP_BIT) >> uint64(7)
                passed_v[v] += empty
                left |= empty
                found_v[v] = found
            if left == 0 or group == last_group:
                break
            group += step
        missing |= left != 0
        if step > 0:
            for v in range(found_v.size):
                found_v[v] = _zeros_below(found_v[v])
        else:
            for v in range(found_v.size):
                found_v[v] = _zeros_above(found_v[v])
    return missing


@njit(inline="always")
def _zeros_of(x):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Of each byte, how many of its bits are 0."""
    x = x - ((x >> uint64(1)) & _ONES * uint64(0x55))
    x = (x & _ONES * uint64(0x33)) + ((x >> uint64(2)) & _ONES * uint64(0x33))
    return uint64(8) * _ONES - ((x + (x >> uint64(4))) & _ONES * uint64(0x0F))


@njit(inline="always")
def _zeros_below(x):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Of each byte, how many bits are 0 below its lowest 1; 8 of a byte that is 0."""
    x |= (x << uint64(1)) & _ONES * uint64(0xFE)
    x |= (x << uint64(2)) & _ONES * uint64(0xFC)
    x |= (x << uint64(4)) & _ONES * uint64(0xF0)
    return _zeros_of(x)


@njit(inline="always")
def _zeros_above(x):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Of each byte, how many bits are 0 above its highest 1; 8 of a byte that is 0."""
    x |= (x >> uint64(1)) & _ONES * uint64(0x7F)
    x |= (x >> uint64(2)) & _ONES * uint64(0x3F)
    x |= (x >> uint64(4)) & _ONES * uint64(0x0F)
    return _zeros_of(x)


@njit(cache=True, nogil=True)
def _join(tick, before_2p, after_2p, interval_p):  # type: ignore[no-untyped-def]  # pragma: no cover
    to_last, to_next = before_2p[0], after_2p[0]
    passed_before, passed_after = before_2p[1], after_2p[1]
    between = 8 * ((tick + 1) // 8 - tick // 8) - 7
    for p in range(interval_p.size):
        groups = np.int32(passed_before[p]) + np.int32(passed_after[p])
        interval_p[p] = between + 8 * groups + np.int32(to_last[p]) + np.int32(to_next[p])


@njit(inline="always")
def _spike_between(packed_gp, p, first, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """A pixel's first spike in ticks ``first`` to ``end``; ``end`` if there is none."""
    tick = first
    while tick < end:
        byte = packed_gp[tick // 8, p] >> (tick % 8)
        if byte & 1:
            return tick
        tick += 1 if byte else 8 - tick % 8
    return end


@njit(inline="always")
def _spike_before(packed_gp, p, first, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """A pixel's last spike in ticks ``first`` to ``end``; the tick before ``first`` if none."""
    tick = end - 1
    while tick >= first:
        byte = (packed_gp[tick // 8, p] << (7 - tick % 8)) & 255
        if byte & 128:
            return tick
        tick -= 1 if byte else tick % 8 + 1
    return first - 1


@njit(cache=True, nogil=True)
def _bound(packed_gp, tick, seen, before_2p, after_2p, interval_p):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write what intervals are at least that are not seen whole."""
    first, end = seen
    for p in range(interval_p.size):
        to_last, to_next = np.int64(before_2p[0, p]), np.int64(after_2p[0, p])
        last = 8 * (tick // 8 - np.int64(before_2p[1, p])) + 7 - to_last
        then = 8 * ((tick + 1) // 8 + np.int64(after_2p[1, p])) + to_next
        if to_last == _NONE and to_next == _NONE:
            interval_p[p] = end - first + 1
        elif to_next == _NONE:
            interval_p[p] = max(end - last, last - _spike_before(packed_gp, p, first, last))
        elif to_last == _NONE:
            beyond = _spike_between(packed_gp, p, then + 1, end)
            interval_p[p] = max(then - first + 1, beyond - then)
