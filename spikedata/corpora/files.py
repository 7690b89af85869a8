"""Find the videos below a folder, in a stable order."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spikedata.errors import CorpusError

VIDEO_SUFFIXES = frozenset(
    [".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg"]
    + [".mpg", ".mts", ".ogv", ".webm", ".wmv"]
)
_DEEPEST = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFile:
    """A video below a corpus folder."""

    path: Path
    parts: tuple[str, ...]
    """Path below the folder: the folders' names and the file's."""

    @property
    def stem(self) -> str:
        """File name without its suffix."""
        return self.path.stem

    @property
    def name(self) -> str:
        """Path below the folder with forward slashes, as printable text."""
        return "/".join(self.parts).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def list_videos(root: Path) -> list[VideoFile]:
    """Videos below ``root``, sorted by path.

    Hidden files and folders are passed over, and so is a link to a folder that was already
    entered on the way down, or that lies too deep.

    Raises:
        CorpusError: ``root`` is not a folder, or a folder cannot be read.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "no such folder"
        raise CorpusError(f"{root}: {what}")
    return sorted(_walk(root, (), frozenset()), key=lambda video: video.parts)


def _walk(
    folder: Path, parts: tuple[str, ...], above: frozenset[tuple[int, int]]
) -> Iterator[VideoFile]:
    try:
        status = folder.stat()
        entries = list(os.scandir(folder))
    except OSError as error:
        raise CorpusError(f"{folder}: cannot be read: {error.strerror}") from error
    here = (status.st_dev, status.st_ino)
    if here in above or len(parts) > _DEEPEST:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        inner = (*parts, entry.name)
        if _is_folder(entry):
            yield from _walk(Path(entry.path), inner, above | {here})
        elif os.path.splitext(entry.name)[1].lower() in VIDEO_SUFFIXES:
            yield VideoFile(path=Path(entry.path), parts=inner)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


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


def read_lines(path: Path) -> list[str]:
    """Lines of a small text file, without empty ones.

    Raises:
        CorpusError: it cannot be read, or is not UTF-8.
    """
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: is not UTF-8 text (byte {error.start})") from error
