"""Would this model read order, where only order tells? Four directions of motion, drawn here.

On most real classes a picture tells as much as a film, and whether windows are shuffled hardly
matters; such a report alone cannot say whether the model could have read time. So a model built by
the same recipe learns, for some steps, classes that nothing but order tells apart: things that
move left, right, up and down, every track run both ways over the same ground.

Shapes: N clips, S segments, T ticks of a segment, G groups of eight ticks, H rows, W columns.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spikedata import (
    SensorConfig,
    SpikeDataError,
    collate,
    draw_directions,
    simulate,
    unpack_planes,
    write_whole,
)
from spklip import baselines
from spklip.batches import TextCollator
from spklip.embed import OTHER_ORDERS, Embedder
from spklip.evaluate import closed_set
from spklip.judge import class_texts
from spklip.model import SpklipConfig, pack_planes
from spklip.recipe import Recipe
from spklip.train import DivergedError, fit

DIRECTIONS = ("left", "right", "up", "down")
OPPOSITE = (1, 0, 3, 2)
PROMPTS = tuple((f"something moves {direction}",) for direction in DIRECTIONS)
TRAIN_SCENES, TEST_SCENES = 40, 10
"""Scenes to learn from and to be judged on; four clips each."""
CELLS = 24
"""Cells of a side of these pictures: what a model pools before it looks would hide the motion."""
LEAST_PX, MOST_PX = 48, 240
"""Sides at least and at most: large ones are many bytes, all of which are held."""


class DirectionClips(Dataset[dict[str, Any]]):
    """Clips of some scenes, as a loader of spike clips gives them."""

    def __init__(self, scenes: Sequence[int], recipe: Recipe, config: SpklipConfig) -> None:
        side_px = min(MOST_PX, max(LEAST_PX, CELLS * config.pool_px))
        self.items = [item for scene in scenes for item in _scene_items(scene, side_px, recipe)]

    def set_epoch(self, epoch: int) -> None:
        """Every epoch is alike."""

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]

    @torch.no_grad()
    def encode(self, model: Any) -> "DirectionClips":
        """Replace bits by their windows' features, which a frozen encoder gives alike each time."""
        for item in self.items:
            packed_1sghw = item.pop("packed_sghw")[None].to(model.device)
            feature_1vc, centre_v = model.window_features(packed_1sghw, item["ticks"])
            item |= {"feature_vc": feature_1vc[0].float().cpu(), "centre_v": centre_v.cpu()}
        return self


def _scene_items(scene: int, side_px: int, recipe: Recipe) -> list[dict[str, Any]]:
    data, sensor = recipe.data, SensorConfig()
    frames = max(2, -(-data.window_ticks // sensor.ticks_per_frame))
    drawn = draw_directions(scene, size=(side_px, side_px), frames=frames, seed=recipe.eval.seed)
    items = []
    for label, direction in enumerate(DIRECTIONS):
        clip_id = f"scene{scene:04d}_{direction}"
        packed_ghw = np.concatenate(list(simulate([drawn[direction]], sensor, clip_id=clip_id)))
        planes_thw = unpack_planes(torch.from_numpy(packed_ghw), frames * sensor.ticks_per_frame)
        planes_sthw = planes_thw[: data.window_ticks].reshape(data.segments, -1, side_px, side_px)
        items.append(
            {
                "packed_sghw": pack_planes(planes_sthw),
                "ticks": planes_sthw.shape[1],
                "label": label,
                "caption": PROMPTS[label][0],
                "id": clip_id,
            }
        )
    return items


def read_directions(
    build: Callable[[], Any],
    tokenizer: Any,
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any] | None:
    """Train a model on the four directions and judge it in scenes that it did not learn from.

    Under torchrun every process calls this; the first one judges.

    Args:
        build: makes the model.
        tokenizer: that of its text tower.
        recipe: how it learns, how many ticks it sees, and ``eval.direction_steps``.
        folder: for checkpoints, and for the answers once they are there.
        resume: take the answers, or go on from the last checkpoint.
        progress: show a bar on standard error.

    Returns:
        ``steps``, ``train_clips``, ``test_clips``, ``scenes``, ``chance``, ``opposite`` (share of
        the clips played backwards that are named by where they then go), and ``top1`` with
        intervals over scenes: of ``spklip``, of it on clips ``shuffled`` and ``reversed``, and of
        logistic regression on ``mean_rate`` images, which have no time. ``skipped``, why not, where
        there are no steps or training diverged: what else the run measured is not lost for that.
        None in the other processes.
    """
    if not recipe.eval.direction_steps:
        return {"skipped": "eval.direction_steps is 0"}
    kept, checkpoints = folder / "answers.json", folder / "checkpoints"
    first = PartialState().is_main_process
    if resume and kept.is_file():
        told = _kept(kept)
        return told if first else None
    # Neither cropped nor mirrored: that would take motion out of the picture, or turn it round.
    recipe = replace(recipe, data=replace(recipe.data, crop=1.0, mirror=False))
    try:
        model = _learn(build, tokenizer, recipe, checkpoints, resume=resume, progress=progress)
        if not first:
            return None
        told = _judge(model.eval(), tokenizer, recipe)
    except DivergedError as error:
        return {"skipped": str(error)}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps(told, indent=1) + "\n")
    shutil.rmtree(checkpoints, ignore_errors=True)
    return told


def _kept(path: Path) -> dict[str, Any]:
    """Answers of an earlier call.

    Raises:
        SpikeDataError: they cannot be read, or are none.
    """
    try:
        told = json.loads(path.read_bytes())
        if isinstance(told, dict):
            return told
        said = f"expected an object, got {type(told).__name__}"
    except (OSError, ValueError, RecursionError) as error:
        said = str(error)
    raise SpikeDataError(f"{path}: cannot be read ({said}). Delete it, and it is made again")


def _learn(
    build: Callable[[], Any], tokenizer: Any, recipe: Recipe, checkpoints: Path, **options: Any
) -> Any:
    def items(model: Any) -> DirectionClips:
        clips = DirectionClips(range(TRAIN_SCENES), recipe, model.config)
        return clips.encode(model.eval()) if model.config.features_stay else clips

    steps = recipe.eval.direction_steps
    model, _ = fit(
        build,
        items,
        TextCollator(tokenizer, PROMPTS, frozenset()),
        # What it learns is no curve of the run, and too little to be worth compiling for.
        replace(recipe.train, max_steps=steps, save_every=steps, report_to=(), compile=False),
        checkpoints,
        title="train: directions",
        **options,
    )
    return model


def _judge(model: Any, tokenizer: Any, recipe: Recipe) -> dict[str, Any]:
    test = DirectionClips(range(TRAIN_SCENES, TRAIN_SCENES + TEST_SCENES), recipe, model.config)
    embedder = Embedder(model, recipe, Path(), None, progress=False)
    batches = DataLoader(test, batch_size=recipe.eval.batch_size, collate_fn=collate)
    parts = [embedder.embed(batch, orders=True) for batch in batches]
    text_cd = class_texts(model, tokenizer, PROMPTS)
    score = {
        name: torch.cat([part[name] for part in parts]) @ text_cd.T
        for name in ("spklip", *OTHER_ORDERS)
        if name in parts[0]
    }
    fit_clips = DirectionClips(range(TRAIN_SCENES), recipe, model.config)
    score["mean_rate"] = _mean_rate_scores(fit_clips, test)
    label_n = torch.tensor([item["label"] for item in test.items])
    scenes = [item["id"].partition("_")[0] for item in test.items]
    options: Any = {"resamples": recipe.eval.resamples, "seed": recipe.eval.seed}
    opposite_n = score["reversed"].argmax(dim=1) == torch.tensor(OPPOSITE)[label_n]
    return {
        "steps": recipe.eval.direction_steps,
        "train_clips": len(fit_clips),
        "test_clips": len(test),
        "scenes": TEST_SCENES,
        "chance": 1 / len(DIRECTIONS),
        "opposite": float(opposite_n.float().mean()),
        "top1": {
            name: dataclasses.asdict(
                closed_set(score_nc, label_n, DIRECTIONS, scenes, **options).top1
            )
            for name, score_nc in score.items()
        },
    }


def _mean_rate_scores(fit_clips: DirectionClips, test: DirectionClips) -> Tensor:
    def pictures(clips: DirectionClips) -> Tensor:
        found = [
            baselines.rate_image(baselines.mean_rate(item["packed_sghw"][None], item["ticks"]))
            for item in clips.items
        ]
        return torch.cat(found)

    fit_nd, test_nd = pictures(fit_clips), pictures(test)
    label_n = torch.tensor([item["label"] for item in fit_clips.items])
    return baselines.logistic_regression(
        baselines.standardise(fit_nd, fit_nd),
        label_n,
        baselines.standardise(test_nd, fit_nd),
        len(DIRECTIONS),
    )
