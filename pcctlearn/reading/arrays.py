"""Arrays of numbers from .npz and .mat files, whose headers are checked before they are read."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from pcctlearn.reading.damaged import readable
from pcctlearn.reading.sizes import require_size, require_zip

MOST_BYTES = 2**30  # of all arrays of one file
_CHUNK_BYTES = 2**24
Arrays = dict[str, np.ndarray]
_NUMBERS_OF_MATLAB = {"double", "single", "logical"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def read_npz(
    path: str | Path,
    names: Sequence[str] | None,
    what: str,
    remedy: str,
    most_bytes: int | None = MOST_BYTES,
) -> Arrays:
    """Read the named arrays of an .npz file, or all of them, after checking their headers.

    Without ``most_bytes``, the free memory is the limit.

    Raises:
        ValueError: the file is damaged, too large, lacks a name or holds anything but numbers.
        OSError: there is no such file, or no permission.
    """
    require_zip(path, what, remedy, most_bytes)
    with readable(path, what, remedy), zipfile.ZipFile(path) as archive:
        found = [name.removesuffix(".npy") for name in archive.namelist()]
        return {name: _member(archive, name) for name in (found if names is None else names)}


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as stream:
        shape, columns_first, dtype = _header(stream)
        if dtype.kind not in "biuf":
            raise TypeError(f"{name} holds {dtype}, not numbers")
        n_bytes = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or n_bytes > member.file_size:
            raise ValueError(f"{name} declares the shape {shape}, and has {member.file_size} bytes")
        content, n_read = np.empty(n_bytes, np.uint8), 0
        while chunk := stream.read(_CHUNK_BYTES):  # to the end, where the CRC is checked
            content[n_read : n_read + len(chunk)] = np.frombuffer(chunk, np.uint8)
            n_read += len(chunk)
    if n_read != n_bytes:
        raise ValueError(f"{name} has {n_read} bytes, and its shape {shape} takes {n_bytes}")
    return content.view(dtype).reshape(shape, order="F" if columns_first else "C")


def _header(stream: IO[bytes] | zipfile.ZipExtFile) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first axis is the fastest, and kind of numbers."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def read_mat(path: str | Path, names: Sequence[str], what: str, remedy: str) -> Arrays:
    """Read the named arrays of a MATLAB file up to version 7; errors as ``read_npz``.

    Names, classes and shapes are read first. Cells and structures are never opened, because they
    may be nested without end.
    """
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import matfile_version

    with readable(path, what, remedy):
        if matfile_version(path)[0] == 2:
            raise ValueError("it is of version 7.3: save it in MATLAB with the option '-v7'")
    with readable(path, what, remedy):
        listed = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        for name in names:
            if name not in listed:
                raise KeyError(name)
            if listed[name][1] not in _NUMBERS_OF_MATLAB:
                raise TypeError(f"{name} is of class {listed[name][1]}, not of numbers")
    require_size(
        path, sum(8 * math.prod(map(int, listed[n][0])) for n in names), remedy, MOST_BYTES
    )
    with readable(path, what, remedy):
        content = loadmat(path, variable_names=list(names))
        arrays = {name: np.asarray(content[name]) for name in names}
        for name, values in arrays.items():
            if values.dtype.kind not in "biuf":
                raise TypeError(f"{name} holds {values.dtype}, not real numbers")
    return arrays
