"""One set of recordings of every layout: packed, published, fetched, loaded as plain Parquet."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np
import pytest
from hub_server import HubServer

from spikedata import open_clips, pack_clips, pull, push_hub
from spikedata.bits import pack_ticks
from spikedata.camera import write_recording
from spikedata.hub.card import DECODER

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CONSUMER = f"""
import hashlib, json
from datasets import load_dataset
{DECODER}
rows = load_dataset("lab/mixed", split="train", streaming=True)
digest = {{row["id"]: hashlib.sha256(spike_planes(row).tobytes()).hexdigest() for row in rows}}
print(json.dumps(digest))
"""
"""A program without spikedata."""


def write_all(root: Path) -> dict[str, np.ndarray]:
    """A folder with one recording of each layout and what tells of them; planes by clip."""
    rng = np.random.default_rng(0)
    planes: dict[str, np.ndarray] = {}
    lines = []

    def tell(name: str, camera: str | None, planes_thw: np.ndarray, label: str) -> Path:
        planes[name.replace("/", "__").partition(".")[0]] = planes_thw
        known = {"file_name": name, "label": label, "captions": [f"a {label}", f"{label}s"]}
        lines.append(known | ({} if camera is None else {"camera": camera}))
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        return root / name

    for camera in ("vidar", "vidar-raw", "easy2spike", "sps100", "7x9", "12x10:bottom-up"):
        height, width = {"sps100": (1000, 1000), "7x9": (7, 9), "12x10:bottom-up": (12, 10)}.get(
            camera, (250, 400)
        )
        ticks = 3 if camera == "sps100" else 21
        planes_thw = rng.integers(0, 2, (ticks, height, width), np.uint8)
        name = f"dat/{camera.replace(':', '-')}.dat"
        file = tell(name, camera, planes_thw, "wave")
        write_recording(file, [pack_ticks(planes_thw)], camera, ticks=ticks)
    arrays = {name: rng.integers(0, 2, (20, 6, 8), np.uint8) for name in "abcdef"}
    np.save(tell("array/a.npy", "thw", arrays["a"], "clap"), arrays["a"].astype(bool))
    np.save(tell("array/b.npy", "hwt", arrays["b"], "clap"), arrays["b"].transpose(1, 2, 0).copy())
    np.savez(tell("array/c.npz", None, arrays["c"], "clap"), spk=arrays["c"], label=3)
    packed_ghw = np.packbits(arrays["d"], axis=0, bitorder="little")
    np.savez(tell("array/d.npz", None, arrays["d"], "clap"), seq=packed_ghw, length=20)
    with h5py.File(tell("array/e.h5", None, arrays["e"], "clap"), "w") as file:
        file["raw_spike"] = arrays["e"]
    floats_hwt = arrays["f"].transpose(1, 2, 0).astype(np.float32)
    np.savez(tell("array/f.npz", "hwt", arrays["f"], "clap"), floats_hwt)
    (root / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return planes


def check(path: Path, planes: dict[str, np.ndarray]) -> None:
    clips = open_clips(path)
    assert clips.left_out == ()
    assert set(clips.clips) == set(planes)
    for clip_id, planes_thw in planes.items():
        assert np.array_equal(clips.read(clip_id).unpack(), planes_thw), clip_id
        assert clips.clips[clip_id].label == ("wave" if clip_id.startswith("dat") else "clap")
        assert len(clips.clips[clip_id].clip.captions) == 2


def test_every_layout_survives_each_format_and_the_hub(tmp_path, monkeypatch):

    monkeypatch.chdir(tmp_path)
    planes = write_all(Path("rec"))
    check(Path("rec"), planes)
    before = "rec"
    for to, out in (("hdf5", "a.h5"), ("dat", "a.dat"), ("parquet", "a.parquet"), ("zarr", "a")):
        report = pack_clips([before], to=to, out=out)
        assert (report.failures, report.clips) == ((), len(planes))
        check(Path(out), planes)
        before = out
    with HubServer(tmp_path / "hub") as hub:
        for key, value in hub.environment(tmp_path / "home").items():
            monkeypatch.setenv(key, value)
        push_hub("a", repo="lab/mixed")
        pull("lab/mixed", "back")
        check(Path("back"), planes)
        alone = [sys.executable, "-I", "-c", CONSUMER]
        done = subprocess.run(alone, capture_output=True, text=True, check=True, timeout=300)
    digests = {key: sha256(planes_thw.tobytes()).hexdigest() for key, planes_thw in planes.items()}
    assert json.loads(done.stdout) == digests
