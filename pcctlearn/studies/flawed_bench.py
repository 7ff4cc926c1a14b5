"""A bench whose line detector has pixels that differ: its calibrations from plates, its scans."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.base import (
    Calibrator,
    PixelCalibration,
    ProjectionCorrection,
    SpectralCalibration,
)
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.decomposition.beam_hardening import (
    BeamHardening,
    MappedHardening,
    beam_hardening,
    spectra_above,
)
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.shapes import Attenuation, Projections
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.simulation.plates import PHOTONS_WITHOUT_NOISE, measured_plates
from pcctlearn.tomography.geometry.planar import FanBeam

log = logging.getLogger(__name__)

Columns = Bool[Tensor, "column"]
FanProjections = Float[Tensor, "view column threshold"]
FanCounts = Float[Tensor, "view column bin"]
Plates = Mapping[str, Sequence[float]]  # {material: thickness in each exposure}


@dataclass(frozen=True)
class FanScan:
    """Counts of a fan-beam scan, and the expected ones in air."""

    counts: Float[Tensor, "view column bin"]
    air: Float[Tensor, "*column bin"]

    @property
    def projections(self) -> FanProjections:
        """−ln of the transmission in counts above each threshold."""
        return -(above_from_bins(self.counts) / above_from_bins(self.air)).log()


@dataclass(frozen=True)
class PixelCorrection:
    """What a calibration knows of every pixel, as corrections of its projections use it.

    Args:
        correct: hardening of water, with ``mapping`` before it.
        mapping: of the projections to those that ``spectra`` give.
        spectra: above each threshold.
        good: pixels that were calibrated; the others are interpolated.
        model: of the decomposition; None where the calibration has none.
    """

    correct: ProjectionCorrection
    mapping: Callable[[Projections], Projections]
    spectra: Float[Tensor, "*pixel threshold energy"]
    good: Columns
    model: SpectralModel | None

    @property
    def hardening(self) -> BeamHardening:
        """The correction for water after the mapping."""
        inner = self.correct.hardening if isinstance(self.correct, MappedHardening) else None
        outer = inner or self.correct
        assert isinstance(outer, BeamHardening)
        return outer


class FlawedBench:
    """A detector with known flaws, calibrated from plates in several ways.

    Args:
        model: the nominal scanner.
        geometry: its fan beam.
        calibrations: {name: calibrator}.
        errors: of the detector.
        plates_cm: {name of a calibration: its plates}, and "default" for all others.
        photons: that reach a pixel in air in each exposure of the plates.
        seed: of the detector and of the noise.
    """

    def __init__(
        self,
        model: SpectralModel,
        geometry: FanBeam,
        calibrations: Mapping[str, Calibrator],
        errors: DetectorErrors,
        plates_cm: Mapping[str, Plates],
        photons: float = 1e8,
        seed: int = 0,
    ) -> None:
        if "default" not in plates_cm or set(plates_cm) - {"default", *calibrations}:
            raise ValueError(
                f"plates_cm names {sorted(plates_cm)}: give default, and else only calibrations, "
                f"which are {sorted(calibrations)}"
            )
        self.model, self.geometry = model, geometry
        self.calibrations, self.plates_cm = dict(calibrations), dict(plates_cm)
        self.photons, self.seed = photons, seed
        nominal_keV = model.thresholds.edges_keV.detach()[:-1]
        self.pixels = errors.pixels(nominal_keV, geometry.n_columns, seed)

    def calibrated(self, name: str, noisy: bool = True) -> PixelCalibration:
        """A calibration from plates, with the noise of their photons or without."""
        plates = self.plates_cm.get(name, self.plates_cm["default"])
        lengths = torch.tensor([list(values) for values in plates.values()], dtype=torch.float64).T
        photons, seed = (self.photons, self.seed + 1) if noisy else (PHOTONS_WITHOUT_NOISE, None)
        measured = measured_plates(self.pixels, self.model, lengths, tuple(plates), photons, seed)
        return self.calibrations[name].fit(measured, self.model)

    def corrections(self) -> dict[str, PixelCorrection]:
        """ "uncorrected" (nominal pixels), all calibrations from noisy plates, and "true"."""
        nominal = spectra_above(self.model)
        plain = beam_hardening(nominal, self.model)
        every = torch.ones(self.geometry.n_columns, dtype=torch.bool)
        found = {"uncorrected": PixelCorrection(plain, _same, nominal, every, self.model)}
        known = {name: self.calibrated(name) for name in self.calibrations}
        for name, calibration in (known | {"true": self.pixels}).items():
            if not isinstance(calibration, SpectralCalibration):
                raise ValueError(
                    f"calibration {name!r} does not know the spectra of the pixels: leave it out, "
                    f"with ~study.calibrations.{name}"
                )
            correct = calibration.correction(self.model)
            mapping = correct.mapping if isinstance(correct, MappedHardening) else _same
            model = None
            if isinstance(calibration, PixelModel):
                model = calibration.spectral_model(self.model)
            spectra = calibration.spectra_above(self.model)
            found[name] = PixelCorrection(correct, mapping, spectra, calibration.calibrated, model)
        return found

    @torch.no_grad()
    def scans(
        self,
        models: Sequence[SpectralModel],
        rays: Float[Tensor, "view column material"],
        table: Attenuation,
        photons: float | None = None,
    ) -> list[FanScan]:
        """Scans of one object with each of the detectors.

        Args:
            models: the detectors.
            rays: line integrals of the object in g/cm².
            table: attenuation of its materials.
            photons: that reach a pixel in air in each view; without them there is no noise.
        """
        log.info("scanning the phantom")
        scans = []
        for model in models:
            spectra = model.spectra()
            if photons is not None:
                spectra = spectra * (photons / model.fluence.sum())
            counts = torch.stack([expected_counts(view, spectra, table) for view in rays])
            if photons is not None:
                generator = torch.Generator().manual_seed(self.seed + 2)
                counts = draw_counts(counts, generator).clamp(min=0.5)
            scans.append(FanScan(counts, spectra.sum(-1)))
        return scans


def interpolated(values: FanProjections, good: Columns) -> FanProjections:
    """Linear interpolation of the other columns between good ones, constant beyond the last."""
    known = good.nonzero()[:, 0]
    column = torch.arange(len(good))
    right = torch.searchsorted(known, column).clamp(max=len(known) - 1)
    left = (right - 1).clamp(min=0)
    gap = (known[right] - known[left]).clamp(min=1)
    share = ((column - known[left]) / gap).clamp(0, 1).to(values)[:, None]
    filled = (1 - share) * values[:, known[left]] + share * values[:, known[right]]
    return torch.where(good[:, None], values, filled)


def _same(projections: Projections) -> Projections:
    return projections
