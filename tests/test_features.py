"""Kept features: what a frozen tower gives is worked out once, and is what it would give again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_cli_train import SMALL, write_store

from spikedata import SpikeDataError
from spklip import baselines, embed, run
from spklip.features import FeatureFolder, KeptViews, feature_root
from spklip.model import SpklipConfig
from spklip.model.picture_tower import PictureTower
from spklip.recipe import ModelConfig, read_recipe
from spklip.run import run_recipe

WORDS = [
    "model.preset=tower",
    "model.image_encoder=embedded",
    "model.changes.radius_ticks=7",
    "model.changes.branch_ticks=[15, 15, 15, 13]",
    "model.changes.exposure_ticks=5",
    "model.changes.exposure_step_ticks=5",
    "model.changes.picture_px=32",
    "model.changes.temporal_width=16",
    "model.changes.text_width=16",
    "model.changes.text_layers=1",
    "model.changes.embed_dim=16",
    "data.window_ticks=48",
    "data.segments=3",
    "data.views=2",
    "data.crop=0.8",
    "data.mirror=true",
    "train.max_steps=4",
    "train.batch_size=4",
    "train.save_every=2",
    "train.precision=fp32",
    "eval.windows=2",
    "eval.queries=2",
    "eval.shots=[1, 2]",
    "eval.episodes=5",
    "eval.resamples=20",
    "eval.direction_steps=0",
    "eval.energy_clips=0",
]


def recipe_of(store, *words):
    return read_recipe(os.devnull, [*WORDS, f"data.path={json.dumps(str(store))}", *words])


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def without_times(metrics):
    """All that a run measured but for how long it took, what it read, and what it was called."""
    rest = {k: v for k, v in metrics.items() if k not in ("evaluation_seconds", "name")}
    times = ("seconds", "loader_idle_share", "features_kept")
    return rest | {"train": {k: v for k, v in rest["train"].items() if k not in times}}


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "clips.zarr")


def test_training_on_kept_features_is_training_on_the_bits(store, tmp_path, monkeypatch):
    kept = run_recipe(recipe_of(store), tmp_path / "kept", progress=False)
    assert list((tmp_path / "clips.zarr.features").rglob("*.safetensors"))
    monkeypatch.setattr(SpklipConfig, "features_stay", property(lambda self: False))
    shutil.rmtree(tmp_path / "clips.zarr.features")
    live = run_recipe(recipe_of(store), tmp_path / "live", progress=False)
    folders = [p for p in (tmp_path / "clips.zarr.features").iterdir() if p.is_dir()]
    assert all('"of": "baselines"' in (p / "key.json").read_text() for p in folders)
    one, other = weights_of(tmp_path / "kept"), weights_of(tmp_path / "live")
    assert one.keys() == other.keys()
    for name in one:
        # Pictures are read in other batches, which a tower rounds otherwise.
        torch.testing.assert_close(one[name], other[name], atol=2e-3, rtol=2e-3, msg=name)
    assert [point["loss"] for point in kept["train"]["curve"]] == pytest.approx(
        [point["loss"] for point in live["train"]["curve"]], rel=1e-3
    )


def test_a_seed_gives_the_same_numbers_with_and_without_features_there_before(store, tmp_path):
    first = run_recipe(recipe_of(store), tmp_path / "first", progress=False)
    again = run_recipe(recipe_of(store), tmp_path / "again", progress=False)
    assert without_times(first) == without_times(again)
    one, other = weights_of(tmp_path / "first"), weights_of(tmp_path / "again")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_kept_features_are_read_and_a_file_that_was_cut_off_is_made_again(
    store, tmp_path, monkeypatch
):
    run_recipe(recipe_of(store), tmp_path / "first", progress=False)
    files = sorted((tmp_path / "clips.zarr.features").rglob("*.safetensors"))
    whole = files[0].read_bytes()
    made = []
    write = FeatureFolder.write
    monkeypatch.setattr(
        FeatureFolder, "write", lambda *words: (made.append(words[1]), write(*words))[1]
    )
    run_recipe(recipe_of(store), tmp_path / "second", progress=False)
    assert made == []
    files[0].write_bytes(whole[: len(whole) // 2])
    run_recipe(recipe_of(store), tmp_path / "third", progress=False)
    assert made == [files[0].stem]
    assert files[0].read_bytes() == whole


@pytest.mark.parametrize(
    "word",
    ["data.crop=0.7", "data.seed=3", "data.views=3", "data.window_ticks=54", "data.mirror=false"],
)
def test_whatever_features_depend_on_is_in_their_key(store, tmp_path, word):
    def folders():
        return {p.name for p in (tmp_path / "clips.zarr.features").iterdir()}

    run_recipe(recipe_of(store), tmp_path / "first", progress=False)
    before = folders()
    run_recipe(recipe_of(store, word), tmp_path / "second", progress=False)
    assert folders() - before


def test_nothing_is_kept_where_the_tower_learns(store, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "KeptViews", None)
    words = ["model.unfreeze=1", "eval.baselines=none"]
    run_recipe(recipe_of(store, *words), tmp_path / "run", progress=False)
    assert not list((tmp_path / "clips.zarr.features").rglob("*.safetensors"))


def test_features_go_to_the_run_where_nothing_can_be_written_beside_the_store(
    store, tmp_path, monkeypatch
):
    assert feature_root(str(store), tmp_path / "run") == tmp_path / "clips.zarr.features"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert feature_root(str(store), tmp_path / "run") == tmp_path / "run" / "features"
    assert feature_root("user/name", tmp_path / "run") == tmp_path / "run" / "features"


def test_a_clip_that_cannot_be_read_is_one_line_and_what_was_made_stays(store, tmp_path):
    broken = store / "clips" / "move_right_train_2" / "c.0.0.0"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpikeDataError, match="move_right_train_2") as caught:
        run_recipe(recipe_of(store), tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)
    made = list((tmp_path / "clips.zarr.features").rglob("*.safetensors"))
    assert made
    broken.write_bytes(whole)
    stamps = {path: path.stat().st_mtime_ns for path in made}
    run_recipe(recipe_of(store), tmp_path / "run", resume=True, progress=False)
    assert {path: path.stat().st_mtime_ns for path in made} == stamps


def test_views_take_turns_with_the_epochs(store, tmp_path):
    run_recipe(recipe_of(store), tmp_path / "run", progress=False)
    recipe = recipe_of(store)
    splits = run.open_splits(recipe)
    saved = ModelConfig(checkpoint=str(tmp_path / "run"))
    model = run.build_model(saved, SpklipConfig.from_pretrained(tmp_path / "run" / "model"))
    items = embed.training_items(model, splits, recipe, tmp_path / "clips.zarr.features", False)
    assert isinstance(items, KeptViews)
    seen = []
    for epoch in range(3):
        items.set_epoch(epoch)
        seen.append(items[0]["feature_vc"])
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])
    assert seen[0].shape == (3, 3 * 1280)  # and where its features lie, across and down


def files_of(root):
    return {path.relative_to(root).as_posix(): path for path in root.rglob("*.safetensors")}


def test_features_that_are_there_ask_nothing_of_the_tower(store, tmp_path, monkeypatch):
    first = run_recipe(recipe_of(store), tmp_path / "first", progress=False)

    def fail(*_):
        raise AssertionError("a clip was looked at again")

    monkeypatch.setattr(PictureTower, "window_features", fail)
    monkeypatch.setattr(baselines, "features", fail)
    again = run_recipe(recipe_of(store), tmp_path / "again", progress=False)
    assert without_times(again) == without_times(first)


def test_processes_that_read_ahead_do_not_change_a_feature(store, tmp_path):
    run_recipe(recipe_of(store), tmp_path / "alone", progress=False)
    root = (tmp_path / "clips.zarr.features").rename(tmp_path / "by one process")
    run_recipe(recipe_of(store, "data.workers=2"), tmp_path / "ahead", progress=False)
    want, got = files_of(root), files_of(tmp_path / "clips.zarr.features")
    assert want.keys() == got.keys()
    # Of 12 training clips what is trained on, what is judged and what the baselines see; of 6
    # test clips what is judged, forwards and backwards, and what the baselines see.
    assert len(want) == 12 * 3 + 6 * 3
    for name, file in want.items():
        assert file.read_bytes() == got[name].read_bytes(), name


def test_other_weights_of_the_tower_have_features_of_their_own(store, tmp_path):
    recipe = recipe_of(store)
    config, _ = run.load_model_parts(recipe.model)
    model = run.build_model(recipe.model, config)
    before = embed.Embedder(model, recipe, tmp_path, None).window_folder().path
    assert embed.Embedder(model, recipe, tmp_path, None).window_folder().path == before
    with torch.no_grad():
        next(iter(model.video.encoder.parameters())).add_(1e-3)
    assert embed.Embedder(model, recipe, tmp_path, None).window_folder().path != before


def test_a_run_that_keeps_features_itself_gives_the_same_and_is_overwritten_whole(store, tmp_path):
    want = run_recipe(recipe_of(store), tmp_path / "beside", progress=False)
    shutil.rmtree(tmp_path / "clips.zarr.features")
    (tmp_path / "clips.zarr.features").write_text("a file is in the way")
    got = run_recipe(recipe_of(store), tmp_path / "run", progress=False)
    assert without_times(got) == without_times(want)
    made = files_of(tmp_path / "run" / "features")
    assert made
    stamps = {name: path.stat().st_ino for name, path in made.items()}
    run_recipe(recipe_of(store), tmp_path / "run", overwrite=True, progress=False)
    again = files_of(tmp_path / "run" / "features")
    assert again.keys() == made.keys()
    assert {name: path.stat().st_ino for name, path in again.items()} != stamps


@pytest.mark.parametrize("words", [WORDS, SMALL], ids=["tower", "scratch"])
def test_a_clip_that_a_reading_process_cannot_read_is_the_same_one_line(store, tmp_path, words):
    broken = store / "clips" / "move_right_train_2" / "c.0.0.0"
    broken.write_bytes(broken.read_bytes()[:20])
    own = [*words, f"data.path={json.dumps(str(store))}"]
    told = []
    for workers in (0, 2):
        recipe = read_recipe(os.devnull, [*own, f"data.workers={workers}"])
        with pytest.raises(SpikeDataError, match="move_right_train_2") as caught:
            run_recipe(recipe, tmp_path / f"run-{workers}", progress=False)
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert "\n" not in told[0]


@pytest.mark.slow  # two processes that import torch: about 10 s
def test_two_processes_train_on_kept_features_what_one_does_on_batches_twice_as_large(
    store, tmp_path
):
    program = Path(sys.executable).with_name("spklip-train")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    words = [*WORDS, f"data.path={store}", "train.log_every=1", "eval.baselines=none"]
    for name, command, batch in (
        ("one", [program], 4),
        ("two", [*torchrun, "--no-python", program], 2),
    ):
        own = ["smoke.yaml", *words, f"train.batch_size={batch}", "--out", str(tmp_path / name)]
        subprocess.run([*command, *own], cwd=tmp_path, check=True, capture_output=True)
    one, two = (
        json.loads((tmp_path / name / "metrics.json").read_text())["train"]
        for name in ("one", "two")
    )
    assert two["batch_size"] == one["batch_size"] == 4
    for left, right in zip(one["curve"], two["curve"], strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)
