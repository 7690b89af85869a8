"""Object storage that fails: nothing is lost, nothing is there twice, and a rerun completes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from s3_server import ERRORS, SECRETS, Fault
from tools import write_corpus

from spikedata import (
    SimulationRecipe,
    StoreError,
    find_corpus,
    open_clips,
    pack_clips,
    simulate_corpus,
    validate,
)
from spikedata.remote import asking

STORE, PACKED = "s3://bucket/s.zarr", "s3://bucket/p.zarr"
CLIPS = 6
ENDLESS_S = 3600


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "videos")


@pytest.fixture(scope="module")
def unharmed(videos, tmp_path_factory):
    """What the clips are, by id, as a run on a disk makes them."""
    out = tmp_path_factory.mktemp("unharmed") / "s.zarr"
    simulate_corpus(find_corpus(videos), out, SimulationRecipe())
    return dict(open_clips(out).clips)


def simulate(videos: Path, **given) -> None:
    report = simulate_corpus(find_corpus(videos), STORE, SimulationRecipe(), **given)
    assert report.failures == ()


def pack(here: Path) -> None:
    before = Path.cwd()
    os.chdir(here)  # where it notes what was packed last
    try:
        pack_clips([STORE], to="zarr", out=PACKED)
    finally:
        os.chdir(before)


def check_whole(url: str, unharmed) -> None:
    assert validate(url) == []
    clips = open_clips(url)
    assert dict(clips.clips) == unharmed
    for clip_id in clips.clips:
        clips.verify(clip_id)


def check_no_more(s3, url: str, of: int = CLIPS) -> None:
    """Nothing lies there that belongs to no clip, and no upload was left half done."""
    name = url.rpartition("/")[2]
    keys = s3.keys(name)
    clips = {key.split("/")[2] for key in keys if "/clips/" in key and key.count("/") == 3}
    assert len(clips) == of
    assert not [key for key in keys if ".partial" in key or key.endswith(".lock")]
    assert s3.uploads() == []


ERROR_NAMES = ("500", "503", "drop", "drop unasked", "cut")


@pytest.mark.timeout(300)
def test_two_hundred_errors_lose_nothing(s3, videos, unharmed, tmp_path, monkeypatch):
    """Each fourth request is refused, cut off, or done with its answer lost."""
    monkeypatch.setattr(asking, "FIRST_PAUSE_S", 0.01)
    spoilt, rounds = 0, 0
    while spoilt < 200:
        s3.clear()
        for number, name in enumerate(ERROR_NAMES):
            s3.spoil(
                ERRORS[name], every=4 * len(ERROR_NAMES), skip=4 * number + rounds % 4, times=None
            )
        simulate(videos, workers=2)
        pack(tmp_path)
        check_whole(STORE, unharmed)
        check_whole(PACKED, unharmed)
        spoilt += len(s3.spoilt)
        s3.heal()
        check_whole(PACKED, unharmed)
        check_no_more(s3, STORE)
        check_no_more(s3, PACKED)
        rounds += 1


RUN = """
import os, sys
from pathlib import Path
from spikedata import SimulationRecipe, find_corpus, pack_clips, simulate_corpus
if sys.argv[1] == "simulate":
    simulate_corpus(find_corpus(sys.argv[2]), sys.argv[3], SimulationRecipe(), workers=1)
else:
    pack_clips([sys.argv[2]], to="zarr", out=sys.argv[3])
"""


def start(s3, here: Path, *words: str) -> "subprocess.Popen[bytes]":
    env = {**os.environ, **s3.environment()}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *words], env=env, cwd=here, stderr=subprocess.PIPE
    )


def kill_at(s3, here: Path, number: int, *words: str) -> bool:
    """Kill a run while its request of that number waits; False if it makes no so many."""
    s3.spoil(Fault("delay", seconds=ENDLESS_S), skip=number, times=None)
    running = start(s3, here, *words)
    while running.poll() is None and not s3.spoilt:
        time.sleep(0.01)
    was_running = running.poll() is None
    running.send_signal(signal.SIGKILL)
    running.communicate()
    s3.heal()
    return was_running


@pytest.mark.parametrize("number", [1, 4, 8, 12, 17, 23, 29])
def test_a_run_killed_at_any_request_is_gone_on_with(s3, videos, unharmed, tmp_path, number):
    assert kill_at(s3, tmp_path, number, "simulate", str(videos), STORE)
    kept = set(open_clips(STORE).clips) if "s.zarr/zarr.json" in s3.keys("s.zarr") else set()
    assert kept <= set(unharmed)
    simulate(videos)
    check_whole(STORE, unharmed)
    check_no_more(s3, STORE)


@pytest.mark.parametrize("number", [5, 14, 25, 40])
def test_a_pack_killed_at_any_request_is_gone_on_with(s3, videos, unharmed, tmp_path, number):
    simulate(videos)
    assert kill_at(s3, tmp_path, number, "pack", STORE, PACKED)
    pack(tmp_path)
    check_whole(PACKED, unharmed)
    check_no_more(s3, PACKED)


@pytest.mark.parametrize("name", ["500", "drop unasked"])
@pytest.mark.parametrize("skip", [0, 6, 13])
def test_a_network_that_stays_cut_ends_the_run(s3, videos, unharmed, monkeypatch, name, skip):
    monkeypatch.setattr(asking, "RETRY_S", 1.0)
    from spikedata.remote import buckets

    monkeypatch.setattr(buckets, "TRIES", 1)
    monkeypatch.setattr(buckets, "RETRY_S", 1.0)
    buckets._client.cache_clear()
    s3.spoil(ERRORS[name], skip=skip, times=None)
    began = time.monotonic()
    with pytest.raises((StoreError, OSError)) as failed:
        simulate(videos)
    assert time.monotonic() - began < 60
    told = str(failed.value)
    assert "\n" not in told
    assert not [secret for secret in SECRETS if secret in told]
    s3.heal()
    buckets._client.cache_clear()
    place_lock = "s.zarr.lock"
    if place_lock in s3.keys(place_lock):  # this process lives, and has let go of it as it could
        from spikedata import place

        place(f"s3://bucket/{place_lock}").unlink()
    simulate(videos)
    check_whole(STORE, unharmed)
    check_no_more(s3, STORE)


@pytest.mark.parametrize("skip", [2, 9, 16])
def test_a_credential_that_expires_ends_the_run_at_once(s3, videos, unharmed, skip):
    s3.spoil(ERRORS["expired"], skip=skip, times=None)
    with pytest.raises((StoreError, OSError), match="credentials") as failed:
        simulate(videos)
    assert not [secret for secret in SECRETS if secret in str(failed.value)]
    asked = len(s3.requests)
    s3.heal()
    assert asked < skip + 40
    from spikedata import place

    place("s3://bucket/s.zarr.lock").unlink()
    simulate(videos)
    check_whole(STORE, unharmed)
    check_no_more(s3, STORE)


def test_bits_that_change_on_the_way_are_told(s3, videos, unharmed):
    simulate(videos)
    clips = open_clips(STORE)
    clip_id = next(iter(unharmed))
    s3.spoil(Fault("garble", after=3), line=f"^get .*/{clip_id}/c", times=None)
    with pytest.raises(StoreError, match="wrong checksum|damaged|not the one"):
        clips.verify(clip_id)
    s3.heal()
    clips.verify(clip_id)
