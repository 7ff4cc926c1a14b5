"""What numba lacks: denormal numbers as zero, a fused multiply-add, and vectors of 64 bytes."""

import platform
from typing import no_type_check

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_HAS_MXCSR = platform.machine().lower() in ("x86_64", "amd64")
_FLUSH = 0x8040  # denormal results and denormal operands are zero
_WORD = ir.IntType(32)


@no_type_check
def _call(builder, name, place):
    """Call ``llvm.x86.sse.``\\ name, which stores or loads the control register."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}")
    builder.call(function, [builder.bitcast(place, pointer)])


@no_type_check
@intrinsic
def multiply_add(context, a, b, c):
    """a b + c of float32, fused on every processor that does so at the speed of a product.

    The flag ``contract`` leaves to the compiler which products it fuses, and it may choose
    otherwise for some lanes of a loop, whose results then depend on the lane.
    """

    @no_type_check
    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.f32")
        return builder.call(function, arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@no_type_check
@intrinsic
def flush_denormals(context):
    """Treat denormal numbers as zero in this thread; returns what ``restore_denormals`` needs.

    Each costs x86 processors a hundred cycles.
    """

    @no_type_check
    def generate(context, builder, signature, arguments):
        if not _HAS_MXCSR:
            return ir.Constant(_WORD, 0)
        place = cgutils.alloca_once(builder, _WORD)  # once for a loop, too
        _call(builder, "stmxcsr", place)
        before = builder.load(place)
        builder.store(builder.or_(before, ir.Constant(_WORD, _FLUSH)), place)
        _call(builder, "ldmxcsr", place)
        return before

    return types.uint32(), generate


@no_type_check
@intrinsic
def restore_denormals(context, before):
    """Treat denormal numbers as before ``flush_denormals``."""

    @no_type_check
    def generate(context, builder, signature, arguments):
        if _HAS_MXCSR:
            place = cgutils.alloca_once(builder, _WORD)
            builder.store(arguments[0], place)
            _call(builder, "ldmxcsr", place)
        return context.get_dummy_value()

    return types.void(types.uint32), generate


@no_type_check
@intrinsic
def use_wide_vectors(context):
    """Let the loops of the function that calls this use vectors of 64 bytes (AVX-512).

    By default LLVM limits them to 32 bytes, because some processors clock lower with wide ones. It
    has no effect without AVX-512.
    """

    @no_type_check
    def generate(context, builder, signature, arguments):
        # llvmlite adds only attributes of its own list
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate
