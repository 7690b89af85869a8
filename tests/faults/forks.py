"""Commands in processes of their own that start at once: forks of one that has imported everything.

A command runs under the shim ``shim.c``, which fails its N-th call that changes files below its
folder; see there. :class:`Forks` is what the harness uses. Run as a program this file is the
process that forks.
"""

import atexit
import contextlib
import ctypes
import errno
import gc
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
LIMIT_S = 60
"""A command that takes longer hangs."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Which call fails, and how."""

    at: int
    """From 1."""
    kind: str
    """``kill``, ``torn``, or the name of an error such as ``ENOSPC``."""
    call: str = "any"
    """Which calls are counted: ``any``, ``space`` or ``open``."""
    sticky: bool = False
    """Whether it stays that way."""

    def variables(self) -> dict[str, str]:
        """As the shim reads them."""
        how = self.kind if self.kind in ("kill", "torn") else str(getattr(errno, self.kind))
        return {
            "FAULT_AT": str(self.at),
            "FAULT_KIND": how,
            "FAULT_CALL": self.call,
            "FAULT_STICKY": str(int(self.sticky)),
        }


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended."""

    status: int | None
    """As a shell gives it, negative for a signal; None if it hung."""
    stdout: str
    stderr: str
    wall_s: float
    calls: int
    """Calls that were counted."""
    struck: str
    """The call that failed and its path below the folder; empty if none did."""


def why_not() -> str | None:
    """Why faults cannot be injected here; None if they can."""
    if sys.platform != "linux":
        return "faults are injected by way of LD_PRELOAD, which only Linux has"
    return None if shutil.which("cc") else "faults are injected by a shim in C; there is no cc"


class Forks:
    """The process that forks, and what it is asked; a context manager.

    Args:
        scratch: a folder for the shim and for what commands print.
        env: variables of every command.
    """

    def __init__(self, scratch: Path, env: dict[str, str]) -> None:
        shim = scratch / "shim.so"
        build = ["cc", "-O1", "-shared", "-fPIC", "-o", str(shim), str(HERE / "shim.c"), "-ldl"]
        subprocess.run(build, check=True)
        # OpenMP's threads would not survive a fork.
        alone = {"LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"}
        self._scratch, self._number = scratch, 0
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **alone, **env},
        )

    def warm(self, words: Sequence[str], cwd: Path) -> None:
        """Run a command before any fork, so that what it imports and compiles is there."""
        answer = self._ask({"cwd": str(cwd), "words": list(words), "warm": True})
        assert answer["status"] == 0, words

    def run(
        self,
        words: Sequence[str],
        cwd: Path,
        *,
        fault: Fault | None = None,
        call: str = "any",
        env: dict[str, str] | None = None,
    ) -> Done:
        """Run a command to its end.

        Args:
            words: program and arguments: a program of ours, or one of :data:`PROGRAMS`.
            cwd: its directory, in which also temporary files are; calls below it are counted.
            fault: what befalls it.
            call: which calls are counted, where nothing does.
            env: further variables.
        """
        self._number += 1
        prints = self._scratch / f"{self._number}"
        state = prints.with_suffix(".state")
        variables = fault.variables() if fault else {"FAULT_CALL": call}
        variables |= {"FAULT_ROOT": str(cwd), "FAULT_STATE": str(state)}
        asked = {"cwd": str(cwd), "words": list(words), "prints": str(prints)}
        answer = self._ask(asked | {"env": {**(env or {}), **variables}})
        data = state.read_bytes()
        done = Done(
            **answer,
            stdout=prints.with_suffix(".out").read_text("utf-8", "backslashreplace"),
            stderr=prints.with_suffix(".err").read_text("utf-8", "backslashreplace"),
            calls=int.from_bytes(data[:8], sys.byteorder),
            struck=data[16:].split(b"\0")[0].decode("utf-8", "backslashreplace"),
        )
        for suffix in (".out", ".err", ".state"):
            prints.with_suffix(suffix).unlink()
        return done

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._process:  # closes what it reads from, which ends it
            pass


# --- in the process that forks ------------------------------------------------------------------


def serve() -> None:
    """Answer requests, one a line, until there are no more."""
    asked, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a command prints while warming is no answer
    for line in asked:
        request = json.loads(line)
        answer = _warm(request) if request.get("warm") else _fork(request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _warm(request: dict[str, Any]) -> dict[str, Any]:
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):  # not sys.stderr, which logging keeps as it finds it
        os.dup2(nowhere, number)
    with contextlib.chdir(request["cwd"]):
        status = _call(request["words"])
    sys.stdout.flush()
    for number in (1, 2):
        os.dup2(kept, number)
    os.close(kept)
    os.close(nowhere)
    gc.collect()
    gc.freeze()  # a child that looks for garbage would copy all memory
    for end in weakref.finalize._registry:  # type: ignore[attr-defined]
        end.atexit = False  # each child's would free what was compiled here
    return {"status": status}


def _fork(request: dict[str, Any]) -> dict[str, Any]:
    """Run a command in a child and its own process group; of a hanging one nothing is left."""
    started = time.monotonic()
    child = os.fork()
    if not child:
        _become(request)
    ended = os.pidfd_open(child)
    in_time = bool(select.select([ended], [], [], LIMIT_S)[0])
    os.close(ended)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # its own children too
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    wall_s = round(time.monotonic() - started, 3)
    return {"status": status if in_time else None, "wall_s": wall_s}


def _become(request: dict[str, Any]) -> None:
    """Be the command; never returns."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(request["prints"] + suffix, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(request["cwd"])
    os.environ |= {"TMPDIR": request["cwd"], **request["env"]}
    tempfile.tempdir = None  # the parent's was remembered
    ctypes.CDLL(None).fault_arm()
    status = 70
    try:
        status = _call(request["words"])
    except BaseException:
        traceback.print_exc()
    # As the interpreter does when it ends, but for freeing what need not be freed.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _call(words: Sequence[str]) -> int:
    """Run a program by name; its status."""
    sys.argv = list(words)
    try:
        PROGRAMS[words[0]]()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _spikedata() -> None:
    from spikedata_cli.data import main

    main()


def _train() -> None:
    from spikedata_cli.train import main

    main()


def _read() -> None:
    """Print all that is known of a set of clips, with digests of its bits worked out here."""
    from spikedata import SpikeDataError, open_clips

    try:
        clips = open_clips(sys.argv[1])
        told = {
            stored.id: _facts(stored) | {"bits": _digest(clips.read(stored.id).unpack())}
            for stored in clips.clips.values()
        }
    except SpikeDataError as error:
        sys.exit(_one_line(error))
    notes = [*clips.notes, *(failure.note() for failure in clips.left_out)]
    about = {"name": clips.name, "class_names": clips.class_names, "recipe": clips.recipe}
    print(json.dumps({"clips": told, "about": about, "notes": notes}))


def _load() -> None:
    """Print what a training would see of a set of clips."""
    from spikedata import SpikeClips, SpikeDataError

    try:
        items = SpikeClips(sys.argv[1], window_ticks=96, segments=2, sampling="uniform")
        told = {
            item["id"]: {
                "bits": _digest(item["packed_sghw"].numpy()),
                "label": items.class_names[item["label"]],
                "caption": item["caption"],
            }
            for item in (items[number] for number in range(len(items)))
        }
    except SpikeDataError as error:
        sys.exit(_one_line(error))
    opened = items.opened
    notes = [*opened.notes, *(failure.note() for failure in opened.left_out)]
    print(json.dumps({"clips": told, "notes": notes}))


def _one_line(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 1


def _facts(stored: Any) -> dict[str, Any]:
    facts = stored.clip.to_dict() | {"attributes": stored.attributes}
    for key in ("ticks", "height_px", "width_px", "tick_rate_hz", "bits_sha256", "spikes"):
        facts[key] = getattr(stored, key)
    return facts


def _digest(array: Any) -> str:
    return hashlib.sha256(f"{array.shape}".encode() + array.tobytes()).hexdigest()


PROGRAMS: dict[str, Callable[[], None]] = {
    "spikedata": _spikedata,
    "spklip-train": _train,
    "read": _read,
    "load": _load,
}

if __name__ == "__main__":
    serve()
    os._exit(0)  # at once: all there is to free is memory
