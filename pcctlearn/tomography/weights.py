"""What every ray counts for in filtered back-projection: obliquity and redundancy."""

from math import atan, pi

import numpy as np

from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.tomography.geometry import ARC_TOLERANCE_RAD, Beam, DivergentBeam
from pcctlearn.tomography.grids import FloatArray


def cosine_weights(beam: Beam) -> FloatArray:
    """([row,] column): what a flat detector sees of a ray that meets it aslant.

    w = D / √(D² + u² + v²) · (1 + δ/R · u/D), for a detector at D from the source, (u, v) from
    where the central ray meets it, and an axis at R that lies δ beside the central ray; one for a
    parallel beam. In the plane of the source this is cos γ + δ/R sin γ, which makes a fan's
    (θ, γ) into parallel lines.

    L. A. Feldkamp, L. C. Davis and J. W. Kress, "Practical cone-beam algorithm",
    J. Opt. Soc. Am. A 1 (1984). doi:10.1364/JOSAA.1.000612
    G. T. Gullberg, C. R. Crawford and B. M. W. Tsui, "Reconstruction algorithm for fan beam with a
    displaced center-of-rotation", IEEE Trans. Med. Imaging 5 (1986). doi:10.1109/TMI.1986.4307737
    """
    gamma = beam.gammas_rad
    weights = np.cos(gamma) + np.tan(beam.axis_gamma_rad) * np.sin(gamma)
    return weights / beam.obliquity() if isinstance(beam, ConeBeam) else weights


def short_scan_weights(beta: FloatArray, gamma: FloatArray, arc_rad: float) -> FloatArray:
    """Redundancy weights of a short scan; they sum to one over conjugate rays.

    The ray (β, γ) is met again as (β + π − 2γ, −γ). The weight rises where a ray is met again at
    the end of the arc, and falls for the ray that meets it there. With arc = π + 2δ,

        w = sin²(π/4 · β / (δ + γ)) · sin²(π/4 · (π + 2δ − β) / (δ − γ)),

    where a fraction above 2 counts as 2, and its factor as one.

    D. L. Parker, "Optimal short scan convolution reconstruction for fan beam CT",
    Med. Phys. 9 (1982), with the opposite sign of γ. doi:10.1118/1.595078
    """
    delta = (arc_rad - pi) / 2
    rise = _smooth_step(beta, delta + gamma)
    fall = _smooth_step(arc_rad - beta, delta - gamma)
    return rise * fall


def displaced_detector_weights(gamma: FloatArray, overlap_rad: float) -> FloatArray:
    """Redundancy weights of a full scan whose detector reaches past the axis on one side only.

    Rays within ±overlap are met twice, the others once: w = (1 + sin(π/2 · γ / overlap)) / 2, and
    one beyond, for a detector whose long side has γ > 0.

    G. Wang, "X-ray micro-CT with a displaced detector array", Med. Phys. 29 (2002).
    doi:10.1118/1.1489043
    """
    return (1 + np.sin(pi / 2 * np.clip(gamma / overlap_rad, -1, 1))) / 2


def redundancy_weights(beam: Beam) -> FloatArray:
    """(view, column): how much of each ray to take, so that every measured line is taken once."""
    gamma = beam.gammas_rad - beam.axis_gamma_rad  # from the ray through the axis
    if isinstance(beam, DivergentBeam):
        if beam.largest_hole_rad:
            raise ValueError(
                f"the views leave a hole of {beam.largest_hole_rad:.4g} rad, and filtered "
                "back-projection needs an arc without one: add the missing views, or reconstruct "
                "iteratively"
            )
        if beam.is_short_scan:
            _require_short_scan(beam, gamma)
            return short_scan_weights(beam.betas_rad[:, None], gamma, beam.arc_rad)
        overlap_cm = min(beam.reaches_cm)
        is_displaced = max(beam.reaches_cm) - overlap_cm > 2 * beam.column_cm
        if any(beam.is_truncated) and is_displaced:
            return np.ones((beam.n_views, 1)) * _displaced_weights(beam, gamma, overlap_cm)
    return np.full((beam.n_views, beam.n_columns), pi / beam.arc_rad)


def _require_short_scan(beam: DivergentBeam, gamma: FloatArray) -> None:
    shortest = pi + 2 * float(np.abs(gamma).max())
    if beam.arc_rad < shortest - ARC_TOLERANCE_RAD:
        raise ValueError(
            f"the views cover an arc of {beam.arc_rad:.6g} rad, and filtered back-projection "
            f"needs π + fan angle = {shortest:.6g} or more: add views, use fewer columns, or "
            "reconstruct iteratively"
        )


def _displaced_weights(beam: DivergentBeam, gamma: FloatArray, overlap_cm: float) -> FloatArray:
    if overlap_cm <= 0:
        raise ValueError(
            f"the detector ends {-overlap_cm:.4g} cm before the axis, so that the middle of the "
            "image is never seen: move it with offset_cm"
        )
    side = 1 if beam.reaches_cm[1] > overlap_cm else -1  # where the long side is
    edge_cm = beam.magnification * beam.axis_shift_cm - side * overlap_cm
    edge_gamma = atan(edge_cm * beam.source_curvature / beam.magnification)
    return displaced_detector_weights(side * gamma, abs(edge_gamma - beam.axis_gamma_rad))


def _smooth_step(position: FloatArray, half_width: FloatArray) -> FloatArray:
    """From zero at 0 to one at twice the half width, and one from there on."""
    fraction = position / np.maximum(half_width, 1e-12)
    return np.sin(pi / 4 * np.clip(fraction, 0, 2)) ** 2
