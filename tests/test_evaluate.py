"""Features in, numbers out; every expected number is worked by hand or by brute force."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spklip.evaluate import (
    Answers,
    bootstrap_groups,
    closed_set,
    draw_episodes,
    few_shot,
    fit_linear,
    over_episodes,
    over_groups,
    ranks,
    retrieval,
    shared_groups,
    start_strength,
    wilson,
)


def test_wilson_interval_of_a_worked_case():
    # 8 of 10, z = 1.96: centre (0.8 + 0.19208) / 1.38416, half width from the same formula.
    estimate = wilson(8, 10)
    assert estimate.value == 0.8
    assert estimate.low == pytest.approx(0.4902, abs=1e-4)
    assert estimate.high == pytest.approx(0.9433, abs=1e-4)


def test_wilson_interval_of_nothing_right_starts_at_zero_and_is_not_empty():
    estimate = wilson(0, 6)
    assert estimate.low == 0
    assert estimate.high == pytest.approx(3.8415 / (6 + 3.8415), abs=1e-4)


def test_ties_count_against_the_answer():
    score_nc = torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    right_nc = torch.eye(3, dtype=torch.bool)[[0, 0, 1]]
    assert ranks(score_nc, right_nc).tolist() == [2, 1, 3]


def test_a_model_that_scores_nan_gets_nothing_right():
    score_nc = torch.full((2, 3), float("nan"))
    assert ranks(score_nc, torch.eye(3, dtype=torch.bool)[:2]).tolist() == [3, 3]


@given(seed=st.integers(0, 10_000))
def test_rank_is_that_of_the_best_right_answer_in_the_sorted_list(seed):
    rng = np.random.default_rng(seed)
    score = rng.permutation(20).reshape(4, 5).astype(np.float32)  # no ties
    right = rng.random((4, 5)) < 0.4
    right[np.arange(4), rng.integers(0, 5, 4)] = True
    want = []
    for row in range(4):
        order = np.argsort(-score[row])
        want.append(1 + next(i for i, item in enumerate(order) if right[row, item]))
    assert ranks(torch.from_numpy(score), torch.from_numpy(right)).tolist() == want


def test_closed_set_of_a_worked_case():
    names = ["a", "b", "c", "d", "e", "f"]
    score_nc = torch.zeros(4, 6)
    score_nc[0, 0] = 1  # a, right
    score_nc[1] = torch.tensor([1.0, 0.5, 0, 0, 0, 0])  # b, second
    score_nc[2, 2] = 1  # c, right
    score_nc[3] = torch.tensor([5.0, 0, 4, 3, 2, 1])  # b, last
    result = closed_set(score_nc, torch.tensor([0, 1, 2, 1]), names, list("wxyz"))
    assert result.top1.value == 0.5
    assert result.top5 == 0.75
    assert result.mean_class_top1 == pytest.approx(2 / 3)
    assert result.confusion[1][0] == 2
    assert result.confusion[0][0] == 1
    assert sum(map(sum, result.confusion)) == 4
    assert set(result.per_class) == {"a", "b", "c"}
    assert result.per_class["b"]["clips"] == 2
    assert result.top1.low <= 0.5 <= result.top1.high


def test_closed_set_with_five_classes_has_no_top5():
    result = closed_set(torch.eye(5), torch.arange(5), list("abcde"), list("abcde"))
    assert result.top5 is None
    assert result.top1.value == 1
    assert result.top1.low < 1


def test_closed_set_refuses_scores_of_fewer_classes_than_the_store_holds():
    with pytest.raises(ValueError, match="3 classes"):
        closed_set(torch.eye(2), torch.arange(2), list("abc"), list("ab"))


def test_bootstrap_draws_whole_groups():
    # Two groups, one all right and one all wrong: a resample is 0, 1/2 or 1, so the 95% interval
    # is everything; drawn clip by clip it would be about 0.5 +- 0.1.
    right = np.repeat([0.0, 1.0], 50)
    by_group = bootstrap_groups(right, ["g1"] * 50 + ["g2"] * 50)
    assert (by_group.value, by_group.low, by_group.high) == (0.5, 0.0, 1.0)
    by_clip = bootstrap_groups(right, [str(i) for i in range(100)])
    assert by_clip.low == pytest.approx(0.4, abs=0.03)
    assert by_clip.high == pytest.approx(0.6, abs=0.03)


def test_retrieval_counts_any_right_answer_and_tells_how_many_there_are():
    # Query 0: right answers 0 and 1, best at rank 2. Query 1: right answer 2, rank 1.
    # Query 2 has none and is not asked.
    score = torch.tensor([[0.5, 0.1, 0.9], [0.1, 0.2, 0.3], [1.0, 0.0, 0.0]])
    right = torch.tensor([[True, True, False], [False, False, True], [False, False, False]])
    result = retrieval(score, right)
    assert (result.queries, result.gallery) == (2, 3)
    assert result.recall == {"R@1": 0.5, "R@5": 1.0, "R@10": 1.0}
    assert result.median_rank == 1.5
    assert result.right_per_query == 1.5


def test_retrieval_without_any_right_answer_is_refused():
    with pytest.raises(ValueError, match="no query"):
        retrieval(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool))


def _labels() -> tuple[np.ndarray, np.ndarray]:
    """Five classes with 18 training and 6 test clips, two with one of each."""
    train = np.array([c for c in range(5) for _ in range(18)] + [5, 6])
    test = np.array([c for c in range(5) for _ in range(6)] + [5, 6])
    return train, test


def test_episodes_take_support_from_training_and_queries_from_test():
    train, test = _labels()
    drawn = draw_episodes(train, test, range(7), episodes=20)
    assert drawn.classes == (0, 1, 2, 3, 4)
    assert drawn.left_out == (5, 6)
    assert drawn.ways == 5
    assert list(drawn.support) == [1, 2, 4, 8]
    for k, support in drawn.support.items():
        assert support.shape == (20, 5, k)
        assert (train[support] == drawn.class_ew[:, :, None]).all()
        assert all(len(set(clips)) == k for clips in support.reshape(-1, k).tolist())
    assert (test[drawn.query_ewq] == drawn.class_ew[:, :, None]).all()
    assert (drawn.support[2] == drawn.support[8][:, :, :2]).all()


def test_shots_that_too_few_classes_have_are_dropped():
    train = np.repeat(np.arange(5), [2, 2, 2, 2, 9])
    drawn = draw_episodes(train, np.repeat(np.arange(5), 5), range(5), episodes=2)
    assert list(drawn.support) == [1, 2]


def test_fewer_classes_than_ways_make_smaller_episodes():
    train, test = np.repeat(np.arange(3), 8), np.repeat(np.arange(3), 5)
    assert draw_episodes(train, test, range(3), episodes=2).ways == 3


def test_one_class_is_no_episode():
    with pytest.raises(ValueError, match="2 classes"):
        draw_episodes(np.zeros(9), np.zeros(9), [0], episodes=2)


def test_linear_fit_is_where_the_gradient_is_zero():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 12, 4, generator=generator)
    label = torch.randint(0, 3, (2, 12), generator=generator)
    start = torch.randn(2, 3, 4, generator=generator)
    weight = fit_linear(x, label, start, penalty=0.7)
    # d/dW of sum cross-entropy + 0.7/2 |W - start|^2, written out.
    share = (x.double() @ weight.transpose(1, 2)).softmax(dim=2)
    error = share - torch.nn.functional.one_hot(label, 3)
    gradient = error.transpose(1, 2) @ x.double() + 0.7 * (weight - start.double())
    assert gradient.abs().max() < 1e-4


def test_linear_fit_under_a_strong_pull_stays_at_its_start():
    start = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(1))
    weight = fit_linear(torch.ones(1, 3, 4), torch.tensor([[0, 1, 2]]), start, penalty=1e9)
    assert torch.allclose(weight, start.double(), atol=1e-6)


def test_a_linear_fit_does_not_depend_on_what_is_fitted_beside_it():
    generator = torch.Generator().manual_seed(0)
    normalize = torch.nn.functional.normalize
    x = 100 * normalize(torch.randn(4, 20, 32, generator=generator), dim=2)
    start = normalize(torch.randn(4, 4, 32, generator=generator), dim=2)
    label = torch.arange(4).repeat_interleave(5).expand(4, -1)
    together = fit_linear(x, label, start)
    alone = torch.cat([fit_linear(x[e : e + 1], label[:1], start[e : e + 1]) for e in range(4)])
    # Both lie within |gradient| / penalty of the optimum: 128 elements of at most 1e-5 each.
    assert (together - alone).norm(dim=(1, 2)).max() <= 2 * 1e-5 * math.sqrt(128)


def test_a_linear_fit_that_stops_too_soon_says_so(caplog):
    generator = torch.Generator().manual_seed(0)
    x = 50 * torch.randn(1, 12, 4, generator=generator)
    fit_linear(x, torch.arange(12)[None] % 3, torch.zeros(1, 3, 4), steps=2)
    assert "has not converged" in caplog.text


def test_few_shot_of_separable_features_is_perfect_and_of_noise_is_chance():
    train, test = _labels()
    drawn = draw_episodes(train, test, range(7), episodes=40)
    clean = torch.eye(7) * 10
    right = few_shot(clean[train], clean[test], torch.zeros(7, 7), drawn, from_text=False)
    assert {k: share.mean() for k, share in right.items()} == dict.fromkeys((1, 2, 4, 8), 1.0)
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(len(x), 16, generator=generator) for x in (train, test)]
    right = few_shot(*noise, torch.zeros(7, 16), drawn, from_text=True)
    assert right[0].mean() == 0  # a start of 0 ties every class
    assert 0.05 < right[1].mean() < 0.35


def test_zero_shots_are_judged_from_the_start_alone():
    train, test = _labels()
    drawn = draw_episodes(train, test, range(7), episodes=10)
    text = torch.eye(7)
    right = few_shot(text[train] * 0, text[test], text, drawn, from_text=True)
    assert right[0].all()


def test_texts_are_trusted_as_far_as_the_support_clips_bear_them_out():
    # Two classes, a margin of 1: three clips right and two wrong are likeliest where
    # sigmoid(strength) = 3/5, at ln 1.5 = 0.405; the steps are of 1/40.
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    score_enc = torch.tensor([[right] * 3 + [wrong] * 2, [right] * 5, [wrong] * 5])
    label_en = torch.zeros(3, 5, dtype=torch.int64)
    assert start_strength(score_enc, label_en).tolist() == [0.4, 1.0, 0.0]


def test_texts_that_mislead_do_not_hold_a_head_back():
    train, test = _labels()
    drawn = draw_episodes(train, test, range(7), episodes=20)
    clean, misled = torch.eye(7) * 3, 20 * torch.eye(7).roll(1, dims=0)
    right = few_shot(clean[train], clean[test], misled, drawn, from_text=True)
    assert right[0].mean() < 0.2
    assert {k: right[k].mean() for k in (1, 2, 4, 8)} == dict.fromkeys((1, 2, 4, 8), 1.0)


def test_the_interval_over_groups_is_wider_than_over_many_episodes():
    train, test = _labels()
    drawn = draw_episodes(train, test, range(7), episodes=80)
    generator = torch.Generator().manual_seed(3)
    noise = [torch.randn(len(x), 16, generator=generator) for x in (train, test)]
    groups = [f"{c}/{i % 4}" for i, c in enumerate(test)]
    right = few_shot(*noise, torch.zeros(7, 16), drawn, from_text=False)
    parts = [Answers(right[4], drawn.query_ewq, groups)]
    episodes, by_group = over_episodes(parts), over_groups(parts, resamples=1000, seed=0)
    assert by_group.value == pytest.approx(episodes.value)
    assert by_group.high - by_group.low > episodes.high - episodes.low
    half = 1.959964 * math.sqrt(episodes.value * (1 - episodes.value) / 25 / 80)
    assert episodes.high - episodes.low < 4 * half


def test_groups_on_both_sides_are_found_and_clips_without_group_are_not_compared():
    assert shared_groups(["a", "b", None], ["b", "c", None]) == ("b",)
    assert shared_groups([None, ""], [None, ""]) == ()
