"""Where order alone tells: the four drawn directions that every report asks about."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli_train import SMALL, write_store

from spikedata import SpikeDataError, draw_directions
from spklip.baselines import mean_rate
from spklip.building import build_model, load_model_parts
from spklip.directions import OPPOSITE, PROMPTS, DirectionClips, read_directions
from spklip.recipe import read_recipe
from spklip.run import evaluate_run, recipe_of_run, run_recipe

SHORT = [*SMALL, "eval.direction_steps=2"]


def directions_of(recipe, folder, **options):
    config, tokenizer = load_model_parts(recipe.model)
    return read_directions(
        lambda: build_model(recipe.model, config),
        tokenizer,
        recipe,
        folder,
        progress=False,
        **options,
    )


def test_a_direction_is_the_opposite_one_backwards():
    for scene in range(3):
        clips = draw_directions(scene, size=(24, 32), frames=5, seed=2)
        for label, back in enumerate(OPPOSITE):
            there, other = (clips[PROMPTS[c][0].split()[-1]] for c in (label, back))
            assert np.array_equal(there, other[::-1])
            assert not np.array_equal(there, other)
        ground = np.median(clips["right"], axis=0)
        moved = [abs(luma - ground).sum(axis=0).nonzero()[0].mean() for luma in clips["right"]]
        assert moved[-1] > moved[0] + 2


def test_clips_are_as_long_as_the_recipe_sees_and_no_smaller_than_the_model_can():
    words = ["data.window_ticks=1200", "data.segments=4", "model.changes.pool_px=4"]
    recipe = read_recipe(os.devnull, [*SHORT, *words])
    config, _ = load_model_parts(recipe.model)
    clips = DirectionClips([3], recipe, config)
    assert [item["id"] for item in clips.items] == [
        f"scene0003_{direction}" for direction in ("left", "right", "up", "down")
    ]
    for item in clips.items:
        assert (tuple(item["packed_sghw"].shape), item["ticks"]) == ((4, 38, 96, 96), 300)
    # Segments lie end to end: where one thing begins, the opposite one ends.
    left_shw, right_shw = (
        torch.stack([mean_rate(one[None, None], 300)[0] for one in clips[c]["packed_sghw"]])
        for c in (0, 1)
    )
    unlike = [float((left_shw[0] - right_shw[s]).abs().mean()) for s in range(4)]
    assert unlike[3] < unlike[2] < unlike[1] < unlike[0]
    assert unlike[3] < unlike[0] / 2


@pytest.mark.parametrize("resume", [False, True])
def test_answers_are_kept_and_resume_takes_them(tmp_path, resume):
    recipe = read_recipe(os.devnull, SHORT)
    told = directions_of(recipe, tmp_path)
    assert set(told["top1"]) == {"spklip", "shuffled", "reversed", "mean_rate"}
    assert (told["train_clips"], told["test_clips"], told["steps"]) == (160, 40, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["answers.json"]
    (tmp_path / "answers.json").write_text(json.dumps(told | {"steps": -1}))
    again = directions_of(recipe, tmp_path, resume=resume)
    assert again == (told | {"steps": -1} if resume else told)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"[" * 100_000])
def test_kept_answers_that_are_none_are_told_in_one_line(tmp_path, data):
    (tmp_path / "answers.json").write_bytes(data)
    with pytest.raises(SpikeDataError, match=r"answers\.json: cannot be read .* Delete it"):
        directions_of(read_recipe(os.devnull, SHORT), tmp_path, resume=True)


def test_no_steps_are_told():
    recipe = read_recipe(os.devnull, SMALL)
    assert directions_of(recipe, None) == {"skipped": "eval.direction_steps is 0"}


def test_a_check_that_diverges_costs_nothing_else(tmp_path):
    wild = ["train.learning_rate=1e30", "train.warmup_steps=0", "eval.direction_steps=9"]
    told = directions_of(read_recipe(os.devnull, [*SMALL, *wild]), tmp_path)
    assert set(told) == {"skipped"}
    assert "training diverged" in told["skipped"]


def test_checkpoints_that_are_damaged_are_told_and_not_passed_over(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "sha256.json").write_text('{"model.safetensors": "0"}')
    with pytest.raises(SpikeDataError, match=r"checkpoint-1: model\.safetensors is missing"):
        directions_of(read_recipe(os.devnull, SHORT), tmp_path, resume=True)


def test_every_report_tells_of_directions(tmp_path):
    store = write_store(tmp_path / "clips.zarr")
    recipe = read_recipe(os.devnull, [*SHORT, f"data.path={store}"])
    metrics = run_recipe(recipe, tmp_path / "run", progress=False)
    assert metrics["directions"]["steps"] == 2
    assert "Where order alone tells" in (tmp_path / "run" / "report.html").read_text()
    checkpoint = tmp_path / "run"
    judged = evaluate_run(checkpoint, recipe_of_run(checkpoint), tmp_path / "eval", progress=False)
    assert set(judged["directions"]["top1"]) == set(metrics["directions"]["top1"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_frozen_tower_and_its_transformer_read_directions(tmp_path):
    """The recipe that a user meets first: its tower sees places, its Transformer their order."""
    told = directions_of(
        read_recipe(Path(__file__).parents[1] / "recipes" / "fewshot.yaml"), tmp_path
    )
    top1 = {name: one["value"] for name, one in told["top1"].items()}
    print(json.dumps(top1))
    assert top1["spklip"] >= 0.90
    assert top1["spklip"] - top1["mean_rate"] >= 0.20
    assert top1["reversed"] < 0.25
    assert top1["shuffled"] < top1["spklip"] - 0.20
    assert told["opposite"] > 0.5
