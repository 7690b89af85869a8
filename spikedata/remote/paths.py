"""Paths whose files lie in object storage or on the Hub: ``s3://bucket/folder/file``.

They are :class:`pathlib.Path` with the ways to look, read and write replaced, so that code for
files on disks needs no second version where a file is read or written whole. Each method makes one
request unless it says so. There are no folders: one is there if a file's name begins with it.
"""

import contextlib
import errno
import fnmatch
import io
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from spikedata.errors import SpikeDataError
from spikedata.remote.asking import CREDENTIALS, TRIES, ask
from spikedata.remote.buckets import SCHEMES, Bucket, Entry, Version, bucket_of
from spikedata.remote.writing import Condition, Parts

_URL = re.compile(rf"({'|'.join(SCHEMES)}):(?:/+(.*))?", re.DOTALL)
_BUFFER_BYTES = 1 << 20

T = TypeVar("T")


if TYPE_CHECKING:
    _SystemPath = Path
else:  # a path cannot be of no system's kind before Python 3.12
    _SystemPath = type(Path())


class RemotePath(_SystemPath):
    """A file or folder in a bucket; made by :func:`place`."""

    def __str__(self) -> str:
        first, *rest = self.parts or ("",)
        return f"{first}//{'/'.join(rest)}" if first.endswith(":") else super().__str__()

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return place, (str(self),)

    __hash__ = Path.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.parts == other.parts

    @property
    def scheme(self) -> str:
        """``s3``, ``gs``, ``az``, ``hf`` or ``memory``."""
        return str(self.parts[0][:-1])

    @property
    def key(self) -> str:
        """Path in the bucket."""
        return "/".join(self.parts[2:])

    def _ask(self, of: Callable[[Bucket], T], *, tries: int = TRIES) -> T:
        """What the bucket answers; made again where that helps."""
        if len(self.parts) < 2 or self.scheme not in SCHEMES:
            raise ValueError(f"{self}: no path in a bucket; was a path with / in front put to one?")
        return ask(self, lambda: of(bucket_of(self.scheme, self.parts[1])), tries=tries)

    def _below(self) -> str:
        return f"{self.key}/" if self.key else ""

    def _at(self, key: str) -> "RemotePath":
        return place("/".join((f"{self.scheme}:/", self.parts[1], key)))  # type: ignore[return-value]

    # --- looking ------------------------------------------------------------------------------

    def stat(self, *, follow_symlinks: bool = True) -> Any:  # noqa: ARG002
        """Size and time of a file.

        Raises:
            OSError: it is not there, or cannot be asked for.
        """
        entry = self._ask(lambda bucket: bucket.head(self.key))
        return SimpleNamespace(st_size=entry.size, st_mtime=entry.modified_s, st_mode=0o100644)

    def is_file(self, **_: Any) -> bool:
        """Whether there is an object of just this name."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, **_: Any) -> bool:
        """Whether there is an object whose name begins with this one and a slash."""
        return next(iter(self._entries()), None) is not None

    def exists(self, **_: Any) -> bool:
        """Whether there is such a file, or anything below; up to two requests."""
        return self.is_file() or self.is_dir()

    def is_symlink(self) -> bool:
        """There are no links."""
        return False

    def resolve(self, strict: bool = False) -> "RemotePath":  # noqa: ARG002
        """Itself."""
        return self

    absolute = expanduser = resolve

    def iterdir(self) -> Generator["RemotePath", None, None]:
        """Files and folders one level down, in order; a request for a thousand of them.

        Raises:
            FileNotFoundError: there are none.
        """
        below = self._below()
        folders, entries = self._ask(lambda bucket: bucket.look_in(below))
        names = {folder.rstrip("/") for folder in folders} | {entry.key for entry in entries}
        # A folder may be an object of its own, whose name ends with a slash.
        keys = sorted(name for name in names if len(name) > len(below) and name.startswith(below))
        if not keys:
            raise FileNotFoundError(errno.ENOENT, "nothing lies there", str(self))
        yield from map(self._at, keys)

    def walk_files(self) -> Iterator[tuple["RemotePath", int, str | None]]:
        """Every file below, in order, with size and a tag that changes when it does."""
        for entry in self._entries():
            yield self._at(entry.key), entry.size, entry.tag

    def names_below(self) -> Iterator[str]:
        """Path of every file below, relative to this."""
        start = len(self._below())
        for entry in self._entries():
            yield entry.key[start:]

    def _entries(self) -> Iterator[Entry]:
        """Every object below but those that stand for folders, as the consoles of clouds make."""
        below = self._below()
        last = None
        for entry in self._listed(below):
            if last is not None and (last.size or not entry.key.startswith(f"{last.key}/")):
                yield last
            last = entry if entry.key.startswith(below) else None
        if last is not None:
            yield last

    def _listed(self, below: str) -> Iterator[Entry]:
        """Every object below; a listing that breaks off goes on behind what it gave."""
        pages: Iterator[list[Entry]] | None = None
        last: str | None = None

        def next_page(bucket: Bucket) -> list[Entry] | None:
            nonlocal pages
            if pages is None:
                pages = bucket.walk(below, last)
            try:
                return next(pages, None)
            except BaseException:
                pages = None
                raise

        while (page := self._ask(next_page)) is not None:
            for entry in page:
                if entry.key != last:
                    yield entry
                    last = entry.key

    def rglob(self, pattern: str, **_: Any) -> Generator["RemotePath", None, None]:
        """Files below whose name fits, in order."""
        for path, _size, _tag in self.walk_files():
            if fnmatch.fnmatchcase(path.name, pattern):
                yield path

    def glob(self, pattern: str, **_: Any) -> Generator["RemotePath", None, None]:
        """What lies where the pattern's folders say, its last part being the one with ``*``."""
        *folders, last = pattern.split("/")
        with contextlib.suppress(FileNotFoundError):
            for path in self.joinpath(*folders).iterdir():
                if fnmatch.fnmatchcase(path.name, last):
                    yield path

    # --- reading ------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """All of a file.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        return self.read_version()[0]

    def read_version(self) -> tuple[bytes, Version]:
        """All of a file, and which version that is.

        Raises:
            OSError: as :meth:`read_bytes`.
        """
        return self._ask(lambda bucket: bucket.read_all(self.key))

    def read_range(self, start: int, length: int) -> bytes:
        """Bytes from ``start`` on; fewer than ``length`` at the end of the file.

        Raises:
            OSError: as :meth:`read_bytes`.
        """
        return self._ask(lambda bucket: bucket.read(self.key, start, length))

    def read_tail(self, length: int) -> tuple[bytes, int]:
        """The last ``length`` bytes, or all, and the file's size.

        Raises:
            OSError: as :meth:`read_bytes`.
        """
        return self._ask(lambda bucket: bucket.read_tail(self.key, length))

    def read_text(self, encoding: str | None = None, errors: str | None = None, **_: Any) -> str:
        """All of a text file."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(  # type: ignore[override]
        self, mode: str = "r", buffering: int = -1, **text: Any
    ) -> Any:
        """A file to read, piece by piece as it is asked for.

        Raises:
            OSError: it is not there, or ``mode`` writes: see :meth:`write_bytes`.
        """
        if set(mode) - set("rbt"):
            raise OSError(errno.EROFS, "is written whole or not at all", str(self))
        size = self.stat().st_size
        raw = _RangedFile(self, size)
        if "b" in mode and buffering == 0:
            return raw
        buffered = io.BufferedReader(raw, _BUFFER_BYTES)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, **text)

    # --- writing ------------------------------------------------------------------------------

    def write_bytes(self, data: Any) -> int:
        """Write a file whole, from memory or from an iterator of parts of it.

        Raises:
            OSError: it cannot be written; nothing is.
        """
        self.write_version(data)
        return len(data) if hasattr(data, "__len__") else 0

    def write_version(
        self,
        data: bytes | Iterable[bytes],
        *,
        only_new: bool = False,
        expected: Version | None = None,
    ) -> Version:
        """Write a file whole, perhaps on a condition; gives which version that is.

        Args:
            data: its bytes; or parts of it, which are held together up to some size and on a
                condition.
            only_new: refuse if it is there.
            expected: refuse if it is not this version that is there.

        Raises:
            FileExistsError: it is there, or it is another version.
            OSError: it cannot be written; nothing is.
            Exception: what taking the next part raised; nothing is written.
        """
        parts = Parts(data)
        held = parts.held()
        if only_new or expected is not None:
            condition = Condition(self.key, b"".join(parts) if held is None else held, expected)
            return self._ask(condition.write)
        if held is not None:
            return self._ask(lambda bucket: bucket.write(self.key, held))
        try:
            return self._ask(lambda bucket: bucket.write(self.key, parts), tries=1)
        except OSError:
            if parts.failure is None:
                raise
        raise parts.failure

    def unlink(self, missing_ok: bool = False) -> None:  # noqa: ARG002
        """Remove a file; if it is not there, that is as well."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda bucket: bucket.delete(self.key))

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Nothing: folders are parts of names."""

    rmdir = mkdir

    def rename(self, target: Any) -> Any:
        """Refused: there is no such thing."""
        raise OSError(errno.EOPNOTSUPP, "cannot be renamed in object storage", str(self))

    replace = rename


class _RangedFile(io.RawIOBase):
    """A file that is read in ranges."""

    def __init__(self, path: RemotePath, size: int) -> None:
        self._path, self._size, self._at = path, size, 0

    @property
    def name(self) -> str:
        return str(self._path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        data = self._path.read_range(self._at, length)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def place(path: Path | str) -> Path:
    """The path that a user gives: of a file or folder here, or a :class:`RemotePath` of a URL.

    A URL that went through :class:`pathlib.Path`, which drops one of its slashes, is one still.

    Raises:
        SpikeDataError: the URL names no bucket, or holds credentials.
    """
    if isinstance(path, RemotePath):
        return path
    found = _URL.fullmatch(path.as_posix() if isinstance(path, Path) else path)
    if found is None:
        return Path(path)
    scheme, rest = found[1], (found[2] or "").strip("/")
    bucket = rest.partition("/")[0]
    if ":" in bucket or ("@" in bucket and scheme != "hf"):
        raise SpikeDataError(
            f"{scheme}://***: a URL is no place for keys. Set them in the environment: "
            f"{CREDENTIALS[scheme]}"
        )
    if not bucket:
        raise SpikeDataError(f"{scheme}://: names no bucket; expected {scheme}://bucket/path")
    return RemotePath(f"{scheme}:/{rest}")


def on_disk(path: Path | str) -> Path:
    """The path that a user gives, of what is read or changed piece by piece, as disks alone allow.

    Raises:
        SpikeDataError: it is a URL.
    """
    found = place(path)
    if isinstance(found, RemotePath):
        raise SpikeDataError(f"{found}: this needs a disk. Copy it to one, or from one afterwards")
    return found


def is_remote(path: Path | str) -> bool:
    """Whether a path is a URL of object storage or of the Hub."""
    return isinstance(path, RemotePath) or isinstance(place(path), RemotePath)
