"""Thresholds of all pixels as a population, with a mean and a scatter of its own."""

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.reference_scatter import FEWEST_PIXELS, reference_scatter
from pcctlearn.calibration.threshold_step import FURTHEST_keV
from pcctlearn.solvers.arrow import Arrow, ArrowEquations

_WIDE_keV = FURTHEST_keV / 3  # scatter of thresholds about which nothing is known
_SAME_keV = 0.01  # scatter of a threshold that is the same in all pixels

Precision = Float[Tensor, "threshold threshold"]


def unknown_population(n_thresholds: int) -> Precision:
    """Precision of a population that hardly constrains its thresholds."""
    return torch.eye(n_thresholds, dtype=torch.float64) / _WIDE_keV**2


def population(
    estimates_keV: Float[Tensor, "pixel threshold"],
    covariance: Float[Tensor, "pixel threshold threshold"],
) -> Precision:
    """Precision of the thresholds about their mean, from estimates of every pixel.

    It is that of ``reference_scatter``. Where that finds no scatter of the lowest threshold, this
    is the same in all pixels, and nothing is known of the others; nor is it with few pixels.
    """
    wide = unknown_population(estimates_keV.shape[1])
    if len(estimates_keV) < FEWEST_PIXELS:
        return wide
    scatter = reference_scatter(estimates_keV, covariance)
    if scatter is not None:
        return torch.linalg.inv(scatter)
    wide[0, 0] = _SAME_keV**-2
    return wide


def with_population(
    equations: ArrowEquations,
    thresholds_keV: Float[Tensor, "pixel threshold"],
    mean_keV: Float[Tensor, "threshold"],
    precision: Precision,
) -> ArrowEquations:
    """The equations with Σ_i (T_i − m)ᵀ P (T_i − m), m being further shared unknowns.

    Thresholds are the last unknowns of each pixel. Nothing is assumed of m.
    """
    at, (H, B, C) = equations, equations.arrow
    J, n_shared = len(mean_keV), len(C)
    off = thresholds_keV - mean_keV
    pull = off @ precision
    blocks, border = H.clone(), torch.nn.functional.pad(B, (0, J))
    blocks[:, -J:, -J:] += precision
    border[:, -J:, n_shared:] -= precision
    corner = torch.nn.functional.pad(C, (0, J, 0, J))
    corner[n_shared:, n_shared:] += len(off) * precision
    local = at.local.clone()
    local[:, -J:] += pull
    return ArrowEquations(
        local,
        torch.cat([at.shared, -pull.sum(0)]),
        Arrow(blocks, border, corner),
        at.chi2 + (pull * off).sum(-1),
        at.offset,
    )
