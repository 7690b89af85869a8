"""Tables that people make of their files: JSON Lines or CSV, with the columns' usual names.

Headers are stripped and case-folded, and usual synonyms become the one name that is used here
(:data:`COLUMNS`). CSV may be separated by commas, semicolons or tabs.
"""

import ast
import codecs
import csv
import difflib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spikedata.corpora.files import numbered_lines
from spikedata.corpora.names import as_text
from spikedata.errors import CorpusError

COLUMNS: dict[str, tuple[str, ...]] = {
    "file_name": (
        ("filename", "file", "file_path", "filepath", "path", "video", "video_name")
        + ("video_file", "video_path", "video_id", "clip", "clip_name", "clip_path", "recording")
    ),
    "label": (
        ("class", "class_name", "classname", "labels", "label_name", "action", "activity")
        + ("category", "target")
    ),
    "captions": ("sentences", "descriptions", "texts"),
    "caption": ("text", "sentence", "description"),
    "split": ("subset", "set", "partition", "usage"),
    "group": ("scene", "group_id"),
    "licence": ("license",),
    "id": ("clip_id",),
    "capture_fps": ("true_fps", "filmed_fps"),
    "camera": (),
    "tick_rate_hz": ("tick_rate",),
}
"""Names of the columns that are used, and what else each may be called, most usual first."""

OF_SETS = frozenset(["ticks", "bits_sha256", "spikes", "source", "attributes", "facts_sha256"])
"""What ``pack --to dat`` writes besides."""

NUMBERS = ("tick_rate_hz", "capture_fps")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a table."""

    number: int
    """Of the line in its file, from 1."""
    columns: dict[str, Any]
    """Values by the names used here; empty ones are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """What a file says."""

    rows: list[Row]
    notes: list[str]
    """Columns that are not used."""


def read_table(path: Path, *, needed: Literal["file_name", "id"] = "file_name") -> Table:
    """Read ``metadata.jsonl`` or ``metadata.csv``, or a table like them by another name.

    Args:
        path: the table; JSON Lines if its name ends in ``.jsonl``, else CSV.
        needed: the column that says whose a line is.

    Raises:
        CorpusError: it is malformed, or no column says whose its lines are.
    """
    read = _json_rows if path.suffix == ".jsonl" else _csv_rows
    rows, unused, seen = [], dict[str, None](), set[str]()
    for number, values in read(path):
        _check_distinct(path, number, list(values))
        columns, spare = _named(values)
        if needed not in columns:
            raise CorpusError(_lacks(path, number, needed, list(values)))
        unused |= dict.fromkeys(spare)
        seen |= columns.keys()
        shown = {key: value for key, value in columns.items() if value not in (None, "")}
        rows.append(Row(number=number, columns=shown))
    told = [_unused(name, seen) for name in unused]
    notes = [f"{path.name}: columns not used: {', '.join(told)}"] if told else []
    return Table(rows=rows, notes=notes)


def _check_distinct(path: Path, number: int, names: Sequence[str]) -> None:
    """Check that no two columns that are used have one name: the values of one would be lost."""
    for name, times in Counter(map(folded_name, names)).items():
        if times > 1 and any(name in (key, *COLUMNS[key]) for key in COLUMNS):
            raise CorpusError(
                f"{path}: line {number}: {times} columns are called {name!r}; keep one"
            )


def _lacks(path: Path, number: int, needed: str, names: list[str]) -> str:
    close = difflib.get_close_matches(needed, names, n=1, cutoff=0.5)
    hint = f" If it is {close[0]!r}, call it {needed!r}." if close else ""
    there = ", ".join(repr(as_text(str(name)))[:40] for name in names[:8])
    return (
        f"{path}: line {number}: no column {needed!r} (or {', '.join(COLUMNS[needed][:4])}) "
        f"among {there}.{hint} The first line of a CSV names the columns"
    )


def _unused(name: str, seen: set[str]) -> str:
    known = [*(set(COLUMNS) - seen), *(word for c in set(COLUMNS) - seen for word in COLUMNS[c])]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"{name!r} (did you mean {close[0]!r}?)" if close else repr(name)


def _named(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Values by the names used here, and the names of columns that are not used."""
    folded = {folded_name(name): value for name, value in values.items()}
    columns: dict[str, Any] = {key: folded[key] for key in OF_SETS & folded.keys()}
    for key, synonyms in COLUMNS.items():
        found = next((name for name in (key, *synonyms) if name in folded), None)
        if found is not None:
            columns[key] = folded.pop(found)
    return columns, [name for name in folded if name not in columns]


def folded_name(name: Any) -> str:
    """A column's name as it is compared: stripped, in small letters, with ``_`` for blanks."""
    return "_".join(str(name).strip().casefold().replace("-", " ").split())


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in numbered_lines(path):
        try:
            columns = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{path}: line {number}: not JSON: {error}") from error
        if not isinstance(columns, dict):
            raise CorpusError(f"{path}: line {number}: expected an object, got {line[:40]!r}")
        yield number, columns


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding=encoding_of(path), newline="") as file:
            header = file.readline()
            file.seek(0)
            separator = max(",;\t", key=header.count)
            reader = csv.DictReader(file, delimiter=separator, skipinitialspace=True)
            _check_distinct(path, 1, reader.fieldnames or [])
            for columns in reader:
                if None in columns:
                    raise CorpusError(f"{path}: line {reader.line_num}: more values than columns")
                yield reader.line_num, {k: _csv_value(k, v) for k, v in columns.items()}
    except UnicodeError as error:
        raise CorpusError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise CorpusError(f"{path}: cannot be read: {error}") from error


def encoding_of(path: Path) -> str:
    """UTF-8, or UTF-16 by its mark: what spreadsheets call Unicode text."""
    with path.open("rb") as file:
        marked = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return "utf-16" if marked else "utf-8-sig"


def _csv_value(name: str, value: Any) -> Any:
    """All that CSV holds is text: what must be a number or a list is read as one."""
    text = value.strip() if isinstance(value, str) else value
    folded = folded_name(name)
    if not isinstance(text, str):
        return text
    if folded in (*NUMBERS, *(word for key in NUMBERS for word in COLUMNS[key])):
        try:
            return float(text.replace(",", "."))
        except ValueError:
            return text
    if text.startswith("[") and text.endswith("]"):
        return _list(text)
    return text


def _list(text: str) -> Any:
    """A list as JSON or as Python writes it, for example pandas; else the text."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(found, list):
            return found
    return text
