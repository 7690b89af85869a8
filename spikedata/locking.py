"""One writer at a time: by the system's lock, or where that does not reach, by a lease.

The lock of an output is a file beside it, see :func:`lock_file`. Empty, the system locks it
(``flock``); with something in it, it is the note of a lease, see :mod:`spikedata.lease`.
"""

import contextlib
import errno
import os
import re
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast, get_args

from filelock import FileLock, Timeout

from spikedata.errors import SpikeDataError, StoreError
from spikedata.lease import FileMedium, Lease, Times
from spikedata.remote import RemotePath, Version

Way = Literal["flock", "lease", "none"]
"""How writers keep apart."""
SETTING = "SPIKEDATA_LOCK"
"""Environment variable that chooses the way; every machine at one store must have the same."""

TIMES = Times()
"""Of every lease on files."""

_PATIENCE_S = 0.3
"""How long a lock is waited for: who only looks whether it is held has it for a moment."""


class Lock(Protocol):
    """The right to write an output."""

    @property
    def is_locked(self) -> bool:
        """Whether it is held."""

    @property
    def number(self) -> int:
        """Where to begin counting what is written aside, so that no two holders write the same."""

    def check(self) -> None:
        """See that it is still held.

        Raises:
            StoreError: it was lost.
        """

    def release(self) -> None:
        """Let others in."""


def take(out: Path) -> Lock:
    """Lock an output for this writer alone.

    Raises:
        StoreError: another writer holds it, or no lock can be had there.
        SpikeDataError: the environment asks for a way that there is not.
        OSError: it cannot be made.
    """
    file = lock_file(out)
    way = _way_at(out, file)
    if way == "none":
        return _NoLock()
    if way == "lease":
        _refuse_a_flock(out, file)
        lease = _lease(out, file)
        try:
            lease.acquire()
        except OSError as error:  # of a name beside it, which nobody has heard of
            raise OSError(error.errno, error.strerror, str(file)) from error
        return lease
    if _is_note(file) and _lease(out, file).is_held():
        raise StoreError(f"{out}: another process is writing it, by a lease. {_WAIT}")
    return _Flock(out, file)


def is_taken(out: Path) -> bool:
    """Whether a writer holds the lock of an output; what a killed one left is removed.

    Where a lease is held by another machine this waits until it is renewed, or is not.
    """
    file = lock_file(out)
    if not file.exists():
        return False
    try:
        way = _way_at(out, file)
        if way != "none" and (way == "lease" or _is_note(file)):
            return _lease(out, file).is_held()
        _Flock(out, file).release()
    except StoreError:
        return True
    except OSError:  # where nothing can be written nobody writes
        return False
    return False


def lock_file(out: Path) -> Path:
    """The file ``<out>.lock`` beside an output: one inside would go with what is replaced."""
    there = out.resolve()  # links to one output have one lock
    return there.with_name(there.name + ".lock")


_WAIT = "Wait until it has ended"


class _Flock:
    """A file that the system has locked; it lets it go if the process dies."""

    number = 0

    def __init__(self, out: Path, file: Path) -> None:
        self._lock = FileLock(file, timeout=_PATIENCE_S, thread_local=False, mode=0o666)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise StoreError(f"{out}: another process is writing it. {_WAIT}") from error
        except NotImplementedError as error:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(file)) from error

    @property
    def is_locked(self) -> bool:
        return self._lock.is_locked

    def check(self) -> None:
        """The system keeps it."""

    def release(self) -> None:
        """The file goes first, so that nobody who waits locks a name that is gone."""
        if sys.platform != "win32":  # an open file cannot be removed there, and may stay
            with contextlib.suppress(OSError):  # without its holder it means nothing
                Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()


class _NoLock:
    """Nothing: the user has said that nobody else writes."""

    is_locked = True
    number = 0

    def check(self) -> None:
        """Nobody else writes."""

    def release(self) -> None:
        self.is_locked = False


def _lease(out: Path, file: Path) -> Lease:
    if isinstance(file, RemotePath):
        return Lease(ObjectMedium(file), str(out), TIMES)
    return Lease(FileMedium(file, patience_s=TIMES.lease_s), str(out), TIMES)


def _is_note(file: Path) -> bool:
    with contextlib.suppress(OSError):
        return file.stat().st_size > 0
    return False


def _refuse_a_flock(out: Path, file: Path) -> None:
    """See that nobody has locked the file by the other way, as far as that is seen here."""
    if sys.platform == "win32" or isinstance(file, RemotePath) or _is_note(file):
        return
    with contextlib.suppress(FileNotFoundError):
        if _tried_flock(file, os.O_RDWR) in (errno.EWOULDBLOCK, errno.EAGAIN):
            raise StoreError(f"{out}: another process is writing it. {_WAIT}")


class ObjectMedium:
    """A note in object storage, which writes on a condition: a medium of :class:`Lease`."""

    def __init__(self, file: RemotePath) -> None:
        self._file = file

    def create(self, data: bytes) -> str | None:
        """Lay a note where none is, and give its version; None if there is one."""
        try:
            return self._file.write_version(data, only_new=True).as_text()
        except FileExistsError:
            return None

    def read(self) -> tuple[bytes, str] | None:
        """The note and its version; None if there is none."""
        try:
            data, version = self._file.read_version()
        except FileNotFoundError:
            return None
        return data, version.as_text()

    def replace(self, version: str, data: bytes) -> str | None:
        """Change the note of that version, and give the next; None if it is another by now."""
        try:
            expected = Version.from_text(version)
            return self._file.write_version(data, expected=expected).as_text()
        except (FileExistsError, FileNotFoundError):
            return None

    def delete(self, version: str) -> bool:
        """Remove the note of that version; False if it is another by now.

        Nothing is removed on a condition: the note is emptied on one first, and who finds an empty
        one watches it for longer than this takes.
        """
        if self.replace(version, b"") is None:
            return False
        self._file.unlink()
        return True


# --- which way ----------------------------------------------------------------------------------


def _way_at(out: Path, file: Path) -> Way:
    """How writers keep apart there: as the environment asks, else as the file system can.

    Raises:
        StoreError: the file system has no lock, and cannot have one made of files.
        SpikeDataError: the environment asks for a way that there is not.
    """
    asked = os.environ.get(SETTING, "")
    if asked and asked not in get_args(Way):
        raise SpikeDataError(f"{SETTING}={asked}: expected {', '.join(get_args(Way))}, or unset")
    if isinstance(file, RemotePath):
        return "none" if asked == "none" else "lease"
    if asked in ("lease", "none") or sys.platform == "win32":
        return cast(Way, asked or "flock")
    refused = _flock_refused(file)
    if asked == "flock":
        if refused is not None:
            raise StoreError(
                f"{out}: its file system cannot lock files ({os.strerror(refused)}), and "
                f"{SETTING}=flock asks for that. Unset it: a lease is used there"
            )
        return "flock"
    mount = mount_of(file.parent)
    if mount is not None and mount.has_no_exclusive_files():
        raise StoreError(
            f"{out}: no lock holds on {mount.kind} ({mount.point}), where two machines may both "
            f"make one file. Write elsewhere, or set {SETTING}=none if nobody else writes it"
        )
    if refused is not None or (mount is not None and mount.locks_for_itself_alone()):
        return "lease"
    return "flock"


_CANNOT_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


def _flock_refused(file: Path) -> int | None:
    """The error by which the system says that it cannot lock files beside one; None if it can.

    A file of its own is tried: the lock's may hold somebody's note. Where none can be made, the
    lock itself tells why.
    """
    probe = file.with_name(f"{file.name}.{secrets.token_hex(8)}.made")
    try:
        code = _tried_flock(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except OSError:
        return None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return code if code in _CANNOT_LOCK else None


def _tried_flock(file: Path, flags: int) -> int | None:
    """The error of locking a file for a moment."""
    import fcntl  # noqa: PLC0415  not on Windows

    descriptor = os.open(file, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno
    finally:
        os.close(descriptor)
    return None


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system, where it is mounted."""

    point: str
    kind: str
    options: frozenset[str]

    def locks_for_itself_alone(self) -> bool:
        """Whether ``flock`` is not known to reach the other machines that have it mounted."""
        kind = self.kind
        if kind in ("nfs", "nfs4"):
            return bool(self.options & {"nolock", "local_lock=all", "local_lock=flock"})
        if kind == "lustre":
            return "flock" not in self.options
        if kind in ("cifs", "smb3", "smbfs"):
            return "nobrl" in self.options
        if kind == "fuse" or kind.startswith("fuse."):
            return kind.removeprefix("fuse.") not in _FUSE_THAT_LOCKS
        return kind in _LOCAL_LOCKS

    def has_no_exclusive_files(self) -> bool:
        """Whether two machines may both make one file: an object store that looks like a disk."""
        return self.kind.startswith("fuse.") and self.kind[5:] in _OBJECT_STORES


_FUSE_THAT_LOCKS = {"glusterfs", "ceph", "ceph-fuse", "juicefs", "mfs", "moosefs"}
"""FUSE leaves ``flock`` to the machine unless the file system takes it: these do."""
_LOCAL_LOCKS = {"9p", "virtiofs", "vboxsf", "prl_fs", "vmhgfs", "beegfs", "drvfs", "gpfs"}
_OBJECT_STORES = {
    *("s3fs", "goofys", "geesefs", "rclone", "mount-s3", "mountpoint-s3"),
    *("gcsfuse", "blobfuse", "blobfuse2"),
}


def mount_of(folder: Path, table: str | None = None) -> Mount | None:
    """The file system that a folder lies on; None where the system does not tell.

    Args:
        folder: resolved.
        table: as ``/proc/self/mountinfo`` has it; default that.
    """
    if table is None:
        try:
            told = Path("/proc/self/mountinfo").read_bytes()
        except OSError:  # not Linux
            return None
        table = told.decode("utf-8", "surrogateescape")
    found: Mount | None = None
    for mount in _mounts(table):
        holds = folder.is_relative_to(mount.point)
        # Of two at one place the later lies over the earlier.
        if holds and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _mounts(table: str) -> Iterator[Mount]:
    """What the lines of ``/proc/self/mountinfo`` tell, but for those that are none."""
    for line in table.split("\n"):
        before, dash, after = line.partition(" - ")
        ours, theirs = before.split(" "), after.split(" ")
        if dash and len(ours) >= 6 and len(theirs) >= 3:
            options = {*ours[5].split(","), *theirs[2].split(",")}
            point = re.sub(r"\\([0-7]{3})", _unescaped, ours[4])
            yield Mount(point, theirs[0], frozenset(options))


def _unescaped(found: "re.Match[str]") -> str:
    return chr(int(found[1], 8))
