"""``.dat`` files that are written: as a camera's own programs read them, or upright and plain."""

import json
from pathlib import Path

import numpy as np
import pytest
from tools import one_line_error, run_program

from spikedata import open_clips, open_recording, pack_clips, write_dat_file
from spikedata.bits import pack_ticks
from spikedata.camera import camera_to_write, find_camera, write_recording
from spikedata.errors import RecordingError


def peer_reads(path: Path, height: int, width: int, *, turned: bool) -> np.ndarray:
    """As SpikeCV's and Spike-Zoo's readers do: bits in order, planes turned upside down."""
    bits = np.unpackbits(np.fromfile(path, np.uint8), bitorder="little")
    planes_thw = bits.reshape(-1, height, width)
    return planes_thw[:, ::-1] if turned else planes_thw


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def scene_thw(here) -> np.ndarray:
    """Planes of 250x400 whose rows all differ, in the store scene.zarr."""
    planes_thw = np.random.default_rng(0).integers(0, 2, (19, 250, 400), np.uint8)
    Path("rec").mkdir()
    write_recording("rec/a.dat", [pack_ticks(planes_thw)], "250x400", ticks=19)
    pack_clips(["rec"], camera="250x400", out="scene.zarr")
    return planes_thw


@pytest.mark.parametrize(
    ("options", "name", "turned"),
    [
        ({}, "250x400", False),
        ({"to_camera": "vidar"}, "vidar", True),
        ({"camera": "vidar"}, "vidar", True),
        ({"camera": "vidar", "to_camera": "250x400"}, "250x400", False),
        ({"to_camera": "bottom-up"}, "250x400:bottom-up", True),
        ({"camera": "sps100"}, "250x400", False),
    ],
)
def test_pack_writes_the_order_of_rows_that_was_asked_for(scene_thw, options, name, turned):
    report = pack_clips(["scene.zarr"], to="dat", **options)
    assert np.array_equal(peer_reads(Path("packed.dat/a.dat"), 250, 400, turned=turned), scene_thw)
    (line,) = Path("packed.dat/metadata.jsonl").read_text().splitlines()
    assert json.loads(line)["camera"] == name
    rows = "bottom" if turned else "top"
    assert report.notes == (f".dat files as {name}, 250x400, {rows} row first",)
    back = open_clips("packed.dat")
    assert np.array_equal(back.read("a").unpack(), scene_thw)
    assert back.problems() == []
    pack_clips(["packed.dat"], out="back.zarr")
    assert open_clips("back.zarr").clips["a"].bits_sha256 == (
        open_clips("scene.zarr").clips["a"].bits_sha256
    )


@pytest.mark.parametrize("name", ["vidar", "vidar-raw", "easy2spike", "250x400:bottom-up"])
def test_a_set_of_any_camera_of_that_size_comes_back(scene_thw, name):
    pack_clips(["scene.zarr"], to="dat", to_camera=name)
    size = Path("packed.dat/a.dat").stat().st_size
    assert size == 19 * find_camera(name).plane_bytes
    assert np.array_equal(open_clips("packed.dat").read("a").unpack(), scene_thw)
    assert np.array_equal(open_recording("packed.dat/a.dat", name).read().unpack(), scene_thw)


def test_a_clip_of_another_size_is_named_and_the_rest_is_written(here, scene_thw):
    write_recording("rec/b.dat", [pack_ticks(scene_thw[:, :8, :16])], "8x16", ticks=19)
    lines = [{"file_name": f"{n}.dat", "camera": c} for n, c in (("a", "250x400"), ("b", "8x16"))]
    Path("rec/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = pack_clips(["rec"], to="dat", to_camera="vidar")
    assert [failure.error for failure in report.failures] == [
        "camera vidar has planes of 250x400, not 8x16"
    ]
    assert report.clips == 1
    report = pack_clips(["rec"], to="dat", to_camera="bottom-up", overwrite=True)
    assert report.clips == 2
    assert np.array_equal(
        peer_reads(Path("packed.dat/b.dat"), 8, 16, turned=True), scene_thw[:, :8, :16]
    )


def test_export_writes_one_clip_as_a_camera_does(here, scene_thw):
    out = run_program("spikedata", "export", "scene.zarr", "a.dat", "--camera", "vidar", cwd=here)
    assert out.stderr == "note: written as vidar, 250x400, bottom row first\n"
    assert np.array_equal(peer_reads(Path("a.dat"), 250, 400, turned=True), scene_thw)
    run_program("spikedata", "export", "scene.zarr", "b.dat", "--to-camera", "easy2spike", cwd=here)
    assert np.array_equal(open_recording("b.dat", "easy2spike").read().unpack(), scene_thw)
    for command, status, told in (
        ("export scene.zarr b.dat", 1, "exists already"),
        ("export scene.zarr c.dat --to-camera uhsr", 1, "has planes of arrays"),
        ("export scene.zarr c.npz --to-camera vidar", 2, "for .dat alone"),
        ("pack scene.zarr --to-camera vidar", 2, "to_camera is the layout of .dat files"),
        ("pack scene.zarr --to dat --to-camera vida", 1, "unknown camera 'vida'"),
    ):
        done = run_program("spikedata", *command.split(), cwd=here)
        assert told in one_line_error(done, status)
    assert not Path("c.dat").exists()


def test_write_dat_file_refuses_what_is_there(here, scene_thw):
    clips = open_clips("scene.zarr")
    assert write_dat_file("a.dat", clips.stream("a")).name == "250x400"
    before = Path("a.dat").read_bytes()
    with pytest.raises(Exception, match="exists already"):
        write_dat_file("a.dat", clips.stream("a"), to_camera="vidar")
    assert Path("a.dat").read_bytes() == before
    assert write_dat_file("a.dat", clips.stream("a"), to_camera="vidar", overwrite=True).bottom_up


def test_what_is_written_follows_what_was_asked_then_the_source_then_is_plain():
    assert camera_to_write(250, 400).name == "250x400"
    assert camera_to_write(250, 400, source="vidar").name == "vidar"
    assert camera_to_write(240, 320, source="vidar").name == "240x320"
    assert camera_to_write(240, 320, source="uhsr").name == "240x320"
    assert camera_to_write(250, 400, source="vidar", asked="easy2spike").name == "easy2spike"
    assert camera_to_write(240, 320, asked="bottom-up").bottom_up
    with pytest.raises(RecordingError, match="has planes of 250x400, not 240x320"):
        camera_to_write(240, 320, asked="vidar")


@pytest.mark.parametrize(
    ("layout", "clips"), [("auto", [20, 20]), ("files", [10] * 4), ("folders", [20, 20])]
)
def test_a_folder_of_numbered_files_is_what_the_layout_says(here, layout, clips):
    for label in ("clap", "wave"):
        for number in range(2):
            file = Path(f"set/{label}/v1/{number}.dat")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(np.random.default_rng(number).bytes(10 * 16))
    command = ("pack", "set", "--camera", "8x16", "--layout", layout, "--out", "p.zarr")
    told = run_program("spikedata", *command, cwd=here).stderr
    assert [stored.ticks for stored in open_clips("p.zarr").clips.values()] == clips
    assert ("one clip a folder" in told) == (layout != "files")
    assert ("--layout files makes each a clip" in told) == (layout == "auto")


def test_folders_of_long_files_are_one_clip_where_that_is_said(here):
    planes_thw = np.random.default_rng(1).integers(0, 2, (100, 8, 16), np.uint8)
    Path("set/wave/v1").mkdir(parents=True)
    for name, part in (("1", planes_thw[:70]), ("2", planes_thw[70:])):
        write_recording(f"set/wave/v1/{name}.dat", [pack_ticks(part)], "8x16", ticks=len(part))
    assert pack_clips(["set"], camera="8x16", out="a.zarr").clips == 2
    pack_clips(["set"], camera="8x16", layout="folders", out="b.zarr")
    (stored,) = open_clips("b.zarr").clips.values()
    assert (stored.id, stored.label) == ("wave__v1", "wave")
    assert np.array_equal(open_clips("b.zarr").read(stored.id).unpack(), planes_thw)
