"""The interpolation of hat_interpolation_numba in float32, with samples picked by vector permutes.

    result[k] += Σ_j line[j] · hat(slope_out · k − slope_in · j + offset),  hat(p) = max(0, 1 − |p|)

A block of results lies within reach of few samples. They are loaded once as two vectors, of which a
permute (AVX-512 or AVX2) picks one for each result: two or three of these replace the five
or more shifted hats of a block. Positions are fixed-point numbers, whose integer part is the index.
Processors without these instructions have ``n_lanes`` of zero.
"""

import math
from typing import Any, no_type_check

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

MOST_LANES = 16
_INT32, _INT64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_POSITION_BITS = 32  # fraction of a position along the line
_INDEX_BITS = 27  # fraction of a position in a block, whose integer part is at most 31
_FLAGS = ("contract", "reassoc")  # NaN stays NaN


def _lanes_for(context: Any, dtype: types.Type) -> int:
    """Number of results in a block on the processor that the code is compiled for."""
    _, _, features = context.codegen().magic_tuple()
    if dtype != types.float32:
        return 0
    return 16 if "+avx512f" in features else 8 if "+avx2" in features else 0


@intrinsic
@no_type_check
def n_lanes(typing, line):
    """Number of results in a block; zero if this processor or precision has no permute."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(_INT64, _lanes_for(context, signature.args[0].dtype))

    return types.int64(line), generate


@njit(cache=True)
@no_type_check
def fits(line, slope_out, per_in):
    """Whether the samples of a block fit into two vectors; per_in is 1 / slope_in."""
    lanes = n_lanes(line)
    return lanes > 0 and (lanes - 1) * slope_out * per_in + math.ceil(2 * per_in) < 2 * lanes


@njit(cache=True)
@no_type_check
def add_permuted(line, margin, result, first, last, slope_out, slope_in, per_in, offset):
    """Add to result[first:last]; see add_interpolated. Margins hold 3 MOST_LANES zeros or more."""
    lanes, picks = n_lanes(line), math.ceil(2 * per_in)
    unit = 2.0**_POSITION_BITS
    step = int(slope_out * per_in * unit + 0.5)
    # of the first sample within reach; not negative, because margins are counted
    place = int(((slope_out * first + offset - 1) * per_in + 1 + margin) * unit)
    for k in range(first, last, lanes):
        _add_block(result, k, line, place, step, picks, slope_in)
        place += lanes * step


@intrinsic
@no_type_check
def _add_block(typing, result, k, line, place, step, picks, slope):
    """result[k + l] += Σ_i line[j_l + i] · hat(d_l − slope i), i < picks.

    j_l and g_l are integer and fraction of place + step l, and d_l = 1 − slope (1 − g_l).
    """
    signature = types.void(result, k, line, place, step, picks, slope)

    def generate(context, builder, signature, arguments):
        lanes = _lanes_for(context, signature.args[0].dtype)
        if lanes:
            _write_block(context, builder, signature, arguments, lanes)
        return context.get_dummy_value()

    return signature, generate


@no_type_check
def _write_block(context, builder, signature, arguments, lanes):
    result, k, line, place, step, picks, slope = arguments
    vector, indices = ir.VectorType(_FLOAT, lanes), ir.VectorType(_INT32, lanes)
    n_dropped = _POSITION_BITS - _INDEX_BITS

    def integers(values):
        return ir.Constant(indices, values)

    def in_all_lanes(number):
        undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
        one = builder.insert_element(undefined, number, _INT32(0))
        return builder.shuffle_vector(one, undefined, integers([0] * lanes))

    def address(array, array_type, at):
        data = context.make_array(array_type)(context, builder, array).data
        return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())

    def fused(name, *operands):
        return getattr(builder, name)(*operands, flags=_FLAGS)

    def hat(distance):
        name = f"llvm.fabs.v{lanes}f32"
        absolute = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector]), name
        )
        hat = fused("fsub", one, builder.call(absolute, [distance]))
        return builder.select(builder.fcmp_ordered(">", hat, zero), hat, zero)

    zero, one = (ir.Constant(vector, [float(value)] * lanes) for value in (0, 1))
    source = builder.ashr(place, _INT64(_POSITION_BITS))
    low, high = (
        builder.load(address(line, signature.args[2], builder.add(source, _INT64(n))), align=4)
        for n in (0, lanes)
    )
    at = address(result, signature.args[0], k)
    fraction = builder.lshr(builder.trunc(place, _INT32), _INT32(n_dropped))
    spacing = builder.trunc(builder.ashr(step, _INT64(n_dropped)), _INT32)
    spread = builder.mul(in_all_lanes(spacing), integers(list(range(lanes))))
    position = builder.add(in_all_lanes(fraction), spread)
    fraction = builder.and_(position, integers([2**_INDEX_BITS - 1] * lanes))
    slope = in_all_lanes(builder.fptrunc(slope, _FLOAT))
    per_unit = fused("fmul", slope, ir.Constant(vector, [2.0**-_INDEX_BITS] * lanes))
    distance = fused("fmul", builder.sitofp(fraction, vector), per_unit)
    start = {
        "pick": _INT64(0),
        "index": builder.lshr(position, integers([_INDEX_BITS] * lanes)),
        "distance": fused("fadd", distance, fused("fsub", one, slope)),
        "total": builder.load(at, align=4),
    }
    before = builder.block
    loop, after = (builder.append_basic_block(name) for name in ("picks", "after"))
    builder.branch(loop)
    builder.position_at_end(loop)
    phis = {name: builder.phi(value.type) for name, value in start.items()}
    pick, index, distance, total = phis.values()
    for _ in range(2):  # a sample out of reach has weight zero
        sample = _permuted(builder, low, high, index)
        total = fused("fadd", total, fused("fmul", sample, hat(distance)))
        index = builder.add(index, integers([1] * lanes))
        distance = fused("fsub", distance, slope)
        pick = builder.add(pick, _INT64(1))
    for (name, phi), value in zip(phis.items(), (pick, index, distance, total), strict=True):
        phi.add_incoming(start[name], before)
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", pick, picks), loop, after)
    builder.position_at_end(after)
    builder.store(total, at, align=4)


@no_type_check
def _permuted(builder, low, high, index):
    """Element ``index`` of two joined vectors in every lane."""
    lanes = low.type.count

    def call(name, *operands):
        function_type = ir.FunctionType(low.type, [operand.type for operand in operands])
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        return builder.call(function, operands)

    if lanes == 16:
        return call("llvm.x86.avx512.vpermi2var.ps.512", low, index, high)
    from_low, from_high = (call("llvm.x86.avx2.permps", half, index) for half in (low, high))
    is_low = builder.icmp_signed("<", index, ir.Constant(index.type, [lanes] * lanes))
    return builder.select(is_low, from_low, from_high)
