"""The record that travels through the chain, the order of its stages, and which rays count."""

from dataclasses import dataclass

from torch import Tensor

STAGES = (
    "counts",
    "scatter_fraction",
    "corrected_counts",
    "line_integrals",
    "expected_counts",
    "maps",
    "vmi",
)
SHADOW_G_CM2 = 1.0  # a ray with more in its way passes the object


@dataclass(kw_only=True)
class Scan:
    """One scan, as far as the chain has taken it, or what is known to be true of it.

    counts (batch, bin, view, *pixel) photons; scatter_fraction, scatter over all counts, and
    corrected_counts, what is left without it, as counts; line_integrals (batch, material, view,
    *pixel) g/cm²; expected_counts, what the scanner's model expects behind these line integrals,
    as counts; maps (batch, material, *voxel) g/cm³; vmi (batch, keV, *voxel) 1/cm. ``converged``
    (batch, view, *pixel) is True for rays whose line integrals the decomposition found;
    ``precision`` (batch, view, *pixel, material, material) is the Fisher information of the line
    integrals.
    """

    counts: Tensor | None = None
    scatter_fraction: Tensor | None = None
    corrected_counts: Tensor | None = None
    line_integrals: Tensor | None = None
    converged: Tensor | None = None
    expected_counts: Tensor | None = None
    maps: Tensor | None = None
    vmi: Tensor | None = None
    precision: Tensor | None = None

    def at(self, stage: str) -> Tensor:
        """The array of this name, which the scan must hold."""
        values = getattr(self, stage)
        if values is None:
            raise ValueError(f"the scan holds no {stage}: take the chain on to it, or provide it")
        return values
