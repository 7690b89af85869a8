"""A folder of numbered ``.dat`` files of a few planes each, one a video frame: one recording.

The layout of SPKLIP's own data: ``CLASS/CLIP/0001.dat`` and so on.

Shapes: T ticks, g groups of eight ticks, H rows, W columns.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import pack_ticks, unpack_ticks
from spikedata.camera.layouts import Camera

MOST_PLANES = 64
"""Planes of a file at most; a longer one is a recording of its own."""
_NUMBERED = re.compile(r"(?P<prefix>\D*)(?P<number>\d+)")


class _Part(Protocol):
    def span(self, start: int, ticks: int) -> NDArray[np.uint8]:
        """Ticks of one file, packed from bit 0."""


class PlanesOfFiles:
    """The planes of several files, one after another.

    Args:
        parts: of each file how many planes it has, and they.
    """

    def __init__(self, parts: Sequence[tuple[int, _Part]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([ticks for ticks, _ in parts])

    def span(self, start: int, ticks: int) -> NDArray[np.uint8]:
        """Ticks ``start`` to ``start + ticks``, packed from bit 0: uint8 (g, H, W)."""
        return pack_ticks(np.concatenate(list(self._planes(start, start + ticks))))

    def blocks(self, ticks: int) -> Iterator[NDArray[np.uint8]]:
        """All of it, ``ticks`` at a time, a multiple of eight: uint8 (g, H, W)."""
        last = int(self._ends[-1])
        for start in range(0, last, ticks):
            yield self.span(start, min(ticks, last - start))

    def _planes(self, start: int, end: int) -> Iterator[NDArray[np.uint8]]:
        """The planes of each file in the span, uint8 0/1 (t, H, W)."""
        for number in range(int(np.searchsorted(self._ends, start, side="right")), len(self._ends)):
            held, part = self._parts[number]
            begins = int(self._ends[number]) - held
            if begins >= end:
                return
            first, last = max(0, start - begins), min(held, end - begins)
            yield unpack_ticks(part.span(first, last - first), last - first)


def numbered_files(files: Collection[Path], camera: Camera, *, sure: bool = False) -> list[Path]:
    """The files of one folder in order of their numbers, if they are one recording; else none.

    They are if there are several ``.dat`` files of one size, called alike but for a number, and of
    a few planes each.

    Args:
        files: all recordings in the folder.
        camera: whose files they are.
        sure: somebody said so; they may then have any size.
    """
    matches = [(_NUMBERED.fullmatch(file.stem), file) for file in files]
    alike = {match["prefix"] for match, _ in matches if match}
    if camera.is_array or len(files) < 2 or len(alike) != 1:
        return []
    if not all(match and file.suffix.lower() == ".dat" for match, file in matches):
        return []
    try:
        sizes = {file.stat().st_size for file in files}
    except OSError:
        return []
    few = len(sizes) == 1 and 0 < min(sizes) <= MOST_PLANES * camera.plane_bytes
    if not (few or sure):
        return []
    return [file for _, file in sorted((int(m["number"]), f) for m, f in matches if m)]
