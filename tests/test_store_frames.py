"""A frame gives exactly the bytes wanted, or nothing; chunks are cut anew without a bit changed."""

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from spikedata.clips.frames import decompress_exactly, in_blocks
from spikedata.clips.store.layout import RuleBrokenError

# A frame of the one byte "x" whose header states 1 TiB (RFC 8878, section 3.1.1).
STATES_1_TIB = b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + b"\x09\x00\x00x"


def without_size(data: bytes) -> bytes:
    """A frame that does not state its size, as a stream's writer leaves it."""
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


@pytest.mark.parametrize("compress", [zstandard.compress, without_size])
def test_a_frame_of_the_size_wanted_is_decompressed(compress):
    data = bytes(range(256)) * 9
    for coded in (compress(data), memoryview(compress(data))):
        assert decompress_exactly(coded, len(data)) == data


@pytest.mark.parametrize(
    ("coded", "message"),
    [
        (STATES_1_TIB, "holds 1,099,511,627,776 bytes, expected 100"),
        (zstandard.compress(bytes(99)), "holds 99 bytes, expected 100"),
        (without_size(bytes(99)), "holds 99 bytes, expected 100"),
        (zstandard.compress(bytes(101)), "holds 101 bytes, expected 100"),
        (without_size(bytes(101)), "is damaged"),
        (zstandard.compress(bytes(100))[:-1], "is damaged"),
        (b"", "is damaged"),
        (None, "is damaged"),
    ],
)
def test_any_other_frame_is_refused(coded, message):
    with pytest.raises(RuleBrokenError, match=message) as caught:
        decompress_exactly(coded, 100)
    assert caught.value.code == "chunk_damaged"


@given(cuts=st.lists(st.integers(0, 20), max_size=5), block=st.integers(1, 30))
def test_chunks_are_cut_anew_into_blocks(cuts, block):
    packed = np.arange(20, dtype=np.uint8).reshape(20, 1, 1)
    blocks = list(in_blocks(np.split(packed, sorted(cuts)), 8 * block))
    assert np.array_equal(np.concatenate(blocks), packed)
    assert [len(part) for part in blocks[:-1]] == [block] * (len(blocks) - 1)
    assert 1 <= len(blocks[-1]) <= block


@pytest.mark.parametrize("ticks", [0, -8, 12])
def test_a_block_is_whole_groups(ticks):
    with pytest.raises(ValueError, match="positive multiple of 8"):
        list(in_blocks([], ticks))
