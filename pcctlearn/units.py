"""Conversions at the doors: inside the house there is only cm, g, keV, rad and photons."""

from torch import Tensor

MG_ML = 1000.0  # in a g/cm³
AIR_HU = -1000.0
REFERENCE_DENSITIES_G_CM3 = {"water": 1.00, "calcium": 1.55}


def mm_to_cm(length_mm: float) -> float:
    """10 mm are 1 cm."""
    return length_mm / 10


def hounsfield(mu: Tensor, mu_water: Tensor | float) -> Tensor:
    """HU = 1000 (μ − μ_w) / μ_w."""
    return 1000 * (mu - mu_water) / mu_water


def thickness_cm(area_density_g_cm2: Tensor, material: str) -> Tensor:
    """Length of pure material at its reference density that holds this area density."""
    return area_density_g_cm2 / _reference_density_g_cm3(material)


def area_density_g_cm2(thickness_cm: Tensor, material: str) -> Tensor:
    """Area density of a length of pure material at its reference density."""
    return thickness_cm * _reference_density_g_cm3(material)


def _reference_density_g_cm3(material: str) -> float:
    if material not in REFERENCE_DENSITIES_G_CM3:
        known = ", ".join(REFERENCE_DENSITIES_G_CM3)
        raise ValueError(f"no reference density for {material!r}; known are {known}")
    return REFERENCE_DENSITIES_G_CM3[material]
