"""A function of ours in a process of its own, bounded in time and memory.

Some libraries in C end the process, or never return, when they meet a damaged file, and no signal
gets through to Python. Such a library reads files from strangers in a child that is let go of: what
the child finds out comes back through a pipe, message by message, and a child that dies is an error
in one line.

The child keeps its own time, so that it ends even if its parent was killed: the system counts its
processor time, and a watch in C, which no lock of Python's stops, ends it should it wait for ever.
Neither goes on while the parent is slow to listen.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from spikedata.errors import SpikeDataError

Message = dict[str, Any] | bytes
"""What a child says: an object of plain JSON values, or bytes as they are."""

LONGEST_WORK_S = 8.0
"""Processor time that a child may spend on one message."""
_PATIENCE_S = 40.0
"""Time beyond it that a message may take: a disk that is slow to answer damages nothing."""

_WORK_DONE: int = getattr(signal, "SIGPROF", 0)
"""The signal of a process whose timer is through, which ends it; 0 on Windows, which has none."""
_HEAD = struct.Struct("<cQ")
_STARTED, _OBJECT, _BYTES, _ERROR, _END = b"s", b"o", b"b", b"e", b"."
_FLUSH_BYTES = 1 << 16
_FLUSH_S = 1.0
_MOST_ERROR = 2000
_START = (
    "import sys; sys.path.append(sys.argv[1]); from spikedata.apart import serve;"
    "serve(*sys.argv[2:])"
)
"""The folder goes last, so that it shadows nothing: it is only where our own code is found."""


class Apart:
    """The messages of a generator function that runs in a child; close it, or use it in ``with``.

    Args:
        function: ``module:name`` of a function of ours that takes ``words`` and yields messages.
        words: its arguments, text.
        most_bytes: longest message to take.
        work_s: processor time that the child may spend on one message; default
            :data:`LONGEST_WORK_S`.
        threads: so many may work at once, each as long.
        memory_bytes: what it may take beside what its libraries took when they were loaded.

    Raises:
        SpikeDataError: no process can be started; by iterating: what the function raised, or how
            the child died.
    """

    def __init__(
        self,
        function: str,
        *words: str,
        most_bytes: int,
        work_s: float | None = None,
        threads: int = 1,
        memory_bytes: int = 512 << 20,
    ) -> None:
        self._most_bytes = most_bytes
        self._work_s = LONGEST_WORK_S if work_s is None else work_s
        self._wait_s = self._work_s + _PATIENCE_S
        home = Path(__file__).resolve().parents[1]
        # -P: neither this nor what it loads comes from the working directory.
        bounds = [str(self._work_s * threads), str(self._wait_s), str(memory_bytes)]
        command = [sys.executable, "-P", "-c", _START, str(home), function, *bounds, *words]
        nowhere = subprocess.DEVNULL
        try:
            self._child = subprocess.Popen(
                command, stdin=nowhere, stdout=subprocess.PIPE, stderr=nowhere
            )
        except OSError as error:
            told = f"cannot be read: no process for that could be started: {error.strerror}"
            raise SpikeDataError(told) from error
        assert self._child.stdout is not None
        self._pipe = self._child.stdout
        self._started = False
        self.received_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        kind, data = self._receive()
        if kind == _OBJECT:
            found: dict[str, Any] = json.loads(data)
            return found
        if kind == _BYTES:
            return data
        self.close()
        if kind == _ERROR:
            raise SpikeDataError(data.decode(errors="replace"))
        raise StopIteration

    def close(self) -> None:
        """End the child, whatever it does."""
        self._child.kill()
        self._pipe.close()
        self._child.wait()

    def _receive(self) -> tuple[bytes, bytes]:
        if self._pipe.closed:
            return _END, b""
        head = self._pipe.read(_HEAD.size)
        kind, size = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0)
        if size > self._most_bytes:
            self.close()
            raise SpikeDataError(f"tells {size:,} bytes at once, more than {self._most_bytes:,}")
        data = self._pipe.read(size)
        self.received_bytes += size
        if not kind or len(data) != size:
            raise SpikeDataError(self._death())
        if kind == _STARTED:
            self._started = True
            return self._receive()
        return kind, data

    def _death(self) -> str:
        """Why the child stopped in the middle."""
        status = self._child.wait()
        self.close()
        if not self._started:
            return f"cannot be read: {sys.executable} could not start a process (status {status})"
        if _WORK_DONE and status == -_WORK_DONE:
            return f"cannot be read: nothing was found out in {self._work_s:g} s; it is damaged"
        if status == 1:  # all else that ends it in Python is told: the watch
            waited = f"nothing was found out in {self._wait_s:g} s"
            return f"cannot be read: {waited}; it is damaged, or its disk does not answer"
        name = f"status {status}"
        if status < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-status).name
        return f"cannot be read: the library that reads it crashed ({name}); it is damaged"


def serve(function: str, work_s: str, wait_s: str, memory_bytes: str, *words: str) -> None:
    """Run a function and send what it yields; called in the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    # What a library prints must not come between the messages.
    pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    module, _, name = function.partition(":")
    sender = _Sender(pipe, float(work_s), float(wait_s), nowhere)
    sender.send(_STARTED, b"")
    sender.flush()
    try:
        work: Callable[..., Iterator[Message]] = getattr(importlib.import_module(module), name)
        _bound_memory(int(memory_bytes))
        sender.watch()  # not before: a library may be slow to load
        for message in work(*words):
            if isinstance(message, dict):
                sender.send(_OBJECT, json.dumps(message).encode())
            else:
                sender.send(_BYTES, message)
        sender.send(_END, b"")
    except SpikeDataError as error:
        sender.send(_ERROR, str(error).encode(errors="replace")[:_MOST_ERROR])
    except BaseException as error:  # whatever the library raises is the file's fault
        told = " ".join(str(error).split()) or type(error).__name__
        sender.send(_ERROR, f"cannot be read: {told}".encode(errors="replace")[:_MOST_ERROR])
    sender.flush()
    os._exit(0)  # libraries that met damage may hang in their own tidying


class _Sender:
    """Messages gathered to a pipeful; the watch runs from one pipeful to the next."""

    def __init__(self, pipe: Any, work_s: float, wait_s: float, nowhere: int) -> None:
        self._pipe, self._nowhere = pipe, nowhere
        self._work_s, self._wait_s = work_s, wait_s
        self._waiting = bytearray()
        self._flushed_s = time.monotonic()

    def send(self, kind: bytes, data: bytes) -> None:
        self._waiting += _HEAD.pack(kind, len(data))
        self._waiting += data
        late = time.monotonic() - self._flushed_s > _FLUSH_S
        if late or len(self._waiting) > _FLUSH_BYTES:
            self.flush()
            self.watch()

    def flush(self) -> None:
        """Send what was gathered, however long that takes."""
        faulthandler.cancel_dump_traceback_later()
        view = memoryview(self._waiting)
        while view:
            view = view[self._pipe.write(view) :]
        view.release()
        self._waiting = bytearray()
        self._flushed_s = time.monotonic()

    def watch(self) -> None:
        """End the process in time if no more is sent."""
        if _WORK_DONE:
            signal.setitimer(signal.ITIMER_PROF, self._work_s)
        faulthandler.dump_traceback_later(self._wait_s, exit=True, file=self._nowhere)


def _bound_memory(most_bytes: int) -> None:
    """Let malloc fail beyond ``most_bytes`` more than now, where the system knows such a limit."""
    try:
        import resource  # noqa: PLC0415 - not on Windows

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + most_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (ImportError, OSError, ValueError):
        return
