"""The process in which outside data is read: `python -m fuzz.worker FOLDER TARGETS`.

A line of JSON asks, a line of JSON answers. What a reader does to this process (an abort, a hang,
all memory taken) is seen by whoever asked, in :mod:`fuzz.harness`.
"""

import faulthandler
import importlib
import json
import os
import resource
import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from .targets import Place, Target, Told

ROOM_BYTES = 4 << 30
"""Address space beyond what is taken once everything is loaded. Threads and allocators reserve much
more than they use, so this is no measure: it keeps one case from taking the machine."""
WARM_UP = 2
"""Readings of what is valid before a target is measured: kernels are compiled, modules loaded."""


def status_kb(key: str) -> int:
    """A number of ``/proc/self/status``, kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise KeyError(key)


def cpu_seconds() -> float:
    """Spent by this process and by the children that it waited for."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def limit_memory(room: int | None) -> None:
    """Let address space grow by so many bytes from now on; None: without end."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = hard if room is None else status_kb("VmSize") * 1024 + room
    resource.setrlimit(resource.RLIMIT_AS, (now, hard))


class Worker:
    """The targets that were asked for, each with its folder of valid data."""

    def __init__(self, folder: Path, targets: dict[str, Target]) -> None:
        self.folder, self.targets = folder, targets
        self.places: dict[str, list[Place]] = {}

    def prepare(self, name: str) -> dict[str, Any]:
        """Make what is valid, and read it: that must be right, and is not measured."""
        limit_memory(None)
        home = self.folder / name
        home.mkdir(parents=True)
        places = self.places[name] = self.targets[name].build(home)
        for _ in range(WARM_UP):
            for place in places:
                told = self._read(name, place)
                if told.refusals:
                    raise AssertionError(f"{name}: {place.file}: {told.refusals[0]}")
        limit_memory(ROOM_BYTES)
        return {"places": [str(place.file) for place in places]}

    def case(self, name: str, number: int, file: str) -> dict[str, Any]:
        """Read what is valid with one file replaced, and tell what came of it."""
        place = self.places[name][number]
        valid = place.file.read_bytes()
        place.file.write_bytes(Path(file).read_bytes())
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
        before_kb, started = status_kb("VmRSS"), cpu_seconds()
        why, refused = "", False
        try:
            told = self._read(name, place)
            why, refused = told.wrong, bool(told.refusals)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            why = _named(error)
        finally:
            place.file.unlink(missing_ok=True)
            place.file.write_bytes(valid)
        return {
            "outcome": "other" if why else "refused" if refused else "right",
            "why": why,
            "seconds": cpu_seconds() - started,
            "peak_mb": max(0, status_kb("VmHWM") - before_kb) / 1024,
        }

    def _read(self, name: str, place: Place) -> Told:
        scratch = self.folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        told = Told(scratch)
        self.targets[name].read(place, told)
        return told


def _named(error: BaseException) -> str:
    """Kind, words and place of an error that should not have come out."""
    here = Path(__file__).parent
    passed = [
        f for f in traceback.extract_tb(error.__traceback__) if here not in Path(f.filename).parents
    ]
    ours = [f for f in passed if here.parents[1] in Path(f.filename).parents]
    last = [frames[-1] for frames in (passed, ours) if frames]
    places = dict.fromkeys(f"{Path(frame.filename).name}:{frame.lineno}" for frame in last)
    at = f" in {' from '.join(places)}" if places else ""
    return f"{type(error).__name__}{at}: {str(error)[:200]!r}"


def main() -> None:
    """Answer until there are no more questions."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print; that is no answer
    faulthandler.enable()
    warnings.simplefilter("ignore")
    module = importlib.import_module(f".{sys.argv[2]}", __package__)
    worker = Worker(Path(sys.argv[1]), module.TARGETS)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(worker, asked.pop("do"))(**asked)
        except Exception:
            answer = {"failed": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
