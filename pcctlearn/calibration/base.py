"""Protocols of calibrations from plates, and of the corrections that they make."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.shapes import Projections


@runtime_checkable
class ProjectionCorrection(Protocol):
    """Monochromatic projections of water from those that each pixel measures."""

    @property
    def effective_keV(self) -> Float[Tensor, "threshold"]:
        """Energy of the monochromatic projections of each threshold."""
        ...

    @property
    def water_per_cm(self) -> Float[Tensor, "threshold"]:
        """Attenuation of water at these energies."""
        ...

    def __call__(self, projections: Projections) -> Projections:
        """Correct p = −ln(N/N_air), where N_air are the counts of the same pixel in air.

        Args:
            projections: one for each threshold; the last axes before it are those of the pixels.
        """
        ...


@runtime_checkable
class PixelCalibration(Protocol):
    """What a calibrator found: it corrects projections of every pixel."""

    @property
    def calibrated(self) -> Bool[Tensor, "*pixel"]:
        """Pixels without a flag; the others are corrected as nominal ones."""
        ...

    def correction(
        self, nominal: SpectralModel, effective_keV: Sequence[float] | None = None
    ) -> ProjectionCorrection:
        """The correction of every pixel.

        Args:
            nominal: the scanner that the calibrator was given.
            effective_keV: of each threshold; by default the mean energy of the photons that a
                nominal pixel counts in air.
        """
        ...


@runtime_checkable
class SpectralCalibration(PixelCalibration, Protocol):
    """A calibration that knows the spectrum of every pixel, with which materials are separated."""

    def spectra_above(self, nominal: SpectralModel) -> Float[Tensor, "*pixel threshold energy"]:
        """Spectra of the photons counted above each threshold; only their shape matters."""
        ...


@runtime_checkable
class Calibrator(Protocol):
    """Finds how every pixel differs from nominal ones from counts behind plates."""

    def fit(self, plates: CalibrationSet, nominal: SpectralModel) -> PixelCalibration:
        """Calibrate all pixels.

        Args:
            plates: what was measured.
            nominal: the spectrum without plates, the response, and nominal thresholds whose first
                ones are those of the plates.

        Raises:
            ValueError: what is wrong with the plates as a whole. Pixels that cannot be calibrated
                are flagged.
        """
        ...
