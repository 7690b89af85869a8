"""The spike store: a Zarr 3 group of bit-packed clips.

The format is laid down in ``docs/reference/store-format.md``; :func:`store_problems` follows it.
"""

from spikedata.clips.store.clip_writer import ClipWriter
from spikedata.clips.store.layout import (
    CATALOG,
    CLIPS,
    LOCK,
    METADATA,
    PARTIAL,
    StoreConfig,
)
from spikedata.clips.store.parts import LentStore, PartWriter, part_writer
from spikedata.clips.store.reader import SpikeStore, open_store, recipe_of_store
from spikedata.clips.store.relabel import StoreLabels
from spikedata.clips.store.validate import check_clip, store_problems
from spikedata.clips.store.writer import StoreWriter, change_store, create_store

__all__ = [
    "CATALOG",
    "CLIPS",
    "LOCK",
    "METADATA",
    "PARTIAL",
    "ClipWriter",
    "LentStore",
    "PartWriter",
    "SpikeStore",
    "StoreConfig",
    "StoreLabels",
    "StoreWriter",
    "change_store",
    "check_clip",
    "create_store",
    "open_store",
    "part_writer",
    "recipe_of_store",
    "store_problems",
]
