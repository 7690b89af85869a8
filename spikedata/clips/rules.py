"""What every kind of clips on disk refuses: sizes, ids, labels, JSON and bits that break a rule.

Every rule has a code, the same word as in ``docs/reference/store-format.md``.
"""

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import TICKS_PER_GROUP
from spikedata.clip import Clip, check_clip_id
from spikedata.errors import StoreError
from spikedata.remote import RemotePath

MAX_SIDE_PX = 65_535
MAX_GROUPS = 1 << 40
MAX_METADATA_BYTES = 64 << 20

_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One rule of the format that a store breaks."""

    code: str
    """The rule, as the format's document names it."""
    clip: str | None
    """The clip that breaks it; None for the store itself."""
    message: str
    """What was found and what was expected."""


class RuleBrokenError(StoreError):
    """A store breaks a rule of the format; carries the rule's code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def at(self, path: Path | str, clip_id: str | None = None) -> "RuleBrokenError":
        """The same, with where it happened put in front."""
        where = f"{path}: " if clip_id is None else f"{path}: clip {clip_id}: "
        return RuleBrokenError(self.code, where + self.message)


def check_id(clip_id: Any) -> str:
    """Return a clip id that is safe as a path name.

    Raises:
        RuleBrokenError: it is not.
    """
    if isinstance(clip_id, str) and _PLAIN_ID.fullmatch(clip_id):
        return clip_id
    try:
        return check_clip_id(clip_id) if isinstance(clip_id, str) else check_clip_id("")
    except ValueError as error:
        raise RuleBrokenError("clip_id_unsafe", str(error)) from error


def find_collisions(names: Iterable[str]) -> list[Problem]:
    """Ids that would be one file where a file system ignores case."""
    found, seen = [], dict[str, str]()
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            message = f"would be one file with {other!r} where case is ignored"
            found.append(Problem("clip_ids_collide", name, message))
    return found


def check_shape(groups: int, height_px: int, width_px: int) -> None:
    """Check an array's shape, G x H x W, against the format's limits.

    Raises:
        RuleBrokenError: it is past one.
    """
    if groups > MAX_GROUPS or max(height_px, width_px) > MAX_SIDE_PX:
        raise RuleBrokenError(
            "size_limit",
            f"shape {[groups, height_px, width_px]} is past "
            f"[{MAX_GROUPS}, {MAX_SIDE_PX}, {MAX_SIDE_PX}]",
        )


def check_about(about: Mapping[str, Any]) -> None:
    """Check what every kind of data set says of itself: ``class_names``, ``recipe``, ``name``.

    Raises:
        RuleBrokenError: one is missing or has a value that does not fit.
    """
    names = about.get("class_names")
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) != len(names)
    ):
        raise RuleBrokenError("class_names", "class_names must be a list of distinct strings")
    if not isinstance(about.get("recipe"), dict):
        raise RuleBrokenError("metadata_malformed", "root attribute 'recipe' is not an object")
    if not isinstance(about.get("name"), str):
        raise RuleBrokenError("metadata_malformed", "root attribute 'name' is not a string")


def check_label(clip: Clip, class_names: Collection[str]) -> None:
    """Check that a clip's label is one of the data set's.

    Raises:
        RuleBrokenError: it is not.
    """
    if clip.label is not None and clip.label not in class_names:
        raise RuleBrokenError(
            "label_unknown",
            f"clip {clip.id}: label {clip.label!r} is not among the {len(class_names)} class names",
        )


def label_of(number: Any, class_names: Sequence[str]) -> str | None:
    """The label that a column holds as its place among the class names.

    Raises:
        RuleBrokenError: there is no such place.
    """
    if number is None:
        return None
    if type(number) is not int or not 0 <= number < len(class_names):
        raise RuleBrokenError(
            "label_unknown", f"label {number!r} is not a place among {len(class_names)} class names"
        )
    return class_names[number]


def check_past_end(packed_ghw: NDArray[np.uint8], ticks: int) -> None:
    """Check that the last of a clip's groups, uint8 (G, H, W), holds nothing after its last tick.

    Raises:
        RuleBrokenError: it does.
    """
    used = ticks % TICKS_PER_GROUP
    if used and (packed_ghw[-1] >> used).any():
        raise RuleBrokenError("bits_past_end", f"has bits past its last tick ({ticks})")


def read_json(path: Path, code: str, *, missing: str | None = None) -> dict[str, Any]:
    """Read one JSON object from a file.

    Args:
        path: the file.
        code: of the rule that says it is JSON.
        missing: of the rule that says it is there, if there is one.

    Raises:
        RuleBrokenError: too large, or not a JSON object, or not there.
        StoreError: the file cannot be read.
    """
    try:
        text = _read_at_most(path, MAX_METADATA_BYTES + 1)
    except OSError as error:
        if missing is not None and isinstance(error, _NO_FILE):
            raise RuleBrokenError(missing, f"has no {path.name}") from error
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > MAX_METADATA_BYTES:
        raise RuleBrokenError("size_limit", f"{path.name} is past {MAX_METADATA_BYTES:,} bytes")
    return parse_json(text, code, path.name)


_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def _read_at_most(path: Path, length: int) -> bytes:
    if isinstance(path, RemotePath):
        return path.read_range(0, length)
    with path.open("rb") as file:
        return file.read(length)


def parse_json(text: bytes, code: str, what: str) -> dict[str, Any]:
    """Parse one JSON object, and only what can be written as JSON again.

    Raises:
        RuleBrokenError: it is not UTF-8 or not JSON, or holds a number that is not finite or half
            a surrogate pair; with ``code``.
    """
    try:
        found = json.loads(text.decode(), parse_float=_finite, parse_constant=_finite)
        if b"\\u" in text:
            compact_json(found)  # half a surrogate pair is no UTF-8
    except (ValueError, RecursionError) as error:
        raise RuleBrokenError(code, f"{what} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise RuleBrokenError(code, f"{what} is not a JSON object")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


FACTS_DIGEST = "facts_sha256"


def digest_of(facts: Mapping[str, Any]) -> str:
    """SHA-256, hexadecimal, of facts as JSON on one line, without the digest among them.

    Raises:
        ValueError: a number is not finite, or a string holds half a surrogate pair.
        TypeError: a value is not JSON.
    """
    rest = {key: value for key, value in facts.items() if key != FACTS_DIGEST}
    return hashlib.sha256(compact_json(rest)).hexdigest()


def pretty_json(value: Any) -> bytes:
    """JSON for a metadata file: the same bytes for the same values."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def as_json(values: dict[str, Any]) -> dict[str, Any]:
    """Values as they will be read back: tuples become lists; what is not JSON is refused."""
    return parse_json(compact_json(values), "metadata_malformed", "values")


def compact_json(value: Any) -> bytes:
    """JSON on one line: the same bytes for the same values."""
    text = json.dumps(
        value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return text.encode()
