"""Energy of a model's video tower: in a run, on its own, in a sweep, beside its CNN."""

import csv
import json
import os
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import yaml
from spikedata_cli.train import app, eval_app
from test_cli_train import SMALL, write_store
from test_features import WORDS
from torch import nn
from typer.testing import CliRunner

from spikedata import Page, SpikeDataError, collate
from spklip.building import build_model, load_model_parts
from spklip.embed import draw_windows
from spklip.energy import COSTS
from spklip.energy_report import add_energy, energy_line, shown_count, shown_energy
from spklip.model.pooling import pool_packed
from spklip.recipe import read_recipe
from spklip.report import render_report, summary_table
from spklip.run import evaluate_run, recipe_of_run, run_recipe
from spklip.splits import open_splits
from spklip.tower_energy import count_energy, read_energy

COUNTED = [*SMALL, "eval.energy_clips=3"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A store and a run on it whose energy was counted."""
    folder = tmp_path_factory.mktemp("energy")
    store = write_store(folder / "clips.zarr")
    recipe = read_recipe(os.devnull, [*COUNTED, f"data.path={store}"])
    metrics = run_recipe(recipe, folder / "run", progress=False)
    return SimpleNamespace(folder=folder, store=store, recipe=recipe, metrics=metrics)


def parts(recipe):
    """A model as the recipe says, and its clips."""
    config, _ = load_model_parts(recipe.model)
    return build_model(recipe.model, config), open_splits(recipe).test


# --- in a run -------------------------------------------------------------------------------------


def test_a_run_tells_what_its_tower_computes_for_a_clip(home):
    energy = home.metrics["energy"]
    layers = {layer["name"]: layer for layer in energy["layers"] if layer["kind"] != "attention"}
    assert energy["clips"] == 3
    # Two windows of seven ticks, 12x16 pixels, 3x3 taps: the branches' four channels see bits,
    # and the first convolution behind them real values.
    first, merge = layers["extractor.temporal.filter"], layers["extractor.temporal.merge"]
    assert (first["macs"], first["sees"]) == (2 * 12 * 16 * 4 * 7 * 9, "bits")
    assert (merge["macs"], merge["sees"]) == (2 * 12 * 16 * 4 * 4 * 9, "real values")
    assert [name for name, layer in layers.items() if layer["spikes"]] == [first["name"]]
    assert energy["spike_macs"] == first["macs"]
    assert energy["share"] == first["macs"] / energy["macs"]
    assert energy["macs"] == sum(layer["macs"] for layer in energy["layers"])
    left = energy["macs"] - first["macs"]
    for name, costs in COSTS.items():
        want = costs.mac_pj * left + costs.ac_pj * first["rate"] * first["macs"]
        assert energy["pj"][name] == pytest.approx(want, rel=1e-12)
        assert energy["dense_pj"][name] == costs.mac_pj * energy["macs"]
    assert energy["parameters"] > sum(layer["parameters"] for layer in layers.values())


def test_the_firing_rate_is_that_of_the_bits_in_the_windows(home):
    drawing = draw_windows(open_splits(home.recipe).test, home.recipe, 0)
    # The classes take turns: the first clip of each of three.
    assert [int(drawing.labels[index]) for index in (0, 2, 4)] == [0, 1, 2]
    spikes = []
    for index in (0, 2, 4):
        batch = collate([drawing[index]])
        planes_bsthw = pool_packed(batch["packed_bsghw"], batch["ticks"], 1)
        spikes.append(planes_bsthw[:, :, :7].float())  # each segment holds one window
    first = home.metrics["energy"]["layers"][0]
    assert first["rate"] == pytest.approx(float(torch.stack(spikes).mean()), rel=1e-6)
    assert first["spike_count"] == float(torch.stack(spikes).sum()) / 3
    inside = F.conv2d(
        torch.cat(spikes).flatten(0, 1).double(), torch.ones(1, 7, 3, 3).double(), padding=1
    )
    assert first["acs"] == pytest.approx(4 * float(inside.sum()) / 3, rel=1e-12)
    assert first["acs"] < first["sops"]


def test_judging_again_counts_the_same(home, tmp_path):
    checkpoint = home.folder / "run"
    judged = evaluate_run(checkpoint, recipe_of_run(checkpoint), tmp_path / "again", progress=False)
    assert judged["energy"] == home.metrics["energy"]


def test_report_and_summary_tell_it(home):
    page = (home.folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "Energy of the video tower" in page
    assert "extractor.temporal.filter" in page
    without = render_report({k: v for k, v in home.metrics.items() if k != "energy"})
    assert "Not done: the run is older than this" in without
    assert page.count("<svg") == without.count("<svg") + 2  # firing rates, energy and accuracy
    (line,) = [x for x in summary_table(home.metrics).splitlines() if x.startswith("energy")]
    assert shown_energy(home.metrics["energy"]["pj"]["fp32"]) in line
    assert f"{home.metrics['energy']['share']:.0%} of the arithmetic on spikes" in line


def test_no_clips_are_told(home):
    recipe = read_recipe(os.devnull, [*SMALL, f"data.path={home.store}"])
    energy = read_energy(*parts(recipe), recipe)
    assert energy == {"skipped": "eval.energy_clips is 0"}
    assert energy_line(energy) == ""
    page = Page("x")
    add_energy(page, energy)
    assert "Not done: eval.energy_clips is 0" in page.render()


def test_a_frozen_tower_whose_vectors_are_kept_is_counted_from_the_bits(home, tmp_path):
    words = [*WORDS, "eval.energy_clips=1", "model.changes.picture_px=64"]
    words += [f"data.path={home.store}"]
    metrics = run_recipe(read_recipe(os.devnull, words), tmp_path / "run", progress=False)
    layers = metrics["energy"]["layers"]
    assert layers[0]["name"].endswith("stem.0")
    # Three windows' pictures of 64x64 pixels, halved by the stem: 32 channels of 3x3x3 taps.
    assert layers[0]["macs"] == 3 * 32 * 32 * 32 * 27
    assert metrics["energy"]["rate"] is None
    assert metrics["energy"]["share"] == 0
    assert "<svg" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


class Hidden(nn.Module):
    def forward(self, x_nc):
        return F.bilinear(x_nc, x_nc, torch.ones(16, x_nc.shape[1], x_nc.shape[1]))


def test_a_tower_that_hides_its_products_costs_a_run_nothing(home):
    model, clips = parts(home.recipe)
    model.video.leave = Hidden()
    with pytest.raises(SpikeDataError, match="hides what it multiplies"):
        count_energy(model, clips, home.recipe, progress=False)
    told = read_energy(model, clips, home.recipe, progress=False)
    assert set(told) == {"skipped"}


def test_a_spiking_encoder_stands_beside_its_cnn(home):
    """As if the model were a spiking one: the field is all that is asked for."""
    model, clips = parts(home.recipe)
    assert "cnn_pj" not in count_energy(model, clips, home.recipe, progress=False)
    model.config.encoder = "spiking_resnet"
    energy = count_energy(model, clips, home.recipe, progress=False)
    # The counterpart is the same network with other weights, and sees the same bits.
    assert energy["cnn_pj"] == energy["pj"]
    assert energy["cnn_ratio"] == {"fp32": 1, "fp16": 1, "int8": 1}
    assert "1.00 of its CNN's energy" in energy_line(energy)
    assert model.config.encoder == "spiking_resnet"
    page = Page("x")
    add_energy(page, energy)
    assert "The same network without spikes" in page.render()


# --- numbers for people ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pj", "text"),
    [(0, "0 pJ"), (0.5, "0.5 pJ"), (12.345, "12.3 pJ"), (4.6e6, "4.6 µJ"), (5.2e8, "520 µJ")]
    + [(999.96, "1000 pJ"), (1.234e9, "1.23 mJ"), (2e12, "2 J"), (3.2e14, "320 J")],
)
def test_energies_have_the_unit_that_suits_them(pj, text):
    assert shown_energy(pj) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (7, "7"), (1234, "1.23 k"), (4.98e10, "49.8 G")]
)
def test_counts_have_their_prefix(count, text):
    assert shown_count(count) == text


def test_layers_names_are_no_mathematics_and_no_tags(home):
    energy = json.loads(json.dumps(home.metrics["energy"]))
    energy["layers"][0]["name"] = "$\\frac{<b>"
    page = Page("x")
    add_energy(page, energy)
    assert "<b>" not in page.render()


# --- on its own -----------------------------------------------------------------------------------


def count(home, monkeypatch, folder, *words):
    monkeypatch.chdir(folder)
    return CliRunner().invoke(eval_app, [str(home.folder / "run"), "--energy", *words])


def test_the_command_prints_the_table_and_writes_nothing(home, tmp_path, monkeypatch):
    done = count(home, monkeypatch, tmp_path, "--costs", "int8")
    assert done.exit_code == 0, done.output
    assert list(tmp_path.iterdir()) == []
    lines = done.stdout.splitlines()
    assert re.split(r" {2,}", lines[0]) == (
        ["layer", "kind", "sees", "dense MACs", "firing rate", "SOPs", "ACs"]
        + ["parameters", "energy"]
    )
    energy = home.metrics["energy"]
    assert len(lines) == len(energy["layers"]) + 3  # heads, sum and summary
    assert lines[-2].startswith("all layers")
    assert lines[-2].endswith(shown_energy(energy["pj"]["int8"]))
    assert lines[-1].startswith("energy of the video tower (int8, 45 nm): ")


def test_the_command_gives_json_and_a_page(home, tmp_path, monkeypatch):
    done = count(home, monkeypatch, tmp_path, "--json", "--out", "e.html")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == home.metrics["energy"] | {"page": "e.html"}
    page = (tmp_path / "e.html").read_text(encoding="utf-8")
    assert "extractor.temporal.filter" in page
    assert page.count("<svg") == 1
    again = count(home, monkeypatch, tmp_path, "--out", "e.html")
    assert again.exit_code == 1
    assert "e.html: exists already. Give --overwrite to replace it" in again.stderr


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--explain"], 2, "--energy goes with neither --search, --top, --embed nor --explain"),
        (["--search", "x"], 2, "--energy goes with neither --search"),
        (["eval.energy_clips=0"], 1, "eval.energy_clips is 0: say on how many"),
        (["--out", "."], 1, ".: is a folder; give the name of a file"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(home, tmp_path, monkeypatch, words, status, message):
    done = count(home, monkeypatch, tmp_path, *words)
    assert done.exit_code == status, done.output
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_costs_alone_are_refused(home):
    done = CliRunner().invoke(eval_app, [str(home.folder / "run"), "--costs", "fp16"])
    assert done.exit_code == 2
    assert "--costs means something with --energy alone" in done.stderr


# --- in a sweep -----------------------------------------------------------------------------------


def test_a_sweep_has_energy_and_firing_rate_of_every_run(home, tmp_path, monkeypatch):
    runs = {"wide": ["model.changes.extractor_channels=16"], "none": ["eval.energy_clips=0"]}
    words = [*COUNTED, "train.max_steps=1", f"data.path={home.store}"]
    sweep = {"recipe": "smoke.yaml", "set": words, "runs": runs}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(sweep))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["--sweep", "two.yaml", "--out", "out"])
    assert done.exit_code == 0, done.output
    table = json.loads((tmp_path / "out/sweep.json").read_text())
    none, wide = sorted(table["runs"], key=lambda run: run["name"])
    energy = json.loads((tmp_path / "out/wide/metrics.json").read_text())["energy"]
    assert (wide["energy_pj"], wide["firing_rate"]) == (energy["pj"]["fp32"], energy["rate"])
    assert (none["energy_pj"], none["firing_rate"]) == (None, None)
    with (tmp_path / "out/sweep.csv").open(newline="") as file:
        lines = {line["run"]: line for line in csv.DictReader(file)}
    assert float(lines["wide"]["energy_pj"]) == energy["pj"]["fp32"]
    assert lines["none"]["firing_rate"] == ""
    assert "energy, mJ" in done.stdout.splitlines()[0]
    assert f"{energy['pj']['fp32'] / 1e9:.3g}" in done.stdout
    page = (tmp_path / "out/sweep.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2  # accuracies, and energy against accuracy
