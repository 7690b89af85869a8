"""One shard file: compressed chunks one after the other, then an index of where each lies.

As Zarr's ``sharding_indexed`` codec lays down: the index has a little-endian uint64 offset and
length for each chunk, then a CRC-32C of those bytes. Before it, where Zarr sees nothing but room
between a chunk and the index, lies a CRC-32C of each compressed chunk, and the clip's metadata has
one of these checksums and the index together: so a shard cannot be another's, and reading a window
checks the chunks that it needs and no others. Written and read here rather than through
zarr-python because that took several times the time of compression alone; see
``docs/explanation/store-choices.md``. zarr-python reads these files and this module reads its.
"""

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from spikedata.clips.frames import decompress_exactly
from spikedata.clips.rules import RuleBrokenError
from spikedata.clips.store.layout import ArrayLayout
from spikedata.errors import StoreError

ABSENT = (1 << 64) - 1
_CHECKSUM_BYTES = 4


class ShardWriter:
    """A shard that is being written, chunk by chunk, to a new file."""

    def __init__(self, path: Path, layout: ArrayLayout) -> None:
        self._file = path.open("xb")
        self._index = np.full((layout.chunks_per_shard, 2), ABSENT, "<u8")
        self._checksums = np.zeros(layout.chunks_per_shard, "<u4")
        self._chunks = 0
        self._offset = 0

    @property
    def is_full(self) -> bool:
        """Whether every chunk has been written."""
        return self._chunks == len(self._index)

    def append(self, coded: bytes) -> None:
        """Write the next chunk."""
        self._file.write(coded)
        self._index[self._chunks] = self._offset, len(coded)
        self._checksums[self._chunks] = google_crc32c.value(coded)
        self._offset += len(coded)
        self._chunks += 1

    def end(self) -> int:
        """Write checksums and index; CRC-32C of both. :meth:`close` must follow."""
        checksums, index = self._checksums.tobytes(), self._index.tobytes()
        self._file.write(checksums + index)
        self._file.write(google_crc32c.value(index).to_bytes(_CHECKSUM_BYTES, "little"))
        self._file.flush()
        return int(google_crc32c.value(checksums + index))

    def close(self) -> None:
        """Wait until the file is on the disk, in any thread."""
        with self._file:
            os.fsync(self._file.fileno())

    def abandon(self) -> None:
        """Close the file and remove it: what it holds cannot be read."""
        with contextlib.suppress(OSError):  # what could not be written before cannot be now
            self._file.close()
        Path(self._file.name).unlink(missing_ok=True)


def checksum_of_shard(path: Path, layout: ArrayLayout) -> int:
    """What ``shards_crc32c`` has of a shard that was written whole.

    Raises:
        RuleBrokenError: the file is too short to be one.
        OSError: it cannot be read.
    """
    tail_bytes = (16 + _CHECKSUM_BYTES) * layout.chunks_per_shard
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < tail_bytes + _CHECKSUM_BYTES:
            raise RuleBrokenError("shard_index", f"shard {path.name} is cut off")
        file.seek(-tail_bytes - _CHECKSUM_BYTES, os.SEEK_END)
        return int(google_crc32c.value(file.read(tail_bytes)))


class ShardReader:
    """An open shard; a context manager.

    Raises:
        RuleBrokenError: the file is missing, is not the one that was written, or its index is
            damaged or points outside it.
    """

    def __init__(self, folder: Path, layout: ArrayLayout, shard: int) -> None:
        self._layout = layout
        self._name = layout.shard_key(shard)
        try:
            self._file: BinaryIO = (folder / self._name).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise RuleBrokenError("shard_missing", f"shard {self._name} is missing") from error
        except OSError as error:
            raise StoreError(f"{folder / self._name}: cannot be read: {error.strerror}") from error
        noted = layout.shards_crc32c
        try:
            tail, data_bytes = self._read_tail(None if noted is None else noted[shard])
            needed = layout.chunks_in_shard(shard)
            self._index = self._checked_index(tail, data_bytes, needed)
            self._checksums = None if noted is None else np.frombuffer(tail, "<u4", needed)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def _read_tail(self, noted: int | None) -> tuple[bytes, int]:
        """What lies after the chunks, but for the index's own checksum, and where it begins."""
        per_shard = self._layout.chunks_per_shard
        tail_bytes = 16 * per_shard + (0 if noted is None else _CHECKSUM_BYTES * per_shard)
        size = os.fstat(self._file.fileno()).st_size
        data_bytes = size - tail_bytes - _CHECKSUM_BYTES
        if data_bytes < 0:
            raise RuleBrokenError("shard_index", f"shard {self._name} is cut off ({size:,} bytes)")
        tail = self._read(data_bytes, tail_bytes + _CHECKSUM_BYTES)
        tail, checksum = tail[:tail_bytes], tail[tail_bytes:]
        index = tail[-16 * per_shard :]
        if google_crc32c.value(index).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
            raise RuleBrokenError("shard_index", f"shard {self._name}: wrong checksum of the index")
        if noted is not None and google_crc32c.value(tail) != noted:
            raise RuleBrokenError(
                "shard_differs", f"shard {self._name} is not the one that was written"
            )
        return tail, data_bytes

    def _checked_index(self, tail: bytes, data_bytes: int, needed: int) -> NDArray[np.uint64]:
        index = tail[-16 * self._layout.chunks_per_shard :]
        entries = np.frombuffer(index, "<u8").reshape(-1, 2)[:needed]
        if (entries == ABSENT).any():
            raise RuleBrokenError("chunk_missing", f"shard {self._name} lacks a chunk")
        offset, length = entries[:, 0], entries[:, 1]
        if ((offset > data_bytes) | (length > data_bytes - np.minimum(offset, data_bytes))).any():
            raise RuleBrokenError(
                "shard_index", f"shard {self._name}: a chunk lies outside the file"
            )
        return entries

    def _read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(length)
        while len(data) < length and (more := self._file.read(length - len(data))):
            data += more
        if len(data) != length:
            raise RuleBrokenError("shard_index", f"shard {self._name} is cut off")
        return data

    def chunk_pg(self, chunk: int) -> NDArray[np.uint8]:
        """Decompress one chunk: uint8 (pixels, groups), time last, read-only.

        Raises:
            RuleBrokenError: it has another checksum, or is not a zstd frame of exactly a chunk's
                bytes; checked before memory is taken.
        """
        coded = self._read(int(self._index[chunk, 0]), int(self._index[chunk, 1]))
        if self._checksums is not None and google_crc32c.value(coded) != self._checksums[chunk]:
            raise RuleBrokenError(
                "chunk_damaged", f"shard {self._name}, chunk {chunk} is damaged: wrong checksum"
            )
        try:
            data = decompress_exactly(coded, self._layout.chunk_bytes)
        except RuleBrokenError as error:
            raise RuleBrokenError(
                error.code, f"shard {self._name}, chunk {chunk} {error.message}"
            ) from error
        return np.frombuffer(data, np.uint8).reshape(-1, self._layout.chunk_groups)
