"""The other decoders: OpenCV and decord.

Both convert to RGB, and cannot say that a frame was damaged or that a time slot is empty.
"""

import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from spikedata.errors import MissingExtraError, VideoError
from spikedata.video.decoders import Shot, Tally
from spikedata.video.resample import Timing, as_rate, find_timing
from spikedata.video.streams import chosen_by_ffmpeg, video_stream_number

_MOST_MISSES = 16
"""Frames in a row that OpenCV may fail to give before the video counts as ended."""


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
    """FFmpeg through decord: RGB. It repeats frames, untold, where it cannot decode."""

    decoder = "decord"

    def __init__(self, path: Path) -> None:
        try:
            import decord  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingExtraError(
                "decoder 'decord' is not installed: pip install 'spklip[decord]'"
            ) from error

        decord.logging.set_level(decord.logging.QUIET)
        self.version: str = decord.__version__
        if not chosen_by_ffmpeg(path):
            raise VideoError("holds several streams, and decord cannot be told which to show")
        try:
            self._video: Any = decord.VideoReader(_utf8_name(path), num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise VideoError(f"is not a video that decord can open: {_said(error)}") from error
        self._error: type[Exception] = decord.DECORDError
        self.promised: int | None = len(self._video)
        self._has_times = path.suffix.lower() != ".avi"
        self.timing = self._find_timing()
        self.tally = Tally()
        self.details: dict[str, Any] = {
            "colour_range": "full",
            "range_tag": "converted by decord",
            "frames_may_repeat": True,
        }

    def _find_timing(self) -> Timing | None:
        stated = as_rate(float(self._video.get_avg_fps()))
        times = np.empty(0, np.int64)
        if self._has_times and self.promised:
            starts_s = self._video.get_frame_timestamp(range(self.promised))[:, 0]
            times = np.sort(np.rint(np.asarray(starts_s, np.float64) * 1000).astype(np.int64))
        return find_timing(times, self.tick_s, (stated,))

    def shots(self) -> Iterator[Shot]:
        """Decode to RGB, then to luma."""
        import cv2  # noqa: PLC0415 - see OpenCVReader

        for index in range(self.promised or 0):
            try:
                rgb_hwc = self._video.next().asnumpy()
            except StopIteration:
                return
            except (self._error, RuntimeError) as error:
                self.tally.failed += 1
                self.tally.problems[_said(error)] += 1
                return
            if rgb_hwc.shape[2] != 3:  # below 32 px it takes line padding for channels
                self.tally.failed += 1
                self.tally.problems["too narrow for decord"] += 1
                return
            self.tally.decoded += 1
            time_s = None
            if self._has_times:
                time_s = (
                    round(float(self._video.get_frame_timestamp(index)[0]) * 1000) * self.tick_s
                )
            yield Shot(time_s, cv2.cvtColor(rgb_hwc, cv2.COLOR_RGB2GRAY), None)

    def close(self) -> None:
        """Release the file."""
        self._video = None


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


def _said(error: Exception) -> str:
    """The message of a decord error, without its source line and stack."""
    line = (str(error).strip().splitlines() or ["no reason given"])[0]
    return re.sub(r"^(?:\[[\d:]+\] )?(?:\S+\.cc:\d+: )?", "", line)[:200]
