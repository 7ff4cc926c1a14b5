"""Print text on the terminal as it is, without interpreting markup, and leave out warnings."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

_FILE_WIDTH = 1000  # of a file or a pipe, so that no table is cut


def console(stderr: bool = False) -> Console:
    """A console that prints ``[…]`` and ``:name:`` as they are, not as markup or emoji."""
    shown = Console(stderr=stderr, markup=False, emoji=False)
    if not shown.is_terminal and "COLUMNS" not in os.environ:
        shown.width = _FILE_WIDTH
    return shown


def say(text: str) -> None:
    """Print a line on standard output without wrapping it."""
    console().print(text, soft_wrap=True)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Leave out warnings of this package, which would be about what the caller reports itself."""
    logger = logging.getLogger("pcctlearn")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
