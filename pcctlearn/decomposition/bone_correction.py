"""Beam hardening of bone: a polynomial of the projections of bone, added to those of water."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.decomposition.beam_hardening import BeamHardening
from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.shapes import Energies, Projections
from pcctlearn.tomography.linear_operator import LinearOperator

# what bone adds to water, in g/cm³: cortical bone in the place of water, or calcium with the
# water that accompanies it in the phantoms of this package (``phantoms.voxels``)
BONE_G_CM3 = {
    "cortical_bone": {"cortical_bone": 1.85, "water": -1.0},
    "calcium": {"calcium": 1.0, "water": 0.62},
}
LEAST_OVER_WATER = 1.3
_WATER_CM, _BONE = 24.0, 4.0  # of the slabs; the second in units of ``bone_g_cm3`` · cm
_N_WATER, _N_BONE = 25, 17


@dataclass(frozen=True)
class BoneCorrection:
    """p_free = p + Σ_{q≥1, r≥0} d_qr p_bone^q p^r, for each pixel and threshold [2, eqs 23, 24].

    Args:
        coefficients: d, with q = 1 … and r = 0 ….
        water_per_cm: attenuation of water at the effective energies.
    """

    coefficients: Float[Tensor, "*pixel threshold bone total"]
    water_per_cm: Float[Tensor, "threshold"]

    def __call__(self, projections: Projections, of_bone: Projections) -> Projections:
        """Projections free of the hardening of bone.

        Args:
            projections: corrected for water.
            of_bone: monochromatic projections of what bone adds to water.
        """
        d, total = self.coefficients.to(projections), torch.zeros_like(projections)
        for of_power in reversed(d.unbind(-2)):  # Horner's scheme in both variables
            inner = torch.zeros_like(projections)
            for coefficient in reversed(of_power.unbind(-1)):
                inner = inner * projections + coefficient
            total = (total + inner) * of_bone
        return projections + total

    def of_images(
        self,
        projections: Projections,
        reconstruct: Callable[[Tensor], Tensor],
        project: LinearOperator,
        least_over_water: float = LEAST_OVER_WATER,
        n_passes: int = 2,
    ) -> Projections:
        """Reconstruct, segment bone, project it, and correct the projections.

        Args:
            projections: (*batch, view, *pixel, threshold), corrected for water.
            reconstruct: sinograms to images; its water has a density of one.
            project: images to sinograms.
            least_over_water: attenuation of bone over that of water.
            n_passes: how often; further ones segment the images of the one before.

        Raises:
            ValueError: no voxel is bone.
        """
        water, threshold = self.water_per_cm.to(projections), -1 - len(project.out_shape)
        corrected = projections
        for _ in range(n_passes):
            over_water = reconstruct((corrected / water).movedim(-1, threshold).contiguous())
            of_bone = (project @ bone(over_water, least_over_water)).movedim(threshold, -1)
            corrected = self(projections, of_bone * water)
        return corrected


def bone(
    over_water: Float[Tensor, "*image"], least_over_water: float = LEAST_OVER_WATER
) -> Float[Tensor, "*image"]:
    """What bone adds to water, weighted by density: μ/μ_w − 1 above the threshold, zero elsewhere.

    Args:
        over_water: images of μ/μ_w.
        least_over_water: of bone.

    Raises:
        ValueError: no voxel is bone.
    """
    mask = over_water > least_over_water
    if not mask.any():
        raise ValueError(
            f"no voxel attenuates more than {least_over_water:g} times as much as water (the "
            f"largest {over_water.max().item():.3g} times), so that there is no bone to correct "
            "for: use decomposition.correct_bone=false"
        )
    return torch.where(mask, over_water - 1, 0.0)


def bone_correction(
    spectra: Float[Tensor, "*pixel threshold energy"],
    nominal: SpectralModel,
    hardening: BeamHardening,
    bone_g_cm3: Mapping[str, float] = BONE_G_CM3["cortical_bone"],
    order: int = 4,
) -> BoneCorrection:
    """Fit the polynomials of all pixels to slabs of 0 to 24 cm of water with bone.

    Args:
        spectra: of the photons counted above each threshold (``spectra_above``).
        nominal: the scanner.
        hardening: correction for water of the same pixels.
        bone_g_cm3: {material: what bone adds to water}.
        order: highest power of p_bone, and one more than that of p.
    """
    energies = nominal.energies_keV.double()
    spectra = spectra.detach().double()
    keV = hardening.effective_keV
    water, water_keV = (mass_attenuation("water", at) for at in (energies, keV))
    added, added_keV = (_attenuation(bone_g_cm3, at) for at in (energies, keV))
    lengths = torch.cartesian_prod(
        torch.linspace(0, _WATER_CM, _N_WATER, dtype=torch.float64),
        torch.linspace(0, _BONE, _N_BONE, dtype=torch.float64),
    )
    transmission = torch.exp(-lengths @ torch.stack([water, added]))
    behind = torch.einsum("...te,le->l...t", spectra, transmission)
    p = hardening(-(behind / spectra.sum(-1)).log())
    wanted = lengths @ torch.stack([water_keV, added_keV])  # (slab, threshold)
    p = p.movedim(0, -1)  # (*pixel, threshold, slab)
    of_bone = lengths[:, 1] * added_keV[:, None]
    rows = torch.stack([of_bone**q * p**r for q in range(1, order + 1) for r in range(order)], -1)
    missing = wanted.T - p
    solved = torch.linalg.lstsq(rows, missing[..., None]).solution[..., 0]
    coefficients = solved.reshape(*solved.shape[:-1], order, order)
    return BoneCorrection(coefficients, hardening.water_per_cm)


def _attenuation(g_cm3: Mapping[str, float], energies_keV: Energies) -> Energies:
    parts = [density * mass_attenuation(name, energies_keV) for name, density in g_cm3.items()]
    return torch.stack(parts).sum(0)
