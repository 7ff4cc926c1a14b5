"""Variance of every voxel of a filtered back-projection, from the variance of every ray."""

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.tomography.fbp import FilteredRows, filtered_rows, ray_weights
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import SliceGrid, VolumeGrid
from pcctlearn.tomography.kernels.cone_coefficients import cone_coefficients
from pcctlearn.tomography.kernels.variance_numba import backproject, backproject_adjoint
from pcctlearn.tomography.linear_operator import Diagonal, LinearOperator
from pcctlearn.tomography.truncation import EdgeExtension
from pcctlearn.tomography.weights import redundancy_weights


def fbp_variance(
    geometry: Geometry, grid: SliceGrid, filter: str = "ramp", truncation: str = "water"
) -> LinearOperator:
    """Var(f_v) = Σ_i A_vi² Var(p_i) at every voxel v of f = A p, for A = ``fbp(…)``.

    Sinogram (view, [row,] column) of variances to image ([z,] y, x); noise of the rays is
    independent. The operator A∘A is linear, and carries the covariance of two basis materials in
    each ray to their covariance in each voxel as well. It is exact: it includes the weights of
    rays, the filter with its apodisation, the interpolation between correlated filtered columns,
    and the views of a short scan. It runs on a CPU.

    Rows that are extrapolated by water (``WaterExtension``) are not linear in the rays. The noise
    of the extrapolated columns is left out, and that of measured ones is exact: the result is right
    in the circle that the detector measures, and too small outside it.

    Args:
        geometry, grid, filter, truncation: as in ``fbp``.

    Raises:
        TypeError, ValueError: as ``fbp``.

    A. Wunderlich and F. Noo, "Image covariance and lesion detectability in direct fan-beam x-ray
    computed tomography", Phys. Med. Biol. 53 (2008) 2471. doi:10.1088/0031-9155/53/10/002
    """
    rows = filtered_rows(geometry, grid, filter, truncation)
    shape = geometry.sinogram_shape(grid)
    ones = torch.ones(shape)
    weights = ray_weights(geometry, grid, redundancy_weights(geometry, grid)) @ ones
    filtered = NeighbourCovariance(_filter_matrix(rows, truncation), shape)
    return VarianceBackprojector(rows.filtered_beam, grid) @ filtered @ Diagonal(weights.square())


def _filter_matrix(rows: FilteredRows, truncation: str) -> Float[Tensor, "filtered column"]:
    """R: measured columns to filtered ones; columns extrapolated by water are left out."""
    n_before, n_after = rows.n_added
    n_columns = rows.wide.n_columns - n_before - n_after
    if truncation == "cosine":
        extended = EdgeExtension((n_columns,), n_before, n_after) @ torch.eye(n_columns)
    else:
        extended = torch.nn.functional.pad(torch.eye(n_columns), rows.n_added)
    return (rows.ramp() @ extended).mT


class NeighbourCovariance(LinearOperator):
    """V_j = Σ_i R_ji² v_i and C_j = Σ_i R_ji R_{j+1,i} v_i, for rows filtered by R.

    Sinogram (view, [row,] column) of the variances v of independent rays to (2, view, column, row):
    the variance of every filtered column, and its covariance with the next one.

    Args:
        R: the filter as a matrix.
        shape: of the sinogram.
    """

    squares: Tensor

    def __init__(self, R: Float[Tensor, "filtered column"], shape: tuple[int, ...]) -> None:
        n_views, n_rows, n_filtered = shape[0], prod(shape[1:-1]), len(R)
        super().__init__(shape, (2, n_views, n_filtered, n_rows))
        products = torch.stack([R * R, torch.nn.functional.pad(R[:-1] * R[1:], (0, 0, 0, 1))])
        self.register_buffer("squares", products.flatten(0, 1), persistent=False)

    def matvec(self, x: Tensor) -> Tensor:  # noqa: D102
        batch = x.shape[: x.ndim - len(self.in_shape)]
        both = x.reshape(-1, x.shape[-1]) @ self.squares.to(x.dtype).mT
        _, n_views, n_filtered, n_rows = self.out_shape
        both = both.reshape(*batch, n_views, n_rows, 2, n_filtered)
        return both.movedim(-2, -4).mT.contiguous()

    def rmatvec(self, y: Tensor) -> Tensor:  # noqa: D102
        batch = y.shape[: y.ndim - len(self.out_shape)]
        both = y.mT.movedim(-4, -2).reshape(-1, len(self.squares))
        return (both @ self.squares.to(y.dtype)).reshape(*batch, *self.in_shape)


class VarianceBackprojector(LinearOperator):
    """Variance of ``backprojector(geometry, grid) @ q``, for q with correlated neighbours.

    From (2, view, column, row), as of ``NeighbourCovariance``, to ([z,] y, x); on a CPU.
    """

    def __init__(self, geometry: Geometry, grid: SliceGrid) -> None:
        n_views, *rows, n_columns = geometry.sinogram_shape(grid)
        super().__init__((2, n_views, n_columns, prod(rows)), grid.shape)
        if isinstance(geometry, ConeBeam):
            assert isinstance(grid, VolumeGrid)
            c = cone_coefficients(geometry, grid)
            self._arguments = c.projections, c.view_weights_rad, tuple(c.axial.tolist())
        else:  # slice 0 lies on row 0 at any depth
            projections = geometry.projections() @ grid.index_to_cm
            self._arguments = projections, geometry.view_weights_rad, (1.0, 0.0, 0.0)
        self._lines = (*grid.shape[-2:], prod(grid.shape[:-2]))  # (y, x, z)

    def matvec(self, x: Tensor) -> Tensor:  # noqa: D102
        self._require_cpu(x)
        batch = x.shape[: x.ndim - len(self.in_shape)]
        images = x.new_empty(prod(batch), *self._lines)
        sinograms = x.reshape(-1, *self.in_shape)
        backproject(*self._arguments, sinograms.numpy(), images.numpy())
        return images.movedim(-1, 1).reshape(*batch, *self.out_shape)

    def rmatvec(self, y: Tensor) -> Tensor:  # noqa: D102
        self._require_cpu(y)
        n_y, n_x, n_z = self._lines
        batch = y.shape[: y.ndim - len(self.out_shape)]
        images = y.reshape(-1, n_z, n_y, n_x).movedim(1, -1).contiguous()
        sinograms = y.new_zeros(len(images), *self.in_shape)
        for image, (V, C) in zip(images, sinograms, strict=True):
            backproject_adjoint(*self._arguments, image.numpy(), V.numpy(), C.numpy())
        return sinograms.reshape(*batch, *self.in_shape)

    def _require_cpu(self, operand: Tensor) -> None:
        if operand.device.type != "cpu":
            raise ValueError(
                f"{self!r} runs on the CPU and got an array on {operand.device}: move it with "
                ".cpu()"
            )
