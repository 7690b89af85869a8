"""Noise: each term against its formula, the presets against a real recording, and the hash.

Bounds are five standard deviations of what is estimated, from the size of the sample; seeds are
fixed, so a test passes always or never.
"""

import hashlib
import math
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spikedata.bits import unpack_ticks
from spikedata.simulator import (
    NoiseConfig,
    SensorConfig,
    SensorMaps,
    SensorState,
    load_sensor,
    sensor_names,
    simulate,
    simulate_ticks,
)
from spikedata.simulator.maps import camera_maps
from spikedata.simulator.noise import draw, draw_key, tick_words

H, W = 128, 256
PIXELS = H * W


def words(ticks, seed=0, clip_id="clip", size_hw=(H, W)):
    """The word of every tick and pixel, uint32 (T, P), as the documentation words it."""
    pixel = draw(draw_key(seed, clip_id, "pixel"), np.arange(math.prod(size_hw), dtype=np.uint32))
    flips, factors = tick_words(draw_key(seed, clip_id, "tick"), 0, ticks)
    word = (pixel ^ flips[:, None]) * factors[:, None]
    return word ^ (word >> np.uint32(16))


def byte_sums(ticks, **options):
    """(first, second) sums of two bytes, int64 (T, P)."""
    parts = words(ticks, **options).view(np.uint8).reshape(ticks, -1, 4).astype(np.int64)
    return parts[..., :2].sum(axis=2), parts[..., 2:].sum(axis=2)


@pytest.fixture(scope="module")
def terms():
    """What shot noise and jitter are multiples of, (T, P) each."""
    first, second = byte_sums(200)
    return {"shot": first + second - 510, "jitter": first - second}


VARIANCE = 4 * (256**2 - 1) / 12
"""Of a sum or balanced difference of four uniform bytes."""
KURTOSIS = 3 - 1.2 * (256**2 + 1) / (256**2 - 1) / 4
"""Of the same: the excess of a discrete uniform number, -1.2 (n^2 + 1) / (n^2 - 1), over four."""


@pytest.mark.parametrize("term", ["shot", "jitter"])
class TestTicks:
    """200 ticks of 32,768 pixels."""

    def test_mean_and_variance(self, terms, term):
        z = terms[term]
        assert abs(z.mean()) < 5 * math.sqrt(VARIANCE / z.size)
        spread = math.sqrt((KURTOSIS - 1) / z.size)
        assert abs(z.var() / VARIANCE - 1) < 5 * spread

    def test_kurtosis_is_that_of_four_bytes(self, terms, term):
        """The fourth power's standard deviation is below 10 for any bell of this kind."""
        z = terms[term] / math.sqrt(VARIANCE)
        assert abs((z**4).mean() - KURTOSIS) < 5 * 10 / math.sqrt(z.size)

    def test_a_picture_s_mean_strays_as_independent_pixels_do(self, terms, term):
        """Pixels that move together would make the whole picture flicker."""
        means = terms[term].mean(axis=1)
        ratio = means.var() / (VARIANCE / PIXELS)
        assert abs(ratio - 1) < 5 * math.sqrt(2 / len(means))

    def test_a_pixel_s_mean_strays_as_independent_ticks_do(self, terms, term):
        means = terms[term].mean(axis=0)
        ratio = means.var() / (VARIANCE / 200)
        assert abs(ratio - 1) < 5 * math.sqrt(2 / PIXELS)

    def test_rows_and_columns_stray_as_independent_pixels_do(self, terms, term):
        z = terms[term].reshape(200, H, W)
        for axis, count in ((1, H), (2, W)):
            means = z.mean(axis=axis)
            ratio = means.var() / (VARIANCE / count)
            assert abs(ratio - 1) < 5 * math.sqrt(2 / means.size)

    @pytest.mark.parametrize("lag", [1, 2, 7, 8, 16])
    def test_neither_ticks_nor_neighbours_are_correlated(self, terms, term, lag):
        z = terms[term].reshape(200, H, W) / math.sqrt(VARIANCE)
        for left, right in (
            (z[lag:], z[:-lag]),
            (z[:, lag:], z[:, :-lag]),
            (z[:, :, lag:], z[:, :, :-lag]),
        ):
            assert abs((left * right).mean()) < 5 / math.sqrt(left.size)

    def test_another_clip_or_seed_is_another_noise(self, terms, term):
        for change in ({"clip_id": "clip2"}, {"seed": 1}):
            first, second = byte_sums(50, **change)
            other = first + second - 510 if term == "shot" else first - second
            product = terms[term][:50] * other / VARIANCE
            assert abs(product.mean()) < 5 / math.sqrt(product.size)


def test_shot_noise_and_jitter_are_not_correlated(terms):
    product = terms["shot"] * terms["jitter"] / VARIANCE
    assert abs(product.mean()) < 5 / math.sqrt(product.size)


class TestMaps:
    noise = NoiseConfig(
        response_spread=0.0577, dark_charge=0.01, dark_spread=0.2, threshold_spread=0.0456
    )
    expected = {
        "response_hw": (1 << 14, 0.0577),
        "dark_hw": (0.01 * 65535, 0.2),
        "threshold_hw": (1 << 14, 0.0456),
    }

    @pytest.mark.parametrize("name", list(expected))
    def test_mean_spread_and_neighbours(self, name):
        mean, spread = self.expected[name]
        map_hw = getattr(camera_maps(self.noise, 5, H, W), name) / mean
        assert abs(map_hw.mean() - 1) < 5 * spread / math.sqrt(PIXELS)
        # rounding to whole numbers adds 1 / 12 to the variance
        want = math.hypot(spread, 1 / math.sqrt(12) / mean)
        assert abs(map_hw.std() / want - 1) < 5 / math.sqrt(2 * PIXELS)
        z = (map_hw - 1) / want
        for left, right in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1])):
            assert abs((left * right).mean()) < 5 / math.sqrt(left.size)

    def test_the_maps_are_not_correlated_with_each_other(self):
        maps = camera_maps(self.noise, 5, H, W)
        arrays = [getattr(maps, name).ravel() for name in self.expected]
        off_diagonal = np.corrcoef(arrays)[np.triu_indices(3, 1)]
        assert np.abs(off_diagonal).max() < 5 / math.sqrt(PIXELS)

    def test_a_seed_is_one_camera_for_all_its_clips(self):
        sensor = SensorConfig(seed=3, noise=self.noise)
        one, two = (SensorState.initial(sensor, 9, 7, clip).pixels for clip in ("one", "two"))
        other = SensorState.initial(replace(sensor, seed=4), 9, 7, "one").pixels
        for name in ("response_hw", "dark_hw", "threshold_hw"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
            assert (getattr(one, name) != getattr(other, name)).any()
        assert (one.word_hw != two.word_hw).any()

    def test_hot_and_dead_pixels_are_as_many_as_said(self):
        noise = NoiseConfig(hot_share=0.01, hot_charge=0.3, dead_share=0.02)
        maps = camera_maps(noise, 0, H, W)
        hot_hw, dead_hw = maps.dark_hw == round(0.3 * 65535), maps.response_hw == 0
        for found_hw, share in ((hot_hw, 0.01), (dead_hw, 0.02)):
            assert abs(found_hw.mean() - share) < 5 * math.sqrt(share * (1 - share) / PIXELS)
        assert not (hot_hw & dead_hw).any()
        assert (maps.dark_hw[~hot_hw] == 0).all()


def flat(sensor, luma, ticks, size_hw=(H, W), clip_id="flat", **options):
    """Spikes of a scene that stands still, bool (T, H, W)."""
    state = SensorState.initial(sensor, *size_hw, clip_id)
    luma_hw = np.broadcast_to(np.asarray(luma, np.uint8), size_hw)
    frames = sensor.frames_needed(0, ticks)
    luma_nhw = np.broadcast_to(luma_hw, (frames, *size_hw))
    packed_ghw, _ = simulate_ticks(luma_nhw, state, sensor, ticks, flush=True, **options)
    return unpack_ticks(packed_ghw, ticks)


class TestSpikes:
    """What the terms do to the spikes, through the whole simulator."""

    def gathered(self, noise, luma, ticks, threshold=1.0):
        """Charge of each pixel after ``ticks`` ticks, in thresholds: its spikes and its residue."""
        sensor = SensorConfig(threshold=threshold, start="zero", noise=noise)
        state = SensorState.initial(sensor, H, W, "clip")
        luma_nhw = np.full((sensor.frames_needed(0, ticks), H, W), luma, np.uint8)
        packed_ghw, after = simulate_ticks(luma_nhw, state, sensor, ticks, flush=True)
        count_hw = np.bitwise_count(packed_ghw).sum(axis=0)
        return count_hw + after.residue_hw / sensor.threshold_cu

    @pytest.mark.parametrize("luma", [3, 40, 128, 250])
    def test_shot_noise_has_the_variance_of_its_charge(self, luma):
        """After T ticks: charge T Y / 255, so variance T Y / 255 / N, and no change of the mean."""
        noise = NoiseConfig(shot_quanta=1000.0)
        quanta_hw = self.gathered(noise, luma, 50, threshold=2.0) * 2000
        quanta = 50 * luma / 255 * 1000
        assert abs(quanta_hw.var() / quanta - 1) < 5 * math.sqrt(2 / PIXELS)
        assert abs(quanta_hw.mean() - quanta) < 5 * math.sqrt(quanta / PIXELS)

    def test_jitter_adds_its_variance_with_every_spike(self):
        """The threshold reached is taken away, so n spikes leave n times its variance."""
        noise = NoiseConfig(threshold_jitter=0.001)
        sensor = SensorConfig(threshold=2.0, interpolation="hold", start="zero", noise=noise)
        state = SensorState.initial(sensor, H, W, "clip")
        luma_nhw = np.full((20, H, W), 200, np.uint8)
        packed_ghw, after = simulate_ticks(luma_nhw, state, sensor, 100, flush=True)
        # 100 * 200 / 510 = 39.2 thresholds; 39 spikes, never within 5 * 0.001 of a spike's tick
        assert (np.bitwise_count(packed_ghw).sum(axis=0) == 39).all()
        left_hw = after.residue_hw / sensor.threshold_cu - (20000 / 510 - 39)
        assert abs(left_hw.var() / (39 * 0.001**2) - 1) < 5 * math.sqrt(2 / PIXELS)
        assert abs(left_hw.mean()) < 5 * 0.001 * math.sqrt(39 / PIXELS)

    def test_dead_time_takes_its_share_of_a_tick_with_every_spike(self):
        noise = NoiseConfig(dead_time=0.004)
        charge_hw = self.gathered(noise, 200, 100, threshold=2.0)
        spikes = 39
        want = (100 - spikes * 0.004) * 200 / 510
        np.testing.assert_allclose(charge_hw, want, rtol=1e-6)

    def test_dark_charge_fires_without_light(self):
        noise = NoiseConfig(dark_charge=0.02, dark_spread=0.3)
        sensor = SensorConfig(threshold=1.0, noise=noise, start="zero")
        charge_hw = self.gathered(noise, 0, 200)
        dark_hw = SensorState.initial(sensor, H, W, "clip").pixels.dark_hw
        np.testing.assert_allclose(charge_hw, 200 * dark_hw / 65535, rtol=1e-9)

    def test_response_scales_the_light_and_threshold_the_spikes(self):
        noise = NoiseConfig(response_spread=0.1, threshold_spread=0.1)
        sensor = SensorConfig(threshold=1.0, noise=noise)
        rate_hw = flat(sensor, 100, 800).mean(axis=0)
        pixels = SensorState.initial(sensor, H, W, "flat").pixels
        want_hw = 100 / 255 * pixels.response_hw / 2**14
        want_hw = np.minimum(want_hw * sensor.threshold_cu / pixels.threshold_hw, 1)
        np.testing.assert_allclose(rate_hw, want_hw, atol=1.001 / 800 + 1e-4)

    def test_dead_pixels_never_fire_and_hot_ones_do_without_light(self):
        noise = NoiseConfig(dead_share=0.3, hot_share=0.3, hot_charge=0.5, threshold_jitter=0.05)
        sensor = SensorConfig(threshold=1.0, noise=noise)
        pixels = SensorState.initial(sensor, H, W, "flat").pixels
        bright_hw = flat(sensor, 255, 40).any(axis=0)
        np.testing.assert_array_equal(bright_hw, pixels.response_hw > 0)
        dark_hw = flat(sensor, 0, 40).any(axis=0)
        assert dark_hw[pixels.dark_hw > 0].all()

    def test_charge_is_never_negative(self):
        """One quantum a tick: the bell would reach far below zero."""
        sensor = SensorConfig(threshold=50.0, noise=NoiseConfig(shot_quanta=20.0), start="zero")
        state = SensorState.initial(sensor, H, W, "clip")
        luma_nhw = np.full((6, H, W), 13, np.uint8)
        before_hw = state.residue_hw
        for tick in range(40):
            _, state = simulate_ticks(luma_nhw[tick // 10 :], state, sensor, 1)
            assert (state.residue_hw >= before_hw).all()
            before_hw = state.residue_hw


def interval_statistics(spikes_thw, least=20):
    """Share of intervals off the two neighbouring values, extra spread, median lag-1 correlation.

    The extra spread is the root of the mean over pixels of (variance - f (1 - f)) / mean**2, where
    f is the fraction of the pixel's mean interval.
    """
    off = total = 0
    extra, correlation = [], []
    for train_t in spikes_thw.reshape(len(spikes_thw), -1).T:
        intervals = np.diff(np.flatnonzero(train_t))
        if len(intervals) < least:
            continue
        mean = intervals.mean()
        off += np.count_nonzero((intervals - math.floor(mean)) // 2)
        total += len(intervals)
        fraction, variance = mean % 1, intervals.var()
        extra.append((variance - fraction * (1 - fraction)) / mean**2)
        if variance:
            z = intervals - mean
            correlation.append((z[1:] * z[:-1]).mean() / variance)
    return off / total, math.sqrt(max(np.mean(extra), 0)), float(np.median(correlation))


def passes(statistics):
    off, extra, correlation = statistics
    return 0.0005 < off < 0.002 and 0.008 < extra < 0.012 and -0.40 < correlation < -0.33


@pytest.fixture(scope="module")
def real_thw(shared_data):
    """A real camera before a scene that stands still, every fourth pixel each way."""
    with np.load(shared_data / "recordings" / "static_scene_250x400x500.npz") as file:
        return file["arr_0"].transpose(2, 0, 1)[:, ::4, ::4]


@pytest.fixture(scope="module")
def rate_hw(real_thw):
    first_hw = real_thw.argmax(axis=0)
    last_hw = len(real_thw) - 1 - real_thw[::-1].argmax(axis=0)
    return (real_thw.sum(axis=0) - 1) / np.maximum(last_hw - first_hw, 1)


class TestRealRecording:
    def twin(self, rate_hw, **options):
        """The preset's temporal noise under full light, each pixel's response its real rate."""
        ones_hw = np.ones_like(rate_hw)
        maps = SensorMaps.from_shares(rate_hw, 0 * ones_hw, ones_hw)
        sensor = replace(load_sensor("vidar-20khz", ["interpolation=hold"]), **options)
        luma_nhw = np.full((50, *rate_hw.shape), 255, np.uint8)
        blocks = simulate([luma_nhw], sensor, clip_id="twin", maps=maps)
        return unpack_ticks(np.concatenate(list(blocks)), 500)

    def test_the_recording_itself_passes(self, real_thw):
        assert passes(interval_statistics(real_thw))

    def test_the_preset_at_the_recording_s_rates_passes(self, rate_hw):
        assert passes(interval_statistics(self.twin(rate_hw)))

    def test_the_preset_with_its_own_maps_passes(self, rate_hw):
        """The scene as a video: 8-bit light, and the drawn camera's response on top."""
        sensor = load_sensor("vidar-20khz", ["interpolation=hold"])
        luma_hw = np.rint(np.clip(rate_hw, 0, 1) * 255)
        assert passes(interval_statistics(flat(sensor, luma_hw, 500, rate_hw.shape)))

    def test_no_noise_fails(self, rate_hw):
        off, extra, _ = interval_statistics(self.twin(rate_hw, noise=NoiseConfig()))
        assert off == 0
        assert extra < 0.004

    def test_reset_to_zero_fails(self, rate_hw):
        spikes_thw = self.twin(rate_hw, reset="zero")
        assert not passes(interval_statistics(spikes_thw))

    def test_false_spikes_at_random_fail(self, rate_hw):
        """Four in a thousand pixel-ticks, put into a stream without noise."""
        spikes_thw = self.twin(rate_hw, noise=NoiseConfig()).astype(bool)
        false_thw = np.random.default_rng(0).random(spikes_thw.shape) < 0.004
        off, extra, _ = interval_statistics(spikes_thw | false_thw)
        assert off > 0.01
        assert extra > 0.05

    def test_random_coding_fails(self, rate_hw):
        spikes_thw = np.random.default_rng(0).random((500, *rate_hw.shape)) < rate_hw
        off, extra, correlation = interval_statistics(spikes_thw)
        assert off > 0.2
        assert extra > 0.5
        assert abs(correlation) < 0.1


GOLDEN = {
    "ideal": "12c7db494e8ff382506f95bb731075f2d27ce9b46e50c0c003f81f9b63cacfdc",
    "vidar-20khz": "f857bb21d0417389f39c694a48435293e7a0aa1bb9db3c04495b42eef008989c",
    "vidar-40khz": "110617ee2a30fa248e032edb3e8caa0d30f5f4afc9018ccf65d5c53958614b9f",
}

GOLDEN_WITHOUT_NOISE = [
    ({}, "e38026315499088dea1ca95747c0541172a72cbe814309a89c16b2fdae9888d6"),
    (
        {"interpolation": "hold"},
        "a9cf112b52f0ac256728be7b4973ffba1585ac91a695e91e39074ad430ba6eb9",
    ),
    (
        {"threshold": 0.4, "seed": 3},
        "a10da97f30ff72bc2125a9e627d5af97b99ff2e330c6b7c5ee82b9e6127b0fbe",
    ),
    (
        {"reset": "zero", "transfer": "srgb", "ticks_per_frame": 33},
        "098d401b9f356663740f12ca321472e9074e41b229a9242294ee5409dd863ad1",
    ),
    (
        {"transfer": "bt709", "threshold": 1.3, "ticks_per_frame": 7},
        "a075b71e570c8b970293b514658744f7f2d4f8d6350818f1ec340c4bd8f158f1",
    ),
]
"""From before there was noise: stores made then must come out the same."""


def clip_hash(sensor, **options):
    luma_nhw = np.random.default_rng(11).integers(0, 256, (9, 13, 37), dtype=np.uint8)
    digest = hashlib.sha256()
    for block_ghw in simulate([luma_nhw], sensor, clip_id="golden", **options):
        digest.update(block_ghw.tobytes())
    return digest.hexdigest()


def test_every_preset_has_its_golden_bits():
    assert sorted(GOLDEN) == sensor_names()


@pytest.mark.parametrize("name", list(GOLDEN))
@pytest.mark.parametrize(
    "options",
    [{"backend": "reference"}, {"threads": 1}, {"threads": 2}, {"block_ticks": 13, "threads": 2}],
    ids=str,
)
def test_a_preset_gives_the_same_bits_everywhere(name, options):
    assert clip_hash(load_sensor(name, ["seed=5"]), **options) == GOLDEN[name]


@pytest.mark.parametrize(("values", "want"), GOLDEN_WITHOUT_NOISE, ids=str)
def test_without_noise_the_bits_are_what_they_were(values, want):
    assert clip_hash(SensorConfig(**values)) == want


@pytest.mark.parametrize("threshold", [0.4, 1.0, 2.0])
def test_noise_of_no_amount_changes_no_bit(threshold):
    """Charge is counted in finer units then; what it comes to is the same."""
    sensor = SensorConfig(threshold=threshold, start="zero")
    assert clip_hash(replace(sensor, noise=NoiseConfig())) == clip_hash(sensor)


@pytest.mark.parametrize(
    "target", [{"NUMBA_CPU_NAME": "generic"}, {"NUMBA_CPU_NAME": "haswell"}], ids=str
)
def test_older_processors_give_the_same_bits(target):
    """Without AVX-512, and without any vector instruction newer than the architecture itself."""
    if platform.machine() != "x86_64":
        pytest.skip("names of x86-64 processors")
    features = {} if target["NUMBA_CPU_NAME"] == "generic" else {"NUMBA_CPU_FEATURES": "+avx2"}
    program = (
        "import test_noise; from spikedata.simulator import load_sensor;"
        "print(test_noise.clip_hash(load_sensor('vidar-20khz', ['seed=5'])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | target | features | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == GOLDEN["vidar-20khz"], done.stderr
