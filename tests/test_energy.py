"""The energy counter: numbers worked out on paper, and what counts as a spike."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spikedata import SpikeDataError
from spklip.energy import COSTS, count_layers
from spklip.model import SpklipConfig, SpklipModel
from spklip.model.hsfe import MultiScaleTemporalFilter


class TwoLayers(nn.Module):
    """A convolution, a neuron that fires whole numbers of spikes, a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2, padding=1, bias=False)
        self.line = nn.Linear(18, 5)
        with torch.no_grad():
            self.conv.weight[0], self.conv.weight[1] = 1.0, 2.0

    def forward(self, picture_nchw):
        return self.line((self.conv(picture_nchw) / 2).floor().flatten(1))


def only(counted):
    (layer,) = counted.layers
    return layer


# --- by hand --------------------------------------------------------------------------------------

# Pixels a b / c d under a 2x2 kernel of ones, one dark pixel around them, give 3x3 sums
#     a  a+b  b / a+c  a+b+c+d  b+d / c  c+d  d,
# each of them once in the first channel and twice in the second. Halved and rounded down, those of
# 1 0 / 1 1 are 0 0 0 / 1 1 0 / 0 1 0 and 1 1 0 / 2 3 1 / 1 2 1: 3 + 12 = 15 spikes in 18 values.
BITS = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])


def test_bits_into_two_layers_by_hand():
    counted = count_layers(TwoLayers(), [(BITS,)])
    conv, line = counted.layers
    # 2 channels x 9 outputs x 4 taps. Three of four pixels fire. Each of those reaches the four
    # outputs around it in both channels; the other taps of the 72 lie outside the picture.
    assert (conv.name, conv.kind, conv.sees) == ("conv", "convolution", "bits")
    assert (conv.macs, conv.spike_count, conv.rate) == (72, 3, 3 / 4)
    assert (conv.sops, conv.acs) == (54, 24)
    assert (conv.parameters, conv.weight_bytes) == (8, 32)
    assert (conv.input_bytes, conv.output_bytes) == (16, 72)
    # 18 x 5; each of 15 spikes is added to 5 sums.
    assert (line.name, line.kind, line.sees) == ("line", "linear", "counts")
    assert (line.macs, line.spike_count, line.rate) == (90, 15, 15 / 18)
    assert (line.sops, line.acs) == (75, 75)
    assert (line.parameters, line.weight_bytes) == (95, 380)
    assert (line.input_bytes, line.output_bytes) == (72, 20)
    assert (counted.macs, counted.spike_macs) == (162, 162)
    assert counted.energy_pj(COSTS["fp32"]) == 0.9 * 54 + 0.9 * 75
    assert counted.energy_pj(COSTS["fp16"]) == 0.4 * 54 + 0.4 * 75
    assert counted.energy_pj(COSTS["int8"]) == 0.03 * 54 + 0.03 * 75
    # Halves and floors of 18 values; a bias is part of no layer's products.
    assert counted.elementwise == 36


def test_real_values_into_two_layers_by_hand():
    picture = torch.tensor([[[[0.6, 0.0], [1.0, 1.0]]]])
    counted = count_layers(TwoLayers(), [(picture,)])
    conv, line = counted.layers
    assert (conv.sees, conv.macs, conv.rate) == ("real values", 72, None)
    assert (conv.sops, conv.acs, conv.spike_count) == (0, 0, 0)
    # First channel, halves of 0.6 0.6 0 / 1.6 2.6 1 / 1 2 1: 0 0 0 / 0 1 0 / 0 1 0. Second: the
    # sums themselves rounded down, 0 0 0 / 1 2 1 / 1 2 1. 2 + 8 = 10 spikes.
    assert (line.sees, line.spike_count, line.sops, line.acs) == ("counts", 10, 50, 50)
    assert (counted.macs, counted.spike_macs) == (162, 90)
    assert counted.energy_pj(COSTS["fp32"]) == 4.6 * 72 + 0.9 * 50


def test_passes_are_averaged_and_one_with_real_values_makes_a_layer_multiply():
    net, dark = TwoLayers(), torch.zeros(1, 1, 2, 2)
    conv, line = count_layers(net, [(BITS,), (dark,)]).layers
    assert (conv.macs, conv.rate, conv.sops, conv.acs, conv.weight_bytes) == (72, 3 / 8, 27, 12, 32)
    assert (line.spike_count, line.rate, line.sops) == (7.5, 15 / 36, 37.5)
    half = count_layers(net, [(BITS,), (BITS / 2,), (dark,)]).layers
    assert [layer.sees for layer in half] == ["real values", "counts"]


def test_silence_costs_nothing():
    layer = only(count_layers(nn.Conv2d(2, 3, 3), [(torch.zeros(1, 2, 5, 5),)]))
    assert (layer.sees, layer.rate, layer.sops, layer.acs) == ("zeros", 0, 0, 0)
    assert layer.spikes
    assert layer.energy_pj(COSTS["fp32"]) == 0


def test_nothing_run_is_an_error():
    with pytest.raises(ValueError, match="at least one pass"):
        count_layers(nn.Linear(1, 1), [])


# --- what is a spike ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "sees"),
    [
        ([0.0, 1.0], "bits"),
        ([0.0, 255.0], "counts"),
        ([0.0, 256.0], "real values"),
        ([0.0, 0.5], "real values"),
        ([0.0, float("nan")], "real values"),
        ([-1.0, 2.0], "signed counts"),
    ],
)
def test_values_tell_what_is_a_spike(values, sees):
    layer = only(count_layers(nn.Linear(2, 3), [(torch.tensor([values]),)]))
    assert layer.sees == sees
    if sees != "real values":
        # A spike of an OFF cell subtracts what one of an ON cell adds.
        assert layer.acs == 3 * sum(map(abs, values))


class Whole(nn.Module):
    """Real values into layers whose weights are whole, in every way in which they come."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.6, 1.2], [2.1, 0.0]]))

    def forward(self, x_nc):
        whole = self.weight.round()
        mask = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
        x_nc = F.linear(x_nc, whole) + x_nc @ whole + torch.einsum("nc,dc->nd", x_nc, whole * mask)
        x_nc = F.conv1d(x_nc[:, :, None], whole[:, :, None])[:, :, 0]
        return torch.bmm(whole.expand(len(x_nc), 2, 2), x_nc[:, :, None])


def test_weights_are_never_spikes_however_whole():
    layers = count_layers(Whole(), [(torch.tensor([[0.3, 0.7]]),)]).layers
    assert [layer.sees for layer in layers] == ["real values"] * 5
    assert [layer.kind for layer in layers] == ["linear"] * 3 + ["convolution", "linear"]
    assert [(layer.macs, layer.parameters) for layer in layers] == [(4, 4)] * 5


def test_the_other_operand_of_whole_weights_is_looked_at():
    layers = count_layers(Whole(), [(torch.tensor([[0.0, 1.0]]),)]).layers
    assert [layer.sees for layer in layers] == ["bits"] * 3 + ["counts"] * 2
    assert [layer.acs for layer in layers[:3]] == [2, 2, 2]


class Multiply(nn.Module):
    def forward(self, first, second):
        return first @ second


def test_of_two_activations_either_may_be_spikes_and_the_one_with_fewer_drives():
    real_23, bits_34 = torch.tensor([[0.5, 1.5, 2.0], [1.0, 0.1, 7.0]]), torch.zeros(3, 4)
    bits_34[0, 1] = bits_34[2, 3] = 1
    layer = only(count_layers(Multiply(), [(real_23, bits_34)]))
    # Each of two spikes adds one column of two values.
    assert (layer.kind, layer.sees, layer.macs, layer.acs, layer.sops) == (
        "product",
        "bits",
        24,
        4,
        4,
    )
    assert layer.parameters == layer.weight_bytes == 0
    assert layer.input_bytes == 4 * (6 + 12)
    bits_23 = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    layer = only(count_layers(Multiply(), [(bits_23, bits_34)]))
    # One spike adds one row of four; the two of the other would add four values as well.
    assert (layer.macs, layer.spike_count, layer.acs) == (24, 1, 4)
    assert only(count_layers(Multiply(), [(real_23, bits_34 / 2)])).sees == "real values"
    batched = only(count_layers(Multiply(), [(real_23.expand(5, 2, 3), bits_34.expand(5, 3, 4))]))
    assert (batched.macs, batched.acs) == (5 * 24, 5 * 4)


class Constants(nn.Module):
    """Products with what depends on no input: a constant, and two weights by each other."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Parameter(torch.ones(2, 1)), nn.Parameter(torch.zeros(1, 2))

    def forward(self, x_nc):
        return x_nc @ torch.eye(2) @ (self.down @ self.up)


def test_constants_are_no_spikes_and_weights_by_each_other_are_products():
    layers = count_layers(Constants(), [(torch.tensor([[0.3, 0.7]]),)]).layers
    assert [layer.sees for layer in layers] == ["real values"] * 3
    assert [layer.macs for layer in layers] == [4, 4, 4]
    assert [layer.parameters for layer in layers] == [0, 0, 4]
    assert layers[0].input_bytes == 4 * (2 + 4)
    bits = count_layers(Constants(), [(torch.tensor([[0.0, 1.0]]),)]).layers
    assert [layer.sees for layer in bits] == ["bits", "real values", "bits"]


class Nested(nn.Module):
    """Calls a module that is no part of it, before and after a product of its own."""

    def __init__(self, other):
        super().__init__()
        self.others, self.weight = [other], nn.Parameter(torch.ones(2, 2))

    def forward(self, x_nc):
        return self.others[0](self.others[0](x_nc) @ self.weight)


def test_a_module_that_is_no_part_counts_as_its_callers():
    layers = count_layers(Nested(nn.Linear(2, 2)), [(torch.rand(3, 2),)]).layers
    assert [layer.macs for layer in layers] == [12, 12, 12]


def test_operations_of_other_libraries_are_refused():
    with torch.library._scoped_library("spikedata_test", "DEF") as library:
        library.define("double(Tensor x) -> Tensor")
        library.impl("double", lambda x: 2 * x, "CPU")
        with pytest.raises(SpikeDataError, match="spikedata_test::double hides"):
            count_layers(
                nn.Identity(), [(torch.ones(1),)], run=torch.ops.spikedata_test.double.default
            )


class Attend(nn.Module):
    def forward(self, query, key, value):
        return F.scaled_dot_product_attention(query, key, value)


def test_fused_attention_is_two_products_without_spikes():
    query, key, value = torch.ones(2, 3, 4, 8), torch.ones(2, 3, 5, 8), torch.ones(2, 3, 5, 8)
    layer = only(count_layers(Attend(), [(query, key, value)]))
    assert (layer.kind, layer.sees) == ("attention", "real values")
    assert layer.macs == 2 * 3 * 4 * 5 * (8 + 8)


@given(data=st.data())
def test_additions_are_those_of_a_convolution_with_ones(data):
    """Any convolution: the counts, convolved with ones in whole numbers, are the additions."""
    draw = data.draw
    axes, transposed = draw(st.integers(1, 2)), draw(st.booleans())
    groups, kernel = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 3))
    options = {
        "stride": draw(st.integers(1, 3)),
        "padding": draw(st.integers(0, kernel - 1)),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
    }
    kinds = [[nn.Conv1d, nn.Conv2d], [nn.ConvTranspose1d, nn.ConvTranspose2d]]
    layer = kinds[transposed][axes - 1](4, 8, kernel, **options)
    counts = torch.randint(0, 4, (2, 4, *(7, 9)[:axes])).float()
    found = only(count_layers(layer, [(counts,)]))
    ones = torch.ones_like(layer.weight, dtype=torch.float64)
    names = [["conv1d", "conv2d"], ["conv_transpose1d", "conv_transpose2d"]]
    convolve = getattr(F, names[transposed][axes - 1])
    assert found.acs == float(convolve(counts.double(), ones, **options).sum())
    with FlopCounterMode(display=False) as flops:
        layer(counts)
    assert 2 * found.macs == flops.get_total_flops()
    assert found.sops == pytest.approx(found.macs * float(counts.mean()), rel=1e-6)


# --- whole towers ---------------------------------------------------------------------------------


def test_in_inference_mode_the_same_products_are_counted():
    """There operations reach the counter whole: a linear layer with its bias, a convolution."""
    model = SpklipModel(SpklipConfig.preset("tiny")).eval()
    packed = torch.randint(0, 256, (1, 1, 10, 12, 16), dtype=torch.uint8)

    def embed(packed_bsghw):
        return model.encode_features(*model.window_features(packed_bsghw, 80))

    want = count_layers(model.video, [(packed,)], run=embed)
    with torch.inference_mode():
        found = count_layers(model.video, [(packed,)], run=embed)
    for one, other in zip(found.layers, want.layers, strict=True):
        assert (one.name, one.kind, one.sees) == (other.name, other.kind, other.sees)
        assert (one.macs, one.sops, one.acs) == (other.macs, other.sops, other.acs)


def test_functional_layers_have_the_names_of_their_weights():
    temporal = MultiScaleTemporalFilter(7, (7, 5), (2, 2), 1)
    net = nn.Sequential(temporal)
    layers = count_layers(net, [(torch.randint(0, 2, (1, 7, 4, 6)).float(),)]).layers
    assert [(layer.name, layer.sees) for layer in layers] == [
        ("0.filter", "bits"),
        ("0.merge", "real values"),
    ]
    assert [layer.parameters for layer in layers] == [4 * 7 * 9 + 4, 2 * 4 * 9 + 2]
    assert layers[0].macs == 4 * 24 * 7 * 9


@pytest.mark.parametrize(
    "config",
    [
        SpklipConfig.preset("tiny"),
        SpklipConfig.preset("tower", image_encoder="embedded", picture_px=64),
    ],
    ids=["tiny", "tower"],
)
def test_products_of_a_tower_are_those_of_pytorch_s_flop_counter(config):
    model = SpklipModel(config).eval()
    packed = torch.randint(0, 256, (1, 2, 10, 24, 32), dtype=torch.uint8)

    def embed(packed_bsghw):
        return model.encode_features(*model.window_features(packed_bsghw, 80))

    fast = torch.backends.mha.get_fastpath_enabled()
    counted = count_layers(model.video, [(packed,)], run=embed)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            embed(packed)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    # Before torch 2.15 the FLOP counter passes over fused attention on a CPU.
    fused = sum(layer.macs for layer in counted.layers if layer.kind == "attention")
    assert flops.get_total_flops() in (2 * (counted.macs - fused), 2 * counted.macs)
    assert len({(layer.name, layer.kind) for layer in counted.layers}) == len(counted.layers)
    # A camera's bits need no multiplication; pictures are real.
    sees_bits = [layer.name for layer in counted.layers if layer.sees == "bits"]
    assert sees_bits == ([] if config.image_encoder else ["extractor.temporal.filter"])
    products = [layer for layer in counted.layers if layer.kind in ("convolution", "linear")]
    assert all(layer.parameters for layer in products)


def test_cells_of_several_pixels_are_real_values():
    model = SpklipModel(SpklipConfig.preset("tiny", pool_px=2)).eval()
    packed = torch.randint(0, 256, (1, 1, 5, 24, 32), dtype=torch.uint8)
    counted = count_layers(model.video, [(packed, 40)], run=model.window_features)
    assert (counted.layers[0].name, counted.layers[0].sees) == (
        "extractor.temporal.filter",
        "real values",
    )


def test_what_hides_its_products_is_refused():
    net = nn.Bilinear(2, 3, 4)
    with pytest.raises(SpikeDataError, match="aten::_trilinear hides what it multiplies"):
        count_layers(net, [(torch.ones(1, 2), torch.ones(1, 3))])


class Fire(nn.Module):
    def forward(self, membrane):
        return (membrane > 0).float()


def test_additions_and_products_are_those_of_spikingjelly():
    """The field's package counts the additions that 0 and 1 cause, padding left out, as ``acs``."""
    peer = pytest.importorskip("spikingjelly.activation_based.op_counter")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        Fire(),
        nn.Conv2d(4, 8, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
        Fire(),
        nn.Linear(5, 7),
    )
    bits = (torch.rand(3, 2, 8, 8) < 0.3).float()
    for first, sees in ((bits, "bits"), (bits / 3, "real values")):
        macs, synops = peer.MACCounter(), peer.SynOpCounter()
        with peer.DispatchCounterMode([macs, synops]), torch.no_grad():
            net(first)
        layers = count_layers(net, [(first,)]).layers
        assert [layer.sees for layer in layers] == [sees, "bits", "real values", "bits"]
        assert synops.get_total() == sum(layer.acs for layer in layers) > 0
        assert macs.get_total() == sum(layer.macs for layer in layers if not layer.spikes) > 0
