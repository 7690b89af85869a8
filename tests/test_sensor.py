"""SensorConfig, SensorState, and what simulate_ticks refuses."""

import hashlib
import math
import re
import subprocess
import sys
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import sensors

from spikedata.recipe import from_dict, to_dict
from spikedata.simulator import NoiseConfig, SensorConfig, SensorState, simulate, simulate_ticks
from spikedata.simulator.sensor import NoiseAmounts


def test_threshold_and_full_scale_in_charge_units():
    sensor = SensorConfig(threshold=2.0, ticks_per_frame=10)
    assert sensor.full_charge_cu == 65535 * 20
    assert sensor.threshold_cu == 2 * 65535 * 20
    assert SensorConfig(threshold=0.1, ticks_per_frame=1).threshold_cu == 13107


def test_the_identity_table_is_luma_times_257():
    table = SensorConfig().light_table()
    assert table.dtype == np.int32
    np.testing.assert_array_equal(table, np.arange(256) * 257)


def srgb_light(code):
    if code <= Decimal("0.04045"):
        return code / Decimal("12.92")
    return ((code + Decimal("0.055")) / Decimal("1.055")) ** Decimal("2.4")


def bt709_light(code):
    if code < Decimal("0.081"):
        return code / Decimal("4.5")
    return ((code + Decimal("0.099")) / Decimal("1.099")) ** (1 / Decimal("0.45"))


def pq_light(code):
    """SMPTE ST 2084, equations 4.1 and 4.2, of full scale 1."""
    m1, m2 = Decimal(2610) / 16384, Decimal(2523) / 4096 * 128
    c1, c2, c3 = Decimal(3424) / 4096, Decimal(2413) / 4096 * 32, Decimal(2392) / 4096 * 32
    root = code ** (1 / m2) if code else Decimal(0)
    return (max(root - c1, Decimal(0)) / (c2 - c3 * root)) ** (1 / m1)


def hlg_light(code):
    """ARIB STD-B67, the OETF inverted."""
    a = Decimal("0.17883277")
    if code <= Decimal("0.5"):
        return code * code / 3
    c = Decimal("0.5") - a * (4 * a).ln()
    return min(Decimal(1), (((code - c) / a).exp() + 1 - 4 * a) / 12)


@pytest.mark.parametrize(
    ("transfer", "light"),
    [("srgb", srgb_light), ("bt709", bt709_light), ("pq", pq_light), ("hlg", hlg_light)],
)
def test_transfer_tables_are_the_standards_to_the_last_digit(transfer, light):
    """40-digit arithmetic: no float decides a code."""
    getcontext().prec = 40
    want = [int((65535 * light(Decimal(y) / 255)).to_integral_value()) for y in range(256)]
    np.testing.assert_array_equal(SensorConfig(transfer=transfer).light_table(), want)


@pytest.mark.parametrize(
    ("transfer", "code", "light"),
    [
        # ITU-R BT.2100, table 4: 100 cd/m2 of 10,000 is PQ 0.508; table 5: HLG 0.5 is 1 / 12.
        ("pq", 0.508, 0.01),
        ("hlg", 0.5, 1 / 12),
    ],
)
def test_hdr_tables_go_through_known_points(transfer, code, light):
    table = SensorConfig(transfer=transfer).light_table()
    assert table[-1] == 65535
    assert (np.diff(table) >= 0).all()
    low, high = table[int(code * 255) : int(code * 255) + 2]
    assert low <= light * 65535 <= high


def test_auto_is_the_curve_of_the_video():
    sensor = SensorConfig(transfer="auto", threshold=3.0)
    for named, curve in [("pq", "pq"), ("hlg", "hlg"), ("srgb", "srgb"), ("bt709", "bt709")]:
        assert sensor.resolved(named) == SensorConfig(transfer=curve, threshold=3.0)
    assert sensor.resolved(None).transfer == "bt709"
    assert SensorConfig().resolved("pq") == SensorConfig()
    with pytest.raises(ValueError, match="transfer must be one of bt709, srgb, pq, hlg, got 'x'"):
        sensor.resolved("x")


def test_auto_must_be_resolved_before_it_runs():
    sensor = SensorConfig(transfer="auto")
    with pytest.raises(ValueError, match=r"'auto' has no table; call resolved\(\)"):
        sensor.light_table()
    with pytest.raises(ValueError, match="has no table"):
        list(simulate([np.zeros((2, 4, 4), np.uint8)], sensor, clip_id="a"))


@pytest.mark.parametrize(
    ("transfer", "code_of"),
    [
        ("srgb", lambda v: 12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055),
        ("bt709", lambda v: 4.5 * v if v < 0.018 else 1.099 * v**0.45 - 0.099),
    ],
)
def test_the_standards_camera_curves_lead_back_to_the_luma_code(transfer, code_of):
    table = SensorConfig(transfer=transfer).light_table().tolist()
    assert [round(255 * code_of(light / 65535)) for light in table] == list(range(256))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 0.0}, "threshold must be a positive number, got 0.0"),
        ({"threshold": -1.0}, "threshold must be a positive number, got -1.0"),
        ({"threshold": float("nan")}, "threshold must be a positive number, got nan"),
        ({"threshold": float("inf")}, "threshold must be a positive number, got inf"),
        ({"threshold": 1e-9}, "less than one charge unit"),
        ({"threshold": 5000.0}, "ticks_per_frame 10 the largest that fits is 1637.4"),
        ({"ticks_per_frame": 0}, "ticks_per_frame must be at least 1, got 0"),
        ({"ticks_per_frame": 2.5}, "ticks_per_frame must be a whole number, got 2.5"),
        ({"ticks_per_frame": 20000}, "5461 is the largest that fits threshold 2.0"),
        ({"seed": -1}, "seed must be from 0 to"),
        ({"seed": 2**64}, "seed must be from 0 to"),
        ({"interpolation": "cubic"}, "interpolation must be one of hold, linear, got 'cubic'"),
        ({"reset": "none"}, "reset must be one of subtract, zero, got 'none'"),
        (
            {"transfer": "gamma"},
            "transfer must be one of identity, srgb, bt709, pq, hlg, auto, got 'gamma'",
        ),
        ({"start": "full"}, "start must be one of random, zero, got 'full'"),
        ({"noise": NoiseConfig(), "threshold": 5000.0}, "10 the largest that fits is 1056"),
        ({"noise": NoiseConfig(), "ticks_per_frame": 6000}, "2645 is the largest that fits"),
        (
            {"noise": NoiseConfig(dark_charge=0.9), "threshold": 0.5},
            "dark_charge 0.9 must be below the threshold 0.5: the camera would fire",
        ),
        (
            {"noise": NoiseConfig(shot_quanta=10.0), "ticks_per_frame": 2000},
            "shot_quanta 10 gives noise .* the fewest that fit are",
        ),
        (
            {"noise": NoiseConfig(threshold_jitter=0.1), "ticks_per_frame": 1000},
            "threshold_jitter 0.1 overflows .* the largest that fits is",
        ),
    ],
)
def test_impossible_sensors_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SensorConfig(**values)


@given(ticks_per_frame=st.integers(1, 16383))
def test_the_largest_threshold_told_fits_and_a_little_more_does_not(ticks_per_frame):
    with pytest.raises(ValueError, match="the largest that fits is") as refused:
        SensorConfig(threshold=1e9, ticks_per_frame=ticks_per_frame)
    largest = float(str(refused.value).split()[-1])
    sensor = SensorConfig(threshold=largest, ticks_per_frame=ticks_per_frame)
    assert sensor.threshold_cu - 1 + sensor.full_charge_cu <= 2**31 - 1
    with pytest.raises(ValueError, match="overflows"):
        SensorConfig(threshold=largest * 1.0001 + 1e-9, ticks_per_frame=ticks_per_frame)


def test_the_largest_ticks_per_frame_told_fits_and_one_more_does_not():
    assert SensorConfig(ticks_per_frame=5461).threshold == 2.0
    with pytest.raises(ValueError, match="overflows"):
        SensorConfig(ticks_per_frame=5462)


@given(
    threshold=st.floats(0.05, 2000.0),
    ticks_per_frame=st.integers(1, 3000),
    quanta=st.none() | st.floats(10.0, 1e9),
    jitter=st.floats(0, 0.1),
    dead_time=st.floats(0, 1),
)
def test_noise_that_is_accepted_fits_32_bits(threshold, ticks_per_frame, quanta, jitter, dead_time):
    """Every sum and product of the definition, at the most that a pixel and a byte can be."""
    noise = NoiseConfig(shot_quanta=quanta, threshold_jitter=jitter, dead_time=dead_time)
    try:
        sensor = SensorConfig(threshold=threshold, ticks_per_frame=ticks_per_frame, noise=noise)
    except ValueError as error:
        assert re.search("the (largest|fewest) that fits?|is the largest", str(error))  # noqa: PT017
        return
    amounts = NoiseAmounts.of(sensor)
    light = 65535 * 32767 // 16384 + 1 + 65535  # response just under 2, dark charge of a full tick
    sigma = math.isqrt(32 * 2 * light) * amounts.shot >> 15
    noise_cu = 510 * sigma + 2 * 510 * amounts.jitter
    level_cu = 1.5 * sensor.threshold_cu + light * sensor.light_charge_cu + noise_cu
    assert max(sigma, amounts.jitter) < 2**15  # for products of 16-bit numbers
    assert 32 * 2 * light < 2**24  # for an exact root
    products = (
        65535 * 32767 + 8192,
        math.isqrt(64 * light) * amounts.shot,
        2 * light * amounts.dead,
    )
    assert max(level_cu, *products) < 2**31
    loss = 2 * light * amounts.dead >> amounts.dead_shift
    assert loss <= light * sensor.light_charge_cu * dead_time * 1.001 + 1


@given(sensor=sensors())
def test_a_sensor_survives_its_recipe(sensor):
    assert from_dict(SensorConfig, to_dict(sensor)) == sensor


class TestStart:
    def residue(self, clip_id="clip", size_hw=(16, 16), **values):
        return SensorState.initial(SensorConfig(**values), *size_hw, clip_id).residue_hw

    def test_zero_start_is_empty(self):
        assert not self.residue(start="zero").any()

    def test_the_same_seed_and_clip_give_the_same_start(self):
        np.testing.assert_array_equal(self.residue(seed=9), self.residue(seed=9))

    @pytest.mark.parametrize("change", [{"seed": 1}, {"seed": 2**63}, {"clip_id": "clip2"}])
    def test_another_seed_or_clip_gives_another_start(self, change):
        same = np.mean(self.residue() == self.residue(**change))
        assert same < 0.02  # 256 pixels; by chance 1 in 2.6 million each

    def test_every_bit_of_the_seed_counts(self):
        starts = {self.residue(seed=1 << bit).tobytes() for bit in range(64)}
        assert len(starts | {self.residue(seed=0).tobytes()}) == 65

    def test_long_clip_ids_that_differ_at_the_end_differ(self):
        left, right = self.residue("x" * 190 + "1"), self.residue("x" * 190 + "2")
        assert np.mean(left == right) < 0.02

    def test_the_start_is_the_hash_that_is_described(self):
        """Worked out in Python's own integers. Stores made elsewhere must come out the same."""

        def mix(word):
            word ^= word >> 16
            word = word * 0x7FEB352D % 2**32
            word ^= word >> 15
            word = word * 0x846CA68B % 2**32
            return word ^ word >> 16

        digest = hashlib.sha256((7).to_bytes(8, "little") + b"\0start\0clip").digest()
        first, second = (int.from_bytes(digest[i : i + 4], "little") for i in (0, 4))
        words = [mix((mix((pixel + first) % 2**32) + second) % 2**32) for pixel in range(3)]
        want = [word * (2 * 65535 * 20) // 2**32 for word in words]
        assert want == [1464665, 2502071, 176634]
        assert self.residue("clip", (1, 3), seed=7).tolist() == [want]
        assert self.residue("clip", (3, 1), seed=7).T.tolist() == [want]

    @pytest.mark.parametrize("values", [{}, {"threshold": 0.3}, {"ticks_per_frame": 5000}])
    def test_the_start_is_uniform_below_the_threshold(self, values):
        """Chi-square over 64 bins of 65,536 pixels: 63 degrees of freedom, sd sqrt(126)."""
        sensor = SensorConfig(**values)
        residue_hw = self.residue("uniform", (256, 256), **values)
        assert residue_hw.min() >= 0
        assert residue_hw.max() < sensor.threshold_cu
        bins = np.bincount(residue_hw.ravel().astype(np.int64) * 64 // sensor.threshold_cu)
        chi_square = float(((bins - 1024.0) ** 2 / 1024).sum())
        assert abs(chi_square - 63) < 5 * 126**0.5

    def test_neighbours_and_clips_are_not_correlated(self):
        """Correlation of n independent pairs has standard deviation 1 / sqrt(n) = 0.0039."""
        one_hw, other_hw = self.residue("a", (256, 256)), self.residue("b", (256, 256))
        for left, right in [
            (one_hw[:, 1:], one_hw[:, :-1]),
            (one_hw[1:], one_hw[:-1]),
            (one_hw, other_hw),
        ]:
            assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 5 * 0.0039


class TestRefusals:
    sensor = SensorConfig()
    luma_nhw = np.zeros((3, 2, 4), np.uint8)

    def run(self, luma_nhw=None, ticks=10, shape_hw=(2, 4), **options):
        state = SensorState.initial(self.sensor, *shape_hw, "clip")
        luma_nhw = self.luma_nhw if luma_nhw is None else luma_nhw
        return simulate_ticks(luma_nhw, state, self.sensor, ticks, **options)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"luma_nhw": np.zeros((3, 2, 4))},
                r"uint8 array \(N, H, W\), got float64 \(3, 2, 4\)",
            ),
            ({"luma_nhw": np.zeros((2, 4), np.uint8)}, r"\(N, H, W\), got uint8 \(2, 4\)"),
            ({"luma_nhw": [[[0]]]}, r"got list"),
            ({"shape_hw": (4, 2)}, r"frames are \(2, 4\) \(H, W\) but the state is \(4, 2\)"),
            ({"ticks": -1}, "ticks must not be negative, got -1"),
            ({"ticks": 21}, "21 ticks from tick 0 need 4 frames .*, got 3"),
            ({"threads": 0}, "threads must be at least 1, got 0"),
            (
                {"backend": "cuda"},
                "backend must be one of auto, reference, numba, triton, got 'cuda'",
            ),
        ],
    )
    def test_simulate_ticks_refuses(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            self.run(**arguments)

    def test_simulate_refuses_frames_of_two_sizes(self):
        blocks = [np.zeros((1, 2, 4), np.uint8), np.zeros((1, 4, 2), np.uint8)]
        with pytest.raises(ValueError, match="after frames of"):
            list(simulate(blocks, self.sensor, clip_id="clip"))

    def test_simulate_refuses_blocks_of_less_than_a_group(self):
        with pytest.raises(ValueError, match="block_ticks must be at least 8, got 7"):
            list(simulate([], self.sensor, clip_id="clip", block_ticks=7))

    def test_states_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match="residue_hw must be int32"):
            SensorState(np.zeros((2, 2)), 0, np.zeros((2, 2), np.uint8))
        with pytest.raises(ValueError, match="pending_hw must be uint8"):
            SensorState(np.zeros((2, 2), np.int32), 0, np.zeros((2, 3), np.uint8))
        with pytest.raises(ValueError, match="tick must not be negative"):
            SensorState(np.zeros((2, 2), np.int32), -1, np.zeros((2, 2), np.uint8))
        with pytest.raises(ValueError, match="sizes must be positive"):
            SensorState.initial(self.sensor, 0, 4, "clip")


def test_importing_the_simulator_loads_neither_torch_nor_numba():
    program = (
        "import sys, spikedata.simulator\n"
        "print([name for name in ('torch', 'numba', 'llvmlite') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
