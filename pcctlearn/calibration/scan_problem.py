"""Counts of an unknown object: what they tell of each pixel while its line integrals are free."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.plate_counts import PlateModel
from pcctlearn.calibration.threshold_step import FURTHEST_keV
from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.physics.skew import skew_filter
from pcctlearn.physics.thresholds import bins_from_above
from pcctlearn.shapes import Attenuation, Spectra
from pcctlearn.solvers.small_systems import solve_positive_definite

Areas = Float[Tensor, "view pixel material"]
AreaSlopes = Float[Tensor, "view pixel material unknown"]
Covariance = Float[Tensor, "view pixel material material"]
Rays = Bool[Tensor, "view pixel"]
Unknowns = Float[Tensor, "pixel unknown"]
Normal = Float[Tensor, "pixel unknown unknown"]

_GAP_keV = 0.05  # from halfway to the next threshold: a bin between two limits is not empty
_BLOCK = 60_000  # rays that are linearised at once
_LEAST_COUNTS = 10.0  # expected in each bin of a ray: below, its likelihood is not quadratic


class Quadratic(NamedTuple):
    """Gradient and normal matrix of half a sum of squares in θ."""

    gradient: Unknowns
    normal: Normal

    def __add__(self, other: object) -> "Quadratic":
        assert isinstance(other, Quadratic)
        return Quadratic(self.gradient + other.gradient, self.normal + other.normal)


class DecomposedScan(NamedTuple):
    """A scan decomposed with the pixels θ, and how it depends on them.

    Args:
        area: A, in g/cm².
        slopes: J = dA/dθ.
        noise: covariance of A.
        rays: those that are used; J and noise of the others mean nothing.
        deviance: Σ (ȳ − y)²/ȳ of each pixel.
        misfit: half the deviance, expanded in θ.
    """

    area: Areas
    slopes: AreaSlopes
    noise: Covariance
    rays: Rays
    deviance: Float[Tensor, "pixel"]
    misfit: Quadratic


@dataclass(frozen=True)
class ScanProblem:
    """A row of pixels θ = (ln k, x, T) behind an unknown object, and in air.

    The counts of a ray are expected to be ȳ_b(A, θ) = a_b Σ_E S_b(E; θ) e^{−μA} / Σ_E S_b(E; θ),
    with the measured air a of its pixel. Given θ, its A is that of the maximum likelihood. With
    more bins than materials the deviance that is left depends on θ, except in directions dθ that
    changes dA of the rays mimic. Air itself should be a_b = Σ_E S_b(E; θ).

    Args:
        counts, air: in bins.
        air_sd: relative standard deviation of the air.
        model: spectrum, response and skew materials; its plates are not used.
        attenuation: of the basis.
        nominal_keV: nominal thresholds.
        scale: photons of a view over those of the spectrum.
    """

    counts: Float[Tensor, "view pixel bin"]
    air: Float[Tensor, "pixel bin"]
    air_sd: Float[Tensor, "pixel bin"]
    model: PlateModel
    attenuation: Attenuation
    nominal_keV: Float[Tensor, "threshold"]
    scale: float

    @property
    def n_unknowns(self) -> int:
        """ln k, thicknesses, thresholds."""
        return 1 + len(self.model.attenuation_per_cm) + len(self.nominal_keV)

    def start(self) -> Unknowns:
        """Nominal pixels."""
        theta = self.air.new_zeros(len(self.air), self.n_unknowns)
        theta[:, -len(self.nominal_keV) :] = self.nominal_keV
        return theta

    def within(self, theta: Unknowns) -> Unknowns:
        """θ with thresholds within 12 keV of nominal ones, and halfway to one another."""
        T, energies_keV = self.nominal_keV, self.model.energies_keV
        middle, n = (T[1:] + T[:-1]) / 2, len(self.nominal_keV)
        lower = torch.cat([energies_keV[:1], middle + _GAP_keV]).maximum(T - FURTHEST_keV)
        upper = torch.cat([middle - _GAP_keV, energies_keV[-1:] - 1]).minimum(T + FURTHEST_keV)
        return torch.cat([theta[:, :-n], theta[:, -n:].clamp(lower, upper)], -1)

    def spectra(self, theta: Unknowns) -> tuple[Spectra, Float[Tensor, "pixel unknown bin energy"]]:
        """S_b(E; θ) in photons of a view, and ∂S/∂θ."""
        n = len(self.nominal_keV)
        attenuation = self.model.attenuation_per_cm
        passed = skew_filter(theta[:, 0].exp(), theta[:, 1:-n], attenuation)
        fluence = self.scale * self.model.fluence * passed
        parts = [self.model.above(T) for T in theta[:, -n:].unbind(1)]
        above, density = (
            torch.stack(part, 1) * fluence[:, None] for part in zip(*parts, strict=True)
        )
        S = bins_from_above(above, dim=1)
        moved = -torch.diag_embed(density.mT).permute(0, 2, 3, 1)  # (pixel, T_j, above, energy)
        slopes = [S[:, None], -attenuation[:, None] * S[:, None], bins_from_above(moved, dim=2)]
        return S, torch.cat(slopes, 1)

    def of_air(self, theta: Unknowns) -> Quadratic:
        """½ Σ_b (ln a_b − ln Σ_E S_b)²/σ_b², expanded in θ."""
        S, slopes = self.spectra(theta)
        expected = S.sum(-1)
        rows = (slopes.sum(-1) / expected[:, None]).mT / self.air_sd[..., None]
        off = (self.air / expected).log() / self.air_sd
        return Quadratic(-torch.einsum("pbk,pb->pk", rows, off), rows.mT @ rows)

    def decomposed(self, theta: Unknowns) -> DecomposedScan:
        """Decompose all rays, and expand line integrals and deviance in θ."""
        spectra = self.spectra(theta)[0]
        spectra = spectra * (self.air / spectra.sum(-1))[..., None]
        # compiled functions in single precision find the minima; a last step below refines them
        found = decompose(self.counts.float(), spectra.float(), self.attenuation.float())
        return self._expanded(theta, found.x.to(theta), found.converged)

    def around(self, theta: Unknowns, area: Areas) -> tuple[AreaSlopes, Covariance]:
        """J and the covariance of the noise where the line integrals are ``area``."""
        every = torch.ones_like(area[..., 0], dtype=torch.bool)
        at = self._expanded(theta, area, every)
        return at.slopes, at.noise

    def _expanded(self, theta: Unknowns, area: Areas, converged: Rays) -> DecomposedScan:
        n = max(1, _BLOCK // len(self.counts))
        parts = []
        for first in range(0, len(theta), n):
            some = slice(first, first + n)
            rays = self.counts[:, some], area[:, some], converged[:, some]
            parts.append(self._block(theta[some], self.air[some], *rays))
        return DecomposedScan(
            torch.cat([part.area for part in parts], 1),
            torch.cat([part.slopes for part in parts], 1),
            torch.cat([part.noise for part in parts], 1),
            torch.cat([part.rays for part in parts], 1),
            torch.cat([part.deviance for part in parts]),
            Quadratic(
                torch.cat([part.misfit.gradient for part in parts]),
                torch.cat([part.misfit.normal for part in parts]),
            ),
        )

    def _block(
        self,
        theta: Unknowns,
        air: Float[Tensor, "pixel bin"],
        counts: Float[Tensor, "view pixel bin"],
        area: Areas,
        converged: Rays,
    ) -> DecomposedScan:
        S, slopes = self.spectra(theta)
        K, M = self.n_unknowns, len(self.attenuation)
        factor = (air / S.sum(-1))[:, None, :, None]
        integrands = [S[:, None], -self.attenuation[:, None] * S[:, None], slopes]
        weighted = (torch.cat(integrands, 1) * factor).flatten(1, 2)
        transmission = torch.exp(-area @ self.attenuation).movedim(1, 0)  # (pixel, view, energy)
        sums = (transmission @ weighted.mT).movedim(0, 1)
        sums = sums.unflatten(-1, (1 + M + K, -1)).mT  # (view, pixel, bin, …)
        expected, G, B = sums[..., 0], sums[..., 1 : 1 + M], sums[..., 1 + M :]
        relative = (slopes.sum(-1) / S.sum(-1)[:, None]).mT
        B = B - expected[..., None] * relative  # θ does not change the air
        rays = converged & (expected >= _LEAST_COUNTS).all(-1)
        W = torch.where(rays[..., None], 1 / expected, 0)
        residual = counts - expected
        GW = (G * W[..., None]).mT
        safe = torch.where(rays[..., None, None], GW @ G, torch.eye(M).to(area))
        noise = inverted(safe)
        solved = noise @ (GW @ torch.cat([B, residual[..., None]], -1))
        J, step = -solved[..., :K], solved[..., K]
        residual = residual - (G @ step[..., None])[..., 0]
        P = B + G @ J  # what A does not mimic
        misfit = Quadratic(
            -torch.einsum("vpbk,vpb,vpb->pk", P, W, residual),
            torch.einsum("vpbk,vpb,vpbl->pkl", P, W, P),
        )
        deviance = (residual.square() * W).sum((0, -1))
        return DecomposedScan(area + step, J, noise, rays, deviance, misfit)


def inverted(matrix: Float[Tensor, "*ray row column"]) -> Float[Tensor, "*ray row column"]:
    """Inverse of small positive definite matrices."""
    unit = torch.eye(matrix.shape[-1]).to(matrix)
    columns = [solve_positive_definite(matrix, e.expand(matrix.shape[:-1]))[0] for e in unit]
    return torch.stack(columns, -1)
