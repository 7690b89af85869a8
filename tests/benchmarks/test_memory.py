"""Memory of `simulate_corpus`: flat over the length of a video and over the number of clips.

``SPIKEDATA_BENCH=full pytest -s tests/benchmarks/test_memory.py`` also simulates ten minutes of
640x480 video at 1,000 ticks a second, in place of four seconds, and prints one JSON line.
"""

import json
import os
import platform
import subprocess
import sys
from fractions import Fraction
from importlib import metadata
from pathlib import Path

import av
import numpy as np
import pytest
from tools import random_frames, write_grey
from videos import grey_frame

RATE_HZ = 25
TICK_RATE_HZ = 1000.0

PROGRAM = """
import json, re, sys
from pathlib import Path

def peak_mb():  # getrusage would also tell of the process that started this one
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

bare_mb, peaks_mb = peak_mb(), []
from spikedata import SimulationRecipe, available_cores, find_corpus, simulate_corpus

videos, out, tick_rate_hz = sys.argv[1:]
report = simulate_corpus(
    find_corpus(videos),
    out,
    SimulationRecipe(tick_rate_hz=float(tick_rate_hz)),
    workers=available_cores(),
    progress=lambda _: peaks_mb.append(peak_mb()),
)
assert not report.failures, report.failures
print(json.dumps({"bare_mb": bare_mb, "peaks_mb": peaks_mb}))
"""


def write_long_video(path: Path, seconds: int, height_px: int, width_px: int) -> Path:
    """A pattern that moves, as MPEG-4; it is never held in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:height_px, :width_px]
    wide = np.sin(x / 17) * np.cos(y / 13)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE_HZ)
        stream.height, stream.width, stream.pix_fmt = height_px, width_px, "yuv420p"
        stream.codec_context.bit_rate = 2_000_000
        for n in range(seconds * RATE_HZ):
            codes_hw = (126 + 90 * np.roll(wide, (n, 2 * n), (0, 1))).astype(np.uint8)
            frame = grey_frame(codes_hw, "yuv420p")
            frame.pts, frame.time_base = n, Fraction(1, RATE_HZ)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def simulate(videos: Path, out: Path, tick_rate_hz: float) -> tuple[float, list[float]]:
    """Memory of the bare interpreter, and the most so far after each clip, MB, of a process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, videos, out, str(tick_rate_hz)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    return found["bare_mb"], found["peaks_mb"]


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")


def test_a_longer_video_takes_no_more_memory(tmp_path):
    """1,500 frames of 120x160 and their spikes are 173 MB."""
    peaks_mb = []
    for name, seconds in (("short", 10), ("long", 70)):
        write_long_video(tmp_path / name / "a" / "1.mp4", seconds, 120, 160)
        _, (peak_mb,) = simulate(tmp_path / name, tmp_path / f"{name}.zarr", TICK_RATE_HZ)
        peaks_mb.append(peak_mb)
    assert peaks_mb[1] - peaks_mb[0] < 30, peaks_mb


@pytest.mark.slow
def test_a_thousand_clips_in_one_process_take_no_more_memory_than_two_hundred(tmp_path):
    """The spikes of 800 clips are 197 MB; what the catalogue tells of them is 2."""
    video = write_grey(tmp_path / "one.mkv", random_frames(0, frames=12, height=64, width=64))
    for k in range(1000):
        clip = tmp_path / "videos" / f"class{k % 10}" / f"clip{k}.mkv"
        clip.parent.mkdir(parents=True, exist_ok=True)
        os.link(video, clip)
    _, peaks_mb = simulate(tmp_path / "videos", tmp_path / "s.zarr", TICK_RATE_HZ)
    assert len(peaks_mb) == 1000
    assert peaks_mb[-1] - peaks_mb[199] < 20, peaks_mb[::100]


def test_a_large_video_takes_less_than_500_mb_above_the_interpreter_s(tmp_path):
    seconds = 600 if os.environ.get("SPIKEDATA_BENCH") == "full" else 4
    write_long_video(tmp_path / "videos" / "a" / "1.mp4", seconds, 480, 640)
    bare_mb, (peak_mb,) = simulate(tmp_path / "videos", tmp_path / "s.zarr", TICK_RATE_HZ)
    result = {
        "benchmark": "memory of simulate_corpus above the bare interpreter's",
        "seconds": seconds,
        "height_px": 480,
        "width_px": 640,
        "tick_rate_hz": TICK_RATE_HZ,
        "interpreter_mb": round(bare_mb, 1),
        "peak_mb": round(peak_mb, 1),
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {n: metadata.version(n) for n in ("av", "numba", "numpy", "zstandard")},
    }
    print(json.dumps(result))
    assert peak_mb - bare_mb < 500
