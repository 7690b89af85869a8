"""One clip that has bits: what is known of it, how that is written down, and how it is checked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spikedata import bits
from spikedata.bits import BitsHasher, group_count
from spikedata.clip import SPLITS, Clip
from spikedata.clips.accounts import camera_of, losses_of, lost_spans
from spikedata.clips.rules import (
    FACTS_DIGEST,
    RuleBrokenError,
    check_id,
    check_shape,
    compact_json,
    digest_of,
    parse_json,
)

CLIP_KEYS = ("id", "label", "captions", "split", "group", "licence", "source")
RELABELLED_KEYS = ("label", "captions", "split", "group")
"""What may be told of a clip anew once it has bits."""
MEASURED_KEYS = ("ticks", "tick_rate_hz", "bits_sha256", "spikes")
GEOMETRY_KEYS = ("height_px", "width_px")
SHARDS_DIGEST = "shards_crc32c"
RESERVED_KEYS = frozenset((*CLIP_KEYS, *MEASURED_KEYS, *GEOMETRY_KEYS, FACTS_DIGEST, SHARDS_DIGEST))


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredClip:
    """A clip that has bits: its metadata, geometry and what was measured when it was written."""

    clip: Clip
    """Id, label, captions, split, group, licence, source."""
    ticks: int
    """Number of ticks, T."""
    height_px: int
    """Rows."""
    width_px: int
    """Columns."""
    tick_rate_hz: float
    """Ticks a second."""
    bits_sha256: str
    """Digest of the bits, see :class:`spikedata.bits.BitsHasher`; empty if nobody has read them."""
    spikes: int | None
    """Number of ones among the bits; None if nobody has counted them."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """How it was made: sensor, video account, versions; plain JSON."""

    @property
    def id(self) -> str:
        """Unique in its set of clips."""
        return self.clip.id

    @property
    def label(self) -> str | None:
        """Class name."""
        return self.clip.label

    @property
    def size(self) -> str:
        """Rows and columns, ``240x320``."""
        return f"{self.height_px}x{self.width_px}"

    @property
    def pixel_ticks(self) -> int:
        """Ticks times pixels: how many bits the clip has."""
        return self.ticks * self.height_px * self.width_px

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed bits before compression."""
        return group_count(self.ticks) * self.height_px * self.width_px

    @property
    def firing_rate(self) -> float | None:
        """Spikes per pixel and tick; None if nobody has counted them."""
        return None if self.spikes is None else self.spikes / self.pixel_ticks

    @property
    def annotations(self) -> int:
        """How many boxes or the like are noted of parts of it."""
        told = self.attributes.get("annotations")
        return len(told) if isinstance(told, list) else 0

    @property
    def losses(self) -> dict[str, int]:
        """What was lost, or made good, on the way to the bits; empty if nothing was."""
        return losses_of(self.attributes)

    @property
    def camera(self) -> str | None:
        """Name of the camera whose file it was; None of a simulated clip."""
        return camera_of(self.attributes)

    def row(self) -> dict[str, Any]:
        """The clip's line in a list of clips, plain JSON."""
        lost = lost_spans(self.attributes)
        return {
            "id": self.id,
            "label": self.label,
            "split": self.clip.split,
            "size": self.size,
            "ticks": self.ticks,
            "tick_rate_hz": self.tick_rate_hz,
            "camera": self.camera,
            "ticks_lost": sum(ticks for _, ticks, _ in lost),
            "lost_spans": len(lost),
        }

    def facts(self) -> dict[str, Any]:
        """All that is known of the clip, plain JSON.

        Raises:
            ValueError: an attribute has the name of a key that the format itself uses.
        """
        taken = sorted(RESERVED_KEYS & set(self.attributes))
        if taken:
            raise ValueError(f"attributes {taken} have names that the store format uses itself")
        known = {key: getattr(self, key) for key in (*MEASURED_KEYS, *GEOMETRY_KEYS)}
        return self.attributes | self.clip.to_dict() | known

    def facts_sha256(self) -> str:
        """Digest of :meth:`facts`, hexadecimal: of their JSON on one line."""
        return digest_of(self.facts())

    def array_attributes(self) -> dict[str, Any]:
        """The attributes of the clip's array, plain JSON: facts without geometry, and the digest.

        Raises:
            ValueError: an attribute has the name of a key that the format itself uses.
        """
        facts = self.facts()
        rest = {key: value for key, value in facts.items() if key not in GEOMETRY_KEYS}
        return rest | {FACTS_DIGEST: digest_of(facts)}

    def catalog_line(self) -> bytes:
        """The clip's line in the catalogue: its facts and their digest, id first."""
        facts = self.facts()
        rest = facts | {FACTS_DIGEST: digest_of(facts)}
        return compact_json({"id": rest.pop("id")})[:-1] + b"," + compact_json(rest)[1:]

    @classmethod
    def from_catalog_line(cls, line: bytes) -> Self:
        """Undo :meth:`catalog_line`.

        Raises:
            RuleBrokenError: a key is missing or has a value that does not fit.
        """
        row = parse_json(line, "attributes_malformed", "a catalogue line")
        return cls.from_array_attributes(row, *(row.pop(key, None) for key in GEOMETRY_KEYS))

    @classmethod
    def from_array_attributes(
        cls, attributes: Mapping[str, Any], height_px: Any, width_px: Any
    ) -> Self:
        """Undo :meth:`array_attributes`.

        Raises:
            RuleBrokenError: a key is missing or has a value that does not fit.
        """
        made = {k: v for k, v in attributes.items() if k not in RESERVED_KEYS}
        return cls.from_file(attributes, made, height_px, width_px)

    @classmethod
    def from_file(
        cls, known: Mapping[str, Any], attributes: Any, height_px: Any, width_px: Any
    ) -> Self:
        """A clip of what any kind of file says; nothing of it is trusted.

        Args:
            known: values of :data:`CLIP_KEYS` and :data:`MEASURED_KEYS`, and the digest of all
                facts where one was noted; others are passed over.
            attributes: how the clip was made.
            height_px: rows.
            width_px: columns.

        Raises:
            RuleBrokenError: a key is missing, a value does not fit, a size is past its limit, or
                the facts are not those noted.
        """
        check_attributes(known)
        if not isinstance(attributes, dict) or RESERVED_KEYS & attributes.keys():
            expected = "an object without the format's own keys"
            raise _wrong_attribute("attributes", attributes, expected)
        height_px, width_px = _whole(height_px, "height_px"), _whole(width_px, "width_px")
        check_shape(group_count(known["ticks"]), height_px, width_px)
        stored = cls(
            clip=Clip.from_dict({key: known[key] for key in CLIP_KEYS}),
            ticks=known["ticks"],
            height_px=height_px,
            width_px=width_px,
            tick_rate_hz=float(known["tick_rate_hz"]),
            bits_sha256=known["bits_sha256"],
            spikes=known["spikes"],
            attributes=attributes,
        )
        noted = known.get(FACTS_DIGEST)
        if noted is not None and noted != stored.facts_sha256():
            raise RuleBrokenError(
                "facts_differ",
                f"its label, split or other facts have SHA-256 {stored.facts_sha256()}, noted was "
                f"{noted!r:.70}",
            )
        return stored


def check_attributes(attributes: Mapping[str, Any]) -> None:
    """Check presence and type of the attributes that every clip must have.

    Raises:
        RuleBrokenError: a key is missing or has a value that does not fit.
    """
    for key in CLIP_KEYS + MEASURED_KEYS:
        if key not in attributes:
            raise RuleBrokenError("attribute_missing", f"attribute {key!r} is missing")
    for key in ("label", "split", "group", "licence"):
        if attributes[key] is not None and not isinstance(attributes[key], str):
            raise _wrong_attribute(key, attributes[key], "a string or null")
    if attributes["split"] not in (None, *SPLITS):
        expected = f"null, {', '.join(SPLITS[:-1])} or {SPLITS[-1]}"
        raise _wrong_attribute("split", attributes["split"], expected)
    captions = attributes["captions"]
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise _wrong_attribute("captions", captions, "a list of strings")
    if not isinstance(attributes["source"], dict):
        raise _wrong_attribute("source", attributes["source"], "an object")
    digest = attributes["bits_sha256"]
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise _wrong_attribute("bits_sha256", digest, "64 lower-case hexadecimal digits")
    rate = attributes["tick_rate_hz"]
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1e15:
        raise _wrong_attribute("tick_rate_hz", rate, "a positive number")
    _whole(attributes["ticks"], "ticks")
    _whole(attributes["spikes"], "spikes", least=0)
    check_id(attributes["id"])


def _whole(value: Any, key: str, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= 1 << 62:
        raise _wrong_attribute(key, value, f"a whole number of at least {least}")
    return value


def _wrong_attribute(key: str, value: Any, expected: str) -> RuleBrokenError:
    shown = repr(value) if len(repr(value)) < 80 else repr(value)[:76] + "..."
    return RuleBrokenError(
        "attributes_malformed", f"attribute {key!r} is {shown}, expected {expected}"
    )


class BitsMeter:
    """Digest and count of a clip's bits, fed block by block; compares them with those noted."""

    def __init__(self) -> None:
        self._hasher = BitsHasher()
        self.spikes = 0

    def copy(self) -> "BitsMeter":
        """One that has been fed the same, and goes on by itself."""
        other = BitsMeter()
        other._hasher, other.spikes = self._hasher.copy(), self.spikes
        return other

    def update(self, packed_ghw: NDArray[np.uint8]) -> None:
        """Add the next whole groups (only the last block may end inside a group)."""
        packed_ghw = np.ascontiguousarray(packed_ghw)
        self._hasher.update(packed_ghw)
        self.spikes += bits.count_ones(packed_ghw)

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._hasher.hexdigest()

    def check(self, stored: StoredClip) -> None:
        """Compare with what is noted, as far as something is.

        Raises:
            RuleBrokenError: the digest or the count is another.
        """
        if stored.bits_sha256 and self.hexdigest() != stored.bits_sha256:
            raise RuleBrokenError(
                "bits_differ",
                f"its bits have SHA-256 {self.hexdigest()}, noted was {stored.bits_sha256}",
            )
        if stored.spikes is not None and self.spikes != stored.spikes:
            raise RuleBrokenError(
                "spikes_differ", f"holds {self.spikes} spikes, noted were {stored.spikes}"
            )

    def measured(self, stored: StoredClip) -> StoredClip:
        """The clip with its digest and count.

        Raises:
            RuleBrokenError: others are noted.
        """
        self.check(stored)
        return replace(stored, bits_sha256=self.hexdigest(), spikes=self.spikes)
