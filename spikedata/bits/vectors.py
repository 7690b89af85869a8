"""Pieces of LLVM code that kernels on explicit vectors share."""

from typing import Any

from llvmlite import ir


def pointer_at(
    context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any
) -> Any:
    """Pointer to a vector (or a scalar) that begins at ``index`` of a flat array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def interleave(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """a0 b0 a1 b1 ..., seen as half as many integers of twice the width."""
    count, bits = a.type.count, a.type.element.width
    order = [k for i in range(count) for k in (i, count + i)]
    mask = ir.Constant(ir.VectorType(ir.IntType(32), 2 * count), order)
    both = builder.shuffle_vector(a, b, mask)
    return builder.bitcast(both, ir.VectorType(ir.IntType(2 * bits), count))


def halves(builder: ir.IRBuilder, lanes: Any) -> list[Any]:
    """The lower and the upper halves of integers, as two vectors of half their width."""
    count, bits = lanes.type.count, lanes.type.element.width
    parts = builder.bitcast(lanes, ir.VectorType(ir.IntType(bits // 2), 2 * count))
    return [
        builder.shuffle_vector(
            parts, parts, ir.Constant(ir.VectorType(ir.IntType(32), count), order)
        )
        for order in (list(range(0, 2 * count, 2)), list(range(1, 2 * count, 2)))
    ]
