"""A folder with ``metadata.jsonl`` or ``metadata.csv``: one entry a video, found by ``file_name``.

The convention of Hugging Face's video folders. Columns read: ``file_name`` (required, relative to
the metadata file), ``label``, ``caption``, ``text``, ``captions``, ``split``, ``group``,
``licence`` or ``license``, ``id``. Others are passed over.
"""

import csv
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from spikedata.catalog import Clip, check_clip_id
from spikedata.corpora.corpus import CorpusClip, Found, count
from spikedata.corpora.files import VideoFile, read_lines
from spikedata.corpora.folder import split_of
from spikedata.corpora.names import clip_id_of
from spikedata.errors import CorpusError

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


def read_metadata(root: Path, videos: list[VideoFile]) -> Found:
    """Clips of the entries whose videos are there.

    An entry that names no video, or one outside the folder, is refused with a note; the rest
    go on. Videos without an entry are left out.

    Raises:
        CorpusError: a metadata file is malformed, or not one entry can be used.
    """
    paths = find_metadata(root)
    if not paths:
        raise CorpusError(f"{root}: has no {' or '.join(_FILE_NAMES)}")
    clips: list[CorpusClip] = []
    refused: list[str] = []
    for path in paths:
        for number, entry in _entries(path):
            try:
                clips.append(_clip(root, path, entry))
            except _RefusedError as error:
                refused.append(f"{path.relative_to(root)}: line {number}: {error}; skipped")
    if not clips:
        reason = refused[0] if refused else "it is empty"
        raise CorpusError(f"{paths[0]}: no entry can be used: {reason}")
    notes = refused[:_MOST_NOTES]
    if len(refused) > _MOST_NOTES:
        notes.append(f"{paths[0].name}: {len(refused) - _MOST_NOTES:,} more entries skipped")
    named = {item.clip.source["name"] for item in clips}
    spare = [video.name for video in videos if video.name not in named]
    if spare:
        notes.append(f"{count(len(spare), 'video')} without an entry, left out: {spare[0]}")
    return Found(clips=clips, notes=notes)


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and columns of each entry."""
    read = _json_entries if path.suffix == ".jsonl" else _csv_entries
    for number, entry in read(path):
        if "file_name" not in entry:
            raise CorpusError(f"{path}: line {number}: no column 'file_name'")
        yield number, {key: value for key, value in entry.items() if value not in (None, "")}


def _json_entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_lines(path), 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{path}: line {number}: not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise CorpusError(f"{path}: line {number}: expected an object, got {line[:40]!r}")
        yield number, entry


def _csv_entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for entry in reader:
                if None in entry:
                    raise CorpusError(f"{path}: line {reader.line_num}: more values than columns")
                yield reader.line_num, entry
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
            except ValueError as error:
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
