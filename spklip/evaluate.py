"""Features in, numbers out: closed set, retrieval both ways, and k-shot episodes.

Shapes: N clips, C classes, M texts, D features, E episodes, W ways (classes of an episode),
K shots (support clips of a class), Q queries (test clips of a class).

Nothing here knows a model or a file. Ties always count against the answer: a model that gives
every class the same score gets nothing right.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GRADIENT_TOLERANCE = 1e-5
"""Largest element of the gradient at which a linear classifier counts as fitted."""
STRENGTH_STEPS = 40
"""Steps from no trust in the texts to full trust that a few-shot head chooses among."""

_Z95 = 1.959964
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A share of right answers and its 95% interval."""

    value: float
    """The share, 0 to 1."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedSet:
    """Every test clip against the text of every class."""

    clips: int
    """Test clips."""
    top1: Estimate
    """Share of clips whose own class scores highest; interval by bootstrap over groups."""
    top5: float | None
    """Share of clips whose own class is among the five highest; none with five classes or less."""
    mean_class_top1: float
    """Mean over classes of the share right in each class."""
    per_class: dict[str, dict[str, float]]
    """For each class with test clips: clips, top-1 and its Wilson interval."""
    confusion: list[list[int]]
    """Row: true class; column: answer; clips."""
    class_names: list[str]
    """Names of rows and columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """One direction of retrieval; any of several right answers counts."""

    queries: int
    """Number of queries."""
    gallery: int
    """Number of items searched."""
    right_per_query: float
    """Mean number of right answers in the gallery; high numbers make R@K easy."""
    recall: dict[str, float]
    """R@1, R@5, R@10: share of queries with a right answer among the first K."""
    median_rank: float
    """Median over queries of the rank of the best right answer, from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Episodes:
    """Which clips each k-shot episode learns from and is asked about."""

    classes: tuple[int, ...]
    """Classes that have clips enough."""
    left_out: tuple[int, ...]
    """Classes with too few clips."""
    ways: int
    """Classes of an episode."""
    queries: int
    """Test clips a class."""
    class_ew: NDArray[np.int64]
    """int64 (E, W), class of each way."""
    support: dict[int, NDArray[np.int64]]
    """For each number of shots K: int64 (E, W, K), indexes of training clips."""
    query_ewq: NDArray[np.int64]
    """int64 (E, W, Q), indexes of test clips."""


def wilson(right: int, total: int) -> Estimate:
    """Share ``right / total`` with its Wilson 95% interval.

    Source: E. B. Wilson, "Probable inference", JASA 22 (1927).
    """
    if total < 1:
        raise ValueError(f"total must be positive, got {total}")
    share, z2 = right / total, _Z95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return Estimate(value=share, low=max(0.0, middle - half), high=min(1.0, middle + half))


def bootstrap_groups(
    right_n: NDArray[Any],
    group_n: Sequence[str],
    *,
    weight_n: NDArray[Any] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Weighted mean of ``right_n`` with a percentile interval over resampled groups.

    Clips of one group share a scene and are right or wrong together, so whole groups are drawn.
    A single group, or answers that are all right or all wrong, say nothing of the spread: then
    the interval is Wilson's, with the number of groups as the number of trials.

    Args:
        right_n: numbers (N,), 0 to 1 each.
        group_n: group of each clip.
        weight_n: weight of each clip; all 1 if not given.
        resamples: how often groups are drawn.
        seed: of the draws.
    """
    weight_n = np.ones(len(right_n)) if weight_n is None else np.asarray(weight_n, float)
    _, group_of_n = np.unique(np.asarray(group_n, dtype=str), return_inverse=True)
    weight_g = np.bincount(group_of_n, weights=weight_n)
    right_g = np.bincount(group_of_n, weights=weight_n * np.asarray(right_n, float))
    value = float(right_g.sum() / weight_g.sum())
    groups = len(weight_g)
    if groups == 1 or value in (0.0, 1.0):
        ends = wilson(round(value * groups), groups)
        return Estimate(value=value, low=min(ends.low, value), high=max(ends.high, value))
    draw_rg = np.random.default_rng(seed).integers(0, groups, (resamples, groups))
    share_r = right_g[draw_rg].sum(axis=1) / weight_g[draw_rg].sum(axis=1)
    low, high = np.quantile(share_r, [0.025, 0.975])
    return Estimate(value=value, low=float(low), high=float(high))


def ranks(score_nc: Tensor, right_nc: Tensor) -> NDArray[np.int64]:
    """Rank, from 1, of the best right answer in each row; a tie with a wrong one counts against.

    Args:
        score_nc: float (N, C), higher is better.
        right_nc: bool (N, C), which answers are right; at least one in each row.

    Returns:
        int64 (N,).

    Raises:
        ValueError: shapes differ, or a row has no right answer.
    """
    if score_nc.shape != right_nc.shape or not bool(right_nc.any(dim=1).all()):
        raise ValueError(
            f"every row of {tuple(score_nc.shape)} scores needs a right answer "
            f"in right_nc, shape {tuple(right_nc.shape)}"
        )
    score_nc = torch.nan_to_num(score_nc.float(), nan=-torch.inf)
    best_n1 = score_nc.masked_fill(~right_nc, -torch.inf).amax(dim=1, keepdim=True)
    rank_n = ((score_nc >= best_n1) & ~right_nc).sum(dim=1) + 1
    found: NDArray[np.int64] = rank_n.cpu().numpy().astype(np.int64)
    return found


def closed_set(
    score_nc: Tensor,
    label_n: Tensor,
    class_names: Sequence[str],
    group_n: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> ClosedSet:
    """Judge class scores over the whole set of classes.

    Args:
        score_nc: float (N, C), one column for every class of the store.
        label_n: int64 (N,), true class.
        class_names: C names.
        group_n: group of each clip, for the interval.
        resamples: bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: no clips, or the number of columns is not the number of classes.
    """
    if score_nc.ndim != 2 or score_nc.shape[1] != len(class_names) or not len(score_nc):
        raise ValueError(
            f"scores must be (clips, {len(class_names)} classes), got {tuple(score_nc.shape)}"
        )
    right_nc = torch.nn.functional.one_hot(label_n.cpu(), len(class_names)).bool()
    rank_n = ranks(score_nc.cpu(), right_nc)
    right_n, truth_n = rank_n == 1, label_n.cpu().numpy()
    shares = [float(right_n[truth_n == c].mean()) for c in np.unique(truth_n)]
    return ClosedSet(
        clips=len(rank_n),
        top1=bootstrap_groups(right_n, group_n, resamples=resamples, seed=seed),
        top5=float((rank_n <= 5).mean()) if len(class_names) > 5 else None,
        mean_class_top1=float(np.mean(shares)),
        per_class=_per_class(right_n, truth_n, class_names),
        confusion=confusion(score_nc, label_n),
        class_names=list(class_names),
    )


def confusion(score_nc: Tensor, label_n: Tensor) -> list[list[int]]:
    """How often each answer (columns) was given to clips of each true class (rows).

    Args:
        score_nc: float (N, C); the answer is the highest, of equal ones the first.
        label_n: int64 (N,), true class.
    """
    answer_n = score_nc.cpu().float().argmax(dim=1).numpy()
    count_cc = np.zeros((score_nc.shape[1], score_nc.shape[1]), dtype=int)
    np.add.at(count_cc, (label_n.cpu().numpy(), answer_n), 1)
    counts: list[list[int]] = count_cc.tolist()
    return counts


def _per_class(
    right_n: NDArray[Any], truth_n: NDArray[Any], class_names: Sequence[str]
) -> dict[str, dict[str, float]]:
    table = {}
    for c in np.unique(truth_n):
        own_n = right_n[truth_n == c]
        share = wilson(int(own_n.sum()), len(own_n))
        table[class_names[c]] = {
            "clips": len(own_n),
            "top1": share.value,
            "low": share.low,
            "high": share.high,
        }
    return table


def retrieval(score_qn: Tensor, right_qn: Tensor) -> Retrieval:
    """Judge one direction of retrieval.

    A caption is often shared by all clips of a class. Then any clip that carries it is a right
    answer, and the rank is that of the best of them; ``right_per_query`` tells how many there
    were. Queries without a right answer in the gallery are not asked.

    Args:
        score_qn: float (queries, gallery), higher is better.
        right_qn: bool (queries, gallery).

    Raises:
        ValueError: no query has a right answer.
    """
    asked_q = right_qn.any(dim=1)
    if not bool(asked_q.any()):
        raise ValueError("no query has a right answer in the gallery")
    score_qn, right_qn = score_qn[asked_q], right_qn[asked_q]
    rank_q = ranks(score_qn, right_qn)
    return Retrieval(
        queries=len(rank_q),
        gallery=int(score_qn.shape[1]),
        right_per_query=float(right_qn.float().sum(dim=1).mean()),
        recall={f"R@{k}": float((rank_q <= k).mean()) for k in (1, 5, 10)},
        median_rank=float(np.median(rank_q)),
    )


def draw_episodes(
    train_label_n: NDArray[Any],
    test_label_n: NDArray[Any],
    classes: Sequence[int],
    *,
    ways: int = 5,
    shots: Sequence[int] = (1, 2, 4, 8),
    queries: int = 5,
    episodes: int = 200,
    seed: int = 0,
) -> Episodes:
    """Draw k-shot episodes: support from the training split, queries from the test split.

    The same classes serve every number of shots, and the support of fewer shots is part of that
    of more, so the numbers compare. A number of shots that would leave fewer classes than the
    smallest number does (up to ``ways``) is dropped; where fewer than ``ways`` classes qualify,
    an episode has that many ways.

    Args:
        train_label_n: int (N,), class of each training clip.
        test_label_n: int (N,), class of each test clip.
        classes: classes to draw from.
        ways: classes of an episode.
        shots: support clips a class.
        queries: test clips a class.
        episodes: how many.
        seed: of the draws.

    Raises:
        ValueError: fewer than two classes have clips enough for the smallest number of shots.
    """
    train_of = {c: np.flatnonzero(train_label_n == c) for c in classes}
    test_of = {c: np.flatnonzero(test_label_n == c) for c in classes}

    def enough(k: int) -> list[int]:
        return [c for c in classes if len(train_of[c]) >= k and len(test_of[c]) >= queries]

    target = min(ways, len(enough(min(shots))))
    if target < 2:
        raise ValueError(
            f"k-shot episodes need 2 classes with {min(shots)} training and {queries} test clips, "
            f"found {target}"
        )
    usable = sorted(k for k in set(shots) if len(enough(k)) >= target)
    found, most = enough(usable[-1]), usable[-1]
    rng = np.random.default_rng(seed)
    class_ew = np.stack([rng.permutation(found)[:target] for _ in range(episodes)])
    support_ewk = _draw(rng, train_of, class_ew, most)
    return Episodes(
        classes=tuple(found),
        left_out=tuple(c for c in classes if c not in found),
        ways=target,
        queries=queries,
        class_ew=class_ew,
        support={k: support_ewk[:, :, :k] for k in usable},
        query_ewq=_draw(rng, test_of, class_ew, queries),
    )


def _draw(
    rng: np.random.Generator,
    clips_of: dict[int, NDArray[Any]],
    class_ew: NDArray[Any],
    count: int,
) -> NDArray[np.int64]:
    drawn = [[rng.permutation(clips_of[c])[:count] for c in class_w] for class_w in class_ew]
    return np.asarray(drawn, dtype=np.int64)


def fit_linear(
    x_end: Tensor, label_en: Tensor, start_ecd: Tensor, *, penalty: float = 1.0, steps: int = 2000
) -> Tensor:
    """Fit E softmax classifiers at once, each kept near its start.

    Minimises, for each e, ``sum_n cross_entropy(x W', label) + penalty / 2 |W - start|^2``:
    logistic regression if the start is 0, a text-initialised linear probe if the start is the
    class texts. Convex, solved by L-BFGS in float64, so it is deterministic. It goes on until no
    element of the gradient is above ``GRADIENT_TOLERANCE``. The penalty makes the problem strongly
    convex: each classifier then lies within |gradient| / penalty of its own best weights, whichever
    others were fitted beside it. With fewer clips than features it is solved in the space that the
    clips span, where the best weights lie. Where ``steps`` do not suffice, a warning is logged.

    Args:
        x_end: float (E, N, D) features.
        label_en: int64 (E, N), 0 to C - 1.
        start_ecd: float (E, C, D), where the weights start and what the penalty pulls them to.
        penalty: strength of the pull; 1 is the usual default of logistic regression.
        steps: L-BFGS iterations at most.

    Returns:
        weights: float64 (E, C, D).

    Source: J. Silva-Rodriguez et al., "A Closer Look at the Few-Shot Adaptation of Large
    Vision-Language Models", arXiv:2312.12730.
    """
    x_end, start_ecd = x_end.double(), start_ecd.double()
    basis_edr: Tensor | None = None
    if x_end.shape[1] < x_end.shape[2]:
        # The best weights differ from the start by a sum of the clips' features: look among those.
        basis_edr, triangle_ern = torch.linalg.qr(x_end.transpose(1, 2))
        reduced_enr = triangle_ern.transpose(1, 2)
    else:
        reduced_enr = x_end
    offset_enc = x_end @ start_ecd.transpose(1, 2)
    change_ecr = _solve(reduced_enr, label_en, offset_enc, penalty=penalty, steps=steps)
    if basis_edr is None:
        return start_ecd + change_ecr
    return start_ecd + change_ecr @ basis_edr.transpose(1, 2)


def _solve(
    x_enr: Tensor, label_en: Tensor, offset_enc: Tensor, *, penalty: float, steps: int
) -> Tensor:
    """Changes of weights (E, C, R) that make the penalised cross-entropy least; from 0."""
    shape = (len(x_enr), offset_enc.shape[2], x_enr.shape[2])
    with torch.enable_grad():
        change_ecr = torch.zeros(shape, dtype=x_enr.dtype, requires_grad=True)
        solver = torch.optim.LBFGS(
            [change_ecr],
            max_iter=steps,
            max_eval=2 * steps,
            tolerance_grad=GRADIENT_TOLERANCE,
            tolerance_change=0.0,  # a small step is no sign of having arrived
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            solver.zero_grad()
            logit_enc = offset_enc + x_enr @ change_ecr.transpose(1, 2)
            error = torch.nn.functional.cross_entropy(
                logit_enc.flatten(0, 1), label_en.flatten(), reduction="sum"
            )
            loss: Tensor = error + penalty / 2 * change_ecr.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        solver.step(closure)  # type: ignore[no-untyped-call]
        closure()
    left = math.nan if change_ecr.grad is None else float(change_ecr.grad.abs().max())
    if not left <= GRADIENT_TOLERANCE:
        _log.warning("a linear classifier has not converged: a gradient of %.2g is left", left)
    return change_ecr.detach()


def few_shot(
    train_nd: Tensor,
    test_nd: Tensor,
    start_cd: Tensor,
    episodes: Episodes,
    *,
    from_text: bool,
) -> dict[int, NDArray[np.bool_]]:
    """Answer k-shot episodes with a linear classifier on frozen features.

    Args:
        train_nd: float (N, D), features of the training clips, already scaled.
        test_nd: float (N, D), features of the test clips, already scaled.
        start_cd: float (C, D), start of each class's weights: its text embedding, or 0.
        episodes: which clips to use.
        from_text: whether the start means something. Then 0 shots are judged too, and weights
            start from as much of it as :func:`start_strength` finds.

    Returns:
        For each number of shots bool (E, W, Q), which queries were answered right.
    """
    start_ewd = start_cd[torch.from_numpy(episodes.class_ew)].double()
    query_ewqd = test_nd[torch.from_numpy(episodes.query_ewq)].double()
    right: dict[int, NDArray[np.bool_]] = {}
    for k in ([0] if from_text else []) + list(episodes.support):
        weight_ewd = start_ewd
        if k:
            support_ewkd = train_nd[torch.from_numpy(episodes.support[k])]
            label_en = torch.arange(episodes.ways).repeat_interleave(k)
            label_en = label_en.expand(len(start_ewd), -1)
            support_end = support_ewkd.flatten(1, 2)
            if from_text:
                score_enc = support_end.double() @ start_ewd.transpose(1, 2)
                weight_ewd = start_ewd * start_strength(score_enc, label_en)[:, None, None]
            weight_ewd = fit_linear(support_end, label_en, weight_ewd)
        right[k] = _right_answers(query_ewqd, weight_ewd)
    return right


def start_strength(score_enc: Tensor, label_en: Tensor) -> Tensor:
    """How far to trust given scores: the factor, 0 to 1, that makes the true classes likeliest.

    Texts say much about classes that a model was trained on, and may mislead about others; the
    support clips tell which. One number an episode, in steps of ``1 / STRENGTH_STEPS``.

    Args:
        score_enc: float (E, N, C), what the start says about each support clip.
        label_en: int64 (E, N), true class.

    Returns:
        float64 (E,).
    """
    strength_s = torch.arange(STRENGTH_STEPS + 1, dtype=torch.float64) / STRENGTH_STEPS
    right_en1 = label_en[:, :, None]
    likely_es = torch.stack(
        [
            (score_enc.double() * strength).log_softmax(dim=2).gather(2, right_en1).sum(dim=(1, 2))
            for strength in strength_s
        ],
        dim=1,
    )
    return strength_s[likely_es.argmax(dim=1)]


def _right_answers(query_ewqd: Tensor, weight_ewd: Tensor) -> NDArray[np.bool_]:
    ways = weight_ewd.shape[1]
    score_ewqc = torch.einsum("ewqd,ecd->ewqc", query_ewqd, weight_ewd)
    right_ewqc = torch.eye(ways, dtype=torch.bool)[None, :, None].expand_as(score_ewqc)
    rank = ranks(score_ewqc.flatten(0, 2), right_ewqc.flatten(0, 2))
    right: NDArray[np.bool_] = rank.reshape(score_ewqc.shape[:3]) == 1
    return right


@dataclass(frozen=True, eq=False)
class Answers:
    """Answered queries of the episodes of one training."""

    right_ewq: NDArray[np.bool_]
    """Which were right, (E, W, Q)."""
    query_ewq: NDArray[np.int64]
    """Test clip of each."""
    group_n: Sequence[str]
    """Group of each test clip."""


def over_episodes(parts: Sequence[Answers]) -> Estimate:
    """Mean over all episodes and its normal 95% interval: how well they pin the mean."""
    share_e = np.concatenate([part.right_ewq.mean(axis=(1, 2)) for part in parts])
    half = _Z95 * float(share_e.std(ddof=1)) / math.sqrt(len(share_e)) if len(share_e) > 1 else 0.5
    mean = float(share_e.mean())
    return Estimate(value=mean, low=max(0.0, mean - half), high=min(1.0, mean + half))


def over_groups(parts: Sequence[Answers], *, resamples: int, seed: int) -> Estimate:
    """The same mean with test groups resampled: how far other test scenes could move it."""
    right: list[float] = []
    weight: list[float] = []
    groups: list[str] = []
    for part in parts:
        asked_n = np.bincount(part.query_ewq.ravel(), minlength=len(part.group_n))
        right_n = np.bincount(
            part.query_ewq.ravel(), weights=part.right_ewq.ravel(), minlength=len(part.group_n)
        )
        for n in np.flatnonzero(asked_n):
            right.append(right_n[n] / asked_n[n])
            weight.append(asked_n[n])
            groups.append(part.group_n[int(n)])
    return bootstrap_groups(
        np.asarray(right), groups, weight_n=np.asarray(weight), resamples=resamples, seed=seed
    )


def shared_groups(
    train_groups: Sequence[str | None], test_groups: Sequence[str | None]
) -> tuple[str, ...]:
    """Groups with clips on both sides of a split; clips without a group are not compared."""
    both = {g for g in train_groups if g} & {g for g in test_groups if g}
    return tuple(sorted(both))
