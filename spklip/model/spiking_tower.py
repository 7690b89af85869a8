"""Video tower of spiking neurons, from scratch: HSFE, residual network, windows in time.

The same parts as :mod:`spklip.model.video_tower`, and every convolution and linear layer sees
spikes alone: the camera's at first, the network's own after that. What is added at shortcuts are
membranes.

Shapes: B clips, S segments, T ticks of a segment, H rows, W columns, N windows, K ticks of a
window, M branches, F features of a branch, C channels, V windows of a clip, D width, P time steps.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spklip.model.config import SpklipConfig
from spklip.model.feature_norm import FeatureNorm
from spklip.model.hsfe import own_branch, smooth_in_time_, temporal_masks
from spklip.model.spiking import (
    SpikeConv2d,
    SpikeLinear,
    SpikeNeuron,
    SpikeNorm,
    in_full_precision,
    to_binary,
)
from spklip.model.spiking_time import SpikingTime
from spklip.model.video_tower import cut_windows, sine_places, sine_positions

GATE_THRESHOLD = 2.0
"""First threshold of a gate, and the mean of its membrane, of deviation 1."""


class _BranchConv(SpikeConv2d):
    """The filters of MTF's branches over the camera's spikes, zero outside each branch's crop.

    The weights of a filter sum to zero: what is as bright everywhere and all the time leaves a
    membrane at rest, and what is left is contrast, in space or time. Else neurons would tell bright
    scenes from dark ones, and what moves would drown in that.
    """

    def __init__(self, config: SpklipConfig, of_channel: list[int], *, levels: int) -> None:
        channels = len(of_channel)
        norm = SpikeNorm(channels)
        super().__init__(config.hsfe_ticks, channels, 3, levels=levels, norm=norm)
        self.branch_ticks, self.of_channel = config.branch_ticks, of_channel
        self.mask_mk = nn.Parameter(torch.zeros(len(config.branch_ticks), config.hsfe_ticks))
        smooth_in_time_(self.weight)

    def _weight(self) -> Tensor:
        mask_ck11 = temporal_masks(self.mask_mk, self.branch_ticks)[self.of_channel][
            ..., None, None
        ]
        weight, seen_ck11 = self.weight * mask_ck11, mask_ck11 > 0
        cells_c = seen_ck11.sum(dim=(1, 2, 3), keepdim=True) * math.prod(self.kernel_size)
        return weight - seen_ck11 * (weight.sum(dim=(1, 2, 3), keepdim=True) / cells_c)


class _MergeConv(SpikeConv2d):
    """A branch's channels to its features; no branch sees another's."""

    def __init__(self, config: SpklipConfig, of_channel: list[int]) -> None:
        features = len(config.branch_ticks) * config.branch_features
        levels, norm = config.spike_levels, SpikeNorm(features)
        super().__init__(len(of_channel), features, 3, levels=levels, norm=norm)
        self.of_channel, self.per_branch = of_channel, config.branch_features

    def _weight(self) -> Tensor:
        own = own_branch(self.weight, self.of_channel, self.per_branch)
        return self.weight * own[:, :, None, None]


class SpikingExtractor(nn.Module):
    """HSFE by spikes: branches over nested crops, a gate of spikes a branch, residual blocks.

    The gate is one spike or none at each pixel of a branch, and lets the branch's spikes pass or
    not: what the sigmoid of SA is, without a product.
    """

    binary = False

    def __init__(self, config: SpklipConfig) -> None:
        super().__init__()
        branches, per_branch = len(config.branch_ticks), config.branch_features
        features, levels = branches * per_branch, config.spike_levels
        of_channel = [m for m, count in enumerate(config.branch_channels) for _ in range(count)]
        self.levels, self.steps = levels, config.spike_steps
        self.cell_levels, self.per_branch = config.pool_px**2, per_branch
        self.filter = _BranchConv(config, of_channel, levels=self.cell_levels)
        self.fire_filter = self._neuron(len(of_channel))
        self.merge = _MergeConv(config, of_channel)
        self.fire_merge = self._neuron(features)
        self.gate_first = SpikeConv2d(
            features, features, 3, levels=levels, norm=SpikeNorm(features)
        )
        self.fire_first = self._neuron(features)
        # At first most gates are open, and a membrane far from closing or opening has a gradient.
        norm = SpikeNorm(branches)
        nn.init.constant_(norm.bias, GATE_THRESHOLD)
        self.gate_second = SpikeConv2d(features, branches, 3, levels=levels, norm=norm)
        self.fire_gate = SpikeNeuron(branches, levels=1, steps=self.steps, threshold=GATE_THRESHOLD)
        channels = config.extractor_channels
        self.embed = SpikeConv2d(
            features,
            channels,
            3,
            levels=levels,
            stride=config.extractor_stride,
            norm=SpikeNorm(channels),
        )
        self.blocks = nn.Sequential(
            *(_residual(channels, config) for _ in range(config.extractor_blocks))
        )

    def _neuron(self, channels: int) -> SpikeNeuron:
        return SpikeNeuron(channels, levels=self.levels, steps=self.steps)

    def forward(self, count_nkhw: Tensor) -> Tensor:
        """Spikes of cells, whole numbers (P N, K, H, W), to membranes (P N, C, h, w)."""
        if self.binary:
            count_nkhw = to_binary(count_nkhw, self.cell_levels)
        spikes = self.fire_merge(self.merge(self.fire_filter(self.filter(count_nkhw))))
        gate = self.fire_gate(self.gate_second(self.fire_first(self.gate_first(spikes))))
        if self.binary:
            gate = gate.repeat(self.levels, 1, 1, 1)
        passed = spikes * gate.repeat_interleave(self.per_branch, dim=1)
        membrane_nchw: Tensor = self.blocks(self.embed(passed))
        return membrane_nchw


class _Residual(nn.Module):
    """Convolutions, a neuron before each, around a shortcut between membranes."""

    def __init__(self, layers: list[SpikeConv2d], config: SpklipConfig, *, narrows: bool) -> None:
        super().__init__()
        levels, steps = config.spike_levels, config.spike_steps
        parts: list[nn.Module] = []
        for layer in layers:
            parts += [SpikeNeuron(layer.in_channels, levels=levels, steps=steps), layer]
        self.enter, self.body = parts[0], nn.Sequential(*parts[1:])
        first, last = layers[0], layers[-1]
        self.shortcut: SpikeConv2d | None = None
        stride = max(layer.stride[0] for layer in layers)
        if narrows or first.in_channels != last.out_channels:
            norm = SpikeNorm(last.out_channels)
            self.shortcut = SpikeConv2d(
                first.in_channels, last.out_channels, 1, levels=levels, stride=stride, norm=norm
            )

    def forward(self, membrane_nchw: Tensor) -> Tensor:
        """Membranes (N, C, H, W) to membranes, with what the convolutions add."""
        spikes = self.enter(membrane_nchw)
        if self.shortcut is not None:
            membrane_nchw = self.shortcut(spikes)
        total_nchw: Tensor = membrane_nchw + self.body(spikes)
        return total_nchw


def _residual(channels: int, config: SpklipConfig) -> _Residual:
    levels = config.spike_levels
    first = SpikeConv2d(channels, channels, 3, levels=levels, norm=SpikeNorm(channels))
    second = SpikeConv2d(channels, channels, 3, levels=levels, norm=SpikeNorm(channels, gain=0.5))
    return _Residual([first, second], config, narrows=False)


def _bottleneck(
    before: int, width: int, after: int, config: SpklipConfig, *, stride: int
) -> _Residual:
    levels = config.spike_levels
    layers = [
        SpikeConv2d(before, width, 1, levels=levels, norm=SpikeNorm(width)),
        SpikeConv2d(width, width, 3, levels=levels, stride=stride, norm=SpikeNorm(width)),
        SpikeConv2d(width, after, 1, levels=levels, norm=SpikeNorm(after, gain=0.5)),
    ]
    return _Residual(layers, config, narrows=stride > 1)


class SpikingResNet(nn.Module):
    """Residual network of spiking neurons: membranes of a window's map to one vector.

    Where in the picture a feature lies is told by currents: sines of row and column are added to
    the membranes of the last map, so that its neurons fire by place; then all places are summed.
    """

    def __init__(self, config: SpklipConfig) -> None:
        super().__init__()
        levels, steps = config.spike_levels, config.spike_steps
        width = config.group_width
        half = max(width // 2, 8)
        stem: list[nn.Module] = []
        stem_stride = 4 // config.extractor_stride
        for before, after, stride in (
            (config.extractor_channels, half, 2),
            (half, half, 1),
            (half, width, stem_stride // 2),
        ):
            norm = SpikeNorm(after)
            stem.append(SpikeNeuron(before, levels=levels, steps=steps))
            stem.append(SpikeConv2d(before, after, 3, levels=levels, stride=stride, norm=norm))
        self.stem = nn.Sequential(*stem)
        self.blocks = nn.ModuleList()
        before = width
        for group, count in enumerate(config.group_blocks):
            inner = width * 2**group
            for block in range(count):
                stride = 2 if group and not block else 1
                after = inner * config.expansion
                self.blocks.append(_bottleneck(before, inner, after, config, stride=stride))
                before = after
        self.place_gain_c = nn.Parameter(torch.full((before,), 0.5))
        self.fire = SpikeNeuron(before, levels=levels, steps=steps)
        self.place = SpikeConv2d(before, before, 1, levels=levels, norm=SpikeNorm(before))
        self.fire_place = SpikeNeuron(before, levels=levels, steps=steps)
        self.out_channels = before
        self.leave = SpikeConv2d(before, config.temporal_width, 1, levels=levels)
        self.gradient_checkpointing = False

    def forward(self, membrane_nchw: Tensor) -> Tensor:
        """Membranes (N, C, h, w) to window vectors (N, D), the mean current over all places."""
        membrane_nchw = self.stem(membrane_nchw)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                membrane_nchw = checkpoint(block, membrane_nchw, use_reentrant=False)
            else:
                membrane_nchw = block(membrane_nchw)
        place_hwc = sine_places(*membrane_nchw.shape[1:], device=membrane_nchw.device)
        current = (place_hwc * self.place_gain_c).permute(2, 0, 1).to(membrane_nchw.dtype)
        spikes = self.fire_place(self.place(self.fire(membrane_nchw + current)))
        pooled_nd: Tensor = self.leave(spikes).mean(dim=(2, 3))
        return pooled_nd


class SpikingVideoTower(nn.Module):
    """Spikes of a clip to one vector, by spikes: the spiking variants of ``VideoTower``.

    With several time steps, each sees its own stretch of a window's ticks, in their order, and the
    neurons up to the window's vector keep their membranes from one to the next.
    """

    def __init__(self, config: SpklipConfig) -> None:
        super().__init__()
        self.config, levels, width = config, config.spike_levels, config.temporal_width
        self.extractor = SpikingExtractor(config)
        self.backbone = SpikingResNet(config)
        self.enter = FeatureNorm(width)
        self.time_gain_d = nn.Parameter(torch.full((width,), 0.5))
        self.temporal = SpikingTime(config)
        self.fire = SpikeNeuron(width, levels=levels, two_sided=True)
        self.leave = SpikeLinear(width, config.embed_dim, levels=levels, two_sided=True)
        self.norm = FeatureNorm(config.embed_dim, affine=False)

    @in_full_precision
    def window_features(self, planes_bsthw: Tensor) -> tuple[Tensor, Tensor]:
        """One vector a window, before windows see each other.

        Args:
            planes_bsthw: spikes of each cell over its pixels, (B, S, T, H, W).

        Returns:
            feature_bvd: (B, S V, D).
            centre_v: middle tick of each of the S V windows.
        """
        config = self.config
        window_nkhw, centre_v = cut_windows(planes_bsthw, config, self.time_gain_d.dtype)
        count_nkhw = (window_nkhw * config.pool_px**2).round()
        feature_nd = self.backbone(self.extractor(self._in_steps(count_nkhw)))
        feature_nd = feature_nd.unflatten(0, (config.spike_steps, -1)).mean(dim=0)
        feature_nd = self.enter(feature_nd)
        return feature_nd.reshape(len(planes_bsthw), len(centre_v), -1), centre_v

    def _in_steps(self, count_nkhw: Tensor) -> Tensor:
        """Windows (N, K, H, W) as (P N, K, H, W): each step holds its own ticks, and no others."""
        steps, ticks = self.config.spike_steps, count_nkhw.shape[1]
        if steps == 1:
            return count_nkhw
        of_tick_k = torch.arange(ticks, device=count_nkhw.device) * steps // ticks
        held = [count_nkhw * (of_tick_k == p)[:, None, None] for p in range(steps)]
        return torch.cat(held).contiguous(memory_format=torch.channels_last)

    @in_full_precision
    def read(self, feature_bvd: Tensor, centre_v: Tensor) -> Tensor:
        """Window vectors (B, V, D) to clip vectors (B, embed_dim), not normalised."""
        clips, windows, width = feature_bvd.shape
        position_vd = sine_positions(centre_v / self.config.step_ticks, width)
        membrane_bvd = feature_bvd + self.time_gain_d * position_vd.to(feature_bvd.dtype)
        spikes_nd: Any = self.fire(self.temporal(membrane_bvd).flatten(0, 1))
        clip_bd = self.leave(spikes_nd).view(clips, windows, -1).mean(dim=1)
        normal_bd: Tensor = self.norm(clip_bd)
        return normal_bd

    def forward(self, planes_bsthw: Tensor) -> Tensor:
        """Planes (B, S, T, H, W) to clip vectors (B, embed_dim), not normalised."""
        return self.read(*self.window_features(planes_bsthw))
