"""From a recipe to clips and words: what is trained on, what is judged, and what stands for it."""

import itertools
import logging
import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from spikedata import (
    LiveClips,
    SensorConfig,
    SimulationRecipe,
    SpikeClips,
    SpikeDataError,
    available_cores,
    find_corpus,
    from_dict,
    is_remote,
    last_packed,
    load_sensor,
    open_videos,
    spoken_name,
)
from spklip.evaluate import shared_groups
from spklip.features import folder_beside
from spklip.recipe import DataConfig, Recipe

Sensor = str | dict[str, Any]
"""A camera, as ``data.sensor`` tells it."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

HOW_TO_MAKE_DATA = (
    "Make some: `spikedata simulate ucf101/ --threshold 2.0`, then `spikedata pack --to zarr`; "
    "or name some: data.path=STORE"
)
"""What a recipe without data says."""


@dataclass(frozen=True, eq=False)
class Splits:
    """The clips of a run and the words that stand for its classes."""

    path: str
    """Store, packed file, Hub data set, or folder of videos."""
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
    size: tuple[int, int] | None
    """Height and width that pictures are given; None where they stay as they are."""
    unused: int
    """Clips of both splits without a class, or without a caption where there are no classes."""


def find_data(path: str | None, folder: Path) -> str:
    """Where the clips are: ``path``, or what was packed last in ``folder``.

    Raises:
        SpikeDataError: there is neither; the message tells which commands make one.
    """
    if path is None:
        try:
            packed = last_packed(folder)
            return str(packed) if is_remote(packed) else os.path.relpath(packed, folder)
        except SpikeDataError as error:
            raise SpikeDataError(f"no packed spike data in {folder}. {HOW_TO_MAKE_DATA}") from error
    if not is_remote(path) and not Path(path).exists() and not _HUB_NAME.fullmatch(path):
        raise SpikeDataError(
            f"{path}: no such store, packed file or Hub data set. {HOW_TO_MAKE_DATA}"
        )
    return path


def open_splits(recipe: Recipe) -> Splits:
    """Open the data of a recipe and share it out.

    Clips without a class are left out where others have one. Where none has, captions stand for
    clips, each for its own.

    Raises:
        SpikeDataError: no data, an unknown class, a split without clips, clips with neither class
            nor caption, or a group on both sides of the split while ``eval.leaks`` is ``refuse``.
    """
    data = recipe.data
    path = find_data(data.path, Path.cwd())
    source = open_source(path, data.sensor)
    whole = _clips(source, data, split=data.train_split)
    if data.sensor is None:  # of videos it was told before they were filmed
        opened = whole.opened
        tell_notes(path, (*opened.notes, *(failure.note() for failure in opened.left_out)))
    test = _clips(source, data, split=data.test_split)
    check_usable = _check_labelled if any(c >= 0 for c in whole.labels) else _check_captioned
    train_ids, test_ids = (
        check_usable(path, clips, split)
        for clips, split in ((whole, data.train_split), (test, data.test_split))
    )
    class_names = tuple(whole.class_names) if check_usable is _check_labelled else ()
    chosen, novel = _choose(path, whole, train_ids, class_names, recipe)
    data = _with_size(data, source, path, {*chosen, *novel, *test_ids})
    test = _clips(source, data, split=data.test_split, ids=test_ids)
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
        size=data.size,
        class_names=class_names,
        fit=_clips(source, data, split=data.train_split, ids=chosen, sampling=data.sampling),
        support=support,
        test=test,
        prompts=class_prompts(class_names, support, recipe) if class_names else (),
        shared_groups=leaks,
        unused=len(whole)
        + len(_clips(source, data, split=data.test_split))
        - len(train_ids)
        - len(test_ids),
    )


def _with_size(data: DataConfig, source: Any, path: str, used: Collection[str]) -> DataConfig:
    """The settings with a size that all used clips are given, where they have several."""
    clips = [_clips(source, data, split=split) for split in (data.train_split, data.test_split)]
    sizes = sorted(
        {size for part in clips for i, size in zip(part.ids, part.sizes, strict=True) if i in used}
    )
    return data if data.size is not None else replace(data, size=smallest_size(sizes, path))


def smallest_size(sizes: Collection[tuple[int, int]], path: str) -> tuple[int, int] | None:
    """Least height and width among several sizes, which is told; None where there is but one."""
    if len(sizes) < 2:
        return None
    sizes = sorted(sizes)
    size = min(height for height, _ in sizes), min(width for _, width in sizes)
    logging.getLogger(__name__).warning(
        "%s: clips of %d sizes, %dx%d to %dx%d; of each picture the middle %dx%d is used "
        "(data.size=[%d, %d])",
        path,
        len(sizes),
        *sizes[0],
        *sizes[-1],
        *size,
        *size,
    )
    return size


def _check_labelled(path: str, clips: SpikeClips, split: str) -> list[str]:
    """Ids of the clips that have a class."""
    found = [i for i, label in zip(clips.ids, clips.labels, strict=True) if label >= 0]
    if not found:
        raise SpikeDataError(
            f"{path}: no labelled clips in split {split!r}. Give each clip a split when "
            "simulating (official lists or metadata.csv), or name another: data.train_split, "
            "data.test_split"
        )
    return found


def _check_captioned(path: str, clips: SpikeClips, split: str) -> list[str]:
    """Ids of the clips that have captions, in a data set without classes."""
    found = [i for i, own in zip(clips.ids, clips.captions, strict=True) if own]
    if not found:
        raise SpikeDataError(
            f"{path}: no labelled clips in split {split!r}, and none with captions. Give clips a "
            "label or captions and a split when simulating (class folders, official lists or "
            "metadata.csv), or name another split: data.train_split, data.test_split"
        )
    return found


def _choose(
    path: str, whole: SpikeClips, ids: Sequence[str], class_names: Sequence[str], recipe: Recipe
) -> tuple[list[str], list[str]]:
    """Ids to train on, and ids of held-out classes."""
    held_out = set(recipe.eval.held_out_classes)
    unknown = sorted(held_out - set(class_names))
    if unknown:
        raise SpikeDataError(f"{path}: eval.held_out_classes names no class: {', '.join(unknown)}")
    if not class_names:
        return list(ids), []
    labels = dict(zip(ids, _labels_of(whole, ids), strict=True))
    novel = [i for i in ids if class_names[labels[i]] in held_out]
    known = [i for i in ids if class_names[labels[i]] not in held_out]
    chosen = choose_shots(known, [labels[i] for i in known], recipe.data.shots, recipe.data.seed)
    if not chosen:
        raise SpikeDataError(f"{path}: eval.held_out_classes leaves no clip to train on")
    return chosen, novel


def open_source(path: str, sensor: Sensor | None = None) -> Any:
    """A local path as it is; a Hub data set through datasets; videos under a sensor.

    Raises:
        SpikeDataError: it is neither here nor on the Hub, or a sensor is given and it is no folder
            of videos.
    """
    if sensor is not None:
        return _film(path, sensor)
    if is_remote(path) or Path(path).exists():
        return path
    from datasets import load_dataset  # noqa: PLC0415  # two seconds, for Hub data sets alone

    try:
        return load_dataset(path)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpikeDataError(f"{path}: no such file here, and not on the Hub: {first}") from error


def _film(path: str, sensor: Sensor) -> LiveClips:
    """The videos of a folder, filmed while they are read.

    The first time each is read to its end, to learn how many ticks it gives; that is noted beside
    the folder.
    """
    try:
        corpus = find_corpus(path)
    except SpikeDataError as error:
        raise SpikeDataError(
            f"{error}. data.sensor films videos; data.sensor=null reads spikes as they are"
        ) from error
    tell_notes(path, (*corpus.notes, *(failure.note() for failure in corpus.left_out)))
    recipe = SimulationRecipe(sensor=sensor_of(sensor))
    total = len(corpus.clips)
    with tqdm(total=total, desc="videos", unit="clip", file=sys.stderr, disable=None) as bar:
        return open_videos(
            corpus,
            recipe,
            index=folder_beside(path),
            workers=available_cores(),
            progress=lambda _: bar.update(),
        )


def tell_notes(path: str, notes: Iterable[str]) -> None:
    """Log what was odd when a data set was opened, and what it was opened without."""
    for note in notes:
        logging.getLogger(__name__).warning("%s: %s", path, note)


def sensor_of(sensor: Sensor) -> SensorConfig:
    """The camera that ``data.sensor`` means: a preset, a file, or its keys.

    Raises:
        RecipeError: no such preset or file, an unknown key, or an impossible value.
    """
    if isinstance(sensor, str):
        return load_sensor(sensor)
    return from_dict(SensorConfig, sensor, where="data.sensor")


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
        official_split=data.official_split,
        classes=list(data.classes) or None,
        window_ticks=data.window_ticks,
        segments=data.segments,
        sampling=sampling,
        seed=data.seed,
        ids=None if ids is None else list(ids),
        size=data.size,
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
        tuple(template.replace("{name}", spoken_name(name)) for template in recipe.text.templates)
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


def other_windows(clips: SpikeClips, data: DataConfig) -> SpikeClips:
    """The same clips, of the same size, with the windows that ``data`` says."""
    return SpikeClips(
        clips.opened,
        classes=list(data.classes) or None,
        window_ticks=data.window_ticks,
        segments=data.segments,
        sampling=data.sampling,
        seed=data.seed,
        ids=list(clips.ids),
        size=clips.size,
    )


def take_turns(labels: Sequence[int], count: int) -> list[int]:
    """Places of at most ``count`` labels: the first of each label, then the second, and so on."""
    places: dict[int, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    rounds = itertools.zip_longest(*(places[label] for label in sorted(places)))
    return [place for turn in rounds for place in turn if place is not None][:count]
