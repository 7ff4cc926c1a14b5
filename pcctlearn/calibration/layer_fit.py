"""Gain, skew and thresholds of every pixel through the decomposition of known objects."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.pixel_fit import PixelFit
from pcctlearn.calibration.plate_counts import PlateModel
from pcctlearn.calibration.threshold_step import FURTHEST_keV
from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.decomposition.sensitivity import fisher_information, spectra_tangent
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.skew import skew_filter
from pcctlearn.physics.spectral_model import expected_counts
from pcctlearn.physics.thresholds import above_from_bins, bins_from_above
from pcctlearn.shapes import Spectra
from pcctlearn.solvers.levenberg_marquardt import LeastSquares, LevenbergMarquardt, Residuals

_LONGEST = (0.3, 0.02, 2.0)  # steps of ln k, of a thickness in cm, of a threshold in keV
_ROUNDING = 1e-6  # of a residual in standard deviations
_LEAST_BIN_keV = 1.0  # between the reference and the next threshold
_BLOCK = 100_000  # rays
_REFERENCE = 1  # thresholds that are nominal by definition


@dataclass(frozen=True)
class KnownRays:
    """Counts above thresholds behind known area densities.

    Args:
        counts: of each exposure of each pixel.
        area_g_cm2: of the basis materials, the same for all pixels or not.
        exposure: tube current times time, relative.
    """

    counts: Float[Tensor, "pixel exposure threshold"]
    area_g_cm2: Float[Tensor, "exposure #pixel material"]
    exposure: Float[Tensor, "exposure"]

    def blocks(self) -> "list[KnownRays]":
        """Pixels are independent; blocks of them limit memory."""
        n = max(1, _BLOCK // len(self.exposure))
        counts = self.counts.split(n)
        if self.area_g_cm2.shape[1] == 1:
            areas = (self.area_g_cm2,) * len(counts)
        else:
            areas = self.area_g_cm2.split(n, 1)
        return [KnownRays(*parts, self.exposure) for parts in zip(counts, areas, strict=True)]


def fit_through_decomposition(
    rays: KnownRays,
    model: PlateModel,
    basis: Sequence[str],
    nominal_keV: Float[Tensor, "threshold"],
    max_steps: int,
) -> PixelFit:
    """Minimise Σ_m (A*_m(θ) − A_m)ᵀ I_m (A*_m(θ) − A_m) over θ = (ln k, x, T) of every pixel.

    A*_m is the maximum-likelihood decomposition of the counts of exposure m with the spectra of θ,
    A_m are the known area densities, and I_m is the Fisher information of the decomposition:
    without it, directions that the counts do not determine would prevail. The derivative J of A*
    is −(∂²L/∂A²)⁻¹ ∂²L/∂A∂θ [1]. Since J depends on the noise of the counts, the minimum is biased
    by as much as its standard deviation where many exposures have few counts; the last step solves
    Σ_m J_mᵀ I_m (A*_m − A_m) = 0 with the J of the expected counts instead, which is not.

    The lowest threshold is nominal; the others are searched as far as 12 keV from their nominal
    values, and halfway to one another.
    """
    solver = LevenbergMarquardt(1e-4, max_steps)
    parts = []
    for block in rays.blocks():
        problem = _Problem(block, model, basis, nominal_keV.double())
        found = solver(problem.residuals, problem.start(), problem.longest())
        parts.append(problem.fitted(found))
    return PixelFit.joined(parts)


class _Problem:
    """Decomposed minus known area densities of a block of pixels, and their derivative."""

    def __init__(
        self,
        rays: KnownRays,
        model: PlateModel,
        basis: Sequence[str],
        nominal_keV: Float[Tensor, "threshold"],
    ) -> None:
        self.above, self.exposure = rays.counts, rays.exposure
        self.model, self.nominal_keV = model, nominal_keV
        self.n_thresholds = len(nominal_keV)
        self.n_materials = len(model.attenuation_per_cm)
        self.attenuation = attenuation_table(basis, model.energies_keV)
        exposure = self.exposure[:, None, None]
        self.counts = bins_from_above(rays.counts).movedim(1, 0) / exposure
        self.known = rays.area_g_cm2.expand(-1, len(rays.counts), -1).contiguous()
        nominal = self.spectra(self.start()[:1])
        # the fluence is scaled to the median pixel of the exposure with the least in the beam
        least = int(rays.area_g_cm2.sum(-1).amax(1).argmin())
        expected = expected_counts(self.known[least], nominal, self.attenuation).sum(-1)
        self.scale = (self.counts[least].sum(-1) / expected).median()
        information = fisher_information(rays.area_g_cm2, self.scale * nominal, self.attenuation)
        root = torch.linalg.cholesky(information * exposure[..., None])
        self.root = root.expand(-1, len(rays.counts), -1, -1)

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
        x = torch.zeros(len(self.above), self.n_unknowns, dtype=torch.float64)
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
        found = decompose(self.counts, spectra, self.attenuation, start=self.known).x
        value = self._in_deviations(found - self.known)
        J = self._jacobian(found, self.counts, spectra, density)
        return Residuals(value, J, torch.full_like(value[:, 0], _ROUNDING))

    def _in_deviations(
        self, difference: Float[Tensor, "exposure pixel material"]
    ) -> Float[Tensor, "pixel row"]:
        return torch.einsum("epm,epmk->pek", difference, self.root).flatten(1)

    def _jacobian(
        self,
        area: Float[Tensor, "exposure pixel material"],
        counts: Float[Tensor, "exposure pixel bin"],
        spectra: Spectra,
        density: Spectra,
    ) -> Float[Tensor, "pixel row unknown"]:
        """dA/dθ in standard deviations."""
        directions = [spectra]
        directions += [-mu * spectra for mu in self.model.attenuation_per_cm]
        for j in range(_REFERENCE, self.n_thresholds):
            moved = torch.zeros_like(spectra)
            moved[:, j], moved[:, j - 1] = -density[:, j], density[:, j]
            directions.append(moved)
        tangents = [
            spectra_tangent(area, counts, spectra, self.attenuation, direction)
            for direction in directions
        ]
        return torch.stack([self._in_deviations(tangent) for tangent in tangents], -1)

    def fitted(self, found: LeastSquares) -> PixelFit:
        """Unknowns of all pixels with their error bars, and which of them are sound."""
        n = 1 + self.n_materials
        spectra, density = (self.scale * part for part in self._spectra_and_density(found.x))
        decomposed = decompose(self.counts, spectra, self.attenuation, start=self.known)
        expected = expected_counts(self.known, spectra, self.attenuation)
        J = self._jacobian(self.known, expected, spectra, density)
        covariance, singular = torch.linalg.inv_ex(J.mT @ J)
        gradient = J.mT @ self._in_deviations(decomposed.x - self.known)[..., None]
        x = found.x - (covariance @ gradient)[..., 0]
        T = self.thresholds(x)
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        # a pixel that sees air alone has a normal matrix that only rounding makes regular
        known = (singular == 0) & (variance > 0).all(-1)
        behind = expected_counts(self.known, self.scale * self.spectra(x), self.attenuation)
        behind = above_from_bins(behind).movedim(1, 0) * self.exposure[:, None]
        residual = (self.above / behind).log()  # (pixel, exposure, threshold)
        n_exposures = len(self.exposure)
        n_spare = (float(n_exposures - n), *(self.n_thresholds - 1) * (n_exposures - 1.0,))
        within = torch.isclose(T[:, _REFERENCE:], x[:, n:], rtol=0, atol=1e-6).all(-1)
        sd = variance[:, n:].clamp(min=0).sqrt()
        return PixelFit(
            self.scale * x[:, 0].exp(),
            x[:, 1:n],
            T,
            covariance[:, :n, :n],
            torch.cat([torch.zeros_like(T[:, :_REFERENCE]), sd], -1),
            found.converged & known & within & decomposed.converged.all(0),
            residual,
            residual * self.above.sqrt(),
            n_spare,
        )
