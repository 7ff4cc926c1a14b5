"""Run a command of this project: its configuration, its errors, its exit status."""

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

from pcctlearn.command import interruption
from pcctlearn.command.quoting import unreadable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def run_command(task: Callable[[Any], Any], script: str) -> None:
    """Compose ``conf/`` with the words of the command line, and call ``task`` with the result.

    Exits with 0, with 2 and one sentence on standard error after an expected error, and with 130
    or 143 after Ctrl-C or SIGTERM. HYDRA_FULL_ERROR=1 shows expected errors with their traceback.
    """
    interruption.exit_on_signals()
    keep_freed_memory()
    _print_anything()
    wants_traceback = os.environ.setdefault("HYDRA_FULL_ERROR", "") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then leaves its errors to us
    try:
        _run(task, script)
    except Exception as error:
        if not interruption.received():
            _exit_with(error, script, wants_traceback)
    finally:
        if signal_name := interruption.received():
            print(f"pcctlearn: stopped by {signal_name}", file=sys.stderr)
            sys.exit(interruption.status())  # also where a library has caught the first one


def keep_freed_memory() -> bool:
    """Have the allocator keep what large tensors leave for the next ones; whether it does.

    glibc gives such memory back at once, and every tensor of a decomposition then waits for the
    kernel to clear new pages. Other allocators are left as they are.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        return False
    kept = [(_M_MMAP_THRESHOLD, 1 << 25), (_M_TRIM_THRESHOLD, (1 << 31) - 1)]  # bytes, at most
    return all(libc.mallopt(*option) for option in kept)  # type: ignore[union-attr]


def _run(task: Callable[[Any], Any], script: str) -> None:
    _require_words(sys.argv[1:])
    import hydra

    from pcctlearn.command.composition import check_compositions
    from pcctlearn.command.jobs import leave_failures_to_us

    check_compositions()
    leave_failures_to_us()
    name = script.removesuffix(".py")
    hydra.main(version_base="1.3", config_path="conf", config_name=name)(task)()


def _exit_with(error: Exception, script: str, wants_traceback: bool) -> None:
    from pcctlearn.command.sentences import EXPECTED, explain

    if wants_traceback or not isinstance(error, EXPECTED):
        raise error
    print(f"pcctlearn: {explain(error, script)}", file=sys.stderr)
    sys.exit(2)


def _require_words(words: list[str]) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{word!r} is not valid UTF-8: rename the file or folder with mv, and give the "
                "new name"
            ) from None
        if word.startswith("="):
            raise ValueError(unreadable(word))
        if word.startswith("--experimental-rerun"):
            raise ValueError(f"{word} is not supported: it runs code from a pickle file")


def _print_anything() -> None:
    """Print file names that are not UTF-8, and print everything where the terminal is ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
