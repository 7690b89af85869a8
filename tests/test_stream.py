"""Packing: eight ticks to a byte, earliest in the least significant bit."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spikedata.bits import BitsHasher, pack_ticks, slice_ticks, unpack_ticks
from spikedata.stream import SpikeStream

planes = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(0, 33), st.integers(1, 5), st.integers(1, 5)),
    elements=st.integers(0, 1),
)


def test_packing_by_hand():
    # One pixel that fires at ticks 0, 3 and 9: bits 0 and 3 of byte 0, bit 1 of byte 1.
    spikes_thw = np.zeros((10, 1, 1), np.uint8)
    spikes_thw[[0, 3, 9]] = 1
    assert pack_ticks(spikes_thw).ravel().tolist() == [0b0000_1001, 0b0000_0010]


@given(planes)
def test_unpacking_undoes_packing(spikes_thw):
    packed_ghw = pack_ticks(spikes_thw)
    assert packed_ghw.shape == (-(-len(spikes_thw) // 8), *spikes_thw.shape[1:])
    assert np.array_equal(unpack_ticks(packed_ghw, len(spikes_thw)), spikes_thw)


@given(planes, st.data())
def test_a_slice_is_the_planes_packed_again(spikes_thw, data):
    start = data.draw(st.integers(0, len(spikes_thw)))
    ticks = data.draw(st.integers(0, len(spikes_thw) - start))
    cut_ghw = slice_ticks(pack_ticks(spikes_thw), start, ticks)
    assert np.array_equal(cut_ghw, pack_ticks(spikes_thw[start : start + ticks]))


def test_a_slice_never_changes_its_source():
    packed_ghw = np.full((3, 1, 1), 0xFF, np.uint8)
    slice_ticks(packed_ghw, 0, 5)
    slice_ticks(packed_ghw, 3, 9)
    assert (packed_ghw == 0xFF).all()


def test_a_window_outside_is_refused():
    stream = SpikeStream(np.zeros((2, 1, 1), np.uint8), 10, 1000.0)
    with pytest.raises(ValueError, match=r"ticks 5\.\.11 lie outside 10 ticks"):
        stream.window(5, 6)
    with pytest.raises(ValueError, match="lie outside 16 packed ticks"):
        slice_ticks(stream.packed_ghw, 10, 7)


def test_values_that_are_not_bits_are_refused():
    with pytest.raises(ValueError, match="only 0 and 1"):
        pack_ticks(np.full((8, 1, 1), 2, np.uint8))
    with pytest.raises(ValueError, match=r"must be \(T, H, W\)"):
        pack_ticks(np.zeros((8, 1), np.uint8))


def test_a_stream_checks_its_shape():
    with pytest.raises(ValueError, match=r"9 ticks need packed shape \(2, H, W\)"):
        SpikeStream(np.zeros((1, 2, 2), np.uint8), 9, 1000.0)
    with pytest.raises(ValueError, match="must be uint8"):
        SpikeStream(np.zeros((1, 2, 2), np.int16), 8, 1000.0)


@given(planes)
def test_spikes_are_counted_per_pixel(spikes_thw):
    stream = SpikeStream(pack_ticks(spikes_thw), len(spikes_thw), 1000.0)
    assert np.array_equal(stream.spike_count_hw(), spikes_thw.sum(axis=0, dtype=np.int64))


@given(planes, st.integers(0, 5))
def test_the_digest_does_not_depend_on_blocks(spikes_thw, cut):
    packed_ghw = pack_ticks(spikes_thw)
    hasher = BitsHasher()
    hasher.update(packed_ghw[:cut])
    hasher.update(np.asfortranarray(packed_ghw[cut:]))
    assert hasher.hexdigest() == hashlib.sha256(packed_ghw.tobytes()).hexdigest()
