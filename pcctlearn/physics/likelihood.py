"""Poisson likelihood of photon counts given line integrals."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcctlearn.shapes import Attenuation, RayCounts, RayLineIntegrals, Spectra
from pcctlearn.solvers.quadratic import Quadratic, of_rays


@of_rays(1)  # counts
def poisson_likelihood(
    A: RayLineIntegrals,
    counts: RayCounts,
    spectra: Spectra,
    attenuation: Attenuation,
    *,
    exact: bool = True,
) -> Quadratic:
    """Half the deviance, L(A) = Σ_b [ȳ_b − n_b + n_b log(n_b/ȳ_b)], with exact derivatives.

    It equals −log p(n | A) up to a constant, which would cause cancellation. Its derivatives are

        ∂_k L    = Σ_b (1 − n_b/ȳ_b) ∂_k ȳ_b
        ∂_k∂_l L = Σ_b [(n_b/ȳ_b²) ∂_k ȳ_b ∂_l ȳ_b + (1 − n_b/ȳ_b) ∂_k∂_l ȳ_b]

    ``exact=False`` replaces the Hessian by its expectation, the Fisher matrix
    Σ_b ∂_k ȳ_b ∂_l ȳ_b / ȳ_b. Spectra are (bin, energy), or (pixel, bin, energy) for A of shape
    (pixel, ray, material).
    """
    # autocast would compute matrix products in half precision, with three digits
    with torch.autocast(A.device.type, enabled=False):
        return _poisson_likelihood(A, counts, spectra, attenuation, exact)


def negligible(dtype: torch.dtype) -> float:
    """Largest value set to zero in spectra and transmissions: √tiny.

    A product of two larger values is not denormal. CPUs are ten times slower on denormal numbers.
    """
    return torch.finfo(dtype).tiny ** 0.5


def log_count_misfit(
    A: RayLineIntegrals, counts: RayCounts, spectra: Spectra, attenuation: Attenuation
) -> Quadratic:
    """½ Σ_b ȳ_b log²(ȳ_b/n_b), with weights ȳ_b that are held fixed, for counts above zero.

    A weighted least-squares fit of log counts. The gradient is Σ_b log(ȳ_b/n_b) ∂_k ȳ_b, and the
    Hessian that of Gauss and Newton, the Fisher matrix. Spectra are as in ``poisson_likelihood``.
    """
    with torch.autocast(A.device.type, enabled=False):
        mean, slope, _ = _moments(A, spectra, attenuation, [])
        n = counts.mT
        excess = torch.log(mean / n)
        return Quadratic(
            value=(mean * excess.square()).sum(-2) / 2,
            gradient=torch.stack([(excess * s).sum(-2) for s in slope]).movedim(0, -1),
            hessian=_symmetric(len(slope), lambda k, m: (slope[k] * slope[m] / mean).sum(-2)),
            rounding=4 * torch.finfo(n.dtype).eps * n.sum(-2),
        )


def _poisson_likelihood(
    A: Tensor, counts: Tensor, spectra: Tensor, attenuation: Tensor, exact: bool
) -> Quadratic:
    n_materials = len(attenuation)
    pairs = [(k, m) for k in range(n_materials) for m in range(k + 1)] if exact else []
    mean, slope, curvature = _moments(A, spectra, attenuation, pairs)
    n = counts.mT
    ratio = n / mean
    excess = 1 - ratio
    weight = ratio / mean if exact else 1 / mean

    def entry(k: int, m: int) -> Tensor:
        value = weight * slope[k] * slope[m]
        return (value + excess * curvature[k, m] if exact else value).sum(-2)

    return Quadratic(
        # the clamp makes n log(n/ȳ) and its derivative zero for n = 0, also in autograd
        value=(mean - n + n * torch.log(ratio.clamp(min=negligible(A.dtype)))).sum(-2),
        gradient=torch.stack([(excess * s).sum(-2) for s in slope]).movedim(0, -1),
        hessian=_symmetric(n_materials, entry),
        rounding=4 * torch.finfo(n.dtype).eps * n.sum(-2),
    )


def _moments(
    A: Tensor, spectra: Tensor, attenuation: Tensor, pairs: Sequence[tuple[int, int]]
) -> tuple[Tensor, list[Tensor], dict[tuple[int, int], Tensor]]:
    """ȳ, ∂_k ȳ, and ∂_k ∂_m ȳ of the pairs, each (…, bin, ray)."""
    n_bins, n_materials = spectra.shape[-2], len(attenuation)
    # energy is contracted first: one matmul gives the counts and all their derivatives, with
    # rays as the last, contiguous axis, so that the rest is long vector arithmetic
    smallest = negligible(A.dtype)
    # constants are subtracted, so that an energy without photons keeps its derivative exp(−μ·A)
    spectra = spectra - torch.where(spectra > smallest, 0, spectra).detach()
    transmission = (attenuation.mT @ -A.mT).clamp(min=math.log(smallest)).exp_()
    once = [spectra * mu for mu in attenuation]
    twice = [once[k] * attenuation[m] for k, m in pairs]
    moments = torch.cat([spectra, *once, *twice], -2) @ transmission
    mean, *derivatives = moments.split(n_bins, -2)
    slope = [-d for d in derivatives[:n_materials]]
    return mean, slope, dict(zip(pairs, derivatives[n_materials:], strict=True))


def _symmetric(n: int, entry: Callable[[int, int], Tensor]) -> Tensor:
    """The matrices (…, ray, n, n) with these entries (…, ray) for m ≤ k."""
    entries = {(k, m): entry(k, m) for k in range(n) for m in range(k + 1)}
    rows = [torch.stack([entries[max(k, m), min(k, m)] for m in range(n)]) for k in range(n)]
    return torch.stack(rows).movedim((0, 1), (-2, -1))
