"""The commands on object storage, from videos to a model and the Hub."""

import json
import urllib.request

import numpy as np
import pytest
from hub_server import HubServer
from s3_server import ERRORS, SECRETS
from test_cli_train import SMALL
from tools import run_program, write_corpus, write_grey

from spikedata import open_clips, open_store

STORE, PACKED = "s3://bucket/sets/spikes.zarr", "s3://bucket/sets/packed.zarr"


@pytest.fixture
def spikedata(s3, tmp_path):
    """Run a command in a folder; whatever it prints holds no secret."""

    def run(*words, program="spikedata", status=0, env=None):
        done = run_program(program, *words, cwd=tmp_path, env={**s3.environment(), **(env or {})})
        told = done.stdout + done.stderr
        assert not [secret for secret in SECRETS if secret in told]
        assert "Traceback" not in told
        assert done.returncode == status, done.stderr
        return done

    return run


def digests(path):
    return {clip_id: clip.bits_sha256 for clip_id, clip in open_clips(path).clips.items()}


def test_from_videos_to_a_packed_set(s3, spikedata, tmp_path):
    write_corpus(tmp_path / "videos")
    spikedata("simulate", "videos", "--out", "here.zarr")
    spikedata("simulate", "videos", "--out", STORE)
    here = open_store(tmp_path / "here.zarr")
    assert dict(open_clips(STORE).clips) == dict(here.clips)
    again = json.loads(spikedata("simulate", "videos", "--out", STORE, "--json").stdout)
    assert (again["written"], again["skipped"]) == (0, 6)

    told = spikedata("pack", STORE, "--to", "zarr", "--out", PACKED).stdout
    assert PACKED in told
    assert digests(PACKED) == digests(tmp_path / "here.zarr")
    assert spikedata("validate", PACKED).stdout == f"{PACKED}: no problems\n"
    told = json.loads(spikedata("info", PACKED, "--json").stdout)
    assert (told["clips"], told["path"]) == (6, PACKED)

    spikedata("pack", PACKED, "--to", "parquet", "--out", "s3://bucket/sets/p.parquet")
    assert digests("s3://bucket/sets/p.parquet") == digests(PACKED)
    spikedata("view", "--store", PACKED, next(iter(here.clips)), "--out", "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 500
    spikedata("report", PACKED, "--out", "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "class0" in page
    assert not [secret for secret in SECRETS if secret in page]


def test_a_key_that_expires_ends_a_run_that_is_gone_on_with(s3, spikedata, tmp_path):
    write_corpus(tmp_path / "videos")
    s3.spoil(ERRORS["expired"], line="^put .*/clips/", skip=4, times=None)
    done = spikedata("simulate", "videos", "--out", STORE, "--workers", "1", status=1)
    assert "ExpiredToken" in done.stderr
    assert done.stderr.count("error:") == 1
    s3.heal()
    kept = open_clips(STORE)
    assert 0 < len(kept.clips) < 6
    told = json.loads(spikedata("simulate", "videos", "--out", STORE, "--json").stdout)
    assert (told["written"], told["skipped"]) == (6 - len(kept.clips), len(kept.clips))
    spikedata("validate", STORE)


def test_a_pack_that_was_cut_off_is_gone_on_with(s3, spikedata, tmp_path):
    write_corpus(tmp_path / "videos")
    spikedata("simulate", "videos", "--out", "here.zarr")
    s3.spoil(ERRORS["denied"], line="^put .*/clips/", skip=5, times=None)
    done = spikedata("pack", "here.zarr", "--to", "zarr", "--out", PACKED, status=1)
    assert "AccessDenied" in done.stderr
    s3.heal()
    kept = set(open_clips(PACKED).clips)
    assert kept
    before = len(s3.requests)
    spikedata("pack", "here.zarr", "--to", "zarr", "--out", PACKED)
    written = {
        line.split("/")[4]
        for line in s3.requests[before:]
        if line.startswith("put") and "/clips/" in line
    }
    assert written == set(digests(tmp_path / "here.zarr")) - kept
    assert digests(PACKED) == digests(tmp_path / "here.zarr")


def test_what_cannot_be_is_told_in_one_line(s3, spikedata, tmp_path):
    write_grey(tmp_path / "v" / "a.mkv", np.full((4, 8, 10), 99, np.uint8))
    spikedata("simulate", "v", "--out", "here.zarr")
    spikedata("simulate", "v", "--out", STORE, "--threshold", "3")
    before = s3.keys("")
    for words, told in (
        (["pack", "here.zarr", "--to", "hdf5", "--out", "s3://bucket/p.h5"], "written to a disk"),
        (["pack", "here.zarr", "--overwrite", "--out", PACKED], "nothing is replaced"),
        (["pack", "here.zarr", "--to", "zarr", "--out", STORE], "was made with"),
        (["repair", STORE], "needs a disk"),
        (["info", "s3://bucket/none.zarr"], "no store and no Parquet files there"),
        (["info", "s3://nowhere/none.zarr"], "there is no such bucket"),
        (["info", "s3://key:secret@bucket/x"], "a URL is no place for keys"),
        (["info", "s3://"], "names no bucket"),
    ):
        done = spikedata(*words, status=1)
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert told in line
        assert "secret" not in line
        assert s3.keys("") == before


def test_publishing_and_training_from_object_storage(s3, spikedata, tmp_path):
    rng = np.random.default_rng(0)
    for n in range(8):
        light = rng.integers(0, 256, (10, 12, 14), np.uint8)
        write_grey(
            tmp_path / "v" / ("train" if n % 2 else "test") / f"c{n // 4}" / f"{n}.mkv", light
        )
    spikedata("simulate", "v", "--out", STORE)
    with HubServer(tmp_path / "hub") as hub:
        env = hub.environment(tmp_path / "hf")
        spikedata("push-hub", STORE, "--repo", "tester/far", "--licence", "cc0-1.0", env=env)
        url = f"{hub.url}/datasets/tester/far/resolve/main/README.md"
        signed = {"Authorization": f"Bearer {env['HF_TOKEN']}"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=signed)) as answer:
            text = answer.read().decode()
        assert "c0" in text
        assert not [secret for secret in SECRETS if secret in text]
        spikedata("pull", "tester/far", "--out", "back.zarr", env=env)
    assert digests(tmp_path / "back.zarr") == digests(STORE)
    words = ["smoke.yaml", *SMALL, f"data.path={STORE}", "--json"]
    done = spikedata(*words, program="spklip-train")
    assert json.loads(done.stdout)
