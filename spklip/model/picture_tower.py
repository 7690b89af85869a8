"""Video tower on pictures: windows of spikes to pictures, an image encoder, and what reads time.

Shapes: B clips, S segments, G groups of eight ticks, H rows, W columns, V windows of a segment or
of a clip, N = B S V windows in all, C width of the image encoder, D width of the shared space.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikedata import unpack_planes
from spklip.model.config import SpklipConfig
from spklip.model.feature_norm import DampedNorm
from spklip.model.hsfe_picture import HsfePicture
from spklip.model.image_encoder import ImageEncoder, build_image_encoder
from spklip.model.pictures import exposures
from spklip.model.video_tower import (
    sine_positions,
    window_centres,
    window_starts,
    window_transformer,
)

WHITE_SHARE = 0.99
"""This share of a picture's pixels is shown below full white."""
WHITE_SIDE_PX = 60
"""White is looked for among about so many rows and columns."""


def full_range(rate_nchw: Tensor) -> Tensor:
    """Pictures in 0 to 1 of firing rates: white is what all but the brightest pixels stay below.

    All three colours of a picture share it. The rate of full light depends on threshold and
    aperture, which a recording may not tell; contrast is what an image encoder has learnt to see.

    Args:
        rate_nchw: float (N, C, H, W), spikes a tick.

    Returns:
        float (N, C, H, W).
    """
    return (rate_nchw / white_of(rate_nchw)[:, None, None, None]).clamp(0, 1)


def white_of(rate_nchw: Tensor) -> Tensor:
    """Firing rate of white in each picture (N, C, H, W), (N,); see :func:`full_range`."""
    step_y, step_x = (max(1, side // WHITE_SIDE_PX) for side in rate_nchw.shape[-2:])
    seen_np = rate_nchw.detach()[..., ::step_y, ::step_x].flatten(1).float()
    place = max(1, round(WHITE_SHARE * seen_np.shape[1]))
    return seen_np.kthvalue(place, dim=1).values.clamp_min(1e-3).to(rate_nchw.dtype)


class PictureReader(nn.Module):
    """What all towers on pictures share: where windows lie, and how a clip is read."""

    encoder: ImageEncoder
    leave: nn.Module
    joint = False

    def __init__(self, config: SpklipConfig) -> None:
        super().__init__()
        self.config = config

    def window_features(self, packed_bsghw: Tensor, ticks: int) -> tuple[Tensor, Tensor]:
        """What the image encoder sees in each window, before windows see each other.

        Args:
            packed_bsghw: uint8 (B, S, G, H, W).
            ticks: ticks of a segment.

        Returns:
            feature_bvc: (B, S V, C): the encoder's vector, then its moments.
            centre_v: middle tick of each of the S V windows; segments are laid end to end.
        """
        config = self.config
        clips, segments = packed_bsghw.shape[:2]
        starts = window_starts(
            ticks, config.hsfe_ticks, config.step_ticks, config.windows_per_segment
        )
        windows = segments * len(starts)
        seen = self._see(packed_bsghw.flatten(0, 1), ticks, starts, windows)
        feature_nc = torch.cat(seen, dim=1)
        centre_v = window_centres(starts, segments, ticks, config.hsfe_ticks)
        return feature_nc.reshape(clips, windows, -1), centre_v.to(feature_nc.device)

    def _see(
        self, packed_nghw: Tensor, ticks: int, starts: Sequence[int], windows: int
    ) -> tuple[Tensor, Tensor]:
        """Vectors (N, C) and moments (N, M) of all windows that begin at ``starts``."""
        raise NotImplementedError

    def clip_parts(self, feature_bvc: Tensor, centre_v: Tensor) -> tuple[Tensor, Tensor]:
        """Window vectors to two vectors a clip, (B, C) each, whose sum is what is read."""
        raise NotImplementedError

    def read(self, feature_bvc: Tensor, centre_v: Tensor) -> Tensor:
        """Window vectors (B, V, C) to clip vectors (B, embed_dim), not normalised."""
        raise NotImplementedError

    def leave_weight(self) -> Tensor:
        """Weights (D, C) by which what is read of a clip comes into the shared space."""
        assert isinstance(self.leave, nn.Linear)
        return self.leave.weight

    def forward(self, packed_bsghw: Tensor, ticks: int) -> Tensor:
        """Packed planes (B, S, G, H, W) to clip vectors (B, embed_dim), not normalised."""
        return self.read(*self.window_features(packed_bsghw, ticks))


class PictureTower(PictureReader):
    """Spikes of a clip to one vector: pictures, image encoder, Transformer over windows, mean.

    The Transformer sees the encoder's vector of each window and where in the picture its features
    lie, so that it can tell which way they go. What it finds in the order of the windows is added
    to each window's vector, and begins as nothing: an untrained tower is the image encoder's mean
    over windows. A joint image and text encoder keeps its own projection, with nothing between it
    and the shared space.
    """

    def __init__(self, config: SpklipConfig, *, pretrained: bool) -> None:
        super().__init__(config)
        self.encoder = build_image_encoder(config, pretrained=pretrained)
        features, width = self.encoder.features, config.temporal_width
        self.picture: nn.Module | None = HsfePicture(config) if config.picture == "hsfe" else None
        self.joint = self.encoder.joint
        self.norm: nn.Module = nn.Identity() if self.joint else DampedNorm(features)
        self.enter = nn.Linear(features, width)
        self.enter_moments: nn.Module | None = None
        if moments := self.encoder.moments:
            line = nn.Linear(moments, width, bias=False)
            self.enter_moments = nn.Sequential(DampedNorm(moments), line)
        self.time = nn.Linear(width, width)
        self.temporal = window_transformer(config)
        self.add = nn.Linear(width, features)
        nn.init.zeros_(self.add.weight)
        nn.init.zeros_(self.add.bias)
        self.drop = nn.Dropout(config.dropout)
        self.leave: nn.Module = (
            nn.Identity() if self.joint else nn.Linear(features, config.embed_dim, bias=False)
        )

    def _see(
        self, packed_nghw: Tensor, ticks: int, starts: Sequence[int], windows: int
    ) -> tuple[Tensor, Tensor]:
        picture_nchw = full_range(self._rates(packed_nghw, ticks, starts))
        if picture_nchw.shape[1] == 1:
            picture_nchw = picture_nchw.expand(-1, 3, -1, -1)
        seen: tuple[Tensor, Tensor] = self.encoder(picture_nchw, windows=windows)
        return seen

    def _rates(self, packed_nghw: Tensor, ticks: int, starts: Sequence[int]) -> Tensor:
        """Firing rates of every window's exposures, (N, 1 or 3, H, W), windows in time order."""
        config = self.config
        if self.picture is not None:
            return self._learnt_rates(packed_nghw, ticks, starts)
        places = [start + exposure for start in starts for exposure in config.picture_starts]
        rate_nkhw = exposures(packed_nghw, ticks, places, config.exposure_ticks)
        return rate_nkhw.reshape(-1, len(config.picture_starts), *rate_nkhw.shape[-2:])

    def _learnt_rates(self, packed_nghw: Tensor, ticks: int, starts: Sequence[int]) -> Tensor:
        assert self.picture is not None
        planes_nthw = unpack_planes(packed_nghw, ticks)
        length = self.config.hsfe_ticks
        window_nvkhw = torch.stack([planes_nthw[:, s : s + length] for s in starts], dim=1)
        window_nkhw = window_nvkhw.flatten(0, 1).to(self.enter.weight.dtype)
        rate_nchw: Tensor = self.picture(window_nkhw)
        return rate_nchw

    def clip_parts(self, feature_bvc: Tensor, centre_v: Tensor) -> tuple[Tensor, Tensor]:
        """Window vectors to two vectors a clip, (B, C) each, whose sum is what is read.

        Returns:
            own_bc: mean of the windows as the image encoder sees them.
            added_bc: what the Transformer, which sees their order, adds to it.
        """
        features = self.encoder.features
        vector_bvc, moment_bvm = feature_bvc[..., :features], feature_bvc[..., features:]
        if self.joint:
            vector_bvc = F.normalize(vector_bvc, dim=-1)
        own_bvc = self.norm(vector_bvc.flatten(0, 1)).reshape(vector_bvc.shape)
        position_vd = sine_positions(centre_v / self.config.step_ticks, self.enter.out_features)
        hidden_bvd = self.enter(own_bvc) + self.time(position_vd.to(own_bvc.dtype))
        if self.enter_moments is not None:
            where_nd = self.enter_moments(moment_bvm.flatten(0, 1))
            hidden_bvd = hidden_bvd + where_nd.reshape(hidden_bvd.shape)
        return own_bvc.mean(dim=1), self.add(self.temporal(hidden_bvd)).mean(dim=1)

    def read(self, feature_bvc: Tensor, centre_v: Tensor) -> Tensor:
        """Window vectors (B, V, C) to clip vectors (B, embed_dim), not normalised."""
        own_bc, added_bc = self.clip_parts(feature_bvc, centre_v)
        clip_bd: Tensor = self.leave(self.drop(own_bc + added_bc))
        return clip_bd
