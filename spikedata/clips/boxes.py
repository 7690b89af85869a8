"""Files of boxes beside recordings, as PKU-Vidar-DVS has them: annotations with their times.

A file belongs to the recording of the same name: in the same folder (``1.txt`` or ``1_gt.txt``
beside ``1.dat``), in a folder of boxes in it (``labels/1.txt``), or where such a folder stands in
the place of one above the recording (``train/labels/SEQUENCE/1.txt`` for
``train/Vidar/SEQUENCE/1.dat``). Numbers are taken as they stand: x and y of a corner, width and
height, pixels.

Source of the layouts: SpikeCV's readers of PKU-Vidar-DVS and motVidarReal2020.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy

from spikedata.clips.stored import StoredClip
from spikedata.corpora import ListedFile, clean_text, count, some
from spikedata.errors import CorpusError
from spikedata.wording import shown

BOX_SUFFIXES = frozenset([".txt", ".csv", ".npy", ".json"])
BOX_FOLDERS = frozenset(["labels", "label", "annotations", "annotation", "boxes", "bbox", "gt"])
MOST_FILE_BYTES = 16 << 20
_MOST_FOLDERS = 4
"""Above a recording that is opened alone, in which its boxes are looked for."""
_MOST_NOTES = 10
MOST_BOXES = 100_000
"""Of one recording: they are held in its metadata."""

_LAYOUTS: dict[int, tuple[str, ...]] = {
    4: ("x", "y", "width", "height"),
    5: ("x", "y", "width", "height", "label"),
    6: ("tick", "x", "y", "width", "height", "label"),
    **dict.fromkeys(range(7, 11), ("tick", "track", "x", "y", "width", "height")),
}
"""What columns without names mean, by their number: PKU-Vidar-DVS has 4 or 5, of one moment that
is all of the recording; 6 are ours; 7 to 10 are those of MOT (frame, id, box, confidence, ...)."""

_NAMES: dict[str, tuple[str, ...]] = {
    "tick": ("frame", "t"),
    "start_tick": ("start",),
    "end_tick": ("end",),
    "time_s": (),
    "time_us": ("ts", "timestamp"),
    "x": ("left", "xmin", "x1"),
    "y": ("top", "ymin", "y1"),
    "width": ("w",),
    "height": ("h",),
    "label": ("class", "class_id", "category", "category_id"),
    "track": ("id", "track_id"),
}
"""Names that columns may have, and what else each may be called."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Boxes:
    """What one file says."""

    annotations: list[dict[str, Any]]
    """Plain JSON, see ``annotations`` in the store format's document; in order of time."""
    columns: str
    """How its columns were understood."""
    outside: int
    """Boxes before the first or after the last tick, left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxFile:
    """A file that lies where a recording's boxes may."""

    path: Path
    name: str
    """Path below the folder."""
    folder: int | None
    """Depth of the recording's folder in whose place a folder of boxes stands; None where it lies
    beside the recording."""


def find_boxes(files: Sequence[ListedFile], beside: Sequence[ListedFile]) -> dict[Path, BoxFile]:
    """Files that may hold boxes, by the recording that they are called after."""
    there: dict[tuple[str, ...], ListedFile] = {}
    for file in beside:
        there.setdefault((*file.parts[:-1], file.path.stem), file)
    folders = {parts[:depth] for parts in there for depth in range(1, len(parts))}
    named = [folder for folder in folders if folder[-1].casefold() in BOX_FOLDERS]
    trees = sorted(named, key=lambda tree: (-len(tree), tree))
    found: dict[Path, BoxFile] = {}
    for file in files:
        for parts, depth in _places((*file.parts[:-1], file.stem), trees):
            if parts in there:
                box = there[parts]
                found[file.path] = BoxFile(path=box.path, name=box.name, folder=depth)
                break
    return found


def _places(
    parts: tuple[str, ...], trees: Sequence[tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], int | None]]:
    """Where the boxes of a recording may lie: path without suffix, and depth of what it replaces.

    Args:
        parts: path of the recording without its suffix.
        trees: folders called as those of boxes, the deepest first.
    """
    *folders, stem = parts
    yield parts, None
    yield (*folders, f"{stem}_gt"), None
    for tree in trees:
        depth = len(tree) - 1
        if tuple(folders[:depth]) != tree[:-1]:
            continue
        if depth < len(folders):
            yield (*tree, *folders[depth + 1 :], stem), depth
        yield (*tree, *folders[depth:], stem), None


def read_boxes(path: Path, *, ticks: int, tick_rate_hz: float) -> Boxes:
    """Read the boxes of a recording.

    Args:
        path: text or CSV with a box a line, a ``.npy`` with a box a row, or a ``.json`` with a list
            of objects (perhaps as ``boxes`` or ``annotations``).
        ticks: of the recording; a box without a time is one of all of them.
        tick_rate_hz: turns ``time_s`` and ``time_us`` into ticks.

    Raises:
        CorpusError: it is no such file; the message does not name it.
    """
    try:
        size = path.stat().st_size
        if size > MOST_FILE_BYTES:
            raise ValueError(f"has {size:,} bytes, more than {MOST_FILE_BYTES:,}")
        read = {".npy": _of_npy, ".json": _of_json}.get(path.suffix.lower(), _of_text)
        names, rows = read(path)
        if len(rows) > MOST_BOXES:
            raise ValueError(f"holds {len(rows):,} boxes, more than {MOST_BOXES:,}")
        told = [_box(dict(row), number, ticks, tick_rate_hz) for number, row in rows]
    except OSError as error:
        raise CorpusError(f"cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, ArithmeticError, RecursionError, csv.Error) as error:
        raise CorpusError(str(error)) from error
    boxes = [box for box in told if box is not None]
    boxes.sort(key=lambda box: box.get("tick", box.get("start_tick", 0)))
    return Boxes(
        annotations=boxes,
        columns=", ".join(name for name in names if name in _NAMES),
        outside=len(told) - len(boxes),
    )


class BoxNotes:
    """What is told of the boxes of a set, while its recordings are opened."""

    def __init__(self) -> None:
        self._read: dict[str, list[str]] = {}
        self._outside: list[str] = []
        self._refused: list[str] = []

    def annotated(self, stored: StoredClip, file: BoxFile) -> StoredClip:
        """A clip with its boxes; as it was if the file holds none."""
        try:
            rate = stored.tick_rate_hz
            boxes = read_boxes(file.path, ticks=stored.ticks, tick_rate_hz=rate)
        except CorpusError as error:
            self._refused.append(f"{file.name}: not read as boxes: {error}")
            return stored
        if boxes.columns:
            self._read.setdefault(boxes.columns, []).append(file.name)
        if boxes.outside:
            self._outside.append(f"{file.name} ({boxes.outside})")
        if not boxes.annotations:
            return stored
        source = stored.clip.source | {"boxes": file.name}
        attributes = stored.attributes | {"annotations": boxes.annotations}
        return replace(stored, clip=replace(stored.clip, source=source), attributes=attributes)

    def notes(self) -> list[str]:
        """One on each way in which columns were understood, and on what was left out."""
        told = [
            f"boxes of {count(len(names), 'recording')} read as {columns}: {names[0]}"
            for columns, names in self._read.items()
        ]
        if self._outside:
            told.append(
                f"boxes outside the ticks of their recording, left out: {some(self._outside)}"
            )
        told += self._refused[:_MOST_NOTES]
        if len(self._refused) > _MOST_NOTES:
            more = count(len(self._refused) - _MOST_NOTES, "more file")
            told.append(f"{more} not read as boxes")
        return told


def find_boxes_of_one(path: Path) -> BoxFile | None:
    """The file that may hold the boxes of a recording that is opened alone."""
    above = [*path.absolute().parents][:_MOST_FOLDERS]
    root = above[-1]
    parts = path.absolute().relative_to(root).parts
    trees: list[tuple[str, ...]] = []
    for folder in above:
        with suppress(OSError):  # nobody may look into it
            inside = [f for f in folder.iterdir() if f.name.casefold() in BOX_FOLDERS]
            trees += [tree.relative_to(root).parts for tree in inside if tree.is_dir()]
    places = {place for place, _ in _places((*parts[:-1], path.stem), trees)}
    names = [(*place[:-1], place[-1] + suffix) for place in places for suffix in BOX_SUFFIXES]
    beside = [ListedFile(path=root.joinpath(*name), parts=name) for name in sorted(names)]
    there = [file for file in beside if file.path.is_file()]
    return find_boxes([ListedFile(path=path, parts=parts)], there).get(path)


# --- kinds of files -----------------------------------------------------------------------------

Rows = list[tuple[int, Mapping[str, Any]]]
"""Number and values of each box, by the names used here."""


def _of_text(path: Path) -> tuple[list[str], Rows]:
    """Separated by commas, semicolons, tabs or blanks; the first line may name the columns."""
    text = path.read_bytes().decode("utf-8-sig")
    if text.count("\n") > 2 * MOST_BOXES:
        raise ValueError(f"has more than {2 * MOST_BOXES:,} lines")
    lines = [(n, line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    lines = [(n, line) for n, line in lines if not line.startswith("#")]
    if not lines:
        return [], []
    separator = next((mark for mark in ",;\t" if mark in lines[0][1]), None)
    cells = [(n, _cells(line, separator)) for n, line in lines]
    names: Sequence[str] | None = None
    if not _is_number(cells[0][1][0]):
        names = _named(cells.pop(0)[1])
    rows: Rows = []
    is_named = names is not None
    for number, values in cells:
        names = names or _layout(len(values))
        if len(values) != len(cells[0][1]) or (is_named and len(values) != len(names)):
            raise ValueError(f"line {number}: {len(values)} values, expected {len(names)}")
        rows.append((number, dict(zip(names, values, strict=False))))
    if names == _LAYOUTS[5] and all(_is_fraction(value) for _, c in cells for value in c[1:]):
        raise ValueError(
            "columns 2 to 5 lie between 0 and 1, as the fractions of YOLO's files do; expected "
            "pixels: x, y, width, height, class"
        )
    return list(names or ()), rows


def _is_fraction(text: str) -> bool:
    return _is_number(text) and 0 <= float(text) <= 1


def _cells(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    return [cell.strip() for cell in next(csv.reader(io.StringIO(line), delimiter=separator))]


def _of_npy(path: Path) -> tuple[list[str], Rows]:
    """A plain array with a box a row, or a structured one with named fields."""
    with path.open("rb") as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        try:
            shape, _, dtype = read(file)
        except Exception as error:  # whatever a damaged header makes Python's parser raise
            raise ValueError(f"has a header that is not understood: {error}") from error
        if math.prod(shape[:1]) > MOST_BOXES:
            raise ValueError(f"holds {shape[0]:,} boxes, more than {MOST_BOXES:,}")
        if dtype.hasobject:
            raise ValueError("holds objects, expected numbers")
        left = path.stat().st_size - file.tell()
        if math.prod(shape) * dtype.itemsize != left:
            raise ValueError(f"states {dtype} {shape}, and has {left:,} bytes")
    array = np.load(path, allow_pickle=False)
    if array.dtype.names is not None:
        names = _named(array.dtype.names)
        return names, [
            (n, dict(zip(names, row.tolist(), strict=True)))
            for n, row in enumerate(array.reshape(-1), 1)
        ]
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise ValueError(f"is {array.dtype} {array.shape}, expected numbers with a box a row")
    names = list(_layout(array.shape[1]))
    return names, [
        (n, dict(zip(names, row, strict=False))) for n, row in enumerate(array.tolist(), 1)
    ]


def _of_json(path: Path) -> tuple[list[str], Rows]:
    found = json.loads(path.read_bytes().decode("utf-8-sig"))
    if isinstance(found, dict):
        found = next((found[key] for key in ("boxes", "annotations") if key in found), None)
    if not isinstance(found, list) or not all(isinstance(box, dict) for box in found):
        raise ValueError("expected a list of objects, or one in 'boxes' or 'annotations'")
    rows: Rows = []
    every: dict[str, None] = {}
    for number, box in enumerate(found, 1):
        names = _named(list(box))
        every |= dict.fromkeys(names)
        rows.append((number, dict(zip(names, box.values(), strict=True))))
    return list(every), rows


def _layout(columns: int) -> tuple[str, ...]:
    if columns not in _LAYOUTS:
        raise ValueError(
            f"{columns} columns without names, expected x, y, width, height, class, or with the "
            "tick before them; or a first line that names the columns"
        )
    return _LAYOUTS[columns]


def _named(names: Sequence[str]) -> list[str]:
    """What named columns are called here; those that mean nothing by their place.

    Raises:
        ValueError: they are not those of boxes.
    """
    folded = [name.strip().casefold() for name in names]
    known = {word: key for key, words in _NAMES.items() for word in (key, *words)}
    found = [known.get(name, f"_{place}") for place, name in enumerate(folded)]
    if not {"x", "y", "width", "height"}.issubset(found) or len(set(found)) < len(found):
        raise ValueError(f"columns are {shown(list(names))}, expected x, y, width and height")
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- one box ------------------------------------------------------------------------------------


def _box(
    row: dict[str, Any], number: int, ticks: int, tick_rate_hz: float
) -> dict[str, Any] | None:
    """One annotation; None if it lies before the first tick or after the last."""
    try:
        place = {key: _number(row, key) for key in ("x", "y", "width", "height")}
        if place["width"] < 0 or place["height"] < 0:
            raise ValueError(f"width and height are {place['width']} and {place['height']}")
        time = _time(row, ticks, tick_rate_hz)
        if time is None:
            return None
        label = row.get("label")
        track = row.get("track")
        told: dict[str, Any] = {"kind": "box"} | time | place
        told["label"] = None if label in (None, "") else _name(label)
        return told | ({} if track in (None, "") else {"track": _name(track)})
    except ValueError as error:
        raise ValueError(f"box {number}: {error}") from error


def _time(row: Mapping[str, Any], ticks: int, tick_rate_hz: float) -> dict[str, int] | None:
    rate: dict[Literal["time_s", "time_us"], float] = {
        "time_s": tick_rate_hz,
        "time_us": tick_rate_hz / 1e6,
    }
    if "start_tick" in row or "end_tick" in row:
        start, end = _number(row, "start_tick"), _number(row, "end_tick")
        return (
            {"start_tick": int(start), "end_tick": int(end)} if 0 <= start < end <= ticks else None
        )
    for key, per in rate.items():
        if key in row:
            row = {**row, "tick": math.floor(_number(row, key) * per)}
    if "tick" not in row:
        return {"start_tick": 0, "end_tick": ticks}
    tick = _number(row, "tick")
    return {"tick": int(tick)} if 0 <= tick < ticks else None


def _number(row: Mapping[str, Any], key: str) -> int | float:
    value = row.get(key)
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{key} is {shown(value)}, expected a number")
    return int(number) if number.is_integer() else number


def _name(value: Any) -> str:
    """A class or a track as text; a number without a point where it is whole."""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str) and _is_number(value) or isinstance(value, float):
        number = float(value)
        value = int(number) if number.is_integer() else value
    return clean_text(str(value))
