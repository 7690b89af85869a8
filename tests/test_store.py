"""A store gives back the bits it was given, whole or not at all."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from tools import digest_of_folder

from spikedata.bits import pack_ticks
from spikedata.bits.time_order import (
    count_ones,
    cut_window,
    to_time_first,
    to_time_last,
    unpack_window,
)
from spikedata.clip import Clip
from spikedata.clips import StoreConfig, create_store, open_store, validate
from spikedata.clips.store.layout import ArrayLayout
from spikedata.errors import StoreError
from spikedata.stream import SpikeStream

RECIPE = {"sensor": {"threshold": 2.0, "resize": (3, 4)}}


def random_packed(seed, ticks, height, width):
    spikes = np.random.default_rng(seed).random((ticks, height, width)) < 0.2
    return pack_ticks(spikes)


def add(writer, clip_id, packed, ticks, cuts=(), **attributes):
    """Write one clip, handing its groups over in pieces that end at ``cuts``."""
    clip = Clip(id=clip_id, label="a", captions=("a caption",), split="train", group="g1")
    _, height, width = packed.shape
    with writer.clip(clip, height_px=height, width_px=width, tick_rate_hz=250) as out:
        for piece in np.split(packed, sorted(cuts)):
            out.append(piece)
        return out.finish(ticks=ticks, attributes=attributes)


def new_store(path, **options):
    return create_store(path, recipe=RECIPE, class_names=["a", "b"], name="test", **options)


@given(data=st.data())
def test_any_stream_comes_back_from_us_and_from_zarr_python(tmp_path_factory, data):
    ticks = data.draw(st.integers(1, 700))
    height, width = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 17)))
    packed = random_packed(data.draw(st.integers(0, 99)), ticks, height, width)
    cuts = data.draw(st.lists(st.integers(0, len(packed)), max_size=5))
    config = StoreConfig(chunk_ticks=data.draw(st.sampled_from([64, 128])))
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    with new_store(path, options=config) as writer:
        stored = add(writer, "c", packed, ticks, cuts)

    store = open_store(path)
    stream = SpikeStream(packed, ticks, 250.0)
    assert np.array_equal(zarr.open_array(path / "clips/c", mode="r")[:], packed)
    assert np.array_equal(store.read("c").packed_ghw, packed)
    assert np.array_equal(np.concatenate(list(store.blocks("c", 24))), packed)
    assert (stored.spikes, stored.bits_sha256) == (stream.unpack().sum(), stream.bits_sha256())
    start = data.draw(st.integers(0, ticks - 1))
    window = stream.window(start, data.draw(st.integers(1, ticks - start)))
    assert np.array_equal(store.read("c", start, window.ticks).packed_ghw, window.packed_ghw)
    assert np.array_equal(store.read_planes("c", start, window.ticks), window.unpack())


@pytest.mark.parametrize(
    ("height", "width", "ticks"), [(260, 520, 20), (8, 8, 128 * 257), (131, 1009, 77)]
)
def test_large_planes_and_long_clips_are_cut_into_bands_and_shards(tmp_path, height, width, ticks):
    packed = random_packed(0, ticks, height, width)
    with new_store(tmp_path / "s.zarr") as writer:
        add(writer, "c", packed, ticks)
    store = open_store(tmp_path / "s.zarr")
    layout = ArrayLayout.plan(height, width, len(packed), StoreConfig())
    assert layout.bands > 1 or layout.shards > 1
    assert len(list((tmp_path / "s.zarr/clips/c").iterdir())) == layout.shards + 1
    assert np.array_equal(store.read("c").packed_ghw, packed)
    assert np.array_equal(zarr.open_array(tmp_path / "s.zarr/clips/c", mode="r")[:], packed)
    window = SpikeStream(packed, ticks, 250.0).window(3, 15)
    assert np.array_equal(store.read_planes("c", 3, 15), window.unpack())
    store.verify("c")


def test_layout_of_the_usual_camera_worked_by_hand():
    """128 ticks are 16 groups; 16 x 240 x 320 is 1,228,800 bytes; 27 of them fit in 32 MiB."""
    layout = ArrayLayout.plan(240, 320, 205, StoreConfig())
    assert (layout.chunk_groups, layout.chunk_rows, layout.bands) == (16, 240, 1)
    assert layout.shard_groups == 27 * 16
    assert layout.chunks_in_shard(0) == 13
    whole = ArrayLayout.plan(1000, 1000, 16, StoreConfig())
    assert (whole.bands, whole.chunk_rows) == (8, 125)


@given(
    groups=st.integers(1, 40), pixels=st.integers(1, 200), seed=st.integers(0, 9), data=st.data()
)
def test_reordering_is_what_numpy_says(groups, pixels, seed, data):
    packed = np.random.default_rng(seed).integers(0, 256, (groups, pixels), dtype=np.uint8)
    last, first = np.empty((pixels, groups), np.uint8), np.empty_like(packed)
    to_time_last(packed, last)
    to_time_first(last, first)
    assert np.array_equal(last, packed.T)
    assert np.array_equal(first, packed)
    assert count_ones(packed) == np.unpackbits(packed).sum()
    begin = data.draw(st.integers(0, groups * 8 - 1))
    ticks = data.draw(st.integers(1, groups * 8 - begin))
    planes = np.unpackbits(packed, axis=0, bitorder="little")[begin : begin + ticks]
    assert np.array_equal(unpack_window(packed, begin, ticks), planes)
    assert np.array_equal(
        cut_window(packed, begin, ticks), np.packbits(planes, axis=0, bitorder="little")
    )


@pytest.mark.parametrize("pixels", [0, 15, 16, 160, 163])
def test_the_usual_chunk_is_reordered_as_numpy_says_wherever_it_lies(pixels):
    """16 groups, which have vectors of their own where pixels fill these and rows adjoin."""
    wide = np.random.default_rng(pixels).integers(0, 256, (16, pixels + 5), dtype=np.uint8)
    for packed in (np.ascontiguousarray(wide[:, :pixels]), wide[:, :pixels]):
        last = np.zeros((pixels + 1, 16), np.uint8)
        to_time_last(np.ascontiguousarray(packed), last[:pixels])
        assert np.array_equal(last[:pixels], packed.T)
        assert not last[pixels:].any()
        before, first = wide[:, pixels:].copy(), packed.copy() if packed.base is None else packed
        first[:] = 0
        to_time_first(last[:pixels], first)
        assert np.array_equal(first, last[:pixels].T)
        assert np.array_equal(wide[:, pixels:], before)


def test_no_array_is_written_or_read_past_its_end():
    """The compiled loops check no index, so that shapes are checked before them."""
    packed = np.zeros((8, 16), np.uint8)
    for reorder in (to_time_first, to_time_last):
        with pytest.raises(ValueError, match=r"\(8, 8\) is not that of \(8, 16\) transposed"):
            reorder(packed, np.zeros((8, 8), np.uint8))
    for read in (unpack_window, cut_window):
        with pytest.raises(ValueError, match="ticks 60 to 65 are not in 8 groups"):
            read(packed, 60, 5)


def test_metadata_comes_back(tmp_path):
    with new_store(tmp_path / "s.zarr") as writer:
        stored = add(writer, "c", random_packed(0, 20, 3, 4), 20, sensor={"threshold": 2.0})
    store = open_store(tmp_path / "s.zarr")
    assert store.clips["c"] == stored
    assert stored.clip.captions == ("a caption",)
    assert stored.attributes == {"sensor": {"threshold": 2.0}}
    assert store.class_names == ("a", "b")
    assert store.recipe == {"sensor": {"threshold": 2.0, "resize": [3, 4]}}
    attributes = dict(zarr.open_array(tmp_path / "s.zarr/clips/c", mode="r").attrs)
    assert (attributes["ticks"], attributes["label"], attributes["split"]) == (20, "a", "train")
    summary = store.summary()
    assert (summary["clips"], summary["splits"], summary["sizes"]) == (1, {"train": 1}, ["3x4"])
    json.dumps(summary)


def test_order_threads_and_pieces_change_no_byte(tmp_path):
    streams = {f"c{i}": random_packed(i, 300 + i, 5, 8 + i) for i in range(6)}
    with new_store(tmp_path / "one.zarr") as writer:
        for clip_id, packed in streams.items():
            add(writer, clip_id, packed, 300 + int(clip_id[1]))
    with new_store(tmp_path / "two.zarr") as writer, ThreadPoolExecutor(3) as pool:
        for clip_id, packed in reversed(streams.items()):
            pool.submit(add, writer, clip_id, packed, 300 + int(clip_id[1]), range(len(packed)))
    assert digest_of_folder(tmp_path / "one.zarr") == digest_of_folder(tmp_path / "two.zarr")
    assert len(digest_of_folder(tmp_path / "one.zarr")) == 3 + 2 * 6


def test_nothing_can_be_appended_to_a_clip_that_was_flushed(tmp_path):
    packed = random_packed(0, 200, 3, 4)
    with new_store(tmp_path / "s.zarr") as writer:
        clip = Clip(id="c")
        with writer.clip(clip, height_px=3, width_px=4, tick_rate_hz=250) as out:
            out.append(packed)
            out.flush()
            with pytest.raises(ValueError, match="nothing can be appended after flush"):
                out.append(packed[:1])
            out.finish(ticks=200, attributes={})
    assert np.array_equal(open_store(tmp_path / "s.zarr").read("c").packed_ghw, packed)


def test_a_clip_that_fails_leaves_nothing_behind(tmp_path):
    with new_store(tmp_path / "s.zarr") as writer:
        packed = random_packed(0, 200, 3, 4)
        with pytest.raises(ValueError, match="do not hold exactly 300 ticks"):
            add(writer, "c", packed, 300)
        assert not writer.has("c")
        assert list((tmp_path / "s.zarr/.partial").iterdir()) == []
        add(writer, "c", packed, 200)
        assert writer.has("c")
    assert sorted(p.name for p in (tmp_path / "s.zarr").iterdir()) == [
        "catalog.jsonl",
        "clips",
        "zarr.json",
    ]


KILLED = """
import sys, numpy as np
from spikedata.clip import Clip
from spikedata.clips.store import create_store
writer = create_store(sys.argv[1], recipe={}, class_names=[])
for i in range(3):
    with writer.clip(Clip(id=f"c{i}"), height_px=4, width_px=8, tick_rate_hz=250) as out:
        out.append(np.full((40, 4, 8), i, np.uint8))
        if i == 2:
            print("ready", flush=True)
            sys.stdin.read()
        out.finish(ticks=320, attributes={})
"""


def test_a_killed_writer_leaves_whole_clips_and_the_next_one_ends_the_same(tmp_path):
    path = tmp_path / "s.zarr"
    writing = subprocess.Popen(
        [sys.executable, "-c", KILLED, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with writing:
        assert writing.stdout.readline() == "ready\n"
        with pytest.raises(StoreError, match="another process is writing it"):
            create_store(path, recipe={}, class_names=[], resume=True)
        writing.send_signal(signal.SIGKILL)
    assert list(open_store(path).clips) == ["c0", "c1"]
    assert validate(path) == []
    for out in (path, tmp_path / "whole.zarr"):
        with create_store(out, recipe={}, class_names=[], resume=True) as writer:
            for i in range(3):
                if not writer.has(f"c{i}"):
                    with writer.clip(
                        Clip(id=f"c{i}"), height_px=4, width_px=8, tick_rate_hz=250
                    ) as clip:
                        clip.append(np.full((40, 4, 8), i, np.uint8))
                        clip.finish(ticks=320, attributes={})
    assert digest_of_folder(path) == digest_of_folder(tmp_path / "whole.zarr")


WRITE = """
import os, sys, numpy as np
from spikedata.clip import Clip
from spikedata.clips.store import create_store

def write(path):
    with create_store(path, recipe={}, class_names=[], resume=True) as writer:
        if not writer.has("c"):
            with writer.clip(Clip(id="c"), height_px=4, width_px=8, tick_rate_hz=250) as out:
                out.append(np.full((40, 4, 8), 1, np.uint8))
                out.finish(ticks=320, attributes={})

def die_before(step):
    left = [step]
    def counted(call):
        def instead(*args, **options):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return call(*args, **options)
        return instead
    for name in ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))

folder = sys.argv[1]
write(folder + "/whole.zarr")
step, status = 0, 9
while status:
    path = folder + f"/{step}.zarr"
    child = os.fork()
    if child == 0:
        die_before(step)
        write(path)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), status
    write(path)
    step += 1
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_writer_killed_before_any_step_of_its_work_can_be_continued(tmp_path):
    done = subprocess.run([sys.executable, "-c", WRITE, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    want = digest_of_folder(tmp_path / "whole.zarr")
    assert sorted(want) == ["catalog.jsonl", "clips/c/c.0.0.0", "clips/c/zarr.json"] + [
        "clips/zarr.json",
        "zarr.json",
    ]
    killed = sorted(tmp_path.glob("[0-9]*.zarr"))
    assert len(killed) > 15
    for path in killed:
        assert digest_of_folder(path) == want, path.name


def test_another_recipe_is_refused_with_both_values(tmp_path):
    new_store(tmp_path / "s.zarr").close()
    other = {"sensor": {"threshold": 3.0, "resize": [3, 4]}}
    with pytest.raises(StoreError, match=r"sensor\.threshold = 2\.0, now asked for 3\.0"):
        create_store(tmp_path / "s.zarr", recipe=other, class_names=["a", "b"], resume=True)
    with pytest.raises(StoreError, match=r"class_names = \['a', 'b'\], now asked for \['a'\]"):
        create_store(tmp_path / "s.zarr", recipe=RECIPE, class_names=["a"], resume=True)
    with pytest.raises(StoreError, match="chunk_ticks = 128, not 64"):
        new_store(tmp_path / "s.zarr", resume=True, options=StoreConfig(chunk_ticks=64))
    new_store(tmp_path / "s.zarr", resume=True).close()


def test_what_is_there_is_not_overwritten(tmp_path):
    new_store(tmp_path / "s.zarr").close()
    with pytest.raises(StoreError, match="exists. Give --overwrite"):
        new_store(tmp_path / "s.zarr")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").touch()
    with pytest.raises(StoreError, match="a folder but not a spike store"):
        new_store(tmp_path / "photos", resume=True)
    assert os.listdir(tmp_path / "photos") == ["cat.jpg"]
    with pytest.raises(StoreError, match="is a file"):
        new_store(tmp_path / "photos/cat.jpg")


def test_callers_mistakes_are_told(tmp_path):
    packed = random_packed(0, 20, 3, 4)
    with new_store(tmp_path / "s.zarr") as writer:
        add(writer, "Clip", packed, 20)
        for clip_id in ("Clip", "CLIP"):
            with pytest.raises(StoreError, match="cannot be added beside Clip"):
                add(writer, clip_id, packed, 20)
        with pytest.raises(ValueError, match="3 groups of 8 do not hold exactly 25 ticks"):
            add(writer, "c", packed, 25)
        with pytest.raises(ValueError, match=r"a bit past the last tick \(17\) is set"):
            add(writer, "c", np.full((3, 3, 4), 255, np.uint8), 17)
        with pytest.raises(ValueError, match=r"attributes \['spikes'\]"):
            add(writer, "c", packed, 20, spikes=20)
        with pytest.raises(StoreError, match="label 'z' is not among"):
            writer.clip(Clip(id="z", label="z"), height_px=3, width_px=4, tick_rate_hz=1)
        with (
            pytest.raises(ValueError, match="expected uint8"),
            writer.clip(Clip(id="c"), height_px=4, width_px=3, tick_rate_hz=1) as out,
        ):
            out.append(packed)
    assert list(open_store(tmp_path / "s.zarr").clips) == ["Clip"]
    with pytest.raises(ValueError, match="closed"):
        add(writer, "c", packed, 20)


def test_windows_outside_a_clip_are_refused(tmp_path):
    with new_store(tmp_path / "s.zarr") as writer:
        add(writer, "c", random_packed(0, 20, 3, 4), 20)
    store = open_store(tmp_path / "s.zarr")
    for start, ticks in [(-1, 5), (0, 21), (20, 1), (5, 0)]:
        with pytest.raises(StoreError, match="are not inside its 20 ticks"):
            store.read("c", start, ticks)
    with pytest.raises(StoreError, match="no clip '../x'"):
        store.read("../x")


def test_the_catalogue_can_be_absent_old_or_cut_off(tmp_path):
    path = tmp_path / "s.zarr"
    with new_store(path) as writer:
        for i in range(3):
            add(writer, f"c{i}", random_packed(i, 20, 3, 4), 20)
    want = dict(open_store(path).clips)
    text = (path / "catalog.jsonl").read_text()
    lines = text.splitlines(keepends=True)
    for damaged in ("", lines[1], text + lines[0].replace("c0", "gone"), text[:-9], "{}\n"):
        (path / "catalog.jsonl").write_text(damaged)
        assert dict(open_store(path).clips) == want
    new_store(path, resume=True).close()
    assert (path / "catalog.jsonl").read_text() == text


def test_a_store_can_be_pickled_and_shared_between_threads(tmp_path):
    packed = random_packed(0, 500, 8, 8)
    with new_store(tmp_path / "s.zarr") as writer:
        add(writer, "c", packed, 500)
    store = pickle.loads(pickle.dumps(open_store(tmp_path / "s.zarr")))
    wrong = []

    def read():
        for _ in range(20):
            if not np.array_equal(store.read("c").packed_ghw, packed):
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.fixture
def twins(tmp_path):
    """A store of two clips of one size and label, whose bits differ."""
    path = tmp_path / "twins.zarr"
    with new_store(path) as writer:
        for number in range(2):
            add(writer, f"c{number}", random_packed(number, 200, 4, 6), 200)
    return path


def test_whatever_bit_of_a_shard_is_flipped_no_window_is_wrong(twins):
    """The chunk of ticks 0 to 127 is not read for a window of those after them."""
    shard = twins / "clips/c0/c.0.0.0"
    data = shard.read_bytes()
    want = open_store(twins).read("c0", 130, 40).packed_ghw
    end_of_index = len(data) - 4
    first = next(
        int.from_bytes(data[at + 8 : at + 16], "little")
        for at in range(end_of_index - 16 * 256, end_of_index)
        if data[at : at + 8] == bytes(8)
    )
    for at in range(0, len(data), 5):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        shard.write_bytes(changed)
        store = open_store(twins)
        if at < first:
            assert np.array_equal(store.read("c0", 130, 40).packed_ghw, want)
        else:
            with pytest.raises(StoreError, match="clip c0: shard c.0.0.0"):
                store.read("c0", 130, 40)


def test_a_shard_of_another_clip_is_refused(twins):
    (twins / "clips/c1/c.0.0.0").replace(twins / "clips/c0/c.0.0.0")
    with pytest.raises(StoreError, match="clip c0: shard c.0.0.0 is not the one that was written"):
        open_store(twins).read("c0", 0, 8)


def test_facts_that_were_changed_are_refused_wherever_they_lie(twins):
    for name in ("clips/c0/zarr.json", "catalog.jsonl", "zarr.json"):
        file = twins / name
        text = file.read_text()
        file.write_text(text.replace('"a"', '"c"'))
        if name == "zarr.json":
            with pytest.raises(StoreError, match="its recipe, class names or other attributes"):
                open_store(twins)
        elif name == "catalog.jsonl":
            store = open_store(twins)
            assert [clip.label for clip in store.clips.values()] == ["a", "a"]
            told = "catalog.jsonl is not the one that was written: each clip was asked instead"
            assert store.notes == (f"{told}. Run `spikedata repair`",)
        else:
            store = open_store(twins)
            assert store.clips["c0"].label == "a"
            with pytest.raises(StoreError, match="clip c0: its label, split or other facts have"):
                store.read("c0", 0, 8)
            assert np.array_equal(store.read("c1").packed_ghw, random_packed(1, 200, 4, 6))
        file.write_text(text)


def test_clips_that_are_gone_are_told_with_and_without_a_catalogue(twins):
    shutil.rmtree(twins / "clips/c0")
    for gone, told in [
        (None, "clip c0: its folder is gone, catalog.jsonl lists it"),
        ("catalog.jsonl", "1 of 2 clips are gone"),
    ]:
        if gone:
            (twins / gone).unlink()
        store = open_store(twins)
        assert list(store.clips) == ["c1"]
        assert [lost.error for lost in store.left_out] == [f"{twins}: {told}"]
    with new_store(twins, resume=True) as writer:
        assert not writer.has("c0")
        add(writer, "c0", random_packed(0, 200, 4, 6), 200)
    assert validate(twins) == []
    assert open_store(twins).left_out == ()


def test_real_recordings_come_back(tmp_path, shared_data):
    static = np.load(shared_data / "recordings/static_scene_250x400x500.npz")["arr_0"]
    static = static[:64, :120]
    packed = pack_ticks(static.transpose(2, 0, 1))
    with new_store(tmp_path / "s.zarr") as writer:
        stored = add(writer, "static", packed, 500)
    store = open_store(tmp_path / "s.zarr")
    assert np.array_equal(store.read_planes("static", 100, 250), static.transpose(2, 0, 1)[100:350])
    assert stored.firing_rate == pytest.approx(static.mean())
    assert store.summary()["ratio"] > 2


def test_the_catalogue_is_written_while_clips_are_added(tmp_path, monkeypatch):
    monkeypatch.setattr("spikedata.clips.store.writer._UNLISTED", 2)
    shape = {"height_px": 4, "width_px": 8, "tick_rate_hz": 250}
    catalog = tmp_path / "s.zarr" / "catalog.jsonl"
    listed = []
    with create_store(tmp_path / "s.zarr", recipe={}, class_names=()) as writer:
        for number in range(5):
            with writer.clip(Clip(id=f"c{number}"), **shape) as target:
                target.append(np.zeros((1, 4, 8), np.uint8))
                target.finish(ticks=8, attributes={})
            listed.append(catalog.read_bytes().count(b"\n") if catalog.exists() else 0)
            assert len(open_store(tmp_path / "s.zarr").clips) == number + 1
    assert listed == [0, 2, 2, 4, 4]
    assert catalog.read_bytes().count(b"\n") == 5
