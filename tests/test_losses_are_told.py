"""Nothing ends well with something lost and untold: each loss is planted, and looked for."""

import json
import os
import shutil

import numpy as np
import pytest
from tools import random_frames, run_in_process, without_digests, write_grey

from spikedata import SpikeDataError, find_corpus, open_clips


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def simulate(capsys, *words):
    status = run_in_process("spikedata", ["simulate", "in", "--json", *words])
    said = capsys.readouterr()
    return status, json.loads(said.out), said.err


def check_told(capsys, words):
    """A run that lost something says so in text and in JSON; gives the JSON."""
    status, told, err = simulate(capsys)
    assert any(words in note for note in told["notes"]), told
    assert any(words in line for line in err.splitlines() if line.startswith("note: ")), err
    assert status == 0
    return told


def test_a_missing_picture_is_held_and_told(here, capsys):
    folder = here / "in" / "run" / "clip"
    folder.mkdir(parents=True)
    import cv2

    for number in (1, 2, 3, 6):
        picture = np.full((12, 16), 20 * number, np.uint8)
        cv2.imwrite(str(folder / f"{number:04d}.png"), picture)
    status, told, err = simulate(capsys, "--fps", "25")
    assert (status, told["losses"]) == (0, {"frames held": 2})
    assert "note: 2 frames held in 1 clip" in err
    assert open_clips("spikes.zarr").clips["run__clip"].ticks == 60
    for words in (["info", "--json"], ["validate", "--json"]):
        assert run_in_process("spikedata", words) == 0
        assert json.loads(capsys.readouterr().out)["losses"] == {"frames held": 2}
    assert run_in_process("spikedata", ["report"]) == 0
    capsys.readouterr()
    shutil.rmtree(here / "spikes.zarr")
    status, told, err = simulate(capsys, "--fps", "25", "--damaged", "refuse")
    assert status == 1
    assert "failed: run__clip" in err


def test_a_cut_off_video_is_told(here, capsys):
    whole = write_grey(here / "whole.avi", random_frames(1, 40))
    (here / "in" / "run").mkdir(parents=True)
    (here / "in" / "run" / "a.avi").write_bytes(whole.read_bytes()[:-2500])
    told = check_told(capsys, "cut off at the end")
    assert told["written"] == 1


def test_files_that_are_no_videos_are_told(here, capsys):
    write_grey(here / "in" / "run" / "a.mkv", random_frames(1))
    (here / "in" / "run" / "a.srt").write_text("1")
    check_told(capsys, "1 file passed over: 1 .srt")


def test_lost_labels_are_told(here, capsys):
    write_grey(here / "in" / "a.mkv", random_frames(1))
    (here / "in" / "metadata.csv").write_text("file_name,lable,splits\na.mkv,run,train\n")
    told = check_told(capsys, "no clip has a label")
    assert any("'lable' (did you mean 'label'?)" in note for note in told["notes"])
    assert any("'splits' (did you mean 'split'?)" in note for note in told["notes"])


def test_lost_splits_are_told(here, capsys):
    for name in ("1", "8"):
        write_grey(here / "in" / "test" / "A" / f"v_A_g0{name}_c01.avi", random_frames(int(name)))
    for name, line in (("train", "A/v_A_g01_c01.avi 1\n"), ("test", "A/v_A_g08_c01.avi\n")):
        (here / "in" / f"{name}list01.txt").write_text(line)
    check_told(capsys, "in a folder of another split than the official lists say")


def test_lost_captions_are_told(here, capsys):
    write_grey(here / "in" / "a.mkv", random_frames(1))
    lines = [
        {"file_name": "a.mkv", "label": "run", "caption": 3},
        {"file_name": "a.mkv", "label": "run"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (here / "in" / "metadata.jsonl").write_text(text)
    check_told(capsys, "captions must be text")


def test_lost_files_are_failures(here, capsys):
    for name in ("a.mkv", "a.avi", "b.mkv"):
        write_grey(here / "in" / "run" / name, random_frames(ord(name[0])))
    status, told, err = simulate(capsys)
    assert status == 1
    assert told["written"] == 2
    assert ["would both be clip 'run__a'" in failed["error"] for failed in told["failed"]] == [True]
    assert "failed: run__a" in err
    listed = (here / "spikes.failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in listed] == ["run__a"]


def test_several_sizes_are_told(here, capsys):
    write_grey(here / "in" / "run" / "a.mkv", random_frames(1))
    write_grey(here / "in" / "run" / "b.mkv", random_frames(2, height=16))
    check_told(capsys, "pictures of 2 sizes: 16x10 (1), 8x10 (1); see --resize")


def test_slow_motion_has_the_rate_it_was_filmed_at(here, capsys):
    write_grey(here / "in" / "a.mkv", random_frames(1))
    write_grey(here / "in" / "b.mkv", random_frames(2))
    (here / "in" / "metadata.csv").write_text("file_name,capture_fps\na.mkv,240\nb.mkv,\n")
    status, _, _ = simulate(capsys)
    assert status == 0
    clips = open_clips("spikes.zarr").clips
    assert [clips[key].tick_rate_hz for key in ("a", "b")] == [2400.0, 250.0]


def test_a_store_of_before_a_setting_was_there_is_continued(here, capsys):
    write_grey(here / "in" / "run" / "a.mkv", random_frames(1))
    assert simulate(capsys)[0] == 0
    path = without_digests(here / "spikes.zarr") / "zarr.json"
    root = json.loads(path.read_text())
    for key in ("fit", "capture_fps"):
        del root["attributes"]["recipe"]["video"][key]
    path.write_text(json.dumps(root))
    write_grey(here / "in" / "run" / "b.mkv", random_frames(2))
    status, told, _ = simulate(capsys)
    assert (status, told["written"], told["skipped"]) == (0, 1, 1)
    assert run_in_process("spikedata", ["simulate", "in", "--transfer", "srgb"]) == 1
    assert "was made with sensor.transfer" in capsys.readouterr().err


def test_notes_stand_in_a_dry_run_too(here, capsys):
    write_grey(here / "in" / "run" / "a.mkv", random_frames(1))
    (here / "in" / "run" / "a.srt").write_text("1")
    assert find_corpus(here / "in").notes
    status, told, _ = simulate(capsys, "--dry-run")
    assert (status, told["notes"]) == (0, ["1 file passed over: 1 .srt"])


@pytest.fixture
def recordings(here):
    """A folder of which one recording opens, one is cut within a plane, and one file is none."""
    folder = here / "in" / "run"
    folder.mkdir(parents=True)
    (folder / "good.dat").write_bytes(bytes(range(64)) * 40)
    (folder / "cut.dat").write_bytes(bytes(63))
    (folder / "readme.txt").write_text("1")


READS = [
    ("info", 0, ["in", "--json"]),
    ("validate", 1, ["in", "--json"]),
    ("validate", 1, ["in", "--quick"]),
    ("view", 0, ["run__good", "--store", "in", "--single", "--out", "o.png", "--json"]),
    ("report", 0, ["in", "--out", "o.html"]),
    ("compare", 0, ["in", "in", "--clip", "run__good", "--json"]),
    ("export", 0, ["in", "o.npy", "--clip", "run__good"]),
    ("pack", 1, ["in", "--to", "parquet", "--json"]),
]


@pytest.mark.usefixtures("recordings")
@pytest.mark.parametrize(("verb", "status", "words"), READS)
def test_every_verb_that_reads_tells_what_it_reads_without(capsys, verb, status, words):
    assert run_in_process("spikedata", [verb, *words, "--camera", "16x32"]) == status
    said = capsys.readouterr()
    for loss in ("1 file passed over: 1 .txt", "cut.dat: 63 bytes is not a whole number"):
        assert loss in said.err
        assert "--json" not in words or loss in said.out


def test_a_choice_of_official_splits_that_there_are_none_of_is_told(here, capsys):
    write_grey(here / "in" / "run" / "a.mkv", random_frames(1))
    for words, given in (["--split", "2"], "split 2"), (["--splits", "in"], "split 1 of in"):
        told = simulate(capsys, "--dry-run", *words)[1]
        assert told["notes"] == [
            f"{given} was not read: a corpus read as folder has no official splits"
        ]


def test_a_way_to_fit_pictures_into_no_size_is_refused(here, capsys):
    write_grey(here / "in" / "run" / "a.mkv", random_frames(1))
    for words in ([], ["--resize", "8"]):
        assert run_in_process("spikedata", ["simulate", "in", "--fit", "crop", *words]) == 2
        assert "--fit: says how pictures fill --resize HxW" in capsys.readouterr().err


def lossy_sets(here):
    """Sets in several formats, each without the clip that is all of the split ``train``."""
    for split, name in (("train", "a"), ("test", "b")):
        write_grey(here / "in" / split / "run" / f"{name}.mkv", random_frames(ord(name)))
    assert run_in_process("spikedata", ["simulate", "in"]) == 0
    for to in ("parquet", "dat"):
        assert run_in_process("spikedata", ["pack", "--to", to]) == 0
    shutil.rmtree(here / "spikes.zarr/clips/train__run__a")
    (here / "packed.parquet/data/train-00000-of-00001.parquet").unlink()
    (here / "packed.dat/run/train__run__a.dat").unlink()
    return {
        "spikes.zarr": "clip train__run__a: its folder is gone, catalog.jsonl lists it",
        "packed.parquet": "train-00000-of-00001.parquet: is gone, with all of its clips",
        "packed.dat": "clip train__run__a: its file run/train__run__a.dat is gone",
    }


def test_a_clip_that_is_gone_is_made_again_or_told_and_stays_noted(here, capsys):
    for name in ("a", "b"):
        write_grey(here / "in" / "run" / f"{name}.mkv", random_frames(ord(name)))
    assert simulate(capsys)[0] == 0
    shutil.rmtree(here / "spikes.zarr/clips/run__a")
    (here / "in/run/a.mkv").rename(here / "a.mkv")
    for _ in range(2):
        told = check_told(capsys, "clip run__a: its folder is gone, catalog.jsonl lists it")
        assert (told["written"], told["skipped"]) == (0, 1)
    (here / "a.mkv").rename(here / "in/run/a.mkv")
    status, told, _ = simulate(capsys)
    assert (status, told["written"], told["skipped"], told["notes"]) == (0, 1, 1, [])
    assert open_clips("spikes.zarr").left_out == ()


def test_clips_that_are_gone_are_told_by_every_command_that_goes_on_without_them(here, capsys):
    for path, told in lossy_sets(here).items():
        capsys.readouterr()
        for words, status in [
            (["info", path], 0),
            (["report", path, "--out", f"{path}.html"], 0),
            (["validate", path], 1),
            (["validate", path, "--quick"], 1),
            (["pack", path, "--out", f"{path}.again"], 1),
            (["push-hub", path, "--dry-run"], 1),
            (["export", path, f"{path}.npz"], 0),
        ]:
            assert run_in_process("spikedata", words) == status, words
            said = capsys.readouterr()
            assert told in said.out + said.err, words
        assert "would be published without 1 clips or files" in said_of(capsys, "push-hub", path)
        assert told in json.loads((here / f"{path}.failures.jsonl").read_text())["error"]
        assert run_in_process("spikedata", ["info", path, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["left_out"] == 1
        assert told in (here / f"{path}.html").read_text()


def said_of(capsys, *words):
    run_in_process("spikedata", [*words, "--dry-run"])
    return capsys.readouterr().err


def test_clips_that_are_gone_are_told_when_a_model_is_trained(here, caplog):
    from spklip.recipe import read_recipe
    from spklip.splits import open_splits

    for path, told in lossy_sets(here).items():
        words = [f"data.path={path}", "data.train_split=test", "data.test_split=train"]
        with pytest.raises(SpikeDataError, match="no labelled clips in split 'train'"):
            open_splits(read_recipe(os.devnull, words))
        assert any(told in record.getMessage() for record in caplog.records), caplog.text
        caplog.clear()
