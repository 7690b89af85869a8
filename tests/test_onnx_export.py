"""The video half as ONNX: the file alone gives the model's vectors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import TINY

from spikedata import SpikeDataError
from spklip.model import SpklipConfig, SpklipModel, full_range, pack_planes
from spklip.onnx_export import _full_range, _unpacked, export_onnx
from spklip.recipe import read_recipe

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CONFIGS = {
    "scratch": SpklipConfig.preset("tiny", **TINY),
    "pooled": SpklipConfig.preset("tiny", **TINY, pool_px=3),
    "tower": SpklipConfig.preset(
        "tower", image_encoder="embedded", picture_px=64, embed_dim=16, text_layers=1
    ),
    "learnt picture": SpklipConfig.preset(
        "tower", image_encoder="embedded", picture="hsfe", picture_px=64, embed_dim=16
    ),
}


def save(config: SpklipConfig, folder: Path) -> SpklipModel:
    """A model whose normalisations have seen something, and its folder."""
    torch.manual_seed(0)
    model = SpklipModel(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    model.save_pretrained(folder)
    return model


def recipe_of(config: SpklipConfig, segments: int = 1):
    ticks = segments * (config.hsfe_ticks + 5)
    return read_recipe(
        os.devnull, [f"data.window_ticks={ticks}", f"data.segments={segments}", "eval.windows=1"]
    )


@pytest.mark.parametrize(
    ("name", "segments"),
    [
        ("scratch", 2),
        ("tower", 1),
        pytest.param("scratch", 1, marks=pytest.mark.slow),
        pytest.param("pooled", 1, marks=pytest.mark.slow),
        pytest.param("learnt picture", 1, marks=pytest.mark.slow),
    ],
)
def test_the_file_alone_gives_the_model_s_vectors_for_clips_of_any_size(tmp_path, name, segments):
    config = CONFIGS[name]
    model, recipe = save(config, tmp_path / "model"), recipe_of(config, segments)
    report = export_onnx(tmp_path / "model", recipe, tmp_path / "net.onnx")
    assert report.max_difference < 1e-4
    assert report.bytes == report.out.stat().st_size
    assert (report.ticks, report.features) == (config.hsfe_ticks + 5, 16)
    session = onnxruntime.InferenceSession(report.out)
    (given,), (told,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type) == ("packed_bsghw", "tensor(uint8)")
    assert given.shape == ["clips", segments, -(-report.ticks // 8), "rows", "columns"]
    assert told.name == "embedding_bd"
    rng = np.random.default_rng(1)
    for clips, height, width in ((1, 31, 44), (4, 62, 37)):
        planes = rng.random((clips, segments, report.ticks, height, width)) < rng.random(width)
        packed = pack_planes(torch.from_numpy(planes))
        (got,) = session.run(None, {"packed_bsghw": packed.numpy()})
        with torch.no_grad():
            want = model.encode_packed(packed, report.ticks).numpy()
        np.testing.assert_allclose(got, want, atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    about = session.get_modelmeta().custom_metadata_map
    assert about["spklip:ticks"] == str(report.ticks)
    assert json.loads(about["spklip:data"])["segments"] == segments


@pytest.mark.slow
def test_a_file_that_answers_otherwise_is_not_written(tmp_path, monkeypatch):
    from spklip import onnx_export

    config = CONFIGS["scratch"]
    save(config, tmp_path / "model")
    monkeypatch.setattr(onnx_export, "_unpacked", lambda x, t: 1 - _unpacked(x, t))
    with pytest.raises(SpikeDataError, match=r"not written: the exported net's vectors differ"):
        export_onnx(tmp_path / "model", recipe_of(config), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize("pixels", [1, 49, 50, 51, 99, 100, 149, 150, 151, 250, 350, 3600])
def test_white_is_the_pixel_that_the_model_takes(pixels):
    rates = torch.rand(2, 1, 1, pixels, generator=torch.Generator().manual_seed(pixels))
    assert torch.equal(_full_range(rates), full_range(rates))


def test_a_file_that_is_there_stays(tmp_path):
    (tmp_path / "net.onnx").write_text("mine")
    with pytest.raises(SpikeDataError, match="exists already"):
        export_onnx(tmp_path / "model", recipe_of(CONFIGS["scratch"]), tmp_path / "net.onnx")


def test_segments_shorter_than_a_window_are_refused(tmp_path):
    save(CONFIGS["scratch"], tmp_path / "model")
    recipe = read_recipe(os.devnull, ["data.window_ticks=6"])
    with pytest.raises(SpikeDataError, match="segments of 6 ticks; a window of the model has 7"):
        export_onnx(tmp_path / "model", recipe, tmp_path / "net.onnx")


def test_a_tower_of_spiking_neurons_is_refused(tmp_path):
    config = SpklipConfig.preset("tiny", **TINY, encoder="full_spiking")
    save(config, tmp_path / "model")
    with pytest.raises(SpikeDataError, match="ONNX has no spiking neurons"):
        export_onnx(tmp_path / "model", recipe_of(config), tmp_path / "net.onnx")


def test_a_missing_package_is_named_with_what_to_install(tmp_path, monkeypatch):
    from spklip import onnx_export

    monkeypatch.setattr(onnx_export, "NEEDS", ("onnx", "onnx_of_tomorrow"))
    with pytest.raises(SpikeDataError, match=r"ONNX needs onnx_of_tomorrow: pip install 'spklip"):
        export_onnx(tmp_path / "model", recipe_of(CONFIGS["scratch"]), tmp_path / "net.onnx")


@pytest.mark.slow
def test_the_command_writes_it_and_tells_the_difference(tmp_path):
    config = CONFIGS["scratch"]
    save(config, tmp_path / "model")
    run = [str(Path(sys.executable).parent / "spklip-eval"), "model", "--export-onnx", "net.onnx"]
    words = [f"data.window_ticks={config.hsfe_ticks}"]

    def call(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*run, *words, *more], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    done = call("--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["out"] == "net.onnx"
    assert told["max_difference"] <= 1e-4
    assert (tmp_path / "net.onnx").is_file()
    refused = call("--search", "a person waving")
    assert refused.returncode == 2
    assert "--export-onnx goes with" in refused.stderr
