"""Lock files, so that only one process at a time works on a folder or a file."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pcctlearn.files.processes import is_alive, own_process

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_WAIT_s = 0.2  # between two attempts
_UNWRITTEN_s = 10.0  # between making a lock file and writing its holder, at most


class LockedError(Exception):
    """Another process holds the lock; the message says which."""


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock file ``path``; the file is removed at the end.

    The lock is the operating system's (``flock``) and ends with its process, so that the lock file
    of a killed process does not block others. On network file systems it works between machines if
    the mount supports locks, as NFSv4 does. On a file system without locks, the existence of the
    file is the lock. The file of a dead process is then recognised by its pid and start time, but
    only on the machine of that process.

    Raises:
        LockedError: another process holds it, and ``wait`` is off.
        OSError: the file cannot be made.
    """
    while True:
        try:
            handle = _acquired(path)
            break
        except LockedError:
            if not wait:
                raise
        time.sleep(_WAIT_s)
    try:
        yield
    finally:
        _release(path, handle)


def discard_locks(folder: Path) -> None:
    """Remove the lock files in a folder that no process holds."""
    for path in folder.glob(".*.lock"):
        with suppress(LockedError, OSError), locked(path):
            pass


def _acquired(path: Path) -> int:
    """An open handle that holds the lock."""
    while True:
        handle, is_new = _opened(path)
        try:
            if _flock(handle):
                if _is_still_there(path, handle):
                    _write_holder(handle)
                    return handle
            elif is_new:
                _write_holder(handle)
                return handle
            elif _is_abandoned(path):
                path.unlink(missing_ok=True)
            else:
                raise LockedError(f"{_holder(path)}; if it has ended, delete {path}")
        except BlockingIOError:
            os.close(handle)
            raise LockedError(_holder(path)) from None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # another process has just removed the file: try again


def _release(path: Path, handle: int) -> None:
    if fcntl is None:  # Windows cannot delete an open file
        os.close(handle)
        path.unlink(missing_ok=True)
    else:  # removed first: a process that opened it meanwhile sees that it is gone
        path.unlink(missing_ok=True)
        os.close(handle)


def _opened(path: Path) -> tuple[int, bool]:
    """A handle, and whether the file is new."""
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            pass
        try:
            return os.open(path, os.O_RDWR), False
        except FileNotFoundError:  # removed just now
            pass


def _flock(handle: int) -> bool:
    """Take the system's lock; return False if the file system has no locks.

    Raises:
        BlockingIOError: another process has it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # ENOLCK, ENOTSUP or ENOSYS, depending on the file system
        return False
    return True


def _is_still_there(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _is_abandoned(path: Path) -> bool:
    """Whether a lock file, on a file system without locks, was left by a process that has ended."""
    words = _words(path)
    if words is None:  # not written yet, or killed before it was
        return time.time() - path.stat().st_mtime > _UNWRITTEN_s
    process, host, _ = words
    return host == platform.node() and not is_alive(process)


def _write_holder(handle: int) -> None:
    words = f"{own_process()} {platform.node()} {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
    os.ftruncate(handle, 0)
    os.write(handle, words.encode())


def _holder(path: Path) -> str:
    words = _words(path)
    if words is None:
        return "another process"
    process, host, since = words
    return f"process {process.partition('.')[0]} on {host}, since {since}"


def _words(path: Path) -> tuple[str, str, str] | None:
    """Process, host and start time in a lock file, if they are written."""
    try:
        process, host, since = path.read_text(encoding="utf-8").strip().split(" ", 2)
    except (OSError, ValueError):
        return None
    return process, host, since
