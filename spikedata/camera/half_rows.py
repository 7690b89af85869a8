"""Frames of 1000x1000 pixels over PCIe, two marked half-rows of 64 bytes a row, and finding them.

The marker of a half-row, its last two bytes as a little-endian number without its low four bits, is
channel in bits 14-15 and line in bits 4-13. A frame is taken only if all of its 2,000 markers are
right: the link drops half-rows, pixels may look like a marker, and a file may begin anywhere.

Shapes: N planes, B bytes.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikedata import bits
from spikedata.camera.layouts import HALF_ROW_BYTES

FRAME_BYTES = 2000 * HALF_ROW_BYTES
_PIECE_BYTES = 32 * FRAME_BYTES
_MARKER_MASK = 0xFFF0
_END_ROWS = 2
"""Half-rows whose markers tell if a file begins where a frame does, or ends where one does."""


@dataclass(frozen=True, slots=True)
class LostSpan:
    """What is missing of a recording at one place."""

    tick: int
    """The tick before which it is missing; the number of ticks if it is at the end."""
    ticks: int
    """How many ticks its bytes were, as near as they tell."""
    bytes: int
    """Bytes that belong to no whole frame."""


@dataclass(frozen=True, slots=True)
class FoundFrames:
    """Where a file's whole frames lie."""

    starts: NDArray[np.int64]
    """int64 (runs, 2): of each run of frames without a gap the first one's tick and byte."""
    ticks: int
    """Whole frames."""
    lost: tuple[LostSpan, ...]
    """What was lost between them, or is damaged at either end."""
    cut_bytes: int
    """Bytes of the frames that the file begins and ends inside."""


class FrameFinder:
    """Finds the whole frames of a stream of bytes, fed piece by piece, whatever its damage."""

    def __init__(self) -> None:
        self.ticks = 0
        """Frames found so far."""
        self.lost: list[LostSpan] = []
        """What was lost so far."""
        self.cut_bytes = 0
        """Bytes of the frames that the stream began and ended inside, so far."""
        self._tail_b = np.empty(0, np.uint8)
        self._tail_at = 0
        self._end = 0  # of the last frame found
        self._first_b = self._tail_b

    def feed(self, piece_b: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Take the next bytes, uint8 (B,).

        Yields:
            at: where in the stream the next frames begin.
            frames_nb: uint8 (N, :data:`FRAME_BYTES`), a view; one after another without a gap.
        """
        data_b = np.concatenate([self._tail_b, piece_b]) if len(self._tail_b) else piece_b
        missing = _END_ROWS * HALF_ROW_BYTES - len(self._first_b)
        self._first_b = np.concatenate([self._first_b, piece_b[:missing]])
        begin = 0
        while True:
            begin, count = _next_frames(data_b, begin)
            if not count:
                break
            at, end = self._tail_at + begin, begin + count * FRAME_BYTES
            template = marker_template()[:_END_ROWS]
            inside = not self.ticks and not _has_markers(self._first_b, template)
            self._note(at - self._end, cut=inside)
            self._end = at + count * FRAME_BYTES
            self.ticks += count
            yield at, data_b[begin:end].reshape(count, FRAME_BYTES)
            begin = end
        self._tail_b, self._tail_at = data_b[begin:].copy(), self._tail_at + begin

    def finish(self) -> None:
        """Take into account what is left at the stream's end."""
        last_b = self._tail_b[-_END_ROWS * HALF_ROW_BYTES :]
        inside = not _has_markers(last_b, marker_template()[-_END_ROWS:])
        self._note(self._tail_at + len(self._tail_b) - self._end, cut=inside)

    def _note(self, size: int, *, cut: bool) -> None:
        if cut and size < FRAME_BYTES:
            self.cut_bytes += size
        elif size:
            self.lost.append(LostSpan(self.ticks, max(1, round(size / FRAME_BYTES)), size))


def find_frames(path: Path) -> FoundFrames:
    """All whole frames of a file, by one reading of it in bounded memory.

    Raises:
        OSError: the file cannot be read.
    """
    finder = FrameFinder()
    starts: list[tuple[int, int]] = []
    end = -1
    room_b = np.empty(_PIECE_BYTES, np.uint8)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(room_b.data):
            for at, frames_nb in finder.feed(room_b[:size]):
                if at != end:
                    starts.append((finder.ticks - len(frames_nb), at))
                end = at + frames_nb.size
    finder.finish()
    found = np.array(starts, np.int64).reshape(-1, 2)
    return FoundFrames(found, finder.ticks, tuple(finder.lost), finder.cut_bytes)


def begins_with_frames(path: Path) -> bool:
    """Whether a whole frame lies in a file's first 256,000 bytes, where one must if all is well.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        data_b = np.frombuffer(file.read(2 * FRAME_BYTES), np.uint8)
    return bool(_next_frames(data_b, 0)[1])


@functools.cache
def marker_template() -> NDArray[np.uint16]:
    """Markers of one frame's 2,000 half-rows, uint16: channel in bits 14-15, line in bits 4-13."""
    half_row = np.arange(1000)
    upper = (half_row % 2) << 14 | (500 - half_row // 2) << 4
    lower = (2 + half_row % 2) << 14 | (half_row // 2 + 1) << 4
    return np.concatenate([upper, lower]).astype("<u2")


def markers_of(planes_nb: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The last two bytes of each half-row, uint16 (N, half-rows), a view."""
    half_rows = planes_nb.reshape(len(planes_nb), -1, HALF_ROW_BYTES)
    markers: NDArray[np.uint16] = half_rows.view("<u2")[:, :, -1]
    return markers


def are_frames(planes_nb: NDArray[np.uint8]) -> bool:
    """Whether every plane, uint8 (N, :data:`FRAME_BYTES`), has all of its markers."""
    return bool(((markers_of(planes_nb) & _MARKER_MASK) == marker_template()).all())


def _next_frames(data_b: NDArray[np.uint8], begin: int) -> tuple[int, int]:
    """Where the next whole frame begins, and how many follow each other; see the kernel."""
    found: tuple[int, int] = bits.find_marked(
        data_b, begin, marker_template(), _MARKER_MASK, HALF_ROW_BYTES
    )
    return found


def _has_markers(data_b: NDArray[np.uint8], template: NDArray[np.uint16]) -> bool:
    """Whether bytes are half-rows with these markers."""
    whole = len(data_b) == len(template) * HALF_ROW_BYTES
    return whole and bool(((markers_of(data_b[None])[0] & _MARKER_MASK) == template).all())
