"""The Triton simulator on a GPU, against its roofline and against numba on the same machine's CPU.

``pytest -m gpu`` runs it at tiny size, checking the answers; with ``SPIKEDATA_BENCH=full`` and
``-s`` it prints one JSON line at full size. No figure of it has been taken yet: see
``docs/explanation/gpu.md``.
"""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from spikedata.simulator import SensorConfig, load_sensor, simulate

INSTRUCTIONS = {"quiet": 8.8 + 1.3 + 0.3, "noisy": 27.4 + 4 + 0.3}
"""A pixel-tick at K = 10, as counted in docs/explanation/gpu.md; the last is storing a group."""
BYTES = {"quiet": 0.264, "noisy": 0.327}
LANES = 64
"""32-bit integer operations a clock of a multiprocessor, compute capability 8.0 and 9.0."""


@dataclass(frozen=True)
class Size:
    clips: int
    frames: int
    height_px: int
    width_px: int
    rounds: int
    repeats: int


TINY = Size(clips=2, frames=4, height_px=9, width_px=65, rounds=1, repeats=1)
FULL = Size(clips=16, frames=26, height_px=240, width_px=320, rounds=9, repeats=20)
SENSORS = {"quiet": SensorConfig(), "noisy": replace(load_sensor("vidar-20khz"), threshold=2.0)}


def seconds_on_device(work: Callable[[], object], repeats: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / repeats


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def kernel_call(luma_bnhw: torch.Tensor, sensor: SensorConfig) -> Callable[[], torch.Tensor]:
    """The kernel on a batch, all its input on the device already."""
    from spikedata.simulator import triton_gpu

    clips, frames, height_px, width_px = luma_bnhw.shape
    sensors = [sensor] * clips
    ids = [str(i) for i in range(clips)]
    device = luma_bnhw.device
    state = triton_gpu.BatchState.initial(sensors, height_px, width_px, ids, device)
    batch = triton_gpu.BatchSensors(tuple(sensors), device)
    ticks = frames * sensor.ticks_per_frame
    return lambda: triton_gpu.advance_batch(luma_bnhw, state, batch, ticks)[0]


def on_gpu(luma_nhw: np.ndarray, sensor: SensorConfig) -> np.ndarray:
    from spikedata.simulator.triton_gpu import simulate_on_gpu

    return np.concatenate(list(simulate_on_gpu([luma_nhw], sensor, clip_id="0")))


def on_cpu(luma_nhw: np.ndarray, sensor: SensorConfig) -> np.ndarray:
    threads = os.cpu_count() or 1
    return np.concatenate(list(simulate([luma_nhw], sensor, clip_id="0", threads=threads)))


def copy_bandwidth(megabytes: int) -> float:
    """Bytes a second of a copy on the device, read and written."""
    here = torch.empty(megabytes << 20, dtype=torch.uint8, device="cuda")
    there = torch.empty_like(here)
    took = min(seconds_on_device(lambda: there.copy_(here), 5) for _ in range(5))
    return 2 * here.numel() / took


def highest_clock_hz() -> float:
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits", "-i", "0"]
    return 1e6 * float(subprocess.run(query, capture_output=True, text=True, check=True).stdout)


def floors(kind: str, megabytes: int) -> dict[str, float]:
    """Pixel-ticks a second that memory and arithmetic allow."""
    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    return {
        "memory": copy_bandwidth(megabytes) / BYTES[kind],
        "arithmetic": multiprocessors * highest_clock_hz() * LANES / INSTRUCTIONS[kind],
    }


def measure(size: Size) -> dict[str, object]:
    """Check the answers, then time one after the other, round after round."""
    shape = (size.clips, size.frames, size.height_px, size.width_px)
    luma_bnhw = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    there_bnhw = torch.from_numpy(luma_bnhw).cuda()
    result: dict[str, object] = {"benchmark": "triton simulator", "shape_bnhw": shape}
    for kind, sensor in SENSORS.items():
        call = kernel_call(there_bnhw, sensor)
        want_ghw = on_cpu(luma_bnhw[0], sensor)
        np.testing.assert_array_equal(call()[0].cpu().numpy(), want_ghw)
        np.testing.assert_array_equal(on_gpu(luma_bnhw[0], sensor), want_ghw)
        took: dict[str, list[float]] = {"kernel": [], "from_host": [], "numba": []}
        for _ in range(size.rounds):
            took["kernel"].append(seconds_on_device(call, size.repeats) / size.clips)
            took["from_host"].append(seconds(lambda s=sensor: on_gpu(luma_bnhw[0], s)))
            took["numba"].append(seconds(lambda s=sensor: on_cpu(luma_bnhw[0], s)))
        pixel_ticks = size.frames * sensor.ticks_per_frame * size.height_px * size.width_px
        limits = floors(kind, 16 if size is TINY else 1024)
        result[kind] = {
            "gpt_per_s_min_median_max": {
                name: spread([pixel_ticks / t / 1e9 for t in times]) for name, times in took.items()
            },
            "floor_gpt_per_s": {name: round(limit / 1e9, 1) for name, limit in limits.items()},
            "kernel_share_of_floor": round(
                pixel_ticks / statistics.median(took["kernel"]) / min(limits.values()), 4
            ),
        }
    result["device"] = torch.cuda.get_device_name()
    result["clock_hz"] = highest_clock_hz()
    result["torch"] = torch.__version__
    return result


def spread(values: list[float]) -> list[float]:
    return [round(f(values), 3) for f in (min, statistics.median, max)]


@pytest.mark.gpu
def test_the_gpu_gives_the_cpu_s_answer():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    result = measure(FULL if os.environ.get("SPIKEDATA_BENCH") == "full" else TINY)
    print(json.dumps(result))
    assert {"quiet", "noisy"} <= set(result)


if __name__ == "__main__":
    print(json.dumps(measure(FULL)))
