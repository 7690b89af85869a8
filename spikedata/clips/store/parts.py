"""Clips that other processes write into a store whose lock one holds, on this machine or others.

The one that holds the lock lends the store (:class:`LentStore`); a worker writes clips below
``.partial/parts-<run>/<writer>/`` and renames each, whole, into its place. Of two that wrote the
same clip the second drops its own. What a worker has put into place it notes in
``.partial/parts-<run>/<writer>.jsonl``, a catalogue of its own, so that a run whose holder of the
lock was killed is listed again without asking each clip. When the store is taken back the folder
goes first, all at once: a worker that is late then finds no place to write to. In object storage,
where nothing is renamed, it looks before its last file if the store is lent still.
"""

import contextlib
import functools
import itertools
import os
import platform
import shutil
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from spikedata.clip import Clip
from spikedata.clips.crew import Crew
from spikedata.clips.rules import RuleBrokenError
from spikedata.clips.source import ClipSource
from spikedata.clips.store.catalog import clip_ids, read_catalog
from spikedata.clips.store.clip_writer import ClipWriter, Place, check_fits
from spikedata.clips.store.layout import (
    CLIPS,
    METADATA,
    PARTIAL,
    RootInfo,
    StoreConfig,
    read_clip_metadata,
)
from spikedata.clips.stored import StoredClip
from spikedata.errors import StoreError
from spikedata.outputs import remove
from spikedata.remote import RemotePath

_PARTS = "parts-"
_ENDED = "ended-"
_OPEN = "open"
"""In object storage, where no folder can be renamed: there as long as the store is lent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LentStore:
    """A store that others may write clips into, until it is taken back; plain, to be pickled."""

    path: Path
    """Of the store, absolute: the same on every machine."""
    run: str
    """Tells this lending from others."""
    class_names: tuple[str, ...]
    options: StoreConfig
    """How arrays are cut and compressed."""

    @classmethod
    def of(cls, path: Path, class_names: tuple[str, ...], options: StoreConfig) -> Self:
        """Lend the store at ``path``, whose lock the caller holds."""
        run = uuid.uuid4().hex
        lent = cls(path=path.absolute(), run=run, class_names=class_names, options=options)
        lent.folder.mkdir()
        if isinstance(path, RemotePath):
            (lent.folder / _OPEN).write_bytes(b"")
        return lent

    @property
    def folder(self) -> Path:
        """Where clips are written; gone when the store is taken back."""
        return self.path / PARTIAL / f"{_PARTS}{self.run}"

    def take_back(self, known: Collection[str]) -> dict[str, bytes]:
        """Let nobody write any more; catalogue lines of clips that are there and not ``known``."""
        noted = _taken_back(self.folder)
        if noted is None:  # another store lies there by now, as whoever has the lock will find
            return {}
        lines: dict[str, bytes] = {}
        for clip_id in clip_ids(self.path) - set(known):
            with contextlib.suppress(RuleBrokenError):  # damaged, and told so when it is read
                lines[clip_id] = noted.get(clip_id) or _stored(self.path, clip_id).catalog_line()
        return lines


def lines_of_killed(store: Path, root: RootInfo) -> dict[str, bytes]:
    """What the catalogue is to say where the holder of the lock was killed; else nothing.

    Its workers may live on: from now on they find no place to write to.

    Raises:
        RuleBrokenError: the store has no folder of clips.
        OSError: what they left cannot be moved.
    """
    noted: dict[str, bytes] = {}
    for folder in (store / PARTIAL).glob(f"{_PARTS}*"):
        noted |= _taken_back(folder) or {}
    if not noted or root.catalog_sha256 is not None:
        return {}
    there = clip_ids(store)
    try:
        listed = read_catalog(store)
    except RuleBrokenError:  # nothing of it counts, and whoever lists the clips tells so
        return {}
    return listed | {clip_id: line for clip_id, line in noted.items() if clip_id in there}


def _taken_back(folder: Path) -> dict[str, bytes] | None:
    """Remove a folder that workers write to, at once for all of them; the lines that they noted.

    None if it is not there.
    """
    ended = folder.with_name(folder.name.replace(_PARTS, _ENDED))
    if isinstance(folder, RemotePath):
        (folder / _OPEN).unlink()
        ended = folder
    else:
        try:
            folder.rename(ended)
        except FileNotFoundError:
            return None
    lines: dict[str, bytes] = {}
    for file in ended.glob("*.jsonl"):
        for line in file.read_bytes().split(b"\n"):
            with contextlib.suppress(RuleBrokenError):  # cut off when its writer was killed
                lines[StoredClip.from_catalog_line(line).id] = line
    remove(ended)
    return lines


def _stored(store: Path, clip_id: str) -> StoredClip:
    return read_clip_metadata(store / CLIPS / clip_id)[0]


@functools.lru_cache(maxsize=2)
def part_writer(lent: LentStore) -> "PartWriter":
    """The writer of this process into a store that was lent."""
    return _FarPartWriter(lent) if isinstance(lent.path, RemotePath) else PartWriter(lent)


class PartWriter:
    """Adds clips to a store that was lent to this process.

    Raises:
        StoreError: the store cannot be seen from here.
    """

    def __init__(self, lent: LentStore) -> None:
        self.path = lent.path
        self._lent = lent
        if not lent.folder.is_dir():
            raise StoreError(
                f"{lent.path}: node {platform.node()} does not see it. All nodes must share the "
                "file system that the store is on"
            )
        self._folder = lent.folder / f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._folder.mkdir()
        self._noted = self._folder.with_name(self._folder.name + ".jsonl")
        self._numbers = itertools.count()

    def stored(self, clip_id: str) -> StoredClip | None:
        """What is stored of a clip that is there, whole.

        Raises:
            StoreError: it is there and cannot be read.
        """
        if not (self.path / CLIPS / clip_id / METADATA).is_file():
            return None
        try:
            return _stored(self.path, clip_id)
        except RuleBrokenError as error:
            raise error.at(self.path, clip_id) from error

    def clip(
        self,
        clip: Clip,
        *,
        height_px: int,
        width_px: int,
        tick_rate_hz: float,
        crew: Crew | None = None,
    ) -> ClipWriter:
        """Begin a clip; use the result in a ``with`` statement, as for ``StoreWriter.clip``.

        Raises:
            StoreError: the label is not among the class names.
            ValueError: a size is out of range.
            OSError: the store was taken back or replaced.
        """
        check_fits(
            clip,
            self._lent.class_names,
            height_px=height_px,
            width_px=width_px,
            tick_rate_hz=tick_rate_hz,
        )
        size_px = height_px, width_px
        return ClipWriter(self._place(clip.id), clip, size_px, float(tick_rate_hz), crew)

    def copy(self, source: ClipSource, stored: StoredClip, crew: Crew | None = None) -> StoredClip:
        """Add one clip of another set, as ``StoreWriter.copy`` does, unless it is there.

        Raises:
            StoreError: the clip is damaged, or cannot be added.
            ValueError: it does not fit the store's format.
        """
        return self.stored(stored.id) or copy_clip(self.clip, source, stored, crew)

    def check_in_place(self) -> None:
        """Refuse to go on once the store was taken back, or another lies in its place.

        Raises:
            StoreError: it is so.
        """
        if not self._is_lent():
            raise StoreError(f"{self.path}: was replaced, removed or taken back meanwhile")

    def _is_lent(self) -> bool:
        return self._folder.is_dir()

    def _place(self, _clip_id: str) -> Place:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        return Place(
            folder=folder,
            options=self._lent.options,
            check=self.check_in_place,
            publish=functools.partial(self._publish, folder),
            give_up=functools.partial(shutil.rmtree, folder, ignore_errors=True),
        )

    def _publish(self, folder: Path, stored: StoredClip) -> None:
        line = stored.catalog_line()
        target = self.path / CLIPS / stored.id
        try:
            folder.rename(target)
        except OSError:
            if not (target / METADATA).exists():
                raise
            # Somebody else was given the same clip, and was faster: of the same bytes.
            shutil.rmtree(folder, ignore_errors=True)
            return
        with self._noted.open("ab") as file:
            file.write(line + b"\n")


class _FarPartWriter(PartWriter):
    """Adds clips to a store of object storage: each in its place, its metadata last.

    What is half there is left to the next writer of the store: another worker may be making it.
    """

    def _is_lent(self) -> bool:
        return (self._lent.folder / _OPEN).is_file()

    def _place(self, clip_id: str) -> Place:
        return Place(
            folder=self.path / CLIPS / clip_id,
            options=self._lent.options,
            check=self.check_in_place,
            publish=self._note,
            give_up=lambda: None,
        )

    def _note(self, stored: StoredClip) -> None:
        name = f"{self._folder.name}-{next(self._numbers)}.jsonl"  # nothing can be added to a file
        (self._lent.folder / name).write_bytes(stored.catalog_line())


def copy_clip(
    begin: Callable[..., ClipWriter], source: ClipSource, stored: StoredClip, crew: Crew | None
) -> StoredClip:
    """Write one clip of another set with what ``begin`` gives, its digest checked on the way.

    Raises:
        StoreError: the clip is damaged, or cannot be added.
        ValueError: it does not fit the store's format.
    """
    size: Mapping[str, Any] = {"height_px": stored.height_px, "width_px": stored.width_px}
    with begin(stored.clip, **size, tick_rate_hz=stored.tick_rate_hz, crew=crew) as target:
        for block_ghw in source.checked_blocks(stored):
            target.append(block_ghw)
        return target.finish(ticks=stored.ticks, attributes=stored.attributes)
