"""Object storage and the Hub as places for data: URLs as paths, and no secret in a message."""

from spikedata.remote.asking import asked_to_wait_s
from spikedata.remote.buckets import Version
from spikedata.remote.paths import RemotePath, is_remote, on_disk, place
from spikedata.remote.secrets import without_secrets

__all__ = [
    "RemotePath",
    "Version",
    "asked_to_wait_s",
    "is_remote",
    "on_disk",
    "place",
    "without_secrets",
]
