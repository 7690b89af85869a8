"""Counter-based draws: the same number for the same (seed, clip, term, pixel), in any order.

A key of 64 bits stands for (seed, clip, term); it is derived once a clip with SHA-256, so all
bits of a seed and of an id of any length count. A draw mixes the key with the pixel's number by
32-bit integer arithmetic alone (wrapping), which every backend can do on its vectors.

Source: the mixer is the two-multiplication hash "lowbias32" of Chris Wellons' hash prospector
(public domain): https://nullprogram.com/blog/2018/07/31/.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

MIX_FIRST = 0x7FEB352D
MIX_SECOND = 0x846CA68B


def draw_key(seed: int, clip_id: str, term: str) -> tuple[int, int]:
    """Two 32-bit words that stand for one noise term of one clip.

    Args:
        seed: 0 to 2**64 - 1.
        clip_id: any text.
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


def below(words: NDArray[np.uint32], limit: int) -> NDArray[np.int32]:
    """Turn uniform words into uniform integers from 0 to ``limit`` - 1 (limit <= 2**31)."""
    scaled = (words.astype(np.uint64) * np.uint64(limit)) >> np.uint64(32)
    return scaled.astype(np.int32)
