"""A folder of numbered pictures, read as a video.

The pictures of one folder that share a name but for the number at its end, such as
``shot_0001.png``, are the frames, in order of that number. A number that is missing is a frame
that is missing.
"""

import io
import os
import re
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.errors import VideoError
from spikedata.video.decoders import Shot, Tally, range_table
from spikedata.video.fit import LumaPlane
from spikedata.video.resample import Timing
from spikedata.video.streams import MOST_PIXELS

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".exr", ".hdr"})
"""Suffixes, in lower case, of the pictures that are read."""

_MOST_FILE_BYTES = 1 << 29
_MOST_DEEP_PIXELS = MOST_PIXELS // 2
"""Of kinds whose pixels may be floats: 8K."""
_EXR_MAGIC = b"\x76\x2f\x31\x01"
_EXR_WINDOW = re.compile(rb"dataWindow\0box2i\0\x10\0\0\0(.{16})", re.DOTALL)
_HDR_MAGIC = b"#?"
_HDR_SIZE = re.compile(rb"-Y\s+[+-]?(\d{1,12})\s+\+X\s+[+-]?(\d{1,12})")

_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)


def is_picture_folder(path: Path | str) -> bool:
    """Whether a folder holds numbered pictures of one name and kind, at least two."""
    path = Path(path)
    try:
        return path.is_dir() and len(_numbered_pictures(path)) > 1
    except (OSError, ValueError):
        return False


def _numbered_pictures(folder: Path) -> dict[int, Path]:
    """Pictures by number, in order; empty if they are no one series."""
    series: set[tuple[str, str]] = set()
    found: list[tuple[int, Path]] = []
    for path in folder.iterdir():
        suffix = path.suffix.lower()
        if suffix not in PICTURE_SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        name = _NUMBERED.fullmatch(path.stem)
        if name is None:
            return {}
        series.add((name[1], suffix))
        found.append((int(name[2]), path))
    pictures = dict(sorted(found))
    return pictures if len(series) == 1 and len(pictures) == len(found) else {}


class PictureReader:
    """Pictures through OpenCV, one at a time."""

    decoder = "opencv"

    def __init__(self, folder: Path, rate: Fraction | None) -> None:
        import cv2  # noqa: PLC0415 - loads slowly; --help must not wait

        self._pictures = _numbered_pictures(folder)
        if not self._pictures:
            raise VideoError("is a folder, not a video, nor one of numbered pictures of one name")
        if rate is None:
            raise VideoError("is a folder of pictures, which has no frame rate; give it with --fps")
        self._cv2: Any = cv2
        self.version: str = cv2.__version__
        numbers = list(self._pictures)
        self._first = numbers[0]
        self.promised: int | None = len(numbers)
        self.expected: int | None = numbers[-1] - numbers[0] + 1
        self.tick_s = 1 / rate
        longest = max(np.diff(np.array(numbers, dtype=object)), default=0)
        self.timing: Timing | None = Timing(
            rate=rate, variable=False, longest_gap_s=int(longest) / rate
        )
        self.tally = Tally()
        self.expects_by_header = False
        self.duration_s: Fraction | None = None
        self.transfer: str | None = None
        self.details: dict[str, Any] = {
            "container": "pictures",
            "codec": self._pictures[self._first].suffix.lower().lstrip("."),
            "colour_range": "full",
            "range_tag": "pictures",
        }

    def shots(self) -> Iterator[Shot]:
        """Read in order of number; a picture that cannot be read is counted and left out."""
        for number, path in self._pictures.items():
            codes_hw = self._read(path)
            if codes_hw is None:
                self.tally.failed += 1
                self.tally.problems["picture cannot be read"] += 1
                continue
            self.tally.decoded += 1
            table = range_table(16, limited=False) if codes_hw.dtype == np.uint16 else None
            place = number - self._first
            yield Shot(place * self.tick_s, codes_hw, table, place)

    def _read(self, path: Path) -> LumaPlane | None:
        """Luma codes, uint8 or uint16 (H, W)."""
        cv2 = self._cv2
        os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # off unless asked for
        try:
            if path.stat().st_size > _MOST_FILE_BYTES:
                return None
            coded = np.fromfile(path, np.uint8)
            if not _is_small(coded.data):
                return None
            picture = cv2.imdecode(coded, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
        except (OSError, cv2.error):
            return None
        if picture is None:
            return None
        if picture.dtype.kind == "f":
            picture = srgb_codes(picture)
        if picture.dtype not in (np.uint8, np.uint16):
            return None
        codes_hw: LumaPlane = picture
        if picture.ndim == 3:
            codes_hw = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        return codes_hw

    def close(self) -> None:
        """Nothing is held open."""


def _is_small(coded: memoryview) -> bool:
    """Whether a picture is of a kind that is read and claims no more pixels than are believed.

    OpenCV makes room for what a header claims, up to 2**30 pixels, and tells no size before.
    """
    head = bytes(coded[:4])
    if head == _EXR_MAGIC:
        windows = [struct.unpack("<4i", found[1]) for found in _EXR_WINDOW.finditer(coded)]
        sizes = [(y1 - y0 + 1, x1 - x0 + 1) for x0, y0, x1, y1 in windows]
        return max((h * w for h, w in sizes), default=0) <= _MOST_DEEP_PIXELS
    if head[:2] == _HDR_MAGIC:
        claims = _HDR_SIZE.finditer(coded[: 1 << 16])
        return max((int(c[1]) * int(c[2]) for c in claims), default=0) <= _MOST_DEEP_PIXELS
    from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin  # noqa: PLC0415

    tiff = TiffImagePlugin.TiffImageFile
    kinds: dict[bytes, Any] = {
        b"\x89P": PngImagePlugin.PngImageFile,
        b"\xff\xd8": JpegImagePlugin.JpegImageFile,
        b"BM": BmpImagePlugin.BmpImageFile,
        b"II": tiff,
        b"MM": tiff,
    }
    kind = kinds.get(head[:2])
    if kind is None:
        return False
    try:
        with kind(io.BytesIO(coded)) as picture:
            width, height = picture.size
    except Exception:  # whatever a damaged header makes it raise
        return False
    return bool(width * height <= (_MOST_DEEP_PIXELS if kind is tiff else MOST_PIXELS))


def srgb_codes(light: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Code values of linear light by the sRGB curve, uint8, of the shape given.

    Light below 0 and what is no number is black, light above 1 white.

    Source: IEC 61966-2-1:1999.
    """
    codes = np.empty(light.shape, np.uint8)
    for row in range(0, len(light), 64):  # the doubles of a few rows at a time
        part = np.clip(np.nan_to_num(light[row : row + 64].astype(np.float64), nan=0.0), 0, 1)
        curve = np.where(part <= 0.0031308, 12.92 * part, 1.055 * part ** (1 / 2.4) - 0.055)
        codes[row : row + 64] = np.floor(curve * 255 + 0.5)
    return codes
