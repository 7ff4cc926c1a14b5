"""Unit conversions for readers and figures; internally units are cm, g, keV, rad and photons."""

from torch import Tensor

MG_ML = 1000.0  # in a g/cm³
AIR_HU = -1000.0


def mm_to_cm(length_mm: float) -> float:
    """Length in cm."""
    return length_mm / 10


def hounsfield(mu: Tensor, mu_water: Tensor | float) -> Tensor:
    """HU = 1000 (μ − μ_w) / μ_w."""
    return 1000 * (mu - mu_water) / mu_water
