"""A folder of numbered ``.dat`` files of a few planes each, one a video frame: one recording.

The layout of SPKLIP's own data: ``CLASS/CLIP/0001.dat`` and so on.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import TICKS_PER_GROUP, pack_ticks
from spikedata.camera import Camera, Recording, find_camera, read_recording
from spikedata.errors import RecordingError

MOST_PLANES = 64
"""Planes of a file at most; a longer one is a recording of its own."""
_NUMBERED = re.compile(r"(?P<prefix>\D*)(?P<number>\d+)")


@dataclass(frozen=True)
class NumberedRecording:
    """Camera files one after the other, read as one; nothing is held open between reads."""

    path: Path
    parts: tuple[Recording, ...]

    @property
    def camera(self) -> Camera:
        """Whose files they are."""
        return self.parts[0].camera

    @property
    def ticks(self) -> int:
        """Planes of all files."""
        return sum(part.ticks for part in self.parts)

    @property
    def height_px(self) -> int:
        """Rows."""
        return self.parts[0].height_px

    @property
    def width_px(self) -> int:
        """Columns."""
        return self.parts[0].width_px

    @property
    def tick_rate_hz(self) -> float:
        """Ticks a second."""
        return self.parts[0].tick_rate_hz

    @property
    def flip(self) -> bool:
        """Rows are turned upside down on reading."""
        return self.parts[0].flip

    @property
    def block_groups(self) -> int:
        """Groups of a block that stays in the cache."""
        return self.parts[0].block_groups

    label: None = None
    skipped_bytes: int = 0

    def blocks(self, ticks: int) -> Iterator[NDArray[np.uint8]]:
        """Packed blocks of ``ticks`` ticks, uint8 (g, H, W), the last perhaps shorter."""
        waiting_thw = np.empty((0, self.height_px, self.width_px), np.uint8)
        for part in self.parts:
            waiting_thw = np.concatenate([waiting_thw, part.read().unpack()])
            while len(waiting_thw) >= ticks:
                yield pack_ticks(waiting_thw[:ticks])
                waiting_thw = waiting_thw[ticks:]
        if len(waiting_thw):
            yield pack_ticks(waiting_thw)

    def groups(self, first: int, end: int) -> NDArray[np.uint8]:
        """Groups ``first`` to ``end`` of eight ticks, uint8 (end - first, H, W)."""
        begin, until = first * TICKS_PER_GROUP, min(end * TICKS_PER_GROUP, self.ticks)
        pieces, tick = [], 0
        for part in self.parts:
            if tick < until and tick + part.ticks > begin:
                planes_thw = part.read().unpack()
                pieces.append(planes_thw[max(0, begin - tick) : until - tick])
            tick += part.ticks
        return pack_ticks(np.concatenate(pieces))


def numbered_files(files: Collection[Path], camera: str | None) -> list[Path]:
    """The files of one folder in order of their numbers, if they are one recording; else none.

    They are if there are several ``.dat`` files of one size, called alike but for a number, and of
    a few planes each.

    Args:
        files: all recordings in the folder.
        camera: whose files they are; nothing tells the number of planes without it.
    """
    matches = [(_NUMBERED.fullmatch(file.stem), file) for file in files]
    alike = {match["prefix"] for match, _ in matches if match}
    if camera is None or len(files) < 2 or len(alike) != 1:
        return []
    if not all(match and file.suffix.lower() == ".dat" for match, file in matches):
        return []
    try:
        sizes = {file.stat().st_size for file in files}
        plane_bytes = find_camera(camera).plane_bytes
    except (OSError, RecordingError, ValueError):
        return []
    if len(sizes) != 1 or not 0 < sizes.pop() <= MOST_PLANES * plane_bytes:
        return []
    return [file for _, file in sorted((int(m["number"]), f) for m, f in matches if m)]


def read_numbered(
    folder: Path,
    files: Sequence[Path],
    camera: Camera,
    *,
    flip: bool | None,
    tick_rate_hz: float | None,
) -> NumberedRecording:
    """Open the files of one recording, in order.

    Raises:
        RecordingError: one is unreadable, or not of this camera.
    """
    parts = (read_recording(file, camera, flip=flip, tick_rate_hz=tick_rate_hz) for file in files)
    return NumberedRecording(folder, tuple(parts))
