"""Every rule of the format: a store that keeps it, and one that breaks it and nothing else."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from spikedata.clips import open_store, validate
from spikedata.clips.rules import Problem
from spikedata.errors import StoreError

SPEC = Path(__file__).parent / "spec"
sys.path.insert(0, str(SPEC))
from make_spec_stores import INVALID, NOT_EVERYWHERE, VALID, break_rule, spikes_thw  # noqa: E402

FOUND_WHEN_DECODED = {"chunk_damaged", "bits_past_end", "bits_differ", "spikes_differ"}


@pytest.fixture
def invalid_store(request, tmp_path):
    """The committed example, or a fresh one where it cannot be committed."""
    if request.param not in NOT_EVERYWHERE:
        return SPEC / "invalid" / f"{request.param}.zarr"
    path = tmp_path / f"{request.param}.zarr"
    break_rule(request.param, path)
    return path


def test_all_examples_are_there():
    assert {p.stem for p in (SPEC / "valid").iterdir()} == set(VALID)
    assert {p.stem for p in (SPEC / "invalid").iterdir()} == set(INVALID) - NOT_EVERYWHERE


@pytest.mark.parametrize("name", VALID)
def test_valid_stores_break_no_rule(name, tmp_path):
    assert validate(SPEC / "valid" / f"{name}.zarr") == []
    VALID[name](tmp_path / "fresh.zarr")
    assert validate(tmp_path / "fresh.zarr") == []


@pytest.mark.parametrize(
    ("invalid_store", "name"), [(n, n) for n in INVALID], indirect=["invalid_store"]
)
def test_an_invalid_store_breaks_the_rule_it_is_named_after(invalid_store, name):
    problems = validate(invalid_store)
    assert [problem.code for problem in problems] == [name]
    shallow = [problem.code for problem in validate(invalid_store, deep=False)]
    assert shallow == ([] if name in FOUND_WHEN_DECODED else [name])


def read_all(path):
    store = open_store(path)
    for lost in store.left_out:
        raise StoreError(lost.error)
    for clip_id in store.clips:
        store.verify(clip_id)


READERS_GO_ON = {"catalog_malformed", "catalog_differs", "label_unknown", "clip_ids_collide"}


@pytest.mark.parametrize(
    ("invalid_store", "name"),
    [(n, n) for n in INVALID if n not in READERS_GO_ON],
    indirect=["invalid_store"],
)
def test_readers_refuse_an_invalid_store_with_one_line(invalid_store, name):
    with pytest.raises(StoreError) as caught:
        read_all(invalid_store)
    assert str(caught.value).startswith(f"{invalid_store}: ")
    assert "\n" not in str(caught.value)


def test_a_damaged_catalogue_is_made_good_from_the_clips():
    store = open_store(SPEC / "invalid/catalog_malformed.zarr")
    assert [clip.clip.label for clip in store.clips.values()] == ["clap", "wave"]


@pytest.mark.parametrize(
    ("name", "spikes"),
    [
        ("by_zarr_python", spikes_thw(7, 203, 10, 9)),
        ("tall_chunks", spikes_thw(8, 256, 8, 8)),
    ],
)
def test_stores_of_zarr_python_give_their_bits(name, spikes):
    store = open_store(SPEC / f"valid/{name}.zarr")
    assert np.array_equal(store.read_planes("by_zarr"), spikes)
    assert np.array_equal(store.read("by_zarr", 70, 100).unpack(), spikes[70:170])


def broken_clip(path, change):
    """A store of two clips without a catalogue, the text of one clip's metadata changed."""
    shutil.copytree(SPEC / "valid/two_clips_1_0.zarr", path)
    (path / "catalog.jsonl").unlink()
    file = path / "clips/wave_g01/zarr.json"
    file.write_text(change(file.read_text()))
    return path


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('"threshold": 2.0', '"threshold": NaN', "metadata_malformed"),
        ('"threshold": 2.0', '"threshold": -Infinity', "metadata_malformed"),
        ('"threshold": 2.0', '"threshold": 1e999', "metadata_malformed"),
        ("a person waves", "\\ud800", "metadata_malformed"),
        ('"split": "train"', '"split": "../../../x/here"', "attributes_malformed"),
        ('"tick_rate_hz": 250.0', '"tick_rate_hz": -1', "attributes_malformed"),
    ],
)
def test_values_that_no_file_should_hold_are_one_problem_and_one_line(tmp_path, old, new, code):
    path = broken_clip(tmp_path / "s.zarr", lambda text: text.replace(old, new))
    assert [(problem.code, problem.clip) for problem in validate(path)] == [(code, "wave_g01")]
    store = open_store(path)
    assert list(store.clips) == ["clap_g01"]
    (lost,) = store.left_out
    assert lost.id == "wave_g01"
    assert lost.error.startswith(f"{path}: clip wave_g01: ")
    assert "\n" not in lost.error


def test_half_a_surrogate_pair_is_refused_however_it_is_written(tmp_path):
    path = broken_clip(tmp_path / "s.zarr", lambda text: text)
    file = path / "clips/wave_g01/zarr.json"
    file.write_bytes(file.read_bytes().replace(b"a person waves", b"\xed\xa0\x80"))
    assert [problem.code for problem in validate(path)] == ["metadata_malformed"]
    (lost,) = open_store(path).left_out
    assert "is not JSON" in lost.error


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    path = broken_clip(
        tmp_path / "s.zarr", lambda text: text.replace("a person waves", "\\ud83d\\ude00")
    )
    assert validate(path) == []
    assert open_store(path).clips["wave_g01"].clip.captions == ("\U0001f600",)


def test_the_index_is_checked_before_memory_is_taken(tmp_path):
    """64 GiB are stated, and the shard has a hundred bytes."""

    def swell(text):
        meta = json.loads(text)
        meta["shape"] = [16, 65_535, 65_535]
        meta["chunk_grid"]["configuration"]["chunk_shape"] = [16, 65_535, 65_535]
        meta["codecs"][0]["configuration"]["chunk_shape"] = [16, 255, 65_535]
        meta["attributes"]["ticks"] = 128
        return json.dumps(meta)

    path = broken_clip(tmp_path / "s.zarr", swell)
    with pytest.raises(StoreError, match="shard c.0.0.0: wrong checksum|is cut off"):
        open_store(path).read("wave_g01")


@pytest.mark.skipif(sys.platform != "linux", reason="others keep names in Unicode")
def test_a_folder_whose_name_is_not_utf_8_can_be_told(tmp_path):
    path = broken_clip(tmp_path / "s.zarr", lambda text: text)
    os.mkdir(os.fsencode(path / "clips") + b"/\xff")
    (problem,) = validate(path)
    assert (problem.code, problem.clip) == ("clip_id_unsafe", "\\udcff")
    problem.message.encode()


def test_bits_past_the_last_tick_are_never_handed_on():
    store = open_store(SPEC / "invalid/bits_past_end.zarr")
    assert store.read("wave_g01", 0, 8).ticks == 8
    for read in (store.read, store.read_planes, lambda clip_id: list(store.blocks(clip_id, 8))):
        with pytest.raises(StoreError, match=r"has bits past its last tick \(13\)"):
            read("wave_g01")


def test_the_document_has_each_rule_by_its_code():
    text = (SPEC.parents[1] / "docs/reference/store-format.md").read_text()
    rules = text.partition("## 8. Rules")[2]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", rules, re.MULTILINE)) == set(INVALID)


@pytest.mark.parametrize("what", ["nothing", "file", "empty folder"])
def test_what_is_no_store_is_one_problem(tmp_path, what):
    path = tmp_path / "x.zarr"
    if what == "file":
        path.write_text("hello")
    elif what == "empty folder":
        path.mkdir()
    (problem,) = validate(path)
    assert isinstance(problem, Problem)
    assert (problem.code, problem.clip) == ("not_a_store", None)
    with pytest.raises(StoreError, match=re.escape(str(path))):
        open_store(path)
