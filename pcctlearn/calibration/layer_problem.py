"""Decomposed minus known area densities of every pixel, and their derivative in its unknowns."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.plate_counts import OfPixels, PlateModel
from pcctlearn.calibration.threshold_step import FURTHEST_keV
from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.decomposition.sensitivity import fisher_information, minimum_tangents
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.skew import skew_filter
from pcctlearn.physics.spectral_model import expected_counts
from pcctlearn.physics.thresholds import bins_from_above
from pcctlearn.shapes import Spectra
from pcctlearn.solvers.levenberg_marquardt import Residuals

_LONGEST = (0.3, 0.02, 2.0)  # steps of ln k, of a thickness in cm, of a threshold in keV
_ROUNDING = 1e-6  # of a residual in standard deviations
_LEAST_BIN_keV = 1.0  # between a fixed reference and the next threshold
_GAP_keV = 0.05  # from halfway to the next threshold: a bin between two limits is not empty
_BLOCK = 100_000  # rays

Unknowns = Float[Tensor, "pixel unknown"]
Normal = Float[Tensor, "pixel unknown unknown"]


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

    @property
    def pixels_per_block(self) -> int:
        """Pixels are independent; blocks of them limit memory."""
        return max(1, _BLOCK // len(self.exposure))

    def blocks(self) -> "list[KnownRays]":
        """The rays of blocks of pixels."""
        n = self.pixels_per_block
        counts = self.counts.split(n)
        if self.area_g_cm2.shape[1] == 1:
            areas = (self.area_g_cm2,) * len(counts)
        else:
            areas = self.area_g_cm2.split(n, 1)
        return [KnownRays(*parts, self.exposure) for parts in zip(counts, areas, strict=True)]


@dataclass(frozen=True)
class LayerPrior:
    """(θ − m)ᵀ P (θ − m) of θ = (x, T), without the thresholds that are fixed.

    Args:
        mean: m of every pixel, from which the search begins.
        precision: P.
    """

    mean: Unknowns
    precision: Normal

    def blocks(self, n_pixels: int) -> "list[LayerPrior]":
        """The prior of blocks of pixels."""
        parts = zip(self.mean.split(n_pixels), self.precision.split(n_pixels), strict=True)
        return [LayerPrior(*part) for part in parts]


class NormalEquations(NamedTuple):
    """Jᵀr and JᵀJ with those of the prior, Σ r² of the rays, and where all rays are decomposed."""

    gradient: Unknowns
    normal: Normal
    chi2: OfPixels
    decomposed: Bool[Tensor, "pixel"]


class LayerProblem:
    """The least-squares problem of ``fit_through_decomposition`` for a block of pixels.

    Args:
        rays: counts behind known area densities.
        model: expected counts; its plates are not used.
        basis: materials of the area densities.
        nominal_keV: nominal thresholds.
        prior: of thicknesses and thresholds; none by default.
        n_fixed: thresholds, from the lowest, that are nominal by definition.
        with_misfit: also minimise what more bins than materials leave over,
            Σ (ȳ_b(A*) − y_b)²/ȳ_b of the decomposed counts y.
        weighted_at: unknowns whose expected counts give the weights, ln k being absolute; by
            default those of nominal pixels.
    """

    def __init__(
        self,
        rays: KnownRays,
        model: PlateModel,
        basis: Sequence[str],
        nominal_keV: Float[Tensor, "threshold"],
        prior: LayerPrior | None = None,
        n_fixed: int = 1,
        with_misfit: bool = False,
        weighted_at: Unknowns | None = None,
    ) -> None:
        self.above, self.exposure = rays.counts, rays.exposure
        self.model, self.nominal_keV = model, nominal_keV
        self.prior, self.n_fixed = prior, n_fixed
        self.n_thresholds = len(nominal_keV)
        self.n_materials = len(model.attenuation_per_cm)
        self.attenuation = attenuation_table(basis, model.energies_keV)
        exposure = self.exposure[:, None, None]
        self.counts = bins_from_above(rays.counts).movedim(1, 0) / exposure
        self.known = rays.area_g_cm2.expand(-1, len(rays.counts), -1).contiguous()
        nominal = self.spectra(self._nominal()[:1])
        # the fluence is scaled to the median pixel of the exposure with the least in the beam
        least = int(rays.area_g_cm2.sum(-1).amax(1).argmin())
        expected = expected_counts(self.known[least], nominal, self.attenuation).sum(-1)
        self.scale = (self.counts[least].sum(-1) / expected).median()
        weights = self.scale * nominal if weighted_at is None else self.spectra(weighted_at)
        information = fisher_information(rays.area_g_cm2, weights, self.attenuation)
        root = torch.linalg.cholesky(information * exposure[..., None])
        self.root = root.expand(-1, len(rays.counts), -1, -1)
        expected = expected_counts(rays.area_g_cm2, weights, self.attenuation)
        self.bin_root = (exposure / expected).sqrt() if with_misfit else None
        if prior is not None:
            self.prior_root = torch.linalg.cholesky(prior.precision)

    @property
    def n_unknowns(self) -> int:
        """ln k, thicknesses, and all thresholds that are not fixed."""
        return 1 + self.n_materials + self.n_thresholds - self.n_fixed

    def longest(self) -> Float[Tensor, "unknown"]:
        """Largest steps."""
        gain, thickness, threshold = _LONGEST
        n = self.n_thresholds - self.n_fixed
        return torch.tensor(
            [gain, *[thickness] * self.n_materials, *[threshold] * n], dtype=torch.float64
        )

    def _nominal(self) -> Unknowns:
        x = torch.zeros(len(self.above), self.n_unknowns, dtype=torch.float64)
        x[:, 1 + self.n_materials :] = self.nominal_keV[self.n_fixed :]
        return x

    def start(self) -> Unknowns:
        """Nominal pixels, or the mean of the prior."""
        x = self._nominal()
        if self.prior is not None:
            x[:, 1:] = self.prior.mean
        return x

    def thresholds(self, x: Unknowns) -> Float[Tensor, "pixel threshold"]:
        """All thresholds, within their limits, so that they increase."""
        T, fixed = self.nominal_keV, self.n_fixed
        middle = (T[1:] + T[:-1]) / 2
        lower = torch.cat([self.model.energies_keV[:1], middle + _GAP_keV])
        if fixed:
            lower[1] = T[0] + _LEAST_BIN_keV
        upper = torch.cat([middle - _GAP_keV, self.model.energies_keV[-1:] - 1])
        lower, upper = (
            torch.maximum(T - FURTHEST_keV, lower),
            torch.minimum(T + FURTHEST_keV, upper),
        )
        found = x[:, 1 + self.n_materials :].clamp(lower[fixed:], upper[fixed:])
        return torch.cat([T[:fixed].expand(len(x), -1), found], -1)

    def spectra(self, x: Unknowns) -> Spectra:
        """Spectra of the bins for the unknowns, for a fluence that is not scaled."""
        return self._spectra_and_density(x)[0]

    def _spectra_and_density(self, x: Unknowns) -> tuple[Spectra, Spectra]:
        """Spectra of the bins, and −∂(spectrum above each threshold)/∂T."""
        n = 1 + self.n_materials
        passed = skew_filter(x[:, 0].exp(), x[:, 1:n], self.model.attenuation_per_cm)
        fluence = self.model.fluence * passed
        parts = [self.model.above(T) for T in self.thresholds(x).unbind(1)]
        above, density = (
            torch.stack(part, 1) * fluence[:, None] for part in zip(*parts, strict=True)
        )
        return bins_from_above(above, dim=1), density

    def of_counts(self, counts: Float[Tensor, "exposure pixel bin"]) -> "LayerProblem":
        """The same problem, with the same weights, for other counts in bins."""
        other = copy(self)
        other.counts = counts
        return other

    def rows(
        self, x: Unknowns, changes: Sequence[Float[Tensor, "exposure pixel bin"]] = ()
    ) -> tuple[Float[Tensor, "pixel row"], Float[Tensor, "pixel row column"]]:
        """Residuals without those of the prior, and their J; it has a column for each change of
        the counts, after those of the unknowns.
        """
        spectra, density = (self.scale * part for part in self._spectra_and_density(x))
        found = decompose(self.counts, spectra, self.attenuation, start=self.known).x
        return self._rows(found, found, self.counts, spectra, density, changes)

    def residuals(self, x: Unknowns) -> Residuals:
        """Decomposed minus known area densities in standard deviations, and the prior."""
        value, J = self.rows(x)
        if self.prior is not None:
            off = torch.einsum("pu,puk->pk", x[:, 1:] - self.prior.mean, self.prior_root)
            rows = torch.nn.functional.pad(self.prior_root.mT, (1, 0))  # ln k has no prior
            value, J = torch.cat([value, off], 1), torch.cat([J, rows], 1)
        return Residuals(value, J, torch.full_like(value[:, 0], _ROUNDING))

    def at_expected_counts(self, x: Unknowns) -> "NormalEquations":
        """Normal equations with the J of the expected counts, for which noise does not bias it."""
        spectra, density = (self.scale * part for part in self._spectra_and_density(x))
        decomposed = decompose(self.counts, spectra, self.attenuation, start=self.known)
        expected = expected_counts(self.known, spectra, self.attenuation)
        value, J = self._rows(decomposed.x, self.known, expected, spectra, density)
        gradient = (J.mT @ value[..., None])[..., 0]
        normal = J.mT @ J
        if self.prior is not None:
            P = torch.nn.functional.pad(self.prior.precision, (1, 0, 1, 0))
            off = torch.nn.functional.pad(x[:, 1:] - self.prior.mean, (1, 0))
            gradient, normal = gradient + torch.einsum("puk,pk->pu", P, off), normal + P
        chi2 = value.square().sum(-1)
        return NormalEquations(gradient, normal, chi2, decomposed.converged.all(0))

    def _in_deviations(
        self, difference: Float[Tensor, "exposure pixel material"]
    ) -> Float[Tensor, "pixel row"]:
        return torch.einsum("epm,epmk->pek", difference, self.root).flatten(1)

    def _rows(
        self,
        found: Float[Tensor, "exposure pixel material"],
        area: Float[Tensor, "exposure pixel material"],
        counts: Float[Tensor, "exposure pixel bin"],
        spectra: Spectra,
        density: Spectra,
        changes: Sequence[Float[Tensor, "exposure pixel bin"]] = (),
    ) -> tuple[Float[Tensor, "pixel row"], Float[Tensor, "pixel row column"]]:
        """Residuals of the decomposition ``found``, and their J for counts behind ``area``."""
        directions = [spectra]
        directions += [-mu * spectra for mu in self.model.attenuation_per_cm]
        for j in range(self.n_fixed, self.n_thresholds):
            moved = torch.zeros_like(spectra)
            moved[:, j] = -density[:, j]
            if j:
                moved[:, j - 1] = density[:, j]
            directions.append(moved)
        tangents = minimum_tangents(
            area, counts, spectra, self.attenuation, torch.stack(directions, 1), changes
        )
        value = self._in_deviations(found - self.known)
        J = torch.stack([self._in_deviations(one) for one in tangents.area.unbind(2)], -1)
        if self.bin_root is None:
            return value, J
        left = expected_counts(found, spectra, self.attenuation) - self.counts
        moves = list(tangents.counts.unbind(2))
        for index, change in enumerate(changes, start=len(directions)):
            moves[index] = moves[index] - change
        value = torch.cat([value, self._in_counts(left)], 1)
        moved = torch.stack([self._in_counts(move) for move in moves], -1)
        return value, torch.cat([J, moved], 1)

    def _in_counts(
        self, difference: Float[Tensor, "exposure pixel bin"]
    ) -> Float[Tensor, "pixel row"]:
        assert self.bin_root is not None
        return (difference * self.bin_root).movedim(1, 0).flatten(1)
