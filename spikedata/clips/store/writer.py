"""Append clips to a store: streamed, several at once, and whole or not at all.

Clips and files are written under ``.partial/``, brought to the disk, and renamed into place.
In object storage nothing can be renamed: a clip is there once its metadata is, which comes last.
What a crash or power loss leaves behind goes when the next writer opens.
"""

import contextlib
import functools
import hashlib
import itertools
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from spikedata.clip import Clip
from spikedata.clips.crew import Crew
from spikedata.clips.rules import (
    RuleBrokenError,
    as_json,
    check_label,
    pretty_json,
)
from spikedata.clips.source import ClipSource
from spikedata.clips.store.catalog import list_clips
from spikedata.clips.store.clip_writer import ClipWriter, Place, check_fits
from spikedata.clips.store.layout import (
    CATALOG,
    CLIPS,
    LOCK,
    METADATA,
    PARTIAL,
    VERSION,
    RootInfo,
    StoreConfig,
)
from spikedata.clips.store.parts import LentStore, copy_clip, lines_of_killed
from spikedata.clips.store.unfinished import Unfinished, clear_partial, cut_off, note_of
from spikedata.clips.stored import StoredClip
from spikedata.errors import StoreError
from spikedata.locking import Lock
from spikedata.outputs import Failure, HeldFolder, acquire, release, remove, sync, write_whole
from spikedata.remote import RemotePath, place


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
    path = place(path)
    options = options or StoreConfig()
    if len(set(class_names)) != len(class_names):
        raise ValueError("class_names holds a name twice")
    config = {"chunk_ticks": options.chunk_ticks, "zstd_level": options.zstd_level}
    wanted = RootInfo(
        version=VERSION,
        name=name,
        class_names=tuple(class_names),
        recipe=as_json(dict(recipe)),
        config=config,
    )

    def begin() -> RootInfo:
        _refuse_other_things(path)
        path.mkdir(exist_ok=True)
        if (path / METADATA).exists():
            return _continued(path, wanted, resume=resume)
        clear_partial(path)
        _write_group(path / CLIPS, path)
        _write_root(path, wanted)
        return wanted

    path.parent.mkdir(parents=True, exist_ok=True)
    return _begun(path, begin, options)


def change_store(
    path: Path | str, *, options: StoreConfig | None = None, goes_on: bool = False
) -> "StoreWriter":
    """Open a store that is there to take clips out, make them again, or write its catalogue anew.

    Args:
        path: of the store.
        options: how arrays are cut and compressed; default as the store's were.
        goes_on: whether recordings that were cut off are seen to, see :meth:`StoreWriter.cut_off`.

    Raises:
        StoreError: there is no store, it is malformed, or another process is writing it; or it
            holds a recording that was cut off, and nobody sees to it.
    """
    path = place(path)
    config = _root_of(path).config
    try:
        options = options or StoreConfig(**config)
    except (TypeError, ValueError):  # it only informs, and clips say themselves how they are cut
        options = StoreConfig()
    return _begun(path, lambda: _root_of(path), options, goes_on=goes_on)


def _root_of(path: Path) -> RootInfo:
    try:
        return RootInfo.read(path)
    except RuleBrokenError as error:
        raise error.at(path) from error


def _begun(
    path: Path, begin: Callable[[], RootInfo], options: StoreConfig, *, goes_on: bool = False
) -> "StoreWriter":
    """A writer that has the lock, of the store that ``begin`` finds or makes."""
    lock = acquire(path)
    try:
        root = begin()
        if not goes_on:
            _refuse_cut_off(path)
        if noted := lines_of_killed(path, root):
            write_whole(path / CATALOG, _catalog(noted), within=path / PARTIAL)
        clear_partial(path, cut_off(path))
        return StoreWriter(path, root, options, lock)
    except RuleBrokenError as error:
        release(lock)
        raise error.at(path) from error
    except BaseException:
        release(lock)
        raise


_UNLISTED = 500
"""Clips that may be there and not in the catalogue, if the store is small."""


class StoreWriter:
    """Adds clips to a store; a context manager. Clips may be written from several threads."""

    def __init__(self, path: Path, root: RootInfo, options: StoreConfig, lock: Lock) -> None:
        self.path = path
        self._root = root
        self._options = options
        listing = list_clips(path, root, ask_storage=True)
        self.lost = listing.left_out
        """Clips that were there once, or are there and cannot be read."""
        self._lines, self._gone = listing.lines, listing.gone
        self._taken = {clip_id.casefold(): clip_id for clip_id in self._lines}
        left = [int(folder.name) for folder in cut_off(path)]
        self._numbers = itertools.count(max(left, default=-1) + 1 + lock.number)
        self._mutex = threading.Lock()
        self._lock: Lock | None = lock
        self._held = lock
        self._unlisted = 0
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
    def taken(self) -> list[str]:
        """Ids that no further clip can have."""
        there = (path.name for path in (self.path / CLIPS).iterdir() if path.is_dir())
        return [*self._taken.values(), *self._gone, *there]

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
        crew: Crew | None = None,
        live: Mapping[str, Any] | None = None,
    ) -> ClipWriter:
        """Begin a clip; use the result in a ``with`` statement.

        Leaving the statement before :meth:`ClipWriter.finish` was called removes what was written.
        A ``crew`` compresses chunks beside the thread that appends; the bytes are the same. A clip
        that comes ``live``, which is what its attributes would be if it ended at once, is cut into
        shards of a second at most and never removed: :meth:`go_on` takes up what is left of it.

        Raises:
            StoreError: the store has that clip, whole or damaged, or one whose id differs only in
                case; or the label is not among the class names; or the store was replaced
                meanwhile.
            ValueError: a size is out of range.
        """
        check_fits(
            clip,
            self._root.class_names,
            height_px=height_px,
            width_px=width_px,
            tick_rate_hz=tick_rate_hz,
        )
        self._begin_change()
        with self._mutex:
            if self._lock is None:
                raise ValueError("the writer is closed")
            self._take_id(clip.id)
            folder = self._folder_to_write(clip.id)
        folder.mkdir()
        about = Unfinished(
            clip=clip,
            height_px=height_px,
            width_px=width_px,
            tick_rate_hz=float(tick_rate_hz),
            options=self._options,
            attributes=dict(live or {}),
        )
        if live is None:
            return self._clip_writer(folder, about, crew)
        about = replace(about, options=replace(about.options, shard_ticks=int(tick_rate_hz)))
        about.write(folder)
        return self._clip_writer(folder, about, crew, is_live=True)

    def cut_off(self) -> list[Path]:
        """Folders of the recordings that were cut off, in the order in which they began."""
        return cut_off(self.path)

    def go_on(self, folder: Path) -> tuple[ClipWriter, int, Unfinished]:
        """Take up a recording that was cut off; nothing can be appended to what is whole of it.

        Gives its writer, the ticks that are whole, and what was noted of it.

        Raises:
            StoreError: what is noted of it is damaged, or the store has another clip of that id.
            OSError: it cannot be read.
        """
        about = Unfinished.read(folder)
        check_label(about.clip, self._root.class_names)
        self._begin_change()
        with self._mutex:
            self._take_id(about.clip.id)
        target = self._clip_writer(folder, about, None, is_live=True)
        return target, target.go_on(about.ticks), about

    def add_class(self, name: str) -> None:
        """Have the store know a class name, after those that it knows.

        Raises:
            StoreError: the store was replaced meanwhile.
        """
        if name not in self._root.class_names:
            self.check_in_place()
            with self._mutex:
                names = (*self._root.class_names, name)
                self._root = replace(self._root, class_names=names, clips=None, catalog_sha256=None)
                _write_root(self.path, self._root)

    def _folder_to_write(self, clip_id: str) -> Path:
        """Where a clip is written: aside, or in object storage, where its metadata comes last."""
        if isinstance(self.path, RemotePath):
            return self.path / CLIPS / clip_id
        return self.path / PARTIAL / str(next(self._numbers))

    def _clip_writer(
        self, folder: Path, about: Unfinished, crew: Crew | None, *, is_live: bool = False
    ) -> ClipWriter:
        def ending(ticks: int) -> None:
            replace(about, ticks=ticks).write(folder)

        leave = functools.partial(self._leave, about.clip, folder)
        place = Place(
            folder=folder,
            options=about.options,
            check=self.check_in_place,
            publish=functools.partial(self._publish, folder),
            give_up=leave if is_live else functools.partial(self._give_up, about.clip, folder),
            ending=ending if is_live else lambda _: None,
        )
        size_px = about.height_px, about.width_px
        return ClipWriter(place, about.clip, size_px, about.tick_rate_hz, crew)

    def check_free(self, clip_id: str) -> None:
        """Refuse an id that is taken.

        Raises:
            StoreError: the store has that clip, whole or damaged, or one of nearly that id.
        """
        other = self._taken.get(clip_id.casefold())
        if other is not None:
            raise StoreError(f"{self.path}: clip {clip_id} cannot be added beside {other}")
        is_object = isinstance(self.path, RemotePath)  # what is not whole there is not there
        if not is_object and (self.path / CLIPS / clip_id).exists():
            raise StoreError(
                f"{self.path}: clip {clip_id} is there and cannot be read. Run `spikedata "
                "repair` with the videos"
            )

    def _take_id(self, clip_id: str) -> None:
        self.check_free(clip_id)
        self._taken[clip_id.casefold()] = clip_id

    def copy(self, source: ClipSource, stored: StoredClip, crew: Crew | None = None) -> StoredClip:
        """Add one clip of another set, its digest checked before it is there.

        A ``crew`` compresses as for :meth:`clip`.

        Raises:
            StoreError: the clip is damaged, or cannot be added.
            ValueError: it does not fit the store's format.
        """
        return copy_clip(self.clip, source, stored, crew)

    @contextlib.contextmanager
    def lend(self) -> Iterator[LentStore]:
        """Let other processes write clips, whose ids are free, while the ``with`` statement runs.

        What they wrote is in the store then, whatever became of them.

        Raises:
            StoreError: the store was replaced meanwhile.
        """
        self._begin_change()
        lent = LentStore.of(self.path, self._root.class_names, self._options)
        try:
            yield lent
        finally:
            self._lines |= lent.take_back(self._lines)

    def check_in_place(self) -> None:
        """Refuse to go on in a folder that somebody put in the place of this one.

        Raises:
            StoreError: the store was replaced or removed since the writer began, or another has
                its lock.
        """
        self._held.check()
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
        if isinstance(there, RemotePath):
            (there / METADATA).unlink()  # first: with it the clip is gone
            remove(there)
        elif there.exists():
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
            # First: it may make the room that the catalogue needs.
            clear_partial(self.path, cut_off(self.path))
            _write_catalog(self.path, self._root, self._listed())
            if not cut_off(self.path):
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
        if not isinstance(folder, RemotePath):
            folder.rename(self.path / CLIPS / stored.clip.id)
            note_of(folder).unlink(missing_ok=True)
        with self._mutex:
            self._lines[stored.clip.id] = line
            self._unlisted += 1
            # Now and then: who goes on after a crash asks only the clips since. Each time more
            # have come by an eighth, so that a clip costs no more among many.
            if self._unlisted >= max(_UNLISTED, len(self._lines) // 8) and self._lock is not None:
                self._unlisted = 0
                listed = _catalog(self._listed())
                with contextlib.suppress(OSError):  # the clip is there, whatever becomes of this
                    write_whole(self.path / CATALOG, listed, within=self.path / PARTIAL)

    def _give_up(self, clip: Clip, folder: Path) -> None:
        if isinstance(folder, RemotePath):
            with contextlib.suppress(OSError):  # the next writer removes it else
                remove(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        self._leave(clip, folder)

    def _leave(self, clip: Clip, folder: Path) -> None:
        """Leave a folder to be gone on with, unless nothing is in it."""
        if not isinstance(folder, RemotePath):
            with contextlib.suppress(OSError):
                folder.rmdir()
            if not folder.exists():
                note_of(folder).unlink(missing_ok=True)
        with self._mutex:
            self._taken.pop(clip.id.casefold(), None)


def _refuse_other_things(path: Path) -> None:
    """Refuse what is at ``path`` unless it is a store, an empty folder, or nothing."""
    if not path.exists():
        return
    if not path.is_dir():
        raise StoreError(f"{path}: is a file, not a store. Choose another --out")
    leftovers = {LOCK, PARTIAL, CLIPS}  # of a writer killed at once
    names = {entry.name for entry in path.iterdir()}
    if METADATA not in names and not leftovers.issuperset(names):
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


def _refuse_cut_off(path: Path) -> None:
    """Refuse to begin where another writer would clear away what can still be kept."""
    if folders := cut_off(path):
        raise StoreError(
            f"{path}: holds a recording that was cut off. `spikedata record --resume --out {path}` "
            f"keeps what is whole of it; to give it up, remove {folders[0]}"
        )


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


def _write_root(path: Path, root: RootInfo) -> None:
    write_whole(path / METADATA, pretty_json(root.metadata()), within=path / PARTIAL)
    sync(path)


def _write_group(folder: Path, store: Path) -> None:
    folder.mkdir(exist_ok=True)
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    write_whole(folder / METADATA, pretty_json(group), within=store / PARTIAL)
