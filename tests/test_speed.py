"""Training at speed: accumulated gradients, less memory, compiled parts, and the loader's share."""

import copy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train import NAMES, TINY, Collate, Moving, _fit, tiny_config
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from spikedata import SpikeDataError
from spklip.batches import tokenize
from spklip.check import check_trackers
from spklip.losses import contrastive_loss
from spklip.model import SpklipConfig, SpklipModel, build_tokenizer
from spklip.recipe import TrainConfig
from spklip.report import summary_table
from spklip.speed import LoaderClock, checkpoint_activations, compile_parts, run_as_written
from spklip.train import fit, training_arguments

FROM_SCRATCH = SpklipConfig.preset("tiny", **TINY, dropout=0.0)
SPIKING = SpklipConfig.preset("tiny", **TINY, dropout=0.0, encoder="full_spiking")
UNFREEZING = SpklipConfig.preset(
    "tower", image_encoder="embedded", unfreeze_stages=2, picture_px=64, embed_dim=16, dropout=0.0
)
LEARNT_PICTURE = SpklipConfig.preset(
    "tower", image_encoder="embedded", picture="hsfe", picture_px=64, embed_dim=16, dropout=0.0
)


def inputs_of(config: SpklipConfig) -> dict[str, Any]:
    """A batch of four clips that the model can take."""
    generator = torch.Generator().manual_seed(3)
    groups = -(-config.hsfe_ticks // 8)
    side = 64 if config.image_encoder else 16
    packed = torch.randint(0, 256, (4, 1, groups, side, side), generator=generator)
    return {
        "packed_bsghw": packed.to(torch.uint8),
        "ticks": 8 * groups,
        **tokenize(build_tokenizer(config), NAMES),
        "label_b": torch.arange(4),
    }


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


class TestAccumulating:
    class Twelve(Moving):
        """With batches of two and steps of four, an epoch is one step and half a step."""

        def __len__(self) -> int:
            return 12

    def test_a_step_s_gradient_is_the_mean_of_its_batches_worked_out_by_hand(self, tmp_path):
        model = SpklipModel(FROM_SCRATCH)
        batches: list[dict[str, Any]] = []
        before, seen = [copy.deepcopy(model)], []

        class Noted(Collate):
            def __call__(self, items: Any) -> dict[str, Any]:
                batches.append(super().__call__(items))
                return batches[-1]

        hooks = [
            register_optimizer_step_pre_hook(lambda *_: seen.append(gradients(model))),
            register_optimizer_step_post_hook(lambda *_: before.append(copy.deepcopy(model))),
        ]
        try:
            fit(
                lambda: model,
                lambda _: self.Twelve(),
                Noted(FROM_SCRATCH),
                TrainConfig(
                    max_steps=2, batch_size=2, accumulate=4, max_grad_norm=1e9, precision="fp32"
                ),
                tmp_path / "checkpoints",
                progress=False,
            )
        finally:
            for hook in hooks:
                hook.remove()
        assert len(batches) == 6
        for own, got, of_step in zip(before, seen, (batches[:4], batches[4:]), strict=False):
            own.train()
            for batch in of_step:
                label_b = batch["label_b"]
                output = own(**{k: v for k, v in batch.items() if k != "label_b"})
                loss = contrastive_loss(output.video_bd, output.text_bd, output.scale, label_b)
                (loss / len(of_step)).backward()
            want = gradients(own)
            assert want.keys() == got.keys()
            for name in want:
                torch.testing.assert_close(got[name], want[name], rtol=1e-4, atol=1e-6)

    def test_statistics_are_those_of_each_batch(self, tmp_path):
        whole, _ = _fit(tmp_path / "a", max_steps=2, batch_size=4)
        parts, _ = _fit(tmp_path / "b", max_steps=1, batch_size=4, accumulate=2)
        counted = [model.video.enter[1].num_batches_tracked.item() for model in (whole, parts)]
        assert counted == [2, 2]

    def test_the_logged_loss_is_the_mean_over_batches(self, tmp_path):
        still = {"learning_rate": 1e-30, "warmup_steps": 0, "max_steps": 4}
        _, apart = _fit(tmp_path / "a", **still, batch_size=4)
        still |= {"max_steps": 2}
        _, together = _fit(tmp_path / "b", **still, batch_size=4, accumulate=2)
        want = [(apart[i]["loss"] + apart[i + 1]["loss"]) / 2 for i in (0, 2)]
        assert [point["loss"] for point in together] == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize(
    "config",
    [FROM_SCRATCH, SPIKING, UNFREEZING, LEARNT_PICTURE],
    ids=["scratch", "spiking", "tower", "picture"],
)
class TestCheckpointing:
    def test_gradients_are_the_same_and_less_is_kept(self, config):
        plain = SpklipModel(config).train()
        frugal = copy.deepcopy(plain)
        checkpoint_activations(frugal)
        kept = []
        for model in (plain, frugal):
            tensors: list[torch.Tensor] = []

            def keep(tensor: torch.Tensor, tensors: list[torch.Tensor] = tensors) -> torch.Tensor:
                tensors.append(tensor)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = model(**inputs_of(config)).loss
            kept.append(sum({t.data_ptr(): t.nbytes for t in tensors}.values()))
            loss.backward()
        want, got = gradients(plain), gradients(frugal)
        assert want.keys() == got.keys()
        assert any(float(gradient.abs().max()) > 0 for gradient in want.values())
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=1e-4, atol=1e-7)
        assert kept[1] < 0.8 * kept[0]
        for name, buffer in plain.named_buffers():
            assert torch.equal(buffer, frugal.get_buffer(name)), name

    def test_weights_keep_their_names_and_a_trained_model_is_as_written(self, config):
        model = SpklipModel(config)
        names = list(model.state_dict())
        checkpoint_activations(model)
        assert list(model.state_dict()) == names
        assert any("forward" in part.__dict__ for part in model.modules())
        run_as_written(model)
        assert not any("forward" in part.__dict__ for part in model.modules())


compiles = pytest.mark.filterwarnings("ignore")
"""Torch itself does much that it warns of."""


@pytest.fixture
def as_if_compiled() -> Iterator[None]:
    """Compiled parts that run as they are written: all but the compiler's half a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


class TestCompiling:
    @compiles
    @pytest.mark.slow
    @pytest.mark.parametrize("config", [FROM_SCRATCH, SPIKING], ids=["scratch", "spiking"])
    def test_gradients_and_embeddings_are_the_same(self, config):
        plain = SpklipModel(config).double().train()  # but for masks, in float32
        compiled = copy.deepcopy(plain)
        compile_parts(compiled)
        batch = inputs_of(config)
        for model in (plain, compiled):
            model(**batch).loss.backward()
        want, got = gradients(plain), gradients(compiled)
        assert want.keys() == got.keys()
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=1e-3, atol=1e-5)
        embedded = [
            model.eval().encode_packed(batch["packed_bsghw"], batch["ticks"])
            for model in (plain, compiled)
        ]
        torch.testing.assert_close(embedded[1], embedded[0], rtol=1e-3, atol=1e-5)

    @compiles
    @pytest.mark.slow
    def test_a_compiled_run_resumes_to_the_same_weights(self, tmp_path):
        check_resuming(tmp_path / "run", {"compile": True})

    @compiles
    @pytest.mark.parametrize("config", [FROM_SCRATCH, UNFREEZING], ids=["scratch", "tower"])
    def test_the_heavy_parts_are_compiled_and_no_weight_changes_its_name(self, config):
        model = SpklipModel(config)
        names = list(model.state_dict())
        compile_parts(model)
        compiled = {n for n, part in model.named_modules() if part._compiled_call_impl is not None}
        towers = {"video.extractor", "video.backbone"}, {"video.encoder.tower"}
        assert compiled == towers[config is UNFREEZING]
        assert list(model.state_dict()) == names
        run_as_written(model)
        assert all(part._compiled_call_impl is None for part in model.modules())

    def test_a_machine_without_a_compiler_is_told_before_anything_begins(self, tmp_path):
        code = "from spklip.check import check_compiler; check_compiler()"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PATH": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            "spikedata.errors.SpikeDataError: train.compile=true needs a C++ compiler and finds "
            "none. Install one (`apt install g++`), name it in CXX, or use train.compile=false"
        )


@compiles
@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 2},
        {"accumulate": 3},  # an epoch of two batches is less than a step
        {"gradient_checkpointing": True},
        {"compile": True, "gradient_checkpointing": True, "accumulate": 2},
    ],
    ids=str,
)
def test_every_option_resumes_to_the_same_weights(tmp_path, as_if_compiled, options):
    check_resuming(tmp_path / "run", options)


def check_resuming(folder: Path, options: dict[str, Any]) -> None:
    """Two steps and two resumed equal four, to the bit, and so does what was saved."""
    steps = {"max_steps": 4, "save_every": 2}
    whole, curve = _fit(folder, **steps, **options)
    shutil.rmtree(folder / "checkpoint-4")
    resumed, resumed_curve = _fit(folder, resume=True, **steps, **options)
    want, got = whole.state_dict(), resumed.state_dict()
    assert want.keys() == got.keys() == SpklipModel(tiny_config()).state_dict().keys()
    for name in want:
        assert torch.equal(want[name], got[name]), name
    assert [point["loss"] for point in curve] == [point["loss"] for point in resumed_curve]
    saved = SpklipModel.from_pretrained(folder / "checkpoint-4")
    assert all(torch.equal(want[name], tensor) for name, tensor in saved.state_dict().items())


class TestTrackers:
    def test_tensorboard_writes_the_curve_into_the_run_s_folder(self, tmp_path):
        event_accumulator = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator"
        )
        folder = tmp_path / "run" / "checkpoints"
        _, curve = _fit(folder, max_steps=3, report_to=("tensorboard",))
        assert not list(folder.rglob("events.*"))
        read = event_accumulator.EventAccumulator(str(tmp_path / "run" / "logs"))
        read.Reload()
        told = {event.step: event.value for event in read.Scalars("train/loss")}
        assert told == pytest.approx({point["step"]: point["loss"] for point in curve}, rel=1e-5)

    def test_by_default_nobody_is_told(self, tmp_path):
        assert TrainConfig().report_to == ()
        assert training_arguments(TrainConfig(), tmp_path).report_to == []
        _fit(tmp_path / "run" / "checkpoints", max_steps=1)
        assert not (tmp_path / "run" / "logs").exists()

    def test_what_is_missing_is_named_with_what_to_install(self, monkeypatch):
        from transformers.integrations import integration_utils

        monkeypatch.setattr(
            integration_utils, "get_available_reporting_integrations", lambda: ["tensorboard"]
        )
        check_trackers(["tensorboard"])
        with pytest.raises(SpikeDataError, match=r"report_to: wandb is missing: pip install"):
            check_trackers(["tensorboard", "wandb"])
        with pytest.raises(SpikeDataError, match="no tracker is called 'wandbb'; known: azure"):
            check_trackers(["wandbb"])


class Taking(Moving):
    """Clips of which each takes a second of a clock that nothing else moves but the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.seconds += 1
        return super().__getitem__(index)


class TestLoaderClock:
    @staticmethod
    def share(folder: Path, *, step_s: float, resume: bool = False) -> float | None:
        """Of four steps on batches of four: two epochs of eight clips."""
        dataset, config = Taking(), tiny_config()
        model = SpklipModel(config)

        def step(*_: Any) -> None:
            dataset.seconds += step_s

        model.register_forward_pre_hook(step)
        clock = LoaderClock(lambda: dataset.seconds)
        fit(
            lambda: model,
            lambda _: dataset,
            Collate(config),
            TrainConfig(max_steps=4, save_every=2, batch_size=4, precision="fp32"),
            folder,
            progress=False,
            resume=resume,
            clock=clock,
        )
        return clock.idle_share

    def test_slow_clips_are_waited_for_and_slow_steps_are_not(self, tmp_path):
        assert self.share(tmp_path / "clips", step_s=1.0) == 16 / (16 + 4)
        assert self.share(tmp_path / "steps", step_s=60.0) == 16 / (16 + 240)

    def test_a_resumed_run_measures_its_own_part(self, tmp_path):
        self.share(tmp_path / "run", step_s=1.0)
        shutil.rmtree(tmp_path / "run" / "checkpoint-4")
        assert self.share(tmp_path / "run", step_s=4.0, resume=True) == 8 / (8 + 8)

    def test_a_run_that_is_resumed_at_its_end_measures_nothing(self, tmp_path):
        assert self.share(tmp_path / "run", step_s=1.0) is not None
        assert self.share(tmp_path / "run", step_s=1.0, resume=True) is None

    def test_times_add_up_over_loops(self):
        ticks: Iterator[float] = iter([0.0, 1.0, 3.0, 10.0, 20.0, 21.0, 24.0, 30.0])
        clock = LoaderClock(lambda: next(ticks))
        assert clock.idle_share is None
        for _ in range(2):
            with clock.loop(), clock.waiting():
                pass
        assert (clock.waited_seconds, clock.loop_seconds) == (5.0, 20.0)
        assert clock.idle_share == 0.25


@pytest.mark.parametrize(
    ("train", "line"),
    [
        (
            {"loader_idle_share": 0.34, "features_kept": False},
            "34% of training went by while steps waited for clips: raise data.workers (now 1), up "
            "to the cores of this machine, to read ahead",
        ),
        (
            {"loader_idle_share": 0.05, "features_kept": False},
            "5% of training went by while steps waited for clips",
        ),
        (
            {"loader_idle_share": 0.34, "features_kept": True},
            "34% of training went by while steps waited for kept features",
        ),
        ({"loader_idle_share": None, "features_kept": False}, None),
        ({}, None),
    ],
)
def test_the_summary_says_how_long_steps_waited_and_what_helps(train, line):
    found = {"recall": {"R@1": 0.5}, "median_rank": 1.0}
    metrics = {
        "closed_set": {"skipped": "no classes"},
        "few_shot": {"skipped": "no classes"},
        "retrieval": {"text_to_video": found, "video_to_text": found},
        "train": train,
        "recipe": {"data": {"workers": 1}},
    }
    last = summary_table(metrics).splitlines()[-1]
    assert last == line if line else last.startswith("video to text")
