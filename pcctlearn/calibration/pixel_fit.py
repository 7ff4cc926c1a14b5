"""What was fitted in the usable pixels of a detector, and in which of them it is sound."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from pcctlearn.calibration.plate_counts import OfPixels, Skews
from pcctlearn.calibration.threshold_step import FURTHEST_keV

_LEAST_CHANCE = 1e-9  # of a χ² in a pixel that is as the model
_LEAST_RESIDUAL = 2.5e-3  # of ln counts: 0.06 % of the projection of 20 cm of water
_MOST_SD_keV = FURTHEST_keV / 4  # of a threshold: four of them are as far as it is searched


class PixelFit(NamedTuple):
    """Gain, skew and thresholds of the usable pixels, and which of them are sound.

    ``covariance`` is that of (ln k, x). ``residual`` is that of ln counts above each threshold, or
    of what they are compared with. The squares of ``standardised`` add up to χ² with ``n_spare``
    degrees of freedom for each threshold, if the noise is that of photons.
    """

    gain: OfPixels
    thickness_cm: Skews
    thresholds_keV: Float[Tensor, "pixel threshold"]
    covariance: Float[Tensor, "pixel unknown unknown"]
    threshold_sd_keV: Float[Tensor, "pixel threshold"]
    converged: Bool[Tensor, "pixel"]
    residual: Float[Tensor, "pixel exposure threshold"]
    standardised: Float[Tensor, "pixel exposure threshold"]
    n_spare: tuple[float, ...]

    @classmethod
    def joined(cls, parts: "Sequence[PixelFit]") -> "PixelFit":
        """The fits of blocks of pixels as one."""
        arrays = zip(*(part[:-1] for part in parts), strict=True)
        members: Any = (*(torch.cat(array) for array in arrays), parts[0].n_spare)
        return cls(*members)

    def of(self, pixels: Bool[Tensor, "pixel"]) -> "PixelFit":
        """The fits of some of the pixels."""
        members: Any = (*(array[pixels] for array in self[:-1]), self.n_spare)
        return PixelFit(*members)

    @property
    def tested(self) -> list[tuple[int, float]]:
        """(index, degrees of freedom of χ²) of the thresholds that have any."""
        return [(index, n) for index, n in enumerate(self.n_spare) if n >= 1]

    def chi2(self, index: int) -> OfPixels:
        """χ² of the residuals above one threshold."""
        return self.standardised[..., index].square().sum(-1)

    @property
    def misfit(self) -> Bool[Tensor, "pixel"]:
        """Residuals that are neither noise, nor those of most pixels, nor too small to matter."""
        found = torch.zeros_like(self.converged)
        for index, n_spare in self.tested:
            chi2 = self.chi2(index)
            chance = float(stats.chi2.isf(_LEAST_CHANCE, n_spare))
            large = self.residual[..., index].abs().amax(-1) > _LEAST_RESIDUAL
            found = found | (large & (chi2 > max(chance, 20 * float(chi2.nanmedian()))))
        return found

    def faults(self, nominal_keV: Float[Tensor, "threshold"]) -> dict[str, Bool[Tensor, "pixel"]]:
        """{kind: pixels} that are not sound."""
        T = self.thresholds_keV
        finite = T.isfinite().all(-1) & self.covariance.isfinite().flatten(1).all(-1)
        determined = self.converged & finite & (self.threshold_sd_keV < _MOST_SD_keV).all(-1)
        moved = ((T - nominal_keV).abs() > FURTHEST_keV - 1e-6).any(-1)
        far = moved | ~(T.diff(dim=-1) > 0).all(-1)
        return {
            "far from nominal": far & finite,
            "undetermined": ~determined & ~far,
            "poor fit": self.misfit & determined & ~far,
        }
