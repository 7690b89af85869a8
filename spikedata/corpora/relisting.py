"""Metadata files written anew: some values of some lines, and all else as it stands there.

Other lines stay byte for byte in JSON Lines, and value by value in CSV; columns that mean nothing
here stay; a column keeps the name that its author gave it.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spikedata.corpora.tables import COLUMNS, encoding_of, folded_name
from spikedata.errors import CorpusError

_MARK = b"\xef\xbb\xbf"

Values = Mapping[str, Any]
"""By the names used here; None for nothing, a list for several captions."""


def relisted(path: Path, changes: Mapping[int, Values]) -> bytes:
    """The content of ``metadata.jsonl`` or ``metadata.csv`` with other values in some lines.

    Args:
        path: the file, which has been read without an error.
        changes: new values by the number of their line, as
            :class:`~spikedata.corpora.tables.Row` has it.

    Raises:
        CorpusError: the file cannot be read, or such a line is not there any more.
    """
    try:
        data = path.read_bytes()
        change = _json_lines if path.suffix == ".jsonl" else _csv_lines
        return change(path, data, changes)
    except (OSError, ValueError, csv.Error) as error:
        raise CorpusError(f"{path}: cannot be written anew: {error}") from error


def listed(rows: Iterable[Values]) -> bytes:
    """The content of a new ``metadata.jsonl``; what is None is left out."""
    return b"".join(
        _json({key: value for key, value in row.items() if value is not None}) + b"\n"
        for row in rows
    )


def _json(values: Values) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode()


def _json_lines(path: Path, data: bytes, changes: Mapping[int, Values]) -> bytes:
    lines = data.split(b"\n")
    for number, values in changes.items():
        if not 0 < number <= len(lines):
            raise ValueError(f"line {number} is gone")
        line = lines[number - 1]
        mark = _MARK if number == 1 and line.startswith(_MARK) else b""
        end = b"\r" if line.endswith(b"\r") else b""
        columns = json.loads(line.removeprefix(mark))
        if not isinstance(columns, dict):
            raise ValueError(f"line {number} is no object any more")
        for key, value in values.items():
            _put(columns, key, value)
        lines[number - 1] = mark + _json(columns) + end
    return b"\n".join(lines)


def _put(columns: dict[str, Any], key: str, value: Any) -> None:
    """Give a column of one line its value, under the name that counts there."""
    name = _name_of(list(columns), key)
    if name is not None:
        columns[name] = value
    elif value is not None:
        columns[key] = value


def _name_of(names: Sequence[str], key: str) -> str | None:
    """What a column is called among these names; None if it is not there."""
    folded = {folded_name(name): name for name in names}
    return next((folded[name] for name in (key, *COLUMNS.get(key, ())) if name in folded), None)


def _csv_lines(path: Path, data: bytes, changes: Mapping[int, Values]) -> bytes:
    encoding = encoding_of(path)
    text = data.decode(encoding)
    separator = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    header: list[str] = []
    rows: list[list[str]] = []
    waiting = dict(changes)
    for row in reader:
        if not header:
            header = list(row)
            continue
        values = waiting.pop(reader.line_num, {})
        for key, value in values.items():
            _put_cell(header, row, key, value)
        rows.append(row)
    if waiting:
        raise ValueError(f"line {min(waiting)} is gone")
    written = io.StringIO(newline="")
    end = "\r\n" if "\r\n" in text else "\n"
    writer = csv.writer(written, delimiter=separator, lineterminator=end)
    writer.writerow(header)
    writer.writerows(row + [""] * (len(header) - len(row)) if row else row for row in rows)
    if encoding == "utf-8-sig" and not data.startswith(_MARK):
        encoding = "utf-8"
    return written.getvalue().encode(encoding)


def _put_cell(header: list[str], row: list[str], key: str, value: Any) -> None:
    """Give a cell of one row its value; a column that is not there is put at the end."""
    name = _name_of(header, key)
    if name is None:
        if value is None:
            return
        name = key
        header.append(name)
    place = header.index(name)
    row += [""] * (place + 1 - len(row))
    if isinstance(value, list):
        value = json.dumps(value, ensure_ascii=False)
    row[place] = "" if value is None else value
