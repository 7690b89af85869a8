"""Which stream is shown, what its tags say, and how a picture fills another size."""

from fractions import Fraction
from importlib.util import find_spec

import av
import numpy as np
import pytest
from videos import grey_frame, numbered, write_video

from spikedata.errors import VideoError
from spikedata.video import VideoConfig, cautions, losses, open_video

DEFAULT, ATTACHED_PICTURE = 1, 1024


def read(path, **settings):
    with open_video(path, VideoConfig(**settings)) as video:
        return np.concatenate(list(video.blocks())), video.account()


def write_streams(path, streams):
    """Streams of flat frames, each (code, size, frames, disposition)."""
    with av.open(str(path), "w") as container:
        made = []
        for code, size, frames, disposition in streams:
            stream = container.add_stream("mjpeg", rate=25)
            stream.height = stream.width = size
            stream.pix_fmt = "yuvj420p"
            stream.disposition = disposition
            made.append(
                (stream, grey_frame(np.full((size, size), code, np.uint8), "yuvj420p"), frames)
            )
        for stream, frame, frames in made:
            for number in range(frames):
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def shown(path, **settings):
    luma, _ = read(path, **settings)
    return len(luma), luma.shape[1], round(luma.mean())


@pytest.mark.parametrize("decoder", ["auto", "pyav", "opencv"])
@pytest.mark.parametrize("cover_first", [True, False])
def test_a_cover_is_not_the_video(tmp_path, decoder, cover_first):
    cover, video = (200, 64, 1, ATTACHED_PICTURE), (100, 48, 6, DEFAULT)
    streams = [cover, video] if cover_first else [video, cover]
    path = write_streams(tmp_path / "a.mp4", streams)
    assert shown(path, decoder=decoder) == (6, 48, 100)


@pytest.mark.parametrize("decoder", ["auto", "pyav", "opencv"])
def test_a_cover_alone_is_no_video(tmp_path, decoder):
    path = write_streams(tmp_path / "a.mp4", [(200, 64, 1, ATTACHED_PICTURE)])
    with pytest.raises(VideoError, match="holds no video stream, only a cover picture"):
        read(path, decoder=decoder)


@pytest.mark.skipif(find_spec("decord") is None, reason="decord is not installed")
def test_decord_shows_the_video_or_says_that_it_cannot(tmp_path):
    cover, video = (200, 128, 1, ATTACHED_PICTURE), (100, 64, 6, DEFAULT)
    path = write_streams(tmp_path / "a.mp4", [video, cover])
    assert shown(path, decoder="decord") == (6, 64, 100)
    path = write_streams(tmp_path / "b.mp4", [cover])
    with pytest.raises(VideoError, match="only a cover picture"):
        read(path, decoder="decord")
    path = write_streams(tmp_path / "c.avi", [video, (200, 128, 4, 0)])
    with open_video(path) as chosen, av.open(str(path)) as container:
        best = container.streams.best("video")
        if best.height == chosen.height_px:
            assert shown(path, decoder="decord") == (6, 64, 100)
        else:
            with pytest.raises(VideoError, match="decord cannot be told which"):
                read(path, decoder="decord")


def test_opencv_shows_the_video_or_says_that_it_cannot(tmp_path):
    long, short = (100, 64, 6, 0), (200, 128, 2, 0)
    path = write_streams(tmp_path / "a.avi", [long, short])
    assert shown(path) == shown(path, decoder="opencv") == (6, 64, 100)
    path = write_streams(tmp_path / "b.avi", [short, long])
    assert shown(path) == (6, 64, 100)
    with pytest.raises(VideoError, match="OpenCV shows but the first"):
        read(path, decoder="opencv")


def test_the_default_stream_is_shown_else_the_longest(tmp_path):
    short, long = (100, 32, 4, 0), (200, 48, 9, 0)
    path = write_streams(tmp_path / "a.mkv", [(*short[:3], DEFAULT), long])
    assert shown(path) == (4, 32, 100)
    path = write_streams(tmp_path / "b.avi", [short, long])
    assert shown(path) == (9, 48, 200)


@pytest.mark.parametrize(
    ("tag", "transfer"),
    [(1, "bt709"), (2, None), (6, "bt709"), (13, "srgb"), (14, "bt709"), (16, "pq"), (18, "hlg")],
)
def test_the_transfer_curve_is_told_by_its_tag(tmp_path, tag, transfer):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        stream.codec_context.color_trc = tag
        for number in range(2):
            frame = grey_frame(numbered(1)[0], "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with open_video(path) as video:
        assert video.transfer == transfer
        account = video.account()
    hdr = transfer in ("pq", "hlg")
    assert (account["transfer"], account["hdr"]) == (transfer, hdr)
    assert cautions(account) == ([f"HDR ({transfer}) read as identity"] if hdr else [])
    assert cautions(account, transfer="auto") == []


def test_interlaced_video_is_told(tmp_path):
    path = write_video(
        tmp_path / "a.mkv",
        numbered(3, 32, 32),
        codec="mpeg2video",
        options={"flags": "+ilme+ildct"},
    )
    _, account = read(path)
    assert account["interlaced"] is True
    assert cautions(account) == ["interlaced"]
    assert read(write_video(tmp_path / "b.mkv", numbered(3)))[1]["interlaced"] is False


def test_losses_of_an_account_without_the_keys_are_none():
    assert losses({"frames": 3}) == {}
    assert losses({"frames_held": 2, "frames_lost": 0, "frames_bad": 1}) == {
        "frames held": 2,
        "frames damaged": 1,
    }
    assert cautions({"truncated": True, "variable_rate": False}) == ["truncated"]


# --- size ----------------------------------------------------------------------------------------


def bars(height=24, width=48):
    """Black but for a white middle third, uint8 (1, H, W)."""
    codes = np.zeros((1, height, width), np.uint8)
    codes[:, :, width // 3 : 2 * width // 3] = 255
    return codes


@pytest.mark.parametrize(
    ("size", "short", "want"),
    [
        ((24, 48), 12, (12, 24)),
        ((48, 26), 13, (24, 13)),
        ((30, 30), 17, (17, 17)),
        ((20, 42), 33, (33, 70)),
    ],
)
def test_a_short_side_keeps_the_aspect(tmp_path, size, short, want):
    path = write_video(tmp_path / "a.mkv", numbered(1, *size), pix_fmt="gray")
    assert read(path, resize=short, fps=25)[0].shape[1:] == want


def test_cropping_cuts_the_sides_and_padding_adds_black(tmp_path):
    path = write_video(tmp_path / "a.mkv", bars(), pix_fmt="gray")
    (cropped,), account = read(path, resize=(12, 8), fit="crop", fps=25)
    assert account["resized_by"].startswith("opencv ")
    assert (cropped == 255).all()  # of 24 columns the middle 8
    (padded,), _ = read(path, resize=(20, 24), fit="pad", fps=25)
    assert not padded[:4].any()
    assert not padded[16:].any()
    assert (padded[4:16, 8:16] == 255).all()
    assert padded[4:16].sum() == 12 * 8 * 255
    (stretched,), _ = read(path, resize=(12, 12), fps=25)
    assert (stretched[:, 4:8] == 255).all()


@pytest.mark.parametrize("resize", [0, -3, True, (4,), (4, 0), (1, 2, 3)])
def test_sizes_that_make_no_sense_are_refused(resize):
    with pytest.raises(ValueError, match="resize must be a positive"):
        VideoConfig(resize=resize)


@pytest.mark.parametrize("settings", [{"fit": "zoom"}, {"capture_fps": 0.0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        VideoConfig(**settings)
