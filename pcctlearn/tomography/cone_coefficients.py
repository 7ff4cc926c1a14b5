"""A cone-beam scan as the numbers that its kernels run on, for Joseph's and voxel-driven weights.

Both discretisations treat x and y as a fan beam does, and then interpolate along z: a line of
voxels parallel to the axis has one depth, and the shadow of slice z falls on row w where

    z = depth · (row_scale · w + row_start) + slice_start.
"""

from typing import NamedTuple

import numpy as np

from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.tomography.interpolation_kernels import joseph_lines


class ConeCoefficients(NamedTuple):
    """Depths are in units of source_to_axis_cm, positions in voxels, rows and columns.

    lines (view, column, 3): intercept, slope and length of joseph_lines; is_steep (view, column);
    depths (view, column, 2): depth at step k is depths₀ + depths₁ k; obliquity (column, row);
    projections (view, 2, 3): of (x, y, 1) to column · depth and depth; steps_rad (view).
    """

    lines: np.ndarray
    is_steep: np.ndarray
    depths: np.ndarray
    obliquity: np.ndarray
    projections: np.ndarray
    steps_rad: np.ndarray
    row_scale: float
    row_start: float
    slice_start: float


def cone_coefficients(beam: ConeBeam) -> ConeCoefficients:
    """Everything in double precision."""
    lines, is_steep = joseph_lines(beam)
    projections = beam.projections() @ beam.volume.index_to_cm
    of_x, of_y, constant = np.moveaxis(projections[:, 1, None, :], -1, 0)
    of_slot, of_step = np.where(is_steep, of_x, of_y), np.where(is_steep, of_y, of_x)
    intercept, slope, _ = np.moveaxis(lines, -1, 0)
    row_0_cm, slice_0_cm = beam.rows_cm[0], beam.volume.slices_cm[0]
    slice_cm = beam.volume.spacing_cm[0]
    return ConeCoefficients(
        lines=lines,
        is_steep=is_steep,
        depths=np.stack([of_slot * intercept + constant, of_slot * slope + of_step], -1),
        obliquity=np.ascontiguousarray(beam.obliquity().T),
        projections=projections,
        steps_rad=beam.steps_rad,
        row_scale=beam.row_cm / beam.magnification / slice_cm,
        row_start=float(row_0_cm / beam.magnification / slice_cm),
        slice_start=float(-slice_0_cm / slice_cm),
    )


def slope_range(beam: ConeBeam) -> tuple[float, float]:
    """Least and largest number of slices from row to row, anywhere in the volume and a voxel on."""
    reach = beam.volume.corner_radius_cm + max(beam.volume.slice_spacing_cm)
    scale = beam.row_cm / beam.magnification / beam.volume.spacing_cm[0]
    change = reach * beam.source_curvature
    return scale * (1 - change), scale * (1 + change)
