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
from transformers.utils import logging
from transformers.utils.generic import ModelOutput

from spklip.losses import contrastive_loss
from spklip.model.config import SpklipConfig
from spklip.model.image_encoder import note_image_encoder
from spklip.model.image_towers import check_function
from spklip.model.picture_tower import PictureReader, PictureTower
from spklip.model.pooling import pack_planes, pool_packed, pool_planes
from spklip.model.spiking_pictures import SpikingPictureTower
from spklip.model.spiking_tower import SpikingVideoTower
from spklip.model.text_tower import TextTower, note_text_encoder
from spklip.model.video_tower import VideoTower

MAX_SCALE = 100.0
START_SCALE = 1 / 0.07
ADDED_SHARE = 1 / 8
"""Length at which a few-shot head reads what the Transformer adds to an image encoder's vector."""


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
    feature_bvc: Tensor | None = None
    """The windows' features, (B, V, C), before windows see each other."""


class SpklipModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """SPKLIP with a learnable temperature.

    Source: "SPKLIP: Aligning Spike Video Streams with Natural Language", arXiv:2505.12656; where
    it differs is told in ``docs/explanation/spklip.md``.
    """

    config_class = SpklipConfig
    main_input_name = "packed_bsghw"
    base_model_prefix = "spklip"
    supports_gradient_checkpointing = True

    def __init__(
        self, config: SpklipConfig, *, pretrained: bool = True, tower_function: str = ""
    ) -> None:
        """Build a model with new weights.

        Args:
            config: its shape; copied, so that one config builds any number of models.
            pretrained: give named encoders their pretrained weights. Loading a checkpoint, which
                brings all weights, leaves them out.
            tower_function: the function that may make a checkpoint's image tower.
        """
        if not pretrained:
            check_function(config, tower_function)
        config = copy.deepcopy(config)
        super().__init__(config)
        note_image_encoder(config)
        note_text_encoder(config)
        start: float | None = None
        self.video: PictureReader | VideoTower | SpikingVideoTower
        if config.image_encoder:
            kind = PictureTower if config.encoder == "cnn" else SpikingPictureTower
            self.video = kind(config, pretrained=pretrained)
            start = self.video.encoder.facts.logit_scale
        elif config.encoder == "cnn":
            self.video = VideoTower(config)
        else:
            self.video = SpikingVideoTower(config)
        self.text = TextTower(config, pretrained=pretrained)
        log_scale = math.log(START_SCALE) if start is None else start
        self._most_log_scale = max(log_scale, math.log(MAX_SCALE))
        self.log_scale = nn.Parameter(torch.tensor(log_scale))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Leave PyTorch's own initialisation, which suits convolutions and ReLUs."""

    @classmethod
    def from_pretrained(cls, *args: Any, tower_function: str = "", **kwargs: Any) -> Any:
        """Load a trained model from a folder or the Hub; other arguments as in transformers.

        Args:
            args: see transformers.
            tower_function: ``package.module:function`` that makes its image tower, where one did:
                a downloaded model runs no code that is not named here.
            kwargs: see transformers.

        Raises:
            SpikeDataError: a function makes its image tower, and ``tower_function`` is none or
                another.
            OSError: there is no checkpoint.
            ValueError: the checkpoint lacks weights; they are never made up.
        """
        tell = kwargs.pop("output_loading_info", False)
        result: Any = super().from_pretrained(
            *args,
            output_loading_info=True,
            pretrained=False,
            tower_function=tower_function,
            **kwargs,
        )
        model, loaded = result
        if loaded["missing_keys"]:
            lost = sorted(loaded["missing_keys"])
            raise ValueError(f"the checkpoint lacks {len(lost)} weights, first {lost[0]!r}")
        return result if tell else model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save to a folder, as in transformers, without its bar, which would cut another in two."""
        barred = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            super().save_pretrained(*args, **kwargs)
        finally:
            if barred:
                logging.enable_progress_bar()  # type: ignore[no-untyped-call]

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameters for an optimiser such as ``torch.optim.AdamW``.

        The text tower learns at ``config.text_rate`` of the learning rate: a text is easy to move
        and a clip hard to read, so that at one rate the texts run to where no clip is told from
        another before there is anything to align with. A pretrained image tower, and an HSFE
        before it, learn at ``config.image_rate``. Norms, biases and the temperature do not decay.
        """
        rates = {
            "text.": self.config.text_rate,
            "video.encoder.": self.config.image_rate,
            "video.picture.": self.config.image_rate,
        }
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                rate = next((rates[part] for part in rates if name.startswith(part)), 1.0)
                groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": learning_rate * rate,
                "weight_decay": weight_decay if decays else 0.0,
            }
            for (rate, decays), parameters in groups.items()
        ]

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, at most 100, or what a joint image and text encoder came with."""
        return self.log_scale.clamp(max=self._most_log_scale).exp()

    @torch.no_grad()
    def limit_scale_(self) -> None:
        """Pull the temperature back to its limit, in place; call it after each optimiser step.

        Beyond the limit ``scale`` has no gradient: a parameter that a step carried there would
        stay for good.
        """
        # A hair below: where rounding puts it above, the limit would again have no gradient.
        self.log_scale.clamp_(max=self._most_log_scale - 5e-7)

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
        if isinstance(self.video, PictureReader):
            return self.encode_packed(pack_planes(planes_bsthw), planes_bsthw.shape[2])
        pooled_bsthw = pool_planes(planes_bsthw, self.config.pool_px)
        return self.encode_features(*self.video.window_features(pooled_bsthw))

    def encode_packed(self, packed_bsghw: Tensor, ticks: int) -> Tensor:
        """Embed clips given packed, uint8 (B, S, G, H, W) of ``ticks`` ticks a segment.

        Returns:
            Unit vectors, (B, D); those of :meth:`encode_video`, sooner.

        Raises:
            ValueError: as :meth:`encode_video`.
        """
        return self.encode_features(*self.window_features(packed_bsghw, ticks))

    def window_features(self, packed_bsghw: Tensor, ticks: int) -> tuple[Tensor, Tensor]:
        """What :meth:`encode_features` takes, of clips given packed as in :meth:`encode_packed`.

        Returns:
            feature_bvc: float (B, V, C), one vector a window, before windows see each other.
            centre_v: float (V,), middle tick of each window; segments are laid end to end.

        Raises:
            ValueError: as :meth:`encode_video`.
        """
        self._check_planes("packed planes (B, S, G, H, W)", packed_bsghw)
        if isinstance(self.video, PictureReader):
            return self.video.window_features(packed_bsghw, ticks)
        return self.video.window_features(pool_packed(packed_bsghw, ticks, self.config.pool_px))

    def encode_features(self, feature_bvc: Tensor, centre_v: Tensor) -> Tensor:
        """Embed clips given as their windows' features; see :meth:`window_features`.

        Returns:
            Unit vectors, (B, D).
        """
        if self.config.shuffle_order and self.training:
            # Their places in time are all that tells windows their order.
            centre_v = centre_v[torch.randperm(len(centre_v), device=centre_v.device)]
        return F.normalize(self.video.read(feature_bvc, centre_v), dim=-1)

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

    def head_features(self, feature_bvc: Tensor, centre_v: Tensor) -> Tensor:
        """What a few-shot head reads of clips, (B, F), given as their windows' features.

        With the weights that :meth:`head_weights` makes of texts, a linear head on them ranks
        classes as this model does. Where a pretrained image encoder sees more than the shared
        space holds, a head that learns from a few clips can use it: it reads the encoder's mean
        vector and, ``ADDED_SHARE`` as long, what the Transformer adds. That was learnt for the
        classes of training, and is longer than the rest; at its full length it is most of what a
        penalised head uses, and tells other classes apart worse than the encoder does.
        """
        if isinstance(self.video, PictureReader) and not self.video.joint:
            own_bc, added_bc = self.video.clip_parts(feature_bvc, centre_v)
            return torch.cat([own_bc, ADDED_SHARE * added_bc], dim=1)
        return self.encode_features(feature_bvc, centre_v)

    def head_weights(self, text_cd: Tensor) -> Tensor:
        """Weights (C, F) of the head that ranks these texts as the model does; see above."""
        if isinstance(self.video, PictureReader) and not self.video.joint:
            weight_cf = text_cd @ self.video.leave_weight()
            return torch.cat([weight_cf, weight_cf / ADDED_SHARE], dim=1)
        return text_cd

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed texts, given as the tokenizer of :func:`build_tokenizer` gives them, (B, L).

        Returns:
            Unit vectors, (B, D).
        """
        return F.normalize(self.text(input_ids, attention_mask), dim=-1)

    def forward(
        self,
        packed_bsghw: Tensor | None = None,
        ticks: int = 0,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        label_b: Tensor | None = None,
        feature_bvc: Tensor | None = None,
        centre_v: Tensor | None = None,
    ) -> SpklipOutput:
        """Embed clips, packed or as their windows' features, and texts; with labels, compare them.

        Raises:
            ValueError: neither clips nor features, or no texts.
        """
        if input_ids is None or attention_mask is None:
            raise ValueError("forward needs texts: input_ids and attention_mask")
        if packed_bsghw is not None:
            feature_bvc, centre_v = self.window_features(packed_bsghw, ticks)
        if feature_bvc is None or centre_v is None:
            raise ValueError("forward needs clips: packed_bsghw, or feature_bvc and centre_v")
        video_bd = self.encode_features(feature_bvc, centre_v)
        text_bd = self.encode_text(input_ids, attention_mask)
        loss = None
        if label_b is not None:
            loss = contrastive_loss(video_bd, text_bd, self.scale, label_b)
        return SpklipOutput(
            loss=loss,
            video_bd=video_bd,
            text_bd=text_bd,
            scale=self.scale,
            feature_bvc=feature_bvc,
        )
