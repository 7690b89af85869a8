"""The reference's bits on a GPU: one fused Triton kernel, luma frames in, packed ticks out.

A program of the kernel takes a block of neighbouring pixels of one clip through all ticks of a
call with the residue in registers, and stores eight ticks as one byte a pixel. Nothing unpacked is
ever written. Clips of a batch differ in sensor, start and noise; they share size, tick,
ticks per frame, interpolation and reset.

Under Triton's interpreter (``TRITON_INTERPRET=1`` before this module is loaded) the same kernel
runs on CPU tensors, slowly.

Shapes: B clips, N frames, G groups of eight ticks, H rows, W columns, P = H * W pixels.
"""

import functools
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikedata.errors import MissingExtraError, SpikeDataError
from spikedata.simulator.maps import SensorMaps
from spikedata.simulator.noise import tick_words
from spikedata.simulator.sensor import NoiseAmounts, NoisyPixels, SensorConfig, SensorState
from spikedata.stream import TICKS_PER_GROUP, group_count

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise MissingExtraError(
        "the GPU simulator needs triton (Linux): pip install 'spikedata[gpu]'"
    ) from error

BLOCKS = (256, 512, 1024)
"""Pixels a program may take; the fastest is found when a size of picture is met first."""

IN_FLIGHT = 3
"""Blocks of a clip that may be on their way to, through and from the device at once."""

_TUNING = threading.Lock()


@triton.jit  # type: ignore[untyped-decorator]
def _light(luma_p, table_x, inside, response, dark, noisy: tl.constexpr):  # type: ignore[no-untyped-def]
    """Light codes of a block of pixels as each gathers them."""
    light = tl.load(table_x + tl.load(luma_p, mask=inside, other=0).to(tl.int32))
    if noisy:
        light = ((light * response + (1 << 13)) >> 14) + dark
    return light


@triton.jit(do_not_specialize=["frames", "groups", "tick", "ticks", "period"])  # type: ignore[untyped-decorator]
def _advance_kernel(  # type: ignore[no-untyped-def]
    luma_bnp, table_bx, residue_bp, pending_bp, numbers_bq,
    response_bp, dark_bp, threshold_bp, pixel_words_bp, tick_words_b2t,
    packed_bgp, residue_after_bp, pending_after_bp,
    pixels, frames, groups, tick, ticks, period,
    linear: tl.constexpr, zero: tl.constexpr, noisy: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Take a block of pixels of one clip from ``tick`` on through ``ticks`` ticks.

    The five noise arrays are not looked at unless ``noisy``.
    """
    clip = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    inside = pixel < pixels
    at = clip * pixels + pixel
    numbers = numbers_bq + clip * 8
    threshold = tl.load(numbers)
    part = tl.load(numbers + 1)
    shot = tl.load(numbers + 2)
    jitter = tl.load(numbers + 3)
    dead = tl.load(numbers + 4)
    dead_shift = tl.load(numbers + 5)
    response = threshold
    dark = threshold
    if noisy:
        threshold = tl.load(threshold_bp + at, mask=inside, other=1)
        response = tl.load(response_bp + at, mask=inside, other=0)
        dark = tl.load(dark_bp + at, mask=inside, other=0)
        pixel_word = tl.load(pixel_words_bp + at, mask=inside, other=0).to(tl.uint32, bitcast=True)
        tick_words = tick_words_b2t + clip * 2 * ticks
    table = table_bx + clip * 256
    luma = luma_bnp + clip * frames * pixels + pixel
    packed = packed_bgp + clip * groups * pixels + pixel
    residue = tl.load(residue_bp + at, mask=inside, other=0)
    byte = tl.load(pending_bp + at, mask=inside, other=0).to(tl.int32)
    left = frames
    k = tick % period
    following = _light(luma, table, inside, response, dark, noisy)
    light = following
    step = following
    charge = following
    sigma = following
    loss = following
    fresh = True
    for now in range(tick, tick + ticks):
        if fresh:
            light = following
            left -= 1
            if left > 0:
                luma += pixels
                following = _light(luma, table, inside, response, dark, noisy)
            if linear:
                step = (following - light) * (2 * part)
                charge = light * ((2 * period - 2 * k - 1) * part) + following * (
                    (2 * k + 1) * part
                )
            else:
                charge = light * (2 * period * part)
            if noisy:
                total = light + (following if linear else light)
                # The nearest float, so that its floor is the whole root; tl.sqrt is less exact.
                sigma = (tl.sqrt_rn((total * 32).to(tl.float32)).to(tl.int32) * shot) >> 15
                loss = (total * dead) >> dead_shift
        if noisy:
            flip = tl.load(tick_words + (now - tick)).to(tl.uint32, bitcast=True)
            factor = tl.load(tick_words + (now - tick) + ticks).to(tl.uint32, bitcast=True)
            word = (pixel_word ^ flip) * factor
            word = word ^ (word >> 16)
            sums = ((word & 0x00FF00FF) + ((word >> 8) & 0x00FF00FF)).to(tl.int32, bitcast=True)
            first = sums & 0xFFFF
            second = sums >> 16
            residue += tl.maximum(charge + sigma * (first + second - 510), 0)
            level = residue + jitter * (first - second)
            spent = threshold + loss
        else:
            residue += charge
            level = residue
            spent = threshold
        fired = level >= threshold
        rest = threshold - spent if zero else tl.minimum(level - spent, threshold - 1)
        residue = tl.where(fired, rest, residue)
        byte |= fired.to(tl.int32) << (now & 7)
        if linear:
            charge += step
        if (now & 7) == 7:
            tl.store(packed, byte.to(tl.uint8), mask=inside)
            packed += pixels
            byte = tl.full((block,), 0, tl.int32)
        k += 1
        fresh = k == period
        if fresh:
            k = 0
    if ((tick + ticks) & 7) != 0:
        tl.store(packed, byte.to(tl.uint8), mask=inside)
    tl.store(pending_after_bp + at, byte.to(tl.uint8), mask=inside)
    tl.store(residue_after_bp + at, residue, mask=inside)


INTERPRETED = not isinstance(_advance_kernel, triton.JITFunction)
"""The kernel was defined under Triton's interpreter, so it runs on CPU tensors."""


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
    clips: tuple[NoisyPixels, ...]
    """The same, clip by clip, in the host's memory."""

    @classmethod
    def of(cls, clips: Sequence[NoisyPixels], device: torch.device) -> Self:
        """Pixels of single clips together."""
        return cls(
            response_bhw=_carried([pixels.response_hw for pixels in clips], device),
            dark_bhw=_carried([pixels.dark_hw for pixels in clips], device),
            threshold_bhw=_carried([pixels.threshold_hw for pixels in clips], device),
            word_bhw=_carried([pixels.word_hw.view(np.int32) for pixels in clips], device),
            clips=tuple(clips),
        )

    def tick_words_b2t(self, tick: int, ticks: int) -> Tensor:
        """Each tick's part in the draws, int32 (B, 2, T)."""
        words = [tick_words(pixels.tick_key, tick, ticks).view(np.int32) for pixels in self.clips]
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

    def clip(self, index: int) -> SensorState:
        """The state of one clip, in the host's memory."""
        return SensorState(
            self.residue_bhw[index].cpu().numpy(),
            self.tick,
            self.pending_bhw[index].cpu().numpy(),
            None if self.pixels is None else self.pixels.clips[index],
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


def _carried(arrays: Sequence[NDArray[Any]], device: torch.device) -> Tensor:
    """Arrays of one shape as one tensor on the device; CUDA work under way is not waited for."""
    here = torch.from_numpy(np.stack(arrays))
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here


def compute_device() -> torch.device:
    """Where the kernel runs.

    Raises:
        SpikeDataError: there is no CUDA device.
    """
    if INTERPRETED:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SpikeDataError(
            "the triton backend needs a CUDA device and torch sees none; use --device cpu"
        )
    return torch.device("cuda", torch.cuda.current_device())


def advance_batch(
    luma_bnhw: Tensor, state: BatchState, sensors: BatchSensors, ticks: int, *, block: int = 0
) -> tuple[Tensor, BatchState]:
    """Simulate the next ``ticks`` ticks of a batch of clips on their device.

    Args:
        luma_bnhw: uint8 (B, N, H, W), frames from the one that ``state.tick`` lies in. Past the
            last frame its light holds.
        state: from :meth:`BatchState.of` or the call before; it is left as it was.
        sensors: the same for every call.
        ticks: how many ticks to go.
        block: pixels a program takes, a power of two; 0 chooses.

    Returns:
        packed_bghw: uint8 (B, G, H, W), the groups from the unfinished one on, the last maybe
            partial.
        state: give it to the next call.

    Raises:
        ValueError: shapes, dtypes or devices that do not agree.
    """
    _check_batch(luma_bnhw, state, sensors)
    clips, frames, height_px, width_px = luma_bnhw.shape
    groups = group_count(state.tick % TICKS_PER_GROUP + ticks)
    packed_bghw = luma_bnhw.new_empty((clips, groups, height_px, width_px))
    after = BatchState(
        torch.empty_like(state.residue_bhw),
        state.tick + ticks,
        torch.empty_like(state.pending_bhw),
        state.pixels,
    )
    pixels = height_px * width_px
    sensor = sensors.sensors[0]
    _launch(
        clips, pixels, block,
        luma_bnhw.contiguous(), sensors.light_bx, state.residue_bhw, state.pending_bhw,
        sensors.numbers_bq, *_noise_arrays(state, ticks),
        packed_bghw, after.residue_bhw, after.pending_bhw,
        pixels, frames, groups, state.tick, ticks, sensor.ticks_per_frame,
        linear=sensor.interpolation == "linear",
        zero=sensor.reset == "zero",
        noisy=state.pixels is not None,
    )  # fmt: skip
    return packed_bghw, after


def _noise_arrays(state: BatchState, ticks: int) -> tuple[Tensor, ...]:
    pixels = state.pixels
    if pixels is None:
        return (state.residue_bhw,) * 5  # not looked at
    return (
        pixels.response_bhw,
        pixels.dark_bhw,
        pixels.threshold_bhw,
        pixels.word_bhw,
        pixels.tick_words_b2t(state.tick, ticks),
    )


def _check_batch(luma_bnhw: Tensor, state: BatchState, sensors: BatchSensors) -> None:
    if luma_bnhw.dtype != torch.uint8 or luma_bnhw.ndim != 4 or 0 in luma_bnhw.shape:
        raise ValueError(
            f"luma_bnhw must be uint8 (B, N, H, W), got {luma_bnhw.dtype} {tuple(luma_bnhw.shape)}"
        )
    clips, _, height_px, width_px = luma_bnhw.shape
    if state.residue_bhw.shape != (clips, height_px, width_px) or len(sensors.sensors) != clips:
        raise ValueError(
            f"luma of shape {tuple(luma_bnhw.shape)} with a state of "
            f"{tuple(state.residue_bhw.shape)} and {len(sensors.sensors)} sensors"
        )
    if any((sensor.noise is None) != (state.pixels is None) for sensor in sensors.sensors):
        raise ValueError("the state was made for sensors with other noise")
    devices = {luma_bnhw.device, state.residue_bhw.device, sensors.device}
    if len(devices) > 1:
        raise ValueError(f"luma, state and sensors are on different devices: {devices}")


def _launch(clips: int, pixels: int, block: int, *arguments: Any, **constants: Any) -> None:
    """Run the kernel on all blocks of pixels of all clips."""
    if INTERPRETED or block:
        block = block or BLOCKS[0]
        grid = (triton.cdiv(pixels, block), clips)
        _advance_kernel[grid](*arguments, **constants, block=block)
        return
    with _TUNING, torch.cuda.device(arguments[0].device):
        _tuned_kernel()[lambda chosen: (triton.cdiv(pixels, chosen["block"]), clips)](
            *arguments, **constants
        )


@functools.cache
def _tuned_kernel() -> Any:
    """The kernel, which tries every size of block the first time it meets a kind of call."""
    sizes = [triton.Config({"block": block}) for block in BLOCKS]
    return triton.autotune(configs=sizes, key=["pixels", "linear", "zero", "noisy"])(
        _advance_kernel
    )


def advance(
    luma_nhw: NDArray[np.uint8], state: SensorState, sensor: SensorConfig, ticks: int
) -> tuple[NDArray[np.uint8], SensorState]:
    """Simulate the next ``ticks`` ticks; arguments and results as in the reference's ``advance``.

    Raises:
        SpikeDataError: there is no CUDA device.
    """
    device = compute_device()
    if ticks == 0:
        return state.pending_hw[None][: group_count(state.pending_ticks)].copy(), state
    packed_bghw, after = advance_batch(
        torch.from_numpy(np.array(luma_nhw, order="C")).to(device)[None],
        BatchState.of([state], device),
        BatchSensors((sensor,), device),
        ticks,
    )
    return packed_bghw[0].cpu().numpy(), after.clip(0)


def simulate_on_gpu(
    luma_blocks: Iterable[NDArray[np.uint8]],
    sensor: SensorConfig,
    *,
    clip_id: str,
    block_ticks: int = 256,
    maps: SensorMaps | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Simulate a whole clip, streaming; the results are those of ``simulate``.

    Copies to the device, kernels and copies back run in three CUDA streams at once, on blocks
    that follow one another; at most ``IN_FLIGHT`` blocks are on their way.

    Args:
        luma_blocks: uint8 (n, H, W) each, any n, all of one size: the clip's frames in order.
        sensor: the camera.
        clip_id: with ``sensor.seed`` chooses the random start and the noise of each tick.
        block_ticks: no block that is given has more ticks; it bounds the memory.
        maps: how the camera's pixels differ, in place of what ``sensor.noise`` says.

    Yields:
        packed_ghw: uint8 (G, H, W), never empty; whole groups except at the clip's end.

    Raises:
        SpikeDataError: there is no CUDA device.
        ValueError: wrong shape or dtype, or frames of different sizes.
    """
    if block_ticks < TICKS_PER_GROUP:
        raise ValueError(f"block_ticks must be at least {TICKS_PER_GROUP}, got {block_ticks}")
    line: _Line | None = None
    flights: deque[_Flight] = deque()
    for luma_nhw, intervals in _with_last_frame(luma_blocks, sensor):
        if line is None:
            _, height_px, width_px = luma_nhw.shape
            start = SensorState.initial(sensor, height_px, width_px, clip_id, maps=maps)
            line = _Line(start, sensor, compute_device())
        for flight in line.send(luma_nhw, intervals, block_ticks):
            flights.append(flight)
            if len(flights) > IN_FLIGHT:
                yield from flights.popleft().land()
    for flight in flights:
        yield from flight.land()
    if line is not None and line.state.tick % TICKS_PER_GROUP:
        yield line.pending_1hw()


def _with_last_frame(
    luma_blocks: Iterable[NDArray[np.uint8]], sensor: SensorConfig
) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Frames and the number of intervals they complete; ``linear`` repeats the frame before."""
    linear = sensor.interpolation == "linear"
    last_1hw: NDArray[np.uint8] | None = None
    for luma_nhw in luma_blocks:
        if luma_nhw.dtype != np.uint8 or luma_nhw.ndim != 3:
            raise ValueError(f"luma must be uint8 (n, H, W), got {luma_nhw.dtype} {luma_nhw.shape}")
        if last_1hw is not None and luma_nhw.shape[1:] != last_1hw.shape[1:]:
            raise ValueError(
                f"frames of {luma_nhw.shape[1:]} after frames of {last_1hw.shape[1:]} (H, W)"
            )
        if not len(luma_nhw):
            continue
        if linear and last_1hw is not None:
            yield np.concatenate([last_1hw, luma_nhw]), len(luma_nhw)
        else:
            yield luma_nhw, len(luma_nhw) - linear
        last_1hw = luma_nhw[-1:].copy()
    if linear and last_1hw is not None:
        yield last_1hw, 1


@dataclass(frozen=True, eq=False)
class _Flight:
    """Groups on their way back to the host."""

    packed_ghw: Tensor
    """In the host's memory; not to be read before ``landed``."""
    whole: int
    """Groups of these that are complete."""
    landed: torch.cuda.Event | None

    def land(self) -> Iterator[NDArray[np.uint8]]:
        """Wait, then give the complete groups, if there are any."""
        if self.landed is not None:
            self.landed.synchronize()
        if self.whole:
            yield self.packed_ghw[: self.whole].numpy()


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class _Line:
    """One clip's way through the device."""

    def __init__(self, start: SensorState, sensor: SensorConfig, device: torch.device) -> None:
        self.device = device
        self.sensor = sensor
        self.sensors = BatchSensors((sensor,), device)
        self.state = BatchState.of([start], device)
        if device.type == "cuda":
            self.up, self.run, self.down = (_stream(device) for _ in range(3))
            self.run.wait_stream(torch.cuda.current_stream(device))

    def send(
        self, luma_nhw: NDArray[np.uint8], intervals: int, block_ticks: int
    ) -> Iterator[_Flight]:
        """Simulate ``intervals`` intervals, at most ``block_ticks`` ticks at a time."""
        if not intervals:
            return
        period = self.sensor.ticks_per_frame
        first = self.state.tick // period
        end = self.state.tick + intervals * period
        luma_nhw_there = self._carry(luma_nhw)
        while self.state.tick < end:
            pending = self.state.tick % TICKS_PER_GROUP
            ticks = min(end - self.state.tick, block_ticks - pending)
            frames = luma_nhw_there[self.state.tick // period - first :]
            yield self._advance(frames, ticks, (pending + ticks) // TICKS_PER_GROUP)

    def _carry(self, luma_nhw: NDArray[np.uint8]) -> Tensor:
        cuda = self.device.type == "cuda"
        here_nhw = torch.empty(luma_nhw.shape, dtype=torch.uint8, pin_memory=cuda)
        here_nhw.numpy()[...] = luma_nhw
        if not cuda:
            return here_nhw
        with torch.cuda.stream(self.up):
            there_nhw = here_nhw.to(self.device, non_blocking=True)
        self.run.wait_stream(self.up)
        there_nhw.record_stream(self.run)
        return there_nhw

    def _advance(self, luma_nhw: Tensor, ticks: int, whole: int) -> _Flight:
        if self.device.type != "cuda":
            packed_bghw, self.state = advance_batch(luma_nhw[None], self.state, self.sensors, ticks)
            return _Flight(packed_bghw[0], whole, None)
        with torch.cuda.stream(self.run):
            packed_bghw, self.state = advance_batch(luma_nhw[None], self.state, self.sensors, ticks)
        self.down.wait_stream(self.run)
        packed_bghw.record_stream(self.down)
        with torch.cuda.stream(self.down):
            here_ghw = torch.empty(packed_bghw.shape[1:], dtype=torch.uint8, pin_memory=True)
            here_ghw.copy_(packed_bghw[0], non_blocking=True)
        return _Flight(here_ghw, whole, self.down.record_event())

    def pending_1hw(self) -> NDArray[np.uint8]:
        """Spikes of the unfinished group."""
        if self.device.type == "cuda":
            self.run.synchronize()
        return self.state.pending_bhw.cpu().numpy()
