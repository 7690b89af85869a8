"""The sensor: what turns light into spikes, in whole numbers.

A video frame gives a luma code 0..255; a transfer table maps it to a light code 0..65535
(full scale). Between two frames with light codes a and b there are K ticks. In tick k a pixel
gathers charge, in charge units (cu):

    hold    2 K a
    linear  a (2 K - 2 k - 1) + b (2 k + 1)

so a full-scale pixel gathers 65535 * 2 K cu a tick. The charge is added to the pixel's residue; at
the threshold the pixel fires, at most once a tick, and the threshold is subtracted (or the
residue is emptied). What then still exceeds the threshold less one is lost: the pixel saturates.

With noise, in this order (:class:`NoiseAmounts` has the whole numbers, `noise.py` the draws):

    light     of each pixel, per frame: light * response + dark, a light code again
    root      per frame interval: floor(sqrt(64 * mean light code)), from a and b
    sigma     per frame interval: root * shot >> 15
    charge    per tick: max(0, charge + sigma * (sum of the four bytes - 510))
    level     residue + charge + jitter * (balanced difference of the four bytes)
    fires     if level >= the pixel's threshold; then the residue is
              min(level - threshold - loss, threshold - 1), or -loss where it is emptied;
              loss = (a + b) * dead >> dead_shift is what the next tick does not gather
    else      residue + charge

With noise a charge unit is divided by a power of two, as far as 32 bits go, so that small noise
has steps small enough.

Shapes: H rows, W columns.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import TICKS_PER_GROUP
from spikedata.simulator.maps import FULL_SCALE, SHARE, SensorMaps, camera_maps, check_size
from spikedata.simulator.noise import (
    BYTE_SUM_SD,
    NoiseConfig,
    below,
    draw,
    draw_key,
)

INT32_LIMIT = 1 << 31

AMOUNT_LIMIT = (1 << 15) - 1
"""The most that ``sigma`` and ``jitter`` may be: products with bytes are of 16-bit numbers."""
NOISE_ROOM_CU = 1 << 26
"""More than shot noise and jitter can add to a level."""
MOST_LIGHT = 3
"""A pixel's light and dark charge together never exceed this many full-scale ticks."""
MOST_THRESHOLD = 1.5
"""A pixel's threshold never exceeds this many times the sensor's."""
MOST_LIGHT_SUM = 2 * MOST_LIGHT * FULL_SCALE
MOST_ROOT = math.isqrt(32 * MOST_LIGHT_SUM)
MOST_DEAD = (INT32_LIMIT - 1) // MOST_LIGHT_SUM
SHOT_SHIFT = 15
MOST_SHIFT = 16

Interpolation = Literal["hold", "linear"]
Reset = Literal["subtract", "zero"]
Transfer = Literal["identity", "srgb", "bt709", "pq", "hlg", "auto"]
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
    """Luma code to light: proportional, or by the sRGB, BT.709, PQ or HLG curve, full scale being
    the light of the top code (of PQ 10,000 cd/m2, of HLG the scene's peak). ``auto`` is the curve
    that each video's tag names; see :meth:`resolved`."""
    start: Start = "random"
    """Charge before the first tick: uniform below the threshold, by seed, clip and pixel, or 0."""
    seed: int = 0
    """Chooses the random start and the noise, 0 to 2**64 - 1."""
    noise: NoiseConfig | None = None
    """What makes a real camera's pixels differ from these; None is none."""

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
        if self.noise is not None:
            self._check_noise(self.noise)

    def _check_threshold(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ValueError(f"threshold must be a positive number, got {self.threshold}")
        room_cu = INT32_LIMIT - self._most_light * self._full_cu - self._noise_room_cu
        if room_cu < 1:
            raise ValueError(
                f"ticks_per_frame {self.ticks_per_frame} overflows 32-bit charge at any threshold; "
                f"{self._largest_ticks_per_frame()} is the largest that fits threshold "
                f"{self.threshold}"
            )
        if self._most_threshold * self.threshold * self._full_cu >= room_cu + 0.5:
            raise ValueError(
                f"threshold {self.threshold} overflows 32-bit charge; with ticks_per_frame "
                f"{self.ticks_per_frame} the largest that fits is "
                f"{_round_down(room_cu / self._most_threshold / self._full_cu)}"
            )
        if round(self.threshold * self._full_cu) < 1:
            raise ValueError(
                f"threshold {self.threshold} is less than one charge unit; with ticks_per_frame "
                f"{self.ticks_per_frame} the smallest is {1 / self._full_cu}"
            )

    def _check_noise(self, noise: NoiseConfig) -> None:
        if noise.dark_charge >= self.threshold:
            raise ValueError(
                f"dark_charge {noise.dark_charge} must be below the threshold {self.threshold}: "
                "the camera would fire at every tick without light"
            )
        shot, jitter = _amounts_cu(self)
        if shot > AMOUNT_LIMIT and noise.shot_quanta is not None:
            fewest = math.ceil(noise.shot_quanta * (shot / AMOUNT_LIMIT) ** 2 * 1.0001)
            raise ValueError(
                f"shot_quanta {noise.shot_quanta:g} gives noise that overflows 32-bit charge; with "
                f"ticks_per_frame {self.ticks_per_frame} the fewest that fit are {fewest}"
            )
        if jitter > AMOUNT_LIMIT:
            most = noise.threshold_jitter * AMOUNT_LIMIT / jitter
            raise ValueError(
                f"threshold_jitter {noise.threshold_jitter:g} overflows 32-bit charge; with "
                f"threshold {self.threshold} and ticks_per_frame {self.ticks_per_frame} the "
                f"largest that fits is {_round_down(most)}"
            )

    def _largest_ticks_per_frame(self) -> int:
        room_cu = INT32_LIMIT - self._noise_room_cu
        full = self._most_light + self._most_threshold * self.threshold
        return int(room_cu / (2 * FULL_SCALE * full))

    @property
    def _most_light(self) -> int:
        return 1 if self.noise is None else MOST_LIGHT

    @property
    def _most_threshold(self) -> float:
        return 1 if self.noise is None else MOST_THRESHOLD

    @property
    def _noise_room_cu(self) -> int:
        return 0 if self.noise is None else NOISE_ROOM_CU

    @property
    def _full_cu(self) -> int:
        """``full_charge_cu`` with whole charge units."""
        return FULL_SCALE * 2 * self.ticks_per_frame

    @property
    def light_charge_cu(self) -> int:
        """Charge that a light code held for a tick brings: 2 K, divided further with noise."""
        return 2 * self.ticks_per_frame << _charge_shift(self)

    @property
    def full_charge_cu(self) -> int:
        """Charge that a full-scale pixel gathers in a tick."""
        return FULL_SCALE * self.light_charge_cu

    @property
    def threshold_cu(self) -> int:
        """Charge that fires a spike."""
        return round(self.threshold * self._full_cu) << _charge_shift(self)

    @property
    def residue_limit_cu(self) -> int:
        """The most that a spike leaves behind: what exceeds it is lost."""
        return self.threshold_cu - 1 if self.reset == "subtract" else 0

    def light_table(self) -> NDArray[np.int32]:
        """Light code of each luma code, int32 (256,), 0 to 65535.

        Raises:
            ValueError: the transfer is ``auto``, which only a video resolves.

        Source: IEC 61966-2-1:1999 (sRGB); Rec. ITU-R BT.709-6, item 1.2 inverted; SMPTE ST
        2084:2014 (PQ), EOTF; ARIB STD-B67 (HLG), OETF inverted: the light of the scene.
        """
        if self.transfer == "auto":
            raise ValueError("transfer 'auto' has no table; call resolved() with the video's curve")
        codes = [round(FULL_SCALE * _CURVES[self.transfer](luma / 255)) for luma in range(256)]
        return np.array(codes, dtype=np.int32)

    def resolved(self, transfer: str | None) -> "SensorConfig":
        """The sensor for a video whose luma codes have the curve ``transfer``.

        Itself unless its transfer is ``auto``; then with that curve, BT.709 where it is None.

        Raises:
            ValueError: no such curve.
        """
        if self.transfer != "auto":
            return self
        curve: Any = "bt709" if transfer is None else transfer
        _check_one_of("transfer", curve, Literal["bt709", "srgb", "pq", "hlg"])
        return replace(self, transfer=curve)

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
    """Charge of each pixel, int32 (H, W), cu, 0 to threshold - 1; with noise, jitter may leave a
    little more and the dead time a little less."""
    tick: int
    """Ticks done so far."""
    pending_hw: NDArray[np.uint8]
    """Spikes of the unfinished group of eight ticks, uint8 (H, W); bits not reached yet are 0."""
    pixels: "NoisyPixels | None" = None
    """What tells the pixels apart; only with noise."""

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
    def initial(
        cls,
        sensor: SensorConfig,
        height_px: int,
        width_px: int,
        clip_id: str,
        *,
        maps: SensorMaps | None = None,
    ) -> Self:
        """State before the first tick of the clip ``clip_id``.

        Args:
            sensor: the camera.
            height_px: rows.
            width_px: columns.
            clip_id: with ``sensor.seed`` chooses the random start and the noise of each tick.
            maps: how the pixels differ, in place of what ``sensor.noise`` says.

        Raises:
            ValueError: a size is not positive, or maps for a sensor without noise.
            RecipeError: maps of another size, or a file of maps that cannot be read.
        """
        if height_px < 1 or width_px < 1:
            raise ValueError(f"sizes must be positive, got {height_px} x {width_px} pixels")
        if maps is not None and sensor.noise is None:
            raise ValueError("maps need a sensor with noise; give it noise=NoiseConfig()")
        residue_hw = np.zeros((height_px, width_px), dtype=np.int32)
        pixels = None
        threshold_hw: int | NDArray[np.int32] = sensor.threshold_cu
        if sensor.noise is not None:
            if maps is None:
                maps = camera_maps(sensor.noise, sensor.seed, height_px, width_px)
            check_size(maps, height_px, width_px, "maps")
            pixels = NoisyPixels.of(sensor, maps, clip_id)
            threshold_hw = np.where(pixels.silent_hw, np.int32(1), pixels.threshold_hw)
        if sensor.start == "random":
            words_hw = draw(draw_key(sensor.seed, clip_id, "start"), _numbers(height_px, width_px))
            residue_hw = below(words_hw, threshold_hw)
        return cls(residue_hw, 0, np.zeros((height_px, width_px), dtype=np.uint8), pixels)

    @property
    def pending_ticks(self) -> int:
        """Ticks in the unfinished group, 0 to 7."""
        return self.tick % TICKS_PER_GROUP


@dataclass(frozen=True, eq=False)
class NoisyPixels:
    """What tells the pixels of a noisy sensor apart in one clip."""

    response_hw: NDArray[np.int32]
    """Charge for light, 16384 = 1, int32 (H, W)."""
    dark_hw: NDArray[np.int32]
    """Light code gathered without light, int32 (H, W)."""
    threshold_hw: NDArray[np.int32]
    """Threshold, int32 (H, W), cu."""
    word_hw: NDArray[np.uint32]
    """Each pixel's part in the draws of every tick, uint32 (H, W)."""
    tick_key: tuple[int, int]
    """Stands for the ticks' part, see :func:`tick_words`."""

    @classmethod
    def of(cls, sensor: SensorConfig, maps: SensorMaps, clip_id: str) -> Self:
        """Pixels of the camera ``maps`` in the clip ``clip_id``."""
        threshold_hw = (
            maps.threshold_hw.astype(np.int64) * sensor.threshold_cu + SHARE // 2
        ) // SHARE
        return cls(
            response_hw=maps.response_hw,
            dark_hw=maps.dark_hw,
            threshold_hw=np.maximum(threshold_hw, 1).astype(np.int32),
            word_hw=draw(draw_key(sensor.seed, clip_id, "pixel"), _numbers(*maps.shape_hw)),
            tick_key=draw_key(sensor.seed, clip_id, "tick"),
        )

    @property
    def silent_hw(self) -> NDArray[np.bool_]:
        """Pixels that gather nothing, bool (H, W)."""
        gathers_hw: NDArray[np.bool_] = (self.response_hw > 0) | (self.dark_hw > 0)
        return ~gathers_hw


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseAmounts:
    """The noise of a sensor in the whole numbers that the backends compute with."""

    shot: int
    """``sigma`` = ``root`` * this >> ``SHOT_SHIFT``; below 2**19."""
    jitter: int
    """Charge units of threshold for one unit of a balanced byte difference; below 2**15."""
    dead: int
    """Loss = (a + b) * this >> ``dead_shift``, a and b light codes; at most 5461."""
    dead_shift: int

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, sensor: SensorConfig) -> "NoiseAmounts":
        """Round the sensor's noise; without noise all is 0."""
        if sensor.noise is None:
            return cls(shot=0, jitter=0, dead=0, dead_shift=0)
        shift = _charge_shift(sensor)
        sigma, jitter = (amount * 2**shift for amount in _amounts_cu(sensor))
        loss = sensor.noise.dead_time * sensor.light_charge_cu / 2
        dead_shift = 24
        while round(loss * 2**dead_shift) > MOST_DEAD:
            dead_shift -= 1
        return cls(
            shot=round(sigma / MOST_ROOT * 2**SHOT_SHIFT),
            jitter=round(jitter),
            dead=round(loss * 2**dead_shift),
            dead_shift=dead_shift,
        )


def _amounts_cu(sensor: SensorConfig) -> tuple[float, float]:
    """The largest ``sigma``, and ``jitter``, in whole charge units."""
    noise, full_cu = sensor.noise, FULL_SCALE * 2 * sensor.ticks_per_frame
    if noise is None:
        return 0.0, 0.0
    quanta = noise.shot_quanta
    shot = 0.0 if quanta is None else math.sqrt(MOST_LIGHT / quanta) * full_cu
    jitter = noise.threshold_jitter * sensor.threshold * full_cu
    return shot / BYTE_SUM_SD, jitter / BYTE_SUM_SD


@functools.lru_cache(maxsize=64)
def _charge_shift(sensor: SensorConfig) -> int:
    """How often a charge unit is halved: as often as 32 bits have room for, without noise never."""
    if sensor.noise is None:
        return 0
    level = (MOST_LIGHT + MOST_THRESHOLD * sensor.threshold) * FULL_SCALE * 2
    room = (INT32_LIMIT - NOISE_ROOM_CU) / (level * sensor.ticks_per_frame)
    amount = max(*_amounts_cu(sensor), 1.0)
    return min(MOST_SHIFT, math.floor(math.log2(min(room, AMOUNT_LIMIT / amount))))


def _numbers(height_px: int, width_px: int) -> NDArray[np.uint32]:
    """Pixel numbers y * W + x, uint32 (H, W)."""
    return np.arange(height_px * width_px, dtype=np.uint32).reshape(height_px, width_px)


def _srgb_to_light(code: float) -> float:
    if code <= 0.04045:
        return code / 12.92
    return float(((code + 0.055) / 1.055) ** 2.4)


def _bt709_to_light(code: float) -> float:
    if code < 0.081:
        return code / 4.5
    return float(((code + 0.099) / 1.099) ** (1 / 0.45))


def _pq_to_light(code: float) -> float:
    root = code ** (32 / 2523)
    return float((max(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (8192 / 1305))


def _hlg_to_light(code: float) -> float:
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * math.log(4 * a)
    if code <= 0.5:
        return code**2 / 3
    return min(1.0, (math.exp((code - c) / a) + b) / 12)


_CURVES: dict[str, Callable[[float], float]] = {
    "identity": lambda code: code,
    "srgb": _srgb_to_light,
    "bt709": _bt709_to_light,
    "pq": _pq_to_light,
    "hlg": _hlg_to_light,
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
