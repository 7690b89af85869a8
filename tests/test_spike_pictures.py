"""Pictures from packed bytes, against unpacking, the pictures of spikedata, and paper."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata.analysis.textures import texture_from_interval
from spikedata.bits import pack_ticks
from spikedata.stream import SpikeStream
from spklip.model import exposures, interval_picture


def packed_windows(*windows: list[str]) -> torch.Tensor:
    """Windows of one row of pixels, each pixel a string of 0 and 1."""
    planes_nthw = [
        np.array([[int(bit) for bit in train] for train in trains]).T[:, None] for trains in windows
    ]
    return torch.from_numpy(np.stack([pack_ticks(planes_thw) for planes_thw in planes_nthw]))


@st.composite
def windows(draw):
    """(planes_nthw, packed_nghw): any number of ticks, from dark to every tick a spike."""
    ticks, seed = draw(st.integers(1, 50)), draw(st.integers(0, 2**32))
    share = draw(st.sampled_from([0.0, 0.02, 0.1, 0.4, 0.9, 1.0]))
    planes_nthw = np.random.default_rng(seed).random((2, ticks, 3, 5)) < share
    packed_nghw = np.stack([pack_ticks(planes_thw) for planes_thw in planes_nthw])
    return planes_nthw, torch.from_numpy(packed_nghw)


def test_exposures_worked_by_hand():
    # Ticks 6 to 9 of the first window's pixels hold 3 and 0 spikes, ticks 1 to 4 hold 1 and 2.
    packed = packed_windows(["01000011010", "00110000001"], ["1" * 11, "0" * 11])
    rate = exposures(packed, 11, [6, 1], 4)
    assert rate.dtype == torch.float32
    assert rate.shape == (2, 2, 1, 2)
    assert rate[0, :, 0].tolist() == [[0.75, 0.0], [0.25, 0.5]]
    assert rate[1, :, 0].tolist() == [[1.0, 0.0], [1.0, 0.0]]


@given(window=windows(), data=st.data())
def test_an_exposure_is_the_mean_of_its_planes(window, data):
    planes_nthw, packed_nghw = window
    ticks = planes_nthw.shape[1]
    length = data.draw(st.integers(1, ticks))
    starts = data.draw(st.lists(st.integers(0, ticks - length), max_size=4))
    rate_nkhw = exposures(packed_nghw, ticks, starts, length)
    assert rate_nkhw.shape == (2, len(starts), 3, 5)
    for k, start in enumerate(starts):
        count_nhw = planes_nthw[:, start : start + length].sum(axis=1)
        want_nhw = count_nhw.astype(np.float32) / np.float32(length)
        assert np.array_equal(rate_nkhw[:, k].numpy(), want_nhw)


def test_intervals_worked_by_hand():
    # Around tick 9: spikes 2 and 17 (15 apart); 9 and 10 (1 apart, a spike at the tick begins its
    # interval); none before; none after.
    trains = [
        "00100000000000000100",
        "00000000011000000000",
        "00000000000100000000",
        "00000000010000000000",
    ]
    rate = interval_picture(packed_windows(trains), 20, 9)
    assert rate.dtype == torch.float32
    assert rate[0, 0].tolist() == pytest.approx([1 / 15, 1.0, 0.0, 0.0])


@given(window=windows(), data=st.data())
def test_an_interval_picture_is_the_one_spikedata_draws(window, data):
    planes_nthw, packed_nghw = window
    ticks = planes_nthw.shape[1]
    tick = data.draw(st.integers(0, ticks - 1))
    rate_nhw = interval_picture(packed_nghw, ticks, tick)
    for rate_hw, packed_ghw in zip(rate_nhw, packed_nghw, strict=True):
        want_hw = texture_from_interval(SpikeStream(packed_ghw.numpy(), ticks, 20_000.0), tick)
        assert np.array_equal(rate_hw.numpy(), want_hw.astype(np.float32))


def test_bits_above_the_last_tick_are_never_counted():
    full = torch.full((1, 2, 1, 1), 255, dtype=torch.uint8)
    assert exposures(full, 10, [7], 3).item() == 1.0
    assert interval_picture(full, 10, 9).item() == 0.0


def test_exposures_and_ticks_outside_the_window_are_refused():
    packed = torch.zeros(1, 2, 3, 3, dtype=torch.uint8)
    for starts, length in (([-1], 3), ([0, 8], 3), ([0], 11), ([0], 0)):
        with pytest.raises(ValueError, match="not in a window of 10"):
            exposures(packed, 10, starts, length)
    for tick in (-1, 10):
        with pytest.raises(ValueError, match=f"tick {tick} is not one of the window's 10"):
            interval_picture(packed, 10, tick)
    with pytest.raises(ValueError, match="17 ticks need 3 groups"):
        exposures(packed, 17, [0], 1)
    with pytest.raises(ValueError, match=r"\(N, G, H, W\)"):
        interval_picture(packed[0], 10, 0)
