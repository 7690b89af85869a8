"""SPKLIP: one space for spike clips and texts.

Shapes: B clips or texts, S segments of a clip, T ticks of a segment, G = ceil(T / 8) groups of
eight ticks packed in a byte (least significant bit first), H rows, W columns, L tokens, D width
of the shared space.
"""

import copy
import difflib
import math
from dataclasses import dataclass
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from spklip.losses import contrastive_loss
from spklip.model.pooling import MAX_POOL_PX, pool_packed, pool_planes
from spklip.model.text_tower import TextTower
from spklip.model.video_tower import VideoTower

MAX_SCALE = 100.0
START_SCALE = 1 / 0.07
MAY_BE_ZERO = ("extractor_blocks", "text_adapter_width")


class SpklipConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Shape of a SPKLIP model. The defaults are the ``paper`` preset."""

    model_type = "spklip"

    pool_px: int = 1
    """Average pool x pool cells of every spike plane before anything else; 1 keeps them."""
    radius_ticks: int = 30
    """A window is 2 * radius_ticks + 1 ticks."""
    step_ticks: int = 45
    """From one window to the next, and the unit of their positions in time."""
    windows_per_segment: int | None = None
    """Spread this many windows evenly over a segment instead of one every step_ticks."""
    branch_ticks: tuple[int, ...] = (61, 59, 57, 55)
    """Nested temporal crops of a window, one a branch."""
    branch_channels: tuple[int, ...] = (16, 15, 15, 14)
    """Channels of each branch; fewer for shorter crops."""
    branch_features: int = 1
    """Features each branch hands on."""
    extractor_channels: int = 64
    """Channels of the residual extractor."""
    extractor_blocks: int = 2
    """Residual blocks of the extractor."""
    extractor_stride: int = 2
    """1 or 2: stride of the convolution that enters the residual extractor."""
    group_blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Bottlenecks in each group of the backbone; each group but the first halves the map."""
    group_width: int = 64
    """Inner width of the first group; it doubles with every group."""
    expansion: int = 4
    """Channels leaving a bottleneck for one inside."""
    pool_heads: int = 8
    """Heads of the attention pooling."""
    temporal_width: int = 512
    """Width of the Transformer over windows."""
    temporal_layers: int = 2
    """Its layers."""
    temporal_heads: int = 8
    """Its heads."""
    embed_dim: int = 512
    """Width of the shared space, D."""
    dropout: float = 0.0
    """Dropout in both Transformers."""
    text_encoder: str = ""
    """Hugging Face name or path of a pretrained text encoder; empty trains one from scratch."""
    text_frozen: bool = False
    """Keep the text encoder as it is and train only adapter and projection."""
    text_adapter_width: int = 0
    """Width of the adapter's bottleneck; 0 has no adapter."""
    text_width: int = 512
    """Width of the text encoder from scratch."""
    text_layers: int = 4
    """Its layers."""
    text_heads: int = 8
    """Its heads."""
    max_text_tokens: int = 128
    """Longest text of the encoder from scratch, in bytes with the end token."""
    text_rate: float = 0.1
    """Learning rate of the text tower for one of the rest."""
    text_config: dict[str, Any] | None = None
    """Architecture of the text encoder, noted when the model is built."""

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("branch_ticks", "branch_channels", "group_blocks"):
            setattr(self, name, tuple(getattr(self, name)))  # JSON and YAML give lists
        self._check()
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def _check(self) -> None:
        for name, kind in type(self).__annotations__.items():
            self._check_field(name, kind)
        for name in ("temporal_width", "text_width", "group_width"):
            heads = name.replace("group", "pool").replace("width", "heads")
            if getattr(self, name) % getattr(self, heads):
                raise ValueError(
                    f"{name} {getattr(self, name)} is not a multiple of {heads} "
                    f"{getattr(self, heads)}"
                )
        if self.pool_px > MAX_POOL_PX:
            raise ValueError(f"pool_px is at most {MAX_POOL_PX}, got {self.pool_px}")
        if self.dropout >= 1:
            raise ValueError(f"dropout must be below 1, got {self.dropout}")
        if self.extractor_stride not in (1, 2):
            raise ValueError(f"extractor_stride must be 1 or 2, got {self.extractor_stride}")
        if len(self.branch_ticks) != len(self.branch_channels):
            raise ValueError(
                f"branch_ticks {self.branch_ticks} and branch_channels {self.branch_channels} "
                "must have one entry a branch each"
            )
        if not all(1 <= ticks <= self.window_ticks for ticks in self.branch_ticks):
            raise ValueError(
                f"branch_ticks {self.branch_ticks} must lie in a window of {self.window_ticks} "
                "ticks (2 * radius_ticks + 1)"
            )

    def _check_field(self, name: str, kind: Any) -> None:
        value = getattr(self, name)
        if value is None and type(None) in get_args(kind):
            return
        if kind is float and (type(value) not in (int, float) or not 0 <= value < math.inf):
            raise ValueError(f"{name} must be a number from 0, got {value!r}")
        if kind in (bool, str) and type(value) is not kind:
            raise ValueError(f"{name} must be a {kind.__name__}, got {value!r}")
        if int in (kind, *get_args(kind)):
            least = 0 if name in MAY_BE_ZERO else 1
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or any(type(n) is not int or n < least for n in numbers):
                raise ValueError(f"{name} must be of whole numbers from {least}, got {value!r}")

    @property
    def window_ticks(self) -> int:
        """Ticks of a window."""
        return 2 * self.radius_ticks + 1

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "SpklipConfig":
        """Configuration by name, ``paper`` or ``tiny``, with some fields changed.

        Raises:
            ValueError: there is no preset or no field of that name.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
        fields = [key for key in cls.__annotations__ if key != "model_type"]
        for key in changes:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"SpklipConfig has no field {key!r}.{hint}")
        return cls(**{**PRESETS[name], **changes})


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "tiny": {
        "radius_ticks": 15,
        "step_ticks": 32,
        "branch_ticks": (31, 29, 27, 25),
        "branch_channels": (8, 8, 8, 8),
        "branch_features": 2,
        "extractor_channels": 32,
        "extractor_blocks": 1,
        "group_blocks": (1, 1, 1),
        "group_width": 32,
        "expansion": 2,
        "pool_heads": 4,
        "temporal_width": 128,
        "temporal_layers": 2,
        "temporal_heads": 4,
        "embed_dim": 128,
        "text_width": 96,
        "text_layers": 2,
        "text_heads": 4,
    },
}


@dataclass
class SpklipOutput(ModelOutput):
    """What a forward pass gives."""

    loss: Tensor | None = None
    """Contrastive loss, a scalar."""
    video_bd: Tensor | None = None
    """Unit vectors of the clips, (B, D)."""
    text_bd: Tensor | None = None
    """Unit vectors of the texts, (B, D)."""
    scale: Tensor | None = None
    """Inverse temperature, a scalar."""


class SpklipModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """SPKLIP with a learnable temperature.

    Source: "SPKLIP: Aligning Spike Video Streams with Natural Language", arXiv:2505.12656; where
    it differs is told in ``docs/explanation/spklip.md``.
    """

    config_class = SpklipConfig
    main_input_name = "packed_bsghw"
    base_model_prefix = "spklip"
    supports_gradient_checkpointing = True

    def __init__(self, config: SpklipConfig, *, pretrained_text: bool = True) -> None:
        """Build a model with new weights.

        Args:
            config: its shape; copied, so that one config builds any number of models.
            pretrained_text: give a named text encoder its pretrained weights. Loading a
                checkpoint, which brings all weights, leaves them out.
        """
        config = copy.deepcopy(config)
        super().__init__(config)
        self.video = VideoTower(config)
        self.text = TextTower(config, pretrained=pretrained_text)
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Leave PyTorch's own initialisation, which suits convolutions and ReLUs."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a trained model from a folder or the Hub; arguments as in transformers.

        Raises:
            OSError: there is no checkpoint.
            ValueError: the checkpoint lacks weights; they are never made up.
        """
        tell = kwargs.pop("output_loading_info", False)
        result: Any = super().from_pretrained(
            *args, output_loading_info=True, pretrained_text=False, **kwargs
        )
        model, loaded = result
        if loaded["missing_keys"]:
            lost = sorted(loaded["missing_keys"])
            raise ValueError(f"the checkpoint lacks {len(lost)} weights, first {lost[0]!r}")
        return result if tell else model

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameters for an optimiser such as ``torch.optim.AdamW``.

        The text tower learns at ``config.text_rate`` of the learning rate: a text is easy to move
        and a clip hard to read, so that at one rate the texts run to where no clip is told from
        another before there is anything to align with. Norms, biases and the temperature do not
        decay.
        """
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                kind = name.startswith("text."), parameter.ndim > 1
                groups.setdefault(kind, []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": learning_rate * (self.config.text_rate if of_text else 1.0),
                "weight_decay": weight_decay if decays else 0.0,
            }
            for (of_text, decays), parameters in groups.items()
        ]

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, at most 100."""
        return self.log_scale.clamp(max=math.log(MAX_SCALE)).exp()

    @torch.no_grad()
    def limit_scale_(self) -> None:
        """Pull the temperature back to its limit, in place; call it after each optimiser step.

        Beyond the limit ``scale`` has no gradient: a parameter that a step carried there would
        stay for good.
        """
        self.log_scale.clamp_(max=math.log(MAX_SCALE))

    def encode_video(self, planes_bsthw: Tensor) -> Tensor:
        """Embed clips.

        Args:
            planes_bsthw: uint8 or float (B, S, T, H, W), spikes as 0 and 1. Windows are placed
                inside each of the S segments; T must hold at least one.

        Returns:
            Unit vectors, (B, D).

        Raises:
            ValueError: wrong shape, too few ticks for one window, or too few pixels for one cell.
        """
        self._check_planes("spike planes (B, S, T, H, W)", planes_bsthw)
        pooled_bsthw = pool_planes(planes_bsthw, self.config.pool_px)
        return F.normalize(self.video(pooled_bsthw), dim=-1)

    def encode_packed(self, packed_bsghw: Tensor, ticks: int) -> Tensor:
        """Embed clips given packed, uint8 (B, S, G, H, W) of ``ticks`` ticks a segment.

        Returns:
            Unit vectors, (B, D); those of :meth:`encode_video`, sooner.

        Raises:
            ValueError: as :meth:`encode_video`.
        """
        self._check_planes("packed planes (B, S, G, H, W)", packed_bsghw)
        pooled_bsthw = pool_packed(packed_bsghw, ticks, self.config.pool_px)
        return F.normalize(self.video(pooled_bsthw), dim=-1)

    def _check_planes(self, expected: str, planes: Tensor) -> None:
        if planes.ndim != 5 or 0 in planes.shape:
            raise ValueError(
                f"expected {expected}, none of them 0, got shape {tuple(planes.shape)}"
            )
        height, width = planes.shape[-2:]
        if min(height, width) < self.config.pool_px:
            raise ValueError(
                f"planes of {height}x{width} pixels are smaller than one cell of "
                f"pool_px {self.config.pool_px}"
            )

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed texts, given as the tokenizer of :func:`build_tokenizer` gives them, (B, L).

        Returns:
            Unit vectors, (B, D).
        """
        return F.normalize(self.text(input_ids, attention_mask), dim=-1)

    def forward(
        self,
        packed_bsghw: Tensor,
        ticks: int,
        input_ids: Tensor,
        attention_mask: Tensor,
        label_b: Tensor | None = None,
    ) -> SpklipOutput:
        """Embed clips and texts; with labels, also compare them."""
        video_bd = self.encode_packed(packed_bsghw, ticks)
        text_bd = self.encode_text(input_ids, attention_mask)
        loss = None
        if label_b is not None:
            loss = contrastive_loss(video_bd, text_bd, self.scale, label_b)
        return SpklipOutput(loss=loss, video_bd=video_bd, text_bd=text_bd, scale=self.scale)
