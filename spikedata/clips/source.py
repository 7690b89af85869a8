"""A set of clips on disk, whatever its format: one interface, and all that a reader does, once.

A format says what there is (:attr:`ClipSource.clips`) and opens the bits of one clip
(:class:`ClipBits`). Windows, blocks, digests, sums and checks follow from these two.

Shapes: T ticks, G = ceil(T / 8) groups of eight ticks, H rows, W columns.
"""

import contextlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata import bits
from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.clips.crew import Chunks, Crew
from spikedata.clips.doubts import LayoutDoubt
from spikedata.clips.leaks import leaks_of
from spikedata.clips.rules import Problem, RuleBrokenError, check_label, find_collisions
from spikedata.clips.stored import BitsMeter, StoredClip
from spikedata.errors import StoreError
from spikedata.outputs import Failure
from spikedata.remote import RemotePath
from spikedata.stream import SpikeStream


class ClipBits(ABC):
    """The bits of one clip, opened for reading."""

    stored: StoredClip
    """Whose they are."""
    step: int = 128
    """Groups that are read together at the least cost."""

    @abstractmethod
    def groups(self, first: int, end: int) -> NDArray[np.uint8]:
        """Groups ``first`` to ``end``: uint8 (end - first, H, W), contiguous.

        Raises:
            StoreError: they are damaged.
        """

    def spans(self, spans: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
        """Several spans of groups, each as :meth:`groups` gives it, in the order asked for.

        Raises:
            StoreError: they are damaged.
        """
        return [self.groups(first, end) for first, end in spans]

    def blocks(self, step: int) -> Iterator[NDArray[np.uint8]]:
        """All groups in order, ``step`` at a time, the last time perhaps fewer."""
        last = group_count(self.stored.ticks)
        for first in range(0, last, step):
            yield self.groups(first, min(first + step, last))


def verify_bits(opened: ClipBits, crew: Crew | None = None) -> None:
    """Read every bit of a clip and compare with what was noted when it was written.

    A ``crew`` decodes blocks ahead of the digest, which takes one after the other.

    Raises:
        StoreError: the clip is damaged.
        RuleBrokenError: it has another digest or count.
    """
    meter = BitsMeter()
    for block_ghw in opened.blocks(opened.step) if crew is None else _ahead(opened, crew):
        meter.update(block_ghw)
    meter.check(opened.stored)


def _ahead(opened: ClipBits, crew: Crew) -> Iterator[NDArray[np.uint8]]:
    """All groups in order, several blocks of them decoded side by side."""
    coming: Chunks[NDArray[np.uint8]] = Chunks(crew)
    last = group_count(opened.stored.ticks)
    try:
        for first in range(0, last, opened.step):
            yield from coming.add(opened.groups, first, min(first + opened.step, last))
        yield from coming.rest()
    finally:
        coming.drop()


class ClipSource(ABC):
    """Clips by id, and their bits. Safe to share between threads, to fork and to pickle."""

    format: str
    """What it is stored as: ``zarr``, ``parquet``, ``hdf5``, ``dat``."""
    version: str | None = None
    """Of the format, where it has one."""
    path: Path
    """Where it is."""
    name: str
    """Name of the data set."""
    class_names: tuple[str, ...]
    """Labels in order; a label's place here is its number."""
    recipe: dict[str, Any]
    """What decided the bits."""
    clips: Mapping[str, StoredClip]
    """What it holds, in order of id."""
    notes: tuple[str, ...] = ()
    """What was odd when it was opened."""
    left_out: tuple[Failure, ...] = ()
    """What could not be opened."""
    is_growing: bool = False
    """Whether another process was adding clips when it was opened."""

    @abstractmethod
    def open_bits(self, clip_id: str) -> ClipBits:
        """Open the bits of a clip that is one of :attr:`clips`.

        Raises:
            StoreError: they are missing or damaged.
        """

    def neighbours(self) -> Iterator[tuple[str, ...]]:
        """Ids of clips that are best read one after the other, all clips in all."""
        return ((clip_id,) for clip_id in self.clips)

    def stored_bytes(self, clip_id: str) -> int | None:
        """Bytes that a clip takes on disk; None where clips are not kept apart."""
        return None

    def size_bytes(self) -> int:
        """Bytes that all of it takes on disk."""
        if isinstance(self.path, RemotePath):  # clip by clip that would be a request each
            return size_on_disk(self.path)
        apart = [self.stored_bytes(clip_id) for clip_id in self.clips]
        known = [size for size in apart if size is not None]
        return sum(known) if len(known) == len(apart) else size_on_disk(self.path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {len(self.clips)} clips)"

    # --- reading ----------------------------------------------------------------------------

    def read(self, clip_id: str, start: int = 0, ticks: int | None = None) -> SpikeStream:
        """Read ticks ``start`` to ``start + ticks`` (to the end if None), packed from bit 0.

        Raises:
            StoreError: there is no such clip, it is damaged, or the window lies outside it.
        """
        ticks = self.stored(clip_id).ticks - start if ticks is None else ticks
        return self.windows(clip_id, [start], ticks)[0]

    def windows(self, clip_id: str, starts: Sequence[int], ticks: int) -> list[SpikeStream]:
        """Read several windows of ``ticks`` ticks, each packed from bit 0, as :meth:`read` does.

        Once for all of them, where a clip can only be read from its beginning.

        Raises:
            StoreError: there is no such clip, it is damaged, or a window lies outside it.
        """
        with self._told(clip_id):
            opened = self._open(clip_id)
            stored = opened.stored
            spans = [self._span(stored, start, ticks) for start in starts]
            parts = zip(starts, opened.spans(spans), strict=True)
            return [_cut(packed_ghw, start, ticks, stored) for start, packed_ghw in parts]

    def read_planes(
        self, clip_id: str, start: int = 0, ticks: int | None = None
    ) -> NDArray[np.uint8]:
        """Read spike planes, uint8 0/1 (T, H, W); the same as ``read(...).unpack()``, faster.

        Raises:
            StoreError: there is no such clip, it is damaged, or the window lies outside it.
        """
        with self._told(clip_id):
            opened = self._open(clip_id)
            stored = opened.stored
            ticks = stored.ticks - start if ticks is None else ticks
            packed_ghw = opened.groups(*self._span(stored, start, ticks))
        planes_tp = bits.unpack_window(
            packed_ghw.reshape(len(packed_ghw), -1), start % TICKS_PER_GROUP, ticks
        )
        return planes_tp.reshape(ticks, stored.height_px, stored.width_px)

    def blocks(self, clip_id: str, ticks: int | None = None) -> Iterator[NDArray[np.uint8]]:
        """Read a clip in blocks of ``ticks`` ticks, in bounded memory.

        Args:
            clip_id: which clip.
            ticks: length of a block, a multiple of eight; default what reads best. The last block
                may be shorter.

        Yields:
            packed_ghw: uint8 (G, H, W).

        Raises:
            ValueError: ``ticks`` is not a positive multiple of eight.
            StoreError: there is no such clip, or it is damaged.
        """
        if ticks is not None and (ticks <= 0 or ticks % TICKS_PER_GROUP):
            raise ValueError(f"ticks must be a positive multiple of 8, got {ticks}")
        with self._told(clip_id):
            opened = self._open(clip_id)
            yield from opened.blocks(opened.step if ticks is None else ticks // TICKS_PER_GROUP)

    def checked_blocks(
        self, stored: StoredClip, ticks: int | None = None, meter: BitsMeter | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """The blocks of a clip; after the last one, an error if they are other bits.

        Args:
            stored: the clip and the digest noted; without one any bits will do.
            ticks: as for :meth:`blocks`.
            meter: a new one, for who wants to know digest and count in the end.

        Raises:
            StoreError: the clip is damaged, or its bits are not those noted.
        """
        meter = meter or BitsMeter()
        for block_ghw in self.blocks(stored.id, ticks):
            meter.update(block_ghw)
            yield block_ghw
        with self._told(stored.id):
            meter.check(stored)

    def stream(self, clip_id: str) -> "ClipStream":
        """A clip to be read block by block, as often as wanted.

        Raises:
            StoreError: there is no such clip.
        """
        return ClipStream(self, self.stored(clip_id))

    def stored(self, clip_id: str) -> StoredClip:
        """What is known of a clip.

        Raises:
            StoreError: there is no such clip.
        """
        if clip_id not in self.clips:
            raise StoreError(f"{self.path}: no clip {clip_id!r}; it holds {len(self.clips)} clips")
        return self.clips[clip_id]

    def only(self, clip_id: str | None) -> str:
        """The id given, or that of the only clip.

        Raises:
            StoreError: there is no such clip, or none is given and there are several.
        """
        if clip_id is None and len(self.clips) != 1:
            raise StoreError(f"{self.path}: holds {len(self.clips)} clips; name one")
        return self.stored(next(iter(self.clips)) if clip_id is None else clip_id).id

    # --- checking and telling ---------------------------------------------------------------

    def layout_doubt(self, clip_id: str) -> LayoutDoubt | None:  # noqa: ARG002
        """Whether a clip's content shows another layout than it was given; formats tell theirs."""
        return None

    def verify(self, clip_id: str, crew: Crew | None = None) -> None:
        """Read all of a clip and compare it with what was noted when it was written.

        Args:
            clip_id: which clip.
            crew: decodes several blocks of it at a time.

        Raises:
            StoreError: the clip is damaged, or its bits or their count differ.
        """
        with self._told(clip_id):
            verify_bits(self._open(clip_id), crew)

    def measured(self, clip_id: str) -> StoredClip:
        """What is known of a clip, with digest and count; it is read if nobody has done so.

        Raises:
            StoreError: there is no such clip, or it is damaged.
        """
        stored = self.stored(clip_id)
        if stored.spikes is not None:
            return stored
        meter = BitsMeter()
        for block_ghw in self.blocks(clip_id):
            meter.update(block_ghw)
        with self._told(clip_id):
            return meter.measured(stored)

    def check_finished(self) -> None:
        """Refuse a set to which clips are still added.

        Raises:
            StoreError: another process was writing it when it was opened.
        """
        if self.is_growing:
            raise StoreError(
                f"{self.path}: another process is writing it, {len(self.clips)} clips so far. Wait "
                "until it has ended"
            )

    def problems(self, *, deep: bool = True) -> list[Problem]:
        """The rules that the clips break; with ``deep`` every bit is decoded and compared."""
        found = [Problem("cannot_be_read", item.id, item.error) for item in self.left_out]
        found += find_collisions(self.clips)
        for clip_id, stored in self.clips.items():
            try:
                check_label(stored.clip, self.class_names)
                if deep:
                    verify_bits(self._open(clip_id))
            except RuleBrokenError as error:
                found.append(Problem(error.code, clip_id, error.message))
            except StoreError as error:
                found.append(Problem("chunk_damaged", clip_id, str(error)))
        return found

    def losses(self) -> dict[str, int]:
        """What was lost when the clips were made, summed; see ``StoredClip.losses``."""
        found: Counter[str] = Counter()
        for stored in self.clips.values():
            found.update(stored.losses)
        return dict(sorted(found.items()))

    def rows(self) -> Iterator[dict[str, Any]]:
        """A line about each clip, plain JSON, in order of id; no bits are read."""
        return (stored.row() for stored in self.clips.values())

    def leaks(self) -> list[str]:
        """Notes on groups on both sides of the split, and on clips of the same bits."""
        return leaks_of(self.clips.values())

    def summary(self) -> dict[str, Any]:
        """What there is, in plain JSON values: counts, geometry, rates, losses, recipe.

        Clips that nobody has counted are read.
        """
        clips = [self.measured(clip_id) for clip_id in self.clips]
        pixel_ticks = sum(clip.pixel_ticks for clip in clips)
        spikes, size = sum(clip.spikes or 0 for clip in clips), self.size_bytes()
        return {
            "path": str(self.path),
            "format": self.format,
            "name": self.name,
            "version": self.version,
            "clips": len(clips),
            "classes": len(self.class_names),
            "splits": dict(sorted(Counter(c.clip.split or "none" for c in clips).items())),
            "sizes": sorted({clip.size for clip in clips}),
            "tick_rates_hz": sorted({clip.tick_rate_hz for clip in clips}),
            "ticks": sum(clip.ticks for clip in clips),
            "duration_s": round(sum(clip.ticks / clip.tick_rate_hz for clip in clips), 3),
            "spikes": spikes,
            "firing_rate": round(spikes / pixel_ticks, 6) if clips else None,
            "bytes": size,
            "ratio": round(pixel_ticks / 8 / size, 3) if clips and size else None,
            "annotations": sum(clip.annotations for clip in clips),
            "losses": self.losses(),
            "left_out": len(self.left_out),
            "recipe": self.recipe,
        }

    # --- within -----------------------------------------------------------------------------

    def _open(self, clip_id: str) -> ClipBits:
        self.stored(clip_id)
        return self.open_bits(clip_id)

    def _span(self, stored: StoredClip, start: int, ticks: int) -> tuple[int, int]:
        """The groups that a window touches."""
        if start < 0 or ticks < 1 or start + ticks > stored.ticks:
            raise StoreError(
                f"{self.path}: clip {stored.id}: ticks {start} to {start + ticks} are not "
                f"inside its {stored.ticks} ticks"
            )
        return start // TICKS_PER_GROUP, group_count(start + ticks)

    @contextlib.contextmanager
    def _told(self, clip_id: str) -> Iterator[None]:
        """Put in front of a broken rule where it happened."""
        try:
            yield
        except RuleBrokenError as error:
            raise error.at(self.path, clip_id) from error


def _cut(packed_ghw: NDArray[np.uint8], start: int, ticks: int, stored: StoredClip) -> SpikeStream:
    """A window of the groups that it touches."""
    if start % TICKS_PER_GROUP or (ticks % TICKS_PER_GROUP and start + ticks < stored.ticks):
        packed_gp = packed_ghw.reshape(len(packed_ghw), -1)
        cut_gp = bits.cut_window(packed_gp, start % TICKS_PER_GROUP, ticks)
        packed_ghw = cut_gp.reshape(-1, stored.height_px, stored.width_px)
    return SpikeStream(packed_ghw, ticks, stored.tick_rate_hz)


class ClipStream:
    """One clip of a set, as a :class:`~spikedata.stream.SpikeSource`."""

    def __init__(self, source: ClipSource, stored: StoredClip) -> None:
        self.stored = stored
        own = stored.clip.source.get("label")
        self.label = stored.label or (own if isinstance(own, str) else None)
        self.label_number = _number_of(self.label, source.class_names)
        self.ticks, self.tick_rate_hz = stored.ticks, stored.tick_rate_hz
        self.height_px, self.width_px = stored.height_px, stored.width_px
        self.notes, self.left_out = source.notes, source.left_out
        self._source = source

    @property
    def shape(self) -> tuple[int, int, int]:
        """Ticks, rows, columns."""
        return self.ticks, self.height_px, self.width_px

    def read(self, start: int = 0, ticks: int | None = None) -> SpikeStream:
        """Read ticks ``start`` to ``start + ticks`` (to the end if None), packed from bit 0.

        Raises:
            StoreError: they are damaged, or lie outside the clip.
        """
        return self._source.read(self.stored.id, start, ticks)

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Packed blocks, uint8 (g, H, W)."""
        return self._source.blocks(self.stored.id)


def _number_of(label: str | None, class_names: Sequence[str]) -> int | None:
    """A class's number: what it is called, where it is only numbered, else its place."""
    if label is not None and re.fullmatch(r"[0-9]{1,9}", label):
        return int(label)
    return class_names.index(label) if label in class_names else None


class ChangedClips(ClipSource):
    """The bits of a set of clips under other facts: another recipe, other attributes, fewer clips.

    Args:
        source: where the bits are.
        clips: what is told of the clips instead.
        recipe: what is told to have decided the bits.
    """

    def __init__(
        self, source: ClipSource, *, clips: Mapping[str, StoredClip], recipe: dict[str, Any]
    ) -> None:
        self.format, self.version, self.path = source.format, source.version, source.path
        self.name, self.class_names = source.name, source.class_names
        self.notes, self.left_out = source.notes, source.left_out
        self.clips, self.recipe = clips, recipe
        self._source = source

    def open_bits(self, clip_id: str) -> ClipBits:
        """The source's own."""
        return self._source.open_bits(clip_id)

    def neighbours(self) -> Iterator[tuple[str, ...]]:
        """As the source says, of the clips that are left."""
        for together in self._source.neighbours():
            yield tuple(clip_id for clip_id in together if clip_id in self.clips)

    def stored_bytes(self, clip_id: str) -> int | None:
        """As the source says."""
        return self._source.stored_bytes(clip_id)


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if isinstance(path, RemotePath):
        below = sum(size for _, size, _ in path.walk_files())
        return below or int(path.stat().st_size)
    if not path.is_dir():
        return path.stat().st_size if path.is_file() else 0
    size, todo = 0, [os.fspath(path)]
    while todo:  # os.scandir, as paths cost more than the files' sizes where there are thousands
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif entry.is_file():
                    size += entry.stat().st_size
    return size
