"""Parallel- and fan-beam projection and back-projection as products with a sparse matrix.

The matrix and its transpose are both stored, so that forward and adjoint both run row by row,
each row with one owner. Leading axes (batch, material) become the columns of one product. A
matrix above the memory cap is not stored; on the CPU the kernels walk through it instead.
"""
# mypy: disable-error-code=override

import warnings
from math import prod

import torch
from torch import Tensor

from pcctlearn.tomography.csr import csr_pair
from pcctlearn.tomography.geometry import FlatBeam
from pcctlearn.tomography.interpolation_kernels import Interpolation, joseph, pixel_driven
from pcctlearn.tomography.linear_operator import LinearOperator

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


class InterpolationOperator(LinearOperator):
    """A matrix of interpolation weights between an image and a sinogram.

    Weights have torch's default dtype at construction; ``.double()`` and ``.to()`` convert them.
    They are left out of checkpoints. ``max_matrix_bytes`` caps the matrix and its transpose.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        interpolation: Interpolation,
        max_matrix_bytes: float,
    ) -> None:
        super().__init__(in_shape, out_shape)
        self.interpolation = interpolation
        dtype = torch.empty(0).numpy().dtype
        arrays = csr_pair(interpolation, dtype, max_matrix_bytes)
        self.is_matrix_free = not arrays
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def apply(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._product(x, self.in_shape, self.out_shape, is_adjoint=False)

    def adjoint(self, y: Tensor) -> Tensor:  # noqa: D102
        return self._product(y, self.out_shape, self.in_shape, is_adjoint=True)

    def _product(
        self, x: Tensor, in_shape: tuple[int, ...], out_shape: tuple[int, ...], is_adjoint: bool
    ) -> Tensor:
        batch = x.shape[: x.ndim - len(in_shape)]
        columns = x.reshape(prod(batch), prod(in_shape)).mT.contiguous()
        multiply = self._walk_rows if self.is_matrix_free else self._multiply_csr
        return multiply(columns, prod(out_shape), is_adjoint).mT.reshape(*batch, *out_shape)

    def _multiply_csr(self, columns: Tensor, n_rows: int, is_adjoint: bool) -> Tensor:
        name = "transposed" if is_adjoint else "matrix"
        starts, indices, weights = (
            self.get_buffer(f"{name}_{part}") for part in ("starts", "indices", "weights")
        )
        if weights.dtype != columns.dtype:
            raise TypeError(
                f"{self!r} has {weights.dtype} weights and was given {columns.dtype}; "
                "convert either of them with .to(dtype)"
            )
        matrix = torch.sparse_csr_tensor(
            starts, indices, weights, size=(n_rows, len(columns)), check_invariants=False
        )
        with torch.autocast(columns.device.type, enabled=False):  # sums over rays need all digits
            return matrix @ columns

    def _walk_rows(self, columns: Tensor, n_rows: int, is_adjoint: bool) -> Tensor:
        if columns.device.type != "cpu":
            raise ValueError(
                f"{self!r} is above max_matrix_bytes and then runs on the CPU alone; "
                f"raise the cap to have its matrix on {columns.device}"
            )
        kernel = self.interpolation.adjoint if is_adjoint else self.interpolation.forward
        result = columns.new_zeros(n_rows, columns.shape[1])
        kernel(*self.interpolation.arguments, columns.numpy(), result.numpy())
        return result


class Projector(InterpolationOperator):
    """Line integrals of an image (y, x) along every ray (view, column), in operand · cm."""

    def __init__(self, geometry: FlatBeam, max_matrix_bytes: float = 2e9) -> None:
        super().__init__(geometry.image.shape, geometry.shape, joseph(geometry), max_matrix_bytes)


class Backprojector(InterpolationOperator):
    """∫ y(θ, u) / depth² dθ of a sinogram y (view, column) at every voxel (y, x).

    Depth is measured from the source, in units of source_to_axis_cm; one for a parallel beam.
    This is the back-projection of filtered data; the adjoint of a projector is ``Projector.T``.
    """

    def __init__(self, geometry: FlatBeam, max_matrix_bytes: float = 2e9) -> None:
        super().__init__(
            geometry.shape, geometry.image.shape, pixel_driven(geometry), max_matrix_bytes
        )
