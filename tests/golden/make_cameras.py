"""Write the golden camera files: two ticks of a staircase in each layout, by plain NumPy.

Run as ``python tests/golden/make_cameras.py``. The bytes are built from the layouts' description,
not by the project's encoder.
"""

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def staircase(height: int, width: int) -> np.ndarray:
    row, column = np.arange(height)[:, None], np.arange(width)[None]
    return np.stack([column < (row + 1) * (tick + 1) for tick in range(2)]).astype(np.uint8)


def vidar() -> np.ndarray:
    return np.packbits(staircase(250, 400)[:, ::-1], axis=2, bitorder="little")


def vidar_raw() -> np.ndarray:
    rows = np.full((2, 250, 52), 0xA5, np.uint8)
    rows[:, :, :50] = vidar()
    return rows


def easy2spike() -> np.ndarray:
    return np.packbits(staircase(250, 400), axis=2, bitorder="big")


def sps100() -> np.ndarray:
    bits = np.zeros((2, 1000, 2, 512), np.uint8)
    bits[..., :500] = staircase(1000, 1000).reshape(2, 1000, 2, 500)
    half_rows = np.packbits(bits, axis=3, bitorder="little")
    for row in range(1000):
        line = 500 - row if row < 500 else row - 499
        for half in range(2):
            marker = (half + (0 if row < 500 else 2)) << 14 | line << 4
            half_rows[:, row, half, 62] |= marker & 0xFF
            half_rows[:, row, half, 63] |= marker >> 8
    return half_rows


if __name__ == "__main__":
    for name, make in {
        "vidar": vidar,
        "vidar-raw": vidar_raw,
        "easy2spike": easy2spike,
        "sps100": sps100,
    }.items():
        (HERE / f"{name}.dat").write_bytes(make().tobytes())
