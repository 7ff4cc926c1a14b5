"""Files and folders that are written whole or not at all."""

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
    """A temporary name to write to; it becomes ``path`` only when nothing went wrong.

    The file is on the disk before it gets its name. The temporary name has another ending than
    ``path``: name the format where a library takes it from there.

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
    """A temporary folder to write to; it becomes ``path``, which does not exist yet, as a whole.

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
    """A temporary folder to write to; its entries then move to ``folder``, by name, ``last`` last.

    Where ``last`` stands, all the others do. None of them may be in ``folder`` already.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    temporary = _part(folder / last)
    with _explained(folder), _removed_at_the_end(temporary):
        temporary.mkdir(parents=True)
        yield temporary
        for entry in sorted(temporary.iterdir(), key=lambda entry: (entry.name == last, entry)):
            _flush(folder)  # what was moved so far, before the next
            os.replace(entry, folder / entry.name)
        _flush(folder)


def discard_parts(folder: Path, of: str = "", held: bool = False) -> None:
    """Remove temporary files and folders that processes have left in a folder.

    Args:
        folder: that holds them; there need be none.
        of: the name of the file or folder that they would have become; all, where it is empty.
        held: the caller holds a lock, so that no other process writes them. Else only those of
            dead processes of this machine are removed.
    """
    start = f".{_short(of)}." if of else "."
    for part in list(folder.glob(f".*{_SUFFIX}")):
        if part.name.startswith(start) and (held or _is_of_a_dead_process(part.name)):
            with suppress(OSError):  # of another user: harmless, as nothing reads it
                remove(part)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    """A temporary name beside ``path`` that is unique to this process and this machine."""
    name = f".{_short(path.name)}.{platform.node()}.{own_process()}{_SUFFIX}"
    return path.with_name(name)


def _short(name: str) -> str:
    """The name itself, or a digest where the endings of a temporary name would be too much."""
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
    """What the system said; HDF5 raises RuntimeError, with the number of the system's error."""
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
