"""Clips as one HDF5 file, for programs that read nothing else.

Each clip is ``clips/<id>``: uint8 (H, W, G), eight ticks a byte, least significant bit first, gzip
in chunks of :data:`CHUNK_GROUPS` groups. Attributes: ``ticks``, ``tick_rate_hz``, ``bits_sha256``,
``spikes``, and ``clip`` and ``attributes`` as JSON. The file's: ``format``, ``name``, ``about``.

Shapes: G groups of eight ticks, H rows, W columns.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spikedata.catalog import Clip
from spikedata.errors import SpikeDataError, StoreError
from spikedata.parquet import ClipSource, in_order
from spikedata.store import StoredClip, bitplanes
from spikedata.stream import TICKS_PER_GROUP, BitsHasher, group_count

FORMAT = "spikedata-hdf5 1"
CHUNK_GROUPS = 32
DEFAULT_LEVEL = 4


def write_hdf5(
    source: ClipSource,
    path: Path,
    *,
    level: int = DEFAULT_LEVEL,
    workers: int = 1,
    done: Callable[[StoredClip], None],
    failed: Callable[[StoredClip, Exception], None],
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
        for stored, outcome in in_order(encode, source.clips.values(), workers):
            if isinstance(outcome, SpikeDataError):
                failed(stored, outcome)
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                told, chunks = outcome
                _write_clip(file["clips"], told, chunks, level)
                done(told)


def _encode(source: ClipSource, stored: StoredClip, level: int) -> tuple[StoredClip, list[bytes]]:
    """Compress in the worker's thread: HDF5 itself lets one thread at a time in."""
    hasher, spikes = BitsHasher(), 0
    pixels = stored.height_px * stored.width_px
    chunks: list[bytes] = []
    for block_ghw in source.blocks(stored.clip.id, CHUNK_GROUPS * TICKS_PER_GROUP):
        hasher.update(block_ghw)
        spikes += bitplanes.count_ones(np.ascontiguousarray(block_ghw))
        block_gp = np.zeros((CHUNK_GROUPS, pixels), np.uint8)
        block_gp[: len(block_ghw)] = block_ghw.reshape(len(block_ghw), pixels)
        chunk_pg = np.empty((pixels, CHUNK_GROUPS), np.uint8)
        bitplanes.to_time_last(block_gp, chunk_pg)
        chunks.append(zlib.compress(chunk_pg.data, level))
    digest = hasher.hexdigest()
    if stored.bits_sha256 and digest != stored.bits_sha256:
        raise StoreError(
            f"clip {stored.clip.id}: its bits have SHA-256 {digest}, noted was {stored.bits_sha256}"
        )
    return replace(stored, bits_sha256=digest, spikes=spikes), chunks


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


class Hdf5Store:
    """Clips in an HDF5 file, as a source of clips; the file is opened for each read."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            with h5py.File(self.path) as file:
                if file.attrs.get("format") != FORMAT:
                    raise StoreError(f"{self.path}: is HDF5, but not {FORMAT}")
                about = json.loads(file.attrs["about"])
                self.name = str(file.attrs["name"])
                self.class_names: tuple[str, ...] = tuple(about["class_names"])
                self.recipe: dict[str, Any] = about["recipe"]
                self.clips: Mapping[str, StoredClip] = {
                    clip_id: _stored_clip(file["clips"][clip_id])
                    for clip_id in sorted(file["clips"])
                }
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self.path}: cannot be read: {error}") from error

    def blocks(self, clip_id: str, ticks: int = 1024) -> Iterator[NDArray[np.uint8]]:
        """Packed blocks (G, H, W) of ``ticks`` ticks, the last perhaps shorter.

        Raises:
            StoreError: the clip is damaged.
        """
        step = ticks // TICKS_PER_GROUP
        try:
            with h5py.File(self.path) as file:
                dataset = file["clips"][clip_id]
                for at in range(0, dataset.shape[2], step):
                    yield np.ascontiguousarray(dataset[:, :, at : at + step].transpose(2, 0, 1))
        except (OSError, KeyError) as error:
            raise StoreError(f"{self.path}: clip {clip_id}: {error}") from error


def _stored_clip(dataset: Any) -> StoredClip:
    height, width, groups = dataset.shape
    ticks = int(dataset.attrs["ticks"])
    if groups != group_count(ticks) or dataset.dtype != np.uint8:
        raise ValueError(f"{dataset.name}: shape {dataset.shape} does not hold {ticks} ticks")
    return StoredClip(
        clip=Clip.from_dict(json.loads(dataset.attrs["clip"])),
        ticks=ticks,
        height_px=height,
        width_px=width,
        tick_rate_hz=float(dataset.attrs["tick_rate_hz"]),
        bits_sha256=str(dataset.attrs["bits_sha256"]),
        spikes=int(dataset.attrs["spikes"]),
        attributes=json.loads(dataset.attrs["attributes"]),
    )
