"""THE definition of the simulator: slow, short, plain torch.

Every other backend must give these bits. Shapes: N frames, T ticks, G groups of eight ticks, H
rows, W columns.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikedata.simulator.sensor import SensorConfig, SensorState
from spikedata.stream import pack_ticks, unpack_ticks


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
    residue_hw = torch.from_numpy(state.residue_hw.copy())
    pending_thw = unpack_ticks(state.pending_hw[None], 8)[: state.pending_ticks]
    spikes_thw = [torch.from_numpy(plane_hw) for plane_hw in pending_thw]
    first_interval = state.tick // sensor.ticks_per_frame
    for tick in range(state.tick, state.tick + ticks):
        interval, k = divmod(tick, sensor.ticks_per_frame)
        residue_hw = residue_hw + charge(light_nhw[interval - first_interval :], k, sensor)
        fired_hw = residue_hw >= sensor.threshold_cu
        residue_hw = torch.where(fired_hw, after_spike(residue_hw, sensor), residue_hw)
        spikes_thw.append(fired_hw)
    packed_ghw = _pack(spikes_thw, state.pending_hw.shape)
    partial = (state.tick + ticks) % 8 != 0
    pending_hw = packed_ghw[-1].copy() if partial else np.zeros_like(state.pending_hw)
    return packed_ghw, SensorState(residue_hw.numpy(), state.tick + ticks, pending_hw)


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
    if sensor.interpolation == "hold":
        return light_nhw[0] * two_k
    return light_nhw[0] * (two_k - 2 * k - 1) + light_nhw[1] * (2 * k + 1)


def after_spike(residue_hw: Tensor, sensor: SensorConfig) -> Tensor:
    """Charge left in pixels that fire, int32 (H, W), cu."""
    if sensor.reset == "zero":
        return torch.zeros_like(residue_hw)
    return (residue_hw - sensor.threshold_cu).clamp(max=sensor.threshold_cu - 1)


def _pack(spikes_thw: list[Tensor], shape_hw: tuple[int, ...]) -> NDArray[np.uint8]:
    if not spikes_thw:
        return np.zeros((0, *shape_hw), dtype=np.uint8)
    return pack_ticks(torch.stack([plane_hw.bool() for plane_hw in spikes_thw]).numpy())
