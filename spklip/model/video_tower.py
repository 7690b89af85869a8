"""Video tower: windows of spike planes to one vector a clip (HSFE, then STAR-Net).

Shapes: B clips, S segments, T ticks of a segment, H rows, W columns, V windows of a segment,
K ticks of a window, N = B S V windows in all, C channels, P places of a feature map, D width.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spklip.model.config import SpklipConfig
from spklip.model.feature_norm import FeatureNorm
from spklip.model.hsfe import HierarchicalSpikeFeatureExtractor, conv3x3, group_norm


def window_starts(ticks: int, hsfe_ticks: int, step_ticks: int, windows: int | None) -> list[int]:
    """First tick of every window of a segment; no window leaves the segment.

    Args:
        ticks: length of the segment.
        hsfe_ticks: length of a window.
        step_ticks: from the start of one window to the next; used if ``windows`` is None, and then
            as many windows are placed as fit.
        windows: how many to spread evenly from the first tick to the last, or None.

    Returns:
        Starts in rising order.

    Raises:
        ValueError: the segment is shorter than one window.
    """
    last = ticks - hsfe_ticks
    if last < 0:
        raise ValueError(
            f"a segment of {ticks} ticks is shorter than one window of {hsfe_ticks}; "
            "give longer segments or a smaller radius_ticks (a window is 2 * radius_ticks + 1)"
        )
    if windows is None:
        return list(range(0, last + 1, step_ticks))
    if windows == 1:
        return [last // 2]
    return [round(i * last / (windows - 1)) for i in range(windows)]


def window_centres(starts: Sequence[int], segments: int, ticks: int, hsfe_ticks: int) -> Tensor:
    """Middle tick of every window, float (S V); segments of ``ticks`` are laid end to end."""
    start_v = torch.tensor(starts, dtype=torch.float32)
    segment_s = torch.arange(segments)
    return (segment_s[:, None] * ticks + start_v + hsfe_ticks // 2).flatten()


def cut_windows(
    planes_bsthw: Tensor, config: SpklipConfig, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cut windows inside each segment.

    Args:
        planes_bsthw: uint8 or float (B, S, T, H, W).
        config: where windows lie.
        dtype: of the windows.

    Returns:
        window_nkhw: (B S V, K, H, W), channels last in memory, windows in time order.
        centre_sv: float (S V), middle tick of each window; segments are laid end to end.
    """
    segments, ticks = planes_bsthw.shape[1:3]
    length = config.hsfe_ticks
    starts = window_starts(ticks, length, config.step_ticks, config.windows_per_segment)
    windows = [planes_bsthw[:, :, first : first + length] for first in starts]
    window_nkhw = torch.stack(windows, dim=2).flatten(0, 2)
    window_nkhw = window_nkhw.to(dtype, memory_format=torch.channels_last)
    return window_nkhw, window_centres(starts, segments, ticks, length).to(planes_bsthw.device)


def sine_positions(position_x: Tensor, width: int) -> Tensor:
    """Sines and cosines of real positions, (..., width), for any position (no table to outgrow)."""
    half = width // 2
    exponent = torch.arange(half, device=position_x.device, dtype=torch.float32) / half
    angle = position_x.float()[..., None] * torch.exp(-math.log(10_000.0) * exponent)
    return F.pad(torch.cat([angle.sin(), angle.cos()], dim=-1), (0, width - 2 * half))


def sine_places(channels: int, height: int, width: int, *, device: torch.device) -> Tensor:
    """Sines of row and column of every place of a map of any size, (H, W, C)."""
    half = channels // 2
    row_hc = sine_positions(torch.arange(height, device=device), half)
    column_wc = sine_positions(torch.arange(width, device=device), channels - half)
    row_hwc = row_hc[:, None].expand(-1, width, -1)
    return torch.cat([row_hwc, column_wc[None].expand(height, -1, -1)], dim=-1)


def window_transformer(config: SpklipConfig) -> nn.TransformerEncoder:
    """The Transformer through which the windows of a clip see each other."""
    width = config.temporal_width
    layer = nn.TransformerEncoderLayer(
        width,
        config.temporal_heads,
        4 * width,
        dropout=config.dropout,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    return nn.TransformerEncoder(
        layer, config.temporal_layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
    )


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut; the 3x3 one carries the stride."""

    def __init__(self, before: int, width: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 1, bias=False),
            group_norm(width),
            nn.ReLU(inplace=True),
            conv3x3(width, width, stride=stride),
            group_norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, after, 1, bias=False),
            group_norm(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(before, after, 1, bias=False),
                group_norm(after),
            )

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Features (N, C, H, W) to (N, after, ceil(H / stride), ceil(W / stride))."""
        return F.relu(self.shortcut(x_nchw) + self.body(x_nchw))


class AttentionPool(nn.Module):
    """Pool a feature map of any size by attention: the mean place asks, all places answer.

    There is one question a picture. So it is carried to where the places are, and their mixture to
    where values are: each place is multiplied by a vector a head, not by two matrices.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.channels = channels
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Pool (N, C, H, W) over places into (N, C)."""
        height, width = x_nchw.shape[-2:]
        position_hwc = sine_places(self.channels, height, width, device=x_nchw.device)
        place_npc = x_nchw.flatten(2).transpose(1, 2)
        mean_n1c = place_npc.mean(dim=1, keepdim=True)
        place_npc = place_npc + position_hwc.flatten(0, 1).to(place_npc.dtype)
        key_npc = torch.cat([mean_n1c, place_npc], dim=1)
        return self._attend(mean_n1c[:, 0], key_npc)

    def _attend(self, query_nc: Tensor, key_npc: Tensor) -> Tensor:
        """What ``self.attention`` gives of one query; a head's E channels at a time."""
        attention = self.attention
        heads, channels = attention.num_heads, self.channels
        ask, know, tell = attention.in_proj_weight.view(3, heads, -1, channels)
        ask_bias, _, tell_bias = attention.in_proj_bias.view(3, heads, -1)
        asked_nhe = torch.einsum("nc,hec->nhe", query_nc, ask) + ask_bias
        asked_nhc = torch.einsum("nhe,hec->nhc", asked_nhe, know)
        score_nhp = asked_nhc @ key_npc.mT / math.sqrt(channels // heads)
        # A key's bias adds alike to the scores of all places, and moves no weight.
        mixed_nhc = score_nhp.softmax(dim=-1) @ key_npc
        told_nhe = torch.einsum("nhc,hec->nhe", mixed_nhc, tell) + tell_bias
        pooled_nc: Tensor = attention.out_proj(told_nhe.flatten(1))
        return pooled_nc


class AttentivePoolingResNet(nn.Module):
    """Residual network with attention pooling, one window at a time (MAPResNet)."""

    def __init__(
        self,
        channels: int,
        *,
        group_blocks: Sequence[int],
        group_width: int,
        expansion: int,
        heads: int,
        stem_stride: int,
    ) -> None:
        super().__init__()
        half = max(group_width // 2, 8)
        stem: list[nn.Module] = []
        for before, after, stride in (
            (channels, half, 2),
            (half, half, 1),
            (half, group_width, 1),
        ):
            stem += [conv3x3(before, after, stride=stride), group_norm(after), nn.ReLU(True)]
        if stem_stride == 4:
            stem.append(nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False))
        self.stem = nn.Sequential(*stem)
        blocks: list[nn.Module] = []
        before = group_width
        for group, count in enumerate(group_blocks):
            width = group_width * 2**group
            for block in range(count):
                stride = 2 if group and not block else 1
                blocks.append(Bottleneck(before, width, width * expansion, stride=stride))
                before = width * expansion
        self.blocks = nn.ModuleList(blocks)
        self.out_channels = before
        self.pool = AttentionPool(before, heads)
        self.gradient_checkpointing = False

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Features (N, C, h, w) of a window to one vector (N, out_channels)."""
        x_nchw = self.stem(x_nchw)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x_nchw = checkpoint(block, x_nchw, use_reentrant=False)
            else:
                x_nchw = block(x_nchw)
        pooled_nc: Tensor = self.pool(x_nchw)
        return pooled_nc


class VideoTower(nn.Module):
    """Spike planes of a clip to one vector: HSFE, MAPResNet, Transformer over windows, mean."""

    def __init__(self, config: SpklipConfig) -> None:
        super().__init__()
        self.config = config
        self.extractor = HierarchicalSpikeFeatureExtractor(
            hsfe_ticks=config.hsfe_ticks,
            branch_ticks=config.branch_ticks,
            branch_channels=config.branch_channels,
            branch_features=config.branch_features,
            channels=config.extractor_channels,
            blocks=config.extractor_blocks,
            stride=config.extractor_stride,
        )
        self.backbone = AttentivePoolingResNet(
            config.extractor_channels,
            group_blocks=config.group_blocks,
            group_width=config.group_width,
            expansion=config.expansion,
            heads=config.pool_heads,
            stem_stride=4 // config.extractor_stride,
        )
        width = config.temporal_width
        # Pooled features of different clips hardly differ at first: without centring over the
        # batch both towers collapse to one point, where the loss has no gradient.
        self.enter = nn.Sequential(
            nn.Linear(self.backbone.out_channels, width, bias=False), FeatureNorm(width)
        )
        self.time = nn.Linear(width, width)
        self.temporal = window_transformer(config)
        self.leave = nn.Sequential(
            nn.Linear(width, config.embed_dim, bias=False),
            FeatureNorm(config.embed_dim, affine=False),
        )

    def window_features(self, planes_bsthw: Tensor) -> tuple[Tensor, Tensor]:
        """One vector a window, before windows see each other.

        Returns:
            feature_bvd: (B, S V, D).
            centre_v: middle tick of each of the S V windows.
        """
        window_nkhw, centre_v = cut_windows(planes_bsthw, self.config, self.time.weight.dtype)
        feature_nd = self.enter(self.backbone(self.extractor(window_nkhw)))
        feature_bvd = feature_nd.reshape(len(planes_bsthw), len(centre_v), -1)
        return feature_bvd, centre_v

    def read(self, feature_bvd: Tensor, centre_v: Tensor) -> Tensor:
        """Window vectors (B, V, D) to clip vectors (B, embed_dim), not normalised."""
        position_vd = sine_positions(centre_v / self.config.step_ticks, feature_bvd.shape[-1])
        feature_bvd = feature_bvd + self.time(position_vd.to(feature_bvd.dtype))
        clip_bd: Tensor = self.leave(self.temporal(feature_bvd).mean(dim=1))
        return clip_bd

    def forward(self, planes_bsthw: Tensor) -> Tensor:
        """Planes (B, S, T, H, W) to clip vectors (B, embed_dim), not normalised."""
        return self.read(*self.window_features(planes_bsthw))
