"""Packed clips on disk: which of our formats a path is, how to open it, and if it may be replaced.

``pack`` and ``hub`` write, read and replace by the rules that stand here.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import BitsHasher
from spikedata.clips.kind import HDF5_SUFFIXES, kind_of
from spikedata.clips.parquet import ClipSource, open_parquet
from spikedata.clips.recordings import METADATA_FILE
from spikedata.clips.store import StoredClip, StoreWriter, open_store
from spikedata.clips.store.layout import CATALOG, CLIPS, LOCK, METADATA, PARTIAL
from spikedata.errors import SpikeDataError, StoreError

Format = Literal["zarr", "parquet", "hdf5", "dat"]

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_STORE_NAMES = frozenset([METADATA, CLIPS, CATALOG, LOCK, PARTIAL])
_DAT_KEYS = frozenset(["file_name", "camera", "ticks", "tick_rate_hz", "bits_sha256"])
"""What ``pack --to dat`` tells of each file; somebody's own list does not have all of it."""


def kind_at(path: Path) -> Format | None:
    """Which format of packed clips lies at ``path``; None if none does.

    More than :func:`kind_of` it looks at content: a file that is being written has another name,
    and a folder of ``.dat`` files is a set of ours if its list is.
    """
    if not path.exists():
        return None
    if path.is_file() and not _is_parquet(path):
        is_hdf5 = path.suffix.lower() in HDF5_SUFFIXES or _begins_as_hdf5(path)
        return "hdf5" if is_hdf5 else None
    return kind_of(path) or ("dat" if _listed_recordings(path) else None)


def open_clips(path: Path | str) -> ClipSource:
    """Open what holds packed clips: a store, a Parquet folder or file, or an HDF5 file.

    Args:
        path: where it is; its name and content tell what it is.

    Raises:
        StoreError: it is none of these, or malformed.
    """
    path = Path(path)
    kind = kind_at(path)
    if kind == "hdf5":
        from spikedata.clips.hdf5 import Hdf5Store  # noqa: PLC0415  h5py loads when it is needed

        return Hdf5Store(path)
    return open_parquet(path) if kind == "parquet" else open_store(path)


def checked_blocks(
    source: ClipSource, stored: StoredClip, ticks: int = 1024
) -> Iterator[NDArray[np.uint8]]:
    """The blocks of a clip in ``source``; after the last one, an error if they are other bits.

    Args:
        source: where the bits are.
        stored: the clip and the digest noted; without one any bits will do.
        ticks: ticks a block.

    Raises:
        StoreError: the clip is damaged, or its bits are not those noted.
    """
    hasher = BitsHasher()
    for block_ghw in source.blocks(stored.clip.id, ticks):
        hasher.update(block_ghw)
        yield block_ghw
    if stored.bits_sha256 and hasher.hexdigest() != stored.bits_sha256:
        raise StoreError(
            f"clip {stored.clip.id}: its bits have SHA-256 {hasher.hexdigest()}, "
            f"noted was {stored.bits_sha256}"
        )


def copy_clip(source: ClipSource, stored: StoredClip, writer: StoreWriter) -> StoredClip:
    """Copy one clip into a store, its digest checked before it is there.

    Raises:
        StoreError: the clip is damaged, or cannot be added.
        ValueError: it does not fit the store's format.
    """
    with writer.clip(
        stored.clip,
        height_px=stored.height_px,
        width_px=stored.width_px,
        tick_rate_hz=stored.tick_rate_hz,
    ) as target:
        for block_ghw in checked_blocks(source, stored):
            target.append(block_ghw)
        return target.finish(ticks=stored.ticks, attributes=stored.attributes)


def check_replaceable(out: Path, *, overwrite: bool) -> None:
    """Refuse to write ``out`` if something is there that is not ours to replace.

    Raises:
        StoreError: its name is no name for a data set; or it is there, and ``overwrite`` is False
            or it holds something that spikedata did not write.
    """
    if out.name in ("", ".."):
        raise StoreError(f"{out}: a data set needs a name of its own. Give --out NAME")
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise StoreError(f"{out}: exists already. Give --overwrite to replace it")
    other = _not_ours(out)
    if other is not None:
        raise StoreError(
            f"{other}: was not written by spikedata, and --overwrite would remove it. Move it "
            "away, or choose another --out"
        )


def _not_ours(out: Path) -> Path | None:
    """What at or in ``out`` spikedata did not write; None if it wrote all of it."""
    kind = kind_at(out)
    if kind == "dat":
        ours = {out / METADATA_FILE, *_listed_recordings(out)}
        return next((path for path in _files(out) if path not in ours), None)
    if kind is None:
        # An empty folder is nobody's loss.
        return None if out.is_dir() and not os.listdir(out) else next(_files(out), out)
    try:
        open_clips(out)
    except SpikeDataError:
        return out
    if kind == "zarr":
        return next((p for p in sorted(out.iterdir()) if p.name not in _STORE_NAMES), None)
    return next((path for path in _files(out) if kind == "parquet" and not _is_parquet(path)), None)


def _files(path: Path) -> Iterator[Path]:
    return (file for file in sorted(path.rglob("*")) if not file.is_dir())


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _begins_as_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE


def _listed_recordings(path: Path) -> set[Path]:
    """Files that the ``metadata.jsonl`` of ``pack --to dat`` lists; none if it is not ours."""
    try:
        lines = (path / METADATA_FILE).read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        if not all(entry.keys() >= _DAT_KEYS for entry in entries):
            return set()
        return {path / entry["file_name"] for entry in entries}
    except (OSError, ValueError, TypeError, AttributeError):
        return set()
