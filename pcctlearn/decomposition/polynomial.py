"""Line integrals as a polynomial of log counts: the start of the maximum-likelihood solvers."""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.physics.spectral_model import expected_counts
from pcctlearn.shapes import Attenuation, RayCounts, RayLineIntegrals, Spectra

_DARKEST = 1e-3  # transmission at the far end of the fitted range
_LATTICE = {1: 24, 2: 14, 3: 10}  # points along a side; fewer for more materials
_RIDGE = 1e-6
_THIN = 0.02  # mean log counts below which errors are no longer relative


class PolynomialDecomposition:
    """A_m = Σ_α c_mα Π_b p_b^α_b, 1 ≤ total degree ≤ ``degree``, with p_b = log(air_b / n_b).

    The coefficients are a least-squares fit to noise-free counts on a lattice of combinations,
    from none of any material to what lets ``_DARKEST`` of the photons through; errors weigh
    relative to the mean of p. It is fitted to the mean spectra of all pixels; each ray's counts are
    divided by the air counts of its own.

    Exact where nothing is in the beam, and good to some 0.05 g/cm² of water where counts are many;
    with few counts its result is clamped to the fitted range. That makes it the start of the
    iterative decomposition.
    """

    def __init__(self, spectra: Spectra, attenuation: Attenuation, degree: int = 2) -> None:
        self.air = spectra.detach().sum(-1)
        mean = spectra.detach().double().flatten(0, -3).mean(0) if spectra.ndim > 2 else spectra
        mean, mu = mean.detach().double(), attenuation.detach().double()
        self.degree = degree
        self.range = torch.stack([_range(mean.sum(0), one) for one in mu]).to(attenuation)
        lattice = _simplex(len(mu)).to(mu) * self.range.double()
        p = torch.log(mean.sum(-1) / expected_counts(lattice, mean, mu))
        weight = 1 / (_THIN + p.mean(-1).clamp(min=0))
        features = self._features(p) * weight
        normal = features @ features.mT
        normal = normal + _RIDGE * torch.diag(normal.diagonal())
        moments = features @ (lattice * weight[:, None])
        self.coefficients = torch.linalg.solve(normal, moments).to(attenuation)

    def __call__(
        self, counts: RayCounts, air: Float[Tensor, "*#ray bin"] | None = None
    ) -> RayLineIntegrals:
        """Line integrals in g/cm², within the fitted range; no count is taken as half a count."""
        air = self.air if air is None else air
        p = torch.log(air / counts.detach().clamp(min=0.5))
        x = (self._features(p).mT @ self.coefficients).clamp(min=0)
        return torch.minimum(x, self.range)

    def _features(self, p: Tensor) -> Tensor:
        """Monomials of the log counts: (*group, feature, ray)."""
        bins = list(p.unbind(-1))
        rows: list[Tensor] = []
        level: list[tuple[int, Tensor]] = [(0, torch.ones_like(bins[0]))]
        for _ in range(self.degree):
            level = [(b, row * bins[b]) for first, row in level for b in range(first, len(bins))]
            rows += [row for _, row in level]
        return torch.stack(rows, -2)


def _range(spectrum: Tensor, mu: Tensor) -> Tensor:
    """Area density of one material that lets ``_DARKEST`` of the photons through."""
    low, high = 0.0, 1e4
    for _ in range(60):
        middle = math.sqrt(low * high) if low > 0 else high / 2
        through = (spectrum * torch.exp(-middle * mu)).sum() / spectrum.sum()
        low, high = (middle, high) if through > _DARKEST else (low, middle)
    return torch.as_tensor(high, dtype=mu.dtype, device=mu.device)


def _simplex(n_materials: int) -> Tensor:
    """Lattice points with Σ x_m ≤ 1, dense near zero and a little beyond it."""
    points = torch.linspace(0, 1, _LATTICE.get(n_materials, 7) - 1, dtype=torch.float64) ** 2
    points = torch.cat([points.new_tensor([-0.03]), points])
    lattice = torch.tensor(list(itertools.product(points.tolist(), repeat=n_materials)))
    return lattice.double()[lattice.sum(-1) <= 1]
