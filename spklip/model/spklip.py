"""SPKLIP: one space for spike clips and texts.

Shapes: B clips or texts, S segments of a clip, T ticks of a segment, G = ceil(T / 8) groups of
eight ticks packed in a byte (least significant bit first), H rows, W columns, L tokens, D width
of the shared space.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from spklip.losses import contrastive_loss
from spklip.model.config import SpklipConfig
from spklip.model.pooling import pool_packed, pool_planes
from spklip.model.text_tower import TextTower
from spklip.model.video_tower import VideoTower

MAX_SCALE = 100.0
START_SCALE = 1 / 0.07


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
