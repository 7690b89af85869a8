"""`pack` of one long recording with two workers against one, and reading what it wrote.

``python tests/benchmarks/test_pack_speed.py [RECORDING.dat]`` prints one JSON line at full size:
20,000 ticks of 250x400, made of a real recording of that camera over and over, or of drawn spikes
where none is given. Under pytest it runs at tiny size and checks the answers only.
"""

import json
import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from test_store_speed import random_windows, spikes_like_video
from tools import digest_of_folder

from spikedata import open_store, pack_clips, read_recording, write_recording

PLANE_BYTES = 12_500


def write_long(path: Path, ticks: int, recording: Path | None) -> Path:
    """A ``.dat`` of so many ticks of 250x400."""
    path.parent.mkdir(exist_ok=True)
    if recording is None:
        recording = path.parent.with_name("drawn.dat")
        write_recording(recording, [spikes_like_video(0, 200, 250, 400)], "vidar", ticks=200)
    planes = recording.read_bytes()
    with path.open("wb") as file:
        for left in range(ticks * PLANE_BYTES, 0, -len(planes)):
            file.write(planes[:left])
    return path


def packed(path: Path, out: Path, workers: int) -> float:
    """Seconds that packing takes, its reading back among them."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    pack_clips([path], camera="vidar", out=out, workers=workers)
    return time.perf_counter() - began


def unpack_from_file(path: Path) -> NDArray[np.uint8]:
    """The plain way to all planes of a ``.dat``: uint8 (T, H, W)."""
    bits = np.unpackbits(np.fromfile(path, np.uint8), bitorder="little")
    return bits.reshape(-1, 250, 400)[:, ::-1]


def seconds(work: Any, *args: Any) -> float:
    began = time.perf_counter()
    work(*args)
    return time.perf_counter() - began


def memory_mb(key: str) -> float:
    found = re.search(rf"{key}:\s*(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def measure(folder: Path, ticks: int, rounds: int, recording: Path | None) -> dict[str, Any]:
    """Check that both wrote the same bytes, then time them in turns, and windows of the store."""
    os.chdir(folder)
    path = write_long(folder / "in" / "long.dat", ticks, recording)
    outs = {workers: folder / f"{workers}.zarr" for workers in (1, 2)}
    took: dict[int, list[float]] = {1: [], 2: []}
    for workers, out in outs.items():
        packed(path, out, workers)  # compiles, and brings the file into the cache
    assert digest_of_folder(outs[1]) == digest_of_folder(outs[2])
    for _ in range(rounds):
        for workers, out in outs.items():
            took[workers].append(packed(path, out, workers))
    store = open_store(outs[2])
    from_dat = read_recording(path, "vidar")
    windows = list(random_windows(store, 20 * rounds, min(400, ticks)))
    clip_id, start = windows[0]
    before_mb = memory_mb("VmHWM")
    window_s = [seconds(store.read, clip_id, start, min(400, ticks)) for clip_id, start in windows]
    window_mb = memory_mb("VmHWM") - before_mb
    whole = {"store": [], "dat": [], "numpy": []}
    for _ in range(rounds):
        whole["store"].append(seconds(lambda: store.read(clip_id).unpack()))
        whole["dat"].append(seconds(lambda: from_dat.read().unpack()))
        whole["numpy"].append(seconds(unpack_from_file, path))
    some = store.read(clip_id, start, min(400, ticks)).unpack()
    np.testing.assert_array_equal(some, from_dat.read().unpack()[start : start + len(some)])
    return {
        "benchmark": "pack of one recording with two workers against one",
        "ticks": ticks,
        "seconds": {workers: _spread(times) for workers, times in took.items()},
        "least_ratio": round(min(took[1]) / min(took[2]), 3),
        "window_of_400_ms_min_median_max": _spread([1000 * s for s in window_s]),
        "windows_grew_memory_mb": round(window_mb, 1),
        "read_unpack_s": {name: _spread(times) for name, times in whole.items()},
        "load": [round(load, 2) for load in os.getloadavg()],
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {n: metadata.version(n) for n in ("numba", "numpy", "zstandard")},
    }


def _spread(values: list[float]) -> list[float]:
    return [round(f(values), 3) for f in (min, statistics.median, max)]


def test_two_workers_write_what_one_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = measure(tmp_path, ticks=3_000, rounds=1, recording=None)
    assert result["ticks"] == 3_000


if __name__ == "__main__":
    given = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), ticks=20_000, rounds=3, recording=given)))
