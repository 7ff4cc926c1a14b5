"""Text files and JSON of limited size."""

import codecs
import json
from pathlib import Path
from typing import Any

from pcctlearn.reading.damaged import readable
from pcctlearn.reading.sizes import require_size

MOST_TEXT_BYTES = 2**26
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str | Path, what: str, remedy: str, most_bytes: int = MOST_TEXT_BYTES) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte-order mark.

    Raises:
        ValueError: it is not text, or larger than ``most_bytes``. OSError: it cannot be opened.
    """
    with readable(path, what, remedy):
        with Path(path).open("rb") as file:
            content = file.read(most_bytes + 1)
        size = max(len(content), Path(path).stat().st_size)
    require_size(path, size, remedy, most_bytes)
    with readable(path, what, remedy):
        return content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig")


def read_json(path: str | Path, what: str, remedy: str) -> Any:
    """The contents of a JSON file; errors as ``read_text``."""
    text = read_text(path, what, remedy)
    with readable(path, what, remedy):
        return json.loads(text)


def shown(text: str, most: int = 80) -> str:
    """Text of a file for a message: one printable line of at most ``most`` characters."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain if len(plain) <= most else plain[: most - 1] + "…"
