"""Where spikes come from, block by block: a camera file, a clip of a store, a stream in memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikedata.camera import read_recording
from spikedata.clips.store import SpikeStore, open_store
from spikedata.errors import SpikeDataError, StoreError
from spikedata.stream import SpikeSource, SpikeStream


def open_spikes(
    path: Path | str,
    *,
    camera: str | None = None,
    clip: str | None = None,
    flip: bool | None = None,
    tick_rate_hz: float | None = None,
) -> SpikeSource:
    """Open a recording or one clip of a store to read its spikes block by block.

    Args:
        path: a ``.dat`` or ``.npz`` file, or a store.
        camera: whose file it is.
        clip: which clip of a store; it may be left out where there is but one.
        flip: turn a file's rows upside down; default what the camera needs to be upright.
        tick_rate_hz: of a file; default the camera's.

    Returns:
        A :class:`~spikedata.analysis.stats.SpikeSource`.

    Raises:
        SpikeDataError: no such file, nothing tells the camera or the clip, or the file does not
            fit.
    """
    path = Path(path)
    if not path.exists():
        raise SpikeDataError(f"{path}: no such file or folder")
    if not path.is_dir():
        if camera is None:
            raise SpikeDataError(
                f"{path}: no file tells its camera. Give --camera NAME or HxW; see "
                "`spikedata cameras`"
            )
        return read_recording(path, camera, flip=flip, tick_rate_hz=tick_rate_hz)
    store = open_store(path)
    if clip is None and len(store.clips) != 1:
        raise StoreError(f"{path}: holds {len(store.clips)} clips; give --clip ID")
    clip = next(iter(store.clips)) if clip is None else clip
    if clip not in store.clips:
        raise StoreError(f"{path}: no clip {clip!r}; it holds {len(store.clips)} clips")
    return _ClipSource(store, clip)


class _ClipSource:
    """A clip of a store, read block by block."""

    def __init__(self, store: SpikeStore, clip_id: str) -> None:
        stored = store.clips[clip_id]
        self.ticks, self.tick_rate_hz = stored.ticks, stored.tick_rate_hz
        self.height_px, self.width_px = stored.height_px, stored.width_px
        self._store, self._clip_id = store, clip_id

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        return self._store.blocks(self._clip_id)


class _StreamSource:
    """A stream held in memory."""

    def __init__(self, stream: SpikeStream) -> None:
        self.ticks, self.tick_rate_hz = stream.ticks, stream.tick_rate_hz
        self.height_px, self.width_px = stream.height_px, stream.width_px
        self._packed_ghw = stream.packed_ghw

    def blocks(self) -> Sequence[NDArray[np.uint8]]:
        return [self._packed_ghw]


def as_source(spikes: SpikeSource | SpikeStream) -> SpikeSource:
    """A stream in memory as something to be read block by block; what is that already stays."""
    return _StreamSource(spikes) if isinstance(spikes, SpikeStream) else spikes
