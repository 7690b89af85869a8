"""Clips written by others into a store whose lock one holds: whole, once, and never too late."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from tools import digest_of_folder

from spikedata import open_store, validate
from spikedata.clip import Clip
from spikedata.clips import create_store, part_writer
from spikedata.clips.store import PartWriter, catalog
from spikedata.errors import StoreError

SIZE = {"height_px": 6, "width_px": 7, "tick_rate_hz": 100.0}


def packed(seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (20, 6, 7), dtype=np.uint8)


def write(writer, clip_id, seed=0):
    with writer.clip(Clip(id=clip_id), **SIZE) as target:
        target.append(packed(seed))
        return target.finish(ticks=160, attributes={"seed": seed})


def new_store(path, **how):
    return create_store(path, recipe={"k": 1}, class_names=(), name="toy", **how)


@pytest.fixture
def whole(tmp_path):
    """What one process writes by itself."""
    with new_store(tmp_path / "whole.zarr") as store:
        for n in range(4):
            write(store, f"clip{n}", n)
    return digest_of_folder(tmp_path / "whole.zarr")


def test_what_others_wrote_is_the_same_store(tmp_path, whole):
    path = tmp_path / "s.zarr"
    with new_store(path) as store, store.lend() as lent:
        one, other = PartWriter(lent), PartWriter(lent)
        for n in range(4):
            write([one, other][n % 2], f"clip{n}", n)
    assert digest_of_folder(path) == whole
    assert validate(path) == []
    assert not (path / ".partial").exists()


def test_of_two_that_write_a_clip_the_second_drops_its_own(tmp_path, whole):
    path = tmp_path / "s.zarr"
    with new_store(path) as store, store.lend() as lent:
        one, other = PartWriter(lent), PartWriter(lent)
        for n in range(4):
            write(one, f"clip{n}", n)
        first = os.stat(path / "clips/clip3").st_ino
        assert other.stored("clip3").attributes == {"seed": 3}
        assert write(other, "clip3", 3) == one.stored("clip3")
        assert os.stat(path / "clips/clip3").st_ino == first
        noted = b"".join(file.read_bytes() for file in lent.folder.glob("*.jsonl"))
        assert noted.count(b"\n") == 4
        assert [file.name for file in lent.folder.glob("*/*")] == []
    assert digest_of_folder(path) == whole


def test_who_is_late_finds_no_place_to_write_to(tmp_path):
    path = tmp_path / "s.zarr"
    with new_store(path) as store:
        with store.lend() as lent:
            late = PartWriter(lent)
            write(late, "clip0")
            begun = late.clip(Clip(id="clip1"), **SIZE)
            begun.append(packed(1))
        with (
            pytest.raises(StoreError, match="was replaced, removed or taken back meanwhile"),
            begun,
        ):
            begun.finish(ticks=160, attributes={})
        with pytest.raises(FileNotFoundError):
            late.clip(Clip(id="clip2"), **SIZE)
        with pytest.raises(StoreError, match="does not see it. All nodes must share"):
            PartWriter(lent)
    assert list(open_store(path).clips) == ["clip0"]
    assert validate(path) == []


def test_a_clip_whose_writer_did_not_live_to_note_it_is_listed(tmp_path):
    path = tmp_path / "s.zarr"
    with new_store(path) as store:
        with store.lend() as lent:
            writer = PartWriter(lent)
            write(writer, "clip0")
            (noted,) = lent.folder.glob("*.jsonl")
            noted.write_bytes(noted.read_bytes()[:40])  # and one that is cut off
        assert store.ids == ["clip0"]
    assert validate(path) == []


def test_a_writer_is_one_for_each_lending(tmp_path):
    with new_store(tmp_path / "s.zarr") as store:
        with store.lend() as first:
            one = part_writer(first)
            assert part_writer(first) is one
        with store.lend() as second:
            assert part_writer(second) is not one


KILLED = """
    import os
    from pathlib import Path
    from test_parts import new_store, write
    from spikedata.clips.store import PartWriter

    store = new_store(Path("s.zarr"))
    with store.lend() as lent:
        for n in range(3):
            write(PartWriter(lent), f"clip{n}", n)
        os._exit(9)
"""


def test_after_a_kill_clips_are_listed_by_what_their_writers_noted(tmp_path, whole, monkeypatch):
    path = tmp_path / "s.zarr"
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)])},
        check=False,
    )
    assert done.returncode == 9
    assert list((path / ".partial").glob("parts-*/*.jsonl"))
    assert not (path / "catalog.jsonl").exists()

    def asked(folder):
        raise AssertionError(f"{folder} was asked")

    with monkeypatch.context() as patched:
        patched.setattr(catalog, "read_clip_metadata", asked)
        store = new_store(path, resume=True)
    with store:
        assert store.ids == ["clip0", "clip1", "clip2"]
        assert len((path / "catalog.jsonl").read_bytes().splitlines()) == 3  # a second kill too
        write(store, "clip3", 3)
    assert digest_of_folder(path) == whole


def test_what_is_noted_of_a_clip_that_is_gone_is_not_listed(tmp_path):
    path = tmp_path / "s.zarr"
    with new_store(path):
        pass
    with new_store(path, resume=True) as store:
        with store.lend() as lent:
            write(PartWriter(lent), "clip0")
            left = {file.name: file.read_bytes() for file in lent.folder.glob("*.jsonl")}
        store.discard("clip0")
    again = path / ".partial" / "parts-of-a-killed-run"
    again.mkdir(parents=True)
    for name, data in left.items():
        (again / name).write_bytes(data + b"no json\n")
    with new_store(path, resume=True) as store:
        assert (store.ids, store.lost) == ([], ())
    assert validate(path) == []
