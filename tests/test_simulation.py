"""A corpus to a store: the reference's bits, whatever the workers, blocks and interruptions."""

import errno
import json
import math
import shutil
import threading
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from tools import digest_of_folder, random_frames, write_corpus, write_grey

from spikedata import (
    SensorConfig,
    SimulationRecipe,
    StoreError,
    find_corpus,
    open_store,
    simulate,
    simulate_corpus,
    simulation,
)
from spikedata.clips.store import ClipWriter


@pytest.fixture
def corpus(tmp_path):
    return find_corpus(write_corpus(tmp_path / "videos"))


def test_every_clip_has_the_bits_of_the_reference(tmp_path, corpus):
    recipe = SimulationRecipe(sensor=SensorConfig(threshold=1.7, ticks_per_frame=7, seed=5))
    report = simulate_corpus(corpus, tmp_path / "s.zarr", recipe)
    assert (report.written, report.skipped, report.failures) == (6, 0, ())
    store = open_store(tmp_path / "s.zarr")
    for c in range(2):
        for k in range(3):
            clip_id = f"class{c}__clip{k}"
            want = np.concatenate(
                list(
                    simulate(
                        [random_frames(100 * c + k)],
                        recipe.sensor,
                        clip_id=clip_id,
                        backend="reference",
                    )
                )
            )
            stored = store.clips[clip_id]
            assert stored.ticks == 6 * 7
            assert stored.tick_rate_hz == 25 * 7
            assert stored.clip.label == f"class{c}"
            assert np.array_equal(store.read(clip_id).packed_ghw, want)


@pytest.mark.parametrize(("workers", "block"), [(2, 16), (1, 1), (3, 5)])
def test_workers_and_blocks_change_no_byte_of_the_store(
    tmp_path, corpus, monkeypatch, workers, block
):
    simulate_corpus(corpus, tmp_path / "a.zarr", SimulationRecipe())
    monkeypatch.setattr(simulation, "FRAMES_PER_BLOCK", block)
    simulate_corpus(corpus, tmp_path / "b.zarr", SimulationRecipe(), workers=workers)
    assert digest_of_folder(tmp_path / "a.zarr") == digest_of_folder(tmp_path / "b.zarr")


def test_a_lone_large_clip_shared_by_threads_has_the_same_bytes(tmp_path):
    """480x640: each chunk has bands, which are compressed at once."""
    write_grey(tmp_path / "videos/a/1.mkv", random_frames(1, frames=30, height=480, width=640))
    corpus = find_corpus(tmp_path / "videos")
    simulate_corpus(corpus, tmp_path / "a.zarr", SimulationRecipe(), workers=1)
    simulate_corpus(corpus, tmp_path / "b.zarr", SimulationRecipe(), workers=4)
    assert digest_of_folder(tmp_path / "a.zarr") == digest_of_folder(tmp_path / "b.zarr")


def test_a_second_run_only_adds_what_is_missing(tmp_path, corpus):
    out = tmp_path / "s.zarr"
    some = replace(corpus, clips=corpus.clips[:2])
    simulate_corpus(some, out, SimulationRecipe())
    report = simulate_corpus(corpus, out, SimulationRecipe())
    assert (report.written, report.skipped) == (4, 2)
    simulate_corpus(corpus, tmp_path / "whole.zarr", SimulationRecipe())
    assert digest_of_folder(out) == digest_of_folder(tmp_path / "whole.zarr")


def test_a_store_made_with_other_settings_is_refused_with_both_values(tmp_path, corpus):
    out = tmp_path / "s.zarr"
    simulate_corpus(corpus, out, SimulationRecipe())
    before = digest_of_folder(out)
    with pytest.raises(StoreError, match=r"sensor\.threshold.*2\.0.*3\.0"):
        simulate_corpus(corpus, out, SimulationRecipe(sensor=SensorConfig(threshold=3.0)))
    assert digest_of_folder(out) == before


def test_a_store_without_official_splits_goes_on_and_tells_that_it_lacks_them(tmp_path):
    for group in (1, 9):
        video = tmp_path / "ucf" / "Diving" / f"v_Diving_g{group:02d}_c01.avi"
        write_grey(video.with_suffix(".mkv"), random_frames(group))
    corpus, out = find_corpus(tmp_path / "ucf"), tmp_path / "s.zarr"
    first = corpus.clips[0]
    plain = replace(first, clip=replace(first.clip, source={"name": first.clip.source["name"]}))
    simulate_corpus(replace(corpus, clips=(plain,)), out, SimulationRecipe())
    report = simulate_corpus(corpus, out, SimulationRecipe())
    assert (report.written, report.skipped, report.failures) == (1, 1, ())
    (note,) = report.notes
    assert note.startswith("1 clip from before: official splits stay as noted then, or not noted")
    splits = [stored.clip.official_splits for stored in open_store(out).clips.values()]
    assert splits == [{}, {1: "train", 2: "test", 3: "train"}]


def test_one_bad_video_never_stops_the_rest(tmp_path, corpus):
    bad = corpus.root / "class0" / "clip1.mkv"
    bad.write_text("not a video")
    report = simulate_corpus(corpus, tmp_path / "s.zarr", SimulationRecipe(), workers=2)
    assert report.written == 5
    assert [failure.id for failure in report.failures] == ["class0__clip1"]
    (line,) = report.failure_file.read_text().splitlines()
    assert json.loads(line)["path"] == str(bad)
    assert "class0__clip1" not in open_store(tmp_path / "s.zarr").clips

    write_grey(bad, random_frames(1))
    report = simulate_corpus(corpus, tmp_path / "s.zarr", SimulationRecipe())
    assert (report.written, report.skipped, report.failures) == (1, 5, ())
    assert not report.failure_file.exists()


def test_what_is_known_of_a_clip_must_stay_what_the_store_says(tmp_path, corpus):
    out = tmp_path / "s.zarr"
    simulate_corpus(corpus, out, SimulationRecipe())
    before = digest_of_folder(out)
    other = find_corpus(corpus.root, caption_templates=["{name} again"])
    with pytest.raises(StoreError, match=r"captions = \('a video of class0',\), now asked for"):
        simulate_corpus(other, out, SimulationRecipe())
    assert digest_of_folder(out) == before


def test_a_video_that_was_replaced_is_told_and_can_be_made_again(tmp_path, corpus):
    out, video = tmp_path / "s.zarr", corpus.root / "class1" / "clip0.mkv"
    simulate_corpus(corpus, out, SimulationRecipe())
    write_grey(video, random_frames(7, frames=9))
    report = simulate_corpus(corpus, out, SimulationRecipe())
    assert (report.written, report.skipped) == (0, 5)
    (failure,) = report.failures
    folder = out / "clips" / "class1__clip0"
    assert failure.error.endswith(f"To make the clip again, remove {folder}")
    shutil.rmtree(folder)
    assert simulate_corpus(corpus, out, SimulationRecipe()).written == 1
    assert open_store(out).clips["class1__clip0"].ticks == 90
    assert open_store(out).read("class1__clip0").ticks == 90


def test_whatever_an_interpolator_does_the_rest_is_done(tmp_path, corpus, monkeypatch, caplog):
    (tmp_path / "touchy_frames.py").write_text(
        "def frames(first_hw, second_hw, count):\n"
        "    if first_hw[0, 0] == FIRST:\n"
        "        raise TypeError('not today')\n"
        "    return first_hw[None].repeat(count, 0)\n"
        f"FIRST = {random_frames(0)[0, 0, 0]}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = SimulationRecipe(interpolator="touchy_frames:frames")
    report = simulate_corpus(corpus, tmp_path / "s.zarr", recipe)
    assert report.written == 5
    assert [item.error for item in report.failures] == ["TypeError: not today"]
    assert "not today" in caplog.text


def test_a_full_disk_leaves_the_list_of_failures(tmp_path, corpus, monkeypatch):
    (corpus.root / "class0" / "clip0.mkv").write_text("not a video")
    told = threading.Event()

    def full(*_, **__):
        assert told.wait(60)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(simulation.Filmed, "_counted", full)
    with pytest.raises(StoreError, match="No space left on device while writing class0__clip1"):
        simulate_corpus(
            corpus, tmp_path / "s.zarr", SimulationRecipe(), progress=lambda _: told.set()
        )
    (line,) = (tmp_path / "s.failures.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "class0__clip0"


def test_slow_disks_keep_no_core_waiting(tmp_path, corpus, monkeypatch):
    """With one worker, the second clip is simulated before the first is on the disk."""
    second_begun, real_finish = threading.Event(), ClipWriter.finish
    real_to_shards = simulation._Run.to_shards

    def to_shards(run, item, threads):
        if item is corpus.clips[1]:
            second_begun.set()
        return real_to_shards(run, item, threads)

    def finish(clip, **known):
        assert second_begun.wait(60)
        return real_finish(clip, **known)

    monkeypatch.setattr(simulation._Run, "to_shards", to_shards)
    monkeypatch.setattr(ClipWriter, "finish", finish)
    assert simulate_corpus(corpus, tmp_path / "s.zarr", SimulationRecipe()).written == 6


def test_a_clip_that_cannot_be_finished_leaves_nothing(tmp_path, corpus, monkeypatch):
    stop = threading.Event()

    def full(clip, **known):
        # Those under way beside the first fail when it has been told.
        assert clip._clip.id == "class0__clip0" or stop.wait(60)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ClipWriter, "finish", full)
    with pytest.raises(StoreError, match="No space left on device while writing class0__clip0"):
        simulate_corpus(corpus, tmp_path / "s.zarr", SimulationRecipe(), stop=stop)
    assert not list((tmp_path / "s.zarr" / "clips").glob("*/"))
    assert not list((tmp_path / "s.zarr" / ".partial").glob("*"))


def test_large_frames_come_in_small_blocks(tmp_path, corpus, monkeypatch):
    simulate_corpus(corpus, tmp_path / "a.zarr", SimulationRecipe())
    monkeypatch.setattr(simulation, "BLOCK_BYTES", 2 * 8 * 10)
    sizes = []
    simulate_block = simulation.simulate

    def watched(blocks, *words, **options):
        watch = (sizes.append(len(block)) or block for block in blocks)
        return simulate_block(watch, *words, **options)

    monkeypatch.setattr(simulation, "simulate", watched)
    simulate_corpus(corpus, tmp_path / "b.zarr", SimulationRecipe())
    assert set(sizes) == {2}
    assert digest_of_folder(tmp_path / "a.zarr") == digest_of_folder(tmp_path / "b.zarr")


def test_a_run_that_is_stopped_keeps_what_is_whole(tmp_path, corpus):
    stop = threading.Event()
    report = simulate_corpus(
        corpus, tmp_path / "s.zarr", SimulationRecipe(), stop=stop, progress=lambda _: stop.set()
    )
    assert report.stopped
    assert report.written in (1, 2)  # the second may be waiting for the disk when the first is told
    assert len(open_store(tmp_path / "s.zarr").clips) == report.written
    again = simulate_corpus(corpus, tmp_path / "s.zarr", SimulationRecipe())
    assert again.written == len(corpus.clips) - report.written


def test_ticks_per_frame_follow_the_tick_rate():
    recipe = SimulationRecipe(tick_rate_hz=1000.0)
    assert recipe.sensor_at(Fraction(25)).ticks_per_frame == 40
    assert recipe.sensor_at(Fraction(30000, 1001)).ticks_per_frame == 33
    with pytest.raises(ValueError, match="tick rate 10 Hz is below the frame rate 25 Hz"):
        SimulationRecipe(tick_rate_hz=10.0).sensor_at(Fraction(25))
    with pytest.raises(ValueError, match="tick_rate_hz must be a positive number"):
        SimulationRecipe(tick_rate_hz=0.0)
    with pytest.raises(ValueError, match="tick_rate_hz must be a positive number, got inf"):
        SimulationRecipe(tick_rate_hz=math.inf)


def test_the_store_tells_how_each_clip_was_made(tmp_path, corpus):
    simulate_corpus(corpus, tmp_path / "s.zarr", SimulationRecipe(tick_rate_hz=500.0))
    stored = open_store(tmp_path / "s.zarr").clips["class1__clip2"]
    assert stored.attributes["sensor"]["ticks_per_frame"] == 20
    assert stored.attributes["video"]["frames_decoded"] == 6
    assert stored.clip.source["name"] == "class1/clip2.mkv"
    assert len(stored.clip.source["sha256"]) == 64
