"""Training: transformers' Trainer with gathered negatives and a class-aware contrastive loss.

Shapes: B clips of one process, N clips of all processes, D features.
"""

import contextlib
import logging
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_model
from torch import Tensor
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback

from spikedata import SpikeDataError, worker_options
from spklip.batches import Augmented
from spklip.building import told_in_one_line
from spklip.digests import DIGESTS, damage_of, write_digests
from spklip.features import KeptViews
from spklip.gather import gather_with_gradients
from spklip.losses import UNLABELLED, contrastive_loss
from spklip.recipe import TrainConfig
from spklip.speed import (
    LoaderClock,
    checkpoint_activations,
    compile_parts,
    keep_freed_memory,
    run_as_written,
)

_log = logging.getLogger(__name__)

LOGS = "logs"
"""Folder of TensorBoard's files, in the folder of a run."""
JUDGING_AT_MOST = timedelta(days=7)
"""How long processes that train together wait for each other."""

NOTED = ("batch_match", "spikes", "seen")
"""What is logged beside the loss, where it is known: share of clips that match a text of their
class within the batch; spikes that a synapse sees; distance of an image tower from the trained
one."""


class SpklipTrainer(Trainer):
    """Trainer whose batch is the batch of all processes, and clips of one class are one."""

    def __init__(self, *args: Any, clock: LoaderClock, teacher: Any = None, **kwargs: Any) -> None:
        """Take what transformers' Trainer takes, a clock, and what is learnt from, if anything.

        Args:
            args: of transformers' Trainer.
            clock: is told how long steps wait for clips.
            teacher: :class:`spklip.distil.Teacher`, or None.
            kwargs: of transformers' Trainer.
        """
        super().__init__(*args, **kwargs)
        self.clock = clock
        self._teacher = teacher
        if teacher is not None:
            teacher.model.to(self.args.device)
        self._noted: dict[str, list[Tensor]] = {}

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of a step; all that reads clips happens in here, and is timed."""
        with self.clock.waiting():
            return super().get_batch_samples(*args, **kwargs)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over the model's own groups, and the temperature's limit after each step."""
        if self.optimizer is None:
            own = self.accelerator.unwrap_model(self.model)
            groups = own.parameter_groups(self.args.learning_rate, self.args.weight_decay)
            rate = self.args.learning_rate
            self.optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
            if hasattr(own, "limit_scale_"):
                self.optimizer.register_step_post_hook(lambda *_: own.limit_scale_())
        return self.optimizer

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Contrastive loss over the clips and texts of all processes."""
        inputs = dict(inputs)
        label_n = gather_with_gradients(inputs.pop("label_b"))
        output = model(**{k: v for k, v in inputs.items() if k != "teacher_feature_bvc"})
        video_nd = gather_with_gradients(output.video_bd)
        text_nd = gather_with_gradients(output.text_bd)
        loss = contrastive_loss(video_nd, text_nd, output.scale, label_n)
        if self._teacher is not None:
            logits_nn = (output.scale * video_nd @ text_nd.T).float()
            loss = loss + self._teacher.loss(inputs, output, logits_nn)
        self.check_loss(loss)
        self.note(batch_match=class_match(video_nd.detach(), text_nd.detach(), label_n))
        return (loss, output) if return_outputs else loss

    def check_loss(self, loss: Tensor) -> None:
        """Refuse to go on where there is no loss to go by.

        Raises:
            DivergedError: it is not a finite number.
        """
        if not bool(torch.isfinite(loss)):
            raise _diverged(f"the loss is {loss.item()} at step {self.state.global_step + 1}")

    def note(self, **numbers: Tensor) -> None:
        """Note numbers of a step; their means are logged beside the loss."""
        for name, number in numbers.items():
            self._noted.setdefault(name, []).append(number)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what was noted of each step since the last time."""
        if "loss" in logs:
            logs |= {name: float(torch.stack(part).mean()) for name, part in self._noted.items()}
            self._noted.clear()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: transformers' rule holds for language models only."""
        return 0

    # A checkpoint without digests may hold anything, of which torch raises what it happens on.
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with _loading(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _loading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with _loading(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _loading(checkpoint):
            super()._load_rng_state(checkpoint)


def _loading(checkpoint: Path | str | None) -> contextlib.AbstractContextManager[None]:
    """Tell in one line why a checkpoint cannot be loaded, and what to do."""
    return told_in_one_line(f"{checkpoint}: cannot be loaded; delete it and run again")


def class_match(video_nd: Tensor, text_nd: Tensor, label_n: Tensor) -> Tensor:
    """Share of clips whose nearest text is of their class; of no class, their own text."""
    answer_n = (video_nd @ text_nd.T).argmax(dim=1)
    own_n = answer_n == torch.arange(len(answer_n), device=answer_n.device)
    same_n = (label_n[answer_n] == label_n) & (label_n != UNLABELLED)
    return (own_n | same_n).float().mean()


class DivergedError(SpikeDataError):
    """A loss or a weight is no finite number any more."""


def _diverged(what: str) -> DivergedError:
    return DivergedError(
        f"{what}: training diverged. Lower train.learning_rate, raise train.warmup_steps, or use "
        "train.precision=fp32"
    )


class DigestsOfCheckpoints(TrainerCallback):
    """Note the digests of a checkpoint's files once all processes have written theirs."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint was written, but for this."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            write_digests(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class EpochOfDataset(TrainerCallback):
    """Tell the data set which epoch it is.

    accelerate forwards the epoch to the data set, but neither through the loader it makes for
    several processes nor through the one that skips the first batches of an epoch that was
    interrupted; windows would be those of epoch 0.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch before its first batch is read."""
        self._dataset.set_epoch(int(state.epoch or 0))


class ProgressOnStderr(TrainerCallback):
    """One bar on standard error; standard output is for results."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar, at the step that a resumed run starts from."""
        if state.is_world_process_zero:
            self._bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self._title, file=sys.stderr
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the latest loss."""
        if self._bar is not None and logs and "loss" in logs:
            names = ("loss", *NOTED)
            self._bar.set_postfix({name: f"{logs[name]:.3g}" for name in names if name in logs})

    def close(self) -> None:
        """End the bar's line, also where training was cut off."""
        if self._bar is not None:
            self._bar.close()


def pick_precision(config: TrainConfig) -> str:
    """``fp32``, ``bf16`` or ``fp16``: what ``auto`` means on this machine."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"


def trains_on_cpu(config: TrainConfig) -> bool:
    """Whether training uses no GPU: there is none, or none of those that know bfloat16 here."""
    if torch.cuda.is_available():
        return False
    other_gpu = torch.backends.mps.is_available() or torch.xpu.is_available()
    return not other_gpu or pick_precision(config) == "bf16"


def processes_of(config: TrainConfig) -> PartialState:
    """The processes that train together under torchrun, or the only one.

    accelerate joins processes without a GPU only if it is told that there is none; otherwise each
    would train by itself, all of them into one folder. The others wait while the first one judges,
    which may take longer than torch waits by itself.
    """
    return PartialState(cpu=trains_on_cpu(config), timeout=JUDGING_AT_MOST)


def training_arguments(config: TrainConfig, folder: Path, *, workers: int = 0) -> Any:
    """The recipe's ``train`` section as transformers understands it.

    Nothing leaves the machine unless ``report_to`` says so. Checkpointing and compilation are ours:
    transformers knows nothing of image towers' stages, and its compiled model is another module,
    which the environment would make of every later one too.

    Args:
        config: how to learn.
        folder: where checkpoints are kept.
        workers: reading processes.
    """
    precision = pick_precision(config)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup_steps,
        lr_scheduler_type=config.schedule,
        max_grad_norm=config.max_grad_norm,
        use_cpu=trains_on_cpu(config),
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        logging_steps=config.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_steps=config.save_every,
        save_total_limit=2,
        seed=config.seed,
        data_seed=config.seed,
        dataloader_num_workers=workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=list(config.report_to) or "none",
        run_name=folder.resolve().parent.name,
    )
    # Without torchrun transformers would split the batch over all GPUs by DataParallel, whose
    # pieces are not one batch of negatives: use one GPU, and torchrun for more.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _set_workers(arguments: Any, dataset: Any) -> None:
    """How many processes read, and how they begin."""
    if isinstance(dataset, KeptViews):
        arguments.dataloader_num_workers = 0  # to start a process each epoch takes longer
    elif isinstance(dataset, Augmented):
        told = worker_options(dataset.clips.opened, arguments.dataloader_num_workers)
        arguments.dataloader_multiprocessing_context = told["multiprocessing_context"]


def fit(
    build_model: Callable[[], Any],
    read_items: Callable[[Any], Any],
    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]],
    config: TrainConfig,
    folder: Path,
    *,
    workers: int = 0,
    resume: bool = False,
    progress: bool = True,
    title: str = "train",
    make_trainer: Callable[..., SpklipTrainer] = SpklipTrainer,
    clock: LoaderClock | None = None,
) -> tuple[Any, list[dict[str, float]]]:
    """Train a model, or go on from the last checkpoint in ``folder``.

    Args:
        build_model: makes the model; called after the seed is set.
        read_items: gives the model's torch Dataset, with ``set_epoch``; first in one process.
        collate: items to a batch with the model's inputs and ``label_b``.
        config: how to learn.
        folder: where checkpoints are kept.
        workers: reading processes.
        resume: go on from the last checkpoint, if there is one.
        progress: show a bar on standard error.
        title: of the bar.
        make_trainer: makes the trainer, which knows the loss.
        clock: is told how long this process trained, and how long of it steps waited for clips.

    Returns:
        model: trained, on the device it was trained on.
        curve: a logged step each: step, loss, ``NOTED`` numbers, learning_rate, grad_norm.

    Raises:
        SpikeDataError: a loss or weight is no finite number, or no checkpoint can be gone on from.
    """
    set_seed(config.seed)
    processes = processes_of(config)
    model = build_model()
    arguments = training_arguments(config, folder, workers=workers)
    model.to(arguments.device)
    with processes.main_process_first():
        dataset = read_items(model)
    # A rest of one clip has no negatives: its loss is 0 whatever the model does.
    together = config.batch_size * processes.num_processes
    arguments.dataloader_drop_last = len(dataset) >= together
    clock = clock or LoaderClock()
    clock.features_kept = isinstance(dataset, KeptViews)
    _set_workers(arguments, dataset)
    given = {"model": model, "args": arguments, "train_dataset": dataset, "data_collator": collate}
    trainer = _trainer(make_trainer, config, clock=clock, **given)
    with processes.main_process_first():
        last = last_checkpoint(folder) if resume else None
    _train_from(trainer, last, ProgressOnStderr(title) if progress else None)
    model = trainer.accelerator.unwrap_model(trainer.model)
    run_as_written(model)
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise _diverged("a weight is not a finite number after the last step")
    return model, _curve(trainer.state.log_history)


def _trainer(
    make_trainer: Callable[..., SpklipTrainer], config: TrainConfig, **given: Any
) -> SpklipTrainer:
    """The trainer of a model, which is compiled and checkpointed as the recipe says."""
    if config.gradient_checkpointing:
        checkpoint_activations(given["model"])
    if config.compile:
        compile_parts(given["model"])
    trainer = make_trainer(**given)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(DigestsOfCheckpoints())
    trainer.add_callback(EpochOfDataset(given["train_dataset"]))
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):  # beside the checkpoints, not among them
            callback.logging_dir = str(Path(given["args"].output_dir).parent / LOGS)
    return trainer


def _train_from(trainer: SpklipTrainer, last: Path | None, bar: ProgressOnStderr | None) -> None:
    """Train from a checkpoint, or from the beginning."""
    if last is not None and _step_of(last) >= trainer.args.max_steps:
        _load_finished(trainer, last)  # going on would add a step: the end is checked after one
        return
    keep_freed_memory()
    if bar is not None:
        trainer.add_callback(bar)
    try:
        with trainer.clock.loop():
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
    finally:
        if bar is not None:
            bar.close()


def _curve(log_history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The logged numbers; a gradient that float16 could not hold is none."""
    names = ("step", "loss", *NOTED, "learning_rate", "grad_norm")
    return [
        {name: float(entry[name]) for name in names if math.isfinite(entry.get(name, math.nan))}
        for entry in log_history
        if "loss" in entry
    ]


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in ``folder``; newer ones are told and removed, to be made again.

    Returns:
        None where there is none, or only such as were cut off while written.

    Raises:
        SpikeDataError: there was a whole one, but all are damaged; nothing is removed.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()]
    found.sort(key=_step_of, reverse=True)
    passed: dict[Path, str] = {}
    for number, path in enumerate(found):
        wrong = _wrong_with(path, found[number + 1 :])
        if not wrong:
            break
        passed[path] = wrong
    else:
        path = None
    told = [f"{one}: {wrong}" for one, wrong in passed.items()]
    if path is None and any((one / DIGESTS).exists() for one in passed):
        raise SpikeDataError(
            f"no checkpoint is whole ({'; '.join(told)}). Delete checkpoint-* in {folder} and run "
            "again: this training then begins anew"
        )
    for one, line in zip(passed, told, strict=True):
        _log.warning("%s; it is passed over, and made again", line)
        shutil.rmtree(one)
    if path is not None and not (path / DIGESTS).exists():
        write_digests(path)  # nobody knows of before, but what is gone on from stays as it is
    return path


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _wrong_with(checkpoint: Path, older: Sequence[Path]) -> str:
    """Why a checkpoint cannot be gone on from; empty if it can.

    Those of earlier versions have no digests: ``trainer_state.json`` was the last that was written.
    """
    if (checkpoint / DIGESTS).exists():
        return damage_of(checkpoint)
    if any((one / DIGESTS).exists() for one in older):
        return "was cut off while it was written"
    try:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    except (OSError, ValueError, TypeError, RecursionError):
        return "was cut off while it was written"
    if not isinstance(state.log_history, list) or not isinstance(state.global_step, int):
        return "trainer_state.json holds something else"
    return ""


def _load_finished(trainer: SpklipTrainer, checkpoint: Path) -> None:
    """Take weights and history from the checkpoint of the last step."""
    assert trainer.model is not None
    with _loading(checkpoint):
        weights = checkpoint / "model.safetensors"
        load_model(trainer.model, weights, device=str(trainer.args.device))
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
