"""Compiled cone-beam operators on a CUDA device, with the weights of cone_numba.

Volumes are (y, x, z) and sinograms (view, column, row), so that the lanes of a program, a block of
one line, read consecutive addresses. Every result is a sum over its inputs, also in the transposes:
a voxel sums over the rays that pass it, a pixel over the voxels projected onto it. There are no
atomics, and results are bit-identical from run to run.
"""
# mypy: disable-error-code="no-untyped-def"

from math import ceil
from typing import no_type_check

import triton
import triton.language as tl
from torch import Tensor

from pcctlearn.tomography.kernels.cone_coefficients import ConeCoefficients

_BLOCK = 64  # lanes of a program


def project(c: ConeCoefficients, volume: Tensor, sinogram: Tensor) -> None:
    """Line integrals, in operand · cm."""
    n_views, n_columns, n_rows = sinogram.shape
    arrays = (
        c.copy_of(name, volume) for name in ("lines", "is_steep", "depths", "obliquity", "axial")
    )
    _project[_grid(n_views * n_columns, n_rows)](
        volume, sinogram, *arrays, n_columns, n_rows, *volume.shape, _BLOCK, num_warps=2
    )


def project_adjoint(c: ConeCoefficients, sinogram: Tensor, volume: Tensor) -> None:
    """The transpose of project."""
    n_y, n_x, n_z = volume.shape
    names = ("lines", "is_steep", "depths", "obliquity", "projections", "axial")
    arrays = (c.copy_of(name, volume) for name in names)
    n_taps = _n_taps(1 / c.slope_range[0])
    _project_adjoint[_grid(n_y * n_x, n_z)](
        sinogram, volume, *arrays, *sinogram.shape, n_x, n_z, n_taps, _BLOCK, num_warps=2
    )


def backproject(c: ConeCoefficients, sinogram: Tensor, volume: Tensor) -> None:
    """∫ y(θ, v, u) / depth² dθ at every voxel."""
    n_y, n_x, n_z = volume.shape
    arrays = (c.copy_of(name, volume) for name in ("projections", "view_weights_rad", "axial"))
    _backproject[_grid(n_y * n_x, n_z)](
        sinogram, volume, *arrays, *sinogram.shape, n_x, n_z, _BLOCK, num_warps=2
    )


def backproject_adjoint(c: ConeCoefficients, volume: Tensor, sinogram: Tensor) -> None:
    """The transpose of backproject."""
    n_views, n_columns, n_rows = sinogram.shape
    arrays = (
        c.copy_of(name, volume) for name in ("projections", "view_weights_rad", "is_steep", "axial")
    )
    n_taps = _n_taps(c.slope_range[1])
    _backproject_adjoint[_grid(n_views * n_columns, n_rows)](
        volume, sinogram, *arrays, n_columns, n_rows, *volume.shape, n_taps, _BLOCK, num_warps=2
    )


def _grid(n_lines: int, length: int) -> tuple[int, int]:
    return n_lines, triton.cdiv(length, _BLOCK)


def _n_taps(reach: float) -> int:
    """Samples within ±reach of a point, at most."""
    return ceil(2 * reach) + 1


@triton.jit
@no_type_check
def _hat(position):
    return tl.maximum(1 - tl.abs(position), 0)


@triton.jit
@no_type_check
def _sample(line, position, length):
    """Linear interpolation on a line at the positions of the lanes; zero outside it."""
    lower = tl.floor(position)
    fraction = position - lower
    index = lower.to(tl.int64)
    below = tl.load(line + index, mask=(index >= 0) & (index < length), other=0)
    above = tl.load(line + index + 1, mask=(index >= -1) & (index < length - 1), other=0)
    return below + fraction * (above - below)


@triton.jit
@no_type_check
def _projected(projections, view, x, y):
    """Column of a line of voxels on the detector, and its depth."""
    p = projections + 6 * view
    along = tl.load(p) * x + tl.load(p + 1) * y + tl.load(p + 2)
    depth = tl.load(p + 3) * x + tl.load(p + 4) * y + tl.load(p + 5)
    return along / depth, depth


@triton.jit
@no_type_check
def _project(
    volume, sinogram, lines, is_steep, depths, obliquity, axial,
    n_columns, n_rows, n_y, n_x, n_z, BLOCK: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0)
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    steep = tl.load(is_steep + ray) > 0
    n_steps, n_slots = tl.where(steep, n_y, n_x), tl.where(steep, n_x, n_y)
    step_stride = tl.where(steep, n_x * n_z, n_z).to(tl.int64)
    slot_stride = tl.where(steep, n_z, n_x * n_z).to(tl.int64)
    intercept, slope = tl.load(lines + 3 * ray), tl.load(lines + 3 * ray + 1)
    nearest, deeper = tl.load(depths + 2 * ray), tl.load(depths + 2 * ray + 1)
    row_scale, row_start = tl.load(axial), tl.load(axial + 1)
    slice_start = tl.load(axial + 2)
    total = tl.zeros((BLOCK,), sinogram.dtype.element_ty)
    for step in range(n_steps):
        position = intercept + slope * step
        z = (nearest + deeper * step) * (row_scale * rows + row_start) + slice_start
        lower = tl.floor(position)
        for side in tl.static_range(2):
            slot = lower.to(tl.int64) + side
            if (slot >= 0) & (slot < n_slots):
                line = volume + step * step_stride + slot * slot_stride
                total += _hat(position - lower - side) * _sample(line, z, n_z)
    inside = rows < n_rows
    length = tl.load(lines + 3 * ray + 2)
    scale = length * tl.load(obliquity + ray % n_columns * n_rows + rows, mask=inside, other=0)
    tl.store(sinogram + ray.to(tl.int64) * n_rows + rows, scale * total, mask=inside)


@triton.jit
@no_type_check
def _project_adjoint(
    sinogram, volume, lines, is_steep, depths, obliquity, projections, axial,
    n_views, n_columns, n_rows, n_x, n_z,
    n_taps, BLOCK: tl.constexpr,
):  # fmt: skip
    voxels = tl.program_id(0)
    x, y = voxels % n_x, voxels // n_x
    z = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row_scale, row_start = tl.load(axial), tl.load(axial + 1)
    slice_start = tl.load(axial + 2)
    total = tl.zeros((BLOCK,), volume.dtype.element_ty)
    for view in range(n_views):
        left, _ = _projected(projections, view, x - 1, y)
        right, _ = _projected(projections, view, x + 1, y)
        up, _ = _projected(projections, view, x, y - 1)
        down, _ = _projected(projections, view, x, y + 1)
        least = tl.minimum(tl.minimum(left, right), tl.minimum(up, down))
        most = tl.maximum(tl.maximum(left, right), tl.maximum(up, down))
        first = tl.maximum(tl.ceil(least), 0).to(tl.int32)
        last = tl.minimum(tl.floor(most), n_columns - 1).to(tl.int32)
        for column in range(first, last + 1):
            ray = view * n_columns + column
            steep = tl.load(is_steep + ray) > 0
            step, slot = tl.where(steep, y, x), tl.where(steep, x, y)
            position = tl.load(lines + 3 * ray) + tl.load(lines + 3 * ray + 1) * step
            weight = _hat(position - slot) * tl.load(lines + 3 * ray + 2)
            depth = tl.load(depths + 2 * ray) + tl.load(depths + 2 * ray + 1) * step
            center = ((z - slice_start) / depth - row_start) / row_scale
            first_row = tl.ceil(center - 1 / (row_scale * depth)).to(tl.int32)
            for tap in range(n_taps):
                row = first_row + tap
                inside = (row >= 0) & (row < n_rows)
                hat = _hat(depth * (row_scale * row + row_start) + slice_start - z)
                scale = tl.load(obliquity + column * n_rows + row, mask=inside, other=0)
                pixel = tl.load(sinogram + ray.to(tl.int64) * n_rows + row, mask=inside, other=0)
                total += weight * hat * scale * pixel
    tl.store(volume + voxels.to(tl.int64) * n_z + z, total, mask=z < n_z)


@triton.jit
@no_type_check
def _backproject(
    sinogram, volume, projections, view_weights_rad, axial,
    n_views, n_columns, n_rows, n_x, n_z, BLOCK: tl.constexpr,
):  # fmt: skip
    voxels = tl.program_id(0)
    z = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row_scale, row_start = tl.load(axial), tl.load(axial + 1)
    slice_start = tl.load(axial + 2)
    total = tl.zeros((BLOCK,), volume.dtype.element_ty)
    for view in range(n_views):
        position, depth = _projected(projections, view, voxels % n_x, voxels // n_x)
        row = ((z - slice_start) / depth - row_start) / row_scale
        weight = tl.load(view_weights_rad + view) / (depth * depth)
        lower = tl.floor(position)
        for side in tl.static_range(2):
            column = lower.to(tl.int64) + side
            if (column >= 0) & (column < n_columns):
                line = sinogram + (view * n_columns + column) * n_rows
                total += weight * _hat(position - lower - side) * _sample(line, row, n_rows)
    tl.store(volume + voxels.to(tl.int64) * n_z + z, total, mask=z < n_z)


@triton.jit
@no_type_check
def _crossing(projections, view, column, steep, step):
    """The slot at which the ray of a column, on or off the panel, passes a step."""
    p = projections + 6 * view
    of_x = tl.load(p) - column * tl.load(p + 3)
    of_y = tl.load(p + 1) - column * tl.load(p + 4)
    constant = tl.load(p + 2) - column * tl.load(p + 5)
    return -(tl.where(steep, of_y, of_x) * step + constant) / tl.where(steep, of_x, of_y)


@triton.jit
@no_type_check
def _backproject_adjoint(
    volume, sinogram, projections, view_weights_rad, is_steep, axial,
    n_columns, n_rows, n_y, n_x, n_z, n_taps, BLOCK: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0)
    view, column = ray // n_columns, ray % n_columns
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    steep = tl.load(is_steep + ray) > 0
    n_steps, n_slots = tl.where(steep, n_y, n_x), tl.where(steep, n_x, n_y)
    step_rad = tl.load(view_weights_rad + view)
    row_scale, row_start = tl.load(axial), tl.load(axial + 1)
    slice_start = tl.load(axial + 2)
    total = tl.zeros((BLOCK,), sinogram.dtype.element_ty)
    for step in range(n_steps):
        before = _crossing(projections, view, column - 1, steep, step)
        after = _crossing(projections, view, column + 1, steep, step)
        first = tl.maximum(tl.ceil(tl.minimum(before, after)), 0).to(tl.int32)
        last = tl.minimum(tl.floor(tl.maximum(before, after)), n_slots - 1).to(tl.int32)
        for slot in range(first, last + 1):
            x, y = tl.where(steep, slot, step), tl.where(steep, step, slot)
            position, depth = _projected(projections, view, x, y)
            weight = step_rad / (depth * depth) * _hat(position - column)
            spread = depth * row_scale  # slices from row to row
            center = depth * (row_scale * rows + row_start) + slice_start
            first_z = tl.ceil(center - spread).to(tl.int32)
            line = volume + (y * n_x + x).to(tl.int64) * n_z
            for tap in range(n_taps):
                z = first_z + tap
                hat = _hat((z - center) / spread)
                voxel = tl.load(line + z, mask=(z >= 0) & (z < n_z), other=0)
                total += weight * hat * voxel
    tl.store(sinogram + ray.to(tl.int64) * n_rows + rows, total, mask=rows < n_rows)
