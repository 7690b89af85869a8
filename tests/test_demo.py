"""The demo: the whole chain, shrunken by default and whole under the slow marker."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from spikedata_cli.demo import DemoConfig, direction_top1, print_demo, recipe_path, run_demo

from spikedata import SpikeDataError, open_store

SHRUNKEN = DemoConfig(
    seed=5,
    clips_per_class=2,
    test_per_class=1,
    overrides=(
        "train.max_steps=2",
        "train.batch_size=4",
        "eval.shots=[1]",
        "eval.queries=1",
        "eval.episodes=4",
        "eval.resamples=50",
    ),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A shrunken demo, begun twice: the first time it is cut off before training."""
    pytest.importorskip("torch", reason="torch is not installed")
    before = Path.cwd()
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "spikedata_cli.demo._train", lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            run_demo(out, SHRUNKEN, workers=1)
    made = {p: p.stat().st_mtime_ns for p in (out / "packed.zarr").rglob("*") if p.is_file()}
    result = run_demo(out, SHRUNKEN, workers=1)
    assert Path.cwd() == before
    assert made == {p: p.stat().st_mtime_ns for p in made}
    return out, result


def test_the_chain_leaves_videos_a_store_a_model_and_a_report(finished):
    out, result = finished
    assert result.report == out / "runs" / "demo" / "report.html"
    assert "mean-rate" in result.report.read_text().lower()
    assert (out / "runs" / "demo" / "model" / "model.safetensors").is_file()
    store = open_store(out / "packed.zarr")
    assert len(store.clips) == 36
    assert len(store.class_names) == 12
    assert {stored.attributes["sensor"]["seed"] for stored in store.clips.values()} == {5}
    assert len(list((out / "shapes").rglob("*.avi"))) == 36


def test_the_report_is_over_all_classes_beside_baselines(finished):
    _, result = finished
    closed = result.metrics["closed_set"]
    assert len(closed["spklip"]["class_names"]) == 12
    assert closed["spklip"]["clips"] == 12
    assert {"spklip", "mean_rate", "chance"} <= set(closed)
    assert result.metrics["data"]["shared_groups"] == []
    assert result.metrics["recipe"]["train"]["seed"] == 5


def test_directions_are_counted_over_all_shapes():
    names = ["square_moves_left", "circle_moves_left", "square_moves_up"]
    assert direction_top1(names, [[1, 2, 1], [3, 0, 0], [0, 1, 2]]) == 0.8


def test_the_demo_tells_directions_as_they_are_and_backwards(finished, capsys):
    _, result = finished
    closed, order = result.metrics["closed_set"]["spklip"], result.metrics["order"]
    assert sum(map(sum, order["reversed"]["confusion"])) == closed["clips"]
    assert closed["top1"]["value"] <= result.direction_top1 <= 1
    assert order["reversed"]["top1"]["value"] <= result.direction_top1_reversed <= 1
    print_demo(result, as_json=False)
    line = next(s for s in capsys.readouterr().out.splitlines() if s.startswith("direction"))
    assert f"{result.direction_top1:.1%}; " in line
    assert f"backwards: {result.direction_top1_reversed:.1%}; chance: 25.0%" in line
    print_demo(result, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["direction_top1"] == result.direction_top1


def test_a_finished_demo_is_not_done_again(finished):
    out, _ = finished
    with pytest.raises(SpikeDataError, match="finished demo"):
        run_demo(out, SHRUNKEN)


def test_other_settings_are_refused_with_both_values(tmp_path):
    (tmp_path / "demo.json").write_text('{"seed": 1, "clips_per_class": 9, "test_per_class": 1}')
    with pytest.raises(SpikeDataError, match="seed=1, now it is 5"):
        run_demo(tmp_path, SHRUNKEN)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SpikeDataError, match="not a demo's folder"):
        run_demo(tmp_path, SHRUNKEN)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_packaged_recipe_names_its_command():
    assert recipe_path().read_text().startswith("# spikedata demo\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_reads_motion_from_time(tmp_path):
    """The promise, by the real program: 90% of 12 classes, a mean-rate image below 60%."""
    program = Path(sys.executable).with_name("spikedata")
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    started = time.perf_counter()
    done = subprocess.run(
        [program, "demo", "--out", "demo"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    print(f"demo: {time.perf_counter() - started:.0f} s\n{done.stdout}")
    report = Path(re.search(r"report: (.*)", done.stdout)[1])
    assert report.is_file()
    closed = json.loads(report.with_name("metrics.json").read_text())["closed_set"]
    assert closed["spklip"]["clips"] >= 120
    assert closed["spklip"]["top1"]["value"] >= 0.90
    assert closed["mean_rate"]["top1"]["value"] < 0.60
