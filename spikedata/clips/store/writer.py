"""Append clips to a store: streamed, several at once, and whole or not at all.

Clips and files are written under ``.partial/``, brought to the disk, and renamed into place. What a
crash or power loss leaves behind lies under ``.partial/`` and goes when the next writer opens.
"""

import hashlib
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zstandard
from filelock import FileLock
from numpy.typing import NDArray

from spikedata import bits
from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.clip import Clip
from spikedata.clips.rules import (
    MAX_SIDE_PX,
    RuleBrokenError,
    check_label,
    compact_json,
    parse_json,
    pretty_json,
)
from spikedata.clips.source import ClipSource
from spikedata.clips.store.catalog import list_clips
from spikedata.clips.store.layout import (
    CATALOG,
    CLIPS,
    LOCK,
    METADATA,
    PARTIAL,
    VERSION,
    ArrayLayout,
    RootInfo,
    StoreConfig,
)
from spikedata.clips.store.shard import ShardWriter
from spikedata.clips.stored import SHARDS_DIGEST, BitsMeter, StoredClip
from spikedata.errors import StoreError
from spikedata.outputs import Failure, HeldFolder, acquire, release, sync, write_whole


def create_store(
    path: Path | str,
    *,
    recipe: Mapping[str, Any],
    class_names: Sequence[str],
    name: str = "",
    options: StoreConfig | None = None,
    resume: bool = False,
) -> "StoreWriter":
    """Begin a store, or with ``resume`` continue one.

    Args:
        path: folder to make; its parent is made too.
        recipe: what decides the bits, plain JSON values.
        class_names: all labels, in order; a label's place is its number.
        name: name of the data set.
        options: how arrays are cut and compressed.
        resume: continue the store at ``path`` if there is one.

    Raises:
        StoreError: something else is at ``path``, or a store without ``resume``, or one made with
            another recipe; or another process is writing it.
        ValueError: a class name appears twice.
        TypeError: the recipe has a value that is not JSON.
    """
    path = Path(path)
    options = options or StoreConfig()
    if len(set(class_names)) != len(class_names):
        raise ValueError("class_names holds a name twice")
    config = {"chunk_ticks": options.chunk_ticks, "zstd_level": options.zstd_level}
    wanted = RootInfo(
        version=VERSION,
        name=name,
        class_names=tuple(class_names),
        recipe=_as_json(dict(recipe)),
        config=config,
    )

    def begin() -> RootInfo:
        _refuse_other_things(path)
        path.mkdir(exist_ok=True)
        if (path / METADATA).exists():
            return _continued(path, wanted, resume=resume)
        _clear_partial(path)
        _write_group(path / CLIPS, path)
        _write_root(path, wanted)
        return wanted

    path.parent.mkdir(parents=True, exist_ok=True)
    return _begun(path, begin, options)


def change_store(path: Path | str) -> "StoreWriter":
    """Open a store that is there to take clips out, make them again, or write its catalogue anew.

    Raises:
        StoreError: there is no store, it is malformed, or another process is writing it.
    """
    path = Path(path)
    config = _root_of(path).config
    try:
        options = StoreConfig(**config)
    except (TypeError, ValueError):  # it only informs, and clips say themselves how they are cut
        options = StoreConfig()
    return _begun(path, lambda: _root_of(path), options)


def _root_of(path: Path) -> RootInfo:
    try:
        return RootInfo.read(path)
    except RuleBrokenError as error:
        raise error.at(path) from error


def _begun(path: Path, begin: Callable[[], RootInfo], options: StoreConfig) -> "StoreWriter":
    """A writer that has the lock, of the store that ``begin`` finds or makes."""
    lock = acquire(path)
    try:
        root = begin()
        _clear_partial(path)
        return StoreWriter(path, root, options, lock)
    except RuleBrokenError as error:
        release(lock)
        raise error.at(path) from error
    except BaseException:
        release(lock)
        raise


class StoreWriter:
    """Adds clips to a store; a context manager. Clips may be written from several threads."""

    def __init__(self, path: Path, root: RootInfo, options: StoreConfig, lock: FileLock) -> None:
        self.path = path
        self._root = root
        self._options = options
        self._class_names = frozenset(root.class_names)
        listing = list_clips(path, root)
        self.lost = listing.left_out
        """Clips that were there once, or are there and cannot be read."""
        self._lines, self._gone = listing.lines, listing.gone
        self._taken = {clip_id.casefold(): clip_id for clip_id in self._lines}
        self._numbers = itertools.count()
        self._mutex = threading.Lock()
        self._lock: FileLock | None = lock
        self._folder = HeldFolder(path)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except (OSError, StoreError):  # must not hide what went wrong first
            if error is None:
                raise

    @property
    def root(self) -> RootInfo:
        """What the store says of itself."""
        return self._root

    @property
    def ids(self) -> list[str]:
        """Ids of the clips that are there."""
        return sorted(self._lines)

    def noted(self, clip_id: str) -> StoredClip | None:
        """What the catalogue says of a clip, be it damaged or gone; None if it says nothing."""
        line = self._lines.get(clip_id) or self._gone.get(clip_id)
        return None if line is None else StoredClip.from_catalog_line(line)

    @property
    def lines(self) -> Mapping[str, bytes]:
        """Catalogue line of every clip that is there, by id."""
        return self._lines

    def begin_relabel(self, clip_ids: Collection[str], class_names: Sequence[str]) -> None:
        """Make ready for other facts of clips that are there, with other class names.

        From now on the catalogue on disk says nothing of them, so that who looks asks the clips
        themselves; it does again, by what :meth:`note` was told, when the writer closes.

        Raises:
            StoreError: the store was replaced meanwhile.
            OSError: the disk is full, or the like.
        """
        self.name_classes(class_names)
        self.check_in_place()
        _write_root(self.path, replace(self._root, clips=None, catalog_sha256=None))
        with self._mutex:
            self._root = replace(self._root, clips=None, catalog_sha256=None)
            rest = {key: line for key, line in self._listed().items() if key not in clip_ids}
        write_whole(self.path / CATALOG, _catalog(rest), within=self.path / PARTIAL)

    def name_classes(self, class_names: Sequence[str]) -> None:
        """Change the class names that the root will have, when it is written next."""
        with self._mutex:
            self._root = replace(self._root, class_names=tuple(class_names))
            self._class_names = frozenset(class_names)

    def note(self, stored: StoredClip) -> None:
        """Have the catalogue say of a clip that is there what the clip itself says."""
        with self._mutex:
            self._lines[stored.id] = stored.catalog_line()

    def has(self, clip_id: str) -> bool:
        """Whether the clip is there, whole."""
        return clip_id in self._lines

    def stored(self, clip_id: str) -> StoredClip | None:
        """What is stored of a clip that is there, whole."""
        line = self._lines.get(clip_id)
        return None if line is None else StoredClip.from_catalog_line(line)

    def clip(
        self,
        clip: Clip,
        *,
        height_px: int,
        width_px: int,
        tick_rate_hz: float,
        threads: int = 1,
    ) -> "ClipWriter":
        """Begin a clip; use the result in a ``with`` statement.

        Leaving the statement before :meth:`ClipWriter.finish` was called removes what was written.
        ``threads`` threads compress the bands of a large picture; the bytes are the same.

        Raises:
            StoreError: the store has that clip, whole or damaged, or one whose id differs only in
                case; or the label is not among the class names; or the store was replaced
                meanwhile.
            ValueError: a size is out of range.
        """
        check_label(clip, self._class_names)
        if not (1 <= height_px <= MAX_SIDE_PX and 1 <= width_px <= MAX_SIDE_PX):
            raise ValueError(f"size {height_px}x{width_px} is not within 1 to {MAX_SIDE_PX}")
        if not tick_rate_hz > 0:
            raise ValueError(f"tick_rate_hz must be positive, got {tick_rate_hz}")
        self._begin_change()
        with self._mutex:
            if self._lock is None:
                raise ValueError("the writer is closed")
            other = self._taken.get(clip.id.casefold())
            if other is not None:
                raise StoreError(f"{self.path}: clip {clip.id} cannot be added beside {other}")
            if (self.path / CLIPS / clip.id).exists():
                raise StoreError(
                    f"{self.path}: clip {clip.id} is there and cannot be read. Run `spikedata "
                    "repair` with the videos"
                )
            self._taken[clip.id.casefold()] = clip.id
            folder = self.path / PARTIAL / str(next(self._numbers))
        folder.mkdir()
        size_px = (height_px, width_px)
        return ClipWriter(self, clip, folder, size_px, float(tick_rate_hz), threads)

    def copy(self, source: ClipSource, stored: StoredClip) -> StoredClip:
        """Add one clip of another set, its digest checked before it is there.

        Raises:
            StoreError: the clip is damaged, or cannot be added.
            ValueError: it does not fit the store's format.
        """
        with self.clip(
            stored.clip,
            height_px=stored.height_px,
            width_px=stored.width_px,
            tick_rate_hz=stored.tick_rate_hz,
        ) as target:
            for block_ghw in source.checked_blocks(stored):
                target.append(block_ghw)
            return target.finish(ticks=stored.ticks, attributes=stored.attributes)

    def check_in_place(self) -> None:
        """Refuse to go on in a folder that somebody put in the place of this one.

        Raises:
            StoreError: the store was replaced or removed since the writer began.
        """
        if not self._folder.is_in_place():
            raise StoreError(
                f"{self.path}: was replaced or removed while it was being written; what is there "
                "now was left as it is. Run the same command again, with another --out"
            )

    def discard_all(self, lost: Iterable[Failure]) -> list[str]:
        """Discard damaged and lost clips by name; gives their ids.

        Raises:
            StoreError: the store was replaced meanwhile.
            OSError: a folder cannot be moved.
        """
        named = [failure.id for failure in lost if failure.path != str(self.path / CLIPS)]
        for clip_id in named:
            self.discard(clip_id)
        return named

    def discard(self, clip_id: str) -> None:
        """Take a clip that is damaged or gone out of the store, to make it again or to give it up.

        Raises:
            StoreError: the store was replaced meanwhile.
            OSError: its folder cannot be moved.
        """
        self._begin_change()
        there = self.path / CLIPS / clip_id
        if there.exists():
            there.rename(self.path / PARTIAL / f"{next(self._numbers)}.discarded")
        with self._mutex:
            self._taken.pop(clip_id.casefold(), None)
            self._lines.pop(clip_id, None)
            self._gone.pop(clip_id, None)

    def close(self) -> None:
        """Write the catalogue and let other writers in. Closing twice does nothing.

        Raises:
            StoreError: the store was replaced or removed meanwhile; nothing is written.
            OSError: the disk is full, or the like.
        """
        with self._mutex:
            lock, self._lock = self._lock, None
        if lock is None:
            return
        try:
            self.check_in_place()
            _clear_partial(self.path)  # first: it may make the room that the catalogue needs
            _write_catalog(self.path, self._root, self._listed())
            (self.path / PARTIAL).rmdir()
            sync(self.path / CLIPS)
            sync(self.path)
        finally:
            self._folder.let_go()
            release(lock)

    def _listed(self) -> dict[str, bytes]:
        """What is gone stays listed until it is made again or given up: else nobody would know."""
        return self._gone | self._lines

    def _begin_change(self) -> None:
        """See that the root says nothing of the set of clips until the catalogue does again."""
        self.check_in_place()
        with self._mutex:
            if self._root.catalog_sha256 is not None and self._lock is not None:
                self._root = replace(self._root, clips=None, catalog_sha256=None)
                _write_root(self.path, self._root)

    def _publish(self, folder: Path, stored: StoredClip) -> None:
        line = stored.catalog_line()
        self.check_in_place()
        folder.rename(self.path / CLIPS / stored.clip.id)
        with self._mutex:
            self._lines[stored.clip.id] = line

    def _give_up(self, clip: Clip, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with self._mutex:
            self._taken.pop(clip.id.casefold(), None)


class ClipWriter:
    """One clip that is being written; a context manager, used by one thread at a time.

    Shapes: G groups of eight ticks, P pixels.
    """

    def __init__(
        self,
        writer: StoreWriter,
        clip: Clip,
        folder: Path,
        size_px: tuple[int, int],
        tick_rate_hz: float,
        threads: int,
    ) -> None:
        self._writer = writer
        self._clip = clip
        self._folder = folder
        self._size_px = size_px
        self._tick_rate_hz = tick_rate_hz
        self._layout = ArrayLayout.plan(*size_px, 1, writer._options)
        self._meter = BitsMeter()
        self._groups = 0
        self._last_p: NDArray[np.uint8] | None = None
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="compress")
        pixels = size_px[0] * size_px[1]
        padded = self._layout.bands * self._layout.chunk_rows * size_px[1]
        self._waiting_gp = np.empty((self._layout.chunk_groups, pixels), np.uint8)
        self._waiting = 0
        self._chunk_pg = np.zeros((padded, self._layout.chunk_groups), np.uint8)
        self._bands = np.split(self._chunk_pg, self._layout.bands)
        self._shard: ShardWriter | None = None
        self._shards_crc32c: list[int] = []
        self._flushed = False
        self._finished = False

    def __enter__(self) -> "ClipWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown()
        if not self._finished:
            if self._shard is not None:
                self._shard.abandon()
            self._writer._give_up(self._clip, self._folder)

    def append(self, packed_ghw: NDArray[np.uint8]) -> None:
        """Add whole groups of ticks; only the clip's very last group may be part used.

        Args:
            packed_ghw: uint8 (G, H, W), any G.

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
        self._meter.update(packed_gp)
        self._groups += len(packed_gp)
        self._last_p = packed_gp[-1].copy()
        self._buffer(packed_gp)

    def flush(self) -> None:
        """Compress the last chunk, so that :meth:`finish` has only the disk to wait for.

        Nothing can be appended after that.
        """
        if self._waiting:
            self._waiting_gp[self._waiting :] = 0
            self._write_chunks(self._waiting_gp)
            self._waiting = 0
        self._flushed = True

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
        stored = StoredClip(
            clip=self._clip,
            ticks=ticks,
            height_px=self._size_px[0],
            width_px=self._size_px[1],
            tick_rate_hz=self._tick_rate_hz,
            bits_sha256=self._meter.hexdigest(),
            spikes=self._meter.spikes,
            attributes=_as_json(dict(attributes)),
        )
        layout = ArrayLayout.plan(*self._size_px, self._groups, self._writer._options)
        self.flush()
        if self._shard is not None:
            self._close_shard()
        attributes = stored.array_attributes() | {SHARDS_DIGEST: self._shards_crc32c}
        meta = layout.metadata(attributes, self._writer._options.zstd_level)
        (self._folder / METADATA).write_bytes(pretty_json(meta))
        sync(self._folder / METADATA)
        sync(self._folder)
        self._writer._publish(self._folder, stored)
        self._finished = True
        return stored

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
                self._write_chunks(packed_gp[at : at + size])
                at += size
                continue
            taken = min(size - self._waiting, len(packed_gp) - at)
            self._waiting_gp[self._waiting : self._waiting + taken] = packed_gp[at : at + taken]
            self._waiting += taken
            at += taken
            if self._waiting == size:
                self._write_chunks(self._waiting_gp)
                self._waiting = 0

    def _write_chunks(self, packed_gp: NDArray[np.uint8]) -> None:
        """Write one chunk's ticks, band by band."""
        bits.to_time_last(packed_gp, self._chunk_pg[: packed_gp.shape[1]])
        if self._shard is None:
            path = self._folder / self._layout.shard_key(len(self._shards_crc32c))
            self._shard = ShardWriter(path, self._layout)
        # A lone band gains nothing from another thread.
        run = self._pool.map if len(self._bands) > 1 else map
        for coded in run(self._compress, self._bands):
            self._shard.append(coded)
        if self._shard.is_full:
            self._close_shard()

    def _compress(self, band_pg: NDArray[np.uint8]) -> bytes:
        return _compressor(self._writer._options.zstd_level).compress(band_pg.data)

    def _close_shard(self) -> None:
        assert self._shard is not None
        self._shards_crc32c.append(self._shard.close())
        self._shard = None


_OF_THREAD = threading.local()


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """This thread's compressor: it serves one thread at a time, and its tables are large."""
    if getattr(_OF_THREAD, "level", None) != level:
        _OF_THREAD.level = level
        _OF_THREAD.compressor = zstandard.ZstdCompressor(level=level)
    compressor: zstandard.ZstdCompressor = _OF_THREAD.compressor
    return compressor


def _refuse_other_things(path: Path) -> None:
    """Refuse what is at ``path`` unless it is a store, an empty folder, or nothing."""
    if not path.exists():
        return
    if not path.is_dir():
        raise StoreError(f"{path}: is a file, not a store. Choose another --out")
    leftovers = {LOCK, PARTIAL, CLIPS}  # of a writer killed at once
    if not (path / METADATA).exists() and not leftovers.issuperset(os.listdir(path)):
        raise StoreError(f"{path}: is a folder but not a spike store. Choose another --out")


def _catalog(lines: Mapping[str, bytes]) -> bytes:
    return b"".join(lines[clip_id] + b"\n" for clip_id in sorted(lines))


def _write_catalog(path: Path, root: RootInfo, lines: Mapping[str, bytes]) -> None:
    """Write the catalogue, and then a root that knows it.

    Between the two the root knows of none, as while clips are added.
    """
    data = _catalog(lines)
    known = replace(
        root, version=VERSION, clips=len(lines), catalog_sha256=hashlib.sha256(data).hexdigest()
    )
    if root == known and (path / CATALOG).exists() and (path / CATALOG).read_bytes() == data:
        return
    if root.catalog_sha256 is not None:
        _write_root(path, replace(root, clips=None, catalog_sha256=None))
    write_whole(path / CATALOG, data, within=path / PARTIAL)
    _write_root(path, known)


def _continued(path: Path, wanted: RootInfo, *, resume: bool) -> RootInfo:
    """The root of the store that is there, if it may be continued."""
    there = RootInfo.read(path)
    if not resume:
        raise StoreError(f"{path}: exists. Give --overwrite to replace it or choose another --out")
    asked = {"recipe": wanted.recipe, "class_names": list(wanted.class_names)}
    found = {"recipe": there.recipe, "class_names": list(there.class_names)}
    for key, old, new in _differences(found, asked):
        shown = key.removeprefix("recipe.")
        raise StoreError(
            f"{path}: was made with {shown} = {_shown(old)}, now asked for {_shown(new)}. "
            "Use the same settings, or another --out"
        )
    for key, old, new in _differences(there.config, wanted.config):
        raise StoreError(f"{path}: was written with {key} = {_shown(old)}, not {_shown(new)}")
    return there


_NOTHING = object()


def _differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted key and both values, wherever two JSON values differ."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [(key, old, new)]
    found = []
    for name in [*old, *(name for name in new if name not in old)]:
        inner = f"{key}.{name}" if key else name
        found += _differences(old.get(name, _NOTHING), new.get(name, _NOTHING), inner)
    return found


def _shown(value: Any) -> str:
    text = "nothing" if value is _NOTHING else repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """As they will be read back: tuples become lists; what is not JSON is refused here."""
    return parse_json(compact_json(values), "metadata_malformed", "values")


def _write_root(path: Path, root: RootInfo) -> None:
    write_whole(path / METADATA, pretty_json(root.metadata()), within=path / PARTIAL)
    sync(path)


def _write_group(folder: Path, store: Path) -> None:
    folder.mkdir(exist_ok=True)
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    write_whole(folder / METADATA, pretty_json(group), within=store / PARTIAL)


def _clear_partial(path: Path) -> None:
    """An empty folder for what is not yet whole."""
    if (path / PARTIAL).exists():
        shutil.rmtree(path / PARTIAL)
    (path / PARTIAL).mkdir()
