"""Where each byte string of a Parquet column of lists lies in its file.

A window needs a frame or two of one clip; PyArrow reads a row group whole, of four clips, and
copies it, which takes longer than decoding the window. The pages that this package writes are
plain, so the places of their values can be listed without reading them. Whatever is not as it is
written here (another encoding, compression, nulls) is left to PyArrow: :func:`find_values` gives
None for it. What a page header looks like is laid down by the format, apache/parquet-format.
"""

import io
import struct
from typing import Any, BinaryIO

Place = tuple[int, int]
"""Offset in the file and length of a value, bytes."""

_DATA_PAGE, _PLAIN, _RLE = 0, 0, 3
_PRESENT = 3
"""Definition level of an element that is there, in a list that is there."""
_REPETITION_BITS, _DEFINITION_BITS = 1, 2
_HEADER_BYTES = 256
"""More than a page header without statistics takes."""
_STRUCT, _STOP = 12, 0
_WHOLE = (4, 5, 6)
_NO_BODY = (1, 2)


class _OddError(Exception):
    """The column is not as this package writes it."""


def find_values(file: BinaryIO, start: int, size: int, rows: int) -> list[list[Place]] | None:
    """Places of the values of each row in a column chunk of lists of byte strings.

    Args:
        file: open for reading.
        start: where the chunk's first page begins, bytes.
        size: bytes of all its pages.
        rows: lists that it holds.

    Returns:
        One list a row; None if the chunk is not as this package writes it, or damaged.
    """
    found: list[list[Place]] = []
    at = start
    try:
        while at < start + size:
            at = _read_page(file, at, start + size, found)
    except (_OddError, IndexError, struct.error):
        return None
    return found if len(found) == rows else None


def read_at(file: BinaryIO, place: Place) -> bytes:
    """The bytes at a place, fewer where the file ends before."""
    file.seek(place[0])
    return file.read(place[1])


def _read_page(file: BinaryIO, at: int, end: int, found: list[list[Place]]) -> int:
    """Add the values of the page that begins at ``at``; where the next one begins."""
    reading = io.BytesIO(read_at(file, (at, min(_HEADER_BYTES, end - at))))
    header = _struct(reading)
    page = header.get(5)
    at += reading.tell()
    next_page = at + _natural(header.get(3))
    if header.get(1) != _DATA_PAGE or not isinstance(page, dict) or next_page > end:
        raise _OddError
    if [page.get(field) for field in (2, 3, 4)] != [_PLAIN, _RLE, _RLE]:
        raise _OddError
    count = _natural(page.get(1))
    repeated, at = _levels(file, at, next_page, count, _REPETITION_BITS)
    defined, at = _levels(file, at, next_page, count, _DEFINITION_BITS)
    if any(level != _PRESENT for level in defined):
        raise _OddError
    for level in repeated:
        length = _length(file, at, next_page)
        if level == 0:
            found.append([])
        found[-1].append((at + 4, length))
        at += 4 + length
    return next_page


def _length(file: BinaryIO, at: int, end: int) -> int:
    """How many bytes follow the four that tell it, all of them before ``end``."""
    (length,) = struct.unpack("<I", read_at(file, (at, 4)))
    if at + 4 + length > end:
        raise _OddError
    return int(length)


def _levels(file: BinaryIO, at: int, end: int, count: int, width: int) -> tuple[list[int], int]:
    """The levels of ``count`` values, each of ``width`` bits, and where they end in the file."""
    length = _length(file, at, end)
    if count > end - at:  # a value takes four bytes and more
        raise _OddError
    reading = io.BytesIO(read_at(file, (at + 4, length)))
    levels: list[int] = []
    while len(levels) < count:
        run = _varint(reading)
        if run & 1:
            packed = reading.read((run >> 1) * width)  # eight levels take ``width`` bytes
            whole, mask = int.from_bytes(packed, "little"), (1 << width) - 1
            levels += [whole >> k & mask for k in range(0, 8 * len(packed), width)]
            if not packed:
                raise _OddError
        else:
            levels += [reading.read(1)[0]] * min(run >> 1, count)
    return levels[:count], at + 4 + length


def _struct(reading: io.BytesIO, depth: int = 0) -> dict[int, Any]:
    """The whole numbers and structs of a struct in Thrift's compact protocol, by field."""
    fields: dict[int, Any] = {}
    number = 0
    while (byte := reading.read(1)[0]) != _STOP:
        number = number + (byte >> 4) if byte >> 4 else _signed(_varint(reading))
        kind = byte & 15
        if kind in _WHOLE:
            fields[number] = _signed(_varint(reading))
        elif kind == _STRUCT and depth < 2:
            fields[number] = _struct(reading, depth + 1)
        elif kind not in _NO_BODY:
            raise _OddError
    return fields


def _varint(reading: io.BytesIO) -> int:
    value = 0
    for shift in range(0, 35, 7):
        byte = reading.read(1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise _OddError


def _signed(value: int) -> int:
    return value >> 1 ^ -(value & 1)


def _natural(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise _OddError
    return value
