"""Pictures of the layouts that a file may have, to choose by eye: a sheet, or dots of a terminal.

Shapes: H rows, W columns.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spikedata.layouts import LayoutCandidate

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_TILE_PX = 256
"""Longer side of a picture on a sheet."""
_GAP_PX = 12
_LINE_PX = 16
_MOST_LETTERS = 42
"""Of a line under a picture."""
_PAPER, _INK = 255, 0
_DOTS_WIDE, _DOTS_HIGH = 2, 4
"""Dots of a letter of Braille."""
_DOT_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint8)


def draw_layouts(
    candidates: Sequence[LayoutCandidate], *, titles: Sequence[str] = (), columns: int = 4
) -> NDArray[np.uint8]:
    """A sheet of what some layouts make of a file, each with its name, score and verdict.

    Args:
        candidates: in the order shown.
        titles: a line over each picture; its place if there are none.
        columns: pictures a row.

    Returns:
        grey_hw: uint8 (H, W).

    Raises:
        ValueError: no candidates.
    """
    from PIL import Image, ImageDraw  # noqa: PLC0415  # only pictures need it

    if not candidates:
        raise ValueError("no layouts to draw")
    pictures = [_scaled(found.picture_hw) for found in candidates]
    columns = min(columns, len(candidates))
    heights = [
        max(picture.height for picture in pictures[first : first + columns]) + 3 * _LINE_PX
        for first in range(0, len(pictures), columns)
    ]
    width = _GAP_PX + columns * (_TILE_PX + _GAP_PX)
    sheet = Image.new("L", (width, _GAP_PX + sum(heights) + len(heights) * _GAP_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for n, (found, picture) in enumerate(zip(candidates, pictures, strict=True)):
        row, column = divmod(n, columns)
        left = _GAP_PX + column * (_TILE_PX + _GAP_PX)
        top = _GAP_PX + sum(heights[:row]) + row * _GAP_PX
        title = titles[n] if titles else f"{n + 1}. {found.name}"
        draw.text((left, top), _letters(title), fill=_INK)
        sheet.paste(picture, (left, top + _LINE_PX))
        below = top + _LINE_PX + picture.height + 2
        draw.text((left, below), _letters(_facts(found)), fill=_INK)
        draw.text((left, below + _LINE_PX - 2), _letters(found.note), fill=_INK)
    return np.asarray(sheet)


def _scaled(grey_hw: NDArray[np.uint8]) -> "Picture":
    from PIL import Image  # noqa: PLC0415  # only pictures need it

    scale = _TILE_PX / max(grey_hw.shape)
    height, width = (max(1, round(px * scale)) for px in grey_hw.shape)
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    return Image.fromarray(grey_hw).resize((width, height), how)


def _facts(found: LayoutCandidate) -> str:
    size = f"{found.height_px}x{found.width_px}, {found.ticks:,} ticks"
    return f"{size}: {found.score:.3f}, {found.verdict}"


def _letters(text: str) -> str:
    """What fits under a picture; the built-in font knows Latin letters only."""
    shown = text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 2] + ".."
    return shown.encode("ascii", "replace").decode()


def dots_of(grey_hw: NDArray[np.uint8], columns: int) -> list[str]:
    """A picture as lines of Braille letters, white as dots, for a terminal.

    Args:
        grey_hw: uint8 (H, W).
        columns: letters a line, at least 1.

    Returns:
        Lines of ``columns`` letters each, as many as keep the picture's shape.
    """
    from PIL import Image  # noqa: PLC0415  # only pictures need it

    width = columns * _DOTS_WIDE
    height = max(1, round(grey_hw.shape[0] * width / grey_hw.shape[1] / _DOTS_HIGH)) * _DOTS_HIGH
    small = Image.fromarray(grey_hw).resize((width, height), Image.Resampling.BOX)
    dots_hw = np.asarray(small.convert("1"), np.uint8)
    cells = dots_hw.reshape(height // _DOTS_HIGH, _DOTS_HIGH, columns, _DOTS_WIDE)
    letters_hw = np.einsum("ydxe,de->yx", cells, _DOT_BITS.astype(np.int64))
    return ["".join(chr(0x2800 + int(letter)) for letter in line) for line in letters_hw]
