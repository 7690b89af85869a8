"""A random window of a store against bare zstd and ``np.unpackbits`` of the same bits.

Run ``python tests/benchmarks/test_store_speed.py`` for the numbers at full size; under pytest it
runs at tiny size and checks the answers only.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
import zstandard

from spikedata.catalog import Clip
from spikedata.store import SpikeStore, create_store, open_store
from spikedata.stream import pack_ticks

CHUNK_GROUPS = 16


def spikes_like_video(seed: int, ticks: int, height: int, width: int) -> np.ndarray:
    """Near-periodic spike trains, as light makes them: packed uint8 (G, H, W)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 16
    light = 0.25 + 0.2 * np.sin(y + seed) * np.cos(x) + rng.normal(0, 0.01, (height, width))
    charge = rng.random((height, width))
    planes = np.empty((ticks, height, width), bool)
    for plane in planes:
        charge += light
        np.greater_equal(charge, 1, out=plane)
        charge -= plane
    return pack_ticks(planes)


def make_store(path: Path, clips: int, ticks: int, height: int, width: int) -> SpikeStore:
    """A store of ``clips`` clips; a few streams serve for all."""
    streams = [spikes_like_video(seed, ticks, height, width) for seed in range(min(clips, 4))]
    with create_store(path, recipe={}, class_names=[]) as writer:
        for i in range(clips):
            clip = Clip(id=f"clip{i:05d}")
            with writer.clip(clip, height_px=height, width_px=width, tick_rate_hz=250) as out:
                out.append(streams[i % len(streams)])
                out.finish(ticks=ticks, attributes={})
    return open_store(path)


def bare_frames(store: SpikeStore, clip_id: str, start: int, ticks: int) -> list[bytes]:
    """The window alone, compressed as the store compresses: zstd 3, time last, short chunks."""
    packed = store.read(clip_id, start, ticks).packed_ghw
    compress = zstandard.ZstdCompressor(level=3).compress
    return [
        compress(np.ascontiguousarray(packed[g : g + CHUNK_GROUPS].transpose(1, 2, 0)).data)
        for g in range(0, len(packed), CHUNK_GROUPS)
    ]


def bare_decode(frames: list[bytes]) -> list[np.ndarray]:
    """What nobody can avoid: decompress and unpack, leaving the order as it is."""
    decompress = zstandard.ZstdDecompressor().decompress
    return [
        np.unpackbits(np.frombuffer(decompress(frame), np.uint8), bitorder="little")
        for frame in frames
    ]


def compare(store: SpikeStore, windows: int, ticks: int, seed: int = 0) -> dict[str, list[float]]:
    """Milliseconds of each route for random windows, taken in turn, answers checked first."""
    rng = np.random.default_rng(seed)
    took: dict[str, list[float]] = {"ours": [], "zarr-python": [], "bare": []}
    for n in range(windows + 1):
        clip_id = list(store.clips)[rng.integers(len(store.clips))]
        stored = store.clips[clip_id]
        start = int(rng.integers(stored.ticks - ticks + 1))
        frames = bare_frames(store, clip_id, start, ticks)
        array_path = store.path / "clips" / clip_id
        fresh = open_store(store.path) if n == 0 else store
        began = time.perf_counter()
        planes = fresh.read_planes(clip_id, start, ticks)
        ours = time.perf_counter()
        parts = bare_decode(frames)
        bare = time.perf_counter()
        packed = zarr.open_array(array_path, mode="r")[start // 8 : -(-(start + ticks) // 8)]
        want = np.unpackbits(packed, axis=0, bitorder="little")[start % 8 :][:ticks]
        reference = time.perf_counter()
        assert np.array_equal(planes, want)
        assert sum(int(part.sum(dtype=np.int64)) for part in parts) == int(planes.sum())
        if n:  # the first one warms up
            took["ours"].append((ours - began) * 1e3)
            took["bare"].append((bare - ours) * 1e3)
            took["zarr-python"].append((reference - bare) * 1e3)
    return took


def test_windows_are_what_zarr_python_and_bare_zstd_give(tmp_path):
    store = make_store(tmp_path / "s.zarr", clips=3, ticks=400, height=16, width=24)
    assert all(len(times) == 4 for times in compare(store, windows=4, ticks=250).values())


def main() -> None:
    """Measure 250-tick windows of 132 clips of 240x320 and print one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "s.zarr", clips=132, ticks=1640, height=240, width=320)
        took = compare(store, windows=100, ticks=250)
    ratios = [ours / bare for ours, bare in zip(took["ours"], took["bare"], strict=True)]
    spread = {
        name: [round(f(times), 3) for f in (min, statistics.median, max)]
        for name, times in {**{f"{k}_ms": v for k, v in took.items()}, "ratio": ratios}.items()
    }
    about = {
        "benchmark": "250-tick window of a random clip, 132 clips of 1640x240x320",
        "min_median_max": spread,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "zarr": zarr.__version__,
    }
    print(json.dumps(about))


if __name__ == "__main__":
    main()
