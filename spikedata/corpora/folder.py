"""Your own files: a folder of class folders, with folders that name splits above or in them."""

from spikedata.clip import Clip
from spikedata.corpora.corpus import CorpusClip, Found, count, some
from spikedata.corpora.files import ListedFile
from spikedata.corpora.names import class_of, clip_id_of, is_changed
from spikedata.corpora.places import Place, Places, find_places


def read_folder(files: list[ListedFile]) -> Found:
    """Clips of a folder: the class is the outermost folder that names no split and wraps nothing.

    The id is made of the path: ``run__morning`` for ``run/morning.mp4``, and
    ``test__run__morning`` where folders name splits. Files outside a class folder have no class.
    """
    places = find_places(file.parts for file in files)
    clips = [_clip(file, places.of[file.parts]) for file in files]
    loose = [item.clip.source["name"] for item in clips if item.clip.label is None]
    notes = [*places.notes, *_changed_names(places)]
    if loose and len(loose) < len(clips):
        notes.append(f"{count(len(loose), 'file')} in no class folder, without a class: {loose[0]}")
    return Found(clips=clips, notes=notes)


def _changed_names(places: Places) -> list[str]:
    names = {place.folders[0] for place in places.of.values() if place.folders}
    changed = sorted({class_of(name) for name in names if is_changed(name)})
    if not changed:
        return []
    hold = "name of a class holds" if len(changed) == 1 else "names of classes hold"
    return [f"{len(changed)} {hold} characters that are not shown, now _: {some(changed)}"]


def _clip(file: ListedFile, place: Place) -> CorpusClip:
    clip = Clip(
        id=clip_id_of(*file.parts[:-1], file.stem),
        label=class_of(place.folders[0]) if place.folders else None,
        split=place.split,
        source={"name": file.name},
    )
    return CorpusClip(clip=clip, path=file.path)
