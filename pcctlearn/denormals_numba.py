"""Denormal numbers as zero in compiled functions: each costs x86 processors a hundred cycles."""

import platform
from typing import no_type_check

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_HAS_MXCSR = platform.machine().lower() in ("x86_64", "amd64")
_FLUSH = 0x8040  # denormal results and denormal operands are zero
_WORD = ir.IntType(32)


@no_type_check
def _call(builder, name, place):
    """Call ``llvm.x86.sse.``\\ name, which stores or loads the control register."""
    pointer = ir.IntType(8).as_pointer()
    full = f"llvm.x86.sse.{name}"
    function = builder.module.globals.get(full)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [pointer]), full)
    builder.call(function, [builder.bitcast(place, pointer)])


@no_type_check
@intrinsic
def flush_denormals(context):
    """Treat denormal numbers as zero in this thread; returns what ``restore_denormals`` needs."""

    @no_type_check
    def generate(context, builder, signature, arguments):
        if not _HAS_MXCSR:
            return ir.Constant(_WORD, 0)
        place = builder.alloca(_WORD)
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
            place = builder.alloca(_WORD)
            builder.store(arguments[0], place)
            _call(builder, "ldmxcsr", place)
        return context.get_dummy_value()

    return types.void(types.uint32), generate
