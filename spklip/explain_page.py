"""A page of what a trained model looked at in chosen clips.

Clips are read, explained and drawn one at a time.

Shapes: C classes, D width of the shared space, S segments, G groups of eight ticks packed in a
byte, H rows, W columns, V windows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikedata import Failure, Page, SpikeDataError, StoredClip, new_figure, write_whole
from spklip.batches import middle
from spklip.building import build_model, load_model_parts, of_checkpoint
from spklip.check import check_clips
from spklip.embedding import check_apart, check_new
from spklip.explain import Explanation, explain
from spklip.judge import embed_texts
from spklip.model import exposures, full_range
from spklip.recipe import Recipe
from spklip.splits import Splits, open_splits, take_turns

CLIPS = 8
"""Clips explained unless told which."""
WINDOWS = 4
"""Windows at most whose places are shown: those of greatest weight."""
PICTURE_PX = 240
"""Small pictures are magnified, whole times, until a longer side would be more than this."""
HEAT = 0.75
"""Share of the colour where the map is greatest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainedText:
    """How the windows of a clip speak for a text."""

    text: str
    """A class, by its name, or a sentence."""
    score: float
    """Cosine of clip and text."""
    weights: tuple[float, ...]
    """What each window adds to it."""
    centre_ticks: tuple[float, ...]
    """Middle tick of each window; segments are laid end to end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainedClip:
    """A clip, what the model answers, and why."""

    id: str
    """The clip."""
    label: str | None
    """Its class."""
    answer: str | None
    """The class that the model answers; None where there are no classes."""
    texts: tuple[ExplainedText, ...]
    """What it was compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainReport:
    """What became of the clips that were to be explained."""

    clips: tuple[ExplainedClip, ...]
    """Those on the page."""
    failures: tuple[Failure, ...]
    """Those that could not be read, and why."""


def explain_clips(
    checkpoint: Path | str,
    recipe: Recipe,
    out: Path,
    *,
    clips: Sequence[str] = (),
    text: str | None = None,
    overwrite: bool = False,
) -> ExplainReport:
    """Show on a page what a model looked at: which windows of a clip, and where in them.

    Of each clip the middle is seen, as with ``eval.windows=1``. A class stands for its sentences,
    as in judging: the model's answer is explained, and where that is wrong the true class too.

    Args:
        checkpoint: a run's folder, a folder of ``save_pretrained``, or a Hub model.
        recipe: data and evaluation settings; see :func:`recipe_of_run`.
        out: HTML file to write.
        clips: ids of test clips; eight, the classes taking turns, if none is given.
        text: a sentence to explain the score of, instead of classes.
        overwrite: replace ``out``.

    Returns:
        The clips with scores and weights, as on the page, and those that cannot be read.

    Raises:
        ValueError: an empty sentence.
        SpikeDataError: no such checkpoint, no such clip, none that can be read, no map of places
            in the image encoder, or ``out`` is there and ``overwrite`` is False.
    """
    if text is not None and not text.strip():
        raise ValueError("an explanation needs a sentence, for example 'a person waving'")
    check_new(out, overwrite=overwrite)
    recipe = of_checkpoint(recipe, checkpoint)
    config, tokenizer = load_model_parts(recipe.model)
    splits = open_splits(recipe)
    data = replace(recipe.data, path=splits.path, size=splits.size)
    check_clips(data, config, splits)
    check_apart(out, splits.test.opened)
    chosen = _chosen(splits, clips, data.test_split)
    model: Any = build_model(recipe.model, config)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    asker = _Asker(model.eval(), tokenizer, splits, text)
    page = Page(f"What {checkpoint} looked at")
    page.text(_HOW, small=True)
    report = asker.add_all(page, chosen, data.crop)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.render(), overwrite=overwrite)
    return report


_HOW = (
    "A score is the cosine of a clip's and a text's embedding. Bars: what each window adds to it, "
    "the gradient of the score times the window's features; below zero it speaks against the "
    "text. Pictures: the windows of greatest weight, each the spikes of all its ticks (TFP); from "
    "red to yellow, places that speak for the text (Grad-CAM at the last map of the image tower). "
    "Pictures of one clip and text share their colours. The colours tell what moved this model's "
    "score, not what is right. Dark squares: the windows (columns) that a window (rows) heeds in a "
    "layer of the Transformer, the same for every text."
)


def _chosen(splits: Splits, ids: Sequence[str], split: str) -> list[int]:
    """Places of the clips among the test clips.

    Raises:
        SpikeDataError: an id is none of theirs.
    """
    if not ids:
        return take_turns([int(label) for label in splits.test.labels], CLIPS)
    place = {clip_id: index for index, clip_id in enumerate(splits.test.ids)}
    for clip_id in ids:
        if clip_id not in place:
            raise SpikeDataError(
                f"{splits.path}: no clip {clip_id!r} among the {len(place)} of split {split!r}, "
                f"which are such as {splits.test.ids[0]!r}"
            )
    return [place[clip_id] for clip_id in dict.fromkeys(ids)]


class _Asker:
    """A model, test clips, and the embeddings of what the clips are compared with."""

    def __init__(self, model: Any, tokenizer: Any, splits: Splits, text: str | None) -> None:
        self.model, self.tokenizer, self.splits = model, tokenizer, splits
        self.text = text
        self.class_texts = [self._embed(own) for own in splits.prompts]

    def _embed(self, sentences: Sequence[str]) -> Tensor:
        """Mean embedding (D,) of sentences."""
        return embed_texts(self.model, self.tokenizer, sentences).mean(dim=0)

    def add_all(self, page: Page, chosen: Sequence[int], crop: float) -> ExplainReport:
        """Explain test clips, and add them to a page; of those that cannot be read, the reason.

        Raises:
            SpikeDataError: none of them can be read.
        """
        test, clips, failures = self.splits.test, [], []
        for index in chosen:
            try:
                item = test[index]
            except (SpikeDataError, OSError) as error:
                clip_id = test.ids[index]
                failures.append(Failure(id=clip_id, path=self.splits.path, error=str(error)))
                continue
            clips.append(self.add(page, index, item, crop))
        if not clips:
            raise SpikeDataError(f"no clip can be read; {failures[0].error}")
        if failures:
            page.heading("Not read")
            page.items(f"{failure.id}: {failure.error}" for failure in failures)
        return ExplainReport(clips=tuple(clips), failures=tuple(failures))

    def add(self, page: Page, index: int, item: Mapping[str, Any], crop: float) -> ExplainedClip:
        """Explain a test clip that was read, and add it to a page."""
        test, names = self.splits.test, self.splits.class_names
        packed_sghw, ticks = middle(item["packed_sghw"], crop).to(self.model.device), item["ticks"]
        stored = test.opened.clips[test.ids[index]]
        answer = self._answer(packed_sghw, ticks) if names else None
        label = int(test.labels[index]) if names else None
        page.heading(stored.id)
        page.text(_told(names, label, answer))
        texts: list[ExplainedText] = []
        for shown, text_d in self._texts(index, label, answer):
            found = explain(self.model, packed_sghw, ticks, text_d.to(self.model.device))
            if not texts and len(found.centre_v) > 1:
                page.figure(_attention(found))
            _add(page, shown, found, packed_sghw.cpu(), ticks, self.model.config.hsfe_ticks, stored)
            texts.append(
                ExplainedText(
                    text=shown,
                    score=found.score,
                    weights=tuple(found.weight_v.tolist()),
                    centre_ticks=tuple(found.centre_v.tolist()),
                )
            )
        return ExplainedClip(
            id=stored.id,
            label=None if label is None else names[label],
            answer=None if answer is None else names[answer],
            texts=tuple(texts),
        )

    @torch.no_grad()
    def _answer(self, packed_sghw: Tensor, ticks: int) -> int:
        """The class whose text is nearest."""
        video_d = self.model.encode_packed(packed_sghw[None], ticks)[0].float().cpu()
        text_cd = torch.nn.functional.normalize(torch.stack(self.class_texts), dim=1)
        return int((text_cd @ video_d).argmax())

    def _texts(
        self, index: int, label: int | None, answer: int | None
    ) -> Iterator[tuple[str, Tensor]]:
        """What a clip is compared with, and its embedding (D,)."""
        if self.text is not None:
            yield self.text, self._embed([self.text])
        elif label is None or answer is None:
            captions = list(self.splits.test.captions[index])
            yield captions[0], self._embed(captions)
        else:
            for number in dict.fromkeys((answer, label)):
                yield self.splits.class_names[number], self.class_texts[number]


def _told(names: Sequence[str], label: int | None, answer: int | None) -> str:
    if label is None or answer is None:
        return "It has no class."
    if label == answer:
        return f"The model answers {names[answer]}, which is right."
    return f"The model answers {names[answer]}; it is {names[label]}."


def _add(
    page: Page,
    text: str,
    found: Explanation,
    packed_sghw: Tensor,
    ticks: int,
    window_ticks: int,
    stored: StoredClip,
) -> None:
    """One text: its score, a bar a window, and the places of the greatest windows."""
    page.text(f"“{text}”: score {found.score:.3f}")
    page.figure(_bars(found, stored.tick_rate_hz))
    best = found.weight_v.argsort(descending=True, stable=True)[:WINDOWS].tolist()
    most = float(found.map_vhw[best].max())
    tiles = []
    for window in sorted(best):
        first = int(found.centre_v[window]) - window_ticks // 2
        segment, start = first // ticks, first % ticks
        rate_11hw = exposures(packed_sghw[segment][None], ticks, [start], window_ticks)
        heat_hw = found.map_vhw[window] / (most or 1.0)
        lines = [
            f"ticks {first} to {first + window_ticks - 1}",
            f"adds {float(found.weight_v[window]):+.4f}",
        ]
        tiles.append((lay_heat(full_range(rate_11hw)[0, 0].numpy(), heat_hw.numpy()), lines))
    page.colour_pictures(tiles)


def _bars(found: Explanation, tick_rate_hz: float) -> Any:
    """A bar a window over the time that the model saw."""
    place_v = found.centre_v.numpy() / (tick_rate_hz or 1.0)
    spacing = float(np.diff(place_v).min()) if len(place_v) > 1 else 1.0
    figure, axes = new_figure(7, 2.2)
    axes.bar(place_v, found.weight_v.numpy(), width=0.8 * spacing, color="#c2410c")
    axes.axhline(0, color="#1b1b1b", linewidth=0.8)
    unit = "s" if tick_rate_hz else "ticks"
    axes.set_xlabel(f"middle of the window, {unit} of what was seen")
    axes.set_ylabel("adds to the score")
    return figure


def _attention(found: Explanation) -> Any:
    """How much the windows heed each other: a picture for each layer."""
    layers = found.attention_lvv.numpy()
    figure, columns = new_figure(2.6 * len(layers), 2.6, len(layers))
    parts = zip(np.atleast_1d(columns), layers, strict=True)
    for number, (axes, attention_vv) in enumerate(parts, 1):
        axes.imshow(attention_vv, cmap="Greys", vmin=0)
        axes.set_title(f"layer {number}", fontsize=8)
        axes.set_xlabel("heeded window", fontsize=8)
        axes.set_ylabel("window", fontsize=8)
        axes.tick_params(labelsize=7)
    return figure


def lay_heat(grey_hw: NDArray[Any], heat_hw: NDArray[Any]) -> NDArray[np.uint8]:
    """A picture with a map over it, from red to yellow; what is 0 stays grey.

    Args:
        grey_hw: (H, W), 0 to 1.
        heat_hw: (H, W), 0 to 1.

    Returns:
        rgb_hwc: uint8 (H, W, 3), small pictures magnified whole times.
    """
    heat_hw1 = np.clip(heat_hw, 0.0, 1.0)[..., None]
    colour_hwc = np.concatenate(
        [np.ones_like(heat_hw1), heat_hw1, np.zeros_like(heat_hw1)], axis=-1
    )
    rgb_hwc = (1 - HEAT * heat_hw1) * grey_hw[..., None] + HEAT * heat_hw1 * colour_hwc
    times = max(1, PICTURE_PX // max(grey_hw.shape))
    byte_hwc: NDArray[np.uint8] = np.rint(rgb_hwc * 255).astype(np.uint8)
    large_hwc: NDArray[np.uint8] = byte_hwc.repeat(times, axis=0).repeat(times, axis=1)
    return large_hwc
