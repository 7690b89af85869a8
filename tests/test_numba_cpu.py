"""The numba backend gives the reference's bits."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.caching import CacheImpl
from numba.core.registry import CPUDispatcher
from strategies import SIZES_HW, recordings

from spikedata.simulator import (
    SensorConfig,
    SensorState,
    load_sensor,
    numba_cpu,
    simulate_ticks,
)
from spikedata.simulator.numba_cpu import PICTURES, _pieces
from spikedata.video import open_video


def assert_same(left, right):
    (left_ghw, left_state), (right_ghw, right_state) = left, right
    np.testing.assert_array_equal(left_ghw, right_ghw)
    np.testing.assert_array_equal(left_state.residue_hw, right_state.residue_hw)
    np.testing.assert_array_equal(left_state.pending_hw, right_state.pending_hw)
    assert left_state.tick == right_state.tick


def start_of(luma_nhw, sensor, clip_id="clip"):
    return SensorState.initial(sensor, *luma_nhw.shape[1:], clip_id)


def in_pieces(luma_nhw, sensor, cuts, **options):
    """The groups of a clip simulated from cut to cut, and the last state."""
    state, groups = start_of(luma_nhw, sensor), []
    for start, end in zip(cuts, cuts[1:], strict=False):
        frames_nhw = luma_nhw[start // sensor.ticks_per_frame :]
        packed_ghw, state = simulate_ticks(frames_nhw, state, sensor, end - start, **options)
        groups.append(packed_ghw)
    if state.pending_ticks:
        groups.append(state.pending_hw[None])
    return np.concatenate(groups), state


@settings(max_examples=100)
@given(recording=recordings(), threads=st.sampled_from([1, 2, 3]))
def test_numba_gives_the_reference_bits(recording, threads):
    luma_nhw, sensor, ticks = recording
    want, got = (
        simulate_ticks(luma_nhw, start_of(luma_nhw, sensor), sensor, ticks, flush=True, **options)
        for options in ({"backend": "reference"}, {"backend": "numba", "threads": threads})
    )
    assert_same(got, want)


@pytest.mark.parametrize("backend", ["reference", "numba"])
@settings(max_examples=40)
@given(recording=recordings(), data=st.data())
def test_cutting_a_clip_anywhere_changes_no_bit(backend, recording, data):
    luma_nhw, sensor, ticks = recording
    inner = data.draw(st.lists(st.integers(0, ticks), max_size=4).map(sorted))
    want = in_pieces(luma_nhw, sensor, [0, ticks], backend=backend)
    got = in_pieces(luma_nhw, sensor, [0, *inner, ticks], backend=backend)
    assert_same(got, want)


@pytest.mark.parametrize("size_hw", SIZES_HW)
@pytest.mark.parametrize("ticks_per_frame", [1, 3, 10, 40, 1000])
def test_long_runs_give_the_reference_bits(size_hw, ticks_per_frame):
    """Long enough for several runs of the kernel, which the random tests seldom reach."""
    sensor = SensorConfig(ticks_per_frame=ticks_per_frame, threshold=1.7)
    ticks = 301
    frames = sensor.frames_needed(0, ticks)
    luma_nhw = np.random.default_rng(3).integers(0, 256, (frames, *size_hw), dtype=np.uint8)
    want = simulate_ticks(luma_nhw, start_of(luma_nhw, sensor), sensor, ticks, backend="reference")
    got = simulate_ticks(luma_nhw, start_of(luma_nhw, sensor), sensor, ticks, backend="numba")
    assert_same(got, want)


@pytest.mark.parametrize("interpolation", ["hold", "linear"])
@pytest.mark.parametrize("ticks_per_frame", [21, 22, 32, 33, 42, 43, 64])
def test_lane_sizes_agree_on_both_sides_of_their_limits(interpolation, ticks_per_frame):
    sensor = SensorConfig(ticks_per_frame=ticks_per_frame, interpolation=interpolation)
    luma_nhw = np.array([0, 255, 255, 254, 0], np.uint8)[:, None, None].repeat(130, axis=2)
    ticks = 4 * ticks_per_frame
    want = simulate_ticks(luma_nhw, start_of(luma_nhw, sensor), sensor, ticks, backend="reference")
    got = simulate_ticks(luma_nhw, start_of(luma_nhw, sensor), sensor, ticks, backend="numba")
    assert_same(got, want)


@pytest.mark.parametrize("units", [32767, 32768, 32769])
@pytest.mark.parametrize("start", ["zero", "random"])
def test_thresholds_beside_the_sign_bit_give_the_reference_bits(units, start):
    """Held light counts in units of a 255th of a full tick, of which 16 bits hold 2**15."""
    sensor = SensorConfig(interpolation="hold", threshold=units / 255, start=start)
    luma_nhw = np.arange(60 * 4 * 65, dtype=np.uint32).reshape(60, 4, 65) * 2654435761 >> 24
    luma_nhw = np.maximum(luma_nhw, 100).astype(np.uint8)
    want = simulate_ticks(luma_nhw, start_of(luma_nhw, sensor), sensor, 600, backend="reference")
    got = simulate_ticks(luma_nhw, start_of(luma_nhw, sensor), sensor, 600, backend="numba")
    assert_same(got, want)
    assert want[0].any()


def test_the_largest_threshold_that_fits_gives_the_reference_bits():
    sensor = SensorConfig(threshold=1637.3, interpolation="hold")
    luma_nhw = np.full((330, 1, 3), 255, np.uint8)
    want = simulate_ticks(luma_nhw, start_of(luma_nhw, sensor), sensor, 3300, backend="reference")
    got = simulate_ticks(luma_nhw, start_of(luma_nhw, sensor), sensor, 3300, backend="numba")
    assert_same(got, want)
    assert np.bitwise_count(got[0]).sum(axis=0).min() >= 2


def test_frames_need_not_be_contiguous_or_writable():
    sensor = SensorConfig()
    luma_nhw = np.random.default_rng(0).integers(0, 256, (4, 12, 20), dtype=np.uint8)
    luma_nhw.flags.writeable = False
    view_nhw = luma_nhw[:, ::2, ::-1]
    want = simulate_ticks(view_nhw.copy(), start_of(view_nhw, sensor), sensor, 30)
    got = simulate_ticks(view_nhw, start_of(view_nhw, sensor), sensor, 30)
    assert_same(got, want)
    assert got[0].flags.c_contiguous


def test_the_state_given_is_left_as_it_was():
    sensor = SensorConfig()
    luma_nhw = np.full((4, 2, 3), 200, np.uint8)
    state = start_of(luma_nhw, sensor)
    residue_hw = state.residue_hw.copy()
    simulate_ticks(luma_nhw, state, sensor, 13)
    np.testing.assert_array_equal(state.residue_hw, residue_hw)
    assert not state.pending_hw.any()


@given(tick=st.integers(0, 999), ticks=st.integers(1, 999), k=st.integers(1, 1000))
def test_kernel_runs_follow_one_another_and_touch_few_pictures(tick, ticks, k):
    pieces = _pieces(tick, ticks, k)
    assert [start for _, _, start, _ in pieces] == [
        tick + sum(n for *_, n in pieces[:i]) for i in range(len(pieces))
    ]
    assert sum(n for *_, n in pieces) == ticks
    assert all(n / k + n / 8 <= PICTURES for *_, n in pieces)
    assert all(frame == start // k - tick // k for frame, _, start, _ in pieces)


def test_where_nothing_can_be_cached_the_kernel_is_compiled_all_the_same(monkeypatch):
    """A read-only installation and home: numba then refuses ``cache=True``."""
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(start_of)
    kernel = numba_cpu._kernel.__wrapped__(16, False, False)
    assert isinstance(kernel, CPUDispatcher)


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("interpolation", ["hold", "linear"])
@pytest.mark.parametrize("ticks_per_frame", [1, 10, 33])
def test_long_noisy_runs_give_the_reference_bits(ticks_per_frame, interpolation, reset):
    """Several runs of the kernel, on two threads, from a tick inside a group and an interval."""
    words = ["noise.hot_share=0.02", "noise.dead_share=0.02", f"reset={reset}"]
    words += [f"ticks_per_frame={ticks_per_frame}", f"interpolation={interpolation}"]
    sensor = load_sensor("vidar-20khz", words)
    frames = sensor.frames_needed(0, 301)
    luma_nhw = np.random.default_rng(4).integers(0, 256, (frames, 17, 31), dtype=np.uint8)
    want = in_pieces(luma_nhw, sensor, [0, 301], backend="reference")
    got = in_pieces(luma_nhw, sensor, [0, 5, 301], backend="numba", threads=2)
    assert_same(got, want)


@pytest.mark.parametrize(
    "word", ["noise.maps=null", "noise.shot_quanta=3e3", "threshold=300", "noise.dead_time=1"]
)
def test_extreme_noise_gives_the_reference_bits(word):
    """Every light code up to the largest, response near 2, amounts near 16 bits."""
    noisy = ["noise.hot_share=0.3", "noise.hot_charge=1", "noise.threshold_jitter=0.01"]
    sensor = load_sensor("vidar-20khz", [*noisy, "noise.response_spread=0.3", word])
    luma_nhw = np.array([255, 0, 255, 255, 1, 0, 0], np.uint8)[:, None, None]
    luma_nhw = luma_nhw.repeat(40, axis=1).repeat(50, axis=2)
    want = in_pieces(luma_nhw, sensor, [0, 60], backend="reference")
    got = in_pieces(luma_nhw, sensor, [0, 60], backend="numba")
    assert_same(got, want)


@pytest.mark.parametrize("interpolation", ["hold", "linear"])
def test_a_real_clip_gives_the_reference_bits(shared_data, interpolation):
    path = sorted((shared_data / "ucf101").rglob("*.avi"))[0]
    with open_video(path) as video:
        luma_nhw = next(iter(video.blocks(12)))
    sensor = SensorConfig(interpolation=interpolation)
    want, got = (
        simulate_ticks(luma_nhw, start_of(luma_nhw, sensor), sensor, 105, **options)
        for options in ({"backend": "reference"}, {"backend": "numba", "threads": 2})
    )
    assert_same(got, want)
    assert 0.01 < np.bitwise_count(got[0]).mean() / 8 < 0.5  # neither dark nor saturated
