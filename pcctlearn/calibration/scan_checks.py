"""What a scan must have to calibrate its detector, and what its fit leaves in doubt."""

import math

from jaxtyping import Bool
from torch import Tensor

from pcctlearn.calibration.ring_flatness import N_BLOCKS
from pcctlearn.calibration.row_solver import RowFit, RowSolver
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scans.dead_pixels import missing_views
from pcctlearn.scans.record import ScanRecord

_SAME_AIR = 1e-6
# χ² per degree of freedom of the median pixel that is not as the model: this, and five standard
# deviations of its noise, or less than the other
_EXCESS, _DEFICIT = 1.05, 0.8


def require_enough(scan: ScanRecord, nominal: SpectralModel, solver: RowSolver) -> None:
    """Raise ValueError for a scan that does not determine its pixels."""
    n_bins, n_views, _, n_columns = scan.at("counts").shape
    n_materials = len(nominal.materials)
    if scan.thresholds_keV.ndim != 1:
        raise ValueError(
            "thresholds_keV must be the nominal ones, the same for all pixels: store one number "
            "for each edge"
        )
    end, high = float(scan.thresholds_keV[-1]), float(nominal.energies_keV[-1])
    if end < high:
        raise ValueError(
            f"the last bin ends at {end:g} keV, below the {high:g} keV of the spectrum, and a "
            "calibration needs a last bin without upper limit: store all counts above "
            f"{scan.thresholds_keV[-2]:g} keV in it, and an upper edge above {high:g} keV"
        )
    if missing := missing_views(scan.at("counts")):
        raise ValueError(
            f"{len(missing)} view(s) hold no counts, the first is view {missing[0]}: leave them "
            "out of counts, and store the angles of the others in geometry/measured_angles_rad"
        )
    air = scan.air.flatten(1)
    air = air[:, (air > 0).all(0)]
    if air.shape[1] > 1 and bool((air.std(1) < _SAME_AIR * air.mean(1)).all()):
        raise ValueError(
            "the air of all pixels is the same, as after a flat-field correction, so that it tells "
            "nothing about pixels: store counts and air as they were measured"
        )
    if n_bins < n_materials:
        raise ValueError(
            f"{n_bins} thresholds do not determine {n_materials} materials: scan with more"
        )
    if solver.deviance and n_bins == n_materials:
        raise ValueError(
            f"{n_bins} bins leave nothing over {n_materials} materials "
            f"({', '.join(nominal.materials)}), from which an unknown object calibrates "
            "pixels: scan with more thresholds, or measure plates (docs/plate_file.md)"
        )
    if n_views < N_BLOCKS:
        raise ValueError(
            f"the scan has {n_views} views, fewer than {N_BLOCKS}, in which an unknown object "
            "is not told from rings: use a scan with more views, or measure plates "
            "(docs/plate_file.md)"
        )
    if solver.flatness and n_columns < 2 * solver.window_columns:
        raise ValueError(
            f"the scan has {n_columns} columns, fewer than two windows of the high-pass: use "
            f"calibration.window_columns={max(5, n_columns // 4 * 2 - 1)}, or "
            "calibration.flatness=false"
        )


def doubts_of(
    found: RowFit,
    good: Bool[Tensor, "pixel"],
    scan: ScanRecord,
    is_noise_free: bool,
    solver: RowSolver,
) -> list[str]:
    """Sentences about errors that the standard errors leave out.

    Raises:
        ValueError: no pixel sees the object.
    """
    doubts = []
    if not solver.deviance:
        doubts.append(
            "without the deviance of the bins nothing determines trends over the columns, so that "
            "errors exceed their standard errors: use calibration.deviance=true"
        )
    beside = good & (found.shadowed < scan.at("counts").shape[1] / 20)
    if bool((beside == good).all()):
        raise ValueError(
            "no pixel has ten counts in each bin behind the object in a twentieth of the views: "
            "expose longer, store photons and not a rate, or scan a larger object"
        )
    if n_beside := int(beside.sum()):
        doubts.append(
            f"{n_beside} of {int(good.sum())} pixels see the object in less than a twentieth of "
            "the views, or with too few counts: they are calibrated by air and the prior alone, "
            "which their standard errors show; for the others, expose longer, or scan a wider "
            "object or one off the axis"
        )
    seen = good & ~beside & (found.n_spare > 0)
    if not is_noise_free and seen.any():
        excess = float((found.chi2 / found.n_spare)[seen].median())
        # the variance of the median of n numbers is π/2n times theirs
        variance = math.pi / float(found.n_spare[seen].median() * seen.sum())
        if excess > _EXCESS + 5 * math.sqrt(variance):
            doubts.append(
                f"chi-square per degree of freedom is {excess:.3g} in the median pixel, so that "
                "its counts are not those of the basis materials and of photon noise, and errors "
                "exceed their standard errors: check materials, scatter, pile-up, the "
                "exposure of each view, the spectrum and the response, and store the photons of "
                "all frames together"
            )
        if excess < _DEFICIT:
            doubts.append(
                f"chi-square per degree of freedom is {excess:.3g} in the median pixel, so that "
                "standard errors are too large: store the photons of all frames together, not "
                "their mean or a rate"
            )
    return doubts
