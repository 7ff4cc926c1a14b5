"""Arrays kept on disk once they are built, in a folder that is safe to delete."""

import os
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

Arrays = dict[str, np.ndarray]


def cache_folder() -> Path:
    """$PCCTLEARN_CACHE, or pcctlearn/ among the user's caches."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PCCTLEARN_CACHE") or Path(caches) / "pcctlearn")


def kept_on_disk(key: str, build: Callable[[], Arrays]) -> Arrays:
    """The arrays stored under ``key``; built, and stored if possible, where there are none."""
    path = cache_folder() / f"{key}.npz"
    arrays = _load(path)
    if arrays is None:
        arrays = build()
        _store(path, arrays)
    return arrays


def _load(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        warnings.warn(f"{path} cannot be read and will be rebuilt: {error}", stacklevel=2)
        return None


def _store(path: Path, arrays: Arrays) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as folder:
            written = Path(folder) / path.name
            np.savez(written, allow_pickle=False, **arrays)
            os.replace(written, path)  # other processes see the whole file or none
    except OSError as error:
        warnings.warn(f"the matrix is not kept in {path.parent}: {error}", stacklevel=2)
