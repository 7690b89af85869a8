"""EfficientNet-Lite0 of spiking neurons, converted from its trained weights.

Where the network has a ReLU6, neurons fire; where a block ends in a linear bottleneck, which may be
negative, membranes stay membranes, and the next block sees them through ON and OFF neurons. So
every convolution sees spikes, the first one the camera's own.

Shapes: N pictures, T time steps, C channels, H rows, W columns; h and w are H and W over 32.
"""

from typing import Any

import torch
from torch import Tensor, nn

from spklip.model.efficientnet_lite import (
    EfficientNetLite0,
    InvertedBottleneck,
    fold_norm,
    pad_same,
)
from spklip.model.spiking import SpikeConv2d, SpikeNeuron, over_steps

THRIFT = 0.03
"""What a spike costs where thresholds are set, as a share of a channel's energy."""
SAMPLES = 2048
"""Membranes of each channel by which its threshold is set."""
MOST = 6.0
"""Where the trained network's activation, ReLU6, ends."""


class SameSpikeConv2d(SpikeConv2d):
    """Convolution of spikes that pads as the trained one does.

    Its weights are those of the trained network; a spike counts as much as the threshold of the
    neuron that fired it, so that another threshold means another resolution and nothing else.
    """

    def __init__(self, conv: Any, source: SpikeNeuron | None, **options: Any) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size[0],
            stride=conv.stride[0],
            groups=conv.groups,
            two_sided=source is not None and source.two_sided,
            **options,
        )
        self._source = (source,)  # not a part of this one

    def _weight(self) -> Tensor:
        source = self._source[0]
        if source is None:
            return self.weight
        worth_c = source.worth_c
        worth = worth_c[:, None] if self.groups > 1 else worth_c
        return self.weight * worth[..., None, None]

    def _add(self, spikes_nc: Tensor, weight: Tensor) -> Tensor:
        padded_nc = pad_same(spikes_nc, self.kernel_size, self.stride)
        return torch.conv2d(padded_nc, weight, None, self.stride, groups=self.groups)


class _Converter:
    """Trained layers to spiking ones, first to last.

    Batch normalisation tells how the membrane of each channel is spread on the pictures it was
    trained on: thresholds are set for a normal distribution of that mean and deviation, without
    any picture.
    """

    def __init__(self, levels: int, steps: int) -> None:
        self.levels, self.steps = levels, steps
        self.mean_c, self.var_c = torch.zeros(1), torch.ones(1)

    def layer(self, conv: Any, norm: Any, source: SpikeNeuron | None) -> SpikeConv2d:
        """The convolution that sees the spikes of ``source``, with its normalisation in it."""
        weight, bias_c = fold_norm(conv, norm)
        self.mean_c, self.var_c = norm.bias.detach(), norm.weight.detach().square()
        made = SameSpikeConv2d(conv, source, levels=self.levels)
        assert made.bias is not None
        made.weight.data.copy_(weight.detach())
        made.bias.data.copy_(bias_c.detach() / self.steps)
        return made

    def neuron(self, *, two_sided: bool = False) -> SpikeNeuron:
        """The neurons that fire by the membranes of the layer before them."""
        levels, steps = self.levels, self.steps
        made = SpikeNeuron(len(self.mean_c), levels=levels, steps=steps, two_sided=two_sided)
        normal_n = torch.special.ndtri((torch.arange(SAMPLES) + 0.5) / SAMPLES)
        sample_cn = self.mean_c[:, None] + self.var_c.sqrt()[:, None] * normal_n
        made.calibrate_(sample_cn if two_sided else sample_cn.clamp(0, MOST), THRIFT)
        return made


class SpikingBottleneck(nn.Module):
    """Membranes of one block to those of the next: widen, convolve each channel alone, narrow."""

    def __init__(self, trained: InvertedBottleneck, source: SpikeNeuron | None, into: _Converter):
        """Convert a block.

        Args:
            trained: which.
            source: neurons whose spikes it is given; None where it is given membranes.
            into: converts its layers; knows the membranes that come in.
        """
        super().__init__()
        self.keeps_shape = trained.keeps_shape
        before_c = into.mean_c, into.var_c
        self.enter = into.neuron(two_sided=True) if source is None else None
        fired = source or self.enter
        parts: list[nn.Module] = []
        layers = list(trained.body)
        for conv, norm in zip(layers, layers[1:], strict=False):
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            parts.append(into.layer(conv, norm, fired))
            if norm is not layers[-1]:
                fired = into.neuron()
                parts.append(fired)
        self.body = nn.Sequential(*parts)
        if self.keeps_shape:
            into.mean_c, into.var_c = into.mean_c + before_c[0], into.var_c + before_c[1]

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Membranes or spikes (N, before, H, W) to membranes (N, after, H / stride, W / stride)."""
        spikes = x_nchw if self.enter is None else self.enter(x_nchw)
        membrane_nchw: Tensor = self.body(spikes)
        return x_nchw + membrane_nchw if self.keeps_shape else membrane_nchw


class SpikingLite0(nn.Module):
    """The camera's spikes to a map of 1,280 channels of spikes, a 32nd of their size."""

    binary = False

    def __init__(
        self,
        trained: EfficientNetLite0,
        *,
        levels: int,
        steps: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        """Convert a trained network.

        Args:
            trained: its weights, and its batch normalisation.
            levels: spikes of a neuron at most in a time step, D.
            steps: time steps, T.
            mean: what the trained network's pictures were given less of, a channel.
            std: what they were divided by after that.
        """
        super().__init__()
        self.levels, self.steps = levels, steps
        into = _Converter(levels, steps)
        self.stem = into.layer(trained.stem[0], trained.stem[1], None)
        self.stem.weight.data /= torch.tensor(std)[:, None, None]
        black = (self.stem.weight.data * torch.tensor(mean)[:, None, None]).sum(dim=(1, 2, 3))
        assert self.stem.bias is not None
        self.shift_c = nn.Parameter(self.stem.bias.data - black / steps)
        self.stem.bias = None
        self.fire_stem = into.neuron()
        self.blocks = nn.ModuleList()
        source: SpikeNeuron | None = self.fire_stem
        for block in trained.blocks:
            assert isinstance(block, InvertedBottleneck)
            self.blocks.append(SpikingBottleneck(block, source, into))
            source = None
        self.fire_head = into.neuron(two_sided=True)
        self.head = into.layer(trained.head[0], trained.head[1], self.fire_head)
        self.fire = into.neuron()

    def forward(self, count_nchw: Tensor, gain_n: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Spikes of exposures to the last map, and to the membranes that leave each block.

        Args:
            count_nchw: spikes of each pixel in an exposure, whole numbers (T N, 3, H, W); in binary
                steps the camera's bits, (ticks T N, 3, H, W), ticks outermost.
            gain_n: what a spike is worth in each picture, as a share of white, (T N).

        Returns:
            map_nchw: spikes, summed over the time steps, (N, 1280, h, w).
            membranes: one (N, C, H', W') a block, summed over the time steps.
        """
        self.stem.levels = len(count_nchw) // len(gain_n)
        membrane = self.stem(count_nchw) * gain_n[:, None, None, None]
        x = self.fire_stem(membrane + self.shift_c[:, None, None])
        membranes = []
        for block in self.blocks:
            x = block(x)
            membranes.append(self._over_steps(x))
        spikes = self.fire(self.head(self.fire_head(x)))
        if self.binary:
            spikes = over_steps(spikes, self.levels)
        return self._over_steps(spikes), membranes

    @property
    def worth_c(self) -> Tensor:
        """What a spike of the last map is worth in each channel, (1280,)."""
        return self.fire.worth_c

    def _over_steps(self, x_nchw: Tensor) -> Tensor:
        return x_nchw if self.steps == 1 else over_steps(x_nchw, self.steps)
