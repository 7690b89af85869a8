"""Nothing in a folder that is read, or worked in, is run: not under any name that is looked for."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer
from PIL import Image
from test_cli_train import CLASSES, SMALL, write_store
from tools import one_line_error, run_program, without_digests, write_corpus

from spikedata import SpikeDataError, open_clips, pack_clips
from spikedata.bits import pack_ticks
from spikedata.camera import write_recording
from spikedata.video import find_interpolator

TRAP = '''
"""Plants a module under every name as it is looked for, before the search begins."""
import importlib, os, sys

class Trap:
    planted = set()
    def find_spec(self, fullname, path=None, target=None):
        name = fullname.partition(".")[0]
        if name not in self.planted:
            self.planted.add(name)
            mark = os.path.join(os.environ["SPIKE_MARKS"], name)
            for folder in os.environ["SPIKE_FOLDERS"].split(os.pathsep):
                place = os.path.join(folder, name + ".py")
                if os.path.isdir(folder) and not os.path.exists(place):
                    with open(place, "w") as file:
                        file.write(f"open({mark!r}, 'a').close()\\n")
                    if folder in sys.path_importer_cache:
                        sys.path_importer_cache[folder].invalidate_caches()
        return None

sys.meta_path.insert(0, Trap())
'''
"""As ``sitecustomize``, which Python imports when it starts, in child processes too."""


def flat_fields(folder: Path) -> list[Path]:
    """Recordings of darkness and of two grey cards, by a camera of 16x20 pixels."""
    files = []
    for name, chance in (("dark", 0.01), ("medium", 0.2), ("bright", 0.5)):
        planes_thw = np.random.default_rng(0).random((2_000, 16, 20)) < chance
        files.append(folder / f"{name}.dat")
        write_recording(files[-1], [pack_ticks(planes_thw)], "16x20", ticks=2_000)
    return files


class Trapped:
    """Folders in which every name that a program tries to import lies as a module."""

    def __init__(self, root: Path) -> None:
        self.corpus = write_corpus(root / "corpus", classes=2, clips=2)
        self.store, self.data, self.run = root / "s.zarr", root / "data", root / "run"
        self._trap, self._marks = root / "trap", root / "marks"
        for folder in (self._trap, self._marks, self.run):
            folder.mkdir()
        (self._trap / "sitecustomize.py").write_text(TRAP)

    def environment(self) -> dict[str, str]:
        folders = [self.corpus, self.store, self.data, self.run, self.run / "model"]
        return os.environ | {
            "PYTHONPATH": str(self._trap),
            "SPIKE_MARKS": str(self._marks),
            "SPIKE_FOLDERS": os.pathsep.join(map(str, folders)),
            "HF_HUB_OFFLINE": "1",
        }

    def program(self, name, *words, cwd=None, env=None):
        trap = self.environment() | (env or {})
        done = run_program(name, *words, cwd=cwd or self.corpus, env=trap, apart=True)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        assert self.ran() == [], words
        return done

    def ran(self) -> list[str]:
        return sorted(mark.name for mark in self._marks.iterdir())

    def planted(self, folder: Path) -> int:
        return len(list(folder.glob("*.py")))


@pytest.fixture(scope="module")
def trapped(tmp_path_factory):
    trapped = Trapped(tmp_path_factory.mktemp("trapped"))
    trapped.program(
        "spikedata", "simulate", ".", "--workers", "3", "--out", trapped.store, "--threshold", "2"
    )
    return trapped


def test_the_trap_itself_works(trapped):
    """A program that does look into its working folder runs what is planted there."""
    env = {
        **os.environ,
        "PYTHONPATH": str(trapped._trap),
        "SPIKE_MARKS": str(trapped._marks),
        "SPIKE_FOLDERS": str(trapped.corpus),
    }
    # -P: Python 3.13 looks for modules of its own before it runs the line.
    code = "import linecache, traceback, sys; sys.path.insert(0, ''); import no_such_name"
    subprocess.run([sys.executable, "-P", "-c", code], cwd=trapped.corpus, env=env, check=True)
    assert "no_such_name" in trapped.ran()
    for mark in trapped._marks.iterdir():
        mark.unlink()


def test_no_verb_on_data_runs_what_lies_where_it_works(trapped):
    corpus, store, data = trapped.corpus, trapped.store, trapped.data
    clip = "class0__clip0"
    pack_clips([store], to="parquet", out=data)
    dat, live = corpus.parent / "dat", corpus.parent / "live.zarr"
    truth = corpus.parent / "true.png"
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(truth)
    for words in (
        ("info", store),
        ("validate", store),
        ("pack", store, "--to", "parquet", "--out", corpus.parent / "data2"),
        ("pack", data, "--to", "dat", "--out", dat),
        ("pack", data, "--to", "hdf5", "--out", corpus.parent / "p.h5"),
        ("validate", data),
        ("view", clip, "--store", store, "--out", corpus.parent / "v.png"),
        ("view", store, clip, "--single", "--out", corpus.parent / "s.png"),
        ("compare-images", truth, truth),
        ("report", store, "--out", corpus.parent / "r.html"),
        ("export", store, corpus.parent / "e.npz", "--clip", clip),
        ("compare", store, store, "--clip", clip, "--clip", "class1__clip0"),
        ("calibrate", *flat_fields(corpus.parent), "--camera", "16x20", "--out", "../c.yaml"),
        ("label", store, clip, "--label", "class1"),
        ("repair", store, "--from", "."),
        ("record", "--from", corpus.parent / "dark.dat", "--camera", "16x20", "--out", live),
        ("record", "--resume", "--out", live),
        ("inspect", "../dark.dat", "--show", "--out", corpus.parent / "l.png"),
        ("cameras",),
    ):
        trapped.program("spikedata", *words)
    trapped.program("spikedata", "report", ".", "--out", corpus.parent / "r2.html", cwd=store)
    trapped.program("spikedata", "info", ".", cwd=data)
    assert min(map(trapped.planted, (corpus, store, data))) > 150


@pytest.mark.usefixtures("interruptible")
def test_the_page_s_server_runs_nothing_of_what_lies_where_it_works(trapped):
    """It ends when it is told to."""
    words = [Path(sys.executable).parent / "spikedata", "serve", trapped.store, "--no-open"]
    server = subprocess.Popen(
        words, cwd=trapped.store, env=trapped.environment(), stdout=subprocess.PIPE, text=True
    )
    url = server.stdout.readline().strip()
    for name in ("", "api/set", "api/clips", "api/moving", "api/frames", "api/pixel", "api/health"):
        clip = "id=class0__clip0&method=adaptive&window=8&start=0&step=8&count=2&x=0&y=0&ticks=8"
        with urllib.request.urlopen(f"{url}{name}?{clip}", timeout=60) as answer:
            assert answer.status == 200
    asked = {"id": "class0__clip0", "changes": {"split": "test"}, "was": {}}
    headers = {"Content-Type": "application/json", "Origin": url[: url.index("/", 8)]}
    request = urllib.request.Request(f"{url}api/label", json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200
    server.send_signal(signal.SIGINT)
    assert (server.wait(60), server.stdout.read()) == (0, "")
    server.stdout.close()
    assert trapped.ran() == []


def test_neither_publishing_nor_pulling_runs_what_lies_where_it_works(trapped, tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        env = hub.environment(tmp_path / "home") | {"HF_HUB_OFFLINE": "0"}
        words = ("push-hub", ".", "--repo", "tester/x", "--licence", "cc-by-4.0")
        trapped.program("spikedata", *words, cwd=trapped.store, env=env)
        trapped.program("spikedata", "pull", "tester/x", "--out", tmp_path / "p.zarr", env=env)
    assert open_clips(tmp_path / "p.zarr").clips.keys() == open_clips(trapped.store).clips.keys()


def test_neither_training_nor_judging_runs_what_lies_where_it_works(trapped):
    packed, run = write_store(trapped.corpus.parent / "packed.zarr"), trapped.run
    recipe = trapped.corpus.parent / "r.yaml"
    recipe.write_text("model: {preset: tiny}\n")
    shutil.rmtree(run)
    trapped.program("spklip-train", recipe, *SMALL, f"data.path={packed}", "--out", run)
    out = trapped.corpus.parent
    for words in (
        ("--search", "things", "--out", out / "search.html"),
        ("--embed", out / "embedded.parquet"),
        ("--explain", "--out", out / "explained.html"),
        ("--energy", "eval.energy_clips=2", "--out", out / "energy.html"),
        ("--export-onnx", out / "model.onnx"),
        ("--out", out / "judged"),
    ):
        trapped.program("spklip-eval", ".", *words, cwd=run)
    assert min(map(trapped.planted, (run, run / "model"))) > 300


def test_a_child_process_does_not_look_into_the_working_folder(tmp_path):
    (tmp_path / "planted.py").write_text("print('ran')\n")
    child = "try:\n import planted\nexcept ModuleNotFoundError:\n print('not found')"
    code = (
        "import subprocess, sys\n"
        "from spikedata_cli.common import new_app, run\n"
        "app = new_app('x')\n"
        "@app.command()\n"
        f"def go() -> None:\n    subprocess.run([sys.executable, '-c', {child!r}], check=True)\n"
        "run(app)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "not found\n"


def test_settings_of_numba_which_name_code_are_refused(tmp_path, trapped):
    """``cache_dir`` names a folder of pickles, which run what they hold when they are read."""
    (tmp_path / ".numba_config.yaml").write_text("cache_dir: cache\n")
    done = run_program("spikedata", "info", trapped.store, cwd=tmp_path, apart=True)
    assert "NUMBA_... environment variables" in one_line_error(done, 1)
    assert sorted(os.listdir(tmp_path)) == [".numba_config.yaml"]


@pytest.mark.parametrize("settings", [b"text.usetex: True\nfont.size: 90\n", b"\xff\xfe"])
def test_settings_of_matplotlib_in_the_working_folder_change_nothing(tmp_path, trapped, settings):
    pages = []
    for name in ("bare", "full"):
        (tmp_path / name).mkdir()
        if name == "full":
            (tmp_path / name / "matplotlibrc").write_bytes(settings)
        out = tmp_path / f"{name}.html"
        words = ("report", trapped.store, "--out", out)
        done = run_program("spikedata", *words, cwd=tmp_path / name, apart=True)
        assert done.returncode == 0, done.stderr
        pages.append(out.read_text())
    assert pages[0] == pages[1]


def test_a_module_that_is_named_runs_alone_and_only_while_it_is_named(tmp_path, monkeypatch):
    package = tmp_path / "mine_alone"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import frames\n")
    (package / "inner.py").write_text(
        "import sys\n"
        "try:\n    import planted_beside\nexcept ModuleNotFoundError:\n    pass\n"
        "import numpy as np\n"
        "def frames(first, second, count):\n    return np.repeat(first[None], count, axis=0)\n"
    )
    mark = tmp_path / "mark"
    (tmp_path / "planted_beside.py").write_text(f"open({str(mark)!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    before, finders = list(sys.path), list(sys.meta_path)
    assert find_interpolator("mine_alone:frames").__module__ == "mine_alone.inner"
    assert (sys.path, sys.meta_path) == (before, finders)
    assert not mark.exists()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("planted_beside")
    (tmp_path / "wants_more.py").write_text("import planted_beside\n")
    with pytest.raises(SpikeDataError, match="only the module named is imported; PYTHONPATH"):
        find_interpolator("wants_more:frames")
    assert sys.meta_path == finders


def test_a_label_that_is_bad_mathematics_costs_no_evaluation(tmp_path, monkeypatch, caplog):
    """The page shows the label as it is; where a page fails for another reason, numbers stand."""
    from spklip import run as run_module
    from spklip.recipe import read_recipe

    packed = without_digests(write_store(tmp_path / "packed.zarr"))
    labels = dict(zip(CLASSES, (r"$\frac{1$", "$x$", "<b>\u202e"), strict=True))
    for file in [packed / "zarr.json", *packed.glob("clips/*/zarr.json")]:
        about = file.read_text()
        for old, new in labels.items():
            about = about.replace(f'"{old}"', json.dumps(new))
        file.write_text(about)
    (packed / "catalog.jsonl").unlink(missing_ok=True)
    assert open_clips(packed).class_names == tuple(labels.values())
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model: {preset: tiny}\n")
    settings = read_recipe(recipe, [*SMALL, f"data.path={packed}"])
    run_module.run_recipe(settings, tmp_path / "run", progress=False)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<!-- $x$ -->" in page  # drawn as text, of which matplotlib notes what it says
    assert "<b>" not in page
    assert "\u202e" not in page

    def fail(metrics):
        raise RecursionError("a page\nof woe")

    monkeypatch.setattr(run_module, "render_report", fail)
    metrics = run_module.evaluate_run(
        tmp_path / "run", run_module.recipe_of_run(tmp_path / "run"), tmp_path / "e", progress=False
    )
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["name"] == metrics["name"]
    assert not (tmp_path / "e" / "report.html").exists()
    assert "report.html: not written: RecursionError: a page of woe" in caplog.text
