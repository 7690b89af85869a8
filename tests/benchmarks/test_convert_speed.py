"""`simulate_corpus` beside its unavoidable part: decoding and compressing, on the same cores.

Tiny and drawn by default. On real clips, with a folder of videos:

    SPIKEDATA_BENCH_CORPUS=../shared/data/ucf101 pytest -s tests/benchmarks/test_convert_speed.py
"""

import json
import os
import platform
import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
from tools import write_corpus

from spikedata import SimulationRecipe, available_cores, find_corpus, open_store, simulate_corpus
from spikedata.clips.store.layout import StoreConfig
from spikedata.video import open_video


def time_last_chunks(store, clip_id, chunk_ticks):
    """The clip's bytes as its chunks hold them before compression."""
    return [
        np.ascontiguousarray(block_ghw.transpose(1, 2, 0)).tobytes()
        for block_ghw in store.blocks(clip_id, ticks=chunk_ticks)
    ]


def decode_and_compress(jobs, level, workers):
    """The peer: every video decoded, every chunk compressed, nothing else."""
    import zstandard

    def one(job):
        path, chunks = job
        with open_video(path) as video:
            frames = sum(len(block) for block in video.blocks())
        compressor = zstandard.ZstdCompressor(level=level)
        return frames, sum(len(compressor.compress(chunk)) for chunk in chunks)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, jobs))


def test_simulating_costs_little_beside_decoding_and_compressing(tmp_path):
    chosen = os.environ.get("SPIKEDATA_BENCH_CORPUS")
    corpus = find_corpus(Path(chosen) if chosen else write_corpus(tmp_path / "videos"))
    recipe, options, workers = SimulationRecipe(), StoreConfig(), available_cores()
    simulate_corpus(corpus, tmp_path / "first.zarr", recipe, workers=workers)
    store = open_store(tmp_path / "first.zarr")
    jobs = [
        (item.path, time_last_chunks(store, item.clip.id, options.chunk_ticks))
        for item in corpus.clips
    ]
    rounds = 9 if chosen else 1
    ours, peer = [], []
    for i in range(rounds):
        start = time.perf_counter()
        simulate_corpus(corpus, tmp_path / f"{i}.zarr", recipe, workers=workers)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        counted = decode_and_compress(jobs, options.zstd_level, workers)
        peer.append(time.perf_counter() - start)
        again = open_store(tmp_path / f"{i}.zarr")
        assert {c.bits_sha256 for c in again.clips.values()} == {
            c.bits_sha256 for c in store.clips.values()
        }
        assert [frames * 10 for frames, _ in counted] == [
            store.clips[item.clip.id].ticks for item in corpus.clips
        ]
        shutil.rmtree(tmp_path / f"{i}.zarr")  # nine stores of half a gigabyte are no use
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    print(
        json.dumps(
            {
                "benchmark": "simulate_corpus / (decode + compress)",
                "clips": len(corpus.clips),
                "pixel_ticks": sum(
                    c.ticks * c.height_px * c.width_px for c in store.clips.values()
                ),
                "workers": workers,
                "seconds": [round(s, 2) for s in ours],
                "peer_seconds": [round(s, 2) for s in peer],
                "ratio_min_median_max": [
                    round(r, 3) for r in (min(ratios), statistics.median(ratios), max(ratios))
                ],
                "machine": platform.processor() or platform.machine(),
                "versions": {n: metadata.version(n) for n in ("av", "numba", "numpy", "zstandard")},
            }
        )
    )
