"""Folders of numbered pictures are videos."""

import os

os.environ["OPENCV_IO_ENABLE_OPENEXR"] = "1"  # to write them, before OpenCV is loaded

import cv2
import numpy as np
import pytest

from spikedata.errors import VideoError
from spikedata.video import PICTURE_SUFFIXES, VideoConfig, is_picture_folder, losses, open_video


def read(path, **settings):
    with open_video(path, VideoConfig(**settings)) as video:
        return np.concatenate(list(video.blocks())), video.account()


def flat(code, height=12, width=18, dtype=np.uint8):
    return np.full((height, width), code, dtype)


def write(folder, pictures):
    folder.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        if isinstance(picture, bytes):
            (folder / name).write_bytes(picture)
        else:
            assert cv2.imwrite(str(folder / name), picture)
    return folder


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg", ".bmp", ".tif", ".tiff"])
def test_pictures_come_in_order_of_number(tmp_path, suffix):
    assert suffix.lower() in PICTURE_SUFFIXES
    folder = write(tmp_path / "a", {f"shot_{n}{suffix}": flat(10 * n) for n in (8, 9, 10, 11)})
    (folder / "notes.txt").write_text("not a picture")
    luma, account = read(folder, fps=120)
    assert luma.shape == (4, 12, 18)
    assert luma[:, 5, 5].tolist() == [80, 90, 100, 110]
    assert account["frame_rate"] == account["source_frame_rate"] == "120"
    assert (account["container"], account["colour_range"]) == ("pictures", "full")
    assert losses(account) == {}


def test_colour_gives_bt601_luma(tmp_path):
    bgr = np.random.default_rng(0).integers(0, 256, (2, 12, 18, 3), np.uint8)
    luma, _ = read(write(tmp_path / "a", {"1.png": bgr[0], "2.png": bgr[1]}), fps=25)
    assert np.abs(luma - bgr @ np.array([0.114, 0.587, 0.299])).max() < 0.51


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    codes = np.arange(0, 65536, 331, dtype=np.uint16).reshape(11, 18)
    luma, _ = read(write(tmp_path / "a", {"1.png": codes, "2.png": codes}), fps=25)
    assert np.array_equal(luma[0], np.floor(codes / 257 + 0.5))


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
def test_linear_light_gets_the_srgb_curve(tmp_path, suffix):
    # worked by hand: 12.92 * 0.001 * 255 = 3.3; (1.055 * 0.5 ** (1 / 2.4) - 0.055) * 255 = 187.5
    light = np.array([0, 0.001, 0.25, 0.5, 1, 7], np.float32)
    picture = np.broadcast_to(light[None, :, None], (8, 6, 3)).copy()
    try:
        folder = write(tmp_path / "a", {f"1{suffix}": picture, f"2{suffix}": picture})
    except cv2.error:
        pytest.skip(f"this OpenCV writes no {suffix}")
    luma, _ = read(folder, fps=25)
    assert np.abs(luma[0, 4].astype(int) - [0, 3, 137, 188, 255, 255]).max() <= 1


def test_what_is_missing_is_held_and_told(tmp_path):
    pictures = {f"{n:03}.png": flat(n) for n in (3, 4, 7, 8, 9)}
    pictures["008.png"] = b"no picture"
    pictures["009.png"] = flat(9, 24, 36)
    folder = write(tmp_path / "a", pictures)
    luma, account = read(folder, fps=50)
    assert luma[:, 5, 5].tolist() == [3, 4, 4, 4, 7, 7, 9]
    assert losses(account) == {"frames held": 3, "frames scaled": 1, "frames damaged": 1}
    with pytest.raises(VideoError, match="lacks frames: 2"):
        read(folder, fps=50, damaged="refuse")


def test_a_last_picture_that_cannot_be_read_is_held(tmp_path):
    folder = write(tmp_path / "a", {"1.png": flat(1), "2.png": flat(2), "3.png": b"cut"})
    luma, account = read(folder, fps=50)
    assert luma[:, 0, 0].tolist() == [1, 2, 2]
    assert account["frames_held"] == 1


def test_the_rate_is_that_of_filming_if_given(tmp_path):
    folder = write(tmp_path / "a", {f"{n}.png": flat(n) for n in range(8)})
    luma, account = read(folder, capture_fps=1000, fps=500)
    assert luma[:, 0, 0].tolist() == [0, 2, 4, 6]
    assert account["frame_rate"] == "500"


def test_a_rate_is_needed(tmp_path):
    folder = write(tmp_path / "a", {"1.png": flat(1), "2.png": flat(2)})
    with pytest.raises(VideoError, match=r"has no frame rate; give it with --fps"):
        open_video(folder)


@pytest.mark.parametrize(
    "names",
    [[], ["1.png"], ["a1.png", "b2.png"], ["1.png", "2.jpg"], ["1.png", "01.png"], ["cat.png"]],
)
def test_what_is_no_series_is_no_picture_folder(tmp_path, names):
    folder = write(tmp_path / "a", {name: flat(1) for name in names})
    assert not is_picture_folder(folder)
    assert is_picture_folder(write(tmp_path / "b", {"x1.png": flat(1), "x2.png": flat(1)}))
    assert not is_picture_folder(tmp_path / "none")
    if len(names) != 1 or names == ["cat.png"]:
        with pytest.raises(VideoError, match="is a folder, not a video"):
            open_video(folder, VideoConfig(fps=25))


def test_a_leap_in_the_numbers_is_refused(tmp_path):
    folder = write(tmp_path / "a", {"1.png": flat(1), "20200101120000.png": flat(2)})
    with pytest.raises(VideoError, match="damaged times"):
        open_video(folder, VideoConfig(fps=25))
