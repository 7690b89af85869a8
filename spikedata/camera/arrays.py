"""Recordings as arrays of NumPy or HDF5, of any type that holds zeros and ones.

Values come one after another in the order of the file (:class:`Values`), by one reader for each
container; what is made of them depends on the order of the axes alone.

Shapes: T ticks, G = ceil(T / 8) groups of eight ticks, H rows, W columns, P = H W pixels.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import TICKS_PER_GROUP, group_count, slice_ticks
from spikedata.errors import SpikeDataError
from spikedata.npz import PIECE_BYTES

_MOST_HELD_BYTES = 1 << 28
"""Packed bytes of an ``hwt`` array that are gathered in one reading of the file."""


class Values(Protocol):
    """An array's values, one after another in the order of the file."""

    dtype: np.dtype[Any]

    def take(self, count: int) -> NDArray[Any]:
        """The next ``count`` of them."""

    def skip(self, count: int) -> None:
        """Pass over the next ``count`` of them."""


OpenValues = Callable[[], AbstractContextManager[Values]]


class PlanesOfArray(ABC):
    """The planes of an array; it is opened anew for each reading.

    Args:
        open_values: gives the values from the first on.
        flip: turn rows upside down.
        ticks: how many there are.
        size: rows and columns.
    """

    def __init__(
        self, open_values: OpenValues, *, flip: bool, ticks: int, size: tuple[int, int]
    ) -> None:
        self._open, self._flip, self._ticks, self._size = open_values, flip, ticks, size
        self._pixels = math.prod(size)

    @abstractmethod
    def span(self, start: int, ticks: int) -> NDArray[np.uint8]:
        """Ticks ``start`` to ``start + ticks``, packed from bit 0: uint8 (g, H, W)."""

    @abstractmethod
    def blocks(self, ticks: int) -> Iterator[NDArray[np.uint8]]:
        """All of it, ``ticks`` at a time, a multiple of eight: uint8 (g, H, W)."""

    def _upright(self, packed_ghw: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(packed_ghw[:, ::-1]) if self._flip else packed_ghw


class PlanesTimeFirst(PlanesOfArray):
    """An array of zeros and ones (T, H, W)."""

    def span(self, start: int, ticks: int) -> NDArray[np.uint8]:
        """Only as much is read as is asked for, if the container can be entered anywhere."""
        with self._open() as values:
            values.skip(start * self._pixels)
            return self._next(values, ticks)

    def blocks(self, ticks: int) -> Iterator[NDArray[np.uint8]]:
        """One reading of the file."""
        with self._open() as values:
            for first in range(0, self._ticks, ticks):
                yield self._next(values, min(ticks, self._ticks - first))

    def _next(self, values: Values, ticks: int) -> NDArray[np.uint8]:
        room_ghw = np.empty((group_count(ticks), *self._size), np.uint8)
        group_bytes = self._pixels * TICKS_PER_GROUP * values.dtype.itemsize
        step = max(1, PIECE_BYTES // group_bytes) * TICKS_PER_GROUP
        for at in range(0, ticks, step):
            count = min(step, ticks - at)
            planes_thw = _zeros_and_ones(values, count * self._pixels).reshape(count, *self._size)
            piece_ghw = np.packbits(planes_thw, axis=0, bitorder="little")
            room_ghw[at // TICKS_PER_GROUP :][: len(piece_ghw)] = piece_ghw
        return self._upright(room_ghw)


class PlanesTimeLast(PlanesOfArray):
    """An array of zeros and ones (H, W, T): all of it is read for any part of it."""

    def span(self, start: int, ticks: int) -> NDArray[np.uint8]:
        """One reading of the file."""
        packed_gp = np.empty((group_count(ticks), self._pixels), np.uint8)
        with self._open() as values:
            most = max(TICKS_PER_GROUP, PIECE_BYTES // values.dtype.itemsize)
            many = max(1, most // self._ticks)
            for pixel in range(0, self._pixels, many):
                count = min(many, self._pixels - pixel)
                if self._ticks <= most:
                    piece_pt = _zeros_and_ones(values, count * self._ticks).reshape(count, -1)
                    piece_pg = _packed_along(piece_pt[:, start : start + ticks])
                    packed_gp[:, pixel : pixel + count] = piece_pg.T
                else:  # one pixel is a long way
                    values.skip(start)
                    packed_gp[:, pixel] = _one_pixel(values, ticks, most)
                    values.skip(self._ticks - start - ticks)
        return self._upright(packed_gp.reshape(-1, *self._size))

    def blocks(self, ticks: int) -> Iterator[NDArray[np.uint8]]:
        """As many blocks as may be held are gathered in one reading of the file."""
        step = ticks // TICKS_PER_GROUP
        held = max(1, _MOST_HELD_BYTES // self._pixels // step) * ticks
        for first in range(0, self._ticks, held):
            packed_ghw = self.span(first, min(held, self._ticks - first))
            for at in range(0, len(packed_ghw), step):
                yield packed_ghw[at : at + step]


class PlanesPacked(PlanesOfArray):
    """An array of bytes (G, H, W) that hold eight ticks each, as ours do."""

    def span(self, start: int, ticks: int) -> NDArray[np.uint8]:
        """Only the groups that the ticks lie in."""
        first, within = divmod(start, TICKS_PER_GROUP)
        with self._open() as values:
            values.skip(first * self._pixels)
            packed_ghw = self._next(values, group_count(within + ticks))
        return slice_ticks(packed_ghw, within, ticks)

    def blocks(self, ticks: int) -> Iterator[NDArray[np.uint8]]:
        """One reading of the file."""
        with self._open() as values:
            for first in range(0, self._ticks, ticks):
                count = min(ticks, self._ticks - first)
                packed_ghw = self._next(values, group_count(count))
                if count % TICKS_PER_GROUP:  # nobody says what lies past the last tick
                    packed_ghw[-1] &= (1 << count % TICKS_PER_GROUP) - 1
                yield packed_ghw

    def _next(self, values: Values, groups: int) -> NDArray[np.uint8]:
        packed_ghw = values.take(groups * self._pixels).reshape(groups, *self._size)
        return self._upright(packed_ghw)


def _one_pixel(values: Values, ticks: int, most: int) -> NDArray[np.uint8]:
    """The next ticks of one pixel, uint8 (g,), at most so many at once."""
    step = most // TICKS_PER_GROUP * TICKS_PER_GROUP
    pieces = [
        _packed_along(_zeros_and_ones(values, min(step, ticks - at))[None])[0]
        for at in range(0, ticks, step)
    ]
    return np.concatenate(pieces)


def _packed_along(piece_pt: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.packbits(piece_pt, axis=1, bitorder="little")


def _zeros_and_ones(values: Values, count: int) -> NDArray[np.uint8]:
    """The next values as uint8, which may be numbers of any type."""
    found_n = values.take(count)
    if found_n.dtype in (np.uint8, np.bool_):
        ones_n: NDArray[np.uint8] = found_n.view(np.uint8)
        if ones_n.max(initial=0) > 1:
            raise SpikeDataError(f"holds values up to {ones_n.max()}, expected 0 and 1")
        return ones_n
    is_one_n: NDArray[np.bool_] = found_n == 1
    other_n = ~is_one_n & (found_n != 0)
    if other_n.any():
        raise SpikeDataError(f"holds {found_n[other_n.argmax()]}, expected 0 and 1")
    return is_one_n.view(np.uint8)
