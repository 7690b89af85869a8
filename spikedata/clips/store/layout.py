"""What a store looks like on disk: version, metadata and limits; mirrors the format's document.

Nothing here touches array bytes. Every rule that metadata can break has a code, the same word as
in ``docs/reference/store-format.md``.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import google_crc32c
import numpy as np

from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.clips.rules import (
    FACTS_DIGEST,
    RuleBrokenError,
    check_about,
    check_shape,
    digest_of,
    read_json,
)
from spikedata.clips.stored import SHARDS_DIGEST, StoredClip

FORMAT = "spikedata"
MAJOR, MINOR = 1, 1
VERSION = f"{MAJOR}.{MINOR}"

METADATA = "zarr.json"
CLIPS = "clips"
CATALOG = "catalog.jsonl"
PARTIAL = ".partial"
LOCK = ".lock"

CHUNK_BYTES = 2 << 20
"""A chunk is cut into bands of rows above this, so that it decodes in cache."""
SHARD_BYTES = 32 << 20
"""Packed bytes in a shard, about; bounds what other Zarr writers must hold."""
SHARD_CHUNKS = 256
"""Chunks in a shard at most, so that the index of a tiny picture's clip stays small."""

TAILS = "shard_tails"
"""Key of a clip's ``zarr.json`` for a copy of what lies after the chunks of each shard."""
MAX_TAILS_BYTES = 256 << 10
"""What such a copy may have: who reads a window reads all of it."""
ABSENT = (1 << 64) - 1
"""Offset and length of a chunk that is not there."""
_CHECKSUM_BYTES, _ENTRY_BYTES = 4, 16

MAX_CHUNK_BYTES = 256 << 20
MAX_CHUNKS_PER_SHARD = 1 << 20

DIMENSION_NAMES = ["tick_group", "y", "x"]
TIME_LAST = [1, 2, 0]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreConfig:
    """How a store's arrays are cut and compressed; changes no bit of the spikes."""

    chunk_ticks: int = 128
    """Ticks compressed together, a multiple of 64: longer is smaller, and slower to window."""
    zstd_level: int = 3
    """Effort of compression, 1 to 19."""
    shard_ticks: int | None = None
    """Ticks of a shard at most, but for a first chunk; None: as many as fit."""

    def __post_init__(self) -> None:
        if not 64 <= self.chunk_ticks <= 65_536 or self.chunk_ticks % 64:
            raise ValueError(
                f"chunk_ticks must be a multiple of 64 up to 65536, got {self.chunk_ticks}"
            )
        if not 1 <= self.zstd_level <= 19:
            raise ValueError(f"zstd_level must be 1 to 19, got {self.zstd_level}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayLayout:
    """How one clip's array is cut: shards over ticks, chunks over ticks and bands of rows."""

    groups: int
    """Groups of eight ticks, G."""
    height_px: int
    """Rows, H."""
    width_px: int
    """Columns, W."""
    chunk_groups: int
    """Groups in a chunk."""
    chunk_rows: int
    """Rows in a chunk; the last band may reach below the picture."""
    shard_groups: int
    """Groups in a shard, a multiple of ``chunk_groups``."""
    bands: int
    """Bands of rows, each one chunk high."""
    separator: str = "."
    """Between the numbers of a shard's key."""
    shards_crc32c: tuple[int, ...] | None = None
    """CRC-32C of what lies after the chunks of each shard, as was noted when they were written;
    None where they have no checksums of chunks."""
    tails: tuple[bytes, ...] | None = None
    """What that is, where the clip's own metadata has a copy."""

    @classmethod
    def plan(cls, height_px: int, width_px: int, groups: int, config: StoreConfig) -> Self:
        """The layout this version writes. All but ``groups`` depends on the geometry alone."""
        chunk_groups = config.chunk_ticks // TICKS_PER_GROUP
        bands = min(height_px, -(-chunk_groups * height_px * width_px // CHUNK_BYTES))
        rows = -(-height_px // bands)
        bands = -(-height_px // rows)
        fitting = SHARD_BYTES // (chunk_groups * bands * rows * width_px)
        per_shard = min(fitting, SHARD_CHUNKS // bands)
        if config.shard_ticks is not None:
            per_shard = min(per_shard, config.shard_ticks // config.chunk_ticks)
        per_shard = max(1, per_shard)
        return cls(
            groups=groups,
            height_px=height_px,
            width_px=width_px,
            chunk_groups=chunk_groups,
            chunk_rows=rows,
            shard_groups=chunk_groups * per_shard,
            bands=bands,
        )

    @property
    def chunk_shape(self) -> tuple[int, int, int]:
        """Decoded shape of a chunk in stored order: (rows, columns, groups)."""
        return self.chunk_rows, self.width_px, self.chunk_groups

    @property
    def chunk_bytes(self) -> int:
        """Decoded bytes of a chunk."""
        return self.chunk_rows * self.width_px * self.chunk_groups

    @property
    def chunks_per_shard(self) -> int:
        """Entries in a shard's index."""
        return self.shard_groups // self.chunk_groups * self.bands

    @property
    def shards(self) -> int:
        """Shard files that the clip must have."""
        return -(-self.groups // self.shard_groups)

    def shard_key(self, shard: int) -> str:
        """Path of a shard below the clip's folder."""
        return self.separator.join(["c", str(shard), "0", "0"])

    def chunks_in_shard(self, shard: int) -> int:
        """Index entries that must be filled; those after them lie past the last tick."""
        left = self.groups - shard * self.shard_groups
        return -(-min(left, self.shard_groups) // self.chunk_groups) * self.bands

    def metadata(
        self, attributes: Mapping[str, Any], zstd_level: int, tails: Sequence[bytes] = ()
    ) -> dict[str, Any]:
        """The array's ``zarr.json``; with a copy of what lies after the chunks of each shard."""
        shard_shape = [self.shard_groups, self.bands * self.chunk_rows, self.width_px]
        copy = {TAILS: self._shortened(tails)} if tails else {}
        return copy | {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.groups, self.height_px, self.width_px],
            "data_type": "uint8",
            "chunk_grid": _named("regular", chunk_shape=shard_shape),
            "chunk_key_encoding": _named("default", separator=self.separator),
            "fill_value": 0,
            "codecs": [
                _named(
                    "sharding_indexed",
                    chunk_shape=[self.chunk_groups, self.chunk_rows, self.width_px],
                    codecs=[
                        _named("transpose", order=TIME_LAST),
                        {"name": "bytes"},
                        _named("zstd", level=zstd_level, checksum=False),
                    ],
                    index_codecs=[_named("bytes", endian="little"), {"name": "crc32c"}],
                    index_location="end",
                )
            ],
            "dimension_names": DIMENSION_NAMES,
            "attributes": dict(attributes),
        }

    def _shortened(self, tails: Sequence[bytes]) -> dict[str, Any]:
        """Tails as text, without the entries of chunks that a shard has no room used for."""
        size, per_shard, texts = _CHECKSUM_BYTES, self.chunks_per_shard, []
        for shard, tail in enumerate(tails):
            used = self.chunks_in_shard(shard)
            index = tail[size * per_shard : size * per_shard + _ENTRY_BYTES * used]
            texts.append(base64.b64encode(tail[: size * used] + index).decode())
        return {"must_understand": False, "shards": texts}

    def _lengthened(self, texts: Any) -> tuple[bytes, ...] | None:
        """Undo :meth:`_shortened`; None if that gives not what was noted: it is only a copy."""
        noted = self.shards_crc32c
        if noted is None or not isinstance(texts, list) or len(texts) != len(noted):
            return None
        tails = []
        for shard, text in enumerate(texts):
            used, per_shard = self.chunks_in_shard(shard), self.chunks_per_shard
            try:
                short = base64.b64decode(text, validate=True)
            except (TypeError, ValueError, binascii.Error):
                return None
            checksums, index = short[: _CHECKSUM_BYTES * used], short[_CHECKSUM_BYTES * used :]
            absent = per_shard - used
            tail = checksums + bytes(_CHECKSUM_BYTES * absent)
            tail += index + np.full(2 * absent, ABSENT, "<u8").tobytes()
            if google_crc32c.value(tail) != noted[shard]:
                return None
            tails.append(tail)
        return tuple(tails)

    @classmethod
    def from_metadata(cls, meta: Mapping[str, Any]) -> Self:
        """Read and check an array's ``zarr.json``; nothing is allocated from its numbers.

        Raises:
            RuleBrokenError: it is not laid out as the format says, or is past a limit.
        """
        _expect(meta.get("zarr_format"), 3, "metadata_malformed", "zarr_format")
        _expect(meta.get("node_type"), "array", "metadata_malformed", "node_type")
        _expect(meta.get("data_type"), "uint8", "data_type", "data_type")
        _expect(meta.get("fill_value"), 0, "metadata_malformed", "fill_value")
        _expect(meta.get("dimension_names"), DIMENSION_NAMES, "dimension_names", "dimension_names")
        chunk = _inner_chunk_shape(meta.get("codecs"))
        shape = _three(meta.get("shape"), "shape")
        shard = _three(_configuration(meta, "chunk_grid", "regular").get("chunk_shape"), "shard")
        separator = _configuration(meta, "chunk_key_encoding", "default").get("separator", "/")
        if separator not in (".", "/"):
            raise RuleBrokenError("metadata_malformed", f"separator {separator!r} is not '.' or /")
        _check_sizes(shape, shard, chunk)
        noted = _noted_shards(meta, -(-shape[0] // shard[0]))
        layout = cls(
            groups=shape[0],
            height_px=shape[1],
            width_px=shape[2],
            chunk_groups=chunk[0],
            chunk_rows=chunk[1],
            shard_groups=shard[0],
            bands=shard[1] // chunk[1],
            separator=separator,
            shards_crc32c=noted,
        )
        copy = meta.get(TAILS)
        if not isinstance(copy, dict):
            return layout
        return replace(layout, tails=layout._lengthened(copy.get("shards")))


def _noted_shards(meta: Mapping[str, Any], shards: int) -> tuple[int, ...] | None:
    attributes = meta.get("attributes")
    noted = attributes.get(SHARDS_DIGEST) if isinstance(attributes, dict) else None
    if noted is None:
        return None
    if (
        not isinstance(noted, list)
        or len(noted) != shards
        or not all(type(value) is int and 0 <= value < 1 << 32 for value in noted)
    ):
        raise RuleBrokenError(
            "attributes_malformed", f"{SHARDS_DIGEST} is no list of a CRC-32C for each shard"
        )
    return tuple(noted)


def _named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


def _expect(value: Any, expected: Any, code: str, key: str) -> None:
    if type(value) is not type(expected) or value != expected:
        raise RuleBrokenError(code, f"{key} is {value!r}, expected {expected!r}")


def _configuration(meta: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    found = meta.get(key)
    if not isinstance(found, dict) or found.get("name") != name:
        raise RuleBrokenError("metadata_malformed", f"{key} is {found!r}, expected {name!r}")
    configuration = found.get("configuration", {})
    if not isinstance(configuration, dict):
        raise RuleBrokenError("metadata_malformed", f"{key} has no configuration")
    return configuration


def _three(value: Any, key: str) -> tuple[int, int, int]:
    if isinstance(value, list) and len(value) == 3:
        first, second, third = value
        if all(type(n) is int and n >= 1 for n in value):
            return first, second, third
    raise RuleBrokenError(
        "metadata_malformed", f"{key} is {value!r}, expected three whole numbers of at least 1"
    )


def _inner_chunk_shape(codecs: Any) -> tuple[int, int, int]:
    """Check the codecs, outside in, and give the shape of a chunk."""
    (sharding,) = _codec_chain(codecs, ["sharding_indexed"])
    transpose, plain, _ = _codec_chain(sharding.get("codecs"), ["transpose", "bytes", "zstd"])
    index, _ = _codec_chain(sharding.get("index_codecs"), ["bytes", "crc32c"])
    _expect(transpose.get("order"), TIME_LAST, "codec_unknown", "order of transpose")
    _expect(index.get("endian"), "little", "codec_unknown", "endian of the index")
    _expect(sharding.get("index_location", "end"), "end", "codec_unknown", "index_location")
    return _three(sharding.get("chunk_shape"), "chunk_shape")


def _codec_chain(codecs: Any, names: list[str]) -> list[Mapping[str, Any]]:
    """Configurations of codecs that must have exactly these names."""
    if not isinstance(codecs, list) or not all(isinstance(codec, dict) for codec in codecs):
        raise RuleBrokenError("codec_unknown", f"codecs are {codecs!r}, expected {names}")
    found = [codec.get("name") for codec in codecs]
    if found != names:
        raise RuleBrokenError("codec_unknown", f"codecs are {found}, this version reads {names}")
    configurations = [codec.get("configuration", {}) for codec in codecs]
    if not all(isinstance(configuration, dict) for configuration in configurations):
        raise RuleBrokenError("codec_unknown", f"a configuration of {names} is not an object")
    return configurations


def _check_sizes(
    shape: tuple[int, int, int], shard: tuple[int, int, int], chunk: tuple[int, int, int]
) -> None:
    check_shape(*shape)
    height, width = shape[1:]
    if chunk[0] * chunk[1] * chunk[2] > MAX_CHUNK_BYTES:
        raise RuleBrokenError(
            "size_limit", f"chunk shape {list(chunk)} is past {MAX_CHUNK_BYTES:,} bytes"
        )
    whole_planes = chunk[2] == shard[2] == width and height <= shard[1] < height + chunk[1]
    if shard[0] % chunk[0] or shard[1] % chunk[1] or not whole_planes:
        raise RuleBrokenError(
            "shapes_disagree",
            f"shape {list(shape)}, shard {list(shard)}, chunk {list(chunk)}: a shard must hold "
            "whole planes and whole chunks",
        )
    if shard[0] // chunk[0] * (shard[1] // chunk[1]) > MAX_CHUNKS_PER_SHARD:
        raise RuleBrokenError("size_limit", f"shard {list(shard)} holds too many chunks")


@dataclass(frozen=True, kw_only=True, slots=True)
class RootInfo:
    """The store's own attributes."""

    version: str
    name: str
    class_names: tuple[str, ...]
    recipe: dict[str, Any]
    config: dict[str, Any]
    """How arrays were cut; informative, each array says it itself."""
    clips: int | None = None
    """How many clips there are; None while a writer is at work, or was when it was killed."""
    catalog_sha256: str | None = None
    """Digest of the catalogue's file; None likewise."""

    def metadata(self) -> dict[str, Any]:
        """The root's ``zarr.json``."""
        told = {key: value for key, value in asdict(self).items() if value is not None}
        attributes = {"format": FORMAT} | told | {"class_names": list(self.class_names)}
        attributes[FACTS_DIGEST] = digest_of(attributes)
        return {"zarr_format": 3, "node_type": "group", "attributes": attributes}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check ``zarr.json`` of the store at ``path``.

        Raises:
            RuleBrokenError: not a store, a newer version, or malformed.
        """
        try:
            meta = read_json(path / METADATA, "not_a_store", missing="not_a_store")
        except RuleBrokenError as error:
            raise RuleBrokenError("not_a_store", _why_no_store(path, error)) from error
        attributes = meta.get("attributes")
        if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
            raise RuleBrokenError(
                "not_a_store", f"not a spike store (attribute 'format' is not {FORMAT!r})"
            )
        _check_version(attributes.get("version"))
        _check_root(meta, attributes)
        return cls(
            version=attributes["version"],
            name=attributes.get("name", ""),
            class_names=tuple(attributes["class_names"]),
            recipe=attributes["recipe"],
            config=attributes.get("config", {}),
            clips=attributes.get("clips"),
            catalog_sha256=attributes.get("catalog_sha256"),
        )


def _why_no_store(path: Path, error: RuleBrokenError) -> str:
    """Of a folder that is there, what is wrong with its metadata."""
    if not path.exists():
        return "no such store"
    if not path.is_dir():
        return "not a folder"
    lacks = error.message == f"has no {METADATA}"
    return f"not a spike store (it {error.message})" if lacks else error.message


def _check_version(version: Any) -> None:
    match = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", version) if isinstance(version, str) else None
    if match is None:
        raise RuleBrokenError(
            "version_malformed", f"store version is {version!r}, expected for example '{VERSION}'"
        )
    if int(match[1]) > MAJOR:
        raise RuleBrokenError(
            "version_newer",
            f"store version {match[1]} is newer than this spikedata can read ({MAJOR}). "
            "Upgrade: pip install -U spklip",
        )
    if int(match[1]) < 1:
        raise RuleBrokenError("version_malformed", f"there is no store version {version}")


def _check_root(meta: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    _expect(meta.get("zarr_format"), 3, "metadata_malformed", "zarr_format")
    _expect(meta.get("node_type"), "group", "metadata_malformed", "node_type")
    check_about({"name": ""} | dict(attributes))
    if not isinstance(attributes.get("config", {}), dict):
        raise RuleBrokenError("metadata_malformed", "root attribute 'config' is not an object")
    clips, digest = attributes.get("clips"), attributes.get("catalog_sha256")
    if clips is not None and (type(clips) is not int or clips < 0):
        raise RuleBrokenError("metadata_malformed", "root attribute 'clips' is no number of clips")
    if digest is not None and not isinstance(digest, str):
        raise RuleBrokenError("metadata_malformed", "root attribute 'catalog_sha256' is no string")
    noted = attributes.get(FACTS_DIGEST)
    if noted is not None and noted != digest_of(attributes):
        raise RuleBrokenError(
            "facts_differ",
            f"its recipe, class names or other attributes have SHA-256 {digest_of(attributes)}, "
            f"noted was {noted!r:.70}. Undo the change, or remove {FACTS_DIGEST} from {METADATA}",
        )


def read_clip_metadata(folder: Path) -> tuple[StoredClip, ArrayLayout]:
    """Read and check ``zarr.json`` of the clip in ``folder``.

    Raises:
        RuleBrokenError: missing, malformed, or at odds with itself or with the folder's name.
    """
    meta = read_json(folder / METADATA, "metadata_malformed", missing="metadata_missing")
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
