"""A recording under a disk that is full: what was whole is kept, at once or by ``--resume``."""

import re
import shutil

import numpy as np
import pytest
from forks import Fault, Forks, why_not

from spikedata import open_store, validate

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
TICKS = 1000
WORDS = "spikedata record --from s.dat --camera 16x20 --tick-rate 128 --workers 2 --out out.zarr"


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("forks")
    with Forks(scratch, {}) as forks:
        (scratch / "warm").mkdir()
        write_stream(scratch / "warm")
        forks.warm(WORDS.split(), scratch / "warm")
        yield forks


def write_stream(folder):
    """Random planes as a file, uint8 (T, H, W); a shard is 128 ticks at this rate."""
    planes_thw = (np.random.default_rng(0).random((TICKS, 16, 20)) < 0.3).astype(np.uint8)
    sent = np.packbits(planes_thw.reshape(TICKS, -1), axis=1, bitorder="little")
    (folder / "s.dat").write_bytes(sent.tobytes())
    return planes_thw


def kept(store):
    """The planes of the one clip that is there, its store sound; none if there is none."""
    if not (store / "zarr.json").exists():
        return np.empty((0, 16, 20), np.uint8)
    assert [str(problem) for problem in validate(store)] == []
    opened = open_store(store)
    assert len(opened.clips) <= 1
    return opened.read("recording").unpack() if opened.clips else np.empty((0, 16, 20), np.uint8)


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("kind", ["ENOSPC", "kill", "torn"])
def test_what_was_whole_is_kept_whenever_it_strikes(forks, tmp_path, kind, sticky):
    """Each shard that was closed before the fault is there after it, and nothing wrong is."""
    planes_thw = write_stream(tmp_path)
    unharmed = forks.run(WORDS.split(), tmp_path, call="space")
    assert unharmed.status == 0, unharmed.stderr
    assert np.array_equal(kept(tmp_path / "out.zarr"), planes_thw)
    for at in range(1, unharmed.calls + 1, 3):
        shutil.rmtree(tmp_path / "out.zarr", ignore_errors=True)
        fault = Fault(at=at, kind=kind, call="space", sticky=sticky)
        done = forks.run(WORDS.split(), tmp_path, fault=fault)
        assert done.status in ((0, 1) if kind == "ENOSPC" else (-9,)), (at, done.stderr)
        assert "Traceback" not in done.stderr, (at, done.struck, done.stderr)
        if done.status == 0:  # what failed did not matter
            assert len(kept(tmp_path / "out.zarr")) == TICKS
        again = forks.run(["spikedata", "record", "--out", "out.zarr", "--resume"], tmp_path)
        assert again.status == 0, (at, done.struck, again.stderr)
        found = kept(tmp_path / "out.zarr")
        assert np.array_equal(found, planes_thw[: len(found)]), (at, done.struck)
        shard = re.search(r"/0/c[.](\d+)[.]", done.struck)
        if shard:  # two may have been on their way to the disk, and chunks of another in memory
            assert len(found) >= 128 * (int(shard[1]) - 3), (at, done.struck)
        elif "/.partial/0/zarr.json" in done.struck:
            assert len(found) == TICKS, (at, done.struck)
