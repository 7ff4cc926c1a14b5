"""Second step of ETB-Cal: the threshold of every pixel, with gain and skew known."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.plate_counts import OfPixels, OfPlates, PlateCounts, PlateModel
from pcctlearn.calibration.skew_step import SkewFit

Comparison = Literal["ratio", "counts"]

FURTHEST_keV = 12.0  # of a threshold from its nominal value
_LONGEST_STEP_keV = 5.0
_LAST_STEP = 1e-2  # of the tolerance, where rounds end early
_SMALL_STEP = 1e-2  # of a standard deviation


class ThresholdFit(NamedTuple):
    """Thresholds and their standard deviations for Poisson counts, and which converged.

    ``residual`` is measured over expected counts, less one, for each exposure. The squares of
    ``standardised`` add up to χ² with one degree of freedom less than exposures.
    """

    threshold_keV: OfPixels
    sd_keV: OfPixels
    residual: OfPlates
    standardised: OfPlates
    converged: Bool[Tensor, "pixel"]


def fit_threshold(
    counts: OfPlates,
    reference_counts: OfPlates,
    model: PlateModel,
    skew: SkewFit,
    nominal_keV: float,
    reference_keV: OfPixels,
    comparison: Comparison = "ratio",
    max_rounds: int = 8,
    tolerance_keV: float = 1e-4,
) -> ThresholdFit:
    """T ← T + Σ_m N_m h_m r_m / Σ_m N_m h_m², repeated [2, eq. 16].

    r_m is one minus measured over expected counts, and h_m = −∂ ln P_m/∂T. "counts" compares the
    counts of a pixel with the sum over all pixels, as [2] proposes: a bias common to all pixels
    cancels. "ratio" compares counts above this threshold with those above the reference threshold
    of the same exposure: gain and exposure cancel, the common bias does not, and part of the
    photon noise is shared.

    Args:
        counts: above this threshold.
        reference_counts: above the reference threshold of the same exposures.
        model, skew: expected counts; skew fitted at the reference threshold.
        nominal_keV: where the search begins.
        reference_keV: the reference threshold.
        comparison: of counts.
        max_rounds: most steps.
        tolerance_keV: largest last step of a converged pixel, or 1 % of its standard deviation;
            with "counts" without the step that all pixels have in common, which is not determined.
    """
    T = torch.full_like(skew.gain, nominal_keV)
    reference = model.counts(skew.thickness_cm, reference_keV)
    step = torch.full_like(T, torch.inf)

    def compared(at: PlateCounts) -> OfPlates:
        """Measured over expected counts, as far as they are compared."""
        if comparison == "ratio":
            return counts / reference_counts * reference.counts / at.counts
        expected = skew.gain[:, None] * at.counts
        return counts / counts.mean(0) * expected.mean(0) / expected

    for _ in range(max_rounds):
        at = model.counts(skew.thickness_cm, T)
        relative = compared(at)
        step = (counts * at.hazard * (1 - relative)).sum(-1) / (counts * at.hazard**2).sum(-1)
        step = step.clamp(-_LONGEST_STEP_keV, _LONGEST_STEP_keV)
        T = (T + step).clamp(nominal_keV - FURTHEST_keV, nominal_keV + FURTHEST_keV)
        T = T.clamp(float(model.energies_keV[0]), float(model.energies_keV[-1]))
        if bool((step.abs() <= _LAST_STEP * tolerance_keV).all()):
            break
    at = model.counts(skew.thickness_cm, T)
    relative = compared(at)
    share = counts * at.hazard / (counts * at.hazard**2).sum(-1, keepdim=True)
    covariance = _covariance(counts, reference_counts, at, reference, skew, comparison)
    sd = torch.einsum("im,imn,in->i", share, covariance, share).clamp(min=0).sqrt()
    standardised, sound = _standardised(relative - 1, at.hazard, covariance)
    moved = step if comparison == "ratio" else step - step.median()
    converged = (moved.abs() <= (_SMALL_STEP * sd).clamp(min=tolerance_keV)) & sound
    return ThresholdFit(T, sd, relative - 1, standardised, converged)


def _covariance(
    counts: OfPlates,
    reference_counts: OfPlates,
    at: PlateCounts,
    reference: PlateCounts,
    skew: SkewFit,
    comparison: Comparison,
) -> Float[Tensor, "pixel exposure exposure"]:
    """Of ln(measured/expected) with the fitted gain and skew, for Poisson counts.

    C = 1/N − X V Xᵀ + d V dᵀ ("counts") or 1/N − 1/N_ref + d V dᵀ ("ratio"). V is the covariance
    of (ln k, x), X = ∂ ln P_ref/∂(ln k, x), and d = ∂ ln(P/P_ref)/∂(ln k, x). The negative terms
    are due to photons that are above both thresholds.
    """
    V = skew.covariance
    d = reference.slopes - at.slopes
    C = d @ V[:, 1:, 1:] @ d.mT
    if comparison == "ratio":
        return C + torch.diag_embed(1 / counts - 1 / reference_counts)
    X = torch.cat([torch.ones_like(d[..., :1]), -reference.slopes], -1)
    return C + torch.diag_embed(1 / counts) - X @ V @ X.mT


def _standardised(
    residual: OfPlates, hazard: OfPlates, covariance: Float[Tensor, "pixel exposure exposure"]
) -> tuple[OfPlates, Bool[Tensor, "pixel"]]:
    """L⁻¹r without the part that a change of T makes, where C = L Lᵀ, and whether C is positive."""
    L, failed = torch.linalg.cholesky_ex(covariance)
    both = torch.linalg.solve_triangular(L, torch.stack([residual, hazard], -1), upper=False)
    r, h = both.unbind(-1)
    r = r - h * ((r * h).sum(-1) / h.square().sum(-1))[:, None]
    return r, failed == 0
