"""Arrays in an HDF5 file, read by the HDF5 library in a process of its own.

Damaged files make that library spin for ever, so no other process of ours reads with it. Where an
array lies in one piece it is told where, and the reader takes it from there.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from spikedata.apart import Message
from spikedata.camera.containers import SLAB_BYTES
from spikedata.errors import SpikeDataError

_MOST_ARRAYS = 1000
_AXES = 3


def list_arrays(path: str) -> Iterator[Message]:
    """What the file's own arrays of three axes are, in order of name, :data:`_MOST_ARRAYS` at most.

    Yields:
        For each an object with ``name``, ``shape``, ``dtype``, ``first_byte`` (-1 if it does not
        lie in one piece) and ``stored_bytes``; first of all one with ``format``, what the file
        says it is.
    """
    with h5py.File(path) as file:
        told = file.attrs.get("format")
        yield {"format": told if isinstance(told, str) else None}
        for name, dataset in itertools.islice(_arrays_below(file, ""), _MOST_ARRAYS):
            flat = dataset.chunks is None and not (dataset.external or dataset.is_virtual)
            first_byte = dataset.id.get_offset() if flat else None
            yield {
                "name": name,
                "shape": list(dataset.shape),
                "dtype": dataset.dtype.str,
                "first_byte": -1 if first_byte is None else first_byte,
                "stored_bytes": dataset.id.get_storage_size(),
            }


def read_values(path: str, name: str, first_row: str) -> Iterator[Message]:
    """The values of an array from a row of its first axis on, in C order.

    Raises:
        SpikeDataError: it is not there, or its values lie in other files.
    """
    with h5py.File(path) as file:
        dataset = dict(_arrays_below(file, "")).get(name)
        if dataset is None:
            raise SpikeDataError(f"no array {name} inside")
        if dataset.external or dataset.is_virtual:
            raise SpikeDataError(f"array {name}: its values lie in other files")
        row_bytes = max(1, math.prod(dataset.shape[1:]) * dataset.dtype.itemsize)
        chunk_rows = dataset.chunks[0] if dataset.chunks else 1
        rows = max(1, SLAB_BYTES // row_bytes)
        rows = max(1, rows // chunk_rows) * chunk_rows if chunk_rows <= rows else rows
        for row in range(int(first_row), dataset.shape[0], rows):
            slab = np.ascontiguousarray(dataset[row : row + rows]).reshape(-1).view(np.uint8)
            for at in range(0, len(slab), SLAB_BYTES):
                yield slab[at : at + SLAB_BYTES].tobytes()


def _arrays_below(group: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Arrays of three axes that are in this file itself: links could lead to any other."""
    for name in sorted(group):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        child = group[name]
        if isinstance(child, h5py.Dataset):
            plain = child.dtype.kind in "biuf"
            if plain and len(child.shape) == _AXES:
                yield where + name, child
        elif isinstance(child, h5py.Group) and where.count("/") < _AXES:
            yield from _arrays_below(child, f"{where}{name}/")
