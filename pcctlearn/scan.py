"""The record that travels through the chain, and the order of its stages."""

from dataclasses import dataclass

from torch import Tensor

STAGES = ("counts", "line_integrals", "maps", "vmi")


@dataclass
class Scan:
    """One scan, as far as the chain has taken it, or what is known to be true of it.

    counts (batch, bin, view, *pixel) photons; line_integrals (batch, material, view, *pixel)
    g/cm²; maps (batch, material, *voxel) g/cm³; vmi (batch, keV, *voxel) 1/cm.
    """

    counts: Tensor | None = None
    line_integrals: Tensor | None = None
    maps: Tensor | None = None
    vmi: Tensor | None = None
