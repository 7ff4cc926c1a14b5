"""Detectors, plates and phantom scans of the comparison of calibrations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.phantoms.ellipses import EllipsePhantom
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scan import SHADOW_G_CM2
from pcctlearn.scans.record import ScanRecord
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.simulation.plates import measured_plates
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import VolumeGrid

Plates = Mapping[str, Sequence[float]]  # {material: thickness in each exposure}


@dataclass(frozen=True)
class MatchCase:
    """A detector, and what a calibration is wrong about.

    Args:
        errors: how the pixels differ.
        filter_cm: aluminium before the tube, which the nominal spectrum lacks.
        phantom_shift_cm: distance of the phantom from where its line integrals say.
        phantom_photons: factor of the photons of the phantom scan.
    """

    errors: DetectorErrors
    filter_cm: float = 0.0
    phantom_shift_cm: float = 0.0
    phantom_photons: float = 1.0

    def tube(self, nominal: SpectralModel) -> SpectralModel:
        """The scanner with its true spectrum."""
        filtered = linear_attenuation(["aluminium"], nominal.energies_keV)[0]
        return SpectralModel(
            nominal.energies_keV,
            nominal.fluence * torch.exp(-self.filter_cm * filtered),
            nominal.response,
            nominal.thresholds,
            nominal.attenuation,
            list(nominal.materials),
        ).requires_grad_(False)


def plates_of(
    truth: PixelModel, tube: SpectralModel, plates_cm: Plates, photons: float, seed: int
) -> CalibrationSet:
    """Counts behind plates with noise."""
    lengths = torch.tensor([list(values) for values in plates_cm.values()], dtype=torch.float64)
    return measured_plates(truth, tube, lengths.T, tuple(plates_cm), photons, seed)


class PhantomScans:
    """Fan-beam scans of a phantom that is known, with the total photons of some plates.

    Args:
        phantom: its materials must be those of the scanner.
        geometry: one pixel for each of the detector.
    """

    def __init__(self, phantom: EllipsePhantom, geometry: FanBeam) -> None:
        self.phantom, self.geometry = phantom, geometry

    def require_overlap(self) -> None:
        """Raise ValueError unless the phantom lies within the field of view of most pixels."""
        seen = (self.line_integrals().sum(0) > SHADOW_G_CM2).any(0)
        if float(seen.double().mean()) < 0.5:
            raise ValueError(
                f"only {int(seen.sum())} of {len(seen)} pixels see the phantom: scan it with fewer "
                "or smaller pixels (tomography.geometry.pixel_cm), or use a larger phantom "
                "(phantoms.water_size_cm)"
            )

    def line_integrals(self, shift_cm: float = 0.0) -> Float[Tensor, "material view column"]:
        """Of the phantom, moved along x."""
        points, directions = self.geometry.rays()
        return self.phantom.line_integrals(points - np.array([shift_cm, 0.0]), directions)

    @torch.no_grad()
    def expected(
        self, truth: PixelModel, tube: SpectralModel, case: MatchCase, photons: float
    ) -> ScanRecord:
        """A scan without noise, with ``photons`` to a pixel in all views together."""
        per_view = case.phantom_photons * photons / self.geometry.n_views
        scale = per_view / float(tube.fluence.sum())
        model = truth.spectral_model(tube)
        area = self.line_integrals(case.phantom_shift_cm)
        counts = scale * torch.stack([model(view) for view in area.movedim(0, -1)])
        return ScanRecord(
            name="phantom",
            geometry=self.geometry,
            grid=VolumeGrid(1, 64, 64, 0.5),
            thresholds_keV=tube.thresholds.edges_keV,
            air=scale * model.air().T[:, None],
            counts=counts.movedim(-1, 0)[:, :, None],
            line_integrals=self.line_integrals()[:, :, None],
            materials=self.phantom.materials,
        )


def with_noise(scan: ScanRecord, seed: int) -> ScanRecord:
    """The scan with Poisson counts; its air has none."""
    return replace(scan, counts=draw_counts(scan.at("counts"), torch.Generator().manual_seed(seed)))
