"""Check file names: safe on every system, not hidden."""

import re
from collections.abc import Collection
from pathlib import Path

from pcctlearn.reading.text import shown

# characters that are not allowed in file names on some systems, or not printable
UNFIT = re.compile(r'[\\:*?"<>|\x00-\x1f\x7f-\x9f\ud800-\udfff]')
_LONGEST_bytes = 200  # of a name; file systems allow 255, and endings are added


def safe_stem(name: str, source: object, reserved: Collection[str] = ()) -> str:
    """Return ``name`` unchanged if an output may have that name.

    Args:
        name: name of the output, without an ending.
        source: the file or object with this name, for the message.
        reserved: names of other outputs in the same folder.

    Raises:
        ValueError: the name contains a slash or another unsafe character, is hidden, reserved or
            too long.
    """
    if not name.strip(". ") or name.startswith("."):
        fault = "is hidden or names a folder"
    elif "/" in name or UNFIT.search(name):
        fault = "contains a character that some systems do not allow in file names"
    elif name in reserved:
        fault = "is the name of another output"
    elif (n_bytes := len(name.encode())) > _LONGEST_bytes:
        fault = f"is {n_bytes} bytes long, more than {_LONGEST_bytes}"
    else:
        return name
    raise ValueError(
        f"{shown(str(source), 300)}: outputs are named after it, and '{shown(name, 300)}' {fault}: "
        "rename it to letters and digits, such as scan_1"
    )


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a part of the path below ``root`` begins with a dot.

    Such files are not data: unfinished files, the ._ files of macOS, and .Trash folders.
    """
    return any(part.startswith(".") for part in path.relative_to(root).parts)
