"""What tells the pixels of one camera apart: drawn from a seed, or measured and kept in a file.

Shapes: H rows, W columns.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spikedata.errors import RecipeError, SpikeDataError
from spikedata.npz import Npz
from spikedata.outputs import file_sha256, written_aside
from spikedata.simulator.noise import NoiseConfig, below, draw, draw_key, spread

SHARE = 1 << 14
"""Fixed point of response and threshold: this is 1."""
FULL_SCALE = 65535
"""Light code of the brightest luma code, 255."""
LIMITS = {
    "response_hw": (0, 2 * SHARE - 1),
    "dark_hw": (0, FULL_SCALE),
    "threshold_hw": (SHARE // 2, SHARE + SHARE // 2),
}
"""Least and largest value of each map."""
FILE_VERSION = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class SensorMaps:
    """How the pixels of one camera differ, in fixed point.

    Raises:
        ValueError: arrays that are not int32 (H, W) of one shape, or out of range.
    """

    response_hw: NDArray[np.int32]
    """Charge for light, 16384 = 1: 0 to just under 2."""
    dark_hw: NDArray[np.int32]
    """Charge of a tick without light, light codes, 65535 = a full-scale tick: 0 to 65535."""
    threshold_hw: NDArray[np.int32]
    """Threshold as share of the sensor's, 16384 = 1: 0.5 to 1.5."""

    def __post_init__(self) -> None:
        shape_hw = np.shape(self.response_hw)
        for name, (least, most) in LIMITS.items():
            array: Any = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != np.int32 or array.ndim != 2:
                raise ValueError(f"{name} must be an int32 array (H, W), got {_describe(array)}")
            if array.shape != shape_hw or array.size == 0:
                raise ValueError(f"{name} is {array.shape} (H, W), response_hw {shape_hw}")
            if array.min() < least or array.max() > most:
                raise ValueError(
                    f"{name} must be from {least} to {most}, got {array.min()} to {array.max()}"
                )

    @classmethod
    def from_shares(
        cls, response_hw: NDArray[Any], dark_hw: NDArray[Any], threshold_hw: NDArray[Any]
    ) -> Self:
        """Round floats (H, W): response and threshold 1 on average, dark 1 = a full-scale tick.

        Values out of range are cut to it; a value that is not a number is refused.

        Raises:
            ValueError: not a number, or shapes that differ.
        """
        scaled = {
            "response_hw": np.asarray(response_hw) * SHARE,
            "dark_hw": np.asarray(dark_hw) * FULL_SCALE,
            "threshold_hw": np.asarray(threshold_hw) * SHARE,
        }
        for name, array in scaled.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds values that are not numbers")
        return cls(**{name: _cut(array, name) for name, array in scaled.items()})

    @property
    def shape_hw(self) -> tuple[int, ...]:
        """(H, W)."""
        return self.response_hw.shape

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write an .npz file, whole or not at all.

        Raises:
            SpikeDataError: ``path`` is there, and ``overwrite`` is False.
        """
        arrays: dict[str, Any] = {name: getattr(self, name) for name in LIMITS}
        with written_aside(Path(path), overwrite=overwrite) as aside, aside.open("wb") as file:
            np.savez_compressed(file, version=np.int32(FILE_VERSION), **arrays)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            RecipeError: no such file, or it does not hold such maps.
        """
        try:
            with Npz(path) as archive:
                version = archive.read("version", most_bytes=8)
                if version.dtype.kind not in "iu" or version.size != 1:
                    raise SpikeDataError(f"version is {version.dtype} {version.shape}")
                if version.item() > FILE_VERSION:
                    raise RecipeError(
                        f"{path}: version {version.item()} of sensor maps is newer than this "
                        f"spikedata can read ({FILE_VERSION}). Upgrade: pip install -U spklip"
                    )
                return cls(**{name: archive.read(name) for name in LIMITS})
        except RecipeError:
            raise
        except (SpikeDataError, ValueError) as error:
            raise RecipeError(f"{path}: not sensor maps: {error}") from error


def camera_maps(noise: NoiseConfig, seed: int, height_px: int, width_px: int) -> SensorMaps:
    """The maps of the camera ``seed``: the same for all its clips.

    Raises:
        RecipeError: ``noise.maps`` cannot be read or has another size.
    """
    if noise.maps is not None:
        digest = maps_sha256(noise.maps)
        if noise.maps_sha256 not in (None, digest):
            raise RecipeError(
                f"{noise.maps}: SHA-256 is {digest}, the sensor was made with {noise.maps_sha256}"
            )
        maps = SensorMaps.load(noise.maps)
        check_size(maps, height_px, width_px, noise.maps)
        return maps
    return _drawn_maps(noise, seed, height_px, width_px)


@functools.lru_cache(maxsize=4)
def _drawn_maps(noise: NoiseConfig, seed: int, height_px: int, width_px: int) -> SensorMaps:
    pixels = np.arange(height_px * width_px, dtype=np.uint32).reshape(height_px, width_px)
    dark = noise.dark_charge * FULL_SCALE
    drawn = {
        "response_hw": spread(seed, "response", pixels, SHARE, noise.response_spread * SHARE),
        "dark_hw": spread(seed, "dark", pixels, dark, noise.dark_spread * dark),
        "threshold_hw": spread(seed, "threshold", pixels, SHARE, noise.threshold_spread * SHARE),
    }
    kind = below(draw(draw_key(seed, "", "defect"), pixels), 1 << 24)
    hot_hw = kind < round(noise.hot_share * (1 << 24))
    dead_hw = kind >= (1 << 24) - round(noise.dead_share * (1 << 24))
    drawn["dark_hw"][hot_hw] = round(noise.hot_charge * FULL_SCALE)
    drawn["dark_hw"][dead_hw] = 0
    drawn["response_hw"][dead_hw] = 0
    return SensorMaps(**{name: _cut(array, name) for name, array in drawn.items()})


def maps_sha256(path: Path | str) -> str:
    """SHA-256 of a file of maps, hexadecimal.

    Raises:
        RecipeError: it cannot be read.
    """
    try:
        return file_sha256(path)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error


def check_size(maps: SensorMaps, height_px: int, width_px: int, name: str) -> None:
    """Refuse maps of another size than the frames."""
    if maps.shape_hw != (height_px, width_px):
        mine = " x ".join(map(str, maps.shape_hw))
        raise RecipeError(
            f"{name}: maps of {mine} pixels do not fit frames of {height_px} x {width_px}; "
            f"resize the frames to {mine}"
        )


def _cut(array: NDArray[Any], name: str) -> NDArray[np.int32]:
    cut: NDArray[np.int32] = np.clip(np.rint(array), *LIMITS[name]).astype(np.int32)
    cut.flags.writeable = False
    return cut


def _describe(array: Any) -> str:
    if isinstance(array, np.ndarray):
        return f"{array.dtype} {array.shape}"
    return type(array).__name__
