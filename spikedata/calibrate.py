"""What each pixel of a camera adds of its own, from recordings of uniform scenes.

A pixel that sees light L fires at the rate a L + d spikes a tick, a being its response over its
threshold and d its dark charge over its threshold: rates cannot tell more apart. A recording in
the dark gives d. Two of uniform light, medium and bright, give a but for a common factor, which
is chosen so that the mean response is 1; that both give the same a says that pixels are linear.

Shapes: H rows, W columns.

Source: "Recurrent Spike-based Image Restoration under General Illumination" (RSIR),
arXiv:2308.03018; gain maps: Gao et al., Sensors 18(12):4232, 2018.
"""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.errors import RecordingError
from spikedata.stats import SpikeSource, rate_between_spikes

Array = NDArray[np.float64]

MOST_FULL_RATE = 0.98
"""A pixel that fires in more ticks than this does not count light any more."""
MOST_FULL_SHARE = 0.01
DEAD_RESPONSE = 0.1
"""A pixel with less than this share of the usual response is dead."""
HOT_SPREADS = 10.0
"""A pixel whose dark rate is so many robust spreads above the median is hot."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Maps of one camera's pixels. All are (H, W)."""

    response_hw: Array
    """Response over threshold, relative: the mean of good pixels is 1."""
    dark_hw: Array
    """Dark rate: dark charge over threshold, spikes a tick."""
    response_error_hw: Array
    """One standard deviation of the response that the number of ticks leaves."""
    dark_error_hw: Array
    """One standard deviation of the dark rate that the number of ticks leaves."""
    bad_hw: NDArray[np.bool_]
    """Dead, hot or saturated pixels; response 1 stands in for theirs."""
    curvature: float
    """Spread over pixels of the medium light's response less the bright one's, relative; for linear
    pixels what the number of ticks leaves."""
    medium_rate: float
    """Mean rate at medium light above the dark, spikes a tick."""
    bright_rate: float
    """The same at bright light."""

    def light(self, rate_hw: Array) -> Array:
        """Rates freed from fixed patterns: (rate - dark) / response, spikes a tick of a mean pixel.

        Raises:
            ValueError: the shapes differ.
        """
        if rate_hw.shape != self.response_hw.shape:
            raise ValueError(f"rates are {rate_hw.shape}, the maps {self.response_hw.shape} (H, W)")
        return (rate_hw - self.dark_hw) / self.response_hw

    def summary(self) -> dict[str, Any]:
        """Plain JSON values: sizes, spreads, their errors and the number of bad pixels."""
        good_hw = ~self.bad_hw
        response, dark = self.response_hw[good_hw], self.dark_hw[good_hw]
        return {
            "height_px": self.bad_hw.shape[0],
            "width_px": self.bad_hw.shape[1],
            "response_spread": float(response.std()),
            "response_error": float(np.median(self.response_error_hw[good_hw])),
            "dark_rate": float(dark.mean()),
            "dark_spread": float(dark.std()),
            "dark_error": float(np.median(self.dark_error_hw[good_hw])),
            "curvature": self.curvature,
            "medium_rate": self.medium_rate,
            "bright_rate": self.bright_rate,
            "bad_pixels": int(self.bad_hw.sum()),
        }


def calibrate_pixels(dark: SpikeSource, medium: SpikeSource, bright: SpikeSource) -> Calibration:
    """Work out each pixel's response and dark rate from three uniform scenes.

    Ten thousand ticks and more of each are usual: the errors go down as one over their number.

    Args:
        dark: recorded with the lens covered.
        medium: recorded of a uniform surface.
        bright: the same with more light, short of saturation.

    Raises:
        RecordingError: the sizes differ, the light does not rise from one to the next, or too
            many pixels saturate.
    """
    sizes = [(source.height_px, source.width_px) for source in (dark, medium, bright)]
    if len(set(sizes)) > 1:
        shown = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise RecordingError(f"dark, medium and bright must be of one size, got {shown}")
    rates, errors = zip(*map(rate_between_spikes, (dark, medium, bright)), strict=True)
    full_hw = rates[2] > MOST_FULL_RATE
    _check_rates([float(np.median(rate_hw)) for rate_hw in rates], float(full_hw.mean()))
    dark_hw, dark_error_hw = rates[0], errors[0]
    bad_hw = full_hw | _hot(dark_hw)
    one = _response(rates[1] - dark_hw, errors[1], dark_error_hw, bad_hw)
    other = _response(rates[2] - dark_hw, errors[2], dark_error_hw, bad_hw)
    weight_hw = one.error_hw**-2 / (one.error_hw**-2 + other.error_hw**-2)
    response_hw = weight_hw * one.value_hw + (1 - weight_hw) * other.value_hw
    bad_hw = bad_hw | (response_hw < DEAD_RESPONSE)
    response_hw /= response_hw[~bad_hw].mean()
    error_hw = (one.error_hw**-2 + other.error_hw**-2) ** -0.5
    return Calibration(
        response_hw=np.where(bad_hw, 1.0, response_hw),
        dark_hw=dark_hw,
        response_error_hw=error_hw,
        dark_error_hw=dark_error_hw,
        bad_hw=bad_hw,
        curvature=float((one.value_hw - other.value_hw)[~bad_hw].std()),
        medium_rate=one.mean_rate,
        bright_rate=other.mean_rate,
    )


@dataclass(frozen=True, eq=False)
class _Response:
    value_hw: Array
    error_hw: Array
    mean_rate: float


def _response(
    above_hw: Array, error_hw: Array, dark_error_hw: Array, bad_hw: NDArray[np.bool_]
) -> _Response:
    """Response from the rate above the dark, relative to the mean of the pixels that are good."""
    usual = float(np.median(above_hw))
    mean = float(above_hw[~bad_hw & (above_hw > DEAD_RESPONSE * usual)].mean())
    return _Response(above_hw / mean, np.hypot(error_hw, dark_error_hw) / mean, mean)


def _check_rates(medians: list[float], full_share: float) -> None:
    if not medians[0] < medians[1] < medians[2]:
        shown = ", ".join(f"{rate:.4g}" for rate in medians)
        raise RecordingError(
            f"dark, medium and bright must get brighter; their median rates are {shown} spikes a "
            "tick. Are they in this order?"
        )
    if full_share > MOST_FULL_SHARE:
        raise RecordingError(
            f"bright: {full_share:.1%} of the pixels fire in nearly every tick and cannot tell "
            "their response; record with less light"
        )


def _hot(dark_hw: Array) -> NDArray[np.bool_]:
    middle = float(np.median(dark_hw))
    spread = 1.4826 * float(np.median(np.abs(dark_hw - middle)))
    hot_hw: NDArray[np.bool_] = dark_hw > middle + HOT_SPREADS * max(spread, 1e-6)
    return hot_hw


# --- files --------------------------------------------------------------------------------------


def save_calibration(calibration: Calibration, path: Path | str) -> Path:
    """Write maps to an ``.npz``, one array a field; aside and renamed when whole."""
    path = Path(path)
    aside = path.with_name(path.name + ".partial")
    try:
        with aside.open("wb") as file:
            values = {field.name: getattr(calibration, field.name) for field in fields(calibration)}
            np.savez_compressed(file, **values)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def load_calibration(path: Path | str) -> Calibration:
    """Read what :func:`save_calibration` wrote.

    Raises:
        RecordingError: not such a file, or its maps do not agree.
    """
    maps: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as loaded:
            for field in fields(Calibration):
                if field.name.endswith("_hw"):
                    maps[field.name] = loaded[field.name]
                else:
                    numbers[field.name] = float(loaded[field.name])
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise RecordingError(f"{path}: is no calibration: {error}") from error
    _check_maps(path, maps)
    return Calibration(**maps, **numbers)


def _check_maps(path: Path | str, maps: Mapping[str, NDArray[Any]]) -> None:
    shapes = {map_hw.shape for map_hw in maps.values()}
    types = {name: map_hw.dtype.kind for name, map_hw in maps.items()}
    sound = len(shapes) == 1 and len(next(iter(shapes))) == 2
    if not sound or any(kind != ("b" if name == "bad_hw" else "f") for name, kind in types.items()):
        raise RecordingError(f"{path}: is no calibration: its maps do not agree")
    if not all(np.isfinite(map_hw).all() for map_hw in maps.values()):
        raise RecordingError(f"{path}: a map holds values that are no numbers")
    if not (maps["response_hw"] > 0).all() or (maps["dark_hw"] < 0).any():
        raise RecordingError(f"{path}: a response is not positive or a dark rate is negative")
