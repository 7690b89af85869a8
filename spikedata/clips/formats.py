"""Which format of clips lies at a path: the one rule for all who ask."""

from pathlib import Path
from typing import Literal

from spikedata.clips.recording_folders import listed_recordings, says_its_ours
from spikedata.clips.store import METADATA
from spikedata.remote import RemotePath, place

Format = Literal["zarr", "parquet", "hdf5", "dat"]

HDF5_SUFFIXES = frozenset([".h5", ".hdf5"])
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def format_at(path: Path | str) -> Format | None:
    """Which format of clips lies at ``path``; None if none does.

    A folder of camera files is ``dat`` only if it is a set that ``pack --to dat`` wrote.
    """
    path = place(path)
    suffix = path.suffix.lower()
    if path.is_file():
        if suffix == ".parquet":
            return "parquet"
        return "hdf5" if suffix in HDF5_SUFFIXES or _begins_as_hdf5(path) else None
    if (path / METADATA).is_file():  # first: a store has thousands of folders to look through
        return "zarr"
    if parquet_files(path):
        return "parquet"
    if isinstance(path, RemotePath):
        return None
    return "dat" if listed_recordings(path) or says_its_ours(path) else None


def parquet_files(path: Path) -> list[Path]:
    """The file, or the shards of the folder, at ``path``; none if there are none."""
    if path.is_file():
        return [path]
    return sorted(path.glob("data/*.parquet")) or sorted(path.glob("*.parquet"))


def _begins_as_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE
