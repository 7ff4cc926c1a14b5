"""Mass attenuation of elements, compounds, mixtures and the basis materials, in cm²/g."""

import difflib
from collections.abc import Mapping, Sequence

import torch
import xraylib
from torch import Tensor

from pcctlearn.shapes import Attenuation, Energies

# name in this project: formula or NIST compound of xraylib, and density in g/cm³, which converts
# between thickness and area density (elements of xraylib, compounds of NIST)
_MATERIALS = {
    "water": ("H2O", 1.0),
    "air": ("Air, Dry (near sea level)", 1.205e-3),
    "aluminium": ("Al", 2.699),
    "calcium": ("Ca", 1.55),
    "iodine": ("I", 4.93),
    "gadolinium": ("Gd", 7.90),
    "gold": ("Au", 19.32),
    "tin": ("Sn", 7.31),
    "copper": ("Cu", 8.96),
    "silicon": ("Si", 2.33),
    "CdTe": ("CdTe", 5.85),
    "PMMA": ("C5H8O2", 1.19),
    "soft_tissue": ("Tissue, Soft (ICRU four-component)", 1.0),
    "adipose": ("Adipose Tissue (ICRP)", 0.92),
    "cortical_bone": ("Bone, Cortical (ICRP)", 1.85),
}
NAMED_MATERIALS = {name: compound for name, (compound, _) in _MATERIALS.items()}
DENSITY_G_CM3 = {name: density for name, (_, density) in _MATERIALS.items()}

Material = str | Mapping[str, float]


def mass_attenuation(material: Material, energies_keV: Energies | Sequence[float]) -> Energies:
    """μ/ρ(E) = Σ_i w_i (μ/ρ)_i(E) in cm²/g, coherent scattering included, as float64.

    ``material`` is a name of ``NAMED_MATERIALS``, a chemical formula, a NIST compound name, or a
    mixture ``{material: mass fraction}`` whose fractions are normalised to one.
    Source: xraylib's cross sections (T. Schoonjans et al., Spectrochim. Acta B 66 (2011) 776).
    """
    if isinstance(material, Mapping):
        total = sum(material.values())
        if not material or min(material.values()) < 0 or total <= 0:
            raise ValueError(f"mass fractions must be positive, got {dict(material)}")
        parts = [w / total * mass_attenuation(m, energies_keV) for m, w in material.items()]
        return torch.stack(parts).sum(0)
    energies = torch.as_tensor(energies_keV, dtype=torch.float64)
    if not energies.isfinite().all():  # xraylib would return NaN
        raise ValueError(f"energies_keV must be finite, got {energies.tolist()}")
    compound = NAMED_MATERIALS.get(material, material)
    try:
        values = [xraylib.CS_Total_CP(compound, energy) for energy in energies.tolist()]
    except ValueError as error:
        raise ValueError(_explain(material, energies, str(error))) from None
    return torch.tensor(values, dtype=torch.float64, device=energies.device)


def attenuation_table(
    materials: Sequence[Material], energies_keV: Energies | Sequence[float]
) -> Attenuation:
    """Stack the mass attenuation of the basis materials: (material, energy), cm²/g."""
    return torch.stack([mass_attenuation(material, energies_keV) for material in materials])


def linear_attenuation(
    materials: Sequence[str], energies_keV: Energies | Sequence[float]
) -> Attenuation:
    """Linear attenuation of materials of ``DENSITY_G_CM3``: (material, energy), 1/cm."""
    return torch.stack(
        [density_g_cm3(name) * mass_attenuation(name, energies_keV) for name in materials]
    )


def density_g_cm3(material: str) -> float:
    """Density of a material of ``DENSITY_G_CM3``; ValueError for other materials."""
    if material not in DENSITY_G_CM3:
        known = ", ".join(DENSITY_G_CM3)
        raise ValueError(f"no density is known for {material!r}: use one of {known}")
    return DENSITY_G_CM3[material]


def k_edge_keV(material: str) -> float | None:
    """K edge of an element, as in "iodine" or "Gd"; None for compounds."""
    formula = NAMED_MATERIALS.get(material, material)
    try:
        elements = xraylib.CompoundParser(formula)["Elements"]
    except ValueError:
        return None
    return float(xraylib.EdgeEnergy(elements[0], xraylib.K_SHELL)) if len(elements) == 1 else None


def thickness_cm(area_density_g_cm2: Tensor, material: str) -> Tensor:
    """Thickness of a pure material of this area density."""
    return area_density_g_cm2 / density_g_cm3(material)


def area_density_g_cm2(thickness_cm: Tensor, material: str) -> Tensor:
    """Area density of a pure material of this thickness."""
    return thickness_cm * density_g_cm3(material)


def _explain(material: str, energies_keV: Tensor, reason: str) -> str:
    if "extrapolation" in reason or "energy" in reason.lower():
        low, high = energies_keV.min().item(), energies_keV.max().item()
        return (
            f"energies from {low:g} to {high:g} keV exceed xraylib's tables of {material!r}: use "
            "1 to 800 keV"
        )
    names = [*NAMED_MATERIALS, *xraylib.GetCompoundDataNISTList()]
    close = difflib.get_close_matches(material, names, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"unknown material {material!r}: {guess}use a formula such as 'H2O', a mixture "
        f"{{material: mass fraction}}, a NIST compound name, or one of {', '.join(NAMED_MATERIALS)}"
    )
