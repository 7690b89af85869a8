"""A trained model and its data in, all the numbers of a report out.

Shapes: N clips, C classes, M texts, D features.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from spikedata import SpikeClips, SpikeDataError, collate
from spklip import baselines
from spklip.batches import middle, tokenize
from spklip.evaluate import (
    Episodes,
    FewShot,
    closed_set,
    draw_episodes,
    few_shot,
    ranks,
    retrieval,
)
from spklip.recipe import Recipe
from spklip.splits import Splits


def judge(
    model: Any, tokenizer: Any, splits: Splits, recipe: Recipe, *, progress: bool = True
) -> dict[str, Any]:
    """Judge a model on its test split, beside the baselines and chance.

    Args:
        model: SpklipModel, on any device.
        tokenizer: that of the model's text tower.
        splits: from :func:`spklip.splits.open_splits`.
        recipe: evaluation settings.
        progress: show bars on standard error.

    Returns:
        Plain JSON values: ``data``, ``closed_set``, ``train_top1``, ``few_shot``, ``retrieval``
        and ``notes`` of ``metrics.json``.
    """
    model.eval()
    test = embed_clips(model, splits.test, recipe, "embed test", progress)
    told = {"data": describe_splits(splits), "notes": _notes(splits, recipe)}
    told["retrieval"] = _retrieval(model, tokenizer, test["spklip"], splits)
    if not splits.class_names:
        skipped = {"skipped": "no clip has a class"}
        return told | {"closed_set": skipped, "train_top1": None, "few_shot": skipped}
    train = embed_clips(model, splits.support, recipe, "embed train", progress)
    text_cd = torch.cat([_mean_unit(model, tokenizer, own) for own in splits.prompts])
    closed = _closed_set(train, test, text_cd, splits, recipe)
    fitted_n = fitted_clips(splits)
    fit_label_n = torch.tensor([int(label) for label in splits.support.labels])[fitted_n]
    own_nc = torch.nn.functional.one_hot(fit_label_n, len(splits.class_names)).bool()
    train_rank_n = ranks(train["spklip"][fitted_n] @ text_cd.T, own_nc)
    return told | {
        "closed_set": closed,
        "train_top1": float((train_rank_n == 1).mean()),
        "few_shot": _few_shot(train, test, text_cd, float(_scale(model)), splits, recipe),
    }


def _closed_set(
    train: dict[str, Tensor],
    test: dict[str, Tensor],
    text_cd: Tensor,
    splits: Splits,
    recipe: Recipe,
) -> dict[str, Any]:
    """The model and the baselines on the test clips; standardises the baselines' features."""
    names, config = splits.class_names, recipe.eval
    test_label_n = torch.tensor([int(label) for label in splits.test.labels])
    fitted_n = fitted_clips(splits)
    fit_label_n = torch.tensor([int(label) for label in splits.support.labels])[fitted_n]
    scores = {"spklip": test["spklip"] @ text_cd.T}
    for name in baselines.NAMES if config.baselines else ():
        fit_nd = train[name][fitted_n]
        train[name] = baselines.standardise(train[name], fit_nd)
        test[name] = baselines.standardise(test[name], fit_nd)
        scores[name] = baselines.logistic_regression(
            train[name][fitted_n], fit_label_n, test[name], len(names)
        )
    options = {"resamples": config.resamples, "seed": config.seed}
    groups = scene_groups(splits.test)
    closed: dict[str, Any] = {
        name: dataclasses.asdict(closed_set(score_nc, test_label_n, names, groups, **options))
        for name, score_nc in scores.items()
    }
    chance = baselines.chance(fit_label_n.numpy(), test_label_n.numpy(), len(names))
    return closed | {"chance": chance}


@torch.no_grad()
def embed_clips(
    model: Any, clips: SpikeClips, recipe: Recipe, title: str, progress: bool = True
) -> dict[str, Tensor]:
    """Embeddings (N, D) of all clips and, from the same windows, the baselines' features.

    A clip's embedding is the mean over ``eval.windows`` windows, scaled to unit length. One
    window is the middle of the clip; several lie at random, by ``eval.seed``. Of each picture the
    middle is seen, as large as training saw.

    Raises:
        SpikeDataError: an embedding is not finite.
    """
    sums: dict[str, Tensor] = {}
    windows = recipe.eval.windows
    loader = DataLoader(
        _with_windows(clips, recipe),
        batch_size=recipe.eval.batch_size,
        num_workers=recipe.data.workers,
        collate_fn=collate,
    )
    with tqdm(
        total=windows * len(loader), desc=title, file=sys.stderr, disable=not progress
    ) as bar:
        for window in range(windows):
            loader.dataset.set_epoch(window)  # type: ignore[attr-defined]
            parts: dict[str, list[Tensor]] = {}
            for batch in loader:
                for name, part in _embed_batch(model, batch, recipe).items():
                    parts.setdefault(name, []).append(part)
                bar.update()
            for name, part_list in parts.items():
                sums[name] = sums.get(name, torch.tensor(0.0)) + torch.cat(part_list)
    means = {name: total / windows for name, total in sums.items()}
    if not bool(torch.isfinite(means["spklip"]).all()):
        raise SpikeDataError("the model's embeddings are not finite; use train.precision=fp32")
    means["spklip"] = torch.nn.functional.normalize(means["spklip"], dim=1)
    return means


def _with_windows(clips: SpikeClips, recipe: Recipe) -> SpikeClips:
    data = recipe.data
    return SpikeClips(
        clips.source,
        split=clips.split,
        classes=list(data.classes) or None,
        window_ticks=data.window_ticks,
        segments=data.segments,
        sampling="random" if recipe.eval.windows > 1 else "center",
        seed=recipe.eval.seed,
        ids=list(clips.ids),
        size=clips.size,
    )


def _embed_batch(model: Any, batch: dict[str, Any], recipe: Recipe) -> dict[str, Tensor]:
    packed_bsghw, ticks = batch["packed_bsghw"].to(model.device), batch["ticks"]
    packed_bsghw = middle(packed_bsghw, recipe.data.crop)
    with autocast(model, recipe):
        video_bd = model.encode_packed(packed_bsghw, ticks)
    found = {"spklip": video_bd.float().cpu()}
    if recipe.eval.baselines:
        found |= baselines.features(packed_bsghw, ticks)
    return found


@contextlib.contextmanager
def autocast(model: Any, recipe: Recipe) -> Iterator[None]:
    """Compute in the arithmetic that ``train.precision`` names."""
    from spklip.train import pick_precision  # noqa: PLC0415  # transformers.Trainer: two seconds

    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(pick_precision(recipe.train))
    with torch.autocast(model.device.type, dtype=kind, enabled=kind is not None):
        yield


@torch.no_grad()
def embed_texts(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Unit embeddings (M, D) of sentences, on the CPU."""
    tokens = tokenize(tokenizer, texts)
    tokens = {name: value.to(model.device) for name, value in tokens.items()}
    embedded: Tensor = model.encode_text(**tokens).float().cpu()
    return embedded


def _mean_unit(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    mean_1d = embed_texts(model, tokenizer, texts).mean(dim=0, keepdim=True)
    return torch.nn.functional.normalize(mean_1d, dim=1)


def _scale(model: Any) -> Tensor:
    scale: Tensor = model.scale.detach().float().cpu()
    return scale


def scene_groups(clips: SpikeClips) -> list[str]:
    """Group of each clip; a clip without one is a group of its own.

    A scene may show several classes, and is drawn with all of them or not at all.
    """
    return [
        group or f"clip {clip_id}" for group, clip_id in zip(clips.groups, clips.ids, strict=True)
    ]


def fitted_clips(splits: Splits) -> Tensor:
    """Which clips of ``support`` the model was trained on, bool (N,).

    The others, of held-out classes, are for k-shot episodes alone: what is judged beside the
    model may not learn from them either.
    """
    known = {int(label) for label in splits.fit.labels}
    return torch.tensor([int(label) in known for label in splits.support.labels])


def describe_splits(splits: Splits) -> dict[str, Any]:
    """How many clips each class has on each side."""
    count = {
        side: np.bincount(
            [int(label) for label in clips.labels if label >= 0], minlength=len(splits.class_names)
        ).tolist()
        for side, clips in (("train", splits.fit), ("test", splits.test))
    }
    return {
        "path": splits.path,
        "train_clips": len(splits.fit),
        "test_clips": len(splits.test),
        "per_class": {
            name: {"train": count["train"][c], "test": count["test"][c]}
            for c, name in enumerate(splits.class_names)
        },
        "shared_groups": list(splits.shared_groups),
    }


def _few_shot(
    train: dict[str, Tensor],
    test: dict[str, Tensor],
    text_cd: Tensor,
    scale: float,
    splits: Splits,
    recipe: Recipe,
) -> dict[str, Any]:
    config, names = recipe.eval, splits.class_names
    held_out = config.held_out_classes
    pool = [c for c, name in enumerate(names) if name in held_out or not held_out]
    try:
        episodes = draw_episodes(
            np.asarray(splits.support.labels),
            np.asarray(splits.test.labels),
            pool,
            ways=config.ways,
            shots=config.shots,
            queries=config.queries,
            episodes=config.episodes,
            seed=config.seed,
        )
    except ValueError as error:
        return {"skipped": str(error)}
    judged = {
        name: _judged_episodes(
            name, train[name], test[name], text_cd, scale, episodes, splits, recipe
        )
        for name in test
    }
    return _describe_episodes(episodes, splits) | {
        "episodes": config.episodes,
        "shots": [str(k) for k in judged["spklip"].top1],
        "top1": {name: _by_shots(few.top1) for name, few in judged.items()},
        "by_group": {name: _by_shots(few.by_group) for name, few in judged.items()},
    }


def _judged_episodes(
    name: str,
    train_nd: Tensor,
    test_nd: Tensor,
    text_cd: Tensor,
    scale: float,
    episodes: Episodes,
    splits: Splits,
    recipe: Recipe,
) -> FewShot:
    """The model, started at the class texts, or a baseline, started at nought."""
    is_model = name == "spklip"
    factor = scale if is_model else 1.0
    start_cd = text_cd if is_model else torch.zeros(len(splits.class_names), test_nd.shape[1])
    return few_shot(
        train_nd * factor,
        test_nd * factor,
        start_cd,
        episodes,
        scene_groups(splits.test),
        from_text=is_model,
        resamples=recipe.eval.resamples,
        seed=recipe.eval.seed,
    )


def _by_shots(by_shots: dict[int, Any]) -> dict[str, Any]:
    return {str(k): dataclasses.asdict(estimate) for k, estimate in by_shots.items()}


def _describe_episodes(episodes: Episodes, splits: Splits) -> dict[str, Any]:
    names, trained = splits.class_names, {int(label) for label in splits.fit.labels}
    seen = [names[c] for c in episodes.classes if c in trained]
    if not seen:
        told = "None of these classes was seen in training: they are novel."
    elif len(seen) == len(episodes.classes):
        told = (
            "All of these classes were seen in training (other clips of them, other scenes), so "
            "this is not few-shot learning of novel classes; eval.held_out_classes makes it so."
        )
    else:
        told = f"Seen in training: {', '.join(seen)}; the others are novel."
    return {
        "ways": episodes.ways,
        "queries": episodes.queries,
        "classes": [names[c] for c in episodes.classes],
        "left_out": [names[c] for c in episodes.left_out],
        "classes_seen_in_training": seen,
        "seen_in_training": told,
        "chance": 1 / episodes.ways,
    }


def _retrieval(model: Any, tokenizer: Any, video_nd: Tensor, splits: Splits) -> dict[str, Any]:
    captions = [
        tuple(own) or splits.prompts[int(label)]
        for own, label in zip(splits.test.captions, splits.test.labels, strict=True)
    ]
    texts = list(dict.fromkeys(text for own in captions for text in own))
    index = {text: m for m, text in enumerate(texts)}
    right_mn = torch.zeros(len(texts), len(video_nd), dtype=torch.bool)
    for n, own in enumerate(captions):
        right_mn[[index[text] for text in own], n] = True
    parts = [embed_texts(model, tokenizer, texts[i : i + 256]) for i in range(0, len(texts), 256)]
    score_mn = torch.cat(parts) @ video_nd.T
    return {
        "text_to_video": dataclasses.asdict(retrieval(score_mn, right_mn)),
        "video_to_text": dataclasses.asdict(retrieval(score_mn.T, right_mn.T)),
    }


def _notes(splits: Splits, recipe: Recipe) -> list[str]:
    counts = describe_splits(splits)["per_class"]
    notes = []
    unseen = [n for n, c in counts.items() if c["test"] and not c["train"]]
    if unseen:
        clips = sum(counts[name]["test"] for name in unseen)
        notes.append(
            f"{clips} of the {len(splits.test)} test clips are of classes without a training clip "
            f"({', '.join(unseen)}): the model has only their names, a baseline nothing."
        )
    if not splits.class_names:
        notes.append(
            "No clip has a class: each caption stands for its own clips, and retrieval alone is "
            "judged; closed set and k-shot episodes are left out."
        )
    if splits.unused:
        lacks = "a class" if splits.class_names else "captions"
        notes.append(f"{splits.unused} clips without {lacks} are left out.")
    if splits.size is not None:
        height_px, width_px = splits.size
        notes.append(
            f"Each picture is cut, or filled with dark, to {height_px}x{width_px} (data.size)."
        )
    if recipe.eval.held_out_classes:
        notes.append(f"Kept out of training: {', '.join(recipe.eval.held_out_classes)}.")
    if recipe.data.shots:
        notes.append(f"Trained on {recipe.data.shots} clips of each class at most (data.shots).")
    return notes + _notes_on_groups(splits)


def _notes_on_groups(splits: Splits) -> list[str]:
    notes = []
    if splits.shared_groups:
        notes.append(
            f"LEAK: {len(splits.shared_groups)} groups have clips in training and in test; "
            "these numbers are too high."
        )
    if not any(splits.test.groups):
        notes.append(
            "The clips have no groups: whether a scene is on both sides of the split cannot be "
            "checked, and intervals take each clip as a scene of its own."
        )
    return notes
