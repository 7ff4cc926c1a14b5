"""Sensitivities of the decomposition, Fisher information and Cramér–Rao bound."""

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.decomposition.pieces import RayLayout, flat
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.shapes import Attenuation, RayCounts, RayLineIntegrals, Spectra
from pcctlearn.solvers.implicit import implicit_tangent
from pcctlearn.solvers.quadratic import Solution
from pcctlearn.solvers.small_systems import solve_positive_definite


def fisher_information(
    line_integrals: RayLineIntegrals, spectra: Spectra, attenuation: Attenuation
) -> Float[Tensor, "*ray material material"]:
    """I_kl(A) = Σ_b ∂_k ȳ_b ∂_l ȳ_b / ȳ_b; bins that expect no photons do not contribute."""
    slope, relative = _slopes(line_integrals, spectra, attenuation)
    return torch.einsum("...bk,...bm->...km", slope, relative)


def count_jacobian(
    line_integrals: RayLineIntegrals,
    counts: RayCounts,
    spectra: Float[Tensor, "bin energy"],
    attenuation: Attenuation,
) -> Float[Tensor, "*ray material bin"]:
    """∂A/∂n_b = (∂²L/∂A²)⁻¹ ∂_A ȳ_b / ȳ_b at the free minimum A, in g/cm² per photon.

    It is the derivative of ``decompose`` in the counts, with the exact Hessian, for all materials
    and bins at once.
    """
    _, relative = _slopes(line_integrals, spectra, attenuation)
    hessian = poisson_likelihood(line_integrals, counts, spectra, attenuation).hessian
    columns = [solve_positive_definite(hessian, -one)[0] for one in relative.unbind(-2)]
    return torch.stack(columns, -1)


def _slopes(
    line_integrals: RayLineIntegrals, spectra: Spectra, attenuation: Attenuation
) -> tuple[Float[Tensor, "*ray bin material"], Float[Tensor, "*ray bin material"]]:
    """−∂_k ȳ_b, and −∂_k ȳ_b / ȳ_b, which is zero for bins that expect no photons."""
    transmission = torch.exp(-line_integrals @ attenuation)
    mean = torch.einsum("...e,...be->...b", transmission, spectra)
    slope = torch.einsum("...e,...be,me->...bm", transmission, spectra, attenuation)
    return slope, torch.where(mean[..., None] > 0, slope / mean[..., None], 0)


def cramer_rao_bound(
    line_integrals: RayLineIntegrals, spectra: Spectra, attenuation: Attenuation
) -> Float[Tensor, "*ray material material"]:
    """Least covariance of an unbiased estimate of A, the inverse Fisher matrix, in (g/cm²)².

    It is infinite where the Fisher matrix is singular, because too few bins have photons.
    """
    information = fisher_information(line_integrals, spectra, attenuation)
    _, definite = solve_positive_definite(information, torch.zeros_like(information[..., 0]))
    inverse, failed = torch.linalg.inv_ex(information)
    return torch.where((definite & (failed == 0))[..., None, None], inverse, torch.inf)


def spectra_tangent(
    line_integrals: RayLineIntegrals,
    counts: RayCounts,
    spectra: Spectra,
    attenuation: Attenuation,
    direction: Spectra,
) -> RayLineIntegrals:
    """dA for a change dS of the spectra: −(∂²L/∂A²)⁻¹ (∂²L/∂S∂A) dS at the free minimum A.

    ``direction`` has the shape of ``spectra``, whose pixels broadcast as in ``decompose``.
    """
    layout = RayLayout(counts.shape[:-1], spectra.shape[:-2])
    rays = layout.ordered(counts, spectra, line_integrals)
    along = layout.ordered(counts, direction)
    tangents = []
    for piece, tangent in zip(rays.pieces(), along.pieces(), strict=True):
        assert piece.start is not None
        theta = piece.counts, piece.spectra, attenuation
        change = torch.zeros_like(piece.counts), tangent.spectra, torch.zeros_like(attenuation)
        dx = implicit_tangent(poisson_likelihood, piece.start, theta, change)
        tangents.append(Solution(dx, torch.ones_like(dx[..., 0], dtype=torch.bool)))
    return layout.restored(flat(tangents)).x


def count_information(
    model: SpectralModel, line_integrals: RayLineIntegrals
) -> Float[Tensor, "pixel edge edge"]:
    """I_jl = Σ_rays Σ_b ∂ȳ_b/∂D_j ∂ȳ_b/∂D_l / ȳ_b in 1/keV², for known line integrals.

    Its inverse is the Cramér–Rao bound of thresholds estimated from counts behind known materials.
    Rays are (view, pixel).
    """
    transmission = torch.exp(-line_integrals @ model.attenuation)
    mean = torch.einsum("vpe,pbe->vpb", transmission, model.spectra().detach())
    slopes = [
        torch.einsum("vpe,pbe->vpb", transmission, direction) for direction in _edge_tangents(model)
    ]
    slope = torch.stack(slopes, -1)
    return torch.einsum("vpbj,vpbl,vpb->pjl", slope, slope, 1 / mean)


def threshold_jacobian(
    model: SpectralModel, line_integrals: RayLineIntegrals, counts: RayCounts
) -> Float[Tensor, "view pixel material edge"]:
    """dA/dD in g/cm² per keV: change of the decomposed line integrals with each edge."""
    spectra = model.spectra().detach()
    columns = [
        spectra_tangent(line_integrals, counts, spectra, model.attenuation, direction)
        for direction in _edge_tangents(model)
    ]
    return torch.stack(columns, -1)


def _edge_tangents(model: SpectralModel) -> list[Float[Tensor, "pixel bin energy"]]:
    """∂S/∂D_j for each edge j: bin j−1 gains what bin j loses, h(D_j; E') S(E')."""
    edges = model.thresholds.edges_keV.detach()
    one = torch.eye(edges.shape[-1], dtype=edges.dtype, device=edges.device)
    return [torch.func.jvp(model.spectra, (edges,), (e.expand_as(edges),))[1] for e in one]
