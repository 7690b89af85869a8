"""A clip's bits as zstd frames in a row of a table: what Parquet files and ``datasets`` give.

Each frame holds ``chunk_ticks`` ticks, time last, as ``docs/reference/hub-dataset.md`` lays down.

Shapes: G groups of eight ticks, H rows, W columns, P pixels.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from spikedata import bits
from spikedata.bits import TICKS_PER_GROUP, group_count, slice_ticks
from spikedata.clips.store.layout import RuleBrokenError
from spikedata.clips.stored import StoredClip, check_past_end
from spikedata.errors import StoreError
from spikedata.stream import SpikeStream

MAX_FRAME_BYTES = 1 << 30
"""Bytes of a frame once decompressed; a reader holds that much."""

_OF_THREAD = threading.local()


def decompress_exactly(coded: Any, size: int) -> bytes:
    """Decompress one zstd frame that must hold ``size`` bytes.

    Raises:
        RuleBrokenError: it does not, or is no frame; checked before memory is taken.
    """
    if not hasattr(_OF_THREAD, "decompressor"):  # it serves one thread at a time
        _OF_THREAD.decompressor = zstandard.ZstdDecompressor()
    try:
        held = zstandard.frame_content_size(coded)
        # The library takes the memory a frame asks for, whatever max_output_size says.
        if held in (-1, size):
            data: bytes = _OF_THREAD.decompressor.decompress(coded, max_output_size=size)
            held = len(data)
    except (zstandard.ZstdError, TypeError) as error:  # not even bytes
        raise RuleBrokenError("chunk_damaged", f"is damaged: {error}") from error
    if held != size:
        raise RuleBrokenError("chunk_damaged", f"holds {held:,} bytes, expected {size:,}")
    return data


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


def in_blocks(chunks: Iterable[NDArray[np.uint8]], ticks: int) -> Iterator[NDArray[np.uint8]]:
    """Cut a clip's chunks (G, H, W) anew into blocks of ``ticks`` ticks, the last perhaps shorter.

    Raises:
        ValueError: ``ticks`` is not a positive multiple of eight.
    """
    if ticks <= 0 or ticks % TICKS_PER_GROUP:
        raise ValueError(f"ticks must be a positive multiple of 8, got {ticks}")
    step, waiting = ticks // TICKS_PER_GROUP, np.empty((0, 0, 0), np.uint8)
    for chunk_ghw in chunks:
        waiting = np.concatenate([waiting, chunk_ghw]) if len(waiting) else chunk_ghw
        while len(waiting) >= step:
            yield waiting[:step]
            waiting = waiting[step:]
    if len(waiting):
        yield waiting


class ClipFrames:
    """One row's compressed bits; nothing the row says is trusted.

    Args:
        stored: whose they are.
        chunk_ticks: ticks in a frame.
        frames: zstd frames.

    Raises:
        StoreError: ``chunk_ticks`` is not usable, or other than ``frames`` are needed.
    """

    def __init__(self, stored: StoredClip, chunk_ticks: Any, frames: Sequence[Any]) -> None:
        self._frames = frames
        self._stored = stored
        self._where = f"clip {stored.clip.id}"
        if type(chunk_ticks) is not int or chunk_ticks < 1 or chunk_ticks % TICKS_PER_GROUP:
            raise StoreError(f"{self._where}: chunk_ticks is not usable: {chunk_ticks!r}")
        self._chunk_groups = chunk_ticks // TICKS_PER_GROUP
        check_chunk(stored, chunk_ticks)
        if len(frames) != -(-group_count(stored.ticks) // self._chunk_groups):
            raise StoreError(f"{self._where}: {len(frames)} chunks do not fit its ticks")

    def read(self, start: int, ticks: int | None) -> SpikeStream:
        """Ticks ``start`` to ``start + ticks`` (to the end if None), packed from bit 0.

        Raises:
            StoreError: the clip is damaged, or the window lies outside it.
        """
        stored = self._stored
        ticks = stored.ticks - start if ticks is None else ticks
        if start < 0 or ticks < 1 or start + ticks > stored.ticks:
            raise StoreError(
                f"{self._where}: ticks {start} to {start + ticks} are not inside its "
                f"{stored.ticks} ticks"
            )
        first = start // TICKS_PER_GROUP // self._chunk_groups
        last = (group_count(start + ticks) - 1) // self._chunk_groups
        blocks = [self._decode(at) for at in range(first, last + 1)]
        packed_ghw = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        window_start = start - first * self._chunk_groups * TICKS_PER_GROUP
        return SpikeStream(slice_ticks(packed_ghw, window_start, ticks), ticks, stored.tick_rate_hz)

    def decode_all(self) -> Iterator[NDArray[np.uint8]]:
        """What each frame holds, in order: uint8 (G, H, W).

        Raises:
            StoreError: one is damaged, or bits past the clip's last tick are set.
        """
        return map(self._decode, range(len(self._frames)))

    def _decode(self, at: int) -> NDArray[np.uint8]:
        stored, pixels = self._stored, self._stored.height_px * self._stored.width_px
        left = group_count(stored.ticks) - at * self._chunk_groups
        groups = min(self._chunk_groups, left)
        try:
            data = decompress_exactly(self._frames[at], groups * pixels)
            out_gp = np.empty((groups, pixels), np.uint8)
            bits.to_time_first(np.frombuffer(data, np.uint8).reshape(pixels, groups), out_gp)
            if groups == left:
                check_past_end(out_gp, stored.ticks)
        except RuleBrokenError as error:
            raise StoreError(f"{self._where}: chunk {at} {error.message}") from error
        return out_gp.reshape(groups, stored.height_px, stored.width_px)
