"""Maps of known cameras, recovered from flat fields; errors follow from the number of ticks."""

import numpy as np
import pytest

from spikedata.calibrate import (
    Calibration,
    calibrate_pixels,
    load_calibration,
    save_calibration,
)
from spikedata.errors import RecordingError
from spikedata.stats import rate_between_spikes
from spikedata.stream import pack_ticks

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
        load_calibration(save_calibration(bad, tmp_path / "x.npz"))
