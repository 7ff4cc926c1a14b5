"""What a scan must have to calibrate its detector, and what its fit leaves in doubt."""

from jaxtyping import Bool
from torch import Tensor

from pcctlearn.calibration.ring_flatness import N_BLOCKS
from pcctlearn.calibration.row_solver import RowFit, RowSolver
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scans.record import ScanRecord

_SAME_AIR = 1e-6
_EXCESS = 1.2  # of χ² per degree of freedom, beyond which the counts are not as the model


def require_enough(scan: ScanRecord, nominal: SpectralModel, solver: RowSolver) -> None:
    """Raise ValueError for a scan that does not determine its pixels."""
    n_bins, n_views, _, n_columns = scan.at("counts").shape
    n_materials = len(nominal.materials)
    if scan.thresholds_keV.ndim != 1:
        raise ValueError("thresholds_keV must be the nominal ones, the same for all pixels")
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
    """Sentences about errors that the standard errors leave out."""
    doubts = []
    air = scan.air.flatten(1)[:, good]
    if good.sum() > 1 and bool((air.std(1) < _SAME_AIR * air.mean(1)).all()):
        doubts.append(
            "the air of all pixels is the same, as after a flat-field correction, so that it tells "
            "nothing about thresholds: store counts and air as they were measured"
        )
    beside = good & (found.shadowed < scan.at("counts").shape[1] / 20)
    if n_beside := int(beside.sum()):
        doubts.append(
            f"{n_beside} of {int(good.sum())} pixels see the object in less than a twentieth of "
            "the views: they are calibrated by air and the prior alone, which their standard "
            "errors show; scan a wider object, or one off the axis, for the others"
        )
    seen = good & ~beside & (found.n_spare > 0)
    if not is_noise_free and seen.any():
        excess = float((found.chi2 / found.n_spare)[seen].median())
        if excess > _EXCESS:
            doubts.append(
                f"chi-square per degree of freedom is {excess:.3g} in the median pixel, so that "
                "its counts are not those of the basis materials and of photon noise, and errors "
                "exceed their standard errors: check materials, scatter, pile-up, the spectrum and "
                "the response, and store the photons of all frames together"
            )
    return doubts
