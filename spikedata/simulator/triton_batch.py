"""Batches of clips on a device, as the Triton kernels take them.

Clips of a batch differ in sensor, start and noise; they share size, tick, ticks per frame,
interpolation, reset, and whether there is noise.

Shapes: B clips, H rows, W columns, T ticks, X = 256 luma codes, Q numbers.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikedata.simulator.maps import FULL_SCALE, SHARE
from spikedata.simulator.noise import BELL_SD, NoiseConfig, draw_key, tick_words
from spikedata.simulator.sensor import NoiseAmounts, NoisyPixels, SensorConfig, SensorState
from spikedata.simulator.triton_kernels import start_kernel

START_BLOCK = 256
"""Pixels a program of the start kernel takes."""

_LAUNCHING = threading.Lock()


@dataclass(frozen=True, eq=False)
class BatchPixels:
    """What tells the pixels of noisy sensors apart, int32 (B, H, W) each, on their device."""

    response_bhw: Tensor
    """Charge for light, 16384 = 1."""
    dark_bhw: Tensor
    """Light code gathered without light."""
    threshold_bhw: Tensor
    """Threshold, cu."""
    word_bhw: Tensor
    """Each pixel's part in the draws of every tick; the bits of a uint32."""
    tick_keys: tuple[tuple[int, int], ...]
    """Each clip's key of the ticks' part."""

    @classmethod
    def of(cls, clips: Sequence[NoisyPixels], device: torch.device) -> Self:
        """Pixels of single clips together."""
        return cls(
            response_bhw=_carried([pixels.response_hw for pixels in clips], device),
            dark_bhw=_carried([pixels.dark_hw for pixels in clips], device),
            threshold_bhw=_carried([pixels.threshold_hw for pixels in clips], device),
            word_bhw=_carried([pixels.word_hw.view(np.int32) for pixels in clips], device),
            tick_keys=tuple(pixels.tick_key for pixels in clips),
        )

    def clip(self, index: int) -> NoisyPixels:
        """Pixels of one clip, in the host's memory."""
        return NoisyPixels(
            response_hw=self.response_bhw[index].cpu().numpy(),
            dark_hw=self.dark_bhw[index].cpu().numpy(),
            threshold_hw=self.threshold_bhw[index].cpu().numpy(),
            word_hw=self.word_bhw[index].cpu().numpy().view(np.uint32),
            tick_key=self.tick_keys[index],
        )

    def tick_words_b2t(self, tick: int, ticks: int) -> Tensor:
        """Each tick's part in the draws, int32 (B, 2, T)."""
        words = [tick_words(key, tick, ticks).view(np.int32) for key in self.tick_keys]
        return _carried(words, self.word_bhw.device)


@dataclass(frozen=True, eq=False)
class BatchState:
    """What the sensors of a batch of clips carry from one tick to the next, on their device."""

    residue_bhw: Tensor
    """Charge of each pixel, int32 (B, H, W), cu."""
    tick: int
    """Ticks done so far, the same for all clips."""
    pending_bhw: Tensor
    """Spikes of the unfinished group, uint8 (B, H, W)."""
    pixels: BatchPixels | None = None
    """What tells the pixels apart; only with noise."""

    @classmethod
    def of(cls, states: Sequence[SensorState], device: torch.device) -> Self:
        """The states of single clips together.

        Raises:
            ValueError: no states, or they differ in size or tick, or only some have noise.
        """
        kinds = {(state.residue_hw.shape, state.tick, state.pixels is None) for state in states}
        if len(kinds) != 1:
            raise ValueError(
                f"clips of a batch share size, tick and whether there is noise, got {kinds}"
            )
        noisy = [state.pixels for state in states if state.pixels is not None]
        return cls(
            residue_bhw=_carried([state.residue_hw for state in states], device),
            tick=states[0].tick,
            pending_bhw=_carried([state.pending_hw for state in states], device),
            pixels=BatchPixels.of(noisy, device) if noisy else None,
        )

    @classmethod
    def initial(
        cls,
        sensors: Sequence[SensorConfig],
        height_px: int,
        width_px: int,
        clip_ids: Sequence[str],
        device: torch.device,
    ) -> Self:
        """States before the first tick, drawn on the device: those of ``SensorState.initial``.

        Raises:
            ValueError: not one id a sensor, or only some have noise.
            RecipeError: a file of maps that cannot be read, or of another size.
        """
        pairs = list(zip(sensors, clip_ids, strict=True))
        if any(sensor.noise is not None and sensor.noise.maps for sensor in sensors):
            states = [SensorState.initial(sensor, height_px, width_px, i) for sensor, i in pairs]
            return cls.of(states, device)
        if len({sensor.noise is None for sensor in sensors}) > 1:
            raise ValueError("clips of a batch all have noise or none")
        noisy = sensors[0].noise is not None
        shape_bhw = (len(pairs), height_px, width_px)
        drawn = [torch.empty(shape_bhw, dtype=torch.int32, device=device) for _ in range(5)]
        pixels = height_px * width_px
        with launching(device):
            start_kernel[(-(-pixels // START_BLOCK), len(pairs))](
                _carried([_draws(*pair) for pair in pairs], device),
                *drawn,
                pixels,
                noisy=noisy,
                block=START_BLOCK,
            )
        residue_bhw, response_bhw, dark_bhw, threshold_bhw, word_bhw = drawn
        keys = tuple(draw_key(sensor.seed, clip_id, "tick") for sensor, clip_id in pairs)
        pending_bhw = torch.zeros(shape_bhw, dtype=torch.uint8, device=device)
        there = BatchPixels(response_bhw, dark_bhw, threshold_bhw, word_bhw, keys)
        return cls(residue_bhw, 0, pending_bhw, there if noisy else None)

    def clip(self, index: int) -> SensorState:
        """The state of one clip, in the host's memory."""
        return SensorState(
            self.residue_bhw[index].cpu().numpy(),
            self.tick,
            self.pending_bhw[index].cpu().numpy(),
            None if self.pixels is None else self.pixels.clip(index),
        )


@dataclass(frozen=True, eq=False)
class BatchSensors:
    """The sensors of a batch of clips as the kernel takes them.

    Raises:
        ValueError: none, or they differ in what a batch shares.
    """

    sensors: tuple[SensorConfig, ...]
    """One for each clip."""
    device: torch.device

    def __post_init__(self) -> None:
        if not self.sensors:
            raise ValueError("a batch needs at least one clip")
        for name in ("ticks_per_frame", "interpolation", "reset"):
            values = {getattr(sensor, name) for sensor in self.sensors}
            if len(values) > 1:
                raise ValueError(f"clips of a batch share one {name}, got {sorted(values)}")

    @functools.cached_property
    def numbers_bq(self) -> Tensor:
        """What the kernel needs of each sensor, int32 (B, 8)."""
        return _carried([_numbers(sensor) for sensor in self.sensors], self.device)

    @functools.cached_property
    def light_bx(self) -> Tensor:
        """Light code of each luma code, int32 (B, 256)."""
        return _carried([sensor.light_table() for sensor in self.sensors], self.device)


def _numbers(sensor: SensorConfig) -> NDArray[np.int32]:
    amounts = NoiseAmounts.of(sensor)
    part = sensor.light_charge_cu // (2 * sensor.ticks_per_frame)
    numbers = (sensor.threshold_cu, part, amounts.shot, amounts.jitter, amounts.dead,
               amounts.dead_shift, 0, 0)  # fmt: skip
    return np.array(numbers, np.int32)


def _draws(sensor: SensorConfig, clip_id: str) -> NDArray[np.int64]:
    """What the start kernel needs of each clip, int64 (66,).

    Threshold, 1 for a random start, the keys of start, pixel and defect, limits of hot and dead
    pixels, dark charge of hot ones, nothing; then step, mean and keys of response, dark charge
    and threshold.
    """
    noise = sensor.noise or NoiseConfig()
    dark = noise.dark_charge * FULL_SCALE
    keys = (
        draw_key(sensor.seed, clip_id, "start"),
        draw_key(sensor.seed, clip_id, "pixel"),
        draw_key(sensor.seed, "", "defect"),
    )
    hot = round(noise.hot_share * (1 << 24))
    dead = (1 << 24) - round(noise.dead_share * (1 << 24))
    return np.array(
        [
            *(sensor.threshold_cu, sensor.start == "random", *keys[0], *keys[1], *keys[2]),
            *(hot, dead, round(noise.hot_charge * FULL_SCALE), 0),
            *_bell(sensor.seed, "response", SHARE, noise.response_spread * SHARE),
            *_bell(sensor.seed, "dark", dark, noise.dark_spread * dark),
            *_bell(sensor.seed, "threshold", SHARE, noise.threshold_spread * SHARE),
        ],
        np.int64,
    )


def _bell(seed: int, term: str, mean: float, sd: float) -> list[int]:
    """Step and mean of :func:`~spikedata.simulator.noise.spread`, 32 bits of fraction, and keys."""
    fixed = round(mean * 2**32) + 2**31 if sd else round(mean) << 32
    keys = [word for i in range(8) for word in draw_key(seed, "", f"{term} {i}")]
    return [round(sd / BELL_SD * 2**32), fixed, *keys]


@contextlib.contextmanager
def launching(device: torch.device) -> Iterator[None]:
    """Launch kernels inside: on this device, one thread at a time.

    Triton launches on the current device, tries sizes of blocks where no other work should
    disturb it, and in its interpreter patches its own language while a kernel runs.
    """
    with _LAUNCHING, torch.cuda.device(device if device.type == "cuda" else -1):
        yield


def _carried(arrays: Sequence[NDArray[Any]], device: torch.device) -> Tensor:
    """Arrays of one shape as one tensor on the device; CUDA work under way is not waited for."""
    here = torch.from_numpy(np.stack(arrays))
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here
