"""Compiled back-projection of variances: the weights of interpolation, squared.

The columns of a filtered row are correlated, since they share the same rays; rows and views are
independent. A voxel between columns j and j + 1, and rows r and r + 1, therefore has the variance

    Σ_θ w² Σ_r b_r² [(1 − a)² V_jr + a² V_{j+1,r} + 2 a (1 − a) C_jr],

with the weight w of the view, the weights b_r of the rows, the position a between the columns, the
variance V of the filtered columns, and the covariance C of each with the next one. Volumes are
(y, x, z) and sinograms (view, column, row). Each output is accumulated by one thread in a fixed
order. ``no_type_check`` exempts compiled functions from the shape checks of the tests.
"""

from typing import no_type_check

import numpy as np
from numba import njit, prange

_FASTMATH = {"contract", "nsz", "arcp", "reassoc"}  # NaN stays NaN
_TILE = 8  # voxels along the sides of a tile, which is projected onto a few columns


@njit(inline="always")
@no_type_check
def _projected(projection, x, y):
    """Column of a line of voxels on the detector, and its depth."""
    along = projection[0, 0] * x + projection[0, 1] * y + projection[0, 2]
    depth = projection[1, 0] * x + projection[1, 1] * y + projection[1, 2]
    return along / depth, depth


@njit(inline="always")
@no_type_check
def _squares(position, n_columns, weight):
    """The lower column and the squared weights of both columns and of their covariance."""
    lower = int(np.floor(position))
    a = position - lower
    below = weight * (1 - a) ** 2 if lower >= 0 else 0.0
    above = weight * a**2 if lower < n_columns - 1 else 0.0
    both = 2 * weight * a * (1 - a) if 0 <= lower < n_columns - 1 else 0.0
    return max(lower, 0), min(lower + 1, n_columns - 1), below, above, both


@njit(inline="always")
@no_type_check
def _slices(axial, depth, n_rows, n_z):
    """Row of slice z as offset + slope z, and the slices from first to last − 1 on the panel."""
    row_scale, row_start, slice_start = axial
    slope = 1 / (row_scale * depth)
    offset = -(row_start * depth + slice_start) * slope
    first = max(0, int(np.floor((-1 - offset) / slope)) + 1)
    last = min(n_z, int(np.ceil((n_rows - offset) / slope)))
    return slope, offset, first, last


@njit(parallel=True, cache=True)
@no_type_check
def backproject(projections, view_weights_rad, axial, sinograms, volumes):
    """Variances (image, y, x, z) of sinograms (image, 2, view, column, row) of V and C."""
    _, n_y, n_x, n_z = volumes.shape
    if n_z == sinograms.shape[-1] == 1:
        for y in prange(n_y):
            _backproject_row(projections, view_weights_rad, axial, sinograms, volumes, y)
        return
    tiles_x, tiles_y = (n_x + _TILE - 1) // _TILE, (n_y + _TILE - 1) // _TILE
    for item in prange(tiles_x * tiles_y):
        first_y, first_x = item // tiles_x * _TILE, item % tiles_x * _TILE
        _backproject_tile(
            projections, view_weights_rad, axial, sinograms, volumes, first_y, first_x
        )


@njit(cache=True, fastmath=_FASTMATH)
@no_type_check
def _backproject_row(projections, view_weights_rad, axial, sinograms, volumes, y):
    """A line of voxels in x, of one slice that is projected onto one row of pixels."""
    n_images, _, n_views, n_columns, _ = sinograms.shape
    n_x = volumes.shape[2]
    row_scale, row_start, slice_start = axial
    totals = np.zeros((n_x, n_images))
    for view in range(n_views):
        for x in range(n_x):
            position, depth = _projected(projections[view], x, y)
            if not -1 < position < n_columns:
                continue
            row = (row_start * depth + slice_start) / (row_scale * depth)
            share = max(0.0, 1 - abs(row))
            weight = (view_weights_rad[view] * share / depth**2) ** 2
            lower, upper, below, above, both = _squares(position, n_columns, weight)
            for image in range(n_images):
                totals[x, image] += (
                    below * sinograms[image, 0, view, lower, 0]
                    + above * sinograms[image, 0, view, upper, 0]
                    + both * sinograms[image, 1, view, lower, 0]
                )
    for x in range(n_x):
        for image in range(n_images):
            volumes[image, y, x, 0] = totals[x, image]


@njit(cache=True, fastmath=_FASTMATH)
@no_type_check
def _backproject_tile(projections, view_weights_rad, axial, sinograms, volumes, first_y, first_x):
    """Lines of voxels that are projected onto neighbouring columns."""
    n_images, _, n_views, n_columns, n_rows = sinograms.shape
    _, n_y, n_x, n_z = volumes.shape
    dtype = volumes.dtype.type
    totals = np.zeros((_TILE, _TILE, n_images, n_z), volumes.dtype)
    line = np.zeros(n_rows + 2, volumes.dtype)  # with a zero beside the first and last row
    rows = np.zeros(n_z, np.int32)
    lows, highs = np.zeros(n_z, volumes.dtype), np.zeros(n_z, volumes.dtype)
    for view in range(n_views):
        for y in range(first_y, min(first_y + _TILE, n_y)):
            for x in range(first_x, min(first_x + _TILE, n_x)):
                position, depth = _projected(projections[view], x, y)
                if not -1 < position < n_columns:
                    continue
                weight = (view_weights_rad[view] / depth**2) ** 2
                lower, upper, below, above, both = _squares(position, n_columns, weight)
                below, above, both = dtype(below), dtype(above), dtype(both)
                slope, offset, first, last = _slices(axial, depth, n_rows, n_z)
                slope, start = dtype(slope), dtype(offset + 1)
                for z in range(first, last):
                    row = start + slope * dtype(z)
                    rows[z] = np.int32(row)
                    b = row - dtype(rows[z])
                    lows[z], highs[z] = (dtype(1) - b) ** 2, b**2
                for image in range(n_images):
                    V, C = sinograms[image, 0, view], sinograms[image, 1, view]
                    for row in range(n_rows):
                        line[row + 1] = (
                            below * V[lower, row] + above * V[upper, row] + both * C[lower, row]
                        )
                    total = totals[y - first_y, x - first_x, image]
                    for z in range(first, last):
                        index = rows[z]
                        total[z] += lows[z] * line[index] + highs[z] * line[index + 1]
    for y in range(first_y, min(first_y + _TILE, n_y)):
        for x in range(first_x, min(first_x + _TILE, n_x)):
            for image in range(n_images):
                volumes[image, y, x] = totals[y - first_y, x - first_x, image]


@njit(parallel=True, cache=True, fastmath=_FASTMATH)
@no_type_check
def backproject_adjoint(projections, view_weights_rad, axial, volume, variance, next_covariance):
    """The transpose of backproject; adds to zeros."""
    n_views, n_columns, n_rows = variance.shape
    n_y, n_x, n_z = volume.shape
    dtype = volume.dtype.type
    for view in prange(n_views):
        line = np.zeros(n_rows + 2, volume.dtype)
        for y in range(n_y):
            for x in range(n_x):
                position, depth = _projected(projections[view], x, y)
                if not -1 < position < n_columns:
                    continue
                weight = (view_weights_rad[view] / depth**2) ** 2
                lower, upper, below, above, both = _squares(position, n_columns, weight)
                slope, offset, first, last = _slices(axial, depth, n_rows, n_z)
                slope, start = dtype(slope), dtype(offset + 1)
                line[:] = 0
                for z in range(first, last):
                    row = start + slope * dtype(z)
                    index = np.int32(row)
                    b = row - dtype(index)
                    rest = dtype(1) - b
                    line[index] += rest * rest * volume[y, x, z]
                    line[index + 1] += b * b * volume[y, x, z]
                for row in range(n_rows):
                    variance[view, lower, row] += below * line[row + 1]
                    variance[view, upper, row] += above * line[row + 1]
                    next_covariance[view, lower, row] += both * line[row + 1]
