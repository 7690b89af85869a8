"""The sensor: what turns light into spikes, in whole numbers.

A video frame gives a luma code 0..255; a transfer table maps it to a light code 0..65535
(full scale). Between two frames with light codes a and b there are K ticks. In tick k a pixel
gathers charge, in charge units (cu):

    hold    2 K a
    linear  a (2 K - 2 k - 1) + b (2 k + 1)

so a full-scale pixel gathers 65535 * 2 K cu a tick. The charge is added to the pixel's residue; at
the threshold the pixel fires, at most once a tick, and the threshold is subtracted (or the
residue is emptied). What then still exceeds the threshold less one is lost: the pixel saturates.

Shapes: H rows, W columns.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from spikedata.simulator.noise import below, draw, draw_key
from spikedata.stream import TICKS_PER_GROUP

FULL_SCALE = 65535
"""Light code of the brightest luma code, 255."""
INT32_LIMIT = 1 << 31

Interpolation = Literal["hold", "linear"]
Reset = Literal["subtract", "zero"]
Transfer = Literal["identity", "srgb", "bt709"]
Start = Literal["random", "zero"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SensorConfig:
    """One simulated spike camera.

    Raises:
        ValueError: a value is not one of those named, not positive, or so large that charge
            would not fit in 32 bits; the message then gives the largest value that fits.
    """

    threshold: float = 2.0
    """Ticks a full-scale pixel needs for a spike."""
    ticks_per_frame: int = 10
    """Ticks between two video frames, K."""
    interpolation: Interpolation = "linear"
    """Light between two frames: the earlier one held, or a straight line from one to the next."""
    reset: Reset = "subtract"
    """What a spike leaves behind: the surplus charge, or nothing."""
    transfer: Transfer = "identity"
    """Luma code to light: proportional, or the inverse of the sRGB or BT.709 curve."""
    start: Start = "random"
    """Charge before the first tick: uniform below the threshold, by seed, clip and pixel, or 0."""
    seed: int = 0
    """Chooses the random start, 0 to 2**64 - 1."""

    def __post_init__(self) -> None:
        _check_one_of("interpolation", self.interpolation, Interpolation)
        _check_one_of("reset", self.reset, Reset)
        _check_one_of("transfer", self.transfer, Transfer)
        _check_one_of("start", self.start, Start)
        _check_whole("ticks_per_frame", self.ticks_per_frame)
        _check_whole("seed", self.seed)
        if self.ticks_per_frame < 1:
            raise ValueError(f"ticks_per_frame must be at least 1, got {self.ticks_per_frame}")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed must be from 0 to 2**64 - 1, got {self.seed}")
        self._check_threshold()

    def _check_threshold(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ValueError(f"threshold must be a positive number, got {self.threshold}")
        room_cu = INT32_LIMIT - self.full_charge_cu
        if room_cu < 1:
            raise ValueError(
                f"ticks_per_frame {self.ticks_per_frame} overflows 32-bit charge at any threshold; "
                f"{self._largest_ticks_per_frame()} is the largest that fits threshold "
                f"{self.threshold}"
            )
        if self.threshold * self.full_charge_cu >= room_cu + 0.5:
            raise ValueError(
                f"threshold {self.threshold} overflows 32-bit charge; with ticks_per_frame "
                f"{self.ticks_per_frame} the largest that fits is "
                f"{_round_down(room_cu / self.full_charge_cu)}"
            )
        if self.threshold_cu < 1:
            raise ValueError(
                f"threshold {self.threshold} is less than one charge unit; with ticks_per_frame "
                f"{self.ticks_per_frame} the smallest is {1 / self.full_charge_cu}"
            )

    def _largest_ticks_per_frame(self) -> int:
        return int(INT32_LIMIT / (2 * FULL_SCALE * (1 + self.threshold)))

    @property
    def full_charge_cu(self) -> int:
        """Charge that a full-scale pixel gathers in a tick."""
        return FULL_SCALE * 2 * self.ticks_per_frame

    @property
    def threshold_cu(self) -> int:
        """Charge that fires a spike."""
        return round(self.threshold * self.full_charge_cu)

    @property
    def residue_limit_cu(self) -> int:
        """The most that a spike leaves behind: what exceeds it is lost."""
        return self.threshold_cu - 1 if self.reset == "subtract" else 0

    def light_table(self) -> NDArray[np.int32]:
        """Light code of each luma code, int32 (256,), 0 to 65535.

        Source: IEC 61966-2-1:1999 (sRGB) and Rec. ITU-R BT.709-6, item 1.2 inverted.
        """
        codes = [round(FULL_SCALE * _CURVES[self.transfer](luma / 255)) for luma in range(256)]
        return np.array(codes, dtype=np.int32)

    def frames_needed(self, tick: int, ticks: int) -> int:
        """Frames that ``ticks`` ticks from ``tick`` on look at, from the one ``tick`` lies in."""
        if ticks == 0:
            return 0
        intervals = (tick % self.ticks_per_frame + ticks - 1) // self.ticks_per_frame + 1
        return intervals + (self.interpolation == "linear")


@dataclass(frozen=True, eq=False)
class SensorState:
    """What a sensor carries from one tick to the next.

    Raises:
        ValueError: dtypes or shapes are not those below, or the tick is negative.
    """

    residue_hw: NDArray[np.int32]
    """Charge of each pixel, int32 (H, W), cu, 0 to threshold - 1."""
    tick: int
    """Ticks done so far."""
    pending_hw: NDArray[np.uint8]
    """Spikes of the unfinished group of eight ticks, uint8 (H, W); bits not reached yet are 0."""

    def __post_init__(self) -> None:
        shape_hw = self.residue_hw.shape
        if self.residue_hw.dtype != np.int32 or len(shape_hw) != 2 or 0 in shape_hw:
            raise ValueError(f"residue_hw must be int32 (H, W), got {_describe(self.residue_hw)}")
        if self.pending_hw.dtype != np.uint8 or self.pending_hw.shape != shape_hw:
            raise ValueError(
                f"pending_hw must be uint8 {shape_hw}, got {_describe(self.pending_hw)}"
            )
        if self.tick < 0:
            raise ValueError(f"tick must not be negative, got {self.tick}")

    @classmethod
    def initial(cls, sensor: SensorConfig, height_px: int, width_px: int, clip_id: str) -> Self:
        """State before the first tick of the clip ``clip_id``.

        Raises:
            ValueError: a size is not positive.
        """
        if height_px < 1 or width_px < 1:
            raise ValueError(f"sizes must be positive, got {height_px} x {width_px} pixels")
        residue_hw = np.zeros((height_px, width_px), dtype=np.int32)
        if sensor.start == "random":
            pixels = np.arange(height_px * width_px, dtype=np.uint32)
            words = draw(draw_key(sensor.seed, clip_id, "start"), pixels)
            residue_hw = below(words, sensor.threshold_cu).reshape(height_px, width_px)
        return cls(residue_hw, 0, np.zeros((height_px, width_px), dtype=np.uint8))

    @property
    def pending_ticks(self) -> int:
        """Ticks in the unfinished group, 0 to 7."""
        return self.tick % TICKS_PER_GROUP


def _srgb_to_light(code: float) -> float:
    if code <= 0.04045:
        return code / 12.92
    return float(((code + 0.055) / 1.055) ** 2.4)


def _bt709_to_light(code: float) -> float:
    if code < 0.081:
        return code / 4.5
    return float(((code + 0.099) / 1.099) ** (1 / 0.45))


_CURVES: dict[str, Callable[[float], float]] = {
    "identity": lambda code: code,
    "srgb": _srgb_to_light,
    "bt709": _bt709_to_light,
}


def _check_one_of(name: str, value: object, literal: Any) -> None:
    if value not in get_args(literal):
        raise ValueError(f"{name} must be one of {', '.join(get_args(literal))}, got {value!r}")


def _check_whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, got {value!r}")


def _round_down(value: float) -> float:
    """``value`` to six significant digits, never more than it."""
    step: float = 10.0 ** (math.floor(math.log10(value)) - 5)
    return float(f"{math.floor(value / step) * step:.6g}")


def _describe(array: NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape}"
