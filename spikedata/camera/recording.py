"""A camera's recording, opened without packing it: one object for every layout.

Its length is known when it is opened, any ticks of it are read by seeking where the layout allows
that, and what is damaged or missing is known too. Nothing is held open between reads.

Shapes: T ticks, g groups of eight ticks, H rows, W columns.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import TICKS_PER_GROUP
from spikedata.camera.arrays import PlanesPacked, PlanesTimeFirst, PlanesTimeLast
from spikedata.camera.containers import (
    USUAL_HDF5_ARRAY,
    Container,
    FoundArray,
    container_of,
    find_array,
    list_hdf5,
)
from spikedata.camera.half_rows import FRAME_BYTES, LostSpan, begins_with_frames, find_frames
from spikedata.camera.layouts import CAMERAS, Camera, find_camera
from spikedata.camera.numbered import MOST_PLANES, PlanesOfFiles, numbered_files
from spikedata.camera.planes import PlanesOfFile, write_planes
from spikedata.errors import PackedSetError, RecordingError, SpikeDataError
from spikedata.npz import Npz
from spikedata.outputs import written_aside
from spikedata.stream import SpikeStream, check_tick_rate_hz

BLOCK_BYTES = 1 << 20
"""Packed bytes a block aims at when no block length is given: it stays in the cache."""

_MOST_PIXELS = 1 << 26
"""Pixels of a plane at most: eight planes are held unpacked."""
_MOST_LABEL_BYTES = 1 << 12
_TOLD_BY_NAMES = {"uhsr": {"spk"}, "rsir": {"seq", "length"}}
"""Arrays by which an archive tells its camera."""
_OF_ARRAYS: dict[str, type[PlanesTimeFirst | PlanesTimeLast | PlanesPacked]] = {
    "thw": PlanesTimeFirst,
    "hwt": PlanesTimeLast,
    "ghw": PlanesPacked,
}


class Planes(Protocol):
    """The planes of a recording, however they lie in its file."""

    def span(self, start: int, ticks: int) -> NDArray[np.uint8]:
        """Ticks ``start`` to ``start + ticks``, packed from bit 0: uint8 (g, H, W)."""

    def blocks(self, ticks: int) -> Iterator[NDArray[np.uint8]]:
        """All of it, ``ticks`` at a time, a multiple of eight: uint8 (g, H, W)."""


@dataclass(frozen=True)
class Recording:
    """A camera's recording, opened for reading; nothing is held open between reads."""

    path: Path
    camera: Camera
    ticks: int
    """Whole planes, T."""
    height_px: int
    width_px: int
    tick_rate_hz: float
    flip: bool
    """Rows are turned upside down on reading."""
    planes: Planes = field(repr=False)
    """Where the bits are."""
    losses: tuple[LostSpan, ...] = ()
    """What is damaged or missing, in order (``sps100`` only)."""
    skipped_bytes: int = 0
    """Bytes of the frames that the file begins and ends inside (``sps100`` only)."""
    label: str | None = None
    """What the file itself says it shows (``uhsr`` only)."""
    files: int = 1
    """How many files it is made of."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Ticks, rows, columns."""
        return self.ticks, self.height_px, self.width_px

    @property
    def block_groups(self) -> int:
        """Groups of a block that stays in the cache."""
        return max(1, BLOCK_BYTES // (self.height_px * self.width_px))

    def read(self, start: int = 0, ticks: int | None = None) -> SpikeStream:
        """Ticks ``start`` to ``start + ticks`` (to the end if None), packed from bit 0.

        Raises:
            RecordingError: they are not inside the recording, or the file cannot be read.
        """
        ticks = self.ticks - start if ticks is None else ticks
        if start < 0 or ticks < 1 or start + ticks > self.ticks:
            raise RecordingError(
                f"{self.path}: ticks {start} to {start + ticks} are not inside its {self.ticks}"
            )
        with _told(self.path):
            packed_ghw = self.planes.span(start, ticks)
        return SpikeStream(packed_ghw, ticks, self.tick_rate_hz)

    def blocks(self, ticks: int | None = None) -> Iterator[NDArray[np.uint8]]:
        """Packed blocks, uint8 (g, H, W), whole groups except perhaps the last.

        Args:
            ticks: ticks a block, a multiple of eight; default about 1 MiB of packed bytes.

        Raises:
            ValueError: ``ticks`` is not a positive multiple of eight.
            RecordingError: the file cannot be read, or was changed.
        """
        ticks = self.block_groups * TICKS_PER_GROUP if ticks is None else ticks
        if ticks < 1 or ticks % TICKS_PER_GROUP:
            raise ValueError(f"ticks must be a positive multiple of 8, got {ticks}")
        return self._blocks(ticks)

    def _blocks(self, ticks: int) -> Iterator[NDArray[np.uint8]]:
        with _told(self.path):
            yield from self.planes.blocks(ticks)

    def groups(self, first: int, end: int) -> NDArray[np.uint8]:
        """Groups ``first`` to ``end`` of eight ticks, uint8 (end - first, H, W).

        Raises:
            RecordingError: as for :meth:`blocks`.
        """
        start = first * TICKS_PER_GROUP
        ticks = min(end * TICKS_PER_GROUP, self.ticks) - start
        return self.read(start, ticks).packed_ghw


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Put the file's name in front of what is wrong with it, once."""
    try:
        yield
    except (RecordingError, PackedSetError):
        raise
    except SpikeDataError as error:
        raise RecordingError(f"{path}: {error}") from error
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error


def open_recording(
    path: Path | str,
    camera: str | Camera | None = None,
    *,
    flip: bool | None = None,
    tick_rate_hz: float | None = None,
) -> Recording:
    """Open a camera's recording; its length, and its content where that can tell, must fit.

    Args:
        path: a ``.dat``, ``.npz``, ``.npy`` or HDF5 file, or a folder of numbered ``.dat`` files.
        camera: a name (see :func:`find_camera`) or a camera. It may be left out where the file
            itself tells: ``sps100`` by its markers, ``uhsr``, ``rsir`` and ``raw_spike`` by name.
        flip: turn rows upside down; default what the camera needs to be upright.
        tick_rate_hz: default the camera's.

    Raises:
        RecordingError: unreadable, empty, not of this camera, or nothing tells the camera.
        ValueError: ``tick_rate_hz`` is not a positive number.
    """
    path = Path(path)
    with _told(path):
        if path.is_dir():
            return _open_folder(path, camera, flip, tick_rate_hz)
        container = container_of(path)
        camera = _camera_told_by(path, container) if camera is None else camera
        camera = find_camera(camera) if isinstance(camera, str) else camera
        flip = camera.bottom_up if flip is None else flip
        rate = camera.tick_rate_hz if tick_rate_hz is None else check_tick_rate_hz(tick_rate_hz)
        if camera.is_array:
            return _open_array(path, container, camera, flip, rate)
        _check_size(*camera.size)
        if camera.layout == "half_rows":
            return _open_half_rows(path, camera, flip, rate)
        return _open_planes(path, camera, flip, rate)


def open_numbered(
    folder: Path,
    files: Sequence[Path],
    camera: str | Camera,
    *,
    flip: bool | None = None,
    tick_rate_hz: float | None = None,
) -> Recording:
    """Open files of a few planes each as one recording, in the order given.

    Raises:
        RecordingError: one is unreadable, or not of this camera.
        ValueError: there are no files, or ``tick_rate_hz`` is not a positive number.
    """
    if not files:
        raise ValueError(f"{folder}: no files to open as one recording")
    parts = [open_recording(file, camera, flip=flip, tick_rate_hz=tick_rate_hz) for file in files]
    begins = itertools.accumulate((part.ticks for part in parts), initial=0)
    losses = tuple(
        replace(span, tick=begin + span.tick)
        for begin, part in zip(begins, parts, strict=False)
        for span in part.losses
    )
    return replace(
        parts[0],
        path=folder,
        ticks=sum(part.ticks for part in parts),
        planes=PlanesOfFiles([(part.ticks, part.planes) for part in parts]),
        losses=losses,
        skipped_bytes=sum(part.skipped_bytes for part in parts),
        files=len(parts),
    )


read_recording = open_recording
"""The earlier name of :func:`open_recording`."""


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
        camera: as for :func:`open_recording`, but none whose files are arrays.
        ticks: how many planes to write.
        flip: as for :func:`open_recording`.

    Raises:
        ValueError: the blocks do not fit the camera or do not hold ``ticks`` ticks.
    """
    path = Path(path)
    camera = find_camera(camera) if isinstance(camera, str) else camera
    if camera.is_array:
        raise ValueError(f"camera {camera.name}: only .dat files can be written")
    flip = camera.bottom_up if flip is None else flip
    with written_aside(path, overwrite=True) as aside, aside.open("wb") as file:
        write_planes(file, blocks, camera, ticks, flip)


# --- opening ------------------------------------------------------------------------------------


def _open_folder(
    path: Path, camera: str | Camera | None, flip: bool | None, rate: float | None
) -> Recording:
    if camera is None:
        raise RecordingError(f"{path}: no file tells its camera. Give --camera NAME or HxW")
    camera = find_camera(camera) if isinstance(camera, str) else camera
    files = numbered_files(sorted(path.glob("*.dat")), camera)
    if not files:
        raise RecordingError(
            f"{path}: is a folder, but not of numbered .dat files of one size and of at most "
            f"{MOST_PLANES} planes of {camera.name} each. Open a folder of recordings by open_clips"
        )
    return open_numbered(path, files, camera, flip=flip, tick_rate_hz=rate)


def _camera_told_by(path: Path, container: Container | None) -> Camera:
    """The camera that the file itself tells; a guess is none."""
    if container == "npz":
        with Npz(path) as archive:
            names = set(archive.names)
        found = next((name for name, keys in _TOLD_BY_NAMES.items() if keys <= names), None)
    elif container == "hdf5":
        found = "thw" if USUAL_HDF5_ARRAY in list_hdf5(path)[1] else None
    else:
        found = "sps100" if container is None and begins_with_frames(path) else None
    if found is None:
        raise RecordingError(
            f"{path}: no file tells its camera. Give --camera NAME or HxW; `spikedata inspect "
            "FILE` shows which fit, `spikedata cameras` lists them"
        )
    return CAMERAS[found]


def _open_planes(path: Path, camera: Camera, flip: bool, rate: float) -> Recording:
    size = path.stat().st_size
    if size >= FRAME_BYTES and begins_with_frames(path):
        raise RecordingError(f"{path}: holds sps100 frames, not {camera.name}: use --camera sps100")
    height, width = camera.size
    ticks, rest = divmod(size, camera.plane_bytes)
    if rest or not ticks:
        raise RecordingError(
            f"{path}: {size:,} bytes is not a whole number of {width}x{height} planes "
            f"({camera.plane_bytes:,} bytes each). Wrong --camera? See `spikedata cameras`."
        )
    planes = PlanesOfFile(path, camera, flip=flip, ticks=ticks, starts=np.zeros((1, 2), np.int64))
    return Recording(path, camera, ticks, height, width, rate, flip, planes)


def _open_half_rows(path: Path, camera: Camera, flip: bool, rate: float) -> Recording:
    found = find_frames(path)
    if not found.ticks:
        raise RecordingError(
            f"{path}: no whole frame of {camera.name} in its {path.stat().st_size:,} bytes "
            "(2,000 row markers each). Wrong --camera? See `spikedata cameras`."
        )
    planes = PlanesOfFile(path, camera, flip=flip, ticks=found.ticks, starts=found.starts)
    size = camera.size
    losses, cut = found.lost, found.cut_bytes
    return Recording(
        path, camera, found.ticks, *size, rate, flip, planes, losses=losses, skipped_bytes=cut
    )


def _open_array(
    path: Path, container: Container | None, camera: Camera, flip: bool, rate: float
) -> Recording:
    try:
        if container is None:
            raise SpikeDataError("is no .npz, .npy or HDF5 file")
        array = find_array(path, container, camera.array)
        ticks, size = _shape_of(path, container, camera, array)
        label = _label_in(path) if container == "npz" else None
    except (RecordingError, PackedSetError):
        raise
    except SpikeDataError as error:
        raise RecordingError(f"{path}: not a {camera.name} recording: {error}") from error
    _check_size(*size)
    planes = _OF_ARRAYS[camera.layout](array.open, flip=flip, ticks=ticks, size=size)
    return Recording(path, camera, ticks, *size, rate, flip, planes, label=label)


def _shape_of(
    path: Path, container: Container, camera: Camera, array: FoundArray
) -> tuple[int, tuple[int, int]]:
    """Ticks; rows and columns."""
    shape, dtype, packed = array.shape, array.dtype, camera.layout == "ghw"
    kinds = dtype == np.uint8 if packed else dtype.kind in "biuf"
    if len(shape) != 3 or 0 in shape or array.fortran or not kinds:
        wanted = "bytes" if packed else "zeros and ones"
        raise SpikeDataError(f"expected C-ordered {wanted} of three axes, got {dtype} {shape}")
    if camera.layout == "hwt":
        return shape[2], (shape[0], shape[1])
    ticks = shape[0]
    if packed:
        ticks = _length_in(path, container, shape[0] * TICKS_PER_GROUP)
    return ticks, (shape[1], shape[2])


def _check_size(height_px: int, width_px: int) -> None:
    if height_px * width_px > _MOST_PIXELS:
        raise SpikeDataError(
            f"planes of {height_px}x{width_px} pixels, expected at most {_MOST_PIXELS:,}"
        )


def _length_in(path: Path, container: Container, most: int) -> int:
    """How many ticks an ``rsir`` archive says it holds; all if it does not say."""
    if container != "npz":
        return most
    with Npz(path) as archive:
        if "length" not in archive.names:
            return most
        told = archive.read("length", _MOST_LABEL_BYTES).reshape(-1)
    if len(told) != 1 or told.dtype.kind not in "iu" or not most - 8 < int(told[0]) <= most:
        raise SpikeDataError(f"array length: says {told[:1]}, expected {most - 7} to {most}")
    return int(told[0])


def _label_in(path: Path) -> str | None:
    """The class: ``label``, a number as text; where we wrote the file, its name ``label_name``.

    In everybody else's files ``label_name`` is the name of the picture that was shown.
    """
    with Npz(path) as archive:
        is_ours = "written_by" in archive.names and _text_in(archive, "written_by") == "spikedata"
        order = ("label_name", "label") if is_ours else ("label",)
        return next((_text_in(archive, name) for name in order if name in archive.names), None)


def _text_in(archive: Npz, name: str) -> str | None:
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
