"""Drawn corpora: what a class shows, what it must not show, and what lands on disk."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.corpora import find_corpus
from spikedata.corpora.shapes import (
    MOTIONS,
    SHAPE_CLASSES,
    SHAPES,
    draw_clip,
    draw_ground,
    draw_shapes,
)
from spikedata.errors import CorpusError
from spikedata.video import open_video

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


def clip(seed, shape, motion, *, size=(40, 56), frames=9):
    ground_hw = draw_ground(np.random.default_rng((seed, 0)), size)
    rng = np.random.default_rng((seed, 1))
    return ground_hw, draw_clip(rng, ground_hw, shape=shape, motion=motion, frames=frames)


def centre(ground_hw, luma_hw):
    """Centre of what differs from the ground, (y, x) px."""
    drawn_hw = abs(luma_hw - ground_hw) > 5
    y, x = np.nonzero(drawn_hw)
    assert len(y) > 20
    return y.mean(), x.mean()


seeds = st.integers(0, 2**32)


@given(seeds, st.sampled_from(SHAPES), st.sampled_from(MOTIONS))
def test_opposite_motions_are_each_other_reversed_in_time(seed, shape, motion):
    _, there_nhw = clip(seed, shape, motion)
    _, back_nhw = clip(seed, shape, OPPOSITE[motion])
    assert np.array_equal(there_nhw, back_nhw[::-1])


@given(seeds, st.sampled_from(SHAPES), st.sampled_from(MOTIONS))
def test_a_shape_goes_where_its_caption_says_and_nowhere_else(seed, shape, motion):
    ground_hw, luma_nhw = clip(seed, shape, motion)
    places = np.array([centre(ground_hw, luma_hw) for luma_hw in luma_nhw])
    step_y, step_x = np.diff(places, axis=0).T
    along, across = (step_y, step_x) if motion in ("up", "down") else (step_x, step_y)
    forward = along if motion in ("down", "right") else -along
    assert (forward > 0.3).all()
    assert abs(across.sum()) < 1.5  # only the raster moves it


@given(seeds, st.sampled_from(SHAPES), st.sampled_from(MOTIONS))
def test_a_shape_stays_whole(seed, shape, motion):
    ground_hw, luma_nhw = clip(seed, shape, motion)
    still = np.rint(ground_hw)
    assert np.array_equal(luma_nhw[:, 0], np.broadcast_to(still[0], luma_nhw[:, 0].shape))
    assert np.array_equal(luma_nhw[:, -1], np.broadcast_to(still[-1], luma_nhw[:, -1].shape))
    assert np.array_equal(luma_nhw[:, :, 0], np.broadcast_to(still[:, 0], luma_nhw[:, :, 0].shape))


def test_shapes_are_lighter_and_darker_than_the_ground():
    brighter = []
    for seed in range(40):
        ground_hw, luma_nhw = clip(seed, "circle", "left")
        brighter.append(float((luma_nhw[0] - ground_hw).sum()) > 0)
    assert 8 <= sum(brighter) <= 32


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "shapes"
    seen = []
    draw_shapes(
        root,
        clips_per_class=2,
        test_per_class=1,
        size=(24, 32),
        frames=5,
        frame_rate=20,
        seed=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(n, 36) for n in range(1, 37)]
    return root


def test_a_drawn_corpus_is_found_like_any_other(corpus_folder):
    corpus = find_corpus(corpus_folder)
    assert corpus.name == "metadata"
    assert sorted(corpus.class_names) == sorted(SHAPE_CLASSES)
    assert len(corpus.clips) == 36
    assert corpus.notes == ()
    square = next(c.clip for c in corpus.clips if c.clip.label == "square_moves_left")
    assert "a square moves left" in square.captions


def test_each_scene_has_every_class_once_and_is_on_one_side(corpus_folder):
    lines = (corpus_folder / "metadata.jsonl").read_text().splitlines()
    by_group = {}
    for row in map(json.loads, lines):
        by_group.setdefault(row["group"], []).append(row)
    assert len(by_group) == 3
    for rows in by_group.values():
        assert sorted(row["label"] for row in rows) == sorted(SHAPE_CLASSES)
        assert len({row["split"] for row in rows}) == 1
    assert sorted(rows[0]["split"] for rows in by_group.values()) == ["test", "train", "train"]


def test_a_video_holds_the_frames_that_were_drawn(corpus_folder):
    ground_hw = draw_ground(np.random.default_rng((3, 0)), (24, 32))
    index = SHAPE_CLASSES.index("triangle_moves_up")
    rng = np.random.default_rng((3, 0, 1 + index))
    want_nhw = draw_clip(rng, ground_hw, shape="triangle", motion="up", frames=5)
    with open_video(corpus_folder / "train" / "s0000_triangle_moves_up.avi") as video:
        found_nhw = np.concatenate(list(video.blocks()))
        assert video.frame_rate == 20
    assert found_nhw.shape == (5, 24, 32)
    # 256 grey levels pass through the 220 of limited range: half a level lost each way.
    assert abs(found_nhw.astype(int) - want_nhw).max() <= 1


def test_the_same_seed_draws_the_same_files(corpus_folder, tmp_path):
    again = draw_shapes(
        tmp_path / "again",
        clips_per_class=2,
        test_per_class=1,
        size=(24, 32),
        frames=5,
        frame_rate=20,
        seed=3,
    )
    files = sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert len(files) == 37
    for name in files:
        assert (again / name).read_bytes() == (corpus_folder / name).read_bytes(), name


def test_a_folder_that_is_there_is_left_alone(corpus_folder):
    with pytest.raises(CorpusError, match="already there"):
        draw_shapes(corpus_folder, clips_per_class=1)


@pytest.mark.parametrize(
    "bad", [{"clips_per_class": 0}, {"size": (25, 32)}, {"size": (16, 16)}, {"frames": 1}]
)
def test_settings_that_cannot_be_drawn_are_refused(bad, tmp_path):
    with pytest.raises(ValueError, match="got"):
        draw_shapes(tmp_path / "x", **bad)
    assert not (tmp_path / "x").exists()
