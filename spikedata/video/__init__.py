"""Open a video: full-range luma at a constant frame rate, streamed block by block.

Shapes: n frames of a block, H rows, W columns. One function, :func:`open_video`, hides which
decoder ran; :meth:`Video.account` tells, with everything else that decides the bits.
"""

import itertools
import stat
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spikedata.errors import VideoError
from spikedata.video.account import cautions, losses
from spikedata.video.config import DEFAULT, Damaged, Decoder, VideoConfig
from spikedata.video.container import missing_bytes
from spikedata.video.decoders import PyAVReader, Reader, Shot
from spikedata.video.fit import Fit, target_size, write_luma
from spikedata.video.interpolate import find_interpolator, more_frames, steps_per_frame
from spikedata.video.pictures import PICTURE_SUFFIXES, PictureReader, is_picture_folder
from spikedata.video.resample import as_rate, hold_at_rate
from spikedata.video.rgb_decoders import DecordReader, OpenCVReader
from spikedata.video.streams import NoVideoError, UnreadableError

__all__ = [
    "DEFAULT",
    "LONGEST_GAP_S",
    "PICTURE_SUFFIXES",
    "Damaged",
    "Decoder",
    "Fit",
    "Video",
    "VideoConfig",
    "cautions",
    "find_interpolator",
    "is_picture_folder",
    "losses",
    "more_frames",
    "open_video",
    "steps_per_frame",
]

_READERS: dict[str, type[PyAVReader] | type[OpenCVReader] | type[DecordReader]] = {
    "pyav": PyAVReader,
    "opencv": OpenCVReader,
    "decord": DecordReader,
}
LONGEST_GAP_S = 3600
"""Longest time between two frames that is believed; resampling would fill it with copies."""
MOST_COPIES = LONGEST_GAP_S * 60
"""Times in a row that one frame is believed to be shown: the longest gap at 60 frames a second."""

_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<MPD")


def open_video(path: Path | str, config: VideoConfig = DEFAULT) -> "Video":
    """Open a video and decode its first frame.

    Args:
        path: a file, or a folder of numbered pictures with ``config.fps``; playlists and network
            addresses are refused.
        config: decoder, size, frame rate, what to do with damage.

    Raises:
        VideoError: not a readable file, not a video, nothing in it can be decoded, or it is
            damaged and ``config`` refuses that. One line that begins with the path.
        MissingExtraError: the decoder asked for is not installed.
    """
    path = Path(path)
    try:
        reader, fallback = _open_folder(path, config) or _open_file(path, config)
    except VideoError as error:
        raise VideoError(f"{_printable(path)}: {error}") from error
    try:
        return Video(path, reader, config, fallback=fallback)
    except BaseException:
        reader.close()
        raise


def _open_folder(path: Path, config: VideoConfig) -> tuple[Reader, str | None] | None:
    try:
        if not path.is_dir():
            return None
        return PictureReader(path, as_rate(config.capture_fps) or as_rate(config.fps)), None
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}") from error
    except ValueError:  # a null byte in the name, told where the file is looked at
        return None


def _open_file(path: Path, config: VideoConfig) -> tuple[Reader, str | None]:
    _check_file(path)
    return _open_reader(path, config.decoder)


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise VideoError("is not a regular file")
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a null byte in the name
        raise VideoError(f"cannot be read: {error}") from error
    if not head:
        raise VideoError("is empty")
    if head.lstrip().startswith(_PLAYLISTS[:2]) or (b"<?xml" in head and _PLAYLISTS[2] in head):
        raise VideoError("is a playlist, which names other files, not a video")


def _open_reader(path: Path, decoder: Decoder) -> tuple[Reader, str | None]:
    """The reader, and why it is not PyAV where ``auto`` could not use that."""
    if decoder != "auto":
        return _READERS[decoder](path), None
    try:
        return PyAVReader(path), None
    except (NoVideoError, UnreadableError):  # the cover; or other bits than there would have been
        raise
    except (VideoError, ImportError) as error:
        first = error
    try:
        return OpenCVReader(path), f"pyav: {first}"
    except (VideoError, ImportError):
        if isinstance(first, VideoError):
            raise first from None
        raise VideoError(f"no decoder could be loaded: {first}") from first


def _printable(path: Path) -> str:
    """The path on one line, whatever its name holds."""
    text = str(path)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


class Video:
    """An open video; close it, or use it in a ``with`` statement. Made by :func:`open_video`."""

    def __init__(
        self, path: Path, reader: Reader, config: VideoConfig, *, fallback: str | None = None
    ) -> None:
        self._path, self._reader, self._config = path, reader, config
        self._fallback = fallback
        self._missing_bytes = None if isinstance(reader, PictureReader) else missing_bytes(path)
        self._started = False
        self._given = self._held = self._scaled = self._lost = self._repeats = 0
        self._refuse_damage()
        self._shots = reader.shots()
        first = self._next_shot()
        if first is None:
            raise self._error(f"not one frame can be decoded{self._reasons()}")
        self._first: Shot | None = first
        self._source_hw: tuple[int, int] = (first.codes_hw.shape[0], first.codes_hw.shape[1])
        self.height_px, self.width_px = target_size(self._source_hw, config.resize)
        self.frame_rate: Fraction = self._choose_rate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file and the decoder."""
        self._shots = iter(())
        self._first = None
        self._reader.close()

    @property
    def frames_promised(self) -> int | None:
        """Frames the header promises, before resampling; often more than there are."""
        return self._reader.promised

    @property
    def transfer(self) -> str | None:
        """Curve of the luma codes by the stream's tag: bt709, srgb, pq, hlg, or None."""
        return self._reader.transfer

    def blocks(self, frames: int = 16) -> Iterator[NDArray[np.uint8]]:
        """Full-range luma, uint8 (n, H, W), n = ``frames`` but for the last block.

        Each block is an array of its own. Memory does not grow with the video's length. Can be
        read once.

        Raises:
            ValueError: ``frames`` is not positive, or the blocks were read before.
            VideoError: damage was met that the config refuses.
        """
        if frames < 1:
            raise ValueError(f"frames must be positive, got {frames}")
        if self._started:
            raise ValueError("a video's blocks can be read once; open it again")
        self._started = True
        return self._fill_blocks(frames)

    def _fill_blocks(self, frames: int) -> Iterator[NDArray[np.uint8]]:
        filled = 0
        block_nhw = np.empty((frames, self.height_px, self.width_px), np.uint8)
        for shot in self._shots_at_rate():
            write_luma(
                shot.codes_hw,
                shot.table,
                block_nhw[filled],
                source_hw=self._source_hw,
                fit=self._config.fit,
            )
            filled += 1
            if filled == frames:
                self._given += filled
                yield block_nhw
                filled = 0
                block_nhw = np.empty_like(block_nhw)
        if filled:
            self._given += filled
            yield block_nhw[:filled]

    def _choose_rate(self) -> Fraction:
        timing, fps = self._reader.timing, as_rate(self._config.fps)
        if timing is None and fps is None and self._config.capture_fps is None:
            raise self._error("states no frame rate; give one (fps)")
        if timing is not None and timing.longest_gap_s > LONGEST_GAP_S:
            gap = float(timing.longest_gap_s)
            raise self._error(f"a frame comes {gap:,.0f} s after the one before: damaged times")
        played = timing.rate if timing else None
        capture = as_rate(self._config.capture_fps)
        source = capture or played or fps
        assert source is not None  # a file without a rate was refused, or has fps
        self._source_rate: Fraction = source
        self._played_rate = played or self._source_rate
        self._variable = timing is not None and timing.variable
        gap_s = max(1 / self._played_rate, timing.longest_gap_s if timing else 0)
        copies = gap_s * self._played_rate / source * (fps or source)
        if copies > MOST_COPIES:
            raise self._error(f"would show one frame {float(copies):,.0f} times: damaged times")
        return fps or source

    def _shots_at_rate(self) -> Iterator[Shot]:
        if not self._variable and self.frame_rate == self._source_rate:
            return self._whole_time()
        step_s = 1 / self.frame_rate
        true_s = self._played_rate / self._source_rate  # true seconds of one of the file's
        tick_s = self._reader.tick_s * true_s
        slack_s = min(tick_s, step_s / 4) if self._variable else Fraction(0)
        return hold_at_rate(
            self._timed_shots(true_s), self.frame_rate, 1 / self._source_rate, slack_s
        )

    def _timed_shots(self, true_s: Fraction) -> Iterator[tuple[Fraction, Shot]]:
        """Frames with true times: the container's if they vary, else counted."""
        step_s = 1 / self._source_rate
        if not self._variable:
            for index, shot in enumerate(self._whole_time()):
                yield index * step_s, shot
            return
        offset_s: Fraction | None = None
        due_s = Fraction(0)
        for shot in self._whole_time():
            time_s = due_s
            if shot.time_s is not None:
                if offset_s is None:  # untimed frames come before: they keep their place
                    offset_s = due_s - shot.time_s * true_s
                time_s = shot.time_s * true_s + offset_s
            yield time_s, shot
            due_s = time_s + step_s

    def _whole_time(self) -> Iterator[Shot]:
        """A frame for each that the file's time holds: a missing one repeats the one before.

        At a variable rate only what is missing at the end is given, since times fill the rest.
        """
        last, coming = None, 0
        for shot in self._sound_shots():
            number = coming if shot.number is None else max(coming, shot.number)
            if last is None:
                self._lost += number
            else:
                yield from self._hold(last, number - coming)
            self._refuse_damage()
            yield shot
            last, coming = shot, number + 1
        if last is not None:
            yield from self._end(last, coming)
        self._refuse_damage()

    def _hold(self, shot: Shot, frames: int, *, at_end: bool = False) -> Iterator[Shot]:
        if frames > self._longest_gap():
            raise self._error(f"lacks {frames:,} frames in a row: damaged times")
        repeated = min(frames, self._reader.tally.repeated - self._repeats)
        self._repeats += repeated
        self._held += frames - repeated
        self._refuse_damage()
        if at_end or not self._variable:
            yield from itertools.repeat(shot._replace(time_s=None), frames)

    def _longest_gap(self) -> Fraction:
        """Frames in a row that may be missing."""
        return min(LONGEST_GAP_S * self._source_rate, Fraction(MOST_COPIES))

    def _end(self, last: Shot, coming: int) -> Iterator[Shot]:
        """What the file's time still holds once the frames have ended."""
        reader = self._reader
        missing = max(0, (reader.expected or 0) - coming)
        believed = not reader.expects_by_header or (
            self._missing_bytes == 0 and missing <= self._longest_gap()
        )
        if not self._truncated() and believed:
            yield from self._hold(last, missing, at_end=True)
            return
        promised = reader.promised
        if promised is None and reader.duration_s is not None and self._truncated():
            promised = round(reader.duration_s * self._played_rate)
        self._lost += max(missing, (promised or 0) - coming)

    def _sound_shots(self) -> Iterator[Shot]:
        """All frames; those of another size than the first are counted."""
        shot, self._first = self._first, None
        while shot is not None:
            if shot.codes_hw.shape != self._source_hw:
                self._scaled += 1
                self._reader.tally.problems["frame size changed"] += 1
            yield shot
            shot = self._next_shot()

    def _next_shot(self) -> Shot | None:
        try:
            return next(self._shots, None)
        except VideoError as error:
            raise self._error(str(error)) from error

    def _bad_frames(self) -> int:
        return self._reader.tally.failed + self._reader.tally.concealed

    def _truncated(self) -> bool:
        return bool(self._missing_bytes) or self._reader.tally.cut_packets > 0

    def _refuse_damage(self) -> None:
        if self._config.damaged == "keep":
            return
        if self._missing_bytes:
            raise self._error(f"is cut off: {self._missing_bytes} bytes are missing at its end")
        if self._truncated():
            raise self._error("is cut off inside a frame")
        if self._bad_frames() or self._scaled:
            raise self._error(f"is damaged{self._reasons()}")
        if self._held or self._lost:
            raise self._error(f"lacks frames: {self._held} held so far, {self._lost} lost")

    def _reasons(self) -> str:
        problems = self._reader.tally.problems.most_common(3)
        return "".join(f"; {said} ({times}x)" for said, times in problems)

    def _error(self, said: str) -> VideoError:
        return VideoError(f"{_printable(self._path)}: {said}")

    def account(self) -> dict[str, Any]:
        """What was read and how, plain JSON values; final once the blocks have ended.

        ``frames`` are those given out, ``frames_decoded`` those the decoder gave,
        ``frames_promised`` the header's claim, and ``frames_bad`` packets that failed plus frames
        whose damage was concealed (these are kept). ``frames_held`` were missing and repeat the
        one before, ``frames_repeated`` do so because their packet says "as before",
        ``frames_scaled`` had another size than the first, and ``frames_lost`` were promised and
        are not in the clip. ``packets_missing`` are promised frames that the file holds no packet
        of.
        """
        reader = self._reader
        account: dict[str, Any] = {
            "decoder": reader.decoder,
            "decoder_version": reader.version,
            **reader.details,
            **self._counts(),
            "problems": dict(sorted(reader.tally.problems.items())),
            "truncated": self._truncated(),
            "frame_rate": str(self.frame_rate),
            "source_frame_rate": str(self._played_rate),
            "variable_rate": self._variable,
            "interlaced": reader.tally.interlaced > 0,
            "transfer": reader.transfer,
            "hdr": reader.transfer in ("pq", "hlg"),
            "source_height_px": self._source_hw[0],
            "source_width_px": self._source_hw[1],
        }
        if self._fallback:
            account["fallback"] = self._fallback
        if self._config.capture_fps is not None:
            account["capture_frame_rate"] = str(self._source_rate)
        if self._scaled or (self.height_px, self.width_px) != self._source_hw:
            account["resized_by"] = f"opencv {_opencv_version()}"
        return account

    def _counts(self) -> dict[str, int | None]:
        reader, tally = self._reader, self._reader.tally
        counts = {
            "frames": self._given,
            "frames_decoded": tally.decoded,
            "frames_promised": reader.promised,
            "frames_bad": self._bad_frames(),
            "frames_concealed": tally.concealed,
            "frames_held": self._held,
            "frames_repeated": self._repeats,
            "frames_scaled": self._scaled,
            "frames_lost": self._lost,
        }
        if tally.packets and reader.promised:
            counts["packets_missing"] = max(0, reader.promised - tally.packets)
        return counts


def _opencv_version() -> str:
    import cv2  # noqa: PLC0415 - only where something is resized

    return str(cv2.__version__)
