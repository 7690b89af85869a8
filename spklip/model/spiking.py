"""Spiking neurons, and the layers that see nothing but their spikes.

A neuron integrates a membrane, fires a whole number of spikes, 0 to D, and keeps the surplus, as a
pixel of the camera does. Training and judging compute with these counts (spike firing
approximation); within :func:`binary_steps` the same model runs as hardware would run it, a count as
so many ones in D binary steps. Weights are whole numbers of eight bits times one scale an output
channel: both ways add the same whole numbers, exactly and in any order, so they give the same bits.

Shapes: N maps or vectors, C channels, D levels (binary steps of a count), T time steps; ``...`` is
anything. Over T time steps the first axis is T N, time outermost.

Source: M. Yao et al., "Scaling Spike-driven Transformer with Efficient Spike Firing Approximation
Training", arXiv:2411.16061.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spklip.gather import gather_with_gradients, process_count
from spklip.model.feature_norm import MOMENTUM

_Method = TypeVar("_Method", bound=Callable[..., Any])

WEIGHT_LEVELS = 127
"""Weights are -127 to 127 times a scale."""

LEAST_MEMBRANE = 0.1
"""Largest membrane that is reckoned with at least: a channel that is all but silent stays so."""


def start_threshold(levels: int, deviation: float = 1.0) -> float:
    """First threshold of a neuron with D levels whose membrane has this deviation.

    The fewer its levels, the further apart, so that few membranes lie beyond the last: a normal
    variable is rounded with least loss at steps that go with the levels to the power -2/3 (J. Max,
    "Quantizing for minimum distortion", 1960).
    """
    return 2 * deviation * math.pow(levels, -2 / 3)


class SpikeNeuron(nn.Module):
    """Integrate and fire: membranes to whole numbers of spikes, 0 to D.

    A two-sided neuron is a pair that fires where the membrane rises and where it falls (ON and OFF
    cells): 2 C channels, so that spikes tell what is negative too.
    """

    binary = False
    """Whether counts are given as D binary steps; set by :func:`binary_steps`."""

    def __init__(
        self,
        channels: int,
        *,
        levels: int,
        steps: int = 1,
        two_sided: bool = False,
        threshold: float | None = None,
    ) -> None:
        super().__init__()
        self.levels, self.steps, self.two_sided = levels, steps, two_sided
        threshold = start_threshold(levels) if threshold is None else threshold
        self.log_threshold_c = nn.Parameter(torch.full((channels,), math.log(threshold)))

    def forward(self, membrane_nc: Tensor) -> Tensor:
        """Spikes of membranes (T N, C, ...).

        Returns:
            Counts (T N, C, ...), or (T N, 2 C, ...) of a two-sided neuron; in binary steps
            (D T N, ...), the steps of a count outermost.
        """
        per_threshold_c = (-self.log_threshold_c).exp()
        count_nc = self._count(membrane_nc * _along_channels(per_threshold_c, membrane_nc))
        if self.two_sided:
            size_nc = count_nc.abs()  # of gradient 0 at rest: each side takes half there
            count_nc = torch.cat([size_nc + count_nc, size_nc - count_nc], dim=1) / 2
        return to_binary(count_nc, self.levels) if self.binary else count_nc

    def _count(self, scaled_nc: Tensor) -> Tensor:
        least = -self.levels if self.two_sided else 0
        if self.steps == 1:
            return _fire(scaled_nc, least, self.levels)
        counts: list[Tensor] = []
        surplus: Any = 0.0
        for step_nc in scaled_nc.chunk(self.steps):
            counts.append(_fire(step_nc + surplus, least, self.levels))
            surplus = step_nc + surplus - counts[-1]
        return torch.cat(counts)

    @property
    def worth_c(self) -> Tensor:
        """What a spike of each channel stands for: its threshold, (C,)."""
        return self.log_threshold_c.exp()

    @torch.no_grad()
    def calibrate_(self, sample_cn: Tensor, thrift: float) -> None:
        """Set thresholds, in place, to what loses little of these membranes at few spikes.

        Args:
            sample_cn: membranes of each channel, (C, N).
            thrift: what a spike costs, as a share of a channel's energy.
        """
        least = -self.levels if self.two_sided else 0
        most_c1 = (
            (sample_cn.abs() if least else sample_cn)
            .amax(1, keepdim=True)
            .clamp_min(LEAST_MEMBRANE)
        )
        power_c = sample_cn.square().mean(dim=1) + 1e-9
        found = []
        for share in torch.linspace(0.1, 1.5, 24):
            threshold_c1 = most_c1 * share / self.levels
            count_cn = (sample_cn / threshold_c1).round().clamp(least, self.levels)
            lost_c = (count_cn * threshold_c1 - sample_cn).square().mean(dim=1) / power_c
            found.append((lost_c + thrift * count_cn.abs().mean(dim=1), threshold_c1[:, 0]))
        cost_sc, threshold_sc = (torch.stack(part) for part in zip(*found, strict=True))
        best_1c = cost_sc.argmin(dim=0, keepdim=True)
        self.log_threshold_c.copy_(threshold_sc.gather(0, best_1c)[0].log())


class _Fire(torch.autograd.Function):
    """Nearest whole number in ``least`` to ``most``; its gradient is its mean slope.

    That is over all that may fire more or less, half a spike beyond both ends, as rounding goes:
    membranes at rest, which are many and differ from zero by rounding errors alone, all pass the
    gradient on. A slope of one there would be twice the true one for one level, and grow from layer
    to layer.
    """

    @staticmethod
    def forward(ctx: Any, scaled: Tensor, least: int, most: int) -> Tensor:
        """Counts of membranes in thresholds."""
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((scaled > least - 0.5) & (scaled < most + 0.5))
            ctx.slope = (most - least) / (most - least + 1)
        return scaled.round().clamp_(least, most)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        """What may fire more or less passes the gradient on."""
        return grad[0] * (ctx.saved_tensors[0] * ctx.slope), None, None


def _fire(scaled: Tensor, least: int, most: int) -> Tensor:
    counts: Tensor = _Fire.apply(scaled, least, most)  # type: ignore[no-untyped-call]
    return counts


def _along_channels(value_c: Tensor, like_nc: Tensor) -> Tensor:
    return value_c.view(1, -1, *(1,) * (like_nc.ndim - 2))


def to_binary(count_nx: Tensor, levels: int) -> Tensor:
    """Counts (N, ...) in D binary steps, (D N, ...): a count n is ones in the first n steps."""
    step_d = torch.arange(levels, device=count_nx.device, dtype=count_nx.dtype)
    return (count_nx > step_d.view(-1, *(1,) * count_nx.ndim)).to(count_nx.dtype).flatten(0, 1)


def over_steps(x_nx: Tensor, steps: int) -> Tensor:
    """Sum (N, ...) over the steps of (steps N, ...)."""
    return x_nx.view(steps, -1, *x_nx.shape[1:]).sum(dim=0)


def in_full_precision(method: _Method) -> _Method:
    """Let a method of tensors leave autocast: sums of spikes are whole, and 16 bits round them."""

    @functools.wraps(method)
    def precisely(part: Any, first: Tensor, *rest: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return method(part, first, *rest)

    return cast(_Method, precisely)


@contextlib.contextmanager
def binary_steps(model: nn.Module) -> Iterator[None]:
    """Run every spiking part of a model in binary steps while this lasts."""
    parts: list[Any] = [module for module in model.modules() if hasattr(module, "binary")]
    for part in parts:
        part.binary = True
    try:
        yield
    finally:
        for part in parts:
            part.binary = False


def whole_weights(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (C, ...) as whole numbers -127 to 127, and the scale (C,) that gives them back.

    The gradient goes to the weights as if they had not been rounded.
    """
    most_c = weight.detach().flatten(1).abs().amax(dim=1)
    scale_c = most_c.clamp_min(1e-12) / WEIGHT_LEVELS
    scaled = weight / scale_c.view(-1, *(1,) * (weight.ndim - 1))
    return scaled + (scaled.round() - scaled).detach(), scale_c


class SpikeNorm(nn.Module):
    """Batch normalisation of membranes (N, C, ...), folded into the layer before it when judging.

    In training the batch is that of all processes. Running statistics are moving averages over
    the batches there were, of which the latest weighs a tenth more than the one before it. A batch
    of one number a channel has no spread and is normalised by them.
    """

    running_mean: Tensor
    running_var: Tensor
    batches: Tensor

    def __init__(self, channels: int, *, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), gain))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = 1e-5
        # Averages that began at zero; what they lack is known by the number of batches.
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.zeros(channels))
        self.register_buffer("batches", torch.tensor(0))

    def forward(self, membrane_nc: Tensor) -> Tensor:
        """Centre and scale every channel; in training by the batch, N alike in all processes."""
        count = membrane_nc.numel() // membrane_nc.shape[1] * process_count()
        if not self.training or count == 1:
            scale_c, shift_c = self.affine()
            return membrane_nc * _along_channels(scale_c, membrane_nc) + _along_channels(
                shift_c, membrane_nc
            )
        share = MOMENTUM
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            share = 0.0  # worked out again for a backward pass: this batch was counted
        else:
            self.batches.add_(1)
        if process_count() == 1:
            return F.batch_norm(
                membrane_nc,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=True,
                momentum=share,
                eps=self.eps,
            )
        return self._over_processes(membrane_nc, count, share)

    def _over_processes(self, membrane_nc: Tensor, count: int, share: float) -> Tensor:
        places = [0, *range(2, membrane_nc.ndim)]
        mean_c = gather_with_gradients(membrane_nc.mean(places)[None]).mean(dim=0)
        centred_nc = membrane_nc - _along_channels(mean_c, membrane_nc)
        var_c = gather_with_gradients(centred_nc.square().mean(places)[None]).mean(dim=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean_c, share)
            self.running_var.lerp_(var_c * count / (count - 1), share)
        scale_c = self.weight * torch.rsqrt(var_c + self.eps)
        return centred_nc * _along_channels(scale_c, membrane_nc) + _along_channels(
            self.bias, membrane_nc
        )

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel by the running statistics, (C,) each."""
        begun = self.batches > 0
        whole = torch.where(begun, 1 - (1 - MOMENTUM) ** self.batches, 1)
        var_c = torch.where(begun, self.running_var / whole, 1)
        scale_c = self.weight * torch.rsqrt(var_c + self.eps)
        return scale_c, self.bias - self.running_mean / whole * scale_c


class _SpikeLayer(nn.Module):
    """What convolution and linear layer share: whole weights, binary steps, folded normalisation.

    A bias and a normalisation exclude each other: a normalisation has its own.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    binary = False

    def _prepare(self, *, levels: int, two_sided: bool, norm: SpikeNorm | None) -> None:
        self.levels, self.two_sided, self.norm = levels, two_sided, norm

    def _add(self, spikes_nc: Tensor, weight: Tensor) -> Tensor:
        """Sum of the weights at which spikes arrive."""
        raise NotImplementedError

    def _weight(self) -> Tensor:
        return self.weight

    def forward(self, spikes_nc: Tensor) -> Tensor:
        """Spikes (N, C, ...), two-sided (N, 2 C, ...), to membranes (N, after, ...)."""
        whole, scale_c = whole_weights(self._weight())
        if self.two_sided:
            on_nc, off_nc = spikes_nc.chunk(2, dim=1)
            spikes_nc = on_nc - off_nc  # an OFF spike subtracts the weight that an ON spike adds
        current_nc = self._add(spikes_nc, whole)
        if self.binary:
            current_nc = over_steps(current_nc, self.levels)
        return self._membrane(current_nc, scale_c)

    def _membrane(self, current_nc: Tensor, scale_c: Tensor) -> Tensor:
        """Whole sums to membranes."""
        shift_c: Any = self.bias
        if self.norm is not None:
            if self.training:
                normal_nc: Tensor = self.norm(current_nc * _along_channels(scale_c, current_nc))
                return normal_nc
            fold_c, shift_c = self.norm.affine()
            scale_c = scale_c * fold_c
        scale = _along_channels(scale_c, current_nc)
        if shift_c is None:
            return current_nc * scale
        return torch.addcmul(_along_channels(shift_c, current_nc), current_nc, scale)


def spike_layers(model: nn.Module) -> list[Any]:
    """All layers of a model that see spikes."""
    return [module for module in model.modules() if isinstance(module, _SpikeLayer)]


class SpikeConv2d(_SpikeLayer, nn.Conv2d):  # type: ignore[misc]  # both have a forward
    """Convolution that sees spikes alone, (N, C, H, W), and adds weights where they arrive."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        *,
        levels: int,
        stride: int = 1,
        groups: int = 1,
        two_sided: bool = False,
        bias: bool = True,
        norm: SpikeNorm | None = None,
    ) -> None:
        nn.Conv2d.__init__(
            self,
            before,
            after,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            bias=bias and norm is None,
        )
        self._prepare(levels=levels, two_sided=two_sided, norm=norm)

    def _add(self, spikes_nc: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(spikes_nc, weight, None, self.stride, self.padding, groups=self.groups)


class SpikeLinear(_SpikeLayer, nn.Linear):  # type: ignore[misc]  # both have a forward
    """Linear layer that sees spikes alone, (N, C)."""

    def __init__(
        self,
        before: int,
        after: int,
        *,
        levels: int,
        two_sided: bool = False,
        bias: bool = True,
        norm: SpikeNorm | None = None,
    ) -> None:
        nn.Linear.__init__(self, before, after, bias=bias and norm is None)
        self._prepare(levels=levels, two_sided=two_sided, norm=norm)

    def _add(self, spikes_nc: Tensor, weight: Tensor) -> Tensor:
        return F.linear(spikes_nc, weight)


class SpikeConv1d(_SpikeLayer, nn.Conv1d):  # type: ignore[misc]  # both have a forward
    """Convolution over windows, (N, C, V), that sees spikes alone; kernel 3."""

    def __init__(self, before: int, after: int, *, levels: int, norm: SpikeNorm) -> None:
        nn.Conv1d.__init__(self, before, after, 3, padding=1, bias=False)
        self._prepare(levels=levels, two_sided=False, norm=norm)

    def _add(self, spikes_nc: Tensor, weight: Tensor) -> Tensor:
        return F.conv1d(spikes_nc, weight, None, padding=self.padding)
