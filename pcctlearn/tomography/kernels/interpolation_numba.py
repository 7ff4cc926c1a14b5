"""Sparse matrices of linear interpolation, as compiled loops along their rows.

Each row is a sequence of steps. At each step the position lies between two neighbouring slots, and
their weights fall linearly to zero over the distance of one slot. ``joseph`` steps along a ray
through the rows or columns of the image; ``pixel_driven`` steps through the views of a voxel.

Each output is accumulated by one thread in a fixed order, so results are bit-identical for any
number of threads. ``no_type_check`` exempts compiled functions from the shape checks of the tests.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, no_type_check

import numpy as np
from numba import njit, prange

from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.geometry.planar import FlatGeometry
from pcctlearn.tomography.grids import SliceGrid
from pcctlearn.validation import FloatArray


class Interpolation(NamedTuple):
    """A matrix A of ``shape``, as compiled functions that take ``arguments`` first.

    rows(starts, indices, weights) writes row r from starts[r] on and returns the row lengths; with
    empty ``indices`` it only counts. forward(x, y) and adjoint(y, x) add A x and Aᵀ y to zeros; x
    and y have one column per image of a batch.
    """

    shape: tuple[int, int]
    arguments: tuple[Any, ...]
    rows: Callable
    forward: Callable
    adjoint: Callable


def joseph_lines(beam: Geometry, grid: SliceGrid) -> tuple[FloatArray, np.ndarray]:
    """Per view and column (intercept, slope, length), and whether the ray is steep.

    A steep ray crosses every row of the slice, a shallow one every column. At step k it passes
    slot intercept + slope · k; length is its path in cm from one step to the next.
    """
    a, b, c = np.moveaxis(beam.lines() @ grid.index_to_cm, -1, 0)
    is_steep = np.abs(a) >= np.abs(b)
    p, q = np.where(is_steep, (a, b), (b, a))
    dy, dx = grid.slice_spacing_cm
    step_cm, slot_cm = np.where(is_steep, dy, dx), np.where(is_steep, dx, dy)
    return np.stack([-c / p, -q / p, np.hypot(step_cm, slot_cm * q / p)], -1), is_steep


def joseph(beam: FlatGeometry, grid: SliceGrid) -> Interpolation:
    """Line integrals, in operand · cm: one row per ray, one column per voxel.

    P. M. Joseph, "An improved algorithm for reprojecting rays through pixel images",
    IEEE Trans. Med. Imaging 1 (1982). doi:10.1109/TMI.1982.4307572
    """
    lines, is_steep = joseph_lines(beam, grid)
    return Interpolation(
        shape=(beam.n_views * beam.n_columns, grid.n_y * grid.n_x),
        arguments=(lines.reshape(-1, 3), is_steep.ravel(), grid.n_y, grid.n_x),
        rows=_joseph_rows,
        forward=_joseph_forward,
        adjoint=_joseph_adjoint,
    )


def pixel_driven(beam: FlatGeometry, grid: SliceGrid) -> Interpolation:
    """Back-projection ∫ q(θ, u) / depth² dθ: one row per voxel, one column per ray.

    Depth is that of the voxel in units of source_to_axis_cm, and u its projected position.
    """
    return Interpolation(
        shape=(grid.n_y * grid.n_x, beam.n_views * beam.n_columns),
        arguments=(
            beam.projections() @ grid.index_to_cm,
            beam.n_columns,
            grid.n_y,
            grid.n_x,
            beam.view_weights_rad,
        ),
        rows=_pixel_driven_rows,
        forward=_pixel_driven_forward,
        adjoint=_pixel_driven_adjoint,
    )


@njit(inline="always")
@no_type_check
def _neighbours(position, n_slots):
    """The slots on either side of a position; empty outside the slots."""
    lower = int(np.floor(position))
    return range(max(lower, 0), min(lower + 2, n_slots))


@njit(inline="always")
@no_type_check
def _walk(is_steep, n_y, n_x):
    """Numbers of steps and slots of a ray, and their strides in the flattened image."""
    return (n_y, n_x, n_x, 1) if is_steep else (n_x, n_y, 1, n_x)


@njit(cache=True, parallel=True)
@no_type_check
def _joseph_rows(lines, is_steep, n_y, n_x, starts, indices, weights):
    lengths = np.zeros(len(lines), np.int64)
    for ray in prange(len(lines)):
        intercept, slope, length = lines[ray]
        n_steps, n_slots, step_stride, slot_stride = _walk(is_steep[ray], n_y, n_x)
        for step in range(n_steps):
            position = intercept + slope * step
            for slot in _neighbours(position, n_slots):
                if len(indices) > 0:
                    entry = starts[ray] + lengths[ray]
                    indices[entry] = step * step_stride + slot * slot_stride
                    weights[entry] = length * (1 - abs(position - slot))
                lengths[ray] += 1
    return lengths


@njit(cache=True, parallel=True)
@no_type_check
def _joseph_forward(lines, is_steep, n_y, n_x, x, y):
    for ray in prange(len(lines)):
        intercept, slope, length = lines[ray]
        n_steps, n_slots, step_stride, slot_stride = _walk(is_steep[ray], n_y, n_x)
        total = np.zeros(x.shape[1])
        for step in range(n_steps):
            position = intercept + slope * step
            for slot in _neighbours(position, n_slots):
                weight = length * (1 - abs(position - slot))
                voxel = step * step_stride + slot * slot_stride
                for image in range(len(total)):
                    total[image] += weight * x[voxel, image]
        y[ray] = total


@njit(cache=True, parallel=True)
@no_type_check
def _joseph_adjoint(lines, is_steep, n_y, n_x, y, x):
    for steep in (True, False):
        n_steps, n_slots, step_stride, slot_stride = _walk(steep, n_y, n_x)
        for step in prange(n_steps):  # one thread per image row, then per image column
            for ray in range(len(lines)):
                if is_steep[ray] == steep:
                    intercept, slope, length = lines[ray]
                    position = intercept + slope * step
                    for slot in _neighbours(position, n_slots):
                        weight = length * (1 - abs(position - slot))
                        voxel = step * step_stride + slot * slot_stride
                        for image in range(y.shape[1]):
                            x[voxel, image] += weight * y[ray, image]


@njit(inline="always")
@no_type_check
def _projected(projection, step_rad, voxel, n_x):
    """Projected position of a voxel on the detector, in columns, and its weight."""
    row, column = divmod(voxel, n_x)
    along = projection[0, 0] * column + projection[0, 1] * row + projection[0, 2]
    depth = projection[1, 0] * column + projection[1, 1] * row + projection[1, 2]
    return along / depth, step_rad / depth**2


@njit(cache=True, parallel=True)
@no_type_check
def _pixel_driven_rows(
    projections, n_columns, n_y, n_x, view_weights_rad, starts, indices, weights
):
    lengths = np.zeros(n_y * n_x, np.int64)
    for voxel in prange(n_y * n_x):
        for view in range(len(projections)):
            position, scale = _projected(projections[view], view_weights_rad[view], voxel, n_x)
            for column in _neighbours(position, n_columns):
                if len(indices) > 0:
                    entry = starts[voxel] + lengths[voxel]
                    indices[entry] = view * n_columns + column
                    weights[entry] = scale * (1 - abs(position - column))
                lengths[voxel] += 1
    return lengths


@njit(cache=True, parallel=True)
@no_type_check
def _pixel_driven_forward(projections, n_columns, n_y, n_x, view_weights_rad, x, y):
    for voxel in prange(n_y * n_x):
        total = np.zeros(x.shape[1])
        for view in range(len(projections)):
            position, scale = _projected(projections[view], view_weights_rad[view], voxel, n_x)
            for column in _neighbours(position, n_columns):
                weight = scale * (1 - abs(position - column))
                for image in range(len(total)):
                    total[image] += weight * x[view * n_columns + column, image]
        y[voxel] = total


@njit(cache=True, parallel=True)
@no_type_check
def _pixel_driven_adjoint(projections, n_columns, n_y, n_x, view_weights_rad, y, x):
    for view in prange(len(projections)):  # one thread per view
        for voxel in range(n_y * n_x):
            position, scale = _projected(projections[view], view_weights_rad[view], voxel, n_x)
            for column in _neighbours(position, n_columns):
                weight = scale * (1 - abs(position - column))
                for image in range(y.shape[1]):
                    x[view * n_columns + column, image] += weight * y[voxel, image]
