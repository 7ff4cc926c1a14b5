"""Scans of heads and other objects by a flawed detector, with the images that are true."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.phantoms.ellipses import EllipsePhantom
from pcctlearn.phantoms.heads import FIELD_CM, head
from pcctlearn.physics.attenuation import Material, attenuation_table, linear_attenuation
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.scan import SHADOW_G_CM2
from pcctlearn.scans.record import ScanRecord
from pcctlearn.shapes import channels_last
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.flawed_bench import FanCounts
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid
from pcctlearn.tomography.projector import projector


@dataclass(frozen=True)
class ProceduralHead:
    """A slice of a procedural head.

    Args:
        seed: of the head.
        shift_cm: of its center from the axis, (y, x).
        voxel_cm: from which it is projected.
    """

    seed: int
    shift_cm: Sequence[float] = (0.0, 0.0)
    voxel_cm: float = 0.025
    materials: tuple[Material, ...] = field(default=("water", "calcium"), init=False)

    def rays(self, geometry: FanBeam) -> Float[Tensor, "view column material"]:
        """Line integrals in g/cm²."""
        n_y, n_x = (round(side / self.voxel_cm) for side in FIELD_CM)
        maps = head(self.seed, VolumeGrid(1, n_y, n_x, self.voxel_cm), oversampling=1)
        y, x = self.shift_cm
        placed = VolumeGrid(1, n_y, n_x, self.voxel_cm, (0.0, y, x))
        project = projector(geometry, placed).double()
        return (project @ maps.double())[:, :, 0].movedim(0, -1).contiguous()


@dataclass(frozen=True)
class ScanCase:
    """A scan that is to calibrate its own detector, and what differs from the ideal.

    Args:
        scanned: the object.
        photons: that reach a pixel in air in each view.
        errors: of the detector; None for those of the study.
        filter_cm: aluminium before the tube, which the nominal spectrum lacks.
        spr: mean of scatter over primary behind the object; scatter is the same in all pixels.
        every: n for every n-th view only.
    """

    scanned: ProceduralHead | EllipsePhantom
    photons: float = 2e6
    errors: DetectorErrors | None = None
    filter_cm: float = 0.0
    spr: float = 0.0
    every: int = 1

    def beam(self, geometry: FanBeam) -> FanBeam:
        """The fan beam with fewer views."""
        return FanBeam(
            geometry.n_views // self.every,
            geometry.n_columns,
            geometry.pixel_cm,
            geometry.source_to_axis_cm,
            geometry.source_to_detector_cm,
        )


@dataclass(frozen=True)
class SimulatedScan:
    """A scan, and what it would be with pixels that are known.

    ``expected`` has no noise, ``air`` has that of its measurement. ``reference`` are the line
    integrals of the noise-free primary counts, decomposed with the true spectrum of every pixel.
    """

    beam: FanBeam
    expected: FanCounts
    counts: FanCounts
    air: Float[Tensor, "column bin"]
    reference: Float[Tensor, "view column material"]

    def record(self, grid: ImageGrid, model: SpectralModel) -> ScanRecord:
        """The scan as read from a file."""
        n_y, n_x = grid.shape
        return ScanRecord(
            name="unknown object",
            geometry=self.beam,
            grid=VolumeGrid(1, n_y, n_x, grid.voxel_cm),
            thresholds_keV=model.thresholds.edges_keV.detach(),
            air=self.air.T[:, None].float(),
            counts=self.counts.movedim(-1, 0)[:, :, None].float(),
        )


@torch.no_grad()
def scanned(
    case: ScanCase, pixels: PixelModel, nominal: SpectralModel, geometry: FanBeam, seed: int
) -> SimulatedScan:
    """Scan the object; air has as many photons as all views together."""
    beam = case.beam(geometry)
    if isinstance(case.scanned, EllipsePhantom):
        lines = case.scanned.line_integrals(*beam.rays())
        rays = channels_last(torch.as_tensor(lines)[None])[0]
    else:
        rays = case.scanned.rays(beam)
    table = attenuation_table(case.scanned.materials, nominal.energies_keV)
    aluminium = linear_attenuation(["aluminium"], nominal.energies_keV)[0]
    filtered = torch.exp(-case.filter_cm * aluminium) * case.photons / nominal.fluence.sum()
    spectra = pixels.spectral_model(nominal).spectra() * filtered
    primary = torch.stack([expected_counts(view, spectra, table) for view in rays])
    behind = (rays.sum(-1) > SHADOW_G_CM2)[..., None]
    inverse = (behind / primary).sum((0, 1)) / behind.sum()
    expected = primary + case.spr / inverse
    generator = torch.Generator().manual_seed(seed)
    counts = draw_counts(expected, generator)
    air = draw_counts(spectra.sum(-1) * beam.n_views, generator) / beam.n_views
    basis = nominal.attenuation.float()
    reference = decompose(primary.float(), spectra.float(), basis).x.double()
    return SimulatedScan(beam, expected, counts, air, reference)
