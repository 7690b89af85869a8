"""The reference's bits at vector speed: numba kernels on explicit LLVM vectors, on every CPU.

The kernel takes one vector of neighbouring pixels through all ticks
of a call with the residue in registers, and stores eight ticks of them as one byte vector.

A lane holds the residue less the threshold, which is negative until a spike is due: signs are
collected as they come and nothing is compared. The next residue is the greater of two unsigned
numbers, with and without the threshold subtracted, for a negative number is a great one of these.

Charge is counted in the largest unit that divides the threshold and every possible charge (257 for
the identity table). The remainder of a residue by that unit never changes, so bits are the
same, and mostly 16 bits a lane are enough, which doubles the speed. Where a spike may cut the
residue (reset to zero, saturation) the unit is 1.

Shapes: N frames, G groups of eight ticks, H rows, W columns, P = H * W pixels.
"""

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.simulator import numba_noise
from spikedata.simulator.lanes import (
    WIDE,
    add,
    differ,
    inlined,
    larger_unsigned,
    light_of,
    load,
    mirror,
    mul,
    prefetch,
    push_sign,
    resize,
    shift_left,
    shift_right,
    smaller,
    splat,
    store,
    sub,
)
from spikedata.simulator.noise import tick_words
from spikedata.simulator.sensor import NoiseAmounts, NoisyPixels, SensorConfig, SensorState

PIXELS = {16: 128, 32: 64} if WIDE else {16: 64, 32: 32}
"""Pixels a vector, by bits a lane: enough independent work to hide the latency of an addition,
as far as the registers go (measured with AVX2: 22 Gpt/s hold at 64 pixels, 17 at 128)."""

PICTURES = 16
"""Frames and groups that one run of the kernel touches. Pictures of 240x320, 480x640 and the like
lie a multiple of 1,024 bytes apart, so that one pixel of all of them shares few sets of a cache
(measured with 36: two thirds of the speed, at times half; with less than 16 the runs get short)."""

VECTORS_AHEAD = 2
"""How far ahead of its use memory is asked for. One pixel of many pictures is a pattern that no
processor guesses (measured with nothing in the caches, 128 ticks: 12.5 Gpt/s without, 16 with)."""


@inlined
def quiet_of(spikes, ticks, bits):  # type: ignore[no-untyped-def]
    """Lanes of ``bits`` bits whose last ``ticks`` bits, latest lowest, say that no spike came."""
    quiet = resize(mirror(differ(spikes, splat(255, spikes))), bits)
    return shift_right(quiet, splat(8 - ticks, quiet))


@inlined
def spikes_of(quiet, ticks):  # type: ignore[no-untyped-def]
    """Undo :func:`quiet_of`: a byte of a group's first ``ticks`` ticks, earliest lowest."""
    fired = shift_left(differ(quiet, splat(-1, quiet)), splat(8 - ticks, quiet))
    return mirror(resize(fired, 8))


@functools.cache
def _kernel(bits: int, linear: bool, reset: str) -> Any:
    """The kernel for one lane size; what is constant here costs nothing in its loops.

    The kernel simulates ``ticks`` ticks from ``tick`` on for pixels ``first`` to ``last``, at least
    one vector of them. Its arrays are flat: luma (N P), residue (P), pending (P), packed (G P)
    and residue and pending again for the results, which must be other arrays: where the
    last vector overlaps the one before it, it begins again from the same residue. ``residue``,
    ``table`` and ``threshold`` are in the units of :class:`_Arithmetic`.
    """
    count, empties, saturates = PIXELS[bits], reset == "zero", reset == "saturate"
    ahead = VECTORS_AHEAD * count

    def advance(  # type: ignore[no-untyped-def]
        luma, residue, pending, packed, residue_out, pending_out, first, last,
        tick, ticks, period, table, factor, threshold,
    ):  # fmt: skip
        pixels = residue.size
        scratch = np.empty(count, np.int32)
        for pixel in range(first, last, count):
            at = min(pixel, last - count)
            lanes = resize(load(residue, at, count), bits)
            thresholds, least = splat(threshold, lanes), splat(-1, lanes)
            lanes = sub(lanes, thresholds)
            empty = sub(splat(0, lanes), thresholds)
            bit_index = tick % 8
            quiet = quiet_of(load(pending, at, count), bit_index, bits)
            group, frame, k, left = at, at, tick % period, ticks
            following = light_of(luma, frame, table, factor, scratch, bits, count)
            while left > 0:
                prefetch(luma, frame + ahead, count, 0)
                light = following
                charge = light
                step = light
                if linear:
                    following = light_of(luma, frame + pixels, table, factor, scratch, bits, count)
                    step = sub(following, light)
                    charge = add(
                        mul(light, splat(2 * period - 2 * k - 1, light)),
                        mul(following, splat(2 * k + 1, light)),
                    )
                    step = add(step, step)
                in_interval = min(period - k, left)
                left -= in_interval
                k = 0
                frame += pixels
                while in_interval > 0:
                    in_group = min(in_interval, 8 - bit_index)
                    in_interval -= in_group
                    bit_index += in_group
                    for _ in range(in_group):
                        lanes = add(lanes, charge)
                        quiet = push_sign(quiet, lanes)
                        rest = empty if empties else sub(lanes, thresholds)
                        lanes = larger_unsigned(lanes, rest)
                        if saturates:
                            lanes = smaller(lanes, least)
                        if linear:
                            charge = add(charge, step)
                    if bit_index == 8:
                        prefetch(packed, group + ahead, count, 1)
                        store(packed, group, spikes_of(quiet, 8))
                        group += pixels
                        bit_index = 0
                if not linear and left > 0:
                    following = light_of(luma, frame, table, factor, scratch, bits, count)
            spikes = spikes_of(quiet, bit_index)
            if bit_index:
                store(packed, group, spikes)
            store(pending_out, at, spikes)
            store(residue_out, at, resize(add(lanes, thresholds), 32))

    try:
        return numba.njit(cache=True, nogil=True)(advance)
    except RuntimeError:  # no folder that numba could cache in: compile in each process
        return numba.njit(nogil=True)(advance)


@dataclass(frozen=True, eq=False)
class _Arithmetic:
    """A sensor in the kernel's units."""

    bits: int
    """Bits of a lane, 16 or 32."""
    reset: str
    """As the sensor's; ``saturate`` where subtracting may leave more than is kept."""
    table: NDArray[np.int32]
    """Units for each luma code: charge of a tick (hold), or light (linear)."""
    factor: int
    """table[y] = factor * y for every y; 0 if there is no such factor."""
    unit: int
    """Charge units in one of the kernel's units."""
    threshold: int

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, sensor: SensorConfig) -> "_Arithmetic":
        """Choose unit and lane size."""
        hold = sensor.interpolation == "hold"
        table_cu = sensor.light_table() * (2 * sensor.ticks_per_frame if hold else 1)
        reset: str = sensor.reset
        if reset == "subtract" and sensor.full_charge_cu > sensor.threshold_cu:
            reset = "saturate"
        unit = math.gcd(sensor.threshold_cu, *table_cu.tolist()) if reset == "subtract" else 1
        # A lane holds from -threshold to the charge of a tick less one.
        bits = 16 if max(sensor.threshold_cu, sensor.full_charge_cu) // unit <= 1 << 15 else 32
        unit = unit if bits == 16 else 1
        table, factor = _factored(table_cu // unit)
        return cls(
            bits=bits,
            reset=reset,
            table=table,
            factor=factor,
            unit=unit,
            threshold=sensor.threshold_cu // unit,
        )


def advance(
    luma_nhw: NDArray[np.uint8],
    state: SensorState,
    sensor: SensorConfig,
    ticks: int,
    threads: int = 1,
) -> tuple[NDArray[np.uint8], SensorState]:
    """Simulate the next ``ticks`` ticks; arguments and results as in the reference's ``advance``.

    ``threads`` threads each take a part of the pixels; the bits do not depend on how many.
    """
    shape_hw, pixels = state.residue_hw.shape, state.residue_hw.size
    groups = group_count(state.pending_ticks + ticks)
    if ticks == 0:
        return state.pending_hw[None][:groups].copy(), state
    noisy = state.pixels is not None
    count = numba_noise.PIXELS if noisy else PIXELS[_Arithmetic.of(sensor).bits]
    width = max(pixels, count)
    luma_np, residue_1p, pending_1p = (
        _flat_pictures(array, width) for array in (luma_nhw, state.residue_hw, state.pending_hw)
    )
    packed_gp = np.empty((groups, width), np.uint8)
    units_3p, residue_p = np.empty((3, width), np.int32), np.empty(width, np.int32)
    pending_2p = np.empty((2, width), np.uint8)
    pieces = _pieces(state.tick, ticks, sensor.ticks_per_frame)
    kernel, unit, numbers = _prepare(state, sensor, ticks, width)

    def run(first: int, last: int) -> None:
        part = slice(first, last)
        np.floor_divide(residue_1p[0, part], unit, out=units_3p[0, part])
        before_p = units_3p[0], pending_1p[0]
        for i, (frame, group, tick, piece_ticks) in enumerate(pieces):
            after_p = units_3p[1 + i % 2], pending_2p[i % 2]
            kernel(
                luma_np[frame:].reshape(-1), *before_p, packed_gp[group:].reshape(-1), *after_p,
                first, last, tick, piece_ticks, sensor.ticks_per_frame, *numbers(tick),
            )  # fmt: skip
            before_p = after_p
        gained_p = np.subtract(before_p[0][part], units_3p[0, part], out=residue_p[part])
        gained_p *= unit
        gained_p += residue_1p[0, part]

    _run_parts(run, _parts(width, count, threads))
    residue_hw = residue_p[:pixels].reshape(shape_hw)
    pending_hw = pending_2p[(len(pieces) - 1) % 2, :pixels].reshape(shape_hw)
    packed_ghw = np.ascontiguousarray(packed_gp[:, :pixels]).reshape(groups, *shape_hw)
    return packed_ghw, SensorState(residue_hw, state.tick + ticks, pending_hw, state.pixels)


def _prepare(
    state: SensorState, sensor: SensorConfig, ticks: int, width: int
) -> tuple[Any, int, Callable[[int], tuple[Any, ...]]]:
    """The kernel, its unit, and its last arguments (from ``table`` on) for a run from a tick on."""
    linear = sensor.interpolation == "linear"
    if state.pixels is None:
        arithmetic = _Arithmetic.of(sensor)
        numbers = arithmetic.table, arithmetic.factor, arithmetic.threshold
        kernel = _kernel(arithmetic.bits, linear, arithmetic.reset)
        return kernel, arithmetic.unit, lambda tick: numbers
    table, factor = _factored(sensor.light_table())
    maps_p = _flat_maps(state.pixels, width)
    words_2t = tick_words(state.pixels.tick_key, state.tick, ticks)
    amounts = NoiseAmounts.of(sensor)
    last = (
        sensor.light_charge_cu // (2 * sensor.ticks_per_frame),
        amounts.shot, amounts.jitter, amounts.dead, amounts.dead_shift,
    )  # fmt: skip

    def noisy_numbers(tick: int) -> tuple[Any, ...]:
        return (table, factor, *maps_p, *words_2t[:, tick - state.tick :], *last)

    return numba_noise.noisy_kernel(linear, sensor.reset == "zero"), 1, noisy_numbers


def _flat_maps(pixels: NoisyPixels, width: int) -> list[NDArray[Any]]:
    maps = pixels.response_hw, pixels.dark_hw, pixels.threshold_hw, pixels.word_hw
    return [_flat_pictures(array, width)[0] for array in maps]


def _factored(table: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
    """The table, and f where table[y] = f * y for every y, else 0."""
    return table, int(table[1]) if np.array_equal(table, table[1] * np.arange(256)) else 0


def _flat_pictures(array: NDArray[Any], pixels: int) -> NDArray[Any]:
    """Pictures (..., H, W) as (N, ``pixels``); where they have fewer pixels, zeros follow."""
    array = np.ascontiguousarray(array).reshape(-1, array.shape[-2] * array.shape[-1])
    missing = pixels - array.shape[1]
    return np.pad(array, ((0, 0), (0, missing))) if missing else array


def _pieces(tick: int, ticks: int, ticks_per_frame: int) -> list[tuple[int, int, int, int]]:
    """(frame, group, tick, ticks) of each run of the kernel, none touching too many pictures.

    Frame and group count from those that the first tick lies in.
    """
    most = int(PICTURES / (1 / ticks_per_frame + 1 / TICKS_PER_GROUP))
    most -= most % TICKS_PER_GROUP
    starts = [tick, *range((tick // most + 1) * most, tick + ticks, most)]
    return [
        (
            start // ticks_per_frame - tick // ticks_per_frame,
            start // TICKS_PER_GROUP - tick // TICKS_PER_GROUP,
            start,
            end - start,
        )
        for start, end in zip(starts, [*starts[1:], tick + ticks], strict=True)
    ]


def _parts(pixels: int, count: int, threads: int) -> list[tuple[int, int]]:
    """Ranges of pixels, whole vectors each except that the last takes what is left."""
    parts = min(threads, pixels // count)
    starts = [pixels * i // (parts * count) * count for i in range(parts)]
    return list(zip(starts, [*starts[1:], pixels], strict=True))


def _run_parts(run: Callable[[int, int], None], parts: list[tuple[int, int]]) -> None:
    if len(parts) == 1:
        run(*parts[0])
        return
    with ThreadPoolExecutor(len(parts) - 1) as pool:
        others = [pool.submit(run, *part) for part in parts[1:]]
        run(*parts[0])
        for other in others:
            other.result()
