"""Several trainings of one run: official splits, seeds, classes kept out, and going on."""

import itertools
import json
import os
import shutil

import numpy as np
import pytest
import torch
from test_cli_train import CLASSES, SMALL
from test_features import without_times

from spikedata import Clip, SpikeDataError, create_store
from spikedata.bits import pack_ticks
from spklip import trainings
from spklip.baselines import ROWS
from spklip.judge import read_judged
from spklip.recipe import read_recipe
from spklip.run import _Run, out_of_memory_told, plan_run, run_recipe
from spklip.splits import open_splits
from spklip.verdict import verdict


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three classes, twelve clips each; in official split k the clips of every third scene test."""
    path = tmp_path_factory.mktemp("home") / "clips.zarr"
    rng = np.random.default_rng(0)
    with create_store(path, recipe={}, class_names=CLASSES) as writer:
        for c, label in enumerate(CLASSES):
            for number in range(12):
                own = {
                    str(split): "test" if number % 3 == split - 1 else "train"
                    for split in (1, 2, 3)
                }
                clip = Clip(
                    id=f"{label}_{number}",
                    label=label,
                    split=own["1"],
                    group=f"scene {number}",
                    source={"official_splits": own},
                )
                bright_hw = np.zeros((12, 16))
                bright_hw[4 * c : 4 * c + 4] = 0.6
                spikes = rng.random((64, 12, 16)) < 0.1 + bright_hw
                with writer.clip(clip, height_px=12, width_px=16, tick_rate_hz=1000.0) as out:
                    out.append(pack_ticks(spikes.astype(np.uint8)))
                    out.finish(ticks=64, attributes={})
    return path


def recipe_of(store, *words):
    own = [*SMALL, "train.max_steps=2", f"data.path={json.dumps(str(store))}"]
    return read_recipe(os.devnull, [*own, *words])


def test_official_splits_are_trained_one_after_another_and_pooled(store, tmp_path):
    metrics = run_recipe(
        recipe_of(store, "eval.splits=[1, 2, 3]"), tmp_path / "run", progress=False
    )
    assert metrics["pooled"] == {
        "trainings": ["split-1", "split-2", "split-3"],
        "different_clips": 36,
        "scenes": 12,
    }
    assert metrics["train"]["trainings"] == 3
    assert metrics["closed_set"]["spklip"]["clips"] == 36
    own = [
        run_recipe(
            recipe_of(store, f"data.official_split={k}"), tmp_path / f"alone-{k}", progress=False
        )
        for k in (1, 2, 3)
    ]
    for name in ("spklip", "mean_rate", "histogram", "intervals"):
        shares = [one["closed_set"][name]["top1"]["value"] for one in own]
        assert metrics["closed_set"][name]["top1"]["value"] == pytest.approx(np.mean(shares))
        summed = sum(np.array(one["closed_set"][name]["confusion"]) for one in own)
        assert metrics["closed_set"][name]["confusion"] == summed.tolist()
    assert not (tmp_path / "run" / "trainings" / "split-2" / "checkpoints").exists()


def test_seeds_are_trained_one_after_another(store, tmp_path):
    metrics = run_recipe(recipe_of(store, "train.seeds=[0, 5]"), tmp_path / "run", progress=False)
    assert metrics["pooled"]["trainings"] == ["seed-0", "seed-5"]
    assert metrics["pooled"]["different_clips"] == 12
    assert metrics["closed_set"]["spklip"]["clips"] == 24


def test_classes_kept_out_are_not_trained_on_and_asked_about(store, tmp_path, monkeypatch):
    words = ["eval.unseen_draws=9", "eval.unseen_classes=2", "eval.queries=2"]
    monkeypatch.setattr(trainings, "LEAST_LEFT", 1)  # three classes are few
    metrics = run_recipe(recipe_of(store, *words), tmp_path / "run", progress=False)
    unseen = metrics["unseen"]
    draws = [tuple(sorted(draw)) for draw in unseen["draws"]]
    assert sorted(draws) == sorted(itertools.combinations(sorted(CLASSES), 2))
    assert metrics["train"]["trainings"] == 4
    for number in (1, 2, 3):
        judged = read_judged(tmp_path / "run" / "trainings" / f"unseen-{number}" / "answers.pt")
        assert not set(judged.held_out) & set(judged.fit_label_n.tolist())
    assert unseen["zero_shot"]["chance"] == 0.5
    # Dealt in both ways, two names are right in one half of the cases, whatever is answered.
    assert unseen["zero_shot"]["names_dealt_at_random"] == pytest.approx(0.5)
    top1 = unseen["zero_shot"]["top1"]["value"]
    assert np.mean(unseen["zero_shot"]["by_draw"]) == pytest.approx(top1)
    assert unseen["few_shot"]["ways"] == 2
    assert unseen["few_shot"]["by_group"]["mean_rate"]["2"]["value"] == 1  # a band of its own each


def test_classes_are_kept_out_only_where_two_are_left(store, tmp_path):
    words = ["eval.unseen_draws=9", "eval.unseen_classes=2", "eval.queries=2"]
    metrics = run_recipe(recipe_of(store, *words), tmp_path / "run", progress=False)
    assert "skipped" in metrics["unseen"]


def test_a_run_that_stops_between_trainings_goes_on_with_what_was_answered(
    store, tmp_path, monkeypatch
):
    recipe = recipe_of(store, "eval.splits=[1, 2, 3]")
    want = run_recipe(recipe, tmp_path / "whole", progress=False)
    judge = _Run._judge

    def fail(self, model, splits, recipe, name):
        if name == "split-3":
            raise KeyboardInterrupt
        return judge(self, model, splits, recipe, name)

    monkeypatch.setattr(_Run, "_judge", fail)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "cut", progress=False)
    kept = tmp_path / "cut" / "trainings" / "split-2" / "answers.pt"
    stamp = kept.stat().st_mtime_ns
    monkeypatch.setattr(_Run, "_judge", judge)
    got = run_recipe(recipe, tmp_path / "cut", resume=True, progress=False)
    assert kept.stat().st_mtime_ns == stamp
    got, want = without_times(got), without_times(want)
    # Weights that are read from a file lie otherwise in memory, and are summed otherwise.
    assert got.pop("calibration")["ece"] == pytest.approx(want.pop("calibration")["ece"], abs=1e-5)
    assert got == want


def test_kept_answers_that_are_none_are_told_in_one_line(tmp_path):
    file = tmp_path / "answers.pt"
    torch.save({"name": "split-2", "none": 1}, file)
    whole = file.read_bytes()
    for data in (b"", b"\xff" * 99, whole[:-40], whole):
        file.write_bytes(data)
        with pytest.raises(SpikeDataError, match=r"answers\.pt: cannot be read") as caught:
            read_judged(file)
        assert len(str(caught.value).splitlines()) == 1


def test_answers_are_kept_whole(store, tmp_path):
    recipe = recipe_of(store, "eval.splits=[1, 2]")
    metrics = run_recipe(recipe, tmp_path / "run", progress=False)
    judged = read_judged(tmp_path / "run" / "trainings" / "split-2" / "answers.pt")
    assert judged.name == "split-2"
    assert set(judged.scores) == {"spklip", "shuffled", "reversed", *metrics["differences"]}
    assert judged.scores["spklip"].shape == (12, 3)
    assert judged.few_shot["spklip"][1].dtype == bool
    splits = open_splits(recipe_of(store, "data.official_split=2"))
    alone = verdict([judged], [], splits, recipe)
    assert alone["closed_set"]["spklip"]["clips"] == 12
    json.dumps(alone, allow_nan=False)


def test_kept_answers_that_were_changed_are_told(store, tmp_path):
    run_recipe(recipe_of(store, "eval.splits=[1, 2]"), tmp_path / "run", progress=False)
    kept = tmp_path / "run" / "trainings" / "split-2" / "answers.pt"
    data = kept.read_bytes()
    at = data.index(read_judged(kept).scores["spklip"].numpy().tobytes())
    kept.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(SpikeDataError, match=r"answers\.pt is not what was written.*Delete it"):
        read_judged(kept)


def test_a_dry_run_names_the_trainings(store):
    plan = plan_run(recipe_of(store, "eval.splits=[1, 2]", "train.seeds=[0, 1]"))
    assert plan["trainings"] == [
        "split-1-seed-0",
        "split-1-seed-1",
        "split-2-seed-0",
        "split-2-seed-1",
    ]


def test_an_official_split_that_no_clip_tells_is_one_line(store, tmp_path):
    with pytest.raises(SpikeDataError, match="official split 4"):
        run_recipe(recipe_of(store, "data.official_split=4"), tmp_path / "run", progress=False)


def test_too_little_memory_is_one_line(store):
    recipe = recipe_of(store)
    words = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried"
    told = pytest.raises(SpikeDataError, match="not enough memory for steps of 4 clips")
    with told, out_of_memory_told(recipe):
        raise RuntimeError(words)
    told = pytest.raises(SpikeDataError, match="Lower train.batch_size")
    with told, out_of_memory_told(recipe):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="something else"), out_of_memory_told(recipe):
        raise RuntimeError("something else")


def test_every_row_has_a_title():
    from spklip.report import TITLES

    assert {*ROWS, "chance"} == set(TITLES)


def test_a_run_whose_second_training_fails_goes_on_at_that_training(store, tmp_path, monkeypatch):
    words = ["eval.unseen_draws=2", "eval.unseen_classes=2", "eval.queries=2"]
    monkeypatch.setattr(trainings, "LEAST_LEFT", 1)
    recipe = recipe_of(store, "train.seeds=[0, 5]", *words)
    want = run_recipe(recipe, tmp_path / "whole", progress=False)
    fit, fitted = _Run._fit, []

    def fail_once(self, recipe, splits, checkpoints, tower):
        fitted.append(checkpoints.parent.name)
        if len(fitted) == 3:
            raise RuntimeError("the machine went down")
        return fit(self, recipe, splits, checkpoints, tower)

    monkeypatch.setattr(_Run, "_fit", fail_once)
    with pytest.raises(RuntimeError, match="went down"):
        run_recipe(recipe, tmp_path / "cut", progress=False)
    assert not (tmp_path / "cut" / "metrics.json").exists()
    got = run_recipe(recipe, tmp_path / "cut", resume=True, progress=False)
    # The first training's model is the run's, and is read from its last checkpoint.
    assert fitted == ["cut", "seed-5", "unseen-1", "cut", "unseen-1", "unseen-2"]
    assert got["train"]["trainings"] == want["train"]["trainings"] == 4
    for part in ("closed_set", "differences", "few_shot", "unseen", "pooled", "order"):
        assert got[part] == want[part], part


def test_answers_of_another_recipe_are_not_taken_where_checkpoints_were_deleted(store, tmp_path):
    recipe = recipe_of(store, "train.seeds=[0, 5]")
    run_recipe(recipe, tmp_path / "run", progress=False)
    (tmp_path / "run" / "metrics.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    other = recipe_of(store, "train.seeds=[0, 5]", "train.learning_rate=0.5")
    with pytest.raises(SpikeDataError, match="learning_rate"):
        run_recipe(other, tmp_path / "run", resume=True, progress=False)
    with pytest.raises(SpikeDataError, match="unfinished run"):
        run_recipe(recipe, tmp_path / "run", progress=False)
