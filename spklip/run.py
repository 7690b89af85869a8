"""A whole run: open the data, train, judge, and leave a folder that tells everything.

The folder, ``runs/<recipe name>`` unless told otherwise:

- ``recipe.yaml``: the resolved recipe, all defaults written out;
- ``checkpoints/``: what ``resume`` goes on from;
- ``logs/``: TensorBoard's files, where ``train.report_to`` names it;
- ``trainings/``: what further models answered: on other splits, without some classes, and where
  order alone tells;
- ``model/``: the trained model and its tokenizer (``SpklipModel.from_pretrained`` reads it);
- ``report.html``: the numbers to look at;
- ``metrics.json``: the numbers to compute with. It is written last: a folder that has it is
  finished.
"""

import contextlib
import functools
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from spikedata import RecipeError, SpikeDataError, to_dict, write_page, write_whole
from spklip.batches import TextCollator, readers_told
from spklip.budget import count_parameters, estimate_memory
from spklip.building import build_model, load_model_parts, of_checkpoint
from spklip.check import check_clips, check_training
from spklip.describe import describe_splits, notes_on
from spklip.digests import write_digests
from spklip.directions import read_directions
from spklip.distil import distil_tower, learns_tower, load_teacher
from spklip.embed import Embedder, baseline_towers, training_items
from spklip.features import feature_root
from spklip.judge import Judged, judge, read_judged, write_judged
from spklip.model_card import model_card
from spklip.recipe import ModelConfig, Recipe, read_recipe
from spklip.report import render_report
from spklip.run_folder import full_disk_told, is_run, prepare_folder, recipe_of, resolved_recipe
from spklip.speed import LoaderClock
from spklip.splits import Splits, captioned_ids, open_splits, sensor_of
from spklip.tower_energy import read_energy
from spklip.train import SpklipTrainer, fit, pick_precision, processes_of
from spklip.trainings import Training, main_trainings, unseen_trainings
from spklip.verdict import verdict

METRICS_VERSION = 2
"""Version of the layout of ``metrics.json``."""
ONLY_IN_TRAINING = ("model", "train", "data.sampling", "data.mirror")
"""Keys of a recipe that judging does not read, but for ``train.precision``."""
_TOWER = "model.image_encoder="


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any] | None:
    """Train as ``recipe`` says, judge the model, write it all to ``out``.

    Under torchrun every process calls this; the first one judges and writes.

    Args:
        recipe: what to do.
        out: folder to make.
        resume: go on with an unfinished run of the same recipe.
        overwrite: delete what an earlier run wrote first, and nothing else.
        progress: show bars on standard error.

    Returns:
        What ``metrics.json`` holds; None in the other processes of a distributed run.

    Raises:
        SpikeDataError: no data, no checkpoint, parts that do not fit each other, a run that
            diverged, ``out`` holds something already, or its disk is full.
    """
    with full_disk_told(out):
        return _run_recipe(recipe, out, resume=resume, overwrite=overwrite, progress=progress)


def _run_recipe(
    recipe: Recipe, out: Path, *, resume: bool, overwrite: bool, progress: bool
) -> dict[str, Any] | None:
    processes = processes_of(recipe.train)
    splits = open_splits(main_trainings(recipe)[0].recipe)
    recipe = _settled(recipe, splits)
    trainings = main_trainings(recipe)
    config, tokenizer = load_model_parts(recipe.model)
    check_training(recipe, config, splits, processes=processes.num_processes)
    with processes.main_process_first():
        if processes.is_main_process:
            prepare_folder(recipe, out, resume=resume, overwrite=overwrite)
    run = _Run(recipe, config, tokenizer, out, processes, resume, progress)
    started = time.perf_counter()
    judged = [run.train_and_judge(trainings[0], splits)]
    judged += [run.train_and_judge(one) for one in trainings[1:]]
    further = unseen_trainings(trainings[0], recipe, splits)
    unseen = [run.train_and_judge(one) for one in further]
    directions = run.directions(trainings[0].recipe)
    if directions is None or not processes.is_main_process:
        return None
    energy = run.energy(trainings[0].recipe, splits)
    seconds = time.perf_counter() - started
    told = verdict([one for one in judged if one], [one for one in unseen if one], splits, recipe)
    told |= {"directions": directions, "energy": energy}
    train = _describe_training(recipe, run.model, run.curve, run.train_seconds)
    train["trainings"] = len(trainings) + len(further)
    train |= {
        "tower_curve": run.tower_curve,
        "loader_idle_share": run.idle_share,
        "features_kept": run.clock.features_kept,
    }
    return _write(told, splits, recipe, out, train, seconds - run.train_seconds)


class _Run:
    """What all trainings of a run share, and what the first leaves."""

    def __init__(
        self,
        recipe: Recipe,
        config: Any,
        tokenizer: Any,
        out: Path,
        processes: Any,
        resume: bool,
        progress: bool,
    ) -> None:
        self.recipe, self.config, self.tokenizer, self.out = recipe, config, tokenizer, out
        self.processes, self.resume = processes, resume
        self.progress = progress and processes.is_main_process
        self.root = feature_root(str(recipe.data.path), out)
        self.towers: Any = None
        self.model: Any = None
        self.curve: list[dict[str, float]] = []
        self.train_seconds = 0.0
        self.image_tower: dict[str, Any] | None = None
        self.tower_curve: list[dict[str, float]] = []
        self.teacher = load_teacher(recipe, config)
        self.clock = LoaderClock()

    @property
    def idle_share(self) -> float | None:
        """Share of all training loops in which the first process waited for clips."""
        share = self.clock.idle_share
        return None if share is None else round(share, 4)

    def train_and_judge(self, training: Training, splits: Splits | None = None) -> Judged | None:
        """Train one model and let it answer; what an earlier call of this run answered is kept.

        Args:
            training: which.
            splits: its clips, opened and checked, where it is the first, whose model the run keeps.

        Returns:
            None in the other processes of a distributed run.
        """
        first, recipe = splits is not None, training.recipe
        kept = training.folder(self.out) / "answers.pt"
        if not first and self.resume and kept.is_file():
            return read_judged(kept) if self.processes.is_main_process else None
        if splits is None:
            splits = open_splits(recipe)
            check_training(recipe, self.config, splits, processes=self.processes.num_processes)
        folder = self.out if first else training.folder(self.out)
        started = time.perf_counter()
        with out_of_memory_told(recipe), readers_told():
            tower = self._distil(recipe, splits, folder / "checkpoints" / "tower", first)
            model, curve = self._fit(recipe, splits, folder / "checkpoints", tower)
        self.train_seconds += time.perf_counter() - started
        if not self.processes.is_main_process:
            return None
        if first:
            self.model, self.curve = model, curve
            self._save(model, recipe)
        with out_of_memory_told(recipe), readers_told():
            judged = self._judge(model, splits, recipe, training.name)
        if not first:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_judged(kept, judged)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return judged

    def directions(self, recipe: Recipe) -> dict[str, Any] | None:
        """What a model built alike answers where order alone tells; None in other processes."""
        with out_of_memory_told(recipe):
            return read_directions(
                lambda: self._build(recipe, self.image_tower),
                self.tokenizer,
                recipe,
                self.out / "trainings" / "directions",
                resume=self.resume,
                progress=self.progress,
            )

    def energy(self, recipe: Recipe, splits: Splits) -> dict[str, Any]:
        """What the video tower of the model that is kept does for a clip."""
        with out_of_memory_told(recipe):
            return read_energy(self.model, splits.test, recipe, progress=self.progress)

    def _build(self, recipe: Recipe, tower: dict[str, Any] | None) -> Any:
        """A new model, its image tower as it learnt to see."""
        model: Any = build_model(recipe.model, self.config)
        if tower is not None:
            model.video.encoder.load_state_dict(tower)
        return model

    def _distil(self, recipe: Recipe, splits: Splits, folder: Path, first: bool) -> Any:
        """State of an image tower that was converted and has learnt; None where there is none."""
        if not learns_tower(recipe, self.config):
            return None
        state, curve = distil_tower(
            lambda: build_model(recipe.model, self.config),
            self.config,
            splits.fit,
            recipe,
            folder,
            resume=self.resume,
            progress=self.progress,
        )
        if first:
            self.image_tower, self.tower_curve = state, curve
        return state

    def _fit(self, recipe: Recipe, splits: Splits, checkpoints: Path, tower: Any) -> Any:
        captions_count = recipe.text.captions == "store" or not splits.class_names
        captioned = captioned_ids(splits.fit) if captions_count else frozenset()
        taught = None if self.teacher is None else self.teacher.model
        return fit(
            lambda: self._build(recipe, tower),
            lambda model: training_items(model, splits, recipe, self.root, self.progress, taught),
            TextCollator(self.tokenizer, splits.prompts, captioned),
            recipe.train,
            checkpoints,
            workers=recipe.data.workers,
            resume=self.resume,
            progress=self.progress,
            make_trainer=functools.partial(SpklipTrainer, teacher=self.teacher),
            clock=self.clock,
        )

    def _save(self, model: Any, recipe: Recipe) -> None:
        model.save_pretrained(self.out / "model")
        self.tokenizer.save_pretrained(self.out / "model")
        write_whole(self.out / "model" / "recipe.yaml", resolved_recipe(self.recipe))
        write_whole(self.out / "model" / "README.md", model_card(model.config, recipe))
        write_digests(self.out / "model")

    def _judge(self, model: Any, splits: Splits, recipe: Recipe, name: str) -> Judged:
        if self.towers is None and recipe.eval.baselines == "all":
            self.towers = baseline_towers(model)
        embedder = Embedder(model, recipe, self.root, self.towers, progress=self.progress)
        return judge(model, self.tokenizer, splits, recipe, embedder, name=name)


def _settled(recipe: Recipe, splits: Splits) -> Recipe:
    """The recipe with the path and the size of pictures that its clips tell, and its camera."""
    named = recipe.data.sensor
    sensor = None if named is None else to_dict(sensor_of(named))
    data = replace(recipe.data, path=splits.path, size=splits.size, sensor=sensor)
    return replace(recipe, data=data)


@contextlib.contextmanager
def out_of_memory_told(recipe: Recipe) -> Iterator[None]:
    """Turn running out of memory into one line that says what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = str(error)
        lacks = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not lacks and "not enough memory" not in words and "can't allocate" not in words:
            raise
        raise SpikeDataError(
            f"not enough memory for steps of {recipe.train.batch_size} clips. Lower "
            "train.batch_size, data.window_ticks or eval.batch_size, or raise "
            "model.changes.pool_px; --dry-run tells what a step needs"
        ) from error


def evaluate_run(
    checkpoint: Path | str,
    recipe: Recipe,
    out: Path,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Judge a trained model on the data of ``recipe``; write metrics.json and report.html.

    Args:
        checkpoint: a run's folder, a folder of ``save_pretrained``, or a Hub model.
        recipe: data and evaluation settings; see :func:`recipe_of_run`.
        out: folder to make.
        overwrite: replace an earlier evaluation.
        progress: show bars on standard error.

    Raises:
        SpikeDataError: no such checkpoint, no data, or ``out`` holds an evaluation already.
    """
    if is_run(out):
        raise SpikeDataError(f"{out}: is a run, which has its own numbers; name another with --out")
    if (out / "metrics.json").exists() and not overwrite:
        raise SpikeDataError(f"{out}: holds an evaluation already; --overwrite replaces it")
    recipe = main_trainings(recipe)[0].recipe  # a model has one split and one seed
    recipe = of_checkpoint(recipe, checkpoint)
    config, tokenizer = load_model_parts(recipe.model)
    splits = open_splits(recipe)
    recipe = _settled(recipe, splits)
    check_clips(recipe.data, config, splits)
    model = build_model(recipe.model, config)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    out.mkdir(parents=True, exist_ok=True)
    train = _describe_training(recipe, model, [], 0.0) | {"steps": 0, "trainings": 0}
    started = time.perf_counter()
    towers = baseline_towers(model) if recipe.eval.baselines == "all" else None
    root = feature_root(splits.path, out)
    embedder = Embedder(model, recipe, root, towers, progress=progress)
    with out_of_memory_told(recipe), readers_told():
        judged = judge(model, tokenizer, splits, recipe, embedder)
        with tempfile.TemporaryDirectory() as aside:
            directions = read_directions(
                lambda: build_model(recipe.model, config),
                tokenizer,
                recipe,
                Path(aside),
                progress=progress,
            )
        energy = read_energy(model, splits.test, recipe, progress=progress)
    told = verdict([judged], [], splits, recipe) | {"directions": directions, "energy": energy}
    return _write(told, splits, recipe, out, train, time.perf_counter() - started)


def recipe_of_run(checkpoint: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe to judge a model by: its run's, with overrides; defaults where there is none.

    A function that made the model's image tower runs again only where an override names it: the
    model may be downloaded, and its recipe with it.

    Args:
        checkpoint: a run's folder, its ``model`` folder, one of its checkpoints, or anything else.
        overrides: ``section.key=value`` words.

    Raises:
        RecipeError: an unknown key, a value that does not fit, or a key that changes training
            alone.
    """
    named = [word for word in overrides if word.startswith(_TOWER) and ":" in word]
    others = [word for word in overrides if word not in named]
    for word in others:
        if word.startswith(ONLY_IN_TRAINING) and not word.startswith("train.precision="):
            raise RecipeError(f"override {word!r}: changes nothing in a model that is trained")
    recipe = read_recipe(recipe_of(checkpoint) or os.devnull, others)
    if not named and not recipe.model.names_function:
        return recipe
    function = named[-1].removeprefix(_TOWER) if named else ""
    return replace(recipe, model=ModelConfig(checkpoint=str(checkpoint), image_encoder=function))


def plan_run(recipe: Recipe) -> dict[str, Any]:
    """What a run would do, without doing it: resolved recipe, parameters, memory, clips.

    ``tower_steps`` come before each training but that of ``directions``.

    Raises:
        SpikeDataError: no data, no checkpoint, or parts that do not fit each other.
    """
    trainings = main_trainings(recipe)
    splits = open_splits(trainings[0].recipe)
    recipe = _settled(recipe, splits)
    config, _ = load_model_parts(recipe.model)
    check_training(recipe, config, splits)
    height_px, width_px = splits.fit[0]["packed_sghw"].shape[-2:]
    return {
        "recipe": to_dict(recipe),
        "parameters": count_parameters(config),
        "memory_gb": estimate_memory(recipe, config, int(height_px), int(width_px)),
        "tower_steps": recipe.distil.tower_steps if learns_tower(recipe, config) else 0,
        "clips": describe_splits(splits),
        "trainings": [one.name for one in trainings]
        + [one.name for one in unseen_trainings(trainings[0], recipe, splits)]
        + ["directions"] * bool(recipe.eval.direction_steps),
    }


def _describe_training(
    recipe: Recipe, model: Any, curve: list[dict[str, float]], seconds: float
) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "steps": recipe.train.max_steps,
        "batch_size": recipe.train.batch_size * PartialState().num_processes,
        "accumulate": recipe.train.accumulate,
        "loader_idle_share": None,
        "features_kept": False,
        "seconds": round(seconds, 2),
        "precision": pick_precision(recipe.train),
        "device": torch.cuda.get_device_name()
        if cuda
        else f"CPU, {torch.get_num_threads()} threads",
        "parameters": sum(p.numel() for p in model.parameters()),
        "curve": curve,
    }


def _write(
    told: dict[str, Any],
    splits: Splits,
    recipe: Recipe,
    out: Path,
    train: dict[str, Any],
    evaluation_seconds: float,
) -> dict[str, Any]:
    metrics = {
        "metrics_version": METRICS_VERSION,
        "name": out.resolve().name,
        "data": describe_splits(splits),
        "notes": notes_on(splits, recipe),
        **told,
        "train": train,
        "evaluation_seconds": round(evaluation_seconds, 2),
        "recipe": to_dict(recipe),
        "versions": package_versions(),
    }
    write_whole(out / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    write_page(out / "report.html", lambda: render_report(metrics))
    return metrics


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    packages = {"spikedata": "spklip", "torch": "torch", "transformers": "transformers"}
    return {"python": platform.python_version()} | {
        name: version(distribution) for name, distribution in packages.items()
    }
