"""Spike planes of a camera to groups of eight ticks a byte, and back: 8 x 8 bit transposition.

Eight bytes, one of each of eight planes, are a square of 8 x 8 bits in one 64-bit word; transposed,
its bytes are eight neighbouring pixels with eight ticks each (Hacker's Delight, section 7-3). Runs
of bytes are handled as LLVM vectors: interleaved pairwise, eight planes become such words in three
steps, which LLVM lowers to the unpack instructions of SSE, AVX or NEON.

Shapes: g groups of eight ticks, H rows, W columns, B bytes a plane.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import uint64
from numba.core import types
from numba.core.extending import intrinsic

from spikedata.bits.vectors import interleave

_RUN = 16
"""Bytes of a plane handled at once; more is no faster and compiles longer."""
_SWAPS = ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0))
"""Shift and mask of the three exchanges that transpose 8 x 8 bits."""


def _transposed(builder: ir.IRBuilder, words: ir.Value) -> ir.Value:
    for shift, mask in _SWAPS:
        by, low = (ir.Constant(words.type, [n] * words.type.count) for n in (shift, mask))
        moved = builder.and_(builder.xor(words, builder.lshr(words, by)), low)
        words = builder.xor(builder.xor(words, moved), builder.shl(moved, by))
    return words


@intrinsic
def _transpose_run(
    typingctx: Any, planes: Any, plane: Any, byte: Any, pixels: Any, pixel: Any
) -> Any:
    """pixels[pixel:] = groups of the 8 _RUN pixels in planes[plane : plane + 8, byte:]."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        planes_in, pixels_out = (
            context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 3)
        )
        stride = builder.extract_value(planes_in.strides, 0)
        run = ir.VectorType(ir.IntType(8), _RUN).as_pointer()
        parts = []
        for tick in range(8):
            row = builder.add(args[1], ir.Constant(args[1].type, tick))
            at = builder.add(builder.mul(row, stride), args[2])
            pointer = builder.bitcast(builder.gep(planes_in.data, [at]), run)
            parts.append(builder.load(pointer, align=1))
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [interleave(builder, a, b) for a, b in pairs]
        words = _transposed(builder, parts[0])
        pointer = builder.gep(pixels_out.data, [args[4]])
        builder.store(words, builder.bitcast(pointer, words.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(planes, types.intp, types.intp, pixels, types.intp), codegen


@numba.njit(inline="always")
def _transpose_word(x):  # type: ignore[no-untyped-def]  # pragma: no cover
    y = (x ^ (x >> uint64(7))) & uint64(0x00AA00AA00AA00AA)
    x = x ^ y ^ (y << uint64(7))
    y = (x ^ (x >> uint64(14))) & uint64(0x0000CCCC0000CCCC)
    x = x ^ y ^ (y << uint64(14))
    y = (x ^ (x >> uint64(28))) & uint64(0x00000000F0F0F0F0)
    return x ^ y ^ (y << uint64(28))


@numba.njit(nogil=True, cache=True)
def decode_groups(planes_nb, scratch, out_ghw, row_bits, runs, flip, big):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Turn planes into packed groups.

    Args:
        planes_nb: uint8 (8 g, B), file bytes.
        scratch: uint64 (B), room for one group in file order.
        out_ghw: uint8 (g, H, W), where the groups go.
        row_bits: bits from one row to the next.
        runs: int64 (n, 2), first bit and count of each run of real pixels in a row.
        flip: the file's first row is the last of the picture.
        big: the leftmost pixel of eight is the most significant bit.
    """
    height = out_ghw.shape[1]
    direct = not big and row_bits % 8 == 0
    for first, count in runs:
        direct = direct and first % 8 == 0 and count % 8 == 0 and count >= 8 * _RUN
    for g in range(out_ghw.shape[0]):
        if not direct:
            _transpose_planes(planes_nb, 8 * g, scratch)
        for row in range(height):
            out_w = out_ghw[g, height - 1 - row if flip else row]
            at = 0
            for first, count in runs:
                begin = row * row_bits + first
                if direct:
                    for i in range(0, count, 8 * _RUN):
                        i = min(i, count - 8 * _RUN)  # the last overlaps the one before it
                        _transpose_run(planes_nb, 8 * g, (begin + i) // 8, out_w, at + i)  # type: ignore[call-arg]
                else:
                    _copy_pixels(scratch.view(np.uint8), begin, out_w[at : at + count], big)
                at += count


@numba.njit(inline="always")
def _transpose_planes(planes_nb, plane, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Eight planes from ``plane`` on to one group of all their bits, padding included."""
    size = scratch.size
    whole = size // _RUN * _RUN
    pixels = scratch.view(np.uint8)
    for b in range(0, whole, _RUN):
        _transpose_run(planes_nb, plane, b, pixels, 8 * b)  # type: ignore[call-arg]
    for b in range(whole, size):
        x = uint64(0)
        for tick in range(8):
            x |= uint64(planes_nb[plane + tick, b]) << uint64(8 * tick)
        scratch[b] = _transpose_word(x)


@numba.njit(inline="always")
def _copy_pixels(pixels, begin, out_w, big):  # type: ignore[no-untyped-def]  # pragma: no cover
    if big:
        for i in range(out_w.size):
            out_w[i] = pixels[(begin + i) ^ 7]
    else:
        from_w = pixels[begin : begin + out_w.size]
        for i in range(out_w.size):  # slice assignment is five times slower in numba
            out_w[i] = from_w[i]


@numba.njit(nogil=True, cache=True)
def encode_groups(packed_ghw, scratch, planes_nb, row_bits, runs, flip, big):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Undo :func:`decode_groups`; ``scratch`` comes as zeros, which stay where no pixel is."""
    height = packed_ghw.shape[1]
    pixels = scratch.view(np.uint8)
    for g in range(packed_ghw.shape[0]):
        for row in range(height):
            in_w = packed_ghw[g, height - 1 - row if flip else row]
            at = 0
            for first, count in runs:
                begin = row * row_bits + first
                if big:
                    for i in range(count):
                        pixels[(begin + i) ^ 7] = in_w[at + i]
                else:
                    to_w, from_w = pixels[begin : begin + count], in_w[at : at + count]
                    for i in range(count):
                        to_w[i] = from_w[i]
                at += count
        for b in range(scratch.size):
            x = _transpose_word(scratch[b])
            for tick in range(8):
                planes_nb[8 * g + tick, b] = (x >> uint64(8 * tick)) & uint64(255)


@numba.njit(nogil=True, cache=True)
def find_marked(data_b, begin, markers, mask, row_bytes):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Find the next frame whose rows all end in their own markers.

    No two markers of a frame may be the same: each byte is then looked at a few times at most,
    whatever the data.

    Args:
        data_b: uint8 (B,).
        begin: first byte where the frame may begin.
        markers: uint16, one a row: its last two bytes, little-endian, of which ``mask`` counts.
        mask: which bits of them.
        row_bytes: bytes a row.

    Returns:
        Where the frame begins, and how many follow each other without a gap. Without one: the
        first place where more bytes could make it begin, and 0.
    """
    frame_bytes = markers.size * row_bytes
    last = data_b.size - frame_bytes
    count = 0
    at = begin
    while at <= last:
        right = 0
        while right < markers.size:
            low = at + right * row_bytes + row_bytes - 2
            if (data_b[low] | data_b[low + 1] << 8) & mask != markers[right]:
                break
            right += 1
        if right == markers.size:
            if not count:
                begin = at
            count += 1
            at += frame_bytes
        elif count:
            break
        else:
            at += 1
    if count:
        return begin, count
    return max(begin, last + 1), 0
