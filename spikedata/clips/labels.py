"""Tell other labels, captions, splits and groups of camera files, in the list beside them.

A folder without a list gets a ``metadata.jsonl`` that names every recording in it, with what its
folders said. The list is replaced as a whole. In a set that ``pack --to dat`` wrote a file lies in
the folder of its class: it has its new name before the list says so, and its old one until after.
"""

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from spikedata.camera import find_camera
from spikedata.clip import Clip
from spikedata.clips.recording_folders import (
    gather_numbered,
    is_ours,
    read_about,
    unlisted_recordings,
)
from spikedata.clips.recordings import (
    ABOUT_FILE,
    METADATA_FILE,
    RECORDING_SUFFIXES,
    CameraOptions,
    file_name_of,
    noted_clip,
)
from spikedata.clips.rules import FACTS_DIGEST, RuleBrokenError, digest_of, pretty_json
from spikedata.clips.stored import RELABELLED_KEYS
from spikedata.corpora import (
    Entry,
    can_be_listed,
    class_order,
    find_metadata,
    list_files,
    listed,
    read_entries,
    relisted,
)
from spikedata.errors import CorpusError, SpikeDataError, StoreError
from spikedata.outputs import Failure, acquire, release, write_whole, written_aside

_NO_CAPTIONS = {"captions": None, "caption": None}


class FolderLabels:
    """What is told of the camera files of a folder, opened to be changed; use it in ``with``.

    Args:
        path: the folder.
        camera: whose files they are; it tells a folder of numbered files of a few planes.

    Raises:
        SpikeDataError: there are no recordings, their list is malformed, or another process is
            writing it.
        OSError: the folder cannot be written.
    """

    def __init__(self, path: Path, camera: str | None) -> None:
        self.path = path
        self._camera = camera
        with ExitStack() as stack:
            stack.enter_context(_alone_in(path))
            self._read()
            self._clear_second_names()
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _read(self) -> None:
        files = list_files(self.path, RECORDING_SUFFIXES).files
        if not files:
            raise CorpusError(f"{self.path}: holds no .dat or .npz file")
        self._files, _ = gather_numbered(files, CameraOptions(camera=self._camera))
        self._entries: dict[str, Entry] = {}
        self._unlisted: list[tuple[Clip, Path]] = []
        if find_metadata(self.path):
            for entry in read_entries(self.path, self._files, is_owed=is_ours)[0]:
                self._entries.setdefault(entry.item.clip.id, entry)
        else:
            found = unlisted_recordings(self.path, self._camera)
            # Captions that only name a class are made again.
            self._unlisted = [(replace(item.clip, captions=()), item.path) for item in found]
        self._clips = {clip.id: clip for clip, _ in reversed(self._unlisted)}
        self._clips |= {key: entry.item.clip for key, entry in self._entries.items()}
        try:
            folders = sorted({entry.listing.parent for entry in self._entries.values()})
            abouts = {folder: read_about(folder) for folder in folders}
        except RuleBrokenError as error:
            raise error.at(self.path) from error
        self._abouts = {folder: about for folder, about in abouts.items() if about is not None}

    @property
    def fills_captions(self) -> bool:
        """Whether captions that only name the class are written out, as ``pack`` does."""
        return any(is_ours(entry.columns) for entry in self._entries.values())

    @property
    def class_names(self) -> tuple[str, ...]:
        """Labels, those that a set of ours states first."""
        stated = dict.fromkeys(name for a in self._abouts.values() for name in a["class_names"])
        labels = {clip.label for clip in self._clips.values() if clip.label is not None}
        return (*stated, *sorted(labels - set(stated), key=class_order))

    def find(self, clip_id: str) -> Clip:
        """What is told of a clip.

        Raises:
            StoreError: there is no such clip.
        """
        if clip_id not in self._clips:
            hint = "" if self._camera else " without --camera"
            raise StoreError(
                f"{self.path}: no clip {clip_id!r}; it holds {len(self._clips)} recordings{hint}"
            )
        return self._clips[clip_id]

    def splits(self, groups: Collection[str]) -> dict[str, set[str]]:
        """What the clips of each of these groups are for."""
        found: dict[str, set[str]] = {group: set() for group in groups}
        for clip in self._clips.values():
            if clip.group in found and clip.split is not None:
                found[clip.group].add(clip.split)
        return found

    def write(
        self, clips: Mapping[str, Clip], class_names: Sequence[str], *, drop_unused: bool
    ) -> list[Failure]:
        """Tell what ``clips`` say, of clips that are there.

        Args:
            clips: what is told from now on, by id.
            class_names: labels in order, all that clips had and will have.
            drop_unused: take out those that no clip has, where a set of ours states them.

        Returns:
            Clips that could not be changed, or not as was asked, and why.

        Raises:
            SpikeDataError: a file cannot be named in a list, or the list cannot be read again.
            OSError: the disk is full, or the like.
        """
        if self._unlisted:
            write_whole(self.path / METADATA_FILE, self._new_list(clips), overwrite=False)
            self._read()
            return self._not_as_asked(clips)
        failed: list[Failure] = []
        changes: dict[Path, dict[int, dict[str, Any]]] = {}
        moved: list[tuple[Path, Path]] = []
        for clip_id, clip in clips.items():
            entry = self._entries[clip_id]
            try:
                first, rest = self._values(entry, clip, moved)
            except (SpikeDataError, OSError) as error:
                told = f"{self.path}: clip {clip_id}: {error}"
                failed.append(Failure(id=clip_id, path=str(entry.item.path), error=told))
                continue
            lines = changes.setdefault(entry.listing, {})
            lines |= dict.fromkeys(entry.lines, rest) | {entry.lines[0]: first}
        self._state_classes(class_names)
        for listing, lines in changes.items():
            write_whole(listing.resolve(), relisted(listing, lines))
        for old, _ in moved:
            old.unlink(missing_ok=True)
            with suppress(OSError):  # others are in it
                old.parent.rmdir()
        self._read()
        if drop_unused:
            used = {clip.label for clip in self._clips.values()}
            self._state_classes([name for name in class_names if name in used])
            self._read()
        gone = {failure.id for failure in failed}
        return failed + self._not_as_asked({k: c for k, c in clips.items() if k not in gone})

    def _new_list(self, clips: Mapping[str, Clip]) -> bytes:
        """A line for every recording, so that none falls out: with a list the list alone counts."""
        rows = []
        done: set[str] = set()
        for clip, path in self._unlisted:
            name = path.relative_to(self.path).as_posix()
            if not can_be_listed(name):
                raise CorpusError(
                    f"{self.path}: {name!r} cannot be named in a {METADATA_FILE}, and would fall "
                    "out of the set. Rename it, or name the folder above"
                )
            if clip.id not in done:  # of files with one id the first is the clip
                clip = clips.get(clip.id, clip)
            done.add(clip.id)
            told = {"label": clip.label, "split": clip.split, "group": clip.group}
            captions = list(clip.captions) or None
            rows.append({"file_name": name, "id": clip.id, **told, "captions": captions})
        return listed(rows)

    def _values(
        self, entry: Entry, clip: Clip, moved: list[tuple[Path, Path]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """New values of an entry's first line, and of the others; its file gets its new name.

        Raises:
            RuleBrokenError: the entry is one of ours, and is not what was written.
            SpikeDataError: another file has the new name.
            OSError: the file cannot be given it.
        """
        was = entry.item.clip
        changed = {
            k: getattr(clip, k) for k in RELABELLED_KEYS if getattr(clip, k) != getattr(was, k)
        }
        captions = changed.pop("captions", None)
        first, rest = dict(changed), dict(changed)
        if captions is not None:
            rest |= _NO_CAPTIONS
            first |= _NO_CAPTIONS
            if (
                "caption" in entry.columns
                and "captions" not in entry.columns
                and len(captions) == 1
            ):
                first["caption"] = captions[0]
            elif captions:
                first["captions"] = list(captions)
        if not is_ours(entry.columns) or FACTS_DIGEST not in entry.columns:
            return first, rest
        camera = find_camera(entry.camera() or "")
        stored = noted_clip(was, entry.columns, camera.height_px or 0, camera.width_px or 0)
        new = {k: getattr(clip, k) for k in RELABELLED_KEYS if getattr(clip, k) != getattr(was, k)}
        stored = replace(stored, clip=replace(stored.clip, **new))
        named = file_name_of(stored)
        if named != entry.columns["file_name"]:
            old, there = entry.item.path, entry.listing.parent / named
            _name_too(old, there)
            moved.append((old, there))
        captions_now = {"captions": list(stored.clip.captions)} if captions is not None else {}
        digest = {"file_name": named, FACTS_DIGEST: stored.facts_sha256()}
        return changed | captions_now | digest, rest

    def _state_classes(self, class_names: Sequence[str]) -> None:
        """Have the sets of ours that are changed state these classes."""
        for folder, about in self._abouts.items():
            if list(class_names) != about["class_names"]:
                about["class_names"] = list(class_names)
                if FACTS_DIGEST in about:
                    about[FACTS_DIGEST] = digest_of(about)
                write_whole(folder / ABOUT_FILE, pretty_json(about))

    def _not_as_asked(self, clips: Mapping[str, Clip]) -> list[Failure]:
        """Clips of which something else is told than was written: their folder tells it."""
        found = []
        for clip_id, clip in clips.items():
            now = self._clips[clip_id]
            for key in RELABELLED_KEYS:
                is_told, asked = getattr(now, key), getattr(clip, key)
                if is_told != asked:
                    told = f"{key} is {is_told!r} and not {asked!r}: its folder says so"
                    path = str(self.path)
                    found.append(Failure(id=clip_id, path=path, error=f"{clip_id}: {told}"))
        return found

    def _clear_second_names(self) -> None:
        """Remove names that a killed process left: of files that our list has under another."""
        ours = [e.item.path for e in self._entries.values() if FACTS_DIGEST in e.columns]
        named = {entry.item.path for entry in self._entries.values()}
        spare = [file.path for file in self._files if file.path not in named]
        if not ours or not spare:
            return
        numbers = {_number(path) for path in ours}
        for path in spare:
            if path.is_file() and _number(path) in numbers:
                path.unlink()
        self._read()


def _number(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _name_too(old: Path, there: Path) -> None:
    """Give a file another name too; where it can have but one, copy it."""
    if there.exists():
        raise SpikeDataError(
            f"{there.parent.name}/{there.name} is there already, and is no clip of the set. Move "
            "it away"
        )
    there.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(old, there)
    except OSError:
        with written_aside(there, overwrite=False) as aside:
            shutil.copyfile(old, aside)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Be the only one that writes what is told of a folder's files."""
    try:
        lock = acquire(folder)
    except OSError:  # a disk's uppermost folder: nothing can be made beside it
        lock = acquire(folder / ".spikedata")
    try:
        yield
    finally:
        release(lock)
