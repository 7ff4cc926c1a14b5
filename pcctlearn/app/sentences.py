"""Messages of expected errors, one sentence each."""

import difflib
import errno
import os

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

# errors of the user or the environment: a wrong argument or file, a full disk or memory, a missing
# package; any other error is a fault of this project and keeps its traceback
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


def explain(error: BaseException, script: str) -> str:
    """The error and its remedy in one line."""
    text = _line(error)
    if isinstance(error, MissingConfigException) and "Available options" in text:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        listed = text.partition(f"in '{group}':")[2].partition("Config search path")[0]
        close = difflib.get_close_matches(choice, listed.split(), n=1)
        guess = f"did you mean {group}={close[0]}? " if close else ""
        return f"unknown choice {group}={choice}: {guess}accepted: {', '.join(listed.split())}"
    while isinstance(error, HydraException) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} needs a value: add {error.full_key}=VALUE"
    if isinstance(error, OmegaConfBaseException):
        first = str(error).partition("\n")[0]
        return f"{error.full_key}: {first}" if error.full_key else first
    if isinstance(error, OSError) and error.errno is not None:
        folder = "hydra.run.dir" if script == "train.py" else "folder"
        remedy = (
            f"check that it exists and that you may access it, or choose another {folder}=FOLDER"
        )
        if error.errno == errno.ENOSPC:
            remedy = f"free some space, or choose another folder with {folder}=FOLDER"
        place = "" if error.filename is None else f"{os.fspath(error.filename)!r}: "
        return f"{place}{error.strerror}; {remedy}"
    return _line(error) or type(error).__name__


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
