"""Linear interpolation from one line of samples to another as a product with hat functions.

    result[k] += Σ_j line[j] · hat(slope_out · k − slope_in · j + offset),  hat(p) = max(0, 1 − |p|)

With slope_in = 1 this samples the line at positions slope_out · k + offset; with k and j exchanged
the same formula is the transpose, so that adjoints match by construction. Interpolation that looks
up samples by index in memory is slow, because neighbouring results share no access. Here a block of
eight results is computed at once from all samples within reach of their hats, at consecutive
addresses. numba has no vector types, so the block is written in LLVM IR, which is portable. In
float32 permuted_interpolation_numba does the same faster, on processors that permute vectors and
for slopes near one.

numba does not recompile functions of other files when this file changes: change those files too.
"""

import math
from typing import no_type_check

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from pcctlearn.tomography.kernels.permuted_interpolation_numba import (
    MOST_LANES,
    add_permuted,
    fits,
)

LANES = 8
PADDING = MOST_LANES  # elements behind n_out that a result has in addition, for whole blocks
_TAPS_AT_ONCE = 2  # unrolled; a tap out of reach has weight zero
_FLAGS = ("contract", "reassoc")  # NaN stays NaN


@njit(cache=True)
@no_type_check
def n_taps(slope_out, slope_in):
    """Largest number of samples that the hats of a block reach in one lane."""
    return math.ceil((abs(slope_out - slope_in) * (LANES - 1) + 2) / slope_in)


def margin_for(slope_range: tuple[float, float]) -> int:
    """Number of zeros needed at either end of a line, for these slopes and their inverses."""
    slopes = [slope**power for slope in slope_range for power in (1, -1)]
    taps = max(n_taps(*pair) for slope in slopes for pair in ((slope, 1.0), (1.0, slope)))
    return max(LANES + taps + _TAPS_AT_ONCE, 3 * MOST_LANES)


@njit(cache=True)
@no_type_check
def add_interpolated(line, n_in, margin, result, n_out, slope_out, slope_in, offset):
    """Add to result, which has PADDING behind n_out; line has ``margin`` zeros at both ends."""
    per_out, per_in = 1 / slope_out, 1 / slope_in
    first = max(0, math.floor((-1 - offset) * per_out) + 1)
    last = min(n_out, math.ceil((slope_in * (n_in - 1) + 1 - offset) * per_out))
    if fits(line, slope_out, per_in):
        add_permuted(line, margin, result, first, last, slope_out, slope_in, per_in, offset)
        return
    drift = slope_out - slope_in  # of the hats from lane to lane
    lowest = min(0.0, drift * (LANES - 1)) - 1
    taps = n_taps(slope_out, slope_in)
    for k in range(first, last, LANES):
        position = slope_out * k + offset
        j = math.floor((position + lowest) * per_in) + 1
        _add_block(result, k, line, margin + j, taps, position - slope_in * j, drift, slope_in)


@intrinsic
@no_type_check
def _add_block(typing, result, k, line, j, taps, position, drift, slope):
    """result[k + l] += Σ_d line[j + l + d] · hat(position + drift l − slope d), l < LANES."""
    signature = types.void(result, k, line, j, taps, position, drift, slope)

    def generate(context, builder, signature, arguments):
        result, k, line, j, taps, *numbers = arguments
        dtype = signature.args[0].dtype
        index, scalar = ir.IntType(64), context.get_data_type(dtype)
        vector = ir.VectorType(scalar, LANES)
        name = f"llvm.fabs.v{LANES}f{dtype.bitwidth}"
        absolute = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector]), name
        )

        def constant(values):
            return ir.Constant(vector, [float(value) for value in values])

        def in_all_lanes(number):
            undefined, zeros = (
                ir.Constant(vector, ir.Undefined),
                ir.VectorType(ir.IntType(32), LANES),
            )
            one = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(one, undefined, ir.Constant(zeros, [0] * LANES))

        def address(array, array_type, at):
            data = context.make_array(array_type)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())

        def load(array, array_type, at):
            return builder.load(address(array, array_type, at), align=dtype.bitwidth // 8)

        position, drift, slope = (
            in_all_lanes(context.cast(builder, number, types.float64, dtype)) for number in numbers
        )
        one, zero = constant([1] * LANES), constant([0] * LANES)
        spread = builder.fmul(drift, constant(range(LANES)), flags=_FLAGS)
        start = {
            "tap": ir.Constant(index, 0),
            "position": builder.fadd(position, spread, flags=_FLAGS),
            "total": load(result, signature.args[0], k),
        }
        before = builder.block
        loop, after = (builder.append_basic_block(name) for name in ("taps", "after"))
        builder.branch(loop)
        builder.position_at_end(loop)
        phis = {name: builder.phi(value.type) for name, value in start.items()}
        tap, position, total = phis.values()
        for _ in range(_TAPS_AT_ONCE):
            samples = load(line, signature.args[2], builder.add(j, tap))
            hat = builder.fsub(one, builder.call(absolute, [position]), flags=_FLAGS)
            hat = builder.select(builder.fcmp_ordered(">", hat, zero), hat, zero)
            total = builder.fadd(total, builder.fmul(samples, hat, flags=_FLAGS), flags=_FLAGS)
            position = builder.fsub(position, slope, flags=_FLAGS)
            tap = builder.add(tap, ir.Constant(index, 1))
        for (name, phi), value in zip(phis.items(), (tap, position, total), strict=True):
            phi.add_incoming(start[name], before)
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", tap, taps), loop, after)
        builder.position_at_end(after)
        builder.store(total, address(result, signature.args[0], k), align=dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, generate
