"""A sparse matrix and its transpose as compressed rows (CSR), built from compiled interpolation."""

import hashlib
from pathlib import Path
from typing import no_type_check

import numpy as np
from numba import njit

from pcctlearn.files.cache import kept_on_disk
from pcctlearn.reading.arrays import Arrays
from pcctlearn.tomography.kernels import interpolation_numba
from pcctlearn.tomography.kernels.interpolation_numba import Interpolation


def csr_pair(interpolation: Interpolation, dtype: np.dtype, max_bytes: float) -> Arrays:
    """``matrix_*`` and ``transposed_*``, or nothing if they would exceed max_bytes.

    Row r holds weights[starts[r] : starts[r + 1]] in columns indices[starts[r] : starts[r + 1]].
    """
    starts = _row_starts(interpolation)
    n_entries = int(starts[-1])
    if 2 * n_entries * (dtype.itemsize + 4) > max_bytes or n_entries > np.iinfo(np.int32).max:
        return {}
    return kept_on_disk(
        _fingerprint(interpolation, dtype),
        lambda: _build(interpolation, starts, dtype),
        lambda arrays: _is_sound(arrays, starts, interpolation.shape[1], dtype),
    )


def _row_starts(interpolation: Interpolation) -> np.ndarray:
    starts, nothing = np.zeros(interpolation.shape[0] + 1, np.int64), np.empty(0, np.int32)
    lengths = interpolation.rows(*interpolation.arguments, starts, nothing, np.empty(0))
    np.cumsum(lengths, out=starts[1:])
    return starts


def _is_sound(arrays: Arrays, starts: np.ndarray, n_columns: int, dtype: np.dtype) -> bool:
    """Whether products with these arrays stay within bounds, which compiled code does not check."""
    if {name: array.dtype for name, array in arrays.items()} != {
        f"{name}_{part}": dtype if part == "weights" else np.dtype(np.int32)
        for name in ("matrix", "transposed")
        for part in ("starts", "indices", "weights")
    }:
        return False
    shape, n_entries = (len(starts) - 1, n_columns), starts[-1]
    for name, (n_rows, n_others) in (("matrix", shape), ("transposed", shape[::-1])):
        firsts, indices = arrays[f"{name}_starts"], arrays[f"{name}_indices"]
        if firsts.shape != (n_rows + 1,) or firsts[0] != 0 or firsts[-1] != n_entries:
            return False
        if (np.diff(firsts) < 0).any():
            return False
        if not indices.shape == arrays[f"{name}_weights"].shape == (n_entries,):
            return False
        if n_entries and not 0 <= indices.min() <= indices.max() < n_others:
            return False
    return True


def _build(interpolation: Interpolation, starts: np.ndarray, dtype: np.dtype) -> Arrays:
    indices, weights = np.empty(starts[-1], np.int32), np.empty(starts[-1], dtype)
    interpolation.rows(*interpolation.arguments, starts, indices, weights)
    n_rows, n_columns = interpolation.shape
    transposed = _transpose(starts.astype(np.int32), indices, weights, n_columns)
    matrix = _transpose(*transposed, n_rows)  # transposing sorts the indices of a row
    return {
        f"{name}_{part}": array
        for name, arrays in (("matrix", matrix), ("transposed", transposed))
        for part, array in zip(("starts", "indices", "weights"), arrays, strict=True)
    }


def _fingerprint(interpolation: Interpolation, dtype: np.dtype) -> str:
    """Hash of everything that determines the matrix, including the compiled functions' source."""
    digest = hashlib.sha256(f"{interpolation.rows.__name__} {dtype}".encode())
    for source in (interpolation_numba.__file__, __file__):
        digest.update(Path(source).read_bytes())
    for argument in interpolation.arguments:
        digest.update(f"{np.shape(argument)}".encode() + np.asarray(argument).tobytes())
    return digest.hexdigest()[:32]


@njit(cache=True)
@no_type_check
def _transpose(starts, indices, weights, n_columns):
    """Transpose by counting sort."""
    new_starts = np.zeros(n_columns + 1, np.int32)
    for column in indices:
        new_starts[column + 1] += 1
    new_starts = np.cumsum(new_starts).astype(np.int32)
    place = new_starts.copy()
    new_indices, new_weights = np.empty_like(indices), np.empty_like(weights)
    for row in range(len(starts) - 1):
        for entry in range(starts[row], starts[row + 1]):
            column = indices[entry]
            new_indices[place[column]] = row
            new_weights[place[column]] = weights[entry]
            place[column] += 1
    return new_starts, new_indices, new_weights
