"""Warnings of errors that the error bars of a calibration leave out, from its residuals."""

import math
from collections.abc import Callable, Iterator

from jaxtyping import Float
from scipy import stats
from torch import Tensor

from pcctlearn.calibration.pixel_fit import PixelFit
from pcctlearn.calibration.pixel_model import Gauge
from pcctlearn.calibration.typical_counts import MOST_BIASED_keV

_MOST_SHARED = 2.0  # χ² per degree of freedom of the residuals that all pixels share
_LEAST_SHARED, _MOST_REFUSED = 5e-4, 0.01  # of ln counts
_MOST_WRONG = 1.2  # times, of error bars that are too small or too large
_ABSOLUTE: dict[Gauge, str] = {
    "absolute": "",
    "relative": ", or use calibration=etb, because counts relative to the sum over the pixels "
    "leave errors of second order in their differences",
}
_NONE = 1e-99  # of a variance, whose logarithm is taken
_LEAST_CHANCE = 1e-9  # of such residuals if the noise is that of photons


def fit_warnings(
    fit: PixelFit,
    nominal_keV: Float[Tensor, "threshold"],
    gauge: Gauge,
    noise_free: bool,
    named: Callable[[int], str],
) -> Iterator[str]:
    """One sentence for each error that the error bars leave out.

    Args:
        fit: of the calibrated pixels alone.
        nominal_keV: thresholds, for the sentences.
        gauge: of the model.
        noise_free: the counts are expected ones, whose scatter is not that of photons.
        named: what was in the beam in an exposure.

    Raises:
        ValueError: the pixels share a residual of more than 1 %.
    """
    yield from _shared(fit, nominal_keV, gauge, named)
    if gauge == "absolute":
        yield from _bias(fit, nominal_keV)
    if not noise_free:
        yield from _noise(fit, nominal_keV, gauge)


def _shared(
    fit: PixelFit,
    nominal_keV: Float[Tensor, "threshold"],
    gauge: Gauge,
    named: Callable[[int], str],
) -> Iterator[str]:
    """Residuals of the median pixel, of the threshold where they exceed noise the most."""
    n_pixels, found = len(fit.standardised), []
    for index, n_spare in fit.tested:
        chi2 = float(fit.standardised[..., index].median(0).values.square().sum())
        noise = max(1.0, _noise_of(fit, index, n_spare)[0]) if n_pixels > 1 else 1.0
        # the variance of the median of n numbers is π/2n times theirs
        chance = stats.chi2.sf(2 * n_pixels / math.pi * chi2 / noise, n_spare)
        if chi2 > _MOST_SHARED * n_spare and chance < _LEAST_CHANCE:
            found.append((chi2 / n_spare, index))
    excess, index = max(found, default=(0.0, 0))
    residual = fit.residual[..., index].median(0).values
    exposure = int(residual.abs().argmax())
    if not found or (size := abs(float(residual[exposure]))) < _LEAST_SHARED:
        return
    what = (
        f"counts above {nominal_keV[index]:g} keV behind {named(exposure)} (exposure {exposure}) "
        f"differ by {100 * float(residual[exposure]):+.2g} % from those of the calibrated pixels "
        f"in the median pixel (chi-square {excess:.3g} per degree of freedom)"
    )
    remedy = "check the exposures, the lengths and materials in the beam, the spectrum and response"
    if size > _MOST_REFUSED:
        raise ValueError(f"{what}: {remedy}")
    yield f"{what}, so that errors exceed their error bars: {remedy}{_ABSOLUTE[gauge]}"


def _bias(fit: PixelFit, nominal_keV: Float[Tensor, "threshold"]) -> Iterator[str]:
    """A bias that all pixels share, of the threshold where it is largest, beyond its noise."""
    median = fit.thresholds_keV.median(0).values
    index = int((median - nominal_keV).abs().argmax())
    # the variance of the median of n numbers is π/2n times theirs
    sd = float(fit.threshold_sd_keV[:, index].median()) * math.sqrt(math.pi / 2 / len(median))
    if abs(float(median[index] - nominal_keV[index])) > MOST_BIASED_keV + 3 * sd:
        lowest = (
            f", and that of {nominal_keV[0]:g} keV, which is nominal by definition, may be as wrong"
            if _reference_is_nominal(fit)
            else ""
        )
        yield (
            f"the threshold of {nominal_keV[index]:g} keV is {median[index]:.1f} keV in the median "
            f"pixel{lowest}: correct thresholds_keV"
        )


def _reference_is_nominal(fit: PixelFit) -> bool:
    """Whether the lowest threshold was not fitted, which has then no standard deviation."""
    return not bool((fit.threshold_sd_keV[:, 0] > 0).any())


def _noise(fit: PixelFit, nominal_keV: Float[Tensor, "threshold"], gauge: Gauge) -> Iterator[str]:
    """Noise that is not that of photons, of the threshold where it differs the most."""
    tested = [(*_noise_of(fit, index, n_spare), index) for index, n_spare in fit.tested]
    found = [(excess, index) for excess, chance, index in tested if chance < _LEAST_CHANCE]
    excess, index = max(found, key=lambda one: abs(math.log(one[0])), default=(1.0, 0))
    factor = math.sqrt(excess)
    what = (
        f"counts above {nominal_keV[index]:g} keV scatter {factor:.2g} times as much about the "
        f"calibrated pixels as counts of photons do (chi-square {excess:.2g} per degree of freedom)"
    )
    if factor > _MOST_WRONG:
        remedy = (
            "store the photons of all frames together without any factor, and check that tube and "
            "detector were stable"
        )
        if _reference_is_nominal(fit):
            remedy += (
                " and that the pixels hardly differ in the threshold of "
                f"{nominal_keV[0]:g} keV, which is nominal by definition"
            )
        yield (
            f"{what}, so that errors exceed their error bars by about this factor: "
            f"{remedy}{_ABSOLUTE[gauge]}"
        )
    elif factor < 1 / _MOST_WRONG:
        yield (
            f"{what}, so that the error bars are too large: store the photons of all frames "
            "together, not their mean, a rate or a ratio (or set the attribute noise_free of the "
            "file to 1 if the counts were computed without noise)"
        )


def _noise_of(fit: PixelFit, index: int, n_spare: float) -> tuple[float, float]:
    """Variance over that of photons, and its chance if the noise is that of photons.

    The median χ² of the pixels is compared with that of its distribution, without what the pixels
    share. The share of the distribution below the median of n of its numbers is distributed as
    Beta((n + 1)/2, (n + 1)/2).
    """
    z, n_pixels = fit.standardised[..., index], len(fit.standardised)
    if n_pixels > 1:
        z = (z - z.mean(0)) * math.sqrt(n_pixels / (n_pixels - 1))
    chi2 = float(z.square().sum(-1).median())
    expected, place = stats.chi2(n_spare), stats.beta((n_pixels + 1) / 2, (n_pixels + 1) / 2)
    chance = min(place.cdf(expected.cdf(chi2)), place.cdf(expected.sf(chi2)))
    return max(chi2 / expected.median(), _NONE), float(chance)
