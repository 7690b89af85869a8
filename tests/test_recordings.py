"""Camera files as clips: which are found, what is told of them, and what is wrong with them."""

import json
import os
import shutil
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from tools import one_line_error, run_in_process, run_program

from spikedata.bits import pack_ticks
from spikedata.camera import write_recording
from spikedata.clip import Clip
from spikedata.clips import open_clips, open_spikes, validate
from spikedata.clips.recording_folders import recordings_below
from spikedata.clips.recordings import CameraOptions
from spikedata.clips.store import create_store, open_store
from spikedata.errors import CorpusError, SpikeDataError, StoreError
from spikedata.pack import pack_clips
from spikedata.stream import SpikeStream

UNTOLD = CameraOptions(camera=None, flip=None, tick_rate_hz=None)
SMALL = CameraOptions(camera="8x10", flip=None, tick_rate_hz=None)


def planes_of(seed: int) -> np.ndarray:
    """Spike planes (19, 8, 10), 0 and 1."""
    return np.random.default_rng(seed).integers(0, 2, (19, 8, 10), np.uint8)


def write_dats(root: Path, *names: str) -> Path:
    """Recordings of the camera 8x10; the planes of each are those of its number in ``names``."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_recording(root / name, [pack_ticks(planes_of(seed))], "8x10", ticks=19)
    return root


def write_metadata(root: Path, *entries: object) -> None:
    (root / "metadata.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def planes_in(source, clip_id: str) -> np.ndarray:
    packed_ghw = np.concatenate(list(source.blocks(clip_id, 8)))
    return np.unpackbits(packed_ghw, axis=0, count=19, bitorder="little")


# --- which files ---------------------------------------------------------------------------------


def test_class_folders_give_labels_captions_and_splits(tmp_path):
    root = write_dats(tmp_path / "set", "train/wave/a.dat", "test/clap/b.DAT", "c.dat")
    found = recordings_below(root, SMALL)
    assert found.left_out == ()
    assert found.name == "set"
    assert found.class_names == ("clap", "wave")
    assert found.recipe == {"cameras": ["8x10"]}
    assert {key: s.clip.split for key, s in found.clips.items()} == {
        "c": None,
        "test__clap__b": "test",
        "train__wave__a": "train",
    }
    assert found.clips["test__clap__b"].clip.captions == ("a video of clap",)
    assert found.clips["c"].clip.captions == ()
    assert found.notes == ("1 file in no class folder, without a class: c.dat",)
    assert np.array_equal(planes_in(found, "test__clap__b"), planes_of(1))


def test_a_clip_tells_where_it_came_from(tmp_path):
    root = write_dats(tmp_path, "wave/a.dat")
    stored = recordings_below(root, SMALL).clips["wave__a"]
    data = (root / "wave/a.dat").read_bytes()
    assert stored.clip.source == {
        "name": "wave/a.dat",
        "sha256": sha256(data).hexdigest(),
        "bytes": len(data),
    }
    assert (stored.ticks, stored.height_px, stored.width_px) == (19, 8, 10)
    assert stored.tick_rate_hz == 20_000
    assert stored.attributes["camera"] == {"name": "8x10", "flip": False, "skipped": 0}


def test_hidden_files_are_passed_over_and_linked_folders_entered(tmp_path):
    root = write_dats(tmp_path / "set", "wave/a.dat", ".Trash/old.dat", "wave/._a.dat")
    write_dats(tmp_path / "elsewhere", "b.dat")
    (root / "clap").symlink_to(tmp_path / "elsewhere")
    (root / "wave/again").symlink_to(root)
    found = recordings_below(root, SMALL)
    assert list(found.clips) == ["clap__b", "wave__a"]
    assert found.left_out == ()


def test_pipes_are_not_read(tmp_path):
    root = write_dats(tmp_path, "wave/a.dat")
    os.mkfifo(root / "wave/b.dat")
    found = recordings_below(root, SMALL)
    assert list(found.clips) == ["wave__a"]
    assert found.notes == ("not regular files, left out: wave/b.dat",)
    (root / "wave/a.dat").unlink()
    with pytest.raises(CorpusError, match=r"no .dat or .npz file, .* left out: wave/b\.dat"):
        recordings_below(root, SMALL)


@pytest.mark.parametrize(
    ("names", "clip_id"),
    [
        (("wave/x y.dat", "wave/x_y.dat"), "wave__x_y"),
        (("wave/A.dat", "wave/a.dat"), "wave__A"),
        (("wave/a.DAT", "wave/a.dat"), "wave__a"),
        (("wave/a.dat", "wave/a.npz"), "wave__a"),
    ],
)
def test_a_file_with_the_id_of_another_is_a_failure_that_names_both(tmp_path, names, clip_id):
    root = write_dats(tmp_path, *names, "wave/z.dat")
    found = recordings_below(root, SMALL)
    assert list(found.clips) == [clip_id, "wave__z"]
    ((failed, problem),) = [(x.id, x.error) for x in found.left_out]
    assert failed.casefold() == clip_id.casefold()
    assert problem == (
        f"'{names[1]}' is left out: '{names[1]}' and '{names[0]}' would both be clip "
        f"'{clip_id}'. Rename or remove one"
    )
    assert np.array_equal(planes_in(found, clip_id), planes_of(0))


def test_equal_ids_in_a_metadata_file_are_failures_too(tmp_path):
    root = write_dats(tmp_path, "1.dat", "2.dat", "3.dat")
    names = ["1.dat", "2.dat", "3.dat"]
    write_metadata(root, *({"file_name": name, "id": "one"} for name in names))
    found = recordings_below(root, SMALL)
    assert list(found.clips) == ["one"]
    assert [x.id for x in found.left_out] == ["one", "one"]
    assert "'3.dat' and '1.dat' would both be clip 'one'" in found.left_out[1].error


def test_a_bad_file_does_not_take_the_id_of_a_good_one(tmp_path):
    root = write_dats(tmp_path, "a.npz")
    (root / "a.dat").write_bytes(bytes(3))
    found = recordings_below(root, SMALL)
    assert np.array_equal(planes_in(found, "a"), planes_of(0))
    assert [
        "3 bytes is not a whole number" in text for text in [x.error for x in found.left_out]
    ] == [True]


# --- what is told of the camera ------------------------------------------------------------------


def write_csv(root: Path, rows: list[dict[str, object]]) -> None:
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")


def write_jsonl(root: Path, rows: list[dict[str, object]]) -> None:
    write_metadata(root, *rows)


@pytest.mark.parametrize("write", [write_jsonl, write_csv])
def test_camera_and_tick_rate_come_from_either_metadata_file(tmp_path, write):
    root = write_dats(tmp_path, "wave/a.dat", "wave/b.dat")
    rows = [
        {"file_name": "./wave/a.dat", "camera": "8x10", "tick_rate_hz": 1000},
        {"file_name": "wave/b.dat", "camera": "", "tick_rate_hz": 2e3},
    ]
    write(root, rows)
    found = recordings_below(root, UNTOLD)
    assert {key: s.tick_rate_hz for key, s in found.clips.items()} == {"wave__a": 1000.0}
    assert [x.id for x in found.left_out] == ["wave__b"]
    assert "no file tells its camera" in found.left_out[0].error
    found = recordings_below(root, SMALL)
    assert {key: s.tick_rate_hz for key, s in found.clips.items()} == {
        "wave__a": 1000.0,
        "wave__b": 2000.0,
    }


def test_camera_and_tick_rate_come_from_a_metadata_file_in_each_split(tmp_path):
    root = write_dats(tmp_path, "train/a.dat", "test/a.dat")
    write_metadata(root / "train", {"file_name": "a.dat", "camera": "8x10", "tick_rate_hz": 1})
    write_metadata(root / "test", {"file_name": "a.dat", "camera": "8x10", "tick_rate_hz": 2})
    found = recordings_below(root, UNTOLD)
    assert {key: s.tick_rate_hz for key, s in found.clips.items()} == {"train__a": 1, "test__a": 2}


def test_metadata_that_is_not_read_and_columns_of_videos_are_told(tmp_path):
    root = write_dats(tmp_path / "set", "in/wave/a.dat")
    write_metadata(root / "in" / "wave", {"file_name": "a.dat", "label": "clap"})
    told = "lists not read: in/wave/metadata.jsonl"
    assert told in recordings_below(root, SMALL).notes
    write_metadata(root, {"file_name": "in/wave/a.dat", "capture_fps": 240})
    notes = recordings_below(root, SMALL).notes
    assert told in notes
    assert "columns not used here: 'capture_fps'" in notes


def test_the_user_knows_better_than_the_metadata_file(tmp_path):
    root = write_dats(tmp_path, "a.dat")
    write_metadata(root, {"file_name": "a.dat", "camera": "10x8", "tick_rate_hz": 1000})
    options = CameraOptions(camera="8x10", flip=True, tick_rate_hz=5)
    found = recordings_below(root, options)
    stored = found.clips["a"]
    assert (stored.height_px, stored.width_px, stored.tick_rate_hz) == (8, 10, 5.0)
    assert np.array_equal(planes_in(found, "a"), planes_of(0)[:, ::-1])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ('"camera": 5', "camera must be a name or HxW, got 5"),
        ('"camera": ["vidar"]', "camera must be a name or HxW, got ['vidar']"),
        ('"tick_rate_hz": "20000"', "tick_rate_hz must be a positive number, got '20000'"),
        ('"tick_rate_hz": -3', "tick_rate_hz must be a positive number, got -3"),
        ('"tick_rate_hz": 0', "tick_rate_hz must be a positive number, got 0"),
        ('"tick_rate_hz": true', "tick_rate_hz must be a positive number, got True"),
        ('"tick_rate_hz": NaN', "tick_rate_hz must be a positive number, got nan"),
        ('"tick_rate_hz": Infinity', "tick_rate_hz must be a positive number, got inf"),
        (f'"tick_rate_hz": 1{"0" * 400}', "tick_rate_hz must be a positive number, got 1000"),
    ],
)
def test_a_column_of_the_wrong_kind_is_told_with_its_line(tmp_path, columns, said):
    root = write_dats(tmp_path, "a.dat")
    (root / "metadata.jsonl").write_text('\n{"file_name": "a.dat", ' + columns + "}\n")
    with pytest.raises(CorpusError) as caught:
        recordings_below(root, SMALL)
    assert str(caught.value).startswith(f"{root / 'metadata.jsonl'}: line 2: {said}")


@pytest.mark.parametrize("rate", ["fast", "-3", "nan", "1e999"])
def test_a_tick_rate_in_csv_must_be_a_positive_number(tmp_path, rate):
    root = write_dats(tmp_path, "a.dat")
    (root / "metadata.csv").write_text(f"file_name,tick_rate_hz\na.dat,{rate}\n")
    with pytest.raises(
        CorpusError, match=r"metadata\.csv: line 2: tick_rate_hz must be a positive"
    ):
        recordings_below(root, SMALL)


def test_an_unknown_camera_is_a_failure_of_its_file_alone(tmp_path):
    root = write_dats(tmp_path, "a.dat", "b.dat")
    write_metadata(root, {"file_name": "a.dat", "camera": "vidra"}, {"file_name": "b.dat"})
    found = recordings_below(root, CameraOptions(camera=None, flip=None, tick_rate_hz=None))
    assert [
        (key, text.partition(":")[0]) for key, text in [(x.id, x.error) for x in found.left_out]
    ] == [
        ("a", "unknown camera 'vidra'"),
        ("b", str(root / "b.dat")),
    ]
    assert list(recordings_below(root, SMALL).clips) == ["a", "b"]


@pytest.mark.parametrize("rate", [0, -5, float("nan"), float("inf")])
def test_options_check_the_tick_rate(rate):
    with pytest.raises(ValueError, match="tick_rate_hz must be a positive number, got"):
        CameraOptions(camera="vidar", flip=None, tick_rate_hz=rate)


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", ["0", "-5", "nan", "inf"])
def test_a_tick_rate_that_is_none_is_refused_in_one_line(tmp_path, rate):
    write_dats(tmp_path / "rec", "a.dat")
    done = run_program(
        "spikedata", "pack", "rec", "--camera=8x10", "--tick-rate", rate, cwd=tmp_path
    )
    assert "tick_rate_hz must be a positive number" in one_line_error(done, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["rec"]


def test_pack_tells_of_equal_ids_and_packs_the_rest(tmp_path):
    root = write_dats(tmp_path / "rec", "wave/x y.dat", "wave/x_y.dat", "clap/a.dat")
    done = run_program("spikedata", "pack", root, "--camera=8x10", cwd=tmp_path)
    one_line_error(done, 1)
    assert "'wave/x_y.dat' and 'wave/x y.dat' would both be clip 'wave__x_y'" in done.stderr
    assert sorted(open_store(tmp_path / "packed.zarr").clips) == ["clap__a", "wave__x_y"]


def test_pack_tells_of_a_bad_metadata_line_in_one_line(tmp_path):
    write_dats(tmp_path / "rec", "a.dat")
    write_metadata(tmp_path / "rec", {"file_name": "a.dat", "tick_rate_hz": "20000"})
    done = run_program("spikedata", "pack", "rec", "--camera=8x10", cwd=tmp_path)
    assert "rec/metadata.jsonl: line 1: tick_rate_hz must be" in one_line_error(done, 1)


def test_a_folder_whose_name_is_not_utf8_packs(tmp_path):
    root = write_dats(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")), "wave/a.dat")
    done = run_program("spikedata", "pack", root, "--camera=8x10", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert open_store(tmp_path / "packed.zarr").name == "\ufffd"


# --- one recording or clip to read ---------------------------------------------------------------


def write_store(path: Path, clip_ids: list[str]) -> Path:
    with create_store(path, recipe={}, class_names=(), name="toy") as writer:
        for seed, clip_id in enumerate(clip_ids):
            clip = Clip(id=clip_id)
            with writer.clip(clip, height_px=8, width_px=10, tick_rate_hz=250.0) as out:
                out.append(pack_ticks(planes_of(seed)))
                out.finish(ticks=19, attributes={})
    return path


def unpacked(source) -> np.ndarray:
    packed_ghw = np.concatenate(list(source.blocks()))
    return np.unpackbits(packed_ghw, axis=0, count=source.ticks, bitorder="little")


def test_spikes_are_the_same_from_a_file_a_store_and_memory(tmp_path):
    write_dats(tmp_path, "a.dat")
    stream = SpikeStream(pack_ticks(planes_of(0)), 19, 250.0)
    for source, rate in (
        (open_spikes(tmp_path / "a.dat", camera="8x10"), 20_000.0),
        (open_spikes(write_store(tmp_path / "one.zarr", ["a"])), 250.0),
        (open_spikes(write_store(tmp_path / "two.zarr", ["a", "b"]), clip="a"), 250.0),
        (stream, 250.0),
    ):
        assert (source.ticks, source.height_px, source.width_px) == (19, 8, 10)
        assert source.tick_rate_hz == rate
        assert np.array_equal(unpacked(source), planes_of(0))
        assert np.array_equal(unpacked(source), planes_of(0))  # blocks can be read again
        assert source is source


def test_spikes_that_cannot_be_told_apart_are_refused(tmp_path):
    with pytest.raises(SpikeDataError, match=r"none\.dat: no such file or folder"):
        open_spikes(tmp_path / "none.dat")
    write_dats(tmp_path, "a.dat")
    with pytest.raises(SpikeDataError, match="no file tells its camera. Give --camera NAME or HxW"):
        open_spikes(tmp_path / "a.dat")
    store = write_store(tmp_path / "two.zarr", ["a", "b"])
    with pytest.raises(StoreError, match="holds 2 clips; give --clip ID"):
        open_spikes(store)
    with pytest.raises(StoreError, match="no clip 'c'; it holds 2 clips"):
        open_spikes(store, clip="c")


def write_numbered(root: Path) -> dict[str, np.ndarray]:
    """CLASS/CLIP/N.dat, ten planes of 8x16 a file, five files a clip; all planes by clip."""
    rng = np.random.default_rng(0)
    written = {}
    for label in ("clap", "wave"):
        for clip in ("v1", "v2"):
            folder = root / label / clip
            folder.mkdir(parents=True)
            planes_thw = rng.integers(0, 2, (50, 8, 16), np.uint8)
            for n in range(5):
                flat = planes_thw[10 * n : 10 * n + 10].reshape(-1)
                (folder / f"{n + 7}.dat").write_bytes(np.packbits(flat, bitorder="little"))
            written[f"{label}__{clip}"] = planes_thw
    return written


def test_a_folder_of_numbered_files_of_few_planes_is_one_clip(tmp_path):
    written = write_numbered(tmp_path / "set")
    found = open_clips(tmp_path / "set", camera="8x16")
    assert {key: stored.label for key, stored in found.clips.items()} == {
        "clap__v1": "clap",
        "clap__v2": "clap",
        "wave__v1": "wave",
        "wave__v2": "wave",
    }
    assert found.notes == (
        "4 folders of numbered .dat files of a few planes each: one clip a folder; --layout files "
        "makes each a clip",
    )
    for clip_id, planes_thw in written.items():
        assert np.array_equal(found.read(clip_id).unpack(), planes_thw)
        assert np.array_equal(found.read(clip_id, 13, 20).unpack(), planes_thw[13:33])
        blocks = np.concatenate(list(found.blocks(clip_id, 16)))
        assert np.array_equal(blocks, found.read(clip_id).packed_ghw)
    (alone,) = open_clips(tmp_path / "set" / "clap" / "v1", camera="8x16").clips.values()
    assert (alone.id, alone.ticks) == ("v1", 50)


def test_files_of_many_planes_or_several_sizes_stay_clips_of_their_own(tmp_path):
    for name, planes in (("1.dat", 65), ("2.dat", 65)):
        path = tmp_path / "long" / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(16 * planes))
    assert len(open_clips(tmp_path / "long", camera="8x16").clips) == 2
    write_numbered(tmp_path / "set")
    (tmp_path / "set" / "clap" / "v1" / "99.dat").write_bytes(bytes(16))
    assert len(open_clips(tmp_path / "set", camera="8x16").clips) == 6 + 3


# --- sets of ours: what is missing or changed ----------------------------------------------------


@pytest.fixture
def packed(tmp_path, monkeypatch) -> Path:
    """A set that ``pack --to dat`` wrote: wave/a.dat, wave/b.dat and clap/c.dat, 19 ticks each."""
    monkeypatch.chdir(tmp_path)
    names = ("wave", "clap", "jump")
    with create_store("s.zarr", recipe={"k": [1, 2.5]}, class_names=names, name="toy") as writer:
        for seed, (clip_id, label) in enumerate({"a": "wave", "b": "wave", "c": "clap"}.items()):
            clip = Clip(id=clip_id, label=label, captions=("one",), split="train")
            with writer.clip(clip, height_px=8, width_px=10, tick_rate_hz=250.0) as out:
                out.append(pack_ticks(planes_of(seed)))
                out.finish(ticks=19, attributes={"sensor": {"threshold": 2.0}})
    return pack_clips(["s.zarr"], to="dat", out="p.dat").out


def lines_of(root: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (root / "metadata.jsonl").read_text().splitlines()]


def about_of(root: Path) -> dict[str, object]:
    return json.loads((root / "spikedata.json").read_text())


def lost_of(root: Path) -> dict[str, str]:
    return {lost.id: lost.error for lost in open_clips(root).left_out}


def test_a_set_of_ours_notes_digests_of_its_facts(packed):
    about = about_of(packed)
    assert about["clips"] == 3
    noted = about.pop("facts_sha256")
    text = json.dumps(about, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert noted == sha256(text.encode()).hexdigest()
    facts = lines_of(packed)[0]
    noted = facts.pop("facts_sha256")
    del facts["file_name"], facts["camera"]
    facts |= facts.pop("attributes") | {"height_px": 8, "width_px": 10}
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert noted == sha256(text.encode()).hexdigest()
    assert lost_of(packed) == {}


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (Path.unlink, "its file wave/b.dat is gone"),
        (lambda path: (path.unlink(), path.mkdir()), "its file wave/b.dat is gone"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "its file holds 5 ticks, noted"),
        (lambda path: path.write_bytes(path.read_bytes() + bytes(10)), "holds 20 ticks, noted"),
    ],
)
def test_a_file_of_ours_that_is_gone_or_has_another_length_is_a_failure(packed, harm, told):
    harm(packed / "wave/b.dat")
    assert list(open_clips(packed).clips) == ["a", "c"]
    assert list(lost_of(packed)) == ["b"]
    assert lost_of(packed)["b"].startswith(f"{packed}: clip b: ")
    assert told in lost_of(packed)["b"]
    assert [(problem.code, problem.clip) for problem in validate(packed, deep=False)] == [
        ("cannot_be_read", "b")
    ]
    assert [failed.id for failed in pack_clips([packed], out="q.zarr").failures] == ["b"]


@pytest.mark.parametrize("size", [0, 7])
def test_a_file_of_ours_that_is_empty_or_cut_within_a_plane_is_a_failure(packed, size):
    (packed / "wave/b.dat").write_bytes(bytes(size))
    assert list(open_clips(packed).clips) == ["a", "c"]
    assert f"{size} bytes is not a whole number" in lost_of(packed)["b"]


def test_all_files_of_a_class_may_be_gone(packed):
    shutil.rmtree(packed / "wave")
    assert lost_of(packed) == {
        key: f"{packed}: clip {key}: its file wave/{key}.dat is gone" for key in ("a", "b")
    }


def test_a_file_that_somebodys_own_list_names_is_noted(tmp_path):
    root = write_dats(tmp_path, "a.dat")
    names = ("a.dat", "gone.dat")
    write_metadata(root, *({"file_name": name, "camera": "8x10"} for name in names))
    found = open_clips(root)
    assert (list(found.clips), found.left_out) == (["a"], ())
    assert found.notes == ("metadata.jsonl: line 2: no file 'gone.dat'; skipped",)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("label", "clap"),
        ("captions", ["two"]),
        ("split", "test"),
        ("split", None),
        ("group", "g"),
        ("licence", "mit"),
        ("source", {"name": "x"}),
        ("tick_rate_hz", 251.0),
        ("bits_sha256", "0" * 64),
        ("spikes", 5),
        ("attributes", {"sensor": {"threshold": 2.5}}),
        ("camera", "10x8"),
        ("file_name", "wave/a.dat"),
        ("id", "d"),
        ("facts_sha256", "0" * 64),
        ("facts_sha256", 5),
    ],
)
def test_a_changed_fact_is_told_until_its_digest_is_removed(packed, key, value):
    lines = lines_of(packed)
    (line,) = (line for line in lines if line["id"] == "b")
    line[key] = value
    if key == "file_name":
        (packed / "wave/a.dat").unlink()
        lines.remove(next(line for line in lines if line["id"] == "a"))
        (packed / "wave/b.dat").rename(packed / "wave/a.dat")
    write_metadata(packed, *lines)
    lost = lost_of(packed)
    clip_id = line["id"]
    assert list(open_clips(packed).clips) == (["c"] if key == "file_name" else ["a", "c"])
    assert lost.keys() - {"metadata.jsonl"} == {clip_id}
    assert lost[clip_id].startswith(f"{packed}: clip {clip_id}: its ")
    assert lost[clip_id].endswith(
        "Whoever changed them on purpose removes facts_sha256 from its line of metadata.jsonl"
    )
    del line["facts_sha256"]
    write_metadata(packed, *lines)
    found = open_clips(packed)
    assert clip_id in found.clips
    if key in ("label", "split", "group", "licence"):
        assert getattr(found.clips["b"].clip, key) == value


@pytest.mark.parametrize("key", ["ticks", "id", "bits_sha256", "split", "spikes"])
def test_a_line_that_lost_a_fact_is_told(packed, key):
    lines = lines_of(packed)
    del lines[1][key]
    write_metadata(packed, *lines)
    assert len(open_clips(packed).clips) == 2
    assert len(lost_of(packed)) == 1


def test_a_line_that_cannot_be_used_is_a_failure(packed):
    lines = lines_of(packed)
    lines[1]["split"] = "tesst"
    write_metadata(packed, *lines)
    assert lost_of(packed) == {
        "b": f"{packed}: clip b: metadata.jsonl: line 2: split 'tesst' is none of train, "
        "validation, test"
    }


@pytest.mark.parametrize("text", ["NaN", '"\\ud800"', "1e999", "[" * 600 + "]" * 600])
def test_a_line_with_what_is_no_json_is_a_failure(packed, text):
    lines = [json.dumps(line) for line in lines_of(packed)]
    lines[1] = lines[1].replace('"threshold": 2.0', f'"threshold": {text}')
    (packed / "metadata.jsonl").write_text("\n".join(lines))
    assert list(open_clips(packed).clips) == ["a", "c"]
    assert list(lost_of(packed)) == ["b"]


def test_another_tick_rate_may_be_said_of_a_set_of_ours(packed):
    found = open_clips(packed, tick_rate_hz=500.0)
    assert found.left_out == ()
    assert {stored.tick_rate_hz for stored in found.clips.values()} == {500.0}


def test_lines_that_are_gone_are_told(packed):
    write_metadata(packed, *lines_of(packed)[1:])
    told = (
        f"{packed}: metadata.jsonl lists 2 of 3 clips. Whoever removed the others on purpose "
        "removes 'clips' and facts_sha256 from spikedata.json"
    )
    assert lost_of(packed) == {"metadata.jsonl": told}
    assert len(pack_clips([packed], out="q.zarr").failures) == 1
    about = about_of(packed)
    del about["clips"], about["facts_sha256"]
    (packed / "spikedata.json").write_text(json.dumps(about))
    assert lost_of(packed) == {}
    assert open_clips(packed).class_names == ("wave", "clap", "jump")


def test_a_list_that_is_gone_is_told_first(packed):
    (packed / "metadata.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"metadata\.jsonl lists 0 of 3 clips"):
        open_clips(packed)
    found = open_clips(packed, camera="8x10")
    assert [lost.id for lost in found.left_out] == ["metadata.jsonl"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "tox"),
        ("class_names", ["wave", "clap", "jumq"]),
        ("class_names", ["clap", "wave", "jump"]),
        ("recipe", {"k": [1, 2]}),
        ("version", "1.2"),
        ("clips", 2),
        ("facts_sha256", "0" * 64),
    ],
)
def test_a_changed_fact_of_the_set_is_an_error_until_its_digest_is_removed(packed, key, value):
    about = about_of(packed) | {key: value}
    (packed / "spikedata.json").write_text(json.dumps(about))
    with pytest.raises(StoreError) as caught:
        open_clips(packed)
    assert str(caught.value) == (
        f"{packed}: spikedata.json: the set's name, classes, recipe or number of clips are not "
        "those that were written. Whoever changed them on purpose removes facts_sha256 from it"
    )
    assert [problem.code for problem in validate(packed)] == ["facts_differ"]
    del about["facts_sha256"]
    (packed / "spikedata.json").write_text(json.dumps(about))
    found = open_clips(packed)
    assert (len(found.clips), found.left_out) == (3, ())


@pytest.mark.parametrize("harm", ["gone", "a folder", "another format"])
def test_what_the_set_says_of_itself_is_missed(packed, harm):
    path = packed / "spikedata.json"
    about = about_of(packed)
    path.unlink()
    if harm == "a folder":
        path.mkdir()
    if harm == "another format":
        path.write_text(json.dumps(about | {"format": "spikedata-dau"}))
    assert lost_of(packed) == {
        "spikedata.json": f"{packed}: spikedata.json is gone, and the set's name, classes and "
        "recipe with it. Put it back, or pack the set again"
    }
    assert len(open_clips(packed).clips) == 3


def test_several_sets_of_ours_below_one_folder_are_read(packed, tmp_path):
    for split in ("train", "test"):
        shutil.copytree(packed, tmp_path / "all" / split)
    lines = lines_of(tmp_path / "all/test")
    for line in lines:
        line["id"] = f"{line['id']}2"
        del line["facts_sha256"]
    write_metadata(tmp_path / "all/test", *lines)
    found = open_clips(tmp_path / "all")
    assert (len(found.clips), found.left_out) == (6, ())


def test_a_set_of_before_there_were_digests_is_read(packed):
    before = open_clips("s.zarr")
    lines = [{k: v for k, v in line.items() if k != "facts_sha256"} for line in lines_of(packed)]
    write_metadata(packed, *lines)
    about = about_of(packed) | {"version": "1.0"}
    del about["clips"], about["facts_sha256"]
    (packed / "spikedata.json").write_text(json.dumps(about))
    found = open_clips(packed)
    assert dict(found.clips) == dict(before.clips)
    assert (found.left_out, found.notes, found.name) == ((), (), "toy")
    assert validate(packed) == []
    (packed / "spikedata.json").unlink()
    assert open_clips(packed).left_out == ()


def test_bits_that_are_another_clips_are_found_by_validate_and_pack(packed):
    (packed / "wave/b.dat").write_bytes((packed / "wave/a.dat").read_bytes())
    assert [(problem.code, problem.clip) for problem in validate(packed)] == [("bits_differ", "b")]
    with pytest.raises(StoreError, match="clip b: its bits have SHA-256"):
        open_clips(packed).verify("b")
    assert [failed.id for failed in pack_clips([packed], out="q.zarr").failures] == ["b"]


# --- classes that files only number --------------------------------------------------------------


def write_uhsr(root: Path, **labels: object) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for seed, (name, label) in enumerate(labels.items()):
        picture = np.array(f"{seed}_thing.jpg")
        np.savez(root / f"{name}.npz", spk=planes_of(seed), label=label, label_name=picture)
    return root


TABLES = {
    "names.txt": "plane\nkite\nTaiChi\n",
    "names.csv": "number;name\n2;TaiChi\n0;plane\n1;kite\n",
    "names.json": '{"1": "kite", "0": "plane", "2": "TaiChi"}',
    "list.json": '["plane", "kite", "TaiChi"]',
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_names_the_classes_that_uhsr_numbers(tmp_path, name):
    root = write_uhsr(tmp_path / "set", a=np.int64(2), b=np.array([0.0]), c=7)
    (tmp_path / name).write_text(TABLES[name])
    found = open_clips(root, camera="uhsr", label_names=tmp_path / name)
    assert found.class_names == ("plane", "kite", "TaiChi", "7")
    told = {key: (stored.label, stored.clip.captions) for key, stored in found.clips.items()}
    assert told == {
        "a": ("TaiChi", ("a video of tai chi",)),
        "b": ("plane", ("a video of plane",)),
        "c": ("7", ()),
    }
    assert "1 class number without a name: c (7)" in found.notes


def test_without_a_table_the_class_is_its_number(tmp_path):
    root = write_uhsr(tmp_path / "set", a=np.int64(10), b=9, c=np.array([0, 1]))
    found = open_clips(root, camera="uhsr")
    assert found.class_names == ("9", "10")
    assert [stored.label for stored in found.clips.values()] == ["10", "9", None]
    assert found.clips["a"].clip.captions == ()
    assert found.stream("a").label_number == 10


def test_who_says_the_class_when_several_do(tmp_path):
    root = write_uhsr(tmp_path / "set" / "wave", a=1)
    write_uhsr(tmp_path / "set" / "clap", a=0)
    root = tmp_path / "set"
    found = open_clips(root, camera="uhsr")
    assert [stored.label for stored in found.clips.values()] == ["clap", "wave"]
    said = "2 recordings of another class than the file itself says: clap__a (0)"
    assert said in found.notes
    (tmp_path / "names.txt").write_text("plane\nkite\n")
    found = open_clips(root, camera="uhsr", label_names=tmp_path / "names.txt")
    assert [stored.label for stored in found.clips.values()] == ["plane", "kite"]
    assert found.clips["wave__a"].clip.captions == ("a video of kite",)
    write_metadata(root, {"file_name": "wave/a.npz", "label": "bow", "captions": ["x"]})
    found = open_clips(root, camera="uhsr", label_names=tmp_path / "names.txt")
    (stored,) = found.clips.values()
    assert (stored.label, stored.clip.captions) == ("bow", ("x",))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("n.txt", "a\n\nb\n", "line 2 is blank"),
        ("n.txt", "", "holds no names"),
        ("n.csv", "1,a\n1,b\n", "class 1 has two names"),
        ("n.csv", "1,a,b\n", "expected number and name in a row"),
        ("n.json", "{", "is no list of class names"),
        ("n.json", '{"1": "a", "1": "b"}', "class 1 has two names"),
        ("n.json", '{"x": "a"}', "'x' is no number of a class"),
        ("n.json", "[5]", "the name of class 0 is 5"),
        ("n.json", "5", "expected a list of names"),
    ],
)
def test_a_table_that_is_none_is_told(tmp_path, name, text, said):
    write_uhsr(tmp_path / "set", a=1)
    (tmp_path / name).write_text(text)
    with pytest.raises(CorpusError, match=said):
        open_clips(tmp_path / "set", camera="uhsr", label_names=tmp_path / name)


def test_a_class_comes_back_from_our_own_archives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_uhsr(tmp_path / "set", a=1)
    (tmp_path / "names.txt").write_text("plane\nkite\n")
    words = ("pack", "set", "--camera", "uhsr", "--label-names", "names.txt")
    assert run_program("spikedata", *words, cwd=tmp_path).returncode == 0
    words = ("export", "packed.zarr", "again/a.npz", "--clip", "a")
    (tmp_path / "again").mkdir()
    assert run_program("spikedata", *words, cwd=tmp_path).returncode == 0
    with np.load("again/a.npz") as made:
        assert (int(made["label"]), str(made["label_name"])) == (1, "kite")
    assert [s.label for s in open_clips("again", camera="uhsr").clips.values()] == ["kite"]


# --- what leaks ----------------------------------------------------------------------------------


def test_torn_groups_and_identical_recordings_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dats(tmp_path / "set", "train/wave/a.dat", "test/wave/b.dat", "train/clap/c.dat")
    shutil.copy("set/train/wave/a.dat", "set/test/wave/d.dat")
    shutil.copy("set/train/clap/c.dat", "set/train/clap/e.dat")
    names = ["train/wave/a", "test/wave/b", "train/clap/c", "test/wave/d", "train/clap/e"]
    lines = [
        {"file_name": f"{name}.dat", "id": name[-1], "group": "man1" if name[-1] in "ab" else None}
        for name in names
    ]
    write_metadata(tmp_path / "set", *lines)
    want = [
        "1 group on both sides of the split: man1",
        "identical clips (on both sides of the split): a, d",
        "identical clips: c, e",
    ]
    assert open_clips("set", camera="8x10").leaks() == want
    report = pack_clips(["set"], camera="8x10")
    assert [note for note in report.notes if note in want] == want
    assert open_clips("packed.zarr").leaks() == want
    for words in (
        ("info", "packed.zarr"),
        ("info", "set", "--camera", "8x10"),
        ("validate", "packed.zarr", "--quick"),
        ("report", "packed.zarr"),
    ):
        done = run_program("spikedata", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert [line[6:] for line in done.stderr.splitlines() if line[6:] in want] == want
    done = run_program("spikedata", "info", "packed.zarr", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["notes"] == want


def test_several_captions_come_with_recordings_and_into_every_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dats(tmp_path / "set", "a.dat", "b.dat")
    write_metadata(
        tmp_path / "set",
        {"file_name": "a.dat", "captions": ["one", "two"], "caption": "three"},
        {"file_name": "b.dat", "caption": "one"},
        {"file_name": "b.dat", "caption": "two"},
    )
    want = {"a": ("one", "two", "three"), "b": ("one", "two")}
    for to in ("zarr", "parquet", "hdf5", "dat"):
        pack_clips(["set"], camera="8x10", to=to, out=to)
        found = {key: stored.clip.captions for key, stored in open_clips(to).clips.items()}
        assert found == want, to


# --- a path is told once -------------------------------------------------------------------------


def bad_recordings(root: Path) -> list[tuple[str, str]]:
    """Recordings, each bad in its own way, and the camera that each is read as."""
    write_dats(root, "good.dat")
    np.savez(root / "good.npz", spk=planes_of(0), label=1)
    whole = (root / "good.npz").read_bytes()
    (root / "cut.npz").write_bytes(whole[:60])
    (root / "half.npz").write_bytes(whole[: len(whole) // 2])
    (root / "empty.npz").write_bytes(b"")
    (root / "empty.dat").write_bytes(b"")
    (root / "odd.dat").write_bytes(b"abc")
    np.savez(root / "float.npz", spk=np.zeros((2, 2, 2)))
    np.savez(root / "high.npz", spk=np.full((2, 2, 2), 7, np.uint8))
    np.savez(root / "other.npz", other=np.zeros(3))
    header = np.lib.format.header_data_from_array_1_0(planes_of(0))
    with zipfile.ZipFile(root / "short.npz", "w") as archive, archive.open("spk.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(9))
    (root / "x_empty").mkdir()
    (root / "x_wrong").mkdir()
    write_dats(root, "x_wrong/a.dat", "x_listed/a.dat", "x_both/a.dat")
    write_metadata(root / "x_listed", {"file_name": "b.dat"})
    write_metadata(root / "x_both", {"file_name": "a.dat"})
    (root / "x_both/metadata.csv").write_text("file_name\na.dat\n")
    (root / "torn.zarr").mkdir()
    (root / "torn.zarr/zarr.json").write_text("{")
    (root / "no.h5").write_bytes(b"nothing")
    (root / "no.parquet").write_bytes(b"nothing")
    (root / "text.txt").write_bytes(b"nothing")
    archives = ("cut", "half", "empty", "float", "high", "other", "short")
    return [
        *((f"{name}.npz", "uhsr") for name in archives),
        *((f"{name}.npz", "npz-hwt") for name in ("cut", "empty", "float", "high", "short")),
        *((name, "8x10") for name in ("empty.dat", "odd.dat", "x_empty", "x_listed", "x_both")),
        *((name, "vidar") for name in ("odd.dat", "good.dat", "x_wrong", "nothing.dat")),
        *((name, "sps100") for name in ("odd.dat", "good.dat")),
        *((name, "none-such") for name in ("good.dat", "x_wrong")),
        *((name, "uhsr") for name in ("torn.zarr", "no.h5", "no.parquet", "text.txt", "")),
    ]


def test_no_message_names_a_path_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bad = bad_recordings(tmp_path)
    assert len(bad) == 30
    for name, camera in bad:
        name = name or "absent"
        said = []
        for verb in ("pack", "info", "validate", "report"):
            words = [verb, name, "--camera", camera]
            assert run_in_process("spikedata", words) in (0, 1), words
            said.append(capsys.readouterr().err)
        others = () if name == "good.dat" else ("good.dat",)
        assert run_in_process("spikedata", ["pack", name, *others, "--camera", camera]) in (0, 1)
        said.append(capsys.readouterr().err)
        shutil.rmtree("packed.zarr", ignore_errors=True)
        lines = [line for text in said for line in text.splitlines()]
        assert lines
        for line in lines:
            assert max(line.count(name), line.count("good.dat")) <= 1, line
            assert "Traceback" not in line


@pytest.mark.parametrize("label", ["\x1b[31m", "\u202e"])
def test_a_label_in_a_file_that_can_be_no_class_costs_that_file_alone(tmp_path, label):
    np.savez(tmp_path / "a.npz", spk=np.zeros((8, 4, 4), np.uint8), label=label)
    np.savez(tmp_path / "b.npz", spk=np.zeros((8, 4, 4), np.uint8), label=3)
    found = open_clips(tmp_path)
    assert {key: stored.label for key, stored in found.clips.items()} == {"b": "3"}
    assert [failure.id for failure in found.left_out] == ["a"]
    np.savez(tmp_path / "a.npz", spk=np.zeros((8, 4, 4), np.uint8), label="  ")
    assert open_clips(tmp_path).clips["a"].label is None


def test_a_source_that_says_a_label_which_is_no_text_is_passed_over(tmp_path):
    with create_store(tmp_path / "s.zarr", recipe={}, class_names=[], name="s") as writer:
        clip = Clip(id="a", source={"label": 5})
        with writer.clip(clip, height_px=4, width_px=4, tick_rate_hz=100.0) as out:
            out.append(np.zeros((1, 4, 4), np.uint8))
            out.finish(ticks=8, attributes={})
    assert open_clips(tmp_path / "s.zarr").stream("a").label is None
