"""Second step of ETB-Cal: the threshold of every pixel, with gain and skew known."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from pcctlearn.calibration.plate_counts import OfPixels, OfPlates, PlateCounts, PlateModel
from pcctlearn.calibration.skew_step import SkewFit

Comparison = Literal["ratio", "counts"]

FURTHEST_keV = 12.0  # of a threshold from its nominal value
_LONGEST_STEP_keV = 5.0
_LAST_STEP = 1e-2  # of the tolerance, where rounds end early


class ThresholdFit(NamedTuple):
    """Thresholds and their standard deviations for Poisson counts, and which converged.

    ``residual`` is measured over expected counts, less one, for each exposure; ``noise`` is its
    variance.
    """

    threshold_keV: OfPixels
    sd_keV: OfPixels
    residual: OfPlates
    noise: OfPlates
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
        tolerance_keV: largest last step of a converged pixel; with "counts" without the step that
            all pixels have in common, which is not determined.
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
    # δT = −Σ_m c_m ε_m(T) + Σ_m b_m ε_m(T_ref), relative errors ε; nested counts share theirs
    slopes = at.slopes if comparison == "counts" else at.slopes - reference.slopes
    ones = torch.full_like(share, 1.0 if comparison == "counts" else 0.0)
    towards = torch.cat([ones[..., None], -slopes], -1)  # ∂ ln(expected)/∂(ln k, x)
    follows = torch.einsum("im,imu,iue->ie", share, towards, skew.gain_matrix)
    if comparison == "ratio":
        follows = follows + share
    # nested counts share their photons: the ratio varies less than either
    noise = 1 / counts - (1 / reference_counts if comparison == "ratio" else 0)
    moved = step if comparison == "ratio" else step - step.median()
    variance = (share**2 / counts).sum(-1) + (
        (follows**2 - 2 * share * follows) / reference_counts
    ).sum(-1)
    converged = moved.abs() <= tolerance_keV
    return ThresholdFit(T, variance.clamp(min=0).sqrt(), relative - 1, noise, converged)
