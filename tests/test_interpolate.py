"""Frames made between two: where moving things are, and what holds at the ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.errors import SpikeDataError
from spikedata.simulator import SensorConfig, simulate
from spikedata.video.interpolate import find_interpolator, flow_frames, more_frames, steps_per_frame


def texture(seed=0, height=96, width=128):
    """Smooth random grey levels, so that optical flow has something to hold on to."""
    import cv2

    rough = np.random.default_rng(seed).uniform(0, 255, (height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(rough, (0, 0), 2.0)
    low, high = np.percentile(smooth, [1, 99])
    return np.clip((smooth - low) / (high - low) * 255, 0, 255).astype(np.uint8)


def moving_square(x, background, square):
    frame = background.copy()
    frame[30:62, x : x + 32] = square[:32, :32]
    return frame


def psnr(made, true):
    return 10 * np.log10(255**2 / max(1e-3, ((made.astype(float) - true) ** 2).mean()))


def blend(first_hw, second_hw):
    return np.rint((first_hw.astype(float) + second_hw) / 2)


def test_a_moving_picture_is_found_half_way():
    wide = texture(width=160)
    first, middle, second = (wide[:, x : x + 128] for x in (0, 4, 8))
    made = flow_frames(first, second, 1)[0]
    inside = np.s_[8:-8, 16:-16]
    assert psnr(made[inside], middle[inside]) > 35
    assert psnr(blend(first, second)[inside], middle[inside]) < 20


def test_each_frame_shows_its_own_time():
    wide = texture(seed=1, width=160)
    made = flow_frames(wide[:, :128], wide[:, 8:136], 3)
    inside = np.s_[8:-8, 16:-16]
    for i, x in enumerate((2, 4, 6)):
        errors = [psnr(made[i][inside], wide[:, at : at + 128][inside]) for at in (2, 4, 6)]
        assert np.argmax(errors) == i, x


def test_what_is_uncovered_is_not_a_ghost():
    """A square moves 8 pixels over a still picture: before and behind it, either frame lacks
    what the other shows."""
    background, square = texture(seed=2) // 2, 128 + texture(seed=3) // 2
    first, middle, second = (moving_square(x, background, square) for x in (40, 44, 48))
    made = flow_frames(first, second, 1)[0]
    strips = np.s_[30:62, 40:80]
    assert (
        psnr(made[strips], middle[strips]) > psnr(blend(first, second)[strips], middle[strips]) + 3
    )
    assert psnr(made, middle) > psnr(blend(first, second), middle) + 3


def test_where_nothing_moves_nothing_changes():
    still = texture()
    assert (flow_frames(still, still, 4) == still).all()


def test_frames_without_relation_are_blended_in_place():
    first, second = texture(seed=4), 255 - texture(seed=5)
    made = flow_frames(first, second, 1)[0].astype(float)
    assert made.min() >= 0
    assert np.abs(made - blend(first, second)).mean() < np.abs(made - first).mean()


def test_the_bits_do_not_depend_on_threads():
    import cv2

    first, second = texture(seed=6), np.roll(texture(seed=6), 5, axis=1)
    before, made = cv2.getNumThreads(), []
    try:
        for threads in (1, 2, 5):
            cv2.setNumThreads(threads)
            made.append(flow_frames(first, second, 2))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])


@given(st.integers(1, 7), st.integers(1, 4), st.lists(st.integers(0, 7), max_size=3))
def test_any_blocks_give_the_same_frames_and_the_last_one_holds(frames, steps, cuts):
    luma_nhw = np.random.default_rng(frames).integers(0, 256, (frames, 3, 4), dtype=np.uint8)

    def steps_between(first_hw, second_hw, count):  # a line, as somebody else might make it
        times = np.arange(1, count + 1)[:, None, None] / (count + 1)
        return np.rint(first_hw + (second_hw.astype(float) - first_hw) * times).astype(np.uint8)

    blocks = more_frames(np.split(luma_nhw, sorted(cuts)), steps, interpolator=steps_between)
    made = np.concatenate(list(blocks))
    assert len(made) == frames * steps
    np.testing.assert_array_equal(made[::steps], luma_nhw)
    assert (made[-steps:] == luma_nhw[-1]).all()


def test_no_frames_give_none():
    assert list(more_frames([], 4)) == []
    assert flow_frames(texture(), texture(), 0).shape == (0, 96, 128)


def test_one_step_is_the_video_itself():
    luma_nhw = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    np.testing.assert_array_equal(np.concatenate(list(more_frames([luma_nhw], 1))), luma_nhw)


def test_two_frames_are_held_and_no_more():
    taken = []

    def frames():
        for n in range(1000):
            taken.append(n)
            yield np.full((1, 16, 16), n % 256, np.uint8)

    blocks = more_frames(frames(), 2)
    next(blocks)
    assert taken == [0, 1]
    next(blocks)
    assert taken == [0, 1, 2]


def test_an_interpolator_that_gives_something_else_is_refused():
    luma_nhw = np.zeros((2, 16, 16), np.uint8)
    with pytest.raises(ValueError, match=r"must give uint8 \(3, 16, 16\), got float64 \(3, 16, 16"):
        list(more_frames([luma_nhw], 4, interpolator=lambda a, b, n: np.zeros((n, 16, 16))))
    with pytest.raises(ValueError, match=r"frames of \(4, 4\) after"):
        list(more_frames([luma_nhw, np.zeros((1, 4, 4), np.uint8)], 4))
    with pytest.raises(ValueError, match="at least 16x16, got"):
        list(more_frames([np.zeros((2, 8, 20), np.uint8)], 4))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        list(more_frames([luma_nhw], 0))


@pytest.mark.parametrize(
    ("ticks_per_frame", "steps"), [(1, 1), (2, 2), (8, 8), (10, 10), (100, 10), (667, 23), (33, 11)]
)
def test_steps_divide_the_ticks(ticks_per_frame, steps):
    assert steps_per_frame(ticks_per_frame) == steps
    assert ticks_per_frame % steps == 0


def test_ticks_that_nothing_divides_are_refused():
    with pytest.raises(ValueError, match="got 37; 38 would do"):
        steps_per_frame(37)


def test_the_simulator_takes_the_frames():
    """With a line as interpolator the spikes are nearly those of ``linear`` itself."""
    luma_nhw = np.random.default_rng(1).integers(40, 216, (4, 16, 16), dtype=np.uint8)
    sensor = SensorConfig(ticks_per_frame=8)
    finer = SensorConfig(ticks_per_frame=2)

    def line(first_hw, second_hw, count):
        times = np.arange(1, count + 1)[:, None, None] / (count + 1)
        return np.rint(first_hw + (second_hw.astype(float) - first_hw) * times).astype(np.uint8)

    direct = np.concatenate(list(simulate([luma_nhw], sensor, clip_id="a")))
    stepped = np.concatenate(
        list(simulate(more_frames([luma_nhw], 4, interpolator=line), finer, clip_id="a"))
    )
    assert stepped.shape == direct.shape
    spikes = [int(np.bitwise_count(packed).sum()) for packed in (direct, stepped)]
    # Rounding moves a grey level by half at most, of 40 and more: 1.25% of the charge.
    assert spikes[1] == pytest.approx(spikes[0], rel=0.0125)


def test_an_interpolator_is_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_frames.py").write_text("def made(a, b, count): ...\nnumber = 3\n")
    (tmp_path / "broken_frames.py").write_text("def made(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_interpolator("flow") is flow_frames
    assert find_interpolator("my_frames:made").__module__ == "my_frames"
    for name, problem in (
        ("made", "expected flow or package.module:function"),
        ("my_frames:", "expected flow or package.module:function"),
        ("my_frames:number", "my_frames has no such function"),
        ("my_frames:absent", "my_frames has no such function"),
        ("absent_frames:made", "No module named 'absent_frames'"),
        (".frames:made", "expected flow or package.module:function"),
        ("broken_frames:made", "cannot be imported: SyntaxError"),
    ):
        with pytest.raises(SpikeDataError, match=problem):
            find_interpolator(name)
