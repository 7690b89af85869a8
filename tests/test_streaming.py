"""Windows as a stream: each once, none again too soon, and the same after an interruption."""

import itertools
import json
import pickle
import shutil
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from spikedata.bits import pack_ticks, unpack_planes
from spikedata.clip import Clip
from spikedata.clips import ChangedClips, JoinedClips, create_store, open_store
from spikedata.errors import StoreError
from spikedata.loader import SpikeClips, collate
from spikedata.pack import pack_clips
from spikedata.streaming import InterleavedWindows, SpikeWindows
from spikedata.streaming.epochs import Epochs
from spikedata.streaming.order import Turns, through_buffer

# StatefulDataLoader of torchdata calls it, and torch 2.13 tells of that.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

LENGTHS = [100, 61, 90, 75, 40, 33, 64, 80, 57, 48, 99]
TICKS = 24


def make_store(path, lengths=LENGTHS, names=("a", "b"), prefix="c"):
    with create_store(path, recipe={}, class_names=names) as writer:
        for i, ticks in enumerate(lengths):
            label = names[i % len(names)]
            clip = Clip(
                id=f"{prefix}{i:02d}",
                label=label,
                split=["train", "test"][i % 3 == 2],
                captions=(f"one {label}", f"two {label}", f"three {label}"),
            )
            with writer.clip(clip, height_px=4, width_px=8, tick_rate_hz=250) as out:
                out.append(pack_ticks(np.random.default_rng(i).random((ticks, 4, 8)) < 0.4))
                out.finish(ticks=ticks, attributes={})
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("streaming") / "s.zarr")


@pytest.fixture(scope="module")
def parquet(store):
    out = store.with_name("s.parquet")
    pack_clips([store], to="parquet", out=out)
    return out


@pytest.fixture(scope="module")
def other(store):
    return make_store(store.with_name("o.zarr"), [70, 50, 60, 70, 45], ("b", "z"), prefix="o")


def windows_of(source, **options):
    return SpikeWindows(source, **{"window_ticks": TICKS, "shuffle": 4, **options})


def told(item):
    """All that an item is, to be compared."""
    bits = np.asarray(item["packed_sghw"]).tobytes()
    return item["id"], tuple(item["starts"]), item["label"], item["caption"], bits


def places(items):
    return [(item["id"], *item["starts"]) for item in items]


def batches_told(loader, most=None):
    """The batches of an epoch, as plain values."""
    return [
        (batch["ids"], batch["captions"], batch["packed_bsghw"].numpy().tobytes())
        for batch in itertools.islice(loader, most)
    ]


# --- what comes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zarr", "parquet", "opened", "datasets"])
def test_items_are_windows_of_the_clips_whatever_the_source(store, parquet, kind, tmp_path):
    source = {"zarr": store, "parquet": str(parquet), "opened": open_store(store)}.get(kind)
    if source is None:
        import datasets

        source = datasets.load_dataset(str(parquet), cache_dir=str(tmp_path))
    windows = windows_of(source, segments=2, windows_per_clip=3, split="train")
    items = list(windows)
    assert len(items) == len(windows) == 3 * len([i for i in range(11) if i % 3 != 2])
    assert windows.class_names == ("a", "b")
    whole = open_store(store)
    for item in items:
        assert item["packed_sghw"].shape == (2, 2, 4, 8)
        planes = unpack_planes(item["packed_sghw"], 12).numpy()
        for plane, start in zip(planes, item["starts"], strict=True):
            assert np.array_equal(plane, whole.read_planes(item["id"], start, 12))
        clip = whole.clips[item["id"]].clip
        assert (item["ticks"], "ab"[item["label"]]) == (12, clip.label)
        assert item["caption"] in clip.captions
    batch = collate(items[:4])
    assert batch["packed_bsghw"].shape == (4, 2, 2, 4, 8)
    assert batch["ids"] == [item["id"] for item in items[:4]]


def test_options_mean_what_they_mean_for_spike_clips(store):
    same = {"window_ticks": 30, "segments": 3, "sampling": "center", "size": (6, 6)}
    items = list(SpikeWindows(store, shuffle=0, classes=["b"], **same))
    clips = SpikeClips(store, classes=["b"], **same)
    assert [told(item) for item in items] == [told(clips[i]) for i in range(len(clips))]
    assert len(items) == 5


def test_without_a_buffer_clips_come_in_order_and_with_one_in_another_each_epoch(store):
    in_order = [f"c{i:02d}" for i in range(11)]
    windows = windows_of(store, shuffle=0)
    assert [item["id"] for item in windows] == in_order
    orders = {tuple(item["id"] for item in windows_of(store, seed=seed)) for seed in range(5)}
    windows = windows_of(store)
    orders |= {tuple(item["id"] for item in windows) for _ in range(5)}
    assert len(orders) == 9  # seed 0 and epoch 0 are in both
    assert all(sorted(order) == in_order and list(order) != in_order for order in orders)


def test_row_groups_stay_together_and_come_in_random_order(parquet):
    groups = [tuple(own) for own in SpikeClips(parquet).opened.neighbours()]
    assert sorted(map(len, groups)) == [3, 4, 4]  # of 3 clips for testing and 8 for training
    windows = windows_of(parquet, shuffle=1)  # one window waits: it leaves as it came
    orders = set()
    for _ in range(8):
        ids = iter([item["id"] for item in windows])
        order = []
        while (first := next(ids, None)) is not None:
            own = next(own for own in groups if first in own)
            assert (first, *itertools.islice(ids, len(own) - 1)) == own
            order.append(own)
        assert sorted(order) == sorted(groups)
        orders.add(tuple(order))
    assert len(orders) > 1


def test_sets_that_are_joined_or_changed_keep_what_lies_together(store, parquet, tmp_path):
    other = make_store(tmp_path / "o.zarr", [50, 50], prefix="d")
    opened = SpikeClips(parquet).opened
    joined = JoinedClips([opened, open_store(other)])
    assert list(joined.neighbours()) == [*opened.neighbours(), ("d00",), ("d01",)]
    fewer = {clip_id: opened.clips[clip_id] for clip_id in ("c00", "c01", "c02")}
    changed = ChangedClips(opened, clips=fewer, recipe={})
    assert sorted(own for own in changed.neighbours() if own) == [("c00", "c01"), ("c02",)]
    assert sorted(item["id"] for item in windows_of(changed)) == ["c00", "c01", "c02"]


@given(count=st.integers(0, 60), room=st.integers(0, 20), seed=st.integers(0, 5))
def test_every_window_leaves_the_buffer_once_and_not_before_it_can(count, room, seed):
    order = list(through_buffer(count, room, np.random.default_rng(seed)))
    assert sorted(order) == list(range(count))
    for left, number in enumerate(order):
        assert number < left + max(room, 1)


class Counting(ChangedClips):
    """Counts the windows that are read."""

    def __init__(self, source):
        super().__init__(source, clips=source.clips, recipe={})
        self.read_windows = 0

    def windows(self, clip_id, starts, ticks):
        self.read_windows += len(starts)
        return super().windows(clip_id, starts, ticks)


@pytest.mark.parametrize(("shuffle", "prefetch", "each"), [(0, 0, 1), (3, 0, 1), (3, 2, 2)])
def test_memory_is_bounded_by_buffer_and_prefetch(store, shuffle, prefetch, each):
    source = Counting(open_store(store))
    windows = windows_of(source, shuffle=shuffle, prefetch=prefetch, windows_per_clip=each)
    most = max(shuffle, 1) + each - 1 + (prefetch + 1) * each
    for given_before, _ in enumerate(windows):
        assert source.read_windows - given_before <= most
    assert source.read_windows == len(windows) == 11 * each


# --- no window again ----------------------------------------------------------------------------


@given(count=st.integers(1, 400), begin=st.integers(0, 10**9), seed=st.integers(0, 99))
def test_any_turns_in_a_row_take_all_places_once(count, begin, seed):
    row = [Turns(seed, "clip", begin + n).integers(count) for n in range(count)]
    assert sorted(row) == list(range(count))


@given(count=st.integers(50, 10**7), begin=st.integers(0, 10**6))
def test_a_place_is_far_from_the_one_before(count, begin):
    one, other = (Turns(3, "clip", begin + n).integers(count) for n in (0, 1))
    apart = abs(one - other)
    assert min(apart, count - apart) > count / 4


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(10, 30), min_size=1, max_size=4),
    segments=st.sampled_from([1, 2]),
    each=st.integers(1, 3),
    seed=st.integers(0, 3),
)
def test_no_start_comes_again_before_all_have_come(tmp_path_factory, lengths, segments, each, seed):
    path = make_store(tmp_path_factory.mktemp("turns") / "s.zarr", lengths)
    windows = SpikeWindows(
        path, window_ticks=4 * segments, segments=segments, windows_per_clip=each, seed=seed
    )
    starts = {}
    for _ in range(-(-60 // each)):
        own = {}
        for item in windows:
            own.setdefault(item["id"], []).append(item["starts"])
        for clip_id, found in own.items():
            starts.setdefault(clip_id, []).append(found)
    for i, ticks in enumerate(lengths):
        for s in range(segments):
            begin, end = ticks * s // segments, ticks * (s + 1) // segments
            every = set(range(begin, end - 3))
            epochs = [[one[s] for one in epoch] for epoch in starts[f"c{i:02d}"]]
            # Within an epoch windows leave the buffer in any order: count by whole epochs.
            assert all(len(set(own)) == min(each, len(every)) for own in epochs)
            whole = len(every) // each
            for first in range(len(epochs) - whole + 1):
                row = [start for own in epochs[first : first + whole] for start in own]
                assert len(set(row)) == len(row)
            assert set(itertools.chain(*epochs)) == every


def test_captions_come_in_turn(store):
    windows = windows_of(store, ids=["c00"])
    assert len({item["caption"] for _ in range(3) for item in windows}) == 3


def test_windows_of_a_clip_do_not_depend_on_what_else_is_read(store):
    few = {told(item) for item in windows_of(store, ids=["c05", "c03"], seed=4)}
    assert len(few) == 2
    assert few < {told(item) for item in windows_of(store, seed=4, shuffle=0)}


# --- epochs -------------------------------------------------------------------------------------


def epochs_of(store, count, **options):
    """Every item's place, epoch by epoch, as ``set_epoch`` gives them in this process."""
    windows = windows_of(store, **options)
    found = []
    for epoch in range(count):
        windows.set_epoch(epoch)
        found.append(places(windows))
    return found


def test_iterating_again_is_the_next_epoch(store):
    want = epochs_of(store, 4)
    windows = windows_of(store)
    assert windows.epoch == 0
    assert [places(windows) for _ in range(2)] == want[:2]
    assert windows.epoch == 1
    assert places(itertools.islice(windows, 3)) == want[2][:3]  # left early
    assert places(windows) == want[3]
    windows.set_epoch(1)
    assert windows.epoch == 1
    assert places(windows) == want[1]
    copied = pickle.loads(pickle.dumps(windows))
    assert places(copied) == places(windows) == want[2]
    with pytest.raises(ValueError, match="epoch must be 0 or more"):
        windows.set_epoch(-1)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(("start", "persistent"), [("fork", 0), ("fork", 1), ("spawn", 1)])
def test_workers_share_the_clips_and_go_on_to_the_next_epoch(store, start, persistent):
    want = [sorted(epoch) for epoch in epochs_of(store, 5)]
    windows = windows_of(store)
    loader = DataLoader(
        windows,
        batch_size=None,
        num_workers=2,
        multiprocessing_context=start,
        persistent_workers=bool(persistent),
    )
    for epoch in range(3):
        torch.manual_seed(0)  # as many a training does: two epochs look alike to the workers
        assert sorted(places(loader)) == want[epoch]
    if start == "fork":
        next(iter(loader))  # the fourth, left before all workers have begun
        assert sorted(places(loader)) == want[4]
    windows.set_epoch(1)
    assert sorted(places(loader)) == want[1]
    assert sorted(places(loader)) == want[2]


@given(
    runs=st.lists(
        st.tuples(
            st.permutations(range(3)),
            st.lists(st.booleans(), min_size=3, max_size=3),
            st.sampled_from(["set", "left early", "same seed", ""]),
        ),
        max_size=8,
    )
)
def test_workers_agree_on_the_epoch_in_whatever_order_they_begin(runs):
    shared = Epochs()
    next_epoch, seed, was_left = 0, 0, False
    for order, sees_nothing_of_others, what in runs:
        if what == "set":
            next_epoch = 5 * next_epoch % 7
            shared.set(next_epoch)
        if what != "same seed" or was_left:
            seed += 10
        was_left = what == "left early"
        at_first = shared._told()
        for worker in order[:1] if was_left else order:
            own = Epochs()
            own._slots = shared._slots
            if sees_nothing_of_others[worker]:
                own._told = lambda seen=at_first: seen
            about = SimpleNamespace(id=worker, seed=seed + worker)
            assert own.begin_in_worker(about, None) == next_epoch
        next_epoch += 1
        assert shared.coming() == next_epoch


# --- ranks --------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    world_size=st.integers(1, 13),
    even=st.booleans(),
    shuffle=st.sampled_from([0, 5]),
    each=st.integers(1, 2),
)
def test_ranks_share_the_clips(store, world_size, even, shuffle, each):
    def of_rank(rank):
        return windows_of(
            store,
            rank=rank,
            world_size=world_size,
            even=even,
            shuffle=shuffle,
            windows_per_clip=each,
        )

    if even and world_size > 11:
        with pytest.raises(StoreError, match=r"11 clips cannot be shared evenly by 1[23] ranks"):
            len(of_rank(0))
        with pytest.raises(StoreError, match="cannot be shared evenly"):
            iter(of_rank(0))
        return
    parts = [places(of_rank(rank)) for rank in range(world_size)]
    assert [len(part) for part in parts] == [len(of_rank(rank)) for rank in range(world_size)]
    together = list(itertools.chain(*parts))
    assert len(set(together)) == len(together)
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= (0 if even else each)
    left_out = 11 % world_size if even else 0
    assert len(together) == (11 - left_out) * each
    assert set(together) <= set(epochs_of(store, 1, shuffle=shuffle, windows_per_clip=each)[0])


def test_other_clips_are_left_out_in_another_epoch(store):
    windows = [windows_of(store, rank=rank, world_size=3, even=True) for rank in range(3)]
    seen = [{item["id"] for part in windows for item in part} for _ in range(6)]
    assert {len(ids) for ids in seen} == {9}
    assert len(set.union(*seen)) == 11


def test_the_launcher_s_variables_tell_the_rank(store, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert places(windows_of(store)) == places(windows_of(store, rank=1, world_size=2))
    assert len(windows_of(store, rank=0, world_size=1)) == 11
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="rank must be below world_size, got 2 and 2"):
        list(windows_of(store))
    monkeypatch.delenv("RANK")
    with pytest.raises(ValueError, match="RANK and WORLD_SIZE must be two whole numbers"):
        list(windows_of(store))


def train_rank(rank, path, folder):
    """One process of a synchronised training; it would wait for ever if ranks were uneven."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    windows = windows_of(path, even=True)
    loader = DataLoader(
        windows,
        batch_size=2,
        collate_fn=collate,
        num_workers=rank,
        multiprocessing_context="spawn" if rank else None,
    )
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
    seen = []
    for batch in loader:
        model(batch["label_b"].float().mean().view(1, 1)).sum().backward()
        seen += batch["ids"]
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


def test_two_processes_train_on_equally_many_windows(store, tmp_path):
    # One reads in its own process, the other in a worker that knows no process group.
    path = make_store(tmp_path / "n.zarr", [40] * 9)
    torch.multiprocessing.spawn(train_rank, (path, tmp_path), nprocs=2)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (len(one), len(other)) == (4, 4)
    assert len({*one, *other}) == 8


# --- reading ahead ------------------------------------------------------------------------------


def damage(path, clip_id):
    (shard,) = (path / "clips" / clip_id).glob("c.*")
    data = bytearray(shard.read_bytes())
    data[5] ^= 255
    shard.write_bytes(data)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_damaged_clip_is_told_when_its_turn_comes(store, tmp_path, prefetch):
    path = shutil.copytree(store, tmp_path / "d.zarr")
    damage(path, "c04")
    before = threading.active_count()
    seen = []
    windows = windows_of(path, shuffle=0, prefetch=prefetch)
    with pytest.raises(StoreError, match="clip c04: .*damaged"):
        seen += (item["id"] for item in windows)
    reading = iter(windows_of(path, shuffle=0, prefetch=prefetch))
    assert [next(reading)["id"] for _ in range(4)] == ["c00", "c01", "c02", "c03"]
    with pytest.raises(StoreError, match="clip c04"):
        next(reading)
    assert threading.active_count() == before


def test_a_stream_that_is_left_early_leaves_no_thread(store):
    before = threading.active_count()
    reading = iter(windows_of(store, prefetch=3))
    next(reading)
    assert threading.active_count() > before
    reading.close()
    assert threading.active_count() == before
    for _ in windows_of(store, prefetch=3):
        break
    assert threading.active_count() == before


# --- going on -----------------------------------------------------------------------------------


def through_json(state):
    return json.loads(json.dumps(state))


@settings(max_examples=20)
@given(
    at=st.integers(0, 22),
    shuffle=st.sampled_from([0, 1, 5, 99]),
    prefetch=st.sampled_from([0, 2]),
    each=st.integers(1, 2),
    first_epochs=st.integers(0, 2),
)
def test_what_comes_after_resuming_is_what_would_have_come(
    parquet, at, shuffle, prefetch, each, first_epochs
):
    options = {"shuffle": shuffle, "prefetch": prefetch, "windows_per_clip": each}
    windows = windows_of(parquet, **options)
    windows.set_epoch(first_epochs)
    going = iter(windows)
    for _ in zip(range(at), going):  # noqa: B905  the epoch may be over before
        pass
    state = through_json(windows.state_dict())
    want = [*map(told, going), *map(told, windows)]
    other = windows_of(parquet, **options)
    other.load_state_dict(state)
    assert other.state_dict() == state
    got = list(map(told, other))
    if not state["ended"]:  # else the first of these is the next epoch already
        got += map(told, other)
    assert got == want


def test_a_state_is_small_and_asks_for_nothing_to_be_read(store, tmp_path):
    source = Counting(open_store(store))
    windows = windows_of(source)
    list(itertools.islice(windows, 5))
    state = windows.state_dict()
    assert len(json.dumps(state)) < 500
    assert (state["epoch"], state["position"], state["ended"]) == (0, 5, False)
    other = Counting(open_store(store))
    windows = windows_of(other)
    windows.load_state_dict(state)
    assert other.read_windows == 0
    list(windows)
    assert other.read_windows == 6  # what was given before is not read again


def test_set_epoch_keeps_the_state_of_that_epoch_alone(store):
    windows = windows_of(store)
    want = places(windows)
    windows.set_epoch(0)
    list(itertools.islice(windows, 4))
    state = windows.state_dict()
    resumed = windows_of(store)
    resumed.load_state_dict(state)
    resumed.set_epoch(0)
    assert places(resumed) == want[4:]
    resumed.load_state_dict(state)
    resumed.set_epoch(3)
    assert places(resumed) == epochs_of(store, 4)[3]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mixed", [False, True])
def test_stateful_data_loader_goes_on_where_it_was(store, other, workers, mixed):
    def make(start="fork" if workers else None):
        own = windows_of(store, windows_per_clip=2)
        source = InterleavedWindows([own, windows_of(other)], until="all") if mixed else own
        return StatefulDataLoader(
            source,
            batch_size=3,
            collate_fn=collate,
            num_workers=workers,
            multiprocessing_context=start,
        )

    whole = make()
    want = [batches_told(whole) for _ in range(2)]
    for stop in (0, 3) if workers else (0, 1, 3, len(want[0])):
        first = make()
        assert batches_told(first, stop) == want[0][:stop]
        state = pickle.loads(pickle.dumps(first.state_dict()))
        del first
        resumed = make()
        resumed.load_state_dict(state)
        assert batches_told(resumed) == want[0][stop:]
        assert batches_told(resumed) == want[1]
    if workers and mixed:
        first = make("spawn")
        assert batches_told(first, 3) == want[0][:3]
        resumed = make("spawn")
        resumed.load_state_dict(first.state_dict())
        del first
        assert batches_told(resumed) == want[0][3:]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_of_a_whole_epoch_is_followed_by_the_next(store, workers):
    def make():
        return StatefulDataLoader(
            windows_of(store), batch_size=3, collate_fn=collate, num_workers=workers
        )

    whole = make()
    want = [batches_told(whole) for _ in range(3)]
    first = make()
    assert batches_told(first) == want[0]
    resumed = make()
    resumed.load_state_dict(first.state_dict())
    assert [batches_told(resumed) for _ in range(2)] == want[1:]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_place_that_only_workers_know_is_not_guessed(store):
    windows = windows_of(store)
    loader = DataLoader(windows, batch_size=None, num_workers=1)
    list(loader)
    with pytest.raises(ValueError, match=r"read by DataLoader's workers.*StatefulDataLoader"):
        windows.state_dict()
    with pytest.raises(ValueError, match="read by DataLoader's workers"):
        InterleavedWindows([windows]).state_dict()
    next(iter(windows))
    assert windows.state_dict()["epoch"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, r"saved with seed 0, and this has 5\. Give the same settings"),
        ({"shuffle": 9}, "saved with shuffle 4, and this has 9"),
        ({"window_ticks": 16}, "saved with window_ticks 24, and this has 16"),
        ({"size": (3, 4)}, r"saved with size None, and this has \[3, 4\]"),
        ({"classes": ["a"]}, "of other clips than these"),
        ({"ids": ["c01", "c00"]}, "of other clips than these"),
        (
            {"rank": 1, "world_size": 2},
            "of worker 0 of 1 in rank 0 of 1, and this is worker 0 of 1 in rank 1 of 2. Resume wi",
        ),
    ],
)
def test_a_state_of_something_else_is_refused(store, change, message):
    state = windows_of(store).state_dict()
    with pytest.raises(StoreError, match=message) as caught:
        windows_of(store, **change).load_state_dict(state)
    assert "\n" not in str(caught.value)


def test_the_state_of_another_format_of_the_same_clips_is_refused(store, parquet):
    with pytest.raises(StoreError, match="of other clips than these"):
        windows_of(parquet).load_state_dict(windows_of(store).state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": None}, "the state's 'epoch' is None, expected int"),
        ({"position": True}, "'position' is True, expected int"),
        ({"position": 12}, "at window 12 of an epoch of 11"),
        ({"position": -1}, "damaged: epoch 0, position -1"),
        ({"epoch": 1 << 40}, "damaged: epoch 1099511627776"),
        ({"shard": []}, r"worker \? of \?"),
        ({"settings": {}}, "of other clips"),
        ({"settings": "x"}, "'settings' is 'x', expected dict"),
    ],
)
def test_a_malformed_state_is_refused(store, change, message):
    windows = windows_of(store)
    state = windows.state_dict()
    with pytest.raises(StoreError, match=message):
        windows.load_state_dict(state | change)
    with pytest.raises(StoreError, match="a state is a dict of epoch, position"):
        windows.load_state_dict([])
    assert places(windows) == epochs_of(store, 1)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows_per_clip": 0}, "windows_per_clip must be at least 1"),
        ({"shuffle": -1}, "shuffle and prefetch at least 0"),
        ({"prefetch": -1}, "shuffle and prefetch at least 0"),
        ({"windows_per_clip": 2, "sampling": "center"}, "'center' gives one window a clip"),
        ({"rank": 1}, "rank must be below world_size, got 1 and None"),
        ({"rank": -1, "world_size": 2}, "rank must be below world_size, got -1 and 2"),
    ],
)
def test_wrong_options_are_told(store, options, message):
    with pytest.raises(ValueError, match=message):
        windows_of(store, **options)


# --- several sources ----------------------------------------------------------------------------


def mixed_of(store, other, **options):
    sources = [windows_of(store, windows_per_clip=3), windows_of(other, windows_per_clip=2)]
    return InterleavedWindows(sources, **options)


def test_sources_are_drawn_by_weight_and_labels_are_numbered_together(store, other):
    counts = Counter()
    mixed = InterleavedWindows(
        [windows_of(store, prefetch=0), windows_of(other, prefetch=0)], weights=[3, 1], until="all"
    )
    assert mixed.class_names == ("a", "b", "z")
    names = {f"c{i:02d}": "ab"[i % 2] for i in range(11)} | {
        f"o{i:02d}": "bz"[i % 2] for i in range(5)
    }
    for _ in range(40):
        for item in mixed:
            counts[item["id"][0]] += 1
            assert mixed.class_names[item["label"]] == names[item["id"]]
    # 900 draws and more of chance 3/4: five standard deviations are 0.07.
    assert counts.total() > 900
    assert abs(counts["c"] / counts.total() - 0.75) < 0.072


def test_the_first_end_or_the_last_is_the_end(store, other):
    lengths = 33, 10
    mixed = mixed_of(store, other, weights=[1, 1])
    for _ in range(5):
        counts = Counter(item["id"][0] for item in mixed)
        assert counts["o"] == lengths[1]
        assert counts["c"] < lengths[0]
    mixed = mixed_of(store, other, weights=[1, 1], until="all")
    seen = [places(mixed) for _ in range(2)]
    for epoch in seen:
        assert sum(place[0][0] == "c" for place in epoch) == lengths[0]
        assert sum(place[0][0] == "o" for place in epoch) > lengths[1]
    every = [place for epoch in seen for place in epoch]
    assert len(set(every)) == len(every)  # a source that begins anew gives other windows


def test_by_default_sources_are_drawn_by_their_size(store, other):
    assert mixed_of(store, other).weights == (33, 10)


@settings(max_examples=20)
@given(
    at=st.integers(0, 80),
    until=st.sampled_from(["first", "all"]),
    begun=st.integers(0, 1),
    seed=st.integers(0, 2),
)
def test_interleaved_windows_go_on_where_they_were(store, other, at, until, begun, seed):
    mixed = mixed_of(store, other, until=until, seed=seed, weights=[2, 1])
    for _ in range(begun):
        list(mixed)
    going = iter(mixed)
    seen = sum(1 for _ in itertools.islice(going, at))
    state = through_json(mixed.state_dict())
    want = [*map(told, going), *map(told, mixed)]
    resumed = mixed_of(store, other, until=until, seed=seed, weights=[2, 1])
    resumed.load_state_dict(state)
    got = list(map(told, resumed))
    if not state["ended"]:
        got += map(told, resumed)
    assert got == want
    assert state["ended"] == (seen < at)


def test_set_epoch_reaches_every_source(store, other):
    mixed = mixed_of(store, other)
    first, second = places(mixed), places(mixed)
    mixed.set_epoch(0)
    assert places(mixed) == first
    assert places(mixed) == second != first


def test_a_wrong_mixture_is_told(store, other):
    windows = windows_of(store)
    state = mixed_of(store, other).state_dict()
    for message, sources, options in [
        ("one or more sources, each of them once, got 0", [], {}),
        ("each of them once, got 2", [windows, windows], {}),
        ("a positive weight for each of 1 sources", [windows], {"weights": [1, 2]}),
        ("a positive weight", [windows], {"weights": [0]}),
        ("until must be first or all, got 'last'", [windows], {"until": "last"}),
        (
            "must be alike, got 1 x 16 ticks, 1 x 24",
            [windows, windows_of(other, window_ticks=16)],
            {},
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            InterleavedWindows(sources, **options)
    for message, own, changed in [
        ("the state is of 2 sources, not of 1", InterleavedWindows([windows]), state),
        ("saved with seed 0, and this has 1", mixed_of(store, other, seed=1), state),
        ("saved with until 'first', and", mixed_of(store, other, until="all"), state),
        ("a count is negative", mixed_of(store, other), state | {"drawn": -1}),
        ("'over' is None, expected list", mixed_of(store, other), state | {"over": None}),
        ("a state is a dict of", mixed_of(store, other), state | {"sources": [1, 2]}),
        ("of other clips", mixed_of(other, store, weights=[33, 10]), state),
    ]:
        with pytest.raises(StoreError, match=message):
            own.load_state_dict(changed)
