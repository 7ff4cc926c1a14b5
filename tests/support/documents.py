"""Find the code blocks and commands of the documents."""

import re
import shlex
from typing import NamedTuple

from support.studies import REPOSITORY

DOCUMENTS = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
# the sizes of a laptop scan, made small enough for a test
SMALLER = {
    r"n_views=360": "n_views=12",
    r"n_rows=300": "n_rows=12",
    r"n_columns=400": "n_columns=16",
    r"pixel_cm=0\.12": "pixel_cm=3.0",
    r"VolumeGrid\(160, 256, 256, 0\.1\)": "VolumeGrid(10, 16, 16, 1.6)",
}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:PYTHONPATH=\. )?python [^`]+)`")
_DESCRIPTION = re.compile(r"\s{2,}")  # two or more spaces separate it from its command


class Command(NamedTuple):
    """A documented command line, without its description, and the document that shows it."""

    document: str
    line: str

    @property
    def words(self) -> list[str]:
        """Script or module and its arguments, as a shell splits them."""
        return shlex.split(self.line.removeprefix("PYTHONPATH=. "))[1:]


def made_smaller(code: str) -> str:
    """A block of code with the sizes of ``SMALLER``."""
    for size, smaller in SMALLER.items():
        code = re.sub(size, smaller, code)
    return code


def code_blocks(text: str, language: str) -> list[str]:
    """The contents of all fenced blocks in a language."""
    return [body for found, body in _FENCE.findall(text) if found == language]


def commands() -> list[Command]:
    """Every line of a plain block, or inline code, that begins with ``python``; each once."""
    found: dict[Command, None] = {}
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        lines = [line for block in code_blocks(text, "") for line in block.splitlines()]
        lines = [_DESCRIPTION.split(line)[0] for line in lines if line.startswith("python ")]
        for line in (*lines, *_INLINE.findall(_FENCE.sub("", text))):
            found[Command(document.name, " ".join(line.split()))] = None
    return list(found)
