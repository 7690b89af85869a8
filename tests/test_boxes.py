"""Boxes beside recordings: found, understood, told, and kept with their times."""

import json
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer
from hypothesis import given
from hypothesis import strategies as st
from tools import run_program

from spikedata import open_clips, pack_clips, relabel, validate, write_recording
from spikedata.bits import pack_ticks
from spikedata.clips.boxes import read_boxes
from spikedata.errors import CorpusError

CAMERA = "8x10"
WHOLE = {"start_tick": 0, "end_tick": 72}


def write_dats(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        planes = np.random.default_rng(seed).integers(0, 2, (72, 8, 10), np.uint8)
        write_recording(root / name, [pack_ticks(planes)], CAMERA, ticks=72)
    return root


def write_text(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def boxes_of(path: Path, clip: str, **options) -> list[dict]:
    return open_clips(path, **options).clips[clip].attributes.get("annotations", [])


def box(time, x, y, width, height, label, **more) -> dict:
    place = {"x": x, "y": y, "width": width, "height": height, "label": label}
    return {"kind": "box"} | time | place | more


def pku(root: Path) -> Path:
    """The layout of PKU-Vidar-DVS: a file of boxes for each of 20 ms."""
    write_dats(root, "train/Vidar/00152_driving/1.dat", "train/Vidar/00152_driving/2.dat")
    write_dats(root, "test/Vidar/00007_indoor/1.dat")
    write_text(root, "train/labels/00152_driving/1.txt", "1.5,2,3,4,7\n5,0,1,1,0\n")
    write_text(root, "train/labels/00152_driving/2.txt", "")
    write_text(root, "test/labels/00007_indoor/1.txt", "0,0,9,8,3\n")
    write_text(root, "train/DVS/00152_driving/1.aedat4", "")
    write_text(root, "train/labels/00152_driving/3.txt", "0,0,9,8,3\n")
    return root


def test_the_layout_of_pku_vidar_dvs(tmp_path):
    found = open_clips(pku(tmp_path / "set"), camera=CAMERA)
    told = {key: (s.label, s.clip.split, s.clip.group) for key, s in found.clips.items()}
    assert told == {
        "test__Vidar__00007_indoor__1": (None, "test", "00007_indoor"),
        "train__Vidar__00152_driving__1": (None, "train", "00152_driving"),
        "train__Vidar__00152_driving__2": (None, "train", "00152_driving"),
    }
    assert found.class_names == ()
    stored = found.clips["train__Vidar__00152_driving__1"]
    assert stored.attributes["annotations"] == [
        box(WHOLE, 1.5, 2, 3, 4, "7"),
        box(WHOLE, 5, 0, 1, 1, "0"),
    ]
    assert stored.clip.captions == ()
    assert stored.clip.source["boxes"] == "train/labels/00152_driving/1.txt"
    assert "annotations" not in found.clips["train__Vidar__00152_driving__2"].attributes
    for note in (
        "boxes of 2 recordings read as x, y, width, height, label: test/labels/00007_indoor/1.txt",
        "folders in Vidar are sequences, as boxes lie beside it: no class",
        "1 file passed over: 1 .aedat4",
        "1 file passed over: 1 .txt",
    ):
        assert note in found.notes
    assert found.summary()["annotations"] == 3


@pytest.mark.parametrize("to", ["zarr", "parquet", "hdf5", "dat"])
def test_boxes_survive_every_format(tmp_path, monkeypatch, to):
    monkeypatch.chdir(tmp_path)
    want = {
        key: stored.attributes.get("annotations")
        for key, stored in open_clips(pku(tmp_path / "set"), camera=CAMERA).clips.items()
    }
    assert sum(map(len, filter(None, want.values()))) == 3
    pack_clips(["set"], camera=CAMERA, to=to, out="packed")
    pack_clips(["packed"], to="zarr", out="again")
    for path in ("packed", "again"):
        found = open_clips(path)
        assert {key: s.attributes.get("annotations") for key, s in found.clips.items()} == want
        assert found.summary()["annotations"] == 3
        assert validate(path) == []
    relabel("again", dict.fromkeys(want, {"label": "car"}))
    assert {
        k: s.attributes.get("annotations") for k, s in open_clips("again").clips.items()
    } == want


def test_labelling_a_folder_with_boxes_takes_no_sequence_for_a_class(tmp_path):
    root = pku(tmp_path / "set")
    before = open_clips(root, camera=CAMERA).clips
    clip = "test__Vidar__00007_indoor__1"
    relabel(root, {clip: {"label": "street"}})
    after = open_clips(root, camera=CAMERA).clips
    assert {key: s.attributes for key, s in after.items()} == {
        key: s.attributes for key, s in before.items()
    }
    facts = {key: (s.label, s.clip.split, s.clip.group) for key, s in after.items()}
    assert facts.pop(clip) == ("street", "test", "00007_indoor")
    assert set(facts.values()) == {(None, "train", "00152_driving")}


@pytest.mark.parametrize(
    "name", ["wave/a.txt", "wave/a_gt.txt", "wave/labels/a.txt", "GT/a.txt", "boxes/wave/a.txt"]
)
def test_where_boxes_may_lie(tmp_path, name):
    root = write_dats(tmp_path / "set", "wave/a.dat", "clap/b.dat")
    write_text(root, name, "1,2,3,4,x")
    assert boxes_of(root, "wave__a", camera=CAMERA) == [box(WHOLE, 1, 2, 3, 4, "x")]
    assert boxes_of(root, "clap__b", camera=CAMERA) == []
    assert boxes_of(root / "wave/a.dat", "a", camera=CAMERA) == [box(WHOLE, 1, 2, 3, 4, "x")]
    if not name.startswith(("GT", "boxes")):
        assert open_clips(root, camera=CAMERA).clips["wave__a"].label == "wave"


def test_a_list_beside_the_files_says_the_class_and_boxes_are_read_all_the_same(tmp_path):
    root = write_dats(tmp_path / "set", "Vidar/a.dat", "Vidar/b.dat")
    write_text(root, "labels/a.txt", "1,2,3,4,x")
    write_text(root, "metadata.jsonl", '{"file_name": "Vidar/a.dat", "label": "wave"}\n')
    stored = open_clips(root, camera=CAMERA).clips["Vidar__a"]
    assert (stored.label, stored.annotations) == ("wave", 1)


def test_folders_of_sensors_are_no_classes(tmp_path):
    root = write_dats(tmp_path / "set", "vidar/a.dat", "DVS/b.dat")
    found = open_clips(root, camera=CAMERA)
    assert {stored.label for stored in found.clips.values()} == {None}
    assert "folder 'DVS', 'vidar' is called as a sensor: no class" in found.notes
    root = write_dats(tmp_path / "other", "vidar/wave/a.dat", "vidar/clap/b.dat")
    assert open_clips(root, camera=CAMERA).class_names == ("clap", "wave")
    root = write_dats(tmp_path / "third", "vidar/a.dat", "wave/b.dat")
    assert open_clips(root, camera=CAMERA).class_names == ("vidar", "wave")


# --- files ---------------------------------------------------------------------------------------

TEXTS = {
    "4.txt": ("1,2,3,4\n", [box(WHOLE, 1, 2, 3, 4, None)]),
    "blanks.txt": ("1 2 3 4 7\n", [box(WHOLE, 1, 2, 3, 4, "7")]),
    "6.csv": (
        "3;1;2;3;4;car\n0;1;2;3;4;bus\n",
        [box({"tick": 0}, 1, 2, 3, 4, "bus"), box({"tick": 3}, 1, 2, 3, 4, "car")],
    ),
    "mot.txt": ("7,2,1,2,3,4,1,-1,-1,-1\n", [box({"tick": 7}, 1, 2, 3, 4, None, track="2")]),
    "named.txt": (
        "class_id, time_us, W, h, x, y, odd\n1.0, 150, 3, 4, 1, 2, 5\n",
        [box({"tick": 3}, 1, 2, 3, 4, "1")],
    ),
    "seconds.csv": ("time_s,x,y,w,h\n0.0005,1,2,3,4\n", [box({"tick": 10}, 1, 2, 3, 4, None)]),
    "span.csv": (
        "start_tick,end_tick,x,y,w,h,class\n2,19,1,2,3,4,é\n",
        [box({"start_tick": 2, "end_tick": 19}, 1, 2, 3, 4, "é")],
    ),
    "list.json": (
        '[{"tick": 3, "x": 1, "y": 2, "w": 3, "h": 4, "class": "car"}]',
        [box({"tick": 3}, 1, 2, 3, 4, "car")],
    ),
    "inside.json": (
        '{"boxes": [{"x": 1, "y": 2, "width": 3, "height": 4}], "other": 5}',
        [box(WHOLE, 1, 2, 3, 4, None)],
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_understood_as_is_written(tmp_path, name):
    text, want = TEXTS[name]
    (tmp_path / name).write_text("\ufeff" + text)
    assert read_boxes(tmp_path / name, ticks=72, tick_rate_hz=20_000).annotations == want


def test_arrays_of_both_kinds(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([[3, 1.5, 2, 3, 4, 7]]))
    assert read_boxes(path, ticks=72, tick_rate_hz=1.0).annotations == [
        box({"tick": 3}, 1.5, 2, 3, 4, "7")
    ]
    kind = [
        ("ts", "<u8"),
        ("x", "<f4"),
        ("y", "<f4"),
        ("w", "<f4"),
        ("h", "<f4"),
        ("class_id", "u1"),
    ]
    np.save(path, np.array([(500, 1, 2, 3, 4, 2), (99_999_999, 1, 2, 3, 4, 2)], dtype=kind))
    boxes = read_boxes(path, ticks=72, tick_rate_hz=20_000.0)
    assert boxes.annotations == [box({"tick": 10}, 1, 2, 3, 4, "2")]
    assert boxes.outside == 1


BAD = {
    "text.txt": ("what I saw that day\n", "columns are ['what', 'I', 'saw', 'that', 'day']"),
    "few.txt": ("1,2,3\n", "3 columns without names"),
    "uneven.txt": ("1,2,3,4,5\n1,2,3\n", "line 2: 3 values"),
    "yolo.txt": ("7 0.5 0.5 0.25 0.125\n", "between 0 and 1, as the fractions of YOLO"),
    "nan.txt": ("1,2,3,nan,5\n", "box 1: height is 'nan', expected a number"),
    "minus.txt": ("1,2,-3,4,5\n", "box 1: width and height are -3 and 4"),
    "latin.txt": (b"1,2,3,4,\xe9\n", "decode"),
    "object.json": ('{"x": 1}', "expected a list of objects"),
    "deep.json": ("[" * 100_000, "recursion"),
    "none.npy": (b"1,2,3", "magic"),
    "far.csv": ("time_s,x,y,width,height\n1e308,1,2,3,4\n", "infinity"),
    "torn.npy": (b"\x93NUMPY\x01\x00\x10\x00{'a             \n", "header"),
    "empty.npy": (
        b"\x93NUMPY\x01\x00\x40\x00"
        + b"{'descr': (), 'fortran_order': False, 'shape': (1, 6)}".ljust(63)
        + b"\n",
        "header",
    ),
    "long.npy": (b"", "states"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_understood_is_told_and_the_recording_is_read(tmp_path, name):
    root = write_dats(tmp_path / "set", "wave/a.dat")
    content, said = BAD[name]
    path = root / "wave" / f"a{Path(name).suffix}"
    if name == "long.npy":
        np.save(path, np.zeros((1 << 10, 6)))
        content = path.read_bytes().replace(b"(1024, 6)", b"(9999, 6)")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = open_clips(root, camera=CAMERA)
    assert "annotations" not in found.clips["wave__a"].attributes
    (note,) = [note for note in found.notes if "not read as boxes" in note]
    assert note.startswith(f"wave/a{Path(name).suffix}: not read as boxes: ")
    assert said in note
    assert str(root) not in note


def test_boxes_outside_the_recording_are_told(tmp_path):
    root = write_dats(tmp_path / "set", "wave/a.dat")
    write_text(root, "wave/a.txt", "71,1,2,3,4,x\n72,1,2,3,4,x\n-1,1,2,3,4,x\n")
    found = open_clips(root, camera=CAMERA)
    assert [b["tick"] for b in found.clips["wave__a"].attributes["annotations"]] == [71]
    assert "boxes outside the ticks of their recording, left out: wave/a.txt (2)" in found.notes


@given(data=st.binary(max_size=200), suffix=st.sampled_from([".txt", ".csv", ".npy", ".json"]))
def test_whatever_a_file_holds_it_is_boxes_or_an_error(tmp_path_factory, data, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(data)
    try:
        boxes = read_boxes(path, ticks=72, tick_rate_hz=20_000)
    except CorpusError:
        return
    json.dumps(boxes.annotations, allow_nan=False).encode()


def test_boxes_and_classes_come_back_from_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack_clips([pku(tmp_path / "set")], camera=CAMERA, out="packed.zarr")
    clip = "train__Vidar__00152_driving__1"
    relabel("packed.zarr", {clip: {"label": "street", "captions": ["a street", "cars pass"]}})
    with HubServer(tmp_path / "hub") as hub:
        env = hub.environment(tmp_path / "home")
        for words in (
            ("push-hub", "packed.zarr", "--repo", "tester/boxes", "--licence", "cc-by-4.0"),
            ("pull", "tester/boxes", "--out", "back.zarr"),
        ):
            done = run_program("spikedata", *words, cwd=tmp_path, env=env)
            assert done.returncode == 0, done.stderr
    there, back = (open_clips(path).clips for path in ("packed.zarr", "back.zarr"))
    assert {key: stored.clip for key, stored in back.items()} == {
        key: stored.clip for key, stored in there.items()
    }
    assert [stored.annotations for stored in back.values()] == [1, 2, 0]
    for key, stored in back.items():
        assert stored.attributes.get("annotations") == there[key].attributes.get("annotations")
