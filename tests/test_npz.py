"""NumPy archives: what NumPy reads is read alike, and nothing hostile takes memory or a parser."""

import math
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.analysis.calibrate import load_calibration
from spikedata.bits import pack_ticks
from spikedata.camera import read_recording
from spikedata.errors import RecipeError, RecordingError, SpikeDataError
from spikedata.npz import Npz
from spikedata.simulator import SensorMaps


def array_bytes(header, data=b"", *, version=1, length=None):
    """A ``.npy`` file with any header."""
    text = header.encode() if isinstance(header, str) else header
    size = len(text) if length is None else length
    stated = struct.pack("<H", size) if version == 1 else struct.pack("<I", size)
    return b"\x93NUMPY" + bytes([version, 0]) + stated + text + data


def header_of(shape, descr="|u1"):
    return repr({"descr": descr, "fortran_order": False, "shape": shape}) + "\n"


def archive_of(path, members, method=zipfile.ZIP_DEFLATED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name given twice
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in members:
                archive.writestr(f"{name}.npy", data)
    return path


def patched(path, at, value, *, directory=True):
    """Overwrite bytes of the only member's entry in the directory, or of its local header."""
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02") if directory else 0
    data[start + at : start + at + len(value)] = value
    path.write_bytes(data)
    return path


@given(
    shape=st.lists(st.integers(0, 5), max_size=4).map(tuple),
    descr=st.sampled_from(["|b1", "|u1", "<i4", ">i2", "<f8", "<c16", "<U3", "|S2"]),
    order=st.sampled_from("CF"),
    packed=st.booleans(),
    data=st.data(),
)
def test_arrays_are_read_as_numpy_reads_them(tmp_path_factory, shape, descr, order, packed, data):
    size = math.prod(shape) * np.dtype(descr).itemsize
    raw = data.draw(st.binary(min_size=size, max_size=size)) if descr != "<U3" else bytes(size)
    raw = bytes(b & 1 for b in raw) if descr == "|b1" else raw
    array = np.frombuffer(raw, descr).reshape(shape) if size else np.zeros(shape, descr)
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    (np.savez_compressed if packed else np.savez)(path, other=3, x=np.array(array, order=order))
    with Npz(path) as archive:
        assert archive.names == ("other", "x")
        if descr == "<c16":
            with pytest.raises(SpikeDataError, match="header that is not understood"):
                archive.read("x")
            return
        found = archive.read("x")
    with np.load(path) as loaded:
        assert (found.dtype, found.shape) == (loaded["x"].dtype, loaded["x"].shape)
        assert found.tobytes() == loaded["x"].tobytes()


def test_values_of_two_arrays_may_be_read_in_turn(tmp_path):
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 256, (2, 300_000), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", first=first, second=second)
    with Npz(tmp_path / "a.npz") as archive:
        arrays = archive.open("first"), archive.open("second")
        pieces = [[array.values(100_000) for array in arrays] for _ in range(3)]
    assert np.array_equal(np.concatenate([one for one, _ in pieces]), first)
    assert np.array_equal(np.concatenate([two for _, two in pieces]), second)


HEADERS = {
    "object": header_of((1,), "|O"),
    "structured": "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}",
    "open bracket": "{'descr': '|u1', 'fortran_order': False, 'shape': (1,",
    "open string": "{'descr': '|u1",
    "code": "{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (1,)}",
    "nested": "(" * 4000,
    "minus": "-" * 4000 + "1",
    "spaces": "{'shape': (" + " " * 4000,
    "numbers": "{'shape': (" + "1," * 2000,
    "long number": "{'shape': (" + "1" * 4000 + "), 'descr': '|u1', 'fortran_order': False}",
    "negative": header_of((-1,)),
    "no shape": "{'descr': '|u1', 'fortran_order': False}",
    "more": "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), 'x': 1}",
    "after": header_of((1,)).strip() + " + 1",
    "axes": header_of((1,) * 33),
    "null": b"{'descr': '|u1\0', 'fortran_order': False, 'shape': (1,)}",
    "latin": b"\xff" * 100,
    "empty": "",
}


@pytest.mark.parametrize("name", HEADERS)
def test_an_odd_header_is_one_line(tmp_path, name):
    path = archive_of(tmp_path / "x.npz", [("spk", array_bytes(HEADERS[name], b"\1"))])
    with Npz(path) as archive, pytest.raises(SpikeDataError) as caught:
        archive.open("spk")
    assert str(caught.value).startswith("array spk: has a header that is not understood: ")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


GOOD = array_bytes(header_of((4, 100)), bytes(400))
HOSTILE = {
    "long header": (
        lambda path: archive_of(path, [("a", array_bytes("", version=2, length=0xFFFFFFFF))]),
        "has a header of 4,294,967,295 bytes, more than 4,096",
    ),
    "version": (
        lambda path: archive_of(path, [("a", array_bytes("", version=9))]),
        "is no .npy array of version 1 to 3",
    ),
    "no values": (
        lambda path: archive_of(path, [("a", array_bytes(header_of((10**17,)), b"x"))]),
        r"cannot reshape 1 bytes to uint8 \(100000000000000000,\)",
    ),
    "product": (
        lambda path: archive_of(path, [("a", array_bytes(header_of((10**17,) * 8)))]),
        "cannot reshape 0 bytes",
    ),
    "no type": (
        lambda path: archive_of(path, [("a", array_bytes(header_of((1,), "<u7"), b"x"))]),
        "of no known type '<u7'",
    ),
    "no width": (
        lambda path: archive_of(path, [("a", array_bytes(header_of((10**17,), "<U0")))]),
        "of no known type '<U0'",
    ),
    "longer than said": (
        lambda path: patched(
            archive_of(path, [("a", GOOD + b"x")]), 24, struct.pack("<I", len(GOOD))
        ),
        "is longer than the archive's directory says",
    ),
    "shorter than said": (
        lambda path: patched(
            archive_of(path, [("a", GOOD[:-9])]), 24, struct.pack("<I", len(GOOD))
        ),
        "ends early",
    ),
    "packed shorter": (
        lambda path: patched(archive_of(path, [("a", GOOD)]), 20, struct.pack("<I", 30)),
        "ends early",
    ),
    "checksum": (
        lambda path: patched(archive_of(path, [("a", GOOD)]), 16, b"oops"),
        "has another checksum",
    ),
    "bytes": (
        lambda path: patched(archive_of(path, [("a", GOOD)]), 40, b"oops", directory=False),
        "is damaged: Error -3",
    ),
    "twice": (lambda path: archive_of(path, [("a", GOOD)] * 2), r"holds 'a\.npy' twice"),
    "encrypted": (lambda path: patched(archive_of(path, [("a", GOOD)]), 8, b"\1"), "is encrypted"),
    "bzip2": (
        lambda path: archive_of(path, [("a", GOOD)], zipfile.ZIP_BZIP2),
        "is compressed by method 12, expected deflate",
    ),
    "elsewhere": (
        lambda path: patched(archive_of(path, [("a", GOOD)]), 42, struct.pack("<I", 11)),
        "is not where the archive's directory says",
    ),
    "no archive": (lambda path: path.write_bytes(b"no archive"), "no archive: File is not a zip"),
    "many names": (
        lambda path: archive_of(path, [(f"{n:060}", b"") for n in range(12_000)]),
        "has a directory of 1,3",
    ),
    "absent": (lambda path: None, "cannot be read: No such file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_archive_that_lies_is_one_line(tmp_path, name):
    make, message = HOSTILE[name]
    make(tmp_path / "x.npz")
    with pytest.raises(SpikeDataError, match=message) as caught, Npz(tmp_path / "x.npz") as archive:
        archive.read("a")
    assert "\n" not in str(caught.value)


def test_no_entry_of_any_value_is_a_traceback(tmp_path):
    path = archive_of(tmp_path / "x.npz", [("a", GOOD)])
    good = path.read_bytes()
    told = 0
    for at in range(len(good)):
        for value in (0, 1, 0x7F, 0xFF):
            path.write_bytes(good[:at] + bytes([value]) + good[at + 1 :])
            try:
                with Npz(path) as archive:
                    assert archive.read(archive.names[0] if archive.names else "a").shape
            except SpikeDataError:
                told += 1
    assert told > len(good)


def zeros_in(path, name, shape, descr="|u1"):
    """An archive of an array of zeros, a thousandth of its size."""
    size = math.prod(shape) * np.dtype(descr).itemsize
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("spk.npy", array_bytes(header_of((2, 2, 2)), bytes(8)))
        with archive.open(f"{name}.npy", "w") as member:
            member.write(array_bytes(header_of(shape, descr)))
            for _ in range(size >> 20):
                member.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize(
    ("read", "name", "shape", "descr", "error"),
    [
        (lambda p: read_recording(p, "uhsr"), "written_by", (16 << 20,), "<i4", RecordingError),
        (lambda p: read_recording(p, "uhsr"), "label", (), f"<U{16 << 20}", RecordingError),
        (SensorMaps.load, "version", (64 << 20,), "|u1", RecipeError),
        (load_calibration, "response_hw", (144 << 10, 1 << 10), "|u1", RecordingError),
    ],
)
def test_what_swells_is_refused_by_its_size(tmp_path, read, name, shape, descr, error):
    path = zeros_in(tmp_path / "x.npz", name, shape, descr)
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(error, match=rf"x\.npz: .*array {name}: \d+,\d+,\d+ bytes, expected at"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_what_swells_past_any_recording_is_refused_before_it_is_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr("spikedata.npz._SWOLLEN_BYTES", 2_000_000)
    planes_thw = np.zeros((40, 250, 400), np.uint8)  # 4,000,000 bytes, deflated to a 1,027th
    np.savez_compressed(tmp_path / "x.npz", spk=planes_thw)
    with pytest.raises(
        RecordingError, match=r"spk: 3,\d+ bytes that swell to 4,000,000.* numpy\.savez"
    ):
        read_recording(tmp_path / "x.npz", "uhsr")
    np.savez(tmp_path / "x.npz", spk=planes_thw)
    assert not read_recording(tmp_path / "x.npz", "uhsr").read().packed_ghw.any()
    np.savez_compressed(tmp_path / "x.npz", spk=planes_thw[:20])
    assert not read_recording(tmp_path / "x.npz", "uhsr").read().packed_ghw.any()
    planes_thw[:, ::50, ::50] = 1
    np.savez_compressed(tmp_path / "x.npz", spk=planes_thw)
    assert read_recording(tmp_path / "x.npz", "uhsr").read().spike_count_hw().sum() == 1600


@pytest.mark.parametrize(
    ("camera", "key", "shape"),
    [("npz-hwt", "arr_0", (16, 1, 4 << 20)), ("uhsr", "spk", (64 << 12, 16, 16))],
)
def test_a_long_recording_is_read_in_bounded_memory(tmp_path, camera, key, shape):
    """64 MiB of zeros; all of them packed are 8 MiB."""
    path = tmp_path / "x.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{key}.npy", "w") as member,
    ):
        member.write(array_bytes(header_of(shape)))
        for _ in range(64):
            member.write(bytes(1 << 20))
    recording = read_recording(path, camera)
    tracemalloc.start()
    try:
        groups = sum(len(block_ghw) for block_ghw in recording.blocks())
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert groups * 8 == recording.ticks


@pytest.mark.parametrize(("held", "piece"), [(1, 16), (400, 24), (1 << 20, 1 << 20)])
def test_a_recording_past_what_is_held_is_read_in_several_turns(tmp_path, monkeypatch, held, piece):
    monkeypatch.setattr("spikedata.camera.arrays._MOST_HELD_BYTES", held)
    monkeypatch.setattr("spikedata.camera.arrays.PIECE_BYTES", piece)
    planes_thw = np.random.default_rng(5).integers(0, 2, (77, 3, 5), np.uint8)
    np.savez_compressed(tmp_path / "x.npz", planes_thw.transpose(1, 2, 0).copy())
    np.savez_compressed(tmp_path / "y.npz", spk=planes_thw)
    for name, camera in (("x.npz", "npz-hwt"), ("y.npz", "uhsr")):
        for flip in (False, True):
            recording = read_recording(tmp_path / name, camera, flip=flip)
            packed_ghw = pack_ticks(planes_thw[:, ::-1] if flip else planes_thw)
            assert np.array_equal(np.concatenate(list(recording.blocks(16))), packed_ghw)
            assert np.array_equal(recording.groups(3, 8), packed_ghw[3:8])
            assert np.array_equal(recording.read().packed_ghw, packed_ghw)


def test_planes_past_any_camera_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("spikedata.camera.recording._MOST_PIXELS", 15)
    np.savez(tmp_path / "x.npz", spk=np.zeros((9, 3, 5), np.uint8))
    assert read_recording(tmp_path / "x.npz", "uhsr").ticks == 9
    np.savez(tmp_path / "x.npz", spk=np.zeros((9, 4, 4), np.uint8))
    (tmp_path / "x.dat").write_bytes(bytes(20))
    for name, camera in (("x.npz", "uhsr"), ("x.dat", "4x4")):
        with pytest.raises(RecordingError, match="planes of 4x4 pixels, expected at most 15"):
            read_recording(tmp_path / name, camera)


@pytest.mark.parametrize("label", [b"\xff\xff\xff\xff", b"\0\xd8\0\0"])
def test_a_label_that_is_no_text_is_told(tmp_path, label):
    members = [
        ("spk", array_bytes(header_of((1, 1, 1)), b"\1")),
        ("label", array_bytes(header_of((1,), "<U1"), label)),
    ]
    archive_of(tmp_path / "x.npz", members)
    with pytest.raises(RecordingError, match="array label: is no text"):
        read_recording(tmp_path / "x.npz", "uhsr")
