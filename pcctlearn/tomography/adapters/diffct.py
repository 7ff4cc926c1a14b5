"""diffct's cone-beam projector as a linear operator on this project's axes.

diffct 2.5 (Y. Sun, Apache-2.0) has Siddon projectors for any trajectory: CUDA kernels for float32
on an NVIDIA GPU, PyTorch elsewhere.
"""

from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.tomography.linear_operator import LinearOperator


class DiffctConeProjector(LinearOperator):
    """Line integrals of voxels of constant value (z, y, x) in operand · cm, and the transpose."""

    def __init__(self, geometry: ConeBeam, grid: VolumeGrid) -> None:
        try:
            from diffct import Projector
        except ImportError as error:
            raise ImportError(
                "DiffctConeProjector needs diffct: `pip install diffct`, or `pip install --no-deps "
                "diffct` where there is no GPU"
            ) from error
        geometry.require_grid(grid)
        super().__init__(grid.shape, geometry.shape)
        self.geometry, self.grid = geometry, grid
        self.build = partial(
            Projector,
            trajectory(geometry, grid),
            self.in_shape,
            (geometry.n_columns, geometry.n_rows),
            detector_spacing=(float(geometry.column_cm), float(geometry.row_cm)),
            voxel_spacing=tuple(float(size) for size in grid.spacing_cm),
        )
        self.projectors: dict[tuple[torch.dtype, str], Any] = {}

    def matvec(self, x: Tensor) -> Tensor:
        """diffct's y increases with the row, and its sinogram is (view, column, row)."""
        return self._projector(x).project(x.flip(-2)).mT.contiguous()

    def rmatvec(self, y: Tensor) -> Tensor:  # noqa: D102
        return self._projector(y).backproject(y.mT).flip(-2)

    def peak_bytes(self, n_images: int, itemsize: int) -> int:
        """The flipped operands, and the results in both axis orders."""
        return n_images * itemsize * (prod(self.in_shape) + 2 * prod(self.out_shape))

    def _projector(self, operand: Tensor) -> Any:
        """The projector for this precision and kind of device, built when first needed."""
        key = operand.dtype, operand.device.type
        if key not in self.projectors:
            single = operand.dtype == torch.float32
            self.projectors[key] = self.build(
                # auto: CUDA kernels, which lack float64 and would move the operand to a GPU
                backend="auto" if single and operand.is_cuda else "torch",
                precision="fast" if single else "float64",
            )
        return self.projectors[key]


def trajectory(beam: ConeBeam, grid: VolumeGrid) -> tuple[Tensor, ...]:
    """Source, center of the panel, and unit vectors along columns and rows in every view.

    diffct's volume is centered on the origin, so the scanner is shifted instead.
    """
    along, toward, up = beam.frames()
    origin = np.array(grid.center_cm[::-1])
    sources = beam.sources_cm() - origin
    offsets = beam.offset_cm * along + beam.row_offset_cm * up
    panels = sources + beam.source_to_detector_cm * toward + offsets
    return tuple(
        torch.from_numpy(a) for a in (sources, panels, along, np.tile(up, (len(along), 1)))
    )
