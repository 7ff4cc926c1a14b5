"""The protocol of calibrations from plates."""

from typing import Protocol, runtime_checkable

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.physics.spectral_model import SpectralModel


@runtime_checkable
class Calibrator(Protocol):
    """Finds what every pixel does to photons from counts behind plates."""

    def fit(self, plates: CalibrationSet, nominal: SpectralModel) -> PixelModel:
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
