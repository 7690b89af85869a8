"""Hierarchical spike feature extractor (HSFE): spike planes of one window in, features out.

Shapes: N windows (of all clips and segments together), K ticks in a window, M branches,
C channels, H rows, W columns; h and w are H and W at the extractor's stride.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation in groups of eight channels.

    It treats every clip alone, so an embedding never depends on the rest of the batch and a
    batch of one trains like any other.
    """
    groups = channels // 8 if channels % 8 == 0 else 1
    return nn.GroupNorm(groups, channels)


class ContrastNorm(nn.GroupNorm):
    """Normalise each channel of a map on its own.

    It takes the brightness of the scene out and leaves contrast, or what moves would drown in the
    differences between channels. A map of one pixel has no contrast.
    """

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Centre and scale every channel, (N, C, H, W)."""
        if x_nchw.shape[-2:] == (1, 1):
            return torch.zeros_like(x_nchw) + self.bias[:, None, None]
        return super().forward(x_nchw)


def conv3x3(before: int, after: int, *, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (or divides it by the stride, rounding up)."""
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)


SMOOTH_WAVES = 4
"""Cosines over a window of which a filter is made at first."""


def smooth_in_time_(weight_ckyx: Tensor) -> None:
    """Make filters slow in time, in place, at the size they have.

    Spikes carry slow light in fast quantisation noise; filters that begin as white noise over the
    ticks hear mostly the latter. These begin as random sums of the slowest cosines instead.
    """
    channels, ticks = weight_ckyx.shape[:2]
    phase_k = torch.pi * (torch.arange(ticks) + 0.5) / ticks
    wave_fk = torch.cos(phase_k * torch.arange(SMOOTH_WAVES)[:, None])
    share_cfyx = torch.randn(channels, SMOOTH_WAVES, *weight_ckyx.shape[2:])
    smooth_ckyx = torch.einsum("cfyx,fk->ckyx", share_cfyx, wave_fk)
    with torch.no_grad():
        weight_ckyx.copy_(smooth_ckyx * weight_ckyx.std() / smooth_ckyx.std())


def temporal_masks(mask_mk: Tensor, branch_ticks: Sequence[int]) -> Tensor:
    """Weight of each tick in each branch, (M, K): 0 outside the crop, mean 1 inside.

    Args:
        mask_mk: what is learnt of each tick, (M, K).
        branch_ticks: length of each branch's crop.
    """
    window = mask_mk.shape[1]
    tick_k = torch.arange(window, device=mask_mk.device)
    length_m = torch.tensor(branch_ticks, device=mask_mk.device)
    first_m = (window - length_m) // 2
    inside_mk = (tick_k >= first_m[:, None]) & (tick_k < (first_m + length_m)[:, None])
    share_mk = mask_mk.float().masked_fill(~inside_mk, -torch.inf).softmax(dim=1)
    weight_mk: Tensor = share_mk * length_m[:, None]
    return weight_mk.to(mask_mk.dtype)


def own_branch(weight: Tensor, of_channel: Sequence[int], branch_features: int) -> Tensor:
    """1 where an output feature may see a channel (its own branch's), (M F, channels)."""
    of_feature = torch.arange(weight.shape[0], device=weight.device) // branch_features
    branch = torch.tensor(of_channel, device=weight.device)
    return (of_feature[:, None] == branch).to(weight.dtype)


class MultiScaleTemporalFilter(nn.Module):
    """Parallel branches over nested temporal crops of a window (MTF).

    Branch m sees the middle ``branch_ticks[m]`` ticks. Photon conservation: its learnable
    temporal mask shares a fixed sum, the length of the crop, out among the ticks of the crop, so
    that learning moves exposure in time and never changes its total; and shorter crops, which
    gather fewer photons, have fewer channels.

    All branches are one convolution over the whole window whose kernel is zero outside each
    branch's crop: the same numbers as separate convolutions, several times faster.
    """

    def __init__(
        self,
        hsfe_ticks: int,
        branch_ticks: Sequence[int],
        branch_channels: Sequence[int],
        branch_features: int,
    ) -> None:
        super().__init__()
        self.branch_ticks = tuple(branch_ticks)
        self._branch_of_channel = [
            m for m, count in enumerate(branch_channels) for _ in range(count)
        ]
        self.branch_features = branch_features
        branches = len(self.branch_ticks)
        self.mask_mk = nn.Parameter(torch.zeros(branches, hsfe_ticks))
        self.filter = nn.Conv2d(hsfe_ticks, len(self._branch_of_channel), 3, padding=1)
        smooth_in_time_(self.filter.weight)
        self.merge = nn.Conv2d(
            len(self._branch_of_channel), branches * branch_features, 3, padding=1
        )

    def temporal_masks(self) -> Tensor:
        """Weight of each tick in each branch, (M, K); see above."""
        return temporal_masks(self.mask_mk, self.branch_ticks)

    def forward(self, window_nkhw: Tensor) -> Tensor:
        """Filter windows (N, K, H, W) into branch features (N, M * branch_features, H, W)."""
        mask_ck = self.temporal_masks()[self._branch_of_channel]
        weight = self.filter.weight * mask_ck[:, :, None, None]
        hidden_nchw = F.relu(F.conv2d(window_nkhw, weight, self.filter.bias, padding=1))
        own = own_branch(self.merge.weight, self._branch_of_channel, self.branch_features)
        weight = self.merge.weight * own[:, :, None, None]
        return F.conv2d(hidden_nchw, weight, self.merge.bias, padding=1)


class SpatialAttention(nn.Module):
    """Weigh the branches against each other at every pixel (SA): two 3x3 convs, a sigmoid."""

    def __init__(self, branches: int, branch_features: int) -> None:
        super().__init__()
        self.branches = branches
        channels = branches * branch_features
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, branches, 3, padding=1)

    def forward(self, branch_nchw: Tensor) -> Tensor:
        """Scale branch features (N, M * F, H, W) by one weight a branch and pixel."""
        weight_nmhw = self.second(F.relu(self.first(branch_nchw))).sigmoid()
        # Views of one memory order: a copy in another order would make the product slow.
        n, channels, height, width = branch_nchw.shape
        branch_nmfhw = branch_nchw.reshape(n, self.branches, -1, height, width)
        scaled_nmfhw: Tensor = branch_nmfhw * weight_nmhw[:, :, None]
        return scaled_nmfhw.reshape(n, channels, height, width)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(channels, channels),
            group_norm(channels),
            nn.ReLU(inplace=True),
            conv3x3(channels, channels),
            group_norm(channels),
        )

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Add what the two convolutions find, (N, C, H, W)."""
        return F.relu(x_nchw + self.body(x_nchw))


class HierarchicalSpikeFeatureExtractor(nn.Module):
    """MTF, SA, a 3x3 convolution to ``channels`` and residual blocks (HSFE).

    Source: SPKLIP, arXiv:2505.12656, section 3.
    """

    def __init__(
        self,
        *,
        hsfe_ticks: int,
        branch_ticks: Sequence[int],
        branch_channels: Sequence[int],
        branch_features: int,
        channels: int,
        blocks: int,
        stride: int,
    ) -> None:
        super().__init__()
        branches = len(branch_ticks)
        self.temporal = MultiScaleTemporalFilter(
            hsfe_ticks, branch_ticks, branch_channels, branch_features
        )
        self.attention = SpatialAttention(branches, branch_features)
        self.embed = nn.Sequential(
            conv3x3(branches * branch_features, channels, stride=stride),
            ContrastNorm(channels, channels),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))

    def forward(self, window_nkhw: Tensor) -> Tensor:
        """Windows (N, K, H, W) to features (N, C, h, w)."""
        branch_nchw = self.attention(self.temporal(window_nkhw))
        features_nchw: Tensor = self.blocks(self.embed(branch_nchw))
        return features_nchw
