"""Pictures, movies and the page about a store."""

import re
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageSequence
from tools import run_program

from spikedata import (
    Page,
    draw_picture,
    new_figure,
    picture_quality,
    read_picture,
    report_html,
    view_clip,
)
from spikedata.analysis.pictures import choose_clips, lay_out, to_grey, white_rate
from spikedata.analysis.textures import texture_from_interval, texture_from_playback
from spikedata.bits import pack_ticks
from spikedata.clip import Clip
from spikedata.clips.store import create_store, open_store
from spikedata.errors import SpikeDataError, StoreError
from spikedata.stream import SpikeStream


def stream_of(*trains):
    """One row of pixels from strings of 0 and 1."""
    planes_thw = np.array([[int(bit) for bit in train] for train in trains]).T[:, None, :]
    return SpikeStream(pack_ticks(planes_thw), planes_thw.shape[0], 20_000.0)


def test_playback_counts_spikes_of_the_window():
    stream = stream_of("0101010101", "0001000000", "0000000000")
    assert texture_from_playback(stream).tolist() == [[0.5, 0.1, 0.0]]
    assert texture_from_playback(stream.window(3, 4)).tolist() == [[0.5, 0.25, 0.0]]


def test_interval_is_the_one_the_tick_lies_in():
    #                    tick 0123456789
    stream = stream_of("0100010010")
    by_tick = [texture_from_interval(stream, tick)[0, 0] for tick in range(10)]
    assert by_tick == [0, 1 / 4, 1 / 4, 1 / 4, 1 / 4, 1 / 3, 1 / 3, 1 / 3, 0, 0]


def test_interval_with_an_end_outside_is_not_guessed():
    stream = stream_of("0000", "1000", "0001")
    assert texture_from_interval(stream, 1).tolist() == [[0, 0, 0]]
    with pytest.raises(ValueError, match="tick 4"):
        texture_from_interval(stream, 4)


def test_grey_scales_to_white_and_clips():
    assert to_grey(np.array([[0.0, 0.1, 0.2, 0.4]]), 0.2).tolist() == [[0, 128, 255, 255]]
    assert to_grey(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]


def test_layout_places_pictures_row_by_row_with_each_caption_under_its_own():
    light, dark = np.full((2, 4), 200, np.uint8), np.full((4, 2), 50, np.uint8)
    tiles = [(light, "a"), (dark, ""), (light, "c"), (light, "")]
    sheet_hw = lay_out(tiles, columns=2, tile_px=100)
    # Between pictures 6 pixels; a caption has 18; a row is as high as its highest picture.
    assert sheet_hw.shape == (6 + 100 + 18 + 50 + 18, 6 + 2 * 106)
    for top, left, picture_hw in [
        (6, 6, light),
        (6, 112, dark),
        (124, 6, light),
        (124, 112, light),
    ]:
        height, width = (side * 25 for side in picture_hw.shape)
        assert (sheet_hw[top : top + height, left : left + width] == picture_hw[0, 0]).all()
    paper = sheet_hw[0, 0]
    for top, written in [((56, 6), True), ((106, 112), False), ((174, 6), True)]:
        assert (sheet_hw[top[0] : top[0] + 18, top[1] : top[1] + 50] != paper).any() == written
    assert lay_out(tiles, columns=2, tile_px=100, note="n").shape == (210, 218)
    with pytest.raises(ValueError, match="no pictures"):
        lay_out([], columns=2)


def test_a_long_caption_stays_in_its_column_and_strange_letters_are_told():
    white = np.full((10, 10), 255, np.uint8)
    sheet_hw = lay_out([(white, "long" * 50), (white, "")], columns=2, tile_px=60)
    assert (sheet_hw[66:, :66] != sheet_hw[0, 0]).any()
    assert (sheet_hw[66:, 66:] == sheet_hw[0, 0]).all()
    unknown_hw, marks_hw = (lay_out([(white, text)], columns=1) for text in ("\u6ce2", "?"))
    np.testing.assert_array_equal(unknown_hw, marks_hw)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Six clips of two classes: pixel rate 1/4 in class one, 1/2 in class <two>."""
    path = tmp_path_factory.mktemp("store") / "spikes.zarr"
    with create_store(path, recipe={}, class_names=("one", "<two>"), name="six & six") as writer:
        for n in range(6):
            label, period = ("one", 4) if n % 2 else ("<two>", 2)
            planes_thw = np.zeros((90, 6, 9), np.uint8)
            planes_thw[n % period :: period] = 1
            clip = Clip(id=f"c{n}", label=label, split="test" if n > 3 else "train")
            with writer.clip(clip, height_px=6, width_px=9, tick_rate_hz=1000.0) as target:
                target.append(pack_ticks(planes_thw))
                target.finish(ticks=90, attributes={})
    return open_store(path)


def test_clips_are_chosen_from_all_classes_in_turn(store):
    assert choose_clips(store, 3) == ["c0", "c1", "c2"]
    assert choose_clips(store, 99) == ["c0", "c1", "c2", "c3", "c4", "c5"]


def test_a_sheet_has_a_tile_a_clip(store):
    rates = [
        texture_from_playback(store.read(key, 13, 64)).astype(np.float32) for key in store.clips
    ]
    white = white_rate(rates)
    tiles = [(to_grey(rate_hw, white), "") for rate_hw in rates]
    sheet_hw = lay_out(tiles, columns=4)
    assert sheet_hw.shape == (6 + 2 * (107 + 18), 6 + 4 * 166)
    # Rates 1/2 and 1/4: white is the same for all.
    assert (sheet_hw[6 : 6 + 107, 6 : 6 + 160] == 255).all()
    assert (sheet_hw[6 : 6 + 107, 172 : 172 + 160] == 128).all()


@pytest.mark.parametrize("picture", ["tfp", "tfi", "adaptive"])
def test_a_sheet_of_a_clip_is_a_picture(store, tmp_path, picture):
    out = view_clip(store, "c1", tmp_path / "c1.png", picture=picture)
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.size == (6 + 4 * 326, 6 + 2 * (213 + 18) + 18)
        tile = np.asarray(image)[6 : 6 + 213, 6 : 6 + 320]
    assert (tile == 255).all()
    assert [p.name for p in tmp_path.iterdir()] == ["c1.png"]


def frames_of(movie):
    if movie.suffix == ".webp":
        with Image.open(movie) as image:
            return [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(image)]
    import av

    with av.open(str(movie)) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


MOVIES = [".gif", ".mp4", ".webp"]


@pytest.mark.parametrize("suffix", MOVIES)
def test_a_movie_has_one_picture_a_step(store, tmp_path, suffix):
    how = {"start": 10, "ticks": 60, "exposure_ticks": 20, "step_ticks": 10, "plain": True}
    # Equal pictures after each other are one in WebP: of class one each has other phases.
    moving = store_of_one(tmp_path / "m.zarr", np.arange(90)[:, None, None] // 20 % 2 == np.eye(2))
    for source, clip_id in ((store, "c0"), (moving, "c")):
        out = view_clip(source, clip_id, tmp_path / f"{clip_id}{suffix}", **how)
        frames = frames_of(out)
        # Windows from ticks 10, 20, 30, 40 and 50 end by tick 70.
        assert len(frames) == 5 or (suffix == ".webp" and clip_id == "c0")
        if clip_id == "c0":
            assert frames[0].shape == (240, 360)
            assert (frames[0] > 230).all()  # the brightest rate is white


@pytest.mark.parametrize("suffix", MOVIES)
def test_a_movie_s_white_is_that_of_the_whole_of_it(tmp_path, suffix):
    planes_thw = np.zeros((320, 240, 240), np.uint8)
    planes_thw[:160:8] = 1
    planes_thw[160::2] = 1
    source = store_of_one(tmp_path / "s.zarr", planes_thw)
    how = {"exposure_ticks": 16, "step_ticks": 16, "plain": True}
    for white, first, last in ((None, 64, 255), (1.0, 32, 128), (0.125, 255, 255)):
        out = view_clip(source, "c", tmp_path / f"c{suffix}", white=white, overwrite=True, **how)
        frames = frames_of(out)
        assert abs(int(frames[0][100, 100]) - first) < 4  # codecs lose a little
        assert abs(int(frames[-1][100, 100]) - last) < 4
    with pytest.raises(ValueError, match="white must be a positive number"):
        view_clip(source, "c", tmp_path / "d.gif", white=0)


def test_a_clock_and_a_scale_stand_under_a_movie_s_pictures(tmp_path):
    planes_thw = np.ones((80, 240, 300), np.uint8)
    source = store_of_one(tmp_path / "s.zarr", planes_thw)
    frames = frames_of(view_clip(source, "c", tmp_path / "c.gif", step_ticks=24))
    plain = frames_of(view_clip(source, "c", tmp_path / "d.gif", step_ticks=24, plain=True))
    assert plain[0].shape == (240, 300)
    assert frames[0].shape == (240 + 2 * 18, 300)
    for frame, bare in zip(frames, plain, strict=True):
        np.testing.assert_array_equal(frame[:240], bare)
    strips = [frame[240:] for frame in frames]
    assert len(strips) == 3  # ticks 16, 40 and 64: other clocks, the same scale
    assert not np.array_equal(strips[0][:18], strips[1][:18])
    np.testing.assert_array_equal(strips[0][18:], strips[1][18:])
    assert all((strip[:18] > 128).any() and (strip[18:] > 128).any() for strip in strips)


def test_pictures_by_a_function_of_one_s_own(store, tmp_path):
    def half(planes_thw):
        assert planes_thw.shape == (20, 6, 9)
        return np.full((6, 9), 0.5)

    how = {"picture": half, "white": 1.0, "exposure_ticks": 20}
    out = view_clip(store, "c0", tmp_path / "c0.png", **how)
    assert np.asarray(Image.open(out))[10, 10] == 128
    grey_hw = draw_picture(store, "c0", picture=half, ticks=20, white=0.5)
    assert (grey_hw == 255).all()
    with pytest.raises(SpikeDataError, match="picture 'tfx': expected tfp, tfi, adaptive or"):
        view_clip(store, "c0", tmp_path / "d.png", picture="tfx")


def store_of_one(path, planes_thw):
    with create_store(path, recipe={}, class_names=()) as writer:
        size = {"height_px": planes_thw.shape[1], "width_px": planes_thw.shape[2]}
        with writer.clip(Clip(id="c"), **size, tick_rate_hz=1000.0) as target:
            target.append(pack_ticks(planes_thw))
            target.finish(ticks=len(planes_thw), attributes={})
    return open_store(path)


@pytest.mark.parametrize("suffix", MOVIES)
@pytest.mark.parametrize(
    ("size_hw", "shown_hw"),
    [((1, 700), (2, 1400)), ((3, 5), (240, 400)), ((2500, 1), (2500, 2)), ((9, 301), (54, 1806))],
)
def test_a_movie_has_even_sides_that_magnifying_keeps_in_bounds(
    tmp_path, suffix, size_hw, shown_hw
):
    one = store_of_one(tmp_path / "one.zarr", np.ones((40, *size_hw), np.uint8))
    frames = frames_of(view_clip(one, "c", tmp_path / f"c{suffix}", plain=True))
    assert frames[0].shape == shown_hw
    height, width = frames_of(view_clip(one, "c", tmp_path / f"d{suffix}"))[0].shape
    assert (width, height % 18) == (shown_hw[1], shown_hw[0] % 18)


def test_a_movie_that_no_codec_takes_is_one_line_and_leaves_nothing(tmp_path):
    one = store_of_one(tmp_path / "one.zarr", np.ones((16, 1, 65_535), np.uint8))
    for name in ("c.gif", "c.mp4", "c.webp"):
        with pytest.raises(SpikeDataError, match=f"{name}: cannot be written, 65536x2 pixels"):
            view_clip(one, "c", tmp_path / name, plain=True)
    assert [path.name for path in tmp_path.iterdir()] == ["one.zarr"]


def test_what_is_there_is_not_replaced_unasked(store, tmp_path):
    calls = {
        "c0.png": partial(view_clip, store, "c0"),
        "c0.gif": partial(view_clip, store, "c0"),
        "page.html": partial(report_html, store),
    }
    for name, write in calls.items():
        (tmp_path / name).write_text("precious")
        with pytest.raises(SpikeDataError, match=f"{name}: exists already. Give --overwrite"):
            write(tmp_path / name)
        assert (tmp_path / name).read_text() == "precious"
        write(tmp_path / name, overwrite=True)
        assert (tmp_path / name).stat().st_size > 100
    assert {path.name for path in tmp_path.iterdir()} == set(calls)


def test_wrong_requests_are_refused(store, tmp_path):
    with pytest.raises(ValueError, match=r"\.png, \.gif, \.webp, \.mp4"):
        view_clip(store, "c0", tmp_path / "c0.jpg")
    with pytest.raises(StoreError, match="no clip 'c9'"):
        view_clip(store, "c9", tmp_path / "c9.png")
    with pytest.raises(StoreError, match="ticks 80 to 100"):
        view_clip(store, "c0", tmp_path / "c0.png", start=80, ticks=20)
    assert list(tmp_path.iterdir()) == []


def test_the_page_tells_counts_rates_and_escapes_names(store, tmp_path):
    page = report_html(store, tmp_path / "report.html").read_text()
    assert "six &amp; six" in page
    assert "&lt;two&gt;" in page
    assert "<two>" not in page
    # 90 ticks: 45 spikes a pixel in each clip of <two>; 23, 22 and 23 of class one (ticks 1, 3, 1).
    assert "<tr><td>&lt;two&gt;</td><td>1</td><td>2</td><td>0.5000</td></tr>" in page
    rate = (23 + 22 + 23) / (3 * 90)
    assert f"<tr><td>one</td><td>1</td><td>2</td><td>{rate:.4f}</td></tr>" in page
    assert page.count("data:image/webp;base64,") == 6  # each clip, moving
    assert page.count("<svg") == 2  # the rate of every pixel, the intervals
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_single_picture_is_pixel_for_pixel_with_a_white_of_one_s_choice(tmp_path):
    planes_thw = np.zeros((40, 2, 3), np.uint8)
    planes_thw[::2, 0, 0] = planes_thw[::4, 1, 2] = planes_thw[:, 0, 1] = 1
    size = {"height_px": 2, "width_px": 3, "tick_rate_hz": 1.0}
    with (
        create_store(tmp_path / "s.zarr", recipe={}, class_names=()) as writer,
        writer.clip(Clip(id="a"), **size) as out,
    ):
        out.append(pack_ticks(planes_thw))
        out.finish(ticks=40, attributes={})
    store = open_store(tmp_path / "s.zarr")
    least = 1 / 41  # no spike in 40 ticks: an interval of 41 at least
    rates = {"tfp": [[0.5, 1, 0], [0, 0, 0.25]], "tfi": [[0.5, 1, least], [least, least, 0.25]]}
    for picture, rate_hw in rates.items():
        grey_hw = draw_picture(store, "a", picture=picture, white=0.5)
        want_hw = np.minimum(255, np.rint(np.array(rate_hw) / 0.5 * 255))
        np.testing.assert_array_equal(grey_hw, want_hw)
    with pytest.raises(ValueError, match="white must be a positive number"):
        draw_picture(store, "a", white=0)


def test_the_page_lists_clips_that_lost_something_the_worst_first(tmp_path):
    skipped = {"a": 0, "b": 3, "c": 40}
    with create_store(tmp_path / "s.zarr", recipe={}, class_names=()) as writer:
        for name, count in skipped.items():
            with writer.clip(Clip(id=name), height_px=2, width_px=3, tick_rate_hz=1.0) as out:
                out.append(np.zeros((1, 2, 3), np.uint8))
                out.finish(ticks=8, attributes={"camera": {"skipped": count}})
    page = report_html(open_store(tmp_path / "s.zarr"), tmp_path / "s.html").read_text()
    losses = page[page.index("<h2>Losses</h2>") : page.index("<h2>Classes</h2>")]
    assert "2 of 3 clips lost something" in losses
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", losses)
    assert rows == [("c", "40"), ("b", "3")]
    assert "<td>losses</td><td>bytes skipped: 43</td>" in page


def test_a_page_of_equal_parts_has_equal_bytes_and_runs_nothing_that_is_written_on_it():
    def draw(shown, **how):
        figure, axes = new_figure(2, 1)
        axes.set_title(shown, **how)
        page = Page("<script>1</script>")
        page.items(["a & b"])
        page.table(("<i>",), [("{{ 1 + 1 }}",)])
        page.figure(figure)
        return re.sub("<!--.*?-->", "", page.render())  # matplotlib repeats the text as it was

    label = r"$\frac{5$ \$ $_{$"  # would be an error as mathematics
    assert draw(label) == draw(label) == draw(label, parse_math=False)
    assert draw("$x$") == draw("$x$", parse_math=False)
    assert "<script>" not in draw("")
    assert all(shown in draw("") for shown in ("&lt;i&gt;", "a &amp; b", "{{ 1 + 1 }}"))


@pytest.mark.parametrize("ticks", [1, 3, None])
def test_a_single_interval_picture_looks_beyond_the_ticks_given(store, ticks):
    # Ticks around the middle one are read, so that both ends of its interval are known.
    start = 0 if ticks is None else 40
    grey_hw = draw_picture(store, "c1", picture="tfi", start=start, ticks=ticks, white=0.5)
    assert (grey_hw == 128).all()  # 255 x 1/4 / 1/2, rounded


def test_pictures_are_read_at_their_own_depth(tmp_path):
    deep_hw = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(deep_hw).save(tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png").ravel().tolist() == list(range(256))
    colour_hwc = np.zeros((2, 3, 3), np.uint8)
    colour_hwc[..., 1] = 100
    Image.fromarray(colour_hwc).save(tmp_path / "green.png")
    assert (read_picture(tmp_path / "green.png") == 59).all()  # 0.587 x 100


def test_a_picture_whose_scale_is_unknown_is_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "light.tiff")
    with pytest.raises(SpikeDataError, match=r"light\.tiff: pixels are F, expected 8 or 16 bits"):
        read_picture(tmp_path / "light.tiff")


def test_quality_is_what_the_field_s_package_says():
    rng = np.random.default_rng(0)
    truth_hw = rng.integers(0, 256, (20, 30)).astype(np.uint8)
    noise_hw = rng.integers(-40, 40, truth_hw.shape)
    grey_hw = np.clip(truth_hw.astype(int) + noise_hw, 0, 255).astype(np.uint8)
    found = picture_quality(grey_hw, truth_hw)
    # scikit-image: peak_signal_noise_ratio, structural_similarity with Gaussian weights.
    assert found["psnr_db"] == pytest.approx(21.591414138419225, rel=1e-9)
    assert found["ssim"] == pytest.approx(0.9593525412315737, rel=1e-6)
    assert found["psnr_of_best_gain_db"] >= found["psnr_db"]
    same = picture_quality(truth_hw, truth_hw)
    assert (same["psnr_db"], same["ssim"]) == (np.inf, pytest.approx(1))
    half = picture_quality(truth_hw // 2 * 2 // 2, truth_hw // 2 * 2)
    assert half["psnr_of_best_gain_db"] > 100 > half["psnr_db"]
    with pytest.raises(ValueError, match="of one size"):
        picture_quality(grey_hw, truth_hw[1:])


def test_a_broken_working_store_hinders_no_look_at_a_file(tmp_path):
    (tmp_path / "spikes.zarr").mkdir()
    (tmp_path / "a.dat").write_bytes(bytes(64 * 8))
    done = run_program("spikedata", "view", "a.dat", "--camera", "8x8", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
