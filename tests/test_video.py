"""Video in, full-range luma out: exact values, damage, frame times, every decoder."""

import errno
import os
import re
import subprocess
import sys
from fractions import Fraction
from math import floor
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from videos import LENIENT, gradient, grey_frame, numbered, write_video

from spikedata.errors import MissingExtraError, VideoError
from spikedata.video import VideoConfig, open_video
from spikedata.video.container import missing_bytes
from spikedata.video.decoders import range_table
from spikedata.video.resample import find_timing, hold_at_rate

DECODERS = ("pyav", "opencv", "decord")
has_decord = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import decord"], capture_output=True).returncode != 0,
    reason="decord is not installed",
)


def read(path, *, frames=16, **settings):
    """All luma of a video, and its account."""
    with open_video(path, VideoConfig(**settings)) as video:
        blocks = list(video.blocks(frames))
        assert all(block.shape[1:] == (video.height_px, video.width_px) for block in blocks)
        return np.concatenate(blocks), video.account()


# --- luma values ---------------------------------------------------------------------------------


def by_hand(code, low, high):
    """Full-range luma of one code, in exact fractions."""
    luma = Fraction(code - low, high - low) * 255
    return min(255, max(0, floor(luma + Fraction(1, 2))))


def test_limited_range_is_expanded_by_these_values():
    table = range_table(limited=True)
    known = {0: 0, 15: 0, 16: 0, 17: 1, 18: 2, 126: 128, 128: 130, 234: 254, 235: 255, 255: 255}
    assert {code: int(table[code]) for code in known} == known


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 16])
def test_range_tables_round_to_nearest(bits):
    scale = 1 << bits - 8
    limited, full = range_table(bits, limited=True), range_table(bits, limited=False)
    for code in range(0, 1 << bits, max(1, scale // 3)):
        assert limited[code] == by_hand(code, 16 * scale, 235 * scale)
        assert full[code] == by_hand(code, 0, (1 << bits) - 1)


@pytest.mark.parametrize(
    ("pix_fmt", "color_range", "limited"),
    [
        ("yuv420p", 0, True),
        ("yuv420p", 1, True),
        ("yuv420p", 2, False),
        ("yuv444p", 0, True),
        ("gray", 0, False),
        ("gray", 1, True),
        ("gray", 2, False),
    ],
)
def test_luma_is_exact(tmp_path, pix_fmt, color_range, limited):
    codes = gradient(width=71 if pix_fmt != "yuv420p" else 70)  # odd widths pad their lines
    path = write_video(tmp_path / "a.mkv", codes, pix_fmt=pix_fmt, color_range=color_range)
    luma, account = read(path)
    assert np.array_equal(luma, range_table(limited=limited)[codes])
    assert account["colour_range"] == ("limited" if limited else "full")
    assert account["pixel_format"] == pix_fmt


@pytest.mark.parametrize(("pix_fmt", "limited"), [("yuv420p10le", True), ("gray10le", False)])
def test_ten_bit_luma_is_exact(tmp_path, pix_fmt, limited):
    codes = gradient().astype(np.uint16) * 4 + 1
    luma, _ = read(write_video(tmp_path / "a.mkv", codes, pix_fmt=pix_fmt))
    assert np.array_equal(luma, range_table(10, limited=limited)[codes])


def test_nv12_luma_is_read_from_its_plane(tmp_path):
    path = write_video(tmp_path / "a.mkv", gradient(), codec="rawvideo", pix_fmt="nv12")
    assert np.array_equal(read(path)[0], range_table(limited=True)[gradient()])


def test_jpeg_range_is_left_alone(tmp_path):
    flat = np.full((3, 32, 32), 200, np.uint8)
    path = write_video(tmp_path / "a.avi", flat, codec="mjpeg", pix_fmt="yuvj420p", color_range=2)
    luma, account = read(path)
    assert account["colour_range"] == "full"
    assert np.abs(luma.astype(int) - 200).max() <= 1  # JPEG rounds; expanding would give 214


def write_array_video(path, frames_nhwc, codec, pix_fmt, array_format):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames_nhwc.shape[1:3]
        stream.pix_fmt = pix_fmt
        for number, array in enumerate(frames_nhwc):
            frame = av.VideoFrame.from_ndarray(array, format=array_format)
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("a.mkv", "ffv1", "bgr0"), ("a.avi", "rawvideo", "bgr24"), ("b.avi", "png", "rgb24")],
)
def test_rgb_gives_bt601_luma(tmp_path, name, codec, pix_fmt):
    rgb = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    luma, account = read(write_array_video(tmp_path / name, rgb, codec, pix_fmt, "rgb24"))
    want = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma - want).max() < 0.51  # rounding, in 14-bit fixed point
    assert account["colour_range"] == "full"


def test_packed_yuv_keeps_its_luma(tmp_path):
    codes = gradient(3)
    yuyv = np.full((*codes.shape, 2), 128, np.uint8)
    yuyv[..., 0] = codes
    path = write_array_video(tmp_path / "a.avi", yuyv, "rawvideo", "yuyv422", "yuyv422")
    assert np.array_equal(read(path)[0], range_table(limited=True)[codes])


# --- size ----------------------------------------------------------------------------------------


def test_shrinking_averages_areas(tmp_path):
    codes = gradient(3, height=24, width=32)
    path = write_video(tmp_path / "a.mkv", codes, pix_fmt="gray")
    luma, account = read(path, resize=(12, 16))
    mean = codes.reshape(3, 12, 2, 16, 2).mean(axis=(2, 4))
    assert luma.shape == (3, 12, 16)
    assert np.abs(luma - mean).max() <= 0.5
    assert account["resized_by"].startswith("opencv ")


def test_growing_keeps_flat_frames_flat(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(4), pix_fmt="gray")
    luma, account = read(path, resize=(20, 40))
    assert np.array_equal(luma, numbered(4, 20, 40))
    assert (account["source_height_px"], account["source_width_px"]) == (16, 16)


@pytest.mark.skipif(
    not hasattr(av.video.stream.VideoStream, "set_display_rotation"),
    reason="this PyAV writes no rotation",
)
@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation_is_applied_as_opencv_does(tmp_path, turn):
    codes = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[None, :, None], 32, axis=2)
    path = write_video(tmp_path / "a.mp4", codes.repeat(3, 0), codec="mpeg4", rotation=turn)
    luma, _ = read(path)
    peer, _ = read(path, decoder="opencv")
    assert luma.shape == peer.shape == ((3, 24, 32) if turn == 180 else (3, 32, 24))
    assert np.abs(luma.astype(int) - peer).max() <= 2  # OpenCV goes through RGB
    along = luma[0].mean(axis=0 if turn != 180 else 1)
    assert abs(along[-1] - along[0]) > 200


# --- blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 3, 7, 16])
def test_block_length_changes_nothing(tmp_path, frames):
    path = write_video(tmp_path / "a.mkv", numbered(7), pix_fmt="gray")
    with open_video(path) as video:
        lengths = [len(block) for block in video.blocks(frames)]
    assert lengths == [frames] * (7 // frames) + ([7 % frames] if 7 % frames else [])
    luma, account = read(path, frames=frames)
    assert np.array_equal(luma, numbered(7))
    assert account["frames"] == account["frames_decoded"] == 7


def test_blocks_are_read_once(tmp_path):
    with open_video(write_video(tmp_path / "a.mkv", numbered(3))) as video:
        list(video.blocks())
        with pytest.raises(ValueError, match="once"):
            video.blocks()
    with open_video(tmp_path / "a.mkv") as video, pytest.raises(ValueError, match="positive"):
        video.blocks(0)


@pytest.mark.parametrize(
    "settings",
    [{"decoder": "vlc"}, {"resize": (0, 4)}, {"fps": 0}, {"fps": float("nan")}, {"damaged": "no"}],
)
def test_config_refuses_what_makes_no_sense(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        VideoConfig(**settings)


# --- frame times ---------------------------------------------------------------------------------


def test_variable_rate_is_resampled_to_its_usual_spacing(tmp_path):
    times_ms = [0, 80, 160, 240, 400, 440]  # three of five gaps are 80 ms: 12.5 a second
    path = write_video(tmp_path / "a.mkv", numbered(6), pix_fmt="gray", times_ms=times_ms)
    luma, account = read(path)
    assert luma[:, 0, 0].tolist() == [0, 1, 2, 3, 3, 4, 5]
    assert account["variable_rate"] is True
    assert account["frame_rate"] == "25/2"
    assert (account["frames"], account["frames_decoded"]) == (7, 6)


def test_a_pause_costs_no_frame(tmp_path):
    times_ms = [*range(0, 800, 40), *range(20_000, 20_800, 40)]
    path = write_video(tmp_path / "a.mkv", numbered(40), pix_fmt="gray", times_ms=times_ms)
    luma, account = read(path)
    assert account["frame_rate"] == "25"
    assert np.unique(luma[:, 0, 0]).tolist() == list(range(40))
    assert len(luma) == 25 * 20 + 20


def test_fps_repeats_and_drops_whole_frames(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(30), pix_fmt="gray", rate=30)
    assert read(path, fps=10)[0][:, 0, 0].tolist() == list(range(0, 30, 3))
    assert read(path, fps=60)[0][:, 0, 0].tolist() == [n // 2 for n in range(60)]
    assert read(path, fps=45)[0][:, 0, 0].tolist() == [n * 2 // 3 for n in range(45)]
    luma, account = read(path, fps=30)
    assert np.array_equal(luma, numbered(30))
    assert (account["frame_rate"], account["source_frame_rate"]) == ("30", "30")


def test_variable_rate_at_a_given_rate(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(4), pix_fmt="gray", times_ms=[0, 100, 150, 400])
    # the median gap is 100 ms, so the last frame lasts until 500 ms
    assert read(path, fps=20)[0][:, 0, 0].tolist() == [0, 0, 1, 2, 2, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("decoder", ["opencv", pytest.param("decord", marks=has_decord)])
def test_other_decoders_keep_frame_times_too(tmp_path, decoder):
    codes = numbered(6, 64, 64) * 20 + 50
    path = write_video(
        tmp_path / "a.mkv", codes, color_range=1, times_ms=[0, 80, 160, 240, 400, 440]
    )
    luma, account = read(path, decoder=decoder)
    want = range_table(limited=True)[codes][[0, 1, 2, 3, 3, 4, 5], 0, 0]
    assert account["variable_rate"] is True
    assert np.abs(luma[:, 8, 8].astype(int) - want).max() <= 1


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), 240])
def test_rounded_times_are_still_constant(tmp_path, rate):
    path = write_video(tmp_path / "a.mkv", numbered(50), pix_fmt="gray", rate=rate)
    luma, account = read(path)
    assert (account["frame_rate"], account["variable_rate"]) == (str(rate), False)
    assert np.array_equal(luma, numbered(50))


def timing_of(times, **settings):
    return find_timing(np.array(times), Fraction(1, 1000), settings.get("stated", ()))


def test_what_counts_as_variable():
    even = [round(n * 1000 / 30) for n in range(300)]
    jitter = [t + (-3, 3, 1, 0)[n % 4] for n, t in enumerate(even)]
    gap = even[:100] + even[101:]
    thirty = (Fraction(1000), Fraction(30))
    assert timing_of(even, stated=thirty).rate == 30
    assert not timing_of(jitter, stated=thirty).variable
    assert timing_of(gap, stated=thirty).variable
    assert timing_of(gap, stated=thirty).rate == 30  # the stated rate is within a tenth
    assert timing_of([0, 100, 200, 500], stated=()).rate == 10
    assert timing_of([0, 0, 0, 300], stated=()).rate == 10  # most gaps are nothing: the average
    assert timing_of([], stated=(None,)) is None
    assert timing_of([7], stated=(Fraction(25),)).rate == 25


def name_that_is_not_utf_8(folder):
    return Path(os.fsdecode(os.fsencode(folder) + b"/\xff.mkv"))


def test_a_name_that_is_not_utf_8_opens(tmp_path):
    path = name_that_is_not_utf_8(tmp_path)
    write_video(tmp_path / "a.mkv", numbered(3), pix_fmt="gray").rename(path)
    assert np.array_equal(read(path)[0], numbered(3))
    path.write_text("no video")
    with pytest.raises(VideoError, match="not a video that FFmpeg can open"):
        open_video(path)


@pytest.mark.parametrize("decoder", ["opencv", pytest.param("decord", marks=has_decord)])
def test_a_name_that_crashes_a_decoder_is_refused(tmp_path, decoder):
    path = name_that_is_not_utf_8(tmp_path)
    write_video(tmp_path / "a.mkv", numbered(3)).rename(path)
    with pytest.raises(VideoError, match="name that is not UTF-8"):
        open_video(path, VideoConfig(decoder=decoder))


def test_a_leap_in_time_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(3), times_ms=[0, 40, 90_000_000])
    with pytest.raises(VideoError, match=r"90,000 s after"):
        open_video(path)


@given(
    gaps=st.lists(st.integers(0, 50), min_size=1, max_size=20),
    rate=st.fractions(min_value=1, max_value=200, max_denominator=50),
)
def test_held_frames_are_the_latest_at_each_time(gaps, rate):
    times = [Fraction(sum(gaps[:n]), 100) for n in range(len(gaps) + 1)]
    last_s = Fraction(1, 25)
    got = list(hold_at_rate(zip(times, range(len(times)), strict=True), rate, last_s, Fraction(0)))
    due = [n / rate for n in range(len(got) + 1)]
    want = [max(n for n, t in enumerate(times) if t <= when) for when in due[:-1]]
    assert got == want
    assert due[-2] < times[-1] + last_s <= due[-1]


# --- bad input -----------------------------------------------------------------------------------


def refusal(path, **settings):
    with pytest.raises(VideoError) as caught:
        read(path, **settings)
    said = str(caught.value)
    assert "\n" not in said
    assert said.isprintable()
    return said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"This is a text file, not a video.\n" * 40, "not a video that FFmpeg can open"),
        (bytes(range(256)) * 300, "not a video that FFmpeg can open"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "is a playlist"),
        (b"ffconcat version 1.0\nfile other.avi\n", "is a playlist"),
    ],
    # pytest puts a test's name into the environment, where a file's bytes are too much.
    ids=["empty", "text", "bytes", "playlist", "list"],
)
def test_what_is_no_video_is_told_in_one_line(tmp_path, content, said):
    path = tmp_path / "a.avi"
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert said in message


def test_paths_that_cannot_be_read(tmp_path):
    assert refusal(tmp_path).startswith(f"{tmp_path}: is a folder")
    assert "No such file" in refusal(tmp_path / "none.avi")
    os.mkfifo(tmp_path / "pipe.avi")
    assert "not a regular file" in refusal(tmp_path / "pipe.avi")
    odd = tmp_path / "two\nlines\x1b.avi"
    odd.write_bytes(b"text")
    assert "two\\nlines\\x1b.avi: " in refusal(odd)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read anything")
def test_unreadable_file(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(3))
    path.chmod(0)
    assert "Permission denied" in refusal(path)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.rate, sound.pts = 8000, 0
        container.mux(stream.encode(sound))
    assert "holds no video stream" in refusal(path)


@pytest.fixture
def moving(tmp_path):
    """A lossy MPEG-4 AVI with motion, 30 frames of 64 x 96."""
    y, x = np.mgrid[:64, :96]
    codes = [120 + 80 * np.sin((x + 3 * n) / 9) * np.cos((y - 2 * n) / 7) for n in range(30)]
    grain = np.random.default_rng(0).integers(-15, 16, (30, 64, 96))
    codes = (np.array(codes) + grain).astype(np.uint8)
    return write_video(tmp_path / "moving.avi", codes, codec="mpeg4")


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_cut_off_file_gives_what_is_there(tmp_path, moving, share):
    check_cut(tmp_path, moving, share)


def check_cut(tmp_path, path, share):
    whole, _ = read(path, damaged="refuse")
    data = path.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: int(len(data) * share)])
    luma, account = read(cut)
    sound = len(luma) - account["frames_concealed"]
    assert 0 < sound <= len(whole)
    assert account["frames_concealed"] <= 1  # only the frame that the cut went through
    assert np.array_equal(luma[:sound], whole[:sound])
    assert account["truncated"] is True
    assert account["packets_missing"] == account["frames_promised"] - len(luma)
    assert account["frames_lost"] == account["packets_missing"]
    assert account["frames"] == account["frames_decoded"] == len(luma)
    missing = len(data) - cut.stat().st_size
    assert f"is cut off: {missing} bytes are missing" in refusal(cut, damaged="refuse")


def test_damage_inside_is_counted(tmp_path, moving):
    data = bytearray(moving.read_bytes())
    for place in range(len(data) // 2, len(data) * 3 // 4, 60):
        data[place] ^= 0x5A
    broken = tmp_path / "broken.avi"
    broken.write_bytes(data)
    luma, account = read(broken)
    assert account["frames_bad"] > 0
    assert sum(account["problems"].values()) == account["frames_bad"]
    assert len(luma) == 30
    assert account["frames_held"] == len(luma) - account["frames_decoded"]
    assert "is damaged" in refusal(broken, damaged="refuse")


def test_opencv_goes_on_past_damage_as_pyav_does(tmp_path, moving):
    data = bytearray(moving.read_bytes())
    starts = [found.end() + 4 for found in re.finditer(rb"00dc", data)]
    for start in starts[10:13]:
        data[start : start + 16] = b"\xff" * 16  # no picture begins here any more
    broken = tmp_path / "broken.avi"
    broken.write_bytes(data)
    luma, account = read(broken)
    peer, said = read(broken, decoder="opencv")
    assert len(luma) == len(peer) == 30
    assert account["frames_held"] == said["frames_held"] == account["frames_bad"] > 0
    assert said["frames_bad"] == account["frames_bad"] - account["frames_concealed"] > 0
    assert "is damaged" in refusal(broken, decoder="opencv", damaged="refuse")


def test_decoding_damage_leaves_stderr_alone(tmp_path, moving):
    data = bytearray(moving.read_bytes())
    data[len(data) // 2 : len(data) * 3 // 4 : 50] = b"\x55" * len(
        range(len(data) // 2, len(data) * 3 // 4, 50)
    )
    broken = tmp_path / "broken.avi"
    broken.write_bytes(data)
    code = (
        "import sys; from spikedata.video import VideoConfig, open_video\n"
        "for decoder in ('pyav', 'opencv'):\n"
        "    with open_video(sys.argv[1], VideoConfig(decoder=decoder)) as video:\n"
        "        print(sum(map(len, video.blocks())) > 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(broken)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("True\nTrue\n", "")


def test_frames_of_another_size_are_scaled(tmp_path):
    small = write_video(
        tmp_path / "a.mjpeg", numbered(3, 32, 32) + 100, codec="mjpeg", pix_fmt="yuvj420p"
    )
    large = write_video(
        tmp_path / "b.mjpeg", numbered(2, 48, 64) + 100, codec="mjpeg", pix_fmt="yuvj420p"
    )
    mixed = tmp_path / "mixed.mjpeg"
    mixed.write_bytes(small.read_bytes() + large.read_bytes() + small.read_bytes())
    luma, account = read(mixed)
    assert luma.shape == (8, 32, 32)
    assert np.abs(luma[:, 9, 9].astype(int) - [100, 101, 102, 100, 101, 100, 101, 102]).max() <= 1
    assert (account["frames_scaled"], account["frames_bad"]) == (2, 0)
    assert account["problems"] == {"frame size changed": 2}
    assert "frame size changed" in refusal(mixed, damaged="refuse")


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.mp4", "a.mov"])
def test_containers_say_what_is_missing(tmp_path, name):
    codec = "ffv1" if name == "a.mkv" else "mpeg4"
    path = write_video(tmp_path / name, gradient(), codec=codec)
    assert missing_bytes(path) == 0
    data = path.read_bytes()
    path.write_bytes(data[:-500])
    assert missing_bytes(path) == 500
    path.write_bytes(data + b"\0" * 9)
    assert missing_bytes(path) == 0


def test_containers_that_do_not_say(tmp_path):
    path = tmp_path / "a"
    for content in (
        b"",
        b"RIFF",
        b"RIFF\xff\xff\xff\xffAVI ",
        b"\x1a\x45\xdf\xa3",
        b"\x1a\x45\xdf\xa3\x00",
    ):
        path.write_bytes(content)
        assert missing_bytes(path) is None


@example(content=b"\x01\x00\x10\x00\x00\x00\x00\x00", magic=b"\x1a\x45\xdf\xa3")  # 4 PiB on
@given(
    content=st.binary(max_size=64),
    magic=st.sampled_from([b"RIFF", b"\x1a\x45\xdf\xa3", b"\0\0\0\x08mdat"]),
)
def test_any_bytes_have_an_answer(tmp_path_factory, content, magic):
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(magic + content)
    answer = missing_bytes(path)
    assert answer is None or answer >= 0


# --- which decoder -------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["opencv", pytest.param("decord", marks=has_decord)])
def test_decoders_agree(moving, decoder):
    luma, _ = read(moving)
    peer, account = read(moving, decoder=decoder)
    assert account["decoder"] == decoder
    assert luma.shape == peer.shape
    assert np.abs(luma.astype(int) - peer).max() <= 2  # through RGB and back, rounded twice


def test_opencv_steps_in_where_pyav_is_missing(moving, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    luma, account = read(moving)
    assert account["decoder"] == "opencv"
    assert account["fallback"].startswith("pyav: ")
    assert len(luma) == 30
    with pytest.raises(ImportError):
        open_video(moving, VideoConfig(decoder="pyav"))


@pytest.mark.parametrize("decoder", ["auto", "opencv", pytest.param("decord", marks=has_decord)])
def test_no_decoder_steps_in_where_the_system_does_not_give_the_file(moving, monkeypatch, decoder):
    """It would give other bits than there would have been; and give them for good."""

    def refuse(*_args, **_options):
        raise av.error.OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(VideoError) as caught:
        open_video(moving, VideoConfig(decoder=decoder))
    assert str(caught.value) == f"{moving}: cannot be read: Too many open files"


def test_a_missing_decord_names_its_command(moving, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'spklip\[decord\]'"):
        open_video(moving, VideoConfig(decoder="decord"))


@pytest.mark.parametrize("decoder", [*DECODERS[:2], pytest.param("decord", marks=has_decord)])
def test_every_decoder_refuses_text(tmp_path, decoder):
    path = tmp_path / "a.avi"
    path.write_text("no video\n" * 50)
    assert refusal(path, decoder=decoder).startswith(f"{path}: is not a video that ")


# --- real clips ----------------------------------------------------------------------------------


def real_clips(shared_data, step=1):
    clips = sorted(shared_data.glob("ucf101/*/*.avi"))
    assert len(clips) == 132
    return clips[::step]


def bare_decode(path):
    """Plane 0 of every frame, by the shortest way."""
    with av.open(str(path), **LENIENT) as container:
        for frame in container.decode(video=0):
            plane = frame.planes[0]
            lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            yield lines[: frame.height, : frame.width]


def test_real_clips_are_constant_rate_and_exact(shared_data):
    paths = [*real_clips(shared_data, 16), *sorted(shared_data.glob("hmdb51/*/*.avi"))]
    assert len(paths) == 13
    table = range_table(limited=True)
    for path in paths:
        luma, account = read(path, damaged="refuse")
        want = np.stack(list(bare_decode(path)))
        assert np.array_equal(luma, table[want])
        assert account["variable_rate"] is False
        assert account["frame_rate"] in {"25", "30", "30000/1001"}
        assert account["frames_bad"] == 0
        assert account["frames_promised"] - len(luma) in range(7)
        assert account["packets_missing"] == 0


@pytest.mark.slow
def test_every_real_clip_is_read_whole(shared_data):
    paths = [*real_clips(shared_data), *sorted(shared_data.glob("hmdb51/*/*.avi"))]
    frames = sum(len(read(path, damaged="refuse")[0]) for path in paths)
    assert frames == 15_998  # 5 of them say "as before"


def test_a_title_that_is_not_utf8_is_no_obstacle(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        container.mux(stream.encode(grey_frame(np.full((32, 32), 100, np.uint8), "yuv420p")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert data.count(b"TITLE") == 1
    path.write_bytes(data.replace(b"TITLE", b"\xff\xfe\xe9t\xe9"))
    assert read(path)[0].shape == (1, 32, 32)


def test_metadata_that_is_not_utf8_is_no_obstacle(shared_data):
    (path,) = shared_data.glob("hmdb51/cartwheel/*.avi")
    luma, account = read(path)
    assert luma.shape == (83, 240, 320)
    assert account["frames_promised"] == 84


@pytest.mark.parametrize("decoder", ["opencv", pytest.param("decord", marks=has_decord)])
def test_decoders_agree_on_real_clips(shared_data, decoder):
    for path in real_clips(shared_data, 60):
        luma, _ = read(path)
        peer, _ = read(path, decoder=decoder)
        assert luma.shape == peer.shape
        gap = np.abs(luma[::16].astype(int) - peer[::16])
        # They go through RGB: a conversion that truncates, so they are a level darker, and that
        # clips luma whose colour lies outside RGB.
        assert gap.mean() < 2
        assert np.percentile(gap, 90) <= 2


@has_decord
def test_decord_is_not_believed_on_narrow_frames(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(3))
    assert "too narrow for decord" in refusal(path, decoder="decord")


@has_decord
def test_decord_repeats_frames_at_the_end(shared_data):
    path = shared_data / "hmdb51/wave/SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi"
    luma, account = read(path)
    peer, said = read(path, decoder="decord")
    assert len(peer) > len(luma)
    assert np.array_equal(peer[-1], peer[-2])
    assert said["frames_may_repeat"] is True
    assert "frames_may_repeat" not in account


@pytest.mark.parametrize("share", [0.05, 0.5, 0.77, 0.99])
def test_a_real_clip_cut_off(tmp_path, shared_data, share):
    check_cut(tmp_path, real_clips(shared_data)[6], share)
