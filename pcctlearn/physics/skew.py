"""Skew of a detector pixel: the filter that turns the nominal spectrum into the one it receives."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.shapes import Energies

Gain = Float[Tensor, "*pixel"]
Thickness = Float[Tensor, "*pixel material"]


def skew_filter(
    gain: Gain, thickness_cm: Thickness, attenuation_per_cm: Float[Tensor, "material energy"]
) -> Float[Tensor, "*pixel energy"]:
    """F_i(E) = k_i exp(−Σ_n μ_n(E) x_in) [2, eq. 4].

    The gain k is about one; thicknesses x have either sign. The filter is the same for all
    thresholds of a pixel.
    """
    return gain[..., None] * torch.exp(-thickness_cm @ attenuation_per_cm)


class Skew(nn.Module):
    """The skew of every pixel, with learnable gain and thicknesses.

    Args:
        gain: k of each pixel, about 1.
        thickness_cm: x of each pixel and material.
        materials: of known density, such as CdTe and aluminium.
        energies_keV: of the spectrum.
    """

    attenuation_per_cm: Tensor

    def __init__(
        self, gain: Gain, thickness_cm: Thickness, materials: Sequence[str], energies_keV: Energies
    ) -> None:
        super().__init__()
        if thickness_cm.shape != (*gain.shape, len(materials)):
            raise ValueError(
                f"thickness_cm must be (*pixel, material) = {(*gain.shape, len(materials))}, got "
                f"{tuple(thickness_cm.shape)}"
            )
        self.materials = tuple(materials)
        self.gain = nn.Parameter(gain.clone())
        self.thickness_cm = nn.Parameter(thickness_cm.clone())
        attenuation = linear_attenuation(materials, energies_keV).to(thickness_cm)
        self.register_buffer("attenuation_per_cm", attenuation)

    def forward(self) -> Float[Tensor, "*pixel energy"]:
        """F_i(E)."""
        return skew_filter(self.gain, self.thickness_cm, self.attenuation_per_cm)
