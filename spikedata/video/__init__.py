"""Open a video: full-range luma at a constant frame rate, streamed block by block.

Shapes: n frames of a block, H rows, W columns. One function, :func:`open_video`, hides which
decoder ran; :meth:`Video.account` tells, with everything else that decides the bits.
"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from spikedata.errors import VideoError
from spikedata.video.container import missing_bytes
from spikedata.video.decoders import DecordReader, OpenCVReader, PyAVReader, Reader, Shot
from spikedata.video.interpolate import find_interpolator, more_frames, steps_per_frame
from spikedata.video.resample import as_rate, hold_at_rate

__all__ = [
    "Video",
    "VideoConfig",
    "find_interpolator",
    "more_frames",
    "open_video",
    "steps_per_frame",
]

Decoder = Literal["auto", "pyav", "opencv", "decord"]
Damaged = Literal["keep", "refuse"]

_READERS: dict[str, type[PyAVReader] | type[OpenCVReader] | type[DecordReader]] = {
    "pyav": PyAVReader,
    "opencv": OpenCVReader,
    "decord": DecordReader,
}
LONGEST_GAP_S = 3600
"""Longest time between two frames that is believed; resampling would fill it with copies."""

_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<MPD")


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoConfig:
    """How a video is read; part of the simulation's recipe, since it decides the bits."""

    decoder: Decoder = "auto"
    """Which library decodes; ``auto`` is PyAV, or OpenCV where PyAV cannot open the file."""
    resize: tuple[int, int] | None = None
    """Height and width to resize luma to, px: by area when shrinking, else linear."""
    fps: float | None = None
    """Constant frame rate to resample to by repeating or leaving out frames; None keeps it."""
    damaged: Damaged = "keep"
    """Whether a damaged or cut-off video gives what can be read, or an error."""

    def __post_init__(self) -> None:
        for name, kinds in (("decoder", Decoder), ("damaged", Damaged)):
            if getattr(self, name) not in get_args(kinds):
                known = ", ".join(get_args(kinds))
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < 1):
            raise ValueError(f"resize must be a positive height and width, got {self.resize}")
        if self.fps is not None and as_rate(self.fps) is None:
            raise ValueError(f"fps must be a positive number, got {self.fps}")


DEFAULT = VideoConfig()


def open_video(path: Path | str, config: VideoConfig = DEFAULT) -> "Video":
    """Open a video and decode its first frame.

    Args:
        path: a file; playlists and network addresses are refused.
        config: decoder, size, frame rate, what to do with damage.

    Raises:
        VideoError: not a readable file, not a video, nothing in it can be decoded, or it is
            damaged and ``config`` refuses that. One line that begins with the path.
        MissingExtraError: the decoder asked for is not installed.
    """
    path = Path(path)
    try:
        _check_file(path)
        reader, fallback = _open_reader(path, config.decoder)
    except VideoError as error:
        raise VideoError(f"{_printable(path)}: {error}") from error
    try:
        return Video(path, reader, config, fallback=fallback)
    except BaseException:
        reader.close()
        raise


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise VideoError("is a folder, not a video")
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
        self._missing_bytes = missing_bytes(path)
        self._started = False
        self._given = 0
        self._refuse_damage()
        self._shots = reader.shots()
        first = next(self._shots, None)
        if first is None:
            raise self._error(f"not one frame can be decoded{self._reasons()}")
        self._first: Shot | None = first
        self._source_hw: tuple[int, int] = (first.codes_hw.shape[0], first.codes_hw.shape[1])
        self.height_px, self.width_px = config.resize or self._source_hw
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
            _write_luma(shot, block_nhw[filled])
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
        if timing is None and fps is None:
            raise self._error("states no frame rate; give one (fps)")
        if timing is not None and timing.longest_gap_s > LONGEST_GAP_S:
            gap = float(timing.longest_gap_s)
            raise self._error(f"a frame comes {gap:,.0f} s after the one before: damaged times")
        rate = fps or (timing.rate if timing else None)
        assert rate is not None
        self._source_rate = timing.rate if timing else rate
        self._variable = timing is not None and timing.variable
        return rate

    def _shots_at_rate(self) -> Iterator[Shot]:
        if not self._variable and self.frame_rate == self._source_rate:
            return self._sound_shots()
        step_s = 1 / self.frame_rate
        slack_s = min(self._reader.tick_s, step_s / 4) if self._variable else Fraction(0)
        return hold_at_rate(self._timed_shots(), self.frame_rate, 1 / self._source_rate, slack_s)

    def _timed_shots(self) -> Iterator[tuple[Fraction, Shot]]:
        """Frames with times: the container's if they vary, else counted."""
        time_s, step_s = Fraction(0), 1 / self._source_rate
        for index, shot in enumerate(self._sound_shots()):
            if not self._variable:
                time_s = index * step_s
            elif shot.time_s is not None:
                time_s = shot.time_s
            elif index:
                time_s += step_s
            yield time_s, shot

    def _sound_shots(self) -> Iterator[Shot]:
        """Frames of the first one's size; others are counted as failed and left out."""
        shot, self._first = self._first, None
        while shot is not None:
            if shot.codes_hw.shape == self._source_hw:
                self._refuse_damage()
                yield shot
            else:
                tally = self._reader.tally
                tally.decoded -= 1
                tally.failed += 1
                tally.problems["frame size changed"] += 1
            shot = next(self._shots, None)
        self._refuse_damage()

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
        if self._bad_frames():
            raise self._error(f"is damaged{self._reasons()}")

    def _reasons(self) -> str:
        problems = self._reader.tally.problems.most_common(3)
        return "".join(f"; {said} ({times}x)" for said, times in problems)

    def _error(self, said: str) -> VideoError:
        return VideoError(f"{_printable(self._path)}: {said}")

    def account(self) -> dict[str, Any]:
        """What was read and how, plain JSON values; final once the blocks have ended.

        ``frames`` are those given out, ``frames_decoded`` those the decoder gave,
        ``frames_promised`` the header's claim, and ``frames_bad`` packets that failed plus frames
        whose damage was concealed (these are kept). ``packets_missing`` are promised frames that
        the file holds no packet of; a promised frame whose packet says "as before" is not one.
        """
        reader, tally = self._reader, self._reader.tally
        account: dict[str, Any] = {
            "decoder": reader.decoder,
            "decoder_version": reader.version,
            **reader.details,
            "frames": self._given,
            "frames_decoded": tally.decoded,
            "frames_promised": reader.promised,
            "frames_bad": self._bad_frames(),
            "frames_concealed": tally.concealed,
            "problems": dict(sorted(tally.problems.items())),
            "truncated": self._truncated(),
            "frame_rate": str(self.frame_rate),
            "source_frame_rate": str(self._source_rate),
            "variable_rate": self._variable,
            "source_height_px": self._source_hw[0],
            "source_width_px": self._source_hw[1],
        }
        if tally.packets and reader.promised:
            account["packets_missing"] = max(0, reader.promised - tally.packets)
        if self._fallback:
            account["fallback"] = self._fallback
        if self._config.resize not in (None, self._source_hw):
            account["resized_by"] = f"opencv {_opencv_version()}"
        return account


def _opencv_version() -> str:
    import cv2  # noqa: PLC0415 - only where something is resized

    return str(cv2.__version__)


def _write_luma(shot: Shot, out_hw: NDArray[np.uint8]) -> None:
    """Full-range luma of one frame, resized to ``out_hw``, written there."""
    if shot.codes_hw.shape == out_hw.shape:
        _expand(shot, out_hw)
        return
    import cv2  # noqa: PLC0415 - loads slowly; --help must not wait

    luma_hw: NDArray[np.uint8] = np.empty(shot.codes_hw.shape, np.uint8)
    _expand(shot, luma_hw)
    height, width = out_hw.shape
    shrinks = height <= luma_hw.shape[0] and width <= luma_hw.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    out_hw[...] = cv2.resize(luma_hw, (width, height), interpolation=how)


def _expand(shot: Shot, out_hw: NDArray[np.uint8]) -> None:
    if shot.table is None:
        np.copyto(out_hw, shot.codes_hw)
    elif shot.codes_hw.dtype == np.uint8:
        import cv2  # noqa: PLC0415 - see _write_luma

        # 8 bits with a table are limited range; this equals the table for each of the 256 codes
        # (no code lands within 0.002 of a half) and takes less than half the time of a look-up.
        black: Any = 16  # OpenCV's types do not know scalars
        cv2.subtract(shot.codes_hw, black, dst=out_hw)
        cv2.convertScaleAbs(out_hw, dst=out_hw, alpha=255 / 219)
    else:
        np.take(shot.table, shot.codes_hw, out=out_hw, mode="clip")
