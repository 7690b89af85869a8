"""What a training recipe says: one frozen dataclass a section, one sentence a field."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from spikedata import load_recipe


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which clips, and which ticks of them, the model sees."""

    path: str | None = None
    """Store, packed file or Hub data set (``user/name``); empty: what was packed here last. With
    ``sensor``, a folder of videos as ``spikedata simulate`` takes it."""
    sensor: str | dict[str, Any] | None = None
    """The camera that films the videos in ``path`` while they are read, nothing being stored: a
    preset (``vidar-20khz``), a sensor's file, or its keys (``{threshold: 2.0}``). Empty: ``path``
    holds spikes."""
    classes: tuple[str, ...] = ()
    """Class names to use; empty means all of them."""
    train_split: str = "train"
    """Split to learn from."""
    test_split: str = "test"
    """Split to be judged on; never seen in training."""
    official_split: int | None = None
    """Take train and test from this official split of the corpus (UCF101 and HMDB51 have 1, 2 and
    3) instead of the one the store was made with."""
    shots: int | None = None
    """Train on this many clips of each class instead of all of them (few-shot fine-tuning)."""
    window_ticks: int = 250
    """Ticks of a clip that the model sees at once, all segments together."""
    segments: int = 1
    """Pieces the window is cut into, spread evenly over the clip."""
    sampling: Literal["random", "uniform", "center", "start"] = "random"
    """Where a training window lies in its clip."""
    crop: float = 1.0
    """Share of height and width that a window keeps: at a random place in training, of the middle
    in judging."""
    size: tuple[int, int] | None = None
    """Height and width every picture is given, px: its middle, or dark around it. Empty: as the
    clips are; where they have several sizes, the smallest height and width among them."""
    mirror: bool = False
    """Mirror half of the training windows; not where left and right mean something."""
    views: int | None = None
    """Drawings of windows, crops and mirrors of each clip that training turns about in; empty: new
    ones each epoch. With a frozen image tower their features are kept beside the store."""
    workers: int = 0
    """Processes that read clips ahead; 0 reads in the training process."""
    seed: int = 0
    """Seed of the windows and of the choice of ``shots``."""

    def __post_init__(self) -> None:
        _positive(self, "window_ticks", "segments", "shots", "official_split", "views")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size must be a positive height and width, got {list(self.size)}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be above 0 and at most 1, got {self.crop}")
        if self.workers < 0:
            raise ValueError(f"workers must be 0 or more, got {self.workers}")
        if self.window_ticks % self.segments:
            raise ValueError(
                f"window_ticks {self.window_ticks} does not divide into {self.segments} segments"
            )
        if self.train_split == self.test_split:
            raise ValueError(f"train_split and test_split are both {self.test_split!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Which network, and what it starts from."""

    preset: Literal["tiny", "paper", "tower"] = "tiny"
    """Size of the network; ``tower`` is for an ``image_encoder``."""
    encoder: Literal["cnn", "spiking_resnet", "full_spiking"] = "cnn"
    """What the video tower is made of: convolutions and a Transformer, or spiking neurons, with a
    convolution over windows or with spike-driven attention."""
    image_encoder: str = ""
    """Pretrained image tower: ``embedded`` (EfficientNet-Lite0, installed with this package), a
    Hugging Face name or folder, or ``package.module:function``; empty: none, all from scratch."""
    picture: Literal["colour", "tfp", "hsfe"] = "colour"
    """What the tower is shown of a window: three successive exposures as its colours, one exposure
    in grey, or an HSFE that begins as the first and learns."""
    unfreeze: int = 0
    """Stages of the image tower, from its end, that learn."""
    lora_rank: int = 0
    """Rank of low-rank adapters (LoRA) in the image tower; needs ``pip install 'spklip[lora]'``."""
    text_encoder: str = ""
    """Pretrained text encoder: ``embedded`` (all-MiniLM-L6-v2, installed with this package) or a
    Hugging Face name or folder; empty: one from scratch, or the joint encoder's own."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of SpklipConfig that differ from the preset, for example ``pool_px: 4``."""
    checkpoint: str | None = None
    """Folder or Hub model to start from; its own config replaces ``preset`` and ``changes``. If a
    function made its image tower, ``image_encoder`` must name that too: a model runs no code that
    its user did not name."""

    def __post_init__(self) -> None:
        own = [name for name in OF_THE_CONFIG if getattr(self, name) != FROM_SCRATCH[name]]
        if self.checkpoint and self.names_function:
            own.remove("image_encoder")
        if self.checkpoint and (self.changes or own):
            names = ", ".join(["changes"] * bool(self.changes) + own)
            raise ValueError(
                f"{names} cannot be combined with checkpoint, which has its own config"
            )
        if self.image_encoder and self.preset != "tower" and not self.checkpoint:
            raise ValueError(f"image_encoder needs preset: tower, got {self.preset}")
        if not self.image_encoder and self.preset == "tower":
            raise ValueError("preset tower needs an image_encoder, for example embedded")

    @property
    def names_function(self) -> bool:
        """Whether ``image_encoder`` is ``package.module:function``."""
        return ":" in self.image_encoder


OF_THE_CONFIG = {
    "encoder": "encoder",
    "image_encoder": "image_encoder",
    "picture": "picture",
    "unfreeze": "unfreeze_stages",
    "lora_rank": "lora_rank",
    "text_encoder": "text_encoder",
}
"""Keys of ``model`` that are fields of SpklipConfig, and the names of those."""
FROM_SCRATCH = {one.name: one.default for one in fields(ModelConfig) if one.name in OF_THE_CONFIG}
"""What they are where nothing pretrained is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """Which words stand for a clip and for a class."""

    captions: Literal["store", "templates"] = "store"
    """Train on the captions in the store, or on ``templates`` filled with the class name."""
    templates: tuple[str, ...] = ("a video of {name}",)
    """Sentences whose ``{name}`` is the class in words; also for a class without captions."""

    def __post_init__(self) -> None:
        bad = [text for text in self.templates if not _takes_a_name(text)]
        if bad or not self.templates:
            raise ValueError(
                "templates need {name} for the class name and no other braces, "
                f"got {list(self.templates)}"
            )


def _takes_a_name(template: str) -> bool:
    rest = template.replace("{name}", "")
    return rest != template and not set("{}") & set(rest)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How the network learns."""

    max_steps: int = 400
    """Optimiser steps."""
    batch_size: int = 16
    """Clips of a batch and process; a batch is what a clip's negatives are in."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one optimiser step. Negatives, and the statistics
    of normalisations, stay those of one batch."""
    gradient_checkpointing: bool = False
    """Keep less for the backward pass and work the rest out again there: slower, smaller, the same
    gradients."""
    compile: bool = False
    """Compile the heavy parts of the network (torch.compile); needs a C++ compiler."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    """Weight decay of AdamW (not on norms and biases)."""
    warmup_steps: int = 20
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """How the learning rate falls afterwards."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of forward and backward; auto is bf16 on a GPU that has it, else fp32."""
    log_every: int = 10
    """Steps between two points of the curves."""
    save_every: int = 200
    """Steps between two checkpoints that ``--resume`` can start from."""
    seed: int = 0
    """Seed of the weights and of the order of clips."""
    seeds: tuple[int, ...] = ()
    """Train once for each of these seeds and pool what is judged; empty: ``seed`` alone."""
    report_to: tuple[str, ...] = ()
    """Trackers that are told the curves as training goes on, by the names that transformers gives
    them: ``tensorboard``, ``wandb``, ``trackio`` and others. Empty: nothing leaves the machine."""

    def __post_init__(self) -> None:
        _positive(self, "max_steps", "batch_size", "learning_rate", "max_grad_norm", "accumulate")
        _positive(self, "log_every", "save_every")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        for name in ("warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilConfig:
    """What is learnt from a trained network of another kind."""

    teacher: str = ""
    """Trained model to learn from besides the texts, of ``encoder: cnn``: a run's folder, a saved
    model or a Hub model. Its logits are learnt, and its window features where they are as wide."""
    weight: float = 1.0
    """Share of that in the loss, for one of the texts'."""
    tower_steps: int = 300
    """Steps in which an image tower that was converted to spiking neurons learns to see what the
    trained one sees, without labels, before all else; 0: it stays as it was converted."""
    tower_batch: int = 8
    """Pictures in each of these steps, one a clip."""
    tower_rate: float = 3e-4
    """Peak learning rate of these steps."""
    spikes: float = 0.95
    """Mean number of spikes that a synapse of that tower should see at most."""

    def __post_init__(self) -> None:
        _positive(self, "tower_batch", "tower_rate", "spikes")
        if self.tower_steps < 0 or not 0 <= self.weight < math.inf:
            raise ValueError(
                "tower_steps and weight must be 0 or more, got "
                f"{self.tower_steps} and {self.weight}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """How the trained network is judged."""

    windows: int = 4
    """Windows of each clip whose embeddings are averaged."""
    batch_size: int = 8
    """Clips embedded at once."""
    ways: int = 5
    """Classes in a k-shot episode."""
    shots: tuple[int, ...] = (1, 2, 4, 8)
    """Training clips a class in a k-shot episode; limited by what the store holds."""
    queries: int = 5
    """Test clips a class in a k-shot episode."""
    episodes: int = 200
    """Episodes for each number of shots."""
    held_out_classes: tuple[str, ...] = ()
    """Classes kept out of training, so that k-shot episodes over them are over novel classes."""
    resamples: int = 1000
    """Bootstrap resamples, whole groups at a time, behind each 95% interval."""
    leaks: Literal["refuse", "report"] = "refuse"
    """What to do when a group has clips in training and in test."""
    splits: tuple[int, ...] = ()
    """Official splits to train and judge on, one after another; what is judged is pooled. Empty:
    ``data.official_split`` alone."""
    unseen_classes: int = 5
    """Classes kept out of training in each draw of ``unseen_draws``."""
    unseen_draws: int = 0
    """Further trainings, each without ``unseen_classes`` classes drawn anew: judged on those, by
    their names alone and by a few clips of each."""
    baselines: Literal["all", "quick", "none"] = "quick"
    """What is judged beside the model: ``quick`` are mean-rate image and histograms of firing rates
    and intervals; ``all`` are also a frozen image tower on three kinds of pictures and a 3-D CNN on
    spike counts."""
    direction_steps: int = 200
    """Steps on which a model built alike learns four directions of motion, drawn for it, which
    nothing but order tells apart: would this recipe read time where there is nothing else? 0: not
    done."""
    energy_clips: int = 8
    """Test clips on which the arithmetic and energy of the video tower are counted; 0: not done."""
    seed: int = 0
    """Seed of windows, episodes and resamples."""

    def __post_init__(self) -> None:
        _positive(self, "windows", "batch_size", "queries", "episodes", "resamples")
        for name in ("direction_steps", "energy_clips"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.unseen_draws < 0 or self.unseen_classes < 2:
            raise ValueError(
                "unseen_draws must be 0 or more and unseen_classes 2 or more, got "
                f"{self.unseen_draws} and {self.unseen_classes}"
            )
        if len(set(self.splits)) < len(self.splits) or min(self.splits, default=1) < 1:
            raise ValueError(f"splits must be different positive numbers, got {list(self.splits)}")
        if self.ways < 2:
            raise ValueError(f"ways must be 2 or more, got {self.ways}")
        if not self.shots or min(self.shots) < 1:
            raise ValueError(f"shots must be positive numbers, got {list(self.shots)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A whole training run: data, model, text, training and evaluation."""

    data: DataConfig = DataConfig()
    """Which clips, and which ticks of them."""
    model: ModelConfig = ModelConfig()
    """Which network."""
    text: TextConfig = TextConfig()
    """Which words."""
    train: TrainConfig = TrainConfig()
    """How it learns."""
    distil: DistilConfig = DistilConfig()
    """What it learns from a trained network."""
    eval: EvalConfig = EvalConfig()
    """How it is judged."""


def read_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, with ``section.key=value`` words applied on top.

    Raises:
        RecipeError: unreadable, an unknown key, or a value that does not fit.
    """
    return load_recipe(path, Recipe, overrides)
