"""In what order windows come: places in a clip, one after the other, and the buffer."""

import functools
import hashlib
import math
from collections.abc import Iterator

import numpy as np

_GOLDEN = (math.sqrt(5) - 1) / 2


class Turns:
    """The places that a clip's windows take, one after the other; one window's turn at them.

    In each range a window is a fixed step after the one before, round and round. The step has no
    divisor in common with the range, so all places are taken before one is taken again; it is
    about 0.618 of the range, so any number of windows in a row lies spread over it.
    """

    def __init__(self, seed: int, clip_id: str, number: int) -> None:
        self._key, self._number, self._drawn = f"{seed} {clip_id}", number, 0

    def integers(self, low: int, /) -> int:
        """A whole number from 0, below ``low``; each call for one window is a range of its own."""
        digest = hashlib.blake2b(f"{self._drawn} {self._key}".encode(), digest_size=8).digest()
        self._drawn += 1
        return (int.from_bytes(digest, "little") + self._number * _step(low)) % low


@functools.lru_cache(maxsize=4096)
def _step(count: int) -> int:
    """The number nearest to ``count`` times the golden ratio that shares no divisor with it."""
    middle = round(count * _GOLDEN)
    near = (middle + way for far in range(count) for way in (far, -far))
    return next(step for step in near if math.gcd(step, count) == 1)


def through_buffer(count: int, room: int, rng: np.random.Generator) -> Iterator[int]:
    """Numbers below ``count`` as they leave a buffer of ``room`` that they enter in order."""
    if not room:
        yield from range(count)
        return
    places = rng.random(count).tolist()
    waiting = list(range(min(room, count)))
    for number in range(room, count):
        at = int(places[number] * room)
        yield waiting[at]
        waiting[at] = number
    for at in range(len(waiting) - 1, -1, -1):
        other = int(places[at] * (at + 1))
        waiting[at], waiting[other] = waiting[other], waiting[at]
        yield waiting[at]
