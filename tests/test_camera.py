"""Camera files: every layout against planes built pixel by pixel, wrong files, round trips."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.bits import pack_ticks
from spikedata.camera import CAMERAS, Camera, find_camera, read_recording, write_recording
from spikedata.errors import RecordingError

GOLDEN = Path(__file__).parent / "golden"


def random_planes(seed: int, ticks: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (ticks, height, width), np.uint8)


def naive_bytes(planes_thw: np.ndarray, camera: Camera, flip: bool) -> bytes:
    """File bytes of a ``planes`` layout, one pixel after the other."""
    ticks, height, width = planes_thw.shape
    out = bytearray(ticks * camera.plane_bytes)
    for tick in range(ticks):
        for row in range(height):
            stored = height - 1 - row if flip else row
            for column in range(width):
                if camera.row_bytes is None:
                    bit = stored * width + column
                else:
                    bit = stored * camera.row_bytes * 8 + column
                place = bit % 8 if camera.bit_order == "little" else 7 - bit % 8
                out[tick * camera.plane_bytes + bit // 8] |= planes_thw[tick, row, column] << place
    return bytes(out)


@given(
    ticks=st.integers(1, 40),
    height=st.integers(1, 9),
    width=st.integers(1, 40),
    spare=st.one_of(st.none(), st.integers(0, 3)),
    bit_order=st.sampled_from(["little", "big"]),
    flip=st.booleans(),
    block=st.sampled_from([8, 16, 64, None]),
)
def test_any_layout_decodes_to_the_pixels_it_was_built_from(
    tmp_path_factory, ticks, height, width, spare, bit_order, flip, block
):
    camera = Camera(
        name="odd",
        description="",
        height_px=height,
        width_px=width,
        bit_order=bit_order,
        row_bytes=None if spare is None else -(-width // 8) + spare,
    )
    planes_thw = random_planes(ticks * width, ticks, height, width)
    path = tmp_path_factory.mktemp("dat") / "clip.dat"
    path.write_bytes(naive_bytes(planes_thw, camera, flip))

    recording = read_recording(path, camera, flip=flip)
    blocks = list(recording.blocks(block))

    assert recording.ticks == ticks
    assert np.array_equal(np.concatenate(blocks), pack_ticks(planes_thw))
    copy = path.with_name("copy.dat")
    write_recording(copy, blocks, camera, ticks=ticks, flip=flip)
    assert copy.read_bytes() == path.read_bytes()


def sps100_bytes(planes_thw: np.ndarray) -> bytes:
    """Frames with row markers, written half-row by half-row."""
    out = bytearray()
    for plane_hw in planes_thw:
        for row in range(1000):
            line = 500 - row if row < 500 else row - 499
            for half in range(2):
                bits = np.zeros(512, np.uint8)
                bits[:500] = plane_hw[row, half * 500 : half * 500 + 500]
                packed = np.packbits(bits, bitorder="little")
                marker = (half if row < 500 else 2 + half) << 14 | line << 4
                packed[62] |= marker & 0xF0
                packed[63] = marker >> 8
                out += packed.tobytes()
    return bytes(out)


@pytest.fixture(scope="module")
def sps100() -> tuple[np.ndarray, bytes]:
    planes_thw = random_planes(1, 3, 1000, 1000)
    return planes_thw, sps100_bytes(planes_thw)


@pytest.mark.parametrize("cut", [0, 64, 63_999, 100_001])
def test_sps100_begins_at_its_first_whole_frame(tmp_path, sps100, cut):
    planes_thw, data = sps100
    path = tmp_path / "clip.dat"
    path.write_bytes(data[cut:])
    recording = read_recording(path, "sps100")
    whole = planes_thw[1 if cut else 0 :]
    assert recording.ticks == len(whole)
    assert recording.skipped_bytes == len(data) - cut - len(whole) * 128_000
    assert np.array_equal(recording.read().unpack(), whole)


def test_sps100_is_written_with_its_markers(tmp_path, sps100):
    planes_thw, data = sps100
    write_recording(tmp_path / "clip.dat", [pack_ticks(planes_thw)], "sps100", ticks=3)
    assert (tmp_path / "clip.dat").read_bytes() == data


def test_sps100_without_a_whole_template_is_an_error(tmp_path, sps100):
    data = bytearray(sps100[1][:250_000])
    data[127] ^= 0x10  # one marker of 2,000
    (tmp_path / "clip.dat").write_bytes(data)
    with pytest.raises(RecordingError, match="no whole frame of sps100"):
        read_recording(tmp_path / "clip.dat", "sps100")


def test_sps100_file_read_as_another_camera_is_an_error(tmp_path, sps100):
    path = tmp_path / "clip.dat"
    path.write_bytes(sps100[1])
    with pytest.raises(RecordingError, match="use --camera sps100"):
        read_recording(path, Camera(name="x", description="", height_px=1000, width_px=1024))


def test_wrong_size_says_what_was_given_and_expected(tmp_path):
    path = tmp_path / "clip.dat"
    path.write_bytes(bytes(24))
    with pytest.raises(RecordingError) as error:
        read_recording(path, "vidar")
    assert str(error.value) == (
        f"{path}: 24 bytes is not a whole number of 400x250 planes (12,500 bytes each). "
        "Wrong --camera? See `spikedata cameras`."
    )
    path.write_bytes(b"")
    with pytest.raises(RecordingError, match="0 bytes is not"):
        read_recording(path, "vidar")
    with pytest.raises(RecordingError, match=r"none\.dat: cannot be read"):
        read_recording(tmp_path / "none.dat", "vidar")


@pytest.mark.parametrize("name", ["vidarr", "0x10", "10x", "1920X1080"])
def test_unknown_camera_lists_those_there_are(name):
    with pytest.raises(RecordingError, match="vidar, vidar-raw"):
        find_camera(name)


def test_a_camera_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="do not fit in 2 bytes"):
        Camera(name="x", description="", height_px=2, width_px=17, row_bytes=2)
    with pytest.raises(ValueError, match="must be positive"):
        Camera(name="x", description="", height_px=0, width_px=8)


def test_a_file_that_shrinks_while_read_is_an_error(tmp_path):
    path = tmp_path / "clip.dat"
    path.write_bytes(bytes(8 * 200))
    recording = read_recording(path, "8x8")
    path.write_bytes(bytes(100))
    with pytest.raises(RecordingError, match="ended before tick"):
        recording.read()


def test_writing_checks_ticks_and_leaves_nothing_half_done(tmp_path):
    path = tmp_path / "clip.dat"
    with pytest.raises(ValueError, match="hold 8 ticks, expected 9"):
        write_recording(path, [np.zeros((1, 8, 8), np.uint8)], "8x8", ticks=9)
    with pytest.raises(ValueError, match="more than 8 ticks"):
        write_recording(path, [np.zeros((2, 8, 8), np.uint8)], "8x8", ticks=8)
    with pytest.raises(ValueError, match="takes uint8 blocks"):
        write_recording(path, [np.zeros((1, 8, 9), np.uint8)], "8x8", ticks=8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("camera", "key", "axes"), [("uhsr", "spk", (0, 1, 2)), ("npz-hwt", "arr_0", (1, 2, 0))]
)
@pytest.mark.parametrize("flip", [False, True])
def test_npz_recordings(tmp_path, camera, key, axes, flip):
    planes_thw = random_planes(2, 21, 18, 7)
    arrays = {key: planes_thw.transpose(axes).copy(), "label": 3, "label_name": "kite.jpg"}
    np.savez_compressed(tmp_path / "clip.npz", **arrays)
    recording = read_recording(tmp_path / "clip.npz", camera, flip=flip)
    want_thw = planes_thw[:, ::-1] if flip else planes_thw
    assert (recording.ticks, recording.height_px, recording.width_px) == (21, 18, 7)
    assert recording.label == "3"
    assert np.array_equal(np.concatenate(list(recording.blocks(8))), pack_ticks(want_thw))


def test_npz_that_is_no_recording_is_an_error(tmp_path):
    path = tmp_path / "clip.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(RecordingError, match="not a uhsr recording"):
        read_recording(path, "uhsr")
    np.savez(path, other=np.zeros(3))
    with pytest.raises(RecordingError, match="no array spk inside"):
        read_recording(path, "uhsr")
    np.savez(path, spk=np.zeros((2, 2)))
    with pytest.raises(RecordingError, match="expected C-ordered zeros and ones of three axes"):
        read_recording(path, "uhsr")
    np.savez(path, spk=np.full((2, 2, 2), 7, np.uint8))
    with pytest.raises(RecordingError, match="values up to 7"):
        read_recording(path, "uhsr").read()


def test_npz_cut_short_is_an_error(tmp_path):
    path = tmp_path / "clip.npz"
    header = np.lib.format.header_data_from_array_1_0(np.zeros((4, 2, 2), np.uint8))
    with zipfile.ZipFile(path, "w") as archive, archive.open("spk.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header)
        member.write(bytes(9))
    with pytest.raises(RecordingError, match="cannot reshape"):
        read_recording(path, "uhsr").read()


@pytest.mark.parametrize("name", ["vidar", "vidar-raw", "easy2spike", "sps100"])
def test_golden_files_show_an_upright_staircase(name):
    """Tick t of each golden file lights row r up to column (r + 1) * (t + 1), rows from the top."""
    recording = read_recording(GOLDEN / f"{name}.dat", name)
    height, width = CAMERAS[name].height_px, CAMERAS[name].width_px
    row, column = np.arange(height)[:, None], np.arange(width)[None]
    want_thw = np.stack([column < (row + 1) * (tick + 1) for tick in range(recording.ticks)])
    assert recording.ticks == 2
    assert np.array_equal(recording.read().unpack(), want_thw)


def test_the_real_car_is_upright_and_bright(shared_data):
    path = shared_data / "recordings" / "car_250x400.dat"
    stream = read_recording(path, "vidar").read()
    raw = np.unpackbits(np.fromfile(path, np.uint8), bitorder="little").reshape(200, 250, 400)
    assert np.array_equal(stream.unpack(), raw[:, ::-1])
    assert round(float(stream.unpack().mean()), 3) == 0.366


def test_the_real_npz_recordings(shared_data):
    folder = shared_data / "recordings"
    static = read_recording(folder / "static_scene_250x400x500.npz", "npz-hwt").read()
    assert (static.ticks, static.height_px, static.width_px) == (500, 250, 400)
    assert round(float(static.unpack().mean()), 3) == 0.220
    uhsr = read_recording(folder / "uhsr_sample.npz", "uhsr")
    assert (uhsr.ticks, uhsr.label) == (200, "47")
