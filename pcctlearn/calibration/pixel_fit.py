"""Pixel model of a whole detector from what was fitted in its usable pixels."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from pcctlearn.calibration.pixel_model import Gauge, PixelModel
from pcctlearn.calibration.plate_counts import OfPixels, OfPlates, Skews
from pcctlearn.calibration.threshold_step import FURTHEST_keV
from pcctlearn.calibration.usable import spread
from pcctlearn.scans.dead_pixels import any_of

_LEAST_CHANCE = 1e-9  # of a χ² in a pixel that is as the model
_LEAST_RESIDUAL = 2.5e-3  # of ln counts: 0.06 % of the projection of 20 cm of water


class PixelFit(NamedTuple):
    """Gain, skew and thresholds of the usable pixels, and which of them are sound.

    ``covariance`` is that of (ln k, x). ``misfit`` marks residuals that noise does not explain
    (``is_misfit``).
    """

    gain: OfPixels
    thickness_cm: Skews
    thresholds_keV: Float[Tensor, "pixel threshold"]
    covariance: Float[Tensor, "pixel unknown unknown"]
    threshold_sd_keV: Float[Tensor, "pixel threshold"]
    converged: Bool[Tensor, "pixel"]
    misfit: Bool[Tensor, "pixel"]


def assembled(
    shape: tuple[int, ...],
    nominal_keV: Float[Tensor, "threshold"],
    materials: Sequence[str],
    flags: Mapping[str, Bool[Tensor, "pixel"]],
    fit: PixelFit,
    gauge: Gauge,
) -> PixelModel:
    """The model of all pixels: nominal where a pixel is flagged.

    Args:
        shape: of the detector.
        nominal_keV: nominal thresholds.
        materials: of the skew.
        flags: pixels that were not fitted.
        fit: of the others.
        gauge: of the model.

    Raises:
        ValueError: fewer than half of the usable pixels fit.
    """
    good = ~any_of(flags)
    nominal, T = nominal_keV.double(), fit.thresholds_keV
    finite = T.isfinite().all(-1) & fit.covariance.isfinite().flatten(1).all(-1)
    converged = fit.converged & finite
    far = ((T - nominal).abs() > FURTHEST_keV - 1e-6).any(-1) | ~(T.diff(dim=-1) > 0).all(-1)
    new = {
        "far from nominal": far & finite,
        "undetermined": ~converged & ~far,
        "not as the model": fit.misfit & converged & ~far,
    }
    full = {kind: flagged.clone() for kind, flagged in flags.items()}
    for kind, flagged in new.items():
        full[kind] = full.get(kind, torch.zeros_like(good)) | spread(flagged, good, False)
    ok = ~any_of(new)
    if int(ok.sum()) < 0.5 * len(ok):
        kind = max(new, key=lambda name: int(new[name].sum()))
        raise ValueError(
            f"only {int(ok.sum())} of {len(ok)} pixels can be calibrated, {int(new[kind].sum())} "
            f"are {kind!r}: check the lengths and materials in the beam, the spectrum and the "
            "response"
        )
    gain, x = fit.gain / fit.gain[ok].median(), fit.thickness_cm
    n_unknowns = 1 + len(materials)
    return PixelModel(
        gain=spread(torch.where(ok, gain, 1.0), good, 1.0).reshape(shape),
        thickness_cm=spread(torch.where(ok[:, None], x, 0.0), good, 0.0).reshape(
            *shape, len(materials)
        ),
        materials=tuple(materials),
        thresholds_keV=spread(torch.where(ok[:, None], T, nominal), good, nominal).reshape(
            *shape, len(nominal)
        ),
        nominal_keV=nominal,
        gain_covariance=spread(fit.covariance, good, torch.nan).reshape(
            *shape, n_unknowns, n_unknowns
        ),
        threshold_sd_keV=spread(fit.threshold_sd_keV, good, torch.nan).reshape(
            *shape, len(nominal)
        ),
        gauge=gauge,
        flags={kind: flagged.reshape(shape) for kind, flagged in full.items()},
    )


def is_misfit(residual: OfPlates, noise: OfPlates, n_spare: int) -> Bool[Tensor, "pixel"]:
    """Residuals that are neither noise, nor those of most pixels, nor too small to matter.

    A wrong spectrum raises those of all pixels.

    Args:
        residual: of ln counts.
        noise: variance of the residuals.
        n_spare: residuals less unknowns of a pixel.
    """
    chi2 = (residual.square() / noise).sum(-1)
    if n_spare < 1:
        return torch.zeros_like(chi2, dtype=torch.bool)
    chance = float(stats.chi2.isf(_LEAST_CHANCE, n_spare))
    large = residual.abs().amax(-1) > _LEAST_RESIDUAL
    return large & (chi2 > max(chance, 20 * float(chi2.median())))
