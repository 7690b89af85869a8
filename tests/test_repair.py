"""A store that lost something is what it was again, or says what it lost."""

import json
import shutil

import pytest
from tools import digest_of_folder, one_line_error, run_program, without_digests, write_corpus

from spikedata import Failure, find_corpus, open_clips, validate
from spikedata.errors import RecipeError, StoreError
from spikedata.outputs import locked
from spikedata.repair import repair_store
from spikedata.simulation import SimulationRecipe, simulate_corpus

IDS = ["class0__clip0", "class0__clip1", "class1__clip0", "class1__clip1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A corpus of four videos, and the store that was simulated from it."""
    monkeypatch.chdir(tmp_path)
    corpus = find_corpus(write_corpus(tmp_path / "videos", clips=2))
    simulate_corpus(corpus, tmp_path / "spikes.zarr", SimulationRecipe())
    return tmp_path


def damage(store):
    """A flipped bit, a folder that is gone, metadata that is no JSON, a changed label."""
    shard = store / "clips" / IDS[0] / "c.0.0.0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 8
    shard.write_bytes(data)
    shutil.rmtree(store / "clips" / IDS[1])
    (store / "clips" / IDS[2] / "zarr.json").write_text("{")
    meta = store / "clips" / IDS[3] / "zarr.json"
    meta.write_text(meta.read_text().replace('"label": "class1"', '"label": "class0"'))


def test_a_damaged_store_is_what_it_was_again(here):
    store = here / "spikes.zarr"
    was = digest_of_folder(store)
    damage(store)
    corpus = find_corpus("videos")
    looked = repair_store(store, corpus, dry_run=True)
    assert sorted(failure.id for failure in looked.found) == IDS
    assert (looked.clips, looked.made_again, looked.left) == (0, (), looked.found)
    report = repair_store(store, corpus, workers=2)
    assert [failure.id for failure in report.found] == [failure.id for failure in looked.found]
    assert (sorted(report.made_again), report.left, report.clips) == (IDS, (), 4)
    assert digest_of_folder(store) == was
    assert sorted(path.name for path in here.iterdir()) == ["spikes.zarr", "videos"]
    assert repair_store(store).found == ()


def test_without_videos_what_is_lost_stays_told_until_it_is_given_up(here):
    store = here / "spikes.zarr"
    damage(store)
    for _ in range(2):
        report = repair_store(store)
        assert sorted(failure.id for failure in report.left) == IDS
        (gone,) = open_clips(store).left_out
        assert gone.error == f"{store}: clip {IDS[1]}: its folder is gone, catalog.jsonl lists it"
    report = repair_store(store, give_up=True)
    assert (sorted(report.given_up), report.left, report.clips) == (IDS, (), 0)
    assert validate(store) == []


def test_a_clip_that_would_have_other_bits_now_is_left(here):
    store = here / "spikes.zarr"
    damage(store)
    first, second = (here / "videos/class0" / f"clip{k}.mkv" for k in range(2))
    shutil.copy(here / "videos/class1/clip0.mkv", first)
    second.write_bytes(b"no video")
    report = repair_store(store, find_corpus("videos"))
    assert sorted(report.made_again) == IDS[2:]
    told = {failure.id: failure.error for failure in report.left}
    assert sorted(told) == IDS[:2]
    assert "c.0.0.0" in told[IDS[0]]
    assert "; made again it has other bits (" in told[IDS[0]]
    assert "clip1.mkv" in told[IDS[1]]


def test_a_catalogue_that_is_wrong_is_written_anew(here):
    store = without_digests(here / "spikes.zarr")
    catalog = store / "catalog.jsonl"
    right = open_clips(store).clips[IDS[0]]
    catalog.write_text(catalog.read_text().replace('"label":"class0"', '"label":"class1"'))
    assert [problem.code for problem in validate(store)] == ["catalog_differs"] * 2
    assert repair_store(store).found == ()
    assert validate(store) == []
    assert open_clips(store).clips[IDS[0]] == right


def test_what_cannot_be_repaired_is_refused(here):
    store = here / "spikes.zarr"
    with locked(store), pytest.raises(StoreError, match="another process is writing it"):
        repair_store(store)
    run_program("spikedata", "pack", "--to", "parquet", cwd=here)
    with pytest.raises(StoreError, match="only a Zarr store is repaired in its place"):
        repair_store(here / "packed.parquet")
    with pytest.raises(StoreError, match="no such store"):
        repair_store(here / "none.zarr")
    damage(store)
    root = without_digests_of_root(store)
    root["attributes"]["recipe"] = {"cameras": ["vidar"]}
    (store / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(RecipeError, match="spikes.zarr: recipe: unknown key 'cameras'"):
        repair_store(store, find_corpus("videos"))


def without_digests_of_root(store):
    root = json.loads((store / "zarr.json").read_text())
    del root["attributes"]["facts_sha256"]
    return root


def test_the_command_names_what_is_left_and_ends_with_status_1(here):
    damage(here / "spikes.zarr")
    done = run_program("spikedata", "repair", cwd=here)
    assert "spikes.zarr: 4 clips are damaged or gone. Give --from VIDEOS" in one_line_error(done, 1)
    assert done.stderr.count("failed: class") == 4
    done = run_program("spikedata", "repair", "--from", "videos", "--json", cwd=here)
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["clips"], sorted(told["made_again"]), told["left"]) == (4, IDS, [])
    assert [Failure(**failure).id for failure in told["found"]] != []


def test_a_function_that_a_store_names_is_not_run(here):
    """A store from elsewhere may name anything; only its user may name a function."""
    (here / "evil.py").write_text("open('ran', 'w')\ndef frames(*_): ...\n")
    store = here / "spikes.zarr"
    root = without_digests_of_root(store)
    root["attributes"]["recipe"]["interpolator"] = "evil:frames"
    (store / "zarr.json").write_text(json.dumps(root))
    damage(store)
    with pytest.raises(RecipeError, match="names a function, 'evil:frames', that is not run"):
        repair_store(store, find_corpus("videos"))
    assert not (here / "ran").exists()
