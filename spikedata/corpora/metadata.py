"""A folder with ``metadata.jsonl`` or ``metadata.csv``: one entry a file, found by ``file_name``.

The convention of Hugging Face's video folders. Columns read: ``file_name`` (required, relative to
the metadata file), ``label``, ``caption``, ``text``, ``captions``, ``split``, ``group``,
``licence`` or ``license``, ``id``; of recordings also ``camera`` and ``tick_rate_hz``. Others are
passed over.
"""

import csv
import json
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from spikedata.clip import Clip, check_clip_id
from spikedata.corpora.corpus import CorpusClip, Found, count
from spikedata.corpora.files import ListedFile, numbered_lines
from spikedata.corpora.folder import split_of
from spikedata.corpora.names import as_text, clip_id_of
from spikedata.errors import CorpusError
from spikedata.stream import check_tick_rate_hz

_FILE_NAMES = ("metadata.jsonl", "metadata.csv")
_MOST_NOTES = 20


class _RefusedError(Exception):
    """One entry cannot be used; the others can."""


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

    def camera(self) -> str | None:
        """Column ``camera``: whose file a recording is.

        Raises:
            CorpusError: it is not text.
        """
        value = self.columns.get("camera")
        if value is not None and not isinstance(value, str):
            raise CorpusError(f"{self.where}: camera must be a name or HxW, got {value!r:.40}")
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


def read_metadata(root: Path, videos: list[ListedFile]) -> Found:
    """Clips of the entries whose videos are there; see :func:`read_entries`.

    Raises:
        CorpusError: a metadata file is malformed, or not one entry can be used.
    """
    entries, notes = read_entries(root, videos)
    return Found(clips=[entry.item for entry in entries], notes=notes)


def read_entries(root: Path, files: list[ListedFile]) -> tuple[list[Entry], list[str]]:
    """Entries whose files are there, and notes on what is left out.

    An entry that names no file, or one outside the folder, is refused with a note; the rest
    go on. Files without an entry are left out.

    Raises:
        CorpusError: a metadata file is malformed, or not one entry can be used.
    """
    paths = find_metadata(root)
    if not paths:
        raise CorpusError(f"{root}: has no {' or '.join(_FILE_NAMES)}")
    entries: list[Entry] = []
    refused: list[str] = []
    for path in paths:
        for number, columns in _lines(path):
            try:
                item = _clip(root, path, columns)
            except _RefusedError as error:
                metadata = as_text(str(path.relative_to(root)))
                refused.append(f"{metadata}: line {number}: {error}; skipped")
                continue
            entries.append(Entry(item=item, where=f"{path}: line {number}", columns=columns))
    if not entries:
        reason = refused[0] if refused else "it is empty"
        raise CorpusError(f"{paths[0]}: no entry can be used: {reason}")
    notes = refused[:_MOST_NOTES]
    if len(refused) > _MOST_NOTES:
        notes.append(f"{paths[0].name}: {len(refused) - _MOST_NOTES:,} more entries skipped")
    named = {entry.item.clip.source["name"] for entry in entries}
    spare = [file.name for file in files if file.name not in named]
    if spare:
        notes.append(f"{count(len(spare), 'file')} without an entry, left out: {spare[0]}")
    return entries, notes


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and columns of each entry."""
    read = _json_lines if path.suffix == ".jsonl" else _csv_lines
    for number, columns in read(path):
        if "file_name" not in columns:
            raise CorpusError(f"{path}: line {number}: no column 'file_name'")
        yield number, {key: value for key, value in columns.items() if value not in (None, "")}


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in numbered_lines(path):
        try:
            columns = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{path}: line {number}: not JSON: {error}") from error
        if not isinstance(columns, dict):
            raise CorpusError(f"{path}: line {number}: expected an object, got {line[:40]!r}")
        yield number, columns


def _csv_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for columns in reader:
                if None in columns:
                    raise CorpusError(f"{path}: line {reader.line_num}: more values than columns")
                with suppress(KeyError, TypeError, ValueError):  # all that CSV holds is text
                    columns["tick_rate_hz"] = float(columns["tick_rate_hz"])
                yield reader.line_num, columns
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path}: cannot be read: {error}") from error


def _clip(root: Path, metadata: Path, entry: dict[str, Any]) -> CorpusClip:
    parts = _safe_parts(entry.get("file_name", ""))
    path = metadata.parent.joinpath(*parts)
    try:
        there = path.is_file()
    except OSError as error:  # too long a name
        raise _RefusedError(f"no file {'/'.join(parts)!r:.80}: {error.strerror}") from error
    if not there:
        raise _RefusedError(f"no file {'/'.join(parts)!r:.80}")
    below = path.relative_to(root).parts
    clip = Clip(
        id=_id(entry, below),
        label=_text(entry, "label"),
        captions=_captions(entry),
        split=_split(entry, below),
        group=_text(entry, "group"),
        licence=_text(entry, "licence") or _text(entry, "license"),
        source={"name": "/".join(below)},
    )
    return CorpusClip(clip=clip, path=path)


def _safe_parts(file_name: Any) -> tuple[str, ...]:
    """The path's parts, if it stays below the folder and hides nothing."""
    if not isinstance(file_name, str) or not file_name:
        raise _RefusedError(f"file_name must be a path, got {file_name!r}")
    if any(unicodedata.category(c)[0] == "C" for c in file_name):
        raise _RefusedError(f"file_name {file_name!r} holds control characters")
    if "\\" in file_name:
        raise _RefusedError(f"file_name {file_name!r} has backslashes; separate folders by '/'")
    path = PurePosixPath(file_name)
    if path.is_absolute() or ".." in path.parts or file_name[1:2] == ":":
        raise _RefusedError(f"file_name {file_name!r} leads out of the folder")
    if any(part.startswith(".") for part in path.parts) or not path.parts:
        raise _RefusedError(f"file_name {file_name!r} is hidden")
    return path.parts


def _id(entry: dict[str, Any], below: tuple[str, ...]) -> str:
    given = _text(entry, "id")
    if given is None:
        return clip_id_of(*below[:-1], PurePosixPath(below[-1]).stem)
    try:
        return check_clip_id(given)
    except ValueError as error:
        raise _RefusedError(str(error)) from error


def _split(entry: dict[str, Any], below: tuple[str, ...]) -> str | None:
    given = _text(entry, "split")
    if given is None:
        return split_of(below[0]) if len(below) > 1 else None
    split = split_of(given)
    if split is None:
        raise _RefusedError(f"split {given!r} is none of train, validation, test")
    return split


def _captions(entry: dict[str, Any]) -> tuple[str, ...]:
    """From ``captions`` (a list, or in CSV a JSON list), else ``caption``, else ``text``."""
    for key in ("captions", "caption", "text"):
        value = entry.get(key)
        if isinstance(value, str) and value.lstrip().startswith("[") and key == "captions":
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise _RefusedError(f"captions {value[:40]!r} is not a JSON list") from error
        if isinstance(value, str):
            value = [value]
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
            raise _RefusedError(f"{key} must be text or a list of texts, got {value!r:.40}")
        lines = [" ".join(line.split()) for line in value]
        if not all(line.isprintable() for line in lines):
            raise _RefusedError(f"{key} {value!r:.40} holds control characters")
        return tuple(line for line in lines if line)
    return ()


def _text(entry: dict[str, Any], key: str) -> str | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _RefusedError(f"{key} must be text, got {value!r:.40}")
    text = str(value).strip()
    if not text.isprintable():
        raise _RefusedError(f"{key} {value!r:.40} holds control characters")
    return text or None
