"""A video's frames by OpenCV, which runs in a process of its own.

It scales frames that claim 256 million pixels to the size of the first without a word; in a child
there is no room for them.
"""

import os
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from spikedata.apart import Message
from spikedata.errors import VideoError
from spikedata.video.streams import check_frame_size

_MOST_MISSES = 16
"""Frames in a row that OpenCV may fail to give before the video counts as ended."""


def list_frames(path: str, timed: str) -> Iterator[Message]:
    """Decode from the first frame to the last, to BGR, then to luma.

    Args:
        path: of the video.
        timed: ``timed`` if the container has times.

    Yields:
        As :func:`spikedata.video.decord_frames.list_frames`.

    Raises:
        VideoError: OpenCV cannot open it.
    """
    capture = _open(path)
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    promised = count if count > 0 else None
    yield {"version": cv2.__version__, "promised": promised, "frame_rate": rate}
    if timed == "timed":  # a pass that decodes without converting tells a frame's time, no other
        scan = _open(path)
        while scan.grab():
            yield np.int64(round(scan.get(cv2.CAP_PROP_POS_MSEC))).tobytes()
        scan.release()
    missed = 0
    while missed <= _MOST_MISSES:
        good, bgr_hwc = capture.read()
        if not good:  # damage or the end: only a frame that comes after all tells
            missed += 1
            continue
        luma_hw = cv2.cvtColor(bgr_hwc, cv2.COLOR_BGR2GRAY)
        time_ms = round(capture.get(cv2.CAP_PROP_POS_MSEC))
        told = {"shape_hw": luma_hw.shape, "time_ms": time_ms, "missed": missed}
        yield told | {"problem": "no frame given"}
        yield luma_hw.tobytes()
        missed = 0


def _open(path: str) -> Any:
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise VideoError("is not a video that OpenCV can open")
    height, width = cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH
    check_frame_size(int(capture.get(height)), int(capture.get(width)))
    return capture
