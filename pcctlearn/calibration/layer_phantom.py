"""Pixels calibrated through the implicitly differentiated decomposition of a known phantom."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.assembly import assembled
from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.layer_fit import fit_through_decomposition
from pcctlearn.calibration.layer_problem import KnownRays
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.plate_counts import plate_model
from pcctlearn.calibration.typical_counts import require_nested
from pcctlearn.calibration.usable import unusable, with_empty_bins
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.scan import SHADOW_G_CM2
from pcctlearn.scans.dead_pixels import any_of, dead_pixels
from pcctlearn.scans.record import ScanRecord
from pcctlearn.scans.validation.pixels import noise_free
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
        nominal.require_materials(scan.materials)
        edges = scan.thresholds_keV
        if edges.ndim != 1:
            raise ValueError("thresholds_keV must be the nominal ones, the same for all pixels")
        if len(edges) - 1 < len(scan.materials):
            raise ValueError(
                f"{len(edges) - 1} thresholds do not determine {len(scan.materials)} materials: "
                "scan with more thresholds"
            )
        counts = _rays(scan.at("counts"), scan.air)
        area = scan.at("line_integrals").double().flatten(2).movedim(0, -1)
        area = torch.cat([torch.zeros_like(area[:1]), area])
        air = CalibrationSet(
            counts[:1].unflatten(1, scan.air.shape[1:]),
            torch.zeros(1, 1, dtype=torch.float64),
            ("water",),
            edges[:-1].double(),
            noise_free=noise_free(scan.at("counts").numpy(), scan.air.numpy()),
        )
        model = plate_model(air, nominal, self.materials)
        counts = counts.movedim(0, 1)  # (pixel, exposure, threshold)
        kinds = dead_pixels(scan.at("counts"), scan.air)
        flags = {kind: dead.flatten() for kind, dead in kinds.items()}
        # a pixel needs as many shadowed views as it has unknowns
        shadowed = (area.sum(-1) > SHADOW_G_CM2).sum(0)
        n_unknowns = len(self.materials) + len(edges) - 1
        flags["beside the phantom"] = ~any_of(flags) & (shadowed < n_unknowns)
        if any_of(flags).all():
            raise ValueError(
                f"no pixel sees the phantom in {n_unknowns} views or more: check line_integrals, "
                "and that the phantom lies within the field of view"
            )
        flags = unusable(counts / _expected(area, nominal).movedim(0, 1), flags)
        require_nested(counts[~any_of(flags), :1], model, air)
        flags = with_empty_bins(counts, flags)
        good = ~any_of(flags)
        rays = KnownRays(counts[good], area[:, good], torch.ones(len(area), dtype=torch.float64))
        fit = fit_through_decomposition(
            rays, model, scan.materials, air.thresholds_keV, self.max_steps
        )
        return assembled(
            fit, flags, air, self.materials, "absolute",
            lambda exposure: f"the phantom in view {exposure - 1}" if exposure else "air",
        )  # fmt: skip


def _rays(
    bins: Float[Tensor, "bin view row column"], air: Float[Tensor, "bin row column"]
) -> Float[Tensor, "exposure pixel threshold"]:
    """Counts above thresholds in air and in every view."""
    both = torch.cat([air[:, None], bins], 1).double()
    return above_from_bins(both.flatten(2).movedim(0, -1))


@torch.no_grad()
def _expected(
    area: Float[Tensor, "exposure pixel material"], nominal: SpectralModel
) -> Float[Tensor, "exposure pixel threshold"]:
    """Counts of nominal pixels above the thresholds."""
    spectra = nominal.spectra().double()
    table = nominal.attenuation.double()
    views = [expected_counts(view, spectra, table) for view in area]
    return above_from_bins(torch.stack(views))
