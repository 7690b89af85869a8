"""Answers of several trainings to numbers, worked by hand, and answers kept in a file."""

import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spklip.evaluate import Episodes, closed_set
from spklip.judge import Judged, read_judged, write_judged
from spklip.recipe import EvalConfig, Recipe
from spklip.verdict import verdict

NAMES = ["run", "walk"]
GAP = math.log(3)
"""Between two logits: the softmax of the higher is 3/4."""


def scores_of(answers, gap=GAP):
    """Scores (N, 2) whose higher one is the answer."""
    return gap * torch.nn.functional.one_hot(torch.tensor(answers), 2).float()


def episodes_of(query_ewq):
    query_ewq = np.array(query_ewq)
    class_ew = np.tile([0, 1], (len(query_ewq), 1))
    return Episodes(
        classes=(0, 1),
        left_out=(),
        ways=2,
        queries=1,
        class_ew=class_ew,
        support={1: class_ew[:, :, None]},
        query_ewq=query_ewq,
    )


def two_trainings():
    """Six clips of four scenes; scene g1 is asked about in both trainings."""
    one = Judged(
        name="split-1",
        ids=["c1", "c2", "c3", "c4"],
        groups=["g1", "g1", "g2", "g3"],
        label_n=torch.tensor([0, 1, 0, 1]),
        fit_label_n=torch.tensor([0, 0, 1]),
        scale=1.0,
        train_top1=1.0,
        scores={
            "spklip": scores_of([0, 1, 0, 0]),
            "shuffled": scores_of([1, 1, 0, 0]),
            "mean_rate": scores_of([0, 0, 1, 0]),
            "tower": scores_of([0, 0, 0, 0]),
        },
        retrieval=(torch.eye(2), torch.eye(2).bool()),
        episodes=episodes_of([[[0], [1]], [[2], [3]]]),
        few_shot={"spklip": {1: np.array([[[True], [True]], [[True], [False]]])}},
    )
    two = Judged(
        name="split-2",
        ids=["c5", "c6"],
        groups=["g1", "g4"],
        label_n=torch.tensor([0, 1]),
        fit_label_n=torch.tensor([0, 1, 1]),
        scale=2.0,
        train_top1=0.5,
        scores={
            "spklip": scores_of([0, 0], GAP / 2),
            "shuffled": scores_of([1, 0], GAP / 2),
            "mean_rate": scores_of([1, 1]),
        },
        retrieval=(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2).bool()),
        episodes=episodes_of([[[0], [1]]]),
        few_shot={"spklip": {1: np.array([[[True], [False]]])}},
    )
    return [one, two]


def told_of(judged, unseen=(), names=NAMES, **config):
    recipe = Recipe(eval=EvalConfig(**config))
    told = verdict(judged, unseen, SimpleNamespace(class_names=names), recipe)
    json.dumps(told, allow_nan=False)
    return told


def quantiles_over_groups(sums, weights):
    """The 2.5% and 97.5% quantiles over every way in which as many groups can be drawn."""
    drawn = [list(one) for one in itertools.product(range(len(sums)), repeat=len(sums))]
    sums, weights = np.array(sums), np.array(weights)
    shares = [sums[one].sum() / weights[one].sum() for one in drawn]
    return np.quantile(shares, [0.025, 0.975])


def test_pooled_closed_set_is_that_of_all_scores_together():
    judged = two_trainings()
    told = told_of(judged, seed=3, resamples=200)
    whole = closed_set(
        torch.cat([one.scores["spklip"] for one in judged]),
        torch.tensor([0, 1, 0, 1, 0, 1]),
        NAMES,
        ["g1", "g1", "g2", "g3", "g1", "g4"],
        seed=3,
        resamples=200,
    )
    assert told["closed_set"]["spklip"] == dataclasses.asdict(whole)
    assert told["closed_set"]["spklip"]["confusion"] == [[3, 0], [2, 1]]
    assert told["pooled"] == {
        "trainings": ["split-1", "split-2"],
        "different_clips": 6,
        "scenes": 4,
    }
    assert told["train_top1"] == 0.75


def test_a_baseline_that_one_training_lacks_is_left_out():
    told = told_of(two_trainings())
    assert set(told["closed_set"]) == {"spklip", "mean_rate", "chance"}
    assert set(told["differences"]) == {"mean_rate"}


def test_a_clip_asked_about_in_two_trainings_counts_twice_and_is_one_clip():
    one, _ = two_trainings()
    told = told_of([one, dataclasses.replace(one, name="seed-1")])
    assert told["closed_set"]["spklip"]["clips"] == 8
    assert told["pooled"]["different_clips"] == 4
    assert told["pooled"]["scenes"] == 3


def test_paired_differences_are_over_the_clips_and_scenes_of_all_trainings():
    found = told_of(two_trainings(), resamples=20_000)["differences"]["mean_rate"]
    # The model is right on c1, c2, c3, c5, mean rate on c1 and c6: 4/6 - 2/6.
    assert found["value"] == pytest.approx(2 / 6)
    # Of g1 (c1, c2, c5) 0 + 1 + 1, of g2 1, of g3 0, of g4 -1.
    low, high = quantiles_over_groups([2, 1, 0, -1], [3, 1, 1, 1])
    # 20,000 draws of 256 equally likely: what is drawn differs by some thousandths in share.
    assert found["low"] == pytest.approx(low, abs=0.05)
    assert found["high"] == pytest.approx(high, abs=0.05)


def test_what_another_order_of_windows_costs_is_counted_over_all_clips():
    found = told_of(two_trainings())["order"]
    assert set(found) == {"shuffled"}  # neither was played backwards
    # Shuffled, c2 and c3 stay right; c1 and c5 are answered otherwise.
    assert found["shuffled"]["top1"]["value"] == pytest.approx(2 / 6)
    assert found["shuffled"]["difference"]["value"] == pytest.approx(-2 / 6)
    assert found["shuffled"]["other_answers"] == pytest.approx(2 / 6)


def test_each_training_is_calibrated_by_its_own_temperature():
    found = told_of(two_trainings())["calibration"]
    # All six answers are given 3/4, and four of them are right.
    assert found["ece"] == pytest.approx(3 / 4 - 4 / 6)
    assert sum(found["count"]) == max(found["count"]) == 6


def test_episodes_of_all_trainings_are_pooled():
    found = told_of(two_trainings())["few_shot"]
    # Shares of the three episodes: 1, 1/2, 1/2; their deviation is the root of 1/12.
    over = found["top1"]["spklip"]["1"]
    half = 1.959964 * math.sqrt(1 / 12 / 3)
    assert over["value"] == pytest.approx(2 / 3)
    assert (over["low"], over["high"]) == pytest.approx((2 / 3 - half, 2 / 3 + half))
    by_group = found["by_group"]["spklip"]["1"]
    assert by_group["value"] == pytest.approx(2 / 3)
    assert by_group["low"] < over["low"]
    assert found["shots"] == ["1"]
    assert found["seen_in_training"].startswith("All of these classes were seen")


def test_each_training_searches_its_own_clips():
    found = told_of(two_trainings())["retrieval"]
    # The second training's texts both find its first clip, and a clip's texts tie.
    assert found["text_to_video"]["recall"]["R@1"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["video_to_text"]["recall"]["R@1"] == pytest.approx((1 + 0) / 2)
    assert found["text_to_video"]["queries"] == 2


def unseen_of(number, held_out, labels, answers, groups):
    score_nc = torch.nn.functional.one_hot(torch.tensor(answers), 4).float()
    score_nc[:, [c for c in range(4) if c not in held_out]] += 2  # classes that were trained
    return Judged(
        name=f"unseen-{number}",
        ids=[f"clip {n}" for n in range(len(labels))],
        groups=groups,
        label_n=torch.tensor(labels),
        fit_label_n=torch.tensor([c for c in range(4) if c not in held_out]),
        scale=1.0,
        held_out=held_out,
        scores={"spklip": score_nc},
        skipped="too few clips",
    )


def test_unseen_classes_are_asked_about_among_themselves():
    unseen = [
        unseen_of(1, [0, 1], [0, 1, 2, 3], [0, 1, 2, 3], ["g1", "g2", "g3", "g4"]),
        unseen_of(2, [1, 2, 3], [0, 1, 2, 3], [0, 1, 1, 1], ["g1", "g2", "g3", "g4"]),
    ]
    names = ["run", "walk", "jump", "sit"]
    judged = [
        dataclasses.replace(
            unseen[0], held_out=[], train_top1=1.0, retrieval=(torch.eye(2), torch.eye(2).bool())
        )
    ]
    found = told_of(judged, unseen, names)["unseen"]
    assert found["draws"] == [["run", "walk"], ["walk", "jump", "sit"]]
    zero = found["zero_shot"]
    assert zero["by_draw"] == pytest.approx([1, 1 / 3])
    assert zero["top1"]["value"] == pytest.approx(3 / 5)
    # Two clips are asked about among two classes, three among three.
    assert zero["chance"] == pytest.approx((2 / 2 + 3 / 3) / 5)
    assert zero["names_dealt_at_random"] == pytest.approx(zero["chance"])
    assert found["few_shot"] == {"skipped": "too few clips"}


def test_without_unseen_classes_the_reason_is_told():
    assert "unseen_draws" in told_of(two_trainings())["unseen"]["skipped"]


def test_without_classes_retrieval_alone_is_judged():
    judged = [
        dataclasses.replace(one, scores={}, episodes=None, few_shot={}, skipped="no class")
        for one in two_trainings()
    ]
    told = told_of(judged, names=[])
    assert told["closed_set"] == told["unseen"] == told["order"] == {"skipped": "no class"}
    assert told["train_top1"] is None
    assert told["retrieval"]["text_to_video"]["queries"] == 2


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for own, its in zip(one, other, strict=True):
            assert_same(own, its)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    else:
        assert one == other


@pytest.mark.parametrize("which", [0, 1, 2])
def test_answers_that_were_written_are_read_back(tmp_path, which):
    without = unseen_of(1, [0, 1], [0, 1], [0, 1], ["g1", "g2"])
    judged = [*two_trainings(), without][which]
    write_judged(tmp_path / "answers.pt", judged)
    assert_same(read_judged(tmp_path / "answers.pt"), judged)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.pt", "sha256.json"]


def test_read_answers_give_the_same_numbers(tmp_path):
    judged = two_trainings()
    for one in judged:
        write_judged(tmp_path / one.name, one)
    again = [read_judged(tmp_path / one.name) for one in judged]
    assert told_of(again) == told_of(judged)
