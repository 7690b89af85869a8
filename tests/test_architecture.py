"""Who may import whom, read from the source, and what importing may cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"spikedata": "spikedata", "spklip": "spklip", "cli": "spikedata_cli"}

LAYERS = [
    {"errors", "bits"},
    {"stream", "clip", "recipe", "provenance", "outputs"},
    {"simulator", "camera"},
    {"video"},
    {"corpora"},
    {"clips"},
    {"analysis"},
    {"loader", "pack", "simulation"},
    {"hub"},
]

HEAVY = {
    "av",
    "cv2",
    "datasets",
    "decord",
    "h5py",
    "huggingface_hub",
    "matplotlib",
    "numba",
    "pyarrow",
    "torch",
    "transformers",
    "triton",
    "zarr",
}


def modules():
    return [
        file
        for folder in PACKAGES
        for file in sorted((ROOT / folder).rglob("*.py"))
        if "__pycache__" not in file.parts
    ]


def absolute_imports(file):
    """Every module name that ``file`` imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def test_there_are_modules_to_check():
    assert len(modules()) >= 30


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(ROOT)))
def test_packages_import_only_downwards(file):
    allowed = {
        "spikedata": {"spikedata"},
        "spklip": {"spikedata", "spklip"},
        "cli": {"spikedata", "spklip", "spikedata_cli"},
    }[file.relative_to(ROOT).parts[0]]
    used = {name.partition(".")[0] for name in absolute_imports(file)}
    assert used & {*PACKAGES.values(), "cli"} <= allowed


@pytest.mark.parametrize(
    "file", sorted((ROOT / "spklip").rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT))
)
def test_spklip_uses_only_the_public_names_of_spikedata(file):
    inner = [name for name in absolute_imports(file) if name.startswith("spikedata.")]
    assert inner == []


def test_modules_of_spikedata_import_only_lower_layers():
    rank = {name: i for i, names in enumerate(LAYERS) for name in names}
    wrong = []
    for file in sorted((ROOT / "spikedata").rglob("*.py")):
        own = file.relative_to(ROOT / "spikedata").with_suffix("").parts[0]
        if own == "__init__":
            continue
        assert own in rank, f"{file}: give {own} a layer"
        for name in absolute_imports(file):
            parts = name.split(".")
            if parts[0] != "spikedata" or len(parts) == 1 or parts[1] == own:
                continue
            if rank[parts[1]] >= rank[own]:
                wrong.append(f"{own} imports {parts[1]}")
    assert wrong == []


@pytest.mark.parametrize("module", ["spikedata", "spikedata_cli.data", "spikedata_cli.train"])
def test_importing_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_simulating_never_waits_for_torch():
    code = "import sys, spikedata.simulation; print('torch' in sys.modules, 'numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"
