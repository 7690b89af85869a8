"""Stores in object storage: the same bits, few requests, whole clips or none."""

import shutil

import numpy as np
import pytest
from s3_server import ERRORS

from spikedata import create_store, open_clips, open_store, place, validate
from spikedata.clip import Clip
from spikedata.clips import StoreConfig

H, W, TICKS = 20, 30, 1_500
STARTS = (0, 3, 125, 250, 384, 500, 777, 1_024, 1_250)


def packed(seed, ticks=TICKS):
    rng = np.random.default_rng(seed)
    planes = rng.integers(0, 2, (ticks, H, W), np.uint8)
    return np.packbits(planes, axis=0, bitorder="little")


def write(path, clips=3, *, shard_ticks=256, resume=False):
    """A store whose clips have several shards."""
    made = []
    with create_store(
        path,
        recipe={"of": "tests"},
        class_names=["a"],
        options=StoreConfig(shard_ticks=shard_ticks),
        resume=resume,
    ) as writer:
        for n in range(clips):
            if writer.has(f"c{n}"):
                continue
            clip = Clip(id=f"c{n}", label="a")
            with writer.clip(clip, height_px=H, width_px=W, tick_rate_hz=250) as target:
                target.append(packed(n))
                made.append(target.finish(ticks=TICKS, attributes={}))
    return made


def test_holds_what_a_local_store_holds(s3, tmp_path):
    write(tmp_path / "s.zarr")
    write("s3://bucket/s.zarr")
    here, there = open_store(tmp_path / "s.zarr"), open_clips("s3://bucket/s.zarr")
    assert dict(there.clips) == dict(here.clips)
    assert (there.class_names, there.recipe, there.notes) == (("a",), {"of": "tests"}, ())
    for clip_id in here.clips:
        for start in STARTS:
            window = there.read(clip_id, start, 250)
            np.testing.assert_array_equal(window.unpack(), here.read_planes(clip_id, start, 250))
        there.verify(clip_id)
    assert validate("s3://bucket/s.zarr") == []


def test_the_files_are_those_of_a_local_store(s3, tmp_path):
    """But for a copy of the shards' ends in the metadata of clips that have several shards."""
    write(tmp_path / "s.zarr", shard_ticks=None)
    write("s3://bucket/s.zarr", shard_ticks=None)
    files = [path for path in (tmp_path / "s.zarr").rglob("*") if path.is_file()]
    names = sorted(path.relative_to(tmp_path).as_posix() for path in files)
    assert s3.keys("s.zarr") == names
    for name in names:
        assert s3.get(name) == (tmp_path / name).read_bytes(), name


def test_a_window_costs_at_most_three_requests(s3):
    write("s3://bucket/s.zarr")
    there = open_clips("s3://bucket/s.zarr")
    costs = []
    for start in range(0, TICKS - 250, 50):
        before = len(s3.requests)
        there.read("c1", start, 250)
        costs.append(len(s3.requests) - before)
    assert set(costs) == {2, 3}  # metadata, and a range of each shard


def test_a_window_of_a_clip_of_one_shard_costs_three_requests(s3):
    write("s3://bucket/s.zarr", shard_ticks=None)
    there = open_clips("s3://bucket/s.zarr")
    before = len(s3.requests)
    there.read("c1", 700, 250)
    asked = s3.requests[before:]
    assert [line.split()[:2] for line in asked] == [
        ["get", "bucket/s.zarr/clips/c1/zarr.json"],
        ["get", "bucket/s.zarr/clips/c1/c.0.0.0"],
        ["get", "bucket/s.zarr/clips/c1/c.0.0.0"],
    ]


def test_opening_costs_few_requests_however_many_clips(s3):
    costs = []
    for clips in (2, 6):
        write("s3://bucket/s.zarr", clips, resume=True)
        before = len(s3.requests)
        assert len(open_clips("s3://bucket/s.zarr").clips) == clips
        costs.append(len(s3.requests) - before)
    assert costs[0] == costs[1] <= 8


def test_another_zarr_library_reads_it(s3, tmp_path):
    zarr = pytest.importorskip("zarr")
    write("s3://bucket/s.zarr", 1)
    for key in s3.keys("s.zarr"):
        target = tmp_path / key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(s3.get(key))
    array = zarr.open_group(tmp_path / "s.zarr", mode="r")["clips/c0"]
    np.testing.assert_array_equal(array[:], packed(0))


def test_a_clip_without_metadata_is_not_there_and_goes(s3):
    write("s3://bucket/s.zarr", 2)
    s3.put("s.zarr/clips/torn/c.0.0.0", b"half")
    s3.put("s.zarr/clips/c1x/c.0.0.0", b"half")
    assert set(open_clips("s3://bucket/s.zarr").clips) == {"c0", "c1"}
    write("s3://bucket/s.zarr", 3, resume=True)
    assert set(open_clips("s3://bucket/s.zarr").clips) == {"c0", "c1", "c2"}
    assert not [key for key in s3.keys("s.zarr") if "/torn/" in key or "/c1x/" in key]
    assert validate("s3://bucket/s.zarr") == []


def test_a_store_without_catalogue_is_listed(s3):
    write("s3://bucket/s.zarr", 2)
    place("s3://bucket/s.zarr/catalog.jsonl").unlink()
    opened = open_clips("s3://bucket/s.zarr")
    assert set(opened.clips) == {"c0", "c1"}
    assert "catalog.jsonl is gone" in opened.notes[0]


def test_a_clip_that_is_gone_is_told_by_validate_and_by_reading(s3):
    from spikedata import StoreError

    write("s3://bucket/s.zarr", 2)
    place("s3://bucket/s.zarr/clips/c1/zarr.json").unlink()
    assert {problem.code for problem in validate("s3://bucket/s.zarr")} == {
        "clips_differ",
        "catalog_differs",
    }
    with pytest.raises(StoreError, match="c1: has no zarr.json"):
        open_clips("s3://bucket/s.zarr").read("c1", 0, 250)


@pytest.mark.parametrize("spoil", ["flip", "cut", "gone"])
def test_a_damaged_shard_is_told(s3, spoil):
    from spikedata import StoreError

    write("s3://bucket/s.zarr", 1)
    key = "s.zarr/clips/c0/c.0.0.0"
    data = bytearray(s3.get(key))
    if spoil == "gone":
        place(f"s3://bucket/{key}").unlink()
    else:
        data[5] ^= 1
        s3.put(key, bytes(data[:100] if spoil == "cut" else data))
    with pytest.raises(StoreError, match="shard c.0.0.0"):
        open_clips("s3://bucket/s.zarr").read("c0", 0, 250)
    assert validate("s3://bucket/s.zarr") != []


def test_one_writer_at_a_time(s3):
    from spikedata import StoreError

    with create_store("s3://bucket/s.zarr", recipe={}, class_names=[]):
        with pytest.raises(StoreError, match="another process is writing it"):
            create_store("s3://bucket/s.zarr", recipe={}, class_names=[], resume=True)
        assert open_clips("s3://bucket/s.zarr").is_growing
    assert not open_clips("s3://bucket/s.zarr").is_growing
    assert s3.keys("s.zarr.lock") == []


def test_a_writer_whose_lock_was_taken_stops(s3):
    from spikedata import StoreError

    writer = create_store("s3://bucket/s.zarr", recipe={}, class_names=[])
    s3.put("s.zarr.lock", b'{"owner": "another"}')
    with pytest.raises(StoreError, match="lost its lock"):
        writer.clip(Clip(id="late"), height_px=H, width_px=W, tick_rate_hz=250)
    with pytest.raises(StoreError, match="lost its lock"):
        writer.close()


def test_something_else_is_not_written_over(s3):
    from spikedata import StoreError

    s3.put("s.zarr/photos/cat.jpg", b"cat")
    with pytest.raises(StoreError, match="is a folder but not a spike store"):
        write("s3://bucket/s.zarr")
    assert s3.keys("s.zarr") == ["s.zarr/photos/cat.jpg"]


def test_no_request_that_fails_loses_a_clip(s3, tmp_path):
    """Each third request is refused, or is done and its answer lost."""
    write(tmp_path / "s.zarr", 4)
    for number, name in enumerate(("500", "503", "drop")):
        s3.spoil(ERRORS[name], every=9, skip=3 * number, times=None)
    write("s3://bucket/s.zarr", 4)
    assert len(s3.spoilt) >= 15
    s3.heal()
    assert validate("s3://bucket/s.zarr") == []
    assert dict(open_clips("s3://bucket/s.zarr").clips) == dict(
        open_store(tmp_path / "s.zarr").clips
    )


def test_a_store_copied_from_a_disk_is_read(s3, tmp_path):
    write(tmp_path / "s.zarr", 1)
    for path in (tmp_path / "s.zarr").rglob("*"):
        if path.is_file():
            s3.put(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    shutil.rmtree(tmp_path / "s.zarr")
    there = open_clips("s3://bucket/s.zarr")
    np.testing.assert_array_equal(
        there.read("c0", 100, 500).unpack(),
        np.unpackbits(packed(0), axis=0, bitorder="little")[100:600],
    )


def test_workers_of_a_loader_read_it(s3):
    from torch.utils.data import DataLoader

    from spikedata import SpikeClips, collate, worker_options

    write("s3://bucket/s.zarr", 2)
    clips = SpikeClips("s3://bucket/s.zarr", window_ticks=64, sampling="start")
    options = worker_options(clips.opened, 1)
    assert options == {"num_workers": 1, "multiprocessing_context": "spawn"}
    (batch,) = DataLoader(clips, batch_size=2, collate_fn=collate, **options)
    np.testing.assert_array_equal(batch["packed_bsghw"][1, 0], packed(1)[:8])


def test_others_write_into_a_store_that_is_lent(s3, tmp_path):
    """Two writers make the same clip: it is there once, and the files are those of one writer."""
    from spikedata.clips import part_writer

    write(tmp_path / "s.zarr")
    options = StoreConfig(shard_ticks=256)
    with create_store(
        "s3://bucket/s.zarr", recipe={"of": "tests"}, class_names=["a"], options=options
    ) as store:
        with store.lend() as lent:
            for ids in ((0, 1), (1, 2)):
                part_writer.cache_clear()
                writer = part_writer(lent)
                for n in ids:
                    clip = Clip(id=f"c{n}", label="a")
                    with writer.clip(clip, height_px=H, width_px=W, tick_rate_hz=250) as target:
                        target.append(packed(n))
                        target.finish(ticks=TICKS, attributes={})
            late = writer.clip(Clip(id="late"), height_px=H, width_px=W, tick_rate_hz=250)
        from spikedata import StoreError

        late.append(packed(9))
        with pytest.raises(StoreError, match="taken back"), late:
            late.finish(ticks=TICKS, attributes={})
    assert s3.get("s.zarr/catalog.jsonl") == (tmp_path / "s.zarr/catalog.jsonl").read_bytes()
    assert validate("s3://bucket/s.zarr") == []
    assert not [key for key in s3.keys("s.zarr") if "late" in key or ".partial" in key]


def test_what_workers_wrote_is_known_when_the_driver_was_killed(s3, monkeypatch):
    from spikedata.clips import part_writer
    from spikedata.lease import Lease

    store = create_store("s3://bucket/s.zarr", recipe={"of": "tests"}, class_names=["a"])
    with store.lend() as lent:
        writer = part_writer(lent)
        with writer.clip(
            Clip(id="c0", label="a"), height_px=H, width_px=W, tick_rate_hz=250
        ) as target:
            target.append(packed(0))
            target.finish(ticks=TICKS, attributes={})
        place("s3://bucket/s.zarr.lock").unlink()  # as if its holder were gone
        monkeypatch.setattr(Lease, "check", lambda _: None)
        again = create_store(
            "s3://bucket/s.zarr", recipe={"of": "tests"}, class_names=["a"], resume=True
        )
        assert again.has("c0")
        again.close()
    assert validate("s3://bucket/s.zarr") == []


def test_windows_are_streamed_from_it(s3):
    from spikedata import SpikeWindows

    write("s3://bucket/s.zarr", 3)
    windows = SpikeWindows("s3://bucket/s.zarr", window_ticks=64, shuffle=2, prefetch=2)
    items = list(windows)
    assert sorted(item["id"] for item in items) == ["c0", "c1", "c2"]
    opened = open_clips("s3://bucket/s.zarr")
    for item in items:
        there = opened.read(item["id"], item["starts"][0], 64)
        np.testing.assert_array_equal(item["packed_sghw"][0], there.packed_ghw)


def test_the_size_of_a_set_costs_no_request_a_clip(s3):
    write("s3://bucket/s.zarr", 6)
    opened = open_clips("s3://bucket/s.zarr")
    before = len(s3.requests)
    size = opened.size_bytes()
    assert len(s3.requests) - before == 1
    assert size == sum(len(s3.get(key)) for key in s3.keys("s.zarr/"))
