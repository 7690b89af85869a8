"""The Triton kernels: what a pixel starts with, and a clip's ticks in one pass.

A program takes a block of neighbouring pixels of one clip. Kernels know numbers and pointers only;
`triton_batch.py` says what they are, `sensor.py` and `noise.py` what they mean.

Under Triton's interpreter (``TRITON_INTERPRET=1`` before this module is loaded) they run on CPU
tensors, slowly.

Shapes: B clips, N frames, G groups of eight ticks, P pixels, Q numbers, T ticks, X luma codes.
"""

import functools
from typing import Any

from spikedata.errors import MissingExtraError
from spikedata.simulator.maps import LIMITS, SHARE
from spikedata.simulator.noise import MIX_FIRST, MIX_SECOND

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise MissingExtraError(
        "the GPU simulator needs triton (Linux): pip install 'spklip[gpu]'"
    ) from error

BLOCKS = (256, 512, 1024)
"""Pixels a program may take."""

_FIRST = tl.constexpr(MIX_FIRST)
_SECOND = tl.constexpr(MIX_SECOND)
_ONE = tl.constexpr(SHARE)
_FULL_SCALE = tl.constexpr(LIMITS["dark_hw"][1])
_MOST_RESPONSE = tl.constexpr(LIMITS["response_hw"][1])
_LEAST_SHARE = tl.constexpr(LIMITS["threshold_hw"][0])
_MOST_SHARE = tl.constexpr(LIMITS["threshold_hw"][1])
_DRAWS = tl.constexpr(66)
# Exclusive or with it inverts. Of `~` Triton's interpreter makes an array of -1, which NumPy 2.5
# refuses for unsigned words.
_ALL_ONES = tl.constexpr(0xFFFFFFFF)


@triton.jit
def _mix(words):  # type: ignore[no-untyped-def]
    words = words ^ (words >> 16)
    words = words * _FIRST
    words = words ^ (words >> 15)
    words = words * _SECOND
    return words ^ (words >> 16)


@triton.jit
def _draw(key, pixel):  # type: ignore[no-untyped-def]
    """Uniform words of the two-word key at ``key``."""
    first, second = tl.load(key).to(tl.uint32), tl.load(key + 1).to(tl.uint32)
    return _mix(_mix(pixel + first) + second)


@triton.jit  # type: ignore[untyped-decorator]
def _spread(numbers, pixel, least, most, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Nearly normal integers, cut to a range; step, mean and eight keys lie at ``numbers``."""
    total = tl.full((block,), 0, tl.int32)
    for i in range(8):
        words = _draw(numbers + 2 + 2 * i, pixel)
        total += (words & 0xFFFF).to(tl.int32) + (words >> 16).to(tl.int32)
    total -= 8 * 0xFFFF
    drawn = (total.to(tl.int64) * tl.load(numbers) + tl.load(numbers + 1)) >> 32
    return tl.minimum(tl.maximum(drawn, least), most)


@triton.jit  # type: ignore[untyped-decorator]
def start_kernel(  # type: ignore[no-untyped-def]
    draws_bq, residue_bp, response_bp, dark_bp, threshold_bp, word_bp, pixels,
    noisy: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Draw what tells the pixels of one clip apart, and the charge that they start with.

    The numbers are those of ``_draws`` in `triton_batch.py`. Only the residue is written unless
    ``noisy``.
    """
    clip = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < pixels
    at = clip * pixels + place
    pixel = place.to(tl.uint32)
    draws = draws_bq + clip * _DRAWS
    threshold = tl.full((block,), 0, tl.int64) + tl.load(draws)
    limit = threshold
    if noisy:
        response = _spread(draws + 12, pixel, 0, _MOST_RESPONSE, block)
        dark = _spread(draws + 30, pixel, 0, _FULL_SCALE, block)
        share = _spread(draws + 48, pixel, _LEAST_SHARE, _MOST_SHARE, block)
        kind = (_draw(draws + 6, pixel) >> 8).to(tl.int64)
        dead = kind >= tl.load(draws + 9)
        dark = tl.where(kind < tl.load(draws + 8), tl.load(draws + 10), dark)
        dark = tl.where(dead, 0, dark)
        response = tl.where(dead, 0, response)
        threshold = tl.maximum((share * threshold + _ONE // 2) // _ONE, 1)
        limit = tl.where((response == 0) & (dark == 0), 1, threshold)
        word = _draw(draws + 4, pixel)
        tl.store(response_bp + at, response.to(tl.int32), mask=inside)
        tl.store(dark_bp + at, dark.to(tl.int32), mask=inside)
        tl.store(threshold_bp + at, threshold.to(tl.int32), mask=inside)
        tl.store(word_bp + at, word.to(tl.int32, bitcast=True), mask=inside)
    word = _draw(draws + 2, pixel)
    residue = (word.to(tl.int64) * limit * tl.load(draws + 1)) >> 32
    tl.store(residue_bp + at, residue.to(tl.int32), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _light(luma_p, table_x, inside, response, dark, noisy: tl.constexpr):  # type: ignore[no-untyped-def]
    """Light codes of a block of pixels as each gathers them."""
    light = tl.load(table_x + tl.load(luma_p, mask=inside, other=0).to(tl.int32))
    if noisy:
        light = ((light * response + (1 << 13)) >> 14) + dark
    return light


@triton.jit(do_not_specialize=["frames", "groups", "tick", "ticks", "period"])  # type: ignore[untyped-decorator]
def advance_kernel(  # type: ignore[no-untyped-def]
    luma_bnp, table_bx, residue_bp, pending_bp, numbers_bq,
    response_bp, dark_bp, threshold_bp, pixel_words_bp, tick_words_b2t,
    packed_bgp, residue_after_bp, pending_after_bp,
    pixels, frames, groups, tick, ticks, period,
    linear: tl.constexpr, zero: tl.constexpr, noisy: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Take a block of pixels of one clip from ``tick`` on through ``ticks`` ticks.

    The five noise arrays are not looked at unless ``noisy``.
    """
    clip = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    inside = pixel < pixels
    at = clip * pixels + pixel
    numbers = numbers_bq + clip * 8
    threshold = tl.load(numbers)
    part = tl.load(numbers + 1)
    shot = tl.load(numbers + 2)
    jitter = tl.load(numbers + 3)
    dead = tl.load(numbers + 4)
    dead_shift = tl.load(numbers + 5)
    response = threshold
    dark = threshold
    if noisy:
        threshold = tl.load(threshold_bp + at, mask=inside, other=1)
        response = tl.load(response_bp + at, mask=inside, other=0)
        dark = tl.load(dark_bp + at, mask=inside, other=0)
        pixel_word = tl.load(pixel_words_bp + at, mask=inside, other=0).to(tl.uint32, bitcast=True)
        tick_words = tick_words_b2t + clip * 2 * ticks
    table = table_bx + clip * 256
    luma = luma_bnp + clip * frames * pixels + pixel
    packed = packed_bgp + clip * groups * pixels + pixel
    residue = tl.load(residue_bp + at, mask=inside, other=0)
    # What did not fire enters at the highest bit and moves down a bit a tick; after eight ticks the
    # top byte is a group, inverted.
    silent = (tl.load(pending_bp + at, mask=inside, other=0).to(tl.uint32) ^ _ALL_ONES) << 24
    silent = silent << (8 - (tick & 7))
    frames_left = frames
    k = tick % period
    following = _light(luma, table, inside, response, dark, noisy)
    light = following
    step = following
    charge = following
    sigma = following
    loss = following
    fresh = True
    for now in range(tick, tick + ticks):
        if fresh:
            light = following
            frames_left -= 1
            if frames_left > 0:
                luma += pixels
                following = _light(luma, table, inside, response, dark, noisy)
            if linear:
                step = (following - light) * (2 * part)
                charge = light * ((2 * period - 2 * k - 1) * part) + following * (
                    (2 * k + 1) * part
                )
            else:
                charge = light * (2 * period * part)
            if noisy:
                total = light + (following if linear else light)
                # The nearest float, so that its floor is the whole root; tl.sqrt is less exact.
                sigma = (tl.sqrt_rn((total * 32).to(tl.float32)).to(tl.int32) * shot) >> 15
                loss = (total * dead) >> dead_shift
                charge -= 510 * sigma
        if noisy:
            flip = tl.load(tick_words + (now - tick)).to(tl.uint32, bitcast=True)
            factor = tl.load(tick_words + (now - tick) + ticks).to(tl.uint32, bitcast=True)
            word = (pixel_word ^ flip) * factor
            word = word ^ (word >> 16)
            sums = ((word & 0x00FF00FF) + ((word >> 8) & 0x00FF00FF)).to(tl.int32, bitcast=True)
            first = sums & 0xFFFF
            second = sums >> 16
            residue += tl.maximum(charge + sigma * (first + second), 0)
            rest = residue + jitter * (first - second) - threshold
            left = -loss if zero else tl.minimum(rest - loss, threshold - 1)
            residue = tl.where(rest >= 0, left, residue)
        else:
            residue += charge
            rest = residue - threshold
            if zero:
                residue = tl.where(rest >= 0, 0, residue)
            else:
                # As unsigned numbers: a rest below 0 is larger than any residue.
                smaller = tl.minimum(
                    rest.to(tl.uint32, bitcast=True), residue.to(tl.uint32, bitcast=True)
                )
                residue = tl.minimum(smaller.to(tl.int32, bitcast=True), threshold - 1)
        silent = (silent >> 1) | (rest.to(tl.uint32, bitcast=True) & 0x80000000)
        if linear:
            charge += step
        if (now & 7) == 7:
            tl.store(packed, ((silent ^ _ALL_ONES) >> 24).to(tl.uint8), mask=inside)
            packed += pixels
        k += 1
        fresh = k == period
        if fresh:
            k = 0
    done = (tick + ticks) & 7
    pending = (((silent ^ _ALL_ONES) >> 24) >> (8 - done)).to(tl.uint8)
    if done != 0:
        tl.store(packed, pending, mask=inside)
    tl.store(pending_after_bp + at, pending, mask=inside)
    tl.store(residue_after_bp + at, residue, mask=inside)


@functools.cache
def tuned_advance_kernel() -> Any:
    """The kernel, which tries every size of block when it first meets a kind of sensor.

    Not for every size of picture: HMDB51 has dozens, and each trial takes a good part of a second.
    """
    sizes = [triton.Config({"block": block}) for block in BLOCKS]
    return triton.autotune(configs=sizes, key=["linear", "zero", "noisy"])(advance_kernel)


INTERPRETED = not isinstance(advance_kernel, triton.JITFunction)
"""The kernel was defined under Triton's interpreter, so it runs on CPU tensors."""
