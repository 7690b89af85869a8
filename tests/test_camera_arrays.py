"""Recordings that are arrays: every container, order of axes and type gives the bits put in."""

import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.bits import pack_ticks
from spikedata.camera import find_camera, open_recording
from spikedata.clips import open_clips
from spikedata.errors import RecordingError, SpikeDataError

TYPES = ["u1", "?", "i1", "<i2", ">i4", "<u8", "<f2", "<f4", ">f8"]


def planes_of(seed: int, ticks: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (ticks, height, width), np.uint8)


def write_array(path: Path, array: np.ndarray, *, name: str = "raw_spike", **how) -> Path:
    """One array in the container that the suffix says."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        (np.savez_compressed if how.get("packed") else np.savez)(path, **{name: array})
    else:
        with h5py.File(path, "w") as file:
            chunks = {"compression": "gzip", "chunks": True} if how.get("packed") else {}
            file.create_dataset(name, data=array, **chunks)
    return path


@given(
    suffix=st.sampled_from([".npy", ".npz", ".npz", ".npy"]),
    order=st.sampled_from(["thw", "hwt"]),
    dtype=st.sampled_from(TYPES),
    size=st.tuples(st.integers(1, 70), st.integers(1, 6), st.integers(1, 9)),
    packed=st.booleans(),
    flip=st.booleans(),
    data=st.data(),
)
def test_any_array_gives_the_bits_put_in(
    tmp_path_factory, suffix, order, dtype, size, packed, flip, data
):
    ticks, _, _ = size
    planes_thw = planes_of(ticks, *size)
    array = planes_thw if order == "thw" else planes_thw.transpose(1, 2, 0)
    path = tmp_path_factory.mktemp("array") / f"a{suffix}"
    write_array(path, np.ascontiguousarray(array).astype(dtype), packed=packed)

    recording = open_recording(path, order, flip=flip)

    want_thw = planes_thw[:, ::-1] if flip else planes_thw
    assert recording.shape == size
    assert np.array_equal(recording.read().unpack(), want_thw)
    assert np.array_equal(np.concatenate(list(recording.blocks(16))), pack_ticks(want_thw))
    start = data.draw(st.integers(0, ticks - 1))
    count = data.draw(st.integers(1, ticks - start))
    assert np.array_equal(
        recording.read(start, count).packed_ghw, pack_ticks(want_thw[start : start + count])
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["thw", "hwt"])
@pytest.mark.parametrize("dtype", ["u1", "?", ">f4"])
def test_hdf5_of_another_program(tmp_path, packed, order, dtype):
    planes_thw = planes_of(3, 45, 6, 10)
    array = planes_thw if order == "thw" else planes_thw.transpose(1, 2, 0)
    path = write_array(tmp_path / "a.h5", array.astype(dtype), packed=packed)
    recording = open_recording(path, order)
    assert recording.shape == (45, 6, 10)
    assert np.array_equal(recording.read().unpack(), planes_thw)
    assert np.array_equal(recording.read(9, 30).unpack(), planes_thw[9:39])
    assert np.array_equal(np.concatenate(list(recording.blocks(16))), pack_ticks(planes_thw))


def test_raw_spike_tells_itself_and_any_other_data_set_is_named(tmp_path):
    planes_thw = planes_of(4, 21, 6, 10)
    path = write_array(tmp_path / "a.h5", planes_thw)
    assert np.array_equal(open_recording(path).read().unpack(), planes_thw)
    source = open_clips(path)
    assert list(source.clips) == ["a"]
    assert np.array_equal(source.read("a").unpack(), planes_thw)
    with h5py.File(path, "w") as file:
        file["run/left"], file["run/right"] = planes_thw, 1 - planes_thw
    with pytest.raises(RecordingError, match="no file tells its camera"):
        open_recording(path)
    with pytest.raises(RecordingError, match=r"holds 2 arrays; name one.*run/left, run/right"):
        open_recording(path, "thw")
    assert np.array_equal(open_recording(path, "thw:run/right").read().unpack(), 1 - planes_thw)
    with pytest.raises(RecordingError, match="no array middle"):
        open_recording(path, "thw:middle")


def test_rsir_holds_eight_ticks_a_byte_and_says_how_many(tmp_path):
    planes_thw = planes_of(5, 21, 6, 10)
    seq = np.zeros((3, 6, 10), np.uint8)
    for tick in range(21):
        seq[tick // 8] |= planes_thw[tick] << (tick & 7)
    truth = np.zeros((6, 10), np.uint8)
    np.savez(tmp_path / "a.npz", seq=seq | np.uint8(0), tag=truth, length=np.int64(21))
    recording = open_recording(tmp_path / "a.npz")
    assert (recording.camera.name, recording.shape) == ("rsir", (21, 6, 10))
    assert np.array_equal(recording.read().unpack(), planes_thw)
    assert np.array_equal(recording.read(3, 10).unpack(), planes_thw[3:13])
    seq[-1] |= 0x80  # of a tick that is past the last
    np.savez(tmp_path / "a.npz", seq=seq, length=21)
    assert np.array_equal(open_recording(tmp_path / "a.npz").read().unpack(), planes_thw)
    assert np.array_equal(
        np.concatenate(list(open_recording(tmp_path / "a.npz").blocks(8))), pack_ticks(planes_thw)
    )
    for length in (16, 25, -1, 2.5):
        np.savez(tmp_path / "a.npz", seq=seq, length=length)
        with pytest.raises(RecordingError, match="array length: says .*, expected 17 to 24"):
            open_recording(tmp_path / "a.npz", "rsir")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
@pytest.mark.parametrize("value", [2.0, 0.5, np.nan, -1.0])
def test_values_that_are_no_spikes_are_refused(tmp_path, suffix, value):
    array = np.zeros((9, 4, 5), np.float32)
    array[7, 2, 2] = value
    path = write_array(tmp_path / f"a{suffix}", array)
    with pytest.raises(RecordingError, match=rf"^{path}: .*holds {value}, expected 0 and 1$"):
        open_recording(path, "thw").read()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
@pytest.mark.parametrize(
    "array", [np.zeros((3, 4)), np.zeros((0, 4, 4)), np.zeros((2, 2, 2), complex), np.zeros(1)]
)
def test_arrays_that_are_no_recordings_are_refused(tmp_path, suffix, array):
    path = write_array(tmp_path / f"a{suffix}", array)
    with pytest.raises(RecordingError, match=rf"^{path}: not a thw recording: "):
        open_recording(path, "thw")


@pytest.mark.parametrize("keep", [0, 5, 40, 127, 200])
def test_a_npy_file_cut_short_is_told_on_opening(tmp_path, keep):
    path = write_array(tmp_path / "a.npy", planes_of(6, 40, 4, 5))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SpikeDataError, match=rf"^{path}: [^/]*$"):
        open_recording(path, "thw")


def test_a_dat_that_is_an_array_and_an_array_that_is_none_are_told(tmp_path):
    (tmp_path / "a.npz").write_bytes(bytes(1250))
    with pytest.raises(RecordingError, match=r"is no \.npz, \.npy or HDF5 file"):
        open_recording(tmp_path / "a.npz", "thw")
    np.savez(tmp_path / "a.npz", other=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "b.npz", "w"):
        pass
    for name in ("a.npz", "b.npz"):
        with pytest.raises(RecordingError):
            open_recording(tmp_path / name)


def test_what_we_packed_is_no_recording(tmp_path, monkeypatch):
    from spikedata.pack import pack_clips

    monkeypatch.chdir(tmp_path)
    Path("rec").mkdir()
    np.save("rec/a.npy", planes_of(7, 20, 6, 8))
    pack_clips(["rec"], camera="thw", to="hdf5", out="rec/packed.h5")
    source = open_clips("rec", camera="thw")
    assert list(source.clips) == ["a"]
    assert source.left_out == ()
    assert source.notes == (
        "rec/packed.h5: holds clips that spikedata packed, and is no recording",
    )
    with pytest.raises(SpikeDataError, match="is no recording"):
        open_recording("rec/packed.h5", "thw")


def test_the_names_of_arrays_and_of_bottom_up_planes():
    assert find_camera("hwt:a/b").array == "a/b"
    assert find_camera("hwt:a/b").layout == "hwt"
    assert find_camera("12x17:bottom-up").bottom_up
    assert not find_camera("12x17").bottom_up
    assert find_camera("12x17").bit_order == "little"
    assert find_camera("12x17-msb").bit_order == "big"
    assert find_camera("12x17-msb:bottom-up").bottom_up
    for name in ("thw:", "12x17:up", "12x17:bottom-up-msb", "uhsr:spk", "bottom-up"):
        with pytest.raises(RecordingError, match="unknown camera"):
            find_camera(name)
