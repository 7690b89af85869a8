"""Every rule of the format: a store that keeps it, and one that breaks it and nothing else."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from spikedata.errors import StoreError
from spikedata.store import Problem, open_store, validate

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


def test_stores_of_zarr_python_give_their_bits():
    store = open_store(SPEC / "valid/by_zarr_python.zarr")
    assert np.array_equal(store.read_planes("by_zarr"), spikes_thw(7, 203, 10, 9))


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
