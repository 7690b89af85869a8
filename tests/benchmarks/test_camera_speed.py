"""Decoding a `.dat` file against a table look-up, plane after plane, as field code does it.

``python tests/benchmarks/test_camera_speed.py`` prints one JSON line at full size; under pytest it
runs at tiny size and checks the answers only. Each side reads the same file in one thread and
holds the same bits at the end: the look-ups as one byte a pixel and tick (``loop``; ``lean`` is the
same with ``np.take``), ours packed eight ticks to a byte, which is how stores and loaders take
them. ``stream`` is ours too, block by block with nothing kept, as a store is fed.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import pack_ticks
from spikedata.camera import CAMERAS, read_recording

VIDAR = CAMERAS["vidar"]
HEIGHT, WIDTH = 250, 400
TABLE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")


def loop(path: Path) -> NDArray[np.uint8]:
    """Planes (T, H, W): each plane's bytes index a table of eight pixels."""
    raw = np.fromfile(path, np.uint8).reshape(-1, VIDAR.plane_bytes)
    planes_thw = np.empty((len(raw), HEIGHT, WIDTH), np.uint8)
    for tick, plane in enumerate(raw):
        planes_thw[tick] = TABLE[plane].reshape(HEIGHT, WIDTH)[::-1]
    return planes_thw


def lean(path: Path) -> NDArray[np.uint8]:
    """:func:`loop` with the quicker of NumPy's two look-ups."""
    raw = np.fromfile(path, np.uint8).reshape(-1, VIDAR.plane_bytes)
    planes_thw = np.empty((len(raw), HEIGHT, WIDTH), np.uint8)
    for tick, plane in enumerate(raw):
        planes_thw[tick] = np.take(TABLE, plane, axis=0).reshape(HEIGHT, WIDTH)[::-1]
    return planes_thw


def ours(path: Path) -> NDArray[np.uint8]:
    """The whole recording, packed (G, H, W)."""
    return read_recording(path, VIDAR).read().packed_ghw


def stream(path: Path) -> int:
    return sum(len(block) for block in read_recording(path, VIDAR).blocks())


def check_answers(path: Path) -> None:
    blocks = list(read_recording(path, VIDAR).blocks())
    for peer in (loop, lean):
        want_ghw = pack_ticks(peer(path))
        np.testing.assert_array_equal(ours(path), want_ghw)
        np.testing.assert_array_equal(np.concatenate(blocks), want_ghw)


def seconds(work: Callable[[Path], object], path: Path, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        work(path)
    return (time.perf_counter() - began) / repeats


def spread(values: list[float]) -> list[float]:
    return [round(f(values), 3) for f in (min, statistics.median, max)]


def measure(path: Path, rounds: int, repeats: int) -> dict[str, object]:
    """Check the answers, then time one after the other, round after round."""
    check_answers(path)
    sides = {
        "loop": (loop, 1),
        "lean": (lean, 1),
        "ours": (ours, repeats),
        "stream": (stream, repeats),
    }
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (work, times) in sides.items():
            took[name].append(seconds(work, path, times))
    pixel_ticks = path.stat().st_size * 8
    return {
        "benchmark": ".dat decode against a table look-up for each plane",
        "ticks": path.stat().st_size // VIDAR.plane_bytes,
        "ratio_min_median_max": {
            f"{side}/{peer}": spread([b / a for a, b in zip(took[side], took[peer], strict=True)])
            for side in ("ours", "stream")
            for peer in ("loop", "lean")
        },
        "gpt_per_s_min_median_max": {
            name: spread([pixel_ticks / t / 1e9 for t in times]) for name, times in took.items()
        },
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def write_noise(path: Path, ticks: int) -> Path:
    rng = np.random.default_rng(0)
    path.write_bytes(rng.bytes(ticks * VIDAR.plane_bytes))
    return path


def test_decoding_gives_the_look_ups_bits(tmp_path):
    measure(write_noise(tmp_path / "clip.dat", 19), rounds=1, repeats=1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        file = write_noise(Path(folder) / "clip.dat", 2000)
        print(json.dumps(measure(file, rounds=9, repeats=10)))
