"""Pictures of the layouts that a file may have, to choose by eye: a sheet, or dots of a terminal.

Shapes: H rows, W columns.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spikedata.analysis.pictures import lay_out
from spikedata.layouts import LayoutCandidate

_TILE_PX = 256
"""Longer side of a picture on a sheet."""
MOST_LINES = 100
"""Of a picture in a terminal."""
_DOTS_WIDE, _DOTS_HIGH = 2, 4
"""Dots of a letter of Braille."""
_DOT_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint8)


def draw_layouts(
    candidates: Sequence[LayoutCandidate], *, titles: Sequence[str] = (), columns: int = 4
) -> NDArray[np.uint8]:
    """A sheet of what some layouts make of a file, each with its name, score and verdict.

    Args:
        candidates: in the order shown.
        titles: a line for each; its place and name if there are none.
        columns: pictures a row.

    Returns:
        grey_hw: uint8 (H, W).

    Raises:
        ValueError: no candidates.
    """
    tiles = []
    for n, found in enumerate(candidates):
        title = titles[n] if titles else f"{n + 1}. {found.name}"
        tiles.append((found.picture_hw, f"{title}\n{_facts(found)}\n{found.note}".rstrip()))
    return lay_out(tiles, columns=columns, tile_px=_TILE_PX)


def _facts(found: LayoutCandidate) -> str:
    size = f"{found.height_px}x{found.width_px}, {found.ticks:,} ticks"
    return f"{size}: {found.score:.3f}, {found.verdict}"


def dots_of(grey_hw: NDArray[np.uint8], columns: int) -> list[str]:
    """A picture as lines of Braille letters, white as dots, for a terminal.

    Args:
        grey_hw: uint8 (H, W).
        columns: letters a line, at least 1.

    Returns:
        Lines of ``columns`` letters each, as many as keep the picture's shape, but at most
        :data:`MOST_LINES`.
    """
    from PIL import Image  # noqa: PLC0415  # only pictures need it

    width = columns * _DOTS_WIDE
    lines = round(grey_hw.shape[0] * width / grey_hw.shape[1] / _DOTS_HIGH)
    height = min(max(1, lines), MOST_LINES) * _DOTS_HIGH
    small = Image.fromarray(grey_hw).resize((width, height), Image.Resampling.BOX)
    dots_hw = np.asarray(small.convert("1"), np.uint8)
    cells = dots_hw.reshape(height // _DOTS_HIGH, _DOTS_HIGH, columns, _DOTS_WIDE)
    letters_hw = np.einsum("ydxe,de->yx", cells, _DOT_BITS.astype(np.int64))
    return ["".join(chr(0x2800 + int(letter)) for letter in line) for line in letters_hw]
