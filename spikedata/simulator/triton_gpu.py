"""The reference's bits on a GPU: one fused Triton kernel, luma frames in, packed ticks out.

A program of the kernel takes a block of neighbouring pixels of one clip through all ticks of a
call with the residue in registers, and stores eight ticks as one byte a pixel. Nothing unpacked is
ever written.

Shapes: B clips, N frames, G groups of eight ticks, H rows, W columns.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.errors import SpikeDataError
from spikedata.simulator.maps import SensorMaps
from spikedata.simulator.sensor import SensorConfig, SensorState
from spikedata.simulator.triton_batch import BatchSensors, BatchState, launching
from spikedata.simulator.triton_kernels import INTERPRETED, advance_kernel, tuned_advance_kernel

__all__ = [
    "BatchSensors",
    "BatchState",
    "advance",
    "advance_batch",
    "compute_device",
    "simulate_on_gpu",
]

INTERPRETED_BLOCK = 256
"""Pixels a program takes under the interpreter, where fewer programs are faster."""

IN_FLIGHT = 3
"""Blocks of a clip that may be on their way to, through and from the device at once."""


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
    with launching(arguments[0].device):
        if INTERPRETED or block:
            block = block or INTERPRETED_BLOCK
            advance_kernel[(-(-pixels // block), clips)](*arguments, **constants, block=block)
        else:
            tuned_advance_kernel()[lambda chosen: (-(-pixels // chosen["block"]), clips)](
                *arguments, **constants
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
            line = _Line(sensor, luma_nhw.shape[1:], clip_id, maps)
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
    """One clip's way through the device.

    What lasts from block to block is made and used in the stream ``run`` alone; what crosses from
    stream to stream is recorded with the one that takes it, so its memory is not reused early.
    """

    def __init__(
        self, sensor: SensorConfig, size_hw: tuple[int, ...], clip_id: str, maps: SensorMaps | None
    ) -> None:
        self.device = compute_device()
        self.sensor = sensor
        self.sensors = BatchSensors((sensor,), self.device)
        if self.device.type == "cuda":
            self.up, self.run, self.down = (_stream(self.device) for _ in range(3))
            with torch.cuda.stream(self.run):
                self.state = self._start(size_hw, clip_id, maps)
        else:
            self.state = self._start(size_hw, clip_id, maps)

    def _start(self, size_hw: tuple[int, ...], clip_id: str, maps: SensorMaps | None) -> BatchState:
        height_px, width_px = size_hw
        if maps is None:
            sensors, ids = [self.sensor], [clip_id]
            return BatchState.initial(sensors, height_px, width_px, ids, self.device)
        start = SensorState.initial(self.sensor, height_px, width_px, clip_id, maps=maps)
        return BatchState.of([start], self.device)

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
