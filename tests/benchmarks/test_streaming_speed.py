"""An epoch of windows from Parquet, the format of the Hub, against one from the local store.

``python tests/benchmarks/test_streaming_speed.py [STORE]`` prints one JSON line at full size:
windows of 250 ticks by :class:`SpikeWindows` in packed batches of 16, from a Zarr store and from
what ``spikedata pack --to parquet`` makes of it, read by two workers and in one process. STORE is
a store, or a folder of videos, which are simulated as ``spikedata simulate --threshold 2.0`` does;
without one, clips are drawn. The files were just read or written, so they are cached. Under pytest
it runs at tiny size and checks the answers only.
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
import pyarrow as pa
import torch
from test_store_speed import make_store
from torch.utils.data import DataLoader

from spikedata import (
    SpikeWindows,
    available_cores,
    collate,
    find_corpus,
    pack_clips,
    simulate_corpus,
    simulation_recipe,
)

TICKS, BATCH = 250, 16


def by_id(windows: SpikeWindows) -> dict[str, tuple[list[int], torch.Tensor]]:
    return {item["id"]: (item["starts"], item["packed_sghw"]) for item in windows}


def check_same(stores: dict[str, Path]) -> None:
    """Both give the same windows, in an order of their own."""
    one, other = (by_id(SpikeWindows(path, window_ticks=TICKS)) for path in stores.values())
    assert one.keys() == other.keys()
    for clip_id, (starts, packed) in one.items():
        assert starts == other[clip_id][0], clip_id
        assert torch.equal(packed, other[clip_id][1]), clip_id


def measure(
    stores: dict[str, Path], windows: int, rounds: int, workers: int
) -> dict[str, list[float]]:
    """Clips a second of each store, round after round, in turn; the first round warms up."""
    sides = {}
    for name, path in stores.items():
        stream = SpikeWindows(path, window_ticks=TICKS)
        options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
        sides[name] = DataLoader(stream, batch_size=BATCH, collate_fn=collate, **options)
    epochs = -(-windows // len(stream))
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, batches in sides.items():
            began = time.perf_counter()
            seen = sum(len(batch["ids"]) for _ in range(epochs) for batch in batches)
            if turn:
                rates[name].append(seen / (time.perf_counter() - began))
    return rates


def packed(store: Path, folder: Path) -> dict[str, Path]:
    """The store and its Parquet."""
    pack_clips([store], to="parquet", out=folder / "packed.parquet", workers=available_cores())
    return {"zarr": store, "parquet": folder / "packed.parquet"}


def test_both_give_the_same_windows_in_batches(tmp_path):
    store = make_store(tmp_path / "s.zarr", clips=6, ticks=803, height=16, width=24)
    stores = packed(store.path, tmp_path)
    check_same(stores)
    rates = measure(stores, windows=10, rounds=1, workers=0)
    assert [len(rates[name]) for name in ("zarr", "parquet")] == [1, 1]


def make(folder: Path, source: Path | None) -> Path:
    """The store to read: the one given, or one of drawn clips or of videos."""
    if source is None:
        return make_store(folder / "s.zarr", clips=132, ticks=1640, height=240, width=320).path
    if (source / "zarr.json").exists():
        return source
    recipe = simulation_recipe(["sensor.threshold=2.0"])
    corpus = find_corpus(source)
    return simulate_corpus(corpus, folder / "s.zarr", recipe, workers=available_cores()).store


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    about: dict[str, Any] = {
        "benchmark": f"epochs of random windows of {TICKS} ticks in batches of {BATCH}, packed",
        "clips": "drawn" if source is None else "simulated from videos",
    }
    with tempfile.TemporaryDirectory() as name:
        stores = packed(make(Path(name), source), Path(name))
        check_same(stores)
        about["sizes"] = SpikeWindows(stores["zarr"]).clips.opened.summary()["sizes"]
        for workers in (2, 0):
            rates = measure(stores, windows=320, rounds=7, workers=workers)
            ratio = [b / a for a, b in zip(rates["zarr"], rates["parquet"], strict=True)]
            spread = {"parquet_to_zarr": ratio} | {f"{k}_clips_per_s": v for k, v in rates.items()}
            about[f"workers_{workers}_min_median_max"] = {
                key: [round(f(values), 2) for f in (min, statistics.median, max)]
                for key, values in spread.items()
            }
    about |= {
        "load_of_the_machine": round(os.getloadavg()[0], 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "torch": torch.__version__,
    }
    print(json.dumps(about))


if __name__ == "__main__":
    main()
