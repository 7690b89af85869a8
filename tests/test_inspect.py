"""`spikedata inspect`, run for real: what it prints, what it writes, how it fails."""

import json
import shlex
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image
from test_layouts import drawn, spikes_of, written
from tools import one_line_error, run_program

from spikedata import CAMERAS
from spikedata.analysis.candidates import MOST_LINES, dots_of
from spikedata.camera import find_camera
from spikedata.layouts.candidates import plain_camera


@pytest.fixture
def home(tmp_path):
    """Recordings of three layouts, one below the other; and one that nothing fits."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name, camera, ticks in (
        ("car.dat", CAMERAS["vidar"], 40),
        ("deep/small one.dat", find_camera("96x160"), 100),
        ("deep/big.dat", plain_camera(60, 90, "big"), 100),
    ):
        packed = spikes_of(drawn(camera, 3), ticks, 2.0, ticks_per_frame=20)
        written(tmp_path / "in" / name, packed, camera, ticks)
    return tmp_path


def inspect(home, *words):
    return run_program("spikedata", "inspect", *words, cwd=home)


def test_one_file_is_a_table_and_the_command_that_packs_it(home):
    done = inspect(home, "in/car.dat")
    assert done.returncode == 0, done.stderr
    head, first, second, *rest = done.stdout.splitlines()
    assert head.split() == ["layout", "size", "ticks", "score", "certainty", "verdict"]
    assert first.split()[:3] == ["vidar", "250x400", "40"]
    assert float(first.split()[3]) > float(second.split()[3])
    assert rest[-2:] == [
        "spikedata pack in/car.dat --camera vidar",
        "If it is upside down, which no file tells: --no-flip",
    ]
    packed = run_program(*rest[-2].split(), cwd=home)
    assert packed.returncode == 0, packed.stderr
    assert "look like" not in packed.stderr


def test_a_folder_is_a_line_a_file(home):
    done = inspect(home, "in")
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [
        "file",
        "in/car.dat",
        "in/deep/big.dat",
        "in/deep/small one.dat",
    ]
    assert "60x90-msb" in done.stdout


def test_the_order_of_bits_is_in_the_command(home):
    done = inspect(home, "in/deep/big.dat")
    command = done.stdout.splitlines()[-2]
    assert command == "spikedata pack in/deep/big.dat --camera 60x90-msb"
    assert run_program(*command.split(), cwd=home).returncode == 0


def test_json_has_everything_but_pictures(home):
    done = inspect(home, "in/deep/small one.dat", "--json")
    (told,) = json.loads(done.stdout)["files"]
    assert told["file"] == "in/deep/small one.dat"
    assert told["command"] == "spikedata pack 'in/deep/small one.dat' --camera 96x160"
    best = told["candidates"][0]
    assert (best["name"], best["ticks"]) == ("96x160", 100)
    assert (best["height_px"], best["width_px"]) == (96, 160)
    assert len(told["candidates"]) > 1


def test_a_sheet_of_pictures_is_written_once(home):
    done = inspect(home, "in/car.dat", "--out", "sheet.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "pictures: sheet.png"
    sheet_hw = np.asarray(Image.open(home / "sheet.png"))
    assert sheet_hw.shape[1] == 6 + 4 * 262
    again = inspect(home, "in/car.dat", "--out", "sheet.png")
    assert "exists already" in one_line_error(again, 1)
    assert inspect(home, "in", "--out", "sheet.png", "--overwrite").returncode == 0
    assert inspect(home, "in/car.dat", "--out", "in/car.dat", "--overwrite").returncode == 1


def test_show_draws_in_letters_that_steer_nothing(home):
    done = inspect(home, "in/car.dat", "--show")
    drawn_lines = [line for line in done.stdout.splitlines() if "\u2800" <= line[:1] <= "\u28ff"]
    assert len(drawn_lines) >= 8
    assert all(len(line) <= 80 for line in drawn_lines)
    assert "\x1b" not in done.stdout


def test_a_camera_can_be_asked_for(home):
    done = inspect(home, "in/car.dat", "--camera", "500x800", "--camera", "easy2spike")
    names = [line.split()[0] for line in done.stdout.splitlines()[1:3]]
    assert names == ["easy2spike", "500x800"]


def test_one_bad_file_stops_nothing(home):
    (home / "in" / "bad.dat").write_bytes(b"abc")
    (home / "in" / "\x1b[31m.dat").write_bytes(bytes(3))
    done = inspect(home, "in", "none", "--json")
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["files"]) == 3
    assert "failed: in/bad.dat" in done.stderr
    assert "failed: none" in done.stderr
    assert "\x1b" not in done.stderr
    assert "3 files or folders could not be read" in done.stderr.splitlines()[-1]
    shutil.rmtree(home / "in" / "deep")
    (home / "in" / "car.dat").unlink()
    assert inspect(home, "in").returncode == 1


def test_pack_warns_on_stderr_and_packs_as_told(home):
    done = run_program("spikedata", "pack", "in/car.dat", "--camera", "500x800", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "note: in/car.dat looks like vidar, not 500x800 as given" in done.stderr
    assert "spikedata inspect in/car.dat" in done.stderr


def test_the_command_that_is_shown_runs_nothing_else(tmp_path):
    name = "x; touch pwned #"
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        file[name] = np.zeros((16, 6, 8), np.uint8)
    told = json.loads(inspect(tmp_path, "evil.h5", "--json").stdout)["files"][0]["command"]
    assert shlex.split(told) == ["spikedata", "pack", "evil.h5", "--camera", f"thw:{name}"]


def test_a_tall_picture_is_shown_in_few_lines():
    assert len(dots_of(np.zeros((1 << 20, 1), np.uint8), 40)) == MOST_LINES
