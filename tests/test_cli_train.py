"""The programs `spklip-train` and `spklip-eval`, and a whole run, on a store made here."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from spikedata_cli.train import app, eval_app
from typer.testing import CliRunner

from spikedata import Clip, SpikeDataError, create_store
from spikedata.stream import pack_ticks
from spklip.recipe import Recipe, read_recipe
from spklip.run import recipe_of_run, run_recipe
from spklip.splits import Augmented, choose_shots, open_splits

CLASSES = ("move_left", "move_right", "stand_still")
SMALL = [
    "model.changes.pool_px=1",
    "model.changes.radius_ticks=3",
    "model.changes.branch_ticks=[7, 5]",
    "model.changes.branch_channels=[2, 2]",
    "model.changes.extractor_channels=8",
    "model.changes.group_blocks=[1]",
    "model.changes.group_width=8",
    "model.changes.temporal_width=16",
    "model.changes.text_width=16",
    "model.changes.text_layers=1",
    "model.changes.embed_dim=16",
    "data.window_ticks=32",
    "data.segments=2",
    "train.max_steps=4",
    "train.batch_size=4",
    "train.save_every=2",
    "train.log_every=1",
    "train.precision=fp32",
    "eval.windows=1",
    "eval.queries=2",
    "eval.shots=[1, 2]",
    "eval.episodes=5",
    "eval.resamples=20",
]


def _clip(split: str, c: int, number: int, group: str | None) -> Clip:
    return Clip(
        id=f"{CLASSES[c]}_{split}_{number}",
        label=CLASSES[c],
        captions=(f"things {CLASSES[c].replace('_', ' ')}",),
        split=split,
        group=group,
    )


def write_store(path: Path, *, shared_group: bool = False) -> Path:
    """Three classes, four training clips and two test clips each, 12x16 pixels, 64 ticks."""
    rng = np.random.default_rng(0)
    with create_store(path, recipe={}, class_names=CLASSES) as writer:
        for split, count in (("train", 4), ("test", 2)):
            for c in range(3):
                for number in range(count):
                    group = "g0" if shared_group else f"{split}-{number}"
                    clip = _clip(split, c, number, group)
                    bright_hw = np.zeros((12, 16))
                    bright_hw[4 * c : 4 * c + 4] = 0.6  # a band of its own for each class
                    spikes = rng.random((64, 12, 16)) < 0.1 + bright_hw
                    with writer.clip(clip, height_px=12, width_px=16, tick_rate_hz=250.0) as out:
                        out.append(pack_ticks(spikes))
                        out.finish(ticks=64, attributes={})
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A directory with a packed store and one finished run."""
    folder = tmp_path_factory.mktemp("home")
    write_store(folder / "packed.zarr")
    (folder / ".spikedata.json").write_text(json.dumps({"packed": "packed.zarr"}))
    return folder


@pytest.fixture(scope="module")
def finished(home) -> SimpleNamespace:
    before = Path.cwd()
    os.chdir(home)
    try:
        done = CliRunner().invoke(app, ["recipes/smoke.yaml", *SMALL, "--json"])
    finally:
        os.chdir(before)
    assert done.exit_code == 0, done.output
    return SimpleNamespace(folder=home / "runs" / "smoke", done=done)


def train(home: Path, monkeypatch: Any, *words: str) -> Any:
    monkeypatch.chdir(home)
    return CliRunner().invoke(app, list(words))


def test_a_run_from_the_packed_store_leaves_everything(finished):
    written = {path.name for path in finished.folder.iterdir()}
    assert written == {"recipe.yaml", "checkpoints", "model", "report.html", "metrics.json"}
    assert "using the packaged recipe smoke.yaml" in finished.done.stderr
    metrics = json.loads(finished.done.stdout)
    assert metrics == json.loads((finished.folder / "metrics.json").read_text())
    assert metrics["data"]["path"] == "packed.zarr"
    assert metrics["data"]["train_clips"] == 12
    assert metrics["closed_set"]["spklip"]["clips"] == 6
    assert set(metrics["closed_set"]) == {"spklip", "mean_rate", "histogram", "chance"}
    assert metrics["closed_set"]["chance"]["uniform_top1"] == pytest.approx(1 / 3)
    assert metrics["few_shot"]["ways"] == 3
    assert metrics["few_shot"]["shots"] == ["0", "1", "2"]
    assert "All of these classes were seen in training" in metrics["few_shot"]["seen_in_training"]
    assert [point["step"] for point in metrics["train"]["curve"]] == [1, 2, 3, 4]
    assert metrics["retrieval"]["text_to_video"]["right_per_query"] == 2


def test_the_mean_rate_image_reads_the_band_that_is_bright(finished):
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert metrics["closed_set"]["mean_rate"]["top1"]["value"] == 1
    assert metrics["few_shot"]["top1"]["mean_rate"]["2"]["value"] == 1


def test_the_report_is_one_file_with_its_pictures_inside(finished):
    page = (finished.folder / "report.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    for told in ("SPKLIP", "Mean-rate image", "Chance", "3-way 2-shot", "95% intervals"):
        assert told in page


def test_the_resolved_recipe_runs_again_as_it_is(finished):
    recipe = recipe_of_run(finished.folder)
    assert recipe.data.path == "packed.zarr"
    assert recipe.train.max_steps == 4
    assert recipe == read_recipe(finished.folder / "recipe.yaml")


def test_a_finished_run_is_not_overwritten(home, finished, monkeypatch):
    before = (finished.folder / "metrics.json").read_bytes()
    done = train(home, monkeypatch, "recipes/smoke.yaml", *SMALL)
    assert done.exit_code == 1
    assert "a finished run; --overwrite replaces it" in done.stderr
    assert (finished.folder / "metrics.json").read_bytes() == before


def test_an_unfinished_run_needs_resume_and_the_same_recipe(home, finished, monkeypatch):
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    words = ["recipes/smoke.yaml", *SMALL, "--out", "cut"]
    assert train(home, monkeypatch, *words).exit_code == 0
    (home / "cut" / "metrics.json").unlink()
    done = train(home, monkeypatch, *words)
    assert done.exit_code == 1
    assert "--resume goes on with it" in done.stderr
    done = train(home, monkeypatch, *words, "train.seed=1", "--resume")
    assert done.exit_code == 1
    assert "was begun with train.seed=0, the recipe now says 1" in done.stderr
    assert train(home, monkeypatch, *words, "--resume").exit_code == 0
    again = json.loads((home / "cut" / "metrics.json").read_text())
    assert again["closed_set"] == metrics["closed_set"]
    assert again["train"]["curve"] == metrics["train"]["curve"]


def test_a_folder_that_is_no_run_is_left_alone(home, monkeypatch):
    (home / "mine").mkdir(exist_ok=True)
    (home / "mine" / "notes.txt").write_text("x")
    done = train(home, monkeypatch, "smoke.yaml", *SMALL, "--out", "mine", "--overwrite")
    assert done.exit_code == 1
    assert "exists and is not a run" in done.stderr


def test_dry_run_tells_recipe_size_memory_and_clips_and_writes_nothing(home, monkeypatch):
    done = train(home, monkeypatch, "smoke.yaml", *SMALL, "--dry-run", "--json", "--out", "dry")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["recipe"]["train"]["max_steps"] == 4
    assert plan["clips"]["per_class"]["move_left"] == {"train": 4, "test": 2}
    parts = plan["parameters"]
    assert 0 < parts["video"] < parts["all"]
    assert plan["memory_gb"]["all"] > 0
    assert not (home / "dry").exists()
    text = train(home, monkeypatch, "smoke.yaml", *SMALL, "--dry-run").stdout
    assert "window_ticks: 32" in text


def test_eval_judges_a_run_again_with_the_same_numbers(home, finished, monkeypatch):
    monkeypatch.chdir(home)
    words = ["runs/smoke", "--data", "packed.zarr", "--split", "test", "--json"]
    done = CliRunner().invoke(eval_app, words)
    assert done.exit_code == 0, done.output
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert json.loads(done.stdout)["closed_set"] == metrics["closed_set"]
    assert "holds an evaluation already" in CliRunner().invoke(eval_app, words).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.yaml"], "Packaged recipes: "),
        (["smoke.yaml", "train.max_step=1"], "Did you mean 'max_steps'"),
        (["smoke.yaml", "data.path=gone.zarr"], "spikedata simulate ucf101/ --threshold 2.0"),
        (["smoke.yaml", "model.changes=null", "model.checkpoint=gone"], "expected keys and values"),
        (["smoke.yaml", "model.changes={}", "model.checkpoint=gone"], "gone: no checkpoint there"),
        (["smoke.yaml", "model.changes.pool=2"], "Did you mean 'pool_px'"),
        (["smoke.yaml", "data.test_split=validation"], "no labelled clips in split 'validation'"),
        (["smoke.yaml", "eval.held_out_classes=[jump]"], "names no class: jump"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(home, monkeypatch, words, message):
    done = train(home, monkeypatch, *words, "--out", "wrong")
    assert done.exit_code == 1
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert message in error[0]
    assert not (home / "wrong").exists()


def test_without_data_the_commands_that_make_it_are_told(tmp_path, monkeypatch):
    done = train(tmp_path, monkeypatch, "smoke.yaml")
    assert done.exit_code == 1
    assert "spikedata simulate ucf101/ --threshold 2.0" in done.stderr
    assert "spikedata pack --to zarr" in done.stderr


def test_a_group_on_both_sides_is_refused_or_reported(tmp_path):
    store = write_store(tmp_path / "leaky.zarr", shared_group=True)
    recipe = read_recipe(os.devnull, [*SMALL, f"data.path={store}"])
    with pytest.raises(SpikeDataError, match="1 groups have clips in train and in test"):
        open_splits(recipe)
    words = [f"data.path={store}", "eval.leaks=report", "train.max_steps=1"]
    reported = read_recipe(os.devnull, [*SMALL, *words])
    metrics = run_recipe(reported, tmp_path / "run", progress=False)
    assert any("LEAK" in note for note in metrics["notes"])
    assert "LEAK" in (tmp_path / "run" / "report.html").read_text()


def test_held_out_classes_are_not_trained_on_but_support_episodes(home, monkeypatch):
    monkeypatch.chdir(home)
    splits = open_splits(read_recipe(os.devnull, [*SMALL, "eval.held_out_classes=[move_left]"]))
    assert {splits.class_names[c] for c in splits.fit.labels} == set(CLASSES[1:])
    assert {splits.class_names[c] for c in splits.support.labels} == set(CLASSES)


def test_shots_take_so_many_clips_of_each_class(home, monkeypatch):
    monkeypatch.chdir(home)
    splits = open_splits(read_recipe(os.devnull, [*SMALL, "data.shots=2"]))
    assert sorted(splits.fit.labels) == [0, 0, 1, 1, 2, 2]
    assert choose_shots(["a", "b"], [0, 0], 1, 0) == choose_shots(["a", "b"], [0, 0], 1, 0)


def test_prompts_are_training_captions_or_templates(home, monkeypatch):
    monkeypatch.chdir(home)
    splits = open_splits(read_recipe(os.devnull, SMALL))
    assert splits.prompts[0] == ("things move left",)
    splits = open_splits(read_recipe(os.devnull, [*SMALL, "text.captions=templates"]))
    assert splits.prompts[0] == ("a video of move left",)


def test_augmented_windows_depend_on_seed_epoch_and_index_alone(home, monkeypatch):
    monkeypatch.chdir(home)
    recipe: Recipe = read_recipe(os.devnull, [*SMALL, "data.crop=0.5", "data.mirror=true"])
    clips = Augmented(open_splits(recipe).fit, recipe.data)
    first = [clips[i]["packed_sghw"] for i in (0, 1, 0)]
    assert first[0].shape[-2:] == (6, 8)
    assert (first[0] == first[2]).all()
    clips.set_epoch(1)
    assert not (clips[0]["packed_sghw"] == first[0]).all()
