"""The spike store: a Zarr 3 group of bit-packed clips.

The format is laid down in ``docs/reference/store-format.md``; :func:`validate` follows it.
"""

from spikedata.store.layout import Problem, StoreConfig
from spikedata.store.reader import SpikeStore, open_store
from spikedata.store.stored import StoredClip
from spikedata.store.validate import validate
from spikedata.store.writer import ClipWriter, StoreWriter, create_store

__all__ = [
    "ClipWriter",
    "Problem",
    "SpikeStore",
    "StoreConfig",
    "StoreWriter",
    "StoredClip",
    "create_store",
    "open_store",
    "validate",
]
