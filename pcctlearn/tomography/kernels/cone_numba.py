"""Compiled cone-beam operators on the CPU: projection, back-projection, and their transposes.

Volumes are (y, x, z) and sinograms (view, column, row): a line of voxels and a column of pixels are
both parallel to the axis, so the inner loops run along consecutive addresses. Each output is
accumulated by one thread in a fixed order, so results are bit-identical for any number of threads.
The work of a thread is a function where numba compiles that to faster code than the same loops in
the parallel region.
``no_type_check`` exempts compiled functions from the shape checks of the tests.
"""

from typing import Any, no_type_check

import numpy as np
from numba import njit, prange
from torch import Tensor

from pcctlearn.tomography.kernels.cone_coefficients import ConeCoefficients
from pcctlearn.tomography.kernels.hat_interpolation_numba import (
    PADDING,
    add_interpolated,
    margin_for,
)

_FASTMATH = {"contract", "nsz", "arcp", "reassoc"}  # NaN stays NaN
_COLUMNS = 16  # columns projected together, because neighbours cross the same voxels
_TILE = 8  # voxels along the sides of a tile, which is projected onto a few columns


def project(c: ConeCoefficients, volume: Tensor, sinogram: Tensor) -> None:
    """Line integrals, in operand · cm."""
    _project(_joseph(c), volume.numpy(), sinogram.numpy())


def project_adjoint(c: ConeCoefficients, sinogram: Tensor, volume: Tensor) -> None:
    """The transpose of project."""
    volume.zero_()
    _project_adjoint(_joseph(c), sinogram.numpy(), volume.numpy())


def backproject(c: ConeCoefficients, sinogram: Tensor, volume: Tensor) -> None:
    """∫ y(θ, v, u) / depth² dθ at every voxel."""
    _backproject(_voxel_driven(c), sinogram.numpy(), volume.numpy())


def backproject_adjoint(c: ConeCoefficients, volume: Tensor, sinogram: Tensor) -> None:
    """The transpose of backproject."""
    sinogram.zero_()
    _backproject_adjoint(_voxel_driven(c), volume.numpy(), sinogram.numpy())


def _joseph(c: ConeCoefficients) -> tuple[Any, ...]:
    return c.lines, c.is_steep, c.depths, c.obliquity, *_axial(c)


def _voxel_driven(c: ConeCoefficients) -> tuple[Any, ...]:
    return c.projections, c.view_weights_rad, *_axial(c)


def _axial(c: ConeCoefficients) -> tuple[Any, ...]:
    return *c.axial.tolist(), margin_for(c.slope_range)


@njit(cache=True)
@no_type_check
def _neighbours(position, n_slots):
    """The slots on either side of a position and their weights; zero for slots outside."""
    lower = int(np.floor(position))
    fraction = position - lower
    below = 1 - fraction if 0 <= lower < n_slots else 0.0
    above = fraction if -1 <= lower < n_slots - 1 else 0.0
    return min(max(lower, 0), n_slots - 1), below, min(max(lower + 1, 0), n_slots - 1), above


@njit(parallel=True, cache=True)
@no_type_check
def _project(joseph, volume, sinogram):
    n_views, n_columns, _ = sinogram.shape
    n_groups = (n_columns + _COLUMNS - 1) // _COLUMNS
    for item in prange(n_views * n_groups):
        _project_columns(joseph, volume, sinogram, item // n_groups, item % n_groups * _COLUMNS)


@njit(cache=True, fastmath=_FASTMATH)
@no_type_check
def _project_columns(joseph, volume, sinogram, view, first):
    """Neighbouring columns of a view."""
    lines, is_steep, depths, obliquity, row_scale, row_start, slice_start, margin = joseph
    _, n_columns, n_rows = sinogram.shape
    n_y, n_x, n_z = volume.shape
    dtype = sinogram.dtype.type
    columns = range(first, min(first + _COLUMNS, n_columns))
    totals = np.zeros((_COLUMNS, n_rows + PADDING), sinogram.dtype)
    padded = np.zeros(n_z + 2 * margin, sinogram.dtype)
    between = padded[margin : margin + n_z]
    for steep in (True, False):
        n_steps, n_slots = (n_y, n_x) if steep else (n_x, n_y)
        for step in range(n_steps):
            for column in columns:
                if is_steep[view, column] != steep:
                    continue
                position = lines[view, column, 0] + lines[view, column, 1] * step
                if not -1 < position < n_slots:
                    continue
                lower, below, upper, above = _neighbours(position, n_slots)
                a = volume[step, lower] if steep else volume[lower, step]
                b = volume[step, upper] if steep else volume[upper, step]
                below, above = dtype(below), dtype(above)
                for z in range(n_z):
                    between[z] = below * a[z] + above * b[z]
                depth = depths[view, column, 0] + depths[view, column, 1] * step
                slope, offset = row_scale * depth, row_start * depth + slice_start
                total = totals[column - first]
                add_interpolated(padded, n_z, margin, total, n_rows, slope, 1.0, offset)
    for column in columns:
        length = lines[view, column, 2]
        for row in range(n_rows):
            scale = dtype(length * obliquity[column, row])
            sinogram[view, column, row] = scale * totals[column - first, row]


@njit(parallel=True, cache=True, fastmath=_FASTMATH)
@no_type_check
def _project_adjoint(joseph, sinogram, volume):
    lines, is_steep, depths, obliquity, row_scale, row_start, slice_start, margin = joseph
    n_views, n_columns, n_rows = sinogram.shape
    n_y, n_x, n_z = volume.shape
    dtype = sinogram.dtype.type
    scaled = np.zeros((n_views, n_columns, n_rows + 2 * margin), sinogram.dtype)
    for item in prange(n_views * n_columns):
        view, column = item // n_columns, item % n_columns
        length = lines[view, column, 2]
        for row in range(n_rows):
            scale = dtype(length * obliquity[column, row])
            scaled[view, column, margin + row] = scale * sinogram[view, column, row]
    for steep in (True, False):
        n_steps, n_slots = (n_y, n_x) if steep else (n_x, n_y)
        for step in prange(n_steps):  # one thread per row of all slices, then per column
            spread = np.zeros(n_z + PADDING, sinogram.dtype)
            for view in range(n_views):
                for column in range(n_columns):
                    if is_steep[view, column] != steep:
                        continue
                    position = lines[view, column, 0] + lines[view, column, 1] * step
                    if not -1 < position < n_slots:
                        continue
                    lower, below, upper, above = _neighbours(position, n_slots)
                    a = volume[step, lower] if steep else volume[lower, step]
                    b = volume[step, upper] if steep else volume[upper, step]
                    below, above = dtype(below), dtype(above)
                    depth = depths[view, column, 0] + depths[view, column, 1] * step
                    slope, offset = row_scale * depth, row_start * depth + slice_start
                    spread[:] = 0
                    line = scaled[view, column]
                    add_interpolated(line, n_rows, margin, spread, n_z, 1.0, slope, -offset)
                    for z in range(n_z):
                        a[z] += below * spread[z]
                    for z in range(n_z):
                        b[z] += above * spread[z]


@njit(cache=True)
@no_type_check
def _projected(projection, x, y):
    """Column of a line of voxels on the detector, and its depth."""
    along = projection[0, 0] * x + projection[0, 1] * y + projection[0, 2]
    depth = projection[1, 0] * x + projection[1, 1] * y + projection[1, 2]
    return along / depth, depth


@njit(parallel=True, cache=True)
@no_type_check
def _backproject(voxel_driven, sinogram, volume):
    n_y, n_x, _ = volume.shape
    tiles_x, tiles_y = (n_x + _TILE - 1) // _TILE, (n_y + _TILE - 1) // _TILE
    for item in prange(tiles_x * tiles_y):
        first_y, first_x = item // tiles_x * _TILE, item % tiles_x * _TILE
        _backproject_tile(voxel_driven, sinogram, volume, first_y, first_x)


@njit(cache=True, fastmath=_FASTMATH)
@no_type_check
def _backproject_tile(voxel_driven, sinogram, volume, first_y, first_x):
    """Lines of voxels that are projected onto neighbouring columns."""
    projections, view_weights_rad, row_scale, row_start, slice_start, margin = voxel_driven
    n_views, n_columns, n_rows = sinogram.shape
    n_y, n_x, n_z = volume.shape
    dtype = sinogram.dtype.type
    totals = np.zeros((_TILE, _TILE, n_z + PADDING), sinogram.dtype)
    padded = np.zeros(n_rows + 2 * margin, sinogram.dtype)
    between = padded[margin : margin + n_rows]
    for view in range(n_views):
        for y in range(first_y, min(first_y + _TILE, n_y)):
            for x in range(first_x, min(first_x + _TILE, n_x)):
                position, depth = _projected(projections[view], x, y)
                if not -1 < position < n_columns:
                    continue
                lower, below, upper, above = _neighbours(position, n_columns)
                a, b = sinogram[view, lower], sinogram[view, upper]
                weight = view_weights_rad[view] / depth**2
                below, above = dtype(weight * below), dtype(weight * above)
                for row in range(n_rows):
                    between[row] = below * a[row] + above * b[row]
                slope = 1 / (row_scale * depth)
                offset = -(row_start * depth + slice_start) * slope
                total = totals[y - first_y, x - first_x]
                add_interpolated(padded, n_rows, margin, total, n_z, slope, 1.0, offset)
    for y in range(first_y, min(first_y + _TILE, n_y)):
        for x in range(first_x, min(first_x + _TILE, n_x)):
            volume[y, x] = totals[y - first_y, x - first_x, :n_z]


@njit(parallel=True, cache=True, fastmath=_FASTMATH)
@no_type_check
def _backproject_adjoint(voxel_driven, volume, sinogram):
    projections, view_weights_rad, row_scale, row_start, slice_start, margin = voxel_driven
    n_views, n_columns, n_rows = sinogram.shape
    n_y, n_x, n_z = volume.shape
    dtype = sinogram.dtype.type
    for view in prange(n_views):  # one thread per view
        padded = np.zeros(n_z + 2 * margin, sinogram.dtype)
        between = padded[margin : margin + n_z]
        spread = np.zeros(n_rows + PADDING, sinogram.dtype)
        for y in range(n_y):
            for x in range(n_x):
                position, depth = _projected(projections[view], x, y)
                if not -1 < position < n_columns:
                    continue
                lower, below, upper, above = _neighbours(position, n_columns)
                a, b = sinogram[view, lower], sinogram[view, upper]
                weight = view_weights_rad[view] / depth**2
                below, above = dtype(weight * below), dtype(weight * above)
                between[:] = volume[y, x]
                slope = 1 / (row_scale * depth)
                offset = -(row_start * depth + slice_start) * slope
                spread[:] = 0
                add_interpolated(padded, n_z, margin, spread, n_rows, 1.0, slope, -offset)
                for row in range(n_rows):
                    a[row] += below * spread[row]
                for row in range(n_rows):
                    b[row] += above * spread[row]
