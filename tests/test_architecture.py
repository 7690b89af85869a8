"""Who may import whom, how large a function may be, and what importing may cost."""

import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"spikedata": "spikedata", "spklip": "spklip", "cli": "spikedata_cli"}
"""Folder of each top-level package."""

LAYERS = [
    {"wording"},
    {"errors", "bits"},
    {"remote"},
    {"lease"},
    {"locking"},
    {"stream", "clip", "recipe", "provenance", "outputs", "apart", "incoming", "npz", "plugins"},
    {"simulator", "camera"},
    {"video", "layouts"},
    {"corpora"},
    {"clips"},
    {"engines"},
    {"analysis"},
    {"packing"},
    {"labelling", "loader", "pack", "recording", "simulation"},
    {"repair", "streaming"},
    {"live"},
    {"hub", "serving"},
]
"""Modules and packages of spikedata, lowest first; each imports only what lies lower."""

BACKENDS = {"reference", "numba_cpu", "triton_gpu"}
KERNEL_FOLDERS = {"spikedata/simulator", "spikedata/bits"}
KERNEL_NAMES = {"_count_spikes", "_sum_intervals"}
MOST_LINES, MOST_KERNEL_LINES, USUAL_LINES = 60, 120, 30

HEAVY = {
    "av",
    "cv2",
    "datasets",
    "decord",
    "h5py",
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "numba",
    "obstore",
    "pyarrow",
    "ray",
    "skimage",
    "torch",
    "transformers",
    "triton",
    "zarr",
}


@functools.cache
def modules() -> dict[str, Path]:
    """File of every module of ours, by dotted name."""
    found = {}
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = file
    return found


def imports_of(name: str) -> list[tuple[str, str | None]]:
    """Module and name of everything of ours that a module imports, anywhere in it."""
    file = modules()[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    stub = file.with_suffix(".pyi")
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse((stub if stub.exists() else file).read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, node.module] if node.module else above)
            base = base if node.level else node.module or ""
            found += [(base, alias.name) for alias in node.names]
    return [(m, n) for m, n in found if m.partition(".")[0] in FOLDERS.values()]


@functools.cache
def faces() -> dict[str, dict[str, str]]:
    """Module that each public name of a package with a lazy face comes from."""
    return {
        name: {given: module for module, given in imports_of(name) if given}
        for name, file in modules().items()
        if file.with_suffix(".pyi").exists() and file.name == "__init__.py"
    }


def comes_from(module: str, name: str | None) -> str:
    """The module that is really needed."""
    if name and f"{module}.{name}" in modules():
        return f"{module}.{name}"
    origin = faces().get(module, {}).get(name or "")
    return comes_from(origin, name) if origin else module


def test_there_are_modules_to_check():
    assert len(modules()) >= 60
    assert {"spikedata.bits", "spikedata.clips", "spikedata.clips.store"} <= faces().keys() | {
        "spikedata.clips.store"
    }


@pytest.mark.parametrize("name", modules())
def test_packages_import_only_downwards(name):
    allowed = {
        "spikedata": {"spikedata"},
        "spklip": {"spikedata", "spklip"},
        "spikedata_cli": {"spikedata", "spklip", "spikedata_cli"},
    }[name.partition(".")[0]]
    assert {module.partition(".")[0] for module, _ in imports_of(name)} <= allowed


def test_modules_of_spikedata_import_only_lower_layers():
    rank = {name: i for i, names in enumerate(LAYERS) for name in names}
    wrong = []
    for name in modules():
        top, _, own = name.partition(".")
        own = own.partition(".")[0]
        if top != "spikedata" or not own:
            continue
        assert own in rank, f"{name}: give {own} a layer"
        for module, given in imports_of(name):
            other = comes_from(module, given).split(".")[1:2]
            if other and other[0] != own and rank[other[0]] >= rank[own]:
                wrong.append(f"{name} imports {'.'.join(other)}")
    assert wrong == []


def test_no_module_needs_itself():
    needs = {
        name: {comes_from(*found) for found in imports_of(name)} - {name}
        for name in modules()
        if name not in faces()
    }
    assert list(graphlib.TopologicalSorter(needs).static_order())


@pytest.mark.parametrize("name", modules())
def test_only_public_names_cross_a_package_s_face(name):
    packages = {n for n, file in modules().items() if file.name == "__init__.py"}
    wrong = []
    for module, given in imports_of(name):
        inner = module.split(".")
        for depth in range(1, len(inner)):
            package = ".".join(inner[:depth])
            inside = name == package or name.startswith(f"{package}.")
            beyond = package in packages and not inside
            if beyond and (depth > 1 or package == "spklip" or name.partition(".")[0] != package):
                wrong.append(f"{module}: is within {package}")
        if given and given.startswith("_") and not given.startswith("__"):
            wrong.append(f"{module}.{given} is private")
    assert wrong == []


def test_only_the_simulator_s_face_knows_a_backend():
    users = {
        name
        for name in modules()
        for module, given in imports_of(name)
        if BACKENDS & {module.rpartition(".")[2], given}
        and not name.startswith("spikedata.simulator.")
    }
    assert users <= {"spikedata.simulator"}


def functions() -> list[tuple[str, int, int, bool]]:
    """Where each function stands, its lines with and without its docstring, if it is a kernel."""
    found = []
    for file in modules().values():
        place = file.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                kernel = any(place.startswith(folder) for folder in KERNEL_FOLDERS)
                kernel = kernel or node.name in KERNEL_NAMES
                first = node.body[0]
                told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                doc = (first.end_lineno - first.lineno + 1) if told else 0
                lines = node.end_lineno - node.lineno + 1
                found.append((f"{place}:{node.lineno} {node.name}", lines, lines - doc, kernel))
    return found


def test_functions_are_short():
    found = functions()
    usual = [one for one in found if not one[3]]
    assert len(usual) > 500
    assert [(place, n) for place, n, _, _ in found if n > MOST_KERNEL_LINES] == []
    assert [(place, n) for place, n, _, _ in usual if n > MOST_LINES] == []
    # Of code: a docstring of ten arguments makes no function hard to read.
    long = sorted(((n, place) for place, _, n, _ in usual if n > USUAL_LINES), reverse=True)
    assert len(long) <= 0.03 * len(usual), long


@pytest.mark.parametrize("module", ["spikedata", "spikedata_cli.data", "spikedata_cli.train"])
def test_importing_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_simulating_never_waits_for_torch():
    code = "import sys, spikedata.simulation; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
