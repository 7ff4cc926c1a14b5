"""The exceptions that libraries raise on damaged files, and the ValueError that replaces them."""

import csv
import lzma
import pickle
import struct
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BUILT_IN = (
    ArithmeticError,  # sizes that overflow, steps of zero
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,  # members that are absent, text encodings that do not exist
    MemoryError,  # sizes that a damaged header declares
    OSError,
    RuntimeError,  # h5py, torch; RecursionError of nested contents
    SyntaxError,  # numpy parses array headers as Python literals
    SystemError,  # compiled extensions
    TypeError,
    ValueError,  # UnicodeError, JSONDecodeError
    csv.Error,
    lzma.LZMAError,
    pickle.PickleError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
# looked up only if the library is loaded; this module imports none of them
_OF_LIBRARIES = {
    "nibabel.filebasedimages": ("ImageFileError",),
    "nibabel.spatialimages": ("HeaderDataError", "HeaderTypeError"),
    "nibabel.wrapstruct": ("WrapStructError",),
    "omegaconf.errors": ("OmegaConfBaseException",),
    "pydicom.errors": ("BytesLengthException", "InvalidDicomError"),
    "scipy.io.matlab": ("MatReadError",),
    "yaml": ("YAMLError",),
}
# faults of the path, not of the contents
_OF_THE_PATH = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_LONGEST_REASON = 160  # characters


def library_errors() -> tuple[type[Exception], ...]:
    """Exceptions that h5py, numpy, scipy, zip, nibabel, pydicom, torch and YAML raise on bad bytes.

    For ``except library_errors():`` around a single call of a library.
    """
    loaded = [
        getattr(sys.modules[module], name)
        for module, names in _OF_LIBRARIES.items()
        if module in sys.modules
        for name in names
    ]
    return (*_BUILT_IN, *loaded)


@contextmanager
def readable(path: str | Path, what: str, remedy: str) -> Iterator[None]:
    """Replace the errors that a library raises on the contents of a file by a one-line ValueError.

    Only the call of the library belongs in the block: errors of this project's own code must keep
    their traceback.

    Args:
        path: the file, for the message.
        what: the expected kind of file with its article: "a NIfTI file".
        remedy: what to do, as an imperative.

    Raises:
        ValueError: the contents cannot be read. OSError: there is no such file, or no permission.
    """
    try:
        yield
    except _OF_THE_PATH as error:
        raise type(error)(error.errno, error.strerror or reason_of(error), str(path)) from error
    except MemoryError as error:
        raise ValueError(
            f"{path} declares more data than fits into memory ({reason_of(error)}): {remedy}"
        ) from error
    except library_errors() as error:
        raise damaged(path, what, error, remedy) from error


def damaged(path: str | Path, what: str, error: BaseException, remedy: str) -> ValueError:
    """The error for a file whose contents are not those of ``what``, in one line."""
    return ValueError(f"{path} is damaged or not {what} ({reason_of(error)}): {remedy}")


def reason_of(error: BaseException) -> str:
    """The message of a library in one line, without advice to load pickles."""
    words = " ".join(str(error).split())
    if isinstance(error, pickle.PickleError) or "allow_pickle" in words:
        return "it holds Python objects (a pickle), which are never loaded"
    if isinstance(error, KeyError):
        words = f"{words} is missing"
    if len(words) > _LONGEST_REASON:
        words = words[: _LONGEST_REASON - 1].rstrip() + "…"
    return words or type(error).__name__
