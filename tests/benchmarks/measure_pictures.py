"""How near pictures made of spikes come to the truth, by method and window, as a Markdown table.

``python tests/benchmarks/measure_pictures.py DATA`` reads the recordings and UCF101 videos in
DATA, a folder as ``tests`` find at ``../shared/data``. Truth is the picture that a recording was
simulated from by others (REDS), or a video's own frame at the tick that shows it. The pictures'
exposure is unknown: each is scaled by the one number that brings it nearest.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikedata import (
    SensorConfig,
    SpikeStream,
    load_sensor,
    open_spikes,
    open_video,
    picture_quality,
    read_picture,
    reconstruct,
    simulate,
)

METHODS = [
    *(("tfp", window_ticks) for window_ticks in (8, 16, 32, 40, 64, 128)),
    ("tfi", 1),
    *(("adaptive", window_ticks) for window_ticks in (32, 40, 64, 128)),
]
VIDEOS = ("v_JumpingJack", "v_TrampolineJumping", "v_Basketball", "v_Fencing")
FRAMES, TRUE_FRAMES = 40, (8, 14, 20, 26, 32)
Truths = list[tuple[SpikeStream, int, NDArray[np.uint8]]]


def reds(data: Path) -> Truths:
    """The recording simulated by others, with the true picture of its middle, where windows fit."""
    folder, name = data / "recordings", "sim_reds_000_part1_key_id"
    source = open_spikes(folder / f"{name}21_250x400_41.dat", camera="vidar")
    stream = SpikeStream(np.concatenate(list(source.blocks())), source.ticks, 20_000.0)
    return [(stream, 21, read_picture(folder / f"{name}21.png"))]


def simulated(data: Path, sensor: SensorConfig) -> Truths:
    """Videos simulated here, with the frames they were made of."""
    found: Truths = []
    for name in VIDEOS:
        video = open_video(min((data / "ucf101").glob(f"*/{name}*")))
        luma_nhw = np.concatenate(list(video.blocks()))[:FRAMES]
        packed = simulate([luma_nhw], sensor, clip_id=name)
        packed_ghw = np.concatenate([np.asarray(block) for block in packed])
        ticks = FRAMES * sensor.ticks_per_frame
        stream = SpikeStream(packed_ghw, ticks, 20_000.0)
        found += [(stream, n * sensor.ticks_per_frame, luma_nhw[n]) for n in TRUE_FRAMES]
    return found


def mean_quality(method: str, window_ticks: int, truths: Truths) -> str:
    """Mean PSNR, dB, and SSIM; a line where the windows are too long."""
    found = []
    if any(not window_ticks // 2 <= tick <= s.ticks - window_ticks // 2 for s, tick, _ in truths):
        return "-"
    for stream, tick, truth_hw in truths:
        first = tick - window_ticks // 2
        how = {"window_ticks": window_ticks, "start": first, "ticks": window_ticks}
        rate_hw = reconstruct(stream, method, **how)[0].astype(np.float64)
        gain = (rate_hw * truth_hw).sum() / (rate_hw**2).sum()
        grey_hw = np.rint(np.clip(gain * rate_hw, 0, 255)).astype(np.uint8)
        quality = picture_quality(grey_hw, truth_hw)
        found.append((quality["psnr_db"], quality["ssim"]))
    psnr_db, ssim = np.mean(found, axis=0)
    return f"{psnr_db:.1f} / {ssim:.3f}"


def sets(data: Path) -> Iterator[tuple[str, Truths]]:
    yield "REDS, 41 ticks", reds(data)
    for ticks_per_frame in (10, 40):
        sensor = SensorConfig(threshold=2.0, ticks_per_frame=ticks_per_frame)
        yield f"UCF101, {ticks_per_frame} ticks a frame", simulated(data, sensor)
    noisy = load_sensor("vidar-20khz", ["threshold=2.0", "ticks_per_frame=10"])
    yield "the same with noise, 10", simulated(data, noisy)


def table(data: Path) -> Iterator[str]:
    columns = list(sets(data))
    yield "| picture | window | " + " | ".join(f"{name} ({len(t)})" for name, t in columns) + " |"
    yield "|---|---|" + "---|" * len(columns)
    for method, window_ticks in METHODS:
        cells = [mean_quality(method, window_ticks, truths) for _, truths in columns]
        window = "-" if method == "tfi" else str(window_ticks)
        yield f"| `{method}` | {window} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    for line in table(Path(sys.argv[1])):
        print(line, flush=True)
