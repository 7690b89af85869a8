"""The files that arrays come in, ``.npz``, ``.npy`` and HDF5: which arrays there are, their values.

Such files may come from anywhere: what one says of its size must agree with what it holds before
anything is read.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spikedata.apart import Apart
from spikedata.camera.arrays import OpenValues, Values
from spikedata.camera.planes import open_to_read
from spikedata.errors import PackedSetError, SpikeDataError
from spikedata.npz import PIECE_BYTES, Npz, NpzArray, is_swollen, read_npy_header

Container = Literal["npz", "npy", "hdf5"]

_MAGIC: dict[bytes, Container] = {b"PK\x03\x04": "npz", b"\x93NUMPY": "npy", b"\x89HDF\r\n": "hdf5"}
USUAL_HDF5_ARRAY = "raw_spike"
"""What the field's programs call the array of an HDF5 file."""
OUR_HDF5 = "spikedata-hdf5"
"""How the format of a file that spikedata packed begins."""
SLAB_BYTES = 16 << 20
"""Bytes that a child which reads HDF5 tells at once, at most."""
_MOST_NAMES = 10


@dataclass(frozen=True)
class FoundArray:
    """One array of a file."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    """The first axis varies fastest."""
    open: OpenValues
    """Gives its values from the first on."""


def container_of(path: Path) -> Container | None:
    """What kind of file it is, by its first bytes.

    Raises:
        RecordingError: it cannot be read.
    """
    with open_to_read(path) as file:
        begin = file.read(8) or b""
    return next((kind for magic, kind in _MAGIC.items() if begin.startswith(magic)), None)


def find_array(path: Path, container: Container, name: str | None) -> FoundArray:
    """An array by its name; without one the first of an archive, or an HDF5 file's usual or only.

    Raises:
        SpikeDataError: there is none, or what the file says of it does not hold.
        PackedSetError: it is a set of clips of ours.
    """
    if container == "npz":
        return _find_in_npz(path, name)
    if container == "npy":
        return _find_in_npy(path)
    return _find_in_hdf5(path, name)


class _FlatValues:
    """Values that lie in one piece in a file."""

    def __init__(self, file: FileIO, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._file = file

    def take(self, count: int) -> NDArray[Any]:
        raw = np.empty(count * self.dtype.itemsize, np.uint8)
        if self._file.readinto(raw.data) != len(raw):
            raise SpikeDataError("ends early")
        return raw.view(self.dtype)

    def skip(self, count: int) -> None:
        self._file.seek(count * self.dtype.itemsize, 1)


@dataclass(frozen=True)
class _OpenFlat:
    path: Path
    first_byte: int
    dtype: np.dtype[Any]

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Values]:
        with open_to_read(self.path) as file:
            file.seek(self.first_byte)
            yield _FlatValues(file, self.dtype)


def _flat(path: Path, first_byte: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> OpenValues:
    size = math.prod(shape) * dtype.itemsize
    holds = max(0, path.stat().st_size - first_byte)
    if holds < size:
        raise SpikeDataError(f"{holds:,} bytes cannot hold {dtype} {shape}: it was cut off")
    return _OpenFlat(path, first_byte, dtype)


# --- .npy ---------------------------------------------------------------------------------------


def _find_in_npy(path: Path) -> FoundArray:
    with open_to_read(path) as file:
        dtype, fortran, shape = read_npy_header(file)
        first_byte = file.tell()
    return FoundArray("", dtype, shape, fortran, _flat(path, first_byte, dtype, shape))


# --- .npz ---------------------------------------------------------------------------------------


class _NpzValues:
    """Values of an archive, inflated as they come."""

    def __init__(self, array: NpzArray) -> None:
        self.dtype = array.dtype
        self._array = array

    def take(self, count: int) -> NDArray[Any]:
        return self._array.values(count)

    def skip(self, count: int) -> None:
        most = PIECE_BYTES // self.dtype.itemsize
        for at in range(0, count, most):
            self._array.values(min(most, count - at))


@dataclass(frozen=True)
class _OpenNpz:
    path: Path
    name: str

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Values]:
        with Npz(self.path) as archive:
            yield _NpzValues(archive.open(self.name))


def _find_in_npz(path: Path, name: str | None) -> FoundArray:
    with Npz(path) as archive:
        found = next(iter(archive.names), None) if name is None else name
        if found is None:
            raise SpikeDataError("no array at all inside")
        array = archive.open(found)
    return FoundArray(found, array.dtype, array.shape, array.fortran, _OpenNpz(path, found))


# --- HDF5 ---------------------------------------------------------------------------------------


class _Hdf5Values:
    """Values that a child reads; it is started when it is known from where."""

    def __init__(self, path: Path, name: str, dtype: np.dtype[Any], row_values: int) -> None:
        self.dtype = dtype
        self._path, self._name, self._row_values = path, name, row_values
        self._skipped = 0
        self._child: Apart | None = None
        self._held_b = np.empty(0, np.uint8)

    def take(self, count: int) -> NDArray[Any]:
        if self._child is None:
            row, within = divmod(self._skipped, self._row_values)
            function = "spikedata.camera.hdf5_values:read_values"
            words = str(self._path), self._name, str(row)
            self._child = Apart(function, *words, most_bytes=2 * SLAB_BYTES)
            self.skip(within)
        wanted = count * self.dtype.itemsize
        pieces, size = [self._held_b], len(self._held_b)
        while size < wanted:
            told = next(self._child, None)
            if not isinstance(told, bytes):
                raise SpikeDataError("ends early")
            pieces.append(np.frombuffer(told, np.uint8))
            size += len(told)
        raw = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        self._held_b = raw[wanted:]
        return raw[:wanted].view(self.dtype)

    def skip(self, count: int) -> None:
        if self._child is None:
            self._skipped += count
            return
        most = PIECE_BYTES // self.dtype.itemsize
        for at in range(0, count, most):
            self.take(min(most, count - at))

    def close(self) -> None:
        if self._child is not None:
            self._child.close()


@dataclass(frozen=True)
class _OpenHdf5:
    path: Path
    name: str
    dtype: np.dtype[Any]
    row_values: int

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Values]:
        values = _Hdf5Values(self.path, self.name, self.dtype, self.row_values)
        try:
            yield values
        finally:
            values.close()


def list_hdf5(path: Path) -> tuple[str | None, dict[str, dict[str, Any]]]:
    """What an HDF5 file says it is, and its arrays of three axes by name.

    Raises:
        SpikeDataError: it cannot be read.
    """
    with Apart("spikedata.camera.hdf5_values:list_arrays", str(path), most_bytes=1 << 20) as said:
        about, *told = [item for item in said if isinstance(item, dict)]
    return about["format"], {item["name"]: item for item in told}


def _find_in_hdf5(path: Path, name: str | None) -> FoundArray:
    told_format, arrays = list_hdf5(path)
    if told_format is not None and told_format.startswith(OUR_HDF5):
        raise PackedSetError(f"{path}: holds clips that spikedata packed, and is no recording")
    if name is None:
        name = USUAL_HDF5_ARRAY if USUAL_HDF5_ARRAY in arrays or not arrays else next(iter(arrays))
        if name != USUAL_HDF5_ARRAY and len(arrays) > 1:
            some = ", ".join(list(arrays)[:_MOST_NAMES])
            raise SpikeDataError(f"holds {len(arrays)} arrays; name one, as thw:NAME: {some}")
    if name not in arrays:
        raise SpikeDataError(f"no array {name} of three axes inside")
    told = arrays[name]
    dtype, shape = np.dtype(told["dtype"]), tuple(told["shape"])
    stated = math.prod(shape) * dtype.itemsize
    if is_swollen(stated, told["stored_bytes"]):
        raise SpikeDataError(
            f"array {name}: {told['stored_bytes']:,} bytes that swell to {stated:,}: nothing that "
            "was recorded swells so far"
        )
    if told["first_byte"] >= 0:
        values = _flat(path, told["first_byte"], dtype, shape)
    else:
        values = _OpenHdf5(path, name, dtype, math.prod(shape[1:]))
    return FoundArray(name, dtype, shape, False, values)
