"""Differences, calibration and controls, against numbers worked by hand or by brute force."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spklip.evaluate import closed_set
from spklip.measures import calibration_error, class_draws, name_controls, paired_difference


def test_a_paired_difference_draws_groups_and_keeps_both_answers_of_a_clip_together():
    # Groups differ by 1, 0: a resample is 0, 1/2 or 1 with odds 1 : 2 : 1.
    difference = paired_difference([1, 1, 0, 0], [0, 0, 0, 0], ["g", "g", "h", "h"], resamples=200)
    assert (difference.value, difference.low, difference.high) == (0.5, 0.0, 1.0)
    # Both are right on half of the clips, always the same but two: as pairs that is nearly sure.
    a, b = np.tile([1, 0], 100), np.tile([1, 0], 100)
    b[:2] = [0, 1]
    difference = paired_difference(a, b, [str(n) for n in range(200)], seed=1)
    assert difference.value == 0.0
    # Deviation of the mean of 200 numbers, 198 of them 0, one -1, one 1.
    half = 1.96 * math.sqrt(2 / 200 / 200)
    assert difference.low == pytest.approx(-half, abs=0.004)
    assert difference.high == pytest.approx(half, abs=0.004)


def test_a_paired_difference_is_the_opposite_of_its_reverse():
    rng = np.random.default_rng(0)
    a, b, groups = rng.random(30), rng.random(30), list("abcdef" * 5)
    one, other = paired_difference(a, b, groups), paired_difference(b, a, groups)
    assert one.value == pytest.approx(a.mean() - b.mean())
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one == paired_difference(a, b, groups)
    assert one != paired_difference(a, b, groups, seed=1)


def test_weights_of_a_paired_difference_count():
    weighted = paired_difference([1, 0, 1], [0, 0, 1], list("abc"), weight_n=[2.0, 1.0, 0.0])
    assert weighted.value == pytest.approx(2 / 3)
    # c has no weight, so every resample is of a and b alone.
    assert weighted == paired_difference([1, 0], [0, 0], list("ab"), weight_n=[2.0, 1.0])


def test_models_that_answer_alike_may_still_differ_on_groups_not_met():
    # Wilson for 0 of G: z^2 / (G + z^2), z^2 = 3.8415.
    alike = paired_difference([1, 0, 1, 0], [1, 0, 1, 0], list("abcd"))
    assert alike.value == 0.0
    assert (alike.low, alike.high) == pytest.approx((-3.8415 / 7.8415, 3.8415 / 7.8415), abs=1e-4)


def test_a_single_group_says_little():
    single = paired_difference([1, 1, 1, 0], [0, 0, 1, 0], ["g"] * 4)
    unmet = 3.8415 / 4.8415
    assert single.value == 0.5
    assert single.low == pytest.approx(0.5 - 1.5 * unmet, abs=1e-4)
    assert single.high == pytest.approx(0.5 + 0.5 * unmet, abs=1e-4)
    always = paired_difference([1, 1], [0, 0], ["g", "h"])
    assert always.high == 1.0
    assert always.low == pytest.approx(1 - 2 * 3.8415 / 5.8415, abs=1e-4)


@pytest.mark.parametrize(
    ("a", "b", "groups", "weights"),
    [
        ([], [], [], None),
        ([1], [1, 0], ["g"], None),
        ([1], [1], ["g", "h"], None),
        ([1], [0], ["g"], [0.0]),
        ([1, 1], [0, 0], ["g", "h"], [-1.0, 2.0]),
    ],
)
def test_answers_that_do_not_pair_are_refused(a, b, groups, weights):
    with pytest.raises(ValueError, match=r"as many|weights"):
        paired_difference(a, b, groups, weight_n=weights)


def test_calibration_error_worked_by_hand():
    # Two classes: confidences 0.9 right, 0.9 wrong, 0.6 right, 0.5 wrong, for it is a tie.
    odds = torch.tensor([[9.0, 1.0], [1.0, 9.0], [6.0, 4.0], [5.0, 5.0]])
    result = calibration_error(odds.log(), torch.zeros(4, dtype=torch.long), bins=4)
    # Bins end at 1/4, 1/2, 3/4 and 1, and hold their upper end.
    assert result.count == [0, 1, 1, 2]
    assert result.accuracy == [None, 0.0, 1.0, 0.5]
    assert result.confidence[0] is None
    assert result.confidence[1:] == pytest.approx([0.5, 0.6, 0.9])
    assert result.ece == pytest.approx(1 / 4 * 0.5 + 1 / 4 * 0.4 + 2 / 4 * 0.4)


@given(st.integers(0, 2**32), st.integers(1, 20), st.sampled_from([0.1, 1.0, 20.0]))
def test_calibration_error_is_the_gap_of_each_bin_weighted_by_its_clips(seed, bins, scale):
    rng = np.random.default_rng(seed)
    score, label = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 5, 40)
    want = 0.0
    odds = np.exp(score.astype(float) * scale)
    share = odds / odds.sum(axis=1, keepdims=True)
    for k in range(bins):
        inside = (share.max(axis=1) > k / bins) & (share.max(axis=1) <= (k + 1) / bins)
        if inside.any():
            right = score[inside].argmax(axis=1) == label[inside]
            want += inside.mean() * abs(right.mean() - share.max(axis=1)[inside].mean())
    result = calibration_error(
        torch.from_numpy(score), torch.from_numpy(label), scale=scale, bins=bins
    )
    assert result.ece == pytest.approx(want, abs=1e-9)
    assert sum(result.count) == 40


def test_classes_that_cannot_be_are_no_trouble_and_rows_without_softmax_are_refused():
    score = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert calibration_error(score, torch.tensor([0])).ece == 0.0
    for wrong in (float("nan"), -torch.inf):
        with pytest.raises(ValueError, match="1 rows of scores have no softmax"):
            calibration_error(torch.full((1, 3), wrong), torch.tensor([0]))


def test_dealt_names_of_a_perfect_model_are_right_where_a_permutation_fixes_a_class():
    # Of the 6 permutations of three classes 1 fixes all, 3 fix one and 2 fix none.
    result = name_controls(torch.eye(3), torch.arange(3), draws=6)
    assert (result.permutations, result.complete) == (6, True)
    assert result.mean == pytest.approx(1 / 3)
    share = [0, 0, 1 / 3, 1 / 3, 1 / 3, 1]
    assert result.low == pytest.approx(np.quantile(share, 0.025))
    assert result.high == pytest.approx(np.quantile(share, 0.975))


def test_dealt_names_equal_judging_each_permutation():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (30,), generator=generator)
    score = torch.randint(0, 3, (30, 4), generator=generator).float()  # with ties
    names = list("abcd")
    share = [
        closed_set(score[:, list(dealt)], label, names, ["g"] * 30).top1.value
        for dealt in itertools.permutations(range(4))
    ]
    result = name_controls(score, label, draws=24)
    assert result.mean == pytest.approx(np.mean(share))
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(share, [0.025, 0.975])))


def test_random_deals_are_about_chance_and_repeat_with_their_seed():
    label = torch.arange(12).repeat(5)
    result = name_controls(torch.eye(12)[label], label, draws=500, seed=3)
    assert (result.permutations, result.complete) == (500, False)
    # A random permutation fixes 1 class on average, deviation 1: of 500, 1 +- 4 / sqrt(500).
    assert result.mean * 12 == pytest.approx(1.0, abs=0.18)
    assert result.low == 0.0
    assert result.high == pytest.approx(3 / 12)  # Poisson of mean 1: 0.981 are 3 or less
    assert result == name_controls(torch.eye(12)[label], label, draws=500, seed=3)


def test_scores_of_nothing_but_ties_are_never_right():
    result = name_controls(torch.full((4, 3), float("nan")), torch.tensor([0, 1, 2, 0]))
    assert (result.mean, result.low, result.high) == (0.0, 0.0, 0.0)


def test_controls_and_calibration_of_no_clips_are_refused():
    nothing = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    for judge in (calibration_error, name_controls):
        with pytest.raises(ValueError, match="expected clips"):
            judge(*nothing)


@given(data=st.data(), seed=st.integers(0, 2**32))
def test_class_draws_are_different_sets_in_which_classes_take_turns(data, seed):
    classes = data.draw(st.integers(2, 9))
    held_out = data.draw(st.integers(1, classes - 1))
    draws = data.draw(st.integers(1, 40))
    sets = class_draws(classes, held_out, draws, seed)
    assert len(set(sets)) == len(sets) == min(draws, math.comb(classes, held_out))
    assert all(len(set(one)) == held_out and list(one) == sorted(one) for one in sets)
    assert {c for one in sets for c in one} <= set(range(classes))
    times = Counter(c for one in sets for c in one)
    # Equal turns or one apart, also where nearly all sets are taken.
    assert max(times.values()) - min(times[c] for c in range(classes)) <= 1
    assert sets == class_draws(classes, held_out, draws, seed)


def test_every_class_of_a_large_corpus_is_held_out_equally_often():
    sets = class_draws(101, 20, 25, seed=7)
    times = Counter(c for one in sets for c in one)
    assert len(set(sets)) == 25
    assert {times[c] for c in range(101)} == {4, 5}  # 500 turns of 101 classes
    assert sets != class_draws(101, 20, 25, seed=8)


def test_all_sets_are_taken_where_there_are_no_more():
    assert class_draws(4, 2, 6) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert class_draws(3, 1, 99) == [(0,), (1,), (2,)]


@pytest.mark.parametrize(("classes", "held_out", "draws"), [(3, 0, 1), (3, 3, 1), (3, 1, 0)])
def test_class_draws_that_hold_out_none_or_all_are_refused(classes, held_out, draws):
    with pytest.raises(ValueError, match=f"cannot hold {held_out} of {classes}"):
        class_draws(classes, held_out, draws)
