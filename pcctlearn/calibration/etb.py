"""ETB-Cal: skew at the lowest threshold, then the bias of every other threshold [2]."""

from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.assembly import assembled
from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.pixel_fit import PixelFit
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.plate_counts import PlateModel, plate_model
from pcctlearn.calibration.skew_step import Normalisation, SkewFit, fit_skew
from pcctlearn.calibration.threshold_step import Comparison, ThresholdFit, fit_threshold
from pcctlearn.calibration.typical_counts import shared_bias
from pcctlearn.calibration.usable import (
    require_exposure,
    require_plates,
    spread,
    usable_pixels,
)
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scans.dead_pixels import any_of
from pcctlearn.validation import require_names, require_positive

_BLOCK = 20_000  # pixels
_PASSES = 4  # without pixels that spoil the sums over all of them


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
                "all pixels share would appear as a bias of 0.2 keV; use "
                "calibration.comparison=counts"
            )
        require_names("materials", materials, "calibration.materials=[CdTe]")
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
        if self.normalisation == "anchor":
            exposure = require_exposure(plates, "normalisation=anchor")
        elif plates.exposure is None:
            exposure = torch.ones(len(plates.counts), dtype=torch.float64)
        else:
            exposure = plates.exposure
        model = plate_model(plates, nominal, self.materials)
        counts, flags = usable_pixels(plates, model)
        compares = self.normalisation != "anchor" or self.comparison == "counts"
        if compares and int((~any_of(flags)).sum()) < 2:
            raise ValueError(
                f"normalisation={self.normalisation} comparison={self.comparison} compares pixels, "
                "and only one can be used: use calibration=etb with the exposure of each plate"
            )
        for _ in range(_PASSES if compares else 1):
            fit = self._fit(plates, counts, exposure.double(), model, flags)
            far = fit.faults(plates.thresholds_keV.double())["far from nominal"]
            # sums over the pixels are repeated without those that spoil them for the others
            spoils = {"far from nominal": far, "poor fit": fit.misfit & ~far}
            if not compares or not 0 < any_of(spoils).double().mean() < 0.5:
                break
            good = ~any_of(flags)
            for kind, found in spoils.items():
                known = flags.get(kind, torch.zeros_like(good))
                flags = {**flags, kind: known | spread(found, good, False)}
        if not compares:
            return assembled(fit, flags, plates, self.materials, "absolute")
        bias = tuple(shared_bias(counts[~any_of(flags)], model, plates))
        return assembled(fit, flags, plates, self.materials, "relative", warnings=bias)

    def _fit(
        self,
        plates: CalibrationSet,
        counts: Float[Tensor, "pixel exposure threshold"],
        exposure: Tensor,
        model: PlateModel,
        flags: dict[str, Tensor],
    ) -> PixelFit:
        good = ~any_of(flags)
        used = counts[good].movedim(-1, 0)
        absolute = self.normalisation == "anchor" and self.comparison == "ratio"
        # pixels that are not compared with one another are fitted in blocks, which limits memory
        blocks = used.split(_BLOCK if absolute else used.shape[1], dim=1)
        parts = []
        for block in blocks:
            skew, thresholds = self._steps(block, exposure, model, plates.thresholds_keV)
            parts.append(_joined(plates, skew, thresholds))
        return PixelFit.joined(parts)

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


def _joined(plates: CalibrationSet, skew: SkewFit, found: Sequence[ThresholdFit]) -> PixelFit:
    """Skew and thresholds of the usable pixels, and those that do not fit."""
    reference = torch.full_like(skew.gain, float(plates.thresholds_keV[0]))
    return PixelFit(
        skew.gain,
        skew.thickness_cm,
        torch.stack([reference, *(f.threshold_keV for f in found)], -1),
        skew.covariance,
        torch.stack([torch.zeros_like(reference), *(f.sd_keV for f in found)], -1),
        torch.stack([skew.converged, *(f.converged for f in found)]).all(0),
        torch.stack([skew.residual, *(f.residual for f in found)], -1),
        torch.stack([skew.standardised, *(f.standardised for f in found)], -1),
        (skew.n_spare, *len(found) * (len(plates.counts) - 1.0,)),
    )
