"""Every name in the code is defined.

Linters cannot check this, because the axes in shape annotations look like undefined names.
"""

import builtins
import dis
from pathlib import Path
from types import CodeType

import pytest
from support.studies import REPOSITORY

FILES = sorted(
    path.relative_to(REPOSITORY)
    for top in ("pcctlearn", "tests", "benchmarks", "data", "docs", ".ci")
    for path in (REPOSITORY / top).rglob("*.py")
)
IMPLICIT = {"__file__", "__name__", "__doc__", "__path__", "__class__", "__qualname__"}
IMPLICIT |= {"__module__", "__annotations__", "__spec__"}


def codes(code):
    """A code object and all those within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def undefined(source):
    """Names that a module loads as globals but that neither it nor Python defines."""
    used, defined = set(), set(vars(builtins)) | IMPLICIT
    for code in codes(compile(source, "module", "exec", dont_inherit=True)):
        local = set()  # of a class body
        for step in dis.get_instructions(code):
            if step.opname == "STORE_NAME":
                (defined if code.co_name == "<module>" else local).add(step.argval)
            elif step.opname == "STORE_GLOBAL":
                defined.add(step.argval)
            elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval not in local:
                used.add(step.argval)
    return used - defined


def test_an_undefined_name_is_found():
    assert undefined("def f():\n    return missing + len(f.x)\n") == {"missing"}
    assert not undefined("import math\nclass A:\n    x = 1\n    y = x + math.pi\n")


@pytest.mark.parametrize("file", FILES, ids=Path.as_posix)
def test_names_are_defined(file):
    assert not undefined((REPOSITORY / file).read_text(encoding="utf-8"))
