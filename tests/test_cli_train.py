"""The programs `spklip-train` and `spklip-eval`, and a whole run, on a store made here."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from spikedata_cli.train import app, eval_app
from typer.testing import CliRunner

from spikedata import Clip, SpikeDataError, create_store
from spikedata.bits import pack_ticks
from spklip.batches import Augmented, TextCollator
from spklip.budget import estimate_memory
from spklip.embed import Embedder
from spklip.judge import scene_groups
from spklip.model import SpklipConfig, build_tokenizer
from spklip.recipe import Recipe, read_recipe
from spklip.run import recipe_of_run, run_recipe
from spklip.run_folder import full_disk_told
from spklip.splits import captioned_ids, choose_shots, open_splits

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
    "eval.direction_steps=0",
    "eval.energy_clips=0",
]


def _clip(split: str, c: int, number: int, group: str | None) -> Clip:
    return Clip(
        id=f"{CLASSES[c]}_{split}_{number}",
        label=CLASSES[c],
        captions=(f"things {CLASSES[c].replace('_', ' ')}",),
        split=split,
        group=group,
    )


def write_store(path: Path, *, shared_group: bool = False, odd_size: bool = False) -> Path:
    """Three classes, four training clips and two test clips each, 12x16 pixels, 64 ticks."""
    rng = np.random.default_rng(0)
    with create_store(path, recipe={}, class_names=CLASSES) as writer:
        for split, count in (("train", 4), ("test", 2)):
            for c in range(3):
                for number in range(count):
                    group = "g0" if shared_group else f"{split}-{number}"
                    clip = _clip(split, c, number, group)
                    height = 14 if odd_size and number == 1 else 12
                    bright_hw = np.zeros((height, 16))
                    bright_hw[4 * c : 4 * c + 4] = 0.6  # a band of its own for each class
                    spikes = rng.random((64, height, 16)) < 0.1 + bright_hw
                    with writer.clip(
                        clip, height_px=height, width_px=16, tick_rate_hz=250.0
                    ) as out:
                        out.append(pack_ticks(spikes))
                        out.finish(ticks=64, attributes={})
    return path


def write_bert(folder: Path) -> None:
    """A text encoder of one layer and its tokenizer."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "things", "move", "left", "right"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), intermediate_size=16, **shape)
    BertModel(config).save_pretrained(folder)


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
    names = {"spklip", "mean_rate", "histogram", "intervals", "chance"}
    assert set(metrics["closed_set"]) == names
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
    assert page.count("<svg") == 4
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


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size there")
@pytest.mark.parametrize(
    ("most_bytes", "what"),
    [
        (1_000, "recipe.yaml"),
        (20_000, "model.safetensors, of 103 kB, is written by Rust"),
        (150_000, "optimizer.pt, of 263 kB, is written by C++"),
    ],
)
def test_a_disk_that_takes_no_more_is_one_line_and_the_run_is_gone_on_with(
    home, finished, monkeypatch, most_bytes, what
):
    import resource

    out = f"runs/full-{most_bytes}"
    words = ["recipes/smoke.yaml", *SMALL, "--out", out]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        done = train(home, monkeypatch, *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    told = "cannot be written: .*" if "C++" in what else "File too large"
    assert re.fullmatch(f"error: {out}: {told}. Make room, and go on with --resume", line)
    assert train(home, monkeypatch, *words, "--resume").exit_code == 0
    metrics = json.loads((home / out / "metrics.json").read_text())
    first = json.loads((finished.folder / "metrics.json").read_text())
    assert metrics["closed_set"] == first["closed_set"]


def test_a_full_disk_is_told_where_the_library_tells_no_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    told = f"^{tmp_path}: No space left on device. Make room"
    with pytest.raises(SpikeDataError, match=told), full_disk_told(tmp_path):
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")
    with pytest.raises(RuntimeError, match="^a bug$"), full_disk_told(tmp_path):
        raise RuntimeError("a bug")


def test_a_folder_that_is_no_run_is_left_alone(home, monkeypatch):
    (home / "mine").mkdir(exist_ok=True)
    (home / "mine" / "notes.txt").write_text("x")
    done = train(home, monkeypatch, "smoke.yaml", *SMALL, "--out", "mine", "--overwrite")
    assert done.exit_code == 1
    assert "exists and is not a run" in done.stderr


def test_a_recipe_in_its_own_folder_does_not_make_a_run_of_the_folder(home, monkeypatch):
    folder = home / "mine too"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("train: {max_steps: 4}\n")
    (folder / "notes.md").write_text("years of work")
    words = [str(folder / "recipe.yaml"), *SMALL, "--out", str(folder)]
    for more in ([], ["--overwrite"], ["--resume"]):
        done = train(home, monkeypatch, *words, *more)
        assert done.exit_code == 1
        assert "exists and is not a run" in done.stderr
    assert (folder / "notes.md").read_text() == "years of work"
    assert {path.name for path in folder.iterdir()} == {"recipe.yaml", "notes.md"}


def test_overwrite_deletes_what_a_run_wrote_and_is_not_advised_beside_other_files(
    home, monkeypatch
):
    words = ["smoke.yaml", *SMALL, "train.max_steps=1", "--out", "beside"]
    assert train(home, monkeypatch, *words).exit_code == 0
    (home / "beside" / "notes.md").write_text("x")
    done = train(home, monkeypatch, *words)
    assert done.exit_code == 1
    assert "it also holds notes.md: name another folder with --out" in done.stderr
    assert "--overwrite" not in done.stderr
    assert train(home, monkeypatch, *words, "--overwrite").exit_code == 0
    assert (home / "beside" / "notes.md").read_text() == "x"


@pytest.mark.slow  # two processes that import torch: about 10 s
def test_two_processes_train_what_one_trains_on_batches_twice_as_large(
    home, finished, tmp_path, monkeypatch
):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    program = Path(sys.executable).with_name("spklip-train")
    words = ["smoke.yaml", *SMALL, "train.batch_size=2", "eval.direction_steps=1"]
    words += ["--out", str(tmp_path / "two")]
    subprocess.run([*torchrun, "--no-python", program, *words], cwd=home, check=True)
    one = json.loads((finished.folder / "metrics.json").read_text())["train"]
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    two = metrics["train"]
    assert metrics["directions"]["steps"] == 1
    assert two["batch_size"] == one["batch_size"] == 4
    for left, right in zip(one["curve"], two["curve"], strict=True):
        # The first steps agree to the last digits of float32; AdamW makes later ones drift.
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-3)


def test_a_run_that_failed_before_its_first_checkpoint_is_begun_again(home, monkeypatch):
    words = ["smoke.yaml", *SMALL, "train.max_steps=3", "--out", "failed"]
    rate = "train.learning_rate=1e30"
    done = train(home, monkeypatch, *words, rate, "train.warmup_steps=0", "train.save_every=9")
    assert done.exit_code == 1
    assert one_error(done).startswith("error: the loss is")
    assert train(home, monkeypatch, *words, "--resume").exit_code == 0


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


def test_memory_in_bfloat16_is_what_autocast_on_a_gpu_keeps(monkeypatch):
    recipe = read_recipe(os.devnull, ["train.precision=bf16", "train.batch_size=1000"])

    def of_more_pixels() -> float:  # a difference: weights cast to bfloat16 do not grow with them
        sizes = [estimate_memory(recipe, SpklipConfig.preset("paper"), 32, w) for w in (32, 64)]
        return sizes[1]["activations"] - sizes[0]["activations"]

    planned = of_more_pixels()
    in_given_type = torch.nn.functional.group_norm

    def in_float32(x: torch.Tensor, groups: int, *rest: Any) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return in_given_type(x.float(), groups, *rest)

    monkeypatch.setattr(torch.nn.functional, "group_norm", in_float32)  # CUDA's rule, on a CPU
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = of_more_pixels()
    assert planned == pytest.approx(kept, rel=0.1)


def test_eval_judges_a_run_again_with_the_same_numbers(home, finished, monkeypatch):
    monkeypatch.chdir(home)
    words = ["runs/smoke", "--data", "packed.zarr", "--split", "test", "--json"]
    done = CliRunner().invoke(eval_app, words)
    assert done.exit_code == 0, done.output
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert json.loads(done.stdout)["closed_set"] == metrics["closed_set"]
    assert "holds an evaluation already" in CliRunner().invoke(eval_app, words).stderr


def test_judging_leaves_the_folder_of_a_run_alone(home, finished, monkeypatch):
    done = evaluate(home, monkeypatch, "runs/smoke", "--out", "runs/smoke", "--overwrite")
    assert done.exit_code == 1
    assert "is a run, which has its own numbers" in one_error(done)


def evaluate(home: Path, monkeypatch: Any, *words: str) -> Any:
    monkeypatch.chdir(home)
    return CliRunner().invoke(eval_app, list(words))


def test_a_saved_model_knows_how_it_was_fed_wherever_it_is_copied(
    home, finished, monkeypatch, tmp_path
):
    shutil.copytree(finished.folder / "model", home / "elsewhere")
    done = evaluate(home, monkeypatch, "elsewhere", "--json", "--out", str(tmp_path / "e"))
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["recipe"]["data"]["segments"] == 2
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert told["closed_set"] == metrics["closed_set"]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json"])
def test_a_model_that_was_changed_is_not_judged(home, finished, monkeypatch, tmp_path, name):
    model = tmp_path / "model"
    shutil.copytree(finished.folder / "model", model)
    data = bytearray((model / name).read_bytes())
    data[-2] ^= 1
    (model / name).write_bytes(data)
    done = evaluate(home, monkeypatch, str(model), "--out", str(tmp_path / "eval"))
    assert f"{name} is not what was written, its SHA-256 is another" in one_error(done)
    assert not (tmp_path / "eval").exists()


def test_a_model_s_recipe_may_go_but_not_change(home, finished, monkeypatch, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(finished.folder / "model", model)
    recipe = (model / "recipe.yaml").read_text()
    (model / "recipe.yaml").write_text(recipe.replace("window_ticks: 32", "window_ticks: 36"))
    done = evaluate(home, monkeypatch, str(model), "--out", str(tmp_path / "eval"))
    assert "recipe.yaml is not what was written" in one_error(done)
    (model / "recipe.yaml").unlink()
    words = [word for word in SMALL if word.startswith(("data.", "eval."))]
    words += ["data.path=packed.zarr", "--out", str(tmp_path / "eval")]
    done = evaluate(home, monkeypatch, str(model), *words)
    assert done.exit_code == 0, done.output


def test_what_a_killed_run_was_writing_is_no_obstacle_and_goes(home, monkeypatch, tmp_path):
    out = tmp_path / "cut"
    out.mkdir()
    (out / "recipe.yaml.12-34.partial").write_text("# The res")
    words = ["recipes/smoke.yaml", *SMALL, "train.max_steps=2", "--out", str(out)]
    (out / "mine.12-34.partial").touch()
    assert "exists and is not a run" in one_error(train(home, monkeypatch, *words))
    (out / "mine.12-34.partial").unlink()
    assert train(home, monkeypatch, *words).exit_code == 0
    assert list(out.rglob("*.partial")) == []
    (out / "metrics.json").unlink()
    (out / "checkpoints" / "checkpoint-2" / "sha256.json").unlink()
    for name in ("metrics.json", "checkpoints/checkpoint-2/sha256.json", "mine"):
        (out / f"{name}.12-34.partial").touch()
    assert train(home, monkeypatch, *words, "--resume").exit_code == 0
    assert [path.name for path in out.rglob("*.partial")] == ["mine.12-34.partial"]


def test_resuming_where_every_checkpoint_is_damaged_is_one_line(
    home, finished, monkeypatch, tmp_path
):
    shutil.copytree(finished.folder, tmp_path / "cut")
    (tmp_path / "cut" / "metrics.json").unlink()
    for path in (tmp_path / "cut" / "checkpoints").iterdir():
        (path / "optimizer.pt").write_bytes(b"")
    words = ["recipes/smoke.yaml", *SMALL, "--out", str(tmp_path / "cut"), "--resume"]
    assert "no checkpoint is whole" in one_error(train(home, monkeypatch, *words))


def test_a_model_without_a_recipe_is_fed_by_defaults_and_says_so(home, finished, monkeypatch):
    stray = home / "stray" / "m"
    shutil.copytree(finished.folder / "model", stray)
    (stray / "recipe.yaml").rename(stray.parent / "recipe.yaml")  # a parent's is not the model's
    done = evaluate(home, monkeypatch, "stray/m", "data.window_ticks=9", "--out", "stray/e")
    assert done.exit_code == 0, done.output
    assert "stray/m: has no recipe.yaml of a run; using the defaults" in done.stderr
    told = json.loads((home / "stray" / "e" / "metrics.json").read_text())
    assert told["recipe"]["data"]["segments"] == 1


@pytest.mark.parametrize(
    "word", ["train.max_steps=9", "data.mirror=true", "data.sampling=start", "model.preset=paper"]
)
def test_judging_refuses_keys_that_change_nothing(home, finished, monkeypatch, word):
    done = evaluate(home, monkeypatch, "runs/smoke", word, "--out", "nothing")
    assert done.exit_code == 1
    assert f"override '{word}': changes nothing" in one_error(done)


def test_a_checkpoint_of_a_run_with_a_named_text_encoder_can_be_judged(home, monkeypatch, tmp_path):
    write_bert(tmp_path)
    named = f"model.changes.text_encoder={tmp_path}"
    done = train(home, monkeypatch, "smoke.yaml", *SMALL, named, "--out", "named")
    assert done.exit_code == 0, done.output
    words = ["named/checkpoints/checkpoint-4", "--json", "--out", "named-again"]
    done = evaluate(home, monkeypatch, *words)
    assert done.exit_code == 0, done.output
    metrics = json.loads((home / "named" / "metrics.json").read_text())
    assert json.loads(done.stdout)["closed_set"] == metrics["closed_set"]


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
        (["smoke.yaml", "model.changes.dropout=much"], "dropout: expected float, got 'much'"),
        (["smoke.yaml", "model.changes.text_adapter_width=-4"], "text_adapter_width"),
        (["smoke.yaml", "model.changes.text_encoder=packed.zarr"], "'packed.zarr': cannot be load"),
        (["smoke.yaml", "text.templates=['a {} of {kind}']"], "no other braces"),
        (["smoke.yaml", "train.learning_rate=nan"], "learning_rate must be positive, got nan"),
        (["smoke.yaml", "train.weight_decay=nan"], "weight_decay must be 0 or more, got nan"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(home, monkeypatch, words, message):
    done = train(home, monkeypatch, *words, "--out", "wrong")
    assert done.exit_code == 1
    assert message in one_error(done)
    assert not (home / "wrong").exists()


def one_error(done: Any) -> str:
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1, done.output
    return error[0]


MISFITS = [
    ("data.window_ticks=12", "6 ticks each; a window of the model has 7"),
    ("model.changes.pool_px=13", "12x16 pixels, cropped to 1, are smaller than one cell"),
    ("train.batch_size=1", "a step would see 1 clip"),
]
if not torch.cuda.is_available():
    MISFITS.append(("train.precision=fp16", "train.precision=fp16 needs a CUDA GPU"))


@pytest.mark.parametrize(("word", "message"), MISFITS)
@pytest.mark.parametrize("how", [[], ["--dry-run"]])
def test_parts_that_do_not_fit_each_other_are_told_before_anything_is_written(
    home, monkeypatch, word, message, how
):
    done = train(home, monkeypatch, "smoke.yaml", *SMALL, word, "--out", "misfit", *how)
    assert done.exit_code == 1
    assert message in one_error(done)
    assert not (home / "misfit").exists()


def test_clips_of_several_sizes_are_cut_to_the_smallest_and_that_is_told(home, monkeypatch, caplog):
    if not (home / "sizes.zarr").exists():
        write_store(home / "sizes.zarr", odd_size=True)
    words = ["smoke.yaml", *SMALL, "data.path=sizes.zarr", "train.max_steps=1"]
    done = train(home, monkeypatch, *words, "--out", "sizes")
    assert done.exit_code == 0, done.output
    (told,) = [record.getMessage() for record in caplog.records if "sizes" in record.getMessage()]
    assert "clips of 2 sizes, 12x16 to 14x16" in told
    assert "data.size=[12, 16]" in told
    metrics = json.loads((home / "sizes" / "metrics.json").read_text())
    assert metrics["recipe"]["data"]["size"] == [12, 16]
    assert any("to 12x16 (data.size)" in note for note in metrics["notes"])
    assert "size:\n  - 12\n  - 16" in (home / "sizes" / "model" / "recipe.yaml").read_text()


def write_captioned(path: Path, *, captions: bool = True) -> Path:
    """Six clips to train on and four to judge, without classes, each with captions of its own."""
    rng = np.random.default_rng(0)
    with create_store(path, recipe={}, class_names=()) as writer:
        for split, count in (("train", 6), ("test", 4)):
            for n in range(count):
                own = (f"{split} clip {n}", f"number {n}") if captions else ()
                clip = Clip(id=f"{split}{n}", captions=own, split=split)
                with writer.clip(clip, height_px=12, width_px=16, tick_rate_hz=250.0) as out:
                    out.append(pack_ticks(rng.random((64, 12, 16)) < 0.1 * (n + 1)))
                    out.finish(ticks=64, attributes={})
    return path


def test_captions_alone_train_and_are_judged_by_retrieval(home, monkeypatch):
    write_captioned(home / "captioned.zarr")
    words = ["smoke.yaml", *SMALL, "data.path=captioned.zarr", "train.max_steps=2"]
    done = train(home, monkeypatch, *words, "--out", "captioned")
    assert done.exit_code == 0, done.output
    assert "closed set, k-shot: not done: no clip has a class" in done.stdout
    assert "text to video: R@1" in done.stdout
    metrics = json.loads((home / "captioned" / "metrics.json").read_text())
    assert metrics["closed_set"] == metrics["few_shot"] == {"skipped": "no clip has a class"}
    found = metrics["retrieval"]["text_to_video"]
    assert (found["queries"], found["gallery"], found["right_per_query"]) == (8, 4, 1.0)
    assert any("retrieval alone is judged" in note for note in metrics["notes"])
    page = (home / "captioned" / "report.html").read_text()
    assert "Not done: no clip has a class." in page


def test_clips_with_neither_class_nor_caption_are_refused(home, monkeypatch):
    write_captioned(home / "mute.zarr", captions=False)
    done = train(home, monkeypatch, "smoke.yaml", *SMALL, "data.path=mute.zarr")
    assert done.exit_code == 1
    assert "no labelled clips in split 'train', and none with captions" in done.stderr


def test_clips_that_are_left_out_are_told(home, monkeypatch):
    write_store(home / "some.zarr")
    with create_store(home / "some.zarr", recipe={}, class_names=CLASSES, resume=True) as writer:
        clip = Clip(id="loose", split="train")
        with writer.clip(clip, height_px=3, width_px=5, tick_rate_hz=250.0) as out:
            out.append(np.zeros((8, 3, 5), np.uint8))
            out.finish(ticks=64, attributes={})
    words = ["smoke.yaml", *SMALL, "data.path=some.zarr", "train.max_steps=1"]
    assert train(home, monkeypatch, *words, "--out", "some").exit_code == 0
    metrics = json.loads((home / "some" / "metrics.json").read_text())
    assert "1 clips without a class are left out." in metrics["notes"]
    assert metrics["recipe"]["data"]["size"] is None  # no picture is cut to a clip left out


def test_numbers_in_model_changes_may_be_written_as_in_the_rest_of_a_recipe(home, monkeypatch):
    words = ["smoke.yaml", *SMALL, "model.changes.dropout=1e-1", "train.max_steps=1"]
    assert train(home, monkeypatch, *words, "--out", "dropout").exit_code == 0
    config = json.loads((home / "dropout" / "model" / "config.json").read_text())
    assert config["dropout"] == 0.1


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


def test_baselines_and_chance_learn_from_the_classes_that_the_model_learnt_from(home, monkeypatch):
    words = ["smoke.yaml", *SMALL, "eval.held_out_classes=[move_left]", "train.max_steps=1"]
    done = train(home, monkeypatch, *words, "--json", "--out", "novel")
    assert done.exit_code == 0, done.output
    metrics = json.loads(done.stdout)
    for name in ("mean_rate", "histogram"):
        assert np.array(metrics["closed_set"][name]["confusion"])[:, 0].sum() == 0  # never answered
    assert metrics["closed_set"]["chance"]["commonest_class"] != 0
    assert metrics["few_shot"]["skipped"].startswith("k-shot episodes need 2 classes")
    assert "a baseline nothing" in metrics["notes"][0]


def test_a_scene_that_shows_several_classes_is_one_group():
    clips: Any = SimpleNamespace(labels=[0, 1, 1], groups=["yard", "yard", None], ids=list("abc"))
    assert scene_groups(clips) == ["yard", "yard", "clip c"]


def test_a_clip_without_captions_is_trained_on_the_sentences_of_its_class(tmp_path):
    with create_store(tmp_path / "mute.zarr", recipe={}, class_names=("KickBall",)) as writer:
        for name, captions in (("a", ()), ("b", ("a kick",))):
            for split in ("train", "test"):
                clip = Clip(
                    id=f"{name}_{split}",
                    label="KickBall",
                    captions=captions,
                    split=split,
                    group=split,
                )
                with writer.clip(clip, height_px=8, width_px=8, tick_rate_hz=250.0) as out:
                    out.append(pack_ticks(np.zeros((64, 8, 8), bool)))
                    out.finish(ticks=64, attributes={})
    recipe = read_recipe(os.devnull, [*SMALL, f"data.path={tmp_path / 'mute.zarr'}"])
    fit = open_splits(recipe).fit
    assert captioned_ids(fit) == {"b_train"}
    tokenizer = build_tokenizer(SpklipConfig.preset("tiny"))
    batch = TextCollator(tokenizer, [["a video of kick ball"]], captioned_ids(fit))([*fit])
    said = tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert said == ["a video of kick ball", "a kick"]


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


def test_judging_sees_the_middle_as_large_as_training_did(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    recipe: Recipe = read_recipe(os.devnull, [*SMALL, "data.crop=0.5"])
    splits = open_splits(recipe)
    seen = []

    class Watching(torch.nn.Module):
        device = torch.device("cpu")

        config = SpklipConfig.preset("tiny")

        def window_features(self, packed_bsghw, ticks):
            seen.append(packed_bsghw)
            return torch.ones(len(packed_bsghw), 1, 3), torch.zeros(1)

        def encode_features(self, feature_bvc, centre_v):
            return feature_bvc.mean(dim=1)

        head_features = encode_features

    Embedder(Watching(), recipe, tmp_path, None, progress=False).vectors(splits.test, "embed")
    want = splits.test[0]["packed_sghw"]
    assert want.shape[-2:] == (12, 16)
    assert torch.equal(torch.cat(seen)[0], want[..., 3:9, 4:12])


def test_augmented_windows_depend_on_seed_epoch_and_clip_alone(home, monkeypatch):
    monkeypatch.chdir(home)
    recipe: Recipe = read_recipe(os.devnull, [*SMALL, "data.crop=0.5", "data.mirror=true"])
    clips = Augmented(open_splits(recipe).fit, recipe.data)
    first = [clips[i]["packed_sghw"] for i in (0, 1, 0)]
    assert first[0].shape[-2:] == (6, 8)
    assert (first[0] == first[2]).all()
    clips.set_epoch(1)
    assert not (clips[0]["packed_sghw"] == first[0]).all()
