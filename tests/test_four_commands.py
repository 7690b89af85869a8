"""The four commands, word for word, on real videos: minutes long, so marked slow."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from hub_server import HubServer
from tools import run_program

from spikedata import open_clips, open_store

LOAD_WITHOUT_SPIKEDATA = """
import hashlib, json, re, sys
import datasets, numpy as np
sys.modules["spikedata"] = None  # importing it from here on is an error
card = open(datasets.DownloadManager().download(sys.argv[1])).read()
namespace = {}
exec(re.findall(r"```python\\n(.*?)```", card, re.DOTALL)[-1], namespace)
digests = {}
for split, rows in datasets.load_dataset(sys.argv[2], streaming=True).items():
    for row in rows:
        packed = np.packbits(namespace["spike_planes"](row), axis=0, bitorder="little")
        digests[row["id"]] = hashlib.sha256(packed.tobytes()).hexdigest()
print(json.dumps(digests))
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_four_commands_on_ucf101(tmp_path, shared_data):
    home = tmp_path / "home"
    shutil.copytree(shared_data / "ucf101", home / "ucf101")
    with HubServer(tmp_path / "hub") as hub:
        env = hub.environment(tmp_path / "hf")
        for words in (
            ["spikedata", "simulate", "ucf101/", "--threshold", "2.0"],
            ["spikedata", "pack", "--to", "zarr"],
            ["spikedata", "push-hub"],
            ["spklip-train", "recipes/fewshot.yaml"],
        ):
            done = run_program(*words, cwd=home, env=env, timeout=3000)
            assert done.returncode == 0, (words, done.stdout, done.stderr)
        store = open_store(home / "spikes.zarr")
        splits = [clip.clip.split for clip in store.clips.values()]
        assert (len(splits), splits.count("train"), splits.count("test")) == (132, 96, 36)
        want = {clip_id: clip.bits_sha256 for clip_id, clip in store.clips.items()}
        packed = open_clips(home / "packed.zarr")
        assert {clip_id: clip.bits_sha256 for clip_id, clip in packed.clips.items()} == want
        repo = "tester/ucf101-spikes"
        card = f"{env['HF_ENDPOINT']}/datasets/{repo}/resolve/main/README.md"
        done = subprocess.run(
            [sys.executable, "-c", LOAD_WITHOUT_SPIKEDATA, card, repo],
            env={**os.environ, **env},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == want
    metrics = json.loads((home / "runs/fewshot/metrics.json").read_text())
    judged = metrics["closed_set"]
    assert judged["spklip"]["clips"] == 36
    assert judged["chance"]["uniform_top1"] == pytest.approx(1 / 12)
    assert judged["mean_rate"]["clips"] == 36
    assert (home / "runs/fewshot/report.html").stat().st_size > 10_000
