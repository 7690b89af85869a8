"""What checking costs a reader: a store with digests and checksums against the same without.

``python tests/benchmarks/test_verification_cost.py`` prints one JSON line at full size; under
pytest it runs at tiny size and checks the answers only. The peer is the same reader on a store of
version 1.0, whose windows hold nothing to check them by.
"""

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from test_store_speed import make_store, random_windows, timed

from spikedata import SpikeClips
from spikedata.clips.store import SpikeStore, open_store

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools import without_digests

Pairs = list[tuple[float, float]]


def measure(store: SpikeStore, rounds: int, ticks: int) -> dict[str, Pairs]:
    """Processor's milliseconds with and without checks, in turn; the first round warms up."""
    copy = shutil.copytree(store.path, store.path.with_name("unchecked.zarr"))
    stores = [store, open_store(without_digests(copy))]
    items = [SpikeClips(each.path, window_ticks=ticks) for each in stores]
    took: dict[str, Pairs] = {"window": [], "clip": [], "item": []}
    for turn, (clip_id, start) in enumerate(random_windows(store, rounds + 1, ticks)):
        number = items[0].ids.index(clip_id)
        tasks = {
            "window": lambda n, i=clip_id, s=start: stores[n].read(i, s, ticks).packed_ghw,
            "clip": lambda n, i=clip_id: stores[n].read(i).packed_ghw,
            "item": lambda n, i=number: items[n][i]["packed_sghw"],
        }
        for name, task in tasks.items():
            order = (0, 1) if turn % 2 else (1, 0)  # neither is always the first to touch a clip
            done = {n: timed(lambda t=task, n=n: t(n)) for n in order}
            (checked, (_, ours)), (unchecked, (_, peer)) = done[0], done[1]
            assert torch.equal(torch.as_tensor(checked), torch.as_tensor(unchecked))
            if turn:
                took[name].append((ours, peer))
    return took


def test_checked_and_unchecked_windows_are_equal(tmp_path):
    store = make_store(tmp_path / "s.zarr", clips=3, ticks=400, height=16, width=24)
    assert all(len(pairs) == 4 for pairs in measure(store, rounds=4, ticks=250).values())


def main() -> None:
    """Measure random windows, whole clips and items of the loader, 240x320, and print one line."""
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "s.zarr", clips=64, ticks=1640, height=240, width=320)
        took = measure(store, rounds=600, ticks=250)
    medians = {
        name: [statistics.median(side) for side in zip(*pairs, strict=True)]
        for name, pairs in took.items()
    }
    about = {
        "benchmark": "250-tick windows, clips of 1640 ticks and loader items, 240x320, checked",
        "processor_ms_median": {
            name: [round(ms, 3) for ms in both] for name, both in medians.items()
        },
        "ratio_of_medians": {name: round(ours / peer, 3) for name, (ours, peer) in medians.items()},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    print(json.dumps(about))


if __name__ == "__main__":
    main()
