"""Cone-beam projection and back-projection, compiled for the device that holds the operand."""

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from math import prod

import torch
from torch import Tensor

from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.tomography.kernels.cone_coefficients import cone_coefficients
from pcctlearn.tomography.kernels.hat_interpolation_numba import margin_for
from pcctlearn.tomography.linear_operator import LinearOperator

BACKENDS = ("auto", "numba", "triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's interpreter runs on the CPU


class ConeOperator(LinearOperator):
    """Base of both cone operators: compiled loops over one image at a time, z and rows last.

    backend: "numba" runs on the CPU, "triton" on a CUDA device; "auto" follows the operand.
    """

    def __init__(
        self,
        geometry: ConeBeam,
        grid: VolumeGrid,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        backend: str,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(
                f"backend of a cone beam must be one of {', '.join(BACKENDS)}, got {backend!r}"
            )
        geometry.require_grid(grid)
        super().__init__(in_shape, out_shape)
        self.geometry, self.grid, self.backend = geometry, grid, backend
        self.coefficients = cone_coefficients(geometry, grid)

    def peak_bytes(self, n_images: int, itemsize: int) -> int:
        """The results, plus one image and its result in the axis order of the loops and margins."""
        beam = self.geometry
        margins = 2 * margin_for(self.coefficients.slope_range) * beam.n_views * beam.n_columns
        copies = 2 * (prod(self.in_shape) + prod(self.out_shape)) + margins
        return super().peak_bytes(n_images, itemsize) + itemsize * copies

    def _to_sinogram(self, function: str, volumes: Tensor) -> Tensor:
        run, beam = self._compiled(function, volumes.device), self.geometry
        sinograms = volumes.new_empty(*volumes.shape[:-3], *beam.shape)
        for volume, sinogram in _pairs(volumes, sinograms):
            lines = volume.new_empty(beam.n_views, beam.n_columns, beam.n_rows)
            with torch.cuda.device_of(lines):
                run(self.coefficients, _z_last(volume), lines)
            sinogram.copy_(lines.mT)
        return sinograms

    def _to_volume(self, function: str, sinograms: Tensor) -> Tensor:
        run, (n_z, n_y, n_x) = self._compiled(function, sinograms.device), self.grid.shape
        volumes = sinograms.new_empty(*sinograms.shape[:-3], n_z, n_y, n_x)
        for sinogram, volume in _pairs(sinograms, volumes):
            lines = sinogram.new_empty(n_y, n_x, n_z)
            with torch.cuda.device_of(lines):
                run(self.coefficients, sinogram.mT.contiguous(), lines)
            volume.view(n_z, -1).copy_(lines.view(-1, n_z).T)  # as in _z_last
        return volumes

    def _compiled(self, function: str, device: torch.device) -> Callable[..., None]:
        backend = self.backend
        if backend == "auto":
            backend = "numba" if device.type == "cpu" else "triton"
        if backend == "numba" and device.type != "cpu":
            raise ValueError(
                f"backend=numba runs on the CPU and got an array on {device}: use backend=auto, or "
                "move the array with .cpu()"
            )
        if backend == "triton" and device.type != "cuda" and not INTERPRETED:
            raise ValueError(
                f"backend=triton runs on a CUDA device and got an array on {device}: use "
                "backend=auto, or move the array with .cuda()"
            )
        try:
            module = import_module(f"pcctlearn.tomography.kernels.cone_{backend}")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"backend={backend} needs {error.name}: pip install {error.name}, or move the "
                "array with .cpu()"
            ) from error
        return getattr(module, function)


class ConeProjector(ConeOperator):
    """Line integrals of a volume (z, y, x) along every ray (view, row, column), in operand · cm.

    Joseph's method: bilinear interpolation in the planes of constant y or of constant x, whichever
    the ray crosses more steeply.

    P. M. Joseph, "An improved algorithm for reprojecting rays through pixel images",
    IEEE Trans. Med. Imaging 1 (1982). doi:10.1109/TMI.1982.4307572
    """

    def __init__(self, geometry: ConeBeam, grid: VolumeGrid, backend: str = "auto") -> None:
        super().__init__(geometry, grid, grid.shape, geometry.shape, backend)

    def matvec(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._to_sinogram("project", x)

    def rmatvec(self, y: Tensor) -> Tensor:  # noqa: D102
        return self._to_volume("project_adjoint", y)


class ConeBackprojector(ConeOperator):
    """∫ y(θ, v, u) / depth² dθ of a sinogram y (view, row, column) at every voxel (z, y, x).

    Depth is measured from the source along the central ray, in units of source_to_axis_cm. This is
    the back-projection of filtered data; the adjoint of a projector A is ``A.T``.
    """

    def __init__(self, geometry: ConeBeam, grid: VolumeGrid, backend: str = "auto") -> None:
        super().__init__(geometry, grid, geometry.shape, grid.shape, backend)

    def matvec(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._to_volume("backproject", x)

    def rmatvec(self, y: Tensor) -> Tensor:  # noqa: D102
        return self._to_sinogram("backproject_adjoint", y)


def _z_last(volume: Tensor) -> Tensor:
    """A (y, x, z) copy of a (z, y, x) volume."""
    n_z, n_y, n_x = volume.shape
    lines = volume.new_empty(n_y, n_x, n_z)
    # a transposed matrix, which torch copies in blocks that fit the cache; a volume it does not
    lines.view(-1, n_z).copy_(volume.reshape(n_z, -1).T)
    return lines


def _pairs(operands: Tensor, results: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of an operand and the view of its result, image by image."""
    flat = operands.reshape(-1, *operands.shape[-3:]), results.view(-1, *results.shape[-3:])
    return zip(*flat, strict=True)
