"""Publishing and fetching, against an HTTP server on loopback that speaks the Hub's protocol."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub_server import TOKEN, HubServer

from spikedata.catalog import Clip
from spikedata.errors import HubError, StoreError
from spikedata.hub import check_regenerated, fetch, publish
from spikedata.hub_card import DECODER
from spikedata.pack import pack_clips
from spikedata.store import StoreConfig, create_store, open_store
from spikedata.stream import pack_ticks

# The client itself hands its HTTP library an upload in a way that the library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def planes_of(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return (rng.random((270 + 31 * number, 16, 21)) < 0.3).astype(np.uint8)


def make_store(path: Path, count: int = 5, decoder: str = "pyav") -> Path:
    with create_store(
        path, recipe={"sensor": {"threshold": 2.0}}, class_names=["walk", "run"], name="toy"
    ) as writer:
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
                out.append(pack_ticks(planes_of(i)))
                attributes = {"sensor": {"threshold": 2.0}, "video": {"decoder": decoder}}
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
    monkeypatch.setattr("spikedata.parquet.SHARD_PACKED_BYTES", 15_000)


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
    report = publish(make_store(tmp_path / "spikes.zarr"), workers=2)
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
    report = publish(store)
    assert [file.path for file in report.files] == [
        "data/test-00000-of-00001.parquet",
        *[f"data/train-0000{i}-of-00004.parquet" for i in range(4)],
        "README.md",
    ]
    out = fetch(report.repo, tmp_path / "back.zarr", revision=report.revision, workers=2)
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
        publish(store)
    assert "answered 403: Storage quota exceeded. What was sent is kept" in str(error.value)
    first = hub.uploads()
    assert len(first) == 3  # the third was refused
    assert hub.repositories.files("tester/toy-spikes", "main")[1] == {}

    hub.lfs_uploads_left = None
    hub.requests.clear()
    publish(store)

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
    one = publish(make_store(tmp_path / "spikes.zarr"))
    hub.requests.clear()
    again = publish(tmp_path / "spikes.zarr")
    assert hub.uploads() == []
    assert again.card == one.card
    fewer = publish(make_store(tmp_path / "fewer.zarr", count=1), repo="toy-spikes")
    assert sorted(hub.repositories.files(fewer.repo, "main")[1]) == [
        "README.md",
        "data/test-00000-of-00001.parquet",
    ]
    assert len(open_store(fetch(one.repo, tmp_path / "now.zarr")).clips) == 1
    old = fetch(one.repo, tmp_path / "then.zarr", revision=one.revision)
    assert len(open_store(old).clips) == 5


def test_a_packed_parquet_folder_is_published_as_it_is(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "spikes.zarr")
    packed = pack_clips(to="parquet").out
    report = publish(packed, repo="tester/mine", private=False)
    files = hub.repositories.files("tester/mine", "main")[1]
    for name in ("data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"):
        sent = hub.repositories.blob(files[name]["oid"]).read_bytes()
        assert sent == (packed / name).read_bytes()
    assert not hub.repositories.load(report.repo)["private"]
    assert not report.private


def test_it_is_private_unless_asked_otherwise(hub, tmp_path):
    report = publish(make_store(tmp_path / "spikes.zarr"))
    assert report.private
    assert hub.repositories.load(report.repo)["private"]


def test_the_card_states_what_the_hub_needs(hub, tmp_path):
    report = publish(make_store(tmp_path / "spikes.zarr"))
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
    report = publish(store, dry_run=True)
    assert (report.repo, report.revision) == ("<your account>/toy-spikes", None)
    assert [file.path for file in report.files][-1] == "README.md"
    assert all(file.size_bytes > 0 for file in report.files)
    assert "## How it was made" in report.card
    assert sorted(p.name for p in tmp_path.iterdir()) == ["spikes.zarr"]


def test_recipes_alone_hold_no_bits_and_tell_what_differs(hub, tmp_path):
    store = make_store(tmp_path / "spikes.zarr")
    report = publish(store, repo="recipes", recipe_only=True)
    assert "so this holds no bits" in report.card
    assert sum(file.size_bytes for file in report.files) < 60_000
    with pytest.raises(HubError, match="holds recipes only.*pull tester/recipes --check"):
        fetch("tester/recipes", tmp_path / "back.zarr")
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
        publish(make_store(tmp_path / "spikes.zarr"))
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
        publish(store)
    assert str(error.value).endswith("answered 403: *** may not do this")
    assert error.value.__cause__ is None


def test_errors_of_fetching_are_one_line(hub, tmp_path):
    with pytest.raises(HubError, match="tester/none: not on http"):
        fetch("tester/none", tmp_path / "x.zarr")
    with pytest.raises(HubError, match="cannot be used"):
        fetch("no/such/name", tmp_path / "x.zarr")
    hub.repositories.create("tester/empty", private=False)
    with pytest.raises(HubError, match="was not published by spikedata"):
        fetch("tester/empty", tmp_path / "x.zarr")
    (tmp_path / "x.zarr").mkdir()
    with pytest.raises(StoreError, match="exists already"):
        fetch("tester/empty", tmp_path / "x.zarr")


def test_damaged_bits_are_not_published_and_not_fetched(hub, tmp_path, monkeypatch):
    store = make_store(tmp_path / "spikes.zarr", count=2)
    good = publish(store)
    files = hub.repositories.files(good.repo, "main")[1]
    blob = hub.repositories.blob(files["data/train-00000-of-00001.parquet"]["oid"])
    data = bytearray(blob.read_bytes())
    data[data.rindex(b"\x28\xb5\x2f\xfd") + 200] ^= 0xFF  # inside a zstd frame
    blob.write_bytes(data)
    with pytest.raises(StoreError, match="clip_1"):
        fetch(good.repo, tmp_path / "back.zarr")
    assert not (tmp_path / "back.zarr").exists()

    shard = store / "clips" / "clip_1" / "c.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(StoreError, match="clip_1"):
        publish(store, repo="other")


def test_a_fetch_that_was_cut_goes_on(hub, tmp_path, small_shards, monkeypatch):
    report = publish(make_store(tmp_path / "spikes.zarr"))
    files = hub.repositories.files(report.repo, "main")[1]
    blob = hub.repositories.blob(files["data/train-00002-of-00004.parquet"]["oid"])
    aside = blob.rename(blob.with_name("aside"))
    blob.write_bytes(b"not parquet")
    with pytest.raises((HubError, StoreError)):
        fetch(report.repo, tmp_path / "back.zarr")
    blob.unlink()
    aside.rename(blob)
    hub.requests.clear()
    store = fetch(report.repo, tmp_path / "back.zarr")
    assert len(open_store(store).clips) == 5
    got = {line.split("/")[-1] for line in hub.requests if line.startswith("GET /datasets/")}
    assert "train-00003-of-00004.parquet" in got
    assert "train-00000-of-00004.parquet" not in got


def test_nothing_to_publish_says_so(tmp_path):
    with pytest.raises(HubError, match="no such store. Run `spikedata pack --to zarr`"):
        publish(tmp_path / "none.zarr", dry_run=True)
    with create_store(
        tmp_path / "empty.zarr", recipe={}, class_names=[], options=StoreConfig()
    ) as writer:
        assert not writer.has("x")
    with pytest.raises(HubError, match="holds no clips"):
        publish(tmp_path / "empty.zarr", dry_run=True)
