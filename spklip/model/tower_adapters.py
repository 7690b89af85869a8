"""Small parts that learn inside a frozen image tower.

Shapes: N pictures, B clips, V windows of a clip (N = B V), P places of a map or tokens, C channels,
R width of an adapter.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from spikedata import SpikeDataError


class TemporalAdapter(nn.Module):
    """Let neighbouring windows of a clip see each other, place by place; begins as nothing.

    Source: J. Pan et al., "ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning",
    arXiv:2206.13559, with a convolution over time alone.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, width)
        self.mix = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.up = nn.Linear(width, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.windows = 1

    def after_stage(self, _: nn.Module, __: Any, output: Any) -> Any:
        """Forward hook of a stage: what it gives, alone or first of several, adapted."""
        if isinstance(output, tuple):
            return (self(output[0], self.windows), *output[1:])
        return self(output, self.windows)

    def forward(self, x: Tensor, windows: int) -> Tensor:
        """Add to a map (N, C, h, w) or to tokens (N, P, C) what the windows around tell."""
        place_npc = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
        hidden_npr = self.down(place_npc)
        clips, places, width = len(x) // windows, place_npc.shape[1], hidden_npr.shape[-1]
        hidden = hidden_npr.reshape(clips, windows, places, width).permute(0, 2, 3, 1)
        mixed = F.gelu(self.mix(hidden.reshape(clips * places, width, windows)))
        mixed = mixed.reshape(clips, places, width, windows).permute(0, 3, 1, 2)
        added_npc = self.up(mixed.reshape(len(x), places, width))
        added = added_npc.transpose(1, 2).reshape(x.shape) if x.ndim == 4 else added_npc
        total: Tensor = x + added
        return total


def add_lora(tower: nn.Module, rank: int) -> None:
    """Put low-rank adapters beside all linear layers and 1x1 convolutions of a tower, in place.

    They begin as nothing, and they alone learn.

    Raises:
        SpikeDataError: peft is not installed, or the tower has no such layer.

    Source: E. J. Hu et al., "LoRA", arXiv:2106.09685, by peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise SpikeDataError(
            "model.lora_rank needs peft. Run: pip install 'spklip[lora]'"
        ) from error
    names = [name for name, layer in tower.named_modules() if _is_linear(layer)]
    if not names:
        raise SpikeDataError("model.lora_rank: the image tower has no linear layer")
    learns = {name for name, p in tower.named_parameters() if p.requires_grad}
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names)
    inject_adapter_in_model(settings, tower)
    for layer in tower.modules():
        layer._is_hf_initialized = True  # type: ignore[assignment]  # transformers would draw anew
    for name, parameter in tower.named_parameters():
        if name.replace(".base_layer.", ".") in learns:
            parameter.requires_grad_(True)


def _is_linear(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear)
