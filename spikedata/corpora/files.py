"""Find the files of a corpus below its folder, in a stable order, and read its lists."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from spikedata.corpora.corpus import some
from spikedata.corpora.names import as_text
from spikedata.errors import CorpusError

VIDEO_SUFFIXES = frozenset(
    [".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg"]
    + [".mpg", ".mts", ".ogv", ".webm", ".wmv"]
)
_MOST_LINKS = 4
"""Links to folders followed one inside the other: a few that name each other have no end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedFile:
    """A video or recording below a corpus folder."""

    path: Path
    parts: tuple[str, ...]
    """Path below the folder: the folders' names and the file's."""

    @property
    def stem(self) -> str:
        """File name without its suffix."""
        return self.path.stem

    @property
    def name(self) -> str:
        """Path below the folder with forward slashes, as text that can be written."""
        return as_text("/".join(self.parts))


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What lies below a folder."""

    files: list[ListedFile]
    """Sorted by path."""
    notes: list[str]
    """What was left out, if it was not hidden."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Folder:
    """A folder on the way down."""

    path: Path
    parts: tuple[str, ...] = ()
    above: frozenset[tuple[int, int]] = frozenset()
    """Device and inode of the folders it lies in."""
    links: int = 0
    """How many of them, and itself, were reached by a link."""


def list_files(root: Path, suffixes: Collection[str]) -> Listing:
    """Files below ``root`` whose suffix, in small letters, is one of ``suffixes``.

    Hidden files and folders are passed over, and so is a link to a folder that was already
    entered on the way down. What has such a suffix and is no regular file, a pipe say, is noted
    and left out. A link that leads nowhere is listed: whoever opens it tells.

    Raises:
        CorpusError: ``root`` is not a folder, or a folder cannot be read.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "no such folder"
        raise CorpusError(f"{root}: {what}")
    far: list[ListedFile] = []
    files = [file for file in _walk(root, far) if file.path.suffix.lower() in suffixes]
    irregular = [file for file in files if _is_irregular(file.path)]
    notes = []
    if irregular:
        notes.append(f"not regular files, left out: {_names(irregular)}")
    if far:
        notes.append(f"folders behind more than {_MOST_LINKS} links, left out: {_names(far)}")
    return Listing(files=sorted(set(files) - set(irregular), key=_parts), notes=notes)


def _walk(root: Path, far: list[ListedFile]) -> Iterator[ListedFile]:
    """All that is no folder, in any order; folders behind too many links go to ``far``."""
    todo = [_Folder(path=root)]
    while todo:
        folder = todo.pop()
        here, entries = _open_folder(folder.path)
        for entry in () if here in folder.above else entries:
            found = ListedFile(path=Path(entry.path), parts=(*folder.parts, entry.name))
            links = folder.links + entry.is_symlink()
            if not _is_folder(entry):
                yield found
            elif links > _MOST_LINKS:
                far.append(found)
            else:
                above = folder.above | {here}
                todo.append(_Folder(path=found.path, parts=found.parts, above=above, links=links))


def _open_folder(path: Path) -> tuple[tuple[int, int], list[os.DirEntry[str]]]:
    """Device and inode of a folder, and what is in it and not hidden."""
    try:
        status = path.stat()
        with os.scandir(path) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from error
    return (status.st_dev, status.st_ino), shown


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


def _is_irregular(path: Path) -> bool:
    return os.path.exists(path) and not os.path.isfile(path)


def _parts(file: ListedFile) -> tuple[str, ...]:
    return file.parts


def _names(files: list[ListedFile]) -> str:
    return some([file.name for file in sorted(files, key=_parts)])


def find_beside(root: Path, pattern: str, given: Path | None) -> list[Path]:
    """Files of an official list: in the folder given, else in, just below or just beside ``root``.

    Raises:
        CorpusError: a folder was given and holds none.
    """
    if given is not None:
        found = sorted(given.glob(pattern)) or sorted(given.glob(f"*/{pattern}"))
        if not found:
            raise CorpusError(f"{given}: holds no split file {pattern}")
        return found
    for where in (root, root.resolve().parent):
        found = sorted(where.glob(pattern)) or sorted(where.glob(f"*/{pattern}"))
        if found:
            return found
    return []


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file that are not blank, each with its number in the file, from 1.

    Only a line feed ends a line: JSON may hold other separators inside its strings.

    Raises:
        CorpusError: the file cannot be read, or is not UTF-8.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    yield number, text
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: line {number}: is not UTF-8 text") from error
