"""Pixels calibrated through the implicitly differentiated decomposition of a known phantom."""

from collections.abc import Sequence

import torch

from pcctlearn.calibration.assembly import assembled
from pcctlearn.calibration.layer_fit import fit_through_decomposition
from pcctlearn.calibration.layer_problem import KnownRays
from pcctlearn.calibration.phantom_rays import phantom_rays
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scans.record import ScanRecord
from pcctlearn.validation import require_names, require_positive


class LayerPhantom:
    """Gain, skew and thresholds whose decomposition of a scan agrees with the known phantom.

    Every view is an exposure behind the line integrals of the phantom, and air is one more. The
    loss and its derivative are those of ``fit_through_decomposition``. Pixels see one another's
    errors in images only, so that line integrals, weighted by the Fisher information of their
    decomposition, determine each pixel on its own, and with less noise.

    The scan must be free of scatter, and the phantom must be where its line integrals say. A disc
    on the axis of rotation shows each pixel one length only, which does not determine the skew:
    scan it off the axis, or scan an ellipse with inserts.

    Args:
        materials: of the skew.
        max_steps: of Levenberg and Marquardt.
    """

    def __init__(self, materials: Sequence[str] = ("CdTe",), max_steps: int = 30) -> None:
        require_positive(max_steps=max_steps)
        require_names("materials", materials, "calibration.materials=[CdTe]")
        self.materials, self.max_steps = tuple(materials), max_steps

    def fit(self, scan: ScanRecord, nominal: SpectralModel) -> PixelModel:
        """Calibrate all pixels.

        Args:
            scan: its counts, air, and the known line integrals; all views have the same exposure.
            nominal: the scanner with nominal thresholds; its materials are those of the line
                integrals, and the basis of the decomposition.

        Raises:
            ValueError: the scan does not fit the scanner, or fewer than half of the pixels that
                see the phantom can be calibrated.
        """
        rays = phantom_rays(scan, nominal, self.materials)
        good, area = rays.good, rays.area_g_cm2
        known = KnownRays(
            rays.counts[good], area[:, good], torch.ones(len(area), dtype=torch.float64)
        )
        fit = fit_through_decomposition(
            known, rays.model, scan.materials, rays.air.thresholds_keV, self.max_steps
        )
        return assembled(fit, rays.flags, rays.air, self.materials, "absolute", rays.named)
