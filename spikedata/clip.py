"""What is known of a clip besides its bits: id, label, captions, split, group, source, licence."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

MAX_ID_BYTES = 200
"""File systems allow 255 bytes a name; writers need room for a suffix."""

SPLITS = ("train", "validation", "test")
"""What a clip may be for."""

BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Embeddings, overrides and isolates of the direction of writing; and the byte order mark."""

_PLAIN = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9_.-]{0,198}[A-Za-z0-9_-])?")
"""Ids that are safe beyond doubt, as most are: of thousands each need not be looked at closely."""

_FORBIDDEN = frozenset('/\\:*?"<>|')


def is_dangerous(character: str) -> bool:
    """Whether a character may break a path, a line or the order in which a name is shown.

    Control characters, half a surrogate pair, private and unassigned ones, and overrides of the
    direction of writing; not the joiners and variation selectors that languages and emoji need.
    """
    return unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn") or (
        character in BIDI_CONTROLS
    )


def is_plain_id(clip_id: str) -> bool:
    """Whether an id has but ASCII letters, digits and inner dots, and is short."""
    return _PLAIN.fullmatch(clip_id) is not None


def check_clip_id(clip_id: str) -> str:
    """Return ``clip_id`` if it is safe as one path name on every file system.

    Raises:
        ValueError: empty, too long, ``.``-leading, with a separator, a control or reserved
            character, or not in Unicode normal form C.
    """
    if is_plain_id(clip_id):
        return clip_id
    if not clip_id:
        raise ValueError("clip id is empty")
    if clip_id.startswith("."):
        raise ValueError(f"clip id {clip_id!r} starts with a dot")
    if clip_id != clip_id.strip() or clip_id.endswith("."):
        raise ValueError(f"clip id {clip_id!r} starts or ends with a space, or ends with a dot")
    bad = sorted({c for c in clip_id if c in _FORBIDDEN or is_dangerous(c)})
    if bad:
        raise ValueError(f"clip id {clip_id!r} holds {', '.join(map(repr, bad))}")
    if unicodedata.normalize("NFC", clip_id) != clip_id:
        raise ValueError(f"clip id {clip_id!r} is not in Unicode normal form C")
    if len(clip_id.encode()) > MAX_ID_BYTES:
        raise ValueError(f"clip id {clip_id[:40]!r}... is longer than {MAX_ID_BYTES} bytes")
    return clip_id


def check_distinct_ids(clip_ids: Iterable[str]) -> None:
    """Check that no two ids would be one file on a file system that ignores case.

    Raises:
        ValueError: two ids are the same, at least after case folding.
    """
    seen: dict[str, str] = {}
    for clip_id in clip_ids:
        folded = clip_id.casefold()
        if folded in seen:
            raise ValueError(f"clip ids {seen[folded]!r} and {clip_id!r} would be one file")
        seen[folded] = clip_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One labelled clip, before or after it has bits.

    Raises:
        ValueError: the id is not safe as a path name, or there is no such split.
    """

    id: str
    """Unique in its store; becomes a path name."""
    label: str | None = None
    """Class name, as the corpus spells it."""
    captions: tuple[str, ...] = ()
    """Sentences that describe the clip."""
    split: str | None = None
    """``train``, ``validation`` or ``test``."""
    group: str | None = None
    """Clips of one group share a scene; no group is on both sides of a split."""
    licence: str | None = None
    """SPDX identifier or name of the source's licence."""
    source: dict[str, Any] = field(default_factory=dict)
    """Where it came from: ``name`` (relative path), ``sha256``, and what the reader adds, such as
    ``official_splits``."""

    def __post_init__(self) -> None:
        check_clip_id(self.id)
        if self.split is not None and self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} is none of {', '.join(SPLITS)}")

    @property
    def official_splits(self) -> dict[int, str]:
        """What the clip is for in each official split of its corpus that uses it, by number.

        Read from ``source``; what is no split there counts as not there.
        """
        told = self.source.get("official_splits")
        pairs = told.items() if isinstance(told, dict) else ()
        return {
            int(number): name
            for number, name in pairs
            if name in SPLITS
            and isinstance(number, str)
            and re.fullmatch("[1-9][0-9]{0,3}", number)
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the clip's own; :meth:`from_dict` undoes it."""
        # dataclasses.asdict copies what is within, which costs ten times as much for each clip.
        told = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return told | {"captions": list(self.captions), "source": dict(self.source)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Clip from :meth:`to_dict`'s values.

        Raises:
            ValueError: the id is not safe as a path name, or there is no such split.
            TypeError: a key is missing or unknown.
        """
        return cls(**values | {"captions": tuple(values.get("captions", ()))})


def torn_groups(clips: Iterable[Clip]) -> dict[str, dict[str, int]]:
    """Groups on several sides of a split, sorted, with the number of clips on each side.

    Training on one side of them leaks into the other.
    """
    sides: dict[str, Counter[str]] = {}
    for clip in clips:
        if clip.group is not None and clip.split is not None:
            sides.setdefault(clip.group, Counter())[clip.split] += 1
    return {group: dict(sides[group]) for group in sorted(sides) if len(sides[group]) > 1}
