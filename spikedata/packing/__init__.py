"""How clips of any sources become one data set: what there is, who writes it, what was written."""

from spikedata.packing.last import STATE_FILE, last_packed, remember
from spikedata.packing.on_workers import RemotePackRun, check_engine
from spikedata.packing.runs import DatLayouts, PackReport, PackRun, PackStep, Writing
from spikedata.packing.sources import Found, default_source, find_sources

__all__ = [
    "STATE_FILE",
    "DatLayouts",
    "Found",
    "PackReport",
    "PackRun",
    "PackStep",
    "RemotePackRun",
    "Writing",
    "check_engine",
    "default_source",
    "find_sources",
    "last_packed",
    "remember",
]
