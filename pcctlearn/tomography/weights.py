"""What every ray counts for in filtered back-projection: obliquity and redundancy."""

from math import pi

import numpy as np

from pcctlearn.tomography.geometry import Beam, FloatArray


def cosine_weights(beam: Beam) -> FloatArray:
    """cos γ: what a flat detector sees of a ray that meets it aslant; one for a parallel beam."""
    return np.cos(beam.gammas_rad)


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


def redundancy_weights(beam: Beam) -> FloatArray:
    """(view, column): how much of each ray to take, so that every line is taken once."""
    if not beam.is_short_scan:
        return np.full(beam.shape, pi / beam.arc_rad)
    return short_scan_weights(beam.angles_rad[:, None], beam.gammas_rad, beam.arc_rad)


def _smooth_step(position: FloatArray, half_width: FloatArray) -> FloatArray:
    """From zero at 0 to one at twice the half width, and one from there on."""
    fraction = position / np.maximum(half_width, 1e-12)
    return np.sin(pi / 4 * np.clip(fraction, 0, 2)) ** 2
