"""Clips and their chunks share a bounded number of threads; results come in order."""

import gc
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools import digest_of_folder

from spikedata import open_clips, pack_clips
from spikedata.bits import pack_ticks
from spikedata.camera import write_recording
from spikedata.clips import Crew, encode_all
from spikedata.clips.crew import Chunks


def square(number):
    return number * number


@given(threads=st.integers(0, 3), own=st.integers(0, 9), count=st.integers(0, 30))
def test_results_come_in_order_whoever_made_them(threads, own, count):
    with Crew(threads) as crew:
        coming = Chunks(crew, own)
        found = []
        for number in range(count):
            found += coming.add(square, number)
        assert found + coming.rest() == [number * number for number in range(count)]


def test_without_a_crew_each_result_comes_at_once():
    coming = Chunks(None)
    assert [coming.add(square, number) for number in (2, 3)] == [[4], [9]]
    assert coming.rest() == []


def test_a_crew_does_not_have_fewer_than_no_threads():
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        Crew(-1)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_never_more_threads_are_at_work_than_the_crew_has(threads):
    """All clips hand chunks over at once: whoever has no helper does them himself."""
    at_work, most, lock = 0, 0, threading.Lock()

    def chunk(number):
        nonlocal at_work, most
        with lock:
            names.add(threading.current_thread().name)
            at_work += 1
            most = max(most, at_work)
        sum(range(2_000))
        with lock:
            at_work -= 1
        return number

    def clip(first):
        coming = Chunks(crew)
        found = []
        for number in range(first, first + 50):
            found += coming.add(chunk, number)
        return found + coming.rest()

    names: set[str] = set()
    with Crew(threads) as crew:
        found = list(encode_all(clip, range(0, 500, 50), crew, None))
    assert [number for numbers in found for number in numbers] == list(range(500))
    assert len(names) <= threads
    assert most <= threads


def test_clips_begun_while_the_crew_filled_share_what_may_be_under_way():
    """Each hands over a chunk before the next begins; then there are as many clips as threads."""
    threads = 4

    def clip(number):
        coming = Chunks(crew)
        done = len(coming.add(square, number))
        begun[number].set()
        all_begun.wait()
        most = 0
        for handed_over in range(2, 40):
            done += len(coming.add(square, number))
            most = max(most, handed_over - done)
        all_begun.wait()  # nobody ends before
        coming.rest()
        return most

    begun = [threading.Event() for _ in range(threads)]
    all_begun = threading.Barrier(threads, timeout=60)
    with Crew(threads) as crew:
        coming = []
        for number in range(threads):
            coming.append(crew.start(clip, number))
            assert begun[number].wait(60)
        assert sum(future.result() for future in coming) <= 2 * threads


def test_one_clip_is_done_by_all_threads():
    """Two chunks each wait for the other to have begun: one thread alone would never end."""
    meet = threading.Barrier(2, timeout=60)

    def clip(_):
        coming = Chunks(crew)
        return [*coming.add(meet.wait), *coming.add(meet.wait), *coming.rest()]

    with Crew(2) as crew:
        (found,) = encode_all(clip, ["only"], crew, None)
    assert sorted(found) == [0, 1]


def test_an_error_comes_where_its_result_would_and_the_rest_is_dropped():
    def fail():
        raise OSError("full")

    with Crew(2) as crew:
        coming = Chunks(crew, 8)
        assert coming.add(square, 2) + coming.add(fail) + coming.add(square, 3) == []
        with pytest.raises(OSError, match="full"):
            coming.rest()
        coming.drop()
        assert coming.rest() == []


def test_a_chunk_that_waits_in_vain_holds_no_memory_once_it_is_done():
    """Both threads are at clips by the time the chunk is handed over, and stay there."""

    class Data:
        pass

    def clip(number):
        if number:
            at_work.wait()
            return ended.wait(60)
        coming = Chunks(crew)
        data = Data()
        held = weakref.ref(data)
        coming.add(id, data)  # the other thread may be free, and is given it, as far as is known
        at_work.wait()
        del data
        coming.rest()
        gc.collect()
        ended.set()
        return held() is None

    at_work, ended = threading.Barrier(2, timeout=60), threading.Event()
    with Crew(2) as crew:
        assert list(encode_all(clip, [0, 1], crew, None)) == [True, True]


def test_the_only_thread_does_its_chunks_as_they_come():
    def clip(_):
        coming = Chunks(crew)
        return [coming.add(square, number) for number in range(3)] + [coming.rest()]

    with Crew(1) as crew:
        assert list(encode_all(clip, [0], crew, None)) == [[[0], [1], [4], []]]


@pytest.mark.parametrize("to", ["zarr", "parquet", "hdf5", "dat"])
def test_any_number_of_workers_writes_the_same_bytes(tmp_path, monkeypatch, to):
    """One clip of several shards among short ones: 256 chunks of 128 ticks are a shard."""
    import numpy as np

    monkeypatch.chdir(tmp_path)
    for name, ticks in (("long", 128 * 256 * 2 + 77), ("short", 300), ("tiny", 5)):
        spikes_thw = np.random.default_rng(ticks).random((ticks, 5, 9)) < 0.2
        path = tmp_path / "recordings" / f"{name}.dat"
        path.parent.mkdir(exist_ok=True)
        write_recording(path, [pack_ticks(spikes_thw)], "5x9", ticks=ticks)
    written = []
    for workers in (1, 2, 5):
        folder = tmp_path / str(workers)
        out = folder / "out.h5" if to == "hdf5" else folder / "out"
        pack_clips(["recordings"], camera="5x9", to=to, out=out, workers=workers)
        written.append(digest_of_folder(folder))
        assert set(open_clips(out).clips) == {"long", "short", "tiny"}
    assert written[0] == written[1] == written[2]
    assert len(written[0]) > 0
