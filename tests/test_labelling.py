"""Labels changed in place: what is written, what stays, and what a killed process leaves."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools import one_line_error, run_program

from spikedata import (
    Clip,
    create_store,
    open_clips,
    open_store,
    pack_clips,
    read_labels,
    relabel,
    validate,
    write_recording,
)
from spikedata.bits import pack_ticks
from spikedata.errors import CorpusError, SpikeDataError, StoreError
from spikedata.outputs import locked
from spikedata.repair import repair_store

CLIPS = {
    "a": Clip(id="a", label="wave", captions=("a video of wave",), split="train", group="g1"),
    "b": Clip(id="b", label="clap", captions=("two hands meet",), split="test", group="g2"),
    "c": Clip(id="c"),
}


def packed_of(seed: int) -> np.ndarray:
    return pack_ticks(np.random.default_rng(seed).integers(0, 2, (19, 8, 10), np.uint8))


def write_store(path: Path, clips=None, class_names=("clap", "wave")) -> Path:
    with create_store(path, recipe={"x": 1}, class_names=class_names) as writer:
        for seed, clip in enumerate(clips or CLIPS.values()):
            with writer.clip(clip, height_px=8, width_px=10, tick_rate_hz=1000) as target:
                target.append(packed_of(seed))
                target.finish(ticks=19, attributes={"sensor": {"threshold": 2}})
    return path


def write_folder(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_recording(root / name, [packed_of(seed)], "8x10", ticks=19)
    return root


def files_of(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def facts_of(path: Path, **camera) -> dict[str, tuple]:
    clips = open_clips(path, **camera).clips.values()
    return {s.id: (s.label, s.clip.captions, s.clip.split, s.clip.group) for s in clips}


# --- stores --------------------------------------------------------------------------------------

WORDS = st.sampled_from(["wave", "clap", "jump", "é\u200d!", 'a "b"\\n'])
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "label": WORDS | st.none(),
        "captions": st.lists(WORDS, max_size=3, unique=True),
        "split": st.sampled_from(["train", "validation", "test", None]),
        "group": WORDS | st.none(),
    },
)


@given(changes=st.dictionaries(st.sampled_from(["a", "b", "c"]), CHANGES))
def test_a_relabelled_store_is_the_one_that_was_written_so(tmp_path_factory, changes):
    root = tmp_path_factory.mktemp("stores")
    store = write_store(root / "s.zarr")
    report = relabel(store, changes)
    assert report.failures == ()
    assert validate(store) == []
    now = {key: stored.clip for key, stored in open_store(store).clips.items()}
    for clip_id, change in changes.items():
        for key, value in change.items():
            assert getattr(now[clip_id], key) == (tuple(value) if key == "captions" else value)
    same = write_store(root / "t.zarr", [now["a"], now["b"], now["c"]], report.class_names)
    assert files_of(store) == files_of(same)


def test_only_what_is_named_changes_and_no_shard_is_touched(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    shards = {path: path.stat() for path in store.glob("clips/*/c.*")}
    assert len(shards) == 3
    report = relabel(store, {"b": {"split": "validation"}, "a": {"split": "train"}})
    assert report.changed == {"b": {"split": ("test", "validation")}}
    assert facts_of(store)["b"] == ("clap", ("two hands meet",), "validation", "g2")
    for path, status in shards.items():
        assert path.stat().st_mtime_ns == status.st_mtime_ns
        assert path.stat().st_ino == status.st_ino


def test_a_new_label_keeps_the_numbers_of_the_others(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    report = relabel(store, {"b": {"label": "bow"}})
    assert report.class_names == open_store(store).class_names == ("clap", "wave", "bow")
    report = relabel(store, {}, drop_unused=True)
    assert report.class_names == open_store(store).class_names == ("wave", "bow")
    assert validate(store) == []


def test_captions_that_only_name_the_class_follow_it(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    report = relabel(store, {key: {"label": "TaiChi"} for key in "abc"})
    assert {key: facts[1] for key, facts in facts_of(store).items()} == {
        "a": ("a video of tai chi",),
        "b": ("two hands meet",),
        "c": ("a video of tai chi",),
    }
    assert report.warnings == ()
    relabel(store, {"b": {"captions": ["they clap", "TaiChi"]}})
    report = relabel(store, {"b": {"label": "clap"}, "a": {"label": None}})
    assert report.warnings == ()
    report = relabel(store, {"b": {"label": "wave"}})
    (told,) = report.warnings
    assert told == "clip b: a caption still speaks of 'clap': they clap"
    assert facts_of(store)["a"][:2] == (None, ())
    relabel(store, {"a": {"label": "12"}})
    assert facts_of(store)["a"][:2] == ("12", ())
    relabel(store, {"a": {"label": "wave"}})
    assert facts_of(store)["a"][:2] == ("wave", ("a video of wave",))


def test_a_group_that_is_then_on_both_sides_of_a_split_is_told(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    report = relabel(store, {"b": {"group": "g1"}})
    assert report.warnings == ("group 'g1' is on both sides of a split: test, train",)
    assert relabel(store, {"b": {"split": "train"}}).warnings == ()
    many = {key: {"group": f"é{key}"} for key in "abc"}
    assert relabel(store, many).warnings == ()


def test_clips_that_are_not_there_are_told_and_the_rest_goes_on(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    report = relabel(store, {"a": {"label": "clap"}, "x": {"label": "clap"}})
    assert [failure.id for failure in report.failures] == ["x"]
    assert list(report.changed) == ["a"]
    before = files_of(store)
    with pytest.raises(StoreError, match="no clip 'x'; it holds 3 clips"):
        relabel(store, {"x": {"label": "clap"}})
    assert files_of(store) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"licence": "x"}, "'licence' cannot be changed, only label, captions, split, group"),
        ({"split": "both"}, "split 'both' is none of train, validation, test"),
        ({"label": 5}, "label must be text, got 5"),
        ({"label": "a\x1bb"}, "label 'a\\x1bb' holds control characters"),
        ({"captions": "one"}, "captions must be a list of texts, got 'one'"),
        ({"captions": [None]}, "captions must be text, got None"),
    ],
)
def test_a_value_of_the_wrong_kind_changes_nothing(tmp_path, change, told):
    store = write_store(tmp_path / "s.zarr")
    before = files_of(store)
    with pytest.raises(ValueError, match="clip b: ") as caught:
        relabel(store, {"a": {"label": "clap"}, "b": change})
    assert told in str(caught.value)
    assert files_of(store) == before


def test_a_store_that_is_being_written_is_refused(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    with locked(store), pytest.raises(StoreError, match="another process is writing it"):
        relabel(store, {"a": {"label": "clap"}})


def test_a_clip_that_is_damaged_stays_and_the_rest_goes_on(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    file = store / "clips/a/zarr.json"
    file.write_text(file.read_text().replace('"wave"', '"wove"'))
    report = relabel(store, {"a": {"label": "clap"}, "b": {"label": "wave"}})
    assert [failure.id for failure in report.failures] == ["a"]
    assert "facts have SHA-256" in report.failures[0].error
    assert facts_of(store)["b"][0] == "wave"


def test_who_has_the_store_open_reads_on(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    opened = open_store(store)
    relabel(store, {"a": {"label": "clap", "captions": ["x"], "split": None, "group": None}})
    assert np.array_equal(opened.read("a").packed_ghw, packed_of(0))
    opened.verify("a")
    assert opened.clips["a"].label == "wave"
    assert open_store(store).clips["a"].label == "clap"


KILLER = """
import os, sys
from spikedata import relabel
at, after, replace = int(sys.argv[2]), sys.argv[3] == "after", os.replace
calls = [0]
def killed(*names):
    calls[0] += 1
    if calls[0] == at and not after:
        os._exit(9)
    replace(*names)
    if calls[0] == at:
        os._exit(9)
os.replace = killed
relabel(sys.argv[1], {"b": {"label": "bow", "group": "g9"}})
"""


def killed_at(path: Path, at: int, when: str) -> bool:
    """Whether a process that relabels was killed at its ``at``-th renaming."""
    words = [sys.executable, "-c", KILLER, str(path), str(at), when]
    return subprocess.run(words, check=False, timeout=60).returncode == 9


@pytest.mark.parametrize("when", ["before", "after"])
def test_whoever_is_killed_leaves_the_old_facts_or_the_new_ones(tmp_path, when):
    old = ("clap", ("two hands meet",), "test", "g2")
    new = ("bow", ("two hands meet",), "test", "g9")
    found, at = [], 0
    while True:
        at += 1
        store = write_store(tmp_path / f"{at}.zarr")
        if not killed_at(store, at, when):
            break
        assert validate(store) == []
        found.append(facts_of(store)["b"])
        assert not open_store(store).left_out
        report = repair_store(store)
        assert (report.clips, report.found) == (3, ())
        assert validate(store) == []
        assert relabel(store, {"b": {"label": "bow", "group": "g9"}}).failures == ()
        assert files_of(store) == files_of(
            write_store(
                tmp_path / f"{at}.same.zarr",
                [
                    CLIPS["a"],
                    Clip.from_dict(CLIPS["b"].to_dict() | {"label": "bow", "group": "g9"}),
                    CLIPS["c"],
                ],
                ("clap", "wave", "bow"),
            )
        )
    assert len(found) == 5
    assert set(found) == {old, new}
    assert found == sorted(found, key=[old, new].index)


def test_many_clips_of_which_some_were_changed_by_one_who_was_killed(tmp_path, monkeypatch):
    store = write_store(tmp_path / "s.zarr")
    every = KILLER.replace('{"b"', '{key: {"label": "clap"} for key in "abc"} or {"b"')
    monkeypatch.setattr(sys.modules[__name__], "KILLER", every)
    assert killed_at(store, 4, "before")
    assert validate(store) == []
    labels = [facts[0] for facts in facts_of(store).values()]
    assert labels[1] == "clap"
    assert set(labels) <= {"wave", "clap", None}
    relabel(store, {key: {"label": "clap"} for key in "abc"})
    assert {facts[0] for facts in facts_of(store).values()} == {"clap"}
    assert validate(store) == []


# --- folders -------------------------------------------------------------------------------------


def test_a_folder_without_a_list_gets_one_that_names_every_recording(tmp_path):
    root = write_folder(tmp_path / "set", "train/wave/a.dat", "test/clap/b.DAT", "c d.dat")
    (root / "train/wave/bad.dat").write_bytes(b"odd")
    before = facts_of(root, camera="8x10")
    report = relabel(root, {"test__clap__b": {"label": "bow", "group": "g"}})
    assert report.changed == {"test__clap__b": {"label": ("clap", "bow"), "group": (None, "g")}}
    assert facts_of(root, camera="8x10") == before | {
        "test__clap__b": ("bow", ("a video of bow",), "test", "g")
    }
    lines = [json.loads(line) for line in (root / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == [
        "c d.dat",
        "test/clap/b.DAT",
        "train/wave/a.dat",
        "train/wave/bad.dat",
    ]
    assert len(open_clips(root, camera="8x10").left_out) == 1


def test_a_folder_of_numbered_files_is_one_line(tmp_path):
    root = tmp_path / "set"
    for clip in ("wave/one", "clap/two"):
        write_folder(root / clip, *(f"{number:04}.dat" for number in range(3)))
    before = facts_of(root, camera="8x10")
    assert list(before) == ["clap__two", "wave__one"]
    relabel(root, {"wave__one": {"label": "bow"}}, camera="8x10")
    after = facts_of(root, camera="8x10")
    assert after == before | {"wave__one": ("bow", ("a video of bow",), None, None)}
    assert len((root / "metadata.jsonl").read_text().splitlines()) == 2
    with pytest.raises(StoreError, match="no clip 'nothing'; it holds 2 recordings"):
        relabel(root, {"nothing": {"label": "bow"}}, camera="8x10")


def test_other_lines_columns_and_names_of_columns_stay(tmp_path):
    root = write_folder(tmp_path / "set", "a.dat", "b.dat")
    first = '{"path":"a.dat",  "Class":"wave","lens":"50 mm","text":"one"}\r\n'
    again = '{"path": "a.dat", "text": "two"}\n'
    other = '\n{ "path" : "b.dat",\t"Class":"clap", "odd": [1, {"x": null}]}'
    (root / "metadata.jsonl").write_bytes(("\ufeff" + first + again + other).encode())
    relabel(root, {"a": {"label": "bow", "split": "val"}})
    text = (root / "metadata.jsonl").read_bytes().decode()
    assert text.endswith(other)
    lines = text.removeprefix("\ufeff").split("\n")
    assert json.loads(lines[0]) == {
        "path": "a.dat",
        "Class": "bow",
        "lens": "50 mm",
        "text": "one",
        "split": "validation",
    }
    assert facts_of(root, camera="8x10")["a"] == ("bow", ("one", "two"), "validation", None)
    relabel(root, {"a": {"captions": ["three"], "label": None}})
    assert facts_of(root, camera="8x10")["a"] == (None, ("three",), "validation", None)
    relabel(root, {"a": {"captions": ["x", "y"]}})
    assert facts_of(root, camera="8x10")["a"][1] == ("x", "y")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_keeps_its_rows_columns_and_kind(tmp_path, encoding, separator):
    root = write_folder(tmp_path / "set", "a.dat", "b.dat", "c.dat")
    rows = [
        ["file_name", "class", "notes", "caption"],
        ["a.dat", "wave", '"two\nlines"', "é"],
        ["b.dat", "clap", "", ""],
        ["c.dat"],
    ]
    text = "\r\n".join(separator.join(row) for row in rows) + "\r\n"
    (root / "metadata.csv").write_bytes(text.encode(encoding))
    before = facts_of(root, camera="8x10")
    relabel(root, {"b": {"label": "bow", "captions": ["x", "y"], "group": "g"}})
    assert facts_of(root, camera="8x10") == before | {"b": ("bow", ("x", "y"), None, "g")}
    now = (root / "metadata.csv").read_bytes().decode(encoding)
    assert now.count("\r\n") == 4
    assert "two\nlines" in now
    assert now.startswith(separator.join([*rows[0], "group", "captions"]) + "\r\n")
    assert sorted(path.name for path in root.iterdir()) == [
        "a.dat",
        "b.dat",
        "c.dat",
        "metadata.csv",
    ]


def test_a_list_in_each_split_is_changed_where_it_is(tmp_path):
    root = write_folder(tmp_path, "train/a.dat", "test/a.dat")
    for split in ("train", "test"):
        (root / split / "metadata.jsonl").write_text('{"file_name": "a.dat", "label": "wave"}\n')
    untouched = (root / "train/metadata.jsonl").read_bytes()
    relabel(root, {"test__a": {"label": "bow"}})
    assert facts_of(root, camera="8x10")["test__a"][0] == "bow"
    assert (root / "train/metadata.jsonl").read_bytes() == untouched
    report = relabel(root, {"test__a": {"split": None}})
    assert report.changed == {}
    (failure,) = report.failures
    assert failure.error == "test__a: split is 'test' and not None: its folder says so"


def test_a_file_that_no_list_can_name_is_refused(tmp_path):
    root = write_folder(tmp_path / "set", "a.dat", "b\\c.dat")
    with pytest.raises(CorpusError, match="cannot be named in a metadata.jsonl"):
        relabel(root, {"a": {"label": "x"}})
    assert not (root / "metadata.jsonl").exists()


def test_a_set_of_ours_is_then_the_one_that_would_be_packed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = write_store(tmp_path / "s.zarr")
    pack_clips([store], to="dat", out="d")
    changes = {"a": {"label": "bow", "captions": ["x", "y"]}, "b": {"split": None}}
    for path in (store, Path("d")):
        report = relabel(path, changes)
        assert report.failures == ()
        assert report.class_names == ("clap", "wave", "bow")
    relabel(store, {"b": {"label": None}})
    relabel("d", {"b": {"label": None}})
    assert validate("d") == []
    pack_clips([store], to="dat", out="e")
    assert files_of(Path("d")) == files_of(Path("e"))
    assert not (Path("d") / "wave").exists()


def test_a_changed_fact_of_a_set_of_ours_is_not_made_good(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack_clips([write_store(tmp_path / "s.zarr")], to="dat", out="d")
    listing = Path("d/metadata.jsonl")
    listing.write_text(listing.read_text().replace('"g1"', '"g7"'))
    before = files_of(Path("d"))
    report = relabel("d", {"a": {"label": "clap"}})
    assert "noted was" in report.failures[0].error
    assert files_of(Path("d")) == before


FOLDER_KILLER = KILLER.replace('{"b": {"label": "bow", "group": "g9"}}', '{"b": {"label": "bow"}}')


@pytest.mark.parametrize("when", ["before", "after"])
def test_whoever_is_killed_leaves_a_set_of_ours_whole(tmp_path, monkeypatch, when):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "KILLER", FOLDER_KILLER)
    pack_clips([write_store(tmp_path / "s.zarr")], to="dat", out="d")
    for at in range(1, 4):
        shutil.copytree("d", str(at))
        if not killed_at(Path(str(at)), at, when):
            break
        assert validate(str(at)) == []
        assert facts_of(Path(str(at)))["b"][0] in ("clap", "bow")
        relabel(str(at), {"b": {"label": "bow"}})
        shutil.copytree("d", "good", dirs_exist_ok=True)
        assert validate(str(at)) == []
        assert sorted(path.name for path in Path(str(at)).rglob("*.dat")) == [
            "a.dat",
            "b.dat",
            "c.dat",
        ]
    assert at == 3


@pytest.mark.parametrize("to", ["parquet", "hdf5"])
def test_what_cannot_be_changed_in_place_is_refused(tmp_path, monkeypatch, to):
    monkeypatch.chdir(tmp_path)
    pack_clips([write_store(tmp_path / "s.zarr")], to=to, out="p")
    with pytest.raises(StoreError, match="Run `spikedata pack p --to zarr --out NEW.zarr`"):
        relabel("p", {"a": {"label": "x"}})


def test_one_file_and_nothing_are_refused(tmp_path):
    root = write_folder(tmp_path, "a.dat")
    with pytest.raises(StoreError, match="is one file; name the folder"):
        relabel(root / "a.dat", {"a": {"label": "x"}})
    with pytest.raises(CorpusError, match="no such file"):
        relabel(root / "none", {"a": {"label": "x"}})
    (root / "empty").mkdir()
    with pytest.raises(SpikeDataError, match=r"holds no .dat or .npz file"):
        relabel(root / "empty", {"a": {"label": "x"}})


# --- tables and the command ----------------------------------------------------------------------


def test_a_table_is_read_by_the_usual_names(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("clip_id;Class;text;set\na;7;one;val\na;;two;\nb;;;\nc;x;;none\n")
    changes, failures = read_labels(table)
    assert changes == {
        "a": {"label": "7", "captions": ["one", "two"], "split": "validation"},
        "b": {},
    }
    assert [failure.id for failure in failures] == ["c"]
    table = tmp_path / "labels.jsonl"
    table.write_text('{"id": "a", "label": 5, "captions": ["x", "y"], "group": "g"}\n')
    assert read_labels(table)[0] == {"a": {"label": "5", "captions": ["x", "y"], "group": "g"}}
    table.write_text('{"id": "a", "label": 3.0}\n')  # as a table with gaps makes of numbers
    assert read_labels(table)[0] == {"a": {"label": "3"}}
    table.write_text('{"file_name": "a"}\n')
    with pytest.raises(CorpusError, match="no column 'id'"):
        read_labels(table)


def test_the_command_labels_and_tells(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    words = ("label", store, "a", "b", "--label", "bow", "--caption", "x", "--caption", "y")
    done = run_program(
        "spikedata", *words, "--split", "test", "--group", "g1", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["changed"]["b"] == {
        "label": ["clap", "bow"],
        "captions": [["two hands meet"], ["x", "y"]],
        "group": ["g2", "g1"],
    }
    (tmp_path / "t.csv").write_text("id,label,split\na,wave,train\nnone,wave,\n")
    done = run_program("spikedata", "label", store, "--from", "t.csv", cwd=tmp_path)
    assert done.returncode == 1
    assert "note: group 'g1' is on both sides of a split: test, train" in done.stderr
    assert "failed: none: " in done.stderr
    done = run_program(
        "spikedata", "label", store, "a", "--no-label", "--no-captions", "--no-group", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert facts_of(store)["a"] == (None, (), "train", None)


@pytest.mark.parametrize(
    "words",
    [("a",), ("--label", "x"), (), ("a", "--label", "x", "--no-label"), ("a", "--split", "both")],
)
def test_the_command_says_what_is_missing(tmp_path, words):
    store = write_store(tmp_path / "s.zarr")
    one_line_error(run_program("spikedata", "label", store, *words, cwd=tmp_path), 2)
