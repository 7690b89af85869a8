"""The trainings of a run: one, or one for each official split, seed and draw of unseen classes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spklip.measures import class_draws
from spklip.recipe import Recipe
from spklip.splits import Splits

LEAST_LEFT = 2
"""Classes that are left to train on where others are kept out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One model to train and judge."""

    name: str
    """Folder name: ``split-2``, ``seed-1``, ``unseen-3``."""
    recipe: Recipe
    """What to do: the run's recipe with one split, one seed and the classes that are kept out."""

    def folder(self, out: Path) -> Path:
        """Where its checkpoints and answers are kept."""
        return out / "trainings" / self.name


def main_trainings(recipe: Recipe) -> list[Training]:
    """One for each official split and seed; the first one's model is the run's."""
    found = []
    splits = recipe.eval.splits or (recipe.data.official_split,)
    for split in splits:
        for seed in recipe.train.seeds or (recipe.train.seed,):
            words = [f"split-{split}"] * (split is not None)
            words += [f"seed-{seed}"] * (len(recipe.train.seeds) > 1 or not words)
            own = replace(
                recipe,
                data=replace(recipe.data, official_split=split),
                train=replace(recipe.train, seed=seed, seeds=()),
                eval=replace(recipe.eval, splits=(), unseen_draws=0),
            )
            found.append(Training(name="-".join(words), recipe=own))
    return found


def unseen_trainings(first: Training, recipe: Recipe, splits: Splits) -> list[Training]:
    """Trainings without some classes, drawn among those with clips enough to be asked about.

    Every class is kept out about as often as every other; what is left has two classes at least.

    Args:
        first: the training whose split and seed they share.
        recipe: the run's.
        splits: those of the first training.
    """
    return list(_without(first, recipe, splits)) if recipe.eval.unseen_draws else []


def _without(first: Training, recipe: Recipe, splits: Splits) -> Iterator[Training]:
    config, names = recipe.eval, splits.class_names
    train_c = np.bincount(splits.fit.labels, minlength=len(names)) if names else np.zeros(0)
    test_c = np.bincount(splits.test.labels, minlength=len(names)) if names else np.zeros(0)
    asked = [
        c
        for c in range(len(names))
        if train_c[c] >= min(config.shots) and test_c[c] >= config.queries
    ]
    held = min(config.unseen_classes, len(asked))
    if held < 2 or int((train_c > 0).sum()) - held < LEAST_LEFT:
        return
    draws = [tuple(range(held))]  # one choice, where no more classes can be asked about
    if held < len(asked):
        draws = class_draws(len(asked), held, config.unseen_draws, seed=config.seed)
    for number, draw in enumerate(draws, 1):
        out = tuple(names[asked[c]] for c in draw)
        own = replace(first.recipe, eval=replace(first.recipe.eval, held_out_classes=out))
        yield Training(name=f"unseen-{number}", recipe=own)
