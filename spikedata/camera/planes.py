"""Planes of bits in a file, ``.dat``: one decoder and one encoder for every such layout.

Decoding turns eight planes at a time into bytes that hold eight ticks of one pixel: an 8 x 8 bit
transposition, with no unpacked array on the way and memory bounded by the block length.

Shapes: T ticks, g groups of eight ticks, H rows, W columns, N planes, B bytes a plane.
"""

from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from spikedata import bits
from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.camera.half_rows import are_frames, marker_template, markers_of
from spikedata.camera.layouts import Camera
from spikedata.errors import RecordingError

_PIECE_GROUPS = 8
"""Groups decoded between two reads: 64 planes of 250x400 stay in the second-level cache."""


class PlaneDecoder:
    """Turns planes as a camera writes them into packed groups."""

    def __init__(self, camera: Camera, flip: bool) -> None:
        self.plane_bytes = camera.plane_bytes
        self._scratch = np.empty(camera.plane_bytes, np.uint64)
        self._layout = camera.row_bits, camera.runs(), flip, camera.bit_order == "big"

    def decode(self, planes_nb: NDArray[np.uint8], out_ghw: NDArray[np.uint8]) -> None:
        """Fill groups, uint8 (g, H, W), from 8 g planes, uint8 (N, B); both contiguous."""
        bits.decode_groups(planes_nb, self._scratch, out_ghw, *self._layout)


class PlanesOfFile:
    """The planes of a ``.dat`` file; it is opened anew for each reading.

    Args:
        path: the file.
        camera: its layout.
        flip: turn rows upside down.
        ticks: how many planes there are.
        starts: int64 (runs, 2), tick and byte of the first plane of each run without a gap.
    """

    def __init__(
        self, path: Path, camera: Camera, *, flip: bool, ticks: int, starts: NDArray[np.int64]
    ) -> None:
        self._path, self._camera, self._flip = path, camera, flip
        self._ticks, self._starts = ticks, starts

    def span(self, start: int, ticks: int) -> NDArray[np.uint8]:
        """Ticks ``start`` to ``start + ticks``, packed from bit 0: uint8 (g, H, W)."""
        return next(self._packed([ticks], start))

    def blocks(self, ticks: int) -> Iterator[NDArray[np.uint8]]:
        """All of it, ``ticks`` at a time, a multiple of eight: uint8 (g, H, W)."""
        return self._packed(min(ticks, self._ticks - at) for at in range(0, self._ticks, ticks))

    def _packed(self, lengths: Iterable[int], tick: int = 0) -> Iterator[NDArray[np.uint8]]:
        """So many ticks at a time, one after another from ``tick`` on."""
        decoder = PlaneDecoder(self._camera, self._flip)
        planes_nb = np.empty((_PIECE_GROUPS * TICKS_PER_GROUP, decoder.plane_bytes), np.uint8)
        with open_to_read(self._path) as file:
            for ticks in lengths:
                room_ghw = np.empty((group_count(ticks), *self._camera.size), np.uint8)
                end = tick + ticks
                for first in range(0, len(room_ghw), _PIECE_GROUPS):
                    piece_ghw = room_ghw[first : first + _PIECE_GROUPS]
                    piece_nb = planes_nb[: len(piece_ghw) * TICKS_PER_GROUP]
                    count = min(len(piece_nb), end - tick)
                    self._read(file, piece_nb[:count], tick)
                    piece_nb[count:] = 0
                    decoder.decode(piece_nb, piece_ghw)
                    tick += count
                yield room_ghw

    def _read(self, file: FileIO, planes_nb: NDArray[np.uint8], tick: int) -> None:
        """Fill ``planes_nb`` with the planes from that of ``tick`` on."""
        end = tick + len(planes_nb)
        first = int(np.searchsorted(self._starts[:, 0], tick, side="right")) - 1
        for number in range(first, len(self._starts)):
            run_tick, run_byte = map(int, self._starts[number])
            run_end = end if number + 1 == len(self._starts) else int(self._starts[number + 1, 0])
            count = min(end, run_end) - tick
            room_nb, planes_nb = planes_nb[:count], planes_nb[count:]
            file.seek(run_byte + (tick - run_tick) * self._camera.plane_bytes)
            if file.readinto(room_nb.data) != room_nb.size:
                raise RecordingError(f"{self._path}: ended before tick {tick + count}")
            if self._camera.layout == "half_rows" and not are_frames(room_nb):
                raise RecordingError(f"{self._path}: was changed while it was open; open it again")
            tick += count
            if tick == end:
                return


def open_to_read(path: Path) -> FileIO:
    """A file, unbuffered.

    Raises:
        RecordingError: it cannot be read.
    """
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error


def write_planes(
    file: IO[bytes], blocks: Iterable[NDArray[np.uint8]], camera: Camera, ticks: int, flip: bool
) -> None:
    """Write packed blocks, uint8 (g, H, W), as ``ticks`` planes.

    Raises:
        ValueError: the blocks do not fit the camera or do not hold ``ticks`` ticks.
    """
    left = ticks
    for block_ghw in blocks:
        count = min(left, len(block_ghw) * TICKS_PER_GROUP)
        if group_count(count) != len(block_ghw):
            raise ValueError(f"the blocks hold more than {ticks} ticks")
        file.write(_encode(block_ghw, camera, flip)[:count].data)
        left -= count
    if left:
        raise ValueError(f"the blocks hold {ticks - left} ticks, expected {ticks}")


def _encode(block_ghw: NDArray[np.uint8], camera: Camera, flip: bool) -> NDArray[np.uint8]:
    """Packed groups (g, H, W) to file bytes (8 g, B)."""
    if block_ghw.ndim != 3 or block_ghw.shape[1:] != camera.size or block_ghw.dtype != np.uint8:
        raise ValueError(
            f"camera {camera.name} takes uint8 blocks (g, {camera.height_px}, {camera.width_px}), "
            f"got {block_ghw.dtype} {block_ghw.shape}"
        )
    planes_nb = np.empty((len(block_ghw) * TICKS_PER_GROUP, camera.plane_bytes), np.uint8)
    scratch = np.zeros(camera.plane_bytes, np.uint64)
    big = camera.bit_order == "big"
    bits.encode_groups(block_ghw, scratch, planes_nb, camera.row_bits, camera.runs(), flip, big)
    if camera.layout == "half_rows":
        markers_of(planes_nb)[:] |= marker_template()
    return planes_nb
