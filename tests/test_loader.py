"""Windows of clips: the right ticks, the same for any number of workers."""

import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from spikedata.bits import pack_ticks, unpack_planes
from spikedata.clip import Clip
from spikedata.clips import ChangedClips, create_store, open_store
from spikedata.errors import SpikeDataError, StoreError
from spikedata.loader import SpikeClips, collate, segment_starts
from spikedata.pack import pack_clips
from spikedata.stream import SpikeStream

CLIPS = [
    ("a_g01", "a", "train", "g01", 100),
    ("a_g02", "a", "test", "g02", 61),
    ("b_g01", "b", "train", "g01", 90),
    ("b_g02", "b", "test", "g02", 75),
    ("none", None, "train", None, 40),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("loader") / "s.zarr"
    with create_store(path, recipe={}, class_names=["b", "a", "unused"]) as writer:
        for i, (clip_id, label, split, group, ticks) in enumerate(CLIPS):
            captions = (f"one {label}", f"another {label}") if label else ()
            clip = Clip(id=clip_id, label=label, split=split, group=group, captions=captions)
            with writer.clip(clip, height_px=6, width_px=8, tick_rate_hz=250) as out:
                out.append(pack_ticks(np.random.default_rng(i).random((ticks, 6, 8)) < 0.3))
                out.finish(ticks=ticks, attributes={})
    return open_store(path)


def stretch(store, clip_id, start, ticks):
    whole = store.read(clip_id)
    return SpikeStream(whole.packed_ghw, whole.ticks, 250.0).window(start, ticks).unpack()


def test_items_hold_the_ticks_of_the_clip(store):
    clips = SpikeClips(store, window_ticks=30, segments=3, sampling="center", split="test")
    assert (clips.ids, clips.labels, clips.groups) == (["a_g02", "b_g02"], [1, 0], ["g02", "g02"])
    assert clips.class_names == ("b", "a", "unused")
    item = clips[0]
    assert item["packed_sghw"].shape == (3, 2, 6, 8)
    assert (item["ticks"], item["label"], item["caption"], item["id"]) == (10, 1, "one a", "a_g02")
    planes = unpack_planes(item["packed_sghw"], 10)
    # 61 ticks in three spans: 0..20, 20..40, 40..61; the middle ten of each begin at 5, 25, 45
    for s, start in enumerate([5, 25, 45]):
        assert np.array_equal(planes[s], stretch(store, "a_g02", start, 10))


@pytest.mark.parametrize(
    ("sampling", "segments", "ticks", "want"),
    [
        ("start", 1, 30, [0]),
        ("start", 3, 10, [0, 33, 66]),
        ("center", 1, 30, [35]),
        ("center", 2, 10, [20, 70]),
        ("uniform", 1, 30, [35]),
        ("uniform", 3, 10, [0, 45, 90]),
        ("uniform", 3, 60, [0, 20, 40]),  # too long for three spans: they overlap
        ("start", 3, 60, [0, 33, 40]),
        ("center", 1, 100, [0]),
        ("random", 2, 50, [0, 50]),
        ("uniform", 2, 120, [0, 0]),  # longer than the clip: it is repeated
    ],
)
def test_starts_in_a_clip_of_100_ticks_worked_by_hand(sampling, segments, ticks, want):
    rng = np.random.default_rng(0)
    assert segment_starts(100, segments, ticks, sampling, rng) == want


@given(
    clip_ticks=st.integers(1, 500),
    segments=st.integers(1, 8),
    ticks=st.integers(1, 90),
    sampling=st.sampled_from(["start", "center", "random", "uniform"]),
    seed=st.integers(0, 9),
)
def test_segments_lie_inside_the_clip_in_order(clip_ticks, segments, ticks, sampling, seed):
    rng = np.random.default_rng(seed)
    starts = segment_starts(clip_ticks, segments, ticks, sampling, rng)
    assert len(starts) == segments
    assert starts == sorted(starts)
    assert starts[0] >= 0
    assert starts[-1] <= max(0, clip_ticks - ticks)


def test_random_windows_reach_every_place_of_a_clip():
    rng = np.random.default_rng(0)
    found = {segment_starts(20, 1, 15, "random", rng)[0] for _ in range(200)}
    assert found == set(range(6))


def test_a_clip_shorter_than_the_window_is_repeated(store):
    (item,) = SpikeClips(store, ids=["none"], window_ticks=100)
    planes = unpack_planes(item["packed_sghw"], 100)[0]
    whole = stretch(store, "none", 0, 40)
    assert np.array_equal(planes, np.concatenate([whole, whole, whole[:20]]))
    assert (item["label"], item["caption"]) == (-1, "")


def epoch_of(clips, **options):
    loader = DataLoader(clips, batch_size=2, collate_fn=collate, **options)
    return [(batch["ids"], batch["captions"], batch["packed_bsghw"].numpy()) for batch in loader]


def same(one, other):
    return all(
        a[:2] == b[:2] and np.array_equal(a[2], b[2]) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_change_nothing_and_epochs_do(store, start):
    clips = SpikeClips(store.path, window_ticks=20, segments=2, seed=3)
    first = epoch_of(clips)
    clips.set_epoch(1)
    second = epoch_of(clips)
    clips.set_epoch(0)
    assert not same(first, second)
    loader = DataLoader(
        clips,
        batch_size=2,
        collate_fn=collate,
        num_workers=2,
        multiprocessing_context=start,
        persistent_workers=True,
    )
    for epoch, want in enumerate([first, second]):
        clips.set_epoch(epoch)  # workers live on, and must hear of it
        got = [(b["ids"], b["captions"], b["packed_bsghw"].numpy()) for b in loader]
        assert same(got, want)
    assert same(epoch_of(SpikeClips(store, window_ticks=20, segments=2, seed=3)), first)
    assert not same(epoch_of(SpikeClips(store, window_ticks=20, segments=2, seed=4)), first)


def test_items_do_not_depend_on_the_order_of_reading(store):
    clips = pickle.loads(pickle.dumps(SpikeClips(store, window_ticks=20)))
    forward = [clips[i]["packed_sghw"] for i in range(len(clips))]
    for i in reversed(range(len(clips))):
        assert torch.equal(clips[i]["packed_sghw"], forward[i])


@given(ids=st.permutations([row[0] for row in CLIPS]), count=st.integers(1, 5))
def test_a_clip_has_the_same_windows_in_every_selection(store, ids, count):
    whole = {item["id"]: item for item in SpikeClips(store, window_ticks=20, segments=2, seed=7)}
    for item in SpikeClips(store, window_ticks=20, segments=2, seed=7, ids=ids[:count]):
        assert torch.equal(item["packed_sghw"], whole[item["id"]]["packed_sghw"])
        assert item["caption"] == whole[item["id"]]["caption"]


# --- official splits ----------------------------------------------------------------------------

OFFICIAL = {
    "a": {"1": "test", "2": "train"},
    "b": {"1": "train", "2": "test", "3": "train"},
    "c": {"1": "test"},  # unused in the second and third
    "d": None,
    "e": {"x": "test", "0": "test", "2": "holiday", "3": 4, "\u00b2": "test"},
}


def official_store(path):
    with create_store(path, recipe={}, class_names=["run"]) as writer:
        for clip_id, told in OFFICIAL.items():
            source = {"name": f"{clip_id}.avi"} | (
                {} if told is None else {"official_splits": told}
            )
            clip = Clip(id=clip_id, label="run", split="validation", source=source)
            with writer.clip(clip, height_px=2, width_px=3, tick_rate_hz=250) as out:
                out.append(pack_ticks(np.ones((9, 2, 3), bool)))
                out.finish(ticks=9, attributes={})
    return path


@pytest.mark.parametrize("to", ["zarr", "parquet", "hdf5", "dat"])
def test_official_splits_come_through_every_format(tmp_path, to):
    packed = tmp_path / ("s.h5" if to == "hdf5" else f"s.{to}")
    pack_clips([official_store(tmp_path / "spikes.zarr")], to=to, out=packed)
    assert_official(packed)


def test_official_splits_come_through_rows_of_datasets(tmp_path):
    import datasets

    pack_clips([official_store(tmp_path / "spikes.zarr")], to="parquet", out=tmp_path / "s.parquet")
    loaded = datasets.load_dataset(str(tmp_path / "s.parquet"), cache_dir=str(tmp_path / "cache"))
    assert_official(loaded)
    without = {name: part.remove_columns("provenance") for name, part in loaded.items()}
    assert SpikeClips(datasets.DatasetDict(without)).official_splits == ()


def assert_official(source):
    clips = SpikeClips(source, official_split=1, split="test")
    assert (clips.ids, clips.official_splits) == (["a", "c"], (1, 2, 3))
    assert clips.opened.clips["b"].clip.source["official_splits"] == OFFICIAL["b"]
    ids = {
        (number, split): SpikeClips(source, official_split=number, split=split).ids
        for number in (1, 2, 3)
        for split in ("train", "test", "validation")
    }
    assert {key: found for key, found in ids.items() if found} == {
        (1, "train"): ["b"],
        (1, "test"): ["a", "c"],
        (2, "train"): ["a"],
        (2, "test"): ["b"],
        (3, "train"): ["b"],
    }
    assert SpikeClips(source, split="validation").ids == list(OFFICIAL)
    assert SpikeClips(source, official_split=3).ids == list(OFFICIAL)
    with pytest.raises(
        StoreError, match=r"tell no official split 4 \(only 1, 2, 3\); simulate again"
    ):
        SpikeClips(source, official_split=4)


def test_a_store_without_official_splits_says_so_in_one_line(store):
    assert SpikeClips(store).official_splits == ()
    with pytest.raises(StoreError) as caught:
        SpikeClips(store, official_split=2)
    assert str(caught.value) == (
        f"{store.path}: its clips tell no official split 2 (none at all); simulate again, with the "
        "official lists in or beside the folder of videos"
    )


def test_batches_have_the_models_inputs(store):
    batch = collate([SpikeClips(store, window_ticks=24, sampling="start")[i] for i in range(3)])
    assert batch["packed_bsghw"].shape == (3, 1, 3, 6, 8)
    assert batch["label_b"].tolist() == [1, 1, 0]
    assert batch["label_b"].dtype == torch.int64
    assert (batch["ticks"], batch["ids"]) == (24, ["a_g01", "a_g02", "b_g01"])
    planes = unpack_planes(batch["packed_bsghw"], 24)
    assert planes.shape == (3, 1, 24, 6, 8)
    assert np.array_equal(planes[2, 0], stretch(store, "b_g01", 0, 24))


def test_classes_and_ids_choose_clips_and_number_labels_anew(store):
    clips = SpikeClips(store, classes=["a"], split="train")
    assert (clips.ids, clips.labels, clips.class_names) == (["a_g01"], [0], ("a",))
    assert clips.captions == [("one a", "another a")]
    assert SpikeClips(store, ids=["b_g02", "a_g01"]).ids == ["b_g02", "a_g01"]
    assert len(SpikeClips(store)) == 5


def test_wrong_choices_are_told(store, tmp_path):
    with pytest.raises(StoreError, match=r"no class 'unusd' among 3 classes. Did you mean 'unus"):
        SpikeClips(store, classes=["unusd"])
    with pytest.raises(StoreError, match="no clip 'x' "):
        SpikeClips(store, ids=["x"])
    with pytest.raises(ValueError, match=re.escape("multiple of segments (3), got 250")):
        SpikeClips(store, segments=3)
    with pytest.raises(ValueError, match="sampling must be"):
        SpikeClips(store, sampling="middle")
    with pytest.raises(SpikeDataError, match="no such file or folder"):
        SpikeClips(tmp_path / "none.zarr")
    with pytest.raises(StoreError, match="cannot read clips from a list"):
        SpikeClips([1, 2])


def test_a_store_is_opened_without_a_look_for_parquet_in_it(store, monkeypatch):
    def glob(path, pattern, **_):
        raise AssertionError(f"looked for {pattern} in {path}")

    monkeypatch.setattr("pathlib.Path.glob", glob)
    assert len(SpikeClips(store.path)) == 5


def test_a_label_that_is_no_class_is_told(store):
    wrong = ChangedClips(store, clips=store.clips, recipe={})
    wrong.class_names = ("b",)
    with pytest.raises(StoreError, match="clip a_g01: label 'a' is not among the 1 class names"):
        SpikeClips(wrong)


def test_clips_of_several_sizes_are_not_one_batch():
    items = [
        {
            "packed_sghw": torch.zeros(1, 2, 3, width),
            "ticks": 9,
            "label": 0,
            "caption": "",
            "id": "",
        }
        for width in (4, 5)
    ]
    with pytest.raises(ValueError, match="several sizes \\(3x4, 3x5\\)"):
        collate(items)
    with pytest.raises(ValueError, match="at least one"):
        collate([])


@given(ticks=st.integers(1, 40), seed=st.integers(0, 5))
def test_unpacking_gives_the_planes(ticks, seed):
    planes = np.random.default_rng(seed).random((2, ticks, 3, 4)) < 0.5
    packed = torch.from_numpy(np.stack([pack_ticks(p) for p in planes]))
    assert np.array_equal(unpack_planes(packed, ticks), planes)
    with pytest.raises(ValueError, match="groups"):
        unpack_planes(packed, ticks + 8)


def rows_of(store):
    """Features and rows of the store as ``datasets`` has them."""
    import zstandard
    from datasets import ClassLabel, Features, List, Value

    text, whole = Value("string"), Value("int64")
    features = Features(
        {
            **dict.fromkeys(["id", "split", "group", "bits_sha256"], text),
            **dict.fromkeys(["ticks", "height", "width", "spikes", "chunk_ticks"], whole),
            "tick_rate_hz": Value("float64"),
            "label": ClassLabel(names=list(store.class_names)),
            "captions": List(text),
            "bits": List(Value("binary")),
        }
    )
    rows = []
    for clip_id, stored in store.clips.items():
        clip = stored.clip
        frames = [
            zstandard.compress(np.ascontiguousarray(block.transpose(1, 2, 0)).tobytes())
            for block in store.blocks(clip_id, 64)
        ]
        rows.append(
            {
                "id": clip_id,
                "split": clip.split,
                "group": clip.group,
                "bits_sha256": stored.bits_sha256,
                "ticks": stored.ticks,
                "height": stored.height_px,
                "width": stored.width_px,
                "spikes": stored.spikes,
                "tick_rate_hz": stored.tick_rate_hz,
                "label": clip.label,
                "captions": list(clip.captions),
                "chunk_ticks": 64,
                "bits": frames,
            }
        )
    return features, rows


def test_what_datasets_loads_gives_the_same_items(store):
    from datasets import Dataset, DatasetDict

    features, rows = rows_of(store)
    loaded = DatasetDict(
        {
            split: Dataset.from_list([r for r in rows if r["split"] == split], features=features)
            for split in ("train", "test")
        }
    )
    ours, theirs = (SpikeClips(source, window_ticks=30, seed=1) for source in (store, loaded))
    assert (theirs.ids, theirs.labels, theirs.groups) == (ours.ids, ours.labels, ours.groups)
    assert same(epoch_of(ours), epoch_of(theirs))
    with pytest.raises(StoreError, match="random access"):
        SpikeClips(loaded["train"].to_iterable_dataset())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": -1}, "label -1 is not a place among 3 class names"),
        ({"tick_rate_hz": -1.0}, "'tick_rate_hz' is -1.0, expected"),
        ({"id": "b_g01"}, "clip b_g01 is there twice"),
        ({"height": None}, "'height_px' is None, expected"),
        ({"bits": None}, "0 chunks do not fit its ticks"),
        ({"bits": [None] * 2}, "chunk [01] is damaged"),
        ({"chunk_ticks": 0}, "chunk_ticks is not usable: 0"),
    ],
)
def test_a_malformed_row_of_datasets_is_told(store, change, message):
    from datasets import Dataset

    features, rows = rows_of(store)
    rows[0] |= change
    loaded = Dataset.from_list(rows, features=features)
    with pytest.raises(StoreError, match=message):
        SpikeClips(loaded, window_ticks=8)[0]
    with pytest.raises(StoreError, match="the data set has no columns bits, ticks"):
        SpikeClips(loaded.remove_columns(["bits", "ticks"]))


@given(height=st.integers(1, 12), width=st.integers(1, 16))
def test_a_size_is_made_of_the_middle_or_of_dark_around(store, height, width):
    clips = SpikeClips(store, split="train", size=(height, width), sampling="start", window_ticks=8)
    whole = SpikeClips(store, split="train", sampling="start", window_ticks=8)
    given_hw, has_hw = clips[0]["packed_sghw"][0, 0], whole[0]["packed_sghw"][0, 0]
    assert given_hw.shape == (height, width)
    want_hw = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):  # offset of the middle: half of what is cut, or of what is added
            row = (
                y + (has_hw.shape[0] - height) // 2
                if has_hw.shape[0] >= height
                else (y - (height - has_hw.shape[0]) // 2)
            )
            column = (
                x + (has_hw.shape[1] - width) // 2
                if has_hw.shape[1] >= width
                else (x - (width - has_hw.shape[1]) // 2)
            )
            if 0 <= row < has_hw.shape[0] and 0 <= column < has_hw.shape[1]:
                want_hw[y, x] = has_hw[row, column]
    assert np.array_equal(given_hw, want_hw)
