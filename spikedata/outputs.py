"""Outputs that appear whole or not at all: one writer at a time, put into place, failures told."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from spikedata.errors import SpikeDataError, StoreError


@contextlib.contextmanager
def written_aside(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A name beside ``path`` that becomes it if all goes well, and else goes away.

    Raises:
        SpikeDataError: ``path`` is there, and ``overwrite`` is False.
    """
    if path.exists() and not overwrite:
        raise SpikeDataError(f"{path}: exists already. Give --overwrite to replace it")
    aside = path.with_name(path.name + ".partial")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one at work on ``path``, by a :class:`Lock` named ``<path>.lock`` beside it.

    Raises:
        StoreError: another process is at work on it.
        OSError: the folder cannot be written.
    """
    lock = Lock(path.with_name(path.name + ".lock"), path)
    try:
        yield
    finally:
        lock.release()


class Lock:
    """A file that one process holds at a time; the system lets it go if the process dies.

    Args:
        file: made if it is not there, removed at the release.
        of: what it stands for.

    Raises:
        StoreError: another process holds it.
        OSError: it cannot be made.
    """

    def __init__(self, file: Path, of: Path) -> None:
        self._file = file
        while True:
            self._handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                _lock_or_refuse(self._handle, of)
                if os.path.samestat(file.stat(), os.fstat(self._handle)):
                    return
            except FileNotFoundError:
                pass  # the one before removed the file as we opened it
            except BaseException:
                os.close(self._handle)
                raise
            os.close(self._handle)

    def release(self) -> None:
        """Let others in; the file goes first, so that nobody locks a name that is gone."""
        self._file.unlink(missing_ok=True)
        os.close(self._handle)


def _lock_or_refuse(handle: int, of: Path) -> None:
    if sys.platform == "win32":  # no advisory locks there: one writer is the user's care
        return
    import fcntl  # noqa: PLC0415  absent on Windows

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(f"{of}: another process is writing it. Wait until it has ended") from error


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put_into_place(made: Path, out: Path) -> None:
    """Move ``made`` to ``out``; what is there, a file, a folder or a link, goes last."""
    old = out.with_name(out.name + ".replaced")
    remove(old)
    if out.exists() or out.is_symlink():
        out.rename(old)
    made.rename(out)
    remove(old)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
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
    """One line."""


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
    aside = path.with_name(path.name + ".partial")
    ordered = sorted(failures, key=lambda failure: failure.id)
    aside.write_text("".join(json.dumps(asdict(failure)) + "\n" for failure in ordered))
    aside.replace(path)
