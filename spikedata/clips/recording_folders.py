"""Folders of camera files: what labels them, and which of them are sets that we wrote."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spikedata.camera import (
    find_camera,
    numbered_files,
)
from spikedata.clip import Clip
from spikedata.clips.boxes import (
    BOX_SUFFIXES,
    find_boxes,
    find_boxes_of_one,
)
from spikedata.clips.recordings import (
    ABOUT_FILE,
    CHANGED_ON_PURPOSE,
    DAT_FORMAT,
    DAT_KEYS,
    METADATA_FILE,
    RECORDING_SUFFIXES,
    CameraOptions,
    RecordingItem,
    Recordings,
    lost_clip,
)
from spikedata.clips.rules import (
    FACTS_DIGEST,
    RuleBrokenError,
    check_about,
    digest_of,
    read_json,
)
from spikedata.corpora import (
    CAPTION_TEMPLATES,
    ListedFile,
    Listing,
    RefusedEntry,
    as_text,
    class_of,
    clip_id_of,
    find_metadata,
    list_files,
    note_unread,
    passed_over,
    read_entries,
    read_folder,
    some,
    with_captions,
)
from spikedata.errors import (
    CorpusError,
    RecordingError,
    SpikeDataError,
    StoreError,
)
from spikedata.npz import read_npy_header
from spikedata.outputs import Failure

_AXES = 3


def find_recordings(path: Path | str) -> tuple[Path, ...]:
    """Camera files at a path, whatever is in them: all below a folder, or the one file.

    Raises:
        CorpusError: there are none.
    """
    path = Path(path)
    if path.is_file():
        return (path,)
    found = tuple(file.path for file in list_files(path, RECORDING_SUFFIXES, told=False).files)
    if not found:
        raise CorpusError(f"{path}: holds no {', '.join(sorted(RECORDING_SUFFIXES))} file")
    return found


def one_recording(path: Path, options: CameraOptions) -> Recordings:
    """One camera file as a set of one clip, named after the file."""
    clip = Clip(id=clip_id_of(path.stem), source={"name": as_text(path.name)})
    item = RecordingItem(clip, path, options, boxes=find_boxes_of_one(path))
    return Recordings([item], path)


def recordings_below(root: Path, options: CameraOptions) -> Recordings:
    """Camera files in a folder: labels from class folders, or all from a metadata file.

    Raises:
        CorpusError: there are none, or the metadata file is malformed.
        RuleBrokenError: what a set of ours says of itself is malformed, or was changed.
    """
    about = read_about(root)
    listing = _listing(root)
    if not listing.files:
        reasons = "; ".join(["and is no store", *listing.notes])
        raise CorpusError(f"{root}: holds no .dat or .npz file, no .npy or HDF5, {reasons}")
    read = find_metadata(root)
    unread = note_unread([file for file in listing.metadata if file.path not in read])
    if read:
        items, notes, lost = _listed_items(root, listing.files, options, about)
    else:
        items, notes = _found_items(listing.files, options)
        lost = _lost_of_set(root, about, [])
    items, told = _with_boxes(items, listing, is_listed=bool(read))
    return Recordings(items, root, [*listing.notes, *unread, *notes, *told], about, lost)


def _listing(root: Path) -> Listing:
    """Recordings, and what lies beside them; a ``.npy`` may be either, by what it holds."""
    listing = list_files(root, RECORDING_SUFFIXES, beside=BOX_SUFFIXES)
    taken = {file.path.with_suffix("") for file in listing.files if file.path.suffix != ".npy"}
    boxes = [
        file
        for file in listing.files
        if file.path.suffix == ".npy"
        and (file.path.with_suffix("") in taken or not _has_three_axes(file.path))
    ]
    if not boxes:
        return listing
    files = [file for file in listing.files if file not in boxes]
    beside = sorted([*listing.beside, *boxes], key=lambda file: file.parts)
    return replace(listing, files=files, beside=tuple(beside))


def _has_three_axes(path: Path) -> bool:
    """Whether an array can be a recording; one that cannot be read is told of as one."""
    try:
        with path.open("rb") as file:
            return len(read_npy_header(file)[2]) == _AXES
    except (SpikeDataError, OSError):
        return True


def unlisted_recordings(root: Path, camera: str | None) -> list[RecordingItem]:
    """Camera files in a folder without a list, and what its folders tell of them; none is opened.

    Raises:
        CorpusError: the folder cannot be read.
    """
    listing = _listing(root)
    items, _ = _found_items(listing.files, CameraOptions(camera=camera))
    return _with_boxes(items, listing, is_listed=False)[0]


def _with_boxes(
    items: list[RecordingItem], listing: Listing, *, is_listed: bool
) -> tuple[list[RecordingItem], list[str]]:
    """The recordings with the files that may hold their boxes; other files are noted.

    Where a folder of boxes stands in the place of the sensor's, what lies between that and the
    recordings are sequences, each a group, and no classes.
    """
    parts_of = {file.path: file.parts for file in listing.files}
    named = [
        ListedFile(path=item.path, parts=parts_of.get(item.path, ()), is_folder=bool(item.files))
        for item in items
    ]
    boxes = find_boxes([file for file in named if file.parts], listing.beside)
    of = {box.path for box in boxes.values()}
    notes = passed_over([file for file in listing.beside if file.path not in of])
    sequences: dict[str, None] = {}
    made = []
    for item in items:
        box = boxes.get(item.path)
        parts = parts_of.get(item.path, ())
        if box is not None and box.folder is not None and not is_listed:
            clip, folder = _in_sequence(item.clip, parts[:-1], box.folder), parts[box.folder]
            sequences |= {as_text(folder): None} if clip != item.clip else {}
            item = replace(item, clip=clip)
        made.append(replace(item, boxes=box))
    if sequences:
        told = f"folders in {some(list(sequences))} are sequences, as boxes lie beside it: no class"
        notes.append(told)
    return made, notes


def _in_sequence(clip: Clip, folders: Sequence[str], sensor: int) -> Clip:
    """A clip of a sequence, the folders below that of the sensor, as a group without a class."""
    if clip.label is not None and clip.label in map(class_of, folders[:sensor]):
        return clip  # the class stands above
    sequence = "/".join(map(class_of, folders[sensor + 1 :]))
    return replace(clip, label=None, captions=(), group=sequence or None)


def is_ours(columns: Mapping[str, Any]) -> bool:
    """Whether a line of a list is one that ``pack --to dat`` wrote, even if it was damaged."""
    return columns.keys() >= DAT_KEYS or FACTS_DIGEST in columns


def _refused(root: Path, entry: RefusedEntry) -> Failure:
    """A line of our list that cannot be used: most often its file is gone."""
    name = as_text(str(entry.columns.get("file_name", "")))
    clip_id = as_text(str(entry.columns.get("id", name)))[:200]
    told = f"its file {name:.80} is gone" if entry.is_gone else f"{entry.where}: {entry.reason}"
    return lost_clip(root, clip_id, root / name, told)


def _lost_of_set(
    root: Path, about: Mapping[str, Any] | None, listed: Sequence[Mapping[str, Any]]
) -> list[Failure]:
    """What of a set of ours is not there: the file that tells of it, or lines of its list."""
    if about is None:
        # Several sets below one folder have theirs beside their lists.
        if not (root / METADATA_FILE).is_file() or not any(FACTS_DIGEST in line for line in listed):
            return []
        told = (
            f"{root}: {ABOUT_FILE} is gone, and the set's name, classes and recipe with it. Put it "
            "back, or pack the set again"
        )
        return [Failure(id=ABOUT_FILE, path=str(root / ABOUT_FILE), error=told)]
    clips = about.get("clips")
    if type(clips) is not int or len(listed) >= clips:
        return []
    told = (
        f"{root}: {METADATA_FILE} lists {len(listed)} of {clips} clips. Whoever removed the others "
        f"on purpose removes 'clips' and {FACTS_DIGEST} from {ABOUT_FILE}"
    )
    return [Failure(id=METADATA_FILE, path=str(root / METADATA_FILE), error=told)]


def _listed_items(
    root: Path,
    files: list[ListedFile],
    options: CameraOptions,
    about: Mapping[str, Any] | None,
) -> tuple[list[RecordingItem], list[str], list[Failure]]:
    """What a metadata file tells of the files; and what of a list of ours is not there."""
    listing, series = gather_numbered(files, options)
    entries, notes, refused = read_entries(root, listing, unused=("capture_fps",), is_owed=is_ours)
    items = []
    clips = with_captions([entry.item for entry in entries], CAPTION_TEMPLATES)
    for entry, item in zip(entries, clips, strict=True):
        how = options.or_else(entry.camera(), entry.tick_rate_hz())
        # Read as another camera's these would be other bits.
        as_noted = options.camera is None and options.flip is None
        ours = as_noted and is_ours(entry.columns)
        noted = entry.columns if ours else None
        numbered = tuple(series.get(item.path, ()))
        items.append(RecordingItem(item.clip, item.path, how, numbered, True, measured=noted))
    listed = [entry.columns for entry in entries] + [entry.columns for entry in refused]
    lost = _lost_of_set(root, about, [columns for columns in listed if is_ours(columns)])
    return items, notes, [*lost, *(_refused(root, entry) for entry in refused)]


def _found_items(
    files: list[ListedFile], options: CameraOptions
) -> tuple[list[RecordingItem], list[str]]:
    """What the folders tell of the files; a folder of numbered ones is one clip."""
    listed, series = gather_numbered(files, options)
    found = read_folder(listed)
    clips = with_captions(found.clips, CAPTION_TEMPLATES)
    items = [
        RecordingItem(item.clip, item.path, options, tuple(series.get(item.path, ())))
        for item in clips
    ]
    return items, [*_told_of_series(series, options), *found.notes]


def _told_of_series(series: Mapping[Path, Sequence[Path]], options: CameraOptions) -> list[str]:
    if not series:
        return []
    many = f"{len(series)} folder{'s' if len(series) > 1 else ''}"
    told = f"{many} of numbered .dat files of a few planes each: one clip a folder"
    return [f"{told}; --layout files makes each a clip" if options.layout == "auto" else told]


def gather_numbered(
    files: list[ListedFile], options: CameraOptions
) -> tuple[list[ListedFile], dict[Path, list[Path]]]:
    """The files, each folder of numbered ones as one; and the files of those, by folder."""
    inside: dict[Path, list[ListedFile]] = {}
    for file in files:
        inside.setdefault(file.path.parent, []).append(file)
    listed: list[ListedFile] = []
    series: dict[Path, list[Path]] = {}
    for folder, held in inside.items():
        numbered = _numbered([file.path for file in held], options)
        if not numbered:
            listed += held
            continue
        series[folder] = numbered
        parts = held[0].parts[:-1] or (as_text(folder.resolve().name),)
        listed.append(ListedFile(path=folder, parts=parts, is_folder=True))
    return sorted(listed, key=lambda file: file.parts), series


def _numbered(files: Sequence[Path], options: CameraOptions) -> list[Path]:
    """The files of one folder in order, if they are one recording; else none."""
    if options.camera is None or options.layout == "files":
        return []  # nothing tells the number of planes without a camera
    try:
        sure = options.layout == "folders"
        return numbered_files(files, find_camera(options.camera), sure=sure)
    except RecordingError:  # told of each file
        return []


def read_about(root: Path) -> dict[str, Any] | None:
    """What a set of ``.dat`` files of ours says of itself; None if it is none.

    Raises:
        RuleBrokenError: it is malformed, or is not what was written.
    """
    path = root / ABOUT_FILE
    if not path.is_file():
        return None
    about = read_json(path, "metadata_malformed")
    if about.get("format") != DAT_FORMAT:
        return None
    check_about(about)
    noted = about.get(FACTS_DIGEST)
    if noted is not None and noted != digest_of(about):
        raise RuleBrokenError(
            "facts_differ",
            f"{ABOUT_FILE}: the set's name, classes, recipe or number of clips are not those that "
            f"were written. {CHANGED_ON_PURPOSE} it",
        )
    return about


def says_its_ours(path: Path) -> bool:
    """Whether a sound ``spikedata.json`` in a folder says that it is a set of ours."""
    try:
        return read_about(path) is not None
    except StoreError:
        return False


def listed_recordings(path: Path) -> set[Path]:
    """Files that the list of a set of ours names; none if the list is not ours."""
    try:
        lines = (path / METADATA_FILE).read_text(encoding="utf-8").split("\n")
        entries = [json.loads(line) for line in lines if line]
        if not all(entry.keys() >= DAT_KEYS for entry in entries):
            return set()
        return {path / entry["file_name"] for entry in entries}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return set()
