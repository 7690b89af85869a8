"""Spiking neurons and layers: counts worked out by hand, both ways of running to the same bits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spklip.explain import explain
from spklip.model import SpklipConfig, SpklipModel, binary_steps, spike_layers
from spklip.model.spiking import (
    SpikeConv2d,
    SpikeLinear,
    SpikeNeuron,
    SpikeNorm,
    start_threshold,
    to_binary,
    whole_weights,
)
from spklip.model.spiking_pictures import Places
from spklip.model.spiking_time import SpikeProducts

TINY = {
    "pool_px": 2,
    "extractor_channels": 16,
    "group_blocks": (1, 1),
    "group_width": 16,
    "temporal_width": 32,
    "temporal_layers": 1,
    "embed_dim": 16,
    "text_width": 32,
    "text_layers": 1,
}
PICTURES = {"image_encoder": "embedded", "picture_px": 64, "temporal_width": 32, "embed_dim": 16}


def neuron(threshold: float, **more) -> SpikeNeuron:
    return SpikeNeuron(1, threshold=threshold, **more)


def counts(made: SpikeNeuron, membranes: list[float]) -> list[list[float]]:
    with torch.no_grad():
        return made(torch.tensor(membranes)[:, None]).T.tolist()


def test_a_neuron_fires_the_nearest_whole_number_of_thresholds():
    # 0.5 a spike: -1 -> 0, 0.2 -> 0.4, 0.6 -> 1.2, 1.3 -> 2.6, 9 -> 18, of 4 at most
    assert counts(neuron(0.5, levels=4), [-1, 0.2, 0.6, 1.3, 9]) == [[0, 0, 1, 3, 4]]


def test_a_two_sided_neuron_tells_what_is_negative_by_other_spikes():
    on, off = counts(neuron(0.5, levels=4, two_sided=True), [-1, 0.2, 0.6, -9])
    assert on == [0, 0, 1, 0]
    assert off == [2, 0, 0, 4]


def test_over_time_steps_a_neuron_keeps_the_surplus():
    # a membrane of 0.7 thresholds in each of three steps: 0.7 -> 1, -0.3 + 0.7 -> 0, 0.4 + 0.7 -> 1
    made = neuron(1.0, levels=4, steps=3)
    assert counts(made, [0.7, 0.7, 0.7]) == [[1, 0, 1]]


def test_the_gradient_of_firing_is_its_mean_slope():
    made = neuron(0.5, levels=4)
    membrane = torch.tensor([[-1.0], [0.6], [9.0]], requires_grad=True)
    made(membrane).sum().backward()
    # a count rises by 4 over 5 thresholds of 0.5
    assert membrane.grad.flatten().tolist() == pytest.approx([0, 1.6, 0])
    # d count / d log threshold is minus the scaled membrane where it may fire, here -1.2
    assert made.log_threshold_c.grad.item() == pytest.approx(-1.2 * 0.8)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("levels", [1, 3])
def test_gradients_add_up_to_what_counts_rise_by(levels, two_sided):
    membrane = torch.linspace(-6, 6, 24001, dtype=torch.float64)[:, None].requires_grad_()
    count = neuron(0.7, levels=levels, two_sided=two_sided).double()(membrane)
    signed = count[:, 0] - count[:, 1] if two_sided else count[:, 0]
    signed.sum().backward()
    rise = (signed[-1] - signed[0]).item()
    assert (membrane.grad.sum() * 12 / 24000).item() == pytest.approx(rise, rel=1e-3)


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_first_thresholds_lie_as_far_apart_as_rounding_a_normal_variable_wants(levels):
    normal = torch.special.ndtri((torch.arange(20000, dtype=torch.float64) + 0.5) / 20000)

    def best(levels: int) -> float:
        def loss(step: float) -> float:
            rounded = (normal / step).round().clamp(-levels, levels) * step
            return float((rounded - normal).square().mean())

        return min((0.01 * n for n in range(10, 200)), key=loss)

    wanted = best(levels) / best(8)
    assert start_threshold(levels) / start_threshold(8) == pytest.approx(wanted, rel=0.1)
    assert start_threshold(levels, 0.4) == pytest.approx(0.4 * start_threshold(levels))


def test_calibration_prefers_few_spikes_where_they_cost():
    sample_cn = torch.linspace(-3, 3, 301)[None]
    cheap, dear = SpikeNeuron(1, levels=8), SpikeNeuron(1, levels=8)
    cheap.calibrate_(sample_cn, 0.0)
    dear.calibrate_(sample_cn, 0.2)
    assert dear.log_threshold_c > cheap.log_threshold_c
    # without a price the levels reach about as far as the membranes: 3 / 8
    assert cheap.log_threshold_c.exp().item() == pytest.approx(3 / 8, rel=0.15)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_binary_steps_add_up_to_the_count(numbers):
    steps = to_binary(torch.tensor(numbers, dtype=torch.float32)[:, None], 5)
    assert set(steps.unique().tolist()) <= {0.0, 1.0}
    assert steps.view(5, -1).sum(dim=0).tolist() == numbers


def test_whole_weights_are_whole_and_near():
    weight = torch.tensor([[1.27, -0.505, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    whole, scale = whole_weights(weight)
    assert whole.tolist() == [[127, -50, 0], [0, 0, 0]]
    assert scale[0].item() == pytest.approx(0.01)
    (whole * scale[:, None]).sum().backward()
    assert torch.allclose(weight.grad, torch.ones_like(weight))


@settings(max_examples=20)
@given(
    levels=st.integers(1, 8),
    two_sided=st.booleans(),
    groups=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_a_layer_gives_the_same_bits_by_counts_and_by_binary_steps(
    levels, two_sided, groups, stride, seed
):
    torch.manual_seed(seed)
    layer = SpikeConv2d(
        3, 6, 3, levels=levels, two_sided=two_sided, groups=groups, stride=stride
    ).eval()
    fire = SpikeNeuron(3, levels=levels, two_sided=two_sided)
    net, membrane = nn.Sequential(fire, layer), torch.randn(2, 3, 7, 5)
    with torch.no_grad():
        once = net(membrane)
        with binary_steps(net):
            stepwise = net(membrane)
        # the slow way: real weights on the counts that were fired
        spikes = fire(membrane)
        if two_sided:
            spikes = spikes[:, :3] - spikes[:, 3:]
        whole, scale = whole_weights(layer.weight)
        slow = nn.functional.conv2d(
            spikes.double(),
            (whole * scale[:, None, None, None]).double(),
            layer.bias.double(),
            stride=stride,
            padding=1,
            groups=groups,
        )
    assert torch.equal(once, stepwise)
    assert torch.allclose(once.double(), slow, atol=1e-4)


def test_normalisation_is_folded_when_judging():
    torch.manual_seed(0)
    norm = SpikeNorm(5)
    layer = SpikeLinear(4, 5, levels=3, norm=norm)
    spikes = torch.randint(0, 4, (64, 4)).float()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    for _ in range(3):
        layer(spikes)
    whole, scale = whole_weights(layer.weight)
    current = (spikes @ whole.T * scale).detach()
    wanted = nn.functional.batch_norm(
        current, current.mean(dim=0), current.var(dim=0), norm.weight, norm.bias, eps=norm.eps
    )
    assert torch.allclose(layer.eval()(spikes), wanted, atol=1e-5)


def test_running_statistics_are_those_of_the_batches_there_were():
    norm = SpikeNorm(1)
    assert [x.item() for x in norm.affine()] == pytest.approx([1 / math.sqrt(1 + 1e-5), 0.0])
    for mean, deviation in ((1.0, 1.0), (2.0, 3.0), (6.0, 1.0)):
        norm(torch.tensor([[mean - deviation], [mean + deviation]]))
    # weights 0.81, 0.9 and 1; variances 2, 18 and 2 (two numbers, one degree of freedom)
    mean = (0.81 * 1 + 0.9 * 2 + 1 * 6) / 2.71
    variance = (0.81 * 2 + 0.9 * 18 + 1 * 2) / 2.71
    scale = 1 / math.sqrt(variance + 1e-5)
    assert [x.item() for x in norm.affine()] == pytest.approx([scale, -mean * scale])


def test_one_number_a_channel_is_normalised_by_what_was_seen_before():
    norm = SpikeNorm(2)
    norm(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))  # means 1 and 2, variances 2
    given_nc = torch.tensor([[3.0, 1.0]])
    deviation = math.sqrt(2 + 1e-5)
    assert norm(given_nc).tolist()[0] == pytest.approx([2 / deviation, -1 / deviation])


@pytest.mark.parametrize("kind", ["sdsa", "hamming"])
def test_attention_weighs_windows_by_their_spikes(kind):
    """Against all pairs of windows, one by one."""
    torch.manual_seed(1)
    products = SpikeProducts(levels=3, kind=kind)
    ask, key, value = (torch.randint(0, 4, (1, 2, 2, 5, 4)).float() for _ in range(3))
    found = products(ask, key, value)
    wanted = torch.zeros(2, 2, 5, 4)
    for clip in range(2):
        for head in range(2):
            for a in range(5):
                for b in range(5):
                    q, k = ask[0, clip, head, a], key[0, clip, head, b]
                    weight = (q * k).sum()
                    if kind == "hamming":  # spikes and silences of three binary steps that agree
                        weight = ((2 * q - 3) * (2 * k - 3)).sum() + 9 * 4
                    wanted[clip, head, a] += weight * value[0, clip, head, b]
    assert torch.equal(found, wanted)


def spiking_model(**changes) -> SpklipModel:
    torch.manual_seed(0)
    preset = "tower" if changes.get("image_encoder") else "tiny"
    model = SpklipModel(SpklipConfig.preset(preset, **changes))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.video.parameters():  # what begins as nothing would hide its layers
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def clips(model: SpklipModel, number: int = 2) -> tuple[torch.Tensor, int]:
    generator = torch.Generator().manual_seed(number)
    size = (number, 2, 10, 24, 20)
    first, second = (
        torch.randint(0, 256, size, dtype=torch.uint8, generator=generator) for _ in range(2)
    )
    return first & second, 80


def judging(variant) -> tuple[SpklipModel, torch.Tensor, int]:
    """A model whose normalisations have seen a batch, the batch, and its ticks."""
    model = spiking_model(**variant)
    packed, ticks = clips(model)
    model.train()
    model.encode_packed(packed, ticks)
    return model.eval(), packed, ticks


VARIANTS = [
    {"encoder": "full_spiking", **TINY},
    {"encoder": "full_spiking", "spike_attention": "hamming", "spike_levels": 3, **TINY},
    {"encoder": "full_spiking", "spike_steps": 3, "spike_levels": 1, **TINY},
    {"encoder": "spiking_resnet", **TINY},
    {"encoder": "full_spiking", **PICTURES},
    {"encoder": "full_spiking", "spike_steps": 3, "spike_levels": 4, **PICTURES},
    {"encoder": "spiking_resnet", "picture": "tfp", **PICTURES},
]


def named(variant) -> str:
    way = "pictures" if "image_encoder" in variant else "scratch"
    own = [f"{k}={v}" for k, v in variant.items() if k.startswith("spike") or k == "picture"]
    return "-".join([variant["encoder"], way, *own])


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_binary_inference_gives_the_bits_of_integer_training(variant):
    model = spiking_model(**variant)
    packed, ticks = clips(model)
    model.train()
    for _ in range(2):  # statistics that normalise
        model.encode_packed(packed, ticks)
    model.eval()
    with torch.no_grad():
        once = model.encode_packed(packed, ticks)
        with binary_steps(model):
            stepwise = model.encode_packed(packed, ticks)
        with torch.autocast("cpu", torch.bfloat16):  # which would round sums of spikes
            in_half = model.encode_packed(packed, ticks)
    assert torch.equal(once, stepwise)
    assert torch.equal(once, in_half)
    assert once[0].sub(once[1]).abs().max() > 1e-3  # clips are told apart: there are spikes


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_a_saved_model_keeps_every_logit(variant, tmp_path):
    model, packed, ticks = judging(variant)
    model.save_pretrained(tmp_path)
    loaded = SpklipModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded.encode_packed(packed, ticks), model.encode_packed(packed, ticks))


LAYERS = (
    *(
        nn.Linear,
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.MultiheadAttention,
        nn.TransformerEncoderLayer,
    ),
    *(SpikeProducts, Places),
)


def what_layers_see(model: SpklipModel, packed: torch.Tensor, ticks: int) -> dict[str, set]:
    """Kinds of values that enter every layer and product of the video tower, and every sum."""
    kinds: dict[str, set] = {}

    def note(name: str):
        def hook(module, given):
            for x in given:
                if not torch.equal(x, x.round()) or (x < 0).any():
                    kinds.setdefault(name, set()).add("real")
                else:
                    kinds.setdefault(name, set()).add("bits" if x.max() <= 1 else "counts")

        return hook

    layers = [
        (name, module) for name, module in model.video.named_modules() if isinstance(module, LAYERS)
    ]
    hooks = [module.register_forward_pre_hook(note(name)) for name, module in layers]
    try:
        with torch.no_grad():
            model.encode_packed(packed, ticks)
    finally:
        for hook in hooks:
            hook.remove()
    assert set(kinds) == {name for name, _ in layers}, "a layer was not run"
    return kinds


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_every_layer_of_the_video_tower_sees_spikes_alone(variant):
    model, packed, ticks = judging(variant)
    for kinds in what_layers_see(model, packed, ticks).values():
        assert kinds <= {"bits", "counts"}
    with binary_steps(model):
        seen = what_layers_see(model, packed, ticks)
    for name, kinds in seen.items():  # what is summed over a map has been fired step by step
        assert kinds == {"bits"} or name == "encoder.places"
    assert len(spike_layers(model.video)) == sum(
        isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) for module in model.video.modules()
    )


class Passes(nn.Module):
    """An activation that was taken out: membranes go through as they are."""

    def __init__(self, fires: SpikeNeuron) -> None:
        super().__init__()
        self.two_sided, self.worth_c = fires.two_sided, fires.worth_c

    def forward(self, membrane):
        return torch.cat([membrane, -membrane], dim=1) if self.two_sided else membrane


@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[3], VARIANTS[4]], ids=named)
def test_the_walk_finds_any_activation_that_is_taken_out(variant):
    model, packed, ticks = judging(variant)
    neurons = [(n, m) for n, m in model.video.named_modules() if isinstance(m, SpikeNeuron)]
    for name, fires in neurons:
        parent = model.video.get_submodule(name.rpartition(".")[0])
        own = name.rpartition(".")[2]
        setattr(parent, own, Passes(fires))
        try:
            kinds = what_layers_see(model, packed, ticks)
        finally:
            setattr(parent, own, fires)
        assert any("real" in seen for seen in kinds.values()), name
    assert len(neurons) > 8


@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[4]], ids=named)
def test_what_a_spiking_model_looked_at_can_be_shown(variant):
    model, packed, ticks = judging(variant)
    text_d = nn.functional.normalize(torch.randn(16), dim=0)
    found = explain(model, packed[0], ticks, text_d)
    with torch.no_grad():
        score = model.encode_packed(packed[:1], ticks)[0] @ text_d
    assert float(found.score) == pytest.approx(float(score), abs=1e-5)
    assert found.map_vhw.shape[-2:] == packed.shape[-2:]
    assert float(found.map_vhw.max()) > 0
