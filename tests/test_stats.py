"""Firing rates and inter-spike intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.stats import Intervals, count_intervals, mean_rate
from spikedata.stream import group_count, pack_ticks


def packed(*trains):
    return pack_ticks(np.array([[int(bit) for bit in train] for train in trains]).T[:, None, :])


def test_intervals_worked_by_hand():
    # First train: spikes at ticks 1, 2, 5 and 9: intervals 1, 3 and 4. Second: one spike, none.
    packed_ghw = packed("0110010001", "0000100000")
    found = count_intervals([packed_ghw], 10, longest=5)
    assert found.count_l.tolist() == [0, 1, 0, 1, 1, 0]
    assert found.total == 3
    assert found.mean_ticks == pytest.approx(8 / 3)
    assert count_intervals([packed_ghw], 10, longest=3).count_l.tolist() == [0, 1, 0, 2]
    assert (found + found).count_l.tolist() == [0, 2, 0, 2, 2, 0]


def test_no_interval_has_no_mean():
    assert np.isnan(Intervals(np.zeros(4, np.int64)).mean_ticks)


def test_mean_rate_worked_by_hand():
    assert mean_rate([packed("0110010001", "0000100000")], 10).tolist() == [[0.4, 0.1]]


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 2**32))
def test_cutting_into_blocks_changes_nothing(ticks, cut, seed):
    planes_thw = np.random.default_rng(seed).random((ticks, 2, 3)) < 0.4
    packed_ghw = pack_ticks(planes_thw)
    blocks = [packed_ghw[:cut], packed_ghw[cut:]]
    want = np.zeros(21, int)
    for y in range(2):
        for x in range(3):
            for length in np.diff(np.flatnonzero(planes_thw[:, y, x])):
                want[min(length, 20)] += 1
    assert count_intervals(blocks, ticks, longest=20).count_l.tolist() == want.tolist()
    np.testing.assert_allclose(mean_rate(blocks, ticks), planes_thw.mean(axis=0))


@pytest.mark.parametrize("ticks", [0, 8, 17])
def test_blocks_of_another_length_are_refused(ticks):
    blocks = [np.zeros((2, 3, 3), np.uint8)]
    assert group_count(16) == 2
    with pytest.raises(ValueError, match=f"{ticks} ticks need"):
        count_intervals(blocks, ticks)
    with pytest.raises(ValueError, match=f"{ticks} ticks need"):
        mean_rate(blocks, ticks)
