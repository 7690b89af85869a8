"""Gives a worker one case after the other, watches it, keeps what failed, and counts."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from hypothesis import HealthCheck, Phase, given, seed, settings

from .inputs import Case, cases
from .targets import TARGETS

HERE = Path(__file__).resolve().parent
SEEDS = HERE / "seeds"
"""A folder a target of inputs that once showed something; each is read once in every run."""
FAILURES = HERE / "failures"
"""Where inputs go that fail; git does not see it."""

MOST_SECONDS = 10.0
"""Processor time of a case, of the worker and all it starts."""
LONGEST_WAIT_S = 60.0
"""Time by the clock after which a case that costs no processor time hangs."""
MOST_MB = 1000.0
"""Memory of a case beyond what the worker held before."""
_GLANCE_S = 0.05
_KEPT_OF_A_KIND = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of a case."""

    outcome: str
    """``right``, ``refused`` in one line, or ``other``."""
    why: str
    """What else came of it."""
    seconds: float
    """Processor time."""
    peak_mb: float
    """Memory taken at once."""


class Worker:
    """One :mod:`fuzz.worker`; a new one takes its place once it has died.

    Args:
        targets: module of this package with the ``TARGETS`` that are read.
    """

    def __init__(self, targets: str = "targets") -> None:
        self._targets = targets
        self.most_seconds, self.longest_wait_s = MOST_SECONDS, LONGEST_WAIT_S
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self._process: subprocess.Popen[str] | None = None
        self._valid: dict[str, list[Case]] = {}
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def valid(self, target: str) -> list[Case]:
        """What is valid of a target: the files that are replaced, as they were."""
        if self._process is None:
            self._begin()
        if target not in self._valid:
            told = self._ask({"do": "prepare", "name": target}, patient=True)
            if isinstance(told, Outcome) or "failed" in told:
                said = told.why if isinstance(told, Outcome) else told["failed"]
                raise AssertionError(f"{target}: what is valid cannot be read: {said}")
            paths = [Path(place) for place in told["places"]]
            self._valid[target] = [
                Case(number, path.suffix, path.read_bytes()) for number, path in enumerate(paths)
            ]
        return self._valid[target]

    def run(self, target: str, case: Case) -> Outcome:
        """Read one case; whatever happens to the worker is told."""
        self.valid(target)
        file = self._folder / "case"
        file.write_bytes(case.data)
        asked = {"do": "case", "name": target, "number": case.place, "file": str(file)}
        told = self._ask(asked)
        if isinstance(told, Outcome):
            return told
        if "failed" in told:
            raise AssertionError(f"{target}: the worker itself failed: {told['failed']}")
        found = Outcome(**told)
        if not found.why and found.seconds > self.most_seconds:
            return replace(found, outcome="other", why=f"slow: {found.seconds:.1f} s")
        if not found.why and found.peak_mb > MOST_MB:
            return replace(found, outcome="other", why=f"memory: {found.peak_mb:,.0f} MB")
        return found

    def _begin(self) -> None:
        self._count += 1
        home = self._folder / f"worker{self._count}"
        home.mkdir()
        environment = {
            **os.environ,
            "PYTHONPATH": str(HERE.parent),
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(home / "hf"),
            "HF_TOKEN": "hf_of_the_fuzzer",
            "TMPDIR": str(self._folder),
            "MALLOC_ARENA_MAX": "2",
            "HF_HUB_DISABLE_XET": "1",
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
        }
        self._said = home / "stderr.txt"
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{HERE.name}.worker", str(home), self._targets],
                cwd=home,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                start_new_session=True,
            )
        self._valid = {}

    def _end(self) -> int | None:
        """Kill the worker and all it started; how it ended by itself, if it did."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0 if process.poll() is None else None)
        status = process.poll()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return status

    def _ask(self, asked: dict[str, Any], *, patient: bool = False) -> dict[str, Any] | Outcome:
        """The answer; or what the worker came to, which is then no more."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(asked), file=process.stdin, flush=True)
        started, (cpu_before, mb_before) = time.monotonic(), _taken_by(process.pid)
        while not select.select([process.stdout], [], [], _GLANCE_S)[0]:
            cpu, mb = _taken_by(process.pid)
            cpu, mb, waited = cpu - cpu_before, mb - mb_before, time.monotonic() - started
            why = ""
            if cpu > self.most_seconds:
                why = f"slow: {cpu:.1f} s and no end"
            elif mb > MOST_MB:
                why = f"memory: {mb:,.0f} MB and no end"
            elif waited > self.longest_wait_s:
                why = f"hangs: {waited:.0f} s"
            if why and not patient:
                self._end()
                return _other(why, cpu, mb)
        line = process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        process.wait()
        status = self._end()
        said = self._said.read_text(errors="replace").strip().splitlines()
        return _other(f"died: status {status}, {' | '.join(said[:3])[:300]}", 0.0, 0.0)


def _other(why: str, seconds: float, peak_mb: float) -> Outcome:
    return Outcome(outcome="other", why=why, seconds=seconds, peak_mb=peak_mb)


def _taken_by(pid: int) -> tuple[float, float]:
    """Processor seconds and MB that a process and those below it have taken."""
    seconds = mb = 0.0
    for one in _tree(pid):
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            # User and system time, its own and that of children it waited for; resident pages.
            seconds += sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")
            mb += int(words[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return seconds, mb


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield from _tree(int(child))


@dataclass(kw_only=True)
class Tally:
    """What came of the cases of one target."""

    target: str
    cases: int = 0
    right: int = 0
    refused: int = 0
    other: int = 0
    seconds: float = 0.0
    peak_mb: float = 0.0
    failures: list[str] = field(default_factory=list)
    """Reason and file of the first few inputs that failed in each way."""

    def add(self, case: Case, found: Outcome) -> None:
        """Count a case, and keep it if it failed in a way that is new."""
        self.cases += 1
        setattr(self, found.outcome, getattr(self, found.outcome) + 1)
        self.seconds = max(self.seconds, found.seconds)
        self.peak_mb = max(self.peak_mb, found.peak_mb)
        if found.outcome == "other":
            alike = [one for one in self.failures if one.startswith(found.why.partition(": ")[0])]
            if len(alike) < _KEPT_OF_A_KIND:
                self.failures.append(f"{found.why} [{keep(self.target, case)}]")


def keep(target: str, case: Case) -> Path:
    """Save a case where the next look at it will find it."""
    folder = FAILURES / target
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.iterdir()))
    path = folder / f"{number:03d}{case.suffix}"
    path.write_bytes(case.data)
    return path


def kept_cases() -> list[tuple[str, Path]]:
    """Target and file of every kept input."""
    return [(p.parent.name, p) for p in sorted(SEEDS.glob("*/*")) if p.is_file()]


def load_case(worker: Worker, target: str, path: Path) -> Case:
    """A kept input, in the place of the valid file with its suffix."""
    valid = worker.valid(target)
    place = next((one.place for one in valid if one.suffix == path.suffix), 0)
    return Case(place, path.suffix, path.read_bytes())


def fuzz(worker: Worker, target: str, count: int, draw: int | None = None) -> Tally:
    """Read ``count`` drawn cases of a target, the same ones for the same ``draw``."""
    tally = Tally(target=target)
    valid = worker.valid(target)

    @settings(
        max_examples=count,
        derandomize=draw is None,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(TARGETS[target].kind, valid))
    def each(case: Case) -> None:
        tally.add(case, worker.run(target, case))

    run = each if draw is None else seed(draw)(each)
    run()
    return tally


def table(tallies: Sequence[Tally]) -> str:
    """What came of all cases, as a table in Markdown."""
    total = Tally(target="all")
    for one in tallies:
        for name in ("cases", "right", "refused", "other"):
            setattr(total, name, getattr(total, name) + getattr(one, name))
        total.seconds = max(total.seconds, one.seconds)
        total.peak_mb = max(total.peak_mb, one.peak_mb)
    head = "| target | cases | right | refused in one line | other | longest, s | most memory, MB |"
    lines = [head, "|:--|--:|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {one.target} | {one.cases:,} | {one.right:,} | {one.refused:,} | {one.other:,} "
        f"| {one.seconds:.2f} | {one.peak_mb:.0f} |"
        for one in [*tallies, total]
    ]
    return "\n".join(lines)
