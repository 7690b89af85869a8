"""Camera files, alone or in folders, seen as a source of labelled clips."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikedata.camera import Recording, find_camera, read_recording
from spikedata.clip import Clip
from spikedata.clips.store import StoredClip
from spikedata.corpora.corpus import one_id, with_captions
from spikedata.corpora.files import list_files
from spikedata.corpora.folder import read_folder
from spikedata.corpora.metadata import find_metadata, read_entries
from spikedata.corpora.names import CAPTION_TEMPLATES, as_text
from spikedata.errors import CorpusError, SpikeDataError
from spikedata.provenance import versions
from spikedata.stream import check_tick_rate_hz

RECORDING_SUFFIXES = frozenset([".dat", ".npz"])
METADATA_FILE = "metadata.jsonl"


@dataclass(frozen=True)
class CameraOptions:
    """What the user says of camera files; None leaves it to the file's folder or the camera.

    Raises:
        ValueError: ``tick_rate_hz`` is not positive and finite.
    """

    camera: str | None
    flip: bool | None
    tick_rate_hz: float | None

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


class Recordings:
    """Camera files as a source of clips; one that is bad or has another's id is left out.

    Why is told in ``failures``: pairs of clip id and reason.
    """

    def __init__(
        self, items: Sequence["RecordingItem"], root: Path, notes: Sequence[str] = ()
    ) -> None:
        self.name = as_text(root.resolve().name)
        self.notes = list(notes)
        self.failures: list[tuple[str, str]] = []
        self.clips: dict[str, StoredClip] = {}
        self._recordings: dict[str, Recording] = {}
        taken: dict[str, Clip] = {}
        for item in items:
            other = taken.get(item.clip.id.casefold())
            if other is not None:
                name = item.clip.source["name"]
                problem = f"{name!r} is left out: {one_id(item.clip, other)}"
                self.failures.append((item.clip.id, problem))
                continue
            try:
                recording, stored = item.open()
            except (SpikeDataError, OSError) as error:
                self.failures.append((item.clip.id, str(error)))
                continue
            taken[item.clip.id.casefold()] = item.clip
            self.clips[item.clip.id] = stored
            self._recordings[item.clip.id] = recording
        labels = {stored.clip.label for stored in self.clips.values()}
        self.class_names = tuple(sorted(label for label in labels if label is not None))
        self.recipe = {"cameras": sorted({r.camera.name for r in self._recordings.values()})}

    def blocks(self, clip_id: str, ticks: int = 1024) -> Iterator[NDArray[np.uint8]]:
        """Packed blocks (G, H, W) of ``ticks`` ticks, the last perhaps shorter."""
        return self._recordings[clip_id].blocks(ticks)


@dataclass(frozen=True)
class RecordingItem:
    """One camera file, what is known of its clip, and how to read it."""

    clip: Clip
    path: Path
    options: CameraOptions

    def open(self) -> tuple[Recording, StoredClip]:
        """The recording, and what is known of it before its bits are read.

        Raises:
            CorpusError: nothing tells the camera.
            RecordingError: the file does not fit it.
            OSError: the file cannot be read.
        """
        if self.options.camera is None:
            raise CorpusError(
                f"{self.path}: no file tells its camera. Give --camera NAME or HxW; see "
                "`spikedata cameras`"
            )
        camera = find_camera(self.options.camera)
        recording = read_recording(
            self.path, camera, flip=self.options.flip, tick_rate_hz=self.options.tick_rate_hz
        )
        with self.path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        source = self.clip.source | {"sha256": digest, "bytes": self.path.stat().st_size}
        if recording.label is not None:
            source["label"] = recording.label
        how = {"name": camera.name, "flip": recording.flip, "skipped": recording.skipped_bytes}
        stored = StoredClip(
            clip=replace(self.clip, source=source),
            ticks=recording.ticks,
            height_px=recording.height_px,
            width_px=recording.width_px,
            tick_rate_hz=recording.tick_rate_hz,
            bits_sha256="",
            spikes=0,
            attributes={"camera": how, "versions": versions()},
        )
        return recording, stored


def recordings_below(root: Path, options: CameraOptions) -> Recordings:
    """Camera files in a folder: labels from class folders, or all from a metadata file.

    Raises:
        CorpusError: there are none, or the metadata file is malformed.
    """
    listing = list_files(root, RECORDING_SUFFIXES)
    if not listing.files:
        reasons = "; ".join(["and is no store", *listing.notes])
        raise CorpusError(f"{root}: holds no .dat or .npz file, {reasons}")
    if find_metadata(root):
        entries, notes = read_entries(root, listing.files)
        clips = [entry.item for entry in entries]
        told = [options.or_else(entry.camera(), entry.tick_rate_hz()) for entry in entries]
    else:
        found = read_folder(listing.files)
        clips, notes = found.clips, found.notes
        told = [options] * len(clips)
    items = [
        RecordingItem(item.clip, item.path, of_file)
        for item, of_file in zip(with_captions(clips, CAPTION_TEMPLATES), told, strict=True)
    ]
    return Recordings(items, root, listing.notes + notes)
