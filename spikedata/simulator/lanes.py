"""Explicit LLVM vectors for numba: a type, and the operations that the kernels are made of.

Small ``@intrinsic`` functions give numba a vector type (lanes of 8, 16 or 32 bits); LLVM lowers
it to AVX2, AVX-512 or NEON.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba.core import config, types
from numba.core.datamodel import models
from numba.core.extending import intrinsic, register_model

from spikedata.bits import pointer_at


def _features() -> set[str]:
    """What the processor that numba compiles for can do: this one, or the one it was told."""
    told: Any = config
    if told.CPU_NAME or told.CPU_FEATURES:
        words = (told.CPU_FEATURES or "").split(",")
        return {word[1:] for word in words if word.startswith("+")}
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


FEATURES = _features()
WIDE = "avx512bw" in FEATURES


class Lanes(types.Type):
    """Numba type of an LLVM vector of integers."""

    def __init__(self, bits: int, count: int) -> None:
        self.bits, self.count = bits, count
        super().__init__(name=f"Lanes({bits}, {count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        vector = ir.VectorType(ir.IntType(lanes.bits), lanes.count)
        super().__init__(manager, lanes, vector)  # type: ignore[no-untyped-call]


def operation(function: Callable[..., Any]) -> Any:
    """Make an intrinsic that sees constants as such."""
    return intrinsic(prefer_literal=True)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Make a function that is pasted into the kernels that call it."""
    return numba.njit(inline="always")(function)


@operation
def load(typingctx: Any, array: Any, index: Any, count: Any) -> Any:
    """``count`` neighbours from ``array[index]`` on."""
    lanes = Lanes(array.dtype.bitwidth, count.literal_value)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(lanes)
        pointer = pointer_at(context, builder, array, args[0], args[1], vector)
        return builder.load(pointer, align=lanes.bits // 8)

    return lanes(array, types.intp, count), codegen


@operation
def store(typingctx: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Write the lanes to ``array[index]`` and its neighbours."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = pointer_at(context, builder, array, args[0], args[1], args[2].type)
        builder.store(args[2], pointer, align=lanes.bits // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), codegen


_CACHE_LINE_BYTES = 64


@operation
def prefetch(typingctx: Any, array: Any, index: Any, count: Any, write: Any) -> Any:
    """Ask for ``count`` neighbours from ``array[index]`` on, which may lie past its end.

    ``write`` is 1 where they will be written to.
    """
    step = 8 * _CACHE_LINE_BYTES // array.dtype.bitwidth

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word, byte = ir.IntType(32), ir.IntType(8)
        # How it is used, how soon again (3: at once), and that it is data.
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word])
        function = _declared(builder, "llvm.prefetch.p0i8", kind)
        for first in range(0, count.literal_value, step):
            at = builder.add(args[1], args[1].type(first))
            pointer = pointer_at(context, builder, array, args[0], at, byte)
            builder.call(function, [pointer, word(write.literal_value), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp, count, write), codegen


@operation
def splat(typingctx: Any, word: Any, like: Any) -> Any:
    """All lanes the integer ``word``, in the type of ``like``, whose size it is cut to."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(like.bits), like.count)
        nothing = ir.Constant(vector, ir.Undefined)
        lane = builder.trunc(args[0], vector.element)
        first = builder.insert_element(nothing, lane, ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), like.count), [0] * like.count)
        return builder.shuffle_vector(first, nothing, zeros)

    return like(types.int64, like), codegen


@operation
def resize(typingctx: Any, lanes: Any, bits: Any) -> Any:
    """The same lanes as unsigned integers of ``bits`` bits."""
    sized = Lanes(bits.literal_value, lanes.count)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cast = builder.zext if sized.bits > lanes.bits else builder.trunc
        return args[0] if sized.bits == lanes.bits else cast(args[0], context.get_value_type(sized))

    return sized(lanes, bits), codegen


def _lanewise(emit: Callable[[Any, Any, Any], Any]) -> Any:
    @operation
    def apply(typingctx: Any, left: Any, right: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit(builder, args[0], args[1])

        return left(left, right), codegen

    return apply


add = _lanewise(lambda builder, left, right: builder.add(left, right))
sub = _lanewise(lambda builder, left, right: builder.sub(left, right))
mul = _lanewise(lambda builder, left, right: builder.mul(left, right))
shift_right = _lanewise(lambda builder, left, right: builder.lshr(left, right))
smaller = _lanewise(
    lambda builder, left, right: builder.select(builder.icmp_signed("<", left, right), left, right)
)

either = _lanewise(lambda builder, left, right: builder.or_(left, right))
differ = _lanewise(lambda builder, left, right: builder.xor(left, right))
shift_left = _lanewise(lambda builder, left, right: builder.shl(left, right))
larger = _lanewise(
    lambda builder, left, right: builder.select(builder.icmp_signed(">", left, right), left, right)
)

larger_unsigned = _lanewise(
    lambda builder, left, right: builder.select(
        builder.icmp_unsigned(">", left, right), left, right
    )
)


@operation
def exceeds(typingctx: Any, charge: Any, limit: Any) -> Any:
    """One bit a lane: signed ``charge > limit``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.icmp_signed(">", args[0], args[1])

    return Lanes(1, charge.count)(charge, limit), codegen


@operation
def where(typingctx: Any, mask: Any, yes: Any, no: Any) -> Any:
    """``yes`` in lanes whose mask bit is set, else ``no``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return yes(mask, yes, no), codegen


@operation
def push_sign(typingctx: Any, history: Any, lanes: Any) -> Any:
    """``history`` shifted left by one bit, with the sign bit of ``lanes`` below it.

    One instruction (vpshld) where there is AVX-512 VBMI2.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        name = f"llvm.fshl.v{history.count}i{history.bits}"
        funnel = _declared(builder, name, ir.FunctionType(kind, [kind] * 3))
        return builder.call(funnel, [*args, ir.Constant(kind, [1] * history.count)])

    return history(history, lanes), codegen


@operation
def mirror(typingctx: Any, lanes: Any) -> Any:
    """The bits of each lane in reverse order."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        name = f"llvm.bitreverse.v{lanes.count}i{lanes.bits}"
        return builder.call(_declared(builder, name, ir.FunctionType(kind, [kind])), args)

    return lanes(lanes), codegen


@inlined
def light_of(luma, at, table, factor, scratch, bits, count):  # type: ignore[no-untyped-def]
    """Light of ``count`` pixels from ``luma[at]`` on, by a factor or, where that is 0, a table."""
    if factor:
        codes = resize(load(luma, at, count), bits)
        return mul(codes, splat(factor, codes))
    for i in range(count):
        scratch[i] = table[luma[at + i]]
    return resize(load(scratch, 0, count), bits)


def _declared(builder: Any, name: str, function_type: Any) -> Any:
    """LLVM's function ``name``."""
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, function_type, name)


@operation
def root(typingctx: Any, square: Any) -> Any:
    """floor(sqrt) of 32-bit lanes from 0 to 2**24 - 1.

    Such numbers are exact in IEEE single precision, whose root is the nearest one everywhere;
    it is never rounded up to the next whole number n < 4096: it is at most n - 1 / 2n, and single
    precision has a number nearer than n to that, since numbers lie 1 / 4096 apart or less.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        floats = ir.VectorType(ir.FloatType(), square.count)
        name = f"llvm.sqrt.v{square.count}f32"
        sqrt = _declared(builder, name, ir.FunctionType(floats, [floats]))
        exact = builder.sitofp(args[0], floats)
        return builder.fptosi(builder.call(sqrt, [exact]), args[0].type)

    return square(square), codegen


@operation
def byte_pairs(typingctx: Any, words: Any) -> Any:
    """The sum of the lower and that of the upper two bytes of 32-bit lanes, in the lanes' halves.

    One instruction (pmaddubsw, times 1) where there is AVX2 or AVX-512.
    """
    name = "llvm.x86.avx512.pmaddubs.w.512" if WIDE else "llvm.x86.avx2.pmadd.ub.sw"

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _native(words):
            return _plain_byte_pairs(builder, args[0])
        ones = ir.Constant(args[0].type, [0x01010101] * words.count)
        return _in_parts(builder, name, 8, [args[0], ones])

    return words(words), codegen


@operation
def dot(typingctx: Any, left: Any, right: Any) -> Any:
    """Products of the signed 16-bit halves of 32-bit lanes, the two of a lane added.

    One instruction (pmaddwd) where there is AVX2 or AVX-512.
    """
    name = "llvm.x86.avx512.pmaddw.d.512" if WIDE else "llvm.x86.avx2.pmadd.wd"

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _native(left):
            return _plain_dot(builder, *args)
        return _in_parts(builder, name, 16, args)

    return left(left, right), codegen


_NATIVE_LANES = 16 if WIDE else 8
"""32-bit lanes that an instruction of the processor takes."""


def _native(lanes: Lanes) -> bool:
    return lanes.count % _NATIVE_LANES == 0 and (WIDE or "avx2" in FEATURES)


def _in_parts(builder: Any, name: str, bits: int, args: Any) -> Any:
    """LLVM's ``name`` of vectors of 32-bit lanes, as many at a time as the processor takes.

    It takes its arguments as integers of ``bits`` bits and gives some of twice as many.
    """
    vectors = [
        ir.VectorType(ir.IntType(size), _NATIVE_LANES * 32 // size) for size in (bits, 2 * bits)
    ]
    function = _declared(builder, name, ir.FunctionType(vectors[1], [vectors[0]] * len(args)))
    parts = []
    for first in range(0, args[0].type.count, _NATIVE_LANES):
        some = [_part(builder, arg, first, _NATIVE_LANES) for arg in args]
        given = builder.call(function, [builder.bitcast(part, vectors[0]) for part in some])
        parts.append(builder.bitcast(given, ir.VectorType(ir.IntType(32), _NATIVE_LANES)))
    return _joined(builder, parts)


def _plain_byte_pairs(builder: Any, words: Any) -> Any:
    halves = ir.VectorType(ir.IntType(16), 2 * words.type.count)
    low, eight = (ir.Constant(halves, [number] * halves.count) for number in (0xFF, 8))
    pairs = builder.bitcast(words, halves)
    sums = builder.add(builder.and_(pairs, low), builder.lshr(pairs, eight))
    return builder.bitcast(sums, words.type)


def _plain_dot(builder: Any, left: Any, right: Any) -> Any:
    sixteen = ir.Constant(left.type, [16] * left.type.count)

    def halves(lanes: Any) -> list[Any]:
        low = builder.ashr(builder.shl(lanes, sixteen), sixteen)
        return [low, builder.ashr(lanes, sixteen)]

    products = [builder.mul(a, b) for a, b in zip(halves(left), halves(right), strict=True)]
    return builder.add(*products)


def _part(builder: Any, lanes: Any, first: int, count: int) -> Any:
    nothing = ir.Constant(lanes.type, ir.Undefined)
    which = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(first, first + count)))
    return builder.shuffle_vector(lanes, nothing, which)


def _joined(builder: Any, parts: list[Any]) -> Any:
    """One vector of a power of two of equal parts."""
    while len(parts) > 1:
        count = 2 * parts[0].type.count
        all_lanes = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(count)))
        parts = [
            builder.shuffle_vector(left, right, all_lanes)
            for left, right in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]
