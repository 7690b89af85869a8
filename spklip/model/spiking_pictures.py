"""Video tower on pictures, of spiking neurons: exposures, a converted image tower, windows in time.

The spiking variants of :class:`spklip.model.picture_tower.PictureTower`: the same parts in the same
order, and spikes alone between them.

Shapes: B clips, S segments, G groups of eight ticks, H rows, W columns, V windows of a clip, N
windows in all, P time steps, L ticks of an exposure in a time step, C width of the image encoder, M
its moments, D width of the shared space.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikedata import SpikeDataError, unpack_planes
from spklip.model.config import SpklipConfig
from spklip.model.efficientnet_lite import EfficientNetLite0
from spklip.model.feature_norm import DampedNorm
from spklip.model.image_encoder import CPU_PICTURES, ImageEncoder
from spklip.model.image_towers import ImageFacts, build_tower, moments
from spklip.model.picture_tower import PictureReader, white_of
from spklip.model.pictures import exposures
from spklip.model.spiking import (
    SpikeLinear,
    SpikeNeuron,
    in_full_precision,
    start_threshold,
    whole_weights,
)
from spklip.model.spiking_lite import SpikingLite0
from spklip.model.spiking_time import SpikingTime
from spklip.model.video_tower import sine_positions

DEVIATION = 0.4
"""What is reckoned with behind a damped normalisation, whose deviations are below 1."""


class Places(nn.Module):
    """Sums of spikes over the places of a map: how many, and where."""

    def forward(self, spikes_nchw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (N, C) and :func:`~spklip.model.image_towers.moments` (N, M) of (N, C, h, w)."""
        return spikes_nchw.mean(dim=(2, 3)), moments(spikes_nchw)


class SpikingImageEncoder(ImageEncoder):
    """An image tower of spiking neurons, frozen but for what the config lets learn."""

    def __init__(self, tower: SpikingLite0, facts: ImageFacts, config: SpklipConfig) -> None:
        super().__init__(tower, facts, config)
        self.tower: SpikingLite0
        self.places = Places()

    @in_full_precision
    def forward(self, count_pnchw: Tensor, gain_n: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Spikes of exposures to vectors.

        Args:
            count_pnchw: whole numbers (P, N, 3, h, w); in binary steps the camera's bits, (L, P, N,
                3, h, w).
            gain_n: what a spike is worth in each picture, as a share of white, (N,).

        Returns:
            vector_nc: (N, C).
            moment_nm: (N, M), see :func:`spklip.model.image_towers.moments`.
        """
        one_by_one = torch.is_grad_enabled() or count_pnchw.is_cuda
        part = len(gain_n) if one_by_one else CPU_PICTURES
        parts = zip(torch.split(count_pnchw, part, -4), torch.split(gain_n, part), strict=True)
        found = [self.places(self.see(count, gain)[0]) for count, gain in parts]
        vector_nc, moment_nm = (torch.cat(tensors) for tensors in zip(*found, strict=True))
        worth_c = self.tower.worth_c
        return vector_nc * worth_c, moment_nm * torch.cat([worth_c, worth_c])

    @in_full_precision
    def see(self, count_pnchw: Tensor, gain_n: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The tower's last map and the membranes of its blocks; see ``SpikingLite0``."""
        gain_pn = gain_n.repeat(count_pnchw.shape[-5])
        count_nchw = count_pnchw.flatten(0, -4).contiguous(memory_format=torch.channels_last)
        found: tuple[Tensor, list[Tensor]] = self.tower(count_nchw, gain_pn)
        return found


def build_spiking_encoder(config: SpklipConfig, *, pretrained: bool) -> SpikingImageEncoder:
    """Image encoder of ``config`` converted to spiking neurons; noted as the trained one is.

    Raises:
        SpikeDataError: the encoder is missing, or none that is known here to be converted.
    """
    trained, facts = build_tower(config, pretrained=pretrained)
    if not isinstance(trained, EfficientNetLite0):
        raise SpikeDataError(
            f"image_encoder {config.image_encoder!r} has no spiking form: encoder "
            f"{config.encoder!r} is made of image_encoder 'embedded' (EfficientNet-Lite0), or from "
            "scratch without one"
        )
    config.image_config = facts.to_dict()
    tower = SpikingLite0(
        trained,
        levels=config.spike_levels,
        steps=config.spike_steps,
        mean=facts.mean,
        std=facts.std,
    )
    return SpikingImageEncoder(tower, facts, config)


class SpikingPictureTower(PictureReader):
    """Spikes of a clip to one vector, by spikes: exposures, image tower, windows in time, mean.

    What the windows tell each other is added to each window's membranes, and begins as nothing.
    """

    binary = False

    def __init__(self, config: SpklipConfig, *, pretrained: bool) -> None:
        super().__init__(config)
        self.encoder = build_spiking_encoder(config, pretrained=pretrained)
        features, width, levels = self.encoder.features, config.temporal_width, config.spike_levels
        self.norm = DampedNorm(features)
        self.fire_vector = self._neuron(features)
        self.enter = SpikeLinear(features, width, levels=levels, two_sided=True)
        self.norm_moments = DampedNorm(self.encoder.moments)
        self.fire_moments = self._neuron(self.encoder.moments)
        self.enter_moments = SpikeLinear(self.encoder.moments, width, levels=levels, two_sided=True)
        self.time_gain_d = nn.Parameter(torch.full((width,), 0.5))
        self.temporal = SpikingTime(config)
        self.fire_time = self._neuron(width)
        self.add = SpikeLinear(width, features, levels=levels, two_sided=True)
        nn.init.zeros_(self.add.weight)
        assert self.add.bias is not None
        nn.init.zeros_(self.add.bias)
        self.drop = nn.Dropout(config.dropout)
        self.fire = self._neuron(features)
        self.leave = SpikeLinear(
            features, config.embed_dim, levels=levels, two_sided=True, bias=False
        )

    def _neuron(self, channels: int) -> SpikeNeuron:
        levels = self.config.spike_levels
        threshold = start_threshold(levels, DEVIATION)
        return SpikeNeuron(channels, levels=levels, two_sided=True, threshold=threshold)

    def _see(
        self, packed_nghw: Tensor, ticks: int, starts: Sequence[int], windows: int
    ) -> tuple[Tensor, Tensor]:
        return self.encoder(*self.exposed(packed_nghw, ticks, starts))  # type: ignore[no-any-return]

    def exposed(
        self, packed_nghw: Tensor, ticks: int, starts: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """What the image tower sees of the windows that begin at ``starts``.

        Pictures are given the tower's size by taking or repeating pixels, so that bits stay bits.

        Returns:
            count_pnchw: spikes of each exposure, or its bits; see ``SpikingImageEncoder``.
            gain_n: what a spike is worth in each picture, as a share of white.
        """
        config, steps = self.config, self.config.spike_steps
        small_nghw = _resample(packed_nghw, self.encoder.size_px)
        length = config.exposure_ticks // steps
        firsts = [start + exposure for start in starts for exposure in config.picture_starts]
        places = [first + step * length for step in range(steps) for first in firsts]
        rate_nkhw = exposures(small_nghw, ticks, places, length)
        count_nkhw = (rate_nkhw * length).round().to(self.time_gain_d.dtype)
        count_pnchw = self._by_step(count_nkhw)
        white_n = white_of(count_pnchw.sum(dim=0) / config.exposure_ticks)
        gain_n = 1 / (white_n * config.exposure_ticks)
        if self.binary:
            planes_nthw = unpack_planes(small_nghw, ticks).to(count_pnchw.dtype)
            bits = [planes_nthw[:, [place + tick for place in places]] for tick in range(length)]
            count_pnchw = torch.stack([self._by_step(bit_nkhw) for bit_nkhw in bits])
        return count_pnchw, gain_n

    def _by_step(self, count_nkhw: Tensor) -> Tensor:
        """Exposures (B S, P V E, h, w) as pictures of three colours, (P, N, 3, h, w)."""
        steps, colours = self.config.spike_steps, len(self.config.picture_starts)
        clips, _, height, width = count_nkhw.shape
        count = count_nkhw.reshape(clips, steps, -1, colours, height, width).transpose(0, 1)
        return count.flatten(1, 2).expand(-1, -1, 3, -1, -1)

    @in_full_precision
    def clip_parts(self, feature_bvc: Tensor, centre_v: Tensor) -> tuple[Tensor, Tensor]:
        """Window vectors to two vectors a clip, (B, C) each, whose sum is what ``leave`` sees.

        Returns:
            own_bc: mean spikes, ON less OFF, of the windows as the image encoder sees them.
            added_bc: spikes more or less for what the windows tell each other.
        """
        own_bvc, total_bvc = self._membranes(feature_bvc, centre_v)
        own_bc, total_bc = (self._fired(part).mean(dim=1) for part in (own_bvc, total_bvc))
        return own_bc, total_bc - own_bc

    def _fired(self, membrane_bvc: Tensor) -> Tensor:
        on, off = self.fire(membrane_bvc.flatten(0, 1)).chunk(2, dim=1)
        difference: Tensor = on - off
        return difference.view(membrane_bvc.shape)

    def _membranes(self, feature_bvc: Tensor, centre_v: Tensor) -> tuple[Tensor, Tensor]:
        """Membranes of each window (B, V, C): its own, and with what the others tell it."""
        clips, windows, _ = feature_bvc.shape
        sizes = [self.encoder.features, self.encoder.moments]
        vector_nc, moment_nm = torch.split(feature_bvc.flatten(0, 1), sizes, dim=1)
        own_nc = self.norm(vector_nc)
        hidden_nd = self.enter(self.fire_vector(own_nc)) + self.enter_moments(
            self.fire_moments(self.norm_moments(moment_nm))
        )
        position_vd = sine_positions(centre_v / self.config.step_ticks, self.enter.out_features)
        hidden_bvd = hidden_nd.view(clips, windows, -1) + self.time_gain_d * position_vd.to(
            hidden_nd.dtype
        )
        told_nc: Any = self.add(self.fire_time(self.temporal(hidden_bvd).flatten(0, 1)))
        shape = (clips, windows, -1)
        return own_nc.view(shape), (own_nc + told_nc).view(shape)

    def leave_weight(self) -> Tensor:
        """Weights (D, C) by which spikes come into the shared space, as they are used."""
        assert isinstance(self.leave, SpikeLinear)
        whole, scale_d = whole_weights(self.leave.weight)
        return whole * scale_d[:, None]

    @in_full_precision
    def read(self, feature_bvc: Tensor, centre_v: Tensor) -> Tensor:
        """Window vectors (B, V, C) to clip vectors (B, embed_dim), not normalised."""
        _, total_bvc = self._membranes(feature_bvc, centre_v)
        # One draw a clip, as behind the mean of an encoder of real numbers.
        kept_b1c = self.drop(torch.ones_like(total_bvc[:, :1]))
        spikes_nc = self.fire((total_bvc * kept_b1c).flatten(0, 1))
        clip_bvd = self.leave(spikes_nc).view(*total_bvc.shape[:2], -1)
        return clip_bvd.mean(dim=1)  # type: ignore[no-any-return]


def _resample(packed_nghw: Tensor, size_px: int) -> Tensor:
    """Planes of the tower's size: each of its pixels takes the nearest one's bits."""
    for axis in (-2, -1):
        side = packed_nghw.shape[axis]
        nearest = ((torch.arange(size_px, device=packed_nghw.device) + 0.5) * side / size_px).long()
        packed_nghw = packed_nghw.index_select(axis, nearest)
    return packed_nghw
