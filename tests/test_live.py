"""Videos as a set of clips: the bits of the store that `spikedata simulate` makes of them."""

import csv
import hashlib
import json
import os
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools import random_frames, run_program, write_corpus, write_grey

from spikedata import (
    NoiseConfig,
    SensorConfig,
    SimulationRecipe,
    SpikeClips,
    SpikeDataError,
    find_corpus,
    open_store,
    open_videos,
    simulate_corpus,
    to_dict,
)
from spikedata import simulation as simulation_module
from spikedata.video import VideoConfig

RECIPES = {
    "usual": SimulationRecipe(),
    "noisy": SimulationRecipe(sensor=SensorConfig(threshold=1.5, noise=NoiseConfig(), seed=7)),
    "resampled": SimulationRecipe(video=VideoConfig(fps=40.0, resize=(12, 16)), tick_rate_hz=300.0),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("home") / "videos", frames=21)


@pytest.fixture(scope="module", params=RECIPES)
def both(request, videos, tmp_path_factory):
    """The same videos as a store, and filmed while they are read."""
    recipe, corpus = RECIPES[request.param], find_corpus(videos)
    out = tmp_path_factory.mktemp("out") / "s.zarr"
    assert simulate_corpus(corpus, out, recipe).written == 6
    return open_store(out), open_videos(corpus, recipe)


def test_all_that_a_store_tells_of_its_clips_is_told(both):
    store, live = both
    assert list(live.clips) == list(store.clips)
    for clip_id, stored in store.clips.items():
        assert live.clips[clip_id].array_attributes() == stored.array_attributes()
        assert live.clips[clip_id].size == stored.size
    assert live.class_names == store.class_names
    assert live.recipe == store.recipe
    assert live.name == store.name


def test_every_clip_has_the_store_s_bits(both):
    store, live = both
    for clip_id, stored in store.clips.items():
        want = store.read(clip_id).packed_ghw
        assert np.array_equal(live.read(clip_id).packed_ghw, want)
        for ticks in (8, 40, 1 << 20):
            blocks = list(live.blocks(clip_id, ticks))
            assert np.array_equal(np.concatenate(blocks), want)
            assert {len(block) for block in blocks[:-1]} <= {ticks // 8}
        live.verify(clip_id)
        assert stored.bits_sha256


@given(data=st.data())
def test_windows_read_in_one_pass_are_the_store_s(both, data):
    store, live = both
    clip_id = data.draw(st.sampled_from(sorted(store.clips)))
    whole = store.clips[clip_id].ticks
    ticks = data.draw(st.integers(1, whole))
    starts = data.draw(st.lists(st.integers(0, whole - ticks), min_size=1, max_size=3))
    planes = store.read(clip_id).unpack()
    for start, got in zip(starts, live.windows(clip_id, starts, ticks), strict=True):
        assert np.array_equal(got.unpack(), planes[start : start + ticks])
        assert got.tick_rate_hz == store.clips[clip_id].tick_rate_hz
    assert np.array_equal(live.read_planes(clip_id, starts[0], ticks), planes[starts[0] :][:ticks])


def test_the_loader_gives_the_same_items_also_after_it_travelled(both):
    store, live = both
    how = {"window_ticks": 64, "segments": 2, "seed": 3, "size": (10, 10)}
    want = SpikeClips(store, **how)
    for items in (SpikeClips(live, **how), SpikeClips(pickle.loads(pickle.dumps(live)), **how)):
        for epoch in (0, 1):
            want.set_epoch(epoch)
            items.set_epoch(epoch)
            for index in range(len(want)):
                one, other = want[index], items[index]
                assert np.array_equal(one.pop("packed_sghw"), other.pop("packed_sghw"))
                assert one == other
    assert [items.digest(i) for i in range(6)] == [want.digest(i) for i in range(6)]


def test_only_the_frames_up_to_a_window_s_end_are_decoded(tmp_path, monkeypatch):
    corpus = find_corpus(write_grey(tmp_path / "long.mkv", random_frames(0, 200)))
    (clip_id,) = (live := open_videos(corpus, SimulationRecipe())).clips
    seen = []
    counted = simulation_module.Filmed._counted

    def noted(filmed):
        for luma_nhw in counted(filmed):
            seen.append(len(luma_nhw))
            yield luma_nhw

    monkeypatch.setattr(simulation_module.Filmed, "_counted", noted)
    live.windows(clip_id, [100, 350], 50)  # to tick 400: 40 frames, and one for the line to it
    assert 41 <= sum(seen) <= 41 + 16
    assert max(seen) <= 16


class TestIndex:
    def test_videos_that_are_known_are_not_read_again(self, videos, tmp_path):
        corpus, index = find_corpus(videos), tmp_path / "index"
        told = []
        first = open_videos(corpus, SimulationRecipe(), index=index, progress=told.append)
        assert [stored.id for stored in told] == list(first.clips)
        (file,) = index.iterdir()
        lines = file.read_text().splitlines()
        assert len(lines) == 6
        again = open_videos(corpus, SimulationRecipe(), index=index, workers=2)
        assert again.clips == first.clips
        assert file.read_text().splitlines() == lines

    def test_what_changed_or_was_cut_off_is_read_again(self, tmp_path):
        videos, index = write_corpus(tmp_path / "videos"), tmp_path / "index"
        open_videos(find_corpus(videos), SimulationRecipe(), index=index)
        (file,) = index.iterdir()
        file.write_text(file.read_text()[:-30])
        changed = write_grey(videos / "class0" / "clip0.mkv", random_frames(77, frames=9))
        corpus = find_corpus(videos)
        clips = open_videos(corpus, SimulationRecipe(), index=index).clips
        assert clips == open_videos(corpus, SimulationRecipe()).clips
        assert clips["class0__clip0"].ticks == 90
        assert changed.exists()
        assert len(file.read_text().splitlines()) == 5 + 1 + 2 - 1

    @pytest.mark.parametrize(
        "damage",
        [
            lambda line: b"\xff\xfe" + line,
            lambda line: b"[" * 100_000,
            lambda line: b"[]",
            lambda line: line.replace(b'"ticks": ', b'"ticks": 1'),
            lambda line: line.replace(b'"video"', b'"videos"'),
            lambda line: line.replace(b'"measured": {', b'"measured": {"auto_map": 1, '),
            lambda line: line.replace(b'"spikes": ', b'"spikes": 1'),
        ],
        ids=["no-text", "deep", "list", "ticks", "no-video", "more", "count"],
    )
    def test_a_damaged_line_is_passed_over_and_its_video_read_again(self, videos, tmp_path, damage):
        corpus, index = find_corpus(videos), tmp_path / "index"
        whole = open_videos(corpus, SimulationRecipe(), index=index).clips
        (file,) = index.iterdir()
        first, *others = file.read_bytes().splitlines()
        assert damage(first) != first
        file.write_bytes(b"\n".join([damage(first), *others, b""]))
        told = open_videos(corpus, SimulationRecipe(), index=index).clips
        assert told == whole
        assert len(file.read_bytes().splitlines()) == 7

    @pytest.mark.parametrize(
        "change",
        [
            lambda line: line.pop("video"),
            lambda line: line.update(source=7),
            lambda line: line.update(measured=[]),
            lambda line: line["measured"].update(ticks="60"),
            lambda line: line["measured"].pop("bits_sha256"),
        ],
    )
    def test_a_line_of_another_shape_is_passed_over(self, videos, tmp_path, change):
        corpus, index = find_corpus(videos), tmp_path / "index"
        whole = open_videos(corpus, SimulationRecipe(), index=index).clips
        (file,) = index.iterdir()
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        del lines[0]["digest"]
        change(lines[0])
        text = json.dumps(lines[0], sort_keys=True).encode()
        lines[0]["digest"] = hashlib.sha256(text).hexdigest()[:32]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert open_videos(corpus, SimulationRecipe(), index=index).clips == whole

    def test_another_camera_has_an_index_of_its_own(self, videos, tmp_path):
        corpus, index = find_corpus(videos), tmp_path / "index"
        rates = [
            open_videos(
                corpus, SimulationRecipe(sensor=SensorConfig(threshold=t)), index=index
            ).summary()["firing_rate"]
            for t in (1.0, 4.0)
        ]
        assert rates[0] > 3 * rates[1]
        assert len(list(index.iterdir())) == 2


class TestDamage:
    def test_a_video_that_cannot_be_read_is_named(self, tmp_path):
        videos = write_corpus(tmp_path / "videos")
        for name in ("clip0", "clip2"):
            (videos / "class1" / f"{name}.mkv").write_bytes(b"no video at all")
        with pytest.raises(SpikeDataError, match=r"clip0\.mkv: .*\(2 videos cannot be read\)"):
            open_videos(find_corpus(videos), SimulationRecipe(), index=tmp_path / "index")
        assert len(next((tmp_path / "index").iterdir()).read_text().splitlines()) == 4

    def test_a_video_that_is_another_by_now_is_named_where_it_is_read(self, tmp_path):
        videos = write_corpus(tmp_path / "videos")
        live = open_videos(find_corpus(videos), SimulationRecipe())
        path = videos / "class0" / "clip1.mkv"
        write_grey(path, random_frames(5, frames=3))
        with pytest.raises(SpikeDataError, match=r"clip1\.mkv: gives 3. ticks, it had 60 of 8x10"):
            live.read("class0__clip1", 0, 60)
        with pytest.raises(SpikeDataError, match=r"clip1\.mkv: gives 30 ticks, it had 60"):
            list(live.blocks("class0__clip1"))
        write_grey(path, random_frames(5, height=16))
        with pytest.raises(SpikeDataError, match=r"clip1\.mkv: is 16x10 pixels, it had 60 of 8x10"):
            live.read("class0__clip1", 0, 8)
        path.write_bytes(b"")
        with pytest.raises(SpikeDataError, match=r"clip1\.mkv: is empty"):
            live.read("class0__clip1", 0, 8)

    def test_a_recipe_that_does_not_fit_a_video_names_it(self, videos):
        with pytest.raises(SpikeDataError, match=r"clip0\.mkv: tick rate 10 Hz is below the frame"):
            open_videos(find_corpus(videos), SimulationRecipe(tick_rate_hz=10.0))


def test_threads_may_share_it(both):
    _, live = both
    clip_id = next(iter(live.clips))
    want, found = live.read(clip_id).packed_ghw, []
    threads = [
        threading.Thread(target=lambda: found.append(live.read(clip_id).packed_ghw))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(np.array_equal(got, want) for got in found)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three classes, four clips to learn from and two to be tested on."""
    root = tmp_path_factory.mktemp("home") / "videos"
    rows = []
    for c, label in enumerate(("up", "down", "left")):
        for number in range(6):
            name = f"{label}{number}.mkv"
            write_grey(root / name, random_frames(10 * c + number, 9, 12, 16))
            split = "train" if number < 4 else "test"
            rows.append([name, label, split, f"{label}{number}", f"it goes {label}"])
    with (root / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "label", "split", "group", "text"], *rows])
    return root


class TestTraining:
    """A recipe with a sensor is a recipe with the store that this sensor makes."""

    @staticmethod
    def recipe(*words):
        from test_cli_train import SMALL

        from spklip.recipe import read_recipe

        return read_recipe(os.devnull, [*SMALL, *words])

    def test_it_learns_and_answers_as_from_the_store(self, corpus, tmp_path):
        from spklip.run import evaluate_run, plan_run, recipe_of_run, run_recipe

        store = tmp_path / "s.zarr"
        sensor = SensorConfig(threshold=1.5)
        simulate_corpus(find_corpus(corpus), store, SimulationRecipe(sensor=sensor))
        want = run_recipe(
            self.recipe(f"data.path={json.dumps(str(store))}"), tmp_path / "a", progress=False
        )
        words = [f"data.path={json.dumps(str(corpus))}", "data.sensor={threshold: 1.5}"]
        assert plan_run(self.recipe(*words))["clips"]["train_clips"] == 12
        got = run_recipe(self.recipe(*words, "data.workers=1"), tmp_path / "b", progress=False)
        assert got["train"]["curve"] == want["train"]["curve"]
        assert len(got["train"]["curve"]) == 4
        for key in ("closed_set", "retrieval", "few_shot", "train_top1"):
            assert got[key] == want[key]
        assert got["data"] == want["data"] | {"path": str(corpus)}
        assert got["recipe"]["data"]["sensor"] == to_dict(sensor)
        again = evaluate_run(
            tmp_path / "b", recipe_of_run(tmp_path / "b"), tmp_path / "c", progress=False
        )
        assert again["closed_set"] == got["closed_set"]

    def test_a_sensor_of_what_are_no_videos_is_refused(self, corpus, tmp_path):
        from spklip.splits import open_splits

        store = tmp_path / "s.zarr"
        simulate_corpus(find_corpus(corpus), store, SimulationRecipe())
        recipe = self.recipe(f"data.path={json.dumps(str(store))}", "data.sensor=ideal")
        with pytest.raises(SpikeDataError, match=r"data.sensor=null reads spikes as they are"):
            open_splits(recipe)

    @pytest.mark.parametrize(
        ("sensor", "said"),
        [
            ("vidar-21khz", "unknown sensor 'vidar-21khz'"),
            ("{treshold: 2.0}", "Did you mean 'threshold'"),
            ("{threshold: -1}", "threshold must be a positive number"),
        ],
    )
    def test_a_sensor_that_is_none_is_refused(self, corpus, sensor, said):
        from spklip.splits import open_splits

        recipe = self.recipe(f"data.path={json.dumps(str(corpus))}", f"data.sensor={sensor}")
        with pytest.raises(SpikeDataError, match=said):
            open_splits(recipe)

    def test_a_preset_and_a_file_mean_what_they_mean_to_simulate(self, tmp_path):
        from spikedata import load_sensor
        from spklip.splits import sensor_of

        (tmp_path / "mine.yaml").write_text("threshold: 3.0\nseed: 4\n")
        assert sensor_of(str(tmp_path / "mine.yaml")) == SensorConfig(threshold=3.0, seed=4)
        assert sensor_of("vidar-20khz") == load_sensor("vidar-20khz")
        noisy = load_sensor("vidar-20khz")
        assert sensor_of(to_dict(noisy)) == noisy

    def test_the_command_trains_from_videos(self, corpus, tmp_path):
        from test_cli_train import SMALL

        words = [*SMALL, f"data.path={json.dumps(str(corpus))}", "data.sensor=ideal"]
        words = ["eval.baselines=none", *words, "train.max_steps=1"]
        (tmp_path / "live.yaml").write_text("{}\n")
        done = run_program("spklip-train", "live.yaml", *words, "--dry-run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "sensor:" in done.stdout
