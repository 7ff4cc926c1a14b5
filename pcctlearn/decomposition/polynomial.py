"""Line integrals as a polynomial of log counts: a decomposition in closed form."""

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.inputs import check
from pcctlearn.physics.spectral_model import SpectralModel
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
from pcctlearn.validation import require_positive

log = logging.getLogger(__name__)

_DARKEST = 1e-3  # transmission at the far end of the fitted range
_THICKEST = 1e4  # g/cm², of a material that hardly attenuates
_LEAST_SLOPE = 1e-30
_LATTICE = {1: 24, 2: 14, 3: 10}  # points along a side; fewer for more materials
_BELOW_ZERO = -0.03  # lower end of the lattice over the range: with noise, air has negative values
_RIDGE, _RIDGE_DEGREE = 1e-6, 3  # of the normal matrix, up to this degree
_RIDGE_OF_MORE_BINS = 1e-13  # for higher ones, with more bins than materials
_BLOCK = 10_000_000  # numbers that a fit of many pixels, or high degrees of many rays, hold at once
_THIN = 0.02  # mean log counts below which errors are absolute
LEAST_PHOTONS = 0.5  # smallest count of which the logarithm is taken


@runtime_checkable
class Fitted(Protocol):
    """A closed form that has been fitted to spectra."""

    def estimate(self, counts: RayCounts, air: Float[Tensor, "*#ray bin"]) -> Solution:
        """Line integrals (*ray, material) in g/cm², and True for rays within the fitted range."""

    def clamped(self, line_integrals: RayLineIntegrals) -> RayLineIntegrals:
        """The line integrals, clamped to 0 … range."""


class Polynomial(NamedTuple):
    """A_m = Σ_α c_mα Π_b p_b^α_b, 1 ≤ total degree ≤ ``degree``, with p_b = log(air_b / n_b).

    ``coefficients`` (*pixel, feature, material); ``range`` (material) is the largest fitted area
    density of each material, g/cm². ``largest_sum`` is that of A_m / range_m over the materials:
    1, or the number of materials where all combinations within the range are fitted.
    """

    coefficients: Tensor
    range: Tensor
    degree: int
    largest_sum: int

    def __call__(self, counts: RayCounts, air: Float[Tensor, "*#ray bin"]) -> RayLineIntegrals:
        """Line integrals in g/cm²; outside the fitted range they are extrapolated."""
        return self.of_log_counts(torch.log(air / counts.clamp(min=LEAST_PHOTONS)))

    def estimate(self, counts: RayCounts, air: Float[Tensor, "*#ray bin"]) -> Solution:
        """The line integrals, and True where they are within the fitted combinations."""
        x = self(counts, air)
        return Solution(x, self.covers(x.detach()))

    def of_log_counts(self, p: RayCounts) -> RayLineIntegrals:
        """Line integrals in g/cm² from p_b = log(air_b / n_b).

        Degrees above 3 are summed in float64, because their terms cancel.
        """
        if self.degree <= _RIDGE_DEGREE:
            return self._sum(p)
        n_shared = p.ndim - self.coefficients.ndim + 1
        views = p.double().flatten(0, n_shared - 1) if n_shared else p.double()[None]
        n_features = self.coefficients.shape[-2] * views[0, ..., 0].numel()
        blocks = views.split(max(1, _BLOCK // n_features))
        return torch.cat([self._sum(block) for block in blocks]).reshape(*p.shape[:-1], -1).to(p)

    def _sum(self, p: RayCounts) -> RayLineIntegrals:
        coefficients = self.coefficients.to(p)
        if coefficients.ndim == 2:
            return _features(p, self.degree).mT @ coefficients
        monomials = _features(p, self.degree, dim=-1)
        return (monomials[..., None, :] @ coefficients)[..., 0, :]

    def clamped(self, line_integrals: RayLineIntegrals) -> RayLineIntegrals:
        """The line integrals, clamped to 0 … range."""
        return torch.minimum(line_integrals.clamp(min=0), self.range)

    def covers(self, line_integrals: RayLineIntegrals) -> RayMask:
        """True within the fitted combinations of materials."""
        share = line_integrals / self.range
        within = (share >= _BELOW_ZERO) & (share <= 1)
        return within.all(-1) & (share.sum(-1) <= self.largest_sum)


def fit_polynomial(
    spectra: Spectra,
    attenuation: Attenuation,
    degree: int = 2,
    range_g_cm2: Sequence[float] | None = None,
    each_pixel: bool = False,
) -> Polynomial:
    """Least-squares fit to noise-free counts on a lattice of combinations of the materials.

    The lattice extends from zero to a transmission of ``_DARKEST``, or over all combinations within
    the given range; errors are weighted relative to the mean of p. The counts of each ray are
    divided by the air counts of its pixel. The polynomial is exact in air. The error of the second
    degree at high counts is about 0.05 g/cm² of water. Differentiable in spectra and attenuation.

    Args:
        spectra, attenuation: as in ``decompose``; bins may also be those of all counts above each
            threshold, with errors about ten times as large.
        degree: of the polynomial.
        range_g_cm2: largest area density of each material.
        each_pixel: fit one polynomial for each pixel [2, eqs 21, 22], not one to the mean of their
            spectra.
    """
    each, mu = spectra.double(), attenuation.double()
    mean = each.flatten(0, -3).mean(0) if each.ndim > 2 else each
    if range_g_cm2 is None:
        far, largest_sum = torch.stack([_range(mean.sum(0), one) for one in mu]), 1
        share = _simplex(len(mu))
    else:
        far, largest_sum = mu.new_tensor(range_g_cm2), len(mu)
        share = box_lattice(len(mu))
    lattice = share.to(mu) * far
    transmission = torch.exp(-lattice @ mu)
    if not each_pixel or each.ndim == 2:
        coefficients = _coefficients(mean[None], transmission, lattice, degree)[0]
    else:
        pixels = each.flatten(0, -3)
        n_features = math.comb(each.shape[-2] + degree, degree) - 1
        blocks = pixels.split(max(1, _BLOCK // (len(lattice) * n_features)))
        parts = [_coefficients(block, transmission, lattice, degree) for block in blocks]
        coefficients = torch.cat(parts).reshape(*each.shape[:-2], n_features, len(mu))
    if degree <= _RIDGE_DEGREE:
        coefficients = coefficients.to(attenuation)
    return Polynomial(coefficients, far.to(attenuation), degree, largest_sum)


def _coefficients(
    spectra: Float[Tensor, "pixel bin energy"],
    transmission: Float[Tensor, "point energy"],
    lattice: Float[Tensor, "point material"],
    degree: int,
) -> Float[Tensor, "pixel feature material"]:
    counts = (spectra @ transmission.T).mT  # (pixel, point, bin)
    p = torch.log(spectra.sum(-1)[:, None] / counts)
    weight = 1 / (_THIN + p.mean(-1).clamp(min=0))
    features = _features(p, degree) * weight[:, None]
    wanted = lattice * weight[..., None]
    if degree > _RIDGE_DEGREE:
        n_bins, n_materials = spectra.shape[1], lattice.shape[1]
        ridge = _RIDGE_OF_MORE_BINS if n_bins > n_materials else 0.0
        return _least_squares(features.mT, wanted, ridge)
    normal = features @ features.mT
    normal = normal + _RIDGE * torch.diag_embed(normal.diagonal(dim1=-2, dim2=-1))
    return torch.linalg.solve(normal, features @ wanted)


def ranges(range_g_cm2: Mapping[str, float], materials: Sequence[str]) -> list[float]:
    """The largest area densities in the order of the materials.

    Raises:
        ValueError: if a material is missing, is not one of these, or has no positive range.
    """
    if set(range_g_cm2) != set(materials):
        raise ValueError(
            f"range_g_cm2 names {sorted(range_g_cm2)}: give each of the basis materials "
            f"{sorted(materials)} and no other"
        )
    require_positive(**{f"range_g_cm2.{name}": far for name, far in range_g_cm2.items()})
    return [range_g_cm2[name] for name in materials]


def known(
    range_g_cm2: Mapping[str, float] | None, materials: Sequence[str]
) -> dict[str, float] | None:
    """The ranges of these materials, without those of others."""
    if range_g_cm2 is None:
        return None
    return {name: far for name, far in range_g_cm2.items() if name in materials}


def _least_squares(rows: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """The solution with a ridge by QR factors of columns of length one.

    Normal equations would square the condition number, which is large for high degrees. With more
    bins than materials the log counts depend on one another, and there may be fewer rows than
    columns: the ridge determines all coefficients and keeps them small.
    """
    scale = rows.norm(dim=-2, keepdim=True)
    n_rows, n = rows.shape[-2:]
    system = rows / scale
    if ridge > 0:
        below = math.sqrt(ridge) * torch.eye(n, dtype=rows.dtype, device=rows.device)
        system = torch.cat([system, below.expand(*rows.shape[:-2], n, n)], -2)
    Q, R = torch.linalg.qr(system)
    right = Q[..., :n_rows, :].mT @ wanted
    return torch.linalg.solve_triangular(R, right, upper=True) / scale.mT


class PolynomialDecomposition(Decomposition):
    """Polynomials of log counts, fitted to the model's spectra at each call (``fit_polynomial``).

    Where the spectra differ between pixels, each pixel has its own polynomial.

    Gradients reach counts and, through the fit, thresholds, fluence and response. ``converged`` is
    True where every bin has half a photon or more and the line integrals are within the fitted
    combinations; it does not account for noise or for the error of the polynomial. Other rays are
    clamped to the fitted range and pass no gradient.

    Args:
        model: the scanner.
        degree: of the polynomial: 2 or 3 for any range, 5 for the range of the objects.
        range_g_cm2: {material: largest area density of the fit} of every basis material, in all
            combinations; by default the fit extends to a transmission of 0.1 %.
    """

    def __init__(
        self,
        model: SpectralModel,
        degree: int = 2,
        range_g_cm2: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(model)
        if degree < 1:
            raise ValueError(f"degree must be 1 or more, got {degree}")
        self.degree = degree
        self._last: tuple[Tensor, Tensor, Fitted] | None = None
        self.range_g_cm2 = None if range_g_cm2 is None else ranges(range_g_cm2, model.materials)

    def forward(self, counts: Counts) -> Solution:
        """Line integrals (batch, material, view, *pixel) in g/cm², and the mask ``converged``."""
        rays = channels_last(counts)
        if rays.dtype in (torch.float16, torch.bfloat16):  # too coarse for the logarithm
            rays = rays.float()
        spectra, attenuation = self.model.spectra().to(rays), self.model.attenuation.to(rays)
        check(rays, spectra, attenuation)
        fitted = self._fitted_to(spectra, attenuation)
        x, inside = fitted.estimate(rays, spectra.sum(-1))
        inside = inside & (rays >= LEAST_PHOTONS).all(-1)
        if outside := int((~inside).sum()):
            log.warning("%d of %d rays lie outside the fitted range", outside, inside.numel())
        x = torch.where(inside[..., None], x, fitted.clamped(x.detach()))
        return Solution(channels_first(x), inside)

    def _fit(self, spectra: Spectra, attenuation: Attenuation) -> Fitted:
        each_pixel = spectra.ndim > 2
        return fit_polynomial(spectra, attenuation, self.degree, self.range_g_cm2, each_pixel)

    def _fitted_to(self, spectra: Spectra, attenuation: Attenuation) -> Fitted:
        """A new fit where it needs a gradient, or if the spectra are not those of the last call."""
        learns = torch.is_grad_enabled() and (spectra.requires_grad or attenuation.requires_grad)
        if self._last is not None and not learns:
            *known, fitted = self._last
            if all(_same(a, b) for a, b in zip(known, (spectra, attenuation), strict=True)):
                return fitted
        with torch.inference_mode(False):  # of copies: a later call may differentiate them
            fitted = self._fit(spectra.clone(), attenuation.clone())
        self._last = None if learns else (spectra, attenuation, fitted)
        return fitted


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and bool(torch.equal(one, other))


def _features(p: Tensor, degree: int, dim: int = -2) -> Tensor:
    """Monomials of the log counts: (*group, feature, ray), or with the features elsewhere."""
    bins = list(p.unbind(-1))
    rows: list[Tensor] = []
    level: list[tuple[int, Tensor]] = [(0, torch.ones_like(bins[0]))]
    for _ in range(degree):
        level = [(b, row * bins[b]) for first, row in level for b in range(first, len(bins))]
        rows += [row for _, row in level]
    return torch.stack(rows, dim)


def _range(spectrum: Tensor, mu: Tensor) -> Tensor:
    """Area density of one material that transmits ``_DARKEST`` of the photons."""
    S, m = (t.detach().cpu().numpy() for t in (spectrum, mu))
    high = 0.0
    while high < _THICKEST:  # Newton: log T is convex and falls, so every iterate is too small
        parts = S * np.exp(-high * m)
        excess = math.log(parts.sum() / (_DARKEST * S.sum()))
        step = excess * parts.sum() / max(float(parts @ m), _LEAST_SLOPE)
        high += step
        if step <= 1e-12 * high:
            break
    high = min(high, _THICKEST)
    transmitted = spectrum * torch.exp(-high * mu)
    log_transmission = torch.log(transmitted.sum() / spectrum.sum())
    slope = (transmitted * mu).sum() / transmitted.sum()
    # zero, with the derivative of the root of log T(range) = log _DARKEST
    shift = (log_transmission - log_transmission.detach()) / slope.detach()
    return high + shift


def _simplex(n_materials: int) -> Tensor:
    """Lattice points with Σ x_m ≤ 1, dense near zero, from slightly below zero on."""
    lattice = _combinations(_side(n_materials) ** 2, n_materials)
    return lattice[lattice.sum(-1) <= 1]


def box_lattice(n_materials: int) -> Tensor:
    """Lattice points with x_m ≤ 1, evenly spaced, from slightly below zero on."""
    return _combinations(_side(n_materials), n_materials)


def _side(n_materials: int) -> Tensor:
    return torch.linspace(0, 1, _LATTICE.get(n_materials, 7) - 1, dtype=torch.float64)


def _combinations(points: Tensor, n_materials: int) -> Tensor:
    points = torch.cat([points.new_tensor([_BELOW_ZERO]), points])
    return torch.tensor(
        list(itertools.product(points.tolist(), repeat=n_materials)), dtype=torch.float64
    )
