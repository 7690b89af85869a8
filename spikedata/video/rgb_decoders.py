"""The other decoders: OpenCV and decord, each in a process of its own.

Both convert to RGB, and cannot say that a frame was damaged or that a time slot is empty. Damaged
files make the one take gigabytes and the other end its process.
"""

import importlib.util
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from spikedata.apart import LONGEST_WORK_S, Apart, Message
from spikedata.errors import MissingExtraError, SpikeDataError, VideoError
from spikedata.video.decoders import Shot, Tally
from spikedata.video.resample import Timing, as_rate, find_timing
from spikedata.video.streams import MOST_PIXELS, chosen_by_ffmpeg, video_stream_number

_SLOWEST_BYTES_S = 10_000_000
"""decord reads a file through when it opens it: from a slow disk at this rate."""
_MEMORY_BYTES = 1 << 30
"""Frames that refer to each other, and what the library's threads reserve."""


class _RgbReader:
    """A decoder in a child, and what neither library tells; their clock counts milliseconds."""

    decoder: str
    tick_s: Fraction = Fraction(1, 1000)
    expected: int | None = None
    expects_by_header: bool = False
    duration_s: Fraction | None = None
    transfer: str | None = None
    details: dict[str, Any]
    _numbered: bool
    """What was missed takes the time of a frame."""

    def __init__(self, path: Path, *words: str) -> None:
        self._has_times = path.suffix.lower() != ".avi"
        self._said = Apart(
            f"spikedata.video.{self.decoder}_frames:list_frames",
            _utf8_name(path),
            *words,
            most_bytes=MOST_PIXELS,
            work_s=LONGEST_WORK_S + path.stat().st_size / _SLOWEST_BYTES_S,
            threads=os.cpu_count() or 1,
            memory_bytes=_MEMORY_BYTES,
        )
        try:
            opened = self._hear()
            times = bytearray()
            while isinstance(coming := self._hear(), bytes):
                times += coming
        except BaseException:
            self._said.close()
            raise
        assert isinstance(opened, dict)
        self._coming: Message | None = coming
        self.version: str = opened["version"]
        self.promised: int | None = opened["promised"]
        times_ms = np.frombuffer(times if self._has_times else b"", np.int64)
        stated = as_rate(opened["frame_rate"])
        self.timing: Timing | None = find_timing(np.sort(times_ms), self.tick_s, (stated,))
        self.tally = Tally()

    def _hear(self) -> Message | None:
        """What the child says next; None at its end."""
        try:
            return next(self._said, None)
        except SpikeDataError as error:
            raise VideoError(str(error)) from error

    def shots(self) -> Iterator[Shot]:
        """Take in frame by frame; the child is at most one ahead."""
        while isinstance(told := self._coming, dict):
            if told["missed"]:
                self.tally.failed += told["missed"]
                self.tally.problems[told["problem"]] += told["missed"]
            if "shape_hw" not in told:
                return
            number = self.tally.decoded + self.tally.failed if self._numbered else None
            self.tally.decoded += 1
            luma = self._hear()
            assert isinstance(luma, bytes)
            codes_hw = np.frombuffer(luma, np.uint8).reshape(told["shape_hw"])
            time_s = told["time_ms"] * self.tick_s if self._has_times else None
            yield Shot(time_s, codes_hw, None, number)
            self._coming = self._hear()

    def close(self) -> None:
        """End the child."""
        self._said.close()


class OpenCVReader(_RgbReader):
    """FFmpeg through OpenCV: BGR, limited range already expanded."""

    decoder = "opencv"
    _numbered = True

    def __init__(self, path: Path) -> None:
        if video_stream_number(path):
            raise VideoError("holds several streams, of which OpenCV shows but the first")
        super().__init__(path, "timed" if path.suffix.lower() != ".avi" else "untimed")
        self.details = {"colour_range": "full", "range_tag": "converted by OpenCV"}


class DecordReader(_RgbReader):
    """FFmpeg through decord: RGB. It repeats frames, untold, where it cannot decode."""

    decoder = "decord"
    _numbered = False

    def __init__(self, path: Path) -> None:
        if importlib.util.find_spec("decord") is None:
            raise MissingExtraError(
                "decoder 'decord' is not installed: pip install 'spklip[decord]'"
            )
        if not chosen_by_ffmpeg(path):
            raise VideoError("holds several streams, and decord cannot be told which to show")
        super().__init__(path)
        self.details = {
            "colour_range": "full",
            "range_tag": "converted by decord",
            "frames_may_repeat": True,
        }


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
