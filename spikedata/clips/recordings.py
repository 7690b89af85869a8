"""Camera files, alone or in folders, as a set of clips; what ``pack --to dat`` wrote among them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import TICKS_PER_GROUP
from spikedata.camera import (
    Recording,
    find_camera,
    numbered_files,
    open_numbered,
    open_recording,
)
from spikedata.clip import Clip
from spikedata.clips.boxes import (
    BOX_SUFFIXES,
    BoxFile,
    BoxNotes,
    find_boxes,
    find_boxes_of_one,
)
from spikedata.clips.doubts import LayoutDoubt, doubt_about
from spikedata.clips.naming import name_of
from spikedata.clips.rules import (
    FACTS_DIGEST,
    RuleBrokenError,
    check_about,
    digest_of,
    read_json,
)
from spikedata.clips.source import ClipBits, ClipSource, size_on_disk
from spikedata.clips.stored import CLIP_KEYS, MEASURED_KEYS, StoredClip
from spikedata.corpora import (
    CAPTION_TEMPLATES,
    ListedFile,
    Listing,
    RefusedEntry,
    as_text,
    captions_of,
    class_of,
    class_order,
    clean_text,
    clip_id_of,
    count,
    find_metadata,
    list_files,
    note_unread,
    one_id,
    passed_over,
    read_entries,
    read_folder,
    some,
    with_captions,
)
from spikedata.errors import (
    CorpusError,
    PackedSetError,
    RecordingError,
    SpikeDataError,
    StoreError,
)
from spikedata.outputs import Failure, identity
from spikedata.provenance import versions
from spikedata.stream import check_tick_rate_hz

RECORDING_SUFFIXES = frozenset([".dat", ".npz", ".npy", ".h5", ".hdf5"])
METADATA_FILE = "metadata.jsonl"
ABOUT_FILE = "spikedata.json"
"""What a set of ``.dat`` files of ours says of itself: format, name, classes in order, recipe."""
DAT_FORMAT = "spikedata-dat"
DAT_KEYS = frozenset(["file_name", "camera", "ticks", "tick_rate_hz", "bits_sha256"])
"""What such a set tells of each file; somebody's own list does not have all of it."""
_CHANGED_ON_PURPOSE = f"Whoever changed them on purpose removes {FACTS_DIGEST} from"


Layout = Literal["auto", "files", "folders"]


@dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """What the user says of camera files; None leaves it to the file's folder or the camera.

    Raises:
        ValueError: ``tick_rate_hz`` is not positive and finite.
    """

    camera: str | None = None
    flip: bool | None = None
    tick_rate_hz: float | None = None
    layout: Layout = "auto"
    """``files``: each is a clip. ``folders``: the numbered ``.dat`` files of a folder are one clip.
    ``auto``: they are if they have one size and a few planes each; a note says so."""
    label_names: Mapping[str, str] | None = None
    """Names of classes that files only number, by number as text."""
    digests: bool = True
    """Every file is read whole when it is opened, to note its digest; what only looks need not."""

    def __post_init__(self) -> None:
        if self.tick_rate_hz is not None:
            check_tick_rate_hz(self.tick_rate_hz)

    def or_else(self, camera: str | None, tick_rate_hz: float | None) -> "CameraOptions":
        """What the user gave, else what is told here."""
        return replace(
            self,
            camera=camera if self.camera is None else self.camera,
            tick_rate_hz=tick_rate_hz if self.tick_rate_hz is None else self.tick_rate_hz,
        )


class Recordings(ClipSource):
    """Camera files as a set of clips; one that is bad or has another's id is left out, and told.

    Args:
        items: the files.
        root: the folder, or the one file.
        notes: what was odd about them.
        about: what the folder says of itself, if it is a set of ours.
        left_out: what of the folder is missing.
    """

    format = "dat"

    def __init__(
        self,
        items: Sequence["RecordingItem"],
        root: Path,
        notes: Sequence[str] = (),
        about: Mapping[str, Any] | None = None,
        left_out: Sequence[Failure] = (),
    ) -> None:
        self.path = root
        self._recordings: dict[str, Recording] = {}
        self._boxes = BoxNotes()
        self._given: dict[str, Path] = {}
        self._names = (items[0].options.label_names if items else None) or {}
        self.clips, unopened, no_recordings = self._opened(items)
        self.left_out = (*left_out, *unopened)
        self.notes = (*notes, *no_recordings, *self._boxes.notes(), *self._odd_labels())
        labels = {stored.label for stored in self.clips.values() if stored.label is not None}
        about = about or {}
        stated = tuple(about.get("class_names", ()))
        if self._names:  # a class keeps its number only beside all the others
            stated = (*stated, *(n for n in self._names.values() if n not in stated))
        self.class_names = (*dict.fromkeys(stated), *sorted(labels - set(stated), key=_class_order))
        self.name = about.get("name") or as_text(root.resolve().name)
        cameras = sorted({recording.camera.name for recording in self._recordings.values()})
        self.recipe = dict(about.get("recipe") or {"cameras": cameras})
        self.version = about.get("version")

    def open_bits(self, clip_id: str) -> "RecordingBits":
        """Nothing is read yet."""
        return RecordingBits(self.clips[clip_id], self._recordings[clip_id])

    def stored_bytes(self, clip_id: str) -> int:
        """Size of the clip's file."""
        return size_on_disk(self._recordings[clip_id].path)

    def layout_doubt(self, clip_id: str) -> LayoutDoubt | None:
        """Whether the clip's file shows another layout than it was given; never of a set of ours.

        Of a folder of numbered files the first is looked at.
        """
        path = self._given.get(clip_id)
        return None if path is None else doubt_about(path, self._recordings[clip_id].camera)

    def _odd_labels(self) -> list[str]:
        """Notes on labels of files that count for nothing, or that the table does not name."""
        own = {key: recording.label for key, recording in self._recordings.items()}
        unnamed = [key for key, label in own.items() if self._names and label is not None]
        unnamed = [key for key in unnamed if self.clips[key].label == own[key]]
        other = [
            key
            for key, label in own.items()
            if label is not None and self.clips[key].label != name_of(label, self._names)
        ]
        told = []
        if unnamed:
            first = f"{unnamed[0]} ({own[unnamed[0]]})"
            told.append(f"{count(len(unnamed), 'class number')} without a name: {first}")
        if other:
            first = f"{other[0]} ({own[other[0]]})"
            of = count(len(other), "recording")
            told.append(f"{of} of another class than the file itself says: {first}")
        return told

    def _opened(
        self, items: Sequence["RecordingItem"]
    ) -> tuple[dict[str, StoredClip], tuple[Failure, ...], list[str]]:
        """The clips that can be opened, what is left out, and notes on what is no recording."""
        clips: dict[str, StoredClip] = {}
        left_out: list[Failure] = []
        no_recordings: list[str] = []
        taken: dict[str, Clip] = {}
        for item in items:
            other = taken.get(item.clip.id.casefold())
            try:
                if other is not None:
                    name = item.clip.source["name"]
                    raise CorpusError(f"{name!r} is left out: {one_id(item.clip, other)}")
                recording, stored = item.open()
                if item.boxes is not None:
                    stored = self._boxes.annotated(stored, item.boxes)
                self._recordings[item.clip.id], clips[item.clip.id] = recording, stored
                taken[item.clip.id.casefold()] = item.clip
                if item.measured is None:
                    self._given[item.clip.id] = item.files[0] if item.files else item.path
            except PackedSetError as error:
                no_recordings.append(str(error))
            except RuleBrokenError as error:
                left_out.append(_lost(self.path, item.clip.id, item.path, error.message))
            except (SpikeDataError, OSError) as error:
                left_out.append(Failure(id=item.clip.id, path=str(item.path), error=str(error)))
        in_order = {clip_id: clips[clip_id] for clip_id in sorted(clips)}
        return in_order, tuple(left_out), no_recordings


class RecordingBits(ClipBits):
    """The bits of one camera file."""

    def __init__(self, stored: StoredClip, recording: Recording) -> None:
        self.stored = stored
        self.step = recording.block_groups
        self._recording = recording

    def groups(self, first: int, end: int) -> NDArray[np.uint8]:
        """Decode groups ``first`` to ``end``, uint8 (end - first, H, W).

        Raises:
            RecordingError: the file cannot be read, or does not fit its camera.
        """
        return self._recording.groups(first, end)

    def blocks(self, step: int) -> Iterator[NDArray[np.uint8]]:
        """All groups in order, ``step`` at a time, in one reading of the file."""
        return self._recording.blocks(step * TICKS_PER_GROUP)


@dataclass(frozen=True)
class RecordingItem:
    """One camera file, what is known of its clip, and how to read it."""

    clip: Clip
    path: Path
    options: CameraOptions
    files: tuple[Path, ...] = ()
    """The numbered files of ``path``, if that is a folder of them."""
    is_listed: bool = False
    """Whether a list beside the files tells of it."""
    boxes: BoxFile | None = None
    """A file beside it that may hold boxes."""
    measured: Mapping[str, Any] | None = None
    """What a set of ours tells of the file besides: digest, count, and how it was made."""

    def open(self) -> tuple[Recording, StoredClip]:
        """The recording, and what is known of it before its bits are read.

        Raises:
            RecordingError: nothing tells the camera, or the file does not fit it.
            RuleBrokenError: what is told of the file does not fit it.
            OSError: the file cannot be read.
        """
        camera, flip, rate = self.options.camera, self.options.flip, self.options.tick_rate_hz
        if self.files and camera is not None:
            recording = open_numbered(self.path, self.files, camera, flip=flip, tick_rate_hz=rate)
        else:
            recording = open_recording(self.path, camera, flip=flip, tick_rate_hz=rate)
        if self.measured is not None:
            return recording, self._as_noted(recording, self.measured)
        source = dict(self.clip.source)
        if self.options.digests:
            source |= identity(self.path)
        if recording.label is not None:
            source["label"] = recording.label
        clip = self._labelled(recording.label)
        told: dict[str, Any] = {
            "name": recording.camera.name,
            "flip": recording.flip,
            "skipped": recording.skipped_bytes,
        }
        if recording.losses:
            told["lost"] = [[span.tick, span.ticks, span.bytes] for span in recording.losses]
        if self.files:
            told["files"] = recording.files
        stored = StoredClip(
            clip=replace(clip, source=source),
            ticks=recording.ticks,
            height_px=recording.height_px,
            width_px=recording.width_px,
            tick_rate_hz=recording.tick_rate_hz,
            bits_sha256="",
            spikes=None,
            attributes={"camera": told, "versions": versions()},
        )
        return recording, stored

    def _labelled(self, own: str | None) -> Clip:
        """The clip, with the class that its file says itself if a table names it or nothing else.

        A list beside the files counts before either.
        """
        names = self.options.label_names
        if own is None or (self.clip.label is not None and (names is None or self.is_listed)):
            return self.clip
        label = clean_text(name_of(own, names or {}))
        return with_own_label(self.clip, label)

    def _as_noted(self, recording: Recording, noted: Mapping[str, Any]) -> StoredClip:
        """The clip as the set's list has it, which must fit the file."""
        if noted.get("ticks") != recording.ticks:
            raise RuleBrokenError(
                "ticks_disagree",
                f"its file holds {recording.ticks} ticks, noted were {noted.get('ticks')!r:.20}",
            )
        stored = noted_clip(self.clip, noted, recording.height_px, recording.width_px)
        # The user may say another rate than the list.
        stored = replace(stored, tick_rate_hz=recording.tick_rate_hz)
        return stored if noted.get("spikes") is not None else replace(stored, spikes=None)


def with_own_label(clip: Clip, label: str) -> Clip:
    """A clip with another label, and a caption that names it if it had none but that.

    A number is no name: nobody says "a video of 12".
    """
    made = () if clip.label is None else captions_of(clip.label, CAPTION_TEMPLATES)
    if clip.captions in ((), made):
        captions = () if label.isdigit() else captions_of(label, CAPTION_TEMPLATES)
        clip = replace(clip, captions=captions)
    return replace(clip, label=label)


def _class_order(name: str) -> tuple[int, tuple[str, str]]:
    """Classes that are only numbered in order of their numbers, before those with names."""
    number = int(name) if name.isascii() and name.isdigit() and len(name) < 10 else 1 << 40
    return number, class_order(name)


def noted_clip(clip: Clip, noted: Mapping[str, Any], height_px: int, width_px: int) -> StoredClip:
    """A clip as a line of our list has it; spikes that nobody counted are 0.

    Raises:
        RuleBrokenError: a value is missing or does not fit, or the facts are not those that were
            written.
    """
    # The list alone counts: a class folder may be called "train", a clip have no caption.
    known = {key: noted.get(key) for key in (*CLIP_KEYS, *MEASURED_KEYS, FACTS_DIGEST)}
    known |= {
        "id": clip.id,
        "captions": known["captions"] or [],
        "source": clip.source if known["source"] is None else known["source"],
        "spikes": known["spikes"] or 0,
    }
    try:
        attributes = noted.get("attributes", {})
        stored = StoredClip.from_file(known, attributes, height_px, width_px)
        _check_file_name(stored, noted)
    except RuleBrokenError as error:
        if error.code != "facts_differ":
            raise
        told = f"{error.message}. {_CHANGED_ON_PURPOSE} its line of {METADATA_FILE}"
        raise RuleBrokenError(error.code, told) from error
    except (ValueError, RecursionError) as error:  # a digest is of what can be written as JSON
        raise RuleBrokenError("attributes_malformed", f"its facts are no JSON: {error}") from error
    return stored


def file_name_of(stored: StoredClip) -> str:
    """Where a set of ours keeps a clip: its class, its id."""
    folder = f"{clip_id_of(stored.label)}/" if stored.label else ""
    return f"{folder}{stored.id}.dat"


def _check_file_name(stored: StoredClip, noted: Mapping[str, Any]) -> None:
    """Another file of the set is another clip, even if it is as long."""
    if FACTS_DIGEST in noted and noted["file_name"] != file_name_of(stored):
        raise RuleBrokenError(
            "facts_differ",
            f"its file is {noted['file_name']!r:.80}, written was {file_name_of(stored)!r}",
        )


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
    listing = list_files(root, RECORDING_SUFFIXES, beside=BOX_SUFFIXES)
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


def unlisted_recordings(root: Path, camera: str | None) -> list[RecordingItem]:
    """Camera files in a folder without a list, and what its folders tell of them; none is opened.

    Raises:
        CorpusError: the folder cannot be read.
    """
    listing = list_files(root, RECORDING_SUFFIXES, beside=BOX_SUFFIXES)
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


def _lost(root: Path, clip_id: str, path: Path, told: str) -> Failure:
    return Failure(id=clip_id, path=str(path), error=f"{root}: clip {clip_id}: {told}")


def _refused(root: Path, entry: RefusedEntry) -> Failure:
    """A line of our list that cannot be used: most often its file is gone."""
    name = as_text(str(entry.columns.get("file_name", "")))
    clip_id = as_text(str(entry.columns.get("id", name)))[:200]
    told = f"its file {name:.80} is gone" if entry.is_gone else f"{entry.where}: {entry.reason}"
    return _lost(root, clip_id, root / name, told)


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
            f"were written. {_CHANGED_ON_PURPOSE} it",
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
