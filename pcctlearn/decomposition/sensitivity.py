"""How a decomposition answers to its inputs, and how well it can be known at all."""

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.shapes import Attenuation, RayCounts, RayLineIntegrals, Spectra
from pcctlearn.solvers.small_systems import solve_positive_definite


def fisher_information(
    line_integrals: RayLineIntegrals, spectra: Spectra, attenuation: Attenuation
) -> Float[Tensor, "*ray material material"]:
    """I_kl(A) = Σ_b ∂_k ȳ_b ∂_l ȳ_b / ȳ_b."""
    transmission = torch.exp(-line_integrals @ attenuation)
    mean = torch.einsum("...e,...be->...b", transmission, spectra)
    slope = torch.einsum("...e,...be,me->...bm", transmission, spectra, attenuation)
    return torch.einsum("...bk,...bm,...b->...km", slope, slope, 1 / mean)


def cramer_rao_bound(
    line_integrals: RayLineIntegrals, spectra: Spectra, attenuation: Attenuation
) -> Float[Tensor, "*ray material material"]:
    """Least covariance of any unbiased estimate of A, the inverse Fisher matrix, in (g/cm²)²."""
    return torch.linalg.inv(fisher_information(line_integrals, spectra, attenuation))


def count_jacobian(
    line_integrals: RayLineIntegrals,
    counts: RayCounts,
    spectra: Spectra,
    attenuation: Attenuation,
) -> Float[Tensor, "*ray material bin"]:
    """dA_k/dn_b = Σ_l (∂²L/∂A²)⁻¹_kl ∂_l ȳ_b / ȳ_b at the free minimum A."""
    hessian = poisson_likelihood(line_integrals, counts, spectra, attenuation).hessian
    transmission = torch.exp(-line_integrals @ attenuation)
    mean = torch.einsum("...e,...be->...b", transmission, spectra)
    slope = -torch.einsum("...e,...be,me->...bm", transmission, spectra, attenuation)
    columns = [
        solve_positive_definite(hessian, slope[..., b, :] / mean[..., b, None])[0]
        for b in range(counts.shape[-1])
    ]
    return torch.stack(columns, -1)
