"""A spike camera as a layer: video in, spikes out, inside a training step and on its device.

The bits are the simulator's own; what differs is that clips come in batches, that each sample may
be another camera (:class:`CameraVariation`), and that planes carry a gradient to the light.

Shapes: B clips, N frames, T = N * ticks per frame, G groups of eight ticks, H rows, W columns.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from spikedata.bits import unpack_planes
from spikedata.simulator.dispatch import simulate
from spikedata.simulator.noise import NoiseConfig, draw_key
from spikedata.simulator.sensor import SensorConfig

Output = Literal["packed", "planes"]

_VARIED = ("threshold", "noise")
_SCALED = (
    "response_spread",
    "dark_charge",
    "threshold_spread",
    "threshold_jitter",
    "dead_time",
    "hot_share",
    "dead_share",
)
"""Terms of the noise that are proportional to its strength; ``dark_spread`` is a share of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraVariation:
    """How the cameras of training samples differ; each value is drawn evenly from its range.

    Raises:
        ValueError: a range is empty or reaches where no camera is.
    """

    threshold: tuple[float, float] | None = None
    """Ticks a full-scale pixel needs for a spike; None keeps the sensor's own."""
    noise: tuple[float, float] | None = None
    """Factor on all terms of the sensor's noise, 0 none, 1 the sensor's own; None keeps that."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold[0] <= self.threshold[1] < math.inf:
            raise ValueError(f"threshold must be a range above 0, got {self.threshold}")
        if self.noise is not None and not 0 <= self.noise[0] <= self.noise[1] < math.inf:
            raise ValueError(f"noise must be a range from 0 up, got {self.noise}")


class SpikeCamera(nn.Module):
    """Simulates a batch of clips on the device they are on: numba on a CPU, Triton on CUDA.

    In training mode with a ``variation`` every sample is a camera of its own, drawn from the
    sensor's seed and the sample's id alone; in evaluation mode all are ``sensor`` itself.

    Planes of floating-point light carry a straight-through gradient: a spike is differentiated as
    if it were the share of a threshold that its own tick gathers, so the sum of spikes over a
    window has the derivative (light gathered) / threshold. Where a tick brings a whole threshold
    the pixel fires in every tick and the derivative is 0. Noise has no part in it. See
    :func:`expected_spikes`.

    Args:
        sensor: the camera.
        variation: how the cameras of training samples differ from it.
        output: ``packed`` gives eight ticks a byte, without gradient; ``planes`` 0 and 1.

    Raises:
        ValueError: ``output`` is neither, the variation reaches where the sensor cannot be, or it
            varies noise that the sensor has not.
    """

    def __init__(
        self,
        sensor: SensorConfig | None = None,
        *,
        variation: CameraVariation | None = None,
        output: Output = "packed",
    ) -> None:
        super().__init__()
        if output not in ("packed", "planes"):
            raise ValueError(f"output must be 'packed' or 'planes', got {output!r}")
        self.sensor = sensor or SensorConfig()
        self.variation = variation or CameraVariation()
        self._try_extremes()
        self.output = output
        self._samples = 0

    def extra_repr(self) -> str:
        """What distinguishes this camera, for ``print``."""
        return f"{self.sensor}, variation={self.variation}, output={self.output!r}"

    def ticks(self, frames: int) -> int:
        """Ticks that so many frames give."""
        return frames * self.sensor.ticks_per_frame

    def sensor_of(self, sample_id: str) -> SensorConfig:
        """The camera of one training sample."""
        if self.variation == CameraVariation():
            return self.sensor
        seed = self.sensor.seed
        low, high = draw_key(seed, sample_id, "camera")
        threshold, noise = (draw_key(seed, sample_id, name)[0] / 2**32 for name in _VARIED)
        return replace(self._sensor_at(threshold, noise), seed=low | high << 32)

    def _sensor_at(self, threshold: float, noise: float) -> SensorConfig:
        """The sensor so far, 0 to 1, into the ranges of the variation."""
        sensor = self.sensor
        if self.variation.threshold is not None:
            sensor = replace(sensor, threshold=_between(self.variation.threshold, threshold))
        if self.variation.noise is not None and sensor.noise is not None:
            factor = _between(self.variation.noise, noise)
            sensor = replace(sensor, noise=_scaled(sensor.noise, factor))
        return sensor

    def _try_extremes(self) -> None:
        if self.variation.noise is not None and self.sensor.noise is None:
            raise ValueError("the variation has noise but the sensor has none to vary")
        for threshold in (0.0, 1.0):
            for noise in (0.0, 1.0):
                self._sensor_at(threshold, noise)

    def forward(self, luma_bnhw: Tensor, sample_ids: Sequence[str] | None = None) -> Tensor:
        """Simulate; the light of the last frame is held for its own ticks.

        Args:
            luma_bnhw: (B, N, H, W), full-range luma: uint8, or floating-point from 0 to 1,
                which is cut to that range and rounded to 256 steps.
            sample_ids: with the seed these choose every draw: one id gives the same spikes in
                any batch. Without them samples are numbered on and on in training mode,
                and from 0 in each call in evaluation mode.

        Returns:
            ``packed``: uint8 (B, G, H, W). ``planes``: (B, T, H, W), 0 and 1 in the type of
            ``luma_bnhw``. On the device of ``luma_bnhw``.

        Raises:
            ValueError: another shape or type, or not one id a sample.
            SpikeDataError: on CUDA, Triton is missing.
        """
        _check(luma_bnhw, sample_ids)
        ids = self._ids(len(luma_bnhw)) if sample_ids is None else sample_ids
        sensors = [self.sensor_of(i) if self.training else self.sensor for i in ids]
        codes_bnhw = luma_bnhw.detach()
        if codes_bnhw.is_floating_point():
            codes_bnhw = codes_bnhw.float().clamp(0, 1).mul(255).round().to(torch.uint8)
        packed_bghw = simulate_batch(codes_bnhw, sensors, ids)
        if self.output == "packed":
            return packed_bghw
        planes_bthw = unpack_planes(packed_bghw, self.ticks(luma_bnhw.shape[1])).to(luma_bnhw.dtype)
        if not (luma_bnhw.requires_grad and torch.is_grad_enabled()):
            return planes_bthw
        rate_bthw = expected_spikes(luma_bnhw, sensors).to(luma_bnhw.dtype)
        return planes_bthw + (rate_bthw - rate_bthw.detach())

    def _ids(self, samples: int) -> list[str]:
        first = self._samples if self.training else 0
        self._samples += samples if self.training else 0
        return [f"sample {first + i}" for i in range(samples)]


def simulate_batch(
    luma_bnhw: Tensor, sensors: Sequence[SensorConfig], clip_ids: Sequence[str]
) -> Tensor:
    """Simulate whole clips, uint8 (B, N, H, W) to packed (B, G, H, W), on the tensor's device."""
    if luma_bnhw.is_cuda:
        return _with_triton(luma_bnhw, sensors, clip_ids)
    clips = [
        np.concatenate(
            list(simulate([luma_nhw], sensor, clip_id=i, threads=torch.get_num_threads()))
        )
        for luma_nhw, sensor, i in zip(luma_bnhw.cpu().numpy(), sensors, clip_ids, strict=True)
    ]
    return torch.from_numpy(np.stack(clips)).to(luma_bnhw.device)


def _with_triton(
    luma_bnhw: Tensor, sensors: Sequence[SensorConfig], clip_ids: Sequence[str]
) -> Tensor:
    from spikedata.simulator import triton_gpu  # noqa: PLC0415  # loads triton

    _, frames, height_px, width_px = luma_bnhw.shape
    packed_bghw: Tensor = triton_gpu.advance_batch(
        luma_bnhw,
        triton_gpu.BatchState.initial(sensors, height_px, width_px, clip_ids, luma_bnhw.device),
        triton_gpu.BatchSensors(tuple(sensors), luma_bnhw.device),
        frames * sensors[0].ticks_per_frame,
    )[0]
    return packed_bghw


def expected_spikes(luma_bnhw: Tensor, sensors: Sequence[SensorConfig]) -> Tensor:
    """Spikes a tick that the light gives on average, differentiable: the surrogate of the planes.

    With ``subtract`` light / threshold, at most 1. With ``zero`` a spike's surplus is lost,
    half a tick's light on average: light / (threshold + light / 2). Between two luma codes the
    transfer table is a straight line.

    Args:
        luma_bnhw: floating-point (B, N, H, W), 0 to 1.
        sensors: one a clip; they share ticks per frame, interpolation and reset.

    Returns:
        rate_bthw: float32 (B, T, H, W), 0 to 1.
    """
    light_bnhw = torch.stack(
        [_light(luma_nhw, sensor) for luma_nhw, sensor in zip(luma_bnhw, sensors, strict=True)]
    )
    share_tn = _shares(luma_bnhw.shape[1], sensors[0]).to(light_bnhw.device)
    light_bthw = torch.einsum("tn,bnhw->bthw", share_tn, light_bnhw)
    threshold_b111 = light_bthw.new_tensor([sensor.threshold for sensor in sensors]).view(
        -1, 1, 1, 1
    )
    if sensors[0].reset == "subtract":
        return (light_bthw / threshold_b111).clamp(max=1)
    rate_bthw = light_bthw / (threshold_b111 + light_bthw / 2)
    return torch.where(light_bthw < threshold_b111, rate_bthw, 1.0)


def _light(luma_nhw: Tensor, sensor: SensorConfig) -> Tensor:
    """Light of full scale 1 from luma of full scale 1, float32."""
    if sensor.transfer == "identity":
        return luma_nhw.float().clamp(0, 1)
    table_x = torch.from_numpy(sensor.light_table()).to(luma_nhw.device) / 65535
    codes_nhw = luma_nhw.float().clamp(0, 1) * 255
    below_nhw = codes_nhw.detach().floor().clamp(max=254).long()
    low_nhw, high_nhw = table_x[below_nhw], table_x[below_nhw + 1]
    return low_nhw + (high_nhw - low_nhw) * (codes_nhw - below_nhw)


def _shares(frames: int, sensor: SensorConfig) -> Tensor:
    """Share of each frame in each tick's light, float32 (T, N); rows add up to 1."""
    period = sensor.ticks_per_frame
    tick_t = torch.arange(frames * period)
    frame_t, k_t = tick_t // period, tick_t % period
    share_tn = torch.zeros(frames * period, frames)
    if sensor.interpolation == "hold":
        share_tn[tick_t, frame_t] = 1
        return share_tn
    later_t = (2 * k_t + 1) / (2 * period)
    share_tn[tick_t, frame_t] = 1 - later_t
    share_tn[tick_t, (frame_t + 1).clamp(max=frames - 1)] += later_t
    return share_tn


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def _scaled(noise: NoiseConfig, factor: float) -> NoiseConfig:
    """All terms times ``factor``; of shot noise that is quanta / factor**2."""
    quanta = noise.shot_quanta
    return replace(
        noise,
        **{name: getattr(noise, name) * factor for name in _SCALED},
        shot_quanta=None if quanta is None or factor == 0 else quanta / factor**2,
    )


def _check(luma_bnhw: Tensor, sample_ids: Sequence[str] | None) -> None:
    good_type = luma_bnhw.dtype == torch.uint8 or luma_bnhw.is_floating_point()
    if not good_type or luma_bnhw.ndim != 4 or 0 in luma_bnhw.shape:
        raise ValueError(
            "luma_bnhw must be uint8 or floating-point (B, N, H, W), got "
            f"{luma_bnhw.dtype} {tuple(luma_bnhw.shape)}"
        )
    if sample_ids is not None and len(sample_ids) != len(luma_bnhw):
        raise ValueError(f"{len(sample_ids)} sample_ids for {len(luma_bnhw)} samples")
