"""NumPy archives (``.npz``) from anywhere, read in bounded memory, and only if all they say holds.

NumPy itself hands an array's header to Python's parser and believes the size that it states, and
``zipfile`` believes the archive's. Here a header is held to one pattern, and shape, type and sizes
must agree before anything is inflated; what is inflated is held to its size and its checksum.
"""

import math
import re
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from spikedata.errors import SpikeDataError

MOST_ARRAY_BYTES = 128 << 20
"""Longest array that is read whole."""
PIECE_BYTES = 1 << 20
"""Bytes that are read or inflated at once."""

_SWOLLEN_BYTES, _SWOLLEN = 256 << 20, 1000
"""An array past both, in bytes and in times its deflated size, is one value almost throughout."""
_MOST_HEADER_BYTES = 4096
_MOST_AXES = 8
_MAGIC = b"\x93NUMPY"
_LOCAL_BYTES = 30
_LOCAL_MAGIC = b"PK\x03\x04"
_ENCRYPTED = 1
_ENTRY = re.compile(
    r"""\s*(?P<q>['"])(?:
        descr(?P=q)\s*:\s*(?P<d>['"])(?P<descr>[<>|=]?[?biufUS]\d{0,9})(?P=d)
        |fortran_order(?P=q)\s*:\s*(?P<fortran>True|False)
        |shape(?P=q)\s*:\s*\((?P<shape>(?:\s*\d{1,18}L?\s*,)*(?:\s*\d{1,18}L?)?)\s*\)
    )\s*(?:,|$)""",
    re.VERBOSE | re.ASCII,
)
"""One of the three entries of a header's dictionary, of an array of plain numbers or text."""


class Npz:
    """An open archive; close it, or use it in a ``with`` statement.

    Raises:
        SpikeDataError: it cannot be read, or is no archive as NumPy writes them.
    """

    def __init__(self, path: Path | str) -> None:
        try:
            self._file = _Bounded(path)
        except (OSError, ValueError) as error:
            told = getattr(error, "strerror", None) or error
            raise SpikeDataError(f"cannot be read: {told}") from error
        try:
            self._members = _members(self._file)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays, in the archive's order."""
        return tuple(self._members)

    def open(self, name: str) -> "NpzArray":
        """One array, to be read from its first value on.

        Raises:
            SpikeDataError: it is not there, or what is said of it does not hold.
        """
        if name not in self._members:
            raise SpikeDataError(f"no array {name} inside")
        try:
            return NpzArray(name, _Member(self._file, self._members[name]))
        except SpikeDataError as error:
            raise SpikeDataError(f"array {name}: {error}") from error

    def read(self, name: str, most_bytes: int = MOST_ARRAY_BYTES) -> NDArray[Any]:
        """One array, whole.

        Raises:
            SpikeDataError: as for :meth:`open`, it is damaged, or it is longer than ``most_bytes``.
        """
        array = self.open(name)
        size = math.prod(array.shape)
        if size * array.dtype.itemsize > most_bytes:
            told = f"{size * array.dtype.itemsize:,} bytes"
            raise SpikeDataError(f"array {name}: {told}, expected at most {most_bytes:,}")
        values: NDArray[Any] = array.values(size)
        if array.dtype.kind == "U" and _code_points(values).max(initial=0) > sys.maxunicode:
            raise SpikeDataError(f"array {name}: is no text")
        return values.reshape(array.shape, order="F" if array.fortran else "C")


class NpzArray:
    """An array of an archive: what its header says, and its values one after another."""

    def __init__(self, name: str, member: "_Member") -> None:
        self._name, self._member = name, member
        self.dtype, self.fortran, self.shape = _parse_header(_read_header(member.read))
        stated = math.prod(self.shape) * self.dtype.itemsize
        if stated != member.left:
            raise SpikeDataError(
                f"is cut short or damaged: holds {member.left:,} bytes, expected {stated:,} for "
                f"{self.dtype} {self.shape}"
            )
        if is_swollen(stated, member.coded_bytes):
            raise SpikeDataError(
                f"{member.coded_bytes:,} bytes that swell to {stated:,}: nothing that was recorded "
                "swells so far. Save it by numpy.savez if it is right"
            )
        self._left = math.prod(self.shape)
        if not self._left:
            member.finish()

    def values(self, count: int) -> NDArray[Any]:
        """The next ``count`` values, in the order of the file.

        Raises:
            SpikeDataError: they are damaged; after the last one, the checksum is another.
        """
        raw = np.empty(count * self.dtype.itemsize, np.uint8)
        try:
            self._member.read_into(raw.data)
            self._left -= count
            if not self._left:
                self._member.finish()
        except SpikeDataError as error:
            raise SpikeDataError(f"array {self._name}: {error}") from error
        return raw.view(self.dtype)


class _Bounded(FileIO):
    """A file that gives little at once: ``zipfile`` asks for as much as the archive states."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > PIECE_BYTES:
            raise SpikeDataError(f"has a directory of {size:,} bytes, more than {PIECE_BYTES:,}")
        return super().read(size) or b""


def _code_points(text: NDArray[Any]) -> NDArray[np.uint32]:
    return text.view(np.dtype(np.uint32).newbyteorder(text.dtype.byteorder))


def _members(file: FileIO) -> dict[str, zipfile.ZipInfo]:
    """The arrays of an archive, by name."""
    try:
        with zipfile.ZipFile(file) as archive:
            every = archive.infolist()
    except SpikeDataError:
        raise
    except Exception as error:  # whatever a damaged directory makes zipfile raise
        raise SpikeDataError(f"is no .npz archive, or was cut short: {error}") from error
    twice = [name for name, count in Counter(info.filename for info in every).items() if count > 1]
    if twice:
        raise SpikeDataError(f"holds {twice[0]!r:.60} twice")
    return {
        info.filename.removesuffix(".npy"): info for info in every if info.filename.endswith(".npy")
    }


class _Member:
    """What one member of an archive holds, inflated piece by piece."""

    def __init__(self, file: FileIO, info: zipfile.ZipInfo) -> None:
        if info.flag_bits & _ENCRYPTED:
            raise SpikeDataError("is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SpikeDataError(f"is compressed by method {info.compress_type}, expected deflate")
        self._file, self._crc_stated, self._crc = file, info.CRC, 0
        self.left = info.file_size
        """Bytes not yet read."""
        self.coded_bytes = self._coded_left = info.compress_size
        self._tail = b""
        deflated = info.compress_type == zipfile.ZIP_DEFLATED
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if deflated else None
        self._at = info.header_offset
        head = self._take(_LOCAL_BYTES)
        if len(head) < _LOCAL_BYTES or not head.startswith(_LOCAL_MAGIC):
            raise SpikeDataError("is not where the archive's directory says")
        self._at += int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, no fewer."""
        data = bytearray(size)
        self.read_into(memoryview(data))
        return bytes(data)

    def read_into(self, room: memoryview) -> None:
        """Fill ``room`` with the next bytes."""
        if len(room) > self.left:
            raise SpikeDataError("ends early")
        while len(room):
            piece = self._piece(min(len(room), PIECE_BYTES))
            if not piece:
                raise SpikeDataError("ends early")
            room[: len(piece)] = piece
            room = room[len(piece) :]
            self.left -= len(piece)

    def finish(self) -> None:
        """Check that nothing is left over, and the checksum."""
        more, inflate = self._piece(1), self._inflate
        if more or self._coded_left or (inflate and (inflate.unused_data or not inflate.eof)):
            raise SpikeDataError("is longer than the archive's directory says")
        if self._crc != self._crc_stated:
            raise SpikeDataError("has another checksum than the archive's directory says")

    def _piece(self, most: int) -> bytes:
        """At most ``most`` bytes; none at the end."""
        if self._inflate is None:
            piece = self._coded(most)
        else:
            piece, coded = b"", b"more"
            while coded and not piece and not self._inflate.eof:
                coded = self._tail or self._coded(PIECE_BYTES // 16)
                try:
                    piece = self._inflate.decompress(coded, most)  # of none: what it held back
                except zlib.error as error:
                    raise SpikeDataError(f"is damaged: {error}") from error
                self._tail = self._inflate.unconsumed_tail
        self._crc = zlib.crc32(piece, self._crc)
        return piece

    def _coded(self, most: int) -> bytes:
        data = self._take(min(most, self._coded_left))
        self._coded_left -= len(data)
        return data

    def _take(self, size: int) -> bytes:
        """Bytes of the file from where this member stands; others are read in between."""
        try:
            self._file.seek(self._at)
            data = self._file.read(size)
        except (OSError, ValueError, OverflowError) as error:  # a place that cannot be
            raise SpikeDataError("is not where the archive's directory says") from error
        self._at += len(data)
        return data


def is_swollen(stated_bytes: int, stored_bytes: int) -> bool:
    """Whether an array takes so little room that it is one value almost throughout."""
    return stated_bytes > max(_SWOLLEN_BYTES, _SWOLLEN * stored_bytes)


def read_npy_header(file: IO[bytes]) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    """Type, whether the first axis varies fastest, and shape of a ``.npy`` file.

    Leaves ``file`` at the first value.

    Raises:
        SpikeDataError: it is no such file, or holds no plain numbers or text.
    """

    def read(size: int) -> bytes:
        data = file.read(size)
        if len(data) < size:
            raise SpikeDataError("ends early")
        return data

    return _parse_header(_read_header(read))


def _read_header(read: Callable[[int], bytes]) -> str:
    """The text of an array's header; leaves what it is read from at the first value."""
    start = read(10)
    if not start.startswith(_MAGIC) or start[6] not in (1, 2, 3):
        raise SpikeDataError("is no .npy array of version 1 to 3")
    size = start[8:10] if start[6] == 1 else start[8:10] + read(2)
    length = int.from_bytes(size, "little")
    if length > _MOST_HEADER_BYTES:
        raise SpikeDataError(f"has a header of {length:,} bytes, more than {_MOST_HEADER_BYTES:,}")
    return read(length).decode("latin-1")


def _parse_header(text: str) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    """Type, order and shape; the text is never evaluated."""
    inside = text.strip()
    entries: dict[str, str] = {}
    at = 1
    while found := _ENTRY.match(inside, at, len(inside) - 1):
        entries |= {key: value for key, value in found.groupdict().items() if value is not None}
        at = found.end()
    known = {"descr", "fortran", "shape"} <= entries.keys()
    framed = inside.startswith("{") and inside[at:].strip() == "}"
    axes = re.findall(r"\d+", entries.get("shape", ""))
    if not known or not framed or len(axes) > _MOST_AXES:
        raise SpikeDataError(f"has a header that is not understood: {inside[:80]!r}")
    try:
        dtype = np.dtype(entries["descr"])
        if not dtype.itemsize:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise SpikeDataError(f"has values of no known type {entries['descr']!r}") from error
    return dtype, entries["fortran"] == "True", tuple(map(int, axes))
