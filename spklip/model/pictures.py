"""Pictures of packed windows, batched, for a tower that takes images.

Shapes: N windows, G groups of eight ticks, K pictures of a window, H rows, W columns.

The two kinds of picture are those of ``spikedata view``: firing rates over an exposure (TFP), and
one over the inter-spike interval around a tick (TFI). Both are read from the bytes as they are: at
most one group of all windows is held as numbers, and nothing is unpacked to planes.

Source: L. Zhu et al., "A Retina-Inspired Sampling Method for Visual Texture Reconstruction",
ICME 2019.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from spklip.model.pooling import check_packing


def exposures(packed_nghw: Tensor, ticks: int, starts: Sequence[int], length: int) -> Tensor:
    """TFP pictures: firing rate of each pixel over the ticks ``start`` to ``start + length``.

    Args:
        packed_nghw: uint8 (N, G, H, W), eight ticks a byte.
        ticks: ticks of a window.
        starts: first tick of each of the K pictures, counted from the start of a window.
        length: ticks that each picture counts.

    Returns:
        rate_nkhw: float32 (N, K, H, W), spikes a tick, 0 to 1.

    Raises:
        ValueError: not packed planes of ``ticks`` ticks, or an exposure that is empty or reaches
            out of the window.
    """
    _check_windows(packed_nghw, ticks)
    for start in starts:
        if start < 0 or length < 1 or start + length > ticks:
            raise ValueError(
                f"an exposure of {length} ticks from tick {start} is not in a window of {ticks}"
            )
    windows, _, height, width = packed_nghw.shape
    rate_nkhw = packed_nghw.new_empty((windows, len(starts), height, width), dtype=torch.float32)
    for k, start in enumerate(starts):
        torch.div(_count_ticks(packed_nghw, start, start + length), length, out=rate_nkhw[:, k])
    return rate_nkhw


def interval_picture(packed_nghw: Tensor, ticks: int, tick: int) -> Tensor:
    """TFI picture: one over the interval that ``tick`` lies in.

    The interval of a pixel runs from its last spike at or before ``tick`` to its first one after.

    Args:
        packed_nghw: uint8 (N, G, H, W), eight ticks a byte.
        ticks: ticks of a window.
        tick: which, counted from the start of a window.

    Returns:
        rate_nhw: float32 (N, H, W), spikes a tick; 0 where the window holds only one end of the
        interval, or neither.

    Raises:
        ValueError: not packed planes of ``ticks`` ticks, or ``tick`` is not one of them.
    """
    _check_windows(packed_nghw, ticks)
    if not 0 <= tick < ticks:
        raise ValueError(f"tick {tick} is not one of the window's {ticks}")
    before_nhw = _nearest_spike(packed_nghw, 0, tick + 1, last=True)
    after_nhw = _nearest_spike(packed_nghw, tick + 1, ticks, last=False)
    known_nhw = (before_nhw >= 0) & (after_nhw >= 0)
    return torch.where(known_nhw, 1 / (after_nhw - before_nhw).float(), 0.0)


def _check_windows(packed_nghw: Tensor, ticks: int) -> None:
    check_packing(packed_nghw, ticks)
    if packed_nghw.ndim != 4:
        raise ValueError(f"expected packed windows (N, G, H, W), got {tuple(packed_nghw.shape)}")


def _count_ticks(packed_nghw: Tensor, begin: int, end: int) -> Tensor:
    """Spikes of each pixel in ticks ``begin`` to ``end``, int32 (N, H, W)."""
    windows, _, height, width = packed_nghw.shape
    count_nhw = packed_nghw.new_zeros((windows, height, width), dtype=torch.int32)
    for group in range(begin // 8, -(-end // 8)):
        count_nhw += _count_bits(packed_nghw[:, group] & _mask(group, begin, end))
    return count_nhw


def _nearest_spike(packed_nghw: Tensor, begin: int, end: int, *, last: bool) -> Tensor:
    """Tick of each pixel's last or first spike in ticks ``begin`` to ``end``, or -1: int32."""
    windows, _, height, width = packed_nghw.shape
    byte_nhw = packed_nghw.new_zeros((windows, height, width))
    group_nhw = torch.zeros_like(byte_nhw, dtype=torch.int32)
    groups = range(begin // 8, -(-end // 8))
    for group in groups if last else reversed(groups):  # the wanted spike's group comes last
        own_nhw = packed_nghw[:, group] & _mask(group, begin, end)
        byte_nhw = torch.where(own_nhw > 0, own_nhw, byte_nhw)
        group_nhw.masked_fill_(own_nhw > 0, group)
    bit_b = _end_bits(last, packed_nghw.device)
    bit_nhw = torch.index_select(bit_b, 0, byte_nhw.reshape(-1).int()).view_as(byte_nhw)
    return torch.where(byte_nhw > 0, 8 * group_nhw + bit_nhw, -1)


def _mask(group: int, begin: int, end: int) -> int:
    """Bits of a group that are ticks ``begin`` to ``end``."""
    low, high = max(0, begin - 8 * group), min(8, end - 8 * group)
    return (1 << high) - (1 << low)


def _count_bits(byte_x: Tensor) -> Tensor:
    """Ones in each byte, uint8: sums of pairs, of fours, of all; twice as fast as a table."""
    byte_x = byte_x - ((byte_x >> 1) & 0x55)
    byte_x = (byte_x & 0x33) + ((byte_x >> 2) & 0x33)
    return (byte_x + (byte_x >> 4)) & 0x0F


@functools.cache
def _end_bits(last: bool, device: torch.device) -> Tensor:
    """Highest (``last``) or lowest one of each byte, int32 (256,); 0 for none."""
    alone = range(256) if last else [byte & -byte for byte in range(256)]
    bits = [max(byte.bit_length() - 1, 0) for byte in alone]
    return torch.tensor(bits, dtype=torch.int32, device=device)
