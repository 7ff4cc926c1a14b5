"""ETB-Cal, then all unknowns of every pixel refined through the decomposition of the plates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.assembly import assembled
from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.layer_fit import fit_through_decomposition, threshold_estimates
from pcctlearn.calibration.layer_problem import LayerPrior
from pcctlearn.calibration.layer_slabs import SlabRays, slab_rays
from pcctlearn.calibration.pixel_fit import PixelFit
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.reference_scatter import Scatter, reference_scatter
from pcctlearn.calibration.threshold_step import FURTHEST_keV
from pcctlearn.console import without_warnings
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scans.dead_pixels import any_of
from pcctlearn.validation import require_names, require_positive

_SAME_COUNTS = 0.01  # weight of ETB-Cal's result beside the counts that it comes from
_REFERENCE = 1  # thresholds that are nominal unless they scatter
_WIDE_CM = 1.0  # standard deviation of a thickness that nothing else determines
_ARRAYS = ("gain", "thickness_cm", "thresholds_keV", "gain_covariance", "threshold_sd_keV")
_KEPT = ("without counts in a bin", "undetermined")  # by the layer: ETB-Cal's result stays


class Hybrid:
    """Gain, skew and all thresholds from ETB-Cal, refined through the decomposition layer.

    The layer weighs all counts by the Fisher information, with what more bins than materials leave
    over (``fit_through_decomposition``). It begins where ETB-Cal ends, and has its thicknesses and
    thresholds, with their covariance, as a prior: what the layer does not determine stays where
    ETB-Cal put it. Both see the same counts, so that the prior has a hundredth of its weight; in
    full, it would count them twice.

    ETB-Cal and the layer take the lowest threshold as nominal, as one pixel cannot tell its bias
    from skew. Here all pixels together tell whether it scatters (``reference_scatter``). Then it
    is refined, too, with the scatter of the thresholds over the pixels as a prior in place of
    ETB-Cal's; else it stays. A bias that all pixels share is not searched for: a wrong spectrum
    would look like it.

    Args:
        basis: of the decomposition; the materials of the plates must be among them.
        materials: of the skew.
        prior_cm: {material: standard deviation of its thickness}, for both.
        max_steps: of Levenberg and Marquardt.
    """

    def __init__(
        self,
        basis: Sequence[str] = ("water", "aluminium"),
        materials: Sequence[str] = ("CdTe",),
        prior_cm: Mapping[str, float] | None = None,
        max_steps: int = 30,
    ) -> None:
        require_positive(max_steps=max_steps)
        require_names("basis", basis, "calibration.basis=[water,aluminium]")
        self.etb = EtbCal(materials, prior_cm=prior_cm)  # checks both
        self.basis, self.materials, self.prior_cm = tuple(basis), tuple(materials), prior_cm
        self.max_steps = max_steps

    def fit(self, plates: CalibrationSet, nominal: SpectralModel) -> PixelModel:
        """Calibrate all pixels (``Calibrator``)."""
        slabs = slab_rays(plates, nominal, self.basis, self.materials, "hybrid")
        with without_warnings():  # which the refined pixels repeat
            start = self.etb.fit(plates, nominal)
        keV = plates.thresholds_keV.double()
        weak = self._weak(len(keV))
        fit = self._refined(slabs, keV, self._prior(start, slabs, weak), _REFERENCE)
        estimates, covariance = threshold_estimates(*slabs[:2], self.basis, keV, fit)
        scatter = reference_scatter(estimates, covariance)
        if scatter is not None:
            fit = self._refined(slabs, keV, self._population(fit, estimates, scatter, weak), 0)
        return _merged(assembled(fit, slabs.flags, plates, self.materials, "absolute"), start)

    def _refined(
        self, slabs: SlabRays, keV: Float[Tensor, "threshold"], prior: LayerPrior, n_fixed: int
    ) -> PixelFit:
        return fit_through_decomposition(
            slabs.rays, slabs.model, self.basis, keV, self.max_steps, prior, n_fixed,
            with_misfit=True,
        )  # fmt: skip

    def _weak(self, n_thresholds: int) -> Float[Tensor, "unknown"]:
        """Precision of thicknesses and thresholds that nothing else determines."""
        sd_cm = self.prior_cm or dict.fromkeys(self.materials, _WIDE_CM)
        sd = [*(sd_cm[name] for name in self.materials), *[FURTHEST_keV] * n_thresholds]
        return torch.tensor(sd, dtype=torch.float64) ** -2

    def _prior(
        self, start: PixelModel, slabs: SlabRays, weak: Float[Tensor, "unknown"]
    ) -> LayerPrior:
        """Thicknesses and thresholds of ETB-Cal; pixels that it flags are nominal."""
        good, n, pixels = ~any_of(slabs.flags), len(self.materials), start.gain.ndim
        thickness, covariance, T, sd = (
            values.flatten(0, pixels - 1)[good]
            for values in (
                start.thickness_cm,
                start.gain_covariance[..., 1:, 1:],
                start.thresholds_keV[..., _REFERENCE:],
                start.threshold_sd_keV[..., _REFERENCE:],
            )
        )
        precision = torch.zeros(len(T), n + T.shape[1], n + T.shape[1], dtype=torch.float64)
        precision[:, :n, :n] = torch.linalg.inv_ex(covariance)[0]
        precision[:, n:, n:] = torch.diag_embed(sd**-2)
        precision = _SAME_COUNTS * torch.where(precision.isfinite(), precision, 0.0)
        held = precision + torch.diag_embed(weak[: n + T.shape[1]])
        nominal = torch.zeros_like(held[0, 0])
        nominal[n:] = start.nominal_keV[_REFERENCE:]
        found = torch.cat([thickness, T], 1) - nominal
        mean = nominal + torch.linalg.solve(held, precision @ found[..., None])[..., 0]
        return LayerPrior(mean, held)

    def _population(
        self,
        fit: PixelFit,
        estimates: Float[Tensor, "pixel threshold"],
        scatter: Scatter,
        weak: Float[Tensor, "unknown"],
    ) -> LayerPrior:
        """The scatter of all thresholds about their means, that of the reference being nominal."""
        n, n_pixels = len(self.materials), len(estimates)
        precision = torch.diag(weak)
        precision[n:, n:] = torch.linalg.inv(scatter)
        middle = estimates.nanmedian(0).values
        middle[:_REFERENCE] = fit.thresholds_keV[0, :_REFERENCE]
        mean = torch.cat([torch.zeros_like(weak[:n]), middle])
        return LayerPrior(mean.repeat(n_pixels, 1), precision.repeat(n_pixels, 1, 1))


def _merged(found: PixelModel, start: PixelModel) -> PixelModel:
    """The refined model, and ETB-Cal's result in pixels that the layer does not determine."""
    kept = torch.zeros_like(found.calibrated)
    for kind in _KEPT:
        if kind in found.flags:
            kept = kept | (found.flags[kind] & start.calibrated)
    arrays: dict[str, Any] = {
        name: torch.where(
            kept.reshape(*kept.shape, *[1] * (getattr(found, name).ndim - kept.ndim)),
            getattr(start, name),
            getattr(found, name),
        )
        for name in _ARRAYS
    }
    flags = {kind: flagged & ~kept for kind, flagged in found.flags.items()}
    return replace(found, **arrays, flags=flags)
