"""Your own files: a folder of class folders, or of ``train/`` and ``test/`` with such in them."""

from spikedata.clip import Clip
from spikedata.corpora.corpus import CorpusClip, Found, count
from spikedata.corpora.files import ListedFile
from spikedata.corpora.names import as_text, clip_id_of

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Folder names and metadata values that mean a split."""


def read_folder(files: list[ListedFile]) -> Found:
    """Clips of a folder: the class is the first folder's name, below one that names a split.

    The id is made of the path: ``run__morning`` for ``run/morning.mp4``, and
    ``test__run__morning`` where folders name splits. Files outside a class folder have no class.
    """
    clips = [_clip(file) for file in files]
    loose = [item.clip.source["name"] for item in clips if item.clip.label is None]
    notes = []
    if loose and len(loose) < len(clips):
        notes.append(f"{count(len(loose), 'file')} in no class folder, without a class: {loose[0]}")
    return Found(clips=clips, notes=notes)


def _clip(file: ListedFile) -> CorpusClip:
    folders = list(file.parts[:-1])
    split = split_of(folders[0]) if folders else None
    classes = folders[1:] if split else folders
    clip = Clip(
        id=clip_id_of(*folders, file.stem),
        label=as_text(classes[0]) if classes else None,
        split=split,
        source={"name": file.name},
    )
    return CorpusClip(clip=clip, path=file.path)


def split_of(name: str) -> str | None:
    """The split that a folder's name or a metadata value means, or None."""
    return SPLIT_NAMES.get(name.strip().casefold())
