"""Files that are written whole or not at all."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to; it becomes ``path`` only when nothing went wrong.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    temporary = path.with_name(f"{_parts(path)}{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; free some space, or choose another "
            "folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


def discard_parts(path: Path) -> None:
    """Remove what killed processes of this machine have left of a file half-written."""
    for part in path.parent.glob(f"{_parts(path)}*.part{path.suffix}"):
        process = part.name.removeprefix(_parts(path)).partition(".")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            part.unlink(missing_ok=True)


def _parts(path: Path) -> str:
    """How the names of its parts begin: two jobs, on one machine or two, do not share one."""
    return f".{path.name}.{platform.node()}."
