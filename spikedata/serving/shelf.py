"""A set of clips as the page has it: listed, filtered and changed, and what could not be opened.

The set is opened once. What is changed on the page is written at once and changed here too, so that
no listing reads a file again.
"""

import bisect
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spikedata.camera import find_camera, numbered_files, open_recording
from spikedata.clip import SPLITS, torn_groups
from spikedata.clips import (
    RECORDING_SUFFIXES,
    CameraOptions,
    ClipSource,
    StoredClip,
    open_any,
)
from spikedata.corpora import CAPTION_TEMPLATES, captions_of
from spikedata.errors import SpikeDataError
from spikedata.labelling import relabel
from spikedata.outputs import Failure
from spikedata.serving.cameras import note_cameras
from spikedata.wording import shown

LABEL_KEYS = ("label", "captions", "split", "group")
"""What can be changed of a clip."""
CHANGEABLE = ("zarr", "dat")
"""Formats whose labels can be changed without writing the bits again."""
MOST_LETTERS = 2_000
"""Of a label, a group or one caption."""
MOST_CAPTIONS = 100
_MOST_UNDONE = 1_000
_LISTS = ("metadata.jsonl", "metadata.csv", "spikedata.json", "catalog.jsonl", "zarr.json")
"""Files that another program changes when it changes labels."""


class ConflictError(SpikeDataError):
    """What should be changed is not any more what the page showed."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which clips; None is any, and an empty text those that have none."""

    label: str | None = None
    split: str | None = None
    camera: str | None = None
    text: str = ""
    """Somewhere in id, label, captions, group or the source's name, whatever the case."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One clip of the list."""

    stored: StoredClip
    camera: str
    """Its camera's name; empty if it was not filmed by one."""
    letters: str
    """All its text, case folded."""

    @classmethod
    def of(cls, stored: StoredClip) -> "Row":
        """The row of a clip; nothing in its attributes is trusted."""
        clip = stored.clip
        texts = (clip.id, clip.label, *clip.captions, clip.group, clip.source.get("name"))
        letters = "\n".join(text for text in texts if isinstance(text, str)).casefold()
        return cls(stored=stored, camera=stored.camera or "", letters=letters)

    def fits(self, query: Query) -> bool:
        """Whether it is one of those asked for; the text is case folded already."""
        clip = self.stored.clip
        return (
            (query.label is None or query.label == (clip.label or ""))
            and (query.split is None or query.split == (clip.split or ""))
            and (query.camera is None or query.camera == self.camera)
            and query.text in self.letters
        )


@dataclass(frozen=True)
class _Change:
    clip_id: str
    before: dict[str, Any]
    after: dict[str, Any]


class Shelf:
    """One set of clips, shared by all requests.

    Args:
        path: as for :func:`spikedata.open_clips`.
        options: what the user says of camera files.
        read_only: nothing is written.

    Raises:
        SpikeDataError: there is no set of clips at ``path``.
    """

    def __init__(self, path: Path, options: CameraOptions, *, read_only: bool = False) -> None:
        self.path = path
        self.version = 0
        """Grows whenever the bits of a clip may be read in another way than before."""
        self._options = options
        self._read_only = read_only
        self._lock = threading.RLock()
        self._done: list[_Change] = []
        self._open()

    def _open(self) -> None:
        stamp = self._stamp()
        source = open_any(self.path, self._options)
        rows = {clip_id: Row.of(stored) for clip_id, stored in source.clips.items()}
        self.source: ClipSource = source
        self._rows = rows
        # In an order that stays while labels are given, for who gives them by number.
        self._classes = list(source.class_names)
        self._seen = stamp
        self.version += 1

    def refresh(self) -> None:
        """Open the set again if another program has changed its labels, or its clips."""
        with self._lock:
            if self._stamp() != self._seen:
                self._open()

    # --- looking ----------------------------------------------------------------------------

    @property
    def left_out(self) -> Sequence[Failure]:
        """What of the set could not be opened."""
        return self.source.left_out

    @property
    def why_fixed(self) -> str | None:
        """Why labels cannot be changed here; None if they can."""
        if self._read_only:
            return "opened with --read-only"
        if self.source.format not in CHANGEABLE:
            return (
                f"labels in {self.source.format} files cannot be changed in place. "
                "Pack the set to a store: spikedata pack SET --to zarr"
            )
        if self.path.is_file():
            return "labels of a single file have no place. Serve its folder"
        return None

    def row(self, clip_id: str) -> Row:
        """One clip.

        Raises:
            KeyError: there is no such clip.
        """
        return self._rows[clip_id]

    def rows(self, query: Query) -> list[Row]:
        """The clips asked for, in order of id."""
        query = replace(query, text=query.text.casefold())
        return [row for row in self._all() if row.fits(query)]

    def beside(self, clip_id: str, query: Query) -> dict[str, str | None]:
        """The clips before and after one among those asked for, of which it need not be one."""
        ids = [row.stored.id for row in self.rows(query)]
        before, after = bisect.bisect_left(ids, clip_id), bisect.bisect_right(ids, clip_id)
        return {
            "previous": ids[before - 1] if before else None,
            "next": ids[after] if after < len(ids) else None,
        }

    def counts(self) -> dict[str, list[tuple[str, int]]]:
        """How many clips have each label, split and camera; an empty text counts those without."""
        labels = Counter(dict.fromkeys(self._classes, 0))
        splits: Counter[str] = Counter()
        cameras: Counter[str] = Counter()
        for row in self._all():
            labels[row.stored.label or ""] += 1
            splits[row.stored.clip.split or ""] += 1
            cameras[row.camera] += 1
        order = {name: number for number, name in enumerate(("", *SPLITS))}
        return {
            "labels": list(labels.items()),
            "splits": sorted(splits.items(), key=lambda pair: order.get(pair[0], len(order))),
            "cameras": sorted(cameras.items()),
        }

    def torn_groups(self) -> dict[str, dict[str, int]]:
        """Groups that are on several sides of a split, with the clips on each."""
        return torn_groups(row.stored.clip for row in self._all())

    def _all(self) -> Iterator[Row]:
        return iter(list(self._rows.values()))

    def file_left_out(self, number: int) -> Path | None:
        """A file that could not be opened and whose layout may be found out; None if it is none.

        Args:
            number: its place in :attr:`left_out`.
        """
        if number >= len(self.left_out):
            return None
        path = Path(self.left_out[number].path)
        is_recording = path.suffix.lower() in RECORDING_SUFFIXES and path.is_file()
        return path if is_recording and self.source.format == "dat" else None

    def files_left_out(self) -> list[Path]:
        """All files that could not be opened and whose layout may be found out."""
        numbers = range(len(self.left_out))
        return [path for path in map(self.file_left_out, numbers) if path is not None]

    # --- changing ---------------------------------------------------------------------------

    def change(
        self, clip_id: str, changes: Mapping[str, Any], was: Mapping[str, Any] | None = None
    ) -> Row:
        """Change labels of a clip, on the disk and here.

        Args:
            clip_id: which.
            changes: new values of some of :data:`LABEL_KEYS`.
            was: what the page showed of these; something else is a conflict.

        Raises:
            KeyError: there is no such clip.
            ValueError: a key or a value that does not fit.
            ConflictError: somebody else changed the clip meanwhile.
            SpikeDataError: it cannot be written.
        """
        changes = checked_changes(changes)
        with self._lock:
            before = self._change(clip_id, changes, was)
            now = labels_of(self._rows[clip_id].stored)
            after = {key: now[key] for key in before}
            if before != after:
                self._done.append(_Change(clip_id, before, after))
                del self._done[:-_MOST_UNDONE]
            return self._rows[clip_id]

    def undo(self) -> Row:
        """Take the last change back.

        Raises:
            ConflictError: nothing was changed, or somebody else changed the clip since.
            SpikeDataError: it cannot be written.
        """
        with self._lock:
            if not self._done:
                raise ConflictError("nothing is left to undo")
            last = self._done[-1]
            try:
                self._change(last.clip_id, last.before, last.after)
            except (ConflictError, KeyError, ValueError):
                self._done.pop()  # it never can be taken back; what was done before it perhaps
                raise
            self._done.pop()
            return self._rows[last.clip_id]

    def name_camera(self, number: int, camera: str, *, every: bool) -> tuple[str | None, str]:
        """Open files that could not be opened as those of a camera, and note it beside them.

        Where nothing can be noted it counts as long as this shelf.

        Args:
            number: place of the file in :attr:`left_out`.
            camera: what ``--camera`` would take.
            every: take all files that could not be opened and that fit the camera.

        Returns:
            Id of the clip that the file became, and what was done.

        Raises:
            ValueError: there is no such file.
            SpikeDataError: it does not fit the camera, or that cannot be noted.
        """
        with self._lock:
            chosen = self.file_left_out(number)
            if chosen is None:
                raise ValueError(f"no file {number} waits for its camera")
            clip_id = self.left_out[number].id
            open_recording(chosen, camera)
            fitting = [path for path in self.files_left_out() if every and _fits(path, camera)]
            fitting = list(dict.fromkeys([chosen, *fitting]))
            is_noted = self._can_note(fitting, camera)
            if is_noted:
                note_cameras(self.path, dict.fromkeys(fitting, camera))
            else:
                self._options = replace(self._options, camera=camera)
            self._open()
            files = f"{len(fitting)} file{'s' if len(fitting) > 1 else ''}"
            told = f"{camera} is saved for {files}" if is_noted else f"all are read as {camera}"
            return (clip_id if clip_id in self._rows else None), told

    def _can_note(self, files: Sequence[Path], camera: str) -> bool:
        """Whether the camera is noted file by file; else it is that of all files from now on.

        Raises:
            SpikeDataError: neither can be.
        """
        folders: dict[Path, list[Path]] = {file.parent: [] for file in files}
        for file in self.files_left_out():
            folders.get(file.parent, []).append(file)
        # Numbered files of a few planes are one recording, which no list can say.
        numbered = any(numbered_files(held, find_camera(camera)) for held in folders.values())
        fixed = self.why_fixed
        if fixed is None and self._options.camera is None and not numbered:
            return True
        if self._rows:
            why = fixed or "other files are open as --camera says. Start without it"
            raise SpikeDataError(f"{files[0]}: its camera cannot be noted: {why}")
        return False

    def finish(self) -> None:
        """Wait until what is being written is written; nothing is after this."""
        with self._lock:
            self._read_only = True

    def _change(
        self, clip_id: str, changes: dict[str, Any], was: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        why = self.why_fixed
        if why is not None:
            raise SpikeDataError(f"{clip_id}: not changed: {why}")
        self.refresh()
        now = labels_of(self._rows[clip_id].stored)
        for key, value in (was or {}).items():
            if key in changes and now[key] != value:
                raise ConflictError(
                    f"{clip_id}: not changed: its {key} is {shown(now[key])} meanwhile, the page "
                    f"showed {shown(value)}"
                )
        done = relabel(self.path, {clip_id: changes}, camera=self._options.camera)
        # Captions that only name the class change with it.
        new = {key: after for key, (_, after) in done.changed.get(clip_id, {}).items()}
        self._take_up(clip_id, new)
        if done.failures:
            raise SpikeDataError(done.failures[0].error)
        return {key: now[key] for key in {**changes, **new}}

    def _take_up(self, clip_id: str, new: Mapping[str, Any]) -> None:
        """Have here what was written."""
        stored = self._rows[clip_id].stored
        if self._is_ours:  # its clips must say what its list says, and its files may have moved
            self.source = open_any(self.path, self._options)
            stored = self.source.clips[clip_id]
        else:
            clip = replace(stored.clip, **new)
            if "captions" not in new and stored.clip.captions == _named(stored.label):
                clip = replace(clip, captions=_named(clip.label))  # as it will be when opened again
            stored = replace(stored, clip=clip)
        self._rows[clip_id] = Row.of(stored)
        if stored.label is not None and stored.label not in self._classes:
            self._classes.append(stored.label)
        self._seen = self._stamp()

    @property
    def _is_ours(self) -> bool:
        """Whether spikedata wrote the set, so that opening it again reads no recording whole."""
        return self.source.version is not None

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What changes when another program changes labels."""
        lists = [self.path / name for name in _LISTS]
        return tuple(map(_stamp, [*lists, *sorted(self.path.glob("*/metadata.*"))]))


def _fits(path: Path, camera: str) -> bool:
    try:
        open_recording(path, camera)
    except SpikeDataError:
        return False
    return True


def _named(label: str | None) -> tuple[str, ...]:
    """Captions of a recording of which no other are told."""
    return () if label is None else captions_of(label, CAPTION_TEMPLATES)


def labels_of(stored: StoredClip) -> dict[str, Any]:
    """What can be changed of a clip, plain JSON."""
    known = stored.clip.to_dict()
    return {key: known[key] for key in LABEL_KEYS}


def checked_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes, if they can be made; an empty text is none.

    Raises:
        ValueError: a key or a value that does not fit.
    """
    unknown = sorted(changes.keys() - set(LABEL_KEYS))
    if unknown or not changes:
        raise ValueError(f"expected some of {', '.join(LABEL_KEYS)}, got {shown(unknown)}")
    found: dict[str, Any] = {}
    for key, value in changes.items():
        if key == "captions":
            if not isinstance(value, list) or len(value) > MOST_CAPTIONS:
                raise ValueError(f"captions must be a list of at most {MOST_CAPTIONS} texts")
            texts = [_text(one, key) for one in value]
            found[key] = [text for text in texts if text]
        else:
            found[key] = None if value is None else (_text(value, key) or None)
    if found.get("split") not in (None, *SPLITS):
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {shown(found['split'])}")
    return found


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or len(value) > MOST_LETTERS:
        raise ValueError(
            f"{key} must be text of at most {MOST_LETTERS} letters, got {shown(value)}"
        )
    return value.strip()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
