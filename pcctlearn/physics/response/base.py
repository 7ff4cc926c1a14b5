"""Protocol of a detector response, and closed forms shared by the analytic responses."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pcctlearn.physics.constants import K_EDGES_keV
from pcctlearn.shapes import Edges, Energies

SAME_keV = 1e-3  # photon energies closer than this are equal
Above = Float[Tensor, "*pixel edge energy"]


class Response(nn.Module):
    """Events registered above an edge D per incident photon: ∫_D^∞ h(E; E') dE.

    It must be a C¹ function of the edge, because gradients with respect to thresholds vanish on a
    staircase. Charge sharing may register a photon twice, so the value may exceed 1.
    """

    def above(self, edges_keV: Edges, energies_keV: Energies) -> Above:
        """Events registered above each edge per photon of each energy."""
        raise NotImplementedError(
            f"{type(self).__name__} must define above(edges_keV, energies_keV)"
        )


class Columns(NamedTuple):
    """Columns l and r of a response around each photon energy, and the weight w of column r."""

    left: Int[Tensor, "energy"]
    right: Int[Tensor, "energy"]
    share: Float[Tensor, "energy"]
    shift_keV: Float[Tensor, "energy"]


def columns_around(
    columns_keV: Float[Tensor, "column"],
    energies_keV: Energies,
    widest_gap_keV: float = math.inf,
) -> Columns:
    """h(E) ≈ (1 − w) h(E_l) + w h(E_r) of a response given at E_l ≤ E ≤ E_r, linear in E.

    The response is discontinuous at a K-edge of the sensor. If one of ``K_EDGES_keV`` lies between
    two columns, only the column on the same side of the edge is used (w is 0 or 1), and its peaks
    must be moved by ``shift_keV``, the distance from that column; elsewhere ``shift_keV`` is 0.

    Raises:
        ValueError: energies outside the columns, or between columns more than ``widest_gap_keV``
        apart.
    """
    columns, order = columns_keV.to(energies_keV).sort()
    first, last = columns[0].item(), columns[-1].item()
    different = "response and spectrum are on different grids: the response has no column for"
    outside = (energies_keV < first - SAME_keV) | (energies_keV > last + SAME_keV)
    if outside.any():
        raise ValueError(
            f"{different} {energies_keV[outside][0].item():g} keV (it runs from {first:g} to "
            f"{last:g} keV): drop lower energies with lowest_keV={first:g}, and use a tube "
            f"voltage of at most {last:g} kV"
        )
    right = torch.searchsorted(columns, energies_keV).clamp(max=len(columns) - 1)
    left = (right - 1).clamp(min=0)
    above, gap = energies_keV - columns[left], columns[right] - columns[left]
    share = torch.where(gap > 0, above / gap, 1.0).clamp(max=1)
    share = torch.where(above.abs() < SAME_keV, 0.0, share)
    share = torch.where((gap - above).abs() < SAME_keV, 1.0, share)
    far = (share > 0) & (share < 1) & (gap > widest_gap_keV)
    if far.any():
        gap_keV = math.ceil(100 * gap[far].max().item()) / 100
        raise ValueError(
            f"{different} {energies_keV[far][0].item():g} keV (columns {gap_keV:g} keV apart are "
            "around it, and interpolation would blur the photopeak): resample it in steps of "
            f"{widest_gap_keV:g} keV, or accept the blur with widest_gap_keV={gap_keV:g}"
        )
    jumps = torch.zeros_like(right, dtype=torch.bool)
    for edge_keV in K_EDGES_keV:
        spans = (columns[left] < edge_keV) & (edge_keV < columns[right])
        share = torch.where(spans, (energies_keV > edge_keV).to(share), share)
        jumps |= spans
    nearest = torch.where(share > 0, columns[right], columns[left])
    shift_keV = torch.where(jumps, energies_keV - nearest, 0.0)
    return Columns(order[left], order[right], share, shift_keV)


def peak_above(edge_keV: Tensor, center_keV: Tensor, sigma_keV: Tensor) -> Tensor:
    """Share of a Gaussian peak above an edge: Q((D − c)/σ)."""
    return _upper_tail((edge_keV - center_keV) / sigma_keV)


def plateau_above(edge_keV: Tensor, end_keV: Tensor, sigma_keV: Tensor) -> Tensor:
    """Share above an edge of a plateau from 0 to c, blurred by σ.

    With K(z) = ∫_z^∞ Q = φ(z) − z Q(z): (σ/c) [K((D − c)/σ) − K(D/σ)].
    """
    near, far = edge_keV / sigma_keV, (edge_keV - end_keV) / sigma_keV
    return sigma_keV / end_keV * (_integrated_tail(far) - _integrated_tail(near))


def _upper_tail(z: Tensor) -> Tensor:
    return 0.5 * torch.erfc(z / math.sqrt(2))


def _integrated_tail(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) - z * _upper_tail(z)
