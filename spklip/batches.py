"""From clips and words to the batches that the model takes: crops, mirrors, tokens.

Shapes: B clips, S segments, G groups of eight ticks, H rows, W columns, M texts, L tokens.
"""

import contextlib
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spikedata import SpikeClips, SpikeDataError, collate
from spklip.recipe import DataConfig

_AUGMENT = 1  # tells these draws from the loader's own

LONGEST_TEXT = 512
"""Tokens of a text at most, for tokenizers that name no limit."""


def kept_px(side_px: int, crop: float) -> int:
    """Pixels of a side that a crop to the share ``crop`` keeps."""
    return max(1, round(side_px * crop))


def middle(packed_bsghw: Tensor, crop: float) -> Tensor:
    """The middle of planes (..., H, W), as large as a training window cropped to ``crop``.

    A model judged on larger pictures than it was trained on is another model: the edge of the
    picture lies elsewhere, and so does everything it learnt beside it.
    """
    height_px, width_px = packed_bsghw.shape[-2:]
    kept_h, kept_w = kept_px(height_px, crop), kept_px(width_px, crop)
    top, left = (height_px - kept_h) // 2, (width_px - kept_w) // 2
    return packed_bsghw[..., top : top + kept_h, left : left + kept_w]


class Augmented(Dataset[dict[str, Any]]):
    """Training windows cropped and mirrored at random, all segments of a window alike.

    Like the windows, what is drawn depends on seed, epoch and the clip's id alone: neither on
    workers, nor on where a resumed run began, nor on which other clips are trained on.
    """

    def __init__(self, clips: SpikeClips, data: DataConfig) -> None:
        self.clips = clips
        self._crop, self._mirror, self._seed = data.crop, data.mirror, data.seed
        self._views = data.views

    def set_epoch(self, epoch: int) -> None:
        """Draw other windows, crops and mirrors; with ``views``, those of so many epochs ago."""
        self.clips.set_epoch(epoch % self._views if self._views else epoch)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.clips[index]
        clip_key = zlib.crc32(item["id"].encode())
        rng = np.random.default_rng([self._seed, self.clips.epoch, clip_key, _AUGMENT])
        packed_sghw = item["packed_sghw"]
        height_px, width_px = packed_sghw.shape[-2:]
        kept_h, kept_w = kept_px(height_px, self._crop), kept_px(width_px, self._crop)
        top = int(rng.integers(height_px - kept_h + 1))
        left = int(rng.integers(width_px - kept_w + 1))
        packed_sghw = packed_sghw[..., top : top + kept_h, left : left + kept_w]
        if self._mirror and rng.random() < 0.5:
            packed_sghw = packed_sghw.flip(-1)
        return item | {"packed_sghw": packed_sghw}


class TextCollator:
    """Items of a loader to the model's inputs: packed bits, tokens and labels."""

    def __init__(
        self, tokenizer: Any, prompts: Sequence[Sequence[str]], captioned: Collection[str]
    ) -> None:
        """Take a clip's own caption if its id is in ``captioned``, else its class's sentences.

        Args:
            tokenizer: that of the model's text tower.
            prompts: sentences of each class; each clip has one of them.
            captioned: ids of the clips that have captions to use.
        """
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._captioned = captioned

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch for ``SpklipModel.forward``, and ``label_b``."""
        ids = [item["id"] for item in items]
        labels = [int(item["label"]) for item in items]
        texts = [
            item["caption"] if clip_id in self._captioned else self._sentence(label, clip_id)
            for clip_id, item, label in zip(ids, items, labels, strict=True)
        ]
        return {
            **self._clips_of(items),
            **tokenize(self._tokenizer, texts),
            "label_b": torch.tensor(labels, dtype=torch.int64),
        }

    @staticmethod
    def _clips_of(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Packed bits, or the windows' features where they are kept."""
        if "feature_vc" in items[0]:
            kept = [name for name in ("feature_vc", "teacher_feature_vc") if name in items[0]]
            return {
                "centre_v": items[0]["centre_v"],
                **{_batched(name): torch.stack([item[name] for item in items]) for name in kept},
            }
        return bits_of(items)

    def _sentence(self, label: int, clip_id: str) -> str:
        """One of the class's sentences, by the clip: whatever batch or process it comes to."""
        sentences = self._prompts[label]
        return sentences[zlib.crc32(clip_id.encode()) % len(sentences)]


def bits_of(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Packed bits of a batch, (B, S, G, H, W), and ticks of a segment."""
    batch = collate(items)
    return {"packed_bsghw": batch["packed_bsghw"], "ticks": batch["ticks"]}


def _batched(name: str) -> str:
    """Name of a batch of what is named, with its axes, of one item."""
    return name.replace("_vc", "_bvc")


def tokenize(tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """Padded token ids and their mask, int64 (M, L) each."""
    tokens = tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=min(tokenizer.model_max_length, LONGEST_TEXT),
        return_tensors="pt",
    )
    mask = tokens.get("attention_mask")
    if mask is None:
        mask = (tokens["input_ids"] != tokenizer.pad_token_id).long()
    return {"input_ids": tokens["input_ids"], "attention_mask": mask}


@contextlib.contextmanager
def readers_told() -> Iterator[None]:
    """Tell what a reading process told, in its own line; torch gives all of its traceback."""
    try:
        yield
    except (RuntimeError, SpikeDataError) as error:
        words = str(error).rstrip()
        kind, _, told = words.rpartition("\n")[2].partition(": ")
        if " in DataLoader worker process " not in words or not kind.startswith("spikedata."):
            raise
        raise SpikeDataError(told) from error
