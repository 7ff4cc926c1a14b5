"""Convert HU to densities of water and calcium."""

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.units import AIR_HU


def water_and_calcium(
    hounsfield: Float[Tensor, "*voxel"], threshold_HU: float = 200.0, effective_keV: float = 70.0
) -> Float[Tensor, "material *voxel"]:
    """Densities (w, c) in g/cm³ of water and calcium, with h = HU/1000 and r = μ_c/μ_w per gram.

    HU ≤ threshold: c = 0, w = 1 + h.   HU > threshold: c = (h − 0.024) / (r + 0.62),
    w = 1.024 + 0.62 c. Both give HU = 1000 (w + r c − 1) at effective_keV, the effective energy of
    a clinical 120 kVp scan; a threshold of 24 makes the maps continuous.
    """
    if threshold_HU < 24:
        raise ValueError(
            f"threshold_HU must be 24 or more for calcium not to be negative, got {threshold_HU:g}"
        )
    water, calcium = (mass_attenuation(m, [effective_keV]).item() for m in ("water", "calcium"))
    r = calcium / water
    h = hounsfield.clamp(min=AIR_HU) / 1000
    c = torch.where(hounsfield > threshold_HU, (h - 0.024) / (r + 0.62), 0.0)
    w = torch.where(hounsfield > threshold_HU, 1.024 + 0.62 * c, 1 + h)
    return torch.stack([w, c])
