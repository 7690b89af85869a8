"""Light to spikes: :func:`simulate` for a whole clip, :func:`simulate_ticks` for any piece of one.

Shapes: N frames, T ticks, G groups of eight ticks, H rows, W columns.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import TICKS_PER_GROUP
from spikedata.errors import MissingExtraError
from spikedata.simulator.maps import SensorMaps
from spikedata.simulator.sensor import SensorConfig, SensorState

Backend = Literal["auto", "reference", "numba", "triton"]
Device = Literal["cpu", "cuda"]
Advanced = tuple[NDArray[np.uint8], SensorState]


def _reference(
    luma_nhw: NDArray[np.uint8], state: SensorState, sensor: SensorConfig, ticks: int, threads: int
) -> Advanced:
    from spikedata.simulator import reference  # noqa: PLC0415  # loads torch

    return reference.advance(luma_nhw, state, sensor, ticks)


def _numba(
    luma_nhw: NDArray[np.uint8], state: SensorState, sensor: SensorConfig, ticks: int, threads: int
) -> Advanced:
    from spikedata.simulator import numba_cpu  # noqa: PLC0415  # loads numba

    return numba_cpu.advance(luma_nhw, state, sensor, ticks, threads)


def _triton(
    luma_nhw: NDArray[np.uint8], state: SensorState, sensor: SensorConfig, ticks: int, threads: int
) -> Advanced:
    from spikedata.simulator import triton_gpu  # noqa: PLC0415  # loads torch and triton

    return triton_gpu.advance(luma_nhw, state, sensor, ticks)


BACKENDS: dict[str, Callable[..., Advanced]] = {
    "reference": _reference,
    "numba": _numba,
    "triton": _triton,
}
"""Ways to the same bits; ``auto`` is numba. ``triton`` needs a CUDA device."""


def simulate_ticks(
    luma_nhw: NDArray[np.uint8],
    state: SensorState,
    sensor: SensorConfig,
    ticks: int,
    *,
    backend: Backend = "auto",
    threads: int = 1,
    flush: bool = False,
) -> Advanced:
    """Simulate the next ``ticks`` ticks of a clip.

    Cutting a clip into pieces anywhere, even inside a frame interval or a group, changes no bit.

    Args:
        luma_nhw: uint8 (N, H, W), full-range luma; the first is the frame of the interval that
            ``state.tick`` lies in. ``linear`` needs one frame more than the intervals touched.
            Frames past those needed are not looked at.
        state: from :meth:`SensorState.initial` or the call before.
        sensor: the same for the whole clip.
        ticks: how many, from 0 up.
        backend: which of :data:`BACKENDS`; the bits are the same.
        threads: how many share the pixels; the bits are the same.
        flush: also give the last group when it is unfinished. The state is the same either way:
            going on after a flush gives that group again, complete.

    Returns:
        packed_ghw: uint8 (G, H, W), contiguous; it begins with the group that ``state.tick`` lies
            in. Without ``flush`` only groups that are complete.
        state: give it to the next call.

    Raises:
        ValueError: wrong shape, dtype or range, too few frames, or an unknown backend.
    """
    _check(luma_nhw, state, sensor, ticks)
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    packed_ghw, after = _backend(backend)(luma_nhw, state, sensor, ticks, threads)
    whole = (state.pending_ticks + ticks) // TICKS_PER_GROUP
    return (packed_ghw if flush else packed_ghw[:whole]), after


def simulate(
    luma_blocks: Iterable[NDArray[np.uint8]],
    sensor: SensorConfig,
    *,
    clip_id: str,
    block_ticks: int = 256,
    backend: Backend = "auto",
    threads: int = 1,
    maps: SensorMaps | None = None,
    device: Device = "cpu",
) -> Iterator[NDArray[np.uint8]]:
    """Simulate a whole clip, streaming: N frames give T = N * ``ticks_per_frame`` ticks.

    After the last frame the light holds for that frame's own ticks.

    Args:
        luma_blocks: uint8 (n, H, W) each, any n, all of one size: the clip's frames in order.
        sensor: the camera.
        clip_id: with ``sensor.seed`` chooses the random start and the noise of each tick.
        block_ticks: no block that is given has more ticks; it bounds the memory.
        backend: which of :data:`BACKENDS`; the bits are the same.
        threads: how many share the pixels; the bits are the same.
        maps: how the camera's pixels differ, in place of what ``sensor.noise`` says.
        device: where it is done, the bits are the same; ``cuda`` takes neither ``backend`` nor
            ``threads``. See :func:`check_device`.

    Yields:
        packed_ghw: uint8 (G, H, W), never empty; whole groups except at the clip's end.

    Raises:
        ValueError: wrong shape or dtype, or frames of different sizes.
    """
    if device == "cuda":
        from spikedata.simulator import triton_gpu  # noqa: PLC0415  # loads torch and triton

        yield from triton_gpu.simulate_on_gpu(
            luma_blocks, sensor, clip_id=clip_id, block_ticks=block_ticks, maps=maps
        )
        return
    if block_ticks < TICKS_PER_GROUP:
        raise ValueError(f"block_ticks must be at least {TICKS_PER_GROUP}, got {block_ticks}")
    state: SensorState | None = None
    for luma_nhw, intervals in _with_next_frame(luma_blocks, sensor):
        if state is None:
            height_px, width_px = luma_nhw.shape[1:]
            state = SensorState.initial(sensor, height_px, width_px, clip_id, maps=maps)
        end = state.tick + intervals * sensor.ticks_per_frame
        first_interval = state.tick // sensor.ticks_per_frame
        while state.tick < end:
            frames_nhw = luma_nhw[state.tick // sensor.ticks_per_frame - first_interval :]
            # Cut at multiples of block_ticks, as whoever cuts into chunks does too.
            ticks = min(end - state.tick, block_ticks - state.tick % block_ticks)
            packed_ghw, state = simulate_ticks(
                frames_nhw, state, sensor, ticks, backend=backend, threads=threads
            )
            if len(packed_ghw):
                yield packed_ghw
    if state is not None and state.pending_ticks:
        yield state.pending_hw[None]


def check_device(device: Device) -> None:
    """Miss what a device needs before the first clip, not at every clip.

    Raises:
        MissingExtraError: ``cuda`` is asked for and Triton or torch is not installed.
        SpikeDataError: there is no CUDA device.
    """
    if device == "cpu":
        return
    try:
        from spikedata.simulator import triton_gpu  # noqa: PLC0415  # loads torch and triton
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"device cuda needs {error.name}: pip install 'spklip[gpu]'"
        ) from error
    triton_gpu.compute_device()


def _with_next_frame(
    luma_blocks: Iterable[NDArray[np.uint8]], sensor: SensorConfig
) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Frames and the number of intervals that begin with them; large blocks are not copied."""
    last_1hw: NDArray[np.uint8] | None = None
    for luma_nhw in luma_blocks:
        _check_luma(luma_nhw)
        if last_1hw is not None and luma_nhw.shape[1:] != last_1hw.shape[1:]:
            raise ValueError(
                f"frames of {luma_nhw.shape[1:]} after frames of {last_1hw.shape[1:]} (H, W)"
            )
        if not len(luma_nhw):
            continue
        if sensor.interpolation == "hold":
            yield luma_nhw, len(luma_nhw)
        else:
            if last_1hw is not None:
                yield np.concatenate([last_1hw, luma_nhw[:1]]), 1
            yield luma_nhw, len(luma_nhw) - 1
        last_1hw = luma_nhw[-1:].copy()
    if last_1hw is not None and sensor.interpolation == "linear":
        yield np.concatenate([last_1hw, last_1hw]), 1


def _backend(name: str) -> Callable[..., Advanced]:
    if name == "auto":
        return _numba
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, got {name!r}")
    return BACKENDS[name]


def _check_luma(luma_nhw: Any) -> None:
    if not isinstance(luma_nhw, np.ndarray) or luma_nhw.dtype != np.uint8 or luma_nhw.ndim != 3:
        given = f"{getattr(luma_nhw, 'dtype', type(luma_nhw).__name__)}"
        shape = f" {luma_nhw.shape}" if isinstance(luma_nhw, np.ndarray) else ""
        raise ValueError(f"luma_nhw must be a uint8 array (N, H, W), got {given}{shape}")


def _check(luma_nhw: Any, state: SensorState, sensor: SensorConfig, ticks: int) -> None:
    _check_luma(luma_nhw)
    if ticks < 0:
        raise ValueError(f"ticks must not be negative, got {ticks}")
    if luma_nhw.shape[1:] != state.residue_hw.shape:
        raise ValueError(
            f"frames are {luma_nhw.shape[1:]} (H, W) but the state is {state.residue_hw.shape}"
        )
    if (sensor.noise is None) != (state.pixels is None):
        raise ValueError(
            "the state was made for a sensor with other noise; use SensorState.initial"
        )
    needed = sensor.frames_needed(state.tick, ticks)
    if len(luma_nhw) < needed:
        raise ValueError(
            f"{ticks} ticks from tick {state.tick} need {needed} frames "
            f"({sensor.interpolation}, {sensor.ticks_per_frame} ticks a frame), got {len(luma_nhw)}"
        )
