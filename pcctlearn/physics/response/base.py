"""What every response answers, and the closed forms that the analytic ones are made of."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pcctlearn.shapes import Edges, Energies

Above = Float[Tensor, "*pixel edge energy"]


class Response(nn.Module):
    """Registered events above an energy, per photon that arrives: ∫_D^∞ h(E; E') dE.

    It is a smooth (C¹) function of the edge D: a threshold learned through a staircase stalls.
    Charge sharing may register a photon twice, so the answer may exceed one.
    """

    def above(self, edges_keV: Edges, energies_keV: Energies) -> Above:
        """Events registered above each edge per photon of each energy."""
        raise NotImplementedError(f"{type(self).__name__} must say what it registers above an edge")


def peak_above(edge_keV: Tensor, centre_keV: Tensor, sigma_keV: Tensor) -> Tensor:
    """Share of a Gaussian peak above an edge: Q((D − c)/σ)."""
    return _upper_tail((edge_keV - centre_keV) / sigma_keV)


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
