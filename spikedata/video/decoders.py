"""What a reader of videos is, and the one of FFmpeg through PyAV.

Each reader gives luma codes in order of showing, one frame at a time, numbers them by the file's
times, and counts what it could not decode. PyAV hands over the codec's own luma plane.
"""

import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spikedata.errors import VideoError
from spikedata.video.fit import LumaPlane
from spikedata.video.resample import Timing, as_rate, find_timing
from spikedata.video.streams import (
    MOST_PIXELS,
    choose_stream,
    open_container,
    packet_times,
    transfer_named,
)

_LUMA_FIRST = re.compile(
    r"(?:(?:yuvj?|yuva)4\d\dp|gray)(?P<bits>9|10|12|14|16)?(?P<end>le|be)?|nv(?:12|21|16|24|42)"
)
"""Pixel formats whose plane 0 is luma alone, its codes in the low bits of a sample."""


_LONGEST_REPEAT = 32
"""Bytes of a packet that can say no more than "as before": in MPEG-4 a header, 1 to 20 bytes."""


class Shot(NamedTuple):
    """One decoded frame."""

    time_s: Fraction | None
    """When it is shown; None where the container has no times."""
    codes_hw: LumaPlane
    """Luma codes (H, W) as decoded; may be a view of the decoder's memory."""
    table: NDArray[np.uint8] | None
    """Full-range luma of each code, or None if the codes already are."""
    number: int | None = None
    """Which frame of the file's time it is, from 0; None where that cannot be told."""


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
    repeated: int = 0
    """Packets that say "as before": decoded, but without a picture of their own."""
    interlaced: int = 0
    """Frames given that hold two fields."""
    problems: Counter[str] = field(default_factory=Counter)
    """What the decoder said of them, with how often."""


class Reader(Protocol):
    """One open video."""

    decoder: str
    version: str
    promised: int | None
    expected: int | None
    """Frames that the file's time holds, where known; final once the shots have ended."""
    expects_by_header: bool
    """``expected`` is the header's word, not seen in the file itself."""
    duration_s: Fraction | None
    """The header's claim of the length."""
    transfer: str | None
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
        self._container: Any = open_container(path)
        try:
            self._stream = self._open_stream()
            self.details = self._describe()
            self.transfer = transfer_named(self._stream.codec_context.color_trc)
            self.promised: int | None = self._stream.frames or None
            self.expected: int | None = None
            length = self._container.duration
            self.duration_s = Fraction(length, av.time_base) if length else None
            self.tick_s = self._stream.time_base or Fraction(1, 1000)
            self._has_times = self._container.format.name != "avi"
            self.expects_by_header = not self._has_times
            self._times = np.empty(0, np.int64)
            """Times of all frames, sorted; empty where some have none."""
            self._partly_timed = False
            self.timing = self._find_timing(path)
            if self.promised and not self._has_times:
                self.promised = self._whole_number(self.promised)
        except BaseException:
            self._container.close()
            raise
        self.tally = Tally()
        self._formats: dict[tuple[str, int], tuple[str, NDArray[np.uint8] | None]] = {}
        self._slots: deque[int] = deque()
        """AVI: time slots of the packets fed whose frames have not come out, in order."""
        self._origin: tuple[int, int] | None = None
        """Time and number of the first frame with a time, where some have none."""
        self._counted = 0
        """Frames without a time: those given so far and the failures between them."""

    def _open_stream(self) -> Any:
        stream = choose_stream(self._container)
        if stream.codec_context is None:
            raise VideoError("is coded in a way that this FFmpeg cannot decode")
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # of later frames, too
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
        if not self._has_times:
            return find_timing(self._times, self.tick_s, stated)
        times, complete = packet_times(path)
        if complete:
            self._times, self.expected = times, len(times) or None
        self._partly_timed = not complete and len(times) > 0
        return find_timing(times, self.tick_s, stated)

    def shots(self) -> Iterator[Shot]:
        """Decode packet by packet; a packet that fails is counted, and the next one tried."""
        for packet in self._packets():
            for frame in self._decode_slot(packet):
                yield self._shot(frame)
        for frame in self._decode(None):
            yield self._shot(frame)
        if not self._has_times and self.promised:
            # What an encoder of B-frames puts out at first to say "wait" is no frame.
            self.expected = self.promised - self._whole_number(len(self._slots))
        elif not (len(self._times) or self._partly_timed):
            self.expected = self._counted

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except self._av.error.FFmpegError as error:
                self._count_failure(str(error.strerror))
                return
            if packet is None:
                return
            if packet.size:
                self.tally.packets += 1
                self.tally.cut_packets += packet.is_corrupt
                yield packet

    def _decode_slot(self, packet: Any) -> list[Any]:
        """Decode, and keep account of the time slots of an AVI.

        Its packets come in order of decoding, each with the next slot; the frames, which come in
        order of showing, take the slots in order. Without B-frames a packet that gives no frame
        says "as before", or is damaged; with them the frame may only be late.
        """
        if self._has_times:
            return self._decode(packet)
        slots, failed = self._slots, self.tally.failed
        if packet.dts is not None:
            slots.append(packet.dts)
        frames = self._decode(packet)
        if slots and not frames:
            if self.tally.failed > failed:
                slots.pop()
            elif not self._stream.codec_context.has_b_frames:
                slots.pop()
                if packet.size <= _LONGEST_REPEAT:
                    self.tally.repeated += 1
                else:
                    self._count_failure("no frame given")
        return frames

    def _decode(self, packet: Any) -> list[Any]:
        try:
            return self._stream.codec_context.decode(packet)  # type: ignore[no-any-return]
        except self._av.error.EOFError:  # flushed twice
            return []
        # PyAV from 19 has an error of its own for a codec that did not open.
        except (self._av.error.FFmpegError, ValueError) as error:
            self._count_failure(str(getattr(error, "strerror", None) or error))
            return []

    def _count_failure(self, said: str) -> None:
        self.tally.failed += 1
        self._counted += 1
        self.tally.problems[said] += 1

    def _number(self, frame: Any) -> int | None:
        """Which frame of the file's time this is."""
        if not self._has_times:
            return self._whole_number(self._slots.popleft()) if self._slots else None
        if not self._partly_timed:
            timed = len(self._times) and frame.pts is not None
            return int(np.searchsorted(self._times, frame.pts)) if timed else self._counted
        if frame.pts is None or self.timing is None or self.timing.variable:
            return None
        if self._origin is None:
            self._origin = (frame.pts, self._counted)
        pts, number = self._origin
        return number + self._whole_number(frame.pts - pts)

    def _whole_number(self, ticks: int) -> int:
        """Frames that last as long as so many units of the container's time."""
        return round(ticks * self.tick_s * self.timing.rate) if self.timing else ticks

    def _shot(self, frame: Any) -> Shot:
        tally = self.tally
        tally.decoded += 1
        number = self._number(frame)
        self._counted += 1
        if frame.interlaced_frame:
            tally.interlaced += 1
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
        return Shot(time_s, codes_hw, table, number)

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


def _readable_format(name: str, pixel_format: Any) -> str:
    """``name`` if its plane 0 is luma, else the format to convert to that loses no luma."""
    if _LUMA_FIRST.fullmatch(name):
        return name
    components = pixel_format.components
    if pixel_format.is_rgb or pixel_format.has_palette or name.startswith("bayer"):
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
