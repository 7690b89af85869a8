"""Corpora whose videos lie in object storage: found as on a disk, and filmed one by one."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from s3_server import ERRORS
from tools import random_frames, write_corpus, write_grey

from spikedata import SimulationRecipe, SpikeDataError, find_corpus, open_store, simulate_corpus


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary files lie."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def upload(s3, folder: Path, name: str) -> str:
    for file in folder.rglob("*"):
        if file.is_file():
            s3.put(f"{name}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return f"s3://bucket/{name}"


def ucf101(root: Path) -> Path:
    for number, name in enumerate(("Biking_g01_c01", "Biking_g02_c01", "PullUps_g01_c01")):
        path = root / name.partition("_")[0] / f"v_{name}.mkv"
        write_grey(path, random_frames(number, 4))
    shutil.copyfile(root / "Biking/v_Biking_g01_c01.mkv", root / "Biking/v_Biking_g03_c01.mkv")
    lists = root.parent / "ucfTrainTestlist"
    lists.mkdir(exist_ok=True)
    (lists / "classInd.txt").write_text("1 Biking\n2 PullUps\n")
    (lists / "trainlist01.txt").write_text(
        "Biking/v_Biking_g02_c01.avi 1\nPullUps/v_PullUps_g01_c01.avi 2\n"
    )
    (lists / "testlist01.txt").write_text("Biking/v_Biking_g01_c01.avi\n")
    return root


def table(root: Path) -> Path:
    write_corpus(root, clips=1)
    (root / "metadata.jsonl").write_text(
        '{"file_name": "class0/clip0.mkv", "label": "jump", "text": "a jump"}\n'
        '{"file_name": "class1/clip0.mkv", "label": "run"}\n'
        '{"file_name": "gone.mkv", "label": "run"}\n'
    )
    return root


def pictures(root: Path) -> Path:
    from PIL import Image

    for folder in ("a", "b"):
        (root / folder).mkdir(parents=True)
        for number, grey_hw in enumerate(random_frames(ord(folder), 5)):
            Image.fromarray(grey_hw).save(root / folder / f"{number:04d}.png")
    return root


@pytest.mark.parametrize("make", [ucf101, table, pictures, write_corpus])
def test_is_found_and_filmed_as_on_a_disk(s3, tmp_path, scratch, make):
    home = make(tmp_path / "far" / "corpus")
    url = upload(s3, home.parent, "data") + "/corpus"
    recipe = SimulationRecipe()
    if make is pictures:
        from spikedata import VideoConfig

        recipe = SimulationRecipe(video=VideoConfig(fps=25.0))
    here, there = find_corpus(home), find_corpus(url)
    assert [item.clip for item in there.clips] == [item.clip for item in here.clips]
    assert [str(item.path) for item in there.clips] == [
        f"{url}/{item.path.relative_to(home).as_posix()}" for item in here.clips
    ]
    assert (there.name, there.class_names, there.folder_name) == (
        here.name,
        here.class_names,
        here.folder_name,
    )
    assert list(there.notes) == [note.replace(str(home), url) for note in here.notes]
    assert [left.error for left in there.left_out] == [
        left.error.replace(str(home), url) for left in here.left_out
    ]
    simulate_corpus(here, tmp_path / "here.zarr", recipe)
    report = simulate_corpus(there, tmp_path / "there.zarr", recipe, workers=2)
    assert report.written == len(here.clips)
    for path in (tmp_path / "here.zarr").rglob("*"):
        if path.is_file():
            other = tmp_path / "there.zarr" / path.relative_to(tmp_path / "here.zarr")
            assert other.read_bytes() == path.read_bytes(), other
    assert list(scratch.iterdir()) == []


def test_going_on_asks_for_no_video(s3, tmp_path):
    url = upload(s3, write_corpus(tmp_path / "v"), "v")
    simulate_corpus(find_corpus(url), tmp_path / "s.zarr", SimulationRecipe())
    before = len(s3.requests)
    again = simulate_corpus(find_corpus(url), tmp_path / "s.zarr", SimulationRecipe())
    assert (again.written, again.skipped) == (0, 6)
    assert not [line for line in s3.requests[before:] if line.endswith(".mkv")]
    write_grey(tmp_path / "longer.mkv", random_frames(1, 12))
    s3.put("v/class0/clip0.mkv", (tmp_path / "longer.mkv").read_bytes())
    changed = simulate_corpus(find_corpus(url), tmp_path / "s.zarr", SimulationRecipe())
    assert "made of a file of" in changed.failures[0].error


def test_what_one_video_lacks_costs_one_clip(s3, tmp_path, scratch):
    url = upload(s3, write_corpus(tmp_path / "v"), "v")
    s3.put("v/class0/clip1.mkv", b"no video")
    corpus = find_corpus(url)
    s3.put("v/class1/clip0.mkv", b"")
    s3.spoil(ERRORS["denied"], line="^get .*class1/clip2", times=None)
    report = simulate_corpus(corpus, tmp_path / "s.zarr", SimulationRecipe())
    assert report.written == 3
    told = [failure.error for failure in report.failures]
    assert told[0].startswith(f"{url}/class0/clip1.mkv")
    assert "AccessDenied" in told[2]
    assert len(told) == 3
    assert not [text for text in told if str(scratch) in text]
    assert list(scratch.iterdir()) == []
    assert len(open_store(tmp_path / "s.zarr").clips) == 3


def test_official_lists_may_lie_elsewhere(s3, tmp_path):
    home = ucf101(tmp_path / "far" / "ucf")
    url = upload(s3, home, "videos")
    lists = upload(s3, home.parent / "ucfTrainTestlist", "elsewhere")
    want = [item.clip for item in find_corpus(home).clips]
    assert [item.clip for item in find_corpus(url, splits=lists).clips] == want
    assert [item.clip for item in find_corpus(home, splits=lists).clips] == want


@pytest.mark.parametrize("key", ["v/../../escape.mkv", "v/a/..\\b.mkv"])
def test_names_that_lead_elsewhere_are_refused(s3, tmp_path, scratch, key):
    s3.put("v/good.mkv", write_grey(tmp_path / "g.mkv", random_frames(0, 4)).read_bytes())
    s3.put(key, b"x")
    with pytest.raises(SpikeDataError, match="rename it"):
        find_corpus("s3://bucket/v")
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "escape.mkv").exists()


def test_marks_of_folders_are_no_files(s3, tmp_path):
    url = upload(s3, write_corpus(tmp_path / "v", clips=1), "v")
    want = [item.clip for item in find_corpus(url).clips]
    for mark in ("v/", "v/class0/", "v/empty/"):
        s3.put(mark, b"")
    assert [item.clip for item in find_corpus(url).clips] == want


def test_nothing_there_is_told(s3):
    for url, told in (
        ("s3://bucket/none", "no such folder"),
        ("s3://nowhere/none", "there is no such bucket"),
    ):
        with pytest.raises(SpikeDataError, match=told) as failed:
            find_corpus(url)
        assert str(failed.value).startswith(url)


def test_the_bits_are_those_of_the_video(s3, tmp_path):
    """A white picture of code 255 at threshold 2 fires every other tick, wherever it lies."""
    write_grey(tmp_path / "v" / "white.mkv", np.full((4, 8, 10), 255, np.uint8))
    url = upload(s3, tmp_path / "v", "v")
    simulate_corpus(find_corpus(url), tmp_path / "s.zarr", SimulationRecipe())
    stored = open_store(tmp_path / "s.zarr").clips["white"]
    assert stored.spikes == stored.ticks * 8 * 10 // 2
