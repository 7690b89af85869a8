"""Open a store, list its clips without touching them, and read windows of ticks."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata import bits
from spikedata.bits import TICKS_PER_GROUP, BitsHasher, group_count, slice_ticks
from spikedata.clips.store.layout import (
    CATALOG,
    CLIPS,
    MAX_METADATA_BYTES,
    ArrayLayout,
    RootInfo,
    RuleBrokenError,
    check_id,
    parse_json,
)
from spikedata.clips.store.shard import ShardReader
from spikedata.clips.stored import StoredClip, check_past_end, read_clip_metadata
from spikedata.errors import StoreError
from spikedata.stream import SpikeStream

_ID_FIRST = b'{"id":"'


class ClipTable(Mapping[str, StoredClip]):
    """Clips by id, in order of id; a clip's catalogue line is parsed when first asked for."""

    def __init__(self, store: Path, lines: Mapping[str, bytes]) -> None:
        self._store = store
        self._rows: dict[str, bytes | StoredClip] = {key: lines[key] for key in sorted(lines)}

    def __getitem__(self, clip_id: str) -> StoredClip:
        row = self._rows[clip_id]
        if isinstance(row, bytes):
            row = self._parse(clip_id, row)
            self._rows[clip_id] = row
        return row

    def _parse(self, clip_id: str, line: bytes) -> StoredClip:
        try:
            return StoredClip.from_catalog_line(line)
        except RuleBrokenError:  # the catalogue is only a copy: ask the clip
            try:
                return read_clip_metadata(self._store / CLIPS / clip_id)[0]
            except RuleBrokenError as error:
                raise error.at(self._store, clip_id) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class SpikeStore:
    """A store, open for reading. Safe to share between threads, to fork and to pickle."""

    path: Path
    """Where it is."""
    clips: Mapping[str, StoredClip]
    """What it holds, in order of id."""
    class_names: tuple[str, ...]
    """Labels in order; a label's place here is its number."""
    recipe: dict[str, Any]
    """What decided the bits."""
    name: str
    """Name of the data set."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            root = RootInfo.read(self.path)
            self.clips = ClipTable(self.path, catalog_lines(self.path))
        except RuleBrokenError as error:
            raise error.at(self.path) from error
        self.class_names = root.class_names
        self.recipe = root.recipe
        self.name = root.name
        self.version = root.version

    def __reduce__(self) -> tuple[type["SpikeStore"], tuple[Path]]:
        return SpikeStore, (self.path,)

    def __repr__(self) -> str:
        return f"SpikeStore({str(self.path)!r}, {len(self.clips)} clips)"

    def summary(self) -> dict[str, Any]:
        """What the store holds, in plain JSON values: counts, geometry, rates, recipe."""
        clips = list(self.clips.values())
        pixel_ticks = sum(clip.ticks * clip.height_px * clip.width_px for clip in clips)
        stored_bytes = sum(_folder_bytes(self.path / CLIPS / clip.clip.id) for clip in clips)
        return {
            "path": str(self.path),
            "name": self.name,
            "version": self.version,
            "clips": len(clips),
            "classes": len(self.class_names),
            "splits": dict(sorted(Counter(c.clip.split or "none" for c in clips).items())),
            "sizes": sorted({f"{clip.height_px}x{clip.width_px}" for clip in clips}),
            "tick_rates_hz": sorted({clip.tick_rate_hz for clip in clips}),
            "ticks": sum(clip.ticks for clip in clips),
            "duration_s": round(sum(clip.ticks / clip.tick_rate_hz for clip in clips), 3),
            "spikes": sum(clip.spikes for clip in clips),
            "firing_rate": (
                round(sum(clip.spikes for clip in clips) / pixel_ticks, 6) if clips else None
            ),
            "bytes": stored_bytes,
            "ratio": round(pixel_ticks / 8 / stored_bytes, 3) if stored_bytes else None,
            "recipe": self.recipe,
        }

    def read(self, clip_id: str, start: int = 0, ticks: int | None = None) -> SpikeStream:
        """Read ticks ``start`` to ``start + ticks`` (to the end if None), packed from bit 0.

        Raises:
            StoreError: there is no such clip, it is damaged, or the window lies outside it.
        """
        stored, layout = self._open(clip_id)
        start, ticks = self._window(stored, start, ticks)
        first, end = start // TICKS_PER_GROUP, group_count(start + ticks)
        packed_ghw = self._groups(stored, layout, first, end)
        if start % TICKS_PER_GROUP or (ticks % TICKS_PER_GROUP and start + ticks < stored.ticks):
            packed_ghw = slice_ticks(packed_ghw, start % TICKS_PER_GROUP, ticks)
        return SpikeStream(packed_ghw, ticks, stored.tick_rate_hz)

    def read_planes(
        self, clip_id: str, start: int = 0, ticks: int | None = None
    ) -> NDArray[np.uint8]:
        """Read spike planes, uint8 0/1 (T, H, W); the same as ``read(...).unpack()``, faster.

        Raises:
            StoreError: there is no such clip, it is damaged, or the window lies outside it.
        """
        stored, layout = self._open(clip_id)
        start, ticks = self._window(stored, start, ticks)
        first, end = start // TICKS_PER_GROUP, group_count(start + ticks)
        packed_ghw = self._groups(stored, layout, first, end)
        planes_tp = bits.unpack_window(
            packed_ghw.reshape(len(packed_ghw), -1), start % TICKS_PER_GROUP, ticks
        )
        return planes_tp.reshape(ticks, stored.height_px, stored.width_px)

    def blocks(self, clip_id: str, ticks: int = 1024) -> Iterator[NDArray[np.uint8]]:
        """Read a clip in blocks of ``ticks`` ticks, in bounded memory.

        Args:
            clip_id: which clip.
            ticks: length of a block, a multiple of eight; the last may be shorter.

        Yields:
            packed_ghw: uint8 (G, H, W).

        Raises:
            ValueError: ``ticks`` is not a positive multiple of eight.
            StoreError: there is no such clip, or it is damaged.
        """
        if ticks <= 0 or ticks % TICKS_PER_GROUP:
            raise ValueError(f"ticks must be a positive multiple of 8, got {ticks}")
        stored, layout = self._open(clip_id)
        step = ticks // TICKS_PER_GROUP
        for first in range(0, layout.groups, step):
            yield self._groups(stored, layout, first, min(first + step, layout.groups))

    def verify(self, clip_id: str) -> None:
        """Read all of a clip and compare it with what was noted when it was written.

        Raises:
            StoreError: the clip is damaged, or its bits or their count differ.
        """
        stored, layout = self._open(clip_id)
        try:
            verify_bits(self.path / CLIPS / clip_id, stored, layout)
        except RuleBrokenError as error:
            raise error.at(self.path, clip_id) from error

    def _open(self, clip_id: str) -> tuple[StoredClip, ArrayLayout]:
        if clip_id not in self.clips:
            raise StoreError(f"{self.path}: no clip {clip_id!r}; it holds {len(self.clips)} clips")
        try:
            return read_clip_metadata(self.path / CLIPS / clip_id)
        except RuleBrokenError as error:
            raise error.at(self.path, clip_id) from error

    def _window(self, stored: StoredClip, start: int, ticks: int | None) -> tuple[int, int]:
        ticks = stored.ticks - start if ticks is None else ticks
        if start < 0 or ticks < 1 or start + ticks > stored.ticks:
            raise StoreError(
                f"{self.path}: clip {stored.clip.id}: ticks {start} to {start + ticks} are not "
                f"inside its {stored.ticks} ticks"
            )
        return start, ticks

    def _groups(
        self, stored: StoredClip, layout: ArrayLayout, first: int, end: int
    ) -> NDArray[np.uint8]:
        clip_id = stored.clip.id
        try:
            packed_ghw = read_groups(self.path / CLIPS / clip_id, layout, first, end)
            if end == layout.groups:
                check_past_end(packed_ghw, stored.ticks)
        except RuleBrokenError as error:
            raise error.at(self.path, clip_id) from error
        return packed_ghw


def open_store(path: Path | str) -> SpikeStore:
    """Open the store at ``path`` for reading.

    Raises:
        StoreError: not a store, of a newer version, or malformed.
    """
    return SpikeStore(path)


def read_groups(folder: Path, layout: ArrayLayout, first: int, end: int) -> NDArray[np.uint8]:
    """Decode groups ``first`` to ``end`` of the clip in ``folder``: uint8 (end - first, H, W).

    Raises:
        RuleBrokenError: a shard or chunk is missing or damaged.
    """
    shards = range(first // layout.shard_groups, -(-end // layout.shard_groups))
    with ExitStack() as stack:
        # Opening checks the index, before memory is taken for what may not be there.
        readers = [stack.enter_context(ShardReader(folder, layout, shard)) for shard in shards]
        packed_gp = np.empty((end - first, layout.height_px * layout.width_px), np.uint8)
        for shard, reader in zip(shards, readers, strict=True):
            base = shard * layout.shard_groups
            low = max(0, first - base)
            high = min(layout.shard_groups, end - base)
            _fill(packed_gp[base + low - first :], reader, layout, low, high)
    return packed_gp.reshape(-1, layout.height_px, layout.width_px)


def _fill(
    out_gp: NDArray[np.uint8], reader: ShardReader, layout: ArrayLayout, low: int, high: int
) -> None:
    """Decode a shard's groups ``low`` to ``high`` into the first rows of ``out_gp``."""
    size, band = layout.chunk_groups, layout.chunk_rows * layout.width_px
    chunk_gp = np.empty((size, band), np.uint8)
    for step in range(low // size, -(-high // size)):
        g0, g1 = max(low, step * size), min(high, (step + 1) * size)
        for row in range(layout.bands):
            chunk_pg = reader.chunk_pg(step * layout.bands + row)
            target_gp = out_gp[g0 - low : g1 - low, row * band : (row + 1) * band]
            if g1 - g0 == size and layout.chunk_rows == layout.height_px:  # nothing to cut off
                bits.to_time_first(chunk_pg, target_gp)
            else:
                bits.to_time_first(chunk_pg, chunk_gp)
                begin = g0 - step * size
                target_gp[:] = chunk_gp[begin : begin + g1 - g0, : target_gp.shape[1]]


def verify_bits(folder: Path, stored: StoredClip, layout: ArrayLayout) -> None:
    """Read every bit of the clip in ``folder`` and compare with what ``stored`` says.

    Raises:
        RuleBrokenError: damaged, bits past the last tick, or another digest or count.
    """
    hasher, spikes = BitsHasher(), 0
    packed_ghw = np.empty((0,), np.uint8)
    step = layout.chunk_groups
    for first in range(0, layout.groups, step):
        packed_ghw = read_groups(folder, layout, first, min(first + step, layout.groups))
        hasher.update(packed_ghw)
        spikes += bits.count_ones(packed_ghw)
    check_past_end(packed_ghw, stored.ticks)
    if hasher.hexdigest() != stored.bits_sha256:
        raise RuleBrokenError(
            "bits_differ",
            f"its bits have SHA-256 {hasher.hexdigest()}, noted was {stored.bits_sha256}",
        )
    if spikes != stored.spikes:
        raise RuleBrokenError("spikes_differ", f"holds {spikes} spikes, noted were {stored.spikes}")


def catalog_lines(store: Path) -> dict[str, bytes]:
    """Catalogue line of every clip that is there, from the catalogue or else from the clip.

    The catalogue is a copy: one that is absent, damaged or of another time is made good here.

    Raises:
        RuleBrokenError: an id is not safe, or a clip that the catalogue lacks is malformed.
    """
    present = clip_ids(store)
    try:
        lines = read_catalog(store)
    except RuleBrokenError:
        lines = {}
    if lines.keys() != present:
        lines = {key: line for key, line in lines.items() if key in present}
        for clip_id in present - lines.keys():
            try:
                lines[clip_id] = read_clip_metadata(store / CLIPS / clip_id)[0].catalog_line()
            except RuleBrokenError as error:
                raise RuleBrokenError(error.code, f"clip {clip_id}: {error.message}") from error
    return lines


def clip_ids(store: Path) -> set[str]:
    """Names of the clip folders.

    Raises:
        RuleBrokenError: there is no folder of clips, or a name is not a safe id.
    """
    try:
        with os.scandir(store / CLIPS) as entries:
            return {check_id(entry.name) for entry in entries if entry.is_dir()}
    except FileNotFoundError as error:
        raise RuleBrokenError("clips_missing", f"has no folder {CLIPS!r}") from error
    except OSError as error:
        raise StoreError(f"{store / CLIPS}: cannot be read: {error.strerror}") from error


def read_catalog(store: Path) -> dict[str, bytes]:
    """Lines of the catalogue file by clip id; none if there is no such file.

    Raises:
        RuleBrokenError: a line is not JSON or has no id.
    """
    try:
        text = (store / CATALOG).read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"{store / CATALOG}: cannot be read: {error.strerror}") from error
    lines: dict[str, bytes] = {}
    for line in text.split(b"\n"):
        if line:
            if len(line) > MAX_METADATA_BYTES:
                raise RuleBrokenError("size_limit", f"a line of {CATALOG} is too long")
            lines[_id_of(line)] = line
    return lines


def _id_of(line: bytes) -> str:
    """The id, without parsing the whole line where it stands first as it should."""
    if line.startswith(_ID_FIRST):
        text = line[len(_ID_FIRST) : line.find(b'"', len(_ID_FIRST))]
        if b"\\" not in text and text.isascii():  # nothing is escaped: it stands as it is
            return text.decode()
    clip_id = parse_json(line, "catalog_malformed", f"a line of {CATALOG}").get("id")
    if not isinstance(clip_id, str):
        raise RuleBrokenError("catalog_malformed", f"a line of {CATALOG} has no id")
    return clip_id


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
