"""Single pictures of spikes, contact sheets of them, and picture files.

Only as much of a clip is read as is shown. Shapes: H rows, W columns.
"""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from spikedata.analysis.reconstruction import Reconstructor, pictures_at
from spikedata.clips import ClipSource
from spikedata.errors import SpikeDataError, StoreError
from spikedata.outputs import write_whole

CONTACT_PX = 160
"""Longer side of a picture on a contact sheet."""
CAPTION_PX = 18
"""Height of a line of text."""
_FONT_PX = 13
_GAP_PX, _BACKGROUND, _INK = 6, 24, 235
"""Between pictures, and how grey what is between them and what is written there are."""
MOST_PICTURE_PIXELS = 1 << 26
"""Pixels of a picture that is read, at most."""
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's names of pictures with 16 bits a pixel."""
_BRIGHT_PERCENT = 99.5
"""This share of a picture's pixels is shown below full white."""

Rates = NDArray[np.floating[Any]]
Pixels = TypeVar("Pixels", bound=NDArray[Any])


def to_grey(rate_hw: Rates, white: float | None = None) -> NDArray[np.uint8]:
    """Picture of firing rates: 0 is black, ``white`` and more is white.

    Args:
        rate_hw: (H, W), spikes a tick.
        white: if None, the rate that all but the brightest pixels stay below.

    Returns:
        grey_hw: uint8 (H, W).
    """
    white = white_rate([rate_hw]) if white is None else white
    grey_hw: NDArray[np.uint8] = np.rint(np.clip(rate_hw / white, 0.0, 1.0) * 255).astype(np.uint8)
    return grey_hw


def white_rate(rates: Sequence[Rates]) -> float:
    """The rate that all but the brightest pixels of these pictures stay below; 1 if all is dark."""
    bright = np.percentile(np.concatenate([rate_hw.ravel() for rate_hw in rates]), _BRIGHT_PERCENT)
    return float(bright) or 1.0


def draw_picture(
    source: ClipSource,
    clip_id: str,
    *,
    picture: str | Reconstructor = "tfp",
    start: int = 0,
    ticks: int | None = None,
    white: float | None = None,
) -> NDArray[np.uint8]:
    """One picture of a clip, pixel for pixel: nothing is scaled, laid out or written on it.

    Args:
        source: where the clip is.
        clip_id: which.
        picture: as for :func:`~spikedata.reconstruct`: TFP or a function of all ticks given;
            adaptive windows of at most these; TFI at the middle one of them, for which up to 512
            ticks of the clip before and after it are read, whatever is given.
        start: first tick.
        ticks: how many; to the end if None.
        white: spikes a tick that are shown as 255, for example 0.5 for full-scale light at
            threshold 2; if None, the rate that all but the brightest pixels stay below.

    Returns:
        grey_hw: uint8 (H, W), 255 times the rate over ``white``, rounded and cut at 255.

    Raises:
        ValueError: ``white`` is not positive.
        StoreError: there is no such clip, or it is shorter than asked for.
        SpikeDataError: there is no such function.
    """
    check_white(white)
    clip = source.stream(clip_id)
    ticks = ticks_shown(source, clip_id, start, ticks)
    ((_, rate_hw),) = pictures_at(clip, picture, [start], ticks)
    return to_grey(rate_hw, white)


def check_white(white: float | None) -> None:
    """Refuse a white that is no rate.

    Raises:
        ValueError: ``white`` is not positive.
    """
    if white is not None and not 0 < white < math.inf:
        raise ValueError(f"white must be a positive number of spikes a tick, got {white}")


def ticks_shown(source: ClipSource, clip_id: str, start: int, ticks: int | None) -> int:
    """How many ticks of a clip are shown.

    Raises:
        StoreError: there is no such clip, or it is shorter than asked for.
    """
    whole = source.stored(clip_id).ticks
    shown = whole - start if ticks is None else ticks
    if start < 0 or shown < 1 or start + shown > whole:
        raise StoreError(
            f"{source.path}: clip {clip_id}: ticks {start} to {start + shown} are not inside its "
            f"{whole} ticks"
        )
    return shown


def read_picture(path: Path | str) -> NDArray[np.uint8]:
    """A picture file as grey levels, uint8 (H, W); colours by their luma, 16 bits scaled to 8.

    Raises:
        SpikeDataError: it cannot be read, its pixels have neither 8 nor 16 bits, or it claims more
            than :data:`MOST_PICTURE_PIXELS`.
    """
    from PIL import Image  # noqa: PLC0415  # only pictures need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # told as an error
            picture = Image.open(path)
        with picture:
            width, height = picture.size
            if width * height > MOST_PICTURE_PIXELS:
                raise SpikeDataError(
                    f"{path}: claims {height}x{width} pixels, expected at most "
                    f"{MOST_PICTURE_PIXELS:,}"
                )
            if picture.mode in _DEEP_MODES:
                return ((np.asarray(picture).astype(np.uint32) + 128) // 257).astype(np.uint8)
            if picture.mode in ("I", "F"):
                raise SpikeDataError(
                    f"{path}: pixels are {picture.mode}, expected 8 or 16 bits. Save it as PNG"
                )
            return np.asarray(picture.convert("L"))
    except SpikeDataError:
        raise
    except Exception as error:  # whatever a damaged picture makes Pillow raise, bombs among it
        raise SpikeDataError(f"{path}: cannot be read as a picture: {error}") from error


def write_picture(path: Path | str, grey_hw: NDArray[np.uint8], *, overwrite: bool = False) -> Path:
    """Write a picture, uint8 (H, W), as PNG.

    Raises:
        SpikeDataError: ``path`` is there, and ``overwrite`` is False.
    """
    write_whole(Path(path), png_bytes(grey_hw), overwrite=overwrite)
    return Path(path)


def choose_clips(store: ClipSource, count: int) -> list[str]:
    """At most ``count`` clip ids; classes take turns, each in order of id."""
    by_label: dict[str, list[str]] = {}
    for clip_id, stored in store.clips.items():
        by_label.setdefault(stored.clip.label or "", []).append(clip_id)
    queues = [by_label[label] for label in sorted(by_label)]
    longest = max(map(len, queues), default=0)
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)][:count]


def lay_out(
    tiles: Sequence[tuple[NDArray[np.uint8], str]],
    *,
    columns: int,
    tile_px: int = CONTACT_PX,
    note: str | None = None,
) -> NDArray[np.uint8]:
    """Captioned pictures, row by row, each of its own shape and with its caption under it.

    Args:
        tiles: grey pictures (h, w) with what is written under them, in one or several lines.
        columns: pictures a row.
        tile_px: longer side that each is shrunk or magnified to.
        note: written under all of them.

    Returns:
        grey_hw: uint8 (H, W).

    Raises:
        ValueError: no pictures.
    """
    from PIL import Image, ImageDraw  # noqa: PLC0415  # only pictures need it

    if not tiles:
        raise ValueError("no pictures to lay out")
    columns = min(columns, len(tiles))
    pictures = [resized(grey_hw, tile_px) for grey_hw, _ in tiles]
    rows = [pictures[i : i + columns] for i in range(0, len(tiles), columns)]
    wide = max(picture.shape[1] for picture in pictures) + _GAP_PX
    lines = max(caption.count("\n") + 1 for _, caption in tiles)
    high = [max(picture.shape[0] for picture in row) + lines * CAPTION_PX for row in rows]
    size = (columns * wide + _GAP_PX, sum(high) + _GAP_PX + (CAPTION_PX if note else 0))
    sheet = Image.new("L", size, _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), caption_font()
    for n, (picture, (_, caption)) in enumerate(zip(pictures, tiles, strict=True)):
        left = _GAP_PX + n % columns * wide
        top = _GAP_PX + sum(high[: n // columns])
        sheet.paste(Image.fromarray(picture), (left, top))
        for line, text in enumerate(caption.split("\n")):
            below = top + picture.shape[0] + line * CAPTION_PX
            shown = _fitting(text, font, wide - _GAP_PX)
            draw.text((left, below), shown, fill=_INK, font=font)
    if note:
        shown = _fitting(note, font, size[0] - 2 * _GAP_PX)
        draw.text((_GAP_PX, size[1] - CAPTION_PX - 1), shown, fill=_INK, font=font)
    return np.asarray(sheet)


def resized(picture_hw: Pixels, side_px: int) -> Pixels:
    """A picture with its longer side ``side_px`` long: means over areas, or larger pixels."""
    from PIL import Image  # noqa: PLC0415  # only pictures need it

    longest = max(picture_hw.shape)
    height, width = (max(1, round(px * side_px / longest)) for px in picture_hw.shape)
    how = Image.Resampling.BOX if side_px < longest else Image.Resampling.NEAREST
    whole = Image.fromarray(picture_hw)
    made: Any = np.asarray(whole.resize((width, height), how), picture_hw.dtype)
    return cast(Pixels, made)


def caption_font(size_px: int = _FONT_PX) -> Any:
    """What captions are written in; it knows Latin letters only."""
    from PIL import ImageFont  # noqa: PLC0415  # only pictures need it

    return ImageFont.load_default(size_px)


def _fitting(text: str, font: Any, width_px: int) -> str:
    """As much of a text as fits, with the letters that the font has."""
    text = text.encode("ascii", "replace").decode()
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "..") > width_px:
        text = text[:-1]
    return text + ".."


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """A grey (H, W) or coloured (H, W, 3) picture as a PNG file."""
    from PIL import Image  # noqa: PLC0415  # only pictures need it

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
