"""Sensors by name, files of maps, and what both refuse."""

import math
from importlib import resources

import numpy as np
import pytest
import yaml

from spikedata.errors import RecipeError, SpikeDataError
from spikedata.recipe import from_dict, to_dict
from spikedata.simulator import (
    NoiseConfig,
    SensorConfig,
    SensorMaps,
    SensorState,
    load_sensor,
    sensor_names,
    simulate_ticks,
)
from spikedata.simulator.maps import camera_maps


def test_the_presets():
    assert sensor_names() == ["ideal", "vidar-20khz", "vidar-40khz"]


@pytest.mark.parametrize("name", ["ideal", "vidar-20khz", "vidar-40khz"])
def test_a_preset_survives_its_recipe(name):
    sensor = load_sensor(name)
    assert from_dict(SensorConfig, to_dict(sensor)) == sensor


def test_ideal_is_the_default():
    assert load_sensor("ideal") == SensorConfig()


def test_vidar_is_the_published_camera():
    """From the voltages and capacitances themselves."""
    noise = load_sensor("vidar-20khz").noise
    swing = 3.3 - 2.2 - 0.0076
    assert noise.threshold_spread == pytest.approx(math.hypot(0.0128 / 4.348, 0.0497 / swing), 5e-3)
    assert noise.threshold_jitter == pytest.approx(0.00636 / swing, 5e-3)
    assert noise.response_spread == pytest.approx(0.0584 / 1.0128, 5e-3)
    assert noise.dark_charge == pytest.approx(0.4442 * 0.05 / (4.348 * swing), 5e-3)
    assert noise.dark_spread == pytest.approx(0.1731 / 0.4442, 5e-3)


def test_vidar_40khz_is_the_same_camera_with_half_the_light_a_tick():
    """Per second: the same charge over the threshold, the same quanta, the same dead time."""
    slow, fast = load_sensor("vidar-20khz"), load_sensor("vidar-40khz")
    assert 20e3 / slow.threshold == 40e3 / fast.threshold
    assert 20e3 * slow.noise.shot_quanta == 40e3 * fast.noise.shot_quanta
    assert slow.noise.dead_time / 20e3 == fast.noise.dead_time / 40e3
    changed = {"shot_quanta", "dead_time"}
    slow_values, fast_values = to_dict(slow.noise), to_dict(fast.noise)
    assert {key for key in slow_values if slow_values[key] != fast_values[key]} == changed


def test_overrides_win():
    sensor = load_sensor("vidar-20khz", ["threshold=2.5", "noise.shot_quanta=1e4", "seed=9"])
    assert (sensor.threshold, sensor.noise.shot_quanta, sensor.seed) == (2.5, 1e4, 9)
    assert sensor.noise.response_spread == 0.0577
    assert load_sensor("vidar-20khz", ["noise=null"]) == SensorConfig(threshold=1.0)


def test_a_file_of_one_s_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("threshold: 3\nnoise:\n  dead_share: 0.5\n")
    assert load_sensor(path) == SensorConfig(threshold=3.0, noise=NoiseConfig(dead_share=0.5))


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (
            "vidar",
            [],
            "unknown sensor 'vidar'. Known: ideal, vidar-20khz, vidar-40khz; or give a YAML file",
        ),
        ("none.yaml", [], "none.yaml: cannot be read: No such file or directory"),
        (
            "ideal",
            ["threshhold=2"],
            "ideal: unknown key 'threshhold'. Did you mean 'threshold'?",
        ),
        (
            "vidar-20khz",
            ["noise.shot_quantum=2"],
            "vidar-20khz: noise: unknown key 'shot_quantum'. Did you mean 'shot_quanta'?",
        ),
        (
            "vidar-20khz",
            ["noise.response_spread=-0.1"],
            "vidar-20khz: noise: response_spread must be from 0 to 0.3, got -0.1",
        ),
        (
            "ideal",
            ["noise.dark_spread=-1"],
            "ideal: noise: dark_spread must be 0 or more, got -1.0",
        ),
        (
            "ideal",
            ["noise.shot_quanta=0"],
            "ideal: noise: shot_quanta must be a positive number, got 0.0",
        ),
        (
            "ideal",
            ["noise.hot_share=0.6", "noise.dead_share=0.6"],
            "ideal: noise: hot_share 0.6 and dead_share 0.6 exceed 1 together",
        ),
        (
            "vidar-20khz",
            ["threshold=0.004"],
            "vidar-20khz: dark_charge 0.00468 must be below the threshold 0.004: "
            "the camera would fire at every tick without light",
        ),
        ("ideal", ["noise.dead_time=.nan"], "ideal: noise: dead_time must be from 0 to 1, got nan"),
    ],
)
def test_wrong_sensors_get_one_line(name, overrides, message):
    with pytest.raises(RecipeError) as refused:
        load_sensor(name, overrides)
    assert str(refused.value) == message


def test_every_preset_file_names_the_command_that_uses_it():
    for name in sensor_names():
        text = (resources.files("spikedata_recipes") / "sensors" / f"{name}.yaml").read_text()
        assert text.startswith(f"# spikedata simulate ucf101/ --sensor {name}")
        assert isinstance(yaml.safe_load(text), dict)


class TestMaps:
    rng = np.random.default_rng(0)
    shares = (
        rng.uniform(0.8, 1.2, (5, 7)),
        rng.uniform(0, 0.02, (5, 7)),
        rng.uniform(0.9, 1.1, (5, 7)),
    )

    def maps(self):
        return SensorMaps.from_shares(*self.shares)

    def test_shares_are_rounded_to_fixed_point(self):
        maps = self.maps()
        np.testing.assert_allclose(maps.response_hw / 2**14, self.shares[0], atol=2**-15)
        np.testing.assert_allclose(maps.dark_hw / 65535, self.shares[1], atol=0.5 / 65535)
        np.testing.assert_allclose(maps.threshold_hw / 2**14, self.shares[2], atol=2**-15)

    def test_a_file_gives_the_same_maps(self, tmp_path):
        self.maps().save(tmp_path / "maps.npz")
        assert [path.name for path in tmp_path.iterdir()] == ["maps.npz"]
        loaded = SensorMaps.load(tmp_path / "maps.npz")
        for name in ("response_hw", "dark_hw", "threshold_hw"):
            np.testing.assert_array_equal(getattr(loaded, name), getattr(self.maps(), name))

    def test_a_file_is_not_replaced_unasked(self, tmp_path):
        (tmp_path / "maps.npz").write_text("precious")
        with pytest.raises(SpikeDataError, match="maps.npz: exists already. Give --overwrite"):
            self.maps().save(tmp_path / "maps.npz")
        assert (tmp_path / "maps.npz").read_text() == "precious"
        self.maps().save(tmp_path / "maps.npz", overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["maps.npz"]

    def test_others_may_read_a_file_of_maps_as_any_other_file(self, tmp_path):
        self.maps().save(tmp_path / "maps.npz")
        (tmp_path / "any").touch()
        assert (tmp_path / "maps.npz").stat().st_mode == (tmp_path / "any").stat().st_mode

    @pytest.mark.parametrize("backend", ["reference", "numba"])
    def test_maps_by_file_and_by_hand_give_the_same_bits(self, tmp_path, backend):
        self.maps().save(tmp_path / "maps.npz")
        (tmp_path / "mine.yaml").write_text("noise: {maps: maps.npz, shot_quanta: 1000}\n")
        by_file = load_sensor(tmp_path / "mine.yaml")
        assert len(by_file.noise.maps_sha256) == 64
        by_hand = SensorConfig(noise=NoiseConfig(shot_quanta=1000.0))
        luma_nhw = np.full((5, 5, 7), 200, np.uint8)
        states = (
            SensorState.initial(by_file, 5, 7, "clip"),
            SensorState.initial(by_hand, 5, 7, "clip", maps=self.maps()),
        )
        first, second = (
            simulate_ticks(luma_nhw, state, sensor, 40, backend=backend)[0]
            for state, sensor in zip(states, (by_file, by_hand), strict=True)
        )
        np.testing.assert_array_equal(first, second)
        assert first.any()

    def test_drawn_maps_given_back_change_no_bit(self):
        sensor = load_sensor("vidar-20khz", ["seed=3"])
        drawn = SensorState.initial(sensor, 5, 7, "clip")
        given = SensorState.initial(sensor, 5, 7, "clip", maps=camera_maps(sensor.noise, 3, 5, 7))
        luma_nhw = np.full((5, 5, 7), 99, np.uint8)
        for state in (drawn, given):
            assert simulate_ticks(luma_nhw, state, sensor, 40)[0].any()
        np.testing.assert_array_equal(
            *(simulate_ticks(luma_nhw, state, sensor, 40)[0] for state in (drawn, given))
        )

    def test_a_file_of_maps_that_changed_is_refused(self, tmp_path):
        self.maps().save(tmp_path / "maps.npz")
        noise = NoiseConfig(maps=str(tmp_path / "maps.npz"), maps_sha256="0" * 64)
        with pytest.raises(
            RecipeError, match=r"maps.npz: SHA-256 is .*, the sensor was made with 0"
        ):
            SensorState.initial(SensorConfig(noise=noise), 5, 7, "clip")

    def test_maps_of_another_size_are_refused(self):
        sensor = SensorConfig(noise=NoiseConfig())
        message = (
            "maps: maps of 5 x 7 pixels do not fit frames of 7 x 5; resize the frames to 5 x 7"
        )
        with pytest.raises(RecipeError, match=message):
            SensorState.initial(sensor, 7, 5, "clip", maps=self.maps())

    def test_maps_without_noise_are_refused(self):
        with pytest.raises(ValueError, match="maps need a sensor with noise"):
            SensorState.initial(SensorConfig(), 5, 7, "clip", maps=self.maps())

    def test_maps_out_of_range_are_refused(self):
        ones_hw = np.full((2, 2), 1 << 14, np.int32)
        for name, value in (("response_hw", 1 << 15), ("dark_hw", -1), ("threshold_hw", 0)):
            values = {"response_hw": ones_hw, "dark_hw": ones_hw, "threshold_hw": ones_hw}
            with pytest.raises(ValueError, match=f"{name} must be from .*, got {value} to {value}"):
                SensorMaps(**values | {name: np.full((2, 2), value, np.int32)})
        with pytest.raises(ValueError, match=r"response_hw must be an int32 array .* float64"):
            SensorMaps(response_hw=np.ones((2, 2)), dark_hw=ones_hw, threshold_hw=ones_hw)
        with pytest.raises(ValueError, match="holds values that are not numbers"):
            SensorMaps.from_shares(np.full((2, 2), np.nan), np.zeros((2, 2)), np.ones((2, 2)))

    def test_files_that_are_not_maps_are_refused(self, tmp_path):
        text, other = tmp_path / "text.npz", tmp_path / "other.npz"
        text.write_text("hello")
        np.savez(other, spikes=np.zeros(3))
        for path in (text, other, tmp_path / "none.npz"):
            with pytest.raises(RecipeError, match=path.name):
                SensorMaps.load(path)


def test_a_state_of_another_sensor_is_refused():
    noisy = SensorConfig(noise=NoiseConfig())
    state = SensorState.initial(SensorConfig(), 2, 2, "clip")
    with pytest.raises(ValueError, match="made for a sensor with other noise"):
        simulate_ticks(np.zeros((2, 2, 2), np.uint8), state, noisy, 1)
