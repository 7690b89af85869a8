"""Videos and pictures that claim too much, and a decoder that takes its process with it."""

import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from tools import one_line_error, random_frames, run_program, write_grey
from videos import gradient, numbered, write_video

from spikedata.analysis import read_picture
from spikedata.clips import open_clips
from spikedata.errors import SpikeDataError, VideoError
from spikedata.video import VideoConfig, open_video


def read(path, **settings):
    with open_video(path, VideoConfig(**settings)) as video:
        return np.concatenate(list(video.blocks())), video.account()


def refusal(path, **settings):
    with pytest.raises(VideoError) as caught:
        read(path, **settings)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- claims of a header ---------------------------------------------------------------------------


PEAK = """
import resource, sys
from spikedata.video import VideoConfig, open_video
try:
    with open_video(sys.argv[1], VideoConfig(decoder=sys.argv[2])) as video:
        sum(map(len, video.blocks()))
    print("read")
except Exception as error:
    print(type(error).__name__)
# What getrusage tells of itself begins with what the process that started it has.
own = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(max(int(*own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) >> 10)
"""
"""Reads a video; prints what came of it and the memory that took, MiB."""


def changed(path, mark, at, value):
    """Overwrite bytes that lie ``at`` bytes after a mark."""
    data = bytearray(path.read_bytes())
    start = data.index(mark) + at
    data[start : start + len(value)] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_frames_past_the_limit_are_refused(tmp_path, monkeypatch, decoder):
    path = write_video(tmp_path / "a.mkv", numbered(3, 64, 64))
    for most, ends in ((64 * 64, None), (64 * 64 - 1, "expected at most 4,095")):
        for module in ("streams", "decoders"):
            monkeypatch.setattr(f"spikedata.video.{module}.MOST_PIXELS", most)
        if ends is None:
            assert len(read(path, decoder=decoder)[0]) == 3
        else:
            told = refusal(path, decoder=decoder)
            assert told.endswith(ends) or "not one frame can be decoded" in told


@pytest.mark.parametrize("decoder", ["auto", "pyav", "opencv"])
def test_a_claim_of_large_frames_makes_no_room_for_them(tmp_path, decoder):
    if sys.platform != "linux":
        pytest.skip("what a process took is read from Linux's /proc")
    path = write_video(tmp_path / "a.gif", gradient(3), codec="gif", pix_fmt="gray")
    changed(path, b"GIF89a", 6, struct.pack("<HH", 16_000, 16_000))
    command = [sys.executable, "-c", PEAK, path, decoder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kind, mebibytes = done.stdout.split()
    assert kind == "VideoError"
    assert int(mebibytes) < 600


def test_a_frame_that_grows_past_the_limit_is_a_damaged_one(tmp_path):
    path = write_video(tmp_path / "a.mov", gradient(5), codec="png", pix_fmt="gray")
    data = path.read_bytes()
    second = data.index(b"IHDR", data.index(b"IHDR") + 4)
    size = struct.pack(">II", 9000, 9000)
    head = b"IHDR" + size + data[second + 12 : second + 17]
    fixed = head + struct.pack(">I", zlib.crc32(head))
    path.write_bytes(data[:second] + fixed + data[second + len(fixed) :])
    luma, account = read(path, decoder="pyav")
    assert len(luma) == 5
    assert (account["frames_decoded"], account["frames_bad"], account["frames_held"]) == (4, 1, 1)


def test_a_frame_that_lasts_for_hours_is_not_shown_anew_without_end(tmp_path):
    path = write_video(tmp_path / "a.avi", numbered(3), codec="ffv1", pix_fmt="gray")
    changed(path, b"strh", 28, struct.pack("<II", 65_536, 1))  # seconds a frame
    assert len(read(path)[0]) == 3
    assert "would show one frame 3,276,800 times: damaged times" in refusal(path, fps=50)
    assert len(read(path, fps=1)[0]) == 3 * 65_536


def test_a_promise_of_frames_without_end_is_not_kept(tmp_path):
    path = write_video(tmp_path / "a.avi", numbered(3), codec="ffv1", pix_fmt="gray")
    changed(path, b"strh", 28, struct.pack("<IIII", 1, 1_000_000, 0, 2_000_000))
    luma, account = read(path)
    assert len(luma) == 3
    assert (account["frames_held"], account["frames_lost"]) == (0, 2_000_000 - 3)


# --- pictures -------------------------------------------------------------------------------------


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(side):
    """A whole picture of black pixels, one bit each."""
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + -(-side // 8)) * side), 9)
    chunks = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def jpeg_of(side):
    """A small picture whose header says another size; what is missing comes out grey."""
    data = bytearray(cv2.imencode(".jpg", np.full((12, 18), 7, np.uint8))[1])
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(data)


def hdr_of(side):
    """A whole picture of black pixels, run by run."""
    runs = bytes([128 + 127, 0]) * (side // 127) + bytes([128 + side % 127, 0])
    line = bytes([2, 2]) + struct.pack(">H", side) + 4 * runs
    head = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {side} +X {side}\n"
    return head.encode() + line * side


@pytest.mark.parametrize(
    ("suffix", "make", "side"),
    [("png", png_of, 9000), ("jpg", jpeg_of, 9000), ("hdr", hdr_of, 6000)],
)
def test_a_picture_that_swells_is_a_damaged_one(tmp_path, suffix, make, side):
    folder = tmp_path / "a"
    folder.mkdir()
    for number in (1, 3):
        (folder / f"{number}.{suffix}").write_bytes(make(20))
    (folder / f"2.{suffix}").write_bytes(make(side))
    luma, account = read(folder, fps=25)
    assert luma.shape == (3, 20, 20)
    assert (account["frames_decoded"], account["frames_held"]) == (2, 1)
    assert account["problems"] == {"picture cannot be read": 1}


def test_a_picture_of_no_kind_that_is_read_is_a_damaged_one(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "1.png").write_bytes(png_of(4))
    (folder / "2.png").write_bytes(b"P5 4 4 255\n" + bytes(16))
    (folder / "3.png").write_bytes(b"")
    luma, account = read(folder, fps=25)
    assert (len(luma), account["frames_bad"]) == (3, 2)


@pytest.mark.parametrize("side", [9000, 12_000, 20_000])
def test_a_picture_to_compare_with_is_bounded_too(tmp_path, side):
    (tmp_path / "a.png").write_bytes(png_of(side))
    with pytest.raises(SpikeDataError, match=r"a\.png: .*pixels") as caught:
        read_picture(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_a_picture_damaged_anywhere_is_one_line(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    good, told = path.read_bytes(), 0
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        try:
            assert read_picture(path).ndim == 2
        except SpikeDataError:
            told += 1
    assert told > len(good) // 3


# --- decord ---------------------------------------------------------------------------------------

DECORD = """
import os
import numpy as np

__version__ = "0.0"

class DECORDError(Exception):
    pass

class logging:
    QUIET = 0
    set_level = staticmethod(lambda level: None)

class VideoReader:
    def __init__(self, path, num_threads):
        self.path, self.at = path, 0
        if "unopened" in path:
            raise DECORDError("[12:00:00] video.cc:7: no codec\\n  stack")

    def __len__(self):
        return 4

    def get_avg_fps(self):
        return 25.0

    def get_frame_timestamp(self, index):
        starts_s = np.arange(4) / 25
        return np.stack([starts_s, starts_s + 0.04], 1)[index]

    def next(self):
        self.at += 1
        if self.at == 3 and "aborts" in self.path:
            os.abort()
        if self.at == 3 and "fails" in self.path:
            raise DECORDError("no frame")
        return self

    def asnumpy(self):
        return np.full((8, 40, 3), 10 * self.at, np.uint8)
"""


@pytest.fixture
def decord(tmp_path, monkeypatch):
    """Another decord, which does at a file's name what the real one does at its damage."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "decord.py").write_text(DECORD)
    monkeypatch.syspath_prepend(tmp_path / "fake")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))


def video(path):
    return write_grey(path, random_frames(1, 4, 8, 40))


@pytest.mark.usefixtures("decord")
def test_decord_decodes_in_another_process(tmp_path):
    luma, account = read(video(tmp_path / "a.mkv"), decoder="decord")
    assert luma[:, 2, 3].tolist() == [10, 20, 30, 40]
    assert (account["decoder_version"], account["source_frame_rate"]) == ("0.0", "25")
    luma, account = read(video(tmp_path / "fails.mkv"), decoder="decord")
    assert luma[:, 2, 3].tolist() == [10, 20]
    assert account["problems"] == {"no frame": 1}
    told = refusal(video(tmp_path / "unopened.mkv"), decoder="decord")
    assert told.endswith("is not a video that decord can open: no codec")


@pytest.mark.usefixtures("decord")
def test_decord_aborting_is_one_line_of_that_file(tmp_path):
    told = refusal(video(tmp_path / "aborts.mkv"), decoder="decord")
    assert "the library that reads it crashed (SIGABRT); it is damaged" in told


@pytest.mark.usefixtures("decord")
def test_one_file_that_decord_aborts_on_stops_no_other(tmp_path):
    for name in ("a", "b_aborts", "c"):
        video(tmp_path / "set" / "wave" / f"{name}.mkv")
    words = ["simulate", "set", "--out", "s.zarr", "--decoder", "decord", "--sensor", "vidar-20khz"]
    done = run_program("spikedata", *words, cwd=tmp_path)
    assert "b_aborts" in done.stderr
    assert "crashed (SIGABRT)" in done.stderr
    assert one_line_error(done, 1)
    assert [name.rpartition("_")[2] for name in open_clips(tmp_path / "s.zarr").clips] == ["a", "c"]
