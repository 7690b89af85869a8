"""The documents name what exists, link to what exists, and their code runs."""

import re
import shutil
from pathlib import Path

import pytest
from tools import random_frames, run_program, write_grey

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.md")),
]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_there_are_pages_to_check():
    assert len(PAGES) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.fixture(scope="session")
def example_store(tmp_path_factory):
    """A small labelled store, made by the program itself."""
    root = tmp_path_factory.mktemp("docs")
    for split in ("train", "test"):
        for label in ("jump", "wave"):
            write_grey(root / "videos" / split / label / "1.mkv", random_frames(1, frames=60))
    done = run_program("spikedata", "simulate", "videos", cwd=root)
    assert done.returncode == 0, done.stderr
    return root / "spikes.zarr"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # workers of a data loader
def test_python_blocks_run(page, tmp_path, example_store, monkeypatch):
    """The blocks of a page run one after the other in a directory that holds spikes.zarr."""
    code = "\n".join(blocks(page, "python"))
    if re.search(r"\b(torch|SpikeClips|SpikeCamera|spklip)\b", code):
        pytest.importorskip("torch", reason="torch is not installed")
    shutil.copytree(example_store, tmp_path / "spikes.zarr")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(page), "exec"), {"__name__": "__main__"})


def test_each_command_is_documented():
    listed = run_program("spikedata", "--help", cwd=ROOT).stdout
    commands = re.findall(r"^  ([a-z][a-z-]+) {2,}", listed.partition("Commands:")[2], re.MULTILINE)
    assert len(commands) >= 10
    text = (ROOT / "docs/reference/cli.md").read_text()
    assert [command for command in commands if f"## `spikedata {command}`" not in text] == []
