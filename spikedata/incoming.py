"""Bytes as they come: from a pipe, a socket, a device or a file, read ahead into bounded memory.

A camera does not wait. So a thread of its own reads, into a ring of blocks that is as long as the
user allows, and tells how full it was and how long it found no room: then whoever sends had to
wait, and a sender that cannot wait loses what it sends.
"""

import contextlib
import io
import os
import select
import socket
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spikedata.errors import SpikeDataError

_GLANCE_S = 0.1
"""How long to wait for bytes, or for a file to grow, before looking whether to stop."""
_CONNECT_S = 30.0
_PIPE_BYTES = 1 << 20
"""What a pipe may hold, where the system lets us ask: fewer turns between sender and reader."""
_SOCKET_BYTES = 4 << 20
_SET_PIPE_BYTES = 1031
"""Linux' ``F_SETPIPE_SZ``, which Python has a name for on Linux alone."""


class Incoming:
    """An open stream of bytes, made by :func:`open_incoming`; read by one thread."""

    def __init__(
        self,
        descriptor: int,
        read: Callable[[memoryview], int | None],
        *,
        is_file: bool = False,
        follow: bool = False,
    ) -> None:
        self.ended = ""
        """Why there is no more, once that is so."""
        self.is_broken = False
        """Whether that is an error."""
        self._descriptor, self._read = descriptor, read
        self._is_file, self._follow = is_file, follow
        self._left: int | None = None
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Have :meth:`fill`, in another thread, end soon: nobody needs its bytes."""
        self._given_up.set()

    def fill(self, room: memoryview, stop: threading.Event) -> int:
        """Read until ``room`` is full, the stream ends, or ``stop`` is set; gives the bytes read.

        What has arrived when ``stop`` is set is read all the same, but for a file that is not
        followed: that does not go away. Whatever goes wrong ends the stream, and is told by
        :attr:`ended`: what came before is kept.
        """
        filled = 0
        while filled < len(room) and not self.ended and not self._given_up.is_set():
            try:
                filled += self._read_on(room[filled:], stop)
            except Exception as error:  # a thread's own would be lost
                told = getattr(error, "strerror", None) or str(error) or type(error).__name__
                self.ended, self.is_broken = told, True
        return filled

    def _read_on(self, room: memoryview, stop: threading.Event) -> int:
        """Read what is there, unless it is time to end; gives the bytes read."""
        if self._left is None and stop.is_set():
            self._left = 0 if self._is_file and not self._follow else self._arrived()
        if self._left == 0:
            self.ended = "stopped"
            return 0
        if not self._is_ready():
            return 0
        got = self._read_some(room[: self._left], stop)
        self._left = None if self._left is None else self._left - got
        return got

    def _read_some(self, room: memoryview, stop: threading.Event) -> int:
        got = self._read(room)
        if got == 0 and not (self._follow and self._left is None):
            self.ended = "end of the stream"
        elif got == 0:
            stop.wait(_GLANCE_S)
        return got or 0

    def _is_ready(self) -> bool:
        """Whether a read would not wait; gives up after a moment."""
        if self._is_file or not hasattr(select, "poll"):
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(1000 * _GLANCE_S))

    def _arrived(self) -> int:
        """Bytes that lie ready."""
        if self._is_file:
            at = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            return max(0, os.fstat(self._descriptor).st_size - at)
        try:
            import array  # noqa: PLC0415 - with the two below, which Windows lacks
            import fcntl  # noqa: PLC0415
            import termios  # noqa: PLC0415

            number = array.array("i", [0])
            fcntl.ioctl(self._descriptor, termios.FIONREAD, number)
            return number[0]
        except (ImportError, OSError):
            return 0


@contextlib.contextmanager
def open_incoming(
    source: Path | str,
    *,
    follow: bool = False,
    stop: threading.Event | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Iterator[Incoming]:
    """Open a stream of bytes.

    Args:
        source: a path (a named pipe, a device, a file), ``-`` for standard input,
            ``tcp://HOST:PORT`` to connect to, or ``tcp-listen://HOST:PORT`` to wait for one
            connection at (port 0: any that is free).
        follow: wait for more at the end of a file, until ``stop`` is set.
        stop: set it to end the wait for a connection, and the reading.
        tell: told where it listens.

    Raises:
        SpikeDataError: there is nothing of this kind, or nobody answers.
    """
    stop = stop or threading.Event()
    text = str(source)
    try:
        if text.startswith(("tcp://", "tcp-listen://")):
            with _connected(text, stop, tell) as connection:
                connection.setblocking(False)
                yield Incoming(connection.fileno(), _receiver(connection))
        else:
            with _opened(text) as file:
                is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                yield Incoming(file.fileno(), file.readinto, is_file=is_file, follow=follow)
    except BlockingIOError as error:  # no connection came before the stop
        raise SpikeDataError(f"{text}: stopped before anybody connected") from error


def _opened(source: str) -> io.FileIO:
    try:
        if source == "-":
            file = io.FileIO(os.dup(sys.stdin.fileno()))
        else:
            if not stat.S_ISFIFO(os.stat(source).st_mode):
                return io.FileIO(source)
            # A named pipe would be waited for until somebody writes to it.
            file = io.FileIO(os.open(source, os.O_RDONLY | os.O_NONBLOCK))
    except (OSError, ValueError, AttributeError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise SpikeDataError(f"{source}: cannot be read: {told}") from error
    if sys.platform == "linux":
        import fcntl  # noqa: PLC0415 - not on Windows

        with contextlib.suppress(OSError):  # no pipe, or more than the system allows
            fcntl.fcntl(file.fileno(), _SET_PIPE_BYTES, _PIPE_BYTES)
    return file


def _receiver(connection: socket.socket) -> Callable[[memoryview], int | None]:
    def receive(room: memoryview) -> int | None:
        try:
            return connection.recv_into(room)
        except BlockingIOError:
            return None

    return receive


@contextlib.contextmanager
def _connected(
    source: str, stop: threading.Event, tell: Callable[[str], object]
) -> Iterator[socket.socket]:
    kind, _, rest = source.partition("://")
    host, _, port = rest.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise SpikeDataError(
            f"{source}: expected {kind}://HOST:PORT, for example {kind}://127.0.0.1:9000"
        )
    place = host.strip("[]") or "127.0.0.1", int(port)
    try:
        if kind == "tcp":
            connection = socket.create_connection(place, _CONNECT_S)
        else:
            connection = _accepted(place, stop, tell)
    except BlockingIOError:
        raise
    except (OSError, UnicodeError) as error:  # a name of letters that no host has
        told = getattr(error, "strerror", None) or str(error)
        raise SpikeDataError(f"{source}: {told}") from error
    with connection:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BYTES)
        yield connection


def _accepted(
    place: tuple[str, int], stop: threading.Event, tell: Callable[[str], object]
) -> socket.socket:
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    with socket.create_server(place, family=family, backlog=1) as server:
        server.settimeout(_GLANCE_S)
        address = server.getsockname()
        tell(f"listening on {address[0]}:{address[1]}")
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                return server.accept()[0]
    raise BlockingIOError


class ReadAhead:
    """The blocks of a stream, in order, read by a thread of their own; a context manager.

    Args:
        incoming: the stream.
        block_bytes: bytes of a block; the last may have fewer.
        ring_bytes: bytes that may wait at most, two blocks at least.
        most_bytes: where to stop; None: at the end.
        stop: set it to end early.
    """

    def __init__(
        self,
        incoming: Incoming,
        *,
        block_bytes: int,
        ring_bytes: int,
        most_bytes: int | None,
        stop: threading.Event,
    ) -> None:
        self.blocks = max(2, ring_bytes // block_bytes)
        self.waited_s = 0.0
        """How long the reader has found no room."""
        self.most_waiting = 0
        """The most blocks that waited at a time."""
        self._ring_nb = np.empty((self.blocks, block_bytes), np.uint8)
        self._incoming, self._most_bytes, self._stop = incoming, most_bytes, stop
        self._free = list(range(self.blocks))
        self._full: deque[tuple[int, int]] = deque()
        self._ended = self._given_up = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="read", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._given_up = True
            self._changed.notify_all()
        self._incoming.give_up()
        self._thread.join()

    @property
    def ended(self) -> str:
        """Why there is no more, once that is so."""
        return self._incoming.ended or "as many ticks as asked for"

    @property
    def is_broken(self) -> bool:
        """Whether that is an error."""
        return self._incoming.is_broken

    @property
    def fill(self) -> float:
        """How full the ring is, 0 to 1."""
        return len(self._full) / self.blocks

    @property
    def fullest(self) -> float:
        """The fullest that it was, 0 to 1."""
        return self.most_waiting / self.blocks

    @property
    def bytes(self) -> int:
        """Bytes that it may hold."""
        return int(self._ring_nb.nbytes)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Blocks, uint8 (bytes,), each there until the next is asked for."""
        while True:
            with self._changed:
                while not self._full and not self._ended:
                    self._changed.wait()
                if not self._full:
                    return
                slot, count = self._full[0]
            yield self._ring_nb[slot, :count]
            with self._changed:
                self._full.popleft()
                self._free.append(slot)  # taken again first: it is in the cache
                self._changed.notify_all()

    def _run(self) -> None:
        left = self._most_bytes
        try:
            while left != 0 and (slot := self._room()) is not None:
                room = self._ring_nb[slot]
                asked = len(room) if left is None else min(left, len(room))
                count = self._incoming.fill(memoryview(room)[:asked], self._stop)
                left = None if left is None else left - count
                self._hand_over(slot, count)
                if count < asked:
                    break
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _room(self) -> int | None:
        with self._changed:
            if not self._free and not self._given_up:
                began = time.monotonic()
                while not self._free and not self._given_up:
                    self._changed.wait()
                self.waited_s += time.monotonic() - began
            return None if self._given_up else self._free.pop()

    def _hand_over(self, slot: int, count: int) -> None:
        with self._changed:
            if count:
                self._full.append((slot, count))
                self.most_waiting = max(self.most_waiting, len(self._full))
            self._changed.notify_all()
