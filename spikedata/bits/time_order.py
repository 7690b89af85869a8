"""Fast reordering of packed bits: time first <-> time last, and groups to planes.

Eight bytes are handled as one uint64, little end first, and a usual chunk in vectors: several times
faster than NumPy's strided copies. Sizes that are not multiples of eight take a NumPy path.

Shapes: P pixels (rows x columns), V = P / 8, G groups of eight ticks, Q = G / 8, T ticks.
"""

import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, uint64
from numba.core import types
from numba.core.extending import intrinsic
from numpy.typing import NDArray

from spikedata.bits.groups import group_count, slice_ticks
from spikedata.bits.vectors import halves, interleave, pointer_at

_SWAP_1 = np.uint64(0x00FF00FF00FF00FF)
_SWAP_2 = np.uint64(0x0000FFFF0000FFFF)
_SWAP_4 = np.uint64(0x00000000FFFFFFFF)
_ONES = np.uint64(0x0101010101010101)
_CHUNK_GROUPS = 16
"""Groups of the usual chunk, 128 ticks, whose transposition has vectors of its own."""
_RUN = 16
"""Pixels that these vectors take at once."""
_TILE = 64
"""uint64 handled before moving on: a tile of all groups stays in the first-level cache."""


def to_time_last(packed_gp: NDArray[np.uint8], out_pg: NDArray[np.uint8]) -> None:
    """Transpose uint8 (G, P) into uint8 (P, G), both contiguous.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    _check_transposed(packed_gp, out_pg)
    if _is_usual_chunk(out_pg, packed_gp):
        _chunk_to_last(packed_gp, out_pg.reshape(-1))
    elif _by_eight(packed_gp.shape):
        _transpose_to_last(packed_gp.view(np.uint64), out_pg.view(np.uint64))
    else:
        np.copyto(out_pg, packed_gp.T)


def to_time_first(chunk_pg: NDArray[np.uint8], out_gp: NDArray[np.uint8]) -> None:
    """Transpose uint8 (P, G) into uint8 (G, P), both contiguous.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    _check_transposed(chunk_pg, out_gp)
    if _is_usual_chunk(chunk_pg, out_gp):
        _chunk_to_first(chunk_pg.reshape(-1), out_gp)
    elif _by_eight(chunk_pg.shape):
        _transpose_to_first(chunk_pg.view(np.uint64), out_gp.view(np.uint64))
    else:
        np.copyto(out_gp, chunk_pg.T)


def some_to_time_first(chunk_pg: NDArray[np.uint8], first: int, out_gp: NDArray[np.uint8]) -> None:
    """Groups ``first`` and on of uint8 (P, G), as many as ``out_gp`` has rows: no other is written.

    Raises:
        ValueError: the chunk has no such groups, or another number of pixels.
    """
    pixels, groups = chunk_pg.shape
    end = first + len(out_gp)
    if first < 0 or end > groups or out_gp.shape[1] != pixels:
        raise ValueError(
            f"groups {first} to {end} of {out_gp.shape[1]} pixels are not among "
            f"{groups} of {pixels}"
        )
    fits = groups == 2 * _CHUNK_GROUPS and pixels % _RUN == 0 and sys.byteorder == "little"
    if fits and chunk_pg.flags.c_contiguous and out_gp.flags.c_contiguous:
        _long_chunk_to_first(chunk_pg.reshape(-1), first, out_gp)
    elif len(out_gp) == groups:
        to_time_first(chunk_pg, out_gp)
    else:
        whole_gp = np.empty((groups, pixels), np.uint8)
        to_time_first(chunk_pg, whole_gp)
        out_gp[:] = whole_gp[first:end]


def unpack_window(packed_gp: NDArray[np.uint8], first: int, ticks: int) -> NDArray[np.uint8]:
    """Unpack ticks ``first`` to ``first + ticks`` of uint8 (G, P) to uint8 0/1 (T, P).

    Raises:
        ValueError: the groups do not hold these ticks.
    """
    if first < 0 or first + ticks > 8 * len(packed_gp):
        raise ValueError(f"ticks {first} to {first + ticks} are not in {len(packed_gp)} groups")
    planes_tp = np.empty((ticks, packed_gp.shape[1]), np.uint8)
    if _by_eight((8, packed_gp.shape[1])):
        _unpack_bits(packed_gp.view(np.uint64), planes_tp.view(np.uint64), first)
        return planes_tp
    for t in range(ticks):
        group, bit = divmod(first + t, 8)
        np.bitwise_and(packed_gp[group] >> bit, 1, out=planes_tp[t])
    return planes_tp


def cut_window(packed_gp: NDArray[np.uint8], first: int, ticks: int) -> NDArray[np.uint8]:
    """Ticks ``first`` to ``first + ticks`` of uint8 (G, P), packed from bit 0 again.

    Returns:
        packed_gp: uint8 (ceil(ticks / 8), P), contiguous; unused high bits are 0. The same as
            :func:`slice_ticks`, several times faster.

    Raises:
        ValueError: the groups do not hold these ticks.
    """
    if not packed_gp.flags.c_contiguous or not _by_eight((8, packed_gp.shape[1])):
        return slice_ticks(packed_gp, first, ticks)
    if first < 0 or ticks < 0 or first + ticks > 8 * len(packed_gp):
        raise ValueError(f"ticks {first} to {first + ticks} are not in {len(packed_gp)} groups")
    cut_gp = np.empty((group_count(ticks), packed_gp.shape[1]), np.uint8)
    _cut_bits(packed_gp.view(np.uint64), cut_gp.view(np.uint64), first, ticks)
    return cut_gp


def count_ones(packed: NDArray[np.uint8]) -> int:
    """Number of bits that are 1 in a contiguous array."""
    flat = packed.reshape(-1)
    whole = flat.size // 8 * 8
    ones = int(_count_ones(flat[:whole].view(np.uint64)))
    return ones + int(np.bitwise_count(flat[whole:]).sum())


def _check_transposed(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    # The compiled loops check no index: a target too small would be written past its end.
    if target.shape != source.shape[::-1]:
        raise ValueError(f"shape {target.shape} is not that of {source.shape} transposed")


def _by_eight(shape: tuple[int, ...]) -> bool:
    return sys.byteorder == "little" and all(n % 8 == 0 for n in shape)


def _is_usual_chunk(chunk_pg: NDArray[np.uint8], packed_gp: NDArray[np.uint8]) -> bool:
    pixels, groups = chunk_pg.shape
    fits = groups == _CHUNK_GROUPS and pixels % _RUN == 0 and sys.byteorder == "little"
    return fits and chunk_pg.flags.c_contiguous and packed_gp.flags.c_contiguous


@intrinsic
def _run_to_last(typingctx: Any, in_n: Any, pixels: Any, pixel: Any, out_n: Any) -> Any:
    """out[16 pixel :] = the groups of _RUN pixels, from rows that are ``pixels`` long."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        run = ir.VectorType(ir.IntType(8), _RUN)
        parts = []
        for group in range(_CHUNK_GROUPS):
            at = builder.add(builder.mul(args[1], args[1].type(group)), args[2])
            pointer = pointer_at(context, builder, in_n, args[0], at, run)
            parts.append(builder.load(pointer, align=1))
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [interleave(builder, a, b) for a, b in pairs]
        at = builder.mul(args[2], args[2].type(_CHUNK_GROUPS))
        pointer = pointer_at(context, builder, out_n, args[3], at, parts[0].type)
        builder.store(parts[0], pointer, align=1)
        return context.get_dummy_value()

    return types.void(in_n, types.intp, types.intp, out_n), codegen


@intrinsic
def _run_to_first(typingctx: Any, in_n: Any, pixels: Any, pixel: Any, out_n: Any) -> Any:
    """Undo :func:`_run_to_last`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = ir.VectorType(ir.IntType(8 * _CHUNK_GROUPS), _RUN)
        at = builder.mul(args[2], args[2].type(_CHUNK_GROUPS))
        parts = [builder.load(pointer_at(context, builder, in_n, args[0], at, whole), align=1)]
        while len(parts) < _CHUNK_GROUPS:
            parts = [half for part in parts for half in halves(builder, part)]
        for group, part in enumerate(parts):
            at = builder.add(builder.mul(args[1], args[1].type(group)), args[2])
            pointer = pointer_at(context, builder, out_n, args[3], at, part.type)
            builder.store(part, pointer, align=1)
        return context.get_dummy_value()

    return types.void(in_n, types.intp, types.intp, out_n), codegen


@intrinsic
def _long_run_to_first(
    typingctx: Any, in_n: Any, pixels: Any, pixel: Any, first: Any, end: Any, out_gp: Any
) -> Any:
    """As :func:`_run_to_first`, of chunks twice as long, and only groups ``first`` to ``end``."""
    groups = 2 * _CHUNK_GROUPS

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        in_n, pixels, pixel, first, end, out_gp = args
        word = pixels.type
        whole = ir.VectorType(ir.IntType(8 * groups), _RUN)
        at = builder.mul(pixel, word(groups))
        pointer = pointer_at(context, builder, signature.args[0], in_n, at, whole)
        parts = [builder.load(pointer, align=1)]
        while len(parts) < groups:
            parts = [half for part in parts for half in halves(builder, part)]
        for group, part in enumerate(parts):
            wanted = builder.and_(
                builder.icmp_signed("<=", first, word(group)),
                builder.icmp_signed(">", end, word(group)),
            )
            with builder.if_then(wanted):
                row = builder.sub(word(group), first)
                at = builder.add(builder.mul(pixels, row), pixel)
                pointer = pointer_at(context, builder, signature.args[5], out_gp, at, part.type)
                builder.store(part, pointer, align=1)
        return context.get_dummy_value()

    return types.void(in_n, types.intp, types.intp, types.intp, types.intp, out_gp), codegen


@njit(cache=True, nogil=True)
def _chunk_to_last(in_gp, out_n):  # type: ignore[no-untyped-def]  # pragma: no cover
    pixels = in_gp.shape[1]
    for pixel in range(0, pixels, _RUN):
        _run_to_last(in_gp, pixels, pixel, out_n)  # type: ignore[call-arg]


@njit(cache=True, nogil=True)
def _chunk_to_first(in_n, out_gp):  # type: ignore[no-untyped-def]  # pragma: no cover
    pixels = out_gp.shape[1]
    for pixel in range(0, pixels, _RUN):
        _run_to_first(in_n, pixels, pixel, out_gp)  # type: ignore[call-arg]


@njit(cache=True, nogil=True)
def _long_chunk_to_first(in_n, first, out_gp):  # type: ignore[no-untyped-def]  # pragma: no cover
    pixels, end = out_gp.shape[1], first + out_gp.shape[0]
    for pixel in range(0, pixels, _RUN):
        _long_run_to_first(in_n, pixels, pixel, first, end, out_gp)  # type: ignore[call-arg]


@njit(inline="always")
def _swap(a, b, bits, mask):  # type: ignore[no-untyped-def]  # pragma: no cover
    moved = ((a >> bits) ^ b) & mask
    return a ^ (moved << bits), b ^ moved


@njit(inline="always")
def _transpose_8x8(a, b, c, d, e, f, g, h):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Transpose 8 x 8 bytes held in eight uint64 (Hacker's Delight, section 7-3)."""
    one, two, four = uint64(8), uint64(16), uint64(32)
    a, b = _swap(a, b, one, _SWAP_1)
    c, d = _swap(c, d, one, _SWAP_1)
    e, f = _swap(e, f, one, _SWAP_1)
    g, h = _swap(g, h, one, _SWAP_1)
    a, c = _swap(a, c, two, _SWAP_2)
    b, d = _swap(b, d, two, _SWAP_2)
    e, g = _swap(e, g, two, _SWAP_2)
    f, h = _swap(f, h, two, _SWAP_2)
    a, e = _swap(a, e, four, _SWAP_4)
    b, f = _swap(b, f, four, _SWAP_4)
    c, g = _swap(c, g, four, _SWAP_4)
    d, h = _swap(d, h, four, _SWAP_4)
    return a, b, c, d, e, f, g, h


@njit(cache=True, nogil=True)
def _transpose_to_last(i_gv, o_pq):  # type: ignore[no-untyped-def]  # pragma: no cover
    groups, columns = i_gv.shape
    for v0 in range(0, columns, _TILE):
        for q in range(groups // 8):
            g = 8 * q
            for v in range(v0, min(v0 + _TILE, columns)):
                a, b, c, d, e, f, h, i = _transpose_8x8(
                    i_gv[g, v],
                    i_gv[g + 1, v],
                    i_gv[g + 2, v],
                    i_gv[g + 3, v],
                    i_gv[g + 4, v],
                    i_gv[g + 5, v],
                    i_gv[g + 6, v],
                    i_gv[g + 7, v],
                )
                p = 8 * v
                o_pq[p, q] = a
                o_pq[p + 1, q] = b
                o_pq[p + 2, q] = c
                o_pq[p + 3, q] = d
                o_pq[p + 4, q] = e
                o_pq[p + 5, q] = f
                o_pq[p + 6, q] = h
                o_pq[p + 7, q] = i


@njit(cache=True, nogil=True)
def _transpose_to_first(i_pq, o_gv):  # type: ignore[no-untyped-def]  # pragma: no cover
    columns = i_pq.shape[0] // 8
    for v0 in range(0, columns, _TILE):
        for q in range(i_pq.shape[1]):
            g = 8 * q
            for v in range(v0, min(v0 + _TILE, columns)):
                p = 8 * v
                a, b, c, d, e, f, h, i = _transpose_8x8(
                    i_pq[p, q],
                    i_pq[p + 1, q],
                    i_pq[p + 2, q],
                    i_pq[p + 3, q],
                    i_pq[p + 4, q],
                    i_pq[p + 5, q],
                    i_pq[p + 6, q],
                    i_pq[p + 7, q],
                )
                o_gv[g, v] = a
                o_gv[g + 1, v] = b
                o_gv[g + 2, v] = c
                o_gv[g + 3, v] = d
                o_gv[g + 4, v] = e
                o_gv[g + 5, v] = f
                o_gv[g + 6, v] = h
                o_gv[g + 7, v] = i


@njit(cache=True, nogil=True)
def _unpack_bits(i_gv, o_tv, first):  # type: ignore[no-untyped-def]  # pragma: no cover
    ticks, columns = o_tv.shape
    begin = 0
    while begin < ticks:  # the ticks of one group read the same bytes, so go by group
        group = (first + begin) // 8
        end = min(ticks, 8 * (group + 1) - first)
        for v0 in range(0, columns, 4 * _TILE):
            v1 = min(v0 + 4 * _TILE, columns)
            in_v = i_gv[group, v0:v1]
            for t in range(begin, end):
                bit = uint64((first + t) % 8)
                out_v = o_tv[t, v0:v1]
                for v in range(in_v.size):  # over slices: LLVM makes vectors of these alone
                    out_v[v] = (in_v[v] >> bit) & _ONES
        begin = end


@njit(cache=True, nogil=True)
def _cut_bits(i_gv, o_gv, first, ticks):  # type: ignore[no-untyped-def]  # pragma: no cover
    low = uint64(first % 8)
    high = uint64(8) - low
    of_low = uint64(255 >> (first % 8)) * _ONES  # bits of a byte that stay in it
    of_high = ~of_low
    for g in range(o_gv.shape[0]):
        own = of_low | of_high
        if 8 * (g + 1) > ticks:
            own = uint64((1 << (ticks - 8 * g)) - 1) * _ONES
        in_v, out_v = i_gv[first // 8 + g], o_gv[g]
        if first // 8 + g + 1 < i_gv.shape[0] and low > 0:
            next_v = i_gv[first // 8 + g + 1]
            for v in range(out_v.size):
                out_v[v] = ((in_v[v] >> low & of_low) | (next_v[v] << high & of_high)) & own
        else:
            for v in range(out_v.size):
                out_v[v] = (in_v[v] >> low & of_low) & own


@njit(cache=True, nogil=True)
def _count_ones(words):  # type: ignore[no-untyped-def]  # pragma: no cover
    total = uint64(0)
    for i in range(words.size):
        x = words[i]
        x = x - ((x >> uint64(1)) & uint64(0x5555555555555555))
        x = (x & uint64(0x3333333333333333)) + ((x >> uint64(2)) & uint64(0x3333333333333333))
        x = (x + (x >> uint64(4))) & uint64(0x0F0F0F0F0F0F0F0F)
        total += (x * _ONES) >> uint64(56)
    return total
