"""Inter-spike intervals against counting by hand; other statistics are in test_compare.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.analysis.scanning import scan
from spikedata.analysis.stats import profile
from spikedata.analysis.trains import count_intervals
from spikedata.bits import pack_ticks
from spikedata.stream import SpikeStream


def stream_of(*trains):
    """One row of pixels from strings of 0 and 1."""
    planes_thw = np.array([[int(bit) for bit in train] for train in trains]).T[:, None, :]
    return SpikeStream(pack_ticks(planes_thw), len(planes_thw), 20_000.0)


def test_intervals_worked_by_hand():
    # First train: spikes at ticks 1, 2, 5 and 9: intervals 1, 3 and 4. Second: one spike, none.
    stream = stream_of("0110010001", "0000100000")
    assert count_intervals(stream, longest=5).tolist() == [0, 1, 0, 1, 1, 0]
    assert count_intervals(stream, longest=3).tolist() == [0, 1, 0, 2]
    assert profile(scan(stream)).isi_mean == pytest.approx(8 / 3)


def test_no_interval_has_no_mean():
    assert np.isnan(profile(scan(stream_of("0100", "0000"))).isi_mean)


@given(st.integers(1, 40), st.integers(0, 2**32))
def test_intervals_are_the_steps_between_a_pixel_s_spikes(ticks, seed):
    planes_thw = np.random.default_rng(seed).random((ticks, 2, 3)) < 0.4
    want = np.zeros(21, int)
    for train_t in planes_thw.reshape(ticks, -1).T:
        for length in np.diff(np.flatnonzero(train_t)):
            want[min(length, 20)] += 1
    stream = SpikeStream(pack_ticks(planes_thw), ticks, 20_000.0)
    assert count_intervals(stream, longest=20).tolist() == want.tolist()
    if ticks > 1:
        counted_l = scan(stream, longest=20).length_ckl.sum(axis=(0, 1))
        assert counted_l.tolist() == want.tolist()


def test_a_longest_interval_of_none_is_refused():
    with pytest.raises(ValueError, match="longest must be at least 1, got 0"):
        count_intervals(stream_of("01"), longest=0)
