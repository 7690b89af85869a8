"""What a model looked at: weights of windows, maps of places, and the page that shows them."""

import base64
import io
import json
import os
import re
import types
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from spikedata_cli.train import eval_app
from test_model import make_model, packed, planes
from test_train import TINY
from tiny_encoders import write_encoders
from typer.testing import CliRunner

from spikedata import Clip, Page, SpikeClips, SpikeDataError, create_store, open_clips
from spikedata.bits import pack_ticks
from spklip import explain_clips, read_recipe, recipe_of_run
from spklip.explain import as_map, explain
from spklip.explain_page import lay_heat
from spklip.model import SpklipConfig, SpklipModel, build_tokenizer
from spklip.model.video_tower import sine_positions
from spklip.run_folder import resolved_recipe
from spklip.splits import take_turns

TICKS, WINDOWS = 128, 5


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Folder with small encoders of several kinds, of random weights."""
    return write_encoders(tmp_path_factory.mktemp("encoders"))


def build(encoders, kind, **changes):
    """An untrained model: from scratch, or on the image encoder that ``kind`` names."""
    torch.manual_seed(0)
    if kind == "tiny":
        return SpklipModel(SpklipConfig.preset("tiny", **TINY, pool_px=1))
    place = kind if kind == "embedded" or ":" in kind else str(encoders / kind)
    changes = {"windows_per_segment": WINDOWS} | changes
    return SpklipModel(SpklipConfig.preset("tower", image_encoder=place, **changes))


def random_clip(ticks=TICKS, height=40, width=48):
    generator = torch.Generator().manual_seed(1)
    shape = (1, -(-ticks // 8), height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def random_text(model):
    return torch.randn(model.config.embed_dim, generator=torch.Generator().manual_seed(2))


class LinearModel(torch.nn.Module):
    """One block gives a map; its places, weighed, are features; these, weighed, are the clip."""

    def __init__(self, map_vchw, place_hw, weight_dvc):
        super().__init__()
        self.config = SimpleNamespace(pool_px=1, image_encoder="")
        self.map_vchw, self.place_hw = map_vchw, place_hw
        self.block = torch.nn.Identity()
        self.video = SimpleNamespace(
            backbone=SimpleNamespace(blocks=[self.block]),
            temporal=SimpleNamespace(layers=[]),
            read=lambda feature_bvc, _: torch.einsum("bvc,dvc->bd", feature_bvc, weight_dvc),
        )

    def window_features(self, packed_bsghw, ticks):
        feature_vc = (self.block(self.map_vchw) * self.place_hw).sum(dim=(2, 3))
        return feature_vc[None], torch.arange(len(feature_vc), dtype=torch.float32)


def test_weights_of_a_linear_model_are_the_contributions_worked_out_by_hand():
    # Two windows of two features each, from 2 x 2 maps whose places count differently.
    place = torch.tensor([[0.25, 0.5], [0.0, 0.25]])
    first = [[[4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 8.0]]]  # features 1 and 2
    second = [[[0.0, 6.0], [0.0, 0.0]], [[4.0, 4.0], [4.0, 4.0]]]  # features 3 and 4
    along = [[1.0, 1.0], [3.0, -1.0]]  # what each feature adds to the first dimension
    across = [[0.0, 2.0], [0.0, 0.0]]  # and to the second
    model = LinearModel(torch.tensor([first, second]), place, torch.tensor([along, across]))
    packed = torch.zeros((1, 1, 2, 2), dtype=torch.uint8)
    # The clip is (1 + 2 + 9 - 4, 4) = (8, 4); its length is the root of 80.
    found = explain(model, packed, 8, torch.tensor([5.0, 0.0]))
    length = 80**0.5
    assert found.score == pytest.approx(8 / length)
    assert found.weight_v.tolist() == pytest.approx([3 / length, 5 / length])
    assert found.centre_v.tolist() == [0, 1]
    # Places count a fourth in the mean, so that the mean gradients of the channels are (1, 1) and
    # (3, -1) over four lengths: 3 x 6 - 4 is kept, 3 x 0 - 4 is not.
    share = 0.25 / length
    maps = [[[4, 0], [0, 8]], [[0, 14], [0, 0]]]
    want = torch.tensor(maps) * share
    torch.testing.assert_close(found.map_vhw, want.float())


def test_attention_is_that_of_the_windows_in_each_layer():
    model = make_model()
    spikes = packed(planes(1, 2, 15, 8, 8))
    found = explain(model, spikes[0], 15, torch.randn(model.config.embed_dim))
    layers, windows = model.video.temporal.layers, len(found.centre_v)
    assert found.attention_lvv.shape == (len(layers), windows, windows)
    torch.testing.assert_close(found.attention_lvv.sum(2), torch.ones(len(layers), windows))
    with torch.no_grad():
        feature, centre = model.window_features(spikes, 15)
        place = sine_positions(centre / model.config.step_ticks, feature.shape[2])
        x = layers[0].norm1(feature + model.video.time(place))[0]
        attention = layers[0].self_attn
        query, key, _ = (x @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=1)
        heads = [part.unflatten(1, (attention.num_heads, -1)) for part in (query, key)]
        score = torch.einsum("vhd,whd->hvw", *heads) / attention.head_dim**0.5
    torch.testing.assert_close(found.attention_lvv[0], score.softmax(dim=2).mean(dim=0))


def tower_of_one_place(row, column):
    """Makes a tower whose vector is the mean of a 4 x 4 map that is black but for one place."""

    class Tower(torch.nn.Module):
        size_px, mean, std = 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, picture_nchw):
            seen = torch.zeros(4, 4)
            seen[row, column] = 1
            return torch.nn.functional.avg_pool2d(picture_nchw, 8) * seen * self.scale

    return Tower


def test_the_map_of_a_tower_that_sees_one_place_is_there(encoders, monkeypatch):
    module = types.ModuleType("mine")
    module.tower = tower_of_one_place(1, 2)
    monkeypatch.setitem(__import__("sys").modules, "mine", module)
    model = build(encoders, "mine:tower")
    packed, text = random_clip(), random_text(model)
    both = [explain(model, packed, TICKS, sign * text) for sign in (1, -1)]
    (found,) = [one for one in both if float(one.map_vhw.sum()) > 0][:1]
    assert found.map_vhw.shape == (WINDOWS, 40, 48)
    for map_hw in found.map_vhw[found.map_vhw.amax(dim=(1, 2)) > 0]:
        row, column = divmod(int(map_hw.argmax()), 48)
        assert 10 <= row < 20
        assert 24 <= column < 36
        assert float(map_hw[25:].abs().max()) == 0
        assert float(map_hw[:, :18].abs().max()) == 0


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *((k, {}) for k in ("tiny", "vit", "headless", "resnet", "clip", "siglip", "embedded")),
        ("vit", {"temporal_adapter_width": 4, "unfreeze_stages": 1}),
        ("resnet", {"picture": "hsfe"}),
    ],
)
def test_every_kind_of_model_is_explained_and_left_as_it_was(encoders, kind, changes):
    model = build(encoders, kind, **changes).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    learns = [parameter.requires_grad for parameter in model.parameters()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    packed, text = random_clip(), random_text(model)
    found = explain(model, packed, TICKS, text)
    again = model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == learns
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    with torch.no_grad():
        video_d = model.eval().encode_packed(packed[None], TICKS)[0]
    # Windows go through a tower a few at a time where nothing has a gradient.
    assert found.score == pytest.approx(float(video_d @ text / text.norm()), abs=1e-5)
    assert found.map_vhw.shape == (len(found.weight_v), 40, 48)
    assert found.centre_v.shape == found.weight_v.shape
    assert bool((found.map_vhw >= 0).all())
    assert bool(torch.isfinite(found.map_vhw).all())
    assert float(found.weight_v.abs().max()) > 0
    against = explain(model, packed, TICKS, -text)
    torch.testing.assert_close(against.weight_v, -found.weight_v)
    assert float((found.map_vhw + against.map_vhw).max()) > 0


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_windows_of_an_untrained_tower_add_up_to_the_score(encoders, kind):
    model = build(encoders, kind)
    found = explain(model, random_clip(), TICKS, random_text(model))
    # The clip is the mean of its windows: the running statistics begin as 0 and 1.
    assert float(found.weight_v.sum()) == pytest.approx(found.score, abs=1e-4)


@pytest.mark.parametrize("kind", ["vit", "clip", "tiny"])
def test_a_window_of_another_picture_changes_its_own_map(encoders, kind):
    model = build(encoders, kind)
    text, packed = random_text(model), random_clip()
    dark = packed.clone()
    dark[:, :, :, 24:] = 0
    one, other = (explain(model, clip, TICKS, text).map_vhw for clip in (packed, dark))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize(("tokens", "extra"), [(16, 0), (17, 1), (21, 5)])
def test_tokens_before_those_of_places_are_left_out(tokens, extra):
    seen = torch.arange(tokens * 3.0).reshape(1, tokens, 3)
    grid = as_map(seen)
    assert grid.shape == (1, 3, 4, 4)
    assert grid[0, :, 0, 1].tolist() == seen[0, extra + 1].tolist()
    assert grid[0, :, 1, 0].tolist() == seen[0, extra + 4].tolist()


def test_tokens_that_are_no_square_are_refused():
    with pytest.raises(SpikeDataError, match="112 tokens, which are no square map"):
        as_map(torch.zeros(1, 112, 3))


def test_a_text_without_direction_is_refused(encoders):
    model = build(encoders, "tiny")
    with pytest.raises(ValueError, match="must be a vector with a direction, got length 0"):
        explain(model, random_clip(), TICKS, torch.zeros(model.config.embed_dim))


def test_a_tower_without_a_map_is_refused(encoders, monkeypatch):
    module = types.ModuleType("mine")
    module.tower = lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(4))
    monkeypatch.setitem(__import__("sys").modules, "mine", module)
    model = build(encoders, "mine:tower")
    with pytest.raises(SpikeDataError, match="'mine:tower': has no map of places"):
        explain(model, random_clip(), TICKS, random_text(model))


def test_heat_is_red_to_yellow_and_leaves_the_rest_grey():
    rgb = lay_heat(np.array([[0.5, 0.5, 0.0]]), np.array([[0.0, 0.5, 1.0]]))
    assert rgb.shape == (80, 240, 3)
    assert rgb[0, 0].tolist() == [128, 128, 128]
    assert rgb[0, 239].tolist() == [191, 191, 0]
    red, green, blue = rgb[0, 120].tolist()
    assert red > green > blue


def test_classes_take_turns():
    assert take_turns([1, 1, 1, 0, 0, 2], 4) == [3, 0, 5, 4]
    assert take_turns([0], 8) == [0]


def test_coloured_pictures_in_a_grid_escape_their_text_and_are_nothing_without_tiles():
    page = Page("t")
    page.colour_pictures([])
    assert '<div class="tiles">' not in page.render()
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    page.colour_pictures([(rgb, ['a"b', "<i>"])])
    shown = page.render()
    assert 'alt="a&#34;b, &lt;i&gt;"' in shown
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', shown)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), rgb)


def write_clips(path, classes=("up", "<b>down")):
    """Twelve clips of two classes or none, half of them to be judged."""
    rng = np.random.default_rng(0)
    with create_store(path, recipe={}, class_names=classes) as writer:
        for n in range(12):
            clip = Clip(
                id=f"clip&{n:02d}",
                label=classes[n % 2] if classes else None,
                captions=(f"sentence {n}",),
                split="test" if n < 6 else "train",
                group=f"g{n}",
            )
            with writer.clip(clip, height_px=12, width_px=16, tick_rate_hz=250.0) as out:
                out.append(pack_ticks(rng.random((128, 12, 16)) < 0.3))
                out.finish(ticks=128, attributes={})
    return path


def save_run(folder, model, store):
    tokenizer = build_tokenizer(model.config)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    fed = [f"data.path={json.dumps(str(store))}", "data.window_ticks=128", "train.precision=fp32"]
    recipe = read_recipe(os.devnull, fed)
    (folder / "recipe.yaml").write_text(resolved_recipe(recipe), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory, encoders):
    folder = tmp_path_factory.mktemp("home")
    store = write_clips(folder / "clips.zarr")
    runs = {k: save_run(folder / k, build(encoders, k), store) for k in ("tiny", "vit", "embedded")}
    return SimpleNamespace(store=store, runs=runs)


def evaluate(home, monkeypatch, folder, *words, kind="tiny"):
    monkeypatch.chdir(folder)
    return CliRunner().invoke(eval_app, [str(home.runs[kind]), *words])


@pytest.mark.parametrize("kind", ["tiny", "vit", "embedded"])
def test_the_page_shows_each_clip_and_needs_no_other_file(home, tmp_path, monkeypatch, kind):
    done = evaluate(home, monkeypatch, tmp_path, "--explain", "--json", kind=kind)
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["explain.html"]
    told = json.loads(done.stdout)
    ids = [clip["id"] for clip in told["clips"]]
    assert ids == ["clip&00", "clip&01", "clip&02", "clip&03", "clip&04", "clip&05"]
    page = (tmp_path / "explain.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "<b>down" not in page
    assert [h.replace("&amp;", "&") for h in re.findall("<h2>(.*)</h2>", page)] == ids
    texts = [text for clip in told["clips"] for text in clip["texts"]]
    windowed = sum(len(clip["texts"][0]["weights"]) > 1 for clip in told["clips"])
    assert page.count("<svg") == len(texts) + windowed  # weights, and the windows' attention
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == sum(min(4, len(text["weights"])) for text in texts)
    for data in pictures:
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (picture.mode, picture.size) == ("RGB", (240, 180))
    for clip in told["clips"]:
        wrong = clip["answer"] != clip["label"]
        assert [text["text"] for text in clip["texts"]] == [clip["answer"], clip["label"]][
            : 1 + wrong
        ]
        scores = [text["score"] for text in clip["texts"]]
        assert scores == sorted(scores, reverse=True)


def test_clips_and_a_sentence_are_chosen(home, tmp_path, monkeypatch):
    words = [
        "--explain",
        "--clip",
        "clip&03",
        "--clip",
        "clip&01",
        "--text",
        "a <i>b",
        "--out",
        "p",
    ]
    done = evaluate(home, monkeypatch, tmp_path, *words)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("clip&03  label: <b>down  answer: ")
    assert re.match(r"  +-?0\.\d{3}  a <i>b  \(most by the window around tick \d+: ", lines[1])
    assert lines[2].startswith("clip&01")
    assert lines[-1] == "page: p"
    assert "a &lt;i&gt;b" in (tmp_path / "p").read_text(encoding="utf-8")


def test_a_clip_that_cannot_be_read_is_left_out(home, tmp_path, monkeypatch):
    read = SpikeClips.__getitem__

    def damaged(clips, index):
        if clips.ids[index] in lost:
            raise SpikeDataError("chunk 0 is damaged")
        return read(clips, index)

    monkeypatch.setattr(SpikeClips, "__getitem__", damaged)
    lost = ["clip&03"]
    words = ["--explain", "--clip", "clip&03", "--clip", "clip&01", "--json", "--out", "p"]
    done = evaluate(home, monkeypatch, tmp_path, *words)
    told = json.loads(done.stdout)
    assert done.exit_code == 1
    assert [clip["id"] for clip in told["clips"]] == ["clip&01"]
    assert [failure["id"] for failure in told["failures"]] == ["clip&03"]
    assert "failed: clip&03: chunk 0 is damaged" in done.stderr
    assert "clip&amp;03: chunk 0 is damaged" in (tmp_path / "p").read_text(encoding="utf-8")
    lost.append("clip&01")
    done = evaluate(home, monkeypatch, tmp_path, *words, "--overwrite")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no clip can be read; chunk 0 is damaged" in done.stderr


def test_the_same_clips_make_the_same_page(home, tmp_path):
    recipe = recipe_of_run(home.runs["tiny"])
    pages = [tmp_path / name for name in "ab"]
    for page in pages:
        explain_clips(home.runs["tiny"], recipe, page, clips=["clip&00"])
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_clips_of_another_split_are_explained_where_it_is_named(home, tmp_path, monkeypatch):
    words = ["--explain", "--clip", "clip&08", "--json"]
    split = ["--split", "train", "data.train_split=test"]
    done = evaluate(home, monkeypatch, tmp_path, *words, *split)
    assert done.exit_code == 0, done.output
    assert [clip["id"] for clip in json.loads(done.stdout)["clips"]] == ["clip&08"]


def test_clips_without_classes_are_compared_with_their_captions(home, tmp_path, monkeypatch):
    write_clips(tmp_path / "plain.zarr", ())
    words = ["--explain", "--data", "plain.zarr", "--clip", "clip&02", "--json"]
    done = evaluate(home, monkeypatch, tmp_path, *words)
    assert done.exit_code == 0, done.output
    (clip,) = json.loads(done.stdout)["clips"]
    assert (clip["label"], clip["answer"]) == (None, None)
    assert [text["text"] for text in clip["texts"]] == ["sentence 2"]


def test_a_damaged_clip_is_told_in_one_line(home, tmp_path, monkeypatch):
    store = write_clips(tmp_path / "damaged.zarr")
    (shard,) = (store / "clips" / "clip&02").glob("c.*")
    shard.write_bytes(b"x")
    words = ["--explain", "--data", "damaged.zarr"]
    done = evaluate(home, monkeypatch, tmp_path, *words, "--clip", "clip&02")
    assert done.exit_code == 1, done.output
    assert re.search("error: no clip can be read; .*clip&02", done.stderr)
    assert not (tmp_path / "explain.html").exists()
    done = evaluate(home, monkeypatch, tmp_path, *words)
    assert done.exit_code == 1, done.output
    assert re.search("failed: clip&02: .*clip&02: shard .* is cut off", done.stderr)
    assert (tmp_path / "explain.html").exists()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--explain", "--clip", "nobody"], 1, "no clip 'nobody' among the 6 of split 'test'"),
        (["--explain", "--text", " "], 2, "an explanation needs a sentence"),
        (["--text", "x"], 2, "--clip and --text mean something with --explain alone"),
        (["--clip", "x"], 2, "--clip and --text mean something with --explain alone"),
        (["--explain", "--search", "x"], 2, "--explain goes with neither --search"),
        (["--explain", "--out", "."], 1, ".: is a folder; give the name of a file"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(home, tmp_path, monkeypatch, words, status, message):
    done = evaluate(home, monkeypatch, tmp_path, *words)
    assert done.exit_code == status, done.output
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays_without_overwrite(home, tmp_path, monkeypatch):
    (tmp_path / "explain.html").write_text("mine")
    words = ["--explain", "--clip", "clip&00"]
    done = evaluate(home, monkeypatch, tmp_path, *words)
    assert done.exit_code == 1
    assert "explain.html: exists already. Give --overwrite to replace it" in done.stderr
    assert (tmp_path / "explain.html").read_text() == "mine"
    assert evaluate(home, monkeypatch, tmp_path, *words, "--overwrite").exit_code == 0
    assert (tmp_path / "explain.html").read_text(encoding="utf-8").startswith("<!doctype")
    inside = ["--explain", "--out", str(home.store / "zarr.json"), "--overwrite"]
    assert "which is read here" in evaluate(home, monkeypatch, tmp_path, *inside).stderr
    assert len(open_clips(home.store).clips) == 12
