"""What each pixel of a camera adds of its own, from recordings of uniform scenes.

A pixel that sees light L fires at the rate a L + d spikes a tick, a being its response over its
threshold and d its dark charge over its threshold: rates cannot tell more apart. A recording in
the dark gives d. Two of uniform light, medium and bright, give a but for a common factor, which
is chosen so that the mean response is 1; that both give the same a says that pixels are linear.

Shapes: H rows, W columns.

Source: "Recurrent Spike-based Image Restoration under General Illumination" (RSIR),
arXiv:2308.03018; gain maps: Gao et al., Sensors 18(12):4232, 2018.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from spikedata.analysis.trains import rate_between_spikes
from spikedata.errors import RecordingError, SpikeDataError
from spikedata.npz import Npz
from spikedata.outputs import written_aside
from spikedata.recipe import to_dict
from spikedata.simulator import NoiseConfig, SensorConfig, SensorMaps, load_sensor, simulate
from spikedata.stream import SpikeSource

Array = NDArray[np.float64]

MOST_FULL_RATE = 0.98
"""A pixel that fires in more ticks than this does not count light any more."""
MOST_FULL_SHARE = 0.01
DEAD_RESPONSE = 0.1
"""A pixel with less than this share of the usual response is dead."""
HOT_SPREADS = 10.0
"""A pixel whose dark rate is so many robust spreads above the median is hot; a spike in all of the
recording counts into the spread."""


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
    bad_hw = full_hw | _hot(dark_hw, dark.ticks)
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


def _hot(dark_hw: Array, ticks: int) -> NDArray[np.bool_]:
    """Pixels whose dark rate is far above the others'."""
    middle = float(np.median(dark_hw))
    spread = 1.4826 * float(np.median(np.abs(dark_hw - middle)))
    # Where most pixels fire once or twice, many have the very same rate and the rest is one spike
    # off, whatever the error of each says.
    hot_hw: NDArray[np.bool_] = dark_hw > middle + HOT_SPREADS * math.hypot(spread, 1 / ticks)
    return hot_hw


# --- sensors ------------------------------------------------------------------------------------


def calibrated_maps(calibration: Calibration, threshold: float) -> SensorMaps:
    """The maps that a simulated camera needs to have these pixels.

    Args:
        calibration: of the camera.
        threshold: of the sensor that is simulated, full-scale ticks a spike. Response counts the
            pixels' thresholds in, so those of the maps are all 1.
    """
    return SensorMaps.from_shares(
        response_hw=calibration.response_hw,
        dark_hw=calibration.dark_hw * threshold,
        threshold_hw=np.ones_like(calibration.response_hw),
    )


def sensor_files(path: Path | str) -> tuple[Path, Path]:
    """The files of a sensor preset: ``NAME.yaml``, which is ``path``, and its maps ``NAME.npz``.

    Raises:
        ValueError: ``path`` does not end in .yaml or .yml.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"{path}: expected a name that ends in .yaml")
    return path, path.with_suffix(".npz")


def write_sensor(
    calibration: Calibration, path: Path | str, base: SensorConfig, *, overwrite: bool = False
) -> SensorConfig:
    """Write a sensor preset with these pixels: a YAML file and, beside it, its maps.

    Args:
        calibration: of the camera.
        path: ``NAME.yaml``; the maps become ``NAME.npz``.
        base: threshold, jitter, shot noise and dead time, which flat fields do not tell.
        overwrite: replace both files, each once the new one is whole.

    Returns:
        The sensor as ``load_sensor(path)`` reads it.

    Raises:
        ValueError: ``path`` does not end in .yaml or .yml.
        SpikeDataError: one of the files is there, and ``overwrite`` is False.
    """
    path, maps_path = sensor_files(path)
    temporal = base.noise or NoiseConfig()
    noise = NoiseConfig(
        maps=maps_path.name,
        threshold_jitter=temporal.threshold_jitter,
        shot_quanta=temporal.shot_quanta,
        dead_time=temporal.dead_time,
    )
    text = _preset_text(calibration, path.name, replace(base, noise=noise))
    with written_aside(path, overwrite=overwrite) as aside:
        aside.write_text(text, encoding="utf-8")
        calibrated_maps(calibration, base.threshold).save(maps_path, overwrite=overwrite)
    return load_sensor(path)


def _preset_text(calibration: Calibration, name: str, sensor: SensorConfig) -> str:
    """A YAML preset: the command that runs it, what was measured, and what is not the default."""
    height, width = calibration.bad_hw.shape
    measured = [f"#   {key}: {_shown(value)}" for key, value in calibration.summary().items()]
    values = _unusual(sensor, SensorConfig()) | {"threshold": sensor.threshold}
    if sensor.noise is not None:
        values["noise"] = _unusual(sensor.noise, NoiseConfig())
    lines = [
        f"# spikedata simulate ucf101/ --sensor {name} --resize {height}x{width}",
        "#",
        "# A camera as calibrated from dark, medium and bright flat fields:",
        *measured,
        yaml.safe_dump(values, sort_keys=False),
    ]
    return "\n".join(lines)


def _unusual(config: Any, usual: Any) -> dict[str, Any]:
    """Plain values of the fields that differ from the defaults."""
    defaults = to_dict(usual)
    return {key: value for key, value in to_dict(config).items() if value != defaults[key]}


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def maps_like(rate_hw: Array, sensor: SensorConfig) -> SensorMaps:
    """Maps under which white light gives each pixel this rate, whatever its true response.

    Args:
        rate_hw: (H, W), spikes a tick, for example of a real recording.
        sensor: whose threshold and dead time are counted in.

    Raises:
        ValueError: ``sensor`` would need twice full-scale light or more for the highest rate.
    """
    dead = 0.0 if sensor.noise is None else sensor.noise.dead_time
    charge_hw = rate_hw * sensor.threshold / (1 - rate_hw * dead)
    if charge_hw.max() >= 2:
        fits = _SHORT_OF_TWO * sensor.threshold / charge_hw.max()
        raise ValueError(
            f"threshold {sensor.threshold:g} is too high for a rate of {rate_hw.max():.3g} spikes "
            f"a tick; take {fits:.4g} or less"
        )
    ones_hw = np.ones_like(rate_hw)
    return SensorMaps.from_shares(response_hw=charge_hw, dark_hw=0 * ones_hw, threshold_hw=ones_hw)


_SHORT_OF_TWO = 1.998
"""Twice full-scale light, less what rounding a threshold to four digits may add."""


def simulate_like(
    source: SpikeSource, sensor: SensorConfig, *, clip_id: str = "like", threads: int = 1
) -> Iterator[NDArray[np.uint8]]:
    """Simulate what the sensor would record of a recording's own scene, held still.

    Each pixel gets the light that gives it the rate it has in the recording, so a comparison of the
    two judges the sensor alone. The recording's pixels stay as they are: of the sensor's noise,
    what changes from tick to tick is added; fixed patterns are in the rates already.

    Args:
        source: the recording; it should not move.
        sensor: threshold, reset, jitter, shot noise and dead time.
        clip_id: with ``sensor.seed`` chooses the start and the noise.
        threads: how many share the pixels; the bits are the same.

    Yields:
        packed_ghw: uint8 (G, H, W); together as many ticks as the recording has.

    Raises:
        ValueError: the threshold is too high for the recording's rates; see :func:`maps_like`.
    """
    rate_hw, _ = rate_between_spikes(source)
    maps = maps_like(rate_hw, sensor)
    still = still_sensor(sensor, source.ticks)
    white_hw = np.full(rate_hw.shape, 255, np.uint8)
    frames = (white_hw[None] for _ in range(source.ticks // still.ticks_per_frame))
    return simulate(frames, still, clip_id=clip_id, threads=threads, maps=maps)


def still_sensor(sensor: SensorConfig, ticks: int) -> SensorConfig:
    """The sensor before a scene that stands still for ``ticks`` ticks: frames that divide them."""
    return replace(
        sensor,
        ticks_per_frame=max(k for k in range(1, _LONGEST_HOLD + 1) if ticks % k == 0),
        interpolation="hold",
        transfer="identity",
        noise=sensor.noise or NoiseConfig(),
    )


_LONGEST_HOLD = 64


# --- files --------------------------------------------------------------------------------------


def save_calibration(
    calibration: Calibration, path: Path | str, *, overwrite: bool = False
) -> Path:
    """Write maps to an ``.npz``, one array a field.

    Raises:
        SpikeDataError: ``path`` is there, and ``overwrite`` is False.
    """
    path = Path(path)
    values = {field.name: getattr(calibration, field.name) for field in fields(calibration)}
    with written_aside(path, overwrite=overwrite) as aside, aside.open("wb") as file:
        np.savez_compressed(file, **values)
    return path


def load_calibration(path: Path | str) -> Calibration:
    """Read what :func:`save_calibration` wrote.

    Raises:
        RecordingError: not such a file, or its maps do not agree.
    """
    maps: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    try:
        with Npz(path) as archive:
            for field in fields(Calibration):
                if field.name.endswith("_hw"):
                    maps[field.name] = archive.read(field.name)
                else:
                    numbers[field.name] = float(archive.read(field.name).item())
    except (SpikeDataError, ValueError) as error:
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
