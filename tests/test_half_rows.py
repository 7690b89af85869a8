"""Damaged 1000x1000 recordings: every whole frame that survived is read, and nothing else.

``python tests/test_half_rows.py 1000`` tries so many files and prints one line.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tools import run_program

from spikedata import open_clips
from spikedata.camera import LostSpan, open_recording

FRAME = 128_000
HALF_ROW = 64


@dataclass
class Damaged:
    """A file, and the frames that are still whole in it."""

    data: bytes
    survivors_thw: np.ndarray
    gaps: list[tuple[int, int]]
    """Between which survivors bytes are missing or are no frame's, and how many lie there."""


def frames_of(planes_thw: np.ndarray) -> np.ndarray:
    """uint8 (T, 2000, 64): half-row by half-row, as the camera's documents say."""
    ticks = len(planes_thw)
    bits = np.zeros((ticks, 2000, 512), np.uint8)
    bits[:, :, :500] = planes_thw.reshape(ticks, 2000, 500)
    half_rows = np.packbits(bits, axis=-1, bitorder="little")
    for number in range(2000):
        row, half = divmod(number, 2)
        line = 500 - row if row < 500 else row - 499
        marker = (half if row < 500 else 2 + half) << 14 | line << 4
        half_rows[:, number, 62] |= marker & 0xF0
        half_rows[:, number, 63] = marker >> 8
    return half_rows


def damage(seed: int, *, most_lost: int = 5) -> Damaged:
    """A random start, lost half-rows, junk, and pixels that look like markers."""
    rng = np.random.default_rng(seed)
    ticks = int(rng.integers(3, 8))
    planes_thw = (rng.random((ticks, 1000, 1000)) < rng.uniform(0.05, 0.6)).astype(np.uint8)
    frames = frames_of(planes_thw)
    for _ in range(int(rng.integers(0, 4))):  # a marker in the middle of the pixels
        frame, row, like = (int(rng.integers(n)) for n in (ticks, 2000, 2000))
        at = int(rng.integers(0, 60))
        frames[frame, row, at : at + 2] = frames[frame, like, 62:64] & [0xF0, 0xFF]
    kept_thw = np.unpackbits(frames, axis=-1, bitorder="little")[:, :, :500]
    kept_thw = kept_thw.reshape(ticks, 1000, 1000)

    lost = {(int(rng.integers(ticks)), int(rng.integers(2000))) for _ in range(most_lost)}
    lost = set(sorted(lost)[: int(rng.integers(0, most_lost + 1))])
    start = int(rng.integers(0, FRAME)) if rng.random() < 0.5 else 0
    pieces, whole, gaps, gap = [], [], [], 0
    if rng.random() < 0.3:
        pieces.append(rng.integers(0, 256, int(rng.integers(1, 400_000)), np.uint8).tobytes())
        gap += len(pieces[-1])
    for frame in range(ticks):
        rows = [row for row in range(2000) if (frame, row) not in lost]
        data = frames[frame, rows].tobytes()
        if frame == 0 and start:
            data = data[start:]
        is_whole = len(data) == FRAME
        if is_whole and rng.random() < 0.1 and frame:
            junk = rng.integers(0, 256, int(rng.integers(1, 1000)), np.uint8).tobytes()
            at = int(rng.integers(1, FRAME))
            data, is_whole = data[:at] + junk + data[at:], False
        pieces.append(data)
        if is_whole:
            gaps.append((len(whole), gap)) if gap else None
            whole.append(frame)
            gap = 0
        else:
            gap += len(data)
    gaps.append((len(whole), gap)) if gap else None
    return Damaged(b"".join(pieces), kept_thw[whole], gaps)


def check(path: Path, made: Damaged) -> None:
    path.write_bytes(made.data)
    recording = open_recording(path, "sps100")
    assert np.array_equal(recording.read().unpack(), made.survivors_thw)
    assert recording.skipped_bytes + sum(span.bytes for span in recording.losses) == sum(
        size for _, size in made.gaps
    )
    assert {span.tick for span in recording.losses} <= {tick for tick, _ in made.gaps}
    inner = [(tick, size) for tick, size in made.gaps if 0 < tick < recording.ticks]
    assert [(span.tick, span.bytes) for span in recording.losses if span.tick in dict(inner)] == (
        inner
    )


@pytest.mark.parametrize("seed", range(12))
def test_every_frame_that_survived_is_read_and_nothing_else(tmp_path, seed):
    made = damage(seed)
    if len(made.survivors_thw):
        check(tmp_path / "a.dat", made)


@pytest.fixture(scope="module")
def ten() -> tuple[np.ndarray, bytes]:
    planes_thw = np.random.default_rng(1).integers(0, 2, (10, 1000, 1000), np.uint8)
    return planes_thw, frames_of(planes_thw).tobytes()


def without(data: bytes, *cuts: tuple[int, int]) -> bytes:
    """The bytes without ``size`` of them from ``at`` on, for each (at, size)."""
    for at, size in sorted(cuts, reverse=True):
        data = data[:at] + data[at + size :]
    return data


@pytest.mark.parametrize(
    ("cuts", "junk", "survivors", "lost"),
    [
        pytest.param([(5 * FRAME + 640, 64)], 0, [0, 1, 2, 3, 4, 6, 7, 8, 9],
                     [LostSpan(5, 1, FRAME - 64)], id="one-half-row"),
        pytest.param([(640, 64), (FRAME + 6400, 64)], 0, range(2, 10),
                     [LostSpan(0, 2, 2 * FRAME - 128)], id="two-frames-at-the-beginning"),
        pytest.param([], 300_000, range(10), [LostSpan(0, 2, 300_000)], id="junk-first"),
        pytest.param([(9 * FRAME + 64, 64)], 0, range(9), [LostSpan(9, 1, FRAME - 64)],
                     id="the-last-frame"),
        pytest.param([(640, 64)], 0, range(1, 10), [LostSpan(0, 1, FRAME - 64)],
                     id="the-first-frame"),
        pytest.param([(2 * FRAME + 448, 3 * FRAME - 64)], 0, [0, 1, 6, 7, 8, 9],
                     [LostSpan(2, 1, FRAME + 64)], id="a-long-piece"),
    ],
)  # fmt: skip
def test_what_is_lost_is_told_with_its_place_and_size(tmp_path, ten, cuts, junk, survivors, lost):
    planes_thw, data = ten
    (tmp_path / "a.dat").write_bytes(bytes(junk) + without(data, *cuts))
    recording = open_recording(tmp_path / "a.dat", "sps100")
    assert recording.losses == tuple(lost)
    assert recording.skipped_bytes == 0
    assert np.array_equal(recording.read().unpack(), planes_thw[list(survivors)])


@pytest.mark.parametrize("cut", [1, 64, 63_999, 100_001])
def test_a_file_that_begins_and_ends_inside_a_frame_has_lost_nothing(tmp_path, ten, cut):
    planes_thw, data = ten
    (tmp_path / "a.dat").write_bytes(data[cut:-cut])
    recording = open_recording(tmp_path / "a.dat", "sps100")
    assert (recording.losses, recording.skipped_bytes) == ((), 2 * (FRAME - cut))
    assert np.array_equal(recording.read().unpack(), planes_thw[1:-1])


def test_any_window_is_read_across_gaps(tmp_path, ten):
    planes_thw, data = ten
    (tmp_path / "a.dat").write_bytes(without(data, (FRAME + 640, 64), (6 * FRAME + 64, 128)))
    whole = planes_thw[[0, 2, 3, 4, 5, 7, 8, 9]]
    recording = open_recording(tmp_path / "a.dat")
    for start, ticks in ((0, 8), (1, 1), (0, 2), (3, 4), (7, 1)):
        assert np.array_equal(recording.read(start, ticks).unpack(), whole[start : start + ticks])
    assert np.array_equal(np.concatenate(list(recording.blocks(8))), recording.read().packed_ghw)


def test_files_of_one_recording_each_tell_what_they_lost(tmp_path, ten):
    data = ten[1]
    (tmp_path / "1.dat").write_bytes(data)
    damaged = bytearray(data)
    damaged[3 * FRAME + 127] ^= 0x10
    (tmp_path / "2.dat").write_bytes(damaged)
    recording = open_recording(tmp_path, "sps100")
    assert recording.ticks == 19
    assert recording.losses == (LostSpan(10 + 3, 1, FRAME),)


def test_pack_info_and_report_tell_what_a_recording_lost(tmp_path, ten):
    (tmp_path / "a.dat").write_bytes(without(ten[1], (FRAME + 640, 64), (6 * FRAME + 64, 128)))
    told = "note: 2 ticks lost in 2 spans of 1 clip: a"
    for to in ("zarr", "parquet", "hdf5", "dat"):
        command = ("pack", "a.dat", "--to", to, "--out", to)
        assert told in run_program("spikedata", *command, cwd=tmp_path).stderr.splitlines()
        info = run_program("spikedata", "info", to, "--json", cwd=tmp_path)
        assert json.loads(info.stdout)["losses"] == {"lost spans": 2, "ticks lost": 2}
        (stored,) = open_clips(tmp_path / to).clips.values()
        lost = [[1, 1, FRAME - 64], [5, 1, FRAME - 128]]
        assert (stored.ticks, stored.attributes["camera"]["lost"]) == (8, lost)
    run_program("spikedata", "report", "zarr", "--out", "a.html", cwd=tmp_path)
    assert "ticks lost" in (tmp_path / "a.html").read_text()


if __name__ == "__main__":
    files = int(sys.argv[1])
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(files):
            made = damage(seed)
            if len(made.survivors_thw):
                check(Path(folder) / "a.dat", made)
            else:
                refused += 1
    print(f"{files} files: every whole frame right, none wrong; {refused} had no whole frame")
