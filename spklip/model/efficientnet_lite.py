"""EfficientNet-Lite0: an image encoder small enough to come with an installation.

Shapes: N pictures, C channels, H rows, W columns; h and w are H and W over 32, rounded up.

Source: M. Tan, Q. V. Le, "EfficientNet", arXiv:1905.11946; the Lite variant has no
squeeze-and-excitation, ReLU6 for swish, and a stem and head of fixed width.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = (
    (1, 1, 3, 1, 16),
    (2, 6, 3, 2, 24),
    (2, 6, 5, 2, 40),
    (3, 6, 3, 2, 80),
    (3, 6, 5, 1, 112),
    (4, 6, 5, 2, 192),
    (1, 6, 3, 1, 320),
)
"""Blocks, expansion, kernel, stride of the first block, channels."""
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


class SameConv2d(nn.Conv2d):
    """Convolution that pads as TensorFlow does: what is odd goes below and to the right."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Convolve (N, C, H, W) to (N, after, ceil(H / stride), ceil(W / stride))."""
        return super().forward(self.pad(x_nchw))

    def pad(self, x_nchw: Tensor) -> Tensor:
        """Pictures with the pixels around them that the convolution needs."""
        return pad_same(x_nchw, self.kernel_size, self.stride)


def pad_same(x_nchw: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pictures with the pixels around them that a convolution needs to give H and W over stride."""
    pads: list[int] = []
    for size, span, step in zip(x_nchw.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        spare = max((-(-size // step) - 1) * step + span - size, 0)
        pads += [spare // 2, spare - spare // 2]
    return F.pad(x_nchw, pads) if any(pads) else x_nchw


class Layers(nn.Sequential):
    """Convolutions, batch normalisations and activations, one after another.

    Normalisation is by running statistics, in training too. So it is folded into the weights of the
    convolution before it: one pass over the pictures instead of two.
    """

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Apply all layers in order."""
        waiting = list(self)[::-1]
        while waiting:
            layer = waiting.pop()
            if isinstance(layer, nn.Conv2d) and isinstance(waiting[-1], nn.BatchNorm2d):
                x_nchw = _convolve(x_nchw, layer, waiting.pop())
            else:  # also an adapted convolution, whose weights are several
                x_nchw = layer(x_nchw)
        return x_nchw


def _convolve(x_nchw: Tensor, layer: nn.Conv2d, norm: Any) -> Tensor:
    weight, bias_c = fold_norm(layer, norm)
    if isinstance(layer, SameConv2d):
        x_nchw = layer.pad(x_nchw)
    return F.conv2d(x_nchw, weight, bias_c, layer.stride, groups=layer.groups)


def fold_norm(layer: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the normalisation after it in them."""
    scale_c = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return layer.weight * scale_c[:, None, None, None], norm.bias - norm.running_mean * scale_c


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedBottleneck(nn.Module):
    """Widen, convolve each channel alone, narrow; around a shortcut where the shape stays."""

    def __init__(self, before: int, after: int, *, expansion: int, kernel: int, stride: int):
        super().__init__()
        inner = before * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [
                nn.Conv2d(before, inner, 1, bias=False),
                _norm(inner),
                nn.ReLU6(inplace=True),
            ]
        layers += [SameConv2d(inner, inner, kernel, stride, groups=inner), _norm(inner)]
        layers += [nn.ReLU6(inplace=True), nn.Conv2d(inner, after, 1, bias=False), _norm(after)]
        self.body = Layers(*layers)
        self.keeps_shape = stride == 1 and before == after

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Features (N, before, H, W) to (N, after, H / stride, W / stride)."""
        out_nchw: Tensor = self.body(x_nchw)
        return x_nchw + out_nchw if self.keeps_shape else out_nchw


class EfficientNetLite0(nn.Module):
    """Pictures to a feature map of 1,280 channels, a 32nd of their size; no classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Layers(
            SameConv2d(3, STEM_CHANNELS, 3, 2), _norm(STEM_CHANNELS), nn.ReLU6(inplace=True)
        )
        self.blocks = nn.ModuleList()
        before = STEM_CHANNELS
        for count, expansion, kernel, first_stride, after in GROUPS:
            for i in range(count):
                stride = 1 if i else first_stride
                self.blocks.append(
                    InvertedBottleneck(
                        before, after, expansion=expansion, kernel=kernel, stride=stride
                    )
                )
                before = after
        self.head = Layers(
            nn.Conv2d(before, HEAD_CHANNELS, 1, bias=False),
            _norm(HEAD_CHANNELS),
            nn.ReLU6(inplace=True),
        )

    def forward(self, picture_nchw: Tensor) -> Tensor:
        """Normalised pictures (N, 3, H, W) to a map (N, 1280, h, w)."""
        x_nchw = self.stem(picture_nchw)
        for block in self.blocks:
            x_nchw = block(x_nchw)
        map_nchw: Tensor = self.head(x_nchw)
        return map_nchw

    def load_published(self, state: dict[str, Tensor]) -> None:
        """Take the weights of the published file, whose names are those of its own code.

        Both list the layers in the order in which they are used, each with the same parts; the
        classifier, which is last there, is left out.

        Raises:
            ValueError: number or shapes of the tensors are not those of EfficientNet-Lite0.
        """
        given = [(k, v) for k, v in state.items() if not k.startswith("_fc.")]
        own = self.state_dict()
        fits = len(given) == len(own) and all(
            v.shape == own[k].shape for k, (_, v) in zip(own, given, strict=True)
        )
        if not fits:
            raise ValueError("these are not the weights of EfficientNet-Lite0")
        self.load_state_dict({k: v for k, (_, v) in zip(own, given, strict=True)}, strict=True)
