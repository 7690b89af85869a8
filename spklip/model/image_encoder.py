"""Image encoder: pictures to one vector each, by a pretrained tower.

Shapes: N pictures, H rows, W columns, C width of a picture's vector, M numbers that tell where in
the picture its features lie.
"""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spklip.model.config import SpklipConfig
from spklip.model.image_towers import ImageFacts, build_tower, read_pictures, stages_of
from spklip.model.tower_adapters import TemporalAdapter, add_lora

CPU_PICTURES = 4
"""Pictures that a tower sees at once on a CPU, where nothing learns."""


class ImageEncoder(nn.Module):
    """A pretrained image tower, frozen but for what the config lets learn.

    Pictures of any size are resized and normalised as the tower was trained to see them.
    """

    features: int
    """Width of a picture's vector, C."""
    moments: int
    """How many numbers tell where its features lie, M; 0 where a tower does not tell."""
    size_px: int
    """Height and width of the pictures that the tower is given."""
    joint: bool
    """Whether vectors lie in the shared image-text space of the tower (CLIP, SigLIP)."""

    def __init__(self, tower: nn.Module, facts: ImageFacts, config: SpklipConfig) -> None:
        super().__init__()
        tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.tower = tower.requires_grad_(False).eval()
        self.facts = facts
        self.features, self.moments, self.joint = facts.features, facts.moments, facts.joint
        self.size_px = config.picture_px or facts.size_px
        self.learning_stages = config.unfreeze_stages
        self._unfreeze()
        if config.lora_rank:
            add_lora(self.tower, config.lora_rank)
        self.adapters = nn.ModuleList()
        if config.temporal_adapter_width:
            self._add_temporal_adapters(config.temporal_adapter_width)

    @property
    def stages(self) -> list[nn.Module]:
        """Stages of the tower, first to last."""
        return stages_of(self.tower)

    def _add_temporal_adapters(self, width: int) -> None:
        """After each stage, one through which neighbouring windows of a clip see each other."""
        for stage, channels in zip(self.stages, self.facts.stage_widths, strict=True):
            adapter = TemporalAdapter(channels, width)
            self.adapters.append(adapter)
            stage.register_forward_hook(adapter.after_stage)

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

    def forward(self, picture_nchw: Tensor, windows: int = 1) -> tuple[Tensor, Tensor]:
        """Pictures to vectors.

        Args:
            picture_nchw: (N, 3, H, W) in 0..1.
            windows: how many rows, one after another, are the windows of one clip.

        Returns:
            vector_nc: (N, C), not normalised.
            moment_nm: (N, M), see :func:`spklip.model.image_towers.moments`.

        Raises:
            ValueError: not pictures of three channels, or N is no multiple of ``windows``.
        """
        if picture_nchw.ndim != 4 or picture_nchw.shape[1] != 3:
            raise ValueError(
                f"expected pictures (N, 3, H, W), got shape {tuple(picture_nchw.shape)}"
            )
        if windows < 1 or len(picture_nchw) % windows:
            raise ValueError(f"{len(picture_nchw)} pictures are no clips of {windows} windows")
        for adapter in self.adapters:
            assert isinstance(adapter, TemporalAdapter)
            adapter.windows = windows
        if torch.is_grad_enabled() or picture_nchw.is_cuda or len(self.adapters):
            return self._read(picture_nchw)
        # A few pictures at a time stay in the cache of a CPU: twice as fast as many.
        parts = torch.split(picture_nchw, CPU_PICTURES)
        vectors, moments = zip(*(self._read(part) for part in parts), strict=True)
        return torch.cat(vectors), torch.cat(moments)

    def _read(self, picture_nchw: Tensor) -> tuple[Tensor, Tensor]:
        prepared_nchw = self.prepared(picture_nchw)
        vector_nc, moment_nm = read_pictures(self.tower, self.facts, prepared_nchw)
        return vector_nc, moment_nm[:, : self.moments]

    def prepared(self, picture_nchw: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) in 0..1 as the tower was trained to see them."""
        size = (self.size_px, self.size_px)
        if picture_nchw.shape[-2:] != size:
            picture_nchw = F.interpolate(
                picture_nchw, size, mode="bilinear", align_corners=False, antialias=True
            )
        mean_c11 = picture_nchw.new_tensor(self.facts.mean)[:, None, None]
        std_c11 = picture_nchw.new_tensor(self.facts.std)[:, None, None]
        prepared_nchw = (picture_nchw - mean_c11) / std_c11
        return prepared_nchw.contiguous(memory_format=torch.channels_last)

    def weights_sha256(self) -> str:
        """Digest of all weights: names, types, shapes and bytes; for the keys of caches."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()


def build_image_encoder(config: SpklipConfig, *, pretrained: bool) -> ImageEncoder:
    """Image encoder of ``config``; it comes with its weights if ``pretrained``.

    What it is made of is noted in ``config.image_config``, so that a saved model is loaded
    without asking for a named encoder again.

    Raises:
        SpikeDataError: the encoder is missing, or is no image encoder.
        ValueError: ``unfreeze_stages`` is more than it has.
    """
    tower, facts = build_tower(config, pretrained=pretrained)
    config.image_config = facts.to_dict()
    return ImageEncoder(tower, facts, config)


def note_image_encoder(config: SpklipConfig) -> None:
    """Note in ``config.image_config`` what the image encoder is made of, if that is not known.

    Whether it is a joint one decides where texts come from.

    Raises:
        SpikeDataError: the encoder is missing, or is no image encoder.
    """
    if config.image_encoder and config.image_config is None:
        build_image_encoder(config, pretrained=True)
