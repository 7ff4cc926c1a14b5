"""First step of ETB-Cal: gain and skew of every pixel from counts above the reference threshold."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.plate_counts import OfPixels, OfPlates, PlateModel, Skews
from pcctlearn.solvers.levenberg_marquardt import LevenbergMarquardt, Residuals

Normalisation = Literal["anchor", "model", "nominal"]

_REFRESHES = 6  # of the mean of all pixels, with "model"
_LONGEST_STEP = 1.0  # of ln counts
_ROUNDING = 16.0  # of ln(measured/expected), in eps


class SkewFit(NamedTuple):
    """Gain and thicknesses of each pixel.

    ``covariance`` is that of (ln k, x) for Poisson counts and, where there is one, the prior.
    ``residual`` is that of ln N for each exposure, ``standardised`` the same over its standard
    deviation, of which ``n_spare`` are independent.
    """

    gain: OfPixels
    thickness_cm: Skews
    covariance: Float[Tensor, "pixel unknown unknown"]
    residual: OfPlates
    standardised: OfPlates
    n_spare: float
    converged: Bool[Tensor, "pixel"]


def fit_skew(
    counts: OfPlates,
    exposure: Float[Tensor, "exposure"],
    model: PlateModel,
    threshold_keV: OfPixels,
    normalisation: Normalisation = "anchor",
    prior_cm: Float[Tensor, "material"] | None = None,
) -> SkewFit:
    """Minimise Σ_m N_m [ln(N_m/D_m) − ln k − ln(P_m(x)/D'_m)]² + Σ_n (x_n/σ_n)² for every pixel.

    "anchor" divides the counts by the exposure, so that D_m is known and the thickness common to
    all pixels is determined. "model" and "nominal" divide them by their sum over the pixels, as
    [2] proposes [2, eq. 9]: the exposure cancels, and with it the common thickness. The sum of the
    expected counts is that of the fitted pixels, refreshed six times ("model"), or that of
    nominal pixels ("nominal").

    Args:
        counts: above the reference threshold, N.
        exposure: of each exposure, relative; used by "anchor".
        model: expected counts.
        threshold_keV: the reference threshold, where the bias is zero by definition.
        normalisation: of the counts.
        prior_cm: standard deviation σ of each thickness; none by default.
    """
    n_pixels, n_materials = len(counts), len(model.attenuation_per_cm)
    solver = LevenbergMarquardt()
    above = model.above(threshold_keV)
    root = counts.clamp(min=0).sqrt()
    x = torch.zeros(n_pixels, 1 + n_materials).to(counts)
    prior = x[0, 1:] if prior_cm is None else 1 / prior_cm
    at = model.counts(x[:, 1:], above)
    if normalisation == "anchor":
        measured = counts / exposure
        expected_sum = torch.ones_like(exposure)
    else:
        measured = counts / counts.mean(0)
        expected_sum = at.counts.mean(0)

    rounding = _ROUNDING * torch.finfo(counts.dtype).eps * root.amax(-1)

    def residuals(unknown: Tensor) -> Residuals:
        at = model.counts(unknown[:, 1:], above)
        y = (measured * expected_sum / at.counts).log() - unknown[:, :1]
        J = torch.cat([-torch.ones_like(y)[..., None], at.slopes], -1)
        value, jacobian = root * y, root[..., None] * J
        if prior_cm is not None:
            rows = torch.diag_embed(torch.cat([prior.new_zeros(1), prior]).expand_as(unknown))
            value = torch.cat([value, (unknown[:, 1:] * prior)], -1)
            jacobian = torch.cat([jacobian, rows[:, 1:]], 1)
        return Residuals(value, jacobian, rounding)

    # ln k starts where the counts are right on average
    x[:, 0] = (measured * expected_sum / at.counts).log().mean(-1)
    longest = torch.cat([torch.tensor([torch.inf]).to(x), _LONGEST_STEP / at.slopes.amax((0, 1))])
    for _ in range(_REFRESHES if normalisation == "model" else 1):
        found = solver(residuals, x, longest)
        x = found.x
        if normalisation == "model":
            expected_sum = (x[:, :1].exp() * model.counts(x[:, 1:], above).counts).mean(0)
    at_minimum = residuals(x)
    covariance, singular = torch.linalg.inv_ex(found.normal)
    n_exposures = counts.shape[1]
    standardised = at_minimum.value[:, :n_exposures]
    fitted = 1.0 + n_materials
    if prior_cm is not None:  # it determines part of the unknowns
        J = at_minimum.jacobian[:, :n_exposures]
        fitted = (covariance * (J.mT @ J)).sum((1, 2)).nanmedian().item()
    return SkewFit(
        x[:, 0].exp(),
        x[:, 1:],
        covariance,
        standardised / root,
        standardised,
        n_exposures - fitted,
        found.converged & (singular == 0),
    )
