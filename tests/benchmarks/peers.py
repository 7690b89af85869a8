"""What others do, written plainly from the description of their method, as peers to be timed."""

import numpy as np
from numpy.typing import NDArray


def float_loop(
    luma_nhw: NDArray[np.uint8], ticks_per_frame: int, threshold: float
) -> NDArray[np.bool_]:
    """The field's usual simulator: a float integrator, one NumPy pass a tick, frames held.

    Light is counted in luma codes, not in fractions of full scale: whole numbers, which float64
    adds without rounding, so that spikes can be compared bit by bit. It costs the same.

    Args:
        luma_nhw: uint8 (N, H, W), frames in memory.
        ticks_per_frame: ticks each frame is held for.
        threshold: in ticks of full light.

    Returns:
        spikes_thw: bool (T, H, W).
    """
    ticks = len(luma_nhw) * ticks_per_frame
    spikes_thw = np.zeros((ticks, *luma_nhw.shape[1:]), dtype=np.bool_)
    integrator_hw = np.zeros(luma_nhw.shape[1:])
    limit = threshold * 255
    for n, luma_hw in enumerate(luma_nhw):
        light_hw = luma_hw.astype(np.float64)
        for k in range(ticks_per_frame):
            integrator_hw += light_hw
            fired_hw = integrator_hw >= limit
            integrator_hw[fired_hw] -= limit
            spikes_thw[n * ticks_per_frame + k] = fired_hw
    return spikes_thw


def lean_float_loop(
    luma_nhw: NDArray[np.uint8], ticks_per_frame: int, threshold: float
) -> NDArray[np.bool_]:
    """:func:`float_loop` as fast as we could make it: a product in place of the index."""
    ticks = len(luma_nhw) * ticks_per_frame
    spikes_thw = np.zeros((ticks, *luma_nhw.shape[1:]), dtype=np.bool_)
    integrator_hw = np.zeros(luma_nhw.shape[1:])
    limit = threshold * 255
    for n, luma_hw in enumerate(luma_nhw):
        light_hw = luma_hw.astype(np.float64)
        for k in range(ticks_per_frame):
            integrator_hw += light_hw
            fired_hw = spikes_thw[n * ticks_per_frame + k]
            np.greater_equal(integrator_hw, limit, out=fired_hw)
            integrator_hw -= limit * fired_hw
    return spikes_thw
