"""What the commands say of a set's clips, of two sets of different cameras, of a file by name."""

import json
import subprocess

import numpy as np
import pytest
from tools import BIN, run_in_process, run_program

from spikedata import create_store, open_clips, open_store, pack_clips, write_recording
from spikedata.bits import pack_ticks
from spikedata.clip import Clip


def planes(seed, ticks=40):
    return pack_ticks(np.random.default_rng(seed).random((ticks, 8, 16)) < 0.3)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A store of a camera's clip with losses, a malformed one and a plain one; a camera file."""
    root = tmp_path_factory.mktemp("lab")
    lost = {"camera": {"name": "vidar", "lost": [[3, 2, 100], [9, 5, 250]], "skipped": 7}}
    with create_store(root / "spikes.zarr", recipe={}, class_names=("wave", "jump")) as writer:
        for clip_id, label, attributes in (
            ("b", "wave", lost),
            ("a", "jump", {"camera": {"name": 5, "lost": 3}}),
            ("c", None, {}),
        ):
            clip = Clip(id=clip_id, label=label, split="test" if label else None)
            with writer.clip(clip, height_px=8, width_px=16, tick_rate_hz=2e4) as out:
                out.append(planes(len(clip_id)))
                out.finish(ticks=40, attributes=attributes)
    write_recording(root / "real.dat", [planes(5)], "8x16", ticks=40)
    return root


def run(capsys, *words):
    status = run_in_process("spikedata", list(map(str, words)))
    said = capsys.readouterr()
    assert status == 0, said.err
    return said


def test_info_lists_the_clips_of_a_set_by_id(lab, capsys):
    rows = json.loads(run(capsys, "info", lab / "spikes.zarr", "--clips", "--json").out)
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    same = {"size": "8x16", "ticks": 40, "tick_rate_hz": 2e4}
    assert rows[1] == same | {
        "id": "b",
        "label": "wave",
        "split": "test",
        "camera": "vidar",
        "ticks_lost": 7,
        "lost_spans": 2,
    }
    assert rows[0]["camera"] is None
    assert rows[0]["ticks_lost"] == rows[2]["ticks_lost"] == 0

    lines = run(capsys, "info", lab / "spikes.zarr", "--clips").out.splitlines()
    assert [line.split()[0] for line in lines] == ["id", "a", "b", "c"]
    assert lines[2].split() == ["b", "wave", "test", "8x16", "40", "20000", "vidar", "7", "2"]
    column = lines[0].index("ticks ")
    assert all(line[column:].startswith("40 ") for line in lines[1:])


def test_a_label_in_the_list_cannot_steer_the_terminal(tmp_path, capsys):
    hostile = "red\x1b[31m\u202e\nb  wave"
    with (
        create_store(tmp_path / "s.zarr", recipe={}, class_names=(hostile,)) as writer,
        writer.clip(Clip(id="a", label=hostile), height_px=8, width_px=16, tick_rate_hz=1) as out,
    ):
        out.append(planes(0))
        out.finish(ticks=40, attributes={})
    said = run(capsys, "info", tmp_path / "s.zarr", "--clips").out
    assert r"red\x1b[31m\u202e\nb  wave" in said
    assert len(said.splitlines()) == 2


def test_info_lists_nothing_of_an_empty_store(tmp_path, capsys):
    with create_store(tmp_path / "s.zarr", recipe={}, class_names=()):
        pass
    assert json.loads(run(capsys, "info", tmp_path / "s.zarr", "--clips", "--json").out) == []
    assert run(capsys, "info", tmp_path / "s.zarr", "--clips").out == ""


def test_a_list_reads_no_bits(lab, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack_clips([lab / "spikes.zarr"], to="zarr", out=tmp_path / "s.zarr")
    for shard in (tmp_path / "s.zarr").glob("clips/*/c.*"):
        shard.unlink()
    rows = json.loads(run(capsys, "info", tmp_path / "s.zarr", "--clips", "--json").out)
    assert len(rows) == 3


def test_whoever_reads_the_first_lines_of_a_list_alone_sees_no_error(lab):
    words = f"'{BIN / 'spikedata'}' info spikes.zarr --clips | head -1"
    done = subprocess.run(words, shell=True, cwd=lab, capture_output=True, text=True)
    assert done.stdout.startswith("id ")
    assert done.stderr == ""


def test_what_a_set_lost_is_told_by_info_and_validate(lab, capsys):
    told = json.loads(run(capsys, "info", lab / "spikes.zarr", "--json").out)
    assert told["losses"] == {"bytes skipped": 7, "lost spans": 2, "ticks lost": 7}
    notes = run(capsys, "validate", lab / "spikes.zarr").err
    assert "7 ticks lost, when the clips were made" in notes
    assert "2 lost spans, when the clips were made" in notes


@pytest.mark.parametrize("to", ["zarr", "parquet", "hdf5", "dat"])
def test_losses_survive_every_format(lab, tmp_path, to, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack_clips([lab / "spikes.zarr"], to=to, out=tmp_path / "out")
    want, found = open_store(lab / "spikes.zarr"), open_clips(tmp_path / "out")
    assert list(found.rows()) == list(want.rows())


def test_recordings_of_two_cameras_compare(tmp_path, capsys):
    bits = planes(1, 64)
    write_recording(tmp_path / "one.dat", [bits], "8x16", ticks=64)
    np.savez(tmp_path / "two.npz", np.random.default_rng(1).random((8, 16, 64)) < 0.3)
    words = ["compare", tmp_path / "one.dat", tmp_path / "two.npz", "--json"]
    cameras = ["--camera", "8x16", "--camera", "npz-hwt"]
    rates = ["--tick-rate", "20000", "--tick-rate", "40000"]
    told = json.loads(run(capsys, *words, *cameras, *rates).out)
    assert (told["real"]["tick_rate_hz"], told["simulated"]["tick_rate_hz"]) == (20_000, 40_000)
    told = json.loads(run(capsys, *words, *cameras, "--tick-rate", "30000").out)
    assert told["real"]["tick_rate_hz"] == told["simulated"]["tick_rate_hz"] == 30_000


def test_rows_of_each_of_two_recordings_are_turned_as_told(tmp_path, capsys):
    # Rows of rates of their own: equal to itself turned twice alike, and to its own mirror image.
    rng = np.random.default_rng(2)
    planes_thw = rng.random((400, 16, 8)) < np.linspace(0.1, 0.6, 16)[:, None]
    np.savez(tmp_path / "up.npz", planes_thw.transpose(1, 2, 0))
    np.savez(tmp_path / "down.npz", planes_thw[:, ::-1].transpose(1, 2, 0))
    words = ["compare", tmp_path / "up.npz", tmp_path / "down.npz", "--camera", "npz-hwt"]
    both = [*words, "--no-flip", "--flip"]
    for out, flips in (("same.html", both), ("other.html", words)):
        run(capsys, *flips, "--out", tmp_path / out)
    pictures = [
        [part.split('"')[0] for part in (tmp_path / out).read_text().split("base64,")[1:]]
        for out in ("same.html", "other.html")
    ]
    assert pictures[0][0] == pictures[0][1] == pictures[1][0] != pictures[1][1]


@pytest.mark.parametrize("option", ["--camera", "--tick-rate", "--flip"])
def test_more_than_two_of_an_option_are_refused(lab, option):
    value = {"--camera": ["8x16"], "--tick-rate": ["1"], "--flip": []}[option]
    done = run_program(
        "spikedata", "compare", "real.dat", "real.dat", *[option, *value] * 3, cwd=lab
    )
    assert done.returncode == 2
    assert f"{option}: at most two, REAL's and SIMULATED's, got 3" in done.stderr


def test_view_takes_a_file_by_its_name(lab, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(capsys, "view", lab / "real.dat", "--camera", "8x16")
    assert (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")
    pack_clips([lab / "real.dat"], camera="8x16", to="hdf5", out=tmp_path / "p.h5")
    run(capsys, "view", "p.h5", "--out", "h5.png")
    assert (tmp_path / "h5.png").read_bytes() == (tmp_path / "real.png").read_bytes()
