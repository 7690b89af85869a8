"""Outputs that appear whole or not at all: one writer at a time, put into place, failures told."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spikedata.errors import StoreError


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one at work on ``path``, by an advisory lock on ``<path>.lock`` beside it.

    The system releases the lock if the process dies; the file goes with it otherwise.

    Raises:
        StoreError: another process is at work on it.
        OSError: the folder cannot be written.
    """
    lock = path.with_name(path.name + ".lock")
    file = _locked_file(lock, path)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before others may lock it: nobody locks a name that is gone
        os.close(file)


def _locked_file(lock: Path, path: Path) -> int:
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock_or_refuse(file, path)
            if os.path.samestat(lock.stat(), os.fstat(file)):
                return file
        except FileNotFoundError:
            pass  # the run before removed the file as we opened it
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock_or_refuse(file: int, path: Path) -> None:
    if sys.platform == "win32":  # no advisory locks there: one run is the user's care
        return
    import fcntl  # noqa: PLC0415  absent on Windows

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(f"{path}: another run is writing it. Wait until it has ended") from error


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


def failure_file(out: Path) -> Path:
    """Where a batch that writes ``out`` lists what failed."""
    return out.with_suffix(".failures.jsonl")


def write_failures(path: Path, failures: Sequence[Any]) -> None:
    """Write failures, dataclasses with an ``id``, as JSON Lines in order of id.

    Without any, the list of a run before is removed.
    """
    if not failures:
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(path.name + ".partial")
    ordered = sorted(failures, key=lambda failure: failure.id)
    aside.write_text("".join(json.dumps(asdict(failure)) + "\n" for failure in ordered))
    aside.replace(path)
