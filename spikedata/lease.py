"""Leases: a lock that is a note, renewed by its holder, where locks of the system do not reach.

Several machines see the note: in a folder of a network file system, or in an object store. Who
finds one watches it; a note that stays as it is for the lease time has lost its holder, and one of
those who watched takes it over. Only times that passed on one machine are compared, never the
clocks of two. A holder that was suspended for longer finds another's note, and stops.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from spikedata.errors import StoreError

_MOST_BYTES = 1 << 16
"""What is longer is no note, and is not read to its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """How long what takes, seconds."""

    lease_s: float = 30.0
    """A note that did not change for so long has no holder any more."""
    renew_s: float = 5.0
    """How often its holder changes it."""
    poll_s: float = 0.5
    """How often who waits looks."""


class Medium(Protocol):
    """Where one note lies that several machines see; each change is whole or not at all.

    A version tells one content from every other there ever was. Every method may raise OSError.
    """

    def create(self, data: bytes) -> str | None:
        """Lay a note where none is, and give its version; None if there is one."""

    def read(self) -> tuple[bytes, str] | None:
        """The note and its version; None if there is none."""

    def replace(self, version: str, data: bytes) -> str | None:
        """Change the note of that version, and give the next; None if it is another by now."""

    def delete(self, version: str) -> bool:
        """Remove the note of that version; False if it is another by now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Who holds a lease."""

    owner: str
    """At random: no two holders have the same."""
    host: str
    machine: str | None
    """This start of this machine, and which processes are told apart on it; None if unknown."""
    pid: int
    count: int = 0
    """How often it was renewed."""

    def data(self) -> bytes:
        """As it is laid down."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, data: bytes) -> "Note | None":
        """Undo :meth:`data`; None of what is no note."""
        try:
            told = json.loads(data)
            note = cls(**told)
        except (ValueError, TypeError, RecursionError):
            return None
        texts = (note.owner, note.host, note.machine or "")
        whole = (note.pid, note.count)
        fits = all(isinstance(one, str) for one in texts) and all(type(n) is int for n in whole)
        return note if fits else None

    def is_of_this_machine(self) -> bool:
        """Whether its process can be looked for."""
        return self.machine is not None and self.machine == _this_machine()

    def has_ended(self) -> bool:
        """Whether its process is known to be gone."""
        if not self.is_of_this_machine():
            return False
        if self.pid == os.getpid():  # or that of another before, which had the same number
            return self.owner not in _ours
        return not is_running(self.pid)


_ours: "weakref.WeakValueDictionary[str, Lease]" = weakref.WeakValueDictionary()
"""Leases of this process, by owner."""


@cache
def _this_machine() -> str | None:
    """A digest of what no other running machine, nor container of this one, has.

    Names of machines are not enough: two that share a disk may both be called localhost.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        processes = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None
    told = f"{platform.node()} {boot} {processes}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def is_running(process: int) -> bool:
    """Whether there is a process of this number; True where that cannot be known."""
    if sys.platform == "win32":  # there a signal 0 ends a process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is somebody else's
        return True
    return True


def _now_s() -> float:
    """Seconds, also those in which the machine slept."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Lease:
    """The right to write, held by a note; a thread renews it until :meth:`release`.

    One that nobody refers to any more is released by that thread.
    """

    def __init__(self, medium: Medium, name: str, times: Times | None = None) -> None:
        self._medium = medium
        self._name = name
        self._times = times or Times()
        self._note = Note(
            owner=secrets.token_hex(16),
            host=platform.node(),
            machine=_this_machine(),
            pid=os.getpid(),
        )
        self._mutex = threading.RLock()
        self._end = threading.Event()
        self._held = _Held()
        self._renewed_s = 0.0
        self._lost = ""

    @property
    def is_locked(self) -> bool:
        """Whether it was taken, neither released nor seen to be lost."""
        return self._held.version is not None

    @property
    def number(self) -> int:
        """One that no other holder has: who was suspended may awake beside the next."""
        return (int(self._note.owner[:12], 16) + 1) << 20

    def acquire(self) -> None:
        """Take the lease, at once or, if its last holder is gone, when that is sure.

        Raises:
            StoreError: another holds it.
            OSError: the note can be neither read nor written.
        """
        _ours[self._note.owner] = self  # first: a note of ours is never one that was left behind
        try:
            while True:
                began_s = _now_s()
                version = self._medium.create(self._note.data())
                if version is None:
                    left = self._left_behind()
                    began_s = _now_s()
                    if left is not None:
                        version = self._medium.replace(left, self._note.data())
                if version is not None:
                    return self._hold(version, began_s)
                time.sleep(self._times.poll_s)  # another was faster: see who
        except BaseException:
            _ours.pop(self._note.owner, None)
            raise

    def is_held(self) -> bool:
        """Whether somebody holds it; a note that was left behind is removed.

        Of another machine's holder that is told by its next renewal.

        Raises:
            OSError: the note cannot be read.
        """
        seen = self._medium.read()
        if seen is None:
            return False
        note = Note.read(seen[0])
        if note is not None and note.is_of_this_machine() and not note.has_ended():
            return True
        try:
            left = self._left_behind()
        except StoreError:
            return True
        if left is not None:
            with contextlib.suppress(OSError):  # where nothing can be removed it still tells this
                self._medium.delete(left)
        return False

    def _left_behind(self) -> str | None:
        """Version of a note whose holder is gone; None if the note is gone too.

        Raises:
            StoreError: it has a holder.
        """
        seen = first = self._medium.read()
        began_s, told = _now_s(), False
        while seen is not None and first is not None:
            data, version = seen
            note = Note.read(data)
            if note is not None and note.owner == self._note.owner:
                return version  # it was made, and the answer was lost
            if version != first[1] or (note is not None and note.owner in _ours):
                raise StoreError(self._held_by(note, _now_s() - began_s))
            if note is not None and note.has_ended():
                return version
            if _now_s() - began_s >= self._times.lease_s:
                return version
            if not told and _now_s() - began_s > 1.5 * self._times.renew_s:
                _log_waiting(self._name, note, self._times.lease_s)
                told = True
            time.sleep(self._times.poll_s)
            seen = self._medium.read()
        return None

    def _held_by(self, note: Note | None, watched_s: float) -> str:
        return (
            f"{self._name}: another process is writing it, {_who(note)}, who renewed its lock "
            f"while it was watched for {watched_s:.1f} s. Wait until it has ended"
        )

    def _hold(self, version: str, began_s: float) -> None:
        self._held.version, self._renewed_s = version, began_s
        keeping = (weakref.ref(self), self._held, self._medium, self._end, self._times.renew_s)
        threading.Thread(target=_keep, args=keeping, name="lease", daemon=True).start()

    def renew(self) -> bool:
        """Change the note, so that who watches sees that it has a holder; False once it is lost.

        What could not be reached may be the next time; :meth:`check` says when it is too late.
        """
        with self._mutex:
            if self._held.version is None:
                return False
            began_s = _now_s()
            note = replace(self._note, count=self._note.count + 1)
            try:
                version = self._medium.replace(self._held.version, note.data())
                if version is None:
                    version = self._still_ours()
            except OSError:
                return True
            self._held.version = version
            if version is None:
                return False
            self._note, self._renewed_s = note, began_s
            return True

    def _still_ours(self) -> str | None:
        """Version of the note if it is ours; else None, and who has taken it is noted."""
        seen = self._medium.read()
        note = None if seen is None else Note.read(seen[0])
        if seen is not None and note is not None and note.owner == self._note.owner:
            return seen[1]  # it was changed, and the answer was lost
        self._lost = "somebody removed it" if seen is None else f"{_who(note)} has taken it"
        return None

    def check(self) -> None:
        """See that it is still held, before something is done that cannot be undone.

        Raises:
            StoreError: it was lost.
        """
        with self._mutex:
            failed = ""
            try:
                if self._held.version is not None:
                    self._held.version = self._still_ours()
                # A fresh note is nobody else's for a while, in which the work is done.
                if self._held.version is not None and self._age_s() > self._times.lease_s / 2:
                    self.renew()
            except OSError as error:
                failed = error.strerror or str(error)
            if self._held.version is not None and self._age_s() <= self._times.lease_s / 2:
                return
            told = self._lost or f"it could not be renewed for {self._age_s():.0f} s {failed}"
        raise StoreError(
            f"{self._name}: lost its lock: {told.strip()}. What was finished before stays; run "
            "the same command again"
        )

    def _age_s(self) -> float:
        return _now_s() - self._renewed_s

    def release(self) -> None:
        """Let others in. What cannot be removed they take over when the lease time is over."""
        self._end.set()
        with self._mutex:
            version, self._held.version = self._held.version, None
            _ours.pop(self._note.owner, None)
            if version is not None and self._note.pid == os.getpid():  # not in a fork of it
                with contextlib.suppress(OSError):
                    self._medium.delete(version)


@dataclass(slots=True)
class _Held:
    """What outlives a lease that nobody refers to any more."""

    version: str | None = None
    """Of the note; None if it is not held."""


def _keep(
    lease: "weakref.ref[Lease]",
    held: _Held,
    medium: Medium,
    end: threading.Event,
    renew_s: float,
) -> None:
    """Renew a lease until it ends, or until nobody else refers to it: then its note goes.

    That is done here, since whoever happens to drop the last reference is not to wait for a disk or
    a network.
    """
    while not end.wait(renew_s):
        kept = lease()
        if kept is None:
            if held.version is not None:
                with contextlib.suppress(OSError):
                    medium.delete(held.version)
            return
        if not kept.renew():
            return
        del kept


def _log_waiting(name: str, note: Note | None, lease_s: float) -> None:
    logging.getLogger(__name__).warning(
        "%s: is locked by %s; watching for %g s whether it still runs", name, _who(note), lease_s
    )


def _who(note: Note | None) -> str:
    if note is None:
        return "somebody whose note cannot be read"
    return f"process {note.pid} on {note.host or 'a machine without a name'}"


_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EACCES)
"""What a file system says that gives a file but one name."""


class FileMedium:
    """A note that is a file.

    Files know no change that depends on what is there. So who changes version V first makes the
    next note under the name ``<file>.<V>.<n>``, which one alone can, looks that the note is V yet,
    and renames its own over it. A name that a dead process left is passed over by the next n, whose
    maker removes it before it looks. Hence no note that is fresh is ever moved or replaced.
    """

    def __init__(self, path: Path, *, patience_s: float | None = None) -> None:
        self.path = path
        self._patience_s = Times().lease_s if patience_s is None else patience_s
        self._since_s: dict[str, float] = {}
        """When a claim was seen first, by name."""

    def create(self, data: bytes) -> str | None:
        """See :class:`Medium`."""
        if self.path.exists() or not self._made(self.path, data):
            return None
        self._sweep(_version(data))
        return _version(data)

    def read(self) -> tuple[bytes, str] | None:
        """See :class:`Medium`."""
        data = _read(self.path)
        return None if data is None else (data, _version(data))

    def replace(self, version: str, data: bytes) -> str | None:
        """See :class:`Medium`."""
        return _version(data) if self._change(version, data, self._put) else None

    def delete(self, version: str) -> bool:
        """See :class:`Medium`."""
        nobody = f"{secrets.token_hex(16)} removes it".encode()
        return self._change(version, nobody, lambda _: self.path.unlink())

    def _put(self, claim: Path) -> None:
        os.replace(claim, self.path)

    def _change(self, version: str, data: bytes, change: Callable[[Path], Any]) -> bool:
        """Change the note by ``change`` if it is of that version and nobody else is about to."""
        there = self._claims(version)
        if not all(map(self._is_dead, there)):
            return False
        number = max(map(_number, there), default=-1) + 1
        claim = self.path.with_name(f"{self.path.name}.{version}.{number}")
        if not self._made(claim, data):
            return False
        try:
            # One that made a lower number after a higher one was there leaves it to that.
            now = self._claims(version)
            if any(_number(other) > number for other in now):
                return False
            for other in now:
                if other != claim:
                    other.unlink(missing_ok=True)
            seen = self.read()
            if seen is None or seen[1] != version:
                return False
            change(claim)
        except FileNotFoundError:  # somebody took this claim for a dead one's
            return False
        finally:
            claim.unlink(missing_ok=True)
        return True

    def _claims(self, version: str) -> list[Path]:
        shape = re.compile(re.escape(f"{self.path.name}.{version}.") + r"\d{1,9}")
        return [path for path in self.path.parent.iterdir() if shape.fullmatch(path.name)]

    def _is_dead(self, claim: Path) -> bool:
        """Whether who made a claim is gone: known, or it was there for the lease time."""
        since_s = self._since_s.setdefault(claim.name, _now_s())
        data = _read(claim)
        note = None if data is None else Note.read(data)
        return (note is not None and note.has_ended()) or _now_s() - since_s >= self._patience_s

    def _made(self, path: Path, data: bytes) -> bool:
        """Make a file that appears whole; False if there is one."""
        aside = self.path.with_name(f"{self.path.name}.{secrets.token_hex(8)}.made")
        try:
            aside.write_bytes(data)
            return _named(aside, path, data)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)

    def _sweep(self, version: str) -> None:
        """Remove what killed processes left beside the note; claims of other versions are void."""
        shape = re.compile(re.escape(self.path.name) + r"\.([0-9a-f]{16})\.(\d{1,9}|made)")
        for path in self.path.parent.iterdir():
            found = shape.fullmatch(path.name)
            if found and found[1] != version:
                with contextlib.suppress(OSError):
                    path.unlink()


def _named(aside: Path, path: Path, data: bytes) -> bool:
    """Give a whole file its name; False if there is one of that name."""
    try:
        os.link(aside, path)
    except FileNotFoundError:
        return False  # swept away by the holder that there is by now
    except FileExistsError:
        return _read(path) == data  # a network may answer so to what it did when asked first
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _made_in_place(path, data)
    return True


def _made_in_place(path: Path, data: bytes) -> bool:
    """Make a file where none is, without a second name; False if there is one."""
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return _read(path) == data


def _read(path: Path) -> bytes | None:
    """What is in a file, its beginning if it is long; None if there is none."""
    for again in reversed(range(5)):
        try:
            with open(path, "rb") as file:
                return file.read(_MOST_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ESTALE or not again:  # it was replaced while it was opened
                raise
    return None


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _number(claim: Path) -> int:
    return int(claim.suffix[1:])
