"""The arrays and numbers of a finished run."""

import json
from pathlib import Path

import h5py
import numpy as np


def read_arrays(folder: Path, *names: str) -> list[np.ndarray]:
    """Arrays of ``arrays.h5`` by name."""
    with h5py.File(folder / "arrays.h5") as file:
        return [file[name][()] for name in names]


def read_numbers(folder: Path) -> dict[str, float]:
    """The numbers of ``results.json``."""
    return json.loads((folder / "results.json").read_text())
