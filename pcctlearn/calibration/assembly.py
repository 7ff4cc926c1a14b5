"""Pixel model of a whole detector from what was fitted in its usable pixels."""

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.fit_warnings import fit_warnings
from pcctlearn.calibration.pixel_fit import PixelFit
from pcctlearn.calibration.pixel_model import Gauge, PixelModel
from pcctlearn.calibration.usable import spread
from pcctlearn.scans.dead_pixels import any_of

log = logging.getLogger(__name__)

_REMEDIES = {
    "undetermined": "expose longer, store the photons of all frames together (not a mean or a "
    "rate), and ",
    "far from nominal": "correct thresholds_keV, and ",
}


def assembled(
    fit: PixelFit,
    flags: Mapping[str, Bool[Tensor, "pixel"]],
    plates: CalibrationSet,
    materials: Sequence[str],
    gauge: Gauge,
    named: Callable[[int], str] | None = None,
    warnings: Sequence[str] = (),
) -> PixelModel:
    """The model of all pixels: nominal where a pixel is flagged.

    Its warnings (``fit_warnings``) are logged, too.

    Args:
        fit: of the pixels that are not flagged.
        flags: pixels that were not fitted.
        plates: their shape, nominal thresholds, and whether they have noise.
        materials: of the skew.
        gauge: of the model.
        named: what was in the beam in an exposure, by default the plates.
        warnings: further ones.

    Raises:
        ValueError: fewer than half of the usable pixels fit, or the median pixel misses its counts
            by more than 1 %.
    """
    good, shape = ~any_of(flags), plates.pixel_shape
    nominal, T = plates.thresholds_keV.double(), fit.thresholds_keV
    new = fit.faults(nominal)
    full = {kind: flagged.clone() for kind, flagged in flags.items()}
    for kind, flagged in new.items():
        full[kind] = full.get(kind, torch.zeros_like(good)) | spread(flagged, good, False)
    ok = ~any_of(new)
    if int(ok.sum()) < 0.5 * len(ok):
        kind = max(new, key=lambda name: int(new[name].sum()))
        remedy = _REMEDIES.get(kind, "")
        if kind == "undetermined" and len(materials) > 1:
            remedy = (
                f"use one material of the skew (calibration.materials=[{materials[0]}]), " + remedy
            )
        raise ValueError(
            f"only {int(ok.sum())} of {len(ok)} pixels can be calibrated, {int(new[kind].sum())} "
            f"are {kind!r}: {remedy}check the exposures, the lengths and "
            "materials in the beam, the spectrum and the response"
        )
    named = named or plates.named
    found = fit_warnings(fit.of(ok), nominal, gauge, plates.noise_free, named)
    warnings = (*warnings, *found)
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
