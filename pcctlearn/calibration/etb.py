"""ETB-Cal: skew at the lowest threshold, then the bias of every other threshold [2]."""

from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.pixel_model import Gauge, PixelModel
from pcctlearn.calibration.plate_counts import OfPlates, PlateModel, plate_model
from pcctlearn.calibration.skew_step import Normalisation, SkewFit, fit_skew
from pcctlearn.calibration.threshold_step import (
    Comparison,
    FURTHEST_keV,
    ThresholdFit,
    fit_threshold,
)
from pcctlearn.calibration.usable import any_of, require_nested, require_plates, spread, unusable
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.validation import require_positive

_LEAST_CHANCE = 1e-9  # of a χ² in a pixel that is as the model
_LEAST_RESIDUAL = 2.5e-3  # of ln counts: 0.06 % of the projection of 20 cm of water
_BLOCK = 20_000  # pixels


class EtbCal:
    """Skew from the counts above the lowest threshold, whose bias is zero by definition; then one
    threshold after the other with gain and skew known.

    [2] normalises counts by their sum over the pixels (``normalisation="model"``,
    ``comparison="counts"``), which cancels the exposure, but leaves whatever all pixels have in
    common undetermined. The default uses the exposure that a monitor measured, or that was
    constant, and the ratio of counts above two thresholds of the same exposure.

    Args:
        materials: of the skew. One is the safe choice: with two, a bias of the lowest threshold
            looks like a difference between them.
        normalisation: "anchor" by the exposure, "model" or "nominal" by the sum over the pixels
            (``fit_skew``).
        comparison: "ratio" or "counts" (``fit_threshold``).
        prior_cm: {material: standard deviation of its thickness}.
        max_rounds: most threshold steps.
    """

    def __init__(
        self,
        materials: Sequence[str] = ("CdTe",),
        normalisation: Normalisation = "anchor",
        comparison: Comparison = "ratio",
        prior_cm: Mapping[str, float] | None = None,
        max_rounds: int = 8,
    ) -> None:
        for name, value, accepted in (
            ("normalisation", normalisation, get_args(Normalisation)),
            ("comparison", comparison, get_args(Comparison)),
        ):
            if value not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {value!r}")
        if comparison == "ratio" and normalisation != "anchor":
            raise ValueError(
                f"comparison=ratio needs normalisation=anchor, got {normalisation}: the skew that "
                "all pixels share would appear as a bias of 0.2 keV; use comparison=counts"
            )
        if isinstance(materials, str) or len(set(materials)) != len(materials) or not materials:
            raise ValueError(f"materials must be different names, got {materials!r}: use [CdTe]")
        if prior_cm is not None and set(prior_cm) != set(materials):
            raise ValueError(
                f"prior_cm names {sorted(prior_cm)}, materials {sorted(materials)}: give one "
                "for each"
            )
        require_positive(
            max_rounds=max_rounds, **{f"prior_cm.{k}": v for k, v in (prior_cm or {}).items()}
        )
        self.materials, self.normalisation, self.comparison = materials, normalisation, comparison
        self.prior_cm, self.max_rounds = prior_cm, max_rounds

    def fit(self, plates: CalibrationSet, nominal: SpectralModel) -> PixelModel:
        """Calibrate all pixels (``Calibrator``)."""
        require_plates(plates, 1 + len(self.materials))
        exposure = plates.exposure
        if exposure is None:
            if self.normalisation == "anchor":
                raise ValueError(
                    "normalisation=anchor needs the exposure of each plate: measure it, set it to "
                    "ones if the tube is stable, or use normalisation=model comparison=counts"
                )
            exposure = torch.ones(len(plates.counts), dtype=torch.float64)
        model = plate_model(plates, nominal, self.materials)
        counts = [plates.of_threshold(j).double() for j in range(len(plates.thresholds_keV))]
        flags = unusable(torch.stack(counts, -1), plates.flags)
        require_nested(torch.stack(counts, -1)[~any_of(flags)], model, plates)
        once = self._fit(plates, counts, exposure.double(), model, flags)
        sums = self.normalisation != "anchor" or self.comparison == "counts"
        if sums and not bool((once.calibrated.flatten() | any_of(flags)).all()):
            # the sums over the pixels again, without those that do not fit
            flags = {kind: flagged.flatten() for kind, flagged in once.flags.items()}
            once = self._fit(plates, counts, exposure.double(), model, flags)
        return once

    def _fit(
        self,
        plates: CalibrationSet,
        counts: list[Tensor],
        exposure: Tensor,
        model: PlateModel,
        flags: dict[str, Tensor],
    ) -> PixelModel:
        good = ~any_of(flags)
        used = torch.stack([values[good] for values in counts])
        absolute = self.normalisation == "anchor" and self.comparison == "ratio"
        # pixels that are not compared with one another are fitted in blocks, which limits memory
        blocks = used.split(_BLOCK if absolute else used.shape[1], dim=1)
        skews, found = zip(
            *(self._steps(block, exposure, model, plates.thresholds_keV) for block in blocks),
            strict=True,
        )
        skew = SkewFit(*map(torch.cat, zip(*skews, strict=True)))
        thresholds = [
            ThresholdFit(*map(torch.cat, zip(*parts, strict=True)))
            for parts in zip(*found, strict=True)
        ]
        gauge: Gauge = "absolute" if absolute else "relative"
        return assembled(plates, self.materials, flags, used[0], skew, thresholds, gauge)

    def _steps(
        self,
        counts: Float[Tensor, "threshold pixel exposure"],
        exposure: Tensor,
        model: PlateModel,
        nominal_keV: Float[Tensor, "threshold"],
    ) -> tuple[SkewFit, list[ThresholdFit]]:
        """Skew at the first threshold, then every other threshold."""
        reference_keV = torch.full_like(counts[0][:, 0], nominal_keV[0].item())
        prior = None
        if self.prior_cm is not None:
            prior = torch.tensor([self.prior_cm[name] for name in self.materials]).double()
        skew = fit_skew(counts[0], exposure, model, reference_keV, self.normalisation, prior)
        found = [
            fit_threshold(
                values,
                counts[0],
                model,
                skew,
                keV,
                reference_keV,
                self.comparison,
                self.max_rounds,
            )
            for values, keV in zip(counts[1:], nominal_keV[1:].tolist(), strict=True)
        ]
        return skew, found


def assembled(
    plates: CalibrationSet,
    materials: Sequence[str],
    flags: Mapping[str, Bool[Tensor, "pixel"]],
    counts: Float[Tensor, "usable exposure"],
    skew: SkewFit,
    found: Sequence[ThresholdFit],
    gauge: Gauge,
) -> PixelModel:
    """The model of all pixels: nominal where a pixel is flagged.

    Raises:
        ValueError: fewer than half of the usable pixels fit.
    """
    good = ~any_of(flags)
    nominal = plates.thresholds_keV.double()
    reference = torch.full_like(skew.gain, float(nominal[0]))
    T = torch.stack([reference, *(f.threshold_keV for f in found)], -1)
    sd = torch.stack([torch.zeros_like(reference), *(f.sd_keV for f in found)], -1)
    finite = T.isfinite().all(-1) & skew.covariance.isfinite().flatten(1).all(-1)
    converged = torch.stack([skew.converged, *(f.converged for f in found)]).all(0) & finite
    far = ((T - nominal).abs() > FURTHEST_keV - 1e-6).any(-1) | ~(T.diff(dim=-1) > 0).all(-1)
    n_spare = len(plates.counts) - 1 - len(materials)
    misfit = _is_misfit(skew.residual, 1 / counts, n_spare)
    for each in found:
        misfit = misfit | _is_misfit(each.residual, each.noise, len(plates.counts) - 1)
    new = {
        "far from nominal": far & finite,
        "undetermined": ~converged & ~far,
        "not as the model": misfit & converged & ~far,
    }
    full = {kind: flagged.clone() for kind, flagged in flags.items()}
    for kind, flagged in new.items():
        full[kind] = full.get(kind, torch.zeros_like(good)) | spread(flagged, good, False)
    ok = ~any_of(new)
    if int(ok.sum()) < 0.5 * len(ok):
        kind = max(new, key=lambda name: int(new[name].sum()))
        raise ValueError(
            f"only {int(ok.sum())} of {len(ok)} pixels can be calibrated, {int(new[kind].sum())} "
            f"are {kind!r}: check the lengths and materials of the plates, the spectrum and the "
            "response"
        )
    gain = skew.gain / skew.gain[ok].median()
    shape = plates.pixel_shape
    n_unknowns = 1 + len(materials)
    return PixelModel(
        gain=spread(torch.where(ok, gain, 1.0), good, 1.0).reshape(shape),
        thickness_cm=spread(torch.where(ok[:, None], skew.thickness_cm, 0.0), good, 0.0).reshape(
            *shape, len(materials)
        ),
        materials=tuple(materials),
        thresholds_keV=spread(torch.where(ok[:, None], T, nominal), good, nominal).reshape(
            *shape, len(nominal)
        ),
        nominal_keV=nominal,
        gain_covariance=spread(skew.covariance, good, torch.nan).reshape(
            *shape, n_unknowns, n_unknowns
        ),
        threshold_sd_keV=spread(sd, good, torch.nan).reshape(*shape, len(nominal)),
        gauge=gauge,
        flags={kind: flagged.reshape(shape) for kind, flagged in full.items()},
    )


def _is_misfit(residual: OfPlates, noise: OfPlates, n_spare: int) -> Bool[Tensor, "pixel"]:
    """Residuals that are neither noise, nor those of most pixels, nor too small to matter.

    A wrong spectrum raises those of all pixels.
    """
    chi2 = (residual.square() / noise).sum(-1)
    if n_spare < 1:
        return torch.zeros_like(chi2, dtype=torch.bool)
    chance = float(stats.chi2.isf(_LEAST_CHANCE, n_spare))
    large = residual.abs().amax(-1) > _LEAST_RESIDUAL
    return large & (chi2 > max(chance, 20 * float(chi2.median())))
