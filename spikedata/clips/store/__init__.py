"""The spike store: a Zarr 3 group of bit-packed clips.

The format is laid down in ``docs/reference/store-format.md``; :func:`store_problems` follows it.
"""

from spikedata.clips.store.layout import (
    CATALOG,
    CLIPS,
    LOCK,
    METADATA,
    PARTIAL,
    StoreConfig,
)
from spikedata.clips.store.reader import SpikeStore, open_store
from spikedata.clips.store.validate import store_problems
from spikedata.clips.store.writer import ClipWriter, StoreWriter, create_store

__all__ = [
    "CATALOG",
    "CLIPS",
    "LOCK",
    "METADATA",
    "PARTIAL",
    "ClipWriter",
    "SpikeStore",
    "StoreConfig",
    "StoreWriter",
    "create_store",
    "open_store",
    "store_problems",
]
