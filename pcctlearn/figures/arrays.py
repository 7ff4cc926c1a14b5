"""The arrays and numbers of a finished run."""

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np


def read_arrays(folder: Path, *names: str) -> list[np.ndarray]:
    """Arrays of ``arrays.h5`` by name."""
    with h5py.File(folder / "arrays.h5") as file:
        return [file[name][()] for name in names]


def as_array(words: Sequence[str]) -> np.ndarray:
    """Words as an array, which ``read_words`` reads again."""
    return np.array([word.encode() for word in words])


def read_words(folder: Path, name: str) -> list[str]:
    """Words of ``arrays.h5``, in their order."""
    return [word.decode() for word in read_arrays(folder, name)[0]]


def read_numbers(folder: Path) -> dict[str, float]:
    """The numbers of ``results.json``."""
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))
