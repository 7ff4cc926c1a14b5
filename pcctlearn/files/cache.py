"""A cache of arrays on disk, in a folder that is safe to delete."""

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from pcctlearn.files.atomic import discard_parts, written_whole
from pcctlearn.reading.arrays import Arrays, read_npz

_CHECKSUM = "checksum"  # stored beside the arrays
_REMEDY = "it cannot be read and will be rebuilt"


def cache_folder() -> Path | None:
    """$PCCTLEARN_CACHE, or pcctlearn among the user's caches; None for a user without a home."""
    if named := os.environ.get("PCCTLEARN_CACHE"):
        return Path(named)
    try:
        return user_cache_path("pcctlearn")
    except RuntimeError:  # neither $HOME nor an entry in the password database
        return None


def kept_on_disk(
    key: str, build: Callable[[], Arrays], is_sound: Callable[[Arrays], bool] = lambda arrays: True
) -> Arrays:
    """Load the arrays stored under ``key``; if there are none, build them and store them.

    Stored arrays are used only if their checksum is right, all numbers are finite, and
    ``is_sound`` accepts their shapes, types and ranges. Otherwise a warning is raised and they are
    built again.
    """
    folder = cache_folder()
    if folder is None:
        return build()
    discard_parts(folder)
    path = folder / f"{key}.npz"
    arrays = _load(path, is_sound)
    if arrays is None:
        arrays = build()
        _store(path, arrays)
    return arrays


def _load(path: Path, is_sound: Callable[[Arrays], bool]) -> Arrays | None:
    try:
        arrays = read_npz(path, None, "an entry of the cache", _REMEDY, None)
        stored = arrays.pop(_CHECKSUM, np.empty(0)).tobytes()
        if stored != _digest(arrays):
            raise ValueError(f"the checksum of {path} is wrong: {_REMEDY}")
        if not (all(np.isfinite(array).all() for array in arrays.values()) and is_sound(arrays)):
            raise ValueError(f"{path} does not hold the arrays that it should: {_REMEDY}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        warnings.warn(str(error), stacklevel=3)
        return None
    return arrays


def _store(path: Path, arrays: Arrays) -> None:
    checksum = np.frombuffer(_digest(arrays), np.uint8)
    try:
        with written_whole(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays, **{_CHECKSUM: checksum})
    except OSError as error:
        warnings.warn(f"the cache {path.parent} is not used: {error}", stacklevel=3)


def _digest(arrays: Arrays) -> bytes:
    """SHA-256 of names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.digest()
