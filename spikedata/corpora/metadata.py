"""A folder with ``metadata.jsonl`` or ``metadata.csv``: one entry a file, found by ``file_name``.

The convention of Hugging Face's video folders; see :mod:`spikedata.corpora.tables` for the columns
and their synonyms. ``file_name`` is required, relative to the metadata file; its suffix may be left
out. Several lines for one file are several captions of one clip.
"""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from spikedata.clip import Clip, check_clip_id, is_dangerous
from spikedata.corpora.corpus import CorpusClip, Found, count
from spikedata.corpora.files import ListedFile
from spikedata.corpora.names import as_text, clean_text, clip_id_of
from spikedata.corpora.places import contradiction, find_places, split_of
from spikedata.corpora.tables import read_table
from spikedata.errors import CorpusError
from spikedata.stream import check_tick_rate_hz
from spikedata.video import is_picture_folder
from spikedata.wording import shown

_FILE_NAMES = ("metadata.jsonl", "metadata.csv")
_MOST_NOTES = 20
_OF_CLIPS = ("id", "label", "split", "group", "licence")
"""What all lines of one file must agree on."""


class _RefusedError(Exception):
    """One entry cannot be used; the others can."""


class _GoneError(_RefusedError):
    """Nor is its file there."""


def find_metadata(root: Path) -> list[Path]:
    """Metadata files of ``root``, or else of the folders in it (one a split).

    Raises:
        CorpusError: a folder has both kinds.
    """
    for folders in ([root], sorted(p for p in root.glob("[!.]*") if p.is_dir())):
        found = [folder / name for folder in folders for name in _FILE_NAMES]
        found = [path for path in found if path.is_file()]
        if len({path.parent for path in found}) < len(found):
            raise CorpusError(f"{root}: has both {' and '.join(_FILE_NAMES)}; keep one")
        if found:
            return found
    return []


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of a metadata file whose file is there."""

    item: CorpusClip
    where: str
    """The metadata file and the line."""
    columns: Mapping[str, Any]
    """All that the line tells, as it stands there."""
    listing: Path
    """The metadata file."""
    lines: tuple[int, ...]
    """Its lines for this file, from 1; several are several captions."""

    def camera(self) -> str | None:
        """Column ``camera``: whose file a recording is.

        Raises:
            CorpusError: it is not text.
        """
        value = self.columns.get("camera")
        if value is not None and not isinstance(value, str):
            raise CorpusError(f"{self.where}: camera must be a name or HxW, got {shown(value)}")
        return value

    def tick_rate_hz(self) -> float | None:
        """Column ``tick_rate_hz``: ticks a second of a recording.

        Raises:
            CorpusError: it is not a positive number.
        """
        value = self.columns.get("tick_rate_hz")
        try:
            return None if value is None else check_tick_rate_hz(value)
        except ValueError as error:
            raise CorpusError(f"{self.where}: {error}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedEntry:
    """One line of a metadata file that cannot be used."""

    where: str
    """The metadata file, below the folder, and the line."""
    columns: Mapping[str, Any]
    """All that the line tells, as it stands there."""
    reason: str
    is_gone: bool
    """Whether there is no such file."""


def read_metadata(root: Path, videos: list[ListedFile]) -> Found:
    """Clips of the entries whose videos are there; see :func:`read_entries`.

    Raises:
        CorpusError: a metadata file is malformed, or not one entry can be used.
    """
    entries, notes, _ = read_entries(root, videos, unused=("camera", "tick_rate_hz"))
    return Found(clips=[entry.item for entry in entries], notes=notes)


def read_entries(
    root: Path,
    files: list[ListedFile],
    *,
    unused: Collection[str] = (),
    is_owed: Callable[[Mapping[str, Any]], bool] = lambda _: False,
) -> tuple[list[Entry], list[str], list[RefusedEntry]]:
    """Entries whose files are there, notes on what is left out, and refused entries that are owed.

    An entry that names no file, or one outside the folder, is refused with a note; the rest
    go on. Files without an entry are left out.

    Args:
        root: the folder.
        files: what lies in it.
        unused: columns that mean nothing to the caller; noted if they are there.
        is_owed: whether the caller must be handed a line with these columns if it is refused; of
            others there is a note.

    Raises:
        CorpusError: a metadata file is malformed, or not one entry can be used.
    """
    paths = find_metadata(root)
    if not paths:
        raise CorpusError(f"{root}: has no {' or '.join(_FILE_NAMES)}")
    entries: dict[Path, Entry] = {}
    refused: list[RefusedEntry] = []
    notes: list[str] = []
    by_stem = _by_stem(files)
    for path in paths:
        table = read_table(path)
        notes += table.notes
        for row in table.rows:
            try:
                item = _clip(root, path, row.columns, by_stem)
                entry = Entry(
                    item=item,
                    where=f"{path}: line {row.number}",
                    columns=row.columns,
                    listing=path,
                    lines=(row.number,),
                )
                entries[item.path] = _merged(entries.get(item.path), entry)
            except _RefusedError as error:
                where = f"{as_text(str(path.relative_to(root)))}: line {row.number}"
                refused.append(
                    RefusedEntry(
                        where=where,
                        columns=row.columns,
                        reason=str(error),
                        is_gone=isinstance(error, _GoneError),
                    )
                )
    owed = [one for one in refused if is_owed(one.columns)]
    skipped = [one for one in refused if not is_owed(one.columns)]
    notes += _skipped(paths[0], skipped, is_all=not entries and not owed)
    placed, said = _placed(root, list(entries.values()))
    return placed, [*notes, *said, *_spare(placed, files, unused)], owed


def _skipped(path: Path, refused: Sequence[RefusedEntry], *, is_all: bool) -> list[str]:
    """Notes on entries that are left out, which must not be all there are."""
    told = [f"{one.where}: {one.reason}; skipped" for one in refused]
    if is_all:
        raise CorpusError(f"{path}: no entry can be used: {told[0] if told else 'it is empty'}")
    if len(told) > _MOST_NOTES:
        told[_MOST_NOTES:] = [f"{path.name}: {len(told) - _MOST_NOTES:,} more entries skipped"]
    return told


def _spare(
    entries: Sequence[Entry], files: Sequence[ListedFile], unused: Collection[str]
) -> list[str]:
    """Notes on columns that mean nothing here, and on files without an entry."""
    notes = []
    there = [name for name in unused if any(name in entry.columns for entry in entries)]
    if there:
        notes.append(f"columns not used here: {', '.join(map(repr, there))}")
    named = {entry.item.path for entry in entries}
    holding = {path.parent for path in named}  # each file of a numbered folder may be named
    spare = [
        file.name
        for file in files
        if file.path not in named and not (file.is_folder and file.path in holding)
    ]
    if spare:
        notes.append(f"{count(len(spare), 'file')} without an entry, left out: {spare[0]}")
    return notes


def _by_stem(files: Sequence[ListedFile]) -> dict[tuple[str, ...], list[Path]]:
    """Files by their path without suffix, for lists that leave it out."""
    found: dict[tuple[str, ...], list[Path]] = {}
    for file in files:
        found.setdefault((*file.parts[:-1], file.stem), []).append(file.path)
    return found


def _merged(before: Entry | None, entry: Entry) -> Entry:
    """One entry of two lines for one file: all captions; what else both tell must agree."""
    if before is None:
        return entry
    one, other = _facts(before), _facts(entry)
    for key, new in other.items():
        if new is not None and one[key] not in (None, new):
            raise _RefusedError(
                f"{one['name']!r} has {key} {one[key]!r} in a line before, here {new!r}"
            )
    clip = before.item.clip
    filled = {key: one[key] if one[key] is not None else other[key] for key in _OF_CLIPS}
    captions = tuple(dict.fromkeys((*clip.captions, *entry.item.clip.captions)))
    item = replace(
        before.item,
        clip=replace(clip, captions=captions, **filled),
        capture_fps=before.item.capture_fps or entry.item.capture_fps,
    )
    return replace(
        before,
        item=item,
        columns={**entry.columns, **before.columns},
        lines=before.lines + (entry.lines if entry.listing == before.listing else ()),
    )


def _facts(entry: Entry) -> dict[str, Any]:
    """What a line tells of a file besides captions; None where it is blank."""
    clip = entry.item.clip
    return {
        "name": clip.source["name"],
        **{key: getattr(clip, key) for key in _OF_CLIPS},
        "capture_fps": entry.item.capture_fps,
        **{key: entry.columns.get(key) for key in ("camera", "tick_rate_hz")},
    }


def _placed(root: Path, entries: list[Entry]) -> tuple[list[Entry], list[str]]:
    """Entries without a split with that of their folder; and where the two disagree."""
    parts_of = {entry.item.path: entry.item.path.relative_to(root).parts for entry in entries}
    places = find_places(parts_of.values()).of
    placed: list[Entry] = []
    contrary: list[str] = []
    for entry in entries:
        clip, by_folder = entry.item.clip, places[parts_of[entry.item.path]].split
        if clip.split is None and by_folder is not None:
            clip = replace(clip, split=by_folder)
            entry = replace(entry, item=replace(entry.item, clip=clip))
        elif by_folder not in (None, clip.split):
            contrary.append(f"{clip.source['name']} ({by_folder})")
        placed.append(entry)
    return placed, [contradiction(contrary, "metadata")] if contrary else []


def _clip(
    root: Path,
    metadata: Path,
    entry: Mapping[str, Any],
    by_stem: Mapping[tuple[str, ...], list[Path]],
) -> CorpusClip:
    path = _file(root, metadata, _safe_parts(entry.get("file_name", "")), by_stem)
    below = path.relative_to(root).parts
    clip = Clip(
        id=_id(entry, below, path),
        label=_text(entry, "label"),
        captions=_captions(entry),
        split=_split(entry),
        group=_text(entry, "group"),
        licence=_text(entry, "licence"),
        source={"name": as_text("/".join(below))},
    )
    return CorpusClip(clip=clip, path=path, capture_fps=_capture_fps(entry))


def _file(
    root: Path,
    metadata: Path,
    parts: tuple[str, ...],
    by_stem: Mapping[tuple[str, ...], list[Path]],
) -> Path:
    """The file, or the folder of pictures, that an entry names."""
    path = metadata.parent.joinpath(*parts)
    try:
        if path.is_file() or is_picture_folder(path):
            return path
    except OSError as error:  # too long a name
        raise _GoneError(f"no file {'/'.join(parts)!r:.80}: {error.strerror}") from error
    alike = by_stem.get((*metadata.parent.relative_to(root).parts, *parts), [])
    if len(alike) != 1:
        told = f"no file {'/'.join(parts)!r:.80}"
        if alike:
            raise _RefusedError(f"{told}; {len(alike)} files are called so")
        raise _GoneError(told)
    return alike[0]


def can_be_listed(file_name: str) -> bool:
    """Whether a metadata file can name a file of this path below its folder."""
    try:
        return bool(_safe_parts(file_name))
    except _RefusedError:
        return False


def _safe_parts(file_name: Any) -> tuple[str, ...]:
    """The path's parts, if it stays below the folder and hides nothing."""
    if not isinstance(file_name, str) or not file_name:
        raise _RefusedError(f"file_name must be a path, got {file_name!r}")
    if any(is_dangerous(c) for c in file_name):
        raise _RefusedError(f"file_name {file_name!r} holds control characters")
    if "\\" in file_name:
        raise _RefusedError(f"file_name {file_name!r} has backslashes; separate folders by '/'")
    path = PurePosixPath(file_name)
    if path.is_absolute() or ".." in path.parts or file_name[1:2] == ":":
        raise _RefusedError(f"file_name {file_name!r} leads out of the folder")
    if any(part.startswith(".") for part in path.parts) or not path.parts:
        raise _RefusedError(f"file_name {file_name!r} is hidden")
    return path.parts


def _id(entry: Mapping[str, Any], below: tuple[str, ...], path: Path) -> str:
    given = _text(entry, "id")
    if given is None:
        return clip_id_of(*below[:-1], below[-1] if path.is_dir() else path.stem)
    try:
        return check_clip_id(given)
    except ValueError as error:
        raise _RefusedError(str(error)) from error


def _split(entry: Mapping[str, Any]) -> str | None:
    given = _text(entry, "split")
    split = None if given is None else split_of(given)
    if given is not None and split is None:
        raise _RefusedError(f"split {given!r} is none of train, validation, test")
    return split


def _capture_fps(entry: Mapping[str, Any]) -> float | None:
    value = entry.get("capture_fps")
    if value is None:
        return None
    # Whole numbers of JSON may be past all floats.
    counted = isinstance(value, int | float) and not isinstance(value, bool)
    if not counted or not 0 < value <= sys.float_info.max:
        raise _RefusedError(f"capture_fps must be a positive number, got {shown(value)}")
    return float(value)


def _captions(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Of ``captions``, a list, and of ``caption``, text or a list; each once."""
    lines = [line for key in ("captions", "caption") for line in _caption_lines(entry, key)]
    return tuple(dict.fromkeys(lines))


def _caption_lines(entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = entry.get(key)
    if value is None:
        return ()
    if isinstance(value, str):
        if key == "captions" and value.lstrip().startswith("["):
            raise _RefusedError(f"captions {value[:40]!r} is not a JSON list")
        value = [value]
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise _RefusedError(f"captions must be text or a list of texts, got {shown(value)}")
    try:
        lines = [clean_text(line, is_name=False) for line in value]
    except ValueError as error:
        raise _RefusedError(f"captions {shown(value)} {error}") from error
    return tuple(line for line in lines if line)


def name_of_cell(key: str, value: Any) -> Any:
    """A cell of a table as a name, where it is one: a number, with its point if there are gaps."""
    if isinstance(value, float) and value.is_integer():  # a table with gaps makes floats of numbers
        value = int(value)
    text = str(value) if type(value) is int else value
    if key == "label" and isinstance(text, str) and text.endswith(".0") and text[:-2].isdigit():
        return text[:-2]
    return text


def _text(entry: Mapping[str, Any], key: str) -> str | None:
    value = name_of_cell(key, entry.get(key))
    if value is None:
        return None
    if not isinstance(value, str):
        raise _RefusedError(f"{key} must be text, got {shown(value)}")
    try:
        return clean_text(value) or None
    except ValueError as error:
        raise _RefusedError(f"{key} {shown(value)} {error}") from error
