"""Where image towers come from, and how each gives a picture's vector.

Shapes: N pictures, H rows, W columns, h and w those of a tower's map, L tokens, C width of a
picture's vector.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spklip.model.config import SpklipConfig
from spklip.model.efficientnet_lite import GROUPS, HEAD_CHANNELS, EfficientNetLite0
from spklip.model.embedded import EFFICIENTNET_LITE0


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What has to be known of an image tower to build it and to show it pictures."""

    size_px: int
    """Height and width that it was trained on."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Taken from each channel of a picture in 0..1."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """What each is divided by afterwards."""
    vector: str = "mean"
    """``mean`` of its map or tokens, its ``pooler``, or its place in a ``joint`` space."""
    features: int = 0
    """Width of a picture's vector, C; 0 until a picture has been seen."""
    stage_widths: tuple[int, ...] = ()
    """Channels that leave each stage."""
    logit_scale: float | None = None
    """Logarithm of the inverse temperature that a joint model was trained to."""
    architecture: dict[str, Any] | None = None
    """Its config in transformers."""

    @property
    def joint(self) -> bool:
        """Whether vectors lie in a shared image-text space."""
        return self.vector == "joint"

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> "ImageFacts":
        """What :meth:`to_dict` gave."""
        facts: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
        }
        return cls(**facts)


EMBEDDED = ImageFacts(
    size_px=224,
    features=HEAD_CHANNELS,
    stage_widths=tuple(group[-1] for group in GROUPS for _ in range(group[0])),
)


def find_facts(config: SpklipConfig) -> ImageFacts:
    """What is known of the image tower of ``config`` before it is built.

    Raises:
        SpikeDataError: the encoder is missing, or is no image encoder.
    """
    if config.image_config is not None:
        return ImageFacts.from_dict(config.image_config)
    if config.image_encoder == "embedded":
        return EMBEDDED
    raise NotImplementedError


def build_tower(
    config: SpklipConfig, facts: ImageFacts, *, pretrained: bool
) -> tuple[nn.Module, ImageFacts]:
    """Image tower of ``config``, and all that is known of it then.

    Raises:
        SpikeDataError: its weights are missing, or it is no image encoder.
    """
    if config.image_encoder == "embedded":
        return _embedded_tower(pretrained=pretrained), facts
    raise NotImplementedError


def _embedded_tower(*, pretrained: bool) -> EfficientNetLite0:
    tower = EfficientNetLite0()
    if pretrained:
        path = EFFICIENTNET_LITE0.find()
        tower.load_published(torch.load(path, map_location="cpu", weights_only=True))
    return tower


def vector_of(tower: nn.Module, facts: ImageFacts, picture_nchw: Tensor) -> Tensor:
    """Vectors (N, C) of normalised pictures (N, 3, H, W)."""
    output_nchw: Tensor = tower(picture_nchw)
    return output_nchw.mean(dim=(2, 3))
