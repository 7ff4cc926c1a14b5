"""Run a command of this project: its configuration, its errors, its exit status."""

import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pcctlearn.app.home import provide_home
from pcctlearn.app.interruption import exit_on_signals
from pcctlearn.app.quoting import unreadable
from pcctlearn.resources import resource

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def run_configured(task: Callable[[Any], Any], script: str, conf: Path | None = None) -> None:
    """Call ``task`` with the configuration that conf/ and the command line give."""
    run_command(lambda: _configured(task, script, conf or resource("conf")), script)


def run_command(main: Callable[[], object], script: str) -> None:
    """Call ``main``; one sentence on standard error and status 2 after an expected error.

    The status after Ctrl-C is 130, after SIGTERM 143. With HYDRA_FULL_ERROR=1, errors keep their
    traceback.
    """
    keep_freed_memory()
    provide_home()
    _escape_unprintable()
    _warn_in_one_line()
    wants_traceback = os.environ.setdefault("HYDRA_FULL_ERROR", "") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    with exit_on_signals():
        try:
            main()
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and not wants_traceback:
                _require_ours(error)
            from pcctlearn.app.sentences import EXPECTED, explain

            if wants_traceback or not isinstance(error, EXPECTED):
                raise
            print(f"pcctlearn: {explain(error, script)}", file=sys.stderr)
            sys.exit(2)


def _require_ours(error: ModuleNotFoundError) -> None:
    """Exit where a library of the application is missing; return where a module of ours is."""
    if not (error.name or "pcctlearn").startswith("pcctlearn"):
        print(
            f"pcctlearn: {error.name} is not installed: pip install 'pcctlearn[app,ct,sweeps]'",
            file=sys.stderr,
        )
        sys.exit(2)


def keep_freed_memory() -> bool:
    """Set glibc's allocator to reuse the memory of freed tensors; True if it was set.

    By default glibc returns such memory to the system at once, and every tensor of a decomposition
    then waits for the kernel to clear new pages. Other allocators are not changed.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        return False
    kept = [(_M_MMAP_THRESHOLD, 1 << 25), (_M_TRIM_THRESHOLD, (1 << 31) - 1)]  # bytes, at most
    return all(libc.mallopt(*option) for option in kept)  # type: ignore[union-attr]


def _configured(task: Callable[[Any], Any], script: str, conf: Path) -> None:
    for word in sys.argv[1:]:
        _check_word(word)
    import hydra

    from pcctlearn.app.composition import check_compositions
    from pcctlearn.app.jobs import raise_failures_only

    check_compositions()
    raise_failures_only()
    logging.getLogger("alembic").setLevel(logging.WARNING)  # MONAI imports it through optuna
    name = script.removesuffix(".py")
    hydra.main(version_base="1.3", config_path=str(conf.absolute()), config_name=name)(task)()


def _check_word(word: str) -> None:
    try:
        word.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{word!r} is not valid UTF-8: rename the file or folder with mv, and give the new name"
        ) from None
    if word.startswith("--experimental-rerun"):
        raise ValueError(f"{word} is not accepted: it runs code from a pickle file")
    if word.startswith("="):
        raise ValueError(unreadable(word))


def _warn_in_one_line() -> None:
    """Print each warning once, without the line of code that it comes from."""
    printed: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        line = " ".join(str(message).split())
        if issubclass(category, UserWarning) and line not in printed:
            printed.add(line)
            print(f"pcctlearn: warning: {line}", file=sys.stderr)

    warnings.showwarning = show


def _escape_unprintable() -> None:
    """Escape characters that the encoding of the terminal lacks, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
