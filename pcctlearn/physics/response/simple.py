"""Ideal detectors, and detectors whose only imperfection is a finite energy resolution."""

import torch
from torch import nn

from pcctlearn.physics.response.base import Above, Response, peak_above
from pcctlearn.shapes import Edges, Energies


class Ideal(Response):
    """Every photon registered once, at its own energy: h = δ(E − E').

    The fluence is interpolated linearly, so each sample is a triangle that extends one step on
    either side. Events above an edge are then piecewise quadratic, and exact for this fluence.
    """

    def above(self, edges_keV: Edges, energies_keV: Energies) -> Above:
        """Area of each sample's triangle above each edge."""
        step = energies_keV.diff()[0]
        z = ((energies_keV - edges_keV[..., None]) / step).clamp(-1, 1)
        return torch.where(z < 0, 0.5 * (1 + z) ** 2, 1 - 0.5 * (1 - z) ** 2)


class Gaussian(Response):
    """Every photon registered once, Gaussian resolution: h = N(E; E', σ), σ² = σ₀² + (rE')²."""

    def __init__(
        self, noise_keV: float = 1.6, relative_resolution: float = 0.0, learn: bool = False
    ) -> None:
        super().__init__()
        if noise_keV <= 0 or relative_resolution < 0:
            raise ValueError(
                "noise_keV must be positive and relative_resolution not negative, got "
                f"{noise_keV:g} and {relative_resolution:g}"
            )
        self.noise_keV = nn.Parameter(torch.tensor(noise_keV, dtype=torch.float64), learn)
        self.relative_resolution = nn.Parameter(
            torch.tensor(relative_resolution, dtype=torch.float64), learn
        )

    def above(self, edges_keV: Edges, energies_keV: Energies) -> Above:
        """Q((D − E')/σ(E'))."""
        spread = (self.relative_resolution * energies_keV) ** 2
        sigma = torch.sqrt(self.noise_keV**2 + spread).to(energies_keV)
        return peak_above(edges_keV[..., None], energies_keV, sigma)
