"""What flows through the toolkit: spike planes packed eight ticks to a byte.

Shapes: T ticks, G = ceil(T / 8) groups of eight ticks, H rows, W columns; see
:mod:`spikedata.bits.groups`.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spikedata import bits
from spikedata.bits import BitsHasher, group_count, slice_ticks
from spikedata.wording import shown


def check_tick_rate_hz(value: Any) -> float:
    """Return ``value`` if it can be a number of ticks a second.

    Raises:
        ValueError: it is no number, or not positive and finite.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= sys.float_info.max:
        raise ValueError(f"tick_rate_hz must be a positive number, got {shown(value)}")
    return float(value)


@dataclass(frozen=True, eq=False)
class SpikeStream:
    """T spike planes of one camera, held packed.

    Raises:
        ValueError: dtype is not uint8, or the shape cannot hold ``ticks`` ticks.
    """

    packed_ghw: NDArray[np.uint8]
    """uint8 (G, H, W), eight ticks to a byte."""
    ticks: int
    """Number of ticks, T."""
    tick_rate_hz: float
    """Ticks a second."""

    def __post_init__(self) -> None:
        if self.packed_ghw.dtype != np.uint8:
            raise ValueError(f"packed_ghw must be uint8, got {self.packed_ghw.dtype}")
        if self.packed_ghw.ndim != 3 or self.packed_ghw.shape[0] != group_count(self.ticks):
            raise ValueError(
                f"{self.ticks} ticks need packed shape ({group_count(self.ticks)}, H, W), "
                f"got {self.packed_ghw.shape}"
            )

    @property
    def height_px(self) -> int:
        """Rows."""
        return int(self.packed_ghw.shape[1])

    @property
    def width_px(self) -> int:
        """Columns."""
        return int(self.packed_ghw.shape[2])

    def unpack(self) -> NDArray[np.uint8]:
        """Spike planes, uint8 0/1 (T, H, W)."""
        packed_gp = np.ascontiguousarray(self.packed_ghw).reshape(
            -1, self.height_px * self.width_px
        )
        planes_tp = bits.unpack_window(packed_gp, 0, self.ticks)
        return planes_tp.reshape(self.ticks, self.height_px, self.width_px)

    def window(self, start: int, ticks: int) -> "SpikeStream":
        """Ticks ``start`` to ``start + ticks`` as a stream of its own."""
        if start + ticks > self.ticks:
            raise ValueError(f"ticks {start}..{start + ticks} lie outside {self.ticks} ticks")
        return SpikeStream(slice_ticks(self.packed_ghw, start, ticks), ticks, self.tick_rate_hz)

    def spike_count_hw(self) -> NDArray[np.int64]:
        """Spikes of each pixel, int64 (H, W)."""
        count_hw: NDArray[np.int64] = np.bitwise_count(self.packed_ghw).sum(axis=0, dtype=np.int64)
        return count_hw

    def bits_sha256(self) -> str:
        """Digest of the bits; see :class:`BitsHasher`."""
        hasher = BitsHasher()
        hasher.update(self.packed_ghw)
        return hasher.hexdigest()

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """All of it, as one block; so a stream is a :class:`SpikeSource`."""
        yield self.packed_ghw


class SpikeSource(Protocol):
    """Spike planes that can be read more than once, block by block: a camera file, a clip."""

    @property
    def ticks(self) -> int:
        """Number of ticks, T."""

    @property
    def height_px(self) -> int:
        """Rows."""

    @property
    def width_px(self) -> int:
        """Columns."""

    @property
    def tick_rate_hz(self) -> float:
        """Ticks a second."""

    def blocks(self) -> Iterable[NDArray[np.uint8]]:
        """Packed blocks, uint8 (g, H, W), whole groups except perhaps the last."""
