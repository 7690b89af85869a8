"""What the bytes of a file say of its planes, rows and bits, before anything is decoded.

Two things are looked at. *Rest*: a pixel that has just fired does not fire in the next tick (it
fires in few of them at most), so two bits one plane apart are both 1 more seldom than the one and
the other's neighbour; at no other distance is it so. That finds the size of a plane, even of a
scene without any texture. *Neighbours*: in the mean picture of some ticks a pixel is like the one
to its right and the one below. That finds the width of a row and the order of bits in a byte.

Shapes: N planes, P bytes a plane, H rows, W columns, S strips.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.camera import Camera
from spikedata.errors import RecordingError

STRIPS = 16
"""Parts of a picture, from its first row to its last, that are judged each by itself."""
_MOST_TICKS = 250
"""Counted in one picture: as many as fit a byte."""
_REST_BYTES = 1 << 19
"""Compared with what lies further on, unless planes are very large."""
_LEAST_REST = 10.0
"""Times its spread that a rest must be to count; without a rest at most 5 were seen."""
_PLAIN_REST, _LEAST_PLAIN_REST = 0.25, 5.0
"""A rest that makes two spikes by a quarter more seldom must be so many times its spread."""
_LOW_BITS = np.uint8(0x7F)
_OFF_BYTES = (-9, -7, -5, -3, -2, -1, 1, 2, 3, 5, 7, 9)
"""From a distance to others near it, at which there is no rest: they tell the spread."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """Some consecutive bytes of a file."""

    start: int
    """Where in the file they begin."""
    data_n: NDArray[np.uint8]

    def rates(self, plane_bytes: int) -> NDArray[np.float32]:
        """Mean over the whole planes inside, float32 (8 P,), spikes a tick, lowest bit first.

        None inside: zeros.
        """
        skip = -self.start % plane_bytes
        count = min((len(self.data_n) - skip) // plane_bytes, _MOST_TICKS)
        if count < 1:
            return np.zeros(plane_bytes * 8, np.float32)
        planes_np = self.data_n[skip : skip + count * plane_bytes].reshape(count, plane_bytes)
        spikes_nb = np.unpackbits(planes_np, axis=1, bitorder="little")
        rates_b: NDArray[np.float32] = spikes_nb.sum(axis=0, dtype=np.uint8) / np.float32(count)
        return rates_b

    def rest(self, distance: int) -> tuple[float, float]:
        """How much more seldom two bits so many bytes apart are both 1 than one and a neighbour.

        Returns:
            The difference of the two probabilities, negative where a pixel rests after a spike,
            and the second of them; zeros where the stretch is too short.
        """
        data_n = self.data_n[: max(_REST_BYTES, 4 * distance)]
        early_n, late_n = data_n[:-distance], data_n[distance:]
        if not len(early_n):
            return 0.0, 0.0
        same = _ones(early_n & late_n)
        # Bits k and k + 1, then k + 1 and k, of the same byte: seven pairs each.
        beside = _ones(early_n & _LOW_BITS & (late_n >> 1))
        beside += _ones(late_n & _LOW_BITS & (early_n >> 1))
        return (same / 8 - beside / 14) / len(early_n), beside / 14 / len(early_n)

    def sameness(self, plane_bytes: int) -> float:
        """Share of the variance that is the same in all planes, 1 in a still scene without noise.

        Of the number of ones in 32 neighbouring bits; it needs no rest after a spike.
        """
        sums_n = np.cumsum(np.bitwise_count(self.data_n), dtype=np.int64)
        sums_n = (sums_n[4:] - sums_n[:-4]).astype(np.float32)
        count = len(sums_n) // plane_bytes
        if count < 2:
            return 0.0
        planes_np = (sums_n - sums_n.mean())[: count * plane_bytes].reshape(count, plane_bytes)
        whole = float(np.square(planes_np).sum())
        shared = float(np.square(planes_np.sum(axis=0)).sum())
        return (shared - whole) / (count - 1) / whole if whole else 0.0


def size_of(path: Path) -> int:
    """Bytes of a file.

    Raises:
        RecordingError: it cannot be looked at.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error


def stretch_of(path: Path, start: int, length: int) -> Stretch:
    """Read a stretch of a file, shorter where that ends.

    Raises:
        RecordingError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            return Stretch(start, np.frombuffer(file.read(length), np.uint8))
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error


def find_plane_bytes(stretch: Stretch, sizes: Sequence[int]) -> int | None:
    """The smallest of some plane sizes, bytes, at which pixels rest after a spike; None if none.

    Args:
        stretch: of the file.
        sizes: ascending.
    """
    rests = {size: stretch.rest(size)[0] for size in sizes}
    lowest = min(rests, key=lambda size: rests[size], default=0)
    if not lowest or rests[lowest] >= 0:
        return None
    others = [abs(stretch.rest(lowest + off)[0]) for off in _OFF_BYTES if lowest + off > 0]
    spread = 1.48 * float(np.median(others)) + 1e-9
    seldom = -rests[lowest] > _PLAIN_REST * stretch.rest(lowest)[1]
    least = (_LEAST_PLAIN_REST if seldom else _LEAST_REST) * spread
    # Twice the size, thrice the size rest as well, and about as clearly.
    least = max(least, -0.15 * rests[lowest])
    return next((size for size in sizes if rests[size] < -least), None)


def _ones(data_n: NDArray[Any]) -> int:
    whole = len(data_n) // 8 * 8
    ones = np.bitwise_count(data_n[:whole].view(np.uint64)).sum(dtype=np.int64)
    return int(ones) + int(np.bitwise_count(data_n[whole:]).sum())


def likely_widths(rates_b: NDArray[np.float32], plane_bytes: int, *, most: int) -> list[int]:
    """Columns a row may have, by how alike pixels at that distance are, likeliest first.

    Args:
        rates_b: as :meth:`Stretch.rates` gives them.
        plane_bytes: P.
        most: how many at most.
    """
    bits = plane_bytes * 8
    widths = [
        width
        for width in range(max(8, math.isqrt(bits // 8)), min(math.isqrt(bits * 8) + 1, bits // 8))
        if bits - bits // width * width < 8
    ]
    centred_b = rates_b - rates_b.mean()
    alike = {
        width: float(np.dot(centred_b[:-width], centred_b[width:])) / (bits - width)
        for width in widths
    }
    return sorted(alike, key=lambda width: -alike[width])[:most]


def picture_of(rates_b: NDArray[np.float32], camera: Camera) -> NDArray[np.float32]:
    """Rates in the order of the file as a picture of a camera with rows of bits, (H, W).

    Rows are in the file's order.
    """
    height, width = camera.size
    if camera.bit_order == "big":
        rates_b = rates_b.reshape(-1, 8)[:, ::-1].reshape(-1)
    row = camera.row_bits
    return rates_b[: height * row].reshape(height, row)[:, :width]


def neighbours(picture_hw: NDArray[np.float32]) -> NDArray[np.float64]:
    """Covariance of a pixel with the one to its right and the one below, float64 (S, 2).

    As the variance of the picture less half the mean square of their differences: the mean over
    the strips is the covariance. Noise is another in each pixel and adds nothing to it, so that
    few ticks and darkness make it uncertain, but not small. Fewer strips where there are few rows.
    """
    count = max(1, min(STRIPS, len(picture_hw) // 2))
    whole_b = picture_hw.reshape(-1)
    variance = float(np.vdot(whole_b, whole_b)) / len(whole_b) - float(whole_b.mean()) ** 2
    unlike_s2 = np.zeros((count, 2))
    for axis in (0, 1):
        steps_hw = np.diff(picture_hw, axis=1 - axis)
        unlike_h = np.einsum("hw,hw->h", steps_hw, steps_hw) / max(1, steps_hw.shape[1])
        unlike_s2[:, axis] = [part.mean() for part in np.array_split(unlike_h, count)]
    return variance - unlike_s2 / 2


def has_padding(rows_hw: NDArray[np.float32], width_px: int) -> bool:
    """Whether what follows the first ``width_px`` bits of each row is no picture.

    It is the same in all ticks, or unlike the last pixels before it.
    """
    if np.isin(rows_hw[:, width_px:], (0, 1)).all():
        return True
    steps_w = np.square(np.diff(rows_hw[:, : width_px + 1], axis=1)).mean(axis=0)
    return bool(steps_w[-1] > 2 * np.median(steps_w[-17:-1]))
