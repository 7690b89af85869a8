"""Your own files: a folder of class folders, with folders that name splits above or in them."""

from spikedata.clip import Clip
from spikedata.corpora.corpus import CorpusClip, Found, count
from spikedata.corpora.files import ListedFile
from spikedata.corpora.names import as_text, clip_id_of
from spikedata.corpora.places import Place, find_places


def read_folder(files: list[ListedFile]) -> Found:
    """Clips of a folder: the class is the outermost folder that names no split and wraps nothing.

    The id is made of the path: ``run__morning`` for ``run/morning.mp4``, and
    ``test__run__morning`` where folders name splits. Files outside a class folder have no class.
    """
    places = find_places(file.parts for file in files)
    clips = [_clip(file, places.of[file.parts]) for file in files]
    loose = [item.clip.source["name"] for item in clips if item.clip.label is None]
    notes = [*places.notes]
    if loose and len(loose) < len(clips):
        notes.append(f"{count(len(loose), 'file')} in no class folder, without a class: {loose[0]}")
    return Found(clips=clips, notes=notes)


def _clip(file: ListedFile, place: Place) -> CorpusClip:
    clip = Clip(
        id=clip_id_of(*file.parts[:-1], file.stem),
        label=as_text(place.folders[0]) if place.folders else None,
        split=place.split,
        source={"name": file.name},
    )
    return CorpusClip(clip=clip, path=file.path)
