"""Parallel- and fan-beam projection and back-projection as products with a sparse matrix.

The matrix and its transpose are both stored, so that forward and adjoint both run row by row, each
row in one thread. Leading axes (batch, material) become the columns of one product. A matrix above
2 GB is not stored; its entries are computed on the fly, on the CPU only.
"""

import warnings
from math import inf, prod

import torch
from torch import Tensor

from pcctlearn.tomography.geometry.planar import FlatGeometry
from pcctlearn.tomography.grids import SliceGrid
from pcctlearn.tomography.kernels.csr import csr_pair
from pcctlearn.tomography.kernels.interpolation_numba import Interpolation, joseph, pixel_driven
from pcctlearn.tomography.linear_operator import LinearOperator

BACKENDS = ("auto", "matrix", "numba")
_MAX_MATRIX_BYTES = 2e9  # of the matrix and its transpose, in "auto"
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


class InterpolationOperator(LinearOperator):
    """A matrix of interpolation weights between an image and a sinogram.

    backend: "matrix" stores the matrix, on any device; "numba" computes its entries on the fly, on
    the CPU; "auto" stores it up to 2 GB. Stored weights have torch's default dtype at construction;
    ``.double()`` and ``.to()`` convert them. Checkpoints do not contain them.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        interpolation: Interpolation,
        backend: str,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(
                f"backend of a parallel or fan beam must be one of {', '.join(BACKENDS)}, got "
                f"{backend!r}"
            )
        super().__init__(in_shape, out_shape)
        self.interpolation = interpolation
        dtype = torch.empty(0).numpy().dtype
        max_bytes = {"auto": _MAX_MATRIX_BYTES, "matrix": inf, "numba": 0.0}[backend]
        arrays = csr_pair(interpolation, dtype, max_bytes)
        self.is_matrix_free = not arrays
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def matvec(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._product(x, self.in_shape, self.out_shape, is_adjoint=False)

    def rmatvec(self, y: Tensor) -> Tensor:  # noqa: D102
        return self._product(y, self.out_shape, self.in_shape, is_adjoint=True)

    def _product(
        self, x: Tensor, in_shape: tuple[int, ...], out_shape: tuple[int, ...], is_adjoint: bool
    ) -> Tensor:
        batch = x.shape[: x.ndim - len(in_shape)]
        columns = x.reshape(prod(batch), prod(in_shape)).mT.contiguous()
        multiply = self._multiply_on_the_fly if self.is_matrix_free else self._multiply_csr
        return multiply(columns, prod(out_shape), is_adjoint).mT.reshape(*batch, *out_shape)

    def _multiply_csr(self, columns: Tensor, n_rows: int, is_adjoint: bool) -> Tensor:
        name = "transposed" if is_adjoint else "matrix"
        starts, indices, weights = (
            self.get_buffer(f"{name}_{part}") for part in ("starts", "indices", "weights")
        )
        if weights.dtype != columns.dtype:
            raise TypeError(
                f"{self!r} has {weights.dtype} weights and got a {columns.dtype} operand: convert "
                "either of them with .to(dtype)"
            )
        matrix = torch.sparse_csr_tensor(
            starts, indices, weights, size=(n_rows, len(columns)), check_invariants=False
        )
        with torch.autocast(columns.device.type, enabled=False):  # half precision is too coarse
            return matrix @ columns

    def _multiply_on_the_fly(self, columns: Tensor, n_rows: int, is_adjoint: bool) -> Tensor:
        if columns.device.type != "cpu":
            raise ValueError(
                f"{self!r} has no stored matrix and runs on the CPU only; use backend=matrix to "
                f"run it on {columns.device}"
            )
        product = self.interpolation.adjoint if is_adjoint else self.interpolation.forward
        result = columns.new_zeros(n_rows, columns.shape[1])
        product(*self.interpolation.arguments, columns.numpy(), result.numpy())
        return result


class SliceProjector(InterpolationOperator):
    """Line integrals of an image (y, x) along every ray (view, column), in operand · cm.

    A volume (z, y, x) of one slice gives a sinogram (view, row, column) of one row.
    """

    def __init__(self, geometry: FlatGeometry, grid: SliceGrid, backend: str = "auto") -> None:
        geometry.require_grid(grid)
        shape = geometry.sinogram_shape(grid)
        super().__init__(grid.shape, shape, joseph(geometry, grid), backend)


class SliceBackprojector(InterpolationOperator):
    """∫ y(θ, u) / depth² dθ of a sinogram y (view, column) at every voxel (y, x).

    Depth is measured from the source, in units of source_to_axis_cm; one for a parallel beam. For
    volumes of one slice see ``SliceProjector``.
    This is the back-projection of filtered data; the adjoint of a projector A is ``A.T``.
    """

    def __init__(self, geometry: FlatGeometry, grid: SliceGrid, backend: str = "auto") -> None:
        geometry.require_grid(grid)
        shape = geometry.sinogram_shape(grid)
        super().__init__(shape, grid.shape, pixel_driven(geometry, grid), backend)
