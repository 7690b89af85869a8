"""Sweeps: which runs a file names, doing them, going on, and the table of all."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from spikedata_cli.train import app
from test_cli_train import SMALL, one_error, train, write_store
from typer.testing import CliRunner

from spikedata import RecipeError, SpikeDataError, from_dict
from spklip import sweep
from spklip.building import new_config
from spklip.recipe import Recipe, read_recipe
from spklip.sweep import PlannedRun, Sweep, plan_sweep, read_sweep
from spklip.sweep_report import headline_numbers

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
SHIPPED = sorted((FOLDER / "sweeps").glob("*.yaml"))
QUICK = ["train.max_steps=2", "train.save_every=1", "eval.resamples=10", "eval.episodes=3"]

WILD = ["train.learning_rate=1e30", "train.warmup_steps=0", "train.save_every=9"]


def sweep_of(**values: Any) -> Sweep:
    return from_dict(Sweep, {"recipe": "any.yaml", **values}, where="my.yaml")


def write_sweep(home: Path, name: str, **values: Any) -> str:
    values = {"recipe": "smoke.yaml", "set": [*SMALL, *QUICK], **values}
    (home / name).write_text(yaml.safe_dump(values, sort_keys=False))
    return name


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A directory with a packed store."""
    folder = tmp_path_factory.mktemp("home")
    write_store(folder / "packed.zarr")
    (folder / ".spikedata.json").write_text(json.dumps({"packed": "packed.zarr"}))
    return folder


def metrics_of(folder: Path) -> Any:
    return json.loads((folder / "metrics.json").read_text())


def states(folder: Path) -> dict[str, str]:
    table = json.loads((folder / "sweep.json").read_text())
    return {run["name"]: run["state"] for run in table["runs"]}


# --- which runs -----------------------------------------------------------------------------------


def test_a_grid_is_every_combination_named_by_its_values():
    sweep = sweep_of(
        runs={"plain": []},
        vary={"data.segments": [1, 4], "model.changes.dropout": [0.0, 0.5], "data.mirror": [True]},
    )
    assert sweep.each() == [
        ("plain", ()),
        *(
            (
                f"segments-{segments}-dropout-{dropout}-mirror-true",
                (
                    f"data.segments={segments}",
                    f"model.changes.dropout={dropout}",
                    "data.mirror=true",
                ),
            )
            for segments in (1, 4)
            for dropout in (0.0, 0.5)
        ),
    ]


def test_keys_with_one_last_word_stand_whole_in_the_names():
    sweep = sweep_of(vary={"data.seed": [0], "train.seed": [1], "eval.shots": [[1, 2]]})
    assert [name for name, _ in sweep.each()] == ["data.seed-0-train.seed-1-shots-1_2"]


def test_names_of_long_or_unsafe_values_are_safe_and_distinct():
    values = ["/data/a:b.zarr", "/data/a/b.zarr", "../x", "x" * 90, "x" * 91, "naïve", "?"]
    names = [name for name, _ in sweep_of(vary={"data.path": values}).each()]
    assert len(set(names)) == len(values)
    assert all(re.fullmatch(r"path-[A-Za-z0-9._-]{1,40}", name) for name in names)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.learning_rate", 1e-5),
        ("train.learning_rate", "1e-3"),
        ("data.shots", None),
        ("data.path", "true"),
        ("data.path", "on"),
        ("data.path", "user/name"),
        ("data.path", "a: b, [c] 'd' \"e\" ü"),
        ("eval.shots", [1, 3]),
        ("data.mirror", False),
    ],
)
def test_values_of_a_grid_reach_the_recipe_as_they_stand_in_the_file(key, value, tmp_path):
    section, name = key.split(".")
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump({section: {name: value}}))
    (tmp_path / "empty.yaml").write_text("")
    ((_, words),) = sweep_of(vary={key: [value]}).each()
    assert read_recipe(tmp_path / "empty.yaml", words) == read_recipe(tmp_path / "whole.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "my.yaml: names no run: give some under runs or vary"),
        ({"run": {"a": []}}, "unknown key 'run'. Did you mean 'runs'?"),
        ({"runs": {"a": "data.seed=1"}}, "runs: a: expected a list of KEY=VALUE words, got 'data"),
        ({"runs": {"a": [{"data.seed": 1}]}}, "runs: a: expected a list of KEY=VALUE words"),
        ({"runs": {"../a": []}}, "run '../a': its name becomes that of a folder"),
        ({"runs": {"": []}}, "run '': its name"),
        ({"runs": {".a": []}}, "run '.a': its name"),
        ({"runs": {"a.": []}}, "run 'a.': its name"),
        ({"runs": {"a" * 101: []}}, "its name becomes that of a folder"),
        ({"runs": {"sweep.csv": []}}, "run 'sweep.csv': its name"),
        ({"runs": {8: []}}, "run 8: its name"),
        ({"runs": {"a": [], "A": []}}, "runs 'a' and 'A' would be one folder"),
        ({"runs": {"seed-1": []}, "vary": {"data.seed": [1]}}, "'seed-1' and 'seed-1' would be"),
        ({"vary": {"data.seed": [1, "1"]}}, "'seed-1' and 'seed-1' would be one folder"),
        ({"vary": {"data.seed": 1}}, "vary: data.seed: expected a list of values, got 1"),
        ({"vary": {"data.seed": []}}, "vary: data.seed: expected a list of values, got []"),
        ({"vary": {"seed": [1]}}, "vary: expected a key such as train.seed, got 'seed'"),
    ],
)
def test_what_is_no_sweep_is_refused(values, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        sweep_of(**values)


# --- the sweeps that come with the project --------------------------------------------------------


def test_there_are_sweeps():
    names = [path.stem for path in SHIPPED]
    assert names == [
        *("order", "picture", "sensor", "spiking-scratch", "spiking"),
        *("text", "ticks", "windows"),
    ]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_sweep_is_valid_and_its_runs_differ(path, tmp_path):
    sweep = read_sweep(path)
    recipe = path.parent / sweep.recipe
    assert recipe.resolve().parent == FOLDER
    runs = plan_sweep(sweep, recipe, tmp_path / "out")
    assert len(runs) >= 3
    for n, run in enumerate(runs):
        config = new_config(run.recipe.model)
        assert run.recipe.data.window_ticks // run.recipe.data.segments >= config.hsfe_ticks
        assert run.recipe not in [other.recipe for other in runs[:n]]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_sweep_begins_with_its_command_and_is_listed(path):
    first = path.read_text().splitlines()[0]
    assert first == f"# spklip-train --sweep recipes/sweeps/{path.name}"
    assert f"`sweeps/{path.name}`" in (FOLDER / "README.md").read_text()


def test_a_packaged_sweep_is_found_by_its_name(home, monkeypatch):
    done = train(home, monkeypatch, "--sweep", "windows.yaml", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    assert "using the packaged sweep windows.yaml" in done.stderr
    assert [run["name"] for run in json.loads(done.stdout)][0] == "windows-1"
    done = train(home, monkeypatch, "--sweep", "window.yaml")
    assert done.exit_code == 1
    message = "no such sweep here, and none packaged. Packaged sweeps: order.yaml, picture.yaml, "
    assert message in one_error(done)


# --- doing them -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(home) -> Any:
    """A sweep of three runs of which one has no data."""
    few = ["eval.shots=[1]", "eval.direction_steps=1"]
    runs = {"few": few, "gone": ["data.path=gone.zarr"], "more": ["train.seed=1"]}
    name = write_sweep(home, "three.yaml", runs=runs)
    patch = pytest.MonkeyPatch()
    done = train(home, patch, "--sweep", name)
    patch.undo()
    return done


def test_a_run_that_fails_is_told_and_the_rest_is_done(home, swept):
    assert swept.exit_code == 1
    assert states(home / "runs/three") == {"few": "done", "gone": "failed", "more": "done"}
    assert "failed: gone: gone.zarr: no such store" in swept.stderr
    assert "failed: gone: gone.zarr: no such store" in swept.stdout
    assert "run 3 of 3: more" in swept.stderr
    assert not (home / "runs/three/gone").exists()
    table = json.loads((home / "runs/three/sweep.json").read_text())
    assert table["runs"][1]["error"].startswith("gone.zarr: no such store")


def test_the_tables_hold_the_numbers_of_the_runs(home, swept):
    folder = home / "runs/three"
    runs = {run["name"]: run for run in json.loads((folder / "sweep.json").read_text())["runs"]}
    with (folder / "sweep.csv").open(newline="") as file:
        lines = {line["run"]: line for line in csv.DictReader(file)}
    assert list(lines) == list(runs) == ["few", "gone", "more"]
    for name in ("few", "more"):
        metrics = metrics_of(folder / name)
        closed, few = metrics["closed_set"], metrics["few_shot"]["by_group"]["spklip"]
        assert runs[name]["top1"] == closed["spklip"]["top1"]
        assert runs[name]["mean_rate_top1"] == closed["mean_rate"]["top1"]
        assert runs[name]["few_shot"] == few
        assert runs[name]["train_seconds"] == metrics["train"]["seconds"]
        assert runs[name]["evaluation_seconds"] == metrics["evaluation_seconds"]
        for k in ("0", "1", "2"):
            want = str(few[k]["high"]) if k in few else ""
            assert lines[name][f"shot{k}_top1_high"] == want
        assert float(lines[name]["top1_low"]) == closed["spklip"]["top1"]["low"]
        assert f"{closed['spklip']['top1']['value']:.1%} [" in line_of(swept.stdout, name)
        by_episodes = metrics["few_shot"]["top1"]["spklip"]["1"]["value"]
        assert few["1"]["value"] == pytest.approx(by_episodes)  # summed in another order
    assert lines["few"]["changes"] == "eval.shots=[1] eval.direction_steps=1"
    directions = metrics_of(folder / "few")["directions"]["top1"]["spklip"]
    assert runs["few"]["directions_top1"] == directions
    assert lines["few"]["directions_top1_low"] == str(directions["low"])
    assert runs["more"]["directions_top1"] is None
    assert lines["gone"]["top1"] == ""
    assert lines["gone"]["error"].startswith("gone.zarr")


def line_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"{name} "))


def test_the_page_is_one_file_with_one_figure(home, swept):
    page = (home / "runs/three/sweep.html").read_text()
    assert page.count("<svg") == 1
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "2 of 3 runs of smoke.yaml" in page
    assert "failed: gone: gone.zarr" in page


def test_a_run_of_a_sweep_is_the_run_that_is_made_alone(home, swept, monkeypatch):
    words = ["smoke.yaml", *SMALL, *QUICK, "train.seed=1", "--out", "alone"]
    assert train(home, monkeypatch, *words).exit_code == 0
    alone, within = metrics_of(home / "alone"), metrics_of(home / "runs/three/more")
    for key in ("closed_set", "few_shot", "retrieval", "recipe"):
        assert alone[key] == within[key]


def test_typed_again_only_what_is_not_done_is_done(home, swept, monkeypatch):
    folder = home / "runs/three"
    before = {name: (folder / name / "metrics.json").stat().st_mtime_ns for name in ("few", "more")}
    again = train(home, monkeypatch, "--sweep", "three.yaml", "--resume")
    assert again.exit_code == 1
    assert re.findall(r"^run \d of \d: \w+", again.stderr, re.MULTILINE) == ["run 2 of 3: gone"]
    for name, time in before.items():
        assert (folder / name / "metrics.json").stat().st_mtime_ns == time
    assert line_of(again.stdout, "more") == line_of(swept.stdout, "more")


def test_a_run_that_failed_is_done_once_it_can_be(home, monkeypatch):
    runs = {"late": ["data.path=late.zarr"], "first": []}
    words = ["--sweep", write_sweep(home, "late.yaml", runs=runs), "--out", "late"]
    assert train(home, monkeypatch, *words).exit_code == 1
    write_store(home / "late.zarr")
    again = train(home, monkeypatch, *words, "--json")
    assert again.exit_code == 0, again.output
    table = json.loads(again.stdout)
    assert table == json.loads((home / "late/sweep.json").read_text())
    assert {run["name"]: run["state"] for run in table["runs"]} == {"late": "done", "first": "done"}
    assert table["set"] == [*SMALL, *QUICK]


def test_a_dry_run_tells_which_are_done_and_writes_nothing(home, swept, monkeypatch):
    done = train(home, monkeypatch, "--sweep", "three.yaml", "--dry-run")
    assert done.exit_code == 0
    assert [" ".join(line.split()) for line in done.stdout.splitlines()] == [
        "few done, eval.shots=[1], eval.direction_steps=1",
        "gone waiting, data.path=gone.zarr",
        "more done, train.seed=1",
    ]
    fresh = train(home, monkeypatch, "--sweep", "three.yaml", "--dry-run", "--out", "dry")
    assert fresh.exit_code == 0
    assert not (home / "dry").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.learning_rate=0.5", "was begun with train.learning_rate=0.001, the recipe now"),
        (
            "data.size=[8, 8]",
            "few: was begun with data.size=None, the recipe now says [8, 8]",
        ),
        ("model.changes.pool=3", "run few: recipe: model.changes: unknown key 'pool'"),
        ("train.max_step=3", "Did you mean 'max_steps'"),
        ("data.path=gone.zarr", "override 'data.path=gone.zarr': run gone sets data.path itself"),
    ],
)
@pytest.mark.parametrize("how", [[], ["--dry-run"]])
def test_what_does_not_fit_is_told_before_anything_is_run(
    home, swept, monkeypatch, word, message, how
):
    before = (home / "runs/three/sweep.json").read_bytes()
    done = train(home, monkeypatch, "--sweep", "three.yaml", word, *how)
    assert done.exit_code == 1
    assert message in one_error(done)
    assert "run 2 of 3" not in done.stderr
    assert (home / "runs/three/sweep.json").read_bytes() == before


def test_a_killed_sweep_goes_on_where_it_stopped(home, monkeypatch):
    import spklip.train

    write_sweep(home, "cut.yaml", vary={"train.seed": [0, 1]}, set=[*SMALL, *QUICK])
    words = ["--sweep", "cut.yaml", "eval.windows=1"]
    whole = train(home, monkeypatch, *words, "--out", "whole")
    assert whole.exit_code == 0, whole.output
    step = spklip.train.ProgressOnStderr.on_step_end
    steps = []

    def pressed(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step(self, args, state, control, **kwargs)
        steps.append(args.seed)
        if steps == [0, 0, 1, 1]:  # the last step of the second run; one checkpoint is written
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(spklip.train.ProgressOnStderr, "on_step_end", pressed)
        cut = CliRunner().invoke(app, [*words, "--out", "cut"])
    assert cut.exit_code == 130
    assert states(home / "cut") == {"seed-0": "done", "seed-1": "waiting"}
    dry = train(home, monkeypatch, *words, "--out", "cut", "--dry-run", "--json")
    assert [run["state"] for run in json.loads(dry.stdout)] == ["done", "unfinished"]
    other = train(home, monkeypatch, *words, "train.weight_decay=0.5", "--out", "cut")
    assert "cut/seed-0: was begun with train.weight_decay=0.05" in one_error(other)
    again = train(home, monkeypatch, *words, "--out", "cut")
    assert again.exit_code == 0, again.output
    assert "run 1 of 2" not in again.stderr
    for name in ("seed-0", "seed-1"):
        assert (
            metrics_of(home / "cut" / name)["closed_set"]
            == (metrics_of(home / "whole" / name)["closed_set"])
        )


def test_metrics_that_cannot_be_read_are_told_and_made_again_once_deleted(home, monkeypatch):
    words = ["--sweep", write_sweep(home, "broken.yaml", runs={"a": []})]
    assert train(home, monkeypatch, *words).exit_code == 0
    before = metrics_of(home / "runs/broken/a")["closed_set"]
    path = home / "runs/broken/a/metrics.json"
    for text in ("{", "[]", "{}", '{"closed_set": [], "few_shot": {}}'):
        path.write_text(text)
        done = train(home, monkeypatch, *words)
        assert done.exit_code == 1
        assert "a/metrics.json: cannot be read" in one_error(done)
    path.unlink()
    assert train(home, monkeypatch, *words).exit_code == 0
    assert metrics_of(home / "runs/broken/a")["closed_set"] == before


INTERVAL = {"value": 0.5, "low": 0.25, "high": 0.75}
METRICS = {
    "closed_set": {"spklip": {"top1": INTERVAL}, "mean_rate": {"top1": INTERVAL}},
    "few_shot": {"ways": 5, "by_group": {"spklip": {"1": INTERVAL, "5": INTERVAL}}},
    "directions": {"top1": {"spklip": INTERVAL}},
    "energy": {"pj": {"fp32": 1e6}, "rate": 0.125},
    "train": {"seconds": 3.5},
    "evaluation_seconds": 1.25,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"closed_set": {"spklip": {"top1": INTERVAL | {"low": "0.25"}}}},
        {"closed_set": {"spklip": {"top1": INTERVAL | {"high": [0.75]}}}},
        {"closed_set": {"mean_rate": {"top1": INTERVAL | {"value": None}}}},
        {"few_shot": {"ways": [5]}},
        {"few_shot": {"by_group": {"spklip": {"one": INTERVAL}}}},
        {"few_shot": {"by_group": {"spklip": {"9" * 5000: INTERVAL}}}},
        {"energy": {"pj": {"fp32": "much"}}},
        {"energy": {"rate": True}},
        {"train": {"seconds": float("inf")}},
        {"evaluation_seconds": None},
        {"directions": []},
    ],
)
def test_metrics_of_another_shape_are_told_before_a_table_is_made(tmp_path, changes):
    assert headline_numbers(METRICS)["few_shot"] == {"1": INTERVAL, "5": INTERVAL}
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS | changes))
    run = PlannedRun(name="a", overrides=(), recipe=Recipe(), folder=tmp_path, state="done")
    with pytest.raises(SpikeDataError, match=r"metrics\.json: cannot be read \(") as caught:
        sweep._row(run)
    assert len(str(caught.value)) < 1000


@pytest.mark.slow  # two processes that import torch: about 15 s
def test_two_processes_do_the_runs_together_and_pass_over_a_failing_one(home):
    runs = {"gone": ["data.path=gone.zarr"], "wild": WILD, "tame": ["train.batch_size=2"]}
    words = ["--sweep", write_sweep(home, "two.yaml", runs=runs), "--out", "two"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    program = Path(sys.executable).with_name("spklip-train")
    command = [*torchrun, "--no-python", program, *words]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert states(home / "two") == {"gone": "failed", "wild": "failed", "tame": "done"}, done.stderr
    assert metrics_of(home / "two/tame")["train"]["batch_size"] == 4
    assert done.stdout.count("table: two/sweep.csv") == 1
    assert done.stderr.count("run 3 of 3: tame") == 1


def test_a_run_that_diverges_is_passed_over(home, monkeypatch):
    name = write_sweep(home, "wild.yaml", runs={"wild": WILD, "tame": []})
    done = train(home, monkeypatch, "--sweep", name)
    assert done.exit_code == 1
    assert states(home / "runs/wild") == {"wild": "failed", "tame": "done"}
    assert "failed: wild: the loss is" in done.stderr


def test_overwrite_does_all_again_also_by_another_recipe(home, monkeypatch):
    words = ["--sweep", write_sweep(home, "over.yaml", runs={"a": [], "b": ["train.seed=3"]})]
    assert train(home, monkeypatch, *words).exit_code == 0
    done = train(home, monkeypatch, *words, "train.max_steps=1", "--overwrite")
    assert done.exit_code == 0, done.output
    assert [metrics_of(home / "runs/over" / name)["train"]["steps"] for name in "ab"] == [1, 1]


def test_clips_of_several_sizes_do_not_make_a_done_run_another(home, monkeypatch):
    write_store(home / "sizes.zarr", odd_size=True)
    words = ["--sweep", write_sweep(home, "sizes.yaml", runs={"a": ["data.path=sizes.zarr"]})]
    assert train(home, monkeypatch, *words).exit_code == 0
    again = train(home, monkeypatch, *words)
    assert again.exit_code == 0, again.output
    assert "run 1 of 1" not in again.stderr


def test_runs_without_classes_or_baselines_have_empty_cells(home, monkeypatch):
    from test_cli_train import write_captioned

    write_captioned(home / "captioned.zarr")
    runs = {"captions": ["data.path=captioned.zarr"], "alone": ["eval.baselines=none"]}
    words = ["--sweep", write_sweep(home, "sparse.yaml", runs=runs)]
    done = train(home, monkeypatch, *words)
    assert done.exit_code == 0, done.output
    assert "no k-shot episodes in captions: no clip has a class" in done.stdout
    captions, alone = json.loads((home / "runs/sparse/sweep.json").read_text())["runs"]
    assert (captions["state"], captions["top1"], captions["few_shot"]) == ("done", None, {})
    assert alone["top1"] is not None
    assert alone["mean_rate_top1"] is None
    assert (home / "runs/sparse/sweep.html").read_text().count("<svg") == 1


def test_arithmetic_may_differ_from_run_to_run(home, monkeypatch):
    name = write_sweep(home, "bits.yaml", vary={"train.precision": ["bf16", "fp32"]})
    done = train(home, monkeypatch, "--sweep", name)
    assert done.exit_code == 0, done.output
    for precision in ("bf16", "fp32"):
        folder = home / "runs/bits" / f"precision-{precision}"
        assert metrics_of(folder)["train"]["precision"] == precision


def test_folders_that_are_no_runs_are_left_alone(home, swept, monkeypatch):
    mine = home / "mine/b"
    mine.mkdir(parents=True)
    (mine / "notes.txt").write_text("x")
    words = ["--sweep", write_sweep(home, "mine.yaml", runs={"a": [], "b": []}), "--out"]
    for how in ([], ["--overwrite"]):
        done = train(home, monkeypatch, *words, "mine", *how)
        assert "mine/b: exists and is not a run" in one_error(done)
        assert [path.name for path in (home / "mine").iterdir()] == ["b"]
    done = train(home, monkeypatch, *words, "runs/three/few")
    assert "runs/three/few: is a run; name another folder with --out" in one_error(done)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dry-run"], "give a RECIPE, or --sweep FILE for several runs of one"),
        (["smoke.yaml", "--sweep", "three.yaml"], "smoke.yaml: --sweep takes no RECIPE"),
    ],
)
def test_one_of_recipe_and_sweep_is_wanted(home, monkeypatch, words, message):
    done = train(home, monkeypatch, *words)
    assert done.exit_code == 2
    assert message in one_error(done)


def test_a_recipe_is_looked_for_beside_the_sweep_first(home, monkeypatch):
    folder = home / "elsewhere"
    folder.mkdir()
    (folder / "smoke.yaml").write_text("train: {max_stepz: 1}\n")
    write_sweep(folder, "here.yaml", runs={"a": []})
    done = train(home, monkeypatch, "--sweep", "elsewhere/here.yaml")
    assert "elsewhere/smoke.yaml: train: unknown key 'max_stepz'" in one_error(done)
    write_sweep(folder, "none.yaml", recipe="nothing.yaml", runs={"a": []})
    done = train(home, monkeypatch, "--sweep", "elsewhere/none.yaml")
    assert "nothing.yaml: no such recipe here, and none packaged" in one_error(done)
