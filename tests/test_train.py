"""Training: gathered negatives, resuming, nothing leaves the machine."""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spikedata import SpikeDataError
from spklip.batches import tokenize
from spklip.gather import gather_with_gradients
from spklip.losses import UNLABELLED
from spklip.model import SpklipConfig, SpklipModel, build_tokenizer
from spklip.recipe import TrainConfig
from spklip.train import class_match, fit, last_checkpoint, pick_precision, training_arguments

TINY = {
    "radius_ticks": 3,
    "step_ticks": 4,
    "branch_ticks": (7, 5),
    "branch_channels": (2, 2),
    "branch_features": 2,
    "extractor_channels": 8,
    "group_blocks": (1,),
    "group_width": 8,
    "pool_heads": 2,
    "temporal_width": 16,
    "temporal_layers": 1,
    "temporal_heads": 2,
    "embed_dim": 16,
    "text_width": 16,
    "text_layers": 1,
    "text_heads": 2,
}
NAMES = ("up", "down", "left", "right")


def tiny_config(**changes: Any) -> SpklipConfig:
    return SpklipConfig.preset("tiny", **TINY, **changes)


class Moving:
    """Eight clips of four classes; the window depends on the epoch, as a loader's does."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((index, self.epoch))
        packed = rng.integers(0, 256, (1, 2, 8, 8), dtype=np.uint8)
        return {"packed_sghw": torch.from_numpy(packed), "label": index % 4}


class Collate:
    def __init__(self, config: SpklipConfig) -> None:
        self.tokenizer = build_tokenizer(config)

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        labels = [item["label"] for item in items]
        return {
            "packed_bsghw": torch.stack([item["packed_sghw"] for item in items]),
            "ticks": 16,
            **tokenize(self.tokenizer, [NAMES[label] for label in labels]),
            "label_b": torch.tensor(labels),
        }


def _fit(
    folder: Path,
    *,
    resume: bool = False,
    dataset: Any = None,
    model: Any = None,
    encoder: str = "cnn",
    **train: Any,
) -> tuple[Any, list[dict]]:
    config = tiny_config(encoder=encoder)
    usual = {"max_steps": 10, "batch_size": 4, "warmup_steps": 2, "save_every": 5, "log_every": 1}
    return fit(
        lambda: model or SpklipModel(config),
        lambda _: dataset or Moving(),
        Collate(config),
        TrainConfig(**(usual | {"precision": "fp32"} | train)),
        folder,
        resume=resume,
        progress=False,
    )


@pytest.mark.parametrize("encoder", ["cnn", "full_spiking"])
@pytest.mark.parametrize("clips", [8, 9])  # 9: a clip is left over in each epoch
def test_five_steps_and_five_resumed_equal_ten_bit_for_bit(tmp_path, capfd, clips, encoder):
    options = {"dataset": Some(clips), "encoder": encoder}
    whole, curve = _fit(tmp_path / "run", **options)
    shutil.rmtree(tmp_path / "run" / "checkpoint-10")
    resumed, resumed_curve = _fit(tmp_path / "run", **options, resume=True)
    want, got = whole.state_dict(), resumed.state_dict()
    assert want.keys() == got.keys()
    for name in want:
        assert torch.equal(want[name], got[name]), name
    assert [point["loss"] for point in curve] == [point["loss"] for point in resumed_curve]
    assert [point["step"] for point in curve] == list(range(1, 11))
    assert all(0 <= point["batch_match"] <= 1 for point in curve)
    assert capfd.readouterr() == ("", "")


def test_training_again_with_the_same_seed_gives_the_same_losses(tmp_path):
    _, first = _fit(tmp_path / "a", max_steps=3)
    _, second = _fit(tmp_path / "b", max_steps=3)
    assert [point["loss"] for point in first] == [point["loss"] for point in second]


def test_a_checkpoint_cut_off_while_written_is_passed_over(tmp_path):
    whole, _ = _fit(tmp_path / "run")
    cut = tmp_path / "run" / "checkpoint-10"
    (cut / "trainer_state.json").unlink()
    (cut / "optimizer.pt").write_bytes(b"half of it")
    resumed, _ = _fit(tmp_path / "run", resume=True)
    want, got = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_the_last_whole_checkpoint_is_the_newest_with_a_state(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for step, state in (("5", "{}"), ("20", "{}"), ("100", '{"epoch": 1')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-200").mkdir()
    (tmp_path / "checkpoint-mine").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-20"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"checkpoint-5", "checkpoint-20", "checkpoint-mine"}


def test_a_checkpoint_has_the_digests_of_all_its_files(tmp_path):
    _fit(tmp_path / "run", max_steps=2, save_every=1)
    for step in (1, 2):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        files = {path.name: path for path in folder.iterdir()}
        told = json.loads(files.pop("sha256.json").read_text())
        assert told == {
            name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
        }
        assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"} <= {
            *told
        }


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


def _zeros(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = [
    *((damage, "model.safetensors") for damage in (_flip, _zeros, _truncate, Path.unlink)),
    *((damage, "optimizer.pt") for damage in (_flip, _zeros, _truncate, Path.unlink)),
    *((_flip, name) for name in ("rng_state.pth", "scheduler.pt", "config.json")),
    (_zeros, "sha256.json"),
]


@pytest.fixture(scope="module")
def of_ten(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor], list[dict]]:
    """A training of ten steps with checkpoints after five and ten, its weights and its curve."""
    folder = tmp_path_factory.mktemp("ten")
    model, curve = _fit(folder / "run")
    return folder / "run", model.state_dict(), curve


@pytest.mark.parametrize(("damage", "name"), DAMAGES)
def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(
    tmp_path, of_ten, caplog, damage, name
):
    whole, want, curve = of_ten
    shutil.copytree(whole, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoint-10"
    damage(newest / name)
    got, again = _fit(tmp_path / "run", resume=True)
    (line,) = [one for one in caplog.messages if "passed over" in one]
    assert line.startswith(f"{newest}: {name} is ")
    assert again == curve
    for key, value in got.state_dict().items():
        assert torch.equal(want[key], value), key
    caplog.clear()
    assert last_checkpoint(tmp_path / "run") == newest  # made again
    assert caplog.messages == []


def test_where_no_checkpoint_is_whole_that_is_told_in_one_line_and_nothing_removed(
    tmp_path, of_ten
):
    run = tmp_path / "run"
    shutil.copytree(of_ten[0], run)
    _flip(run / "checkpoint-5" / "model.safetensors")
    (run / "checkpoint-10" / "optimizer.pt").unlink()
    before = sorted(run.rglob("*"))
    with pytest.raises(SpikeDataError, match="no checkpoint is whole") as caught:
        _fit(run, resume=True)
    (line,) = str(caught.value).splitlines()
    assert "checkpoint-5: model.safetensors is not what was written" in line
    assert "checkpoint-10: optimizer.pt is missing" in line
    assert line.endswith(
        f"Delete checkpoint-* in {run} and run again: this training then begins anew"
    )
    assert sorted(run.rglob("*")) == before
    for path in run.glob("checkpoint-*"):
        shutil.rmtree(path)
    assert _fit(run, resume=True)[1] == of_ten[2]


def _as_of_before(run: Path, *steps: int) -> None:
    for step in steps:
        (run / f"checkpoint-{step}" / "sha256.json").unlink(missing_ok=True)


def test_a_checkpoint_of_before_is_gone_on_from_as_it_is(tmp_path, of_ten, caplog):
    run = tmp_path / "run"
    shutil.copytree(of_ten[0], run)
    shutil.rmtree(run / "checkpoint-10")
    _as_of_before(run, 5)
    with caplog.at_level(logging.WARNING, logger="spklip"):
        got, curve = _fit(run, resume=True)
    assert curve == of_ten[2]
    assert all(torch.equal(of_ten[1][key], part) for key, part in got.state_dict().items())
    assert caplog.messages == []
    assert (run / "checkpoint-5" / "sha256.json").exists()  # kept as it is from now on


def test_a_checkpoint_without_digests_after_one_that_has_them_was_cut_off(tmp_path, of_ten, caplog):
    run = tmp_path / "run"
    shutil.copytree(of_ten[0], run)
    _as_of_before(run, 10)
    assert last_checkpoint(run) == run / "checkpoint-5"
    assert "checkpoint-10: was cut off while it was written" in caplog.text


@pytest.mark.parametrize(
    ("damage", "name", "step"),
    [
        *((_truncate, name, 5) for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")),
        *((damage, "model.safetensors", 5) for damage in (_truncate, Path.unlink)),
        *((damage, "model.safetensors", 10) for damage in (_truncate, Path.unlink)),
    ],
)
def test_a_checkpoint_of_before_that_cannot_be_loaded_is_one_line(
    tmp_path, of_ten, damage, name, step
):
    run = tmp_path / "run"
    shutil.copytree(of_ten[0], run)
    _as_of_before(run, 5, 10)
    if step == 5:
        shutil.rmtree(run / "checkpoint-10")
    damage(run / f"checkpoint-{step}" / name)
    with pytest.raises(SpikeDataError, match="cannot be loaded; delete it and run again") as caught:
        _fit(run, resume=True)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(f"{run / f'checkpoint-{step}'}: ")


class Some(Moving):
    """As many clips as wanted."""

    def __init__(self, clips: int) -> None:
        super().__init__()
        self.clips = clips

    def __len__(self) -> int:
        return self.clips


@pytest.mark.parametrize(("clips", "sizes"), [(9, {4}), (8, {4}), (3, {3})])
def test_only_whole_batches_are_trained_on_where_there_is_one(tmp_path, clips, sizes):
    model = SpklipModel(tiny_config())
    seen = []
    model.register_forward_pre_hook(
        lambda _m, _args, inputs: seen.append(len(inputs["input_ids"])), with_kwargs=True
    )
    _fit(tmp_path / "run", dataset=Some(clips), model=model, max_steps=6)
    assert len(seen) == 6
    assert set(seen) == sizes


def test_a_run_that_diverges_stops(tmp_path):
    with pytest.raises(SpikeDataError, match=r"training diverged\. Lower train\.learning_rate"):
        _fit(tmp_path / "run", learning_rate=1e30, warmup_steps=0)


def test_a_weight_that_is_not_finite_is_not_handed_on_though_no_loss_shows_it(tmp_path):
    model = SpklipModel(tiny_config())
    model.text.encoder.embeddings.position_embedding.weight.data[-1] = math.inf  # no text so long
    with pytest.raises(SpikeDataError, match="a weight is not a finite number"):
        _fit(tmp_path / "run", model=model, max_steps=1)


def test_the_temperature_is_pulled_back_after_each_step(tmp_path):
    model = SpklipModel(tiny_config())
    model.log_scale.data.fill_(9.0)
    trained, _ = _fit(tmp_path / "run", model=model, max_steps=2)
    assert trained.log_scale.item() <= math.log(100) + 1e-6


def test_a_processor_trains_in_bfloat16(tmp_path):
    _, curve = _fit(tmp_path / "run", precision="bf16", max_steps=2)
    assert len(curve) == 2


def test_nothing_is_reported_anywhere(tmp_path):
    assert training_arguments(TrainConfig(), tmp_path).report_to == []


def test_precision_is_what_the_recipe_says_or_what_the_machine_has():
    assert pick_precision(TrainConfig(precision="bf16")) == "bf16"
    if not torch.cuda.is_available():
        assert pick_precision(TrainConfig()) == "fp32"


def test_alone_gathering_changes_nothing():
    x = torch.ones(2, 3, requires_grad=True)
    assert gather_with_gradients(x) is x


def test_a_clip_without_a_class_matches_its_own_text_alone():
    video_nd = torch.eye(3)
    text_nd = torch.eye(3)[[1, 0, 2]]  # the first two clips find each other's text
    assert class_match(video_nd, text_nd, torch.full((3,), UNLABELLED)) == pytest.approx(1 / 3)
    assert class_match(video_nd, text_nd, torch.tensor([0, 0, 1])) == 1.0
    assert class_match(video_nd, text_nd, torch.tensor([0, 1, 2])) == pytest.approx(1 / 3)
