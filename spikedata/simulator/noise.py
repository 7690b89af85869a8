"""What makes a real pixel differ from the ideal one, in whole numbers drawn without an order.

A draw is a hash of (seed, clip, term, pixel, tick): it has no state, so the same bits come
out on every backend, in any order, cut anywhere. A key of 64 bits stands for (seed, clip, term);
it is derived once a clip with SHA-256, so all bits of a seed and of an id of any length count. The
rest is 32-bit integer arithmetic (wrapping), which every backend can do on its vectors.

Two kinds of terms. Those that tell the pixels of one camera apart depend on seed and pixel alone:
a seed is a camera. Those that change from tick to tick depend on the clip too: pixel and
tick each have words of their own, which a backend mixes (``bytes_of_tick`` in `reference.py`).

Source: the mixer is the two-multiplication hash "lowbias32" of Chris Wellons' hash prospector
(public domain): https://nullprogram.com/blog/2018/07/31/.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIX_FIRST = 0x7FEB352D
MIX_SECOND = 0x846CA68B

BYTE_SUM_MEAN = 510
"""Mean of the sum of four bytes, and the most that the sum or a balanced difference strays."""
BYTE_SUM_SD = math.sqrt(4 * (2**16 - 1) / 12)
"""Standard deviation of a sum or balanced difference of four uniform bytes: 147.8."""
BELL_SD = math.sqrt(16 * (2**32 - 1) / 12)
"""Standard deviation of :func:`bell`."""

MOST_JITTER = 0.1
MOST_THRESHOLD_SPREAD = 0.15
MOST_RESPONSE_SPREAD = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """Noise of one camera; every term is off by default.

    Raises:
        ValueError: a value is impossible; the message says what is possible.
    """

    response_spread: float = 0.0
    """Pixel response non-uniformity (PRNU): standard deviation over the pixels, mean 1."""
    dark_charge: float = 0.0
    """Charge that a pixel gathers in a tick without light; 1 is a full-scale tick's."""
    dark_spread: float = 0.0
    """Dark signal non-uniformity (DSNU): standard deviation over the pixels, share of the mean."""
    threshold_spread: float = 0.0
    """Standard deviation of the threshold over the pixels, share of the threshold."""
    shot_quanta: float | None = None
    """Quanta that a full-scale pixel gathers in a tick, fewer are noisier; None: no shot noise."""
    threshold_jitter: float = 0.0
    """Standard deviation of the threshold from tick to tick, share of the threshold."""
    dead_time: float = 0.0
    """Share of a tick that a pixel does not integrate after a spike."""
    hot_share: float = 0.0
    """Share of pixels that are hot: their dark charge is ``hot_charge``."""
    hot_charge: float = 0.25
    """Dark charge of a hot pixel; 1 is a full-scale tick's."""
    dead_share: float = 0.0
    """Share of pixels that never fire."""
    maps: str | None = None
    """File of per-pixel maps (.npz) in place of the drawn ones, see :class:`SensorMaps`."""
    maps_sha256: str | None = None
    """SHA-256 of that file, if it must be that very one; :func:`load_sensor` fills it in."""

    def __post_init__(self) -> None:
        for name, most in _RANGES.items():
            _check_range(name, getattr(self, name), most)
        if self.shot_quanta is not None and not 0 < self.shot_quanta < math.inf:
            raise ValueError(f"shot_quanta must be a positive number, got {self.shot_quanta}")
        if self.hot_share + self.dead_share > 1:
            raise ValueError(
                f"hot_share {self.hot_share} and dead_share {self.dead_share} exceed 1 together"
            )


_RANGES = {
    "response_spread": MOST_RESPONSE_SPREAD,
    "dark_charge": 1.0,
    "dark_spread": math.inf,
    "threshold_spread": MOST_THRESHOLD_SPREAD,
    "threshold_jitter": MOST_JITTER,
    "dead_time": 1.0,
    "hot_share": 1.0,
    "hot_charge": 1.0,
    "dead_share": 1.0,
}
"""The most that each term may be; the least is 0."""


def _check_range(name: str, value: float, most: float) -> None:
    if not (0 <= value <= most and math.isfinite(value)):
        limit = "0 or more" if most == math.inf else f"from 0 to {most:g}"
        raise ValueError(f"{name} must be {limit}, got {value}")


def draw_key(seed: int, clip_id: str, term: str) -> tuple[int, int]:
    """Two 32-bit words that stand for one noise term of one clip.

    Args:
        seed: 0 to 2**64 - 1.
        clip_id: any text; empty for what all clips of a seed share.
        term: what the draws are for, for example ``"start"``.
    """
    text = b"\0".join((seed.to_bytes(8, "little"), term.encode(), clip_id.encode()))
    digest = hashlib.sha256(text).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def mix(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Hash each word: a one-to-one map of 32 bits onto 32 bits."""
    words = words ^ (words >> np.uint32(16))
    words = words * np.uint32(MIX_FIRST)
    words = words ^ (words >> np.uint32(15))
    words = words * np.uint32(MIX_SECOND)
    return words ^ (words >> np.uint32(16))


def draw(key: tuple[int, int], pixels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Uniform 32-bit words, one a pixel.

    Args:
        key: from :func:`draw_key`.
        pixels: uint32, any shape: the pixels' numbers, y * W + x.
    """
    return mix(mix(pixels + np.uint32(key[0])) + np.uint32(key[1]))


def below(words: NDArray[np.uint32], limit: int | NDArray[Any]) -> NDArray[np.int32]:
    """Turn uniform words into uniform integers from 0 to ``limit`` - 1 (limit <= 2**31)."""
    scaled = (words.astype(np.uint64) * np.asarray(limit, np.uint64)) >> np.uint64(32)
    return scaled.astype(np.int32)


def bell(seed: int, term: str, pixels: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Nearly normal integers, one a pixel: mean 0, standard deviation :data:`BELL_SD`.

    The sum of 16 uniform 16-bit numbers; its excess kurtosis is -0.075, its ends are at 6.9
    standard deviations.
    """
    total = np.zeros(pixels.shape, np.int64)
    for i in range(8):
        words = draw(draw_key(seed, "", f"{term} {i}"), pixels)
        total += (words & np.uint32(0xFFFF)).astype(np.int64) + (words >> np.uint32(16))
    return total - 8 * 0xFFFF


def spread(
    seed: int, term: str, pixels: NDArray[np.uint32], mean: float, sd: float
) -> NDArray[np.int64]:
    """Nearly normal integers of this mean and standard deviation, each rounded once."""
    if sd == 0:
        return np.full(pixels.shape, round(mean), np.int64)
    step = round(sd / BELL_SD * 2**32)
    return (bell(seed, term, pixels) * step + round(mean * 2**32) + 2**31) >> 32


def tick_words(key: tuple[int, int], tick: int, ticks: int) -> NDArray[np.uint32]:
    """Two words for each of ``ticks`` ticks from ``tick`` on, uint32 (2, T), the second odd."""
    number = np.arange(tick, tick + ticks, dtype=np.uint32) * np.uint32(2)
    return np.stack([draw(key, number), draw(key, number + np.uint32(1)) | np.uint32(1)])
