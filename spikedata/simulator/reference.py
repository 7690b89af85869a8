"""THE definition of the simulator: slow, short, plain torch.

Every other backend must give these bits. Shapes: N frames, T ticks, G groups of eight ticks, H
rows, W columns.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikedata.bits import pack_ticks, unpack_ticks
from spikedata.simulator.maps import SHARE
from spikedata.simulator.noise import BYTE_SUM_MEAN, tick_words
from spikedata.simulator.sensor import (
    SHOT_SHIFT,
    NoiseAmounts,
    NoisyPixels,
    SensorConfig,
    SensorState,
)


def advance(
    luma_nhw: NDArray[np.uint8], state: SensorState, sensor: SensorConfig, ticks: int
) -> tuple[NDArray[np.uint8], SensorState]:
    """Simulate the next ``ticks`` ticks.

    Args:
        luma_nhw: uint8 (N, H, W), frames from the one that ``state.tick`` lies in.
        state: where the sensor stands.
        sensor: what it is.
        ticks: how many ticks to go.

    Returns:
        packed_ghw: uint8 (G, H, W), the groups from the unfinished one on, the last maybe partial.
        state: give it to the next call.
    """
    light_nhw = torch.from_numpy(sensor.light_table()[luma_nhw])
    if state.pixels is not None:
        light_nhw = noisy_light(light_nhw, state.pixels)
    residue_hw = torch.from_numpy(state.residue_hw.copy())
    pending_thw = unpack_ticks(state.pending_hw[None], 8)[: state.pending_ticks]
    spikes_thw = [torch.from_numpy(plane_hw) for plane_hw in pending_thw]
    first_interval = state.tick // sensor.ticks_per_frame
    for tick in range(state.tick, state.tick + ticks):
        interval, k = divmod(tick, sensor.ticks_per_frame)
        frames_nhw = light_nhw[interval - first_interval :]
        charge_hw = charge(frames_nhw, k, sensor)
        if state.pixels is None:
            fired_hw, residue_hw = integrate(charge_hw, residue_hw, sensor)
        else:
            fired_hw, residue_hw = integrate_noisy(
                charge_hw, residue_hw, sensor, frames_nhw, state.pixels, tick
            )
        spikes_thw.append(fired_hw)
    packed_ghw = _pack(spikes_thw, state.pending_hw.shape)
    partial = (state.tick + ticks) % 8 != 0
    pending_hw = packed_ghw[-1].copy() if partial else np.zeros_like(state.pending_hw)
    after = SensorState(residue_hw.numpy(), state.tick + ticks, pending_hw, state.pixels)
    return packed_ghw, after


def charge(light_nhw: Tensor, k: int, sensor: SensorConfig) -> Tensor:
    """Charge gathered in tick ``k`` of the interval that starts at the first frame.

    Args:
        light_nhw: int32 (N, H, W), light codes; ``linear`` needs two frames.
        k: 0 to ``ticks_per_frame`` - 1.
        sensor: how light goes from frame to frame.

    Returns:
        charge_hw: int32 (H, W), cu.
    """
    two_k = 2 * sensor.ticks_per_frame
    part = sensor.light_charge_cu // two_k
    if sensor.interpolation == "hold":
        return light_nhw[0] * (two_k * part)
    return light_nhw[0] * ((two_k - 2 * k - 1) * part) + light_nhw[1] * ((2 * k + 1) * part)


def integrate(
    charge_hw: Tensor,
    residue_hw: Tensor,
    sensor: SensorConfig,
    *,
    threshold_hw: Tensor | None = None,
    jitter_hw: Tensor | int = 0,
    loss_hw: Tensor | int = 0,
) -> tuple[Tensor, Tensor]:
    """Add a tick's charge and fire.

    Args:
        charge_hw: int32 (H, W), cu.
        residue_hw: int32 (H, W), cu.
        sensor: threshold and reset rule.
        threshold_hw: int32 (H, W), cu, of each pixel in place of the sensor's.
        jitter_hw: int32 (H, W), cu, by which a threshold is lower in this tick.
        loss_hw: int32 (H, W), cu, what a spike costs beside the threshold.

    Returns:
        fired_hw: bool (H, W).
        residue_hw: int32 (H, W), cu.
    """
    if threshold_hw is None:
        threshold_hw = torch.full_like(residue_hw, sensor.threshold_cu)
    level_hw = residue_hw + charge_hw + jitter_hw
    fired_hw = level_hw >= threshold_hw
    left_hw = level_hw - threshold_hw if sensor.reset == "subtract" else torch.zeros_like(level_hw)
    left_hw = torch.minimum(left_hw - loss_hw, threshold_hw - 1)
    return fired_hw, torch.where(fired_hw, left_hw, residue_hw + charge_hw)


def noisy_light(light_nhw: Tensor, pixels: NoisyPixels) -> Tensor:
    """Light codes (N, H, W) as each pixel gathers them, dark charge included."""
    response_hw, dark_hw = torch.tensor(pixels.response_hw), torch.tensor(pixels.dark_hw)
    return (light_nhw * response_hw + SHARE // 2) // SHARE + dark_hw


def integrate_noisy(
    charge_hw: Tensor,
    residue_hw: Tensor,
    sensor: SensorConfig,
    light_nhw: Tensor,
    pixels: NoisyPixels,
    tick: int,
) -> tuple[Tensor, Tensor]:
    """:func:`integrate` with shot noise, threshold jitter and dead time.

    Args:
        charge_hw: int32 (H, W), cu, without shot noise.
        residue_hw: int32 (H, W), cu.
        sensor: the camera.
        light_nhw: int32 (N, H, W), noisy light codes from the tick's interval on.
        pixels: what tells the pixels apart.
        tick: number of the tick in the clip.

    Returns:
        fired_hw: bool (H, W).
        residue_hw: int32 (H, W), cu.
    """
    amounts = NoiseAmounts.of(sensor)
    sum_hw = light_nhw[0] + light_nhw[0 if sensor.interpolation == "hold" else 1]
    sigma_hw = (integer_root(sum_hw * 32) * amounts.shot) >> SHOT_SHIFT
    first_hw, second_hw = bytes_of_tick(pixels, tick)
    shot_hw = sigma_hw * (first_hw + second_hw - BYTE_SUM_MEAN)
    return integrate(
        (charge_hw + shot_hw).clamp(min=0),
        residue_hw,
        sensor,
        threshold_hw=torch.tensor(pixels.threshold_hw),
        jitter_hw=amounts.jitter * (first_hw - second_hw),
        loss_hw=(sum_hw * amounts.dead) >> amounts.dead_shift,
    )


def integer_root(square: Tensor) -> Tensor:
    """floor(sqrt) of int32 from 0 to 2**24 - 1; exact, since double precision has 53 bits."""
    return square.double().sqrt().floor().int()


def bytes_of_tick(pixels: NoisyPixels, tick: int) -> tuple[Tensor, Tensor]:
    """Two sums of two uniform bytes for each pixel, int32 (H, W), each 0 to 510.

    The word of pixel and tick is ((pixel word ^ tick's first word) * tick's second word) mod 2**32,
    and then word ^ (word >> 16); the sums are of its lower and of its upper two bytes.
    """
    flips, factor = (int(words[0]) for words in tick_words(pixels.tick_key, tick, 1))
    word_hw = torch.from_numpy(pixels.word_hw.astype(np.int64))
    word_hw = ((word_hw ^ flips) * factor) & 0xFFFFFFFF
    word_hw = word_hw ^ (word_hw >> 16)
    b0, b1, b2, b3 = ((word_hw >> shift & 0xFF).int() for shift in (0, 8, 16, 24))
    return b0 + b1, b2 + b3


def _pack(spikes_thw: list[Tensor], shape_hw: tuple[int, ...]) -> NDArray[np.uint8]:
    if not spikes_thw:
        return np.zeros((0, *shape_hw), dtype=np.uint8)
    return pack_ticks(torch.stack([plane_hw.bool() for plane_hw in spikes_thw]).numpy())
