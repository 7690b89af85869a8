"""Does the model read time? Corpora in which the direction of motion alone tells classes apart.

The label is where a thing moves to. Opposite directions pass the same places at the same speed, so
no picture without time tells them apart. `docs/explanation/evaluation.md` quotes the slow test; run
it with ``-s`` to see the figures.

Shapes: N frames, H rows, W columns; B clips, S segments, T ticks, G groups of 8 ticks.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from spikedata_cli.demo import recipe_path
from test_model import make_model, packed, planes
from tools import write_grey

from spikedata import SensorConfig, SimulationRecipe, draw_shapes, find_corpus, simulate_corpus
from spikedata.corpora.shapes import draw_ground
from spklip.baselines import WITHOUT_TIME
from spklip.embed import shuffle_windows
from spklip.model import reverse_packed
from spklip.recipe import read_recipe
from spklip.run import run_recipe

DIRECTIONS = ("left", "right", "up", "down")
FRAMES, SIDE_PX = 14, 48
DIGIT_PX, MARGIN_PX = 16, 10


def draw_directions(root: Path, *, train: int, test: int, seed: int) -> None:
    """The demo's corpus, the direction alone as the label: a class has all three shapes."""
    draw_shapes(root, clips_per_class=train // 3, test_per_class=test // 3, seed=seed)
    rows = [json.loads(line) for line in (root / "metadata.jsonl").read_text("utf-8").splitlines()]
    write_rows(root, [relabelled(row, row["label"].rpartition("_")[2]) for row in rows])


def draw_digits(root: Path, *, train: int, test: int, seed: int) -> None:
    """Handwritten digits that cross a still ground; every track is run in both directions.

    A digit is on one side of the split, in all four directions over one ground: neither what moves
    nor where it passes tells them apart.
    """
    rows = []
    for number in range(train + test):
        split = "train" if number < train else "test"
        for direction, luma_nhw in digit_clips(number, seed).items():
            row = {"file_name": f"{split}/d{number:04d}_{direction}.mkv", "split": split}
            write_grey(root / row["file_name"], luma_nhw)
            rows.append(relabelled(row | {"group": f"digit{number:04d}"}, direction))
    write_rows(root, rows)


def digit_clips(number: int, seed: int) -> dict[str, np.ndarray]:
    """One digit in the four directions, each uint8 (N, H, W)."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng((seed, number))
    ink_88 = load_digits().images[number] / 16
    ground_hw = draw_ground(rng, (SIDE_PX, SIDE_PX))
    contrast = rng.uniform(60, 110) * (1 if ground_hw.mean() < 135 else -1)
    light = ground_hw.mean() + contrast
    clips = {}
    for back, forth in (("left", "right"), ("up", "down")):
        room_px = SIDE_PX - 2 * MARGIN_PX
        way_px = room_px * rng.uniform(0.6, 0.95)
        along_n = MARGIN_PX + rng.uniform(0, room_px - way_px) + np.linspace(0, way_px, FRAMES)
        across_px = rng.uniform(MARGIN_PX, SIDE_PX - MARGIN_PX)
        places = [(at, across_px) if forth == "down" else (across_px, at) for at in along_n]
        covers = np.stack([tent(y_px) @ ink_88 @ tent(x_px).T for y_px, x_px in places])
        luma_nhw = np.rint(ground_hw + (light - ground_hw) * covers).astype(np.uint8)
        clips |= {forth: luma_nhw, back: luma_nhw[::-1]}
    return clips


def tent(centre_px: float) -> np.ndarray:
    """Weights (SIDE_PX, 8) that enlarge one axis of a digit and put its middle at ``centre_px``."""
    at_p1 = (np.arange(SIDE_PX)[:, None] + 0.5 - centre_px) * 8 / DIGIT_PX + 3.5
    return np.clip(1 - abs(at_p1 - np.arange(8)), 0, None)


def relabelled(row: dict, direction: str) -> dict:
    return row | {"label": direction, "captions": [f"something moves {direction}"]}


def write_rows(root: Path, rows: list[dict]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "metadata.jsonl").write_text(lines, encoding="utf-8")


CORPORA = {"shapes": draw_directions, "digits": draw_digits}


def judge_corpus(root: Path, name: str, *words: str, train=180, test=45, seed=0) -> dict:
    """Draw, simulate, train as the demo does and judge: what ``metrics.json`` holds."""
    CORPORA[name](root / "videos", train=train, test=test, seed=seed)
    recipe = SimulationRecipe(sensor=SensorConfig(seed=seed))
    store = root / "clips.zarr"
    assert not simulate_corpus(find_corpus(root / "videos"), store, recipe).failures
    seeds = [f"{section}.seed={seed}" for section in ("data", "train", "eval")]
    words = [f"data.path={store}", "eval.baselines=all", "eval.shots=[1]", *seeds, *words]
    run_recipe(read_recipe(recipe_path(), words), root / "run", progress=False)
    return json.loads((root / "run" / "metrics.json").read_text())


def figures(metrics: dict) -> dict[str, float]:
    """Top-1 of the model, of each baseline, and of the model where time is not its own."""
    closed = {n: one for n, one in metrics["closed_set"].items() if n != "chance"}
    return {name: one["top1"]["value"] for name, one in (closed | metrics["order"]).items()}


def check_that_time_is_read(metrics: dict) -> None:
    """Right on clips as they are, where nothing without time is; wrong where time is not theirs."""
    top1 = figures(metrics)
    assert set(top1) >= set(WITHOUT_TIME)
    assert top1["spklip"] >= 0.90
    for baseline in WITHOUT_TIME:
        assert top1["spklip"] - top1[baseline] >= 0.20, baseline
    assert top1["reversed"] < 0.25  # what a guess gets
    assert top1["shuffled"] < top1["spklip"]
    assert opposite_answers(metrics) > 0.5


def opposite_answers(metrics: dict) -> float:
    """Share of the clips played backwards that are named by where they then go."""
    names = metrics["closed_set"]["spklip"]["class_names"]
    counts_cc = np.array(metrics["order"]["reversed"]["confusion"])
    pairs = (("left", "right"), ("right", "left"), ("up", "down"), ("down", "up"))
    turned = sum(counts_cc[names.index(true), names.index(told)] for true, told in pairs)
    return float(turned / counts_cc.sum())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CORPORA)
def test_direction_is_read_from_time_alone(tmp_path, name):
    metrics = judge_corpus(tmp_path, name)
    print(json.dumps({n: round(value, 3) for n, value in figures(metrics).items()}))
    print(f"backwards, the opposite direction: {opposite_answers(metrics):.3f}")
    print(f"{metrics['train']['seconds']} s of training, {metrics['evaluation_seconds']} s judging")
    assert metrics["closed_set"]["spklip"]["clips"] == 180
    check_that_time_is_read(metrics)


def test_digits_take_each_track_in_both_directions():
    clips = digit_clips(3, seed=0)
    assert set(clips) == set(DIRECTIONS)
    for there, back in (("right", "left"), ("down", "up")):
        assert np.array_equal(clips[there], clips[back][::-1])
    ground_hw = np.median(clips["right"], axis=0)
    inked_nhw = abs(clips["right"] - ground_hw) > 20
    column_n = [inked_hw.nonzero()[1].mean() for inked_hw in inked_nhw[[0, -1]]]
    assert column_n[1] - column_n[0] > 10


@pytest.mark.parametrize("name", CORPORA)
def test_every_direction_has_as_many_clips_of_every_scene(tmp_path, name):
    CORPORA[name](tmp_path / "videos", train=6, test=3, seed=1)
    corpus = find_corpus(tmp_path / "videos")
    assert corpus.class_names == tuple(sorted(DIRECTIONS))
    assert len(corpus.clips) == 4 * (6 + 3)
    scenes: dict[str, list[str]] = {}
    for found in corpus.clips:
        scenes.setdefault(found.clip.group, []).append(found.clip.label)
    for labels in scenes.values():
        assert len({labels.count(direction) for direction in DIRECTIONS}) == 1


@pytest.mark.parametrize("ticks", [1, 7, 8, 9, 16, 33, 129])
def test_clips_are_played_backwards_tick_by_tick(ticks):
    planes_bsthw = np.random.default_rng(ticks).integers(0, 2, (2, 3, ticks, 4, 5), dtype=np.uint8)
    packed_bsghw = torch.from_numpy(np.packbits(planes_bsthw, axis=2, bitorder="little"))
    backwards = reverse_packed(packed_bsghw, ticks)
    # Segments are stretches of one clip: the last comes first.
    want = np.packbits(planes_bsthw[:, ::-1, ::-1], axis=2, bitorder="little")
    assert np.array_equal(backwards.numpy(), want)
    assert torch.equal(reverse_packed(backwards, ticks), packed_bsghw)


@pytest.mark.parametrize("windows", [2, 3, 9])
def test_shuffled_windows_are_the_same_ones_in_another_order(windows):
    feature_bvc = torch.arange(2.0 * windows * 3).reshape(2, windows, 3)
    for number in range(30):
        shuffled = shuffle_windows(feature_bvc, f"clip {number}")
        assert not torch.equal(shuffled, feature_bvc)
        assert torch.equal(shuffled.sort(dim=1).values, feature_bvc)
        assert torch.equal(shuffled, shuffle_windows(feature_bvc, f"clip {number}"))


def test_clips_of_a_class_are_shuffled_in_many_orders():
    """An order that the class decides would tell it, or spoil it, for all its clips at once."""
    feature_bvc = torch.arange(4.0).reshape(1, 4, 1)
    for direction in DIRECTIONS:
        ids = [f"test__s{scene:04d}_square_moves_{direction}" for scene in range(200)]
        orders = {tuple(shuffle_windows(feature_bvc, i).flatten().tolist()) for i in ids}
        assert len(orders) == 23  # 4! less the clip's own


@torch.no_grad()
def test_an_embedding_depends_on_order_and_direction():
    model = make_model()
    packed_bsghw = packed(planes(2, 2, 15, 8, 8))
    feature_bvc, centre_v = model.window_features(packed_bsghw, 15)
    assert len(centre_v) > 1
    plain_bd = model.encode_features(feature_bvc, centre_v)
    shuffled_bd = model.encode_features(shuffle_windows(feature_bvc, "a clip"), centre_v)
    backwards = reverse_packed(packed_bsghw, 15)
    backwards_bd = model.encode_packed(backwards, 15)
    again_bd = model.encode_packed(reverse_packed(backwards, 15), 15)
    assert (plain_bd - shuffled_bd).norm(dim=1).min() > 1e-3
    assert (plain_bd - backwards_bd).norm(dim=1).min() > 1e-3
    assert torch.equal(again_bd, model.encode_packed(packed_bsghw, 15))
