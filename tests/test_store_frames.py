"""A frame gives exactly the bytes wanted, or nothing; chunks are cut anew without a bit changed."""

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from spikedata.clip import Clip
from spikedata.clips import StoredClip
from spikedata.clips.frames import ClipFrames, decompress_exactly
from spikedata.clips.rules import RuleBrokenError

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


def frames_of(packed_ghw, chunk_groups):
    """A clip of compressed frames, ``chunk_groups`` in each."""
    groups, height, width = packed_ghw.shape
    stored = StoredClip(
        clip=Clip(id="c"),
        ticks=8 * groups,
        height_px=height,
        width_px=width,
        tick_rate_hz=1.0,
        bits_sha256="",
        spikes=None,
    )
    chunks = np.split(packed_ghw, range(chunk_groups, groups, chunk_groups))
    coded = [zstandard.compress(chunk.transpose(1, 2, 0).tobytes()) for chunk in chunks]
    return ClipFrames(stored, 8 * chunk_groups, coded)


@given(chunk=st.integers(1, 25), block=st.integers(1, 30))
def test_chunks_are_cut_anew_into_blocks(chunk, block):
    packed = np.arange(20 * 6, dtype=np.uint8).reshape(20, 2, 3)
    blocks = list(frames_of(packed, chunk).blocks(block))
    assert np.array_equal(np.concatenate(blocks), packed)
    assert [len(part) for part in blocks[:-1]] == [block] * (len(blocks) - 1)
    assert 1 <= len(blocks[-1]) <= block


@given(chunk=st.integers(1, 25), bounds=st.tuples(st.integers(0, 19), st.integers(1, 20)))
def test_any_groups_are_read_alone(chunk, bounds):
    first, end = min(bounds), max(bounds[1], min(bounds) + 1)
    packed = np.arange(20 * 6, dtype=np.uint8).reshape(20, 2, 3)
    assert np.array_equal(frames_of(packed, chunk).groups(first, end), packed[first:end])
