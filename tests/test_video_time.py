"""A clip lasts as long as its file says: what is missing is held, scaled or told as lost."""

from fractions import Fraction

import av
import numpy as np
import pytest
from videos import grey_frame, numbered, write_video

from spikedata.errors import VideoError
from spikedata.video import VideoConfig, cautions, losses, open_video


def read(path, **settings):
    """Number of each frame of :func:`videos.numbered`, and the account."""
    with open_video(path, VideoConfig(**settings)) as video:
        luma = np.concatenate(list(video.blocks()))
        return luma[:, 8, 8].astype(int).tolist(), video.account()


def write_packets(
    path, slots, *, codec="mjpeg", pix_fmt="yuvj420p", spoilt=(), sizes=None, rate=25
):
    """One packet of a flat frame at each slot, its code 10 times the slot's number.

    Args:
        spoilt: slots whose packets are no picture.
        sizes: height and width of a slot's frame, if not 16 x 16.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = 16, 16, pix_fmt
        for slot in slots:
            height, width = (sizes or {}).get(slot, (16, 16))
            code = np.full((height, width), 10 * slot, np.uint8)
            coder = av.CodecContext.create(codec, "w")
            coder.height, coder.width, coder.pix_fmt = height, width, pix_fmt
            coder.time_base = 1 / Fraction(rate)
            frame = grey_frame(code, pix_fmt)
            frame.color_range = 2
            (packet,) = coder.encode(frame) or coder.encode(None)
            if slot in spoilt:
                packet = av.Packet(b"\x55" * 50)
            packet.stream = stream
            packet.pts = packet.dts = slot
            packet.time_base = 1 / Fraction(rate)
            container.mux(packet)
    return path


def near(got, want):
    return len(got) == len(want) and np.abs(np.array(got) - want).max() <= 2  # JPEG rounds


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.mov"])
def test_a_packet_that_fails_is_held(tmp_path, name):
    path = write_packets(tmp_path / name, range(8), spoilt={3, 4, 7})
    codes, account = read(path)
    assert near(codes, [0, 10, 20, 20, 20, 50, 60, 60])
    assert (account["frames_held"], account["frames_bad"], account["frames_lost"]) == (3, 3, 0)
    assert losses(account) == {"frames held": 3, "frames damaged": 3}
    with pytest.raises(VideoError, match="is damaged"):
        read(path, damaged="refuse")


def test_first_packets_that_fail_are_lost_and_told(tmp_path):
    codes, account = read(write_packets(tmp_path / "a.avi", range(6), spoilt={0, 1}))
    assert near(codes, [20, 30, 40, 50])
    assert (account["frames_held"], account["frames_lost"]) == (0, 2)


def test_null_slots_of_an_avi_are_held(tmp_path):
    path = write_packets(tmp_path / "a.avi", [0, 1, 4, 5, 9])
    codes, account = read(path)
    assert near(codes, [0, 10, 10, 10, 40, 50, 50, 50, 50, 90])
    assert account["frame_rate"] == "25"
    assert (account["frames_held"], account["frames_decoded"]) == (5, 5)
    assert (account["frames_promised"], account["packets_missing"]) == (10, 5)
    with pytest.raises(VideoError, match="lacks frames: 2 held"):
        read(path, damaged="refuse")


def test_held_slots_are_resampled_with_the_rest(tmp_path):
    path = write_packets(tmp_path / "a.avi", [0, 1, 4, 5, 9])
    assert near(read(path, fps=12.5)[0], [0, 10, 40, 50, 50])


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])
def test_a_frame_of_another_size_is_scaled_in_its_place(tmp_path, name):
    path = write_packets(tmp_path / name, range(5), sizes={2: (32, 48), 3: (8, 8)})
    codes, account = read(path)
    assert near(codes, [0, 10, 20, 30, 40])
    assert losses(account) == {"frames scaled": 2}
    assert account["resized_by"].startswith("opencv ")
    for resize in ((20, 20), 20):
        assert near(read(path, resize=resize)[0], [0, 10, 20, 30, 40])
    with pytest.raises(VideoError, match="frame size changed"):
        read(path, damaged="refuse")


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])
def test_a_cut_tail_is_lost_and_told_not_invented(tmp_path, name):
    path = write_packets(tmp_path / name, range(20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
    codes, account = read(path)
    assert account["truncated"] is True
    assert len(codes) + account["frames_lost"] == 20
    assert 0 < account["frames_lost"] < 20
    assert "truncated" in cautions(account)


def test_frames_without_a_time_come_before_those_with_one(tmp_path):
    """As after a cut that did not decode anew: Matroska cannot tell times before its start."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuvj420p"
        for number in range(40):
            frame = grey_frame(np.full((16, 16), 5 * number, np.uint8), "yuvj420p")
            frame.pts, frame.time_base = number - 10, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    codes, account = read(path)
    assert near(codes, [5 * n for n in range(40)])
    assert losses(account) == {}


def test_a_packet_that_says_as_before_repeats_without_being_missed(shared_data):
    path = shared_data / "ucf101/JumpingJack/v_JumpingJack_g20_c01.avi"
    with open_video(path, VideoConfig(damaged="refuse")) as video:
        luma = np.concatenate(list(video.blocks()))
        account = video.account()
    assert len(luma) == 120
    assert [n for n in range(1, 120) if np.array_equal(luma[n], luma[n - 1])] == [7, 27, 37, 97]
    assert account["frames_repeated"] == 4
    assert losses(account) == {}


def test_frames_filmed_faster_than_played(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(10) * 4, pix_fmt="gray", rate=30)
    codes, account = read(path, capture_fps=240)
    assert codes == [4 * n for n in range(10)]
    assert account["frame_rate"] == account["capture_frame_rate"] == "240"
    assert account["source_frame_rate"] == "30"
    codes, account = read(path, capture_fps=240, fps=120)
    assert (codes, account["frame_rate"]) == ([0, 8, 16, 24, 32], "120")


def test_variable_times_are_scaled_to_those_of_filming(tmp_path):
    times_ms = [0, 80, 160, 240, 400, 440]
    path = write_video(tmp_path / "a.mkv", numbered(6), pix_fmt="gray", times_ms=times_ms)
    codes, account = read(path, capture_fps=125)
    assert codes == [0, 1, 2, 3, 3, 4, 5]
    assert account["frame_rate"] == "125"
    assert cautions(account) == ["variable frame rate"]


def test_a_video_without_a_rate_takes_that_of_filming(tmp_path):
    path = tmp_path / "a.mkv"
    write_video(path, numbered(1), pix_fmt="gray")
    assert read(path, capture_fps=500)[1]["frame_rate"] == "500"


def test_a_tail_that_only_an_unfinished_header_claims_is_lost(tmp_path):
    path = write_packets(tmp_path / "a.avi", range(10))
    data = bytearray(path.read_bytes())
    data[4:8] = bytes(4)  # as written by a program that did not come back to say the size
    length = data.index(b"strh") + 8 + 32
    data[length : length + 4] = (500).to_bytes(4, "little")
    path.write_bytes(data)
    codes, account = read(path)
    assert len(codes) == 10
    assert account["frames_lost"] == 490


def test_vp8_frames_that_are_never_shown_are_not_missed(tmp_path):
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        times, hidden = [0, 40, 80, 120, 160], 110
        coder = av.CodecContext.create("libvpx", "w")
        coder.height, coder.width, coder.pix_fmt = 16, 16, "yuv420p"
        coder.time_base = Fraction(1, 1000)
        coder.options = {"lag-in-frames": "0", "deadline": "realtime"}
        for time in sorted([*times, hidden]):
            frame = grey_frame(np.full((16, 16), 40 + time, np.uint8), "yuv420p")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            for packet in coder.encode(frame):
                data = bytearray(bytes(packet))
                if time == hidden:
                    data[0] &= ~0x10
                copy = av.Packet(bytes(data))
                copy.stream, copy.pts, copy.dts = stream, time, time
                copy.time_base, copy.is_keyframe = Fraction(1, 1000), time == 0
                container.mux(copy)
    codes, account = read(path)
    assert len(codes) == account["frames_decoded"] == 5
    assert (account["variable_rate"], losses(account)) == (False, {})
