"""One trained model and its data in, what it and the baselines answer out.

Shapes: N clips, C classes, M texts, D features, E episodes, W ways, Q queries a class.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikedata import SpikeClips, SpikeDataError, write_whole
from spklip import baselines
from spklip.batches import tokenize
from spklip.conv3d import conv3d_scores, fit_conv3d
from spklip.digests import damage_of, write_digests
from spklip.embed import OTHER_ORDERS, Embedder
from spklip.evaluate import Episodes, draw_episodes, few_shot, ranks
from spklip.recipe import Recipe
from spklip.splits import Splits


@dataclass(kw_only=True)
class Judged:
    """What one trained model and the baselines answered about its test clips."""

    name: str
    """Which training: split, seed, classes kept out."""
    ids: list[str]
    """Test clips."""
    groups: list[str]
    """Scene of each."""
    label_n: Tensor
    """Class of each, int64 (N,)."""
    fit_label_n: Tensor
    """Class of each training clip."""
    scale: float
    """The model's inverse temperature."""
    held_out: list[int] = field(default_factory=list)
    """Classes kept out of training."""
    train_top1: float | None = None
    """The model on the clips it was trained on."""
    scores: dict[str, Tensor] = field(default_factory=dict)
    """Class scores (N, C) of the model, in three orders of time, and of each baseline."""
    retrieval: tuple[Tensor, Tensor] | None = None
    """Scores (M, N) of texts and clips, and which are right, bool (M, N)."""
    episodes: Episodes | None = None
    """k-shot episodes."""
    few_shot: dict[str, dict[int, NDArray[np.bool_]]] = field(default_factory=dict)
    """Right answers (E, W, Q) of the model and each baseline by number of shots."""
    skipped: str = ""
    """Why there are no episodes."""


def judge(
    model: Any,
    tokenizer: Any,
    splits: Splits,
    recipe: Recipe,
    embedder: Embedder,
    *,
    name: str = "",
) -> Judged:
    """Let a model and the baselines answer for every test clip.

    Args:
        model: SpklipModel, on any device.
        tokenizer: that of the model's text tower.
        splits: from :func:`spklip.splits.open_splits`.
        recipe: evaluation settings.
        embedder: of the same model and recipe.
        name: which training it is.
    """
    model.eval()
    labelled = bool(splits.class_names)
    test = embedder.vectors(splits.test, "judge test clips", orders=labelled)
    judged = Judged(
        name=name,
        ids=list(splits.test.ids),
        groups=scene_groups(splits.test),
        label_n=torch.tensor([int(label) for label in splits.test.labels]),
        fit_label_n=torch.tensor([int(label) for label in splits.fit.labels]),
        scale=float(model.scale.detach()),
        held_out=[splits.class_names.index(c) for c in recipe.eval.held_out_classes],
    )
    judged.retrieval = _retrieval(model, tokenizer, test["spklip"], splits)
    if not labelled:
        judged.skipped = "no clip has a class"
        return judged
    train = embedder.vectors(splits.support, "judge train clips")
    text_cd = class_texts(model, tokenizer, splits.prompts)
    fitted_n = fitted_clips(splits)
    orders = [order for order in ("spklip", *OTHER_ORDERS) if order in test]
    judged.scores = {order: test[order] @ text_cd.T for order in orders}
    _add_baselines(judged, train, test, fitted_n, len(splits.class_names), recipe)
    own_nc = torch.nn.functional.one_hot(judged.fit_label_n, len(splits.class_names)).bool()
    fit_nd = train["spklip"][fitted_n]
    judged.train_top1 = float((ranks(fit_nd @ text_cd.T, own_nc) == 1).mean())
    _add_episodes(judged, model, train, test, text_cd, splits, recipe)
    return judged


def write_judged(path: Path, judged: Judged) -> None:
    """Keep answers, so that a run that is cut off need not ask again; :func:`read_judged` reads."""
    values = {one.name: getattr(judged, one.name) for one in fields(judged)}
    episodes = values.pop("episodes")
    if episodes is not None:
        values["episodes"] = {one.name: getattr(episodes, one.name) for one in fields(episodes)}
    buffer = io.BytesIO()
    torch.save(_as_tensors(values), buffer)
    write_whole(path, buffer.getvalue())
    write_digests(path.parent)


def read_judged(path: Path) -> Judged:
    """Answers that :func:`write_judged` kept.

    Raises:
        SpikeDataError: the file is damaged, or holds something else.
    """
    try:
        if damage := damage_of(path.parent):
            raise ValueError(damage)
        values = _as_arrays(torch.load(path, weights_only=True))
        episodes = values.pop("episodes", None)
        return Judged(**values, episodes=None if episodes is None else Episodes(**episodes))
    except Exception as error:  # of a damaged file torch raises whatever it comes upon
        said = str(error).strip().splitlines()
        raise SpikeDataError(
            f"{path}: cannot be read ({said[0] if said else type(error).__name__}). Delete it, and "
            "the answers are made again"
        ) from error


def _as_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value)}
    if isinstance(value, dict):
        return {key: _as_tensors(item) for key, item in value.items()}
    return value


def _as_arrays(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"array"}:
        return value["array"].numpy()
    if isinstance(value, dict):
        return {key: _as_arrays(item) for key, item in value.items()}
    return value


def _add_baselines(
    judged: Judged,
    train: dict[str, Tensor],
    test: dict[str, Tensor],
    fitted_n: Tensor,
    classes: int,
    recipe: Recipe,
) -> None:
    """Scores of the baselines; standardises their features in place."""
    label_n = judged.fit_label_n
    for name in (name for name in baselines.LINEAR if name in test):
        fit_nd = train[name][fitted_n]
        train[name] = baselines.standardise(train[name], fit_nd)
        test[name] = baselines.standardise(test[name], fit_nd)
        judged.scores[name] = baselines.logistic_regression(
            train[name][fitted_n], label_n, test[name], classes
        )
    if recipe.eval.baselines == "all":
        network = fit_conv3d(
            train["counts"][fitted_n],
            label_n,
            classes,
            seed=recipe.train.seed,
            mirror=recipe.data.mirror,
        )
        judged.scores["conv3d"] = conv3d_scores(network, test["counts"])


def _add_episodes(
    judged: Judged,
    model: Any,
    train: dict[str, Tensor],
    test: dict[str, Tensor],
    text_cd: Tensor,
    splits: Splits,
    recipe: Recipe,
) -> None:
    config, names = recipe.eval, splits.class_names
    held_out = config.held_out_classes
    pool = [c for c, name in enumerate(names) if name in held_out or not held_out]
    try:
        judged.episodes = draw_episodes(
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
        judged.skipped = str(error)
        return
    with torch.no_grad():
        start_cf = model.head_weights(text_cd.to(model.device)).float().cpu()
    # As long as standardised features are, so that the penalty means the same to all; the weights
    # make up for it, and for clips that the model scales to unit length.
    longer = start_cf.shape[1] ** 0.5 / float(train["head"].norm(dim=1).mean())
    head_nc, model_nc = train["head"] @ start_cf.T, train["spklip"] @ text_cd.T
    as_model = float((head_nc * model_nc).sum() / head_nc.square().sum().clamp_min(1e-12))
    judged.few_shot["spklip"] = few_shot(
        train["head"] * longer,
        test["head"] * longer,
        start_cf * (judged.scale * as_model / longer),
        judged.episodes,
        from_text=True,
    )
    for name in (name for name in baselines.LINEAR if name in test):
        start_cd = torch.zeros(len(names), test[name].shape[1])
        judged.few_shot[name] = few_shot(
            train[name], test[name], start_cd, judged.episodes, from_text=False
        )


@torch.no_grad()
def embed_texts(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Unit embeddings (M, D) of sentences, on the CPU."""
    tokens = tokenize(tokenizer, texts)
    tokens = {name: value.to(model.device) for name, value in tokens.items()}
    embedded: Tensor = model.encode_text(**tokens).float().cpu()
    return embedded


def class_texts(model: Any, tokenizer: Any, prompts: Sequence[Sequence[str]]) -> Tensor:
    """What stands for each class, (C, D): the mean embedding of its sentences, of unit length."""
    return torch.cat([_mean_unit(model, tokenizer, own) for own in prompts])


def _mean_unit(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    mean_1d = embed_texts(model, tokenizer, texts).mean(dim=0, keepdim=True)
    return torch.nn.functional.normalize(mean_1d, dim=1)


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
    known = set(splits.fit.ids)
    return torch.tensor([clip_id in known for clip_id in splits.support.ids])


def _retrieval(
    model: Any, tokenizer: Any, video_nd: Tensor, splits: Splits
) -> tuple[Tensor, Tensor]:
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
    return torch.cat(parts) @ video_nd.T, right_mn
