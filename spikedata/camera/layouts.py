"""The file layouts of spike cameras and of the programs around them.

No format carries its geometry, so a layout is named (:data:`CAMERAS`) or given as ``HxW``. A plane
is a row-major picture of one tick, one bit a pixel.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spikedata.errors import RecordingError

HALF_ROW_BYTES = 64
BOTTOM_UP = "bottom-up"


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """How one camera or program writes its planes.

    Raises:
        ValueError: a size is not positive, or a row does not fit in its bytes.
    """

    name: str
    """What ``--camera`` takes."""
    description: str
    """One sentence for people."""
    height_px: int | None
    """Rows; None where the file tells."""
    width_px: int | None
    """Columns; None where the file tells."""
    tick_rate_hz: float = 20_000.0
    """Ticks a second, unless the reader is told better: no format carries it."""
    layout: Literal["planes", "half_rows", "thw", "hwt", "ghw"] = "planes"
    """``planes``: bits row by row. ``half_rows``: two marked half-rows a row. ``thw``, ``hwt``: an
    array of zeros and ones with that order of axes, in a ``.npy``, ``.npz`` or HDF5 file. ``ghw``:
    an array of bytes that hold eight ticks each, the first in the least significant bit."""
    array: str | None = None
    """Name of the array; None for the only one, the first of an archive, an HDF5 file's
    ``raw_spike``."""
    bit_order: Literal["little", "big"] = "little"
    """Whether the leftmost pixel of eight is the least or the most significant bit."""
    row_bytes: int | None = None
    """Bytes from one row to the next; None where bits run on across rows."""
    bottom_up: bool = False
    """The file's first row is the picture's bottom row; readers turn it upright."""

    def __post_init__(self) -> None:
        for size in (self.height_px, self.width_px):
            if size is not None and size < 1:
                raise ValueError(f"camera {self.name}: sizes must be positive, got {size}")
        if self.row_bytes is not None and self.row_bytes * 8 < (self.width_px or 0):
            raise ValueError(
                f"camera {self.name}: {self.width_px} pixels do not fit in {self.row_bytes} bytes"
            )

    @property
    def is_array(self) -> bool:
        """Files hold an array that tells its own size, and are no ``.dat``."""
        return self.layout in ("thw", "hwt", "ghw")

    @property
    def plane_bytes(self) -> int:
        """Bytes of one plane in a ``.dat`` file; each plane begins at a whole byte."""
        height, width = self.size
        if self.row_bytes is not None:
            return height * self.row_bytes
        return -(-height * width // 8)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns.

        Raises:
            ValueError: only a file tells them.
        """
        if self.height_px is None or self.width_px is None:
            raise ValueError(f"camera {self.name}: the size is known from a file only")
        return self.height_px, self.width_px

    @property
    def in_words(self) -> str:
        """Name, size and order of rows of a ``.dat`` layout, for people."""
        height, width = self.size
        rows = "bottom" if self.bottom_up else "top"
        return f"{self.name}, {height}x{width}, {rows} row first"

    @property
    def row_bits(self) -> int:
        """Bits from one row to the next."""
        return self.size[1] if self.row_bytes is None else self.row_bytes * 8

    def runs(self) -> NDArray[np.int64]:
        """Runs of real pixels in a row: int64 (runs, 2) of first bit and count."""
        if self.layout == "half_rows":
            return np.array([[0, 500], [512, 500]], np.int64)
        return np.array([[0, self.size[1]]], np.int64)


CAMERAS: dict[str, Camera] = {
    camera.name: camera
    for camera in (
        Camera(
            name="vidar",
            description="Vidar .dat, 12,500 bytes a plane, rows bottom-up.",
            height_px=250,
            width_px=400,
            bottom_up=True,
        ),
        Camera(
            name="vidar-raw",
            description="Raw Vidar dump, rows of 52 bytes whose last 2 are no pixels.",
            height_px=250,
            width_px=400,
            row_bytes=52,
            bottom_up=True,
        ),
        Camera(
            name="easy2spike",
            description="Like vidar, upright, most significant bit first.",
            height_px=250,
            width_px=400,
            bit_order="big",
        ),
        Camera(
            name="sps100",
            description="1000x1000 over PCIe, two marked half-rows of 64 bytes a row.",
            height_px=1000,
            width_px=1000,
            layout="half_rows",
            row_bytes=2 * HALF_ROW_BYTES,
        ),
        Camera(
            name="thw",
            description="Array of 0/1 in order (T, H, W): .npy, .npz or HDF5; thw:NAME names it.",
            height_px=None,
            width_px=None,
            layout="thw",
        ),
        Camera(
            name="hwt",
            description="Array of 0/1 in order (H, W, T): .npy, .npz or HDF5; hwt:NAME names it.",
            height_px=None,
            width_px=None,
            layout="hwt",
        ),
        Camera(
            name="npz-hwt",
            description="The same as hwt.",
            height_px=None,
            width_px=None,
            layout="hwt",
        ),
        Camera(
            name="uhsr",
            description="NumPy .npz, `spk` 0/1 in order (T, H, W), with `label`, `label_name`.",
            height_px=None,
            width_px=None,
            layout="thw",
            array="spk",
        ),
        Camera(
            name="rsir",
            description="NumPy .npz, `seq` eight ticks a byte (T/8, H, W), with `length`.",
            height_px=None,
            width_px=None,
            layout="ghw",
            array="seq",
        ),
    )
}
"""The layouts known by name; any other ``.dat`` size is ``HxW`` or a :class:`Camera` of yours."""


def find_camera(name: str) -> Camera:
    """The camera called ``name``, or for ``HxW`` an upright, unpadded, little-endian ``.dat``.

    ``HxW-msb`` has the most significant bit first; ``:bottom-up`` behind either, the picture's
    bottom row, as SpikeCV and Spike-Zoo expect. ``thw:NAME`` and ``hwt:NAME`` are the arrays called
    NAME.

    Raises:
        RecordingError: no such camera.
    """
    if name in CAMERAS:
        return CAMERAS[name]
    order, _, array = name.partition(":")
    if order in ("thw", "hwt") and array:
        return replace(CAMERAS[order], name=name, array=array)
    size = re.fullmatch(rf"([1-9]\d{{0,4}})x([1-9]\d{{0,4}})(-msb)?(:{BOTTOM_UP})?", name)
    if not size:
        raise RecordingError(
            f"unknown camera {name!r}: expected one of {', '.join(CAMERAS)}, or HxW"
        )
    height, width = int(size[1]), int(size[2])
    return Camera(
        name=name,
        description=f"Plain .dat of {height} rows and {width} columns, bits running on.",
        height_px=height,
        width_px=width,
        bit_order="big" if size[3] else "little",
        bottom_up=bool(size[4]),
    )


def camera_to_write(
    height_px: int, width_px: int, *, asked: str | None = None, source: str | None = None
) -> Camera:
    """The layout that planes of this size are written in.

    Args:
        height_px: rows.
        width_px: columns.
        asked: a camera, or ``bottom-up`` for plain planes with the bottom row first.
        source: the camera that they are from: its own layout, where that is one of ``.dat`` files
            and has this size, if nothing is asked for. Else plain planes, upright.

    Raises:
        RecordingError: ``asked`` is no camera, not of this size, or one whose files are arrays.
    """
    plain = f"{height_px}x{width_px}"
    if asked == BOTTOM_UP:
        return find_camera(f"{plain}:{BOTTOM_UP}")
    if asked is None:
        known = None if source is None else find_camera(source)
        fits = known is not None and (known.height_px, known.width_px) == (height_px, width_px)
        return known if fits and known is not None else find_camera(plain)
    camera = find_camera(asked)
    if (camera.height_px, camera.width_px) != (height_px, width_px):
        told = "arrays" if camera.is_array else f"{camera.height_px}x{camera.width_px}"
        raise RecordingError(f"camera {asked} has planes of {told}, not {plain}")
    return camera
