"""The spike store: a Zarr 3 group of bit-packed clips.

The format is laid down in ``docs/reference/store-format.md``; :func:`validate` follows it.
"""

from spikedata.clips.store.layout import Problem, StoreConfig
from spikedata.clips.store.reader import SpikeStore, open_store
from spikedata.clips.store.validate import validate
from spikedata.clips.store.writer import ClipWriter, StoreWriter, create_store
from spikedata.clips.stored import StoredClip

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
