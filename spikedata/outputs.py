"""Outputs that appear whole or not at all: one writer at a time, put into place, failures told."""

import contextlib
import ctypes
import glob
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spikedata.errors import SpikeDataError, StoreError
from spikedata.lease import is_running
from spikedata.locking import Lock, is_taken, take
from spikedata.remote import RemotePath, place
from spikedata.wording import located, one_line


@contextlib.contextmanager
def written_aside(path: Path, *, overwrite: bool, within: Path | None = None) -> Iterator[Path]:
    """A name beside ``path`` that becomes it, brought to the disk, if all goes well; else it goes.

    Args:
        path: the file to write.
        overwrite: whether it may be there.
        within: folder of the name, for a writer that clears it of what a killed one left there.

    Raises:
        SpikeDataError: ``path`` is there, and ``overwrite`` is False.
        OSError: the disk is full, or the like.
    """
    path = place(path)
    if path.exists() and not overwrite:
        raise SpikeDataError(f"{path}: exists already. Give --overwrite to replace it")
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="spikedata-") as scratch:
            aside = Path(scratch) / path.name
            yield aside
            path.write_bytes(_parts_of(aside))
        return
    folder = within or path.parent
    _clear_partials(folder, path.name)
    # Another process, or thread, may write the same file: what ends last stays, whole.
    writer = f"{_HOST}-{os.getpid()}-{threading.get_ident()}"
    aside = folder / f"{path.name}.{writer}.partial"
    try:
        yield aside
        sync(aside)
        os.replace(aside, path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _parts_of(file: Path) -> Iterator[bytes]:
    """A file in pieces, as it is sent."""
    with file.open("rb") as opened:
        while part := opened.read(_PART_BYTES):
            yield part


_PART_BYTES = 8 << 20
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
"""This machine, in names on a disk that others share: only here it is known what runs."""


def _clear_partials(folder: Path, name: str) -> None:
    """Remove what processes of this machine left of a file when they were killed."""
    for left in folder.glob(f"{glob.escape(name)}.{_HOST}-*.partial"):
        writer = left.name[len(name) + 1 :].split("-")
        if len(writer) == 3 and writer[1].isdecimal() and not is_running(int(writer[1])):
            with contextlib.suppress(OSError):  # somebody else's to remove
                left.unlink()


def write_whole(
    path: Path, data: str | bytes, *, overwrite: bool = True, within: Path | None = None
) -> None:
    """Write a file that appears whole or not at all; text is UTF-8. See :func:`written_aside`.

    Raises:
        SpikeDataError: ``path`` is there, and ``overwrite`` is False.
        OSError: the disk is full, or the like.
    """
    path = place(path)
    if isinstance(path, RemotePath):
        _write_object(path, data.encode() if isinstance(data, str) else data, overwrite)
        return
    with written_aside(path, overwrite=overwrite, within=within) as aside:
        aside.write_bytes(data.encode() if isinstance(data, str) else data)


def _write_object(path: RemotePath, data: bytes, overwrite: bool) -> None:
    try:
        path.write_version(data, only_new=not overwrite)
    except FileExistsError as error:
        raise SpikeDataError(f"{path}: exists already. Give --overwrite to replace it") from error


def sync(path: Path) -> None:
    """Wait until a file, or which files a folder holds, is on the disk; an object is at once."""
    if isinstance(path, RemotePath):
        return
    if sys.platform == "win32" and path.is_dir():  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(out: Path) -> Iterator[Lock]:
    """Be the only one at work on the output ``out``, whatever kind of work it is.

    Before what cannot be undone, ``check()`` of what this gives tells whether that is still so.

    Raises:
        StoreError: another process, or another thread of this one, is at work on it.
        OSError: the folder cannot be written.
    """
    lock = acquire(out)
    try:
        yield lock
    finally:
        release(lock)


def acquire(out: Path) -> Lock:
    """Lock an output for this writer alone; if the process dies, others can have it.

    The lock is a file ``<out>.lock`` beside it. See :mod:`spikedata.locking`.

    Raises:
        StoreError: another writer holds it, or no lock can be had there.
        OSError: it cannot be made.
    """
    lock = take(out)
    try:
        _undo_half_a_replacement(out)
    except BaseException:
        release(lock)
        raise
    return lock


def release(lock: Lock) -> None:
    """Let others in."""
    lock.release()


def is_being_written(out: Path) -> bool:
    """Whether another process, or another thread of this one, is at work on an output.

    A lock's file that a killed process left is removed.
    """
    return is_taken(out)


class HeldFolder:
    """Tells whether the folder that lay at a path still lies there, or another by its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open = None
        if isinstance(path, RemotePath):  # no folder, but a part of names
            return
        self._was = path.stat()
        # While it is open no other folder gets its number. Windows opens no folders.
        self._open = None if sys.platform == "win32" else os.open(path, os.O_RDONLY)

    def is_in_place(self) -> bool:
        """Whether it was neither removed nor replaced."""
        if isinstance(self._path, RemotePath):
            return True
        try:
            return os.path.samestat(self._path.stat(), self._was)
        except OSError:
            return False

    def let_go(self) -> None:
        """Close it."""
        if self._open is not None:
            os.close(self._open)
            self._open = None


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(path: Path) -> dict[str, Any]:
    """Digest and size of a source: of a file, or of all files of a folder, by name.

    Raises:
        OSError: one cannot be read.
    """
    if path.is_file():
        return {"sha256": file_sha256(path), "bytes": path.stat().st_size}
    every, size = hashlib.sha256(), 0
    for file in sorted(file for file in path.iterdir() if file.is_file()):
        name = file.name.encode("utf-8", "surrogateescape")
        every.update(name + f"\0{file_sha256(file)}\n".encode())
        size += file.stat().st_size
    return {"sha256": every.hexdigest(), "bytes": size}


def put_into_place(made: Path, out: Path) -> None:
    """Move ``made`` to ``out``; what is there, a file, a folder or a link, goes last.

    Whoever looks finds one or the other, where the system can swap two names; elsewhere a killed
    process may leave the old one beside, from where the next writer puts it back.

    Raises:
        OSError: it cannot be moved; nothing has changed.
        StoreError: it was moved, but may not be on the disk yet.
    """
    old = _replaced(out)
    remove(old)
    if _swapped(made, out):
        with contextlib.suppress(OSError):
            made.rename(old)  # so that nobody goes on with it as with something new
    else:
        _moved_aside(made, out, old)
    try:
        sync(out.parent)
    except OSError as error:
        told = f"{out}: is in its place, but the disk may not hold it: {error.strerror}"
        raise StoreError(f"{told}. Run the same command again, with --overwrite") from error
    with contextlib.suppress(OSError):  # the next writer removes it
        remove(old)


def _moved_aside(made: Path, out: Path, old: Path) -> None:
    is_there = out.exists() or out.is_symlink()
    if is_there:
        out.rename(old)
    try:
        made.rename(out)
    except BaseException:
        if is_there:
            old.rename(out)
        raise


_AT_WORKING_DIRECTORY, _EXCHANGE = -100, 2
"""Of Linux' ``renameat2``."""


def _swapped(one: Path, other: Path) -> bool:
    """Let two names change places at once; False, and nothing done, where that is not possible."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or a C library without it
        return False
    here = _AT_WORKING_DIRECTORY
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), _EXCHANGE) == 0)


def _replaced(out: Path) -> Path:
    return out.with_name(out.name + ".replaced")


def _undo_half_a_replacement(out: Path) -> None:
    """Put back, or clear away, what a killed process had moved aside to replace it."""
    old = _replaced(out)
    if isinstance(out, RemotePath) or not (old.exists() or old.is_symlink()):
        return
    if out.exists() or out.is_symlink():
        remove(old)
    else:
        old.rename(out)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if isinstance(path, RemotePath):
        for file in [path, *path.rglob("*")]:
            file.unlink()
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A clip or a file that was left out, and why."""

    id: str
    """The clip's id, or the path where no clip was found."""
    path: str
    """The file or set that it is from."""
    error: str
    """One line, whatever was given."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "error", one_line(self.error))

    def told(self) -> str:
        """What failed, and why; a path once."""
        return located(self.id, self.error)

    def note(self) -> str:
        """That it was left out, and why."""
        return f"left out: {self.told()}"


def failure_file(out: Path) -> Path:
    """Where a batch that writes ``out`` lists what failed."""
    return out.with_suffix(".failures.jsonl")


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write failures as JSON Lines in order of id.

    Without any, the list of a run before is removed.
    """
    if not failures:
        path.unlink(missing_ok=True)
        return
    ordered = sorted(failures, key=lambda failure: failure.id)
    write_whole(path, "".join(json.dumps(asdict(failure)) + "\n" for failure in ordered))
