"""Figures of finished runs: public functions of a run's folder, whose docstring is their caption.

A figure is named "module.function", or "module.function:subject" where a run has the same one for
several subjects, such as its scans; the function then takes (folder, subject).
"""

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAME = re.compile(r"([a-z]\w*)\.([a-z]\w*)(?::(.+))?", re.DOTALL)


def draw(name: str, folder: Path) -> "Figure":
    """The figure with this name, of the run in a folder."""
    function, *subject = _found(name)
    return function(folder, *subject)


def caption(name: str) -> str:
    """What the figure shows."""
    function, *subject = _found(name)
    return ": ".join([*subject, " ".join((function.__doc__ or "").split())])


def file_stem(name: str) -> str:
    """The name of the figure's file, without its ending."""
    function, *subject = _found(name)
    return "_".join([*subject, function.__name__])


def _found(name: str) -> "tuple[Callable[..., Figure], *tuple[str, ...]]":
    """The function of a name, and its subject if there is one."""
    if match := _NAME.fullmatch(name):
        module, function, subject = match.groups()
        try:
            found = getattr(import_module(f"{__name__}.{module}"), function, None)
        except ModuleNotFoundError:
            found = None
        if inspect.isfunction(found) and "folder" in inspect.signature(found).parameters:
            return (found,) if subject is None else (found, subject)
    raise ValueError(f"{name!r} is not a figure of this version: draw it with the run's version")
