"""Folders of labelled video: UCF101, HMDB51, your own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from spikedata.corpora import hmdb51, ucf101
from spikedata.corpora.corpus import (
    Corpus,
    CorpusClip,
    Found,
    class_order,
    count,
    find_duplicates,
    find_torn_groups,
    finish_corpus,
    one_id,
    some,
    with_captions,
)
from spikedata.corpora.files import (
    VIDEO_SUFFIXES,
    ListedFile,
    Listing,
    list_files,
    note_unread,
    passed_over,
)
from spikedata.corpora.folder import read_folder
from spikedata.corpora.metadata import (
    Entry,
    RefusedEntry,
    can_be_listed,
    find_metadata,
    name_of_cell,
    read_entries,
    read_metadata,
)
from spikedata.corpora.names import (
    CAPTION_TEMPLATES,
    as_text,
    captions_of,
    check_templates,
    class_of,
    clean_text,
    clip_id_of,
    spoken_name,
)
from spikedata.corpora.places import split_of
from spikedata.corpora.relisting import listed, relisted
from spikedata.corpora.remote import find_far, local_copy
from spikedata.corpora.shapes import SHAPE_CLASSES, draw_directions, draw_shapes
from spikedata.corpora.tables import read_table
from spikedata.errors import CorpusError
from spikedata.remote import is_remote, place

__all__ = [
    "CAPTION_TEMPLATES",
    "SHAPE_CLASSES",
    "Corpus",
    "CorpusClip",
    "Entry",
    "ListedFile",
    "Listing",
    "RefusedEntry",
    "as_text",
    "can_be_listed",
    "captions_of",
    "class_of",
    "class_order",
    "clean_text",
    "clip_id_of",
    "count",
    "draw_directions",
    "draw_shapes",
    "find_corpus",
    "find_duplicates",
    "find_metadata",
    "find_torn_groups",
    "list_files",
    "listed",
    "local_copy",
    "name_of_cell",
    "note_unread",
    "one_id",
    "passed_over",
    "read_entries",
    "read_folder",
    "read_table",
    "relisted",
    "some",
    "split_of",
    "spoken_name",
    "with_captions",
]

Kind = Literal["auto", "ucf101", "hmdb51", "folder", "metadata"]
_KINDS = ("ucf101", "hmdb51", "folder", "metadata")


def find_corpus(
    root: Path | str,
    *,
    kind: Kind = "auto",
    split: int = 1,
    splits: Path | str | None = None,
    classes: Sequence[str] = (),
    limit: int | None = None,
    caption_templates: Sequence[str] = CAPTION_TEMPLATES,
) -> Corpus:
    """List the labelled videos of a folder; none is decoded.

    Only videos of one size are opened, to note which are copies of each other.

    Args:
        root: the folder; or one video, or one folder of numbered pictures, as a single clip.
        kind: its layout. ``auto``: ``metadata`` if there is a metadata file, ``ucf101`` or
            ``hmdb51`` if at least half of the videos are named so, else ``folder``.
        split: which official split, 1 to 3; only UCF101 and HMDB51 have them.
        splits: folder of the official split files, if it is not in or beside ``root``.
        classes: take only these; case does not matter.
        limit: take at most so many clips, spread over classes and splits.
        caption_templates: captions of clips without their own; ``{name}`` is the spoken class.

    Raises:
        CorpusError: no such folder, no video in it, an unknown class or layout, or official lists
            or metadata that cannot be read.
    """
    root = place(root)
    splits = None if splits is None else place(splits)
    if kind not in ("auto", *_KINDS):
        raise CorpusError(f"no kind of corpus is called {kind!r}; known: auto, {', '.join(_KINDS)}")
    if limit is not None and limit < 1:
        raise CorpusError(f"limit must be positive, got {limit}")
    check_templates(caption_templates)

    def find(root: Path, splits: Path | None) -> Corpus:
        return _find_here(root, kind, split, splits, classes, limit, caption_templates)

    if is_remote(root) or (splits is not None and is_remote(splits)):
        return find_far(root, splits, find)
    return find(root, splits)


def _find_here(
    root: Path,
    kind: Kind,
    split: int,
    splits: Path | None,
    classes: Sequence[str],
    limit: int | None,
    caption_templates: Sequence[str],
) -> Corpus:
    """Do as :func:`find_corpus` says, on a disk."""
    listing = list_files(root, VIDEO_SUFFIXES, pictures=True)
    videos = listing.files
    if kind == "auto":
        kind = _detect(root, videos)
    if not videos and kind != "metadata":
        reasons = "; ".join([_looked_for(root), *listing.notes])
        raise CorpusError(f"{root}: no videos found; {reasons}")
    found = _read(kind, root, videos, split, splits)
    if not found.clips:
        raise CorpusError(f"{root}: none of {count(len(videos), 'video')} is named as in {kind}")
    unused = _unread(kind, root, listing) + _without_use(kind, split, splits)
    return finish_corpus(
        kind,
        root,
        Found(clips=found.clips, notes=[*listing.notes, *unused, *found.notes]),
        classes=classes,
        limit=limit,
        caption_templates=caption_templates,
    )


def _unread(kind: Kind, root: Path, listing: Listing) -> list[str]:
    """Note on lists that say something of the clips and that this layout does not read."""
    read = set(find_metadata(root)) if kind == "metadata" else set()
    unread = [file for file in listing.metadata if file.path not in read]
    if kind not in ("ucf101", "hmdb51"):
        unread += listing.lists
    return note_unread(unread)


def _without_use(kind: Kind, split: int, splits: Path | None) -> list[str]:
    """Note on a choice among official splits that this layout does not have."""
    if kind in ("ucf101", "hmdb51") or (split == 1 and splits is None):
        return []
    given = f"split {split}" if splits is None else f"split {split} of {splits}"
    return [f"{given} was not read: a corpus read as {kind} has no official splits"]


def _looked_for(root: Path) -> str:
    empty = "it is empty" if not any(root.iterdir()) else "its folders hold none"
    return (
        f"{empty}. Looked for .mp4 .avi .mkv .mov .webm and {len(VIDEO_SUFFIXES) - 5} other kinds "
        "that FFmpeg opens, folders of numbered pictures, metadata.jsonl and metadata.csv"
    )


def _detect(
    root: Path, videos: list[ListedFile]
) -> Literal["ucf101", "hmdb51", "folder", "metadata"]:
    if find_metadata(root):
        return "metadata"
    stems = [video.stem for video in videos]
    if sum(ucf101.STEM.fullmatch(stem) is not None for stem in stems) * 2 >= max(1, len(stems)):
        return "ucf101"
    if sum(hmdb51.STEM.fullmatch(stem) is not None for stem in stems) * 2 >= max(1, len(stems)):
        return "hmdb51"
    return "folder"


def _read(
    kind: Kind, root: Path, videos: list[ListedFile], split: int, splits: Path | None
) -> Found:
    if kind == "ucf101":
        return ucf101.read_ucf101(root, videos, split=split, splits=splits)
    if kind == "hmdb51":
        return hmdb51.read_hmdb51(root, videos, split=split, splits=splits)
    if kind == "metadata":
        return read_metadata(root, videos)
    return read_folder(videos)
