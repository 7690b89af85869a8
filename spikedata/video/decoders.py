"""The decoders behind :func:`spikedata.video.open_video`: PyAV, OpenCV and decord.

Each reader gives luma codes in order of showing, one frame at a time, and counts what it could not
decode. PyAV hands over the codec's own luma plane; the others convert to RGB first, and cannot say
that a frame was damaged.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spikedata.errors import MissingExtraError, VideoError
from spikedata.video.resample import Timing, as_rate, find_timing

LumaPlane = NDArray[np.uint8] | NDArray[np.uint16]

_LUMA_FIRST = re.compile(
    r"(?:(?:yuvj?|yuva)4\d\dp|gray)(?P<bits>9|10|12|14|16)?(?P<end>le|be)?|nv(?:12|21|16|24|42)"
)
"""Pixel formats whose plane 0 is luma alone, its codes in the low bits of a sample."""

_MOST_MISSES = 16
"""Frames in a row that OpenCV may fail to give before the video counts as ended."""


class Shot(NamedTuple):
    """One decoded frame."""

    time_s: Fraction | None
    """When it is shown; None where the container has no times."""
    codes_hw: LumaPlane
    """Luma codes (H, W) as decoded; may be a view of the decoder's memory."""
    table: NDArray[np.uint8] | None
    """Full-range luma of each code, or None if the codes already are."""


@dataclass(kw_only=True, slots=True)
class Tally:
    """What a reader met on its way."""

    decoded: int = 0
    """Frames given."""
    failed: int = 0
    """Packets that gave an error instead of a frame."""
    concealed: int = 0
    """Frames given that the decoder marks as damaged and patched up."""
    packets: int = 0
    """Packets that the container gave; 0 where the reader cannot tell."""
    cut_packets: int = 0
    """Packets that end before they should: the file was cut off."""
    problems: Counter[str] = field(default_factory=Counter)
    """What the decoder said of them, with how often."""


class Reader(Protocol):
    """One open video."""

    decoder: str
    version: str
    promised: int | None
    timing: Timing | None
    tick_s: Fraction
    tally: Tally
    details: dict[str, Any]

    def shots(self) -> Iterator[Shot]:
        """Decode, once, from the first frame to the last."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


def range_table(bits: int = 8, *, limited: bool) -> NDArray[np.uint8]:
    """Full-range 8-bit luma of every code of ``bits`` bits, uint8 (2**bits,).

    Limited range puts black at 16 and white at 235 (times 2**(bits-8)); codes beyond are clipped.
    Rounding is to the nearest integer, in integers.
    """
    code = np.arange(1 << bits, dtype=np.int64)
    low, span = (16 << bits - 8, 219 << bits - 8) if limited else (0, (1 << bits) - 1)
    luma = ((code - low) * 510 + span) // (2 * span)
    return np.clip(luma, 0, 255).astype(np.uint8)


class PyAVReader:
    """FFmpeg through PyAV, single-threaded: the converter runs one clip a thread."""

    decoder = "pyav"

    def __init__(self, path: Path) -> None:
        import av  # noqa: PLC0415 - loads FFmpeg, so only when a video is read

        self._av: Any = av
        self.version: str = av.__version__
        self._container: Any = _open_container(path)
        try:
            self._stream = self._first_video_stream()
            self.details = self._describe()
            self.promised: int | None = self._stream.frames or None
            self.tick_s = self._stream.time_base or Fraction(1, 1000)
            self._has_times = self._container.format.name != "avi"
            self.timing = self._find_timing(path)
        except BaseException:
            self._container.close()
            raise
        self.tally = Tally()
        self._formats: dict[tuple[str, int], tuple[str, NDArray[np.uint8] | None]] = {}

    def _first_video_stream(self) -> Any:
        if not self._container.streams.video:
            raise VideoError("holds no video stream")
        stream = self._container.streams.video[0]
        if stream.codec_context is None:
            raise VideoError("is coded in a way that this FFmpeg cannot decode")
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        return stream

    def _describe(self) -> dict[str, Any]:
        return {
            "container": self._container.format.name,
            "codec": self._stream.codec_context.name,
            "libavcodec": ".".join(map(str, self._av.library_versions["libavcodec"])),
        }

    def _find_timing(self, path: Path) -> Timing | None:
        stream = self._stream
        stated = tuple(
            as_rate(rate) for rate in (stream.guessed_rate, stream.average_rate, stream.base_rate)
        )
        times = _packet_times(path) if self._has_times else np.empty(0, np.int64)
        return find_timing(times, self.tick_s, stated)

    def shots(self) -> Iterator[Shot]:
        """Decode packet by packet; a packet that fails is counted, and the next one tried."""
        for packet in self._packets():
            for frame in self._decode(packet):
                yield self._shot(frame)
        for frame in self._decode(None):
            yield self._shot(frame)

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except self._av.error.FFmpegError as error:
                self._count_failure(error)
                return
            if packet is None:
                return
            if packet.size:
                self.tally.packets += 1
                self.tally.cut_packets += packet.is_corrupt
                yield packet

    def _decode(self, packet: Any) -> list[Any]:
        try:
            return self._stream.codec_context.decode(packet)  # type: ignore[no-any-return]
        except self._av.error.EOFError:  # flushed twice
            return []
        except self._av.error.FFmpegError as error:
            self._count_failure(error)
            return []

    def _count_failure(self, error: Any) -> None:
        self.tally.failed += 1
        self.tally.problems[str(error.strerror)] += 1

    def _shot(self, frame: Any) -> Shot:
        tally = self.tally
        tally.decoded += 1
        if frame.is_corrupt:
            tally.concealed += 1
            tally.problems["damage concealed"] += 1
        key = (frame.format.name, int(frame.color_range))
        if key not in self._formats:
            self._formats[key] = self._plan(*key, frame.format)
        how, table = self._formats[key]
        codes_hw = self._codes(frame, how)
        if frame.rotation:
            codes_hw = np.rot90(codes_hw, round(frame.rotation / 90)).copy()
        time_s = None
        if self._has_times and frame.pts is not None:
            time_s = frame.pts * self.tick_s
        return Shot(time_s, codes_hw, table)

    def _plan(
        self, name: str, color_range: int, pixel_format: Any
    ) -> tuple[str, NDArray[np.uint8] | None]:
        """How to get luma from one pixel format: (format to read plane 0 of, table)."""
        how = _readable_format(name, pixel_format)
        match = _LUMA_FIRST.fullmatch(how)
        if match is None:  # RGB: full range by nature
            self.details.update(pixel_format=name, colour_range="full", range_tag="rgb")
            return how, None
        tag = {1: "limited", 2: "full"}.get(color_range, "unspecified")
        full = tag == "full" or name.startswith("yuvj")
        limited = not full and not (how.startswith("gray") and tag == "unspecified")
        bits = int(match["bits"] or 8)
        self.details.update(
            pixel_format=name, colour_range="limited" if limited else "full", range_tag=tag
        )
        return how, range_table(bits, limited=limited) if limited or bits > 8 else None

    def _codes(self, frame: Any, how: str) -> LumaPlane:
        if how == "rgb24":
            import cv2  # noqa: PLC0415 - only RGB video needs it here

            return cv2.cvtColor(frame.to_ndarray(format="rgb24"), cv2.COLOR_RGB2GRAY)  # type: ignore[no-any-return]
        if how != frame.format.name:
            frame = frame.reformat(
                format=how, src_color_range=frame.color_range, dst_color_range=frame.color_range
            )
        return _luma_plane(frame)

    def close(self) -> None:
        """Release the file."""
        self._container.close()


def _open_container(path: Path) -> Any:
    """Open with FFmpeg: local files only, metadata in whatever encoding.

    Raises:
        VideoError: FFmpeg does not know the format.
    """
    import av  # noqa: PLC0415 - see PyAVReader

    # Up to PyAV 18, metadata that is not UTF-8 stops the opening unless told otherwise; from 19 on
    # nothing needs telling, and the option is gone.
    options: dict[str, Any] = {"container_options": {"protocol_whitelist": "file"}}
    if int(av.__version__.split(".")[0]) < 19:
        options["metadata_errors"] = "replace"
    try:
        return av.open(f"file:{path}", **options)
    except av.error.FFmpegError as error:
        raise VideoError(f"is not a video that FFmpeg can open: {error.strerror}") from error


def _packet_times(path: Path) -> NDArray[np.int64]:
    """Showing times of all packets of the first video stream, sorted, in time-base units.

    Reads the file through without decoding; 8 bytes a frame are held.
    """
    import av  # noqa: PLC0415 - see PyAVReader

    with _open_container(path) as container:

        def times() -> Iterator[int]:
            try:
                for packet in container.demux(container.streams.video[0]):
                    if packet.size and packet.pts is not None and not packet.is_discard:
                        yield packet.pts
            except av.error.FFmpegError:  # the reader meets it too, and counts it
                return

        return np.sort(np.fromiter(times(), dtype=np.int64))


def _readable_format(name: str, pixel_format: Any) -> str:
    """``name`` if its plane 0 is luma, else the format to convert to that loses no luma."""
    if _LUMA_FIRST.fullmatch(name):
        return name
    components = pixel_format.components
    if pixel_format.is_rgb or pixel_format.has_palette or pixel_format.is_bayer:
        return "rgb24"
    if len(components) < 3:  # black and white, or gray with alpha or floats
        return "gray"
    return "yuv444p" if max(c.bits for c in components) <= 8 else "yuv444p16le"


def _luma_plane(frame: Any) -> LumaPlane:
    """Plane 0 without its line padding: a view, uint8 or uint16 (H, W).

    Raises:
        VideoError: the plane is stored bottom-up.
    """
    plane = frame.planes[0]
    line, name = plane.line_size, frame.format.name
    if line < 0:
        raise VideoError(f"{name} stored bottom-up is not supported")
    match = _LUMA_FIRST.fullmatch(name)
    wide = bool(match and match["bits"])
    dtype = np.dtype(np.uint8 if not wide else ">u2" if name.endswith("be") else "<u2")
    codes = np.frombuffer(plane, np.uint8, frame.height * line).reshape(frame.height, line)
    codes_hw: LumaPlane = codes[:, : frame.width * dtype.itemsize].view(dtype)
    return codes_hw


class OpenCVReader:
    """FFmpeg through OpenCV: BGR, limited range already expanded."""

    decoder = "opencv"

    def __init__(self, path: Path) -> None:
        import cv2  # noqa: PLC0415 - the fallback, so only when wanted

        self._cv2: Any = cv2
        self.version: str = cv2.__version__
        self._path = _utf8_name(path)
        self._capture = self._open()
        promised = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.promised: int | None = int(promised) if promised > 0 else None
        self.tick_s = Fraction(1, 1000)
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
            self.tally.decoded += 1
            time_s = None
            if self._has_times:
                time_s = round(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) * self.tick_s
            yield Shot(time_s, self._cv2.cvtColor(bgr_hwc, self._cv2.COLOR_BGR2GRAY), None)

    def close(self) -> None:
        """Release the file."""
        self._capture.release()


class DecordReader:
    """FFmpeg through decord: RGB. It repeats frames, untold, where it cannot decode."""

    decoder = "decord"

    def __init__(self, path: Path) -> None:
        try:
            import decord  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingExtraError(
                "decoder 'decord' is not installed: pip install 'spikedata[decord]'"
            ) from error

        decord.logging.set_level(decord.logging.QUIET)
        self.version: str = decord.__version__
        try:
            self._video: Any = decord.VideoReader(_utf8_name(path), num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise VideoError(f"is not a video that decord can open: {_said(error)}") from error
        self._error: type[Exception] = decord.DECORDError
        self.promised: int | None = len(self._video)
        self.tick_s = Fraction(1, 1000)
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
