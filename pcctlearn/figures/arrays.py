"""Readers for the arrays and numbers of a finished run."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from pcctlearn.metrics.errors import ErrorTable
from pcctlearn.reading.damaged import readable
from pcctlearn.reading.text import read_json

_AGAIN = "run it again in another folder"


def read_arrays(folder: Path, *names: str) -> list[np.ndarray]:
    """Arrays of ``arrays.h5`` by name."""
    path = folder / "arrays.h5"
    with readable(path, "the arrays of a finished run", _AGAIN), h5py.File(path) as file:
        return [file[name][()] for name in names]


def read_names(folder: Path) -> list[str]:
    """Names of all arrays of ``arrays.h5``."""
    path, names = folder / "arrays.h5", []
    with readable(path, "the arrays of a finished run", _AGAIN), h5py.File(path) as file:
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    return names


def as_array(words: Sequence[str]) -> np.ndarray:
    """Words as an array for ``arrays.h5``, to be read with ``read_words``."""
    return np.array([word.encode() for word in words])


def read_words(folder: Path, name: str) -> list[str]:
    """An array of words in ``arrays.h5``."""
    return [word.decode() for word in read_arrays(folder, name)[0]]


def read_errors(folder: Path, group: str = "errors") -> ErrorTable:
    """The error table in ``arrays.h5``, empty if there is none."""
    path = folder / "arrays.h5"
    with readable(path, "the arrays of a finished run", _AGAIN), h5py.File(path) as file:
        found = {f"{group}/{name}": values[()] for name, values in file.get(group, {}).items()}
    return ErrorTable.from_arrays(found, group)


def read_numbers(folder: Path) -> dict[str, float]:
    """The numbers of ``results.json``."""
    path = folder / "results.json"
    numbers = read_json(path, "the numbers of a finished run", _AGAIN)
    if not isinstance(numbers, dict):
        raise ValueError(f"{path} holds no named numbers: {_AGAIN}")
    return numbers
