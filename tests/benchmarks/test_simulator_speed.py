"""The numba simulator against the plain NumPy float loop, frames in memory.

``python tests/benchmarks/test_simulator_speed.py`` prints one JSON line at full size, and so does
pytest with ``SPIKEDATA_BENCH=full`` and ``-s``; otherwise pytest runs it at tiny size, checking the
answers only. The loops hold each frame; ``linear`` is timed against that same, lesser, work, and so
is ``noise``: ``linear`` with every noise term on, against loops that have none.
``loop`` is the field's way, ``lean`` the same arithmetic with what slows NumPy taken out.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from peers import float_loop, lean_float_loop

from spikedata.bits import pack_ticks
from spikedata.simulator import SensorConfig, SensorState, load_sensor, simulate_ticks


@dataclass(frozen=True)
class Size:
    frames: int
    height_px: int
    width_px: int
    rounds: int
    repeats: int
    """Runs of the fast side in a round: one alone is too short to time."""


TINY = Size(frames=4, height_px=9, width_px=17, rounds=1, repeats=1)
FULL = Size(frames=64, height_px=240, width_px=320, rounds=9, repeats=20)
THREADS = min(2, os.cpu_count() or 1)
K = 10
LOOPS = {"loop": float_loop, "lean": lean_float_loop}


def moving_light(size: Size) -> NDArray[np.uint8]:
    """Waves that move a pixel a frame, with noise: uint8 (N, H, W)."""
    n, y, x = np.ogrid[: size.frames, : size.height_px, : size.width_px]
    wave_nhw = 110 + 90 * np.sin((x + n) / 9) * np.cos((y - n) / 7)
    noise_nhw = np.random.default_rng(0).normal(0, 8, wave_nhw.shape)
    return np.clip(wave_nhw + noise_nhw, 0, 255).astype(np.uint8)


def sensor_of(name: str) -> SensorConfig:
    if name == "noise":
        defects = ["noise.hot_share=0.001", "noise.dead_share=0.001"]
        return load_sensor("vidar-20khz", [f"ticks_per_frame={K}", *defects])
    return SensorConfig(ticks_per_frame=K, interpolation=name, start="zero")


def run(
    luma_nhw: NDArray[np.uint8], sensor: SensorConfig, backend: str = "numba"
) -> NDArray[np.uint8]:
    """All frames but the last, which only ends the last line; packed (G, H, W)."""
    state = SensorState.initial(sensor, *luma_nhw.shape[1:], "clip")
    ticks = (len(luma_nhw) - 1) * K
    return simulate_ticks(
        luma_nhw, state, sensor, ticks, backend=backend, threads=THREADS, flush=True
    )[0]


def check_answers(luma_nhw: NDArray[np.uint8]) -> None:
    """Hold gives the float loops' bits, the others the reference's (on a part of the clip)."""
    hold, linear = sensor_of("hold"), sensor_of("linear")
    for loop in LOOPS.values():
        loop_ghw = pack_ticks(loop(luma_nhw[:-1], K, hold.threshold))
        np.testing.assert_array_equal(run(luma_nhw, hold), loop_ghw)
    corner_nhw = luma_nhw[:, :40, :40]
    want_ghw = run(corner_nhw, linear, backend="reference")
    np.testing.assert_array_equal(run(luma_nhw, linear)[:, :40, :40], want_ghw)
    start_nhw, noise = luma_nhw[:4], sensor_of("noise")
    want_ghw = run(start_nhw, noise, backend="reference")
    np.testing.assert_array_equal(run(start_nhw, noise), want_ghw)


def seconds(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Time by the wall's clock and time of all cores."""
    began = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        work()
    ended = time.perf_counter(), time.process_time()
    return (ended[0] - began[0]) / repeats, (ended[1] - began[1]) / repeats


def measure(size: Size) -> dict[str, object]:
    """Check the answers, then time one after the other, round after round."""
    luma_nhw = moving_light(size)
    check_answers(luma_nhw)
    sensors = {name: sensor_of(name) for name in ("hold", "linear", "noise")}
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in (*LOOPS, *sensors)}
    for _ in range(size.rounds):
        for name, loop in LOOPS.items():
            took[name].append(seconds(lambda f=loop: f(luma_nhw[:-1], K, 2.0), 1))
        for name, sensor in sensors.items():
            took[name].append(seconds(lambda s=sensor: run(luma_nhw, s), size.repeats))
    pixel_ticks = (size.frames - 1) * K * size.height_px * size.width_px
    ratios = {
        f"{ours}/{loop}": [b[0] / a[0] for a, b in zip(took[ours], took[loop], strict=True)]
        for ours in sensors
        for loop in LOOPS
    }
    core_ratios = {
        f"{ours}/loop": [b[1] / a[1] for a, b in zip(took[ours], took["loop"], strict=True)]
        for ours in sensors
    }
    return {
        "benchmark": "numba simulator against the plain NumPy float loop",
        "frames": size.frames - 1,
        "height_px": size.height_px,
        "width_px": size.width_px,
        "ticks_per_frame": K,
        "threads": THREADS,
        "ratio_min_median_max": {name: spread(values) for name, values in ratios.items()},
        "ratio_a_core_min_median_max": {
            name: spread(values) for name, values in core_ratios.items()
        },
        "gpt_per_s_min_median_max": {
            name: spread([pixel_ticks / t / 1e9 for t, _ in times]) for name, times in took.items()
        },
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
    }


def spread(values: list[float]) -> list[float]:
    return [round(f(values), 3) for f in (min, statistics.median, max)]


def test_the_simulator_gives_the_float_loop_s_answer():
    size = FULL if os.environ.get("SPIKEDATA_BENCH") == "full" else TINY
    result = measure(size)
    print(json.dumps(result))
    assert {"hold/loop", "linear/loop", "noise/loop"} <= set(result["ratio_min_median_max"])


if __name__ == "__main__":
    print(json.dumps(measure(FULL)))
