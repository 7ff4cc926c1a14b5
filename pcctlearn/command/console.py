"""The terminal: text is printed as it is, with no markup, whatever characters a name holds."""

from rich.console import Console


def console(stderr: bool = False) -> Console:
    """A console that reads neither ``[…]`` as markup nor ``:name:`` as an emoji."""
    return Console(stderr=stderr, markup=False, emoji=False)


def say(text: str) -> None:
    """One line on standard output, broken nowhere."""
    console().print(text, soft_wrap=True)
