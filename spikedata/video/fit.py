"""Luma codes to full-range luma of the size asked for.

Shapes: H rows, W columns.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

LumaPlane = NDArray[np.uint8] | NDArray[np.uint16]
Fit = Literal["stretch", "crop", "pad"]
Size = tuple[int, int]


def target_size(source_hw: Size, resize: Size | int | None) -> Size:
    """Height and width, px, that frames of ``source_hw`` come out with.

    A whole number is the short side; the long side keeps the picture's aspect, rounded to the
    nearest even number of pixels (half up), but never below the short side.
    """
    if resize is None:
        return source_hw
    if not isinstance(resize, int):
        return resize
    short, long = min(source_hw), max(source_hw)
    if short == long:
        return resize, resize
    even = 2 * ((2 * resize * long + 2 * short) // (4 * short))
    wide = max(even, resize)
    return (resize, wide) if source_hw[0] == short else (wide, resize)


def write_luma(
    codes_hw: LumaPlane,
    table: NDArray[np.uint8] | None,
    out_hw: NDArray[np.uint8],
    *,
    source_hw: Size,
    fit: Fit = "stretch",
) -> None:
    """Write full-range luma of one frame, resized, into ``out_hw``.

    Args:
        codes_hw: luma codes, uint8 or uint16.
        table: full-range luma of each code; None if the codes already are.
        out_hw: where to, uint8.
        source_hw: size of the clip's frames; one of another size is stretched to it first.
        fit: how a frame of another aspect fills ``out_hw``.
    """
    if codes_hw.shape == out_hw.shape and codes_hw.shape == source_hw:
        _expand(codes_hw, table, out_hw)
        return
    luma_hw: NDArray[np.uint8] = np.empty(codes_hw.shape, np.uint8)
    _expand(codes_hw, table, luma_hw)
    if fit != "stretch":
        luma_hw = _resized(luma_hw, source_hw)
        luma_hw = _FITS[fit](luma_hw, (out_hw.shape[0], out_hw.shape[1]))
    out_hw[...] = _resized(luma_hw, (out_hw.shape[0], out_hw.shape[1]))


def _cropped(luma_hw: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Scaled to cover ``size``, the centre cut out."""
    scale = max(size[0] / luma_hw.shape[0], size[1] / luma_hw.shape[1])
    large = _resized(luma_hw, _scaled(luma_hw, scale, at_least=size))
    top, left = (large.shape[0] - size[0]) // 2, (large.shape[1] - size[1]) // 2
    return large[top : top + size[0], left : left + size[1]]


def _padded(luma_hw: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Scaled to fit inside ``size``, black around it."""
    scale = min(size[0] / luma_hw.shape[0], size[1] / luma_hw.shape[1])
    height, width = _scaled(luma_hw, scale, at_least=(1, 1))
    small = _resized(luma_hw, (min(height, size[0]), min(width, size[1])))
    out_hw = np.zeros(size, np.uint8)
    top, left = (size[0] - small.shape[0]) // 2, (size[1] - small.shape[1]) // 2
    out_hw[top : top + small.shape[0], left : left + small.shape[1]] = small
    return out_hw


_FITS = {"crop": _cropped, "pad": _padded}


def _scaled(luma_hw: NDArray[np.uint8], scale: float, *, at_least: Size) -> Size:
    height, width = (
        max(low, round(scale * n)) for low, n in zip(at_least, luma_hw.shape, strict=True)
    )
    return height, width


def _resized(luma_hw: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """By area when shrinking, else linear."""
    if luma_hw.shape == size:
        return luma_hw
    import cv2  # noqa: PLC0415 - loads slowly; --help must not wait

    shrinks = size[0] <= luma_hw.shape[0] and size[1] <= luma_hw.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: NDArray[np.uint8] = cv2.resize(luma_hw, size[::-1], interpolation=how)  # type: ignore[assignment]
    return resized


def _expand(
    codes_hw: LumaPlane, table: NDArray[np.uint8] | None, out_hw: NDArray[np.uint8]
) -> None:
    if table is None:
        np.copyto(out_hw, codes_hw)
    elif codes_hw.dtype == np.uint8:
        import cv2  # noqa: PLC0415 - see _resized

        # 8 bits with a table are limited range; this equals the table for each of the 256 codes
        # (no code lands within 0.002 of a half) and takes less than half the time of a look-up.
        black: Any = 16  # OpenCV's types do not know scalars
        cv2.subtract(codes_hw, black, dst=out_hw)
        cv2.convertScaleAbs(out_hw, dst=out_hw, alpha=255 / 219)
    else:
        np.take(table, codes_hw, out=out_hw, mode="clip")
