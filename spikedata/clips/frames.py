"""A clip's bits as zstd frames in a row of a table: what Parquet files and ``datasets`` give.

Each frame holds ``chunk_ticks`` ticks, time last, as ``docs/reference/hub-dataset.md`` lays down.

Shapes: G groups of eight ticks, H rows, W columns, P pixels.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from spikedata import bits
from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.clips.rules import RuleBrokenError, check_past_end
from spikedata.clips.source import ClipBits
from spikedata.clips.stored import StoredClip
from spikedata.errors import StoreError

MAX_FRAME_BYTES = 1 << 30
"""Bytes of a frame once decompressed; a reader holds that much."""

_OF_THREAD = threading.local()
_KEPT_BYTES = 8 << 20
"""Largest frame whose memory a thread keeps for the next one: fresh memory costs time."""


def decompress_exactly(coded: Any, size: int) -> bytes:
    """Decompress one zstd frame that must hold ``size`` bytes.

    Raises:
        RuleBrokenError: it does not, or is no frame; checked before memory is taken.
    """
    try:
        held = zstandard.frame_content_size(coded)
        # The library takes the memory a frame asks for, whatever max_output_size says.
        if held in (-1, size):
            data: bytes = _decompressor().decompress(coded, max_output_size=size)
            held = len(data)
    except (zstandard.ZstdError, TypeError) as error:  # not even bytes
        raise RuleBrokenError("chunk_damaged", f"is damaged: {error}") from error
    if held != size:
        raise RuleBrokenError("chunk_damaged", f"holds {held:,} bytes, expected {size:,}")
    return data


def decompress_shortly(coded: Any, size: int) -> NDArray[np.uint8]:
    """As :func:`decompress_exactly`, to memory that the thread's next call may use again.

    Raises:
        RuleBrokenError: as there.
    """
    try:
        if size > _KEPT_BYTES or zstandard.frame_content_size(coded) != size:
            return np.frombuffer(decompress_exactly(coded, size), np.uint8)
        if getattr(_OF_THREAD, "room", np.empty(0)).size < size + 1:
            _OF_THREAD.room = np.empty(size + 1, np.uint8)
        room: NDArray[np.uint8] = _OF_THREAD.room[: size + 1]
        reader = _decompressor().stream_reader(coded)
        held = reader.readinto(room[:size])
        held += reader.readinto(room[size:])  # to the frame's end, where its checksum is
    except (zstandard.ZstdError, TypeError) as error:  # not even bytes
        raise RuleBrokenError("chunk_damaged", f"is damaged: {error}") from error
    if held != size:
        raise RuleBrokenError("chunk_damaged", f"holds {held:,} bytes, expected {size:,}")
    return room[:size]


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_OF_THREAD, "decompressor"):  # it serves one thread at a time
        _OF_THREAD.decompressor = zstandard.ZstdDecompressor()
    kept: zstandard.ZstdDecompressor = _OF_THREAD.decompressor
    return kept


def compress_frame(data: Any, level: int, checksum: bool = False) -> bytes:
    """Compress to one zstd frame, with a ``checksum`` of the contents in it or without."""
    options = level, checksum
    if getattr(_OF_THREAD, "options", None) != options:  # its tables are large
        _OF_THREAD.options = options
        _OF_THREAD.compressor = zstandard.ZstdCompressor(level=level, write_checksum=checksum)
    coded: bytes = _OF_THREAD.compressor.compress(data)
    return coded


def check_chunk(stored: StoredClip, chunk_ticks: int) -> None:
    """Check that so many ticks of a clip fit into one frame.

    Raises:
        StoreError: they are past :data:`MAX_FRAME_BYTES`.
    """
    size = group_count(chunk_ticks) * stored.height_px * stored.width_px
    if size > MAX_FRAME_BYTES:
        raise StoreError(
            f"clip {stored.clip.id}: {chunk_ticks} ticks of {stored.height_px}x{stored.width_px} "
            f"are {size:,} bytes, past the {MAX_FRAME_BYTES:,} that are read at once"
        )


class ClipFrames(ClipBits):
    """One row's compressed bits; nothing the row says is trusted.

    Args:
        stored: whose they are.
        chunk_ticks: ticks in a frame.
        frames: zstd frames.

    Raises:
        RuleBrokenError: ``chunk_ticks`` is not usable, or other than ``frames`` are needed.
    """

    def __init__(self, stored: StoredClip, chunk_ticks: Any, frames: Sequence[Any]) -> None:
        self.stored = stored
        self._frames = frames
        if type(chunk_ticks) is not int or chunk_ticks < 1 or chunk_ticks % TICKS_PER_GROUP:
            said = f"chunk_ticks is not usable: {chunk_ticks!r:.40}"
            raise RuleBrokenError("attributes_malformed", said)
        self.step = chunk_ticks // TICKS_PER_GROUP
        check_chunk(stored, chunk_ticks)
        if len(frames) != -(-group_count(stored.ticks) // self.step):
            raise RuleBrokenError("chunk_missing", f"{len(frames)} chunks do not fit its ticks")

    def groups(self, first: int, end: int) -> NDArray[np.uint8]:
        """Groups ``first`` to ``end``, uint8 (end - first, H, W); only their frames are decoded.

        Raises:
            RuleBrokenError: one is damaged, or bits past the clip's last tick are set.
        """
        stored, step = self.stored, self.step
        out_gp = np.empty((end - first, stored.height_px * stored.width_px), np.uint8)
        for at in range(first // step, -(-end // step)):
            low, high = max(first, at * step), min(end, (at + 1) * step)
            self._decode(at, low - at * step, out_gp[low - first : high - first])
        return out_gp.reshape(-1, stored.height_px, stored.width_px)

    def blocks(self, step: int) -> Iterator[NDArray[np.uint8]]:
        """All groups in order, ``step`` at a time; each frame is decoded once."""
        waiting = np.empty((0, self.stored.height_px, self.stored.width_px), np.uint8)
        last = group_count(self.stored.ticks)
        for first in range(0, last, self.step):
            chunk_ghw = self.groups(first, min(first + self.step, last))
            waiting = np.concatenate([waiting, chunk_ghw]) if len(waiting) else chunk_ghw
            while len(waiting) >= step:
                yield waiting[:step]
                waiting = waiting[step:]
        if len(waiting):
            yield waiting

    def _decode(self, at: int, first: int, out_gp: NDArray[np.uint8]) -> None:
        """Decode a frame's groups from ``first`` on, as many as ``out_gp`` (G, P) has."""
        stored, pixels = self.stored, out_gp.shape[1]
        left = group_count(stored.ticks) - at * self.step
        groups = min(self.step, left)
        try:
            data = decompress_shortly(self._frames[at], groups * pixels)
            bits.some_to_time_first(data.reshape(pixels, groups), first, out_gp)
            if first + len(out_gp) == left:
                check_past_end(out_gp, stored.ticks)
        except RuleBrokenError as error:
            raise RuleBrokenError(error.code, f"chunk {at} {error.message}") from error
