"""One clip as a store knows it: the attributes of its array and its line in the catalogue."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from spikedata.catalog import Clip
from spikedata.store.layout import (
    METADATA,
    ArrayLayout,
    RuleBrokenError,
    check_id,
    compact_json,
    parse_json,
    read_json,
)
from spikedata.stream import group_count

CLIP_KEYS = ("id", "label", "captions", "split", "group", "licence", "source")
MEASURED_KEYS = ("ticks", "tick_rate_hz", "bits_sha256", "spikes")
GEOMETRY_KEYS = ("height_px", "width_px")
RESERVED_KEYS = frozenset(CLIP_KEYS + MEASURED_KEYS + GEOMETRY_KEYS)


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
    """Digest of the bits; see :class:`spikedata.stream.BitsHasher`."""
    spikes: int
    """Number of ones among the bits."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """How it was made: sensor, video account, versions; plain JSON."""

    @property
    def firing_rate(self) -> float:
        """Spikes per pixel and tick."""
        return self.spikes / (self.ticks * self.height_px * self.width_px)

    def array_attributes(self) -> dict[str, Any]:
        """The attributes of the clip's array, plain JSON.

        Raises:
            ValueError: an attribute has the name of a key that the format itself uses.
        """
        taken = sorted(RESERVED_KEYS & set(self.attributes))
        if taken:
            raise ValueError(f"attributes {taken} have names that the store format uses itself")
        measured = {key: getattr(self, key) for key in MEASURED_KEYS}
        return self.attributes | self.clip.to_dict() | measured

    def catalog_line(self) -> bytes:
        """The clip's line in the catalogue: the attributes and the geometry, id first."""
        rest = self.array_attributes() | {key: getattr(self, key) for key in GEOMETRY_KEYS}
        return compact_json({"id": rest.pop("id")})[:-1] + b"," + compact_json(rest)[1:]

    @classmethod
    def from_catalog_line(cls, line: bytes) -> Self:
        """Undo :meth:`catalog_line`.

        Raises:
            RuleBrokenError: a key is missing or has a value that does not fit.
        """
        row = parse_json(line, "attributes_malformed", "a catalogue line")
        height, width = (_whole(row.pop(key, None), key) for key in GEOMETRY_KEYS)
        return cls.from_array_attributes(row, height, width)

    @classmethod
    def from_array_attributes(
        cls, attributes: Mapping[str, Any], height_px: int, width_px: int
    ) -> Self:
        """Undo :meth:`array_attributes`.

        Raises:
            RuleBrokenError: a key is missing or has a value that does not fit.
        """
        check_attributes(attributes)
        return cls(
            clip=Clip.from_dict({key: attributes[key] for key in CLIP_KEYS}),
            ticks=attributes["ticks"],
            height_px=height_px,
            width_px=width_px,
            tick_rate_hz=float(attributes["tick_rate_hz"]),
            bits_sha256=attributes["bits_sha256"],
            spikes=attributes["spikes"],
            attributes={k: v for k, v in attributes.items() if k not in RESERVED_KEYS},
        )


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


def read_clip_metadata(folder: Path) -> tuple[StoredClip, ArrayLayout]:
    """Read and check ``zarr.json`` of the clip in ``folder``.

    Raises:
        RuleBrokenError: missing, malformed, or at odds with itself or with the folder's name.
    """
    if not (folder / METADATA).is_file():
        raise RuleBrokenError("metadata_missing", f"has no {METADATA}")
    meta = read_json(folder / METADATA, "metadata_malformed")
    layout = ArrayLayout.from_metadata(meta)
    attributes = meta.get("attributes")
    if not isinstance(attributes, dict):
        raise RuleBrokenError("metadata_malformed", "has no attributes")
    stored = StoredClip.from_array_attributes(attributes, layout.height_px, layout.width_px)
    if stored.clip.id != folder.name:
        raise RuleBrokenError("id_disagrees", f"says its id is {stored.clip.id!r}")
    if layout.groups != group_count(stored.ticks):
        raise RuleBrokenError(
            "ticks_disagree",
            f"{stored.ticks} ticks need {group_count(stored.ticks)} groups, shape has "
            f"{layout.groups}",
        )
    return stored, layout
