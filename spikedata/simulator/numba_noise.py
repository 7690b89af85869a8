"""The kernel for sensors with noise: the reference's bits, all terms in one pass.

A pixel and tick costs one multiplication for its random word and one ``dot`` each for shot noise
and jitter: with the sums of two bytes in the halves of a lane, ``dot`` with (sigma, sigma) gives
sigma times the sum of all four, with (jitter, -jitter) jitter times the balanced difference. All
that depends on light alone is worked out once a frame interval. Lanes hold residue - threshold.
"""

import functools
from typing import Any

import numba
import numpy as np

from spikedata.simulator.lanes import (
    WIDE,
    add,
    byte_pairs,
    differ,
    dot,
    either,
    exceeds,
    inlined,
    larger,
    light_of,
    load,
    mul,
    root,
    shift_left,
    shift_right,
    smaller,
    splat,
    store,
    sub,
    where,
)

PIXELS = 32 if WIDE else 16
"""Pixels a vector."""


@inlined
def noisy_light(luma, at, table, factor, scratch, count, response, dark):  # type: ignore[no-untyped-def]
    """Light codes of ``count`` pixels from ``luma[at]`` on, as each gathers them."""
    light = light_of(luma, at, table, min(factor, 1), scratch, 32, count)
    light = add(mul(light, response), splat(1 << 13, light))
    return add(shift_right(light, splat(14, light)), dark)


@inlined
def sums_of(pixel_word, flips, factor):  # type: ignore[no-untyped-def]
    """The two sums of two bytes of a pixel and tick, in the halves of a lane."""
    word = differ(pixel_word, splat(flips, pixel_word))
    word = mul(word, splat(factor, word))
    word = differ(word, shift_right(word, splat(16, word)))
    return byte_pairs(word)


@functools.cache
def noisy_kernel(linear: bool, zero: bool) -> Any:
    """The kernel for one interpolation and reset rule.

    It simulates ``ticks`` ticks from ``tick`` on for pixels ``first`` to ``last``, at least one
    vector of them. Its arrays are flat, as in the kernel without noise; ``flips`` and ``factors``
    are the words of each tick from the first on. ``part`` is the charge of a light code
    over 2 K.
    """
    count = PIXELS

    def advance(  # type: ignore[no-untyped-def]
        luma, residue_cu, pending, packed, residue_out_cu, pending_out, first, last,
        tick, ticks, period, table, factor, responses, darks, thresholds_cu, pixel_words,
        flips, factors, part, shot, jitter, dead, dead_shift,
    ):  # fmt: skip
        pixels = residue_cu.size
        scratch = np.empty(count, np.int32)
        for pixel in range(first, last, count):
            at = min(pixel, last - count)
            threshold = load(thresholds_cu, at, count)
            lanes = sub(load(residue_cu, at, count), threshold)
            response, dark = load(responses, at, count), load(darks, at, count)
            if factor:
                response = mul(response, splat(factor, response))
            pixel_word = load(pixel_words, at, count)
            least, nothing = splat(-1, lanes), splat(0, lanes)
            jitters = splat((jitter & 0xFFFF) | (-jitter << 16), lanes)
            spikes = load(pending, at, count)
            bit_index = tick % 8
            bit = splat(1 << bit_index, spikes)
            group, frame, k, left = at, at, tick % period, ticks
            done = np.uintp(0)  # a signed index may be negative, which costs a check
            following = noisy_light(luma, frame, table, factor, scratch, count, response, dark)
            while left > 0:
                light = following
                if linear:
                    following = noisy_light(
                        luma, frame + pixels, table, factor, scratch, count, response, dark
                    )
                total = add(light, following)
                sigma = mul(root(mul(total, splat(32, total))), splat(shot, total))
                sigma = shift_right(sigma, splat(15, sigma))
                loss = shift_right(mul(total, splat(dead, total)), splat(dead_shift, total))
                loss = add(threshold, loss)
                sigmas = either(sigma, shift_left(sigma, splat(16, sigma)))
                half = mul(sub(following, light), splat(part, light))
                step = add(half, half)
                charge = add(mul(light, splat(2 * period * part, light)), half)
                charge = add(charge, dot(splat(0xFF01FF01, sigmas), sigmas))
                if k > 0:
                    charge = add(charge, mul(step, splat(k, step)))
                in_interval = min(period - k, left)
                left -= in_interval
                k = 0
                frame += pixels
                for _ in range(in_interval):
                    sums = sums_of(pixel_word, flips[done], factors[done])
                    done += np.uintp(1)
                    lanes = add(lanes, larger(add(charge, dot(sums, sigmas)), nothing))
                    level = add(lanes, dot(sums, jitters))
                    fired = exceeds(level, least)
                    rest = sub(nothing, loss) if zero else smaller(sub(level, loss), least)
                    lanes = where(fired, rest, lanes)
                    spikes = where(fired, add(spikes, bit), spikes)
                    bit = add(bit, bit)
                    if linear:
                        charge = add(charge, step)
                    bit_index += 1
                    if bit_index == 8:
                        store(packed, group, spikes)
                        group += pixels
                        bit_index = 0
                        spikes = splat(0, spikes)
                        bit = splat(1, spikes)
                if not linear and left > 0:
                    following = noisy_light(
                        luma, frame, table, factor, scratch, count, response, dark
                    )
            if bit_index:
                store(packed, group, spikes)
            store(pending_out, at, spikes)
            store(residue_out_cu, at, add(lanes, threshold))

    try:
        return numba.njit(cache=True, nogil=True)(advance)
    except RuntimeError:  # no folder that numba could cache in: compile in each process
        return numba.njit(nogil=True)(advance)
