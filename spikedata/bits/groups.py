"""Ticks packed eight to a byte: pack, unpack, cut, and the digest over them.

Shapes: T ticks, G = ceil(T / 8) groups of eight ticks, H rows, W columns. Bit k (least
significant first) of group i is tick 8 i + k; the unused high bits of a last group are 0.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

TICKS_PER_GROUP = 8


def group_count(ticks: int) -> int:
    """Bytes a pixel needs for ``ticks`` ticks."""
    return -(-ticks // TICKS_PER_GROUP)


def pack_ticks(spikes_thw: NDArray[Any]) -> NDArray[np.uint8]:
    """Pack spike planes eight ticks to a byte.

    Args:
        spikes_thw: bool or 0/1 integers (T, H, W).

    Returns:
        packed_ghw: uint8 (ceil(T / 8), H, W).

    Raises:
        ValueError: not three-dimensional, or a value is neither 0 nor 1.
    """
    spikes_thw = np.asarray(spikes_thw)
    if spikes_thw.ndim != 3:
        raise ValueError(f"spikes_thw must be (T, H, W), got shape {spikes_thw.shape}")
    if spikes_thw.dtype != np.bool_ and spikes_thw.size and not np.isin(spikes_thw, (0, 1)).all():
        raise ValueError("spikes_thw must hold only 0 and 1")
    return np.packbits(spikes_thw.astype(np.bool_), axis=0, bitorder="little")


def unpack_ticks(packed_ghw: NDArray[np.uint8], ticks: int) -> NDArray[np.uint8]:
    """Undo :func:`pack_ticks`: uint8 0/1 (T, H, W) from uint8 (G, H, W).

    Raises:
        ValueError: the groups cannot hold exactly ``ticks`` ticks.
    """
    if packed_ghw.ndim != 3 or packed_ghw.shape[0] != group_count(ticks):
        raise ValueError(
            f"{ticks} ticks need packed shape ({group_count(ticks)}, H, W), got {packed_ghw.shape}"
        )
    planes_thw = np.empty((len(packed_ghw) * TICKS_PER_GROUP, *packed_ghw.shape[1:]), np.uint8)
    for k in range(TICKS_PER_GROUP):  # many times faster than numpy.unpackbits along axis 0
        np.bitwise_and(packed_ghw >> k, 1, out=planes_thw[k::TICKS_PER_GROUP])
    return planes_thw[:ticks]


def slice_ticks(packed_ghw: NDArray[np.uint8], start: int, ticks: int) -> NDArray[np.uint8]:
    """Cut ticks ``start`` to ``start + ticks`` out and pack them from bit 0 again.

    Args:
        packed_ghw: uint8 (G, H, W).
        start: first tick wanted, need not be a multiple of eight.
        ticks: how many.

    Returns:
        packed_ghw: uint8 (ceil(ticks / 8), H, W), contiguous; unused high bits are 0.

    Raises:
        ValueError: the window does not lie inside the groups given.
    """
    if start < 0 or ticks < 0 or start + ticks > packed_ghw.shape[0] * TICKS_PER_GROUP:
        raise ValueError(
            f"ticks {start}..{start + ticks} lie outside "
            f"{packed_ghw.shape[0] * TICKS_PER_GROUP} packed ticks"
        )
    first, shift = divmod(start, TICKS_PER_GROUP)
    groups = group_count(ticks)
    out_ghw = packed_ghw[first : first + groups] >> shift
    if shift:
        next_ghw = packed_ghw[first + 1 : first + 1 + groups]
        out_ghw[: len(next_ghw)] |= next_ghw << (TICKS_PER_GROUP - shift)
    if ticks % TICKS_PER_GROUP:
        out_ghw[-1] &= (1 << ticks % TICKS_PER_GROUP) - 1
    return np.ascontiguousarray(out_ghw)


class BitsHasher:
    """SHA-256 over a stream's bits, fed block by block.

    The digest is over the packed bytes in C order of (group, y, x), whatever the chunks, codec or
    backend they came from. Two streams of one geometry have the same digest only if every bit is
    the same.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def copy(self) -> "BitsHasher":
        """One that has been fed the same, and goes on by itself."""
        other = BitsHasher()
        other._sha256 = self._sha256.copy()
        return other

    def update(self, packed_ghw: NDArray[np.uint8]) -> None:
        """Add the next whole groups (only the last block may end inside a group)."""
        self._sha256.update(np.ascontiguousarray(packed_ghw).data)

    def hexdigest(self) -> str:
        """The digest, 64 hexadecimal digits."""
        return self._sha256.hexdigest()
