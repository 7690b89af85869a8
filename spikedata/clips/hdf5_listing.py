"""What an HDF5 file of clips says, found out by the HDF5 library in a process of its own.

Damaged files make that library spin for ever, so no other process of ours reads with it. Nothing of
a clip's bits is read here: each chunk's place in the file is told, and the reader takes it there.
"""

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from spikedata.apart import Message
from spikedata.errors import StoreError

_MOST_PLACES = 1 << 15
"""Chunks told at once."""


def list_clips(path: str) -> Iterator[Message]:
    """What the file and each of its clips say, in order of id.

    Yields:
        ``attributes`` of the file; then for each clip an object with ``id``, ``attributes``,
        ``shape``, ``dtype``, ``chunks``, ``filters`` (codes) and ``elsewhere`` (its bits lie in
        other files), followed by the places of its chunks: uint64 (n, 3), the group that each
        begins at, its first byte in the file, its bytes (0 if a filter was left out). Attributes
        that are no JSON values are told in ``odd``, as text.

    Raises:
        StoreError: a link leads elsewhere, or stands for what it should not.
    """
    with h5py.File(path) as file:
        yield _attributes(file)
        group = _child(file, "clips", h5py.Group)
        for clip_id in sorted(group):
            try:
                dataset = _child(group, clip_id, h5py.Dataset)
            except StoreError as error:
                raise StoreError(f"clip {clip_id!r}: {error}") from error
            yield {"id": clip_id} | _layout(dataset) | _attributes(dataset)
            if dataset.chunks is not None:
                yield from _places(dataset)


def _child(group: Any, name: str, kind: type) -> Any:
    """What lies under ``name`` in this file itself; links could lead to any other."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise StoreError(f"{name!r} is a link, not a {kind.__name__.lower()} of this file")
    child = group[name]
    if not isinstance(child, kind):
        raise StoreError(f"{name!r} is no {kind.__name__.lower()}")
    return child


def _attributes(node: Any) -> dict[str, Any]:
    """All attributes; below the interface of ``node.attrs``, which opens each twice."""
    plain: dict[str, Any] = {}
    odd: dict[str, str] = {}
    for number in range(h5py.h5a.get_num_attrs(node.id)):
        attribute = h5py.h5a.open(node.id, index=number)
        key = attribute.name.decode("utf-8", "surrogateescape")
        kind = attribute.dtype
        if attribute.shape == () and (kind.kind in "biuf" or h5py.check_vlen_dtype(kind) is str):
            value = np.empty((), kind)
            attribute.read(value)
            found = value.item()
            plain[key] = found.decode("utf-8", "surrogateescape") if kind.kind == "O" else found
        else:
            odd[key] = " ".join(repr(node.attrs[key]).split())[:80]
    return {"attributes": plain, "odd": odd}


def _layout(dataset: Any) -> dict[str, Any]:
    plan = dataset.id.get_create_plist()
    return {
        "shape": dataset.shape,
        "dtype": str(dataset.dtype),
        "chunks": dataset.chunks,
        "filters": [plan.get_filter(number)[0] for number in range(plan.get_nfilters())],
        "elsewhere": bool(dataset.external or dataset.is_virtual),
    }


def _places(dataset: Any) -> Iterator[bytes]:
    found: list[tuple[int, int, int]] = []

    def note(chunk: Any) -> None:
        size = 0 if chunk.filter_mask else chunk.size
        found.append((chunk.chunk_offset[-1], chunk.byte_offset, size))

    dataset.id.chunk_iter(note)
    for first in range(0, len(found), _MOST_PLACES):
        yield np.array(found[first : first + _MOST_PLACES], np.uint64).tobytes()
