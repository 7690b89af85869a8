"""What never changes of a clip, worked out once and kept beside the store.

A frozen image tower gives the same vectors in every epoch, for every seed and every split. They
are kept, one file a clip, in a folder named by everything they depend on but the clip: weights,
pictures, windows, crops, seeds. The clip's bits name the file. A file that is cut off, or of other
bits, is not found and is made again.

Shapes: E drawings of a clip (windows, crop, mirror), V windows, C features.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from spikedata import SpikeClips, SpikeDataError, collate, worker_options, write_whole

LAYOUT = 2
"""Part of every key: raise it where the same key would mean other numbers."""

Encode = Callable[[Tensor, int], dict[str, Tensor]]
"""Packed planes (E, S, G, H, W) and ticks of a segment in, named tensors (E, ...) out."""


class FeatureFolder:
    """The kept tensors of clips that were fed to one encoder in one way."""

    def __init__(self, root: Path, key: Mapping[str, Any]) -> None:
        text = json.dumps({"layout": LAYOUT, **key}, sort_keys=True)
        self.path = root / hashlib.sha256(text.encode()).hexdigest()[:24]
        self._key = text

    def file_of(self, digest: str) -> Path:
        """File of the clip whose bits have this digest."""
        return self.path / digest[:2] / f"{digest}.safetensors"

    def holds(self, digest: str) -> bool:
        """Whether the clip's tensors are there and whole."""
        try:
            with safe_open(self.file_of(digest), "pt"):
                return True
        except (OSError, SafetensorError):
            return False

    def read(self, digest: str, drawing: int | None = None) -> dict[str, Tensor]:
        """Tensors of a clip, (E, ...), or of one of its drawings, (...)."""
        with safe_open(self.file_of(digest), "pt") as file:
            names = sorted(file.keys())
            if drawing is None:
                return {name: file.get_tensor(name) for name in names}
            return {name: file.get_slice(name)[drawing] for name in names}

    def write(self, digest: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of a clip; the file appears whole.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        file = self.file_of(digest)
        file.parent.mkdir(parents=True, exist_ok=True)
        note = self.path / "key.json"
        if not note.exists():
            write_whole(note, self._key + "\n")
        plain = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        write_whole(file, safetensors.torch.save(plain))


def feature_root(path: str, out: Path) -> Path:
    """Folder for kept features: beside a store on this machine, else in the run's folder."""
    return folder_beside(path) or out / "features"


def folder_beside(path: str) -> Path | None:
    """Folder beside a store or a folder of videos, for what is known of it; None if none can be."""
    store = Path(path)
    if store.exists():
        beside = store.resolve().with_name(store.name + ".features")
        with contextlib.suppress(OSError):
            beside.mkdir(exist_ok=True)
            if os.access(beside, os.W_OK):
                return beside
    return None


class Drawings(Dataset[list[dict[str, Any]]]):
    """All drawings of a clip as one item; each is an item of a data set of its own.

    One data set with ``set_epoch`` would not do: what it says is shared with the workers, which are
    at several clips at once.
    """

    def __init__(self, drawings: Sequence[Any], only: Sequence[int]) -> None:
        self._drawings, self._only = drawings, only

    def __len__(self) -> int:
        return len(self._only)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        return [drawing[self._only[index]] for drawing in self._drawings]


def _one_clip(batch: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    return collate(batch[0])


@torch.no_grad()
def keep_features(
    folder: FeatureFolder,
    clips: SpikeClips,
    drawings: Sequence[Any],
    encode: Encode,
    *,
    device: Any,
    workers: int = 0,
    title: str = "features",
    progress: bool = True,
) -> None:
    """Work out what ``folder`` lacks of some clips.

    Memory holds one clip's drawings at a time, and one more for each worker that reads ahead.

    Args:
        folder: where the tensors are kept.
        clips: whose they are.
        drawings: E data sets over the same clips in the same order, one a drawing.
        encode: packed planes to tensors.
        device: that of the encoder.
        workers: reading processes.
        title: of the bar.
        progress: show it, on standard error.

    Raises:
        SpikeDataError: a clip cannot be read; what was worked out before it is kept.
    """
    missing = [i for i in range(len(clips)) if not folder.holds(clips.digest(i))]
    if not missing:
        return
    loader = DataLoader(
        Drawings(drawings, missing),
        batch_size=1,
        **worker_options(clips.opened, workers),
        collate_fn=_one_clip,
        generator=torch.Generator(),  # whether anything lacked must not change what training draws
    )
    batches = zip(missing, loader, strict=True)
    for index, batch in tqdm(
        batches, total=len(missing), desc=title, unit="clip", file=sys.stderr, disable=not progress
    ):
        tensors = encode(batch["packed_bsghw"].to(device), batch["ticks"])
        for name, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise SpikeDataError(
                    f"clip {clips.ids[index]}: {name} features are not finite; "
                    "use train.precision=fp32"
                )
        folder.write(clips.digest(index), tensors)


class KeptViews(Dataset[dict[str, Any]]):
    """Training items of kept features: the drawings that training would see, in the same epochs."""

    def __init__(
        self,
        clips: SpikeClips,
        folder: FeatureFolder,
        views: int,
        teacher: FeatureFolder | None = None,
    ) -> None:
        self._clips, self._folder, self._views = clips, folder, views
        self._teacher = teacher
        self._ids, self._labels = clips.ids, clips.labels

    def set_epoch(self, epoch: int) -> None:
        """Take other drawings."""
        self._clips.set_epoch(epoch % self._views)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        digest, view = self._clips.digest(index), self._clips.epoch % self._views
        kept = self._folder.read(digest, view)
        taught = {}
        if self._teacher is not None:
            taught = {"teacher_feature_vc": self._teacher.read(digest, view)["windows"]}
        return taught | {
            "feature_vc": kept["windows"],
            "centre_v": kept["centres"],
            "label": self._labels[index],
            "caption": self._clips.caption(index),
            "id": self._ids[index],
        }
