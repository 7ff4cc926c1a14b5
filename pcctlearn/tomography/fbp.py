"""Filtered back-projection and FDK as one linear operator: parallel, fan and cone beam."""

from typing import Literal, NamedTuple, overload

import torch

from pcctlearn.tomography.filters import RampFilter
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.grids import SliceGrid
from pcctlearn.tomography.linear_operator import Diagonal, LinearOperator
from pcctlearn.tomography.projector import backprojector, warn_if_truncated
from pcctlearn.tomography.truncation import (
    EdgeExtension,
    WaterExtended,
    WaterExtension,
    columns_beyond,
    widened,
    with_columns,
)
from pcctlearn.tomography.weights import cosine_weights, extended_weights, redundancy_weights
from pcctlearn.validation import FloatArray

TRUNCATIONS = ("water", "cosine")


@overload
def fbp(
    geometry: Geometry,
    grid: SliceGrid,
    filter: str = ...,
    *,
    truncation: Literal["cosine"],
    backend: str = ...,
) -> LinearOperator: ...
@overload
def fbp(
    geometry: Geometry,
    grid: SliceGrid,
    filter: str = ...,
    truncation: str = ...,
    water_density: float = ...,
    backend: str = ...,
) -> LinearOperator | WaterExtended: ...
def fbp(
    geometry: Geometry,
    grid: SliceGrid,
    filter: str = "ramp",
    truncation: str = "water",
    water_density: float = 1.0,
    backend: str = "auto",
) -> LinearOperator | WaterExtended:
    """Sinogram (view, [row,] column) in operand · cm to image ([z,] y, x) in operand.

    f(p) = ∫ (q ∗ h)(θ, v(p), u(p)) / depth(p)² dθ, with q = w D / √(D² + u² + v²) · line
    integrals, h the ramp along detector rows, scaled down to the axis, and w the redundancy
    weights. For a cone beam this is FDK: exact in the plane of the orbit; away from it densities
    fall off with the cone angle. For a parallel beam depth and obliquity weight are one.

    Rows are zero beyond the detector or beyond their extrapolation; q ∗ h is not, and is computed
    as far as voxels are projected. Voxels beyond the field of view are therefore right if the
    object lies within it, and wrong if the object is truncated.

    Args:
        geometry: the scan.
        grid: the voxels to reconstruct.
        filter: "ramp", or an apodised one: "shepp_logan", "cosine", "hamming" or "hann".
        truncation: extrapolation of rows where the detector is too narrow for the grid. "water"
            fits water cylinders (WaterExtension), which is not linear and has no transpose;
            "cosine" is linear (EdgeExtension) and less accurate. Without truncation both are the
            same linear operator. Rows are not extrapolated for an object that extends beyond both
            detector and grid, which causes errors of 100 HU and more: use a wider grid.
        water_density: density of water, 1 g/cm³, or its attenuation if the operand is in 1/cm.
        backend: as in ``projector``.

    Warns if an object that fills the grid is projected beyond the detector.

    Raises:
        TypeError, ValueError: as ``projector``; ValueError: lines of the grid are not measured.

    A. C. Kak and M. Slaney, "Principles of Computerized Tomographic Imaging" (1988),
    sections 3.3 and 3.4.2. doi:10.1137/1.9780898719277
    L. A. Feldkamp, L. C. Davis and J. W. Kress, "Practical cone-beam algorithm",
    J. Opt. Soc. Am. A 1 (1984). doi:10.1364/JOSAA.1.000612
    """
    warn_if_truncated(geometry, grid)
    rows = filtered_rows(geometry, grid, filter, truncation)
    ramp = rows.ramp(*geometry.sinogram_shape(grid)[:-1])
    back_filtered = backprojector(rows.filtered_beam, grid, backend) @ ramp
    redundancy = redundancy_weights(geometry, grid)
    if not any(rows.n_added):
        return back_filtered @ ray_weights(geometry, grid, redundancy)
    if truncation == "cosine":
        extend = EdgeExtension(geometry.sinogram_shape(grid), *rows.n_added)
        return back_filtered @ extend @ ray_weights(geometry, grid, redundancy)
    redundancy = extended_weights(geometry, redundancy, *rows.n_added)
    fitted = WaterExtension(rows.wide, *rows.n_added, water_density)
    weighted = back_filtered @ ray_weights(rows.wide, grid, redundancy)
    return WaterExtended(weighted, fitted, geometry.n_columns)


class FilteredRows(NamedTuple):
    """Columns of detector rows as they are extrapolated and then filtered.

    ``wide`` has the ``n_added`` columns (before, after) of the extrapolation, ``filtered_beam``
    also those ``beyond`` it, at which the filtered rows are needed.
    """

    wide: Geometry
    n_added: tuple[int, int]
    beyond: tuple[int, int]
    filter: str

    @property
    def filtered_beam(self) -> Geometry:
        """The beam of the filtered rows."""
        return with_columns(self.wide, *self.beyond)

    def ramp(self, *leading: int) -> RampFilter:
        """The filter of extrapolated rows (*leading, column)."""
        spacing_cm = self.wide.column_cm / self.wide.magnification
        return RampFilter((*leading, self.wide.n_columns), spacing_cm, self.filter, *self.beyond)


def filtered_rows(
    geometry: Geometry, grid: SliceGrid, filter: str, truncation: str
) -> FilteredRows:
    """The rows of ``fbp`` with these arguments, and its errors."""
    require_truncation(truncation)
    geometry.require_grid(grid)
    wide, *n_added = widened(geometry, grid, to_corners=truncation == "water")
    return FilteredRows(wide, (n_added[0], n_added[1]), columns_beyond(wide, grid), filter)


def require_truncation(truncation: str) -> None:
    """Raise ValueError for a name that is not in ``TRUNCATIONS``."""
    if truncation not in TRUNCATIONS:
        accepted = ", ".join(TRUNCATIONS)
        raise ValueError(f"truncation must be one of {accepted}, got {truncation!r}")


def ray_weights(geometry: Geometry, grid: SliceGrid, redundancy: FloatArray) -> LinearOperator:
    """Obliquity times redundancy (view, column), for a sinogram of the grid."""
    dtype, shape = torch.get_default_dtype(), geometry.sinogram_shape(grid)
    cosine = torch.from_numpy(cosine_weights(geometry)).to(dtype)
    weights = torch.from_numpy(redundancy).to(dtype)
    weights = weights.reshape(geometry.n_views, *(1,) * (len(shape) - 2), -1)
    return Diagonal(cosine, shape) @ Diagonal(weights, shape)
