"""Camera files as a set of clips: how each is opened, and what is known of it then."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import TICKS_PER_GROUP
from spikedata.camera import (
    Recording,
    open_numbered,
    open_recording,
)
from spikedata.clip import Clip
from spikedata.clips.boxes import (
    BoxFile,
    BoxNotes,
)
from spikedata.clips.doubts import LayoutDoubt, doubt_about
from spikedata.clips.naming import name_of
from spikedata.clips.rules import (
    FACTS_DIGEST,
    RuleBrokenError,
)
from spikedata.clips.source import ClipBits, ClipSource, size_on_disk
from spikedata.clips.stored import CLIP_KEYS, MEASURED_KEYS, StoredClip
from spikedata.corpora import (
    CAPTION_TEMPLATES,
    as_text,
    captions_of,
    class_order,
    clean_text,
    clip_id_of,
    count,
    one_id,
)
from spikedata.errors import (
    CorpusError,
    PackedSetError,
    SpikeDataError,
)
from spikedata.outputs import Failure, identity
from spikedata.provenance import versions
from spikedata.stream import check_tick_rate_hz
from spikedata.wording import shown

RECORDING_SUFFIXES = frozenset([".dat", ".npz", ".npy", ".h5", ".hdf5"])
METADATA_FILE = "metadata.jsonl"
ABOUT_FILE = "spikedata.json"
"""What a set of ``.dat`` files of ours says of itself: format, name, classes in order, recipe."""
DAT_FORMAT = "spikedata-dat"
DAT_KEYS = frozenset(["file_name", "camera", "ticks", "tick_rate_hz", "bits_sha256"])
"""What such a set tells of each file; somebody's own list does not have all of it."""
CHANGED_ON_PURPOSE = f"Whoever changed them on purpose removes {FACTS_DIGEST} from"


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
                left_out.append(lost_clip(self.path, item.clip.id, item.path, error.message))
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

        Raises:
            CorpusError: what the file says is no text that can be a class.
        """
        names = self.options.label_names
        if own is None or (self.clip.label is not None and (names is None or self.is_listed)):
            return self.clip
        try:
            label = clean_text(name_of(own, names or {}))
        except ValueError as error:
            raise CorpusError(f"{self.path}: its label {shown(own)} {error}") from error
        return with_own_label(self.clip, label) if label else self.clip

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
        told = f"{error.message}. {CHANGED_ON_PURPOSE} its line of {METADATA_FILE}"
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


def lost_clip(root: Path, clip_id: str, path: Path, told: str) -> Failure:
    """A clip of a set that cannot be used, and why."""
    return Failure(id=clip_id, path=str(path), error=f"{root}: clip {clip_id}: {told}")
