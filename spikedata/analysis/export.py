"""Spikes as the neighbours' programs read them: lists of events, and NumPy archives of planes.

Event-camera libraries such as Tonic take a structured array, one entry a spike. Spike-camera
programs take planes of zeros and ones, (T, H, W): Spike-Zoo from an ``.npz`` with the key ``spk``;
SpikeCV from ``.dat`` files or as an array.

Shapes: T ticks, G groups of eight ticks, H rows, W columns, N spikes.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from spikedata.bits import TICKS_PER_GROUP, unpack_ticks
from spikedata.camera import Camera, camera_to_write, write_recording
from spikedata.errors import SpikeDataError
from spikedata.outputs import written_aside
from spikedata.remote import on_disk
from spikedata.stream import SpikeSource

Fields = Literal["xyt", "xytp"]
TimeUnit = Literal["us", "tick"]
_TYPES = {"x": "<i2", "y": "<i2", "t": "<i8", "p": "?"}
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_LARGEST_PX = 1 << 15


def spike_events(
    source: SpikeSource, *, fields: Fields = "xytp", time: TimeUnit = "us"
) -> Iterator[NDArray[Any]]:
    """Every spike as (x, y, t, p), in order of time, then row, then column; block by block.

    ``np.concatenate(list(spike_events(source)))`` is what Tonic's transforms take, with
    ``sensor_size=(W, H, 1)``; ``ToVoxelGrid`` wants ``(W, H, 2)``.

    Args:
        source: a camera file or a clip.
        fields: ``xyt`` leaves out the polarity, which is always False: a spike camera has one.
        time: microseconds, rounded, as in Tonic; or ticks.

    Yields:
        events_n: structured (N,), as Tonic makes them: x and y int16, t int64, p bool.

    Raises:
        ValueError: a side is longer than 32,767 pixels, or another field or unit.
    """
    if fields not in ("xyt", "xytp") or time not in ("us", "tick"):
        raise ValueError(
            f"fields must be xyt or xytp and time us or tick, got {fields!r}, {time!r}"
        )
    if max(source.height_px, source.width_px) >= _LARGEST_PX:
        raise ValueError(
            f"x and y have 16 bits: sides up to {_LARGEST_PX - 1} pixels, got "
            f"{source.height_px}x{source.width_px}"
        )
    first_tick = 0
    for planes_thw in _planes(source):
        tick_n, y_n, x_n = np.nonzero(planes_thw)
        events_n = np.zeros(len(tick_n), _event_type(fields))
        tick_n += first_tick
        events_n["x"], events_n["y"] = x_n, y_n
        events_n["t"] = tick_n if time == "tick" else np.rint(tick_n * 1e6 / source.tick_rate_hz)
        yield events_n
        first_tick += len(planes_thw)


def write_events(
    path: Path | str,
    source: SpikeSource,
    *,
    fields: Fields = "xytp",
    time: TimeUnit = "us",
    overwrite: bool = False,
) -> int:
    """Write :func:`spike_events` to a ``.npy`` file, for ``np.load``; memory stays bounded.

    Args:
        path: written aside and renamed when whole.
        source: read twice: the first time spikes are counted.
        fields: as for :func:`spike_events`.
        time: likewise.
        overwrite: replace ``path``, once the new file is whole.

    Returns:
        How many spikes were written.

    Raises:
        ValueError: as for :func:`spike_events`.
        SpikeDataError: ``path`` is there, and ``overwrite`` is False.
    """
    with written_aside(Path(path), overwrite=overwrite) as aside, aside.open("wb") as file:
        spikes = sum(int(np.bitwise_count(packed_ghw).sum()) for packed_ghw in source.blocks())
        events = spike_events(source, fields=fields, time=time)
        _write_header(file, _event_type(fields), (spikes,))
        for events_n in events:
            file.write(events_n.tobytes())
    return spikes


def write_npz(
    path: Path | str,
    source: SpikeSource,
    *,
    label: int | None = None,
    label_name: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write planes of zeros and ones as ``spk`` in an ``.npz``, as Spike-Zoo's UHSR set has them.

    ``np.load(path)["spk"]`` is uint8 (T, H, W); ``read_recording(path, "uhsr")`` reads it back. The
    same spikes give the same bytes.

    Args:
        path: written aside and renamed when whole.
        source: a camera file or a clip.
        label: number of its class, if it has one.
        label_name: name of its class, likewise. UHSR has the name of a picture there; so that ours
            is known for what it is, ``written_by`` says "spikedata".
        overwrite: replace ``path``, once the new file is whole.

    Raises:
        ValueError: the blocks do not hold ``source.ticks`` ticks.
        SpikeDataError: ``path`` is there, and ``overwrite`` is False.
    """
    shape = (source.ticks, source.height_px, source.width_px)
    with (
        written_aside(Path(path), overwrite=overwrite) as aside,
        zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
    ):
        with archive.open(_member("spk"), "w", force_zip64=True) as member:
            _write_header(member, np.dtype(np.uint8), shape)
            for planes_thw in _planes(source):
                member.write(planes_thw.tobytes())
        named = None if label_name is None else "spikedata"
        for name, value in (("label", label), ("label_name", label_name), ("written_by", named)):
            if value is not None:
                with archive.open(_member(name), "w") as member:
                    npy.write_array(member, np.array(value), allow_pickle=False)


def write_dat_file(
    path: Path | str,
    source: SpikeSource,
    *,
    to_camera: str | None = None,
    camera: str | None = None,
    overwrite: bool = False,
) -> Camera:
    """Write planes as a ``.dat`` file; :func:`spikedata.open_recording` reads it back.

    Args:
        path: written aside and renamed when whole.
        source: a camera file or a clip.
        to_camera: a camera whose size the planes have, or ``bottom-up`` for plain planes with the
            bottom row first, as SpikeCV and Spike-Zoo expect.
        camera: the camera they are from, whose own layout is the default where it fits; else they
            are plain and upright.
        overwrite: replace ``path``, once the new file is whole.

    Returns:
        The layout that was written.

    Raises:
        RecordingError: there is no such camera, or its planes have another size.
        SpikeDataError: ``path`` is there, and ``overwrite`` is False.
    """
    path = on_disk(path)
    written = camera_to_write(source.height_px, source.width_px, asked=to_camera, source=camera)
    if path.exists() and not overwrite:
        raise SpikeDataError(f"{path}: exists already. Give --overwrite to replace it")
    write_recording(path, source.blocks(), written, ticks=source.ticks)
    return written


def _planes(source: SpikeSource) -> Iterator[NDArray[np.uint8]]:
    """Unpacked planes (t, H, W), at most 64 ticks at a time."""
    left = source.ticks
    for packed_ghw in source.blocks():
        for begin in range(0, len(packed_ghw), 8):
            piece_ghw = packed_ghw[begin : begin + 8]
            ticks = min(left, len(piece_ghw) * TICKS_PER_GROUP)
            yield unpack_ticks(piece_ghw, ticks)
            left -= ticks
    if left:
        raise ValueError(f"the blocks hold {source.ticks - left} ticks, expected {source.ticks}")


def _event_type(fields: Fields) -> np.dtype[Any]:
    return np.dtype([(name, _TYPES[name]) for name in fields])


def _write_header(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, header)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{name}.npy", _ZIP_TIME)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info
