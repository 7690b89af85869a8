"""Hot, dead and saturated pixels, flicker and what was lost, against streams made by hand."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikedata import SpikeStream, create_store, measure_health, open_spikes
from spikedata.analysis.health import MOST_TICKS, places
from spikedata.bits import pack_ticks
from spikedata.clip import Clip
from spikedata.clips import lost_spans


def stream_of(planes_thw, rate_hz=20_000.0):
    return SpikeStream(pack_ticks(planes_thw), len(planes_thw), rate_hz)


def even_scene(ticks=400, height=12, width=16, rate=0.2, seed=0):
    """Spikes of an even grey scene, each pixel as chance wills."""
    return np.random.default_rng(seed).random((ticks, height, width)) < rate


def found(planes_thw):
    health = measure_health(stream_of(planes_thw))
    return {name: places(mask_hw).tolist() for name, mask_hw in health.masks.items()}


def test_faults_of_single_pixels_are_found_where_they_are():
    planes_thw = even_scene()
    planes_thw[:, 3, 5] = 0
    planes_thw[:, 0, 0] = 0
    planes_thw[:, 7, 9] = 1
    planes_thw[::2, 11, 15] = 1  # a corner
    want = {"hot": [[9, 7], [15, 11]], "dead": [[0, 0], [5, 3]], "saturated": [[9, 7]]}
    assert found(planes_thw) == want


def test_a_dead_row_is_found_and_a_black_surface_is_none():
    planes_thw = even_scene()
    planes_thw[:, 6] = 0
    assert found(planes_thw)["dead"] == [[x, 6] for x in range(16)]
    planes_thw = even_scene()
    planes_thw[:, 3:8, 4:9] = 0
    assert found(planes_thw) == {"hot": [], "dead": [], "saturated": []}


def test_edges_bright_lines_and_chance_make_no_hot_pixel():
    planes_thw = even_scene(rate=0.02, ticks=2000, height=40, width=60)
    planes_thw[:, 20:] |= even_scene(rate=0.5, ticks=2000, height=20, width=60, seed=1)
    planes_thw[:, :, 30] |= even_scene(rate=0.9, ticks=2000, height=40, width=1, seed=2)[:, :, 0]
    assert found(planes_thw)["hot"] == []


def test_a_bright_surface_is_saturated_and_neither_hot_nor_dead():
    planes_thw = even_scene()
    planes_thw[:, 2:6, 2:6] = 1
    want = [[x, y] for y in range(2, 6) for x in range(2, 6)]
    assert found(planes_thw) == {"hot": [], "dead": [], "saturated": want}


def by_hand(planes_thw):
    """The masks, pixel by pixel, as the docstring of Health has them."""
    ticks, height, width = planes_thw.shape
    count_hw = planes_thw.sum(axis=0).astype(int)
    mirrored_yx = np.pad(count_hw, 2, mode="reflect")
    masks = {name: np.zeros((height, width), bool) for name in ("hot", "dead", "saturated")}
    for y in range(height):
        for x in range(width):
            around = mirrored_yx[y : y + 5, x : x + 5]
            eight = sorted(np.delete(around[1:4, 1:4].reshape(-1), 4))
            own, median = count_hw[y, x], np.median(around)
            spread = np.median(np.abs(around - median)) / 0.6745
            masks["saturated"][y, x] = own == ticks
            masks["dead"][y, x] = own == 0 and sum(n >= 10 for n in eight) >= 6
            masks["hot"][y, x] = (
                own >= 1.5 * eight[-2]
                and own - eight[-2] > 6 * math.sqrt(max(1, eight[-2]))
                and own - median >= 8 * spread
            )
    return masks


@settings(max_examples=60)
@given(st.integers(1, 260), st.integers(1, 7), st.integers(1, 9), st.integers(0, 2**32))
def test_maps_and_curves_are_those_counted_one_by_one(ticks, height, width, seed):
    rng = np.random.default_rng(seed)
    rate_hw = rng.choice([0.0, 0.05, 0.1, 0.9, 1.0], (height, width), p=[0.1, 0.3, 0.4, 0.1, 0.1])
    planes_thw = rng.random((ticks, height, width)) < rate_hw
    health = measure_health(stream_of(planes_thw))
    np.testing.assert_array_equal(health.rate_hw, planes_thw.sum(axis=0) / ticks)
    for name, mask_hw in by_hand(planes_thw).items():
        np.testing.assert_array_equal(health.masks[name], mask_hw, err_msg=name)
    np.testing.assert_array_equal(health.tick_n, np.arange(ticks))
    np.testing.assert_allclose(health.rate_n, planes_thw.mean(axis=(1, 2)), rtol=1e-12)
    assert json.loads(json.dumps(health.to_dict(), allow_nan=False))["ticks_read"] == ticks


# --- time ---------------------------------------------------------------------------------------


def lamp(hz, depth, seconds=0.2, rate_hz=20_000.0, mean=0.3, seed=0):
    """A scene under a lamp whose light swings by ``depth``."""
    ticks = round(seconds * rate_hz)
    rate_t = mean * (1 + depth * np.sin(2 * np.pi * hz * np.arange(ticks) / rate_hz + 0.7))
    planes_thw = np.random.default_rng(seed).random((ticks, 16, 20)) < rate_t[:, None, None]
    return stream_of(planes_thw, rate_hz)


@pytest.mark.parametrize("hz", [100.0, 120.0])
@pytest.mark.parametrize(("rate_hz", "seconds"), [(20_000.0, 0.2), (40_000.0, 0.1), (2_000.0, 2)])
def test_flicker_of_lamps_is_told_with_its_frequency_and_depth(hz, rate_hz, seconds):
    health = measure_health(lamp(hz, 0.1, seconds, rate_hz))
    assert health.mains is not None
    assert health.mains[0] == hz
    assert health.mains[1] == pytest.approx(0.1, abs=0.01)
    strongest = int(health.amplitude.argmax())
    assert health.frequency_hz[strongest] == pytest.approx(hz, abs=rate_hz / 4096)
    told = f"Flicker at {hz:.0f} Hz: the mean rate swings by"
    assert any(line.startswith(told) for line in health.findings())


def test_a_wave_has_its_own_amplitude_in_the_spectrum():
    # 160 of 4,096 bins: whole periods in the window, so nothing leaks.
    health = measure_health(lamp(160 * 20_000 / 4_096, 0.2, 4_096 / 20_000))
    assert health.frequency_hz[159] == pytest.approx(781.25)
    assert health.amplitude[159] == pytest.approx(0.2, abs=0.01)
    assert health.mains is None
    assert "No flicker at 100 or 120 Hz." in health.findings()


@pytest.mark.parametrize("seed", range(6))
def test_chance_and_slow_changes_are_no_flicker(seed):
    assert measure_health(lamp(0, 0, seed=seed)).mains is None
    assert measure_health(lamp(7, 0.3, seed=seed)).mains is None


@pytest.mark.parametrize(
    ("seconds", "rate_hz"), [(0.049, 20_000.0), (30, 200.0), (2 / 20_000, 2e4)]
)
def test_what_is_too_short_or_too_slow_tells_no_flicker(seconds, rate_hz):
    health = measure_health(lamp(100, 0.2, seconds, rate_hz))
    assert health.mains is None
    assert not health.tells_flicker


def test_a_stream_without_a_spike_is_measured_too():
    health = measure_health(stream_of(np.zeros((1000, 4, 5), bool)))
    assert (health.mean_rate, health.mains) == (0, None)
    assert not any(mask_hw.any() for mask_hw in health.masks.values())
    json.dumps(health.to_dict(), allow_nan=False)


# --- reading ------------------------------------------------------------------------------------


class Long:
    """A recording longer than any disk: a tick fires if its number is a multiple of three."""

    ticks, height_px, width_px, tick_rate_hz = 3_000_000_001, 2, 3, 20_000.0

    def __init__(self):
        self.windows = []

    def read(self, start, ticks):
        self.windows.append((start, ticks))
        planes_t = np.arange(start, start + ticks) % 3 == 0
        return stream_of(np.broadcast_to(planes_t[:, None, None], (ticks, 2, 3)))

    def blocks(self):
        raise AssertionError("nobody reads all of it")


def test_of_a_long_recording_stretches_from_its_beginning_to_its_end_are_read():
    source = Long()
    health = measure_health(source)
    assert health.ticks_read == MOST_TICKS == sum(ticks for _, ticks in source.windows)
    assert max(ticks for _, ticks in source.windows) <= 512
    (first, length), (last, _) = health.stretches
    assert first == 0
    assert source.ticks - 8 <= last + length <= source.ticks
    assert health.mean_rate == pytest.approx(1 / 3, abs=1e-4)
    assert "Measured on 8,192 of 3,000,000,001 ticks, in 2 stretches." in health.findings()


@given(st.integers(8, 300), st.integers(8, 320), st.integers(0, 2**32))
def test_a_source_without_random_access_gives_the_same(ticks, most_ticks, seed):
    planes_thw = np.random.default_rng(seed).random((ticks, 3, 5)) < 0.3
    stream = stream_of(planes_thw)
    size = {"height_px": 3, "width_px": 5, "tick_rate_hz": 2e4, "ticks": ticks}
    pieces = [stream.packed_ghw[at : at + 3] for at in range(0, len(stream.packed_ghw), 3)]
    cut = SimpleNamespace(**size, blocks=lambda: pieces)
    seeking = SimpleNamespace(**size, blocks=stream.blocks, read=stream.window)
    one, other = (measure_health(s, most_ticks=most_ticks) for s in (cut, seeking))
    assert one.to_dict() == other.to_dict()
    ((start, length),) = one.stretches
    assert length == (ticks if ticks <= most_ticks else most_ticks - most_ticks % 8)
    want_hw = planes_thw[start : start + length].mean(axis=0)
    np.testing.assert_allclose(one.rate_hw, want_hw, rtol=1e-12)


def test_several_recordings_of_a_camera_are_measured_as_one():
    planes_thw = even_scene(ticks=480)
    planes_thw[:, 3, 5] = 1
    planes_thw[:160, 8, 8] = 1  # something bright, in the first of three
    parts = [stream_of(planes_thw[at : at + 160]) for at in (0, 160, 320)]
    whole, together = measure_health(stream_of(planes_thw)), measure_health(*parts)
    np.testing.assert_array_equal(whole.rate_hw, together.rate_hw)
    assert places(together.saturated_hw).tolist() == [[5, 3]]
    assert together.stretches == ((0, 160), (160, 160), (320, 160))
    np.testing.assert_array_equal(whole.tick_n, together.tick_n)
    with pytest.raises(ValueError, match="one size, got 12x16 and 2x3"):
        measure_health(parts[0], stream_of(np.ones((8, 2, 3))))
    with pytest.raises(ValueError, match="most_ticks must be at least 8, got 7"):
        measure_health(parts[0], most_ticks=7)


def test_what_was_lost_is_told_of_recordings_and_of_clips(tmp_path):
    lost = [[120, 3, 4000], [40, 1, 64]]
    with (
        create_store(tmp_path / "s.zarr", recipe={}, class_names=()) as writer,
        writer.clip(Clip(id="a"), height_px=3, width_px=5, tick_rate_hz=2e4) as out,
    ):
        out.append(pack_ticks(even_scene(ticks=200, height=3, width=5)))
        out.finish(ticks=200, attributes={"camera": {"lost": lost}})
    clip = open_spikes(tmp_path / "s.zarr")
    assert clip.stored.losses == {"lost spans": 2, "ticks lost": 4}
    assert measure_health(clip).lost == ((40, 1, 64), (120, 3, 4000))
    # The second one's ticks count on.
    assert measure_health(clip, clip).lost[2] == (240, 1, 64)
    assert "About 4 ticks lost in 2 places, 4,064 bytes." in measure_health(clip).findings()
    recording = SimpleNamespace(
        **{name: getattr(clip, name) for name in ("ticks", "height_px", "width_px")},
        tick_rate_hz=2e4,
        blocks=clip.blocks,
        losses=(SimpleNamespace(tick=40, ticks=1, bytes=64),),
    )
    assert measure_health(recording).lost == ((40, 1, 64),)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"camera": None},
        {"camera": {"lost": "many"}},
        {"camera": {"lost": [None, [1, 2], [1, 2, "3"], [True, 1, 1], [-1, 2, 3], {"tick": 1}]}},
        {"camera": {"lost": [[1 << 70, 2, 3], [1.0, 2, 3]]}},
    ],
)
def test_attributes_that_are_no_spans_are_passed_over(attributes):
    assert lost_spans(attributes) == ()


def test_two_real_recordings_of_one_camera_have_the_same_hot_pixel(shared_data):
    folder = shared_data / "recordings"
    car = open_spikes(folder / "car_250x400.dat", camera="vidar")
    static = open_spikes(folder / "static_scene_250x400x500.npz", camera="npz-hwt")
    hot = [places(measure_health(one).hot_hw).tolist() for one in (car, static)]
    assert hot[0] == [[378, 50]]
    assert [378, 50] in hot[1]
    assert len(hot[1]) <= 2
