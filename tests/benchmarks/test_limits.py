"""What must stay quick with 13,320 clips: a killed run goes on, opening, `info`, a clip's overhead.

``python tests/benchmarks/test_limits.py [CLIPS]`` prints one JSON line: seconds until a run that
was killed half-way, and one killed near its end, has its first new clip in place, counted from the
start of its process; seconds that opening the store and `spikedata info` take in a process of
their own; the memory that the open set takes; and milliseconds a clip that `simulate_corpus` takes
more than decoding, the sensor and compression called directly on the same videos, in turns, after
a comparison of what they gave. Each is told as wall time and as processor's time: other work on the
machine adds to the first. Under pytest it runs on a few clips and checks that it measures.
"""

import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikedata import bits, find_corpus, simulate_corpus
from spikedata.clips.frames import compress_frame
from spikedata.clips.store.layout import ArrayLayout, StoreConfig
from spikedata.corpora import Corpus, CorpusClip
from spikedata.simulation import SimulationRecipe, film, simulation_recipe

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_scale import CORPUS, write_videos

PROGRAM = Path(sys.executable).parent / "spikedata"
STORE = "spikes.zarr"
OVERHEAD_CLIPS, TURNS = 400, 5

OPEN = """
import json, os, sys, time
from spikedata import open_store
from spikedata.clips import StoredClip
page = os.sysconf("SC_PAGE_SIZE")
def kilobytes(): return int(open("/proc/self/statm").read().split()[1]) * page // 1024
before = kilobytes()
began, worked = time.perf_counter(), time.process_time()
clips = open_store(sys.argv[1]).clips
told = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - worked}
opened = kilobytes()
all(clips.values())
told |= {"clips": len(clips), "opened_kib": opened - before, "listed_kib": kilobytes() - before}
print(json.dumps(told))
"""


def start(folder: Path) -> "subprocess.Popen[bytes]":
    """`spikedata simulate` of the corpus, begun."""
    words = [PROGRAM, "simulate", CORPUS, "--out", STORE]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(words, cwd=folder, **quiet)  # type: ignore[call-overload]


def clips_there(folder: Path) -> int:
    """How many clips are in place."""
    clips = folder / STORE / "clips"
    return len(os.listdir(clips)) - (clips / "zarr.json").exists() if clips.exists() else 0


def run_until(folder: Path, clips: int) -> None:
    """Simulate until so many clips are there, and kill the run."""
    with start(folder) as run:
        while clips_there(folder) < clips and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)


def first_clip(folder: Path) -> dict[str, float]:
    """Seconds from the start of a process until it has put a new clip into place; it is killed."""
    clips = folder / STORE / "clips"
    before = clips.stat().st_mtime_ns
    began = time.perf_counter()
    with start(folder) as run:
        while clips.stat().st_mtime_ns == before:
            assert run.poll() is None, "it ended, and had nothing to do"
            time.sleep(0.005)
        told = {"wall_s": time.perf_counter() - began, "cpu_s": processor_s(run.pid)}
        run.send_signal(signal.SIGKILL)
    return told


def processor_s(process: int) -> float:
    """What a running process has taken of the processor."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def least(told: list[dict[str, float]]) -> dict[str, float]:
    """The least of each: what else is done only adds."""
    return {key: round(min(one[key] for one in told), 3) for key in told[0]}


def opening(folder: Path) -> dict[str, float]:
    """Opening the store in a process of its own, its imports not counted."""
    words = [sys.executable, "-c", OPEN, str(folder / STORE)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def info(folder: Path) -> dict[str, float]:
    """`spikedata info`, from the start of its process to its end."""
    began = time.perf_counter()
    subprocess.run([PROGRAM, "info", STORE], cwd=folder, stdout=subprocess.DEVNULL, check=True)
    return {"wall_s": time.perf_counter() - began}


def directly(item: CorpusClip, recipe: SimulationRecipe) -> list[bytes]:
    """Decode, simulate and compress one clip, and nothing else; its chunks' frames."""
    with film(item, recipe) as filmed:
        packed_gp = np.concatenate(list(filmed.blocks())).reshape(-1, 16 * 24)
        options = StoreConfig()
        plan = ArrayLayout.plan(filmed.height_px, filmed.width_px, len(packed_gp), options)
        chunk_gp = np.zeros((plan.chunk_groups, packed_gp.shape[1]), np.uint8)
        chunk_gp[: len(packed_gp)] = packed_gp
        chunk_pg = np.zeros((plan.bands * plan.chunk_rows * filmed.width_px, plan.chunk_groups))
        chunk_pg = chunk_pg.astype(np.uint8)
        bits.to_time_last(chunk_gp, chunk_pg[: packed_gp.shape[1]])
        bands = np.split(chunk_pg, plan.bands)
        return [compress_frame(band_pg, options.zstd_level) for band_pg in bands]


def overhead(corpus: Corpus, folder: Path, turns: int) -> dict[str, Any]:
    """Milliseconds a clip that a run takes more than the work itself, one thread, in turns."""
    recipe, out = simulation_recipe(), folder / "overhead.zarr"
    took: dict[str, list[float]] = {"wall_ms": [], "cpu_ms": [], "direct_wall_ms": []}
    for turn in range(turns + 1):
        shutil.rmtree(out, ignore_errors=True)
        marks = [(time.perf_counter(), time.process_time())]
        report = simulate_corpus(corpus, out, recipe, workers=1)
        marks.append((time.perf_counter(), time.process_time()))
        frames = [directly(item, recipe) for item in corpus.clips]
        marks.append((time.perf_counter(), time.process_time()))
        assert report.written == len(frames)
        for item, coded in zip(corpus.clips, frames, strict=True):
            shard = (out / "clips" / item.clip.id / "c.0.0.0").read_bytes()
            assert shard.startswith(b"".join(coded))
        if turn:  # the first loads and compiles
            run, direct = np.diff(np.array(marks), axis=0) * 1e3 / len(frames)
            took["wall_ms"].append(run[0] - direct[0])
            took["cpu_ms"].append(run[1] - direct[1])
            took["direct_wall_ms"].append(direct[0])
    shutil.rmtree(out)
    shown = {"min": min, "median": statistics.median, "max": max}
    return {
        key: {name: round(float(of(times)), 2) for name, of in shown.items()}
        for key, times in took.items()
    }


def measure(folder: Path, clips: int, turns: int = TURNS) -> dict[str, Any]:
    """All of it, on that many clips."""
    write_videos(folder / CORPUS, clips)
    told: dict[str, Any] = {"clips": clips}
    few = min(clips, OVERHEAD_CLIPS)
    told["overhead"] = overhead(find_corpus(folder / CORPUS, limit=few), folder, turns)
    parts = {"half": clips // 2} | ({"near_the_end": clips * 15 // 16} if clips >= 1_000 else {})
    for name, part in parts.items():
        run_until(folder, part)
        told[f"first_clip_{name}"] = least([first_clip(folder) for _ in range(2)])
    subprocess.run(
        [PROGRAM, "simulate", CORPUS, "--out", STORE], cwd=folder, capture_output=True, check=True
    )
    assert clips_there(folder) == clips
    opening(folder)
    told["open"] = least([opening(folder) for _ in range(turns)])
    told["info"] = least([info(folder) for _ in range(turns)])
    told["catalog_bytes"] = (folder / STORE / "catalog.jsonl").stat().st_size
    return told


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_measures_a_few_clips(tmp_path):
    told = measure(tmp_path, 60, turns=1)
    assert told["open"]["clips"] == 60
    assert told["first_clip_half"]["wall_s"] > 0
    assert told["overhead"]["direct_wall_ms"]["min"] > 0


def main() -> None:
    """Measure on the number of clips asked for."""
    clips = int(sys.argv[1]) if len(sys.argv) > 1 else 13_320
    with tempfile.TemporaryDirectory() as scratch:
        told = measure(Path(scratch), clips)
    told |= {"load": os.getloadavg()[1], "cores": os.cpu_count()}
    print(json.dumps(told | {"python": platform.python_version()}))


if __name__ == "__main__":
    main()
