"""Sensitivities of the decomposition, Fisher information and Cramér–Rao bound."""

from collections.abc import Sequence
from typing import NamedTuple

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


def covariance_of_counts(
    line_integrals: RayLineIntegrals,
    spectra: Spectra,
    attenuation: Attenuation,
    covariance: Float[Tensor, "*ray bin bin"],
) -> Float[Tensor, "*ray material material"]:
    """Covariance of the Poisson maximum-likelihood estimate from counts of any covariance C.

    M C Mᵀ with M = I⁻¹ (∂ȳ/∂A)ᵀ diag(1/ȳ) at expected counts, in (g/cm²)²; it is the inverse Fisher
    matrix I⁻¹ for independent Poisson counts, C = diag(ȳ).
    """
    slope, relative = _slopes(line_integrals, spectra, attenuation)
    information = torch.einsum("...bk,...bm->...km", slope, relative)
    linear = torch.linalg.solve(information, relative.mT)
    return linear @ covariance @ linear.mT


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


class MinimumTangents(NamedTuple):
    """How a decomposition and its expected counts follow changes of spectra and counts.

    ``area`` is dA of each change, ``counts`` the change of ȳ(A), that of A included.
    """

    area: Float[Tensor, "*ray change material"]
    counts: Float[Tensor, "*ray change bin"]


def minimum_tangents(
    line_integrals: Float[Tensor, "exposure pixel material"],
    counts: Float[Tensor, "exposure pixel bin"],
    spectra: Float[Tensor, "pixel bin energy"],
    attenuation: Attenuation,
    directions: Float[Tensor, "pixel direction bin energy"],
    changes: Sequence[Float[Tensor, "exposure pixel bin"]] = (),
) -> MinimumTangents:
    """dA = −(∂²L/∂A²)⁻¹ d(∂L/∂A) at the free minimum A, for many changes at once.

    d(∂_k L) = Σ_b [(n_b/ȳ_b²) ∂_k ȳ_b dȳ_b + (1 − n_b/ȳ_b) d∂_k ȳ_b − ∂_k ȳ_b dn_b/ȳ_b].

    Args:
        line_integrals: A.
        counts: n.
        spectra: of every pixel, with their changes ``directions``.
        changes: of the counts; they follow the directions in the result.
    """
    transmission = torch.exp(-line_integrals @ attenuation)
    n_materials, n_directions = len(attenuation), directions.shape[1]

    def behind(weights: Float[Tensor, "pixel *any energy"]) -> Tensor:
        """Σ_E of each weight times the transmission: (exposure, pixel, *any)."""
        flat = weights.flatten(1, -2)
        behind = torch.bmm(transmission.movedim(1, 0), flat.mT).movedim(0, 1)
        return behind.reshape(*behind.shape[:2], *weights.shape[1:-1])

    pairs = [(k, m) for k in range(n_materials) for m in range(k + 1)]
    twice = torch.stack([attenuation[k] * attenuation[m] for k, m in pairs])
    mean = behind(spectra)
    slope = -behind(spectra[:, None] * attenuation[:, None])  # material bin
    curved = behind(spectra[:, None] * twice[:, None])
    ratio = (counts / mean)[..., None, :]
    hessian = torch.empty(*mean.shape[:2], n_materials, n_materials, dtype=mean.dtype)
    for index, (k, m) in enumerate(pairs):
        entry = ratio[..., 0, :] / mean * slope[..., k, :] * slope[..., m, :]
        entry = entry + (1 - ratio[..., 0, :]) * curved[..., index, :]
        hessian[..., k, m] = hessian[..., m, k] = entry.sum(-1)
    moved = behind(directions)  # direction bin
    moved_slope = -behind(directions[:, :, None] * attenuation[:, None])  # direction material bin
    weight = (ratio / mean[..., None, :] * slope)[..., None, :, :]
    right = (weight * moved[..., None, :] + (1 - ratio)[..., None, :] * moved_slope).sum(-1)
    of_counts = [-(slope / mean[..., None, :] * dn[..., None, :]).sum(-1) for dn in changes]
    if of_counts:
        right = torch.cat([right, torch.stack(of_counts, -2)], -2)
    solved, _ = solve_positive_definite(
        hessian[..., None, :, :].expand(*right.shape, n_materials), right
    )
    of_area = -solved @ slope
    moved = torch.nn.functional.pad(moved, (0, 0, 0, right.shape[-2] - n_directions))
    return MinimumTangents(-solved, moved + of_area)


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
