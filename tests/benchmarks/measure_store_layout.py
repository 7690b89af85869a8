"""Measure how chunk length, codec and level trade size for speed on real spike data.

Run ``python tests/benchmarks/measure_store_layout.py DATA`` where DATA holds ``ucf101/`` and
``recordings/``. Prints the Markdown table of ``docs/explanation/store-choices.md``. Videos are
simulated here with plain NumPy, so that the table depends on nothing but the codecs.

Shapes: T ticks, G groups of eight ticks, H rows, W columns, N frames.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numcodecs.blosc import Blosc

CHUNK_TICKS = (64, 128, 256)
LEVELS = (1, 3, 6, 9)
WINDOW_TICKS = 250
CLIPS = ("BodyWeightSquats", "JumpingJack", "PullUps", "TrampolineJumping")

Codec = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]


def luma_nhw(path: Path, frames: int) -> np.ndarray:
    """Full-range luma of the first frames of a limited-range video, uint8 (N, H, W)."""
    import av

    planes = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            plane = np.frombuffer(frame.planes[0], np.uint8).reshape(frame.height, -1)
            planes.append(plane[:, : frame.width])
            if len(planes) == frames:
                break
    expanded = (np.stack(planes).astype(np.float32) - 16) * (255 / 219)
    return np.clip(np.rint(expanded), 0, 255).astype(np.uint8)


def simulate_thw(luma: np.ndarray, *, linear: bool, ticks_per_frame: int = 10) -> np.ndarray:
    """Spikes of threshold 2, reset by subtraction, random start: uint8 0/1 (T, H, W)."""
    rng = np.random.default_rng(0)
    threshold = 2 * 255 * 2 * ticks_per_frame
    residue = rng.integers(0, threshold, luma.shape[1:], dtype=np.int32)
    spikes = np.empty((len(luma) * ticks_per_frame, *luma.shape[1:]), np.uint8)
    for n, now in enumerate(luma.astype(np.int32)):
        after = luma[min(n + 1, len(luma) - 1)].astype(np.int32) if linear else now
        for k in range(ticks_per_frame):
            residue += now * (2 * ticks_per_frame - 2 * k - 1) + after * (2 * k + 1)
            fired = residue >= threshold
            residue -= fired * threshold
            spikes[n * ticks_per_frame + k] = fired
    return spikes


def real_data(folder: Path) -> dict[str, np.ndarray]:
    """The streams to measure, uint8 0/1 (T, H, W) each."""
    streams = {}
    for name in CLIPS:
        video = sorted((folder / "ucf101" / name).glob("*.avi"))[0]
        luma = luma_nhw(video, frames=77)
        streams[f"{name} linear"] = simulate_thw(luma, linear=True)
    streams["PullUps hold"] = simulate_thw(luma_nhw(video, frames=77), linear=False)
    recordings = folder / "recordings"
    car = np.fromfile(recordings / "car_250x400.dat", np.uint8).reshape(-1, 250, 50)
    streams["car (real)"] = np.unpackbits(car, axis=-1, bitorder="little")
    static = np.load(recordings / "static_scene_250x400x500.npz")["arr_0"]
    streams["static scene (real)"] = np.ascontiguousarray(static.transpose(2, 0, 1))
    streams["UHSR (real, dark)"] = np.load(recordings / "uhsr_sample.npz")["spk"].astype(np.uint8)
    return streams


def time_last_chunks(spikes_thw: np.ndarray, chunk_ticks: int) -> list[bytes]:
    """Eight ticks a byte, time last: one (H, W, G) chunk after another, padded with zeros."""
    return [
        np.packbits(chunk, axis=0, bitorder="little").transpose(1, 2, 0).tobytes()
        for chunk in _padded(spikes_thw, chunk_ticks)
    ]


def plane_order_chunks(spikes_thw: np.ndarray, chunk_ticks: int) -> list[bytes]:
    """Eight pixels a byte as in ``.dat``, then transposed: (H, W / 8, T) a chunk."""
    return [
        np.packbits(chunk, axis=2, bitorder="little").transpose(1, 2, 0).tobytes()
        for chunk in _padded(spikes_thw, chunk_ticks)
    ]


def _padded(spikes_thw: np.ndarray, chunk_ticks: int) -> list[np.ndarray]:
    missing = -len(spikes_thw) % chunk_ticks
    whole = np.concatenate([spikes_thw, np.zeros((missing, *spikes_thw.shape[1:]), np.uint8)])
    return list(whole.reshape(-1, chunk_ticks, *spikes_thw.shape[1:]))


def codecs() -> dict[str, Codec]:
    """Name -> compress, decompress."""
    decompress = zstandard.ZstdDecompressor().decompress
    found: dict[str, Codec] = {
        f"zstd {level}": (zstandard.ZstdCompressor(level=level).compress, decompress)
        for level in LEVELS
    }
    for level in (1, 3, 6):
        blosc = Blosc("zstd", level, Blosc.BITSHUFFLE, blocksize=256 * 1024)
        found[f"blosc {level}"] = (blosc.encode, blosc.decode)
    return found


def measure(spikes_thw: np.ndarray, chunk_ticks: int, name: str, codec: Codec) -> dict[str, float]:
    """Ratio to one bit per pixel-tick, coding speeds, and the cost of a random window."""
    compress, decompress = codec
    order = plane_order_chunks if name.startswith("blosc") else time_last_chunks
    chunks = order(spikes_thw, chunk_ticks)
    began = time.perf_counter()
    coded = [compress(chunk) for chunk in chunks]
    encode_s = time.perf_counter() - began
    began = time.perf_counter()
    for chunk in coded:
        decompress(chunk)
    decode_s = time.perf_counter() - began
    coded_bytes = sum(map(len, coded))
    bits_bytes = spikes_thw.size / 8
    window_s = _window_s(coded, decompress, len(spikes_thw), chunk_ticks)
    return {
        "ratio": bits_bytes / coded_bytes,
        "encode": bits_bytes / encode_s / 1e6,
        "decode": bits_bytes / decode_s / 1e6,
        "window": window_s * 1e3,
    }


def _window_s(coded: list[bytes], decompress: Any, ticks: int, chunk_ticks: int) -> float:
    window = min(WINDOW_TICKS, ticks)
    starts = np.random.default_rng(1).integers(0, ticks - window + 1, 12)
    began = time.perf_counter()
    for start in starts:
        for i in range(start // chunk_ticks, (start + window - 1) // chunk_ticks + 1):
            decompress(coded[i])
    return (time.perf_counter() - began) / len(starts)


def main() -> None:
    """Print one row per chunk length and codec: the median over all streams."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    streams = real_data(parser.parse_args().data)
    print(f"{len(streams)} streams; zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}")
    print(
        "| chunk ticks | codec | ratio, simulated | ratio, real | encode MB/s | decode MB/s |",
        end="",
    )
    print(" 250-tick window ms |\n|---|---|---|---|---|---|---|")
    for chunk_ticks in CHUNK_TICKS:
        for name, codec in codecs().items():
            rows = {s: measure(data, chunk_ticks, name, codec) for s, data in streams.items()}
            real = [row["ratio"] for stream, row in rows.items() if "real" in stream]
            simulated = [row["ratio"] for stream, row in rows.items() if "real" not in stream]
            rest = [
                statistics.median(r[k] for r in rows.values())
                for k in ("encode", "decode", "window")
            ]
            print(
                f"| {chunk_ticks} | {name} | {statistics.median(simulated):.2f} "
                f"| {statistics.median(real):.2f} | {rest[0]:.0f} | {rest[1]:.0f} | {rest[2]:.2f} |"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
