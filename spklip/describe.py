"""What a report tells of the clips before it tells of the model."""

from typing import Any

import numpy as np

from spklip.recipe import Recipe
from spklip.splits import Splits


def describe_splits(splits: Splits) -> dict[str, Any]:
    """How many clips each class has on each side."""
    count = {
        side: np.bincount(
            [int(label) for label in clips.labels if label >= 0], minlength=len(splits.class_names)
        ).tolist()
        for side, clips in (("train", splits.fit), ("test", splits.test))
    }
    return {
        "path": splits.path,
        "train_clips": len(splits.fit),
        "test_clips": len(splits.test),
        "per_class": {
            name: {"train": count["train"][c], "test": count["test"][c]}
            for c, name in enumerate(splits.class_names)
        },
        "shared_groups": list(splits.shared_groups),
    }


def notes_on(splits: Splits, recipe: Recipe) -> list[str]:
    """What a reader of a report has to know of its clips."""
    counts = describe_splits(splits)["per_class"]
    notes = []
    unseen = [n for n, c in counts.items() if c["test"] and not c["train"]]
    if unseen:
        clips = sum(counts[name]["test"] for name in unseen)
        notes.append(
            f"{clips} of the {len(splits.test)} test clips are of classes without a training clip "
            f"({', '.join(unseen)}): the model has only their names, a baseline nothing."
        )
    if not splits.class_names:
        notes.append(
            "No clip has a class: each caption stands for its own clips, and retrieval alone is "
            "judged; closed set and k-shot episodes are left out."
        )
    if splits.unused:
        lacks = "a class" if splits.class_names else "captions"
        notes.append(f"{splits.unused} clips without {lacks} are left out.")
    if splits.size is not None:
        height_px, width_px = splits.size
        notes.append(
            f"Each picture is cut, or filled with dark, to {height_px}x{width_px} (data.size)."
        )
    if recipe.eval.held_out_classes:
        notes.append(f"Kept out of training: {', '.join(recipe.eval.held_out_classes)}.")
    if recipe.data.shots:
        notes.append(f"Trained on {recipe.data.shots} clips of each class at most (data.shots).")
    if recipe.eval.splits:
        shown = ", ".join(map(str, recipe.eval.splits))
        notes.append(
            f"Trained and judged on the official splits {shown}, one after another; all their test "
            "clips are pooled. Counts of clips are those of the first."
        )
    if recipe.train.seeds:
        shown = ", ".join(map(str, recipe.train.seeds))
        notes.append(f"Trained from the seeds {shown}; all answers are pooled.")
    return notes + _notes_on_groups(splits)


def _notes_on_groups(splits: Splits) -> list[str]:
    notes = []
    if splits.shared_groups:
        notes.append(
            f"LEAK: {len(splits.shared_groups)} groups have clips in training and in test; "
            "these numbers are too high."
        )
    if not any(splits.test.groups):
        notes.append(
            "The clips have no groups: whether a scene is on both sides of the split cannot be "
            "checked, and intervals take each clip as a scene of its own. Clips of one scene on "
            "both sides make a model look far better than it is."
        )
    return notes
