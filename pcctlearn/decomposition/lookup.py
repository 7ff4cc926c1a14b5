"""Line integrals from a table: a spectral model that is inverted at the nodes of a grid."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pcctlearn.decomposition.polynomial import (
    LEAST_PHOTONS,
    Polynomial,
    PolynomialDecomposition,
    box_lattice,
    fit_polynomial,
    known,
)
from pcctlearn.decomposition.sensitivity import count_jacobian
from pcctlearn.decomposition.spline_table import SplineTable, grid, spline_coefficients
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.shapes import Attenuation, RayCounts, RayLineIntegrals, Spectra
from pcctlearn.solvers.quadratic import Solution

_NODES = {1: 65, 2: 33, 3: 17}  # on each axis
_MOST_STEPS = 30
_SHIFT = 0.3  # of the coordinates of the table, above their lower end
_LEAST = 1e-3
_CLOSE = 1e-9  # of the range: distance of a solved node


class LookupTable(NamedTuple):
    """A = A₀(z) + G(z) (p − p̄(z)), with z a polynomial of the log counts p; A₀, p̄, G from splines.

    z has as many components as there are materials. At each node of z, A₀ is the line integral
    whose expected log counts p̄ give this z, and G = I⁻¹ (∂ȳ_b) is ∂A/∂p of a least-squares fit to
    the log counts, linearised at A₀, with weights ȳ_b (I: Fisher matrix). The nodes are even in
    log(z/range + 0.3), because the model is most curved near zero.
    """

    combination: Polynomial
    table: SplineTable
    pixel: Tensor | int

    def estimate(self, counts: RayCounts, air: Float[Tensor, "*#ray bin"]) -> Solution:
        """Line integrals (*ray, material) in g/cm², and True for rays within the table.

        Off the table they are linear in the log counts.
        """
        p = torch.log(air / counts.clamp(min=LEAST_PHOTONS))
        z = self.combination.of_log_counts(p)
        n_materials, n_bins = len(self.combination.range), p.shape[-1]
        y = _to_table(z, self.combination.range)
        held = self.table.holds(y.detach())
        # from outside, a linear step from the nearest point of the grid: splines extrapolate badly
        values = self.table(y.clamp(self.table.low, self.table.high), self.pixel)
        A, expected, G = values.split([n_materials, n_bins, n_materials * n_bins], -1)
        G = G.unflatten(-1, (n_materials, n_bins))
        x = A + (G * (p - expected)[..., None, :]).sum(-1)
        return Solution(x, held & self.combination.covers(x.detach()))

    def clamped(self, line_integrals: RayLineIntegrals) -> RayLineIntegrals:
        """The line integrals, clamped to 0 … range."""
        return self.combination.clamped(line_integrals)


def build_table(
    spectra: Spectra, attenuation: Attenuation, degree: int, range_g_cm2: Sequence[float]
) -> LookupTable:
    """The table of each pixel; all have the nodes and the polynomial of the mean spectra.

    Differentiable in spectra and attenuation.

    Raises:
        ValueError: the model has no inverse at a node.
    """
    S, mu = spectra.double(), attenuation.double()
    combination = fit_polynomial(S, mu, degree, range_g_cm2)
    pixels = S.reshape(-1, *S.shape[-2:])
    box = box_lattice(len(mu)).to(mu) * combination.range
    with torch.no_grad():
        z = torch.cat([combination.of_log_counts(_log_counts(box, one, mu)) for one in pixels])
        low, high = _to_table(z, combination.range).aminmax(dim=0)
    n_nodes = _NODES[len(mu)]
    nodes = combination.range * (torch.exp(grid(low, high, n_nodes)) - _SHIFT)
    tables = [
        spline_coefficients(_at_nodes(nodes, combination, one, mu), len(mu)) for one in pixels
    ]
    coefficients, low, high = (t.to(attenuation) for t in (torch.cat(tables), low, high))
    pixel: Tensor | int = 0
    if S.ndim > 2:
        pixel = torch.arange(len(pixels), device=S.device).reshape(S.shape[:-2])
    combination = combination._replace(range=combination.range.to(attenuation))
    return LookupTable(combination, SplineTable(coefficients, low, high, n_nodes), pixel)


def _at_nodes(
    z: Float[Tensor, "node material"],
    combination: Polynomial,
    spectra: Float[Tensor, "bin energy"],
    attenuation: Attenuation,
) -> Float[Tensor, "node value"]:
    """A₀, p̄ and G, in one row for each node."""

    def excess(A: Tensor) -> Tensor:
        return combination.of_log_counts(_log_counts(A, spectra, attenuation)) - z

    A, slope = _root(excess, z, _CLOSE * combination.range)
    # computed again in the backward pass: the tables of many pixels would need much memory
    return checkpoint(_row, A, slope, excess, spectra, attenuation, use_reentrant=False)


def _row(
    A: RayLineIntegrals,
    slope: Tensor,
    excess: Callable[[Tensor], Tensor],
    spectra: Tensor,
    attenuation: Attenuation,
) -> Float[Tensor, "node value"]:
    """A₀, p̄ and G at a root A of ``excess``, differentiable in what excess depends on."""
    A = A - torch.linalg.solve(slope, excess(A))  # with the derivative of the inverse
    n = expected_counts(A, spectra, attenuation)
    G = -n[:, None] * count_jacobian(A, n, spectra, attenuation)
    return torch.cat([A, torch.log(spectra.sum(-1) / n), G.flatten(-2)], -1)


def _root(
    excess: Callable[[Tensor], Tensor], start: Tensor, close: Tensor
) -> tuple[RayLineIntegrals, Float[Tensor, "node value material"]]:
    """A with excess(A) = 0 by Newton's method, and ∂excess/∂A; both without derivatives."""
    A = start.detach()
    for _ in range(_MOST_STEPS):
        value, slope = _with_slope(excess, A)
        step = torch.linalg.solve_ex(slope, value)[0]
        # a negative determinant is beyond a fold, where other line integrals have the same z
        if bool((step.abs() < close).all()) and bool((torch.linalg.det(slope) > 0).all()):
            return A, slope
        A = A - step
    raise ValueError(
        "different line integrals have the same combinations of counts within range_g_cm2: use a "
        "smaller decomposition.range_g_cm2.MATERIAL, decomposition.degree=1 or "
        "decomposition=linearised; in decomposition_comparison, a smaller "
        "study.decompositions.lookup.range_g_cm2.MATERIAL or study.decompositions.lookup.degree=1"
    )


def _with_slope(
    function: Callable[[Tensor], Tensor], A: Tensor
) -> tuple[Tensor, Float[Tensor, "node value material"]]:
    """f(A) and ∂f/∂A of a function of each node."""
    with torch.enable_grad():
        A = A.detach().requires_grad_()
        values = function(A)
        rows = [torch.autograd.grad(f.sum(), A, retain_graph=True)[0] for f in values.unbind(-1)]
    return values.detach(), torch.stack(rows, -2)


def _to_table(z: RayLineIntegrals, range_g_cm2: Tensor) -> RayLineIntegrals:
    """The coordinates in which the nodes are even, finite for any z."""
    return torch.log((z / range_g_cm2 + _SHIFT).clamp(min=_LEAST))


def _log_counts(A: RayLineIntegrals, spectra: Tensor, attenuation: Attenuation) -> RayCounts:
    """log(air_b / ȳ_b)."""
    return torch.log(spectra.sum(-1) / expected_counts(A, spectra, attenuation))


class LookupDecomposition(PolynomialDecomposition):
    """Line integrals from tables of the inverse spectral model (``LookupTable``).

    A polynomial reduces the log counts to as many combinations as there are materials. A table
    holds their exact inverse, and the weights of all bins near it, so that errors without noise are
    those of the interpolation, and noise at high counts is at the Cramér–Rao bound. The table of
    R. E. Alvarez, Med. Phys. 38 (2011) 2324, corrects an estimate that has the same weights
    everywhere.

    Gradients reach counts and, through the table, thresholds, fluence and response. The table is
    built at the first call, and again for other spectra; each pixel has its own where they differ.
    ``converged`` is True within the table, where every bin has half a photon or more. Other rays
    are clamped to the range and pass no gradient.

    Args:
        model: the scanner, of up to three materials.
        range_g_cm2: {material: largest area density}, in all combinations; materials that the model
            does not have are ignored. The table begins at −3 % of each.
        degree: of the polynomial. 2 has less noise at low counts, 1 more often has an inverse.
    """

    def __init__(
        self, model: SpectralModel, range_g_cm2: Mapping[str, float], degree: int = 2
    ) -> None:
        if len(model.materials) not in _NODES:
            raise ValueError(
                f"a table has up to {max(_NODES)} materials, got {len(model.materials)}: use "
                "decomposition=linearised"
            )
        super().__init__(model, degree, known(range_g_cm2, model.materials))

    def _fit(self, spectra: Spectra, attenuation: Attenuation) -> LookupTable:
        assert self.range_g_cm2 is not None
        return build_table(spectra, attenuation, self.degree, self.range_g_cm2)
