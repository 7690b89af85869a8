"""What kind of data set lies at a path: the one rule for all who read several kinds."""

from pathlib import Path
from typing import Literal

from spikedata.clips.store.layout import METADATA

HDF5_SUFFIXES = frozenset([".h5", ".hdf5"])


def kind_of(path: Path | str) -> Literal["zarr", "parquet", "hdf5"] | None:
    """Kind of the data set at ``path``, from names alone; None if there is nothing of the kind.

    What is told by its suffix need not be there: opening it says so.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if (path / METADATA).is_file():  # first: a store has thousands of folders to look through
        return "zarr"
    if suffix in HDF5_SUFFIXES:
        return "hdf5"
    return "parquet" if suffix == ".parquet" or parquet_files(path) else None


def parquet_files(path: Path) -> list[Path]:
    """The file, or the shards of the folder, at ``path``; none if there are none."""
    if path.is_file():
        return [path]
    return sorted(path.glob("data/*.parquet")) or sorted(path.glob("*.parquet"))
