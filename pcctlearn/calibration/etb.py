"""ETB-Cal: skew at the lowest threshold, then the bias of every other threshold [2]."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.plate_counts import PlateModel
from pcctlearn.calibration.skew_step import Normalisation, SkewFit, fit_skew
from pcctlearn.calibration.threshold_step import Comparison, ThresholdFit, fit_threshold
from pcctlearn.physics.skew import linear_attenuation
from pcctlearn.physics.spectral_model import SpectralModel

_LARGEST_BIAS_keV = 12.0


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
        if comparison == "ratio" and normalisation != "anchor":
            raise ValueError(
                f"comparison=ratio needs normalisation=anchor, got {normalisation}: the skew that "
                "all pixels share would appear as a bias of 0.2 keV; use comparison=counts"
            )
        if prior_cm is not None and set(prior_cm) != set(materials):
            raise ValueError(
                f"prior_cm names {sorted(prior_cm)}, materials {sorted(materials)}: give one "
                "for each"
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
        good = torch.stack(counts).amin((0, 2)) > 0
        if not good.any():
            raise ValueError("every pixel lacks counts in some exposure: check the thresholds")
        used = [values[good] for values in counts]
        reference_keV = torch.full_like(used[0][:, 0], plates.thresholds_keV[0].item())
        prior = None
        if self.prior_cm is not None:
            prior = torch.tensor([self.prior_cm[name] for name in self.materials]).double()
        skew = fit_skew(used[0], exposure.double(), model, reference_keV, self.normalisation, prior)
        found = [
            fit_threshold(
                values,
                used[0],
                model,
                skew,
                nominal_keV,
                reference_keV,
                self.comparison,
                self.max_rounds,
            )
            for values, nominal_keV in zip(
                used[1:], plates.thresholds_keV[1:].tolist(), strict=True
            )
        ]
        return assembled(plates, self.materials, good, used[0], skew, found, self.normalisation)


def require_plates(plates: CalibrationSet, n_unknowns: int) -> None:
    """Raise ValueError for fewer plates than unknowns of a pixel."""
    if len(plates.counts) < n_unknowns:
        raise ValueError(
            f"{len(plates.counts)} exposures do not determine {n_unknowns} numbers of a pixel: "
            "measure more plates, or use fewer skew materials"
        )


def plate_model(
    plates: CalibrationSet, nominal: SpectralModel, materials: Sequence[str]
) -> PlateModel:
    """Expected counts behind the plates in float64."""
    energies = nominal.energies_keV.double()
    low, high = float(energies[0]), float(energies[-1])
    if not (plates.thresholds_keV[0] >= low and plates.thresholds_keV[-1] < high):
        raise ValueError(
            f"thresholds of {plates.thresholds_keV.tolist()} keV are not all within the spectrum, "
            f"{low:g} to {high:g} keV"
        )
    return PlateModel(
        energies,
        nominal.fluence.double(),
        plates.transmission(energies),
        linear_attenuation(materials, energies),
        nominal.response,
    )


def assembled(
    plates: CalibrationSet,
    materials: Sequence[str],
    good: Tensor,
    counts: Float[Tensor, "pixel exposure"],
    skew: SkewFit,
    found: Sequence[ThresholdFit],
    normalisation: Normalisation,
) -> PixelModel:
    """The model of all pixels: nominal where a pixel is flagged."""
    nominal = plates.thresholds_keV.double()
    reference = nominal[0].expand(len(counts))
    T = torch.stack([reference, *(f.threshold_keV for f in found)], -1)
    sd = torch.stack([torch.zeros_like(reference), *(f.sd_keV for f in found)], -1)
    covariance = torch.einsum("iue,ie,ive->iuv", skew.gain_matrix, 1 / counts, skew.gain_matrix)
    finite = T.isfinite().all(-1) & covariance.isfinite().flatten(1).all(-1)
    flags = {"without counts": ~good}
    flags["undetermined"] = _full(~(skew.converged & finite), good, False)
    far = ((T - nominal).abs() > _LARGEST_BIAS_keV).any(-1) | ~(T.diff(dim=-1) > 0).all(-1)
    flags["far from nominal"] = _full(far & finite, good, False)
    ok = skew.converged & finite & ~far
    gain = skew.gain / skew.gain[ok].mean()
    shape = plates.pixel_shape
    n_unknowns = covariance.shape[-1]
    return PixelModel(
        gain=_full(torch.where(ok, gain, 1.0), good, 1.0).reshape(shape),
        thickness_cm=_full(torch.where(ok[:, None], skew.thickness_cm, 0.0), good, 0.0).reshape(
            *shape, len(materials)
        ),
        materials=tuple(materials),
        thresholds_keV=_full(torch.where(ok[:, None], T, nominal), good, nominal).reshape(
            *shape, len(nominal)
        ),
        nominal_keV=nominal,
        gain_covariance=_full(covariance, good, torch.nan).reshape(*shape, n_unknowns, n_unknowns),
        threshold_sd_keV=_full(sd, good, torch.nan).reshape(*shape, len(nominal)),
        gauge="absolute" if normalisation == "anchor" else "relative",
        flags={kind: flagged.reshape(shape) for kind, flagged in flags.items()},
    )


def _full(values: Tensor, good: Tensor, missing: float | bool | Tensor) -> Tensor:
    """Values of the good pixels among all pixels."""
    full = torch.empty(len(good), *values.shape[1:], dtype=values.dtype)
    full[:] = torch.as_tensor(missing, dtype=values.dtype)
    full[good] = values
    return full
