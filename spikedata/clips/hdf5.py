"""Clips as one HDF5 file, for programs that read nothing else.

Each clip is ``clips/<id>``: uint8 (H, W, G), eight ticks a byte, least significant bit first, gzip
in chunks of :data:`CHUNK_GROUPS` groups. Attributes: ``ticks``, ``tick_rate_hz``, ``bits_sha256``,
``spikes``, and ``clip`` and ``attributes`` as JSON. The file's: ``format``, ``name``, ``about``.

Such a file may come from anywhere, and HDF5 can read other files through it, fill in what is
missing and swell what is small. So the reader takes no link but a plain one and no layout but the
writer's, and inflates each chunk itself.

Shapes: G groups of eight ticks, H rows, W columns, P pixels.
"""

import contextlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spikedata import bits
from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.clips.encoding import Done, Failed, encode_all
from spikedata.clips.frames import check_chunk
from spikedata.clips.rules import (
    RuleBrokenError,
    check_about,
    check_label,
    check_past_end,
    parse_json,
)
from spikedata.clips.source import ClipBits, ClipSource
from spikedata.clips.stored import MEASURED_KEYS, BitsMeter, StoredClip
from spikedata.errors import SpikeDataError, StoreError

FORMAT = "spikedata-hdf5 1"
CHUNK_GROUPS = 32
DEFAULT_LEVEL = 4


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
        workers: clips encoded at once, one thread each.
        done: told of each clip written, with its digest.
        failed: told of each clip that could not be read.
    """

    def encode(stored: StoredClip) -> tuple[StoredClip, list[bytes]]:
        return _encode(source, stored, level)

    about = {"class_names": source.class_names, "recipe": source.recipe}
    with h5py.File(path, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["name"] = source.name
        file.attrs["about"] = json.dumps(about, sort_keys=True)
        file.create_group("clips")
        for stored, chunks in encode_all(encode, source.clips.values(), workers, failed):
            _write_clip(file["clips"], stored, chunks, level)
            done(stored)


def _encode(source: ClipSource, stored: StoredClip, level: int) -> tuple[StoredClip, list[bytes]]:
    """Compress in the worker's thread: HDF5 itself lets one thread at a time in."""
    check_label(stored.clip, source.class_names)
    check_chunk(stored, CHUNK_GROUPS * TICKS_PER_GROUP)
    pixels = stored.height_px * stored.width_px
    chunks: list[bytes] = []
    meter = BitsMeter()
    for block_ghw in source.checked_blocks(stored, CHUNK_GROUPS * TICKS_PER_GROUP, meter):
        block_gp = np.zeros((CHUNK_GROUPS, pixels), np.uint8)
        block_gp[: len(block_ghw)] = block_ghw.reshape(len(block_ghw), pixels)
        chunk_pg = np.empty((pixels, CHUNK_GROUPS), np.uint8)
        bits.to_time_last(block_gp, chunk_pg)
        chunks.append(zlib.compress(chunk_pg.data, level))
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
    dataset.attrs["clip"] = json.dumps(stored.clip.to_dict(), sort_keys=True)
    dataset.attrs["attributes"] = json.dumps(stored.attributes, sort_keys=True)


class Hdf5Store(ClipSource):
    """Clips in an HDF5 file; the file is opened for each read.

    Raises:
        StoreError: the file is not ours, malformed, or past a limit.
    """

    format = "hdf5"
    version = FORMAT.split()[-1]

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with _opened(self.path) as file:
            if file.attrs.get("format") != FORMAT:
                raise StoreError(f"is HDF5, but not {FORMAT}")
            about = _json_of(file, "about") | {"name": file.attrs.get("name")}
            check_about(about)
            self.name = about["name"]
            self.class_names = tuple(about["class_names"])
            self.recipe = about["recipe"]
            group = _child(file, "clips", h5py.Group)
            self.clips = {clip_id: _stored_clip(group, clip_id) for clip_id in sorted(group)}

    def open_bits(self, clip_id: str) -> "Hdf5Bits":
        """Nothing is read yet."""
        return Hdf5Bits(self.path, self.clips[clip_id])


class Hdf5Bits(ClipBits):
    """The bits of one clip of a file."""

    step = CHUNK_GROUPS

    def __init__(self, path: Path, stored: StoredClip) -> None:
        self.stored = stored
        self._path = path

    def groups(self, first: int, end: int) -> NDArray[np.uint8]:
        """Groups ``first`` to ``end``, uint8 (end - first, H, W); only their chunks are read.

        Raises:
            StoreError: one is damaged, or bits past the clip's last tick are set.
        """
        begin = first // CHUNK_GROUPS * CHUNK_GROUPS
        with _opened(self._path) as file:
            dataset = _child(_child(file, "clips", h5py.Group), self.stored.id, h5py.Dataset)
            _check_dataset(dataset, self.stored)
            chunks = [_read_chunk(dataset, at) for at in range(begin, end, CHUNK_GROUPS)]
        packed_ghw = (chunks[0] if len(chunks) == 1 else np.concatenate(chunks))[
            first - begin : end - begin
        ]
        if end == group_count(self.stored.ticks):
            check_past_end(packed_ghw, self.stored.ticks)
        return packed_ghw


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open file; any problem with it is told in one line."""
    try:
        with h5py.File(path) as file:
            yield file
    except RuleBrokenError as error:
        raise error.at(path) from error
    except SpikeDataError as error:
        raise StoreError(f"{path}: {error}") from error
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StoreError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def _child(group: Any, name: str, kind: type) -> Any:
    """What lies under ``name`` in this file itself; links could lead to any other."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise StoreError(f"{name!r} is a link, not a {kind.__name__.lower()} of this file")
    child = group[name]
    if not isinstance(child, kind):
        raise StoreError(f"{name!r} is no {kind.__name__.lower()}")
    return child


def _json_of(node: Any, key: str) -> dict[str, Any]:
    text = node.attrs.get(key)
    if not isinstance(text, str):
        raise StoreError(f"attribute {key!r} is not a string")
    return parse_json(text.encode(), "metadata_malformed", f"attribute {key!r}")


def _stored_clip(group: Any, clip_id: str) -> StoredClip:
    try:
        dataset = _child(group, clip_id, h5py.Dataset)
        known = _json_of(dataset, "clip")
        if known.get("id") != clip_id:
            raise StoreError(f"says its id is {known.get('id')!r}")
        known |= {key: _plain(dataset.attrs[key]) for key in MEASURED_KEYS if key in dataset.attrs}
        height_px, width_px = (*dataset.shape, 0, 0)[:2]
        attributes = _json_of(dataset, "attributes")
        stored = StoredClip.from_file(known, attributes, height_px, width_px)
        _check_dataset(dataset, stored)
    except StoreError as error:
        raise StoreError(f"clip {clip_id!r}: {error}") from error
    return stored


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _check_dataset(dataset: Any, stored: StoredClip) -> None:
    """Hold a dataset to the layout that the writer gives it, from its header alone."""
    check_chunk(stored, CHUNK_GROUPS * TICKS_PER_GROUP)
    size_px = (stored.height_px, stored.width_px)
    if dataset.shape != (*size_px, group_count(stored.ticks)) or dataset.dtype != np.uint8:
        raise StoreError(
            f"{dataset.dtype} {dataset.shape} does not hold {stored.ticks} ticks of "
            f"{size_px[0]}x{size_px[1]}"
        )
    if dataset.external or dataset.is_virtual:
        raise StoreError("its bits lie in other files")
    filters = dataset.id.get_create_plist()
    codes = [filters.get_filter(number)[0] for number in range(filters.get_nfilters())]
    if dataset.chunks != (*size_px, CHUNK_GROUPS) or codes != [h5py.h5z.FILTER_DEFLATE]:
        raise StoreError(f"is not in gzip chunks of {CHUNK_GROUPS} groups ({dataset.chunks})")


def _read_chunk(dataset: Any, first: int) -> NDArray[np.uint8]:
    """The chunk that begins at group ``first``, uint8 (CHUNK_GROUPS, H, W)."""
    height, width, _ = dataset.shape
    pixels = height * width
    size = pixels * CHUNK_GROUPS
    info = dataset.id.get_chunk_info_by_coord((0, 0, first))
    if info.byte_offset is None or info.filter_mask or info.size > 2 * size + 64:
        raise StoreError(f"{dataset.name}: the chunk at group {first} is missing or damaged")
    _, coded = dataset.id.read_direct_chunk((0, 0, first))
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(coded, size)
        more = inflate.decompress(inflate.unconsumed_tail, 1)  # none, but it checks the checksum
    except zlib.error as error:
        raise StoreError(f"{dataset.name}: the chunk at group {first}: {error}") from error
    if len(data) != size or more or not inflate.eof:
        raise StoreError(f"{dataset.name}: the chunk at group {first} is not {size:,} bytes")
    chunk_gp = np.empty((CHUNK_GROUPS, pixels), np.uint8)
    bits.to_time_first(np.frombuffer(data, np.uint8).reshape(pixels, -1), chunk_gp)
    return chunk_gp.reshape(-1, height, width)
