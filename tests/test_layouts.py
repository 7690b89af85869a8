"""The layout of a camera file, ranked by its content: the right one first, no false claim."""

import contextlib
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikedata import (
    CAMERAS,
    NoiseConfig,
    SensorConfig,
    SpikeDataError,
    better_layout,
    dots_of,
    draw_layouts,
    open_clips,
    open_recording,
    open_video,
    pack_clips,
    rank_layouts,
    simulate,
    write_recording,
)
from spikedata.camera import Camera, find_camera
from spikedata.corpora.shapes import draw_clip, draw_ground
from spikedata.errors import RecordingError
from spikedata.layouts.candidates import key_of, known_cameras, plain_camera
from spikedata.layouts.evidence import Stretch, neighbours

LAYOUTS = [
    *(CAMERAS[name] for name in ("vidar", "vidar-raw", "easy2spike", "sps100")),
    *(plain_camera(*size, "little") for size in ((240, 320), (500, 800), (250, 250), (400, 250))),
    *(plain_camera(*size, "little") for size in ((123, 217), (96, 160), (480, 640))),
    *(plain_camera(*size, "big") for size in ((240, 320), (250, 250), (500, 800))),
]


def spikes_of(luma_nhw, ticks, threshold, *, ticks_per_frame=10, noise=None):
    """Packed spikes of frames, uint8 (G, H, W), cut to whole groups that hold ``ticks``."""
    sensor = SensorConfig(
        threshold=threshold, ticks_per_frame=ticks_per_frame, seed=ticks, noise=noise
    )
    frames = np.ascontiguousarray(luma_nhw[: -(-ticks // ticks_per_frame)])
    packed = np.concatenate(list(simulate([frames], sensor, clip_id="film")))
    return packed[: -(-ticks // 8)]


def drawn(camera, seed, frames=5):
    rng = np.random.default_rng(seed)
    ground_hw = draw_ground(rng, camera.size)
    shape, motion = ("square", "circle", "triangle")[seed % 3], ("left", "down")[seed % 2]
    return draw_clip(rng, ground_hw, shape=shape, motion=motion, frames=frames)


@functools.cache
def filmed(path, camera, frames=10):
    """Frames of a real video, scaled to a camera's size."""
    from PIL import Image

    with open_video(path) as video:
        luma_nhw = np.concatenate(list(video.blocks(frames)))[:frames]
    return np.stack(
        [np.asarray(Image.fromarray(luma_hw).resize(camera.size[::-1])) for luma_hw in luma_nhw]
    )


def written(path, packed_ghw, camera, ticks):
    write_recording(path, [packed_ghw], camera, ticks=ticks)
    return path


# --- the right one first --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("car_250x400.dat", "vidar"),
        ("sim_reds_000_part1_key_id21_250x400_41.dat", "vidar"),
        ("static_scene_250x400x500.npz", "hwt"),
        ("uhsr_sample.npz", "uhsr"),
    ],
)
def test_real_recordings_have_their_layout_first_and_certain(shared_data, name, layout):
    ranked = rank_layouts(shared_data / "recordings" / name)
    assert (ranked[0].name, ranked[0].verdict) == (layout, "certain")
    assert ranked[0].certainty >= 0.9


@pytest.mark.parametrize("layout", ["vidar", "vidar-raw", "easy2spike"])
@pytest.mark.parametrize("ticks", [10, 100, 500])
def test_the_real_scene_in_every_layout_of_its_size(shared_data, tmp_path, layout, ticks):
    scene = shared_data / "recordings" / "static_scene_250x400x500.npz"
    packed = open_recording(scene, "hwt").read(0, ticks).packed_ghw
    path = written(tmp_path / "a.dat", packed, layout, ticks)
    ranked = rank_layouts(path)
    assert ranked[0].name == layout
    assert ranked[0].verdict in (("certain",) if ticks > 10 else ("certain", "likely"))


@pytest.mark.parametrize("camera", LAYOUTS, ids=lambda camera: camera.name)
@pytest.mark.parametrize(("ticks", "threshold"), [(10, 1.0), (16, 2.0), (100, 5.0)])
def test_drawn_scenes_have_their_layout_first(tmp_path, camera, ticks, threshold):
    ticks = min(ticks, 30) if camera.plane_bytes > 30_000 else ticks
    packed = spikes_of(drawn(camera, seed=ticks), ticks, threshold, ticks_per_frame=20)
    ranked = rank_layouts(written(tmp_path / "a.dat", packed, camera, ticks))
    assert ranked[0].name == camera.name
    assert ranked[0].ticks == ticks


@pytest.mark.parametrize("camera", LAYOUTS, ids=lambda camera: camera.name)
@pytest.mark.parametrize("video", ["ucf101/JumpingJack", "hmdb51/cartwheel"])
def test_real_videos_have_their_layout_first(shared_data, tmp_path, camera, video):
    path = sorted((shared_data / video).glob("*.avi"))[0]
    packed = spikes_of(filmed(path, camera), 20, 2.0)
    ranked = rank_layouts(written(tmp_path / "a.dat", packed, camera, 20))
    assert ranked[0].name == camera.name


@pytest.mark.parametrize("noise", [None, NoiseConfig()])
@pytest.mark.parametrize("ticks_per_frame", [2, 40])
def test_still_and_moving_noisy_and_clean(tmp_path, noise, ticks_per_frame):
    camera = find_camera("120x160")
    luma_nhw = drawn(camera, seed=3, frames=20)
    packed = spikes_of(luma_nhw, 40, 2.0, ticks_per_frame=ticks_per_frame, noise=noise)
    assert rank_layouts(written(tmp_path / "a.dat", packed, camera, 40))[0].name == "120x160"


# --- no false claim -------------------------------------------------------------------------------


@st.composite
def scenes(draw):
    """A camera and frames: drawn, flat, noise or a slope."""
    height, width = draw(st.integers(24, 130)), draw(st.integers(24, 130))
    order = draw(st.sampled_from(["little", "big"]))
    camera = plain_camera(height, width, order)
    kind = draw(st.sampled_from(["drawn", "drawn", "flat", "noise", "slope"]))
    seed = draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    if kind == "drawn":
        return camera, drawn(camera, seed)
    if kind == "flat":
        return camera, np.full((5, height, width), seed % 256, np.uint8)
    if kind == "noise":
        return camera, np.repeat(rng.integers(0, 256, (1, height, width), np.uint8), 5, axis=0)
    y, x = np.mgrid[:height, :width]
    slope = (30 + 200 * (x * rng.random() + y * rng.random()) / (height + width)).astype(np.uint8)
    return camera, np.repeat(slope[None], 5, axis=0)


@settings(max_examples=40)
@given(
    scene=scenes(),
    ticks=st.sampled_from([1, 2, 10, 33, 100]),
    threshold=st.sampled_from([1.0, 1.5, 2.0, 5.0, 20.0]),
)
def test_what_is_certain_is_right(tmp_path_factory, scene, ticks, threshold):
    camera, luma_nhw = scene
    path = tmp_path_factory.mktemp("layouts") / "a.dat"
    written(path, spikes_of(luma_nhw, ticks, threshold, ticks_per_frame=20), camera, ticks)
    with contextlib.suppress(RecordingError):  # so few bytes that they fit nothing that is known
        best = rank_layouts(path)[0]
        assert best.verdict != "certain" or best.name == camera.name
    assert better_layout(path, camera) is None


@pytest.mark.parametrize("luma", [0, 3, 128, 255])
def test_a_scene_without_texture_tells_nothing_of_its_rows(tmp_path, luma):
    packed = spikes_of(np.full((5, 250, 400), luma, np.uint8), 40, 2.0)
    path = written(tmp_path / "a.dat", packed, "vidar", 40)
    assert rank_layouts(path)[0].verdict == "cannot tell"
    assert better_layout(path, "500x800") is None


def test_the_size_of_planes_shows_even_without_texture(tmp_path):
    """Whether a pixel fires after it has just fired needs no texture."""
    packed = spikes_of(np.full((5, 250, 400), 200, np.uint8), 40, 2.0)
    path = written(tmp_path / "a.dat", packed, "vidar", 40)
    assert {found.camera.plane_bytes for found in rank_layouts(path)} == {12_500}
    ranked = rank_layouts(path, cameras=["500x800", "1000x1000", "400x250"])
    told = {found.name: found.note for found in ranked}
    assert told["500x800"] == "a plane would be 4 ticks"
    assert told["1000x1000"] == "a plane would be 10 ticks"
    assert (ranked[0].name, ranked[0].note) == ("400x250", "")


def test_bits_in_padded_rows_are_no_pixels(tmp_path):
    packed = spikes_of(drawn(CAMERAS["vidar"], 4), 20, 2.0)
    ranked = rank_layouts(written(tmp_path / "a.dat", packed, "vidar-raw", 20))
    assert ranked[0].name == "vidar-raw"
    assert "takes 16 bits in 416 for pixels that are none" in {found.note for found in ranked}
    whole = find_camera("250x416")
    packed = spikes_of(drawn(whole, 4), 20, 2.0)
    ranked = rank_layouts(written(tmp_path / "b.dat", packed, whole, 20))
    assert ranked[0].name == "250x416"
    notes = {found.name: found.note for found in ranked}
    assert notes["vidar-raw"] == "leaves out 16 columns that look like picture"


# --- what is measured -----------------------------------------------------------------------------


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), size=st.integers(2, 400), distance=st.integers(1, 60))
def test_rest_is_what_counting_pairs_of_bits_gives(seed, size, distance):
    data_n = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    told, chance = Stretch(0, data_n).rest(distance)
    if distance >= size:
        assert (told, chance) == (0, 0)
        return
    bits_n8 = np.unpackbits(data_n[:, None], axis=1, bitorder="little").astype(int)
    early, late = bits_n8[:-distance], bits_n8[distance:]
    beside = np.concatenate([early[:, :-1] * late[:, 1:], early[:, 1:] * late[:, :-1]])
    assert chance == pytest.approx(beside.mean())
    assert told == pytest.approx((early * late).mean() - beside.mean())


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), height=st.integers(4, 90), width=st.integers(2, 90))
def test_neighbours_are_the_variance_less_half_the_squared_steps(seed, height, width):
    picture_hw = np.random.default_rng(seed).random((height, width), np.float32)
    right = np.square(np.diff(picture_hw.astype(float), axis=1)).mean()
    alike_s2 = neighbours(picture_hw)
    rows = len(alike_s2)
    assert rows == max(1, min(16, height // 2))
    if height % rows == 0:  # then the strips are of one size
        assert alike_s2[:, 0].mean() == pytest.approx(picture_hw.var() - right / 2, abs=1e-5)


def test_neighbours_of_a_slope_by_hand():
    """Columns 0, 1, 2, 3: variance 1.25, steps of 1 to the right and of 0 below."""
    picture_hw = np.tile(np.arange(4, dtype=np.float32), (4, 1))
    assert neighbours(picture_hw) == pytest.approx(np.array([[0.75, 1.25]] * 2))


@pytest.mark.parametrize("camera", LAYOUTS, ids=lambda camera: camera.name)
def test_pictures_are_those_of_the_recording(tmp_path, camera):
    ticks = 12
    packed = spikes_of(drawn(camera, 5), ticks, 2.0)
    path = written(tmp_path / "a.dat", packed, camera, ticks)
    found = rank_layouts(path, cameras=[camera])
    assert [key_of(one.camera) for one in found] == [key_of(camera)]
    rate_hw = open_recording(path, camera).read().spike_count_hw() / ticks
    white = np.percentile(rate_hw, 99.5)
    want_hw = np.rint(np.clip(rate_hw / white, 0, 1) * 255)
    assert np.abs(found[0].picture_hw.astype(float) - want_hw).max() <= 1
    assert found[0].picture_hw.dtype == np.uint8


def test_the_score_is_the_correlation_of_neighbours(shared_data):
    best = rank_layouts(shared_data / "recordings" / "car_250x400.dat")[0]
    recording = open_recording(shared_data / "recordings" / "car_250x400.dat", "vidar")
    rate_hw = recording.read(0, 167).spike_count_hw() / 167  # 2 MiB
    right = np.corrcoef(rate_hw[:, :-1].ravel(), rate_hw[:, 1:].ravel())[0, 1]
    below = np.corrcoef(rate_hw[:-1].ravel(), rate_hw[1:].ravel())[0, 1]
    assert best.score == pytest.approx((right + below) / 2, abs=2e-3)


def test_known_cameras_are_each_there_once():
    keys = [key_of(camera) for camera in known_cameras()]
    assert len(set(keys)) == len(keys) >= 30
    assert {"vidar", "vidar-raw", "easy2spike", "240x320", "240x320-msb"} <= {
        camera.name for camera in known_cameras()
    }
    assert "250x400" not in {camera.name for camera in known_cameras()}


def test_a_dark_beginning_does_not_decide(tmp_path):
    """The middle of a long file is looked at where its start tells nothing."""
    camera = find_camera("120x160")
    ticks = 2_400
    planes = np.zeros((ticks // 8, 120, 160), np.uint8)
    late = spikes_of(drawn(camera, 2), 800, 2.0, ticks_per_frame=160)
    planes[150:250] = late
    path = written(tmp_path / "a.dat", planes, camera, ticks)
    assert path.stat().st_size > 2 * (2 << 20)
    best = rank_layouts(path)[0]
    assert best.name == "120x160"
    assert best.verdict in ("certain", "likely")


# --- files that tell, and that nothing fits -------------------------------------------------------


@pytest.mark.parametrize(("order", "axes"), [("thw", (0, 1, 2)), ("hwt", (1, 2, 0))])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_of_either_order_of_axes(tmp_path, order, axes, suffix):
    camera = find_camera("60x90")
    stream = spikes_of(drawn(camera, 1), 40, 2.0)
    planes_thw = np.unpackbits(stream, axis=0, bitorder="little")[:40]
    path = tmp_path / f"a.{suffix}"
    array = np.ascontiguousarray(planes_thw.transpose(axes))
    np.save(path, array) if suffix == "npy" else np.savez_compressed(path, array)
    ranked = rank_layouts(path)
    assert ranked[0].name == order
    assert (ranked[0].height_px, ranked[0].width_px, ranked[0].ticks) == (60, 90, 40)
    assert {found.name for found in ranked} == {"thw", "hwt"}


def test_sps100_is_certain_by_its_markers_wherever_it_begins(tmp_path):
    camera = CAMERAS["sps100"]
    packed = spikes_of(drawn(camera, 1), 16, 2.0)
    whole = written(tmp_path / "a.dat", packed, camera, 16).read_bytes()
    cut = tmp_path / "cut.dat"
    cut.write_bytes(bytes(300_001) + whole[77_777:])
    best = rank_layouts(cut)
    assert [(found.name, found.verdict) for found in best] == [("sps100", "certain")]


def test_a_file_cut_off_is_told_what_it_looks_like(tmp_path):
    packed = spikes_of(drawn(CAMERAS["vidar"], 1), 40, 2.0)
    path = written(tmp_path / "a.dat", packed, "vidar", 40)
    path.write_bytes(path.read_bytes()[:-1_237])
    with pytest.raises(
        RecordingError, match=r"planes of 12,500 bytes \(vidar\), of which 11,263 are"
    ):
        rank_layouts(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no layout known has planes of which 0 bytes"), (b"abc", "of which 3 bytes")],
)
def test_what_no_layout_fits_is_refused(tmp_path, content, message):
    path = tmp_path / "a.dat"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=message):
        rank_layouts(path)


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.dat"):
        with pytest.raises(RecordingError, match="no such file"):
            rank_layouts(path)
    (tmp_path / "a.dat").write_bytes(bytes(12_500))
    with pytest.raises(RecordingError, match="none of the layouts given has planes"):
        rank_layouts(tmp_path / "a.dat", cameras=["77x99"])
    with pytest.raises(RecordingError, match="unknown camera"):
        rank_layouts(tmp_path / "a.dat", cameras=["vida"])


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 40_000), share=st.floats(0, 1))
def test_any_bytes_are_ranked_or_refused(tmp_path_factory, seed, size, share):
    data = np.packbits(np.random.default_rng(seed).random(size * 8) < share).tobytes()
    path = tmp_path_factory.mktemp("layouts") / "a.dat"
    path.write_bytes(data)
    try:
        ranked = rank_layouts(path)
    except SpikeDataError:
        return
    assert 1 <= len(ranked) <= 12
    assert ranked[0].verdict != "certain"
    for found in ranked:
        assert found.camera.plane_bytes * found.ticks == size
        assert found.picture_hw.shape == (found.height_px, found.width_px) == found.camera.size
        assert -1 <= found.score <= 1.5
        assert 0 <= found.certainty <= 1
        assert open_recording(path, found.name).ticks == found.ticks


def test_a_file_of_terabytes_is_read_in_part(tmp_path):
    path = tmp_path / "a.dat"
    with path.open("wb") as file:
        file.write(bytes(50_000))
        file.truncate(12_500 * 10**8)  # sparse
    assert rank_layouts(path)[0].verdict == "cannot tell"


# --- a layout that was given ----------------------------------------------------------------------


@pytest.mark.parametrize("given", ["500x800", "800x500", "400x250", "easy2spike", "125x800"])
def test_a_wrong_layout_that_fits_is_noticed(shared_data, given):
    path = shared_data / "recordings" / "car_250x400.dat"
    mine, better = better_layout(path, given)
    assert (mine.name, better.name) == (given, "vidar")
    assert better.score > mine.score


@pytest.mark.parametrize("given", ["vidar", "250x400", "250x400:bottom-up"])
def test_the_order_of_rows_is_no_other_layout(shared_data, given):
    assert better_layout(shared_data / "recordings" / "car_250x400.dat", given) is None


def test_a_wrong_layout_is_compared_alone_whatever_else_the_content_looks_like(tmp_path):
    """Planes of 2,400 bytes rest after 259,200 bytes too, which are those of 1080x1920."""
    camera = find_camera("120x160")
    packed = spikes_of(drawn(camera, 4), 1_000, 2.0, ticks_per_frame=200)
    path = written(tmp_path / "a.dat", packed, camera, 1_000)
    assert [found.name for found in rank_layouts(path, cameras=["400x250"])] == ["400x250"]
    mine, better = better_layout(path, "400x250")
    assert (mine.name, better.name) == ("400x250", "120x160")


def test_a_camera_of_one_s_own_is_compared_too(tmp_path):
    mine = Camera(
        name="mine", description="rows of 16 bytes", height_px=96, width_px=100, row_bytes=16
    )
    packed = spikes_of(drawn(mine, 1), 40, 2.0)
    path = written(tmp_path / "a.dat", packed, mine, 40)
    assert rank_layouts(path, cameras=[mine, "96x128"])[0].name == "mine"
    assert better_layout(path, mine) is None
    mine, better = better_layout(path, "128x96")
    assert better.camera.plane_bytes == 96 * 16


def test_pack_and_open_tell_of_a_wrong_layout_and_change_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for n in range(3):
        packed = spikes_of(drawn(CAMERAS["vidar"], n), 40, 2.0)
        written(tmp_path / "in" / f"{'abc'[n]}.dat", packed, "vidar", 40)
    report = pack_clips(["in"], camera="500x800")
    assert report.clips == 3
    (note,) = report.notes
    assert note.startswith("in/a.dat and 2 more look like vidar, not 500x800 as given")
    opened = open_clips("in", camera="500x800")
    assert note in opened.notes
    assert {stored.height_px for stored in opened.clips.values()} == {500}
    assert pack_clips(["in"], camera="vidar", to="dat", out="d").notes == (
        ".dat files as vidar, 250x400, bottom row first",
    )
    assert open_clips("in", camera="vidar").notes == open_clips("d").notes == ()


def test_a_set_of_ours_is_not_doubted(tmp_path, monkeypatch):
    """What pack wrote has digests, and its list says the layout."""
    monkeypatch.chdir(tmp_path)
    packed = spikes_of(drawn(find_camera("500x800"), 1), 16, 2.0)
    written(tmp_path / "a.dat", packed, "500x800", 16)
    pack_clips(["a.dat"], camera="250x400", to="dat", out="d")
    assert not [note for note in open_clips("d").notes if "looks like" in note]


# --- pictures -------------------------------------------------------------------------------------


def test_a_sheet_has_every_picture_upright_and_whole(shared_data):
    ranked = rank_layouts(shared_data / "recordings" / "car_250x400.dat")
    sheet_hw = draw_layouts(ranked[:2])
    assert sheet_hw.dtype == np.uint8
    from PIL import Image

    small = np.asarray(
        Image.fromarray(ranked[0].picture_hw).resize((256, 160), Image.Resampling.BOX)
    )
    assert np.array_equal(sheet_hw[6:166, 6:262], small)
    with pytest.raises(ValueError, match="no pictures"):
        draw_layouts([])


def test_dots_by_hand():
    """White right column of two, four rows: dots 4, 5, 6 and 8 of the letter."""
    picture_hw = np.tile(np.array([0, 255], np.uint8), (4, 1))
    assert dots_of(picture_hw, 1) == ["\u28b8"]
    assert dots_of(np.zeros((8, 4), np.uint8), 2) == ["\u2800\u2800"] * 2
    assert dots_of(np.full((3, 300), 255, np.uint8), 5) == ["\u28ff" * 5]
