"""Publishing and fetching, against an HTTP server on loopback that speaks the Hub's protocol."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from flaky_hub import MISANSWERS, Fault, FlakyHub
from hub_server import TOKEN, HubServer
from tools import one_line_error, run_program, write_corpus

from spikedata import check_regenerated, open_clips, pull, push_hub
from spikedata.bits import pack_ticks
from spikedata.clip import Clip
from spikedata.clips.store import StoreConfig, create_store, open_store
from spikedata.errors import HubError, SpikeDataError, StoreError
from spikedata.hub.card import DECODER, licence_metadata
from spikedata.hub.client import api
from spikedata.outputs import locked
from spikedata.pack import pack_clips

# The client itself hands its HTTP library an upload in a way that the library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def planes_of(number: int, edition: int = 0) -> np.ndarray:
    rng = np.random.default_rng([number, edition])
    return (rng.random((270 + 31 * number, 16, 21)) < 0.3).astype(np.uint8)


def make_store(
    path: Path, count: int = 5, *, edition: int = 0, recipe: dict | None = None, maps: str = ""
) -> Path:
    """A store of ``count`` clips; those of another edition have the same ids and other bits."""
    sensor = {"threshold": 2.0} | ({"noise": {"maps": maps}} if maps else {})
    recipe = {"sensor": sensor} if recipe is None else recipe
    with create_store(path, recipe=recipe, class_names=["walk", "run"], name="toy") as writer:
        for i in range(count):
            clip = Clip(
                id=f"clip_{i}",
                label=["run", "walk"][i % 2],
                captions=("somebody moves",),
                split="test" if i == 0 else "train",
                group=f"g{i}",
                licence="CC-BY-4.0",
                source={"name": f"clip_{i}.avi", "sha256": f"{i:064x}"},
            )
            with writer.clip(clip, height_px=16, width_px=21, tick_rate_hz=250.0) as out:
                out.append(pack_ticks(planes_of(i, edition)))
                attributes = {"sensor": sensor, "video": {"decoder": "pyav"}}
                out.finish(ticks=len(planes_of(i)), attributes=attributes)
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer(tmp_path / "hub") as server:
        for key, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(key, value)
        yield server


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of about one clip, so that there are several."""
    monkeypatch.setattr("spikedata.clips.shards.SHARD_PACKED_BYTES", 15_000)


CONSUMER = """
import json, sys

class NoSpikedata:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("spikedata", "spklip", "spikedata_cli"):
            raise ImportError("spikedata is not installed here")

sys.meta_path.insert(0, NoSpikedata())
repo, out = sys.argv[1:]
import datasets
from huggingface_hub import hf_hub_download

card = open(hf_hub_download(repo, "README.md", repo_type="dataset"), encoding="utf-8").read()
blocks = [part.split("```")[0] for part in card.split("```python\\n")[1:]]
decoder = next(block for block in blocks if "def spike_planes" in block)
exec(decoder)
whole = datasets.load_dataset(repo)
streamed = datasets.load_dataset(repo, streaming=True)
found = {}
for split in whole:
    for row, again in zip(whole[split], streamed[split], strict=True):
        planes = spike_planes(row)
        assert (planes == spike_planes(again)).all()
        found[row["id"]] = planes
        assert row["preview"].size == (row["width"], row["height"])
name_of = whole["train"].features["label"].int2str
labels = {row["id"]: name_of(row["label"]) for row in whole["train"]}
np.savez(out, **found)
print(json.dumps({"splits": {k: len(v) for k, v in whole.items()}, "labels": labels}))
"""


def test_a_process_without_spikedata_loads_streams_and_decodes_the_same_bits(hub, tmp_path):
    report = push_hub(make_store(tmp_path / "spikes.zarr"), workers=2)
    assert report.repo == "tester/toy-spikes"

    script = tmp_path / "consumer.py"
    script.write_text(CONSUMER)
    result = subprocess.run(
        [sys.executable, script, report.repo, tmp_path / "found.npz"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )

    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["splits"] == {"test": 1, "train": 4}
    assert told["labels"] == {
        "clip_1": "walk", "clip_2": "run", "clip_3": "walk", "clip_4": "run"
    }  # fmt: skip
    with np.load(tmp_path / "found.npz") as found:
        assert sorted(found) == [f"clip_{i}" for i in range(5)]
        for i in range(5):
            assert np.array_equal(found[f"clip_{i}"], planes_of(i))


def test_what_is_fetched_is_the_store_that_was_published(hub, tmp_path, small_shards):
    store = make_store(tmp_path / "spikes.zarr")
    report = push_hub(store)
    assert [file.path for file in report.files] == [
        "data/test-00000-of-00001.parquet",
        *[f"data/train-0000{i}-of-00004.parquet" for i in range(4)],
        "recipe.yaml",
        "README.md",
    ]
    out = pull(report.repo, tmp_path / "back.zarr", revision=report.revision, workers=2)
    before, after = open_store(store), open_store(out)
    assert dict(after.clips) == dict(before.clips)
    assert (after.class_names, after.recipe, after.name) == (
        before.class_names,
        before.recipe,
        before.name,
    )
    for i in range(5):
        after.verify(f"clip_{i}")
        assert np.array_equal(after.read(f"clip_{i}").unpack(), planes_of(i))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.zarr", "hub", "spikes.zarr"]


def test_an_interrupted_upload_sends_only_what_is_missing(hub, tmp_path, small_shards):
    store = make_store(tmp_path / "spikes.zarr")
    hub.lfs_uploads_left = 2
    with pytest.raises(HubError) as error:
        push_hub(store)
    assert "answered 403: Storage quota exceeded. What was sent is kept" in str(error.value)
    first = hub.uploads()
    assert len(first) == 3  # the third was refused
    assert hub.repositories.files("tester/toy-spikes", "main")[1] == {}

    hub.lfs_uploads_left = None
    hub.requests.clear()
    push_hub(store)

    assert len(hub.uploads()) == 3
    assert set(hub.uploads()) & set(first[:2]) == set()
    shards = {
        file["oid"]
        for path, file in hub.repositories.files("tester/toy-spikes", "main")[1].items()
        if path.endswith(".parquet")
    }
    assert shards == set(first) | set(hub.uploads())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hub", "spikes.zarr"]


def test_publishing_again_sends_nothing_and_other_clips_replace_the_old(hub, tmp_path):
    one = push_hub(make_store(tmp_path / "spikes.zarr"))
    hub.requests.clear()
    again = push_hub(tmp_path / "spikes.zarr")
    assert hub.uploads() == []
    assert again.card == one.card
    fewer = push_hub(make_store(tmp_path / "fewer.zarr", count=1), repo="toy-spikes")
    assert sorted(hub.repositories.files(fewer.repo, "main")[1]) == [
        "README.md",
        "data/test-00000-of-00001.parquet",
        "recipe.yaml",
    ]
    assert len(open_store(pull(one.repo, tmp_path / "now.zarr")).clips) == 1
    old = pull(one.repo, tmp_path / "then.zarr", revision=one.revision)
    assert len(open_store(old).clips) == 5


def test_a_packed_parquet_folder_is_published_as_it_is(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "spikes.zarr")
    packed = pack_clips(to="parquet").out
    report = push_hub(packed, repo="tester/mine", private=False)
    files = hub.repositories.files("tester/mine", "main")[1]
    for name in ("data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"):
        sent = hub.repositories.blob(files[name]["oid"]).read_bytes()
        assert sent == (packed / name).read_bytes()
    assert not hub.repositories.load(report.repo)["private"]
    assert not report.private


def test_it_is_private_unless_asked_otherwise(hub, tmp_path):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))
    assert report.private
    assert hub.repositories.load(report.repo)["private"]


def test_the_card_states_what_the_hub_needs(hub, tmp_path):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))
    header = yaml.safe_load(report.card.split("---")[1])
    assert header["license"] == "cc-by-4.0"
    assert header["configs"][0]["data_files"] == [
        {"split": "test", "path": "data/test-*"},
        {"split": "train", "path": "data/train-*"},
    ]
    info = header["dataset_info"]
    features = {feature["name"]: feature for feature in info["features"]}
    assert features["label"]["dtype"]["class_label"]["names"] == {"0": "walk", "1": "run"}
    assert features["preview"]["dtype"] == "image"
    assert [split["num_examples"] for split in info["splits"]] == [1, 4]
    assert DECODER in report.card
    assert len([line for line in DECODER.splitlines()[4:] if line.strip()]) <= 10
    assert "threshold: 2.0" in report.card
    assert 'load_dataset("tester/toy-spikes"' in report.card


def test_dry_run_needs_no_network_and_no_account(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    store = make_store(tmp_path / "spikes.zarr")
    report = push_hub(store, dry_run=True)
    assert (report.repo, report.revision) == ("<your account>/toy-spikes", None)
    assert [file.path for file in report.files][-1] == "README.md"
    assert all(file.size_bytes > 0 for file in report.files)
    assert "## How it was made" in report.card
    assert sorted(p.name for p in tmp_path.iterdir()) == ["spikes.zarr"]


def test_recipes_alone_hold_no_bits_and_tell_what_differs(hub, tmp_path):
    store = make_store(tmp_path / "spikes.zarr")
    report = push_hub(store, repo="recipes", recipe_only=True)
    assert "so this holds no bits" in report.card
    assert sum(file.size_bytes for file in report.files) < 60_000
    with pytest.raises(HubError, match="recipes only.*pull tester/recipes --check --out spikes"):
        pull("tester/recipes", tmp_path / "back.zarr")
    assert check_regenerated("tester/recipes", store) == ()

    other = tmp_path / "other.zarr"
    with create_store(other, recipe={}, class_names=["walk", "run"]) as writer:
        clip = open_store(store).clips["clip_0"].clip
        with writer.clip(clip, height_px=16, width_px=21, tick_rate_hz=250.0) as out:
            out.append(pack_ticks(1 - planes_of(0)))
            attributes = {"sensor": {"threshold": 2.0}, "video": {"decoder": "decord"}}
            out.finish(ticks=270, attributes=attributes)
    lines = check_regenerated("tester/recipes", other)
    assert lines[0].startswith("clip_0: bits differ; video there {'decoder': 'pyav'}")
    assert lines[1:] == tuple(f"clip_{i}: missing" for i in range(1, 5))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hub", "other.zarr", "spikes.zarr"]


@pytest.mark.parametrize("token", [None, "hf_wrong_secret"])
def test_not_signed_in_is_one_line_that_says_what_to_do(hub, tmp_path, monkeypatch, token):
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError) as error:
        push_hub(make_store(tmp_path / "spikes.zarr"))
    assert "run `hf auth login`, or set HF_TOKEN" in str(error.value)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_no_error_ever_shows_the_token(hub, tmp_path, monkeypatch):
    store = make_store(tmp_path / "spikes.zarr")

    def leak(self, repo, *rest):
        from hub_server import RefusalError

        raise RefusalError(403, f"{TOKEN} may not\ndo this")

    monkeypatch.setattr("hub_server._Handler._repository", leak)
    with pytest.raises(HubError) as error:
        push_hub(store)
    assert str(error.value).endswith("answered 403: *** may not do this")
    assert error.value.__cause__ is None


def test_errors_of_fetching_are_one_line(hub, tmp_path):
    with pytest.raises(HubError, match="tester/none: not on http"):
        pull("tester/none", tmp_path / "x.zarr")
    with pytest.raises(HubError, match="cannot be used"):
        pull("no/such/name", tmp_path / "x.zarr")
    hub.repositories.create("tester/empty", private=False)
    with pytest.raises(HubError, match="was not published by spikedata"):
        pull("tester/empty", tmp_path / "x.zarr")
    (tmp_path / "x.zarr").mkdir()
    with pytest.raises(StoreError, match="exists already"):
        pull("tester/empty", tmp_path / "x.zarr")


def test_damaged_bits_are_not_published_and_not_fetched(hub, tmp_path, monkeypatch):
    store = make_store(tmp_path / "spikes.zarr", count=2)
    good = push_hub(store)
    files = hub.repositories.files(good.repo, "main")[1]
    blob = hub.repositories.blob(files["data/train-00000-of-00001.parquet"]["oid"])
    data = bytearray(blob.read_bytes())
    data[data.rindex(b"\x28\xb5\x2f\xfd") + 200] ^= 0xFF  # inside a zstd frame
    blob.write_bytes(data)
    with pytest.raises(StoreError, match="clip_1"):
        pull(good.repo, tmp_path / "back.zarr")
    assert not (tmp_path / "back.zarr").exists()

    shard = store / "clips" / "clip_1" / "c.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(StoreError, match="clip_1"):
        push_hub(store, repo="other")


def cut_fetch(hub, repo: str, out: Path, downloads: int) -> None:
    hub.downloads_left = downloads
    with pytest.raises(HubError, match="Too much was downloaded. Run the same command again"):
        pull(repo, out)
    assert not out.exists()
    hub.downloads_left = None
    hub.requests.clear()


def assert_fetched(path: Path, edition: int = 0) -> None:
    store = open_store(path)
    assert sorted(store.clips) == [f"clip_{i}" for i in range(5)]
    for i in range(5):
        assert np.array_equal(store.read(f"clip_{i}").unpack(), planes_of(i, edition))


def test_a_fetch_that_was_cut_downloads_only_the_shards_that_are_missing(
    hub, tmp_path, small_shards
):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))
    cut_fetch(hub, report.repo, tmp_path / "back.zarr", downloads=3)
    hub.downloads_left = 2
    pull(report.repo, tmp_path / "back.zarr")
    assert_fetched(tmp_path / "back.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.zarr", "hub", "spikes.zarr"]


def test_a_fetch_that_was_cut_never_mixes_two_revisions(hub, tmp_path, small_shards):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))
    cut_fetch(hub, report.repo, tmp_path / "back.zarr", downloads=3)
    push_hub(make_store(tmp_path / "again.zarr", edition=1), repo=report.repo)
    pull(report.repo, tmp_path / "back.zarr")
    assert_fetched(tmp_path / "back.zarr", edition=1)
    assert not (tmp_path / "back.zarr.pull").exists()


def test_clips_lost_after_a_cut_are_fetched_again(hub, tmp_path, small_shards):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))
    cut_fetch(hub, report.repo, tmp_path / "back.zarr", downloads=3)
    (half_made,) = (tmp_path / "back.zarr.pull").glob("*/store.zarr")
    shutil.rmtree(half_made)
    pull(report.repo, tmp_path / "back.zarr")
    assert_fetched(tmp_path / "back.zarr")


def test_a_fetch_killed_at_its_very_end_can_be_run_again(hub, tmp_path):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))
    out = pull(report.repo, tmp_path / "back.zarr")
    (tmp_path / "back.zarr.pull" / report.revision).mkdir(parents=True)
    pull(report.repo, out, overwrite=True)
    assert_fetched(out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.zarr", "hub", "spikes.zarr"]


def test_a_fetch_replaces_a_store_and_nothing_else(hub, tmp_path):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("mine")
    for name in ("file", "photos"):
        with pytest.raises(StoreError, match="was not written by spikedata"):
            pull(report.repo, tmp_path / name, overwrite=True)
    assert (tmp_path / "photos" / "cat.jpg").read_text() == (tmp_path / "file").read_text()

    old = make_store(tmp_path / "old.zarr", edition=1)
    (tmp_path / "link.zarr").symlink_to(old)
    pull(report.repo, tmp_path / "link.zarr", overwrite=True)
    assert_fetched(tmp_path / "link.zarr")
    assert_fetched(old, edition=1)
    with pytest.raises(StoreError, match="needs a name of its own"):
        pull(report.repo, Path("/"), overwrite=True)


def test_two_runs_at_once_leave_each_other_alone(hub, tmp_path):
    store = make_store(tmp_path / "spikes.zarr")
    at_work = pytest.raises(StoreError, match="another process is writing it")
    with locked(tmp_path / "spikes.zarr.push"), at_work:
        push_hub(store)
    report = push_hub(store)
    with locked(tmp_path / "back.zarr"), at_work:
        pull(report.repo, tmp_path / "back.zarr")
    pull(report.repo, tmp_path / "back.zarr")
    assert not list(tmp_path.glob("*.lock"))


def test_checking_reads_no_bits_and_leaves_nothing(hub, tmp_path, monkeypatch):
    store = tmp_path / "wide.zarr"
    planes_thw = np.random.default_rng(0).integers(0, 2, (4_000, 60, 80), np.uint8)
    with create_store(store, recipe={}, class_names=[], name="wide") as writer:
        for key in "ab":
            with writer.clip(Clip(id=key), height_px=60, width_px=80, tick_rate_hz=1.0) as out:
                out.append(pack_ticks(planes_thw))
                out.finish(ticks=4_000, attributes={})
    report = push_hub(store)
    monkeypatch.setattr("spikedata.hub.pulling.READ_AHEAD_BYTES", 4_096)
    hub.bytes_sent, hub.downloads_left = 0, 0
    assert check_regenerated(report.repo, store) == ()
    assert 0 < hub.bytes_sent < report.files[0].size_bytes / 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hub", "wide.zarr"]


def test_the_commands_on_the_card_make_the_published_bits(hub, tmp_path):
    write_corpus(tmp_path / "there" / "videos", clips=1)
    words = ["videos", "--threshold", "1.5", "--tick-rate", "500"]
    assert run_program("spikedata", "simulate", *words, cwd=tmp_path / "there").returncode == 0
    report = push_hub(tmp_path / "there" / "spikes.zarr", recipe_only=True)
    assert "holds no bits" in report.card

    block = report.card.split("```shell\n")[1].split("```")[0]
    here = tmp_path / "here"
    shutil.copytree(tmp_path / "there" / "videos", here / "VIDEOS")
    for line in block.splitlines():
        done = run_program(*line.split(), cwd=here)
        assert done.returncode == 0, (line, done.stderr)
    assert done.stdout == f"spikes.zarr: the same bits as {report.repo}\n"

    (here / "recipe.yaml").write_text((here / "recipe.yaml").read_text().replace("1.5", "1.25"))
    words = ["VIDEOS", "--recipe", "recipe.yaml", "--out", "other.zarr"]
    assert run_program("spikedata", "simulate", *words, cwd=here).returncode == 0
    words = ["pull", report.repo, "--check", "--out", "other.zarr", "--json"]
    done = run_program("spikedata", *words, cwd=here)
    assert one_line_error(done, 1) == f"error: other.zarr: 2 differences from {report.repo}"
    assert [line.split(":")[0] for line in json.loads(done.stdout)["differences"]] == [
        "class0__clip0",
        "class1__clip0",
    ]


def test_maps_are_published_beside_the_recipe_without_their_folder(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    maps = tmp_path / "secret_folder" / "camera.npz"
    maps.parent.mkdir()
    maps.write_bytes(b"maps")
    store = make_store(tmp_path / "spikes.zarr", maps=str(maps))
    packed = pack_clips([store], to="parquet", out=tmp_path / "packed.parquet").out
    for source in (store, packed):
        report = push_hub(source, repo="toy")
        files = hub.repositories.files(report.repo, "main")[1]
        blobs = {name: hub.repositories.blob(file["oid"]) for name, file in files.items()}
        sent = {name: blob.read_bytes() for name, blob in blobs.items()}
        assert sent["camera.npz"] == b"maps"
        noise = yaml.safe_load(sent["recipe.yaml"])["sensor"]["noise"]
        assert noise == {"maps": "camera.npz", "maps_sha256": sha256(b"maps").hexdigest()}
        assert not any(b"secret_folder" in data for data in sent.values())
        assert "recipe.yaml camera.npz --repo-type dataset" in report.card

    maps.unlink()
    assert "camera.npz" not in [file.path for file in push_hub(store, dry_run=True).files]
    with pytest.raises(HubError, match="nobody could make these clips again.*camera.npz"):
        push_hub(store, recipe_only=True)


def test_recordings_have_no_recipe_to_publish(tmp_path):
    store = make_store(tmp_path / "spikes.zarr", recipe={"cameras": ["vidar"]})
    report = push_hub(store, dry_run=True)
    assert "recipe.yaml" not in [file.path for file in report.files]
    assert "simulate" not in report.card
    with pytest.raises(HubError, match="nobody could make these clips again"):
        push_hub(store, dry_run=True, recipe_only=True)


@pytest.mark.parametrize(
    ("stated", "header"),
    [
        ("CC BY 4.0", {"license": "cc-by-4.0"}),
        ("cc_by-nc-sa-4", {"license": "cc-by-nc-sa-4.0"}),
        ("https://creativecommons.org/licenses/by-sa/4.0/", {"license": "cc-by-sa-4.0"}),
        ("CC0", {"license": "cc0-1.0"}),
        ("https://creativecommons.org/publicdomain/zero/1.0/", {"license": "cc0-1.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("ODbL-1.0", {"license": "odbl"}),
        ("Our Lab's", {"license": "other", "license_name": "our-lab-s"}),
    ],
)
def test_a_licence_becomes_what_the_hub_calls_it(stated, header):
    assert licence_metadata(stated) == header


def test_a_licence_with_an_address_of_its_own_is_linked():
    header = licence_metadata("https://lab.example/licence")
    assert header["license_link"] == "https://lab.example/licence"
    assert header["license"] == "other"


def test_any_spelling_of_a_licence_is_published_and_shown_in_a_dry_run(hub, tmp_path):
    store = make_store(tmp_path / "spikes.zarr")
    assert "\nlicense: cc0-1.0\n" in push_hub(store, licence="CC0", dry_run=True).card
    card = push_hub(store, licence="Our own").card
    assert "\nlicense: other\n" in card
    assert "\nlicense_name: our-own\n" in card
    assert "Licence of this data set: Our own." in card


def test_a_card_that_the_hub_refuses_stops_before_anything_is_made(hub, tmp_path):
    store = make_store(tmp_path / "spikes.zarr")
    hub.licences = frozenset(["mit"])
    steps = []
    with pytest.raises(HubError, match="refuses the card: \"license\" must be one of .'mit'"):
        push_hub(store, progress=steps.append)
    assert (steps, hub.uploads()) == ([], [])
    assert not list((tmp_path / "hub").glob("*.json"))


def test_pull_prints_json(hub, tmp_path):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))
    done = run_program("spikedata", "pull", report.repo, "--out", "b.zarr", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"store": "b.zarr", "repo": report.repo}
    done = run_program("spikedata", "pull", report.repo, "--check", "--json", cwd=tmp_path)
    told = {"store": "spikes.zarr", "repo": report.repo, "differences": []}
    assert json.loads(done.stdout) == told


def test_nothing_to_publish_says_so(tmp_path):
    with pytest.raises(HubError, match="no such file or folder. Run `spikedata pack --to zarr`"):
        push_hub(tmp_path / "none.zarr", dry_run=True)
    with create_store(
        tmp_path / "empty.zarr", recipe={}, class_names=[], options=StoreConfig()
    ) as writer:
        assert not writer.has("x")
    with pytest.raises(HubError, match="holds no clips"):
        push_hub(tmp_path / "empty.zarr", dry_run=True)


@pytest.mark.parametrize("to", ["zarr", "parquet", "hdf5", "dat"])
def test_any_format_is_pushed_compared_and_pulled(hub, tmp_path, monkeypatch, to):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)  # where the packing notes what it packed
    pack_clips([make_store(tmp_path / "made.zarr")], to=to, out=tmp_path / "here" / "toy")
    want = {
        key: (s.bits_sha256, s.clip) for key, s in open_clips(tmp_path / "made.zarr").clips.items()
    }
    monkeypatch.chdir(tmp_path / "here")
    report = push_hub("toy")
    assert check_regenerated(report.repo, "toy") == ()
    out = pull(report.repo, tmp_path / "back.zarr")
    assert {key: (s.bits_sha256, s.clip) for key, s in open_clips(out).clips.items()} == want
    assert os.listdir() == ["toy"]


def test_the_folder_one_stands_in_is_pushed_and_staged_beside_it(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(make_store(tmp_path / "toy"))
    before = sorted(path for path in Path().rglob("*"))
    assert push_hub(".").repo == "tester/toy-spikes"
    assert sorted(path for path in Path().rglob("*")) == before


def test_a_card_shows_a_licence_and_a_name_as_they_are_written(tmp_path):
    card = push_hub(
        make_store(tmp_path / "toy"), licence="[ours](http://x.test) | <b>`", dry_run=True
    ).card
    text = card.split("---\n", 2)[2]
    assert r"Licence of this data set: \[ours\]\(http://x.test\) \| \<b\>\`." in text


def test_a_card_shows_what_a_recipe_says_and_is_not_steered_by_it(tmp_path):
    """Backticks on a line of their own would end the block; overrides would turn what follows."""
    words = f"{'x' * 78} ``` {'<img src=x>' * 9}"
    recipe = {"words": words, "turned": "a\u202eb\u2066c\x1b", "plain": "日本 \u0645\u06cc"}
    with (
        create_store(tmp_path / "s.zarr", recipe=recipe, class_names=["\u202eno"]) as writer,
        writer.clip(Clip(id="a"), height_px=2, width_px=3, tick_rate_hz=1.0) as out,
    ):
        out.append(np.zeros((1, 2, 3), np.uint8))
        out.finish(ticks=8, attributes={})
    card = push_hub(tmp_path / "s.zarr", repo="tester/x", dry_run=True).card
    assert not set(card) & set("\u202e\u2066\x1b")
    block = re.search(r"^(`{4,})yaml\n(.*?)^\1$", card, re.DOTALL | re.MULTILINE)
    assert yaml.safe_load(block[2]) == recipe
    header = yaml.safe_load(card.split("---\n", 2)[1])
    label = next(one for one in header["dataset_info"]["features"] if one["name"] == "label")
    assert label["dtype"]["class_label"]["names"] == {"0": "\u202eno"}


@pytest.fixture
def flaky(hub, monkeypatch):
    with FlakyHub(hub.url) as proxy:
        monkeypatch.setenv("HF_ENDPOINT", proxy.url)
        yield proxy


def test_a_proxy_that_spoils_nothing_changes_nothing(flaky, tmp_path, small_shards):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))
    assert report.url == f"{flaky.url}/datasets/tester/toy-spikes"
    assert len([line for line in flaky.requests if line.startswith("PUT /lfs/")]) == 5
    pull(report.repo, tmp_path / "back.zarr")
    assert_fetched(tmp_path / "back.zarr")


@pytest.fixture
def no_waiting(monkeypatch):
    """The client sleeps before it asks again."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


NAMES = list(MISANSWERS)
PUSH_REQUESTS, PULL_REQUESTS = 12, 6
"""What publishing, and fetching, a data set of one shard asks for."""


def assert_told(verb, *words, **options) -> bool:
    """Whether it ended well; else it is one line that says what to do."""
    try:
        verb(*words, **options)
    except SpikeDataError as error:
        line = str(error)
        assert "\n" not in line
        assert len(line) < 1_000
        # An answer of 4xx is the Hub's own considered word.
        assert "the same command" in line or "answered 4" in line or "sign" in line, line
        assert TOKEN not in line
        return False
    return True


def spoil_each(flaky, folder: Path, number: int, names: list[str]) -> None:
    """Spoil one request of publishing and of fetching in each way; then it is healed."""
    store = folder / "spikes.zarr"
    for name in names:
        # Other bits each time: what the Hub has already is not sent.
        other = make_store(folder / "other.zarr", count=1, edition=1 + NAMES.index(name))
        repo = f"tester/{name.replace(' ', '-')}"
        flaky.heal()
        flaky.spoil(MISANSWERS[name], number=number)
        assert_told(push_hub, other, repo=repo)
        assert len(flaky.spoilt) >= 1, "there is no such request"
        flaky.heal()
        push_hub(other, repo=repo)
        assert check_regenerated(repo, other) == ()
        shutil.rmtree(other)
        if number <= PULL_REQUESTS:
            repo, out = "tester/toy-spikes", folder / f"{name}.zarr"
            flaky.heal()
            flaky.spoil(MISANSWERS[name], number=number)
            well = assert_told(pull, repo, out)
            assert len(flaky.spoilt) >= 1, "there is no such request"
            flaky.heal()
            assert well == out.exists()
            pull(repo, out, overwrite=well)
            assert dict(open_store(out).clips) == dict(open_store(store).clips)
            open_store(out).verify("clip_0")
            shutil.rmtree(out)
        assert list((folder / "temporary").iterdir()) == []
    assert sorted(p.name for p in folder.iterdir()) == ["hub", "spikes.zarr", "temporary"]


@pytest.fixture
def published(flaky, tmp_path, monkeypatch, no_waiting):
    """A data set of one clip behind the proxy, and an empty folder for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    push_hub(make_store(tmp_path / "spikes.zarr", count=1))
    assert len(flaky.requests) == PUSH_REQUESTS
    flaky.heal()
    return flaky


@pytest.mark.parametrize("number", range(1, PUSH_REQUESTS + 1))
def test_a_spoilt_answer_is_one_line_and_running_again_completes(published, tmp_path, number):
    spoil_each(published, tmp_path, number, [NAMES[2 * number % len(NAMES)]])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, PUSH_REQUESTS + 1))
def test_every_spoilt_answer_is_one_line(published, tmp_path, number):
    spoil_each(published, tmp_path, number, NAMES)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("stall", after=5), "cannot be used"),
        (Fault("trickle", seconds=0.05), "sent no more than"),
        (Fault("endless"), "sent more than 16,777,216 bytes"),
        (Fault("delay", seconds=600), "cannot be used"),
    ],
)
def test_a_call_ends_whatever_a_server_does_not_end(published, tmp_path, monkeypatch, fault, said):
    monkeypatch.setattr("spikedata.hub.client.PATIENCE_S", 1.0)
    published.spoil(fault, line="^GET /api/datasets", times=None)
    with pytest.raises(HubError, match=f"{said}.*Run the same command again"):
        pull("tester/toy-spikes", tmp_path / "back.zarr")


def test_what_only_waiting_would_help_is_told(published, tmp_path):
    store = make_store(tmp_path / "other.zarr", count=1, edition=1)
    published.spoil(MISANSWERS["429"], line="lfs/objects/batch")
    with pytest.raises(HubError, match="answered 429: come again in 86400 s"):
        push_hub(store)
    published.spoil(Fault("answer", headers={"Content-Encoding": "gzip"}), line="whoami")
    with pytest.raises(HubError, match="an encoding that was not asked for, gzip"):
        push_hub(store)


WHOLE_SHARD = r"^GET .*parquet$"


def test_a_shard_that_comes_wrong_is_fetched_once_more_and_never_kept(published, tmp_path):
    published.spoil(Fault("garble", after=-3), line=WHOLE_SHARD)
    out = pull("tester/toy-spikes", tmp_path / "back.zarr")
    assert dict(open_store(out).clips) == dict(open_store(tmp_path / "spikes.zarr").clips)

    published.heal()
    published.spoil(Fault("garble", after=-3), line=WHOLE_SHARD, times=2)
    with pytest.raises(StoreError, match="test-00000-of-00001.parquet: was fetched twice"):
        pull("tester/toy-spikes", out, overwrite=True)
    assert not list((tmp_path / "back.zarr.pull").rglob("*.parquet"))
    pull("tester/toy-spikes", out, overwrite=True)
    assert not (tmp_path / "back.zarr.pull").exists()


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "fill", "remove"])
def test_what_a_cut_run_left_may_be_anything(hub, tmp_path, small_shards, harm):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))
    cut_fetch(hub, report.repo, tmp_path / "back.zarr", downloads=3)
    left = [path for path in (tmp_path / "back.zarr.pull").rglob("*") if path.is_file()]
    assert len([path for path in left if path.name == "c.0.0.0"]) == 3
    for path in left:
        data = path.read_bytes()
        half = len(data) // 2
        flipped = data[:half] + bytes(b ^ 255 for b in data[half : half + 1]) + data[half + 1 :]
        new = {"flip": flipped, "cut": data[:half], "empty": b"", "fill": b"\xff" * 100}
        path.unlink() if harm == "remove" else path.write_bytes(new[harm])
    pull(report.repo, tmp_path / "back.zarr")
    assert_fetched(tmp_path / "back.zarr")
    for clip_id in open_store(tmp_path / "back.zarr").clips:
        open_store(tmp_path / "back.zarr").verify(clip_id)


def test_the_client_s_own_notes_of_a_cut_run_are_not_believed(hub, tmp_path):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))
    name = "data/test-00000-of-00001.parquet"
    oid = hub.repositories.files(report.repo, "main")[1][name]["oid"]
    for folder in ("", "download"):  # of earlier versions, and of this one
        here = tmp_path / "back.zarr.pull" / report.revision / folder
        notes = here / ".cache" / "huggingface" / "download" / f"{name}.metadata"
        for path, text in [(here / name, "bad"), (notes, f"{report.revision}\n{oid}\n9e12\n")]:
            path.parent.mkdir(parents=True)
            path.write_text(text)
    pull(report.repo, tmp_path / "back.zarr")
    assert_fetched(tmp_path / "back.zarr")


@pytest.mark.parametrize("sha", ["../../..", "..", "", "x" * 300, 7, None])
def test_a_revision_s_name_never_leads_out_of_the_folder(published, tmp_path, sha):
    told = {"id": "x", "sha": sha, "private": False, "siblings": [{"rfilename": "data/a.parquet"}]}
    body = json.dumps(told).encode()
    published.spoil(Fault("answer", body=body), line="^GET /api/datasets", times=None)
    with pytest.raises(HubError, match="tells of no commit and files"):
        pull("tester/toy-spikes", tmp_path / "back.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hub", "spikes.zarr", "temporary"]


@pytest.mark.parametrize("name", ["drop", "html", "null", "500 afterwards"])
def test_a_commit_whose_answer_is_lost_may_be_there(published, tmp_path, name):
    afterwards = Fault("answer", status=500, body=b"{}")
    fault = MISANSWERS.get(name, afterwards)
    published.spoil(fault, line="/commit/")
    with pytest.raises(HubError) as error:
        push_hub(tmp_path / "spikes.zarr", repo="tester/lost")
    url = f"{published.url}/datasets/tester/lost"
    assert f"The publication may well be there: see {url}, or run" in str(error.value)
    assert "`spikedata pull tester/lost --check --out spikes.zarr`" in str(error.value)
    assert check_regenerated("tester/lost", tmp_path / "spikes.zarr") == ()
    push_hub(tmp_path / "spikes.zarr", repo="tester/lost")


def test_a_publication_is_compared_with_what_was_sent(published, tmp_path):
    store = make_store(tmp_path / "more.zarr")
    push_hub(store, repo="toy-spikes")
    told = {"id": "tester/toy-spikes", "sha": "0" * 40, "private": True, "siblings": []}
    published.heal()
    # What is asked before the commit: which old files are to go.
    published.spoil(Fault("answer", body=json.dumps(told).encode()), number=7)
    with pytest.raises(HubError, match="shows data/train-00000-of-00001.parquet not as it was"):
        push_hub(tmp_path / "spikes.zarr", repo="toy-spikes")
    assert published.spoilt == ["GET /api/datasets/tester/toy-spikes"]
    push_hub(tmp_path / "spikes.zarr", repo="toy-spikes")
    assert list(open_store(pull("tester/toy-spikes", tmp_path / "b.zarr")).clips) == ["clip_0"]


def test_nothing_is_written_outside_the_folder_beside_the_output(hub, tmp_path, monkeypatch):
    store = make_store(tmp_path / "spikes.zarr")
    report = push_hub(store)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert check_regenerated(report.repo, store) == ()
    assert_fetched(pull(report.repo, tmp_path / "back.zarr"))


def test_what_a_run_killed_at_its_very_end_left_goes_even_when_refused(hub, tmp_path):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))
    out = pull(report.repo, tmp_path / "back.zarr")
    left = tmp_path / "back.zarr.pull" / report.revision
    (left / "download" / "data").mkdir(parents=True)
    with pytest.raises(StoreError, match="exists already"):
        pull(report.repo, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.zarr", "hub", "spikes.zarr"]

    make_store(left / "store.zarr", count=2)  # a cut run of --overwrite, which may go on
    with pytest.raises(StoreError, match="exists already"):
        pull(report.repo, out)
    assert (left / "store.zarr" / "zarr.json").exists()


def test_a_full_disk_is_told_of_the_disk_not_of_the_hub(hub, tmp_path, monkeypatch):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "back.zarr.pull")

    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", full)
    with pytest.raises(HubError) as error:
        pull(report.repo, tmp_path / "back.zarr")
    told = "back.zarr.pull: No space left on device. Run the same command again to go on"
    assert str(error.value) == told


def test_a_published_file_that_is_gone_is_told(hub, tmp_path):
    report = push_hub(make_store(tmp_path / "spikes.zarr"))
    gone = report.files[0].path
    api().delete_file(gone, report.repo, repo_type="dataset")
    told = f"{gone.rpartition('/')[2]} is gone, 1 of the files that it was published with"
    with pytest.raises(HubError, match=told):
        pull(report.repo, tmp_path / "back.zarr")
    with pytest.raises(HubError, match=told):
        check_regenerated(report.repo, tmp_path / "spikes.zarr")


@pytest.mark.parametrize("what", ["bits", "preview", "classes"])
def test_a_damaged_file_is_not_published_as_it_is(hub, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "spikes.zarr")
    pack_clips(to="parquet")
    path = sorted(tmp_path.glob("packed.parquet/data/train*"))[0]
    row = pq.read_table(path).slice(0, 1).to_pylist()[0]
    if what == "classes":
        table = pq.read_table(path)
        told = table.schema.metadata[b"huggingface"].replace(b"walk", b"wolk")
        changed = {**table.schema.metadata, b"huggingface": told}
        pq.write_table(table.replace_schema_metadata(changed), path)
    else:
        data = bytearray(path.read_bytes())
        inside = row["bits"][0] if what == "bits" else row["preview"]["bytes"]
        data[data.index(inside) + len(inside) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(StoreError, match=f"{path.name}"):
        push_hub(tmp_path / "packed.parquet")
