"""Pixel model of a whole detector from what was fitted in its usable pixels."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from pcctlearn.calibration.pixel_model import Gauge, PixelModel
from pcctlearn.calibration.plate_counts import OfPixels, Skews
from pcctlearn.calibration.threshold_step import FURTHEST_keV
from pcctlearn.calibration.usable import spread
from pcctlearn.scans.dead_pixels import any_of

log = logging.getLogger(__name__)

_MOST_NOISY = 3.0  # median χ² per degree of freedom
_LEAST_COMMON, _MOST_COMMON = 5e-4, 0.01  # of ln counts in the median pixel
_LEAST_CHANCE = 1e-9  # of a χ² in a pixel that is as the model
_LEAST_RESIDUAL = 2.5e-3  # of ln counts: 0.06 % of the projection of 20 cm of water


class PixelFit(NamedTuple):
    """Gain, skew and thresholds of the usable pixels, and which of them are sound.

    ``covariance`` is that of (ln k, x). ``residual`` is that of ln counts above each threshold, or
    of what they are compared with, ``noise`` its variance, and ``n_spare`` the number of exposures
    less that of the unknowns of each threshold.
    """

    gain: OfPixels
    thickness_cm: Skews
    thresholds_keV: Float[Tensor, "pixel threshold"]
    covariance: Float[Tensor, "pixel unknown unknown"]
    threshold_sd_keV: Float[Tensor, "pixel threshold"]
    converged: Bool[Tensor, "pixel"]
    residual: Float[Tensor, "pixel exposure threshold"]
    noise: Float[Tensor, "pixel exposure threshold"]
    n_spare: tuple[int, ...]

    @classmethod
    def joined(cls, parts: "Sequence[PixelFit]") -> "PixelFit":
        """The fits of blocks of pixels as one."""
        arrays = zip(*(part[:-1] for part in parts), strict=True)
        members: Any = (*(torch.cat(array) for array in arrays), parts[0].n_spare)
        return cls(*members)

    def chi2(self, index: int) -> OfPixels:
        """Of the residuals above one threshold."""
        return (self.residual[..., index].square() / self.noise[..., index]).sum(-1)

    @property
    def misfit(self) -> Bool[Tensor, "pixel"]:
        """Residuals that are neither noise, nor those of most pixels, nor too small to matter."""
        found = torch.zeros_like(self.converged)
        for index, n_spare in enumerate(self.n_spare):
            if n_spare < 1:
                continue
            chi2 = self.chi2(index)
            chance = float(stats.chi2.isf(_LEAST_CHANCE, n_spare))
            large = self.residual[..., index].abs().amax(-1) > _LEAST_RESIDUAL
            found = found | (large & (chi2 > max(chance, 20 * float(chi2.median()))))
        return found

    def faults(self, nominal_keV: Float[Tensor, "threshold"]) -> dict[str, Bool[Tensor, "pixel"]]:
        """{kind: pixels} that are not sound."""
        T = self.thresholds_keV
        finite = T.isfinite().all(-1) & self.covariance.isfinite().flatten(1).all(-1)
        converged = self.converged & finite
        moved = ((T - nominal_keV).abs() > FURTHEST_keV - 1e-6).any(-1)
        far = moved | ~(T.diff(dim=-1) > 0).all(-1)
        return {
            "far from nominal": far & finite,
            "undetermined": ~converged & ~far,
            "poor fit": self.misfit & converged & ~far,
        }


def assembled(
    shape: tuple[int, ...],
    nominal_keV: Float[Tensor, "threshold"],
    materials: Sequence[str],
    flags: Mapping[str, Bool[Tensor, "pixel"]],
    fit: PixelFit,
    gauge: Gauge,
    named: Callable[[int], str],
) -> PixelModel:
    """The model of all pixels: nominal where a pixel is flagged.

    A warning tells by how much the counts of the median pixel differ from those of the fit, if that
    is more than noise: what all pixels have in common is then wrong, and the error bars with it.

    Args:
        shape: of the detector.
        nominal_keV: nominal thresholds.
        materials: of the skew.
        flags: pixels that were not fitted.
        fit: of the others.
        gauge: of the model.
        named: what was in the beam in an exposure.

    Raises:
        ValueError: fewer than half of the usable pixels fit, or the median pixel misses its counts
            by more than 1 %.
    """
    good = ~any_of(flags)
    nominal, T = nominal_keV.double(), fit.thresholds_keV
    new = fit.faults(nominal)
    full = {kind: flagged.clone() for kind, flagged in flags.items()}
    for kind, flagged in new.items():
        full[kind] = full.get(kind, torch.zeros_like(good)) | spread(flagged, good, False)
    ok = ~any_of(new)
    if int(ok.sum()) < 0.5 * len(ok):
        kind = max(new, key=lambda name: int(new[name].sum()))
        raise ValueError(
            f"only {int(ok.sum())} of {len(ok)} pixels can be calibrated, {int(new[kind].sum())} "
            f"are {kind!r}: check the exposures, the lengths and materials in the beam, the "
            "spectrum and the response"
        )
    warnings = _compare_with_noise(fit, ok, nominal, named)
    for warning in warnings:
        log.warning("%s", warning)
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
        gain_covariance=spread(
            fit.covariance.masked_fill(~ok[:, None, None], torch.nan), good, torch.nan
        ).reshape(*shape, n_unknowns, n_unknowns),
        threshold_sd_keV=spread(
            fit.threshold_sd_keV.masked_fill(~ok[:, None], torch.nan), good, torch.nan
        ).reshape(*shape, len(nominal)),
        gauge=gauge,
        flags={kind: flagged.reshape(shape) for kind, flagged in full.items()},
        warnings=warnings,
    )


def _compare_with_noise(
    fit: PixelFit,
    ok: Bool[Tensor, "pixel"],
    nominal_keV: Float[Tensor, "threshold"],
    named: Callable[[int], str],
) -> tuple[str, ...]:
    """Warnings of residuals that the median pixel has beyond noise; large ones are refused."""
    index = max(range(len(fit.n_spare)), key=lambda j: _per_spare(fit, ok, j))
    if (excess := _per_spare(fit, ok, index)) <= _MOST_NOISY:
        return ()
    common = fit.residual[ok][..., index].median(0).values
    if common.abs().max() < _LEAST_COMMON:
        return ()
    exposure = int(common.abs().argmax())
    what = (
        f"counts above {nominal_keV[index]:g} keV behind {named(exposure)} (exposure {exposure}) "
        f"differ by {100 * float(common[exposure]):+.2g} % from those of the calibrated pixels in "
        f"the median pixel (chi-square {excess:.3g} per degree of freedom)"
    )
    remedy = "check the exposures, the lengths and materials in the beam, the spectrum and response"
    if common.abs().max() > _MOST_COMMON:
        raise ValueError(f"{what}: {remedy}")
    return (f"{what}, so that errors exceed their error bars: {remedy}",)


def _per_spare(fit: PixelFit, ok: Bool[Tensor, "pixel"], index: int) -> float:
    """Median χ² above a threshold over its degrees of freedom."""
    n_spare = fit.n_spare[index]
    return float(fit.chi2(index)[ok].median()) / n_spare if n_spare > 0 else 0.0
