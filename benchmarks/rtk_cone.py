"""Cone-beam operators of RTK for our arrays: a peer for benchmarks and a reference for tests.

RTK's rotation axis is y and its first view looks along −z: with RTK's (x, y, z) = our (x, z, −y)
its angles, rows and columns are ours. Needs itk-rtk (requirements-bench.txt).
"""

from collections.abc import Sequence
from typing import Any

import itk
import numpy as np
import torch
from itk import RTK
from torch import Tensor

from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

IMAGE = itk.Image[itk.F, 3]


class RtkCone:
    """Joseph projection, its adjoint, voxel-driven back-projection and FDK for one scanner."""

    def __init__(self, beam: ConeBeam, grid: VolumeGrid) -> None:
        if beam.axis_offset_cm or any(grid.center_cm):
            raise ValueError("RtkCone needs center_cm=(0, 0, 0) and axis_offset_cm=0")
        self.beam, self.grid = beam, grid
        self.geometry = self._geometry(beam.angles_rad)
        self.closed_geometry = self._geometry(
            np.append(beam.angles_rad, beam.angles_rad.min() + beam.arc_rad)
        )

    def forward(self, volume: Tensor) -> Tensor:
        """(z, y, x) to (view, row, column)."""
        into = self._sinogram(torch.zeros(self.beam.shape))
        image = self._run(RTK.JosephForwardProjectionImageFilter, into, self._volume(volume))
        return torch.from_numpy(itk.array_from_image(image))

    def adjoint(self, sinogram: Tensor) -> Tensor:
        """The transpose of ``forward``."""
        return self._back(RTK.JosephBackProjectionImageFilter, sinogram)

    def back(self, sinogram: Tensor) -> Tensor:
        """Voxel-driven back-projection, which is not the transpose of ``forward``."""
        return self._back(RTK.BackProjectionImageFilter, sinogram)

    def fdk(self, sinogram: Tensor) -> Tensor:
        """FDK with the plain ramp, and with Parker's weights for a short scan.

        RTK's arc ends at the last view, ours one step later. A short scan gets an additional view
        at the end of our arc, which has zero weight.
        """
        is_short = self.beam.is_short_scan
        geometry = self.closed_geometry if is_short else self.geometry
        if is_short:
            sinogram = torch.nn.functional.pad(sinogram, (0, 0, 0, 0, 0, 1))
        projections = self._sinogram(sinogram)
        if is_short:
            parker = RTK.ParkerShortScanImageFilter[IMAGE].New()
            parker.SetGeometry(geometry)
            parker.SetInput(projections)
            parker.InPlaceOff()
            parker.Update()
            projections = parker.GetOutput()
        filter_ = RTK.FDKConeBeamReconstructionFilter[IMAGE].New()
        filter_.SetGeometry(geometry)
        filter_.SetInput(0, self._volume(torch.zeros(self.grid.shape)))
        filter_.SetInput(1, projections)
        filter_.GetRampFilter().SetTruncationCorrection(0.0)
        filter_.GetRampFilter().SetHannCutFrequency(0.0)
        filter_.Update()
        return _to_volume(filter_.GetOutput())

    def _geometry(self, angles_rad: np.ndarray) -> Any:
        geometry = RTK.ThreeDCircularProjectionGeometry.New()
        for angle in np.degrees(angles_rad).tolist():
            geometry.AddProjection(
                self.beam.source_to_axis_cm, self.beam.source_to_detector_cm, angle
            )
        return geometry

    def _back(self, kind: Any, sinogram: Tensor) -> Tensor:
        into = self._volume(torch.zeros(self.grid.shape))
        return _to_volume(self._run(kind, into, self._sinogram(sinogram)))

    def _run(self, kind: Any, into: Any, operand: Any) -> Any:
        pipeline = kind[IMAGE, IMAGE].New()
        pipeline.SetGeometry(self.geometry)
        pipeline.SetInput(0, into)
        pipeline.SetInput(1, operand)
        pipeline.Update()
        return pipeline.GetOutput()

    def _volume(self, volume: Tensor) -> Any:
        dz, dy, dx = self.grid.spacing_cm
        return _to_itk(volume.movedim(0, 1), (dx, dz, dy), (0.0, 0.0, 0.0))

    def _sinogram(self, sinogram: Tensor) -> Any:
        beam = self.beam
        middle = (beam.offset_cm, beam.row_offset_cm, 0.0)
        return _to_itk(sinogram, (beam.column_cm, beam.row_cm, 1.0), middle)


def _to_itk(array: Tensor, spacing: Sequence[float], middle: Sequence[float]) -> Any:
    image = itk.image_from_array(array.contiguous().float().numpy(), ttype=IMAGE)
    image.SetSpacing(spacing)
    sizes = reversed(array.shape)
    image.SetOrigin([m - (n - 1) / 2 * s for n, s, m in zip(sizes, spacing, middle, strict=True)])
    return image


def _to_volume(image: Any) -> Tensor:
    return torch.from_numpy(itk.array_from_image(image)).movedim(1, 0)
