"""Find the files of a corpus below its folder, in a stable order, and read its lists."""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from spikedata.corpora.corpus import count, some
from spikedata.corpora.names import as_text
from spikedata.errors import CorpusError
from spikedata.video import PICTURE_SUFFIXES, is_picture_folder

VIDEO_SUFFIXES = frozenset(
    """
    .264 .265 .3g2 .3gp .amv .asf .avi .avs .cine .dav .divx .dv .f4v .flv .gif .gxf .h261 .h263
    .h264 .h265 .hevc .ivf .m1v .m2p .m2ts .m2v .m4v .mj2 .mjpeg .mjpg .mkv .mod .mov .mp2v .mp4
    .mpe .mpeg .mpg .mpv .mts .mxf .nut .nuv .obu .ogg .ogm .ogv .qt .rm .rmvb .roq .swf .tod .trp
    .ts .ty .vc1 .vob .webm .webp .wmv .wtv .xvid .y4m
    """.split()  # noqa: SIM905  seventy strings in quotes are hard to read
)
"""Of containers that FFmpeg opens and that hold moving pictures."""
_HOUSEKEEPING = frozenset(["thumbs.db", "desktop.ini", "classind.txt", "spikedata.json"])
_METADATA = frozenset(["metadata.jsonl", "metadata.csv"])
_LISTS = re.compile(r"(train|test)list\d\d\.txt|.+_test_split\d\.txt", re.IGNORECASE)
_MOST_LINKS = 4
"""Links to folders followed one inside the other: a few that name each other have no end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedFile:
    """A video, a recording or a folder of numbered pictures below a corpus folder."""

    path: Path
    parts: tuple[str, ...]
    """Path below the folder: the folders' names and the file's."""
    is_folder: bool = False
    """It is a folder of numbered pictures."""

    @property
    def stem(self) -> str:
        """File name without its suffix; a folder's name as it is."""
        return self.path.name if self.is_folder else self.path.stem

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
    metadata: tuple[ListedFile, ...] = ()
    """Files called as metadata files are, sorted."""
    beside: tuple[ListedFile, ...] = ()
    """Files of the other suffixes that were asked for, sorted; not noted."""
    lists: tuple[ListedFile, ...] = ()
    """Files called as official lists are, sorted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Folder:
    """A folder on the way down."""

    path: Path
    parts: tuple[str, ...] = ()
    above: frozenset[tuple[int, int]] = frozenset()
    """Device and inode of the folders it lies in."""
    links: int = 0
    """How many of them, and itself, were reached by a link."""


def list_files(
    root: Path,
    suffixes: Collection[str],
    *,
    pictures: bool = False,
    told: bool = True,
    beside: Collection[str] = (),
) -> Listing:
    """Files below ``root`` whose suffix, in small letters, is one of ``suffixes``.

    Hidden files and folders are passed over, and so is a link to a folder that was already
    entered on the way down. What has such a suffix and is no regular file, a pipe say, is noted
    and left out. A link that leads nowhere is listed: whoever opens it tells.

    Args:
        root: a folder, or one such file.
        suffixes: with their dots.
        pictures: also list folders of numbered pictures, each as one.
        told: note what other files there are, by suffix.
        beside: suffixes of files that are something else, and wanted too.

    Raises:
        CorpusError: ``root`` is not there, or a folder cannot be read.
    """
    if root.is_file() and root.suffix.lower() in suffixes:
        return Listing(files=[ListedFile(path=root, parts=(root.name,))], notes=[])
    if not root.is_dir():
        raise CorpusError(f"{root}: {_no_folder(root, pictures)}")
    if pictures and is_picture_folder(root):
        alone = ListedFile(path=root, parts=(as_text(root.resolve().name),), is_folder=True)
        return Listing(files=[alone], notes=[])
    far: list[ListedFile] = []
    every = list(_walk(root, far))
    files = [file for file in every if file.path.suffix.lower() in suffixes]
    irregular = [file for file in files if _is_irregular(file.path)]
    notes = []
    if irregular:
        notes.append(f"not regular files, left out: {_names(irregular)}")
    if far:
        notes.append(f"folders behind more than {_MOST_LINKS} links, left out: {_names(far)}")
    sequences = _picture_folders(every) if pictures else []
    others = [f for f in set(every) - set(files) if f.path.suffix.lower() in beside and _is_data(f)]
    if told:
        inside = {folder.parts for folder in sequences}
        notes += passed_over(
            file
            for file in set(every) - {*files, *others}
            if file.path.suffix.lower() not in PICTURE_SUFFIXES or file.parts[:-1] not in inside
        )
    kept = {*files, *sequences} - set(irregular)
    return Listing(
        files=sorted(kept, key=_parts),
        notes=notes,
        beside=tuple(sorted(others, key=_parts)),
        metadata=tuple(sorted(filter(_is_metadata, every), key=_parts)),
        lists=tuple(sorted(filter(_is_list, every), key=_parts)),
    )


def note_unread(found: Collection[ListedFile]) -> list[str]:
    """One note on metadata files and official lists that nobody reads; none if there are none."""
    return [f"lists not read: {_names(list(found))}"] if found else []


def _is_metadata(file: ListedFile) -> bool:
    return file.path.name.lower() in _METADATA


def _is_list(file: ListedFile) -> bool:
    return is_list_name(file.path.name)


def is_list_name(name: str) -> bool:
    """Whether a file is called as an official list is."""
    return _LISTS.fullmatch(name) is not None


def _no_folder(root: Path, pictures: bool) -> str:
    if not root.exists():
        return "no such folder"
    if pictures and root.suffix.lower() in PICTURE_SUFFIXES:
        return f"is one picture; name the folder of all of them, {root.parent}, and give --fps"
    return "is not a folder"


def _picture_folders(files: Collection[ListedFile]) -> list[ListedFile]:
    folders: dict[tuple[str, ...], Path] = {}
    with_videos: set[tuple[str, ...]] = set()
    for file in files:
        suffix = file.path.suffix.lower()
        if suffix in PICTURE_SUFFIXES and len(file.parts) > 1:
            folders[file.parts[:-1]] = file.path.parent
        elif suffix in VIDEO_SUFFIXES:
            with_videos.add(file.parts[:-1])
    return [
        ListedFile(path=path, parts=parts, is_folder=True)
        for parts, path in folders.items()
        if parts not in with_videos and is_picture_folder(path)
    ]


def _is_data(file: ListedFile) -> bool:
    """Whether a file may be data, and no list or housekeeping."""
    return not (
        file.path.name.lower() in _HOUSEKEEPING
        or _is_metadata(file)
        or _is_list(file)
        or "__MACOSX" in file.parts
    )


def passed_over(files: Iterable[ListedFile]) -> list[str]:
    """One note on files that are not taken; none on what is never data."""
    kinds = Counter(
        as_text(file.path.suffix.lower()) or "without a suffix" for file in files if _is_data(file)
    )
    if not kinds:
        return []
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{number:,} {kind}" for kind, number in ordered]
    return [f"{count(sum(kinds.values()), 'file')} passed over: {some(shown, 8)}"]


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


def find_beside(root: Path, pattern: str, given: Path | None, *, needed: bool = True) -> list[Path]:
    """Files of an official list: in or below the folder given, else ``root``, else just beside it.

    Below means within two folders: archives are often unpacked into folders of their own names.

    Raises:
        CorpusError: a folder was given and holds none, though it is ``needed``.
    """
    if given is not None:
        found = _within(given, pattern, depth=2)
        if needed and not found:
            raise CorpusError(f"{given}: holds no split file {pattern}")
        return found
    # What lies deeper beside it is more likely another corpus's.
    return _within(root, pattern, depth=2) or _within(root.resolve().parent, pattern, depth=1)


Lists = TypeVar("Lists")


def read_other_splits(
    numbers: Iterable[int], read: Callable[[int], Lists | None]
) -> tuple[dict[int, Lists], list[str]]:
    """Lists of the official splits that were not chosen, and notes on those left out.

    A defect in lists that nobody asked for must not stop a run that does without them.

    Args:
        numbers: the splits.
        read: gives the lists of one; None if there are none.
    """
    lists, notes = {}, []
    for number in numbers:
        try:
            found = read(number)
        except CorpusError as error:
            notes.append(f"official split {number} is not noted with the clips: {error}")
            continue
        if found:
            lists[number] = found
    return lists, notes


def _within(folder: Path, pattern: str, *, depth: int) -> list[Path]:
    for level in range(depth + 1):
        if found := sorted(folder.glob("*/" * level + pattern)):
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
