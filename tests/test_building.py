"""What a checkpoint from somewhere holds is a model, or refused in one line."""

import json
import os
import struct

import pytest

from spikedata import SpikeDataError
from spklip.building import build_model, load_model_parts
from spklip.digests import write_digests
from spklip.model import SpklipConfig, SpklipModel, build_tokenizer
from spklip.recipe import ModelConfig

SMALL = {
    "pool_px": 2,
    "group_blocks": (1,),
    "group_width": 8,
    "temporal_width": 8,
    "embed_dim": 8,
    "text_width": 8,
}


@pytest.fixture
def checkpoint(tmp_path):
    config = SpklipConfig.preset("tiny", **SMALL)
    SpklipModel(config).save_pretrained(tmp_path / "m")
    build_tokenizer(config).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def load(checkpoint):
    model = ModelConfig(checkpoint=str(checkpoint))
    config, _ = load_model_parts(model)
    return build_model(model, config)


def changed(config, **changes):
    return json.dumps(json.loads(config) | changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "null",
        lambda text: "[1]",
        lambda text: '"a"',
        lambda text: changed(text, group_blocks=7),
        lambda text: changed(
            text, text_config={"model_type": "clip_text_model", "vocab_size": 1.5}
        ),
        lambda text: changed(text, text_config={}),
        lambda text: changed(text, text_config=[]),
        lambda text: changed(text, text_pooling="widest"),
        lambda text: changed(text, text_pooling=[]),
        lambda text: changed(text, text_encoder="bert", text_config={"model_type": "no such"}),
    ],
    ids=[
        "null",
        "list",
        "text",
        "a-number",
        "a-half",
        "no-type",
        "a-list",
        "pooling",
        "no-pooling",
        "unknown",
    ],
)
def test_a_config_of_another_shape_is_refused_in_one_line(checkpoint, change, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = checkpoint / "config.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(SpikeDataError) as caught:
        load(checkpoint)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 64,
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 8) + b'{"a": 1}',
    ],
    ids=["empty", "noise", "endless", "null", "no-tensor"],
)
def test_weights_that_are_none_are_refused_in_one_line(checkpoint, data):
    (checkpoint / "model.safetensors").write_bytes(data)
    with pytest.raises(SpikeDataError, match="m: cannot be loaded: ") as caught:
        load(checkpoint)
    assert len(str(caught.value).splitlines()) == 1


def test_a_checkpoint_that_is_whole_is_loaded(checkpoint):
    assert load(checkpoint).config.embed_dim == 8


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def _without_end(path):
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("damage", [_flip, _without_end, os.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer_config.json"])
def test_a_file_that_is_not_what_its_digest_says_is_refused_in_one_line(checkpoint, damage, name):
    (checkpoint / "README.md").write_text("mine")
    write_digests(checkpoint)
    damage(checkpoint / name)
    if name == "config.json" and damage is os.unlink:
        said = "no checkpoint there"
    else:
        said = f"m: {name} is (missing|not what was written, its SHA-256 is another)"
    with pytest.raises(SpikeDataError, match=said) as caught:
        load(checkpoint)
    assert len(str(caught.value).splitlines()) == 1


def test_a_card_may_be_changed_and_a_file_added(checkpoint):
    (checkpoint / "README.md").write_text("mine")
    write_digests(checkpoint)
    (checkpoint / "README.md").write_text("what it is for")
    (checkpoint / ".gitattributes").write_text("")
    assert load(checkpoint).config.embed_dim == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "sha256.json is no list of digests"),
        ("null", "sha256.json is no list of digests"),
        ("[" * 100_000, "sha256.json is no list of digests"),
        ("{" + " " * 2_000_000 + "}", "sha256.json is no list of digests"),
        ('{"../m/config.json": "0"}', "../m/config.json is missing"),
        ('{"/dev/zero": "0"}', "/dev/zero is missing"),
        ('{"config.json": 7}', "config.json is not what was written"),
        (json.dumps({"a" * 100_000: "0"}), "a" * 80 + " is missing"),
    ],
    ids=["empty", "null", "deep", "long", "outside", "endless", "number", "long-name"],
)
def test_digests_from_anywhere_are_compared_or_refused_in_one_line(checkpoint, text, said):
    (checkpoint / "sha256.json").write_text(text)
    with pytest.raises(SpikeDataError) as caught:
        load(checkpoint)
    assert f"m: {said}" in str(caught.value)
    assert len(str(caught.value)) < 1000
