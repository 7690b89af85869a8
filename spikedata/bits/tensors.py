"""Planes of torch tensors, on the device that these are on.

Shapes: G = ceil(T / 8) groups of eight ticks, T ticks, H rows, W columns.
"""

import torch
from torch import Tensor

from spikedata.bits.groups import TICKS_PER_GROUP, group_count


def unpack_planes(packed: Tensor, ticks: int) -> Tensor:
    """Unpack uint8 (..., G, H, W) to planes uint8 0/1 (..., T, H, W) on the tensor's device.

    Raises:
        ValueError: not uint8, or the groups cannot hold exactly ``ticks`` ticks.
    """
    if packed.dtype != torch.uint8 or packed.ndim < 3:
        raise ValueError(f"expected uint8 (..., G, H, W), got {packed.dtype} {tuple(packed.shape)}")
    if packed.shape[-3] != group_count(ticks):
        raise ValueError(
            f"{ticks} ticks need {group_count(ticks)} groups, got {tuple(packed.shape)}"
        )
    bit_811 = torch.arange(TICKS_PER_GROUP, dtype=torch.uint8, device=packed.device).view(8, 1, 1)
    planes = (packed.unsqueeze(-3) >> bit_811).bitwise_and_(1)
    return planes.flatten(-4, -3).narrow(-3, 0, ticks)
