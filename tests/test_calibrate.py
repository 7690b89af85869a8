"""Maps of known cameras, recovered from flat fields; errors follow from the number of ticks."""

import re

import numpy as np
import pytest

from spikedata.analysis.calibrate import (
    Calibration,
    calibrate_pixels,
    calibrated_maps,
    load_calibration,
    maps_like,
    save_calibration,
    sensor_files,
    simulate_like,
    write_sensor,
)
from spikedata.analysis.scanning import scan
from spikedata.analysis.stats import profile
from spikedata.analysis.trains import rate_between_spikes
from spikedata.bits import pack_ticks
from spikedata.camera import read_recording
from spikedata.errors import RecordingError, SpikeDataError
from spikedata.simulator import (
    NoiseConfig,
    SensorConfig,
    SensorMaps,
    load_sensor,
    simulate,
)
from spikedata.stream import SpikeStream

SHAPE = (24, 32)
TICKS = 4000


class Source:
    """A float camera: each pixel adds ``rate_hw`` a tick and fires at 1."""

    def __init__(self, rate_hw, ticks=TICKS, seed=0):
        self.ticks, (self.height_px, self.width_px) = ticks, rate_hw.shape
        self.tick_rate_hz = 20_000.0
        residue = np.random.default_rng(seed).random(rate_hw.shape)
        total_thw = residue + rate_hw * np.arange(ticks + 1)[:, None, None]
        self._packed_ghw = pack_ticks(np.diff(np.floor(total_thw), axis=0) > 0)

    def blocks(self):
        return [self._packed_ghw[:7], self._packed_ghw[7:]]


def camera(seed=1):
    """Response and dark rate of each pixel, spread as published for one camera."""
    rng = np.random.default_rng(seed)
    response_hw = 1 + 0.074 * rng.standard_normal(SHAPE)
    dark_hw = np.clip(0.0047 * (1 + 0.39 * rng.standard_normal(SHAPE)), 0.0005, None)
    return response_hw / response_hw.mean(), dark_hw


def flat_fields(response_hw, dark_hw, ticks=TICKS):
    levels = (0.0, 0.2, 0.6)
    return [Source(dark_hw + response_hw * light, ticks, seed=9) for light in levels]


def test_rate_between_spikes_worked_by_hand():
    planes_thw = np.zeros((20, 1, 3), np.uint8)
    planes_thw[[2, 7, 12], 0, 0] = 1  # two intervals in ten ticks
    planes_thw[4, 0, 1] = 1
    source = Source(np.zeros((1, 3)), 20)
    source._packed_ghw = pack_ticks(planes_thw)
    rate_hw, error_hw = rate_between_spikes(source)
    assert rate_hw.tolist() == [[0.2, 0.05, 0.0]]
    np.testing.assert_allclose(error_hw, [[0.2 / 6**0.5 / 10, 0.05, 0.05]])


def test_known_maps_are_recovered_within_the_stated_errors():
    response_hw, dark_hw = camera()
    found = calibrate_pixels(*flat_fields(response_hw, dark_hw))
    assert not found.bad_hw.any()
    # The ends of the time between spikes are wrong by at most a tick together, 2.45 stated errors.
    dark_off = np.abs(found.dark_hw - dark_hw) / found.dark_error_hw
    assert dark_off.max() < 2.46
    assert dark_off.std() < 1
    response_off = np.abs(found.response_hw - response_hw) / found.response_error_hw
    assert response_off.max() < 5
    assert np.mean(response_off < 2) > 0.95
    # 4,000 ticks: 0.41 ticks of about 4,000, in three recordings.
    assert np.median(found.response_error_hw) < 2e-4
    assert found.curvature < 4e-4


def test_twice_the_ticks_halve_the_errors():
    response_hw, dark_hw = camera()
    short, long = (
        calibrate_pixels(*flat_fields(response_hw, dark_hw, ticks)) for ticks in (3000, 6000)
    )
    ratio = np.median(long.response_error_hw) / np.median(short.response_error_hw)
    assert ratio == pytest.approx(0.5, abs=0.05)


def test_fixed_patterns_go_from_another_scene():
    response_hw, dark_hw = camera()
    found = calibrate_pixels(*flat_fields(response_hw, dark_hw))
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light_hw = 0.3 + 0.1 * np.sin(x / 5) * np.cos(y / 4)
    seen_hw, _ = rate_between_spikes(Source(dark_hw + response_hw * light_hw, 2000, seed=4))
    before = ((seen_hw - seen_hw.mean()) / light_hw - (light_hw - light_hw.mean()) / light_hw).std()
    after = ((found.light(seen_hw) - light_hw) / light_hw).std()
    assert before > 0.05
    # 0.41 ticks of 2,000 remain of the scene and less of the maps.
    assert after < 5e-4


def test_dead_and_hot_pixels_are_marked():
    response_hw, dark_hw = camera()
    response_hw[3, 4], dark_hw[5, 6] = 0.001, 0.3
    found = calibrate_pixels(*flat_fields(response_hw, dark_hw))
    assert np.argwhere(found.bad_hw).tolist() == [[3, 4], [5, 6]]
    assert found.response_hw[3, 4] == found.response_hw[5, 6] == 1
    assert found.summary()["bad_pixels"] == 2


@pytest.mark.parametrize(("rate", "ticks"), [(1e-4, 4000), (1.5e-4, 10_000), (3e-4, 4000)])
def test_of_a_spike_or_two_in_the_dark_none_makes_a_pixel_hot(rate, ticks):
    """So few spikes that the counts are those of most pixels, or one off."""
    response_hw, dark_hw = np.ones(SHAPE), np.full(SHAPE, rate)
    assert not calibrate_pixels(*flat_fields(response_hw, dark_hw, ticks)).bad_hw.any()
    dark_hw[5, 6] = 20 / ticks
    found = calibrate_pixels(*flat_fields(response_hw, dark_hw, ticks))
    assert np.argwhere(found.bad_hw).tolist() == [[5, 6]]


def test_a_camera_that_is_not_linear_shows_it():
    response_hw, dark_hw = camera()
    dark, medium, _ = flat_fields(response_hw, dark_hw)
    bent = Source(dark_hw + (response_hw * 0.6) ** 1.2)
    straight = calibrate_pixels(*flat_fields(response_hw, dark_hw)).curvature
    assert calibrate_pixels(dark, medium, bent).curvature > 20 * straight


def test_files_come_back(tmp_path):
    found = calibrate_pixels(*flat_fields(*camera(), ticks=500))
    again = load_calibration(save_calibration(found, tmp_path / "maps.npz"))
    assert isinstance(again, Calibration)
    np.testing.assert_array_equal(again.response_hw, found.response_hw)
    np.testing.assert_array_equal(again.bad_hw, found.bad_hw)
    assert again.summary() == found.summary()
    assert [file.name for file in tmp_path.iterdir()] == ["maps.npz"]


def test_what_cannot_be_a_flat_field_is_refused():
    response_hw, dark_hw = camera()
    dark, medium, bright = flat_fields(response_hw, dark_hw, 500)
    with pytest.raises(RecordingError, match="must get brighter; their median rates are"):
        calibrate_pixels(medium, dark, bright)
    with pytest.raises(RecordingError, match="fire in nearly every tick"):
        calibrate_pixels(dark, medium, Source(response_hw * 0.99, 500))
    with pytest.raises(RecordingError, match="one size, got 24x32, 24x32, 5x5"):
        calibrate_pixels(dark, medium, Source(np.full((5, 5), 0.5), 500))
    with pytest.raises(ValueError, match=r"rates are \(2, 2\)"):
        calibrate_pixels(dark, medium, bright).light(np.zeros((2, 2)))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_other_files_are_no_calibration(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(RecordingError, match="x.npz: is no calibration"):
        load_calibration(tmp_path / "x.npz")
    with pytest.raises(RecordingError, match="is no calibration"):
        load_calibration(tmp_path / "absent.npz")


def test_maps_that_do_not_agree_are_refused(tmp_path):
    found = calibrate_pixels(*flat_fields(*camera(), ticks=500))
    bad = Calibration(**{**vars(found), "dark_hw": found.dark_hw[:3]})
    with pytest.raises(RecordingError, match="maps do not agree"):
        load_calibration(save_calibration(bad, tmp_path / "x.npz"))
    bad = Calibration(**{**vars(found), "response_hw": found.response_hw * 0})
    with pytest.raises(RecordingError, match="not positive"):
        load_calibration(save_calibration(bad, tmp_path / "x.npz", overwrite=True))


# --- the simulator's own cameras ----------------------------------------------------------------


def known_camera(seed=3, threshold=1.5):
    """A sensor with jitter and shot noise, and the maps of its pixels."""
    response_hw, dark_hw = camera(seed)
    rng = np.random.default_rng(100 + seed)
    threshold_hw = 1 + 0.0456 * rng.standard_normal(SHAPE)
    noise = NoiseConfig(threshold_jitter=0.0058, shot_quanta=5e4, dead_time=0.002)
    sensor = SensorConfig(
        threshold=threshold, ticks_per_frame=50, interpolation="hold", noise=noise
    )
    return sensor, SensorMaps.from_shares(response_hw, dark_hw * threshold, threshold_hw)


def film(sensor, luma_hw, ticks, **given):
    frames = np.broadcast_to(luma_hw, (ticks // sensor.ticks_per_frame, *luma_hw.shape))
    blocks = list(simulate([np.ascontiguousarray(frames)], sensor, clip_id="film", **given))
    return SpikeStream(np.concatenate(blocks), ticks, 20_000.0)


def film_flat_fields(sensor, maps, ticks):
    return [film(sensor, np.full(SHAPE, luma, np.uint8), ticks, maps=maps) for luma in (0, 70, 230)]


def test_the_simulator_s_maps_are_recovered_and_their_pattern_goes():
    sensor, maps = known_camera()
    found = calibrate_pixels(*film_flat_fields(sensor, maps, 4000))
    want_hw = maps.response_hw / maps.threshold_hw
    want_hw = want_hw / want_hw.mean()
    # Beside the ends of the trains (2e-4): shot noise of 4,000 ticks of 0.27 and 0.9 of full light
    # leaves 1 / sqrt(5e4 * 4000 * 0.9) = 7e-5, jitter 0.0058 * 1.5 / 0.9 * sqrt(2) / 4000 = 3e-6.
    # The dead time bends the line by 0.002 * rate * response spread, 1e-4 at most.
    assert np.abs(found.response_hw - want_hw).std() < 4e-4
    want_dark_hw = maps.dark_hw / 65535 / (sensor.threshold * maps.threshold_hw / (1 << 14))
    # In the dark a tick brings less charge than the threshold jitters by, 0.58% of it: the pixel
    # fires early, by two spreads at most. Shot noise leaves 1 / sqrt(5e4 * 0.003 * 4000) = 0.13%.
    dark_off = np.abs(found.dark_hw / want_dark_hw - 1)[want_dark_hw > 0.002]
    assert dark_off.max() < 2 * 0.0058 + 4 * 0.0013

    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    luma_hw = np.rint(120 + 60 * np.sin(x / 5) * np.cos(y / 4)).astype(np.uint8)
    seen_hw, _ = rate_between_spikes(film(sensor, luma_hw, 2000, maps=maps))
    light_hw = luma_hw / luma_hw.mean()
    before, after = seen_hw / light_hw, found.light(seen_hw) / light_hw
    assert (before / before.mean()).std() > 0.08
    assert (after / after.mean()).std() < 1e-3


def test_a_preset_is_the_camera_it_was_measured_from(tmp_path):
    sensor, maps = known_camera()
    found = calibrate_pixels(*film_flat_fields(sensor, maps, 4000))
    written = write_sensor(found, tmp_path / "camera.yaml", sensor)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["camera.npz", "camera.yaml"]
    assert written == load_sensor(tmp_path / "camera.yaml")
    assert written.threshold == sensor.threshold
    assert written.noise.threshold_jitter == sensor.noise.threshold_jitter
    assert (tmp_path / "camera.yaml").read_text().startswith("# spikedata simulate")
    luma_hw = np.full(SHAPE, 100, np.uint8)
    true_hw, _ = rate_between_spikes(film(sensor, luma_hw, 2000, maps=maps))
    again_hw, _ = rate_between_spikes(film(written, luma_hw, 2000))
    ratio_hw = again_hw / true_hw
    assert (ratio_hw / ratio_hw.mean()).std() < 1e-3
    with pytest.raises(ValueError, match="ends in .yaml"):
        write_sensor(found, tmp_path / "camera.json", sensor)


@pytest.mark.parametrize("there", ["camera.yaml", "camera.npz"])
def test_what_is_there_is_not_replaced_unasked(tmp_path, there):
    found = calibrate_pixels(*flat_fields(*camera(), ticks=500))
    (tmp_path / there).write_text("precious")
    with pytest.raises(SpikeDataError, match=rf"{there}: exists already. Give --overwrite"):
        write_sensor(found, tmp_path / "camera.yaml", load_sensor("vidar-20khz"))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(there, "precious")]
    write_sensor(found, tmp_path / "camera.yaml", load_sensor("vidar-20khz"), overwrite=True)
    assert sorted(tmp_path.iterdir()) == sorted(sensor_files(tmp_path / "camera.yaml"))
    with pytest.raises(SpikeDataError, match=r"camera.npz: exists already. Give --overwrite"):
        save_calibration(found, tmp_path / "camera.npz")


def test_maps_hold_what_was_measured():
    found = calibrate_pixels(*flat_fields(*camera(), ticks=1000))
    maps = calibrated_maps(found, 2.0)
    np.testing.assert_allclose(maps.response_hw / (1 << 14), found.response_hw, atol=1 / (1 << 15))
    np.testing.assert_allclose(maps.dark_hw / 65535, found.dark_hw * 2, atol=0.5001 / 65535)


# --- like a recording ---------------------------------------------------------------------------


def rates_of_scene():
    rng = np.random.default_rng(8)
    return 1 / np.clip(np.exp(rng.normal(np.log(4.7), 0.33, SHAPE)), 1.6, 30)


@pytest.mark.parametrize("threshold", [1.0, 2.0])
@pytest.mark.parametrize("noise", [None, NoiseConfig(dead_time=0.05, threshold_jitter=0.006)])
def test_a_simulation_like_a_recording_has_its_rates(threshold, noise):
    recording = Source(rates_of_scene(), 600)
    sensor = SensorConfig(threshold=threshold, noise=noise)
    packed_ghw = np.concatenate(list(simulate_like(recording, sensor)))
    made = SpikeStream(packed_ghw, 600, 20_000.0)
    made_hw, made_error_hw = rate_between_spikes(made)
    rate_hw, error_hw = rate_between_spikes(recording)
    # Maps have steps of 1 / 16384 of full light; jitter moves the ends by 0.006 of an interval.
    bound_hw = 3.5 * np.hypot(error_hw, made_error_hw) + threshold / (1 << 14)
    assert (np.abs(made_hw - rate_hw) < bound_hw).all()
    assert made_hw.mean() == pytest.approx(rate_hw.mean(), rel=1e-3)


def test_a_recording_of_any_length_is_followed():
    for ticks in (97, 64, 130):
        recording = Source(np.full((3, 4), 0.3), ticks)
        packed_ghw = np.concatenate(list(simulate_like(recording, SensorConfig())))
        SpikeStream(packed_ghw, ticks, 20_000.0)


def test_light_that_would_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"threshold 4 is too high for a rate of 0.6 .* take 3.33"):
        maps_like(np.full((2, 2), 0.6), SensorConfig(threshold=4.0))


@pytest.mark.parametrize("rate", [0.2, 0.37, 0.6, 0.7, 1.0])
@pytest.mark.parametrize("noise", [None, NoiseConfig(dead_time=0.05)])
def test_the_threshold_named_instead_of_one_too_high_fits(rate, noise):
    recording = Source(np.full((3, 4), rate), 80)
    with pytest.raises(ValueError, match="is too high for a rate") as refused:
        simulate_like(recording, SensorConfig(threshold=12.0, noise=noise))
    threshold = float(re.search(r"take (\S+) or less", str(refused.value))[1])
    packed_ghw = np.concatenate(
        list(simulate_like(recording, SensorConfig(threshold=threshold, noise=noise)))
    )
    made_hw, _ = rate_between_spikes(SpikeStream(packed_ghw, 80, 20_000.0))
    assert made_hw.mean() == pytest.approx(rate, rel=0.01)  # 0.41 ticks of 80, twelve pixels


def test_the_preset_has_the_statistics_of_a_real_static_scene(shared_data):
    path = shared_data / "recordings" / "static_scene_250x400x500.npz"
    recording = read_recording(path, "npz-hwt")
    packed_ghw = np.concatenate(list(simulate_like(recording, load_sensor("vidar-20khz"))))
    found = profile(scan(SpikeStream(packed_ghw, 500, 20_000.0)))
    assert 0.0005 <= found.off_neighbour_share <= 0.002
    assert 0.008 <= found.extra_isi_spread <= 0.012
    assert -0.40 <= found.lag1_correlation <= -0.33
    assert found.isi_excess_variance == 0
    real = profile(scan(recording))
    assert found.firing_rate == pytest.approx(real.firing_rate, rel=1e-3)
