"""Figures of finished runs: functions of a run's folder, with their captions as docstrings.

A figure is named "module.function", or "module.function:subject" if a run has the same figure for
several subjects, such as scans; the function then takes (folder, subject).
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
    """The named figure of the run in a folder."""
    function, *subject = _found(name)
    return function(folder, *subject)


def caption(name: str) -> str:
    """The caption: the docstring of the figure's function, after its subject if it has one."""
    function, *subject = _found(name)
    return ": ".join([*subject, " ".join((function.__doc__ or "").split())])


def file_stem(name: str) -> str:
    """The file name of the figure, without extension."""
    function, *subject = _found(name)
    return "_".join([*subject, function.__name__])


def _found(name: str) -> "tuple[Callable[..., Figure], *tuple[str, ...]]":
    """The function of a figure's name, and its subject if there is one."""
    if match := _NAME.fullmatch(name):
        module, function, subject = match.groups()
        try:
            found = getattr(import_module(f"{__name__}.{module}"), function, None)
        except ModuleNotFoundError:
            found = None
        if inspect.isfunction(found) and "folder" in inspect.signature(found).parameters:
            return (found,) if subject is None else (found, subject)
    raise ValueError(
        f"{name!r} is not a figure of this version of pcctlearn: draw it with the version of the "
        "run"
    )
