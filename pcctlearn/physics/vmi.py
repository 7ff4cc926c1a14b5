"""Virtual monoenergetic images."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pcctlearn.physics.attenuation import Material, attenuation_table, mass_attenuation
from pcctlearn.shapes import Maps, Vmi
from pcctlearn.units import hounsfield


class MonoenergeticImages(nn.Module):
    """μ(E) = Σ_m μ_m(E) ρ_m in 1/cm, at each of ``energies_keV``, from density maps in g/cm³."""

    attenuation: Tensor
    water: Tensor

    def __init__(self, materials: Sequence[Material], energies_keV: Sequence[float]) -> None:
        super().__init__()
        self.energies_keV = list(energies_keV)
        self.register_buffer("attenuation", attenuation_table(materials, energies_keV))
        self.register_buffer("water", mass_attenuation("water", energies_keV))

    def forward(self, maps: Maps) -> Vmi:
        """Density maps to attenuation, one channel per energy."""
        n_materials = len(self.attenuation)
        if maps.shape[1] != n_materials:
            raise ValueError(
                f"maps must have one channel for each of {n_materials} materials on axis 1, got "
                f"shape {tuple(maps.shape)}"
            )
        return torch.einsum("mk,bm...->bk...", self.attenuation.to(maps), maps)

    def sd_hounsfield(
        self, covariance: Float[Tensor, "material material *voxel"]
    ) -> Float[Tensor, "keV *voxel"]:
        """Standard deviation in HU, 1000 √(Σ_kl μ_k μ_l C_kl)/μ_water, for that of the maps C."""
        mu = self.attenuation.to(covariance)
        variance = torch.einsum("ke,le,kl...->e...", mu, mu, covariance)
        water = self.water.to(covariance).view(-1, *[1] * (variance.ndim - 1))
        return 1000 * variance.clamp(min=0).sqrt() / water

    def hounsfield(self, maps: Maps) -> Vmi:
        """Density maps to HU, 1000 (μ − μ_water)/μ_water at each energy."""
        water = self.water.to(maps).view(-1, *[1] * (maps.ndim - 2))
        return hounsfield(self(maps), water)
