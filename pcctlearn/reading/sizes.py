"""Check the sizes that files declare before anything is read or allocated."""

import zipfile
from pathlib import Path

import psutil

from pcctlearn.reading.damaged import readable

_USABLE = 0.8  # of the free memory


def require_size(
    path: str | Path, n_bytes: int, remedy: str, most_bytes: int | None = None
) -> None:
    """Raise ValueError if a file declares more bytes than a limit or than the free memory.

    Args:
        path: the file, for the message.
        n_bytes: size of the contents in memory, as the file declares it.
        remedy: what to do, as an imperative.
        most_bytes: limit of the size; by default only the free memory is one.
    """
    free = usable_bytes()
    if most_bytes is not None and n_bytes > most_bytes:
        raise ValueError(
            f"{path} declares {_size(n_bytes)}, more than the limit of {_size(most_bytes)}: "
            f"{remedy}"
        )
    if n_bytes > free:
        raise ValueError(
            f"{path} declares {_size(n_bytes)}, more than the free memory of {_size(free)}: "
            f"{remedy}"
        )


def usable_bytes() -> int:
    """Bytes of memory that contents of files may take: 80 % of what is free."""
    return int(_USABLE * psutil.virtual_memory().available)


def require_zip(path: str | Path, what: str, remedy: str, most_bytes: int | None) -> None:
    """Raise ValueError if a file is not a zip archive (.npz, .ckpt) or unpacks to too many bytes.

    Python's and torch's readers never unpack more of a member than the size it declares, so the
    declared sizes bound the memory.
    """
    with readable(path, what, remedy), zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    require_size(path, unpacked, remedy, most_bytes)


def _size(n_bytes: int) -> str:
    """A number of bytes in MB or GB."""
    return f"{n_bytes / 1e9:,.4g} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.4g} MB"
