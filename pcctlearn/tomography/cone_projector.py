"""Cone-beam projection and back-projection, by kernels for the device that holds the operand."""
# mypy: disable-error-code=override

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from math import prod

import torch
from torch import Tensor

from pcctlearn.tomography.cone_coefficients import cone_coefficients
from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.tomography.hat_interpolation import margin_for
from pcctlearn.tomography.linear_operator import LinearOperator

KERNELS = ("auto", "numba", "triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's way to run on the CPU


class ConeOperator(LinearOperator):
    """What the two operators share: arrays in the order of the kernels, one image at a time.

    kernels: numba runs on the CPU, triton on a CUDA device; auto takes what the operand is on.
    """

    def __init__(
        self,
        geometry: ConeBeam,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        kernels: str,
    ) -> None:
        if kernels not in KERNELS:
            raise ValueError(f"kernels must be one of {', '.join(KERNELS)}, got {kernels!r}")
        super().__init__(in_shape, out_shape)
        self.geometry, self.kernels = geometry, kernels
        self.coefficients = cone_coefficients(geometry)

    def peak_bytes(self, n_images: int, itemsize: int) -> int:
        """The results, and one image and its result in the order of the kernels, with margins."""
        beam = self.geometry
        margins = 2 * margin_for(self.coefficients.slope_range) * beam.n_views * beam.n_columns
        copies = 2 * (prod(self.in_shape) + prod(self.out_shape)) + margins
        return super().peak_bytes(n_images, itemsize) + itemsize * copies

    def _to_sinogram(self, kernel: str, volumes: Tensor) -> Tensor:
        run, beam = self._kernel(kernel, volumes.device), self.geometry
        sinograms = volumes.new_empty(*volumes.shape[:-3], *beam.shape)
        for volume, sinogram in _pairs(volumes, sinograms):
            lines = volume.new_empty(beam.n_views, beam.n_columns, beam.n_rows)
            with torch.cuda.device_of(lines):
                run(self.coefficients, volume.movedim(0, -1).contiguous(), lines)
            sinogram.copy_(lines.mT)
        return sinograms

    def _to_volume(self, kernel: str, sinograms: Tensor) -> Tensor:
        run, (n_z, n_y, n_x) = self._kernel(kernel, sinograms.device), self.geometry.volume.shape
        volumes = sinograms.new_empty(*sinograms.shape[:-3], n_z, n_y, n_x)
        for sinogram, volume in _pairs(sinograms, volumes):
            lines = sinogram.new_empty(n_y, n_x, n_z)
            with torch.cuda.device_of(lines):
                run(self.coefficients, sinogram.mT.contiguous(), lines)
            volume.copy_(lines.movedim(-1, 0))
        return volumes

    def _kernel(self, name: str, device: torch.device) -> Callable[..., None]:
        kernels = self.kernels
        if kernels == "auto":
            kernels = "numba" if device.type == "cpu" else "triton"
        if kernels == "numba" and device.type != "cpu":
            raise ValueError(
                f"kernels=numba run on the CPU and were given an array on {device}; take "
                "kernels=auto, or move the array with .cpu()"
            )
        if kernels == "triton" and device.type != "cuda" and not INTERPRETED:
            raise ValueError(
                f"kernels=triton run on a CUDA device and were given an array on {device}; take "
                "kernels=auto, or move the array with .cuda()"
            )
        try:
            module = import_module(f"pcctlearn.tomography.cone_kernels_{kernels}")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"kernels={kernels} need {error.name}: pip install {error.name}, or move the array "
                "with .cpu()"
            ) from error
        return getattr(module, name)


class ConeProjector(ConeOperator):
    """Line integrals of a volume (z, y, x) along every ray (view, row, column), in operand · cm.

    Joseph's method: bilinear interpolation in every plane that a ray crosses, the planes being
    those of constant y or constant x, whichever the ray crosses more of.

    P. M. Joseph, "An improved algorithm for reprojecting rays through pixel images",
    IEEE Trans. Med. Imaging 1 (1982). doi:10.1109/TMI.1982.4307572
    """

    def __init__(self, geometry: ConeBeam, kernels: str = "auto") -> None:
        super().__init__(geometry, geometry.volume.shape, geometry.shape, kernels)

    def apply(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._to_sinogram("project", x)

    def adjoint(self, y: Tensor) -> Tensor:  # noqa: D102
        return self._to_volume("project_adjoint", y)


class ConeBackprojector(ConeOperator):
    """∫ y(θ, v, u) / depth² dθ of a sinogram y (view, row, column) at every voxel (z, y, x).

    Depth is measured from the source along the central ray, in units of source_to_axis_cm. This is
    the back-projection of filtered data; the adjoint of a projector is ``ConeProjector.T``.
    """

    def __init__(self, geometry: ConeBeam, kernels: str = "auto") -> None:
        super().__init__(geometry, geometry.shape, geometry.volume.shape, kernels)

    def apply(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._to_volume("backproject", x)

    def adjoint(self, y: Tensor) -> Tensor:  # noqa: D102
        return self._to_sinogram("backproject_adjoint", y)


def _pairs(operands: Tensor, results: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Image by image; the second of each pair is a view to write into."""
    flat = operands.reshape(-1, *operands.shape[-3:]), results.view(-1, *results.shape[-3:])
    return zip(*flat, strict=True)
