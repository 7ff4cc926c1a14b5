"""Coefficients of a cone-beam scan for the compiled projectors: Joseph's and voxel-driven weights.

Both discretisations treat x and y as a fan beam does, and then interpolate along z: a line of
voxels parallel to the axis has one depth, and slice z is projected onto row w where

    z = depth · (row_scale · w + row_start) + slice_start.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.tomography.kernels.interpolation_numba import joseph_lines


@dataclass(frozen=True)
class ConeCoefficients:
    """Depths are in units of source_to_axis_cm, positions in voxels, rows and columns.

    lines (view, column, 3): intercept, slope and length of joseph_lines; is_steep (view, column);
    depths (view, column, 2): depth at step k is depths₀ + depths₁ k; obliquity (column, row);
    projections (view, 2, 3): of (x, y, 1) to column · depth and depth; view_weights_rad (view);
    axial: row_scale, row_start and slice_start; slope_range: smallest and largest number of slices
    from one row to the next, anywhere in the volume.
    """

    lines: np.ndarray
    is_steep: np.ndarray
    depths: np.ndarray
    obliquity: np.ndarray
    projections: np.ndarray
    view_weights_rad: np.ndarray
    axial: np.ndarray
    slope_range: tuple[float, float]
    _copies: dict = field(default_factory=dict, repr=False, compare=False)

    def copy_of(self, name: str, like: Tensor) -> Tensor:
        """An array as a tensor of this device and precision, cached."""
        key = name, like.device, like.dtype
        if key not in self._copies:
            array = torch.from_numpy(np.ascontiguousarray(getattr(self, name)))
            self._copies[key] = array.to(like.device, like.dtype)
        return self._copies[key]


def cone_coefficients(beam: ConeBeam, grid: VolumeGrid) -> ConeCoefficients:
    """Coefficients of a scan of this grid, in double precision."""
    lines, is_steep = joseph_lines(beam, grid)
    projections = beam.projections() @ grid.index_to_cm
    of_x, of_y, constant = np.moveaxis(projections[:, 1, None, :], -1, 0)
    of_slot, of_step = np.where(is_steep, of_x, of_y), np.where(is_steep, of_y, of_x)
    intercept, slope, _ = np.moveaxis(lines, -1, 0)
    row_0_cm, slice_0_cm = beam.rows_cm[0], grid.slices_cm[0]
    slice_cm = grid.spacing_cm[0]
    row_scale = beam.row_cm / beam.magnification / slice_cm
    # largest relative change of depth in the volume and one voxel beyond
    change = (grid.corner_radius_cm + max(grid.slice_spacing_cm)) * beam.source_curvature
    return ConeCoefficients(
        lines=lines,
        is_steep=is_steep,
        depths=np.stack([of_slot * intercept + constant, of_slot * slope + of_step], -1),
        obliquity=np.ascontiguousarray(beam.obliquity().T),
        projections=projections,
        view_weights_rad=beam.view_weights_rad,
        axial=np.array([row_scale, row_0_cm * row_scale / beam.row_cm, -slice_0_cm / slice_cm]),
        slope_range=(row_scale * (1 - change), row_scale * (1 + change)),
    )
