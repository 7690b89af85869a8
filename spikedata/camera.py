"""Recordings of real spike cameras: which layouts there are, one decoder, one encoder.

No format carries its geometry, so a layout is named (:data:`CAMERAS`) or given as ``HxW``. A plane
is a row-major picture of one tick, one bit a pixel. Decoding turns eight planes at a time into
bytes that hold eight ticks of one pixel: an 8 x 8 bit transposition, with no unpacked array on the
way and memory bounded by the block length.

Shapes: T ticks, G = ceil(T / 8) groups, H rows, W columns, N planes, B bytes a plane.
"""

import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from spikedata import bits
from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.errors import RecordingError, SpikeDataError
from spikedata.npz import PIECE_BYTES, Npz, NpzArray
from spikedata.outputs import written_aside
from spikedata.stream import SpikeStream, check_tick_rate_hz

BLOCK_BYTES = 1 << 20
"""Packed bytes a block aims at when no block length is given: it stays in the cache."""

_PIECE_GROUPS = 8
"""Groups decoded between two reads: 64 planes of 250x400 stay in the second-level cache."""

_MOST_PIXELS = 1 << 26
"""Pixels of a plane at most: eight planes are held unpacked."""

_HALF_ROW_BYTES = 64
_MARKER_MASK = 0xFFF0


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
    layout: Literal["planes", "half_rows", "npz_hwt", "npz_thw"] = "planes"
    """``planes``: bits row by row. ``half_rows``: two marked half-rows a row. ``npz_*``: unpacked
    NumPy archive with that order of axes."""
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
    def is_npz(self) -> bool:
        """Files are NumPy archives of unpacked planes, not ``.dat``."""
        return self.layout in ("npz_hwt", "npz_thw")

    @property
    def plane_bytes(self) -> int:
        """Bytes of one plane in a ``.dat`` file; each plane begins at a whole byte."""
        height, width = self._size()
        if self.row_bytes is not None:
            return height * self.row_bytes
        return -(-height * width // 8)

    def _size(self) -> tuple[int, int]:
        if self.height_px is None or self.width_px is None:
            raise ValueError(f"camera {self.name}: the size is known from a file only")
        return self.height_px, self.width_px

    def _row_bits(self) -> int:
        return self._size()[1] if self.row_bytes is None else self.row_bytes * 8

    def _runs(self) -> NDArray[np.int64]:
        """Runs of real pixels in a row: int64 (runs, 2) of first bit and count."""
        if self.layout == "half_rows":
            return np.array([[0, 500], [512, 500]], np.int64)
        return np.array([[0, self._size()[1]]], np.int64)


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
            row_bytes=2 * _HALF_ROW_BYTES,
        ),
        Camera(
            name="npz-hwt",
            description="NumPy .npz, first array 0/1 in order (H, W, T).",
            height_px=None,
            width_px=None,
            layout="npz_hwt",
        ),
        Camera(
            name="uhsr",
            description="NumPy .npz, `spk` 0/1 in order (T, H, W), with `label`, `label_name`.",
            height_px=None,
            width_px=None,
            layout="npz_thw",
        ),
    )
}
"""The layouts known by name; any other ``.dat`` size is ``HxW`` or a :class:`Camera` of yours."""


def find_camera(name: str) -> Camera:
    """The camera called ``name``, or for ``HxW`` an upright, unpadded, little-endian ``.dat``.

    Raises:
        RecordingError: no such camera.
    """
    if name in CAMERAS:
        return CAMERAS[name]
    size = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", name)
    if not size:
        raise RecordingError(
            f"unknown camera {name!r}: expected one of {', '.join(CAMERAS)}, or HxW"
        )
    height, width = int(size[1]), int(size[2])
    description = f"Plain .dat of {height} rows and {width} columns, bits running on."
    return Camera(name=name, description=description, height_px=height, width_px=width)


@dataclass(frozen=True)
class Recording:
    """A camera file, opened for reading block by block; nothing is held open between reads."""

    path: Path
    camera: Camera
    ticks: int
    """Whole planes in the file."""
    height_px: int
    width_px: int
    tick_rate_hz: float
    flip: bool
    """Rows are turned upside down on reading."""
    first_byte: int = 0
    """Where the first whole frame begins (``sps100`` files may begin inside one)."""
    skipped_bytes: int = 0
    """Bytes before the first and after the last whole frame (``sps100`` only)."""
    label: str | None = None
    """What the file itself says it shows (``uhsr`` only)."""

    @property
    def block_groups(self) -> int:
        """Groups of a block that stays in the cache."""
        return max(1, BLOCK_BYTES // (self.height_px * self.width_px))

    def blocks(self, ticks: int | None = None) -> Iterator[NDArray[np.uint8]]:
        """Packed blocks, uint8 (g, H, W), whole groups except perhaps the last.

        Args:
            ticks: ticks a block, a multiple of eight; default about 1 MiB of packed bytes.

        Raises:
            ValueError: ``ticks`` is not a positive multiple of eight.
            RecordingError: the file cannot be read, or a later frame's markers are wrong.
        """
        ticks = self.block_groups * TICKS_PER_GROUP if ticks is None else ticks
        if ticks < 1 or ticks % TICKS_PER_GROUP:
            raise ValueError(f"ticks must be a positive multiple of 8, got {ticks}")
        if self.camera.layout == "npz_hwt":
            return _npz_hwt_blocks(self, ticks)
        if self.camera.layout == "npz_thw":
            return _npz_thw_blocks(self, ticks)
        starts = range(0, self.ticks, ticks)
        return _dat_blocks(self, (self._room(min(ticks, self.ticks - at)) for at in starts))

    def groups(self, first: int, end: int) -> NDArray[np.uint8]:
        """Groups ``first`` to ``end`` of eight ticks, uint8 (end - first, H, W).

        Raises:
            RecordingError: as for :meth:`blocks`.
        """
        if self.camera.layout == "npz_hwt":
            return _npz_hwt_groups(self, first, end)
        if self.camera.is_npz:  # compressed as one: what lies before is read too
            pieces, at = [], 0
            for block_ghw in self.blocks():
                pieces.append(block_ghw[max(0, first - at) : max(0, end - at)])
                at += len(block_ghw)
                if at >= end:
                    break
            return np.concatenate(pieces)
        first_tick = first * TICKS_PER_GROUP
        room_ghw = self._room(min(end * TICKS_PER_GROUP, self.ticks) - first_tick)
        return next(_dat_blocks(self, [room_ghw], first_tick))

    def read(self) -> SpikeStream:
        """The whole recording."""
        if self.camera.is_npz:
            packed_ghw = self.groups(0, group_count(self.ticks))
        else:
            packed_ghw = next(_dat_blocks(self, [self._room(self.ticks)]))
        return SpikeStream(packed_ghw, self.ticks, self.tick_rate_hz)

    def _room(self, ticks: int) -> NDArray[np.uint8]:
        return np.empty((group_count(ticks), self.height_px, self.width_px), np.uint8)


def read_recording(
    path: Path | str,
    camera: str | Camera,
    *,
    flip: bool | None = None,
    tick_rate_hz: float | None = None,
) -> Recording:
    """Open a camera file; its length, and its content where that can tell, must fit the camera.

    Args:
        path: a ``.dat`` or ``.npz`` file.
        camera: a name (see :func:`find_camera`) or a camera.
        flip: turn rows upside down; default what the camera needs to be upright.
        tick_rate_hz: default the camera's.

    Raises:
        RecordingError: unreadable, empty, or not of this camera.
        ValueError: ``tick_rate_hz`` is not a positive number.
    """
    path = Path(path)
    camera = find_camera(camera) if isinstance(camera, str) else camera
    flip = camera.bottom_up if flip is None else flip
    rate = camera.tick_rate_hz if tick_rate_hz is None else check_tick_rate_hz(tick_rate_hz)
    if camera.is_npz:
        return _open_npz(path, camera, flip, rate)
    height, width = camera._size()
    _check_size(path, height, width)
    try:
        size = path.stat().st_size
        first_byte = _check_content(path, camera, size)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error
    ticks, rest = divmod(size - first_byte, camera.plane_bytes)
    if camera.layout == "planes" and (rest or not ticks):
        raise RecordingError(
            f"{path}: {size:,} bytes is not a whole number of {width}x{height} planes "
            f"({camera.plane_bytes:,} bytes each). Wrong --camera? See `spikedata cameras`."
        )
    return Recording(
        path, camera, ticks, height, width, rate, flip, first_byte, skipped_bytes=first_byte + rest
    )


def _check_size(path: Path, height_px: int, width_px: int) -> None:
    if height_px * width_px > _MOST_PIXELS:
        raise RecordingError(
            f"{path}: planes of {height_px}x{width_px} pixels, expected at most {_MOST_PIXELS:,}"
        )


def write_recording(
    path: Path | str,
    blocks: Iterable[NDArray[np.uint8]],
    camera: str | Camera,
    *,
    ticks: int,
    flip: bool | None = None,
) -> None:
    """Write packed blocks as a ``.dat`` file; reading it with the same arguments undoes it.

    Args:
        path: written aside and renamed when whole.
        blocks: uint8 (g, H, W), whole groups except perhaps the last.
        camera: as for :func:`read_recording`, but no ``.npz``.
        ticks: how many planes to write.
        flip: as for :func:`read_recording`.

    Raises:
        ValueError: the blocks do not fit the camera or do not hold ``ticks`` ticks.
    """
    path = Path(path)
    camera = find_camera(camera) if isinstance(camera, str) else camera
    if camera.is_npz:
        raise ValueError(f"camera {camera.name}: only .dat files can be written")
    flip = camera.bottom_up if flip is None else flip
    with written_aside(path, overwrite=True) as aside, aside.open("wb") as file:
        _write_planes(file, blocks, camera, ticks, flip)


def _write_planes(
    file: IO[bytes], blocks: Iterable[NDArray[np.uint8]], camera: Camera, ticks: int, flip: bool
) -> None:
    left = ticks
    for block_ghw in blocks:
        count = min(left, len(block_ghw) * TICKS_PER_GROUP)
        if group_count(count) != len(block_ghw):
            raise ValueError(f"the blocks hold more than {ticks} ticks")
        file.write(_encode(block_ghw, camera, flip)[:count].data)
        left -= count
    if left:
        raise ValueError(f"the blocks hold {ticks - left} ticks, expected {ticks}")


# --- .dat ---------------------------------------------------------------------------------------


def _dat_blocks(
    recording: Recording, rooms: Iterable[NDArray[np.uint8]], tick: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """Fill one array after another, uint8 (g, H, W), with the groups from ``tick`` on."""
    camera = recording.camera
    planes_nb = np.empty((_PIECE_GROUPS * TICKS_PER_GROUP, camera.plane_bytes), np.uint8)
    scratch = np.empty(camera.plane_bytes, np.uint64)
    layout = camera._row_bits(), camera._runs(), recording.flip, camera.bit_order == "big"
    with _open(recording.path) as file:
        file.seek(recording.first_byte + tick * camera.plane_bytes)
        for room_ghw in rooms:
            for first in range(0, len(room_ghw), _PIECE_GROUPS):
                piece_ghw = room_ghw[first : first + _PIECE_GROUPS]
                piece_nb = planes_nb[: len(piece_ghw) * TICKS_PER_GROUP]
                count = min(len(piece_nb), recording.ticks - tick)
                _read_planes(recording, file, piece_nb[:count], tick)
                piece_nb[count:] = 0
                bits.decode_groups(piece_nb, scratch, piece_ghw, *layout)
                tick += count
            yield room_ghw


def _read_planes(
    recording: Recording, file: FileIO, planes_nb: NDArray[np.uint8], tick: int
) -> None:
    """Fill ``planes_nb`` with the file's next planes, of which the first is that of ``tick``."""
    if file.readinto(planes_nb.data) != planes_nb.size:
        raise RecordingError(f"{recording.path}: ended before tick {tick + len(planes_nb)}")
    if recording.camera.layout == "half_rows":
        _check_markers(recording.path, planes_nb, tick)


def _encode(block_ghw: NDArray[np.uint8], camera: Camera, flip: bool) -> NDArray[np.uint8]:
    """Packed groups (g, H, W) to file bytes (8 g, B)."""
    if block_ghw.ndim != 3 or block_ghw.shape[1:] != camera._size() or block_ghw.dtype != np.uint8:
        raise ValueError(
            f"camera {camera.name} takes uint8 blocks (g, {camera.height_px}, {camera.width_px}), "
            f"got {block_ghw.dtype} {block_ghw.shape}"
        )
    planes_nb = np.empty((len(block_ghw) * TICKS_PER_GROUP, camera.plane_bytes), np.uint8)
    scratch = np.zeros(camera.plane_bytes, np.uint64)
    big = camera.bit_order == "big"
    bits.encode_groups(block_ghw, scratch, planes_nb, camera._row_bits(), camera._runs(), flip, big)
    if camera.layout == "half_rows":
        _markers(planes_nb)[:] |= _marker_template()
    return planes_nb


def _open(path: Path) -> FileIO:
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error


# --- sps100 markers -----------------------------------------------------------------------------


@functools.cache
def _marker_template() -> NDArray[np.uint16]:
    """Markers of one frame's 2,000 half-rows: channel in bits 14-15, line in bits 4-13."""
    half_row = np.arange(1000)
    upper = (half_row % 2) << 14 | (500 - half_row // 2) << 4
    lower = (2 + half_row % 2) << 14 | (half_row // 2 + 1) << 4
    return np.concatenate([upper, lower]).astype("<u2")


def _markers(planes_nb: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The last two bytes of each half-row, uint16 (N, half-rows), a view."""
    half_rows = planes_nb.reshape(len(planes_nb), -1, _HALF_ROW_BYTES)
    markers: NDArray[np.uint16] = half_rows.view("<u2")[:, :, -1]
    return markers


def _check_markers(path: Path, planes_nb: NDArray[np.uint8], first_tick: int) -> None:
    good_n = ((_markers(planes_nb) & _MARKER_MASK) == _marker_template()).all(axis=1)
    if not good_n.all():
        tick = first_tick + int(np.argmin(good_n))
        raise RecordingError(f"{path}: frame {tick} has wrong row markers: bytes lost or damaged")


def _find_frame(path: Path) -> int | None:
    """Byte offset of the first whole sps100 frame, found by all its 2,000 markers."""
    frame_bytes = CAMERAS["sps100"].plane_bytes
    template = _marker_template()
    with path.open("rb") as file:
        data = np.frombuffer(file.read(2 * frame_bytes), np.uint8)
    if len(data) < frame_bytes:
        return None
    # What each byte and the next would say if they were a marker.
    markers = (data[:-1] | data[1:].astype(np.uint16) << 8) & _MARKER_MASK
    markers = markers[_HALF_ROW_BYTES - 2 :]
    begins = len(data) - frame_bytes + 1
    likely = (markers[:begins] == template[0]) & (markers[_HALF_ROW_BYTES:][:begins] == template[1])
    for begin in np.flatnonzero(likely):
        if np.array_equal(markers[begin::_HALF_ROW_BYTES][: len(template)], template):
            return int(begin)
    return None


def _check_content(path: Path, camera: Camera, size: int) -> int:
    """Bytes before the first frame; refuse content that shows another layout."""
    first = _find_frame(path) if size >= CAMERAS["sps100"].plane_bytes else None
    if camera.layout == "half_rows":
        if first is None:
            raise RecordingError(
                f"{path}: no whole frame of {camera.name} in the first 256,000 of {size:,} bytes "
                "(2,000 row markers each). Wrong --camera? See `spikedata cameras`."
            )
        return first
    if first is not None:
        raise RecordingError(f"{path}: holds sps100 frames, not {camera.name}: use --camera sps100")
    return 0


# --- .npz ---------------------------------------------------------------------------------------


_MOST_LABEL_BYTES = 1 << 12
_MOST_HELD_BYTES = 1 << 28
"""Packed bytes of an ``npz_hwt`` recording that are gathered in one reading of the file."""


def _open_npz(path: Path, camera: Camera, flip: bool, rate: float) -> Recording:
    try:
        with Npz(path) as archive:
            shape = _spikes(archive, camera).shape
            label = _npz_label(archive)
    except SpikeDataError as error:
        raise RecordingError(f"{path}: not a {camera.name} recording: {error}") from error
    if camera.layout == "npz_thw":
        ticks, height, width = shape
    else:
        height, width, ticks = shape
    _check_size(path, height, width)
    return Recording(path, camera, ticks, height, width, rate, flip, label=label)


def _spikes(archive: Npz, camera: Camera) -> NpzArray:
    """The array of spikes, C-ordered bytes of three axes, at its first value."""
    first = next(iter(archive.names), None)
    if first is None:
        raise SpikeDataError("no array at all inside")
    array = archive.open("spk" if camera.layout == "npz_thw" else first)
    shape, dtype = array.shape, array.dtype
    if len(shape) != 3 or 0 in shape or array.fortran or dtype not in (np.uint8, np.bool_):
        raise SpikeDataError(f"expected C-ordered 0/1 bytes of three axes, got {dtype} {shape}")
    return array


def _npz_label(archive: Npz) -> str | None:
    """The class: ``label``, a number as text; where we wrote the file, its name ``label_name``.

    In everybody else's files ``label_name`` is the name of the picture that was shown.
    """
    is_ours = "written_by" in archive.names and _npz_text(archive, "written_by") == "spikedata"
    order = ("label_name", "label") if is_ours else ("label",)
    return next((_npz_text(archive, name) for name in order if name in archive.names), None)


def _npz_text(archive: Npz, name: str) -> str | None:
    """One value, as text; whole numbers without a point. None where there are several."""
    value = archive.read(name, _MOST_LABEL_BYTES)
    if value.size != 1:
        return None
    one = value.reshape(-1)[0]
    if value.dtype.kind == "f" and float(one).is_integer():
        one = int(one)
    try:
        text = str(one)
        text.encode()  # half a surrogate pair is no text
    except ValueError as error:
        raise SpikeDataError(f"array {name}: is no text: {error}") from error
    return text


@contextlib.contextmanager
def _npz_values(recording: Recording) -> Iterator[Callable[..., NDArray[np.uint8]]]:
    """A function that gives the recording's next zeros and ones in a shape asked for."""

    def values(*shape: int) -> NDArray[np.uint8]:
        found = array.values(math.prod(shape)).view(np.uint8)
        if found.max() > 1:
            raise SpikeDataError(f"holds values up to {found.max()}, expected 0 and 1")
        return found.reshape(shape)

    try:
        with Npz(recording.path) as archive:
            array = _spikes(archive, recording.camera)
            yield values
    except SpikeDataError as error:
        raise RecordingError(f"{recording.path}: {error}") from error


def _npz_thw_blocks(recording: Recording, ticks: int) -> Iterator[NDArray[np.uint8]]:
    height, width = recording.height_px, recording.width_px
    step = max(1, PIECE_BYTES // (height * width * TICKS_PER_GROUP)) * TICKS_PER_GROUP
    with _npz_values(recording) as values:
        for first in range(0, recording.ticks, ticks):
            room_ghw = recording._room(min(ticks, recording.ticks - first))
            for at in range(0, min(ticks, recording.ticks - first), step):
                planes_thw = values(
                    min(step, ticks - at, recording.ticks - first - at), height, width
                )
                piece_ghw = np.packbits(planes_thw, axis=0, bitorder="little")
                if recording.flip:
                    piece_ghw = piece_ghw[:, ::-1]
                room_ghw[at // TICKS_PER_GROUP :][: len(piece_ghw)] = piece_ghw
            yield room_ghw


def _npz_hwt_blocks(recording: Recording, ticks: int) -> Iterator[NDArray[np.uint8]]:
    """Time is the last axis, so as many blocks as may be held are gathered in one reading."""
    groups, step = group_count(recording.ticks), ticks // TICKS_PER_GROUP
    held = _MOST_HELD_BYTES // (recording.height_px * recording.width_px)
    held = max(1, held // step) * step
    for first in range(0, groups, held):
        packed_ghw = _npz_hwt_groups(recording, first, min(first + held, groups))
        for at in range(0, len(packed_ghw), step):
            yield packed_ghw[at : at + step]


def _npz_hwt_groups(recording: Recording, first: int, end: int) -> NDArray[np.uint8]:
    """Groups ``first`` to ``end``, uint8 (end - first, H, W), in one reading of the file."""
    height, width, ticks = recording.height_px, recording.width_px, recording.ticks
    packed_gp = np.empty((end - first, height * width), np.uint8)
    many = max(1, PIECE_BYTES // ticks)
    with _npz_values(recording) as values:
        for pixel in range(0, height * width, many):
            count = min(many, height * width - pixel)
            for tick in range(0, ticks, PIECE_BYTES):  # once, but where one pixel is a long way
                piece_pt = values(count, min(PIECE_BYTES, ticks - tick))
                packed_pg = np.packbits(piece_pt, axis=1, bitorder="little")
                group = tick // TICKS_PER_GROUP
                low, high = max(first, group), min(end, group + packed_pg.shape[1])
                if low < high:
                    room_gp = packed_gp[low - first : high - first, pixel : pixel + count]
                    room_gp[...] = packed_pg[:, low - group : high - group].T
    packed_ghw = packed_gp.reshape(end - first, height, width)
    return np.ascontiguousarray(packed_ghw[:, ::-1]) if recording.flip else packed_ghw
