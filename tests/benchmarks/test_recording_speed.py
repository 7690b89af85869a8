"""A camera of 250x400 at 20 kHz in real time, through a pipe, into a store: is anything lost?

``python tests/benchmarks/test_recording_speed.py [RECORDING.dat [SECONDS]]`` sends a recording over
and over, 12.5 kB every 50 microseconds, and prints one JSON line: 60 seconds by default, which take
7 GB of disk. Under pytest it sends a moment of drawn spikes as fast as they are taken.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from test_store_speed import spikes_like_video

from spikedata import RecordingConfig, open_store, record_stream, write_recording

PLANE_BYTES, RATE_HZ = 12_500, 20_000

SENDER = """
import os, sys, time
planes, ticks, rate, plane = sys.argv[1], *map(int, sys.argv[2:])
data = open(planes, "rb").read()
whole = len(data) // plane
late, began = 0.0, time.perf_counter()
for tick in range(0, ticks, 40):
    due = began + tick / rate if rate else 0
    while rate and (left := due - time.perf_counter()) > 0:
        time.sleep(left)
    late = max(late, time.perf_counter() - due) if rate else 0
    first = tick % whole
    piece = data[first * plane : (first + min(40, ticks - tick)) * plane]
    piece += data[: min(40, ticks - tick) * plane - len(piece)]
    while piece:
        piece = piece[os.write(1, piece):]
print(late, time.perf_counter() - began, file=sys.stderr)
"""
"""A camera: 40 planes, each 2 ms; tells how late it was at the latest, and how long it took."""


def sent_bits(planes: Path, ticks: int) -> str:
    """Digest of what is sent, as a store notes it, worked out apart."""
    raw = np.fromfile(planes, np.uint8).reshape(-1, PLANE_BYTES)
    assert len(raw) % 8 == 0  # groups come again and again too
    bits = np.unpackbits(raw, axis=1, bitorder="little").reshape(-1, 250, 400)[:, ::-1]
    packed_ghw = np.packbits(bits, axis=0, bitorder="little")
    digest = hashlib.sha256()
    for group in range(ticks // 8):
        digest.update(packed_ghw[group % len(packed_ghw)].data)
    if left := ticks % 8:
        digest.update((packed_ghw[ticks // 8 % len(packed_ghw)] & (1 << left) - 1).data)
    return digest.hexdigest()


def measure(folder: Path, planes: Path, ticks: int, rate_hz: int) -> dict[str, Any]:
    """Send and record at once; check that all of it is there."""
    fifo, out = folder / "camera", folder / "live.zarr"
    os.mkfifo(fifo)
    words = [str(planes), str(ticks), str(rate_hz), str(PLANE_BYTES)]
    began = time.perf_counter()
    before = os.times()
    with (
        subprocess.Popen(
            ["sh", "-c", 'exec "$@" > "$0"', fifo, sys.executable, "-c", SENDER, *words],
            stderr=subprocess.PIPE,
            text=True,
        ) as sender,
    ):
        report = record_stream(fifo, out, RecordingConfig(camera="vidar", workers=2))
        told = sender.stderr.read()
    wall_s, after = time.perf_counter() - began, os.times()
    stored = open_store(out).clips["recording"]
    assert report.ticks == ticks, report
    assert stored.bits_sha256 == sent_bits(planes, ticks)
    late_s, took_s = map(float, told.split())
    return {
        "benchmark": "record of 250x400 in real time through a pipe, two workers",
        "seconds": ticks / RATE_HZ,
        "lost_ticks": ticks - report.ticks,
        "wall_s": round(wall_s, 2),
        "sender_took_s": round(took_s, 2),
        "sender_late_at_most_s": round(late_s, 3),
        "reader_waited_s": round(report.reader_waited_s, 3),
        "ring_fullest": round(report.ring_fullest, 3),
        "ring_mb": round(report.ring_bytes / 1e6),
        "processor_s": round(after.user + after.system - before.user - before.system, 2),
        "ratio": round(report.bytes / sum(f.stat().st_size for f in out.rglob("c.*")), 3),
        "load": [round(load, 2) for load in os.getloadavg()],
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {n: metadata.version(n) for n in ("numba", "numpy", "zstandard")},
    }


def draw(folder: Path) -> Path:
    """A recording of drawn spikes."""
    path = folder / "drawn.dat"
    write_recording(path, [spikes_like_video(0, 200, 250, 400)], "vidar", ticks=200)
    return path


def test_all_that_is_sent_is_there(tmp_path):
    result = measure(tmp_path, draw(tmp_path), ticks=3_001, rate_hz=0)
    assert result["lost_ticks"] == 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        chosen = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else draw(place)
        seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
        (place / "warm").mkdir()
        measure(place / "warm", chosen, 2_000, 0)  # compiles
        print(json.dumps(measure(place, chosen, round(seconds * RATE_HZ), RATE_HZ)))
