"""Hypothesis strategies that several test files share."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from spikedata.simulator import NoiseConfig, SensorConfig

# 1x1, less than a vector, odd, not a multiple of eight, one vector exactly, several and a rest.
SIZES_HW = [(1, 1), (1, 7), (3, 5), (7, 9), (8, 16), (5, 67), (17, 31)]
TICKS_PER_FRAME = [1, 2, 3, 7, 8, 10, 16, 33, 40, 100, 1000]


def share(most):
    return st.sampled_from([0.0, most]) | st.floats(0.0, most)


def noises(most_jitter=0.1):
    """None half of the time; else any noise, hot and dead pixels far more than real ones."""
    return st.none() | st.builds(
        NoiseConfig,
        response_spread=share(0.3),
        dark_charge=share(0.04),
        dark_spread=share(1.0),
        threshold_spread=share(0.15),
        shot_quanta=st.none() | st.floats(5e3, 1e6),
        threshold_jitter=share(most_jitter),
        dead_time=share(1.0),
        hot_share=share(0.2),
        hot_charge=share(1.0),
        dead_share=share(0.2),
    )


@st.composite
def sensors(draw, ticks_per_frame=None, **fixed):
    """Any sensor; most thresholds below 1 saturate, 2.0 and 1.0 divide the charge evenly."""
    values = {
        "threshold": draw(
            st.sampled_from([2.0, 1.0, 0.25]) | st.floats(0.05, 12.0, allow_nan=False)
        ),
        "ticks_per_frame": ticks_per_frame or draw(st.sampled_from(TICKS_PER_FRAME)),
        "interpolation": draw(st.sampled_from(["hold", "linear"])),
        "reset": draw(st.sampled_from(["subtract", "subtract", "zero"])),
        "transfer": draw(st.sampled_from(["identity", "identity", "srgb", "bt709", "pq", "hlg"])),
        "start": draw(st.sampled_from(["random", "zero"])),
        "seed": draw(st.integers(0, 2**64 - 1)),
    } | fixed
    charge = values["threshold"] * values["ticks_per_frame"]
    if "noise" not in fixed and charge < 8000:  # more does not fit 32 bits with noise
        values["noise"] = draw(noises(0.1 if charge < 150 else 0.004))
    return SensorConfig(**values)


@st.composite
def luma_frames(draw, frames, height_px, width_px):
    """uint8 (N, H, W): black, white and flat pictures among random ones."""
    flat = draw(npst.arrays(np.uint8, frames, elements=st.sampled_from([0, 1, 128, 254, 255])))
    luma_nhw = np.broadcast_to(flat[:, None, None], (frames, height_px, width_px)).copy()
    if draw(st.integers(0, 3)):
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        luma_nhw = rng.integers(0, 256, luma_nhw.shape, dtype=np.uint8)
    return luma_nhw


@st.composite
def recordings(draw, max_ticks=90):
    """(luma_nhw, sensor, ticks): frames enough for ``ticks`` ticks from the clip's start."""
    sensor = draw(sensors())
    height_px, width_px = draw(st.sampled_from(SIZES_HW))
    ticks = draw(st.integers(0, max_ticks))
    frames = max(1, sensor.frames_needed(0, ticks))
    return draw(luma_frames(frames, height_px, width_px)), sensor, ticks
