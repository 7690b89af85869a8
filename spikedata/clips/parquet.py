"""Clips as Parquet, one row a clip: what the Hub serves and plain ``datasets`` reads.

Laid down in ``docs/reference/hub-dataset.md``. The bits of a clip are a list of zstd frames, one
for each ``chunk_ticks`` ticks, each a C-ordered array (H, W, g) of bytes that hold eight ticks.
The same clips and settings always give the same bytes, so an interrupted upload can go on.

Shapes: G = ceil(T / 8) groups of eight ticks, g groups in a chunk, H rows, W columns, P pixels.
"""

import contextlib
import functools
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spikedata import bits
from spikedata.clips.crew import Chunks, Crew
from spikedata.clips.encoding import Done, Failed, encode_all
from spikedata.clips.formats import parquet_files
from spikedata.clips.frames import ClipFrames, check_chunk, compress_frame
from spikedata.clips.pages import Place, find_values, read_at
from spikedata.clips.rules import (
    FACTS_DIGEST,
    RuleBrokenError,
    check_about,
    check_label,
    digest_of,
    label_of,
    parse_json,
)
from spikedata.clips.shards import Shard, ShardSet, plan_shards
from spikedata.clips.source import ClipSource
from spikedata.clips.stored import BitsMeter, StoredClip
from spikedata.errors import StoreError
from spikedata.outputs import Failure, written_aside
from spikedata.remote import RemotePath, place

FORMAT = "spikedata-parquet"
VERSION = "1.1"
CHUNK_TICKS = 256
"""Ticks in a zstd frame: longer is smaller, and a short window costs more."""
CLIPS_PER_ROW_GROUP = 4
ROW_GROUP_BYTES = 32 << 20
"""A row group ends at this many compressed bytes or that many clips."""
DEFAULT_LEVEL = 7
"""On simulated video zstd 7 is 10% smaller than 3; 9 gains 0.6% more for a third more time."""

MAX_CLIP_BYTES = 1 << 30
"""Compressed bytes of a clip: half of what Arrow's lists of binary can hold, since whoever reads a
row holds it whole, with plain ``datasets`` twice."""


def write_parquet(
    source: ClipSource, path: Path, *, level: int, workers: int, done: Done, failed: Failed
) -> None:
    """Write every clip of ``source`` to a folder of shards; see :func:`write_shard`."""
    for shard in plan_shards(source):
        write_shard(
            source, shard, path / shard.name, level=level, workers=workers, done=done, failed=failed
        )


def write_shard(
    source: ClipSource,
    shard: Shard,
    path: Path,
    *,
    level: int = DEFAULT_LEVEL,
    workers: int = 1,
    with_bits: bool = True,
    done: Done | None = None,
    failed: Failed | None = None,
) -> None:
    """Write one shard; memory is bounded by a row group and the clips under way.

    Args:
        source: where the clips' bits are.
        shard: which clips.
        path: file to write; it appears whole or not at all.
        level: zstd level, 1 to 22.
        workers: threads; several clips are encoded at once, or several chunks of one.
        with_bits: False leaves bits and previews out: recipes only.
        done: told of each clip written, with its digest.
        failed: told of each clip that could not be read; without it, that is raised.

    Raises:
        StoreError: a clip's bits are not those noted when it was written, it is damaged, too large
            for a row, or its label is not among the class names.
    """
    schema = arrow_schema(source, of_set=shard.of_set, with_bits=with_bits)
    clips = [source.clips[clip_id] for clip_id in shard.clip_ids]

    def encode(stored: StoredClip) -> tuple[StoredClip, dict[str, Any]]:
        check_label(stored.clip, source.class_names)
        if with_bits:
            return _encode_row(source, stored, level, crew)
        return stored, _facts_row(stored, source.class_names)

    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        written_aside(path, overwrite=True) as aside,
        _open_writer(aside, schema) as writer,
        Crew(workers) as crew,
    ):
        group = _RowGroup(writer, schema)
        for stored, row in encode_all(encode, clips, crew, failed):
            group.add(row)
            if done is not None:
                done(stored)
        group.flush()


def check_shard(path: Path, class_names: Sequence[str]) -> None:
    """Check every page of a shard, the previews' too, and what it tells plain ``datasets``.

    The bits have digests of their own, see :meth:`ClipSource.verify`.

    Raises:
        StoreError: it is damaged.
    """
    with (
        _told_of(path),
        pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as parquet,
    ):
        for group in range(parquet.num_row_groups):
            parquet.read_row_group(group, use_threads=False)
        told = (parquet.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        features = parse_json(told, "metadata_malformed", "key huggingface").get("info", {})
        label = features.get("features", {}).get("label", {})
        if label.get("names", []) != list(class_names):
            raise StoreError("tells other class names to `datasets` than to spikedata")


def _open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # The bits are compressed already, and previews are PNG.
    return pq.ParquetWriter(
        path,
        schema,
        compression="NONE",
        use_dictionary=False,
        write_statistics=["id"],
        write_page_checksum=True,
    )


class _RowGroup:
    """Rows that wait to be written together."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, row: dict[str, Any]) -> None:
        size = sum(map(len, row.get("bits", ())))
        if self._rows and self._bytes + size > ROW_GROUP_BYTES:
            self.flush()
        self._rows.append(row)
        self._bytes += size
        if len(self._rows) == CLIPS_PER_ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            table = pa.Table.from_pylist(self._rows, schema=self._schema)
            self._writer.write_table(table, row_group_size=len(self._rows))
        self._rows, self._bytes = [], 0


def arrow_schema(
    source: ClipSource, *, of_set: ShardSet | None = None, with_bits: bool = True
) -> pa.Schema:
    """Columns, with the features that ``datasets`` needs and what :func:`open_parquet` needs."""
    # half a second to load, and reading needs it not
    from datasets import ClassLabel, Features, Image, List, Value  # noqa: PLC0415

    kinds = {
        "text": Value("string"),
        "whole": Value("int64"),
        "real": Value("float64"),
        "texts": List(Value("string")),
        "binaries": List(Value("binary")),
        "picture": Image(),
    }
    names = list(source.class_names)
    columns = {
        name: kinds[kind]
        for name, kind in _COLUMNS.items()
        if with_bits or name not in _ONLY_WITH_BITS
    }
    if names:
        columns["label"] = ClassLabel(names=names)
    about = _about_set(source, of_set)
    schema = Features(columns).arrow_schema
    # Labels become numbers here, since Arrow knows nothing of class names.
    return schema.with_metadata((schema.metadata or {}) | {b"spikedata": about.encode()})


def _about_set(source: ClipSource, of_set: ShardSet | None) -> str:
    """What a file says of its data set, as JSON."""
    ours = {
        "format": FORMAT,
        "version": VERSION,
        "name": source.name,
        "class_names": list(source.class_names),
        "recipe": source.recipe,
    }
    if of_set is not None:
        ours |= {"shards": list(of_set.names), "set_sha256": of_set.sha256}
    ours |= {FACTS_DIGEST: digest_of(ours)}
    return json.dumps(ours, sort_keys=True, ensure_ascii=False)


_SCHEMA_COPY = b"ARROW:schema"
"""Key of the footer under which Arrow keeps its schema, metadata included."""
_COLUMNS = {
    "id": "text",
    "preview": "picture",
    "label": "whole",
    "captions": "texts",
    "split": "text",
    "group": "text",
    "licence": "text",
    "source": "text",
    "source_sha256": "text",
    "ticks": "whole",
    "tick_rate_hz": "real",
    "height": "whole",
    "width": "whole",
    "threshold": "real",
    "spikes": "whole",
    "bits_sha256": "text",
    "facts_sha256": "text",
    "provenance": "text",
    "chunk_ticks": "whole",
    "bits": "binaries",
}
_ONLY_WITH_BITS = ("preview", "chunk_ticks", "bits")


def _encode_row(
    source: ClipSource, stored: StoredClip, level: int, crew: Crew
) -> tuple[StoredClip, dict[str, Any]]:
    check_chunk(stored, CHUNK_TICKS)
    preview = b""
    frames: list[bytes] = []
    meter = BitsMeter()
    coming: Chunks[bytes] = Chunks(crew)
    try:
        for block_ghw in source.checked_blocks(stored, CHUNK_TICKS, meter):
            preview = preview or _preview_png(block_ghw)
            block_gp = np.ascontiguousarray(block_ghw).reshape(len(block_ghw), -1)
            time_last_pg = np.empty(block_gp.shape[::-1], np.uint8)
            bits.to_time_last(block_gp, time_last_pg)
            # A window's frames are checked as they are decoded, by whoever decodes them.
            frames += coming.add(compress_frame, time_last_pg, level, True)
            _check_fits_row(stored, frames)
        frames += coming.rest()
        _check_fits_row(stored, frames)
    finally:
        coming.drop()
    stored = meter.measured(stored)
    row = _facts_row(stored, source.class_names)
    picture = {"bytes": preview, "path": None}
    return stored, row | {"preview": picture, "chunk_ticks": CHUNK_TICKS, "bits": frames}


def _check_fits_row(stored: StoredClip, frames: Sequence[bytes]) -> None:
    if sum(map(len, frames)) > MAX_CLIP_BYTES:
        raise StoreError(
            f"clip {stored.id}: is past {MAX_CLIP_BYTES:,} bytes compressed, too many for "
            "a row of Parquet. Use --to zarr, or cut the recording"
        )


def _facts_row(stored: StoredClip, class_names: tuple[str, ...]) -> dict[str, Any]:
    clip = stored.clip
    sensor = stored.attributes.get("sensor")
    threshold = sensor.get("threshold") if isinstance(sensor, dict) else None
    provenance = {"source": clip.source, "attributes": stored.attributes}
    return {
        "id": clip.id,
        "label": None if clip.label is None else class_names.index(clip.label),
        "captions": list(clip.captions),
        "split": clip.split,
        "group": clip.group,
        "licence": clip.licence,
        "source": clip.source.get("name"),
        "source_sha256": clip.source.get("sha256"),
        "ticks": stored.ticks,
        "tick_rate_hz": stored.tick_rate_hz,
        "height": stored.height_px,
        "width": stored.width_px,
        "threshold": None if threshold is None else float(threshold),
        "spikes": stored.spikes,
        "bits_sha256": stored.bits_sha256,
        FACTS_DIGEST: stored.facts_sha256(),
        "provenance": json.dumps(provenance, sort_keys=True, ensure_ascii=False),
    }


def _preview_png(packed_ghw: NDArray[np.uint8]) -> bytes:
    """Spikes of the first chunk, counted: bright where the light was."""
    from PIL import Image  # noqa: PLC0415  reading needs it not

    count_hw = np.bitwise_count(packed_ghw).sum(axis=0, dtype=np.int64)
    grey_hw = (count_hw * 255 // max(1, int(count_hw.max()))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey_hw).save(file, format="PNG")
    return file.getvalue()


# --- reading ------------------------------------------------------------------------------------

_FACTS = {
    "id": pa.string(),
    "label": pa.int64(),
    "captions": pa.list_(pa.string()),
    "split": pa.string(),
    "group": pa.string(),
    "licence": pa.string(),
    "ticks": pa.int64(),
    "tick_rate_hz": pa.float64(),
    "height": pa.int64(),
    "width": pa.int64(),
    "spikes": pa.int64(),
    "bits_sha256": pa.string(),
    "provenance": pa.string(),
}
_ROWS_AT_ONCE = 1024
_SINCE_1_1 = {FACTS_DIGEST: pa.string()}
_BITS = {"chunk_ticks": pa.int64(), "bits": pa.list_(pa.binary())}


class ParquetStore(ClipSource):
    """Clips in Parquet files.

    Safe to share between threads, to fork and to pickle: files are opened for each read.
    """

    format = "parquet"
    has_bits: bool
    """False for a data set of recipes only."""

    def __init__(self, path: Path | str) -> None:
        self.path = place(path)
        files = _parquet_files(self.path)
        first, *others = about = [_about(file) for file in files]
        self.name = first["name"]
        self.class_names = tuple(first["class_names"])
        self.recipe = first["recipe"]
        self.version = first["version"]
        self.has_bits = all(facts["has_bits"] for facts in about)
        for file, facts in zip(files[1:], others, strict=True):
            if tuple(facts["class_names"]) != self.class_names:
                raise StoreError(f"{file}: has other class names than {files[0].name} beside it")
            if facts.get("set_sha256") != first.get("set_sha256"):
                raise StoreError(f"{file}: is not of one data set with {files[0].name} beside it")
        if self.path.is_dir():
            self.left_out = tuple(_missing_shards(files, first.get("shards", ())))
        found: dict[str, StoredClip] = {}
        self._places: dict[str, tuple[Path, int, int]] = {}
        for file in files:
            for at, stored in _rows(file, self.class_names):
                if stored.clip.id in found:
                    raise StoreError(f"{file}: clip {stored.clip.id} is there twice")
                found[stored.clip.id] = stored
                self._places[stored.clip.id] = (file, *at)
        self.clips = {clip_id: found[clip_id] for clip_id in sorted(found)}

    def neighbours(self) -> Iterator[tuple[str, ...]]:
        """The clips of each row group."""
        for _, together in itertools.groupby(self._places.items(), lambda item: item[1][:2]):
            yield tuple(clip_id for clip_id, _ in together)

    def open_bits(self, clip_id: str) -> ClipFrames:
        """Find the clip's frames; they are read and decoded when they are asked for."""
        if not self.has_bits:
            raise StoreError(f"{self.path}: holds recipes only, no bits")
        file, group, row = self._places[clip_id]
        with _told_of(file):
            chunk_ticks, places = _group_frames(file, group, *_identity(file))
            frames = _frames_of_row(file, group, row) if places is None else places[row]
        return ClipFrames(self.clips[clip_id], chunk_ticks[row], frames)


class _FileFrames(Sequence[bytes]):
    """Byte strings at places in a file, each read when it is asked for."""

    def __init__(self, file: Path, places: Sequence[Place]) -> None:
        self._file, self._places = file, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: Any) -> Any:
        with _told_of(self._file), self._file.open("rb", buffering=0) as file:
            return read_at(file, self._places[at])


@functools.lru_cache(maxsize=256)
def _group_frames(
    file: Path, group: int, *identity: int
) -> tuple[list[Any], list[_FileFrames] | None]:
    """Of each row of a row group ``chunk_ticks`` and the frames, if their places can be told.

    The clips of a group are often read one after the other.
    """
    with _opened(file) as parquet, file.open("rb", buffering=0) as raw:
        columns = parquet.read_row_group(group, columns=["chunk_ticks"], use_threads=False)
        if isinstance(file, RemotePath):  # each look at it would be a request
            return columns["chunk_ticks"].to_pylist(), None
        about = _footer(file, *identity).row_group(group)
        chunks = map(about.column, range(about.num_columns))
        bits = next(chunk for chunk in chunks if chunk.path_in_schema.startswith("bits."))
        places = None
        if bits.compression == "UNCOMPRESSED" and not bits.has_dictionary_page:
            size = bits.total_compressed_size
            places = find_values(raw, bits.data_page_offset, size, about.num_rows)
    rows = None if places is None else [_FileFrames(file, row) for row in places]
    return columns["chunk_ticks"].to_pylist(), rows


def _frames_of_row(file: Path, group: int, row: int) -> list[Any]:
    """A row's frames as PyArrow finds them, with all others of its group."""
    read = _held_column if isinstance(file, RemotePath) else _bits_column
    # Buffers, since Python's bytes would be a copy.
    return [frame.as_buffer() for frame in read(file, group)[row].values or ()]


def _bits_column(file: Path, group: int) -> pa.ChunkedArray:
    with _opened(file) as parquet:
        return parquet.read_row_group(group, columns=["bits"], use_threads=False)["bits"]


_held_column = functools.lru_cache(maxsize=2)(_bits_column)
"""What has come from far: the clips of a row group are often read one after the other."""


def _opened(file: Path) -> pq.ParquetFile:
    """The file, opened anew: what is shared between threads is its footer alone."""
    return pq.ParquetFile(**_how_to_read(file), metadata=_footer(file, *_identity(file)))


def _how_to_read(file: Path) -> dict[str, Any]:
    """The file as PyArrow takes it: mapped into memory, or in few large ranges."""
    if isinstance(file, RemotePath):
        return {"source": file.open("rb"), "pre_buffer": True}
    return {"source": file, "memory_map": True}


def _identity(file: Path) -> tuple[int, int, int]:
    """What tells a file from another that takes its place; nothing takes an object's."""
    if isinstance(file, RemotePath):
        return 0, 0, 0
    about = file.stat()
    return about.st_size, about.st_mtime_ns, about.st_ino


@functools.lru_cache(maxsize=16)
def _footer(file: Path, *_identity: int) -> pq.FileMetaData:
    """A file's footer, read once: it has a part for every row group, and a clip needs but one."""
    return _metadata(file)


def _metadata(file: Path) -> pq.FileMetaData:
    with pq.ParquetFile(**_how_to_read(file)) as parquet:
        return parquet.metadata


def _missing_shards(files: Sequence[Path], names: Iterable[str]) -> Iterator[Failure]:
    """The files of the set that are not among those there."""
    there = {file.name for file in files}
    for name in names:
        if name not in there:
            path = files[0].with_name(name)
            yield Failure(id=name, path=str(path), error=f"{path}: is gone, with all of its clips")


def open_parquet(path: Path | str) -> ParquetStore:
    """Open a folder of Parquet shards, or one shard, for reading like a store.

    Raises:
        StoreError: none there, not ours, of a newer version, or malformed.
    """
    return ParquetStore(path)


@contextlib.contextmanager
def _told_of(path: Path | str) -> Iterator[None]:
    """Tell of any problem with the file at ``path`` in one line."""
    try:
        yield
    except RuleBrokenError as error:
        raise error.at(path) from error
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error


def _parquet_files(path: Path) -> list[Path]:
    files = parquet_files(path)
    if not files:
        what = "no Parquet files in it" if path.is_dir() else "no such file or folder"
        raise StoreError(f"{path}: {what}")
    return files


@dataclass(frozen=True, kw_only=True, slots=True)
class ParquetFacts:
    """What a shard tells of its data set and its clips; their bits are elsewhere."""

    name: str
    class_names: tuple[str, ...]
    recipe: dict[str, Any]
    has_bits: bool
    clips: Mapping[str, StoredClip]
    shards: tuple[str, ...]
    """Names of all files of the data set, without folders; none if it tells none."""


def facts_of_table(table: pa.Table, where: str, *, has_bits: bool) -> ParquetFacts:
    """What a shard's columns tell, all of them but those of bits.

    Args:
        table: the columns, with the schema's metadata.
        where: what errors begin with.
        has_bits: whether the shard has bits.

    Raises:
        StoreError: not ours, of a newer version, or malformed.
    """
    with _told_of(where):
        about = _about_of(table.schema, {})
        class_names = tuple(about["class_names"])
        clips: dict[str, StoredClip] = {}
        for row in table.select(_facts_in(table.schema)).to_pylist():
            stored = _stored_clip(row, class_names)
            if stored.clip.id in clips:
                raise StoreError(f"clip {stored.clip.id} is there twice")
            clips[stored.clip.id] = stored
    return ParquetFacts(
        name=about["name"],
        class_names=class_names,
        recipe=about["recipe"],
        has_bits=has_bits,
        clips=clips,
        shards=tuple(about.get("shards", ())),
    )


def _about(file: Path) -> dict[str, Any]:
    """What the file says of its data set, and under ``has_bits`` if it has the bits."""
    with _told_of(file):
        footer = _metadata(file)
        schema = footer.schema.to_arrow_schema()
        _check_told_once(footer.metadata or {}, schema.metadata or {})
        has_bits = "bits" in schema.names
        return _about_of(schema, _BITS if has_bits else {}) | {"has_bits": has_bits}


def _check_told_once(footer: Mapping[bytes, bytes], schema: Mapping[bytes, bytes]) -> None:
    """Arrow writes the metadata twice, and which of the two is read depends on the reader."""
    for key in (b"spikedata", b"huggingface"):
        if _SCHEMA_COPY in footer and footer.get(key) != schema.get(key):
            raise StoreError(f"key {key.decode()} says one thing and its copy another: damaged")


def _about_of(schema: pa.Schema, bits: Mapping[str, pa.DataType]) -> dict[str, Any]:
    """What a schema says of the data set, if it has the columns of facts and ``bits``."""
    text = (schema.metadata or {}).get(b"spikedata")
    about = {} if text is None else parse_json(text, "metadata_malformed", "key spikedata")
    if about.get("format") != FORMAT:
        raise StoreError("is Parquet, but not written by spikedata")
    major = str(about.get("version")).split(".")[0]
    if major != VERSION.split(".")[0]:
        raise StoreError(
            f"version {about.get('version')} is newer than this spikedata can read "
            f"({VERSION}). Upgrade: pip install -U spklip"
        )
    check_about(about)
    _check_shard_names(about.get("shards", []))
    if about.get(FACTS_DIGEST) not in (None, digest_of(about)):
        raise StoreError("its recipe, class names or other facts are not those that were written")
    since = _SINCE_1_1 if FACTS_DIGEST in schema.names else {}
    for name, expected in {**_FACTS, **since, **bits}.items():
        found = schema.field(name).type if schema.names.count(name) == 1 else "not there"
        if found != expected:
            raise StoreError(f"column {name!r} is {found}, expected {expected}")
    return about


def _check_shard_names(names: Any) -> None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise StoreError("key spikedata: shards is no list of file names")


def _facts_in(schema: pa.Schema) -> list[str]:
    """Names of the columns of facts that a file has."""
    return [name for name in (*_FACTS, *_SINCE_1_1) if name in schema.names]


def _rows(file: Path, class_names: tuple[str, ...]) -> Iterator[tuple[tuple[int, int], StoredClip]]:
    """Row group and row of each clip, with what is known of it; no bits are read."""
    with _told_of(file), _opened(file) as parquet:
        columns = _facts_in(parquet.schema_arrow)
        sizes = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
        places = ((group, row) for group, size in enumerate(sizes) for row in range(size))
        if not sizes:  # which PyArrow before 19 does not read
            return
        # Many row groups at a time: each alone costs more than what it holds.
        for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=columns, use_threads=False):
            for row in batch.to_pylist():
                place = next(places, None)
                if place is None:
                    raise StoreError("holds more rows than its footer tells")
                try:
                    yield place, _stored_clip(row, class_names)
                except RuleBrokenError as error:
                    raise StoreError(f"row {place[1]} of group {place[0]}: {error}") from error


def _stored_clip(row: dict[str, Any], class_names: tuple[str, ...]) -> StoredClip:
    text = (row["provenance"] or "").encode()
    provenance = parse_json(text, "attributes_malformed", "provenance")
    known = row | {
        "label": label_of(row["label"], class_names),
        "source": provenance.get("source"),
    }
    return StoredClip.from_file(known, provenance.get("attributes"), row["height"], row["width"])
