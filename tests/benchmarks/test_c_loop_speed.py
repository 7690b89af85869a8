"""The numba simulator against C with vectors of the same width, `linear`, one thread each.

``python tests/benchmarks/test_c_loop_speed.py`` builds ``c_loop.c`` in a temporary folder and
prints one JSON line at full size; under pytest it runs at tiny size and checks the answers only.
The C loop comes with lanes of 32 bits, the sensor's own arithmetic, and of 16, which our kernel
uses where they are enough.
"""

import ctypes
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from spikedata.simulator import SensorConfig, SensorState, simulate_ticks
from spikedata.simulator.lanes import WIDE
from spikedata.simulator.numba_cpu import PIXELS

SOURCE = Path(__file__).with_name("c_loop.c")
COMPILER = shutil.which("gcc") or shutil.which("clang")
WIDTH = 64 if WIDE else 32
K = 10
SENSOR = SensorConfig(ticks_per_frame=K, interpolation="linear", start="zero")
UNIT = {32: 257, 16: 1}
"""Light of one luma code, in the loop's own units, by bits a lane."""


def build(folder: Path, bits: int) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Compile the loop for this machine; gives a function like :func:`ours`."""
    library = folder / f"loop{bits}.so"
    words = {
        "LANE": f"int{bits}_t",
        "WIDTH": WIDTH,
        "VECTORS": PIXELS[bits] * bits // 8 // WIDTH,
    }
    subprocess.run(
        [
            *(COMPILER, "-O3", "-march=native", f"-mprefer-vector-width={8 * WIDTH}", "-shared"),
            *("-fPIC", *(f"-D{name}={value}" for name, value in words.items())),
            *(SOURCE, "-o", library),
        ],
        check=True,
    )
    function = ctypes.CDLL(str(library)).simulate
    bytes_in = np.ctypeslib.ndpointer(np.uint8, flags="C")
    function.argtypes = [bytes_in, *[ctypes.c_long] * 5, bytes_in]
    function.restype = None
    threshold = round(SENSOR.threshold * 255) * UNIT[bits] * 2 * K

    def run(luma_nhw: NDArray[np.uint8]) -> NDArray[np.uint8]:
        intervals, pixels = len(luma_nhw) - 1, luma_nhw[0].size
        assert pixels % PIXELS[bits] == 0
        packed_ghw = np.empty((-(-intervals * K // 8), *luma_nhw.shape[1:]), np.uint8)
        function(luma_nhw, pixels, intervals, K, UNIT[bits], threshold, packed_ghw)
        return packed_ghw

    return run


def ours(luma_nhw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """All intervals between the frames, packed (G, H, W)."""
    state = SensorState.initial(SENSOR, *luma_nhw.shape[1:], "clip")
    ticks = (len(luma_nhw) - 1) * K
    return simulate_ticks(luma_nhw, state, SENSOR, ticks, backend="numba", flush=True)[0]


def seconds(work: Callable[[NDArray[np.uint8]], object], luma_nhw: NDArray[np.uint8]) -> float:
    began = time.perf_counter()
    work(luma_nhw)
    return time.perf_counter() - began


def measure(folder: Path, frames: int, height_px: int, width_px: int, rounds: int) -> object:
    """Check the answers, then time one after the other, round after round."""
    rng = np.random.default_rng(0)
    luma_nhw = rng.integers(0, 256, (frames, height_px, width_px), dtype=np.uint8)
    sides = {"ours": ours, "c32": build(folder, 32), "c16": build(folder, 16)}
    for name in ("c32", "c16"):
        np.testing.assert_array_equal(ours(luma_nhw), sides[name](luma_nhw), err_msg=name)
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, work in sides.items():
            took[name].append(seconds(work, luma_nhw))
    pixel_ticks = (frames - 1) * K * height_px * width_px
    ratios = {
        f"ours/{c}": spread([b / a for a, b in zip(took["ours"], took[c], strict=True)])
        for c in ("c32", "c16")
    }
    version = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True)
    return {
        "benchmark": "numba simulator against a C loop, linear, one thread",
        "frames": frames,
        "height_px": height_px,
        "width_px": width_px,
        "ticks_per_frame": K,
        "vector_bytes": WIDTH,
        "ratio_min_median_max": ratios,
        "gpt_per_s_min_median_max": {
            name: spread([pixel_ticks / t / 1e9 for t in times]) for name, times in took.items()
        },
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "compiler": version.stdout.splitlines()[0],
        "python": platform.python_version(),
        "numba": numba.__version__,
    }


def spread(values: list[float]) -> list[float]:
    return [round(f(values), 3) for f in (min, statistics.median, max)]


@pytest.mark.skipif(
    COMPILER is None or platform.machine() != "x86_64", reason="needs a C compiler for x86-64"
)
def test_the_c_loop_gives_our_bits(tmp_path):
    measure(tmp_path, frames=4, height_px=4, width_px=PIXELS[16], rounds=1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(Path(temporary), 64, 240, 320, rounds=60)))
