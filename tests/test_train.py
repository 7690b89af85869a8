"""Training: gathered negatives, resuming, nothing leaves the machine."""

import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spklip.losses import contrastive_loss
from spklip.model import SpklipConfig, SpklipModel, build_tokenizer
from spklip.recipe import TrainConfig
from spklip.splits import tokenize
from spklip.train import fit, gather_with_gradients, pick_precision, training_arguments

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


def tiny_config() -> SpklipConfig:
    return SpklipConfig.preset("tiny", **TINY)


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


def _fit(folder: Path, *, resume: bool = False, steps: int = 10) -> tuple[Any, list[dict]]:
    config = tiny_config()
    train = TrainConfig(
        max_steps=steps, batch_size=4, warmup_steps=2, save_every=5, log_every=1, precision="fp32"
    )
    return fit(
        lambda: SpklipModel(config),
        Moving(),
        Collate(config),
        train,
        folder,
        resume=resume,
        progress=False,
    )


def test_five_steps_and_five_resumed_equal_ten_bit_for_bit(tmp_path, capfd):
    whole, curve = _fit(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-10")
    resumed, resumed_curve = _fit(tmp_path / "run", resume=True)
    want, got = whole.state_dict(), resumed.state_dict()
    assert want.keys() == got.keys()
    for name in want:
        assert torch.equal(want[name], got[name]), name
    assert [point["loss"] for point in curve] == [point["loss"] for point in resumed_curve]
    assert [point["step"] for point in curve] == list(range(1, 11))
    assert all(0 <= point["batch_match"] <= 1 for point in curve)
    assert capfd.readouterr().out == ""


def test_training_again_with_the_same_seed_gives_the_same_losses(tmp_path):
    _, first = _fit(tmp_path / "a", steps=3)
    _, second = _fit(tmp_path / "b", steps=3)
    assert [point["loss"] for point in first] == [point["loss"] for point in second]


def test_nothing_is_reported_anywhere(tmp_path):
    assert training_arguments(TrainConfig(), tmp_path).report_to == []


def test_precision_is_what_the_recipe_says_or_what_the_machine_has():
    assert pick_precision(TrainConfig(precision="bf16")) == "bf16"
    if not torch.cuda.is_available():
        assert pick_precision(TrainConfig()) == "fp32"


def test_alone_gathering_changes_nothing():
    x = torch.ones(2, 3, requires_grad=True)
    assert gather_with_gradients(x) is x


def _gathered_gradient(rank: int, port: int, folder: str) -> None:
    """One of two processes: a linear map trained on its half of the batch."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    video, text, label, layer, scale = _problem()
    half = slice(4 * rank, 4 * rank + 4)
    wrapped = torch.nn.parallel.DistributedDataParallel(layer)
    v = gather_with_gradients(torch.nn.functional.normalize(wrapped(video[half]), dim=1))
    t = gather_with_gradients(torch.nn.functional.normalize(text[half], dim=1))
    contrastive_loss(v, t, scale, gather_with_gradients(label[half])).backward()
    torch.save(layer.weight.grad, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.nn.Linear, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(8, 6, generator=generator)
    text = torch.randn(8, 5, generator=generator)
    torch.manual_seed(1)
    layer = torch.nn.Linear(6, 5, bias=False)
    return video, text, torch.arange(8) % 3, layer, torch.tensor(7.0)


@pytest.mark.slow  # two processes that import torch: about 10 s
def test_gathered_gradient_of_two_processes_equals_that_of_one_big_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_gathered_gradient, (port, str(tmp_path)), nprocs=2)
    video, text, label, layer, scale = _problem()
    normalize = torch.nn.functional.normalize
    v, t = normalize(layer(video), dim=1), normalize(text, dim=1)
    contrastive_loss(v, t, scale, label).backward()
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt")
        assert torch.allclose(got, layer.weight.grad, rtol=1e-5, atol=1e-7)
