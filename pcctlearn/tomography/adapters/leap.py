"""LEAP's cone-beam projector as a linear operator on this project's axes and in its units.

LEAP (MIT licence) uses mm and degrees. Its view angle φ is our θ, its y increases with the row, and
its panel coordinates are relative to the central ray.

H. Kim and K. Champley, "Differentiable forward projector for X-ray computed tomography",
ICML 2023 workshop on differentiable almost everything. arXiv:2307.05801
"""

from collections.abc import Callable
from math import nan, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.tomography.linear_operator import LinearOperator

MM_PER_CM = 10.0
INSTALL = "`pip install .` in a clone of https://github.com/LLNL/LEAP"


class LeapConeProjector(LinearOperator):
    """Line integrals (z, y, x) in operand · cm by separable footprints in float32, and adjoint."""

    def __init__(self, geometry: ConeBeam, grid: VolumeGrid) -> None:
        geometry.require_grid(grid)
        super().__init__(grid.shape, geometry.shape)
        self.geometry, self.grid, self.model = geometry, grid, leap_model(geometry, grid)

    def matvec(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._run(self._project, x.flip(-2), self.out_shape)

    def rmatvec(self, y: Tensor) -> Tensor:  # noqa: D102
        return self._run(self.model.backproject, y, self.in_shape).flip(-2)

    def peak_bytes(self, n_images: int, itemsize: int) -> int:
        """The flipped operands, the results, and a copy of one operand."""
        in_size, out_size = prod(self.in_shape), prod(self.out_shape)
        return itemsize * (n_images * (in_size + out_size) + in_size)

    def __reduce__(self) -> tuple[type, tuple[ConeBeam, VolumeGrid]]:
        """LEAP's model is an object of its C library, so a copy builds its own."""
        return type(self), (self.geometry, self.grid)

    def _project(self, volume: Tensor, sinogram: Tensor) -> None:
        self.model.project(sinogram, volume)

    def _run(self, compute: Callable[..., Any], operands: Tensor, shape: tuple[int, ...]) -> Tensor:
        if operands.dtype != torch.float32:
            raise TypeError(f"LEAP needs float32, got {operands.dtype}: convert it with .float()")
        self.model.set_gpu(operands.device.index if operands.is_cuda else -1)
        # LEAP prints errors instead of raising them: results that it does not write stay NaN
        results = operands.new_full((*operands.shape[:-3], *shape), nan)
        images = operands.reshape(-1, *operands.shape[-3:])
        for operand, result in zip(images, results.view(-1, *shape), strict=True):
            # a copy, because LEAP modifies a sinogram in place
            compute(operand.clone(memory_format=torch.contiguous_format), result)
        if results.isnan().any():
            raise RuntimeError(f"LEAP did not write the result of {self!r}: see its output")
        return results.div_(MM_PER_CM)


def leap_model(beam: ConeBeam, grid: VolumeGrid) -> Any:
    """LEAP's model of this scan, without a mask and with a matched pair of projectors."""
    try:
        from leapctype import tomographicModels
    except ImportError as error:
        raise ImportError(f"LeapConeProjector needs LEAP: {INSTALL}") from error
    model = tomographicModels()
    if model.libprojectors is None:
        raise ImportError(f"leapctype cannot load libleap: {INSTALL}")
    for setter, arguments in (
        (model.set_conebeam, scanner(beam)),
        (model.set_volume, voxels(beam, grid)),
        (model.set_diameterFOV, (1e6,)),
        (model.set_projector, ("SF",)),
    ):
        if not setter(*arguments):
            raise ValueError(f"LEAP rejected {setter.__name__}, see its output, for\n{beam}")
    return model


def scanner(beam: ConeBeam) -> tuple[Any, ...]:
    """Views, rows, columns; pixel height and width, pixel of the central ray; φ, sod, sdd, τ.

    LEAP moves source and panel by −τ along the columns, which leaves the axis at τ.
    """
    steps = np.diff(beam.angles_rad)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError("LEAP needs view_angles_rad in order: sort them and the views")
    lengths_cm = (beam.source_to_axis_cm, beam.source_to_detector_cm, beam.axis_offset_cm)
    return (
        *beam.shape,
        *(MM_PER_CM * size for size in (beam.row_cm, beam.column_cm)),
        (beam.n_rows - 1) / 2 - beam.row_offset_cm / beam.row_cm,
        (beam.n_columns - 1) / 2 - beam.offset_cm / beam.column_cm,
        np.degrees(beam.angles_rad).astype(np.float32),
        *(MM_PER_CM * length for length in lengths_cm),
    )


def voxels(beam: ConeBeam, grid: VolumeGrid) -> tuple[Any, ...]:
    """Numbers of voxels along x, y, z; their width and height; x, y, z of the center."""
    (dz, dy, dx), (z, y, x) = grid.spacing_cm, grid.center_cm
    change = grid.corner_radius_cm * beam.source_curvature  # of depth, relative
    if dx != dy:
        raise ValueError(f"LEAP needs voxels that are square in x and y, got {dx} × {dy} cm")
    for voxel_cm, pixel_cm in ((dz, beam.row_cm), (dx, beam.column_cm)):
        middle = pixel_cm / beam.magnification
        low, high = middle * (1 + change) / 2, middle * (1 - change) * 2
        if not low <= voxel_cm <= high:
            raise ValueError(
                f"LEAP's matched pair needs voxels of {low:.4g} to {high:.4g} cm, half to twice a "
                f"pixel demagnified to any depth of the volume, got {voxel_cm:.4g} cm"
            )
    return grid.n_x, grid.n_y, grid.n_z, *(MM_PER_CM * length for length in (dx, dz, x, y, z))
