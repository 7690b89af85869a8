"""Where image towers come from, and how each gives a picture's vector.

Shapes: N pictures, H rows, W columns, h and w those of a tower's map, K its channels, L tokens,
C width of a picture's vector, M numbers that tell where its features lie.
"""

import importlib
import logging
import math
import re
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.image_processing_base import ImageProcessingMixin

from spikedata import SpikeDataError
from spklip.model.config import SpklipConfig
from spklip.model.efficientnet_lite import GROUPS, HEAD_CHANNELS, EfficientNetLite0
from spklip.model.embedded import EFFICIENTNET_LITE0

_log = logging.getLogger(__name__)


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
    moments: int = 0
    """Numbers that tell where in a picture a tower's features lie; 0: it does not tell."""
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
    moments=2 * HEAD_CHANNELS,
    stage_widths=tuple(group[-1] for group in GROUPS for _ in range(group[0])),
)


FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""How a function of the user's is named: ``package.module:function``."""
JOINT = ("clip", "siglip", "siglip2")
"""Joint image and text models of transformers whose halves are known here."""
DEFAULT_PX = 224


def check_function(config: SpklipConfig, named: str) -> None:
    """Check that a saved model makes its image tower by no function but one that its user named.

    Args:
        config: the saved model's.
        named: ``package.module:function``, or empty.

    Raises:
        SpikeDataError: another function would run.
    """
    name = config.image_encoder
    if FUNCTION.fullmatch(name) and name != named:
        raise SpikeDataError(
            f"the model's image tower is made by running {name}. If you trust it, say so: "
            f"model.image_encoder={name} in the recipe or on the command line, "
            "SpklipModel.from_pretrained(..., tower_function=...) in Python"
        )


def build_tower(config: SpklipConfig, *, pretrained: bool) -> tuple[nn.Module, ImageFacts]:
    """Image tower of ``config``, and all that is known of it then.

    Raises:
        SpikeDataError: its weights are missing, or it is no image encoder.
    """
    known = None if config.image_config is None else ImageFacts.from_dict(config.image_config)
    if config.image_encoder == "embedded":
        return _embedded_tower(pretrained=pretrained), known or EMBEDDED
    if FUNCTION.fullmatch(config.image_encoder):
        tower, facts = _tower_of_function(config.image_encoder)
    elif known is not None and not pretrained:
        tower, facts = _tower_of_architecture(known), known
    else:
        tower, facts = _published_tower(config.image_encoder)
    return tower, facts if facts.features else _measured(tower.eval(), facts, config)


def trained_tower(config: SpklipConfig) -> nn.Module:
    """Image tower of ``config`` with its pretrained weights, of real numbers whatever ``encoder``.

    Raises:
        SpikeDataError: its weights are missing.
    """
    return build_tower(config, pretrained=True)[0]


def _embedded_tower(*, pretrained: bool) -> EfficientNetLite0:
    tower = EfficientNetLite0()
    if pretrained:
        path = EFFICIENTNET_LITE0.find()
        tower.load_published(torch.load(path, map_location="cpu", weights_only=True))
    return tower


def _tower_of_function(name: str) -> tuple[nn.Module, ImageFacts]:
    """A tower that a function of the user's makes; its attributes tell how to show it pictures."""
    module, _, function = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, TypeError) as error:
        raise SpikeDataError(
            f"image_encoder {name!r}: {error}. It names a function without arguments, "
            "package.module:function, that gives a torch module; also where a saved model is loaded"
        ) from error
    if not isinstance(made, nn.Module):
        raise SpikeDataError(f"image_encoder {name!r}: gave a {type(made).__name__}, no nn.Module")
    facts = ImageFacts(
        size_px=int(getattr(made, "size_px", DEFAULT_PX)),
        mean=tuple(getattr(made, "mean", (0.5, 0.5, 0.5))),
        std=tuple(getattr(made, "std", (0.5, 0.5, 0.5))),
    )
    return made, facts


def _published_tower(name: str) -> tuple[nn.Module, ImageFacts]:
    """A tower from a folder or from the Hugging Face Hub, with its weights."""
    try:
        architecture: Any = AutoConfig.from_pretrained(name, trust_remote_code=False)
        joint = architecture.model_type in JOINT
        whole, told = AutoModel.from_pretrained(
            name, output_loading_info=True, dtype=torch.float32, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise SpikeDataError(f"image_encoder {name!r}: cannot be loaded: {_line(error)}") from error
    if not joint and whole.main_input_name != "pixel_values":
        raise SpikeDataError(
            f"image_encoder {name!r}: a {architecture.model_type} model takes "
            f"{whole.main_input_name}, no pictures; name an image encoder"
        )
    lost = sorted(told["missing_keys"])
    own_pooler = not any("pooler" in key for key in lost)
    lost = [key for key in lost if "pooler" not in key]
    if lost:
        raise SpikeDataError(
            f"image_encoder {name!r}: its file lacks {len(lost)} weights, first {lost[0]!r}"
        )
    if not own_pooler:
        whole.pooler = None  # made up, not trained
    facts = ImageFacts(
        **_shown(name, architecture),
        vector="joint" if joint else "pooler" if own_pooler else "mean",
        logit_scale=float(whole.logit_scale.detach()) if joint else None,
        architecture=architecture.to_dict(),
    )
    return (JointImageTower(whole) if joint else whole), facts


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _tower_of_architecture(facts: ImageFacts) -> nn.Module:
    """The tower of a saved model, whose weights are still to come."""
    kept: dict[str, Any] = dict(facts.architecture or {})
    architecture = AutoConfig.for_model(kept.pop("model_type"), **kept)
    whole: nn.Module = AutoModel.from_config(architecture)  # type: ignore[no-untyped-call]
    if facts.vector == "mean" and hasattr(whole, "pooler"):
        whole.pooler = None  # type: ignore[assignment]
    return JointImageTower(whole) if facts.joint else whole


def _shown(name: str, architecture: Any) -> dict[str, Any]:
    """Size, mean and deviation that pictures are given, as published beside the weights."""
    vision = getattr(architecture, "vision_config", architecture)
    size = getattr(vision, "image_size", None) or DEFAULT_PX
    try:
        told, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except (OSError, ValueError):
        told = {}
        _log.warning(
            "%s: no preprocessor_config.json; pictures of %s px with mean and deviation 0.5",
            name,
            size,
        )
    wanted = told.get("crop_size") or told.get("size") or size
    if isinstance(wanted, dict):
        wanted = wanted.get("height") or wanted.get("shortest_edge") or size
    return {
        "size_px": int(wanted[0] if isinstance(wanted, list | tuple) else wanted),
        "mean": tuple(told.get("image_mean") or (0.5, 0.5, 0.5)),
        "std": tuple(told.get("image_std") or (0.5, 0.5, 0.5)),
    }


class JointImageTower(nn.Module):
    """The image half of a joint model, which ends in the space it shares with texts."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.vision_model = whole.vision_model
        # SigLIP's pooling ends in its shared space; CLIP's has a projection after it.
        self.projection: nn.Module = getattr(whole, "visual_projection", nn.Identity())

    def forward(self, pixel_values: Tensor) -> Any:
        """Normalised pictures (N, 3, H, W) to tokens and vectors (N, C), not of unit length."""
        output = self.vision_model(pixel_values=pixel_values)
        output.pooler_output = self.projection(output.pooler_output)
        return output


def _measured(tower: nn.Module, facts: ImageFacts, config: SpklipConfig) -> ImageFacts:
    """What a black picture tells of a tower: width of its vector, and of what leaves its stages."""
    size = config.picture_px or facts.size_px
    widths: list[int] = []
    hooks = [
        stage.register_forward_hook(lambda _, __, out: widths.append(width_of(out)))
        for stage in stages_of(tower)
    ]
    try:
        with torch.no_grad():
            vector_nc, moment_nm = read_pictures(tower, facts, torch.zeros(1, 3, size, size))
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise SpikeDataError(
            f"image_encoder {config.image_encoder!r}: takes no pictures of {size}x{size} px: "
            f"{_line(error)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return replace(
        facts,
        features=int(vector_nc.shape[1]),
        moments=int(moment_nm.shape[1]),
        stage_widths=tuple(widths),
    )


def width_of(output: Any) -> int:
    """Channels of what a stage gives: a map (N, C, h, w) or tokens (N, L, C), alone or first."""
    tensor = output[0] if isinstance(output, tuple) else output
    return int(tensor.shape[1] if tensor.ndim == 4 else tensor.shape[-1])


def stages_of(tower: nn.Module) -> list[nn.Module]:
    """Entries of the first ``nn.ModuleList`` of a tower, the outermost one; none without."""
    waiting = deque([tower])
    while waiting:
        module = waiting.popleft()
        if isinstance(module, nn.ModuleList):
            return list(module)
        waiting.extend(module.children())
    return []


def read_pictures(
    tower: nn.Module, facts: ImageFacts, picture_nchw: Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors (N, C) of normalised pictures (N, 3, H, W), and their :func:`moments` (N, M)."""
    output: Any = tower(picture_nchw)
    pooled = getattr(output, "pooler_output", None)
    found: Tensor = getattr(output, "last_hidden_state", output)
    if facts.vector in ("pooler", "joint") and pooled is not None:
        vector_nc = pooled.flatten(1)
        return vector_nc, moments(found) if isinstance(found, Tensor) else vector_nc[:, :0]
    if found.ndim == 2:
        return found, moments(found)
    return found.mean(dim=(2, 3) if found.ndim == 4 else 1), moments(found)


def moments(found: Tensor) -> Tensor:
    """Where in a picture features lie: first moments of a tower's map, across and down.

    A mean over the map forgets places, and with them which way a thing goes from window to window.

    Args:
        found: a map (N, K, h, w), or tokens (N, L, K): those of the largest square of patches that
            L holds, behind others (a class token, registers).

    Returns:
        (N, 2 K): sum over the map of each feature times its place, -1 to 1 from edge to edge, over
        the number of places; (N, 0) of vectors (N, C), which have no places.
    """
    if found.ndim == 2:
        return found[:, :0]
    if found.ndim == 3:
        side = math.isqrt(found.shape[1])
        found = found[:, found.shape[1] - side**2 :].mT.reshape(len(found), -1, side, side)
    height, width = found.shape[2:]
    down_h, across_w = (
        (torch.arange(side, device=found.device, dtype=found.dtype) * 2 - (side - 1))
        / max(1, side - 1)
        for side in (height, width)
    )
    across_nk = (found * across_w).mean(dim=(2, 3))
    down_nk = (found * down_h[:, None]).mean(dim=(2, 3))
    return torch.cat([across_nk, down_nk], dim=1)
