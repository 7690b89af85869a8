"""The other decoders: OpenCV and decord.

Both convert to RGB, and cannot say that a frame was damaged or that a time slot is empty.
"""

import importlib.util
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from spikedata.apart import LONGEST_WAIT_S, Apart, Message
from spikedata.errors import MissingExtraError, SpikeDataError, VideoError
from spikedata.video.decoders import Shot, Tally
from spikedata.video.resample import Timing, as_rate, find_timing
from spikedata.video.streams import (
    MOST_PIXELS,
    check_frame_size,
    chosen_by_ffmpeg,
    video_stream_number,
)

_MOST_MISSES = 16
"""Frames in a row that OpenCV may fail to give before the video counts as ended."""
_SLOWEST_BYTES_S = 10_000_000
"""decord reads a file through when it opens it: from a slow disk at this rate."""
_DECORD_MEMORY_BYTES = 2 << 30
"""Frames that refer to each other, of 8K, and what its threads reserve."""


class _RgbReader:
    """What neither library tells, and its clock: milliseconds."""

    tick_s: Fraction = Fraction(1, 1000)
    expected: int | None = None
    expects_by_header: bool = False
    duration_s: Fraction | None = None
    transfer: str | None = None


class OpenCVReader(_RgbReader):
    """FFmpeg through OpenCV: BGR, limited range already expanded."""

    decoder = "opencv"

    def __init__(self, path: Path) -> None:
        import cv2  # noqa: PLC0415 - the fallback, so only when wanted

        self._cv2: Any = cv2
        self.version: str = cv2.__version__
        self._path = _utf8_name(path)
        if video_stream_number(path):
            raise VideoError("holds several streams, of which OpenCV shows but the first")
        self._capture = self._open()
        promised = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.promised: int | None = int(promised) if promised > 0 else None
        self._has_times = path.suffix.lower() != ".avi"
        self.timing = self._find_timing()
        self.tally = Tally()
        self.details: dict[str, Any] = {"colour_range": "full", "range_tag": "converted by OpenCV"}

    def _open(self) -> Any:
        cv2 = self._cv2
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # else its FFmpeg writes to stderr
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            capture = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        finally:
            cv2.utils.logging.setLogLevel(level)
        if not capture.isOpened():
            raise VideoError("is not a video that OpenCV can open")
        sides = cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH
        check_frame_size(*(int(capture.get(side)) for side in sides))
        return capture

    def _find_timing(self) -> Timing | None:
        """A pass that decodes without converting: OpenCV tells a frame's time only then."""
        stated = as_rate(self._capture.get(self._cv2.CAP_PROP_FPS))
        times = []
        if self._has_times:
            scan = self._open()
            while scan.grab():
                times.append(round(scan.get(self._cv2.CAP_PROP_POS_MSEC)))
            scan.release()
        return find_timing(np.sort(np.array(times, dtype=np.int64)), self.tick_s, (stated,))

    def shots(self) -> Iterator[Shot]:
        """Decode to BGR, then to luma; what fails is tried past, since OpenCV stops there."""
        misses = 0
        while misses <= _MOST_MISSES:
            good, bgr_hwc = self._capture.read()
            if not good:  # damage or the end: only a frame that comes after all tells
                misses += 1
                continue
            if misses:
                self.tally.failed += misses
                self.tally.problems["no frame given"] += misses
                misses = 0
            number = self.tally.decoded + self.tally.failed
            self.tally.decoded += 1
            time_s = None
            if self._has_times:
                time_s = round(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) * self.tick_s
            yield Shot(time_s, self._cv2.cvtColor(bgr_hwc, self._cv2.COLOR_BGR2GRAY), None, number)

    def close(self) -> None:
        """Release the file."""
        self._capture.release()


class DecordReader(_RgbReader):
    """FFmpeg through decord, in a child: RGB. It repeats frames, untold, where it cannot decode."""

    decoder = "decord"

    def __init__(self, path: Path) -> None:
        if importlib.util.find_spec("decord") is None:
            raise MissingExtraError(
                "decoder 'decord' is not installed: pip install 'spklip[decord]'"
            )
        if not chosen_by_ffmpeg(path):
            raise VideoError("holds several streams, and decord cannot be told which to show")
        self._said = Apart(
            "spikedata.video.decord_frames:list_frames",
            _utf8_name(path),
            most_bytes=MOST_PIXELS,
            wait_s=LONGEST_WAIT_S + path.stat().st_size / _SLOWEST_BYTES_S,
            memory_bytes=_DECORD_MEMORY_BYTES,
        )
        try:
            opened, times = self._hear(), self._hear()
        except BaseException:
            self._said.close()
            raise
        assert isinstance(opened, dict)
        assert isinstance(times, bytes)
        self.version: str = opened["version"]
        self.promised: int | None = opened["promised"]
        self._has_times = path.suffix.lower() != ".avi"
        times_ms = np.frombuffer(times if self._has_times else b"", np.int64)
        stated = as_rate(opened["frame_rate"])
        self.timing = find_timing(np.sort(times_ms), self.tick_s, (stated,))
        self.tally = Tally()
        self.details: dict[str, Any] = {
            "colour_range": "full",
            "range_tag": "converted by decord",
            "frames_may_repeat": True,
        }

    def _hear(self) -> Message | None:
        """What the child says next; None at its end."""
        try:
            return next(self._said, None)
        except SpikeDataError as error:
            raise VideoError(str(error)) from error

    def shots(self) -> Iterator[Shot]:
        """Take in frame by frame; the child is at most one ahead."""
        while isinstance(told := self._hear(), dict):
            if "problem" in told:
                self.tally.failed += 1
                self.tally.problems[told["problem"]] += 1
                return
            luma = self._hear()
            assert isinstance(luma, bytes)
            self.tally.decoded += 1
            codes_hw = np.frombuffer(luma, np.uint8).reshape(told["shape_hw"])
            yield Shot(told["time_ms"] * self.tick_s if self._has_times else None, codes_hw, None)

    def close(self) -> None:
        """End the child."""
        self._said.close()


def _utf8_name(path: Path) -> str:
    """The path as text for a library in C++, which may crash on a name that is none.

    Raises:
        VideoError: the name is not UTF-8.
    """
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise VideoError("has a name that is not UTF-8, which only PyAV can open") from error
    return name
