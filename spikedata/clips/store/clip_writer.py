"""One clip that is being written: its chunks compressed side by side, its shards one by one.

Shapes: G groups of eight ticks, P pixels.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from spikedata import bits
from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.clip import Clip
from spikedata.clips.crew import Chunks, Crew
from spikedata.clips.frames import compress_frame
from spikedata.clips.rules import (
    MAX_SIDE_PX,
    RuleBrokenError,
    as_json,
    check_label,
    pretty_json,
)
from spikedata.clips.store.layout import MAX_TAILS_BYTES, METADATA, ArrayLayout, StoreConfig
from spikedata.clips.store.shard import ShardWriter, tail_of_shard
from spikedata.clips.store.sharded import read_groups
from spikedata.clips.stored import SHARDS_DIGEST, BitsMeter, StoredClip
from spikedata.errors import StoreError
from spikedata.outputs import sync
from spikedata.remote import RemotePath


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a clip is written, and who is to be told how that ends."""

    folder: Path
    """An empty folder."""
    options: StoreConfig
    """How the array is cut and compressed."""
    check: Callable[[], None]
    """Raises if the clip is not to appear any more: the store is another's by now."""
    publish: Callable[[StoredClip], None]
    """Puts the folder, now whole, into its place."""
    give_up: Callable[[], None]
    """Removes the folder, or leaves it to be gone on with."""
    ending: Callable[[int], None] = lambda _: None
    """Told of the number of ticks before a last shard is written that is not full of them."""


def check_fits(
    clip: Clip,
    class_names: Collection[str],
    *,
    height_px: int,
    width_px: int,
    tick_rate_hz: float,
) -> None:
    """Refuse a clip that no store of these class names can hold.

    Raises:
        StoreError: its label is not among the class names.
        ValueError: a size is out of range.
    """
    check_label(clip, class_names)
    if not (1 <= height_px <= MAX_SIDE_PX and 1 <= width_px <= MAX_SIDE_PX):
        raise ValueError(f"size {height_px}x{width_px} is not within 1 to {MAX_SIDE_PX}")
    if not tick_rate_hz > 0:
        raise ValueError(f"tick_rate_hz must be positive, got {tick_rate_hz}")


_SYNCING = 2
"""Shards that may be on their way to the disk while others are made."""


class ClipWriter:
    """One clip that is being written; a context manager, used by one thread at a time.

    With a crew the chunks are compressed by all of its threads, and by the one that appends; the
    bytes are the same. At most a few chunks for each thread are held. A thread of its own waits for
    the disk.
    """

    def __init__(
        self,
        place: Place,
        clip: Clip,
        size_px: tuple[int, int],
        tick_rate_hz: float,
        crew: Crew | None,
    ) -> None:
        self._place = place
        self._clip = clip
        self._size_px = size_px
        self._tick_rate_hz = tick_rate_hz
        self._layout = ArrayLayout.plan(*size_px, 1, place.options)
        self._meter = BitsMeter()
        self._groups = 0
        self._last_p: NDArray[np.uint8] | None = None
        pixels = size_px[0] * size_px[1]
        self._waiting_gp = np.empty((self._layout.chunk_groups, pixels), np.uint8)
        self._waiting = 0
        self._coming: Chunks[bytes] = Chunks(crew, self._layout.bands)
        self._added = self._coded = 0
        self._busy_pg: deque[NDArray[np.uint8]] = deque()
        self._free_pg: list[NDArray[np.uint8]] = []
        self._shard: ShardWriter | None = None
        self._tails: list[bytes] = []
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._ahead: deque[BitsMeter] = deque()
        self._syncing: deque[tuple[Future[None], BitsMeter]] = deque()
        self._safe: tuple[int, BitsMeter] = (0, BitsMeter())
        self._flushed = False
        self._finished = False

    def __enter__(self) -> "ClipWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._coming.drop()
        self._disk.shutdown()
        if not self._finished:
            if self._shard is not None:
                self._shard.abandon()
            self._place.give_up()

    @property
    def ticks(self) -> int:
        """Ticks of all whole groups so far."""
        return self._groups * TICKS_PER_GROUP

    @property
    def spikes(self) -> int:
        """Ones in all whole chunks so far."""
        return self._meter.spikes

    def append(self, packed_ghw: NDArray[np.uint8]) -> None:
        """Add whole groups of ticks; only the clip's very last group may be part used.

        Args:
            packed_ghw: uint8 (G, H, W), any G; the caller's again afterwards.

        Raises:
            ValueError: wrong dtype or shape, or after :meth:`flush`.
            OSError: the disk is full, or the like.
        """
        if packed_ghw.dtype != np.uint8 or packed_ghw.shape[1:] != self._size_px:
            raise ValueError(
                f"expected uint8 (G, {self._size_px[0]}, {self._size_px[1]}), "
                f"got {packed_ghw.dtype} {packed_ghw.shape}"
            )
        if self._flushed:
            raise ValueError("nothing can be appended after flush")
        if not len(packed_ghw):
            return
        packed_gp = np.ascontiguousarray(packed_ghw).reshape(len(packed_ghw), -1)
        self._groups += len(packed_gp)
        self._last_p = packed_gp[-1].copy()
        self._buffer(packed_gp)

    def flush(self) -> None:
        """Compress what is left, so that :meth:`finish` has only the disk to wait for.

        Nothing can be appended after that, and the crew is not needed any more.
        """
        if self._waiting:
            self._waiting_gp[self._waiting :] = 0
            self._add_chunk(self._waiting_gp, self._waiting)
            self._waiting = 0
        self._write(self._coming.rest())
        self._flushed = True

    def cut_back(self) -> int:
        """Go back to the last shard that is on the disk, after an error; gives the ticks kept.

        Nothing can be appended after that; if there are any ticks, :meth:`finish` may follow.
        """
        self._coming.drop()
        if self._shard is not None:
            self._shard.abandon()
            self._shard = None
        with contextlib.suppress(OSError):
            self._settle(0)
        wait([future for future, _ in self._syncing])
        self._syncing.clear()
        shards, self._meter = self._safe
        for lost in range(shards, len(self._tails)):
            (self._place.folder / self._layout.shard_key(lost)).unlink(missing_ok=True)
        del self._tails[shards:]
        kept = shards * self._layout.shard_groups
        if kept < self._groups:
            self._groups, self._last_p = kept, np.zeros(1, np.uint8)
        self._waiting, self._flushed = 0, True
        return self.ticks

    def go_on(self, ticks: int | None) -> int:
        """Take up the whole shards that lie in the folder already, in place of a killed writer.

        What is not whole is removed. Gives the ticks that are there, of the ``ticks`` that there
        were, if that is known.

        Raises:
            OSError: a shard cannot be read.
        """
        last = None if ticks is None else group_count(ticks)
        keys = [self._layout.shard_key(n) for n in range(len(list(self._place.folder.iterdir())))]
        for key in keys:
            try:
                self._take_up(key, last)
            except RuleBrokenError:  # it is the one that was being written
                break
        for key in keys[len(self._tails) :]:
            (self._place.folder / key).unlink(missing_ok=True)
        self._flushed = True
        return self.ticks if ticks is None else min(self.ticks, ticks)

    def _take_up(self, key: str, last: int | None) -> None:
        """Read a whole shard of whole chunks, its checksums compared, as if it had been appended.

        Raises:
            RuleBrokenError: it is none.
        """
        path, number = self._place.folder / key, len(self._tails)
        if not path.is_file():
            raise RuleBrokenError("shard_missing", f"shard {key} is missing")
        tail = tail_of_shard(path, self._layout)
        groups = (number + 1) * self._layout.shard_groups
        groups = groups if last is None else min(groups, last)
        if groups <= self._groups:
            raise RuleBrokenError("shards_disagree", f"shard {key} lies past the last tick")
        noted = _checksums([*self._tails, tail])
        layout = replace(self._layout, groups=groups, shards_crc32c=tuple(noted))
        size = layout.chunk_groups
        meter = self._meter.copy()
        for first in range(self._groups, groups, size):
            end = min(first + size, groups)
            packed_ghw = read_groups(self._place.folder, layout, first, end)
            meter.update(packed_ghw)
        self._groups, self._meter = groups, meter
        self._last_p = packed_ghw[-1].reshape(-1)
        self._tails.append(tail)
        self._safe = number + 1, meter.copy()

    def finish(self, *, ticks: int, attributes: Mapping[str, Any]) -> StoredClip:
        """Write what is left and put the clip in its place.

        Args:
            ticks: how many ticks were appended.
            attributes: how the clip was made; plain JSON values.

        Raises:
            ValueError: the groups appended do not hold exactly ``ticks`` ticks, a bit past the
                last tick is set, or an attribute has a name the format uses itself.
            OSError: the disk is full, or the like.
        """
        self._check_ticks(ticks)
        if ticks % (self._layout.shard_groups * TICKS_PER_GROUP):
            self._place.ending(ticks)
        self.flush()
        stored = StoredClip(
            clip=self._clip,
            ticks=ticks,
            height_px=self._size_px[0],
            width_px=self._size_px[1],
            tick_rate_hz=self._tick_rate_hz,
            bits_sha256=self._meter.hexdigest(),
            spikes=self._meter.spikes,
            attributes=as_json(dict(attributes)),
        )
        layout = ArrayLayout.plan(*self._size_px, self._groups, self._place.options)
        if self._shard is not None:
            self._close_shard()
        self._settle(0)
        attributes = stored.array_attributes() | {SHARDS_DIGEST: _checksums(self._tails)}
        copied = self._tails if self._tells_tails() else ()
        meta = layout.metadata(attributes, self._place.options.zstd_level, copied)
        self._place.check()
        _write_last(self._place.folder / METADATA, pretty_json(meta))
        self._place.publish(stored)
        self._finished = True
        return stored

    def _tells_tails(self) -> bool:
        """Whether a window would else need more than three requests: it may lie in two shards."""
        return (
            isinstance(self._place.folder, RemotePath)
            and len(self._tails) > 1
            and sum(map(len, self._tails)) <= MAX_TAILS_BYTES
        )

    def _check_ticks(self, ticks: int) -> None:
        if ticks < 1 or group_count(ticks) != self._groups or self._last_p is None:
            raise ValueError(f"{self._groups} groups of 8 do not hold exactly {ticks} ticks")
        if ticks % TICKS_PER_GROUP and (self._last_p >> ticks % TICKS_PER_GROUP).any():
            raise ValueError(f"a bit past the last tick ({ticks}) is set")

    def _buffer(self, packed_gp: NDArray[np.uint8]) -> None:
        """Cut what arrives into chunks, however it arrives."""
        at, size = 0, len(self._waiting_gp)
        while at < len(packed_gp):
            if not self._waiting and len(packed_gp) - at >= size:
                self._add_chunk(packed_gp[at : at + size], size)
                at += size
                continue
            taken = min(size - self._waiting, len(packed_gp) - at)
            self._waiting_gp[self._waiting : self._waiting + taken] = packed_gp[at : at + taken]
            self._waiting += taken
            at += taken
            if self._waiting == size:
                self._add_chunk(self._waiting_gp, size)
                self._waiting = 0

    def _add_chunk(self, packed_gp: NDArray[np.uint8], used: int) -> None:
        """Have one chunk's ticks compressed, band by band, and write what has been by now.

        Of the chunk's groups the first ``used`` are the clip's.
        """
        layout = self._layout
        self._meter.update(packed_gp[:used])
        self._added += 1
        if self._added * layout.bands % layout.chunks_per_shard == 0:
            self._ahead.append(self._meter.copy())
        if self._free_pg:  # memory that was used before need not be found by the system
            chunk_pg = self._free_pg.pop()
        else:
            padded = layout.bands * layout.chunk_rows * layout.width_px
            chunk_pg = np.zeros((padded, layout.chunk_groups), np.uint8)
        bits.to_time_last(packed_gp, chunk_pg[: packed_gp.shape[1]])
        self._busy_pg.append(chunk_pg)
        for band_pg in np.split(chunk_pg, layout.bands):
            self._write(self._coming.add(compress_frame, band_pg, self._place.options.zstd_level))

    def _write(self, coded: list[bytes]) -> None:
        for band in coded:
            if self._shard is None:
                path = self._place.folder / self._layout.shard_key(len(self._tails))
                self._shard = ShardWriter(path, self._layout)
            self._shard.append(band)
            if self._shard.is_full:
                self._close_shard()
            self._coded += 1
            if self._coded % self._layout.bands == 0:
                self._free_pg.append(self._busy_pg.popleft())

    def _close_shard(self) -> None:
        assert self._shard is not None
        self._tails.append(self._shard.end())
        mark = self._ahead.popleft() if self._ahead else self._meter
        self._syncing.append((self._disk.submit(self._shard.close), mark))
        self._shard = None
        self._settle(_SYNCING)

    def _settle(self, most: int) -> None:
        """Wait until at most ``most`` shards are not on the disk yet."""
        while len(self._syncing) > most:
            future, mark = self._syncing[0]
            future.result()  # one that failed stays the first: none after it counts
            self._syncing.popleft()
            self._safe = self._safe[0] + 1, mark


def _checksums(tails: Sequence[bytes]) -> list[int]:
    """What is noted of the shards: a CRC-32C of what lies after the chunks of each."""
    return [int(google_crc32c.value(tail)) for tail in tails]


def _write_last(file: Path, data: bytes) -> None:
    """Write a clip's metadata, which says that all else is there.

    In object storage it makes the clip appear. Whoever else made the same clip has written the
    same.
    """
    if not isinstance(file, RemotePath):
        file.write_bytes(data)
        sync(file)
        sync(file.parent)
        return
    try:
        file.write_version(data, only_new=True)
    except FileExistsError as error:
        if file.read_bytes() != data:
            told = f"{file.parent}: another writer has put another clip there. Choose another --out"
            raise StoreError(told) from error
