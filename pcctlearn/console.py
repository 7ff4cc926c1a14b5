"""Print text on the terminal as it is, without interpreting markup."""

from rich.console import Console


def console(stderr: bool = False) -> Console:
    """A console that prints ``[…]`` and ``:name:`` as they are, not as markup or emoji."""
    return Console(stderr=stderr, markup=False, emoji=False)


def say(text: str) -> None:
    """Print a line on standard output without wrapping it."""
    console().print(text, soft_wrap=True)
