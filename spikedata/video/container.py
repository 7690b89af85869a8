"""How many bytes a video file says it has: a shorter file was cut off.

Only the outermost sizes are read, of the three families of containers that state them: RIFF (AVI),
ISO media (MP4, MOV) and EBML (Matroska, WebM). Nothing here decodes.
"""

import os
from pathlib import Path
from typing import BinaryIO

_EBML_MAGIC = b"\x1a\x45\xdf\xa3"
_SEGMENT_ID = b"\x18\x53\x80\x67"
_BOX_KINDS = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})


def missing_bytes(path: Path) -> int | None:
    """Bytes the container states beyond the end of the file; 0 if it is whole.

    Returns:
        None where the container does not say (a stream written without seeking back, another
        format).

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[:4] == b"RIFF":
            stated = _riff_size(head)
        elif head[:4] == _EBML_MAGIC:
            stated = _segment_end(file, size)
        elif head[4:8] in _BOX_KINDS:
            stated = _boxes_end(file, size)
        else:
            stated = None
    return None if stated is None else max(0, stated - size)


def _riff_size(head: bytes) -> int | None:
    stated = int.from_bytes(head[4:8], "little")
    return None if stated in (0, 0xFFFFFFFF) else 8 + stated


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last top-level ISO box ends; each begins with its size and kind."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        stated = int.from_bytes(head[:4], "big")
        if stated == 1:  # a 64-bit size follows the kind
            stated = int.from_bytes(head[8:16], "big")
        if stated < 8:  # 0: until the end of the file; else not a box
            return size
        start += stated
    return start


def _segment_end(file: BinaryIO, size: int) -> int | None:
    """Where the EBML segment ends, or None if its size is left open."""
    file.seek(4)
    header = _read_length(file)
    if header is None or header > size:  # a system may refuse to seek so far
        return None
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != _SEGMENT_ID:
        return None
    length = _read_length(file)
    return None if length is None else file.tell() + length


def _read_length(file: BinaryIO) -> int | None:
    """An EBML length: leading zero bits of the first byte tell how many bytes follow."""
    first = file.read(1)
    if not first or first == b"\x00":
        return None
    extra = 8 - first[0].bit_length()
    rest = file.read(extra)
    value = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + rest, "big")
    unknown = (1 << 7 * (extra + 1)) - 1
    return None if value == unknown or len(rest) < extra else value
