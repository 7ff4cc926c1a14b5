"""Import the public names of a package on first use (PEP 562)."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def attach(
    package: str, nouns: Mapping[str, Sequence[str]], rooms: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Args:
        package: name of the package.
        nouns: {module below the package: names that the package exports from it}.
        rooms: modules below the package that are imported on first use.
    """
    origin = {noun: module for module, names in nouns.items() for noun in names}

    def get(name: str) -> Any:
        if name in origin:
            return getattr(import_module(f"{package}.{origin[name]}"), name)
        if name in rooms:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted((*origin, *rooms)), [*origin]
