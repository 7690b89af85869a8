"""From a recipe to clips and words: what is trained on, what is judged, and what stands for it."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spikedata import SpikeClips, SpikeDataError, collate, last_packed, spoken_name
from spklip.evaluate import shared_groups
from spklip.recipe import DataConfig, Recipe

_AUGMENT = 1  # tells these draws from the loader's own

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

LONGEST_TEXT = 512
"""Tokens of a text at most, for tokenizers that name no limit."""

HOW_TO_MAKE_DATA = (
    "Make some: `spikedata simulate ucf101/ --threshold 2.0`, then `spikedata pack --to zarr`; "
    "or name some: data.path=STORE"
)
"""What a recipe without data says."""


@dataclass(frozen=True, eq=False)
class Splits:
    """The clips of a run and the words that stand for its classes."""

    path: str
    """Store, packed file or Hub data set."""
    class_names: tuple[str, ...]
    """All classes; a label is an index into them."""
    fit: SpikeClips
    """Clips to train on."""
    support: SpikeClips
    """Clips k-shot episodes may learn from: those of ``fit`` and of the held-out classes."""
    test: SpikeClips
    """Clips to be judged on."""
    prompts: tuple[tuple[str, ...], ...]
    """For each class, the sentences whose mean embedding stands for it."""
    shared_groups: tuple[str, ...]
    """Groups with clips in training and in test."""


def find_data(path: str | None, folder: Path) -> str:
    """Where the clips are: ``path``, or what was packed last in ``folder``.

    Raises:
        SpikeDataError: there is neither; the message tells which commands make one.
    """
    if path is None:
        try:
            return os.path.relpath(last_packed(folder), folder)
        except SpikeDataError as error:
            raise SpikeDataError(f"no packed spike data in {folder}. {HOW_TO_MAKE_DATA}") from error
    if not Path(path).exists() and not _HUB_NAME.fullmatch(path):
        raise SpikeDataError(
            f"{path}: no such store, packed file or Hub data set. {HOW_TO_MAKE_DATA}"
        )
    return path


def open_splits(recipe: Recipe) -> Splits:
    """Open the data of a recipe and share it out.

    Raises:
        SpikeDataError: no data, an unknown class, a split without clips, or a group on both
            sides of the split while ``eval.leaks`` is ``refuse``.
    """
    data, held_out = recipe.data, set(recipe.eval.held_out_classes)
    path = find_data(data.path, Path.cwd())
    source = _open_source(path)
    whole = _clips(source, data, split=data.train_split)
    class_names = tuple(whole.class_names)
    unknown = sorted(held_out - set(class_names))
    if unknown:
        raise SpikeDataError(f"{path}: eval.held_out_classes names no class: {', '.join(unknown)}")
    test = _clips(source, data, split=data.test_split)
    judged = [i for i, label in zip(test.ids, test.labels, strict=True) if label >= 0]
    test = _clips(source, data, split=data.test_split, ids=judged)
    for split, clips in ((data.train_split, whole), (data.test_split, test)):
        if not any(label >= 0 for label in clips.labels):
            raise SpikeDataError(
                f"{path}: no labelled clips in split {split!r}. Give each clip a split when "
                "simulating (official lists or metadata.csv), or name another: data.train_split, "
                "data.test_split"
            )
    labelled = [(i, class_names[c]) for i, c in zip(whole.ids, whole.labels, strict=True) if c >= 0]
    novel = [clip_id for clip_id, name in labelled if name in held_out]
    known = [clip_id for clip_id, name in labelled if name not in held_out]
    chosen = choose_shots(known, _labels_of(whole, known), data.shots, data.seed)
    if not chosen:
        raise SpikeDataError(f"{path}: eval.held_out_classes leaves no clip to train on")
    support = _clips(source, data, split=data.train_split, ids=chosen + novel)
    leaks = shared_groups(support.groups, test.groups)
    if leaks and recipe.eval.leaks == "refuse":
        raise SpikeDataError(
            f"{path}: {len(leaks)} groups have clips in {data.train_split} and in "
            f"{data.test_split} ({', '.join(leaks[:3])}...): the test would be no test. "
            "Use an official split, or eval.leaks=report"
        )
    return Splits(
        path=path,
        class_names=class_names,
        fit=_clips(source, data, split=data.train_split, ids=chosen, sampling=data.sampling),
        support=support,
        test=test,
        prompts=class_prompts(class_names, support, recipe),
        shared_groups=leaks,
    )


def _open_source(path: str) -> Any:
    """A local path as it is; a Hub data set through datasets."""
    if Path(path).exists():
        return path
    from datasets import load_dataset  # noqa: PLC0415  # two seconds, for Hub data sets alone

    try:
        return load_dataset(path)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpikeDataError(f"{path}: no such file here, and not on the Hub: {first}") from error


def _clips(
    source: Any,
    data: DataConfig,
    *,
    split: str,
    ids: Sequence[str] | None = None,
    sampling: Literal["start", "center", "random", "uniform"] = "center",
) -> SpikeClips:
    return SpikeClips(
        source,
        split=split,
        classes=list(data.classes) or None,
        window_ticks=data.window_ticks,
        segments=data.segments,
        sampling=sampling,
        seed=data.seed,
        ids=None if ids is None else list(ids),
    )


def _labels_of(clips: SpikeClips, ids: Sequence[str]) -> list[int]:
    label_of = dict(zip(clips.ids, clips.labels, strict=True))
    return [int(label_of[clip_id]) for clip_id in ids]


def choose_shots(
    ids: Sequence[str], labels: Sequence[int], shots: int | None, seed: int
) -> list[str]:
    """``shots`` ids of each label, drawn by ``seed``; all of them if ``shots`` is none."""
    if shots is None:
        return list(ids)
    rng = np.random.default_rng(seed)
    label_n = np.asarray(labels)
    drawn = [rng.permutation(np.flatnonzero(label_n == c))[:shots] for c in np.unique(label_n)]
    return [ids[i] for i in sorted(np.concatenate(drawn))] if drawn else []


def class_prompts(
    class_names: Sequence[str], support: SpikeClips, recipe: Recipe
) -> tuple[tuple[str, ...], ...]:
    """The sentences for each class: its training captions, or the recipe's templates.

    Captions of test clips are never read. A class without training captions gets the templates.
    """
    templated = [
        tuple(template.format(spoken_name(name)) for template in recipe.text.templates)
        for name in class_names
    ]
    if recipe.text.captions == "templates":
        return tuple(templated)
    found: list[dict[str, None]] = [{} for _ in class_names]
    for label, captions in zip(support.labels, support.captions, strict=True):
        found[label].update(dict.fromkeys(captions))
    return tuple(tuple(own) or other for own, other in zip(found, templated, strict=True))


def captioned_ids(clips: SpikeClips) -> frozenset[str]:
    """Ids of the clips that have captions of their own."""
    return frozenset(i for i, own in zip(clips.ids, clips.captions, strict=True) if own)


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

    Like the windows, what is drawn depends on seed, epoch and index alone: neither on workers nor
    on where a resumed run began.
    """

    def __init__(self, clips: SpikeClips, data: DataConfig) -> None:
        self._clips = clips
        self._crop, self._mirror, self._seed = data.crop, data.mirror, data.seed
        # In shared memory, so that workers that outlive an epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Draw other windows, crops and mirrors."""
        self._epoch.fill_(epoch)
        self._clips.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self._clips[index]
        rng = np.random.default_rng([self._seed, int(self._epoch), index, _AUGMENT])
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
            prompts: sentences of each class, taken in turn.
            captioned: ids of the clips that have captions to use.
        """
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._captioned = captioned

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch for ``SpklipModel.forward``, and ``label_b``."""
        batch = collate(items)
        label_b: Tensor = batch["label_b"]
        clips = zip(batch["ids"], batch["captions"], label_b.tolist(), strict=True)
        texts = [
            caption if clip_id in self._captioned else self._sentence(label, place)
            for place, (clip_id, caption, label) in enumerate(clips)
        ]
        return {
            "packed_bsghw": batch["packed_bsghw"],
            "ticks": batch["ticks"],
            **tokenize(self._tokenizer, texts),
            "label_b": label_b,
        }

    def _sentence(self, label: int, place: int) -> str:
        sentences = self._prompts[label]
        return sentences[place % len(sentences)]


def tokenize(tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """Padded token ids and their mask, int64 (M, L) each."""
    tokens = tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=min(tokenizer.model_max_length, LONGEST_TEXT),
        return_tensors="pt",
    )
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
