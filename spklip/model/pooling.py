"""Average spike planes over cells of pixels.

Shapes: G groups of eight ticks, T ticks, H rows, W columns, h and w cells; ``...`` is anything.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedata import unpack_planes

MAX_POOL_PX = 15
"""A byte counts the spikes of a cell: 15 x 15 pixels are the most it holds."""


def pool_planes(planes_xthw: Tensor, pool_px: int) -> Tensor:
    """Mean of each cell, float (..., T, h, w), of planes (..., T, H, W); a rest is left out."""
    if pool_px == 1:
        return planes_xthw
    pooled_nthw = F.avg_pool2d(planes_xthw.flatten(0, -4).float(), pool_px)
    return pooled_nthw.reshape(*planes_xthw.shape[:-3], *pooled_nthw.shape[1:])


def pool_packed(packed_xghw: Tensor, ticks: int, pool_px: int) -> Tensor:
    """The same from packed planes, uint8 (..., G, H, W), several times faster.

    Each byte becomes eight bytes of one word, one a tick, by a table; words are added over the
    cell, so eight ticks are counted by one addition and nothing is unpacked to floats.

    Raises:
        ValueError: not uint8, or the groups cannot hold exactly ``ticks`` ticks.
    """
    if pool_px == 1:
        return unpack_planes(packed_xghw, ticks)
    check_packing(packed_xghw, ticks)
    *lead, groups, height, width = packed_xghw.shape
    rows, columns = height // pool_px, width // pool_px
    inside = packed_xghw[..., : rows * pool_px, : columns * pool_px]
    words = torch.index_select(_ticks_to_bytes(inside.device), 0, inside.reshape(-1).int())
    count_nhw = words.reshape(-1, rows, pool_px, columns, pool_px).sum(dim=(2, 4))
    count_xghwk = count_nhw.view(torch.uint8).reshape(*lead, groups, rows, columns, 8)
    count_xthw = count_xghwk.movedim(-1, -3).flatten(-4, -3)[..., :ticks, :, :]
    return count_xthw / pool_px**2


def check_packing(packed_xghw: Tensor, ticks: int) -> None:
    """Refuse what :func:`unpack_planes` refuses, in its words."""
    shape, groups = tuple(packed_xghw.shape), -(-ticks // 8)
    if packed_xghw.dtype != torch.uint8 or packed_xghw.ndim < 3:
        raise ValueError(f"expected uint8 (..., G, H, W), got {packed_xghw.dtype} {shape}")
    if shape[-3] != groups:
        raise ValueError(f"{ticks} ticks need {groups} groups, got {shape}")


@functools.cache
def _ticks_to_bytes(device: torch.device) -> Tensor:
    """Word of each byte, int64 (256,): byte k of the word is bit k of the byte."""
    byte_n1 = torch.arange(256, dtype=torch.int64)[:, None]
    bit_nk = byte_n1 >> torch.arange(8) & 1
    return (bit_nk << 8 * torch.arange(8)).sum(dim=1).to(device)


def pack_planes(planes_xthw: Tensor) -> Tensor:
    """Pack spikes (..., T, H, W), as 0 and 1, eight ticks to a byte: uint8 (..., G, H, W)."""
    *lead, ticks, height, width = planes_xthw.shape
    groups = -(-ticks // 8)
    padded = planes_xthw.new_zeros((*lead, groups * 8, height, width), dtype=torch.uint8)
    padded[..., :ticks, :, :] = planes_xthw
    bit_xg8hw = padded.reshape(*lead, groups, 8, height, width)
    place_8 = torch.arange(8, dtype=torch.uint8, device=planes_xthw.device)
    packed_xghw: Tensor = (bit_xg8hw << place_8[:, None, None]).sum(dim=-3, dtype=torch.uint8)
    return packed_xghw


def reverse_packed(packed_xsghw: Tensor, ticks: int) -> Tensor:
    """The same clips played backwards, uint8 (..., S, G, H, W): segments and ticks turned round."""
    check_packing(packed_xsghw, ticks)
    return pack_planes(unpack_planes(packed_xsghw, ticks).flip(-3)).flip(-4)
