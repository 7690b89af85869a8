"""Batches of random windows by :class:`SpikeClips` against zarr-python reading the same arrays.

``python tests/benchmarks/test_loader_speed.py [VIDEOS]`` prints one JSON line at full size: packed
batches of 16 windows of 250 ticks at 240x320, read by two processes, from a store of drawn clips or
of a folder of videos simulated as ``spikedata simulate --threshold 2.0`` does. Under pytest it runs
at tiny size and checks the answers only. Both sides are torch data sets in the same
``DataLoader``; the peer's gives the window's groups as zarr-python decodes them, and cuts them with
NumPy.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from test_store_speed import make_store
from torch.utils.data import DataLoader, Dataset

from spikedata import SpikeClips, available_cores, collate, find_corpus, simulate_corpus
from spikedata import simulation_recipe as recipe_of

TICKS, BATCH, WORKERS = 250, 16, 2


class ByZarrPython(Dataset[dict[str, Any]]):
    """The same items from the same store; what the loader draws is asked of it."""

    def __init__(self, clips: SpikeClips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        stored = self.clips._clips[index]
        (start,), caption = self.clips._place(stored, self.clips._draws(stored))
        clip_id, ticks = self.clips.ids[index], self.clips.segment_ticks
        array = zarr.open_array(self.clips.opened.path / "clips" / clip_id, mode="r")
        groups = array[start // 8 : -(-(start + ticks) // 8)]
        packed_ghw = cut(np.asarray(groups), start % 8, ticks)
        return {
            "packed_sghw": torch.from_numpy(packed_ghw[None]),
            "ticks": ticks,
            "label": self.clips.labels[index],
            "caption": caption,
            "id": clip_id,
            "starts": [start],
        }


def cut(packed_ghw: NDArray[np.uint8], first: int, ticks: int) -> NDArray[np.uint8]:
    """Ticks ``first`` to ``first + ticks``, packed from bit 0 again."""
    low_ghw = packed_ghw >> first
    low_ghw[:-1] |= (packed_ghw[1:].astype(np.uint16) << (8 - first)).astype(np.uint8)
    low_ghw = low_ghw[: -(-ticks // 8)]
    if ticks % 8:
        low_ghw[-1] &= (1 << ticks % 8) - 1
    return low_ghw


def loader(items: Dataset[dict[str, Any]], workers: int) -> DataLoader[Any]:
    return DataLoader(
        items,
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
    )


def measure(store: Path, windows: int, rounds: int, workers: int) -> dict[str, list[float]]:
    """Clips a second of each side, round after round, in turn; the first round warms up."""
    clips = SpikeClips(store, window_ticks=TICKS, ids=chosen(store, windows))
    peer = ByZarrPython(clips)
    for index in range(0, len(clips), max(1, len(clips) // 8)):
        assert torch.equal(clips[index]["packed_sghw"], peer[index]["packed_sghw"]), index
    sides = {"ours": loader(clips, workers), "zarr_python": loader(peer, workers)}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        clips.set_epoch(turn)
        for name, batches in sides.items():
            began = time.perf_counter()
            seen = sum(len(batch["packed_bsghw"]) for batch in batches)
            if turn:
                rates[name].append(seen / (time.perf_counter() - began))
    return rates


def processor_ms(store: Path, windows: int) -> dict[str, list[float]]:
    """Processor's milliseconds a clip, of batches made in this process."""
    clips = SpikeClips(store, window_ticks=TICKS, ids=chosen(store, windows))
    took: dict[str, list[float]] = {}
    for name, items in {"ours": clips, "zarr_python": ByZarrPython(clips)}.items():
        for batches in (loader(items, 0), loader(items, 0)):  # the first warms up
            took[name] = []
            began = time.process_time()
            for batch in batches:
                now = time.process_time()
                took[name].append(1e3 * (now - began) / len(batch["ids"]))
                began = now
    return took


def chosen(store: Path, windows: int) -> list[str]:
    """Ids of so many windows: all clips in turn, in random order."""
    ids = SpikeClips(store, window_ticks=TICKS).ids
    rng = np.random.default_rng(0)
    turns = -(-windows // len(ids))
    return [ids[i] for _ in range(turns) for i in rng.permutation(len(ids))][:windows]


def test_both_give_the_same_windows_in_batches(tmp_path):
    store = make_store(tmp_path / "s.zarr", clips=3, ticks=403, height=16, width=24)
    rates = measure(store.path, windows=20, rounds=1, workers=0)
    assert [len(rates[name]) for name in ("ours", "zarr_python")] == [1, 1]


def make(folder: Path, videos: Path | None) -> Path:
    """A store of drawn clips, or of videos of this size."""
    out = folder / "s.zarr"
    if videos is None:
        return make_store(out, clips=132, ticks=1640, height=240, width=320).path
    recipe = recipe_of(["sensor.threshold=2.0", "video.resize=[240, 320]"])
    return simulate_corpus(find_corpus(videos), out, recipe, workers=available_cores()).store


def main() -> None:
    videos = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as folder:
        store = make(Path(folder), videos)
        rates = measure(store, windows=480, rounds=5, workers=WORKERS)
        took = processor_ms(store, windows=160)
    ratio = [a / b for a, b in zip(rates["ours"], rates["zarr_python"], strict=True)]

    def spread(values: list[float]) -> list[float]:
        return [round(f(values), 2) for f in (min, statistics.median, max)]

    about = {
        "benchmark": f"batches of {BATCH} random windows of {TICKS} ticks, 240x320, packed",
        "clips": "drawn" if videos is None else "simulated from videos",
        "workers": WORKERS,
        "clips_per_s_min_median_max": {name: spread(own) for name, own in rates.items()},
        "ratio_min_median_max": spread(ratio),
        "processor_ms_a_clip_min_median_max": {name: spread(own) for name, own in took.items()},
        "load_of_the_machine": round(os.getloadavg()[0], 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "zarr": zarr.__version__,
    }
    print(json.dumps(about))


if __name__ == "__main__":
    main()
