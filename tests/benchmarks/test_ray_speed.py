"""One of Ray's workers against two, and against the local engine, for one corpus.

``python tests/benchmarks/test_ray_speed.py VIDEOS [ROUNDS]`` prints one JSON line: seconds of a run
on a Ray that is there already, from the plan to the catalogue that is written, and ratios of their
medians; ``overhead_ms_a_clip`` is what one of Ray's workers takes longer than one local one. Under
``whole_s`` are the seconds of one call each that starts a Ray of its own and ends it. The ways
alternate in each round, and all of them must have written the same bytes. Every worker has one
thread that computes. Ray gives its workers less of a busy machine (niceness 15); not so here.
Under pytest it runs on six tiny clips.
"""

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import ray
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from test_ray import ONE_RAY, pytestmark  # noqa: F401  # what Ray leaves behind is no fault here
from tools import digest_of_folder, write_corpus

from spikedata import Corpus, SimulationRecipe, find_corpus, simulate_corpus

WAYS = {"ray_1": ("ray", 1), "ray_2": ("ray", 2), "local_1": ("local", 1), "local_2": ("local", 2)}


def seconds(corpus: Corpus, out: Path, way: str) -> float:
    """What a run takes that writes ``out`` anew."""
    shutil.rmtree(out, ignore_errors=True)
    engine, workers = WAYS[way]
    began = time.perf_counter()
    report = simulate_corpus(corpus, out, SimulationRecipe(), engine=engine, workers=workers)
    took_s = time.perf_counter() - began
    assert (report.written, report.failures) == (len(corpus.clips), ())
    return took_s


def compare(corpus: Corpus, folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of each way, and their ratios; the first round only warms up."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    with FileLock(ONE_RAY, is_singleton=True):
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            for _ in range(rounds + 1):
                for way in WAYS:
                    found[way].append(seconds(corpus, folder / way, way))
        finally:
            ray.shutdown()
        digests = [digest_of_folder(folder / way) for way in WAYS]
        assert all(digest == digests[0] for digest in digests)
        whole_s = {way: seconds(corpus, folder / way, way) for way in ("ray_1", "ray_2")}
    counted = {way: times[1:] for way, times in found.items()}
    median = {way: statistics.median(times) for way, times in counted.items()}
    over_s = (median["ray_1"] - median["local_1"]) / len(corpus.clips)
    return {
        "clips": len(corpus.clips),
        "seconds": {way: [round(one, 2) for one in sorted(of)] for way, of in counted.items()},
        "ray_1_over_ray_2": round(median["ray_1"] / median["ray_2"], 3),
        "local_1_over_local_2": round(median["local_1"] / median["local_2"], 3),
        "overhead_ms_a_clip": round(1000 * over_s, 2),
        "whole_s": {way: round(took_s, 2) for way, took_s in whole_s.items()},
        "whole_ray_1_over_ray_2": round(whole_s["ray_1"] / whole_s["ray_2"], 3),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "ray": metadata.version("ray"),
    }


@pytest.mark.skipif(ray.is_initialized(), reason="another test's Ray is at work in this process")
def test_one_worker_and_two_and_the_local_engine_write_the_same(tmp_path):
    corpus = find_corpus(write_corpus(tmp_path / "videos"))
    found = compare(corpus, tmp_path, 1)
    assert found["clips"] == 6
    assert found["ray_1_over_ray_2"] > 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        videos = find_corpus(sys.argv[1])
        print(json.dumps(compare(videos, Path(scratch), int((sys.argv[2:] or ["3"])[0]))))
