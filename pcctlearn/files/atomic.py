"""Write files and folders whole or not at all."""

import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pcctlearn.files.processes import is_alive, own_process

_SUFFIX = ".part"  # last of all, so that *.h5 or *.nii.gz matches no temporary file


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write to, which is renamed to ``path`` if there is no error.

    The file is on the disk before it is renamed. The temporary name has another ending than
    ``path``: name the format if a library infers it from the ending.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    temporary = _part(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to write to, then rename it to ``path``, which must not exist yet.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    temporary = _part(path)
    with _explained(path), _removed_at_the_end(temporary):
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, path)
        _flush(path.parent)


@contextmanager
def added_whole(folder: Path, last: str) -> Iterator[Path]:
    """Yield a temporary folder to write to, then move its entries to ``folder``, ``last`` last.

    If ``last`` exists, all others do. None of the entries may exist in ``folder`` before.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    temporary = _part(folder / last)
    with _explained(folder), _removed_at_the_end(temporary):
        temporary.mkdir(parents=True)
        yield temporary
        for entry in sorted(temporary.iterdir(), key=lambda entry: (entry.name == last, entry)):
            _flush(folder)  # flush moved entries to disk before moving the next
            os.replace(entry, folder / entry.name)
        _flush(folder)


def discard_parts(folder: Path, of: str = "", held: bool = False) -> None:
    """Remove temporary files and folders that interrupted processes have left in a folder.

    Args:
        folder: where they are; it may not exist.
        of: final name of the file or folder; empty for all.
        held: the caller holds a lock, so that no other process writes them. Otherwise only those
            of dead processes of this machine are removed.
    """
    start = f".{_short(of)}." if of else "."
    for part in list(folder.glob(f".*{_SUFFIX}")):
        if part.name.startswith(start) and (held or _is_of_a_dead_process(part.name)):
            with suppress(OSError):  # of another user: harmless, as nothing reads it
                remove(part)


def remove(path: Path) -> None:
    """Remove a file or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    """A temporary name beside ``path`` that is unique to this process and this machine."""
    name = f".{_short(path.name)}.{platform.node()}.{own_process()}{_SUFFIX}"
    return path.with_name(name)


def _short(name: str) -> str:
    """The name, or a digest of it if a temporary name would be too long."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= 100 else hashlib.sha256(encoded).hexdigest()[:32]


def _is_of_a_dead_process(name: str) -> bool:
    before, *process = name.removesuffix(_SUFFIX).rsplit(".", 2)
    return before.endswith(f".{platform.node()}") and not is_alive(".".join(process))


@contextmanager
def _removed_at_the_end(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise one OSError for a full disk or a missing permission, whichever library reported it."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise OSError(
            f"cannot write {path}: {reason}; free some space, or choose another folder"
        ) from error


def _reason(error: BaseException) -> str | None:
    """The operating system's message; HDF5 raises RuntimeError with the number of the error."""
    while isinstance(error.__cause__, OSError | RuntimeError):  # of a file in a folder
        error = error.__cause__
    if number := re.search(r"errno = (\d+)", str(error)):
        return os.strerror(int(number[1]))
    return error.strerror or str(error) if isinstance(error, OSError) else None


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":
        return  # only POSIX systems open folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
