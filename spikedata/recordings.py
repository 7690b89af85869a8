"""Camera files, alone or in folders, seen as a source of labelled clips."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.camera import Recording, find_camera, read_recording
from spikedata.catalog import Clip
from spikedata.corpora.files import VideoFile
from spikedata.corpora.folder import read_folder
from spikedata.corpora.metadata import find_metadata, read_metadata
from spikedata.corpora.names import CAPTION_TEMPLATES, captions_of
from spikedata.errors import CorpusError, SpikeDataError
from spikedata.provenance import versions
from spikedata.store import StoredClip

RECORDING_SUFFIXES = frozenset([".dat", ".npz"])
METADATA_FILE = "metadata.jsonl"


@dataclass(frozen=True)
class CameraOptions:
    """What the user says of camera files; None leaves it to the file's folder or the camera."""

    camera: str | None
    flip: bool | None
    tick_rate_hz: float | None

    def or_else(self, told: Mapping[str, Any]) -> "CameraOptions":
        """What the user gave, else what the metadata file tells."""
        return replace(
            self,
            camera=self.camera or told.get("camera"),
            tick_rate_hz=self.tick_rate_hz or told.get("tick_rate_hz"),
        )


class Recordings:
    """Camera files as a source of clips; a bad one is noted and left out."""

    def __init__(
        self, items: Sequence["RecordingItem"], root: Path, notes: Sequence[str] = ()
    ) -> None:
        self.name = root.resolve().name
        self.notes = list(notes)
        self.failures: list[tuple[str, str]] = []
        self.clips: dict[str, StoredClip] = {}
        self._recordings: dict[str, Recording] = {}
        for item in items:
            try:
                recording, stored = item.open()
            except (SpikeDataError, OSError) as error:
                self.failures.append((item.clip.id, str(error)))
                continue
            self.clips[stored.clip.id] = stored
            self._recordings[stored.clip.id] = recording
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
    files = [
        VideoFile(path=path, parts=path.relative_to(root).parts)
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in RECORDING_SUFFIXES and path.is_file()
    ]
    if not files:
        raise CorpusError(f"{root}: holds no .dat or .npz file, and is no store")
    listed = read_metadata(root, files) if find_metadata(root) else read_folder(files)
    told = _told_cameras(root)
    items = []
    for item in listed.clips:
        clip, name = item.clip, item.clip.source["name"]
        if clip.label is not None and not clip.captions:
            clip = replace(clip, captions=captions_of(clip.label, CAPTION_TEMPLATES))
        items.append(RecordingItem(clip, item.path, options.or_else(told.get(name, {}))))
    return Recordings(items, root, listed.notes)


def _told_cameras(root: Path) -> dict[str, dict[str, Any]]:
    """Columns ``camera`` and ``tick_rate_hz`` of ``metadata.jsonl``, by file name."""
    path = root / METADATA_FILE
    if not path.is_file():
        return {}
    entries = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {entry["file_name"]: entry for entry in entries if "file_name" in entry}
