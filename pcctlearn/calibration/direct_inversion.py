"""Gain, skew and threshold of a pixel from one linear system: what ETB-Cal is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.plate_counts import OfPixels, OfPlates, PlateModel, Skews, plate_model
from pcctlearn.calibration.usable import require_plates, spread, usable_pixels
from pcctlearn.decomposition.beam_hardening import BeamHardening, beam_hardening
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.skew import skew_filter
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scans.dead_pixels import any_of

_LONGEST_STEP_keV, _FURTHEST_keV = 1.0, 15.0
_MOST_OFF = 7.0  # ln of the counts of a pixel over those that it was found to have


def direct_inversion(
    counts: OfPlates,
    model: PlateModel,
    nominal_keV: float,
    ridge: float = 1e-8,
    max_rounds: int = 20,
) -> tuple[OfPixels, Skews, OfPixels]:
    """k, x and T of every pixel from N_m D_m/P_m = k (1 − Σ_n x_n p_nm − ΔT h_m) [2, appendix 6].

    Counts are divided by their sum over the pixels. The unknowns are k, k x_n and k ΔT, linear with
    products of small numbers dropped. The system is solved with a ridge on unknowns scaled to
    columns of length one; then T moves by ΔT and the coefficients are computed anew, without
    skew. Gain and skew are those of the last round.
    """
    n_pixels, n_materials = len(counts), len(model.attenuation_per_cm)
    no_skew = torch.zeros(n_pixels, n_materials).to(counts)
    T = torch.full((n_pixels,), nominal_keV).to(counts)
    expected = model.counts(no_skew, T).counts.mean(0)
    measured = counts / counts.mean(0) * expected
    gain, thickness = torch.ones_like(T), no_skew
    for _ in range(max_rounds):
        at = model.counts(no_skew, T)
        y = measured / at.counts
        rows = torch.cat([torch.ones_like(y)[..., None], -at.slopes, -at.hazard[..., None]], -1)
        scale = rows.square().mean((0, 1)).sqrt()
        scaled = rows / scale
        normal = scaled.mT @ scaled + ridge * rows.shape[1] * torch.eye(rows.shape[2]).to(rows)
        right = (scaled.mT @ y[..., None])[..., 0]
        solved = torch.linalg.lstsq(normal, right).solution / scale
        gain, thickness = solved[:, 0], solved[:, 1:-1] / solved[:, :1]
        step = (solved[:, -1] / gain).clamp(-_LONGEST_STEP_keV, _LONGEST_STEP_keV)
        T = (T + step).clamp(nominal_keV - _FURTHEST_keV, nominal_keV + _FURTHEST_keV)
    return gain, thickness, T


class DirectInversion:
    """Calibrate every threshold of every pixel on its own (``Calibrator``).

    Args:
        materials: of the skew.
        ridge: of the scaled normal matrix; it steadies the solution and biases it.
        max_rounds: linear systems, one after the other.
    """

    def __init__(
        self, materials: Sequence[str] = ("CdTe",), ridge: float = 1e-8, max_rounds: int = 20
    ) -> None:
        if ridge < 0 or max_rounds < 1:
            raise ValueError(
                f"ridge must be 0 or more and max_rounds 1 or more, got {ridge} and {max_rounds}"
            )
        self.materials, self.ridge, self.max_rounds = tuple(materials), ridge, max_rounds

    def fit(self, plates: CalibrationSet, nominal: SpectralModel) -> "ThresholdModels":
        """Calibrate all thresholds of all pixels."""
        require_plates(plates, 2 + len(self.materials))
        model = plate_model(plates, nominal, self.materials)
        n_thresholds = len(plates.thresholds_keV)
        counts, flags = usable_pixels(plates, model)
        good = ~any_of(flags)
        found = [
            direct_inversion(counts[good, :, j], model, keV, self.ridge, self.max_rounds)
            for j, keV in enumerate(plates.thresholds_keV.tolist())
        ]
        gain, thickness, T = (torch.stack(part, 1) for part in zip(*found, strict=True))
        keV = plates.thresholds_keV.double()
        finite = T.isfinite().all(-1) & gain.isfinite().all(-1) & thickness.isfinite().all((-2, -1))
        for j in range(n_thresholds):  # a gain near zero makes any thickness
            predicted = gain[:, j, None] * model.counts(thickness[:, j], T[:, j]).counts
            off = (predicted / predicted.nanmedian(0).values).log()
            off = off - (counts[good, :, j] / counts[good, :, j].median(0).values).log()
            finite = finite & (off.abs() < _MOST_OFF).all(-1)
        far = ((T - keV).abs() > _FURTHEST_keV - 1e-6).any(-1) | ~(T.diff(dim=-1) > 0).all(-1)
        flags |= {
            "undetermined": spread(~finite, good, False),
            "far from nominal": spread(far & finite, good, False),
        }
        ok = ~any_of(flags)[good]
        gain, T = torch.where(ok[:, None], gain, 1.0), torch.where(ok[:, None], T, keV)
        thickness = torch.where(ok[:, None, None], thickness, 0.0)
        shape = plates.pixel_shape
        return ThresholdModels(
            spread(gain, good, 1.0).reshape(*shape, -1),
            spread(thickness, good, 0.0).reshape(*shape, n_thresholds, -1),
            self.materials,
            spread(T, good, keV).reshape(*shape, -1),
            {kind: flagged.reshape(shape) for kind, flagged in flags.items()},
        )


@dataclass(frozen=True)
class ThresholdModels:
    """Gain, skew and true threshold for each pixel and threshold (``PixelCalibration``)."""

    gain: Float[Tensor, "*pixel threshold"]
    thickness_cm: Float[Tensor, "*pixel threshold material"]
    materials: tuple[str, ...]
    thresholds_keV: Float[Tensor, "*pixel threshold"]
    flags: dict[str, Bool[Tensor, "*pixel"]]

    @property
    def calibrated(self) -> Bool[Tensor, "*pixel"]:
        """Pixels without a flag."""
        return ~any_of(self.flags)

    def spectra_above(self, nominal: SpectralModel) -> Float[Tensor, "*pixel threshold energy"]:
        """Spectra of the photons counted above each threshold."""
        energies = nominal.energies_keV
        attenuation = linear_attenuation(self.materials, energies)
        passed = skew_filter(self.gain, self.thickness_cm, attenuation)
        above = nominal.response.above(self.thresholds_keV, energies)
        return nominal.fluence * passed * above

    def correction(
        self, nominal: SpectralModel, effective_keV: Sequence[float] | None = None
    ) -> BeamHardening:
        """Beam-hardening correction of every pixel."""
        return beam_hardening(self.spectra_above(nominal), nominal, effective_keV=effective_keV)
