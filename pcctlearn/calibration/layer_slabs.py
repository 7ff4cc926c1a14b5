"""Pixels calibrated through the implicitly differentiated decomposition of known slabs."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.pixel_fit import PixelFit, assembled, is_misfit
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.plate_counts import PlateModel, plate_model
from pcctlearn.calibration.threshold_step import FURTHEST_keV
from pcctlearn.calibration.usable import (
    any_of,
    require_nested,
    require_plates,
    unusable,
    with_empty_bins,
)
from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.decomposition.sensitivity import fisher_information, spectra_tangent
from pcctlearn.physics.attenuation import attenuation_table, density_g_cm3
from pcctlearn.physics.skew import skew_filter
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import above_from_bins, bins_from_above
from pcctlearn.shapes import Attenuation, Spectra
from pcctlearn.solvers.levenberg_marquardt import LeastSquares, LevenbergMarquardt, Residuals
from pcctlearn.validation import require_positive

_LONGEST = (0.3, 0.02, 2.0)  # steps of ln k, of a thickness in cm, of a threshold in keV
_ROUNDING = 1e-6  # of a residual in standard deviations
_LEAST_BIN_keV = 1.0  # between the reference and the next threshold
_BLOCK = 20_000  # pixels
_REFERENCE = 1  # thresholds that are nominal by definition


class LayerSlabs:
    """Minimise Σ_m (A*_m(θ) − A_m)ᵀ I_m (A*_m(θ) − A_m) over θ = (ln k, x, T) of every pixel.

    A*_m is the maximum-likelihood decomposition of the counts behind plates m with the spectra of
    θ, A_m are the known area densities, and I_m is the Fisher information of the decomposition:
    without it, directions that the counts do not determine would prevail. The derivative of A* is
    −(∂²L/∂A²)⁻¹ ∂²L/∂A∂θ [1]. The lowest threshold is nominal, as in ``EtbCal``; the others are
    searched as far as 12 keV from their nominal values, and halfway to one another.

    Args:
        basis: of the decomposition; the materials of the plates must be among them.
        materials: of the skew.
        max_steps: of Levenberg and Marquardt.
    """

    def __init__(
        self,
        basis: Sequence[str] = ("water", "aluminium"),
        materials: Sequence[str] = ("CdTe",),
        max_steps: int = 30,
    ) -> None:
        require_positive(max_steps=max_steps)
        for name, values, usual in (
            ("basis", basis, "[water,aluminium]"),
            ("materials", materials, "[CdTe]"),
        ):
            if isinstance(values, str) or not values or len(set(values)) != len(values):
                raise ValueError(f"{name} must be different names, got {values!r}: use {usual}")
        self.basis, self.materials, self.max_steps = tuple(basis), tuple(materials), max_steps

    def fit(self, plates: CalibrationSet, nominal: SpectralModel) -> PixelModel:
        """Calibrate all pixels (``Calibrator``)."""
        n_unknowns = len(self.materials) + len(plates.thresholds_keV)
        # every exposure gives one number for each basis material
        require_plates(
            plates, max(1 + len(self.materials), math.ceil(n_unknowns / len(self.basis)))
        )
        if others := sorted(set(plates.materials) - set(self.basis)):
            spare = [name for name in self.basis if name not in plates.materials]
            wanted = [*plates.materials, *spare][: max(len(plates.materials), len(self.basis))]
            raise ValueError(
                f"the plates are of {', '.join(others)}, not among the basis materials "
                f"{', '.join(self.basis)}: use calibration.basis=[{','.join(wanted)}]"
            )
        if plates.exposure is None:
            raise ValueError(
                "calibration=layer_slabs needs the exposure of each plate: measure it, or use "
                "calibration=etb_as_proposed"
            )
        if len(plates.thresholds_keV) < len(self.basis):
            raise ValueError(
                f"{len(plates.thresholds_keV)} thresholds do not determine {len(self.basis)} basis "
                "materials: measure counts above more thresholds"
            )
        model = plate_model(plates, nominal, self.materials)
        counts = plates.counts.flatten(1, -2).movedim(0, 1).double()  # (pixel, exposure, threshold)
        flags = unusable(counts, plates.flags)
        require_nested(counts[~any_of(flags)], model, plates)
        flags = with_empty_bins(counts, flags)
        # pixels are independent; blocks limit memory
        parts = [self._fit(plates, model, block) for block in counts[~any_of(flags)].split(_BLOCK)]
        fit = PixelFit(*map(torch.cat, zip(*parts, strict=True)))
        return assembled(plates, self.materials, flags, fit, "absolute")

    def _fit(
        self,
        plates: CalibrationSet,
        model: PlateModel,
        counts: Float[Tensor, "pixel exposure threshold"],
    ) -> PixelFit:
        slabs = _Slabs(plates, model, self.basis, counts)
        solver = LevenbergMarquardt(1e-4, self.max_steps)
        return slabs.fitted(solver(slabs.residuals, slabs.start(), slabs.longest()), counts)


class _Slabs:
    """The residuals of all pixels: decomposed minus known area densities, and their derivative."""

    def __init__(
        self,
        plates: CalibrationSet,
        model: PlateModel,
        basis: Sequence[str],
        counts: Float[Tensor, "pixel exposure threshold"],
    ) -> None:
        self.model = model
        self.nominal_keV = plates.thresholds_keV.double()
        self.n_thresholds = len(plates.thresholds_keV)
        self.n_materials = len(model.attenuation_per_cm)
        self.attenuation: Attenuation = attenuation_table(basis, model.energies_keV)
        known = torch.zeros(len(plates.plates_cm), len(basis), dtype=torch.float64)
        for column, name in enumerate(plates.materials):
            known[:, list(basis).index(name)] = plates.plates_cm[:, column] * density_g_cm3(name)
        self.known = known[:, None]  # (exposure, 1, material)
        assert plates.exposure is not None
        self.exposure = exposure = plates.exposure.double()
        self.counts = bins_from_above(counts).movedim(1, 0) / exposure[:, None, None]
        self.n_pixels = len(counts)
        nominal = self.start()[:1]
        # the fluence is scaled to the median pixel in the beam with the thinnest plates
        thinnest = int(plates.plates_cm.sum(-1).argmin())
        expected = torch.einsum(
            "pbe,e->b", self.spectra(nominal), model.transmission[thinnest]
        ).sum()
        self.scale = self.counts[thinnest].sum(-1).median() / expected
        spectra = self.spectra(nominal) * self.scale
        information = fisher_information(self.known, spectra, self.attenuation)[:, 0]
        self.root = torch.linalg.cholesky(information * exposure[:, None, None])

    @property
    def n_unknowns(self) -> int:
        """ln k, thicknesses, and all thresholds but the reference."""
        return self.n_materials + self.n_thresholds

    def longest(self) -> Float[Tensor, "unknown"]:
        """Largest steps."""
        gain, thickness, threshold = _LONGEST
        n = self.n_thresholds - _REFERENCE
        return torch.tensor(
            [gain, *[thickness] * self.n_materials, *[threshold] * n], dtype=torch.float64
        )

    def start(self) -> Float[Tensor, "pixel unknown"]:
        """Nominal pixels."""
        x = torch.zeros(self.n_pixels, self.n_unknowns, dtype=torch.float64)
        x[:, 1 + self.n_materials :] = self.nominal_keV[_REFERENCE:]
        return x

    def thresholds(self, x: Float[Tensor, "pixel unknown"]) -> Float[Tensor, "pixel threshold"]:
        """All thresholds, within their limits, so that they increase."""
        T = self.nominal_keV
        middle = (T[1:] + T[:-1]) / 2
        lowest = torch.cat([T[:1] + _LEAST_BIN_keV, middle[1:]])
        lower = torch.maximum(T[1:] - FURTHEST_keV, lowest)
        highest = self.model.energies_keV[-1:] - 1
        upper = torch.minimum(T[1:] + FURTHEST_keV, torch.cat([middle[1:], highest]))
        found = x[:, 1 + self.n_materials :].clamp(lower, upper)
        return torch.cat([T[:_REFERENCE].expand(len(x), -1), found], -1)

    def spectra(self, x: Float[Tensor, "pixel unknown"]) -> Spectra:
        """Spectra of the bins for the unknowns."""
        return self._spectra_and_density(x)[0]

    def _spectra_and_density(self, x: Float[Tensor, "pixel unknown"]) -> tuple[Spectra, Spectra]:
        """Spectra of the bins, and −∂(spectrum above each threshold)/∂T."""
        n = 1 + self.n_materials
        passed = skew_filter(x[:, 0].exp(), x[:, 1:n], self.model.attenuation_per_cm)
        fluence = self.model.fluence * passed
        parts = [self.model.above(T) for T in self.thresholds(x).unbind(1)]
        above, density = (
            torch.stack(part, 1) * fluence[:, None] for part in zip(*parts, strict=True)
        )
        return bins_from_above(above, dim=1), density

    def residuals(self, x: Float[Tensor, "pixel unknown"]) -> Residuals:
        """Decomposed minus known area densities in standard deviations."""
        spectra, density = (self.scale * part for part in self._spectra_and_density(x))
        start = self.known.expand(-1, len(x), -1)
        found = decompose(self.counts, spectra, self.attenuation, start=start.contiguous()).x
        directions = [spectra]
        directions += [-mu * spectra for mu in self.model.attenuation_per_cm]
        for j in range(_REFERENCE, self.n_thresholds):
            moved = torch.zeros_like(spectra)
            moved[:, j], moved[:, j - 1] = -density[:, j], density[:, j]
            directions.append(moved)
        tangents = [
            spectra_tangent(found, self.counts, spectra, self.attenuation, direction)
            for direction in directions
        ]
        value = torch.einsum("epm,emk->pek", found - self.known, self.root).flatten(1)
        J = torch.einsum("epmu,emk->peku", torch.stack(tangents, -1), self.root).flatten(1, 2)
        return Residuals(value, J, torch.full_like(value[:, 0], _ROUNDING))

    def fitted(
        self, found: LeastSquares, above: Float[Tensor, "pixel exposure threshold"]
    ) -> PixelFit:
        """Unknowns of all pixels with their error bars, and which of them are sound."""
        n, x = 1 + self.n_materials, found.x
        spectra, T = self.spectra(x), self.thresholds(x)
        start = self.known.expand(-1, len(x), -1).contiguous()
        decomposed = decompose(self.counts, self.scale * spectra, self.attenuation, start=start)
        covariance, singular = torch.linalg.inv_ex(found.normal)
        sd = covariance.diagonal(dim1=-2, dim2=-1)[:, n:].clamp(min=0).sqrt()
        behind = torch.einsum("pbe,me->pmb", self.scale * spectra, self.model.transmission)
        residual = (above / (above_from_bins(behind) * self.exposure[:, None])).log()
        misfit = torch.zeros_like(found.converged)
        for j in range(self.n_thresholds):
            n_spare = len(self.exposure) - (1 if j else n)
            misfit = misfit | is_misfit(residual[..., j], 1 / above[..., j], n_spare)
        within = torch.isclose(T[:, _REFERENCE:], x[:, n:], rtol=0, atol=1e-6).all(-1)
        return PixelFit(
            self.scale * x[:, 0].exp(),
            x[:, 1:n],
            T,
            covariance[:, :n, :n],
            torch.cat([torch.zeros_like(T[:, :_REFERENCE]), sd], -1),
            found.converged & (singular == 0) & within & decomposed.converged.all(0),
            misfit,
        )
