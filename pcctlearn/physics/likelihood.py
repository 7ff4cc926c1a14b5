"""Poisson likelihood of photon counts given line integrals."""

import math

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


def _poisson_likelihood(
    A: Tensor, counts: Tensor, spectra: Tensor, attenuation: Tensor, exact: bool
) -> Quadratic:
    n_bins, n_materials = counts.shape[-1], len(attenuation)
    pairs = [(k, m) for k in range(n_materials) for m in range(k + 1)] if exact else []
    # energy is contracted first: one matmul gives the counts and all their derivatives, with
    # rays as the last, contiguous axis, so that the rest is long vector arithmetic
    smallest = negligible(A.dtype)
    spectra = torch.where(spectra > smallest, spectra, 0)
    transmission = (attenuation.mT @ -A.mT).clamp(min=math.log(smallest)).exp_()
    once = [spectra * mu for mu in attenuation]
    twice = [once[k] * attenuation[m] for k, m in pairs]
    moments = torch.cat([spectra, *once, *twice], -2) @ transmission
    mean, *derivatives = moments.split(n_bins, -2)
    slope = [-d for d in derivatives[:n_materials]]
    curvature = dict(zip(pairs, derivatives[n_materials:], strict=True))

    n = counts.mT
    ratio = n / mean
    excess = 1 - ratio
    weight = ratio / mean if exact else 1 / mean
    gradient = [(excess * s).sum(-2) for s in slope]
    hessian = [[mean.new_empty(0)] * n_materials for _ in range(n_materials)]
    for k in range(n_materials):
        for m in range(k + 1):
            entry = weight * slope[k] * slope[m]
            if exact:
                entry = entry + excess * curvature[k, m]
            hessian[k][m] = hessian[m][k] = entry.sum(-2)
    return Quadratic(
        # the clamp makes n log(n/ȳ) and its derivative zero for n = 0, also in autograd
        value=(mean - n + n * torch.log(ratio.clamp(min=smallest))).sum(-2),
        gradient=torch.stack(gradient).movedim(0, -1),
        hessian=torch.stack([torch.stack(row) for row in hessian]).movedim((0, 1), (-2, -1)),
        rounding=4 * torch.finfo(n.dtype).eps * n.sum(-2),
    )
