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
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from spikedata.clips.frames import decompress_exactly
from spikedata.clips.rules import RuleBrokenError
from spikedata.clips.store.layout import ABSENT, MAX_CHUNK_BYTES, ArrayLayout
from spikedata.errors import StoreError
from spikedata.remote import RemotePath

_CHECKSUM_BYTES = 4


class ShardWriter:
    """A shard that is being written, chunk by chunk, to a new file.

    One of object storage is held until it is whole: nothing can be added to an object.
    """

    def __init__(self, path: Path, layout: ArrayLayout) -> None:
        self._path = path
        self._file: BinaryIO = io.BytesIO() if isinstance(path, RemotePath) else path.open("xb")
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

    def end(self) -> bytes:
        """Write checksums and index, and give both. :meth:`close` must follow."""
        checksums, index = self._checksums.tobytes(), self._index.tobytes()
        self._file.write(checksums + index)
        self._file.write(google_crc32c.value(index).to_bytes(_CHECKSUM_BYTES, "little"))
        self._file.flush()
        return checksums + index

    def close(self) -> None:
        """Wait until the file is on the disk, or has been sent, in any thread."""
        with self._file:
            if isinstance(self._file, io.BytesIO):
                self._path.write_bytes(self._file.getvalue())
            else:
                os.fsync(self._file.fileno())

    def abandon(self) -> None:
        """Close the file and remove it: what it holds cannot be read."""
        with contextlib.suppress(OSError):  # what could not be written before cannot be now
            self._file.close()
        if not isinstance(self._path, RemotePath):
            self._path.unlink(missing_ok=True)


def tail_of_shard(path: Path, layout: ArrayLayout) -> bytes:
    """Checksums and index of a shard that was written whole.

    Raises:
        RuleBrokenError: the file is too short to be one.
        OSError: it cannot be read.
    """
    tail_bytes = (16 + _CHECKSUM_BYTES) * layout.chunks_per_shard
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < tail_bytes + _CHECKSUM_BYTES:
            raise RuleBrokenError("shard_index", f"shard {path.name} is cut off")
        file.seek(-tail_bytes - _CHECKSUM_BYTES, os.SEEK_END)
        return file.read(tail_bytes)


class _File:
    """A file on a disk, read where asked."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb", buffering=0)

    def close(self) -> None:
        self._file.close()

    def read_tail(self, length: int) -> tuple[bytes, int]:
        """The last bytes, fewer if there are no more, and the file's size."""
        size = os.fstat(self._file.fileno()).st_size
        start = max(0, size - length)
        return self.read(start, size - start), size

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset`` on; fewer only at the end of the file."""
        self._file.seek(offset)
        data = self._file.read(length)
        while len(data) < length and (more := self._file.read(length - len(data))):
            data += more
        return data


class _Object:
    """A file of object storage, whose bytes that are needed soon are asked for at once."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        self._held, self._held_at = b"", 0

    def close(self) -> None:
        self._held = b""

    def read_tail(self, length: int) -> tuple[bytes, int]:
        """The last bytes, fewer if there are no more, and the file's size; one request."""
        return self._path.read_tail(length)

    def hold(self, offset: int, length: int) -> None:
        """Ask for bytes that will be read; one request."""
        self._held, self._held_at = self._path.read_range(offset, length), offset

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset`` on; fewer only at the end of the file."""
        at = offset - self._held_at
        if at >= 0 and at + length <= len(self._held):
            return self._held[at : at + length]
        return self._path.read_range(offset, length)


def _open(path: Path) -> _File | _Object:
    return _Object(path) if isinstance(path, RemotePath) else _File(path)


class ShardReader:
    """An open shard; a context manager.

    Raises:
        RuleBrokenError: the file is missing, is not the one that was written, or its index is
            damaged or points outside it.
    """

    def __init__(self, folder: Path, layout: ArrayLayout, shard: int) -> None:
        self._layout = layout
        self._name = layout.shard_key(shard)
        self._path = folder / self._name
        with self._told():
            self._file = _open(self._path)
        noted = layout.shards_crc32c
        try:
            if isinstance(self._file, _Object) and layout.tails is not None:
                tail, data_bytes = layout.tails[shard], ABSENT - 1  # nobody has asked for its size
            else:
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

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tell that the file is missing, or cannot be read."""
        try:
            yield
        except FileNotFoundError as error:
            raise RuleBrokenError("shard_missing", f"shard {self._name} is missing") from error
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be read: {error.strerror}") from error

    def _read_tail(self, noted: int | None) -> tuple[bytes, int]:
        """What lies after the chunks, but for the index's own checksum, and where it begins."""
        per_shard = self._layout.chunks_per_shard
        tail_bytes = 16 * per_shard + (0 if noted is None else _CHECKSUM_BYTES * per_shard)
        with self._told():
            tail, size = self._file.read_tail(tail_bytes + _CHECKSUM_BYTES)
        if len(tail) < tail_bytes + _CHECKSUM_BYTES:
            raise RuleBrokenError("shard_index", f"shard {self._name} is cut off ({size:,} bytes)")
        tail, checksum = tail[:tail_bytes], tail[tail_bytes:]
        index = tail[-16 * per_shard :]
        if google_crc32c.value(index).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
            raise RuleBrokenError("shard_index", f"shard {self._name}: wrong checksum of the index")
        if noted is not None and google_crc32c.value(tail) != noted:
            raise RuleBrokenError(
                "shard_differs", f"shard {self._name} is not the one that was written"
            )
        return tail, size - tail_bytes - _CHECKSUM_BYTES

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

    def will_read(self, first: int, end: int) -> None:
        """Say that chunks ``first`` to ``end`` come next: of an object, they come in one piece."""
        if not isinstance(self._file, _Object):
            return
        entries = self._index[first:end]
        begin, stop = int(entries[:, 0].min()), int(entries.sum(axis=1).max())
        # As this library writes them they lie one after the other; another's may lie anywhere.
        if stop - begin <= 2 * int(entries[:, 1].sum()) and stop - begin <= MAX_CHUNK_BYTES:
            with self._told():
                self._file.hold(begin, stop - begin)

    def _read(self, offset: int, length: int) -> bytes:
        with self._told():
            data = self._file.read(offset, length)
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
