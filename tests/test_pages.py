"""Places of values in Parquet: as PyArrow finds them, and nothing from what is not plain."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from spikedata.bits import group_count, pack_ticks, some_to_time_first
from spikedata.clip import Clip
from spikedata.clips.frames import ClipFrames
from spikedata.clips.pages import find_values, read_at
from spikedata.clips.parquet import open_parquet
from spikedata.clips.rules import RuleBrokenError
from spikedata.clips.stored import StoredClip

PLAIN = {"compression": "NONE", "use_dictionary": False, "write_statistics": False}


def written(rows, **options):
    """A file with one column of lists of bytes, and where its pages are."""
    file = io.BytesIO()
    table = pa.table({"bits": pa.array(rows, pa.list_(pa.binary()))})
    pq.write_table(table, file, **PLAIN | options)
    column = pq.read_metadata(file).row_group(0).column(0)
    return file, column.data_page_offset, column.total_compressed_size


def values_at(file, found):
    return [[read_at(file, place) for place in row] for row in found]


@given(
    rows=st.lists(
        st.lists(st.binary(max_size=40), min_size=1, max_size=30), min_size=1, max_size=9
    ),
    page=st.sampled_from([1, 60, 500, 1 << 20]),
    checksum=st.booleans(),
    statistics=st.booleans(),
)
def test_values_lie_where_they_are_found(rows, page, checksum, statistics):
    file, start, size = written(
        rows,
        data_page_size=page,
        write_batch_size=1,
        write_page_checksum=checksum,
        write_statistics=statistics,
    )
    found = find_values(file, start, size, len(rows))
    if not statistics:  # whose text may be long: left to PyArrow
        assert found is not None
    assert found is None or values_at(file, found) == rows


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([[b"a"], None], {}),
        ([[b"a", None]], {}),
        ([[b"a"], []], {}),
        ([[b"a" * 999] * 9], {"compression": "zstd"}),
        ([[b"abc"] * 9], {"use_dictionary": True}),
        ([[b"abc"] * 9], {"data_page_version": "2.0"}),
        ([[b"abc"] * 9], {"column_encoding": {"bits.list.element": "DELTA_LENGTH_BYTE_ARRAY"}}),
    ],
)
def test_what_is_not_plain_is_left_to_pyarrow(rows, options):
    assert find_values(*written(rows, **options), len(rows)) is None


@given(data=st.data())
def test_damaged_pages_give_places_within_the_file_or_none(data):
    rows = [[b"a" * 20, b"b" * 30], [b"c" * 10]]
    file, start, size = written(rows, data_page_size=1, write_batch_size=1)
    whole = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(start, start + size - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        found = find_values(io.BytesIO(damaged), start, size, 2)
        for at, length in (place for row in found or () for place in row):
            assert start <= at <= at + length <= start + size


def row_file(path, source, **options):
    """The rows of a file of ours, written by PyArrow in another way."""
    table = pq.read_table(source)
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize(
    "options",
    [PLAIN, {"compression": "zstd"}, {"use_dictionary": True}, {"data_page_version": "2.0"}],
)
def test_a_file_that_others_wrote_has_the_same_windows(tmp_path, options):
    from spikedata.clips.store import create_store
    from spikedata.pack import pack_clips

    planes = np.random.default_rng(0).random((600, 5, 8)) < 0.3
    with create_store(tmp_path / "s.zarr", recipe={}, class_names=["a"]) as writer:
        for clip_id in ("one", "two"):
            with writer.clip(
                Clip(id=clip_id, label="a"), height_px=5, width_px=8, tick_rate_hz=250
            ) as out:
                out.append(pack_ticks(planes if clip_id == "one" else ~planes))
                out.finish(ticks=600, attributes={})
    pack_clips([tmp_path / "s.zarr"], to="parquet", out=tmp_path / "s.parquet")
    (file,) = (tmp_path / "s.parquet").rglob("*.parquet")
    other = open_parquet(row_file(tmp_path / "other.parquet", file, **options))
    assert np.array_equal(other.read_planes("two", 250, 300), ~planes[250:550])
    assert np.array_equal(other.read_planes("one", 0, 600), planes)


# --- frames -------------------------------------------------------------------------------------


@given(
    groups=st.sampled_from([1, 8, 16, 31, 32, 33, 64]),
    pixels=st.sampled_from([1, 8, 16, 48, 50]),
    data=st.data(),
)
def test_any_groups_of_a_chunk_come_time_first(groups, pixels, data):
    chunk_pg = np.random.default_rng(groups).integers(0, 256, (pixels, groups), np.uint8)
    first = data.draw(st.integers(0, groups))
    end = data.draw(st.integers(first, groups))
    room_gp = np.full((end - first + 2, pixels), 7, np.uint8)
    some_to_time_first(chunk_pg, first, room_gp[1:-1])
    assert np.array_equal(room_gp[1:-1], chunk_pg.T[first:end])
    assert (room_gp[[0, -1]] == 7).all()
    with pytest.raises(ValueError, match="are not among"):
        some_to_time_first(chunk_pg, first, np.empty((groups - first + 1, pixels), np.uint8))
    with pytest.raises(ValueError, match="are not among"):
        some_to_time_first(chunk_pg, 0, np.empty((1, pixels + 1), np.uint8))


def frames_of(planes, chunk_ticks, **options):
    compress = zstandard.ZstdCompressor(**options).compress
    packed_ghw = pack_ticks(planes)
    step = chunk_ticks // 8
    return [
        compress(np.ascontiguousarray(packed_ghw[g : g + step].transpose(1, 2, 0)).tobytes())
        for g in range(0, len(packed_ghw), step)
    ]


def stored_of(planes):
    ticks, height, width = planes.shape
    return StoredClip(
        clip=Clip(id="x"),
        ticks=ticks,
        height_px=height,
        width_px=width,
        tick_rate_hz=250.0,
        bits_sha256="",
        spikes=None,
    )


@given(
    ticks=st.integers(1, 900),
    chunk_ticks=st.sampled_from([8, 64, 256]),
    sized=st.booleans(),
    data=st.data(),
)
def test_any_groups_of_a_clip_come_from_its_frames(ticks, chunk_ticks, sized, data):
    planes = np.random.default_rng(ticks).random((ticks, 4, 8)) < 0.3
    frames = frames_of(planes, chunk_ticks, write_content_size=sized, write_checksum=True)
    opened = ClipFrames(stored_of(planes), chunk_ticks, frames)
    first = data.draw(st.integers(0, group_count(ticks) - 1))
    end = data.draw(st.integers(first + 1, group_count(ticks)))
    groups_ghw = opened.groups(first, end)
    assert groups_ghw.flags.c_contiguous
    assert np.array_equal(groups_ghw, pack_ticks(planes)[first:end])
    again_ghw = opened.groups(first, end)  # kept memory is not what was given
    assert np.array_equal(groups_ghw, again_ghw)


def test_a_frame_with_a_wrong_checksum_or_length_is_refused():
    planes = np.random.default_rng(0).random((256, 4, 8)) < 0.3
    (frame,) = frames_of(planes, 256, write_checksum=True)
    for damaged in (frame[:-1] + bytes([frame[-1] ^ 1]), frame[:-5], frame[:9], b""):
        with pytest.raises(RuleBrokenError, match="chunk 0 is damaged|chunk 0 holds"):
            ClipFrames(stored_of(planes), 256, [damaged]).groups(3, 5)
