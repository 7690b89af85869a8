"""The definition itself, on cases small enough to check on paper."""

import numpy as np
import pytest

from spikedata.bits import unpack_ticks
from spikedata.simulator import SensorConfig, SensorState, simulate, simulate_ticks

BACKENDS = ["reference", "numba"]
FULL = 65535


def train(luma, sensor, ticks, backend, residue_cu=0):
    """Spikes of one pixel as text, and the charge it is left with."""
    luma_nhw = np.array(luma, np.uint8)[:, None, None]
    state = SensorState(np.full((1, 1), residue_cu, np.int32), 0, np.zeros((1, 1), np.uint8))
    packed_ghw, after = simulate_ticks(luma_nhw, state, sensor, ticks, backend=backend, flush=True)
    spikes = unpack_ticks(packed_ghw, ticks)[:, 0, 0]
    return "".join(map(str, spikes)), int(after.residue_hw[0, 0])


@pytest.mark.parametrize("backend", BACKENDS)
class TestByHand:
    def test_white_at_threshold_two_fires_every_second_tick(self, backend):
        # 2 K = 20 units of 65535 a tick, threshold 40: 20 | 40 -> 0 | 20 | ...
        sensor = SensorConfig(interpolation="hold", start="zero")
        assert train([255], sensor, 9, backend) == ("010101010", 20 * FULL)

    def test_black_never_fires(self, backend):
        sensor = SensorConfig(interpolation="hold", start="zero")
        assert train([0], sensor, 10, backend, residue_cu=77) == ("0" * 10, 77)

    def test_surplus_stays_when_the_threshold_is_subtracted(self, backend):
        # K = 1: 2 F a tick, threshold 3 F: 2 | 4 -> 1 | 3 -> 0 | 2 | 4 -> 1 | 3 -> 0
        sensor = SensorConfig(threshold=1.5, ticks_per_frame=1, interpolation="hold", start="zero")
        assert train([255] * 6, sensor, 6, backend) == ("011011", 0)
        assert train([255] * 5, sensor, 5, backend) == ("01101", 1 * FULL)

    def test_surplus_is_lost_when_reset_to_zero(self, backend):
        # 2 | 4 -> 0 | 2 | 4 -> 0 | 2 | 4 -> 0
        sensor = SensorConfig(
            threshold=1.5, ticks_per_frame=1, interpolation="hold", start="zero", reset="zero"
        )
        assert train([255] * 6, sensor, 6, backend) == ("010101", 0)
        assert train([255] * 5, sensor, 5, backend) == ("01010", 2 * FULL)

    def test_a_pixel_saturates_below_threshold_one(self, backend):
        # K = 1, threshold F, white gathers 2 F: every tick fires and leaves F, cut to F - 1.
        # Then black: F - 1 never fires. Uncut it would have fired again.
        sensor = SensorConfig(threshold=0.5, ticks_per_frame=1, interpolation="hold", start="zero")
        assert train([255, 255, 255, 0, 0], sensor, 5, backend) == ("11100", FULL - 1)
        # One luma step, 514, lifts F - 1 over the threshold: F - 1 + 514 - F = 513 is left.
        assert train([255, 1, 0], sensor, 3, backend) == ("110", 513)

    def test_a_line_between_black_and_white(self, backend):
        # K = 2: charges F (2k + 1) = F, 3 F, then held white 4 F, 4 F. Threshold 2: 8 F.
        # 1 | 4 | 8 -> 0 | 4
        sensor = SensorConfig(ticks_per_frame=2, start="zero")
        assert train([0, 255, 255], sensor, 2, backend) == ("00", 4 * FULL)
        assert train([0, 255, 255], sensor, 4, backend) == ("0010", 4 * FULL)

    def test_a_line_from_white_to_black(self, backend):
        # K = 2: charges 3 F, F; threshold 1 is 4 F: 3 | 4 -> 0
        sensor = SensorConfig(threshold=1.0, ticks_per_frame=2, start="zero")
        assert train([255, 0], sensor, 2, backend) == ("01", 0)

    def test_a_threshold_reached_exactly_fires(self, backend):
        sensor = SensorConfig(threshold=2.0, interpolation="hold", start="zero")
        almost = sensor.threshold_cu - sensor.full_charge_cu
        assert train([255], sensor, 1, backend, residue_cu=almost) == ("1", 0)
        assert train([255], sensor, 1, backend, residue_cu=almost - 1)[0] == "0"


@pytest.mark.parametrize("backend", BACKENDS)
def test_hold_at_threshold_two_counts_as_floor_sums(backend):
    """Spikes until tick t = floor((r0 + t * charge) / threshold), for every luma code."""
    sensor = SensorConfig(interpolation="hold", seed=5)
    luma_1hw = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    state = SensorState.initial(sensor, 16, 16, "clip")
    packed_ghw, after = simulate_ticks(
        luma_1hw.repeat(13, axis=0), state, sensor, 130, backend=backend, flush=True
    )
    count_thw = unpack_ticks(packed_ghw, 130).cumsum(axis=0, dtype=np.int64)
    # threshold 2 * 65535 * 20, charge 257 * Y * 20: in units of 257 * 20, 510 and Y.
    t = np.arange(1, 131)[:, None, None]
    charge_thw = state.residue_hw.astype(np.int64) + t * luma_1hw.astype(np.int64) * 257 * 20
    np.testing.assert_array_equal(count_thw, charge_thw // (510 * 257 * 20))
    np.testing.assert_array_equal(after.residue_hw, charge_thw[-1] % (510 * 257 * 20))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ticks_per_frame", [1, 2, 5, 10])
def test_a_line_gathers_what_lies_under_it(backend, ticks_per_frame):
    """Charge of one interval sums to K * K * (a + b): the trapezium's area, in charge units."""
    sensor = SensorConfig(threshold=1000.0, ticks_per_frame=ticks_per_frame, start="zero")
    for first, last in [(0, 255), (255, 0), (3, 200), (200, 3), (77, 77)]:
        spikes, residue_cu = train([first, last], sensor, ticks_per_frame, backend)
        assert "1" not in spikes
        assert residue_cu == ticks_per_frame**2 * 257 * (first + last)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("interpolation", ["hold", "linear"])
def test_a_whole_clip_gives_its_frames_times_k_ticks(backend, interpolation):
    """Blocks of frames and of ticks, however cut, give the bits of one call."""
    sensor = SensorConfig(interpolation=interpolation, ticks_per_frame=7, seed=1)
    luma_nhw = np.random.default_rng(1).integers(0, 256, (11, 3, 6), dtype=np.uint8)
    held_nhw = np.concatenate([luma_nhw, luma_nhw[-1:]])
    state = SensorState.initial(sensor, 3, 6, "clip")
    want_ghw, _ = simulate_ticks(held_nhw, state, sensor, 77, backend="reference", flush=True)
    for cuts in ([], [4], [1, 1, 2, 10], list(range(1, 11))):
        for block_ticks in (8, 13, 256):
            blocks = list(
                simulate(
                    np.split(luma_nhw, cuts),
                    sensor,
                    clip_id="clip",
                    block_ticks=block_ticks,
                    backend=backend,
                )
            )
            np.testing.assert_array_equal(np.concatenate(blocks), want_ghw)
            assert all(1 <= len(block) <= -(-block_ticks // 8) for block in blocks)


def test_flushing_does_not_change_the_state():
    sensor = SensorConfig()
    luma_nhw = np.random.default_rng(2).integers(0, 256, (4, 2, 2), dtype=np.uint8)
    state = SensorState.initial(sensor, 2, 2, "clip")
    flushed_ghw, after = simulate_ticks(luma_nhw, state, sensor, 11, flush=True)
    whole_ghw, _ = simulate_ticks(luma_nhw, state, sensor, 11)
    assert (len(flushed_ghw), len(whole_ghw), after.pending_ticks) == (2, 1, 3)
    np.testing.assert_array_equal(flushed_ghw[1], after.pending_hw)
    rest_ghw, _ = simulate_ticks(luma_nhw[1:], after, sensor, 5)
    long_ghw, _ = simulate_ticks(luma_nhw, state, sensor, 16)
    np.testing.assert_array_equal(np.concatenate([whole_ghw, rest_ghw]), long_ghw)


def test_no_frames_give_no_blocks():
    assert list(simulate([], SensorConfig(), clip_id="clip")) == []
    assert list(simulate([np.zeros((0, 4, 4), np.uint8)], SensorConfig(), clip_id="clip")) == []
