"""Print text on the terminal as it is, without interpreting markup, and leave out warnings."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


def console(stderr: bool = False) -> Console:
    """A console that prints ``[…]`` and ``:name:`` as they are, not as markup or emoji."""
    return Console(stderr=stderr, markup=False, emoji=False)


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
