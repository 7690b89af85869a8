"""Clips as one HDF5 file, for programs that read nothing else.

Each clip is ``clips/<id>``: uint8 (H, W, G), eight ticks a byte, least significant bit first, gzip
in chunks of :data:`CHUNK_GROUPS` groups. Attributes: ``ticks``, ``tick_rate_hz``, ``bits_sha256``,
``spikes``, ``facts_sha256``, and ``clip`` and ``attributes`` as JSON. The file's: ``format``,
``name``, ``about``, and ``set_sha256``, a digest of all of these.

Such a file may come from anywhere. HDF5 can read other files through it, fill in what is missing
and swell what is small, and damage makes the library spin for ever. So it runs in a process of its
own (:mod:`spikedata.clips.hdf5_listing`), once a file, and tells where each chunk lies; no link but
a plain one and no layout but the writer's is taken, and the chunks are read and inflated here.

Shapes: G groups of eight ticks, H rows, W columns, P pixels.
"""

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from spikedata import bits
from spikedata.apart import Apart
from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.clips.crew import Chunks, Crew
from spikedata.clips.encoding import Done, Failed, encode_all
from spikedata.clips.frames import check_chunk
from spikedata.clips.rules import (
    FACTS_DIGEST,
    MAX_METADATA_BYTES,
    RuleBrokenError,
    check_about,
    check_label,
    check_past_end,
    digest_of,
    parse_json,
)
from spikedata.clips.source import ClipBits, ClipSource
from spikedata.clips.stored import MEASURED_KEYS, BitsMeter, StoredClip
from spikedata.errors import SpikeDataError, StoreError

FORMAT = "spikedata-hdf5 1"
CHUNK_GROUPS = 32
DEFAULT_LEVEL = 4

_LISTING = "spikedata.clips.hdf5_listing:list_clips"
_SET_DIGEST = "set_sha256"
_GZIP = 1
"""HDF5's number of the filter."""
_LEAST_CHUNK_BYTES = 8
"""Bytes of nothing at all, compressed."""
_Stamp = tuple[int, int]
"""Bytes of the file, and when it was last changed, ns."""


def write_hdf5(
    source: ClipSource,
    path: Path,
    *,
    level: int = DEFAULT_LEVEL,
    workers: int = 1,
    done: Done,
    failed: Failed,
) -> None:
    """Write every clip of ``source`` to one file.

    Args:
        source: where the clips' bits are.
        path: file to write.
        level: gzip level, 0 to 9.
        workers: threads; several clips are encoded at once, or several chunks of one.
        done: told of each clip written, with its digest.
        failed: told of each clip that could not be read.

    Raises:
        OSError: the disk is full, or the like.
    """

    def encode(stored: StoredClip) -> tuple[StoredClip, list[bytes]]:
        return _encode(source, stored, level, crew)

    about = {"class_names": source.class_names, "recipe": source.recipe}
    with _created(path) as file, Crew(workers) as crew:
        file.attrs["format"] = FORMAT
        file.attrs["name"] = source.name
        file.attrs["about"] = json.dumps(about, sort_keys=True)
        file.create_group("clips")
        digests: dict[str, str] = {}
        for stored, chunks in encode_all(encode, source.clips.values(), crew, failed):
            digests[stored.id] = stored.facts_sha256()
            _write_clip(file["clips"], stored, chunks, level)
            done(stored)
        file.attrs[_SET_DIGEST] = _set_sha256(source.name, file.attrs["about"], digests)


@contextlib.contextmanager
def _created(path: Path) -> Iterator[Any]:
    """A new file; what the library could not write is an error of the system's."""
    import h5py  # noqa: PLC0415 - only to write: see above

    try:
        with h5py.File(path, "w") as file:
            yield file
    except RuntimeError as error:  # of its own, when it cannot write while it closes
        told = " ".join(str(error).split())
        raise OSError(errno.EIO, f"cannot be written: {told}", str(path)) from error


def _encode(
    source: ClipSource, stored: StoredClip, level: int, crew: Crew
) -> tuple[StoredClip, list[bytes]]:
    """Compress in the crew's threads: HDF5 itself lets one thread at a time in."""
    check_label(stored.clip, source.class_names)
    check_chunk(stored, CHUNK_GROUPS * TICKS_PER_GROUP)
    pixels = stored.height_px * stored.width_px
    chunks: list[bytes] = []
    meter = BitsMeter()
    coming: Chunks[bytes] = Chunks(crew)
    try:
        for block_ghw in source.checked_blocks(stored, CHUNK_GROUPS * TICKS_PER_GROUP, meter):
            block_gp = np.zeros((CHUNK_GROUPS, pixels), np.uint8)
            block_gp[: len(block_ghw)] = block_ghw.reshape(len(block_ghw), pixels)
            chunk_pg = np.empty((pixels, CHUNK_GROUPS), np.uint8)
            bits.to_time_last(block_gp, chunk_pg)
            chunks += coming.add(zlib.compress, chunk_pg.data, level)
        chunks += coming.rest()
    finally:
        coming.drop()
    return meter.measured(stored), chunks


def _write_clip(group: Any, stored: StoredClip, chunks: list[bytes], level: int) -> None:
    shape = (stored.height_px, stored.width_px, group_count(stored.ticks))
    dataset = group.create_dataset(
        stored.clip.id,
        shape=shape,
        dtype=np.uint8,
        chunks=(*shape[:2], CHUNK_GROUPS),
        maxshape=(*shape[:2], None),
        compression="gzip",
        compression_opts=level,
        track_times=False,
    )
    for number, chunk in enumerate(chunks):
        dataset.id.write_direct_chunk((0, 0, number * CHUNK_GROUPS), chunk)
    dataset.attrs["ticks"] = stored.ticks
    dataset.attrs["tick_rate_hz"] = stored.tick_rate_hz
    dataset.attrs["bits_sha256"] = stored.bits_sha256
    dataset.attrs["spikes"] = stored.spikes
    dataset.attrs[FACTS_DIGEST] = stored.facts_sha256()
    dataset.attrs["clip"] = json.dumps(stored.clip.to_dict(), sort_keys=True)
    dataset.attrs["attributes"] = json.dumps(stored.attributes, sort_keys=True)


class Hdf5Store(ClipSource):
    """Clips in an HDF5 file: what they are and where their chunks lie is found out once.

    Raises:
        StoreError: the file is not ours, malformed, or past a limit.
    """

    format = "hdf5"
    version = FORMAT.split()[-1]

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.clips: dict[str, StoredClip] = {}
        self._places: dict[str, NDArray[np.uint64]] = {}
        """Of each clip's chunks in order: first byte and bytes, uint64 (n, 2); 0 where missing."""
        try:
            with self.path.open("rb") as file:
                self._stamp = _stamp(file)
            with Apart(_LISTING, str(self.path), most_bytes=2 * MAX_METADATA_BYTES) as said:
                self._take(said)
        except RuleBrokenError as error:
            raise error.at(self.path) from error
        except SpikeDataError as error:
            raise StoreError(f"{self.path}: {error}") from error
        except (OSError, UnicodeError) as error:
            told = getattr(error, "strerror", None) or error
            raise StoreError(f"{self.path}: cannot be read: {told}") from error

    def _take(self, said: Apart) -> None:
        """Take in all that the listing says; its sum is bounded, whatever it repeats."""
        size = self._stamp[0]
        chunks_left = size // _LEAST_CHUNK_BYTES
        about: dict[str, Any] = {}
        places = np.empty((0, 2), np.uint64)
        for told in said:
            if said.received_bytes > MAX_METADATA_BYTES + 8 * size:
                raise StoreError(f"says more than its {size:,} bytes can hold")
            if isinstance(told, bytes):
                _note_places(places, told)
                continue
            if not about:
                about = self._take_about(told)
                continue
            stored = _stored_clip(told)
            chunks = -(-group_count(stored.ticks) // CHUNK_GROUPS)
            chunks_left -= chunks
            if chunks_left < 0:
                raise StoreError(f"clip {stored.id!r}: {size:,} bytes cannot hold its chunks")
            places = np.zeros((chunks, 2), np.uint64)
            self.clips[stored.id], self._places[stored.id] = stored, places
        self._check_set(about)

    def _check_set(self, about: dict[str, Any]) -> None:
        """Miss what is missing: the file's own words, and the facts of all clips, are as noted."""
        noted = about.get(_SET_DIGEST)
        if noted is None:  # of before there was one
            return
        facts = {clip_id: stored.facts_sha256() for clip_id, stored in self.clips.items()}
        if noted != _set_sha256(self.name, about["about"], facts):
            raise StoreError(
                "its clips, class names or recipe are not those that were written "
                f"({len(facts)} clips are there). Pack it again"
            )

    def _take_about(self, told: dict[str, Any]) -> dict[str, Any]:
        attributes: dict[str, Any] = told["attributes"]
        if attributes.get("format") != FORMAT:
            raise StoreError(f"is HDF5, but not {FORMAT}")
        about = _json_of(attributes, "about") | {"name": attributes.get("name")}
        check_about(about)
        self.name = about["name"]
        self.class_names = tuple(about["class_names"])
        self.recipe = about["recipe"]
        return attributes

    def open_bits(self, clip_id: str) -> "Hdf5Bits":
        """Nothing is read yet."""
        return Hdf5Bits(self.path, self._stamp, self.clips[clip_id], self._places[clip_id])


class Hdf5Bits(ClipBits):
    """The bits of one clip of a file."""

    step = CHUNK_GROUPS

    def __init__(
        self, path: Path, stamp: _Stamp, stored: StoredClip, places: NDArray[np.uint64]
    ) -> None:
        self.stored = stored
        self._path, self._stamp, self._places = path, stamp, places

    def groups(self, first: int, end: int) -> NDArray[np.uint8]:
        """Groups ``first`` to ``end``, uint8 (end - first, H, W); only their chunks are read.

        Raises:
            StoreError: one is damaged, or bits past the clip's last tick are set.
        """
        begin = first // CHUNK_GROUPS * CHUNK_GROUPS
        try:
            with self._path.open("rb", buffering=0) as file:
                if _stamp(file) != self._stamp:
                    raise StoreError("was changed while it was open; open it again")
                chunks = [self._read_chunk(file, at) for at in range(begin, end, CHUNK_GROUPS)]
        except StoreError as error:
            raise StoreError(f"{self._path}: {error}") from error
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be read: {error.strerror}") from error
        packed_ghw = (chunks[0] if len(chunks) == 1 else np.concatenate(chunks))[
            first - begin : end - begin
        ]
        if end == group_count(self.stored.ticks):
            check_past_end(packed_ghw, self.stored.ticks)
        return packed_ghw

    def _read_chunk(self, file: FileIO, first: int) -> NDArray[np.uint8]:
        """The chunk that begins at group ``first``, uint8 (CHUNK_GROUPS, H, W)."""
        height, width = self.stored.height_px, self.stored.width_px
        pixels = height * width
        size = pixels * CHUNK_GROUPS
        at, coded_bytes = map(int, self._places[first // CHUNK_GROUPS])
        where = f"clip {self.stored.id!r}: the chunk at group {first}"
        if not 0 < coded_bytes <= 2 * size + 64 or at + coded_bytes > self._stamp[0]:
            raise StoreError(f"{where} is missing or damaged")
        file.seek(at)
        inflate = zlib.decompressobj()
        try:
            data = inflate.decompress(file.read(coded_bytes), size)
            more = inflate.decompress(inflate.unconsumed_tail, 1)  # none, but checks the checksum
        except zlib.error as error:
            raise StoreError(f"{where}: {error}") from error
        if len(data) != size or more or not inflate.eof:
            raise StoreError(f"{where} is not {size:,} bytes")
        chunk_gp = np.empty((CHUNK_GROUPS, pixels), np.uint8)
        bits.to_time_first(np.frombuffer(data, np.uint8).reshape(pixels, -1), chunk_gp)
        return chunk_gp.reshape(-1, height, width)


def _set_sha256(name: str, about: str, facts_sha256: Mapping[str, str]) -> str:
    """Digest of what a file says of itself, and of the facts of all of its clips."""
    told = {"name": name, "about": about, "clips": dict(facts_sha256)}
    return digest_of(told)


def _stamp(file: IO[bytes]) -> _Stamp:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _note_places(places: NDArray[np.uint64], told: bytes) -> None:
    """Put where chunks lie, as told, into a clip's table; chunks past its end are nobody's."""
    found = np.frombuffer(told, np.uint64).reshape(-1, 3)
    number, within = np.divmod(found[:, 0], np.uint64(CHUNK_GROUPS))
    good = (within == 0) & (number < len(places))
    places[number[good]] = found[good, 1:]


def _json_of(attributes: dict[str, Any], key: str) -> dict[str, Any]:
    text = attributes.get(key)
    if not isinstance(text, str):
        raise StoreError(f"attribute {key!r} is not a string")
    return parse_json(text.encode(), "metadata_malformed", f"attribute {key!r}")


def _stored_clip(told: dict[str, Any]) -> StoredClip:
    """A clip of what the listing tells of it, all attributes of its data set among it."""
    clip_id, noted = told["id"], told["attributes"]
    try:
        known = _json_of(noted, "clip")
        if known.get("id") != clip_id:
            raise StoreError(f"says its id is {known.get('id')!r}")
        for key in MEASURED_KEYS:
            if key in told["odd"]:
                raise StoreError(f"attribute {key!r} is {told['odd'][key]}")
        known |= {key: noted[key] for key in (*MEASURED_KEYS, FACTS_DIGEST) if key in noted}
        height_px, width_px = (*(told["shape"] or ()), 0, 0)[:2]
        attributes = _json_of(noted, "attributes")
        stored = StoredClip.from_file(known, attributes, height_px, width_px)
        _check_layout(told, stored)
    except StoreError as error:
        raise StoreError(f"clip {clip_id!r}: {error}") from error
    return stored


def _check_layout(told: dict[str, Any], stored: StoredClip) -> None:
    """Hold a dataset to the layout that the writer gives it."""
    check_chunk(stored, CHUNK_GROUPS * TICKS_PER_GROUP)
    size_px = [stored.height_px, stored.width_px]
    if told["shape"] != [*size_px, group_count(stored.ticks)] or told["dtype"] != "uint8":
        raise StoreError(
            f"{told['dtype']} {told['shape']} does not hold {stored.ticks} ticks of {stored.size}"
        )
    if told["elsewhere"]:
        raise StoreError("its bits lie in other files")
    if told["chunks"] != [*size_px, CHUNK_GROUPS] or told["filters"] != [_GZIP]:
        raise StoreError(f"is not in gzip chunks of {CHUNK_GROUPS} groups ({told['chunks']})")
