"""Answers of one training or of several in, the numbers of a report out.

Several trainings, on other official splits or from other seeds, are pooled: every test clip of
each counts, and intervals draw whole scenes, with all that was answered about them.

Shapes: N clips of all trainings, C classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from spklip import baselines
from spklip.embed import OTHER_ORDERS
from spklip.evaluate import (
    Answers,
    bootstrap_groups,
    closed_set,
    confusion,
    over_episodes,
    over_groups,
    ranks,
    retrieval,
)
from spklip.judge import Judged
from spklip.measures import calibration_error, name_controls, paired_difference
from spklip.recipe import EvalConfig, Recipe
from spklip.splits import Splits


def verdict(
    judged: Sequence[Judged], unseen: Sequence[Judged], splits: Splits, recipe: Recipe
) -> dict[str, Any]:
    """The numbers of a run, as plain JSON values.

    Args:
        judged: what each training answered; they share classes.
        unseen: what further trainings answered about the classes that were kept out of each.
        splits: those of the first training.
        recipe: evaluation settings.

    Returns:
        ``closed_set``, ``differences``, ``order``, ``calibration``, ``train_top1``, ``few_shot``,
        ``retrieval``, ``unseen`` and ``pooled`` of ``metrics.json``.
    """
    told: dict[str, Any] = {
        "pooled": {
            "trainings": [one.name for one in judged],
            "different_clips": len({clip_id for one in judged for clip_id in one.ids}),
            "scenes": len(set(_groups(judged))),
        },
        "retrieval": _retrieval(judged),
    }
    if not splits.class_names:
        skipped = {"skipped": judged[0].skipped}
        parts = ("closed_set", "differences", "order", "calibration", "few_shot", "unseen")
        return told | dict.fromkeys(parts, skipped) | {"train_top1": None}
    return told | {
        "closed_set": _closed_set(judged, splits.class_names, recipe.eval),
        "differences": _differences(judged, recipe.eval),
        "order": _order(judged, recipe.eval),
        "calibration": _calibration(judged),
        "train_top1": float(np.mean([one.train_top1 for one in judged])),
        "few_shot": _few_shot(judged, splits, recipe.eval),
        "unseen": _unseen(unseen, splits.class_names, recipe.eval),
    }


def _pooled(judged: Sequence[Judged], name: str) -> torch.Tensor:
    return torch.cat([one.scores[name] for one in judged])


def _labels(judged: Sequence[Judged]) -> torch.Tensor:
    return torch.cat([one.label_n for one in judged])


def _groups(judged: Sequence[Judged]) -> list[str]:
    return [group for one in judged for group in one.groups]


def _right(judged: Sequence[Judged], name: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    score_nc = _pooled(judged, name)
    right_nc = torch.nn.functional.one_hot(_labels(judged), score_nc.shape[1]).bool()
    right_n: np.ndarray[Any, np.dtype[np.bool_]] = ranks(score_nc, right_nc) == 1
    return right_n


def _names(judged: Sequence[Judged]) -> list[str]:
    """The model and the baselines that every training has, in the order of a report."""
    return [name for name in baselines.ROWS if all(name in one.scores for one in judged)]


def _closed_set(
    judged: Sequence[Judged], class_names: Sequence[str], config: EvalConfig
) -> dict[str, Any]:
    label_n, group_n = _labels(judged), _groups(judged)
    options = {"resamples": config.resamples, "seed": config.seed}
    closed: dict[str, Any] = {
        name: dataclasses.asdict(
            closed_set(_pooled(judged, name), label_n, class_names, group_n, **options)
        )
        for name in _names(judged)
    }
    fit_label_n = torch.cat([one.fit_label_n for one in judged])
    chance = baselines.chance(fit_label_n.numpy(), label_n.numpy(), len(class_names))
    return closed | {"chance": chance}


def _differences(judged: Sequence[Judged], config: EvalConfig) -> dict[str, Any]:
    """The model's top-1 less each baseline's, on the same clips."""
    own_n, group_n = _right(judged, "spklip"), _groups(judged)
    return {
        name: dataclasses.asdict(
            paired_difference(
                own_n,
                _right(judged, name),
                group_n,
                resamples=config.resamples,
                seed=config.seed,
            )
        )
        for name in _names(judged)
        if name != "spklip"
    }


def _order(judged: Sequence[Judged], config: EvalConfig) -> dict[str, Any]:
    """Answers where windows are shuffled or clips are played backwards, and what that lost."""
    as_it_is_n, group_n = _right(judged, "spklip"), _groups(judged)
    options: Any = {"resamples": config.resamples, "seed": config.seed}
    told: dict[str, Any] = {}
    for name in (n for n in OTHER_ORDERS if all(n in one.scores for one in judged)):
        right_n = _right(judged, name)
        other_n = _pooled(judged, name).argmax(dim=1) != _pooled(judged, "spklip").argmax(dim=1)
        told[name] = {
            "top1": dataclasses.asdict(bootstrap_groups(right_n, group_n, **options)),
            "difference": dataclasses.asdict(
                paired_difference(right_n, as_it_is_n, group_n, **options)
            ),
            "other_answers": float(other_n.float().mean()),
            "confusion": confusion(_pooled(judged, name), _labels(judged)),
        }
    return told


def _calibration(judged: Sequence[Judged]) -> dict[str, Any]:
    score_nc = torch.cat([one.scores["spklip"] * one.scale for one in judged])
    return dataclasses.asdict(calibration_error(score_nc, _labels(judged)))


def _retrieval(judged: Sequence[Judged]) -> dict[str, Any]:
    """Both ways; each training searches its own test clips, and the numbers are their means."""
    ways: dict[str, Any] = {}
    for way, turn in (("text_to_video", False), ("video_to_text", True)):
        found = []
        for one in judged:
            assert one.retrieval is not None
            score_mn, right_mn = one.retrieval
            pair = (score_mn.T, right_mn.T) if turn else (score_mn, right_mn)
            found.append(dataclasses.asdict(retrieval(*pair)))
        ways[way] = _mean_of(found)
    return ways


def _mean_of(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of numbers, and of numbers in tables, of the same names."""
    if len(found) == 1:
        return dict(found[0])
    return {
        key: _mean_of([one[key] for one in found])
        if isinstance(value, Mapping)
        else float(np.mean([one[key] for one in found]))
        for key, value in found[0].items()
    }


def _few_shot(judged: Sequence[Judged], splits: Splits, config: EvalConfig) -> dict[str, Any]:
    asked = [one for one in judged if one.episodes is not None]
    if not asked:
        return {"skipped": judged[0].skipped}
    return _describe(asked[0], splits, config) | _episode_tables(asked, config)


def _episode_tables(asked: Sequence[Judged], config: EvalConfig) -> dict[str, Any]:
    """Top-1 by number of shots, of the model and of each baseline, over all episodes."""
    options: Any = {"resamples": config.resamples, "seed": config.seed}
    own = [one.few_shot["spklip"] for one in asked]
    shots = [k for k in own[0] if all(k in one for one in own)]
    top1: dict[str, Any] = {}
    by_group: dict[str, Any] = {}
    for name in (n for n in baselines.ROWS if all(n in one.few_shot for one in asked)):
        for k in (k for k in shots if k in asked[0].few_shot[name]):
            parts = [_answers(one, name, k) for one in asked]
            over = dataclasses.asdict(over_episodes(parts))
            scenes = dataclasses.asdict(over_groups(parts, **options))
            top1.setdefault(name, {})[str(k)] = over
            by_group.setdefault(name, {})[str(k)] = scenes
    return {"shots": [str(k) for k in shots], "top1": top1, "by_group": by_group}


def _answers(one: Judged, name: str, k: int) -> Answers:
    assert one.episodes is not None
    return Answers(one.few_shot[name][k], one.episodes.query_ewq, one.groups)


def _describe(one: Judged, splits: Splits, config: EvalConfig) -> dict[str, Any]:
    episodes, names = one.episodes, splits.class_names
    assert episodes is not None
    trained = set(one.fit_label_n.tolist())
    seen = [names[c] for c in episodes.classes if c in trained]
    if not seen:
        told = "None of these classes was seen in training: they are novel."
    elif len(seen) == len(episodes.classes):
        told = (
            "All of these classes were seen in training (other clips of them, other scenes), so "
            "this is not few-shot learning of novel classes; eval.held_out_classes makes it so."
        )
    else:
        told = f"Seen in training: {', '.join(seen)}; the others are novel."
    return {
        "episodes": config.episodes,
        "ways": episodes.ways,
        "queries": episodes.queries,
        "classes": [names[c] for c in episodes.classes],
        "left_out": [names[c] for c in episodes.left_out],
        "classes_seen_in_training": seen,
        "seen_in_training": told,
        "chance": 1 / episodes.ways,
    }


def _unseen(
    unseen: Sequence[Judged], class_names: Sequence[str], config: EvalConfig
) -> dict[str, Any]:
    """Classes that no training saw: named by their sentences alone, and by a few clips."""
    if not unseen:
        return {"skipped": "eval.unseen_draws is 0, or the classes do not suffice"}
    zero = [_zero_shot(one, config) for one in unseen]
    right_n = np.concatenate([one["right"] for one in zero])
    groups = [group for one in zero for group in one["groups"]]
    asked_d = [len(one["right"]) for one in zero]  # a draw counts by its clips, as in top1
    estimate = bootstrap_groups(right_n, groups, resamples=config.resamples, seed=config.seed)
    told = {
        "draws": [[class_names[c] for c in one.held_out] for one in unseen],
        "zero_shot": {
            "top1": dataclasses.asdict(estimate),
            "by_draw": [float(one["right"].mean()) for one in zero],
            "names_dealt_at_random": float(
                np.average([one["dealt"] for one in zero], weights=asked_d)
            ),
            "chance": float(np.average([one["chance"] for one in zero], weights=asked_d)),
        },
    }
    asked = [one for one in unseen if one.episodes is not None]
    if not asked:
        return told | {"few_shot": {"skipped": unseen[0].skipped}}
    assert asked[0].episodes is not None
    few = {"ways": asked[0].episodes.ways, "chance": 1 / asked[0].episodes.ways}
    return told | {"few_shot": few | _episode_tables(asked, config)}


def _zero_shot(one: Judged, config: EvalConfig) -> dict[str, Any]:
    """Answers among the classes kept out, and what they are with the names dealt at random."""
    asked_n = torch.isin(one.label_n, torch.tensor(one.held_out))
    present = sorted(set(one.label_n[asked_n].tolist()))
    score_nc = one.scores["spklip"][asked_n][:, present]
    label_n = torch.searchsorted(torch.tensor(present), one.label_n[asked_n])
    right_nc = torch.nn.functional.one_hot(label_n, len(present)).bool()
    dealt = name_controls(score_nc, label_n, draws=720, seed=config.seed)
    asked = asked_n.tolist()
    return {
        "right": (ranks(score_nc, right_nc) == 1).astype(float),
        "groups": [group for group, own in zip(one.groups, asked, strict=True) if own],
        "dealt": dealt.mean,
        "chance": 1 / len(present),
    }
