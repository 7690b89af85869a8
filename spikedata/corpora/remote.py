"""A corpus of object storage, found by its names: no video is fetched before it is filmed.

What a folder on a disk is looked through for are names, sizes, which files are alike, and what
lists say. So a *mirror* of the names is laid into a temporary folder, where lists are fetched and a
video is a file of its size that takes no room, whose first bytes are the tag that object storage
has for its content; there the corpus is found, and then told of as what it is.
"""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from spikedata.corpora.corpus import Corpus, CorpusClip
from spikedata.corpora.files import is_list_name
from spikedata.errors import CorpusError, SpikeDataError
from spikedata.outputs import Failure
from spikedata.remote import RemotePath

T = TypeVar("T")

LIST_SUFFIXES = frozenset([".txt", ".csv", ".tsv", ".json", ".jsonl"])
MOST_LIST_BYTES = 256 << 20
"""Of a list or metadata file, which is fetched whole."""
_MOST_BESIDE = 100
"""Folders beside a corpus that are looked into for official lists: a request each."""
_PIECE_BYTES = 8 << 20


def find_far(
    root: Path, splits: Path | None, find: Callable[[Path, Path | None], Corpus]
) -> Corpus:
    """A corpus whose videos, or official lists, lie in object storage.

    Args:
        root: the folder of videos.
        splits: folder of official lists, if it is given.
        find: finds a corpus on a disk, from such a folder and lists.

    Raises:
        CorpusError: there is nothing, a name is no path, or whatever ``find`` raises.
    """
    with tempfile.TemporaryDirectory(prefix="spikedata-corpus-") as scratch:
        places: dict[Path, RemotePath] = {}
        sizes: dict[Path, int] = {}
        here, lists_here = root, splits
        if isinstance(root, RemotePath):
            here = Path(scratch) / "corpus" / root.name
            places[here.parent] = root.parent
            sizes = _mirror(root, here)
            if not sizes:
                raise CorpusError(f"{root}: no such folder")
            _mirror_lists_beside(root, here.parent)
        if isinstance(splits, RemotePath):
            lists_here = Path(scratch) / "lists" / splits.name
            places[lists_here.parent] = splits.parent
            lists_here.mkdir(parents=True)
            _mirror(splits, lists_here)
        with told_as(places):
            corpus = find(here, lists_here)
    return _told_of(corpus, root, here, sizes, lambda text: _replaced(text, places))


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """A file or folder on the disk: itself, or of object storage a copy that goes in the end.

    Raises:
        SpikeDataError: it cannot be fetched.
    """
    if not isinstance(path, RemotePath):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="spikedata-video-") as scratch:
        copy = Path(scratch) / path.name
        try:
            _fetch(path, copy)
        except OSError as error:
            raise CorpusError(f"{path}: cannot be fetched: {error.strerror}") from error
        with told_as({copy.parent: path.parent}):
            yield copy


@contextlib.contextmanager
def told_as(places: dict[Path, RemotePath]) -> Iterator[None]:
    """Tell what fails in temporary folders as of the places whose copies they hold."""
    try:
        yield
    except SpikeDataError as error:
        error.args = tuple(
            _replaced(arg, places) if isinstance(arg, str) else arg for arg in error.args
        )
        raise


def _replaced(text: str, places: dict[Path, RemotePath]) -> str:
    for here, there in places.items():
        text = text.replace(str(here.resolve()), str(there)).replace(str(here), str(there))
    return text


def _told_of(
    corpus: Corpus,
    root: Path,
    here: Path,
    sizes: dict[Path, int],
    told: Callable[[str], str],
) -> Corpus:
    """A corpus found in a mirror, as the one that it mirrors."""

    def there(item: CorpusClip) -> CorpusClip:
        path = root.joinpath(*item.path.relative_to(here).parts)
        size = sizes.get(item.path)
        if size is None:  # a folder of pictures
            size = sum(size for file, size in sizes.items() if file.parent == item.path)
        return replace(item, path=path, file_bytes=size)

    def failed(failure: Failure) -> Failure:
        return replace(failure, path=told(failure.path), error=told(failure.error))

    return replace(
        corpus,
        root=root,
        clips=tuple(map(there, corpus.clips)) if sizes else corpus.clips,
        notes=tuple(map(told, corpus.notes)),
        left_out=tuple(map(failed, corpus.left_out)),
    )


# --- the mirror -----------------------------------------------------------------------------------


def _mirror(root: RemotePath, here: Path) -> dict[Path, int]:
    """Lay down what is below a folder; sizes of the files, by path in the mirror."""
    sizes: dict[Path, int] = {}
    try:
        for path, size, tag in root.walk_files():
            target = _below(here, path, root)
            if target.is_dir():  # a mark that there is a folder
                continue
            _make_folder(target.parent, sizes)
            if path.suffix.lower() in LIST_SUFFIXES:
                _fetch_list(path, size, target)
            else:
                _lay_placeholder(target, size, tag or str(path))
            sizes[target] = size
    except OSError as error:
        raise CorpusError(f"{root}: cannot be read: {error.strerror}") from error
    return sizes


def _mirror_lists_beside(root: RemotePath, here: Path) -> None:
    """Fetch official lists that lie beside a corpus, or in a folder beside it."""
    if len(root.parts) <= 2:  # the bucket itself
        return
    try:
        beside = [path for path in root.parent.iterdir() if path != root][:_MOST_BESIDE]
        for path in beside:
            if is_list_name(path.name):
                _fetch_list(path, path.stat().st_size, here / path.name)
            elif re.search("split|list", path.name, re.IGNORECASE):
                for file in path.iterdir():
                    if is_list_name(file.name) and file.is_file():
                        (here / path.name).mkdir(exist_ok=True)
                        _fetch_list(file, file.stat().st_size, here / path.name / file.name)
    except OSError as error:
        raise CorpusError(f"{root.parent}: cannot be read: {error.strerror}") from error


def _below(here: Path, path: RemotePath, root: RemotePath) -> Path:
    """Where a file's mirror lies.

    Raises:
        CorpusError: that is outside, or no system has such a name.
    """
    parts = path.parts[len(root.parts) :]
    if not parts or any(part in (".", "..") or "\0" in part or "\\" in part for part in parts):
        raise CorpusError(f"{path}: is no name of a file; rename it")
    return here.joinpath(*parts)


def _make_folder(folder: Path, sizes: dict[Path, int]) -> None:
    """Make a folder, in place of what was taken for a file and is a mark of it."""
    for above in (folder, *folder.parents):
        if above in sizes:
            above.unlink()
            del sizes[above]
    folder.mkdir(parents=True, exist_ok=True)


def _fetch_list(path: RemotePath, size: int, target: Path) -> None:
    if size > MOST_LIST_BYTES:
        raise CorpusError(f"{path}: a list of {size:,} bytes is past {MOST_LIST_BYTES:,}")
    target.write_bytes(path.read_bytes())


def _lay_placeholder(target: Path, size: int, tag: str) -> None:
    with target.open("wb") as file:
        file.write(tag.encode()[:size])
        file.truncate(size)


def _fetch(path: RemotePath, copy: Path) -> None:
    """Fetch a file, or the files of a folder, piece by piece."""
    try:
        first = path.read_range(0, _PIECE_BYTES)
    except FileNotFoundError:
        copy.mkdir()
        names = list(path.names_below())
        if not names:
            raise
        for name in names:
            if "/" not in name:
                _fetch(path / name, copy / name)
        return
    with copy.open("wb") as file:
        piece = first
        while piece:
            file.write(piece)
            piece = (
                path.read_range(file.tell(), _PIECE_BYTES) if len(piece) == _PIECE_BYTES else b""
            )
