"""What counts, and what decomposed line integrals, can tell of the thresholds."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.decomposition.sensitivity import fisher_information, spectra_tangent
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.shapes import RayCounts, RayLineIntegrals

Information = Float[Tensor, "pixel edge edge"]


def count_information(model: SpectralModel, line_integrals: RayLineIntegrals) -> Information:
    """I_jl = Σ_rays Σ_b ∂ȳ_b/∂D_j ∂ȳ_b/∂D_l / ȳ_b, in 1/keV², for known line integrals.

    Its inverse is the Cramér–Rao bound of thresholds measured behind known materials.
    """
    transmission = torch.exp(-line_integrals @ model.attenuation)
    mean = torch.einsum("vpe,pbe->vpb", transmission, model.spectra().detach())
    slopes = [
        torch.einsum("vpe,pbe->vpb", transmission, direction)
        for direction in edge_directions(model)
    ]
    slope = torch.stack(slopes, -1)
    return torch.einsum("vpbj,vpbl,vpb->pjl", slope, slope, 1 / mean)


def threshold_jacobian(
    model: SpectralModel, line_integrals: RayLineIntegrals, counts: RayCounts
) -> Float[Tensor, "view pixel material edge"]:
    """dA/dD in g/cm² per keV: what the decomposed ray makes of a shift of each edge."""
    spectra = model.spectra().detach()
    columns = [
        spectra_tangent(line_integrals, counts, spectra, model.attenuation, direction)
        for direction in edge_directions(model)
    ]
    return torch.stack(columns, -1)


def decomposed_information(
    model: SpectralModel,
    line_integrals: RayLineIntegrals,
    jacobian: Float[Tensor, "view pixel material edge"],
) -> Information:
    """I = Σ_rays (dA/dD)ᵀ C⁻¹ (dA/dD), with C the Cramér–Rao bound of the ray's line integrals."""
    precision = fisher_information(line_integrals, model.spectra().detach(), model.attenuation)
    return torch.einsum("vpkj,vpkm,vpml->pjl", jacobian, precision, jacobian)


def observable(
    information: Information, learn: Bool[Tensor, "edge"], within_keV: float
) -> Bool[Tensor, "pixel"]:
    """Pixels of which every combination of learned edges is known to ``within_keV``.

    The standard deviation along the worst one is 1/√(least eigenvalue). A pixel that sees only
    air gives two line integrals for all its edges: its matrix is singular, however many photons.
    """
    least = torch.linalg.eigvalsh(information[:, learn][:, :, learn])[:, 0]
    return least > within_keV**-2


def edge_directions(model: SpectralModel) -> list[Float[Tensor, "pixel bin energy"]]:
    """∂S/∂D_j for each edge j: bin j−1 gains what bin j loses, h(D_j; E') S(E')."""
    edges = model.thresholds.edges_keV.detach()
    one = torch.eye(edges.shape[-1], dtype=edges.dtype, device=edges.device)
    return [torch.func.jvp(model.spectra, (edges,), (e.expand_as(edges),))[1] for e in one]
