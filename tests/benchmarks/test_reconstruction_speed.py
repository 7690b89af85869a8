"""A movie of 101 TFI or TFP pictures, ours from packed trains against the field's loops.

``python tests/benchmarks/test_reconstruction_speed.py`` prints a JSON line for each method at full
size; under pytest it runs at tiny size and checks the answers only. ``loop`` models what SpikeCV
(and Spike-Zoo) do, by the description of their method: for each picture every plane of the window
around it is looked at, back and ahead, and pixels that have no spike yet and now do note the time;
TFP is the mean of the window's planes. SpikeCV itself is on no package index. ``lean`` is the same,
made as quick as we could: it stops as soon as all pixels have both ends, and TFP adds up bytes.
Both start from planes that are unpacked already, one byte a pixel and tick, and the unpacking is
not timed; ours starts from packed bytes. One thread each.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata import SpikeStream, reconstruct
from spikedata.bits import pack_ticks

HALF_TICKS = 20
"""The loops look so far back and ahead, as SpikeCV's examples do."""
PICTURES = 101


def interval_loop(planes_thw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """TFI pictures (N, H, W) by a loop over all planes of each window."""
    pictures = []
    for tick in range(HALF_TICKS, len(planes_thw) - HALF_TICKS):
        shape_hw = planes_thw.shape[1:]
        before_hw, after_hw = np.full(shape_hw, -1.0), np.full(shape_hw, -1.0)
        for lag in range(HALF_TICKS + 1):
            found_hw = (planes_thw[tick - lag] == 1) & (before_hw < 0)
            before_hw[found_hw] = lag
        for lead in range(1, HALF_TICKS + 1):
            found_hw = (planes_thw[tick + lead] == 1) & (after_hw < 0)
            after_hw[found_hw] = lead
        known_hw = (before_hw >= 0) & (after_hw >= 0)
        interval_hw = np.where(known_hw, before_hw + after_hw, np.inf)
        pictures.append((1 / interval_hw).astype(np.float32))
    return np.stack(pictures)


def lean_interval_loop(planes_thw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """:func:`interval_loop` on small numbers, up to the plane after which nothing is missing."""
    pictures = []
    for tick in range(HALF_TICKS, len(planes_thw) - HALF_TICKS):
        ends = []
        for planes in (
            planes_thw[tick : tick - HALF_TICKS - 1 : -1]
            if tick > HALF_TICKS
            else planes_thw[tick::-1],
            planes_thw[tick + 1 : tick + 1 + HALF_TICKS],
        ):
            missing_hw = np.ones(planes_thw.shape[1:], np.uint8)
            steps_hw = np.zeros(planes_thw.shape[1:], np.uint8)
            for plane_hw in planes:
                missing_hw &= plane_hw ^ 1
                steps_hw += missing_hw
                if not missing_hw.any():
                    break
            ends.append((steps_hw, missing_hw))
        (back_hw, none_hw), (ahead_hw, none_after_hw) = ends
        rate_hw = 1 / (back_hw + ahead_hw + np.float32(1))
        pictures.append(np.where(none_hw | none_after_hw, np.float32(0), rate_hw))
    return np.stack(pictures)


def ours_interval(stream: SpikeStream) -> NDArray[np.float32]:
    return reconstruct(
        stream,
        "tfi",
        window_ticks=1,
        start=HALF_TICKS,
        ticks=stream.ticks - 2 * HALF_TICKS,
        reach_ticks=HALF_TICKS,
    )


def playback_loop(planes_thw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """TFP pictures: the mean of each window."""
    window = 2 * HALF_TICKS
    firsts = range(len(planes_thw) - window)
    return np.stack([planes_thw[n : n + window].mean(axis=0) for n in firsts]).astype(np.float32)


def lean_playback_loop(planes_thw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """:func:`playback_loop` with sums of bytes, which no window of ours overflows."""
    window = 2 * HALF_TICKS
    count_nhw = np.stack(
        [
            planes_thw[n : n + window].sum(axis=0, dtype=np.uint8)
            for n in range(len(planes_thw) - window)
        ]
    )
    return (count_nhw / window).astype(np.float32)


def ours_playback(stream: SpikeStream) -> NDArray[np.float32]:
    how = {"window_ticks": 2 * HALF_TICKS, "step_ticks": 1, "ticks": stream.ticks - 1}
    return reconstruct(stream, "tfp", **how)


METHODS = {
    "tfi": {"loop": interval_loop, "lean": lean_interval_loop, "ours": ours_interval},
    "tfp": {"loop": playback_loop, "lean": lean_playback_loop, "ours": ours_playback},
}


def scene(pictures: int, height: int, width: int) -> NDArray[np.uint8]:
    """Planes of a bright bar that moves over a scene of every rate from 0.06 to 0.9."""
    ticks = pictures + 2 * HALF_TICKS
    rate_hw = np.linspace(0.06, 0.9, height)[:, None] * np.ones(width)
    rng = np.random.default_rng(0)
    residue_hw = rng.random((height, width))
    planes_thw = np.empty((ticks, height, width), np.uint8)
    for tick in range(ticks):
        residue_hw += np.where((np.arange(width) - tick) % 50 < 10, 0.7, rate_hw)
        planes_thw[tick] = residue_hw >= 1
        residue_hw -= planes_thw[tick]
    return planes_thw


def check_answers(sides: dict[str, Callable[[Any], Any]], given: dict[str, Any]) -> None:
    loop, lean, ours = (sides[name](given[name]) for name in ("loop", "lean", "ours"))
    np.testing.assert_array_equal(lean, loop)
    seen = loop > 0  # beyond that the loop gives black, and ours a bound
    assert seen.mean() > 0.9
    np.testing.assert_array_equal(ours[seen], loop[seen])


def measure(pictures: int, height: int, width: int, rounds: int) -> list[dict[str, object]]:
    """Check the answers, then time one after the other, round after round."""
    planes_thw = scene(pictures, height, width)
    stream = SpikeStream(pack_ticks(planes_thw), len(planes_thw), 20_000.0)
    given = {"loop": planes_thw, "lean": planes_thw, "ours": stream}
    lines = []
    for method, sides in METHODS.items():
        check_answers(sides, given)
        took: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, work in sides.items():
                began = time.perf_counter()
                work(given[name])
                took[name].append(time.perf_counter() - began)
        lines.append(line_of(method, (pictures, height, width), took))
    return lines


def line_of(
    method: str, size_nhw: tuple[int, int, int], took: dict[str, list[float]]
) -> dict[str, object]:
    def spread(values: list[float]) -> list[float]:
        return [round(f(values), 4) for f in (min, statistics.median, max)]

    return {
        "benchmark": f"{method} movie against a loop over the planes of each window",
        "size_nhw": size_nhw,
        "half_window_ticks": HALF_TICKS,
        "times_as_fast_min_median_max": {
            peer: spread([b / a for a, b in zip(took["ours"], took[peer], strict=True)])
            for peer in ("loop", "lean")
        },
        "seconds_min_median_max": {name: spread(times) for name, times in took.items()},
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def test_movies_are_the_loops(tmp_path):
    assert len(measure(3, 6, 9, rounds=1)) == 2


if __name__ == "__main__":
    for line in measure(PICTURES, 250, 400, rounds=5):
        print(json.dumps(line))
