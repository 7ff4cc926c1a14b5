"""One linearised step of weighted least squares from a polynomial of log counts."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pcctlearn.decomposition.pieces import RayLayout, flat
from pcctlearn.decomposition.polynomial import (
    LEAST_PHOTONS,
    Polynomial,
    PolynomialDecomposition,
    fit_polynomial,
    known,
)
from pcctlearn.physics.likelihood import log_count_misfit
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.shapes import Attenuation, RayCounts, RayLineIntegrals, RayMask, Spectra
from pcctlearn.solvers.quadratic import Solution
from pcctlearn.solvers.small_systems import solve_positive_definite


class LinearisedStep(NamedTuple):
    """A = A₀ − I(A₀)⁻¹ Σ_b log(ȳ_b(A₀)/n_b) ∂_A ȳ_b(A₀), with a polynomial A₀ of the log counts."""

    polynomial: Polynomial
    spectra: Spectra
    attenuation: Attenuation

    def estimate(self, counts: RayCounts, air: Float[Tensor, "*#ray bin"]) -> Solution:
        """Line integrals (*ray, material) in g/cm², and True where start and result are within the
        range of the polynomial."""
        x, inside = self.polynomial.estimate(counts, air)
        # steps from far outside may overflow, and 0 · NaN would reach the gradient
        start = torch.where(inside[..., None], x, self.clamped(x.detach()))
        layout = RayLayout(counts.shape[:-1], self.spectra.shape[:-2])
        rays = layout.ordered(counts.clamp(min=LEAST_PHOTONS), self.spectra, start)
        parts = []
        for piece in rays.pieces():
            # the backward pass computes the transmissions at all energies again, to save memory
            found = checkpoint(_step, *piece, self.attenuation, use_reentrant=False)
            parts.append(Solution(*found))
        x, definite = layout.restored(flat(parts))
        return Solution(x, inside & definite & self.polynomial.covers(x.detach()))

    def clamped(self, line_integrals: RayLineIntegrals) -> RayLineIntegrals:
        """The line integrals, clamped to 0 … range."""
        return self.polynomial.clamped(line_integrals)


def _step(
    counts: RayCounts, spectra: Spectra, start: RayLineIntegrals, attenuation: Attenuation
) -> tuple[RayLineIntegrals, RayMask]:
    misfit = log_count_misfit(start, counts, spectra, attenuation)
    step, definite = solve_positive_definite(misfit.hessian, misfit.gradient)
    return start - step, definite


class LinearisedDecomposition(PolynomialDecomposition):
    """A polynomial of log counts and one Gauss–Newton step with the expected counts.

    The step is that of a least-squares fit to the log counts, linearised at the polynomial's result
    A₀, with the expected counts ȳ_b(A₀) as weights, so that I is the Fisher matrix
    (``LinearisedStep``). One step from a consistent estimate has the noise of the Cramér–Rao bound
    at high counts (L. Le Cam, Proc. 3rd Berkeley Symp. Math. Stat. Prob. (1956) 129). Its error is
    of second order in that of A₀. Log counts are more nearly linear in A than counts.

    Gradients reach counts, thresholds, fluence and response. ``converged`` is True where polynomial
    and result are within the range of the polynomial and every bin has half a photon or more. Other
    rays are clamped to the range and pass no gradient.

    Args:
        model, degree: as in ``PolynomialDecomposition``.
        range_g_cm2: as in ``PolynomialDecomposition``; materials that the model does not have are
            ignored.
    """

    def __init__(
        self,
        model: SpectralModel,
        degree: int = 2,
        range_g_cm2: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(model, degree, known(range_g_cm2, model.materials))

    def _fit(self, spectra: Spectra, attenuation: Attenuation) -> LinearisedStep:
        polynomial = fit_polynomial(
            spectra, attenuation, self.degree, self.range_g_cm2, each_pixel=spectra.ndim > 2
        )
        return LinearisedStep(polynomial, spectra, attenuation)
