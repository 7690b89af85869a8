"""Sensors by name: the YAML files that come with the package, or somebody's own."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from spikedata.errors import RecipeError
from spikedata.recipe import load_recipe, parse_recipe
from spikedata.simulator.maps import maps_sha256
from spikedata.simulator.sensor import SensorConfig

PACKAGE = "spikedata_recipes"


def sensor_names() -> list[str]:
    """Names of the sensors that come with the package, sorted."""
    folder = resources.files(PACKAGE) / "sensors"
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_sensor(name_or_path: str | Path, overrides: Sequence[str] = ()) -> SensorConfig:
    """A sensor by the name of a preset, or from a YAML file with the keys of `SensorConfig`.

    Args:
        name_or_path: for example ``vidar-20khz`` or ``my/camera.yaml``.
            A file of maps that it names is looked for beside it.
        overrides: ``key=value`` words that win over the file, for example ``threshold=2.0`` or
            ``noise.shot_quanta=2e4``.

    Raises:
        RecipeError: no such preset or file, an unknown key, or an impossible value.
    """
    text = str(name_or_path)
    if text in sensor_names():
        file = resources.files(PACKAGE) / "sensors" / f"{text}.yaml"
        return parse_recipe(file.read_text("utf-8"), SensorConfig, overrides, where=text)
    path = Path(text)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        raise RecipeError(
            f"unknown sensor {text!r}. Known: {', '.join(sensor_names())}; or give a YAML file"
        )
    return with_maps_beside(load_recipe(path, SensorConfig, overrides), path.parent)


def with_maps_beside(sensor: SensorConfig, folder: Path) -> SensorConfig:
    """The sensor with its file of maps, if it names one, found in ``folder`` and told by digest.

    Raises:
        RecipeError: the file cannot be read.
    """
    if sensor.noise is None or sensor.noise.maps is None:
        return sensor
    maps = str(folder / sensor.noise.maps)
    digest = sensor.noise.maps_sha256 or maps_sha256(maps)
    return replace(sensor, noise=replace(sensor.noise, maps=maps, maps_sha256=digest))
