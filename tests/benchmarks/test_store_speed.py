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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zstandard

from spikedata.bits import pack_ticks
from spikedata.clip import Clip
from spikedata.clips.store import SpikeStore, create_store, open_store

CHUNK_GROUPS = 16

Times = list[tuple[float, float]]


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


def random_windows(
    store: SpikeStore, count: int, ticks: int, seed: int = 0
) -> Iterator[tuple[str, int]]:
    """A clip and the first tick of a window in it, so often."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        clip_id = list(store.clips)[rng.integers(len(store.clips))]
        yield clip_id, int(rng.integers(store.clips[clip_id].ticks - ticks + 1))


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


def timed(function: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What a function gives, and its wall and processor time in milliseconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    took = time.perf_counter() - wall, time.process_time() - cpu
    return result, (took[0] * 1e3, took[1] * 1e3)


def by_zarr_python(path: Path, start: int, ticks: int) -> np.ndarray:
    """The packed groups that hold a window."""
    return zarr.open_array(path, mode="r")[start // 8 : -(-(start + ticks) // 8)]


def compare(store: SpikeStore, windows: int, ticks: int, seed: int = 0) -> dict[str, Times]:
    """Wall and processor time of each route for random windows, in turn, answers checked."""
    took: dict[str, Times] = {"ours": [], "bare": [], "zarr_python_packed": []}
    for n, (clip_id, start) in enumerate(random_windows(store, windows + 1, ticks, seed)):
        frames = bare_frames(store, clip_id, start, ticks)
        planes, ours = timed(lambda i=clip_id, s=start: store.read_planes(i, s, ticks))
        parts, bare = timed(lambda f=frames: bare_decode(f))
        path = store.path / "clips" / clip_id
        packed, reference = timed(lambda p=path, s=start: by_zarr_python(p, s, ticks))
        want = np.unpackbits(packed, axis=0, bitorder="little")[start % 8 :][:ticks]
        assert np.array_equal(planes, want)
        assert sum(int(part.sum(dtype=np.int64)) for part in parts) == int(planes.sum())
        if n:  # the first one warms up
            took["ours"].append(ours)
            took["bare"].append(bare)
            took["zarr_python_packed"].append(reference)
    return took


def test_windows_are_what_zarr_python_and_bare_zstd_give(tmp_path):
    store = make_store(tmp_path / "s.zarr", clips=3, ticks=400, height=16, width=24)
    assert all(len(times) == 4 for times in compare(store, windows=4, ticks=250).values())


def main() -> None:
    """Measure 250-tick windows of 132 clips of 240x320 and print one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "s.zarr", clips=132, ticks=1640, height=240, width=320)
        took = compare(store, windows=100, ticks=250)
    spread = {}
    for kind, clock in enumerate(("wall", "processor")):
        for name, times in took.items():
            spread[f"{name}_{clock}_ms"] = [pair[kind] for pair in times]
        pairs = zip(took["ours"], took["bare"], strict=True)
        spread[f"{clock}_ratio"] = [ours[kind] / bare[kind] for ours, bare in pairs]
    about = {
        "benchmark": "250-tick window of a random clip, 132 clips of 1640x240x320",
        "min_median_max": {
            name: [round(f(values), 2) for f in (min, statistics.median, max)]
            for name, values in spread.items()
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "zarr": zarr.__version__,
    }
    print(json.dumps(about))


if __name__ == "__main__":
    main()
