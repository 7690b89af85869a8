"""Names of classes that recordings only number, from a file that somebody wrote beside them."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spikedata.corpora import clean_text
from spikedata.errors import CorpusError
from spikedata.wording import shown

MOST_BYTES = 16 << 20


def read_label_names(path: Path | str) -> dict[str, str]:
    """Names of classes by number, as text, in order of the numbers.

    Args:
        path: a text file with a name a line, the first of number 0; a ``.csv`` with number and
            name in each row; or a ``.json`` with a list of names, or with names by number.

    Raises:
        CorpusError: it cannot be read, is none of these, or names a number twice.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"is longer than {MOST_BYTES:,} bytes")
        read = {".csv": _of_csv, ".json": _of_json}.get(path.suffix.lower(), _of_lines)
        names = read(data.decode("utf-8-sig"))
        if not names:
            raise ValueError("holds no names")
        return {str(number): clean_text(names[number]) for number in sorted(names)}
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise CorpusError(f"{path}: is no list of class names: {error}") from error


def _of_lines(text: str) -> dict[int, str]:
    lines = text.rstrip().splitlines()
    blank = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if blank is not None:
        raise ValueError(f"line {blank} is blank, and every line counts")
    return dict(enumerate(lines))


def _of_csv(text: str) -> dict[int, str]:
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    names: dict[int, str] = {}
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
        is_heading = not names and len(row) == 2 and not row[0].strip().isdecimal()
        if not row or is_heading:
            continue
        if len(row) != 2:
            raise ValueError(f"expected number and name in a row, got {shown(row)}")
        _put(names, row[0].strip(), row[1])
    return names


def _of_json(text: str) -> dict[int, str]:
    found = json.loads(text, object_pairs_hook=tuple)  # a dict would keep the last of two names
    if not isinstance(found, list | tuple):
        raise ValueError("expected a list of names, or names by number")
    names: dict[int, str] = {}
    for number, name in enumerate(found) if isinstance(found, list) else found:
        _put(names, str(number), name)
    return names


def _put(names: dict[int, str], number: str, name: Any) -> None:
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        raise ValueError(f"{shown(number)} is no number of a class")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"the name of class {number} is {shown(name)}")
    if int(number) in names:
        raise ValueError(f"class {int(number)} has two names")
    names[int(number)] = name


def name_of(label: str, names: Mapping[str, str]) -> str:
    """The name of a class that may only be numbered; else the number, as text."""
    return names.get(label, label)
