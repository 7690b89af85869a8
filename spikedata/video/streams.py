"""Which stream of a container is the video, and when its frames are shown, by FFmpeg through PyAV.

Nothing here decodes.
"""

import errno
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spikedata.errors import VideoError

_TRANSFERS = {
    1: "bt709",
    6: "bt709",  # BT.601
    13: "srgb",
    14: "bt709",  # BT.2020, 10 bits
    15: "bt709",  # BT.2020, 12 bits
    16: "pq",
    18: "hlg",
}
"""Transfer characteristics of ITU-T H.273, table 3; those of the BT.709 family have its curve."""
MOST_PIXELS = 1 << 26
"""Pixels of a frame at most: twice those of 8K."""


class NoVideoError(VideoError):
    """FFmpeg knows the file, and no stream of it is a video."""


class UnreadableError(VideoError):
    """The system did not give the file, whatever it holds."""


_OF_THE_SYSTEM = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EACCES, errno.EINTR)
)


class PacketTimes(NamedTuple):
    """When the packets of a stream are shown."""

    times: NDArray[np.int64]
    """Sorted, in time-base units, int64 (N,)."""
    complete: bool
    """Every packet has a time."""


def open_container(path: Path) -> Any:
    """Open with FFmpeg: local files only, metadata in whatever encoding.

    Raises:
        UnreadableError: it cannot be read just now, or by us.
        VideoError: FFmpeg does not know the format.
    """
    import av  # noqa: PLC0415 - loads FFmpeg, so only when a video is read

    # Up to PyAV 18, metadata that is not UTF-8 stops the opening unless told otherwise; from 19 on
    # nothing needs telling, and the option is gone.
    options: dict[str, Any] = {
        "container_options": {"protocol_whitelist": "file"},
        "options": {"max_pixels": str(MOST_PIXELS)},  # where FFmpeg decodes to know a stream
    }
    if int(av.__version__.split(".")[0]) < 19:
        options["metadata_errors"] = "replace"
    try:
        return av.open(f"file:{path}", **options)
    except av.error.FFmpegError as error:
        if error.errno in _OF_THE_SYSTEM:
            raise UnreadableError(f"cannot be read: {error.strerror}") from error
        raise VideoError(f"is not a video that FFmpeg can open: {error.strerror}") from error


def choose_stream(container: Any) -> Any:
    """The stream marked as default, else the longest; never a cover picture.

    Raises:
        NoVideoError: there is none.
        VideoError: its frames are past the limit.
    """
    from av.stream import Disposition  # noqa: PLC0415 - see open_container

    stills = Disposition.attached_pic | Disposition.timed_thumbnails
    real = [stream for stream in container.streams.video if not stream.disposition & stills]
    if not real:
        covers = ", only a cover picture" if container.streams.video else ""
        raise NoVideoError(f"holds no video stream{covers}")

    def merit(stream: Any) -> tuple[bool, Fraction, int]:
        duration_s = (stream.duration or 0) * (stream.time_base or Fraction(0))
        return bool(stream.disposition & Disposition.default), duration_s, -stream.index

    chosen = max(real, key=merit)
    if chosen.codec_context is not None:  # else nothing here can decode it
        check_frame_size(chosen.codec_context.height, chosen.codec_context.width)
    return chosen


def check_frame_size(height_px: int, width_px: int) -> None:
    """Refuse what a header claims before a decoder makes room for it.

    Raises:
        VideoError: the frames are past the limit.
    """
    if height_px * width_px > MOST_PIXELS:
        raise VideoError(
            f"claims frames of {height_px}x{width_px} pixels, expected at most {MOST_PIXELS:,}"
        )


def video_stream_number(path: Path) -> int:
    """Which of a file's video streams, covers among them, is the one to show; from 0.

    0 where FFmpeg cannot open the file through PyAV: the caller's decoder then decides.

    Raises:
        NoVideoError: the file holds no video stream.
        UnreadableError: as for :func:`open_container`.
    """
    container = _opened(path)
    if container is None:
        return 0
    with container:
        chosen = choose_stream(container).index
        return [stream.index for stream in container.streams.video].index(chosen)


def chosen_by_ffmpeg(path: Path) -> bool:
    """Whether FFmpeg's own choice, all that decord knows, is the video; True as above.

    Raises:
        NoVideoError: the file holds no video stream.
        UnreadableError: as for :func:`open_container`.
    """
    container = _opened(path)
    if container is None:
        return True
    with container:
        best = container.streams.best("video")
        return best is not None and bool(best.index == choose_stream(container).index)


def _opened(path: Path) -> Any | None:
    """The file; None where PyAV is missing or does not know it."""
    try:
        return open_container(path)
    except UnreadableError:  # what would be taken for it now is not what is in it
        raise
    except (ImportError, VideoError):
        return None


def packet_times(path: Path) -> PacketTimes:
    """Showing times of the video's packets; those that an edit list cuts away do not count.

    Reads the file through without decoding; 8 bytes a frame are held.
    """
    import av  # noqa: PLC0415 - see open_container

    untimed = 0
    with open_container(path) as container:

        def times() -> Iterator[int]:
            nonlocal untimed
            stream = choose_stream(container)
            shown = _shown_in_vp8 if stream.codec_context.name == "vp8" else bool
            try:
                for packet in container.demux(stream):
                    if not packet.size or packet.is_discard or not shown(packet):
                        continue
                    if packet.pts is None:
                        untimed += 1
                    else:
                        yield packet.pts
            except av.error.FFmpegError:  # the reader meets it too, and counts it
                return

        found = np.sort(np.fromiter(times(), dtype=np.int64))
    return PacketTimes(found, untimed == 0)


def _shown_in_vp8(packet: Any) -> bool:
    """Whether a packet's frame is shown, not only referred to: RFC 6386, section 9.1."""
    return bool(memoryview(packet)[0] & 0x10)


def transfer_named(tag: int) -> str | None:
    """The transfer curve of a tag of ITU-T H.273; None if it is unspecified or unknown."""
    return _TRANSFERS.get(tag)
