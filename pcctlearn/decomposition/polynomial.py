"""Line integrals as a polynomial of log counts: a decomposition in closed form."""

import itertools
import logging
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.inputs import check
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.shapes import (
    Attenuation,
    Counts,
    RayCounts,
    RayLineIntegrals,
    RayMask,
    Spectra,
    channels_first,
    channels_last,
)
from pcctlearn.solvers.quadratic import Solution

log = logging.getLogger(__name__)

_DARKEST = 1e-3  # transmission at the far end of the fitted range
_LATTICE = {1: 24, 2: 14, 3: 10}  # points along a side; fewer for more materials
_BELOW_ZERO = -0.03  # lower end of the lattice over the range: with noise, air has negative values
_RIDGE = 1e-6
_THIN = 0.02  # mean log counts below which errors are absolute
_LEAST_PHOTONS = 0.5  # smallest count of which the logarithm is taken


class Polynomial(NamedTuple):
    """A_m = Σ_α c_mα Π_b p_b^α_b, 1 ≤ total degree ≤ ``degree``, with p_b = log(air_b / n_b).

    ``coefficients`` (feature, material); ``range`` (material) transmits a thousandth of the
    photons, g/cm².
    """

    coefficients: Tensor
    range: Tensor
    degree: int

    def __call__(self, counts: RayCounts, air: Float[Tensor, "*#ray bin"]) -> RayLineIntegrals:
        """Line integrals in g/cm²; outside the fitted range they are extrapolated."""
        p = torch.log(air / counts.clamp(min=_LEAST_PHOTONS))
        return _features(p, self.degree).mT @ self.coefficients

    def clamped(self, line_integrals: RayLineIntegrals) -> RayLineIntegrals:
        """The line integrals, clamped to 0 … range."""
        return torch.minimum(line_integrals.clamp(min=0), self.range)

    def covers(self, line_integrals: RayLineIntegrals) -> RayMask:
        """True within the fitted combinations of materials."""
        share = line_integrals / self.range
        return (share >= _BELOW_ZERO).all(-1) & (share.sum(-1) <= 1)


def fit_polynomial(spectra: Spectra, attenuation: Attenuation, degree: int = 2) -> Polynomial:
    """Least-squares fit to noise-free counts on a lattice of combinations of the materials.

    The lattice extends from zero to a transmission of ``_DARKEST``; errors are weighted relative to
    the mean of p. The fit uses the mean spectra of all pixels; the counts of each ray are divided
    by the air counts of its pixel. The polynomial is exact in air, and its error at high counts is
    about 0.05 g/cm² of water. Differentiable in spectra and attenuation.
    """
    mean, mu = spectra.double(), attenuation.double()
    if mean.ndim > 2:
        mean = mean.flatten(0, -3).mean(0)
    far = torch.stack([_range(mean.sum(0), one) for one in mu]).to(attenuation)
    lattice = _simplex(len(mu)).to(mu) * far.double()
    p = torch.log(mean.sum(-1) / expected_counts(lattice, mean, mu))
    weight = 1 / (_THIN + p.mean(-1).clamp(min=0))
    features = _features(p, degree) * weight
    normal = features @ features.mT
    normal = normal + _RIDGE * torch.diag(normal.diagonal())
    moments = features @ (lattice * weight[:, None])
    return Polynomial(torch.linalg.solve(normal, moments).to(attenuation), far, degree)


class PolynomialDecomposition(Decomposition):
    """Polynomial of log counts, fitted to the model's spectra at each call (``fit_polynomial``).

    Gradients reach counts and, through the fit, thresholds, fluence and response. ``converged`` is
    True where every bin has half a photon or more and the line integrals are within the fitted
    combinations; it does not account for noise or for the error of the polynomial. Other rays are
    clamped to the fitted range and pass no gradient.

    Args:
        model: the scanner.
        degree: degree of the polynomial, 2 or 3.
    """

    def __init__(self, model: SpectralModel, degree: int = 2) -> None:
        super().__init__(model)
        if degree < 1:
            raise ValueError(f"degree must be 1 or more, got {degree}")
        self.degree = degree

    def forward(self, counts: Counts) -> Solution:
        """Line integrals (batch, material, view, *pixel) in g/cm², and the mask ``converged``."""
        rays = channels_last(counts)
        if rays.dtype in (torch.float16, torch.bfloat16):  # too coarse for the logarithm
            rays = rays.float()
        spectra, attenuation = self.model.spectra().to(rays), self.model.attenuation.to(rays)
        check(rays, spectra, attenuation)
        polynomial = fit_polynomial(spectra, attenuation, self.degree)
        x = polynomial(rays, spectra.sum(-1))
        inside = polynomial.covers(x.detach()) & (rays >= _LEAST_PHOTONS).all(-1)
        if outside := int((~inside).sum()):
            log.warning("%d of %d rays lie outside the fitted range", outside, inside.numel())
        x = torch.where(inside[..., None], x, polynomial.clamped(x.detach()))
        return Solution(channels_first(x), inside)


def _features(p: Tensor, degree: int) -> Tensor:
    """Monomials of the log counts: (*group, feature, ray)."""
    bins = list(p.unbind(-1))
    rows: list[Tensor] = []
    level: list[tuple[int, Tensor]] = [(0, torch.ones_like(bins[0]))]
    for _ in range(degree):
        level = [(b, row * bins[b]) for first, row in level for b in range(first, len(bins))]
        rows += [row for _, row in level]
    return torch.stack(rows, -2)


def _range(spectrum: Tensor, mu: Tensor) -> Tensor:
    """Area density of one material that transmits ``_DARKEST`` of the photons."""
    low, high = 0.0, 1e4
    with torch.no_grad():
        for _ in range(60):
            middle = math.sqrt(low * high) if low > 0 else high / 2
            transmission = (spectrum * torch.exp(-middle * mu)).sum() / spectrum.sum()
            low, high = (middle, high) if transmission > _DARKEST else (low, middle)
    transmitted = spectrum * torch.exp(-high * mu)
    log_transmission = torch.log(transmitted.sum() / spectrum.sum())
    slope = (transmitted * mu).sum() / transmitted.sum()
    # zero, with the derivative of the root of log T(range) = log _DARKEST
    shift = (log_transmission - log_transmission.detach()) / slope.detach()
    return high + shift


def _simplex(n_materials: int) -> Tensor:
    """Lattice points with Σ x_m ≤ 1, dense near zero, from slightly below zero on."""
    points = torch.linspace(0, 1, _LATTICE.get(n_materials, 7) - 1, dtype=torch.float64) ** 2
    points = torch.cat([points.new_tensor([_BELOW_ZERO]), points])
    lattice = torch.tensor(list(itertools.product(points.tolist(), repeat=n_materials)))
    return lattice.double()[lattice.sum(-1) <= 1]
