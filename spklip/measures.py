"""How sure a number is: paired differences, calibration, and what chance alone would give.

Shapes: N clips, C classes, K bins, G groups, R resamples or permutations.

Features and models are unknown here, as in ``evaluate``; and ties count against the answer, as
they do there.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spklip.evaluate import ranks, wilson

_ATTEMPTS = 100
"""How often sets of classes are drawn at most, until classes are held out equally often."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A difference of two shares of right answers and its 95% interval."""

    value: float
    """The first share less the second, -1 to 1."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How far confidence is from accuracy; the K bins of equal width are a reliability plot."""

    ece: float
    """Expected calibration error: mean over clips of |accuracy - confidence| of their bin."""
    count: list[int]
    """Clips in each bin; bin k holds confidences above k / K, up to (k + 1) / K."""
    confidence: list[float | None]
    """Mean confidence of each bin; none if it is empty."""
    accuracy: list[float | None]
    """Share of right answers in each bin; none if it is empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DealtNames:
    """Accuracy of the same scores once the names of the classes are dealt at random."""

    mean: float
    """Mean over the permutations; 1 / C is what to expect."""
    low: float
    """2.5% of the permutations are below this ..."""
    high: float
    """... and 2.5% above this: true names have to do better."""
    permutations: int
    """How many were tried."""
    complete: bool
    """Whether these are all there are, the true names among them, rather than random ones."""


def paired_difference(
    right_a_n: NDArray[Any],
    right_b_n: NDArray[Any],
    group_n: Sequence[str],
    *,
    weight_n: NDArray[Any] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Weighted mean of a less that of b on the same clips, with a percentile interval.

    Whole groups are drawn, and a clip's two answers always together: what makes a clip hard for
    both falls out, so the interval is narrower than those of a and b side by side.

    Where all groups differ alike (a single group; two models that answer alike) every resample
    gives the same number, and an interval of no width would claim certainty. Then the interval
    allows for groups not met: their share is at most the upper end ``u`` of Wilson's interval for
    0 of G, and their difference may be anything from -1 to 1. It runs from ``value - u (1 +
    value)`` to ``value + u (1 - value)``: for a single group and a difference of 0, from -0.79 to
    0.79; for 20 groups, from -0.16 to 0.16.

    Args:
        right_a_n: numbers (N,), 0 to 1 each: answers of a.
        right_b_n: numbers (N,), of b, for the same clips in the same order.
        group_n: group of each clip.
        weight_n: weight of each clip, 0 or more; all 1 if not given.
        resamples: how often groups are drawn.
        seed: of the draws.

    Raises:
        ValueError: no clips, lengths that differ, or weights that are negative or all 0.
    """
    right_a_n, right_b_n = np.asarray(right_a_n, float), np.asarray(right_b_n, float)
    weight_n = np.ones(len(right_a_n)) if weight_n is None else np.asarray(weight_n, float)
    lengths = [len(right_a_n), len(right_b_n), len(group_n), len(weight_n)]
    if len(set(lengths)) > 1 or lengths[0] == 0:
        raise ValueError(f"answers a and b, groups and weights must be as many, got {lengths}")
    if not ((weight_n >= 0).all() and weight_n.any()):
        raise ValueError("weights must be 0 or more, and not all 0")
    used_n = weight_n > 0  # a group without weight is no group
    _, group_of_n = np.unique(np.asarray(group_n, dtype=str)[used_n], return_inverse=True)
    weight_g = np.bincount(group_of_n, weights=weight_n[used_n])
    differing_g = np.bincount(group_of_n, weights=(weight_n * (right_a_n - right_b_n))[used_n])
    return _bootstrap(differing_g, weight_g, resamples, seed)


def _bootstrap(
    differing_g: NDArray[Any], weight_g: NDArray[Any], resamples: int, seed: int
) -> Difference:
    """The interval from each group's weight and its sum of weighted differences."""
    groups, value = len(weight_g), float(differing_g.sum() / weight_g.sum())
    if np.ptp(differing_g / weight_g) < 1e-9:  # rounding aside, all groups differ alike
        unmet = wilson(0, groups).high
        return Difference(
            value=value, low=value - unmet * (1 + value), high=value + unmet * (1 - value)
        )
    draw_rg = np.random.default_rng(seed).integers(0, groups, (resamples, groups))
    value_r = differing_g[draw_rg].sum(axis=1) / weight_g[draw_rg].sum(axis=1)
    low, high = np.quantile(value_r, [0.025, 0.975])
    return Difference(value=value, low=float(low), high=float(high))


def calibration_error(
    score_nc: Tensor, label_n: Tensor, *, scale: float = 1.0, bins: int = 15
) -> Calibration:
    """Expected calibration error (ECE) of the most probable class, in bins of equal width.

    Args:
        score_nc: float (N, C), logits over ``scale``; -inf for a class that cannot be.
        label_n: int64 (N,), true class.
        scale: what scores are multiplied by before the softmax: the inverse temperature.
        bins: K.

    Raises:
        ValueError: no clips, fewer than one bin, or a row of scores that has no softmax.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
    arXiv:1706.04599.
    """
    if bins < 1 or not len(score_nc):
        raise ValueError(f"expected clips and at least 1 bin, got {len(score_nc)} and {bins}")
    confidence_n = (score_nc.cpu().double() * scale).softmax(dim=1).amax(dim=1).numpy()
    if np.isnan(confidence_n).any():
        raise ValueError(f"{np.isnan(confidence_n).sum()} rows of scores have no softmax")
    right_n = _right_answers(score_nc, label_n)
    bin_n = np.searchsorted(np.arange(1, bins) / bins, confidence_n)  # (k / K, (k + 1) / K]
    count_k = np.bincount(bin_n, minlength=bins)
    confidence_k = np.bincount(bin_n, weights=confidence_n, minlength=bins)
    right_k = np.bincount(bin_n, weights=right_n, minlength=bins)
    return Calibration(
        ece=float(np.abs(right_k - confidence_k).sum() / len(bin_n)),
        count=count_k.tolist(),
        confidence=_means(confidence_k, count_k),
        accuracy=_means(right_k, count_k),
    )


def _right_answers(score_nc: Tensor, label_n: Tensor) -> NDArray[np.bool_]:
    right_nc = torch.nn.functional.one_hot(label_n.cpu(), score_nc.shape[1]).bool()
    right_n: NDArray[np.bool_] = ranks(score_nc.cpu(), right_nc) == 1
    return right_n


def _means(sum_k: NDArray[Any], count_k: NDArray[Any]) -> list[float | None]:
    pairs = zip(sum_k.tolist(), count_k.tolist(), strict=True)
    return [total / count if count else None for total, count in pairs]


def name_controls(
    score_nc: Tensor, label_n: Tensor, *, draws: int = 1000, seed: int = 0
) -> DealtNames:
    """Accuracy of zero-shot answers if the class names were dealt at random among the classes.

    Columns of scores are permuted. A model that tells classes apart but does not know which name
    is whose does no better than this, however well its answers fall into clusters.

    Args:
        score_nc: float (N, C), one column for the name of every class.
        label_n: int64 (N,), true class.
        draws: random permutations; if there are no more than so many, each is taken once.
        seed: of the draws.

    Raises:
        ValueError: no clips, or fewer than one draw.
    """
    if draws < 1 or not len(score_nc):
        raise ValueError(f"expected clips and at least 1 draw, got {len(score_nc)} and {draws}")
    classes = score_nc.shape[1]
    answered_cc = _answers(score_nc, label_n)
    complete = math.factorial(classes) <= draws
    if complete:
        dealt_rc = np.array(list(itertools.permutations(range(classes))))
    else:
        rng = np.random.default_rng(seed)
        dealt_rc = np.stack([rng.permutation(classes) for _ in range(draws)])
    share_r = answered_cc[np.arange(classes), dealt_rc].sum(axis=1) / len(score_nc)
    low, high = np.quantile(share_r, [0.025, 0.975])
    return DealtNames(
        mean=float(share_r.mean()),
        low=float(low),
        high=float(high),
        permutations=len(share_r),
        complete=complete,
    )


def _answers(score_nc: Tensor, label_n: Tensor) -> NDArray[np.int64]:
    """Clips of each class (row) by their answer (column); a tie is no answer."""
    score_nc = torch.nan_to_num(score_nc.cpu().float(), nan=-torch.inf)
    highest_nc = score_nc >= score_nc.amax(dim=1, keepdim=True)
    clear_n = (highest_nc.sum(dim=1) == 1).numpy()
    answer_n, truth_n = highest_nc.int().argmax(dim=1).numpy(), label_n.cpu().numpy()
    answered_cc = np.zeros((score_nc.shape[1],) * 2, dtype=np.int64)
    np.add.at(answered_cc, (truth_n[clear_n], answer_n[clear_n]), 1)
    return answered_cc


def class_draws(classes: int, held_out: int, draws: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Different sets of classes to hold out of training, drawn so that classes take turns.

    The classes held out least often so far come first, in random order. Where that gives a set
    drawn before, the order is loosened until it does not; if classes then differ by more than one
    turn, all is drawn again, 100 times at most, and the most even draw is taken.

    Args:
        classes: C.
        held_out: classes of a set.
        draws: sets wanted; if there are no more than so many, each is taken once.
        seed: of the draws.

    Returns:
        Sets of ``held_out`` classes, each in ascending order.

    Raises:
        ValueError: a set would be empty or leave no class for training, or no set is wanted.
    """
    if not 0 < held_out < classes or draws < 1:
        raise ValueError(
            f"cannot hold {held_out} of {classes} classes out {draws} times: expected at least 1 "
            "class held out, 1 left and 1 draw"
        )
    if math.comb(classes, held_out) <= draws:
        return list(itertools.combinations(range(classes), held_out))
    rng = np.random.default_rng(seed)
    best, unevenness = _take_turns(rng, classes, held_out, draws)
    for _ in range(_ATTEMPTS - 1):
        if unevenness <= 1:  # as even as can be
            break
        again = _take_turns(rng, classes, held_out, draws)
        best, unevenness = min((best, unevenness), again, key=lambda one: one[1])
    return best


def _take_turns(
    rng: np.random.Generator, classes: int, held_out: int, draws: int
) -> tuple[list[tuple[int, ...]], int]:
    """Different sets, and how many turns the most chosen class has more than the least."""
    times_c, slack = np.zeros(classes, dtype=int), 1.0
    found: dict[tuple[int, ...], None] = {}
    while len(found) < draws:
        order_c = np.argsort(times_c + slack * rng.random(classes))
        chosen = tuple(sorted(order_c[:held_out].tolist()))
        slack = 1.1 * slack if chosen in found else 1.0  # up to 1, only equals change places
        if chosen not in found:
            found[chosen] = None
            times_c[list(chosen)] += 1
    return list(found), int(np.ptp(times_c))
