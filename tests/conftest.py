"""Fixtures and settings that every test shares."""

import ast
import functools
import os
import re
import signal
import traceback
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test processes share the cores already

# In CI the same examples in every run: what fails there fails again where it is looked into.
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")
settings.register_profile("spike", deadline=None, max_examples=25, derandomize=IN_CI)
settings.load_profile("spike")

HERE = Path(__file__).parent
HAS_TORCH = find_spec("torch") is not None
NEEDS_TORCH = re.compile(r"\b(torch|transformers|spklip|SpikeClips|SpikeCamera|triton_gpu)\b")
"""What cannot be imported without torch."""


@functools.cache
def _left_out() -> tuple[str, ...]:
    """Test files whose imports need torch, where there is none: no command on data needs it."""
    if HAS_TORCH:
        return ()
    return tuple(file.name for file in sorted(HERE.rglob("test_*.py")) if _imports_torch(file))


def _imports_torch(file: Path) -> bool:
    """Whether a file's imports name what needs torch; a test's own imports skip that test alone."""
    body = ast.parse(file.read_text("utf-8")).body
    imports = [ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    return any(map(NEEDS_TORCH.search, imports))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out what cannot be tested here; the summary tells."""
    return True if collection_path.name in _left_out() else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what is left out; quiet runs have no header."""
    if _left_out():
        terminalreporter.write_line(f"left out without torch: {', '.join(_left_out())}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip, where there is no torch, what comes to the reference, which is written in it.

    Nothing else is excused: a command on data that comes to need torch fails.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        asked_by = traceback.extract_tb(error.__traceback__)[-1].filename
        if HAS_TORCH or error.name != "torch" or Path(asked_by).name != "reference.py":
            raise
        pytest.skip("the reference needs torch")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests were started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real clips and recordings; its tests are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder.parent.name}/{folder.name}")
    return folder


@pytest.fixture(scope="module")
def server_of_s3() -> Iterator[Any]:
    """Object storage on loopback, started once for a module."""
    from s3_server import S3Server  # not for those that need none

    with S3Server() as server:
        yield server


@pytest.fixture
def s3(server_of_s3: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """That storage, emptied, which this process uses."""
    server_of_s3.clear()
    server_of_s3.use(monkeypatch)
    return server_of_s3
