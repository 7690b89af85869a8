"""Pictures made incrementally from packed trains, against the slow definitions and paper."""

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata import SpikeDataError, SpikeStream, reconstruct, reconstruct_frames
from spikedata.analysis import reconstruction
from spikedata.analysis.reconstruction import pictures_at
from spikedata.analysis.textures import (
    adaptive_texture,
    least_interval,
    nested_windows,
    texture_from_interval,
    texture_from_playback,
)
from spikedata.bits import pack_ticks


def stream_of(*trains):
    """One row of pixels from strings of 0 and 1."""
    planes_thw = np.array([[int(bit) for bit in train] for train in trains]).T[:, None, :]
    return SpikeStream(pack_ticks(planes_thw), planes_thw.shape[0], 20_000.0)


class Blocks:
    """A source that has nothing but blocks, of so many groups each."""

    def __init__(self, stream, groups):
        self.stream, self.groups, self.seen = stream, groups, []
        self.ticks, self.tick_rate_hz = stream.ticks, stream.tick_rate_hz
        self.height_px, self.width_px = stream.height_px, stream.width_px

    def blocks(self):
        packed_ghw = self.stream.packed_ghw
        for g in range(0, len(packed_ghw), self.groups):
            yield packed_ghw[g : g + self.groups]


class Seeks(Blocks):
    """A source that can be read anywhere; ``seen`` is what was."""

    def read(self, start=0, ticks=None):
        self.seen.append((start, start + ticks))
        return self.stream.window(start, ticks)


@st.composite
def streams(draw, most_ticks=90):
    """Any number of ticks, pixels from dark to a spike every tick, and light that changes."""
    ticks, seed = draw(st.integers(1, most_ticks)), draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    share_hw = rng.choice([0.0, 0.02, 0.1, 0.4, 0.9, 1.0], (2, 4, 5))
    change = draw(st.integers(0, ticks))
    share_thw = np.where(np.arange(ticks)[:, None, None] < change, share_hw[0], share_hw[1])
    return SpikeStream(pack_ticks(rng.random(share_thw.shape) < share_thw), ticks, 20_000.0)


def slow_picture(stream, method, first, window_ticks, reach_ticks):
    if method == "tfp":
        return texture_from_playback(stream.window(first, window_ticks))
    if method == "tfi":
        return 1 / least_interval(stream, first + window_ticks // 2, reach_ticks)
    return adaptive_texture(stream, first, window_ticks, reach_ticks)


@given(
    stream=streams(),
    method=st.sampled_from(["tfp", "tfi", "adaptive"]),
    step_ticks=st.integers(1, 40),
    reach_ticks=st.integers(1, 100),
    groups=st.integers(1, 12),
    data=st.data(),
)
def test_pictures_are_the_slow_ones_to_the_bit_wherever_the_source_is_cut(
    stream, method, step_ticks, reach_ticks, groups, data
):
    start = data.draw(st.integers(0, stream.ticks - 1))
    ticks = data.draw(st.integers(1, stream.ticks - start))
    window_ticks = data.draw(st.integers(1, 40))
    how = {
        "window_ticks": window_ticks,
        "start": start,
        "ticks": ticks,
        "step_ticks": step_ticks,
        "reach_ticks": reach_ticks,
    }
    frames = list(reconstruct_frames(stream, method, **how))
    window_ticks = min(window_ticks, ticks)
    firsts = list(range(start, start + ticks - window_ticks + 1, step_ticks))
    assert [tick for tick, _ in frames] == [first + window_ticks // 2 for first in firsts]
    for first, (_, rate_hw) in zip(firsts, frames, strict=True):
        want_hw = slow_picture(stream, method, first, window_ticks, reach_ticks)
        assert rate_hw.dtype == np.float32
        np.testing.assert_array_equal(rate_hw, want_hw.astype(np.float32))
    whole_nhw = np.stack([rate_hw for _, rate_hw in frames])
    for source in (Blocks(stream, groups), Seeks(stream, groups)):
        with mock.patch.object(reconstruction, "_READ_GROUPS", data.draw(st.integers(1, 5))):
            np.testing.assert_array_equal(reconstruct(source, method, **how), whole_nhw)


@given(stream=streams(), data=st.data())
def test_long_windows_are_counted_piece_by_piece(stream, data):
    window_ticks = data.draw(st.integers(1, stream.ticks))
    how = {"window_ticks": window_ticks, "start": data.draw(st.integers(0, stream.ticks - 1))}
    want = list(reconstruct_frames(stream, "tfp", **how))
    with mock.patch.object(reconstruction, "_LONG_TICKS", data.draw(st.integers(1, 20))):
        for source in (stream, Blocks(stream, 2), Seeks(stream, 1)):
            found = list(reconstruct_frames(source, "tfp", **how))
            assert [tick for tick, _ in found] == [tick for tick, _ in want]
            for (_, rate_hw), (_, want_hw) in zip(found, want, strict=True):
                np.testing.assert_array_equal(rate_hw, want_hw)


@given(stream=streams(), data=st.data())
def test_windows_anywhere_in_order_give_what_each_gives_alone(stream, data):
    window_ticks = data.draw(st.integers(1, stream.ticks))
    last = stream.ticks - window_ticks
    firsts = sorted(data.draw(st.lists(st.integers(0, last), min_size=1, max_size=6)))
    for method in ("tfp", "tfi", "adaptive"):
        together = list(pictures_at(Blocks(stream, 2), method, firsts, window_ticks, 9))
        for first, (_, rate_hw) in zip(firsts, together, strict=True):
            want_hw = slow_picture(stream, method, first, window_ticks, 9)
            np.testing.assert_array_equal(rate_hw, want_hw.astype(np.float32))


@given(stream=streams(), reach_ticks=st.integers(1, 100), data=st.data())
def test_an_interval_seen_whole_is_that_of_the_definition(stream, reach_ticks, data):
    tick = data.draw(st.integers(0, stream.ticks - 1))
    low, high = max(0, tick - reach_ticks), min(stream.ticks, tick + reach_ticks + 1)
    seen_hw = texture_from_interval(stream.window(low, high - low), tick - low)
    rate_hw = 1 / least_interval(stream, tick, reach_ticks)
    np.testing.assert_array_equal(rate_hw[seen_hw > 0], seen_hw[seen_hw > 0])
    assert (rate_hw > 0).all()


def test_intervals_with_an_end_unseen_worked_by_hand():
    #                tick 0123456789
    trains = {
        "0000000000": 11,  # no spike in ten ticks: at least eleven
        "0001000000": 7,  # spike at 3, none to 9: at least 7; before it at least 4
        "0000000100": 8,  # the same, before tick 4
        "1001000000": 7,  # what is seen is longer than the interval before
        "1000000000": 10,
        "0000001001": 7,  # spikes at 6 and 9; 3 ticks apart, but 7 without one before
        "0000011111": 6,
        "1100010000": 4,  # seen whole
    }
    found_hw = least_interval(stream_of(*trains), 4, 512)
    assert found_hw[0].tolist() == list(trains.values())
    # The clip ends just after the spike at 8: the interval before tells more than the end does.
    assert least_interval(stream_of("0010000010"), 9, 512).tolist() == [[6]]
    # With a reach of two ticks, 2 to 6 are seen.
    assert least_interval(stream_of("0001000000", "1000000001"), 4, 2).tolist() == [[4, 6]]


def test_a_clip_of_constant_light_has_no_speckle_at_its_ends():
    # An integrate-and-fire pixel of interval 20, every phase: each tick of it shows about 1/20.
    tick_t = np.arange(60)[:, None, None]
    planes_thw = (tick_t + np.arange(20).reshape(1, 4, 5)) % 20 == 0
    stream = SpikeStream(pack_ticks(planes_thw), 60, 20_000.0)
    rate_nhw = reconstruct(stream, "tfi", window_ticks=1)
    np.testing.assert_array_equal(rate_nhw, np.float32(1 / 20))


def test_an_adaptive_picture_worked_by_hand():
    assert nested_windows(100, 33) == [(100, 16), (108, 8), (112, 4)]
    assert nested_windows(0, 16) == [(0, 8), (4, 4)]
    assert nested_windows(0, 2) == [(0, 1)]
    assert nested_windows(0, 1) == []
    still, moves = "01" * 32, "0" * 32 + "1" * 32
    planes_thw = np.zeros((64, 5, 8), np.uint8)
    planes_thw[:] = np.array([int(bit) for bit in still])[:, None, None]
    planes_thw[:, :, 5:] = np.array([int(bit) for bit in moves])[:, None, None]
    stream = SpikeStream(pack_ticks(planes_thw), 64, 20_000.0)
    (rate_hw,) = reconstruct(stream, "adaptive", window_ticks=32, ticks=32, start=16)
    assert (rate_hw[:, :4] == 0.5).all()  # nothing moves within a pixel
    # From tick 32 on bright, dark before: the halves of all windows differ. The interval around
    # tick 32 of the bright pixels is one tick, that of the pixel beside them two.
    assert (rate_hw[:, 5:] == 1).all()
    assert (rate_hw[:, 4] == 0.5).all()


@given(seed=st.integers(0, 2**32), window_ticks=st.integers(2, 60))
def test_constant_light_is_never_taken_for_motion(seed, window_ticks):
    rng = np.random.default_rng(seed)
    rate_hw, phase_hw = rng.random((2, 6, 7))
    charge_thw = np.floor(phase_hw + rate_hw * np.arange(65)[:, None, None])
    stream = SpikeStream(pack_ticks(np.diff(charge_thw, axis=0) > 0), 64, 20_000.0)
    even = window_ticks - window_ticks % 2
    first = window_ticks // 2 - even // 2
    found_hw = reconstruct(stream, "adaptive", window_ticks=window_ticks)[0]
    want_hw = texture_from_playback(stream.window(first, even))
    np.testing.assert_array_equal(found_hw, want_hw.astype(np.float32))


def test_only_what_is_shown_is_read():
    planes_thw = np.random.default_rng(0).random((4000, 2, 3)) < 0.3
    stream = SpikeStream(pack_ticks(planes_thw), 4000, 20_000.0)
    source = Seeks(stream, 1)
    list(pictures_at(source, "tfp", [100, 3000], 32))
    assert source.seen == [(96, 136), (3000, 3032)]
    source.seen.clear()
    list(pictures_at(source, "tfi", [2000], 1, 100))
    assert source.seen == [(1896, 2104)]
    source.seen.clear()
    list(reconstruct_frames(source, "tfp", step_ticks=8))
    starts, ends = zip(*source.seen, strict=True)
    assert starts == (0, *ends[:-1])  # nothing twice
    assert ends[-1] == 4000


def middle_of(planes_thw):
    return planes_thw[len(planes_thw) // 2]


def test_a_function_of_one_s_own_sees_each_window(tmp_path, monkeypatch):
    (tmp_path / "own_pictures.py").write_text(
        "def mean(planes_thw):\n    return planes_thw.mean(axis=0)\n"
        "def wrong(planes_thw):\n    return planes_thw\n"
        "def nan(planes_thw):\n    return planes_thw[0] * float('nan')\n"
    )
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    stream = SpikeStream(pack_ticks(rng.random((50, 3, 4)) < 0.4), 50, 20_000.0)
    for how in ({"window_ticks": 9, "step_ticks": 5}, {"start": 7, "window_ticks": 4}):
        ours = reconstruct(stream, "tfp", **how)
        np.testing.assert_array_equal(reconstruct(stream, "own_pictures:mean", **how), ours)
    planes_thw = stream.unpack()
    np.testing.assert_array_equal(reconstruct(stream, middle_of, window_ticks=1), planes_thw)
    for name in ("wrong", "nan"):
        with pytest.raises(ValueError, match=r"must give finite numbers \(3, 4\)"):
            reconstruct(stream, f"own_pictures:{name}")
    for name in ("tfx", "own_pictures:none", "no_such_module:f"):
        with pytest.raises(SpikeDataError, match=f"picture '{name}': "):
            reconstruct(stream, name)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"window_ticks": 0}, "window_ticks and step_ticks must be at least 1, got 0"),
        ({"step_ticks": 0}, "window_ticks and step_ticks must be at least 1, got 32 and 0"),
        ({"reach_ticks": 0}, "reach_ticks must be 1 to 2000, got 0"),
        ({"reach_ticks": 2001}, "reach_ticks must be 1 to 2000, got 2001"),
        ({"start": -1}, "ticks -1 to 20 are not inside the source's 20"),
        ({"start": 20}, "ticks 20 to 20 are not inside"),
        ({"start": 5, "ticks": 16}, "ticks 5 to 21 are not inside"),
        ({"ticks": 0}, "ticks 0 to 0 are not inside"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(how, message):
    stream = SpikeStream(pack_ticks(np.zeros((20, 2, 2), np.uint8)), 20, 1.0)
    with pytest.raises(ValueError, match=message):
        reconstruct_frames(stream, "tfi", **how)


def test_a_long_source_is_streamed():
    """Pictures come before the source has been read to its end."""
    plane_ghw = np.full((4, 2, 2), 0b01010101, np.uint8)

    class Endless(Blocks):
        def blocks(self):
            return itertools.repeat(plane_ghw)

    source = Endless(SpikeStream(plane_ghw, 32, 1.0), 4)
    source.ticks = 32 * 10**6
    frames = reconstruct_frames(source, "tfi", step_ticks=10**5)
    for _, rate_hw in itertools.islice(frames, 3):
        assert (rate_hw == 0.5).all()
