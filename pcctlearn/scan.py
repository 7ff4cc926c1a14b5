"""The record that passes through the chain, and the order of its stages."""

from dataclasses import dataclass

from torch import Tensor

STAGES = (
    "counts",
    "linear_counts",
    "scatter_fraction",
    "corrected_counts",
    "line_integrals",
    "expected_counts",
    "maps",
    "vmi",
)
SHADOW_G_CM2 = 1.0  # area density above which a ray counts as crossing the object


@dataclass(kw_only=True)
class Scan:
    """One scan at the stages that are known or computed; the others are None.

    Args:
        counts: (batch, bin, view, *pixel), photons.
        linear_counts: counts of counters without dead time, as counts.
        resolved: (batch, view, *pixel), False where a rate lies beyond the maximum of the counter.
        scatter_fraction: scatter over counts, as counts.
        corrected_counts: counts · (1 − scatter_fraction), photons.
        line_integrals: (batch, material, view, *pixel), g/cm².
        converged: (batch, view, *pixel), True where the decomposition found the line integrals.
        expected_counts: expected counts of the line integrals, as counts.
        maps: (batch, material, *voxel), g/cm³.
        vmi: (batch, keV, *voxel), 1/cm.
        precision: (batch, view, *pixel, material, material), Fisher information of the line
            integrals, (cm²/g)².
    """

    counts: Tensor | None = None
    linear_counts: Tensor | None = None
    resolved: Tensor | None = None
    scatter_fraction: Tensor | None = None
    corrected_counts: Tensor | None = None
    line_integrals: Tensor | None = None
    converged: Tensor | None = None
    expected_counts: Tensor | None = None
    maps: Tensor | None = None
    vmi: Tensor | None = None
    precision: Tensor | None = None

    def at(self, stage: str) -> Tensor:
        """The array of this name; ValueError if the scan does not hold it."""
        values = getattr(self, stage)
        if values is None:
            raise ValueError(f"the scan has no {stage}: run the chain up to it, or provide it")
        return values
