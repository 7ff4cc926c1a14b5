"""What the commands share: errors are a sentence and an exit status, and memory is kept."""

import ctypes
import errno
import os
import sys
from collections.abc import Callable

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

# what a wrong word, a wrong file, a full disk or memory, or a missing package raises; anything else
# is ours, with its traceback
EXPECTED = (
    ValueError,
    TypeError,
    OSError,
    ArithmeticError,
    MemoryError,
    ImportError,
    HydraException,
    OmegaConfBaseException,
)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def run_command(main: Callable[[], object], script: str) -> None:
    """Call a Hydra main; exit with 2 and a sentence where it meets an expected error."""
    keep_freed_memory()
    wants_traceback = os.environ.setdefault("HYDRA_FULL_ERROR", "") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then leaves its errors to us
    try:
        main()
    except EXPECTED as error:
        if wants_traceback:
            raise
        print(f"pcctlearn: {explain(error, script)}", file=sys.stderr)
        sys.exit(2)


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


def explain(error: BaseException, script: str) -> str:
    """What was wrong and how to mend it, in one line."""
    first = " ".join(str(error).split())
    if first.startswith("Could not override"):
        key = first.split("'")[1]
        return (
            f"no configuration sets {key!r}: `python {script} --cfg job` shows what is set; what "
            f"its class takes beside that is added as +{key}=VALUE"
        )
    if isinstance(error, MissingConfigException) and "Available options" in first:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        choices = first.partition(f"in '{group}':")[2].partition("Config search path")[0]
        return f"{group}={choice} is no choice: take one of {', '.join(choices.split())}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} needs a value: add {error.full_key}=VALUE"
    while isinstance(error, HydraException) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.errno is not None:
        folder = "hydra.run.dir" if script == "train.py" else "folder"
        remedy = f"is it there and open to you? Choose another folder with {folder}=FOLDER"
        if error.errno == errno.ENOSPC:
            remedy = f"free some space, or choose another folder with {folder}=FOLDER"
        return f"{error.filename}: {error.strerror}; {remedy}"
    return " ".join(str(error).split())
