"""A working folder is data: no module in it runs, unless its user names it."""

import subprocess
import sys
from pathlib import Path

import pytest
from tools import run_program, write_corpus

from spikedata import SpikeDataError
from spikedata.video import find_interpolator

PLANTED = (
    "scipy",
    "coverage",
    "colorama",
    "cffi",
    "pandas",
    "IPython",
    "ipywidgets",
    "tbb",
    "rich",
)
"""Optional modules that libraries look for: in a downloaded folder each is somebody's code."""


@pytest.fixture
def corpus(tmp_path):
    root = write_corpus(tmp_path / "corpus", classes=1, clips=1)
    for name in PLANTED:
        (root / f"{name}.py").write_text(f'open({str(tmp_path / name)!r}, "w")\n')
    return root


def ran(tmp_path: Path) -> list[str]:
    return [name for name in PLANTED if (tmp_path / name).exists()]


def test_no_module_of_the_working_folder_runs(tmp_path, corpus):
    for words in (
        ("simulate", ".", "--limit", "1", "--out", "../s.zarr"),
        ("pack", "../s.zarr", "--out", "../p.zarr"),
        ("view", "class0__clip0", "--store", "../s.zarr", "--out", "../v.png"),
        ("report", "../s.zarr", "--out", "../r.html"),
    ):
        done = run_program("spikedata", *words, apart=True, cwd=corpus)
        assert done.returncode == 0, done.stderr
        assert ran(tmp_path) == []


def test_a_module_that_is_named_runs_and_the_path_is_as_before(tmp_path, corpus):
    (corpus / "mine.py").write_text(
        "import numpy as np\n"
        "def frames(first, second, count):\n"
        "    return np.repeat(first[None], count, axis=0)\n"
    )
    words = ("simulate", ".", "--interpolation", "mine:frames", "--out", "../s.zarr", "--json")
    done = run_program("spikedata", *words, apart=True, cwd=corpus)
    assert done.returncode == 0, done.stderr
    code = (
        "import sys; before = list(sys.path)\n"
        "from spikedata.video import find_interpolator\n"
        "find_interpolator('mine:frames'); print(sys.path == before)\n"
        "try:\n    import scipy\n    print('ran')\n"
        "except ModuleNotFoundError:\n    print('not there')\n"
    )
    told = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=corpus, capture_output=True, text=True, check=True
    )
    assert told.stdout.split("\n")[0] == "True"
    assert "scipy" not in ran(tmp_path)


def test_the_path_is_as_before_when_a_module_fails(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('no')\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(SpikeDataError, match="RuntimeError: no"):
        find_interpolator("broken_module:frames")
    assert sys.path == before
