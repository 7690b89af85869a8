"""Learning from a trained network: its image tower, its logits, its features."""

import os
import shutil
import socket

import pytest
import torch
from test_features import recipe_of, store, weights_of  # noqa: F401  # a fixture

from spikedata import SpikeDataError
from spklip.distil import Teacher, TowerStudent, _distance
from spklip.gather import gather_with_gradients
from spklip.losses import contrastive_loss
from spklip.model import SpklipConfig, SpklipModel, trained_tower
from spklip.model.spiking import SpikeNorm, spike_layers
from spklip.run import plan_run, run_recipe

SPIKING = ["model.encoder=full_spiking", "distil.tower_batch=4", "train.log_every=1"]
SCRATCH = [
    "model.preset=tiny",
    "model.image_encoder=''",
    "data.views=null",
    "model.changes.group_width=8",
    "model.changes.branch_channels=[2, 2, 2, 2]",
    "model.changes.extractor_channels=8",
    "model.changes.temporal_heads=2",
    "model.changes.text_heads=2",
    "model.changes.picture_px=0",
]


def test_distance_is_error_over_variance():
    wanted = torch.tensor([[0.0, 0.0], [2.0, 4.0]])  # variances 1 and 4
    given = wanted + torch.tensor([[1.0, 2.0]])  # errors 1 and 4
    assert _distance(given, wanted, [0]).item() == pytest.approx(1.0, rel=1e-4)
    assert _distance(given, wanted, [0], whole=True).item() == pytest.approx(2.5 / 2.5, rel=1e-4)
    assert _distance(wanted, wanted, [0]).item() == 0


class Answers(torch.nn.Module):
    """A model that gives what it was made with."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, **_):
        return self.output


def output_of(video_bd, feature_bvc):
    from spklip.model import SpklipOutput

    text_bd = torch.eye(2)
    return SpklipOutput(
        video_bd=video_bd, text_bd=text_bd, scale=torch.tensor(2.0), feature_bvc=feature_bvc
    )


def test_a_teacher_is_left_where_logits_and_features_are_its_own():
    told = output_of(torch.eye(2), torch.ones(2, 3, 4))
    teacher = Teacher(Answers(told), weight=3.0)
    logits_nn = 2.0 * torch.eye(2)
    assert teacher.loss({}, told, logits_nn).item() == pytest.approx(0, abs=1e-6)
    # features at a right angle cost 1, equal logits nothing
    across = torch.ones(2, 3, 4) * torch.tensor([1.0, -1.0, 1.0, -1.0])
    other = output_of(torch.eye(2), across)
    assert teacher.loss({}, other, logits_nn).item() == pytest.approx(3.0)
    # logits (0, 0) for (2, 0): the sum of p log p over p = softmax(2, 0), less log 1/2
    p = torch.tensor([2.0, 0.0]).softmax(dim=0)
    wanted = 3.0 * float((p * (p / 0.5).log()).sum())
    assert teacher.loss({}, told, torch.zeros(2, 2)).item() == pytest.approx(wanted, rel=1e-5)


def test_features_of_another_width_are_no_lesson():
    told = output_of(torch.eye(2), torch.ones(2, 3, 4))
    other = output_of(torch.eye(2), torch.rand(2, 3, 5))
    loss = Teacher(Answers(told), weight=1.0).loss({}, other, 2.0 * torch.eye(2))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_a_converted_tower_learns_to_see_and_resumes_to_the_same_weights(store, tmp_path):  # noqa: F811
    words = [*SPIKING, "distil.tower_steps=8", "distil.spikes=0.5"]
    told = run_recipe(recipe_of(store, *words), tmp_path / "run", progress=False)
    curve = told["train"]["tower_curve"]
    assert [point["step"] for point in curve] == list(range(1, 9))
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert curve[-1]["spikes"] < curve[0]["spikes"]
    whole = weights_of(tmp_path / "run")

    (tmp_path / "run" / "metrics.json").unlink()
    tower = tmp_path / "run" / "checkpoints" / "tower"
    assert sorted(path.name for path in tower.iterdir()) == ["checkpoint-4", "checkpoint-8"]
    shutil.rmtree(tower / "checkpoint-8")
    for rest in (tmp_path / "run" / "checkpoints").glob("checkpoint-*"):
        shutil.rmtree(rest)
    run_recipe(recipe_of(store, *words), tmp_path / "run", resume=True, progress=False)
    again = weights_of(tmp_path / "run")
    assert all(torch.equal(whole[name], again[name]) for name in whole)

    assert plan_run(recipe_of(store, *words))["tower_steps"] == 8
    words[3] = "distil.tower_steps=0"
    assert plan_run(recipe_of(store, *words))["tower_steps"] == 0
    told = run_recipe(recipe_of(store, *words), tmp_path / "plain", progress=False)
    assert told["train"]["tower_curve"] == []
    name = "video.encoder.tower.blocks.3.body.0.weight"
    assert not torch.equal(weights_of(tmp_path / "plain")[name], whole[name])


@pytest.mark.parametrize("way", [[], SCRATCH], ids=["pictures", "scratch"])
def test_a_trained_cnn_teaches_a_spiking_one(store, tmp_path, way):  # noqa: F811
    def run(name, *words):
        recipe = recipe_of(store, *way, *words)
        run_recipe(recipe, tmp_path / name, progress=False)
        return weights_of(tmp_path / name)

    run("cnn")
    spiking = [*SPIKING, "distil.tower_steps=0"]
    alone = run("alone", *spiking)
    taught = run("taught", *spiking, f"distil.teacher={tmp_path / 'cnn'}")
    assert alone.keys() == taught.keys()
    assert any(not torch.equal(alone[name], taught[name]) for name in alone)


def test_a_teacher_that_is_given_other_windows_is_refused(store, tmp_path):  # noqa: F811
    run_recipe(recipe_of(store), tmp_path / "cnn", progress=False)
    words = [*SPIKING, "model.changes.step_ticks=9", f"distil.teacher={tmp_path / 'cnn'}"]
    with pytest.raises(SpikeDataError, match="cannot teach this model.*step_ticks"):
        run_recipe(recipe_of(store, *words), tmp_path / "run", progress=False)


# Several processes


def student() -> TowerStudent:
    torch.manual_seed(0)
    config = SpklipConfig.preset(
        "tower", encoder="full_spiking", image_encoder="embedded", picture_px=32
    )
    video = SpklipModel(config).video.double()
    return TowerStudent(video, trained_tower(config).double(), 0.5)


def scratch() -> SpklipModel:
    torch.manual_seed(0)
    changes = {"group_blocks": (1,), "group_width": 16, "extractor_channels": 16}
    config = SpklipConfig.preset("tiny", encoder="full_spiking", pool_px=2, **changes)
    return SpklipModel(config).double()


def problem(kind: str):
    """A model in float64, where no spike hangs on the order of a sum, and eight clips."""
    generator = torch.Generator().manual_seed(0)
    ticks = 80 if kind == "tower" else 31
    size = (8, 1, -(-ticks // 8), 16, 16)
    packed = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    batch = {"packed_bsghw": packed, "ticks": ticks}
    if kind == "scratch":
        batch["input_ids"] = torch.randint(3, 99, (8, 5), generator=generator)
        batch["attention_mask"] = torch.ones(8, 5, dtype=torch.int64)
    return (student if kind == "tower" else scratch)().train(), batch, torch.arange(8) % 4


def loss_of(model, batch, label_b):
    out = model(**batch)
    if "loss" in out and out["loss"] is not None:
        return out["loss"]
    video, text, label = map(gather_with_gradients, (out.video_bd, out.text_bd, label_b))
    return contrastive_loss(video, text, out.scale, label)


def train_half(rank: int, port: int, folder: str) -> None:
    """One of two processes, on its half of the batch of either model."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    for kind in ("tower", "scratch"):
        model, batch, label_b = problem(kind)
        half = slice(4 * rank, 4 * rank + 4)
        own = {name: x[half] if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        loss_of(wrapped, own, label_b[half]).backward()
        grads = {name: parameter.grad for name, parameter in model.named_parameters()}
        torch.save((grads, dict(model.named_buffers())), f"{folder}/{kind}-{rank}.pt")
    torch.distributed.barrier()
    # Without destructors: gloo's waits, with the GIL, for a thread that may be waiting for the GIL.
    os._exit(0)


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("halves")
    torch.multiprocessing.spawn(train_half, (port, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("kind", ["tower", "scratch"])
def test_two_processes_learn_what_one_learns_from_the_whole_batch(halves, kind):
    model, batch, label_b = problem(kind)
    loss_of(model, batch, label_b).backward()
    largest = max(parameter.grad.abs().max() for parameter in model.parameters())
    buffers = dict(model.named_buffers())
    for rank in range(2):
        grads, own = torch.load(halves / f"{kind}-{rank}.pt")
        for name, parameter in model.named_parameters():
            assert (grads[name] - parameter.grad).abs().max() < 1e-6 * largest, name
        for name in buffers:
            assert torch.allclose(own[name], buffers[name], rtol=1e-6), name
    if kind == "scratch":
        assert sum(isinstance(module, SpikeNorm) for module in model.modules()) > 10
    assert len(spike_layers(model)) > 10
