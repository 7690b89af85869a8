"""Training: transformers' Trainer with gathered negatives and a class-aware contrastive loss.

Shapes: B clips of one process, N clips of all processes, D features.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from spklip.losses import contrastive_loss
from spklip.recipe import TrainConfig


def gather_with_gradients(local_bx: Tensor) -> Tensor:
    """The same tensor of every process, in order of rank, as one that carries gradients.

    Each process then computes the loss of the whole batch. Backward sums over processes what they
    ask of a local embedding; averaging the parameters' gradients over processes, which distributed
    training does, undoes that sum, so the result is the gradient of one big batch.

    Args:
        local_bx: tensor (B, ...), B the same on every process.

    Returns:
        tensor (processes * B, ...); ``local_bx`` itself without distributed training.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return local_bx
    if distributed.get_world_size() == 1:
        return local_bx
    return torch.cat(_AllGather.apply(local_bx.contiguous()))  # type: ignore[no-untyped-call]


class _AllGather(torch.autograd.Function):
    """All-gather whose backward is a sum over processes.

    torch.distributed.nn.functional has one, but it needs all-to-all for the backward, which gloo
    lacks on some builds; all-reduce is everywhere.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> tuple[Tensor, ...]:
        """Tensors of all ranks."""
        parts = [torch.empty_like(local) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, local)
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        """Sum over processes of the gradient of this rank's part."""
        total = torch.stack(grad)
        torch.distributed.all_reduce(total)
        return total[torch.distributed.get_rank()]


class SpklipTrainer(Trainer):
    """Trainer whose batch is the batch of all processes, and clips of one class are one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._matches: list[Tensor] = []

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over the model's own groups: the text tower learns more slowly."""
        if self.optimizer is None:
            groups = self.accelerator.unwrap_model(self.model).parameter_groups(
                self.args.learning_rate, self.args.weight_decay
            )
            self.optimizer = torch.optim.AdamW(groups, lr=self.args.learning_rate)
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
        output = model(**inputs)
        video_nd = gather_with_gradients(output.video_bd)
        text_nd = gather_with_gradients(output.text_bd)
        loss = contrastive_loss(video_nd, text_nd, output.scale, label_n)
        self._matches.append(_class_match(video_nd.detach(), text_nd.detach(), label_n))
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the share of clips that match a text of their own class within the batch."""
        if "loss" in logs and self._matches:
            logs["batch_match"] = float(torch.stack(self._matches).mean())
            self._matches.clear()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: transformers' rule holds for language models only."""
        return 0


def _class_match(video_nd: Tensor, text_nd: Tensor, label_n: Tensor) -> Tensor:
    answer_n = (video_nd @ text_nd.T).argmax(dim=1)
    return (label_n[answer_n] == label_n).float().mean()


class EpochOnResume(TrainerCallback):
    """Tell the data set which epoch a resumed run is in.

    accelerate forwards the epoch to the data set, but not through the loader it makes to skip
    the first batches of the epoch that was interrupted; windows would be those of epoch 0.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch before the first batch is read."""
        self._dataset.set_epoch(int(state.epoch or 0))


class ProgressOnStderr(TrainerCallback):
    """One bar on standard error; standard output is for results."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar, at the step that a resumed run starts from."""
        if state.is_world_process_zero:
            self._bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="train", file=sys.stderr
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the latest loss."""
        if self._bar is not None and logs and "loss" in logs:
            shown = {name: f"{logs[name]:.3g}" for name in ("loss", "batch_match") if name in logs}
            self._bar.set_postfix(shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def pick_precision(config: TrainConfig) -> str:
    """``fp32``, ``bf16`` or ``fp16``: what ``auto`` means on this machine."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"


def training_arguments(config: TrainConfig, folder: Path, *, workers: int = 0) -> Any:
    """The recipe's ``train`` section as transformers understands it; nothing leaves the machine."""
    precision = pick_precision(config)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup_steps,
        lr_scheduler_type=config.schedule,
        max_grad_norm=config.max_grad_norm,
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
        report_to="none",
    )
    # Without torchrun transformers would split the batch over all GPUs by DataParallel, whose
    # pieces are not one batch of negatives: use one GPU, and torchrun for more.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def fit(
    build_model: Callable[[], Any],
    dataset: Any,
    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]],
    config: TrainConfig,
    folder: Path,
    *,
    workers: int = 0,
    resume: bool = False,
    progress: bool = True,
) -> tuple[Any, list[dict[str, float]]]:
    """Train a model, or go on from the last checkpoint in ``folder``.

    Args:
        build_model: makes the model; called after the seed is set.
        dataset: torch Dataset with ``set_epoch``.
        collate: items to a batch with the model's inputs and ``label_b``.
        config: how to learn.
        folder: where checkpoints are kept.
        workers: reading processes.
        resume: go on from the last checkpoint, if there is one.
        progress: show a bar on standard error.

    Returns:
        model: trained, on the device it was trained on.
        curve: one entry a logged step: step, loss, batch_match, learning_rate, grad_norm.
    """
    set_seed(config.seed)
    trainer = SpklipTrainer(
        model=build_model(),
        args=training_arguments(config, folder, workers=workers),
        train_dataset=dataset,
        data_collator=collate,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EpochOnResume(dataset))
    if progress:
        trainer.add_callback(ProgressOnStderr())
    last = None
    if resume and folder.is_dir():
        last = get_last_checkpoint(str(folder))  # type: ignore[no-untyped-call]
    if last is not None and int(last.rpartition("-")[2]) >= config.max_steps:
        _load_finished(trainer, last)  # going on would add a step: the end is checked after one
    else:
        trainer.train(resume_from_checkpoint=last)
    names = ("step", "loss", "batch_match", "learning_rate", "grad_norm")
    curve = [
        {name: float(entry[name]) for name in names if name in entry}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return trainer.accelerator.unwrap_model(trainer.model), curve


def _load_finished(trainer: SpklipTrainer, checkpoint: str) -> None:
    """Take weights and history from the checkpoint of the last step."""
    model_class: Any = type(trainer.model)
    trainer.model = model_class.from_pretrained(checkpoint).to(trainer.args.device)
    trainer.state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
