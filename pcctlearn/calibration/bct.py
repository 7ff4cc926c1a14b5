"""Bias correction tables: two basis thicknesses of each ray, looked up for each pixel [2, BCT]."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from numpy.polynomial import legendre
from torch import Tensor

from pcctlearn.calibration.bilinear import BilinearMap
from pcctlearn.calibration.calibration_set import SAME_CM, CalibrationSet
from pcctlearn.calibration.plate_counts import plate_model
from pcctlearn.calibration.usable import (
    require_exposure,
    spread,
    usable_pixels,
    with_empty_bins,
)
from pcctlearn.decomposition.beam_hardening import mean_energies_keV, spectra_above
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import bins_from_above
from pcctlearn.scans.dead_pixels import any_of
from pcctlearn.shapes import Projections

log = logging.getLogger(__name__)

_LEAST_LENGTHS = 3
_LEAST_REGULAR = 0.75  # of the corners of a table; half of them where it is noise alone
_OUTSIDE = 0.1  # of the thickest plates
_LEAST_COUNTS = 1e-9  # of those in air
_LEAST_TRANSMITTANCE = 1e-4  # relative to the mean of the bins


class Bct:
    """t(E) ≈ Σ_q a_q P_q(E) and v = (Φᵀ V Φ)⁻¹ Φᵀ V (−ln t), then v → v + bias(v) of each pixel.

    A polynomial in energy approximates the transmittance of a ray; its coefficients follow from the
    counts in bins of a nominal pixel, and its logarithm, fitted by the attenuation Φ of two
    materials, gives two thicknesses v [2, eqs 38 to 41]. They are biased, and differently in each
    pixel. Plates of all combinations of thicknesses of the two materials tabulate the bias; a
    corrected v is where the table, bilinear between the plates, gives the v that was measured
    [2, eq. 42]. Nothing else is known of a pixel, so plates must be many and as long as the rays:
    outside the table, v is extrapolated.

    Args:
        n_terms: polynomials, by default as many as bins; more need ``penalty``.
        penalty: of Σ a_q² for q ≥ 2, relative to the counts in air.
    """

    def __init__(self, n_terms: int | None = None, penalty: float = 0.0) -> None:
        if (n_terms is not None and n_terms < 2) or penalty < 0:
            raise ValueError(
                f"n_terms must be 2 or more and penalty 0 or more, got {n_terms} and {penalty}"
            )
        self.n_terms, self.penalty = n_terms, penalty

    def fit(self, plates: CalibrationSet, nominal: SpectralModel) -> "BctCalibration":
        """Calibrate all pixels (``Calibrator``)."""
        exposure = require_exposure(plates, "calibration=bct")
        order, first, second = _grid(plates)
        n_bins = len(plates.thresholds_keV)
        if n_bins < 2:
            raise ValueError(
                "calibration=bct needs counts above two thresholds or more, got one: use "
                "calibration=etb"
            )
        if (self.n_terms or n_bins) > n_bins and not self.penalty:
            raise ValueError(
                f"{n_bins} bins do not determine n_terms={self.n_terms}: use "
                f"calibration.n_terms={n_bins} or calibration.penalty=1e-6"
            )
        model = plate_model(plates, nominal, ["water"])
        counts, flags = usable_pixels(plates, model)
        flags = with_empty_bins(counts, flags)
        good = ~any_of(flags)
        above, transmission = spectra_above(nominal).double(), model.transmission[order]
        estimate = self._estimate(plates.materials, model.energies_keV, above, transmission)
        expected = torch.einsum("te,me->mt", above, transmission)
        unbiased = estimate(bins_from_above(expected) / bins_from_above(expected[:1]))
        rates = bins_from_above(counts[good][:, order]) / exposure.double()[order, None]
        table = estimate(rates / rates[:, :1])
        shape = (len(first), len(second))
        ok = BilinearMap(table.unflatten(1, shape), first, second).regular_share() > _LEAST_REGULAR
        flags["undetermined"] = spread(~ok, good, False)
        table = spread(torch.where(ok[:, None, None], table, unbiased), good, unbiased)
        in_air = torch.where(ok[:, None], counts[good, order[0]], expected[0])
        panel = plates.pixel_shape
        return BctCalibration(
            BilinearMap(table.unflatten(1, shape), first, second),
            spread(in_air, good, expected[0]),
            estimate,
            plates.materials,
            {kind: flagged.reshape(panel) for kind, flagged in flags.items()},
        )

    def _estimate(
        self,
        materials: Sequence[str],
        energies_keV: Float[Tensor, "energy"],
        above: Float[Tensor, "threshold energy"],
        transmission: Float[Tensor, "exposure energy"],
    ) -> "Estimate":
        n_terms = self.n_terms or len(above)
        low, high = float(energies_keV[0]), float(energies_keV[-1])
        place = (2 * energies_keV - low - high) / (high - low)
        terms = torch.from_numpy(legendre.legvander(place.numpy(), n_terms - 1).T.copy())
        bins = bins_from_above(above, dim=-2)
        # spectrum of a nominal pixel behind plates of medium thickness
        weight = above[0] * transmission[len(transmission) // 2]
        basis = linear_attenuation(materials, energies_keV).T  # Φ
        normal = basis.T @ (weight[:, None] * basis)
        fit = torch.linalg.solve(normal, (weight[:, None] * basis).T)
        rough = torch.ones(n_terms, dtype=torch.float64)
        rough[:2] = 0
        return Estimate(
            (bins @ terms.T) / bins.sum(-1, keepdim=True), terms, fit, rough * self.penalty
        )


@dataclass(frozen=True)
class Estimate:
    """Two thicknesses from the counts in bins relative to air, of a nominal pixel.

    Args:
        response: B, of each bin to each polynomial.
        terms: P_q.
        fit: (Φᵀ V Φ)⁻¹ Φᵀ V.
        penalty: of the square of each coefficient.
    """

    response: Float[Tensor, "bin term"]
    terms: Float[Tensor, "term energy"]
    fit: Float[Tensor, "2 energy"]
    penalty: Float[Tensor, "term"]

    def __call__(self, counts: Float[Tensor, "*ray bin"]) -> Float[Tensor, "*ray 2"]:
        """v of a = (Bᵀ U B + β)⁻¹ Bᵀ U y with U = 1/y; where t(E) is small, it is limited."""
        y = counts.clamp(min=_LEAST_COUNTS)
        B = self.response.to(y)
        if B.shape[0] == B.shape[1] and not self.penalty.any():
            a = y @ torch.linalg.inv(B).T
        else:
            normal = torch.einsum("bk,...b,bj->...kj", B, 1 / y, B)
            normal = normal + torch.diag(self.penalty.to(y))
            a = torch.linalg.solve(normal, B.sum(0).expand(*y.shape[:-1], -1))
        least = _LEAST_TRANSMITTANCE * y.mean(-1, keepdim=True)
        t = (a @ self.terms.to(y)).maximum(least)
        return -t.log() @ self.fit.to(y).T


@dataclass(frozen=True)
class BctCalibration:
    """The estimates of every pixel at the plates, and its counts in air (``PixelCalibration``)."""

    table: BilinearMap
    air: Float[Tensor, "pixel threshold"]
    estimate: Estimate
    materials: tuple[str, ...]
    flags: dict[str, Bool[Tensor, "*panel"]]

    @property
    def calibrated(self) -> Bool[Tensor, "*panel"]:
        """Pixels without a flag."""
        return ~any_of(self.flags)

    def correction(
        self, nominal: SpectralModel, effective_keV: Sequence[float] | None = None
    ) -> "BctCorrection":
        """Look-up of two thicknesses, and their projections at the effective energies."""
        effective = mean_energies_keV(nominal) if effective_keV is None else effective_keV
        return BctCorrection(self, torch.as_tensor(effective, dtype=torch.float64))


@dataclass(frozen=True)
class BctCorrection:
    """Σ_n μ_n(E_eff) v_n with v of the table (``ProjectionCorrection``)."""

    calibration: BctCalibration
    effective_keV: Float[Tensor, "threshold"]

    @property
    def water_per_cm(self) -> Float[Tensor, "threshold"]:
        """Attenuation of water at the effective energies."""
        return linear_attenuation(["water"], self.effective_keV)[0]

    def thicknesses(self, projections: Projections) -> Float[Tensor, "*ray material"]:
        """v of each ray in cm. A warning reports the number of rays outside the table."""
        known, panel = self.calibration, self.calibration.calibrated.ndim
        above = torch.exp(-projections.flatten(-1 - panel, -2)) * known.air.to(projections)
        share = bins_from_above(above) / bins_from_above(known.air.to(projections))
        v, found = known.table.inverse(known.estimate(share))
        longest = torch.stack([known.table.first[-1], known.table.second[-1]]).to(v)
        within = (v > -_OUTSIDE * longest) & (v < (1 + _OUTSIDE) * longest)
        if outside := int((~(found & within.all(-1))).sum()):
            log.warning(
                "%d of %d rays are outside the tables and extrapolated: measure thicker plates",
                outside,
                found.numel(),
            )
        return v.reshape(*projections.shape[:-1], 2)

    def __call__(self, projections: Projections) -> Projections:
        """Corrected projections."""
        attenuation = linear_attenuation(self.calibration.materials, self.effective_keV)
        return self.thicknesses(projections) @ attenuation.to(projections)


def _grid(plates: CalibrationSet) -> tuple[list[int], Tensor, Tensor]:
    """Exposures in the order of the table, and the thicknesses of each material."""
    lengths = [
        torch.unique((column / SAME_CM).round()) * SAME_CM
        for column in plates.plates_cm.double().unbind(1)
    ]
    numbers = [len(one) for one in lengths]
    if (
        len(lengths) != 2
        or min(numbers) < _LEAST_LENGTHS
        or len(plates.counts) != numbers[0] * numbers[1]
        or any(float(one[0]) for one in lengths)
    ):
        raise ValueError(
            f"calibration=bct needs all combinations of {_LEAST_LENGTHS} or more thicknesses, 0 "
            f"among them, of each of two materials, got {len(plates.counts)} exposures with "
            f"{' x '.join(map(str, numbers))} thicknesses of {', '.join(plates.materials)}: "
            "measure the missing ones, or use calibration=etb"
        )
    places = [
        (column[:, None] - nodes).abs().argmin(1)
        for column, nodes in zip(plates.plates_cm.double().unbind(1), lengths, strict=True)
    ]
    order = (places[0] * numbers[1] + places[1]).argsort().tolist()
    return order, lengths[0], lengths[1]
