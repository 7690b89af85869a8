"""Image encoder: pictures to one vector each, by a pretrained tower.

Shapes: N pictures, H rows, W columns, h and w those of a tower's map, L tokens, C width of a
picture's vector.
"""

import hashlib
from collections import deque
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spklip.model.config import SpklipConfig
from spklip.model.embedded import EFFICIENTNET_LITE0
from spklip.model.image_towers import ImageFacts, build_tower, find_facts, vector_of


class ImageEncoder(nn.Module):
    """A pretrained image tower, frozen but for what the config lets learn.

    Pictures of any size are resized and normalised as the tower was trained to see them.
    """

    features: int
    """Width of a picture's vector, C."""
    size_px: int
    """Height and width of the pictures that the tower is given."""
    joint: bool
    """Whether vectors lie in the shared image-text space of the tower (CLIP, SigLIP)."""

    def __init__(self, tower: nn.Module, facts: ImageFacts, config: SpklipConfig) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(False).eval()
        self.facts = facts
        self.features, self.joint = facts.features, facts.joint
        self.size_px = config.picture_px or facts.size_px
        self.learning_stages = config.unfreeze_stages
        self._unfreeze()

    @property
    def stages(self) -> list[nn.Module]:
        """Stages of the tower, first to last."""
        return stages_of(self.tower)

    def _unfreeze(self) -> None:
        """Let the last stages learn, and everything that comes after them."""
        stages = self.stages
        if self.learning_stages > len(stages):
            raise ValueError(
                f"unfreeze_stages is {self.learning_stages}; the image encoder has "
                f"{len(stages)} stages"
            )
        if not self.learning_stages:
            return
        first = next(stages[-self.learning_stages].parameters())
        learns = False
        for parameter in self.tower.parameters():
            learns = learns or parameter is first
            parameter.requires_grad_(learns or parameter.requires_grad)

    def train(self, mode: bool = True) -> "ImageEncoder":
        """Switch training on or off; what is frozen, and batch norms, stay in evaluation."""
        super().train(mode)
        self.tower.train(False)
        for stage in self.stages[len(self.stages) - self.learning_stages :]:
            for module in stage.modules():
                module.training = mode and not isinstance(module, _BatchNorm)
        return self

    def forward(self, picture_nchw: Tensor, windows: int = 1) -> Tensor:
        """Pictures to vectors.

        Args:
            picture_nchw: (N, 3, H, W) in 0..1.
            windows: how many rows, one after another, are the windows of one clip.

        Returns:
            Vectors (N, C), not normalised.

        Raises:
            ValueError: not pictures of three channels, or N is no multiple of ``windows``.
        """
        if picture_nchw.ndim != 4 or picture_nchw.shape[1] != 3:
            raise ValueError(
                f"expected pictures (N, 3, H, W), got shape {tuple(picture_nchw.shape)}"
            )
        if windows < 1 or len(picture_nchw) % windows:
            raise ValueError(f"{len(picture_nchw)} pictures are no clips of {windows} windows")
        return vector_of(self.tower, self.facts, self._prepared(picture_nchw))

    def _prepared(self, picture_nchw: Tensor) -> Tensor:
        size = (self.size_px, self.size_px)
        if picture_nchw.shape[-2:] != size:
            picture_nchw = F.interpolate(
                picture_nchw, size, mode="bilinear", align_corners=False, antialias=True
            )
        mean_c11 = picture_nchw.new_tensor(self.facts.mean)[:, None, None]
        std_c11 = picture_nchw.new_tensor(self.facts.std)[:, None, None]
        return (picture_nchw - mean_c11) / std_c11

    def weights_sha256(self) -> str:
        """Digest of all weights: names, types, shapes and bytes; for the keys of caches."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()


def stages_of(tower: nn.Module) -> list[nn.Module]:
    """Entries of the first ``nn.ModuleList`` of a tower, the outermost one; none without."""
    waiting = deque([tower])
    while waiting:
        module = waiting.popleft()
        if isinstance(module, nn.ModuleList):
            return list(module)
        waiting.extend(module.children())
    return []


def build_image_encoder(config: SpklipConfig, *, pretrained: bool) -> ImageEncoder:
    """Image encoder of ``config``; it comes with its weights if ``pretrained``.

    What it is made of is noted in ``config.image_config``, so that a saved model is loaded
    without asking for a named encoder again.

    Raises:
        SpikeDataError: the encoder is missing, or is no image encoder.
        ValueError: ``unfreeze_stages`` is more than it has.
    """
    tower, facts = build_tower(config, find_facts(config), pretrained=pretrained)
    config.image_config = facts.to_dict()
    return ImageEncoder(tower, facts, config)


def licence_of(config: SpklipConfig) -> dict[str, Any]:
    """Name, licence and source of the image encoder of ``config``."""
    if config.image_encoder == "embedded":
        weights = EFFICIENTNET_LITE0
        return {
            "name": weights.name,
            "licence": weights.licence,
            "source": weights.source,
            "weights sha256": weights.sha256,
        }
    return {"name": config.image_encoder, "licence": "see its model card"}
