"""A scan protocol: tube voltage, filter and thresholds, within the limits of a detector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.shapes import Edges
from pcctlearn.validation import require_positive

_SAME_keV = 1e-6
BEYOND_keV = 20.0  # top edge above the tube voltage: the last bin has no upper limit


@dataclass(frozen=True)
class Protocol:
    """Tube voltage, filters beyond the tube's own and thresholds; the last bin has no limit."""

    tube_voltage_kV: float
    thresholds_keV: tuple[float, ...]
    filtration_cm: Mapping[str, float] = field(default_factory=dict)

    @property
    def edges_keV(self) -> list[float]:
        """Thresholds, and an edge above all photons."""
        return [*self.thresholds_keV, self.tube_voltage_kV + BEYOND_keV]

    def __str__(self) -> str:
        """Such as "120 kV, 15.0 33.0 45.0 59.0 keV, copper 0.20 mm"."""
        filters = "".join(f", {m} {10 * t:.2f} mm" for m, t in self.filtration_cm.items())
        edges = " ".join(f"{edge:.1f}" for edge in self.thresholds_keV)
        return f"{self.tube_voltage_kV:g} kV, {edges} keV{filters}"


@dataclass(frozen=True)
class ThresholdLimits:
    """Thresholds that a detector can be set to.

    Args:
        lowest_keV: noise floor; no threshold is lower.
        separation_keV: least distance of two thresholds, and of the highest from the tube voltage.
    """

    lowest_keV: float = 15.0
    separation_keV: float = 4.0

    def __post_init__(self) -> None:
        require_positive(lowest_keV=self.lowest_keV, separation_keV=self.separation_keV)

    def free_keV(self, n: int, tube_voltage_kV: float) -> float:
        """What the floor and the separations leave of the tube voltage to n thresholds."""
        free = tube_voltage_kV - self.lowest_keV - n * self.separation_keV
        if free <= 0:
            raise ValueError(
                f"{n} thresholds {self.separation_keV:g} keV apart do not fit between "
                f"{self.lowest_keV:g} keV and {tube_voltage_kV:g} kV: lower separation_keV"
            )
        return free

    def thresholds(self, u: Float[Tensor, "gap"], tube_voltage_kV: float) -> Edges:
        """Thresholds for any real numbers u, one more than there are thresholds.

        The free part is divided in proportion to softmax(u): below the first threshold, between
        thresholds, and above the last.
        """
        n = len(u) - 1
        gaps = self.free_keV(n, tube_voltage_kV) * torch.softmax(u, 0)
        steps = gaps[:n] + self.separation_keV * (torch.arange(n) > 0).to(gaps)
        return self.lowest_keV + steps.cumsum(0)

    def allows(self, thresholds_keV: Sequence[float], tube_voltage_kV: float) -> bool:
        """Whether these thresholds keep the limits."""
        edges = [*thresholds_keV, tube_voltage_kV]
        apart = min(b - a for a, b in pairwise(edges))
        return edges[0] >= self.lowest_keV - _SAME_keV and apart >= self.separation_keV - _SAME_keV

    def inverse(self, thresholds_keV: Sequence[float], tube_voltage_kV: float) -> Tensor:
        """u of these thresholds; gaps that are too small are widened, which moves all of them."""
        n = len(thresholds_keV)
        edges = torch.tensor([self.lowest_keV, *thresholds_keV, tube_voltage_kV]).double()
        gaps = edges.diff()
        gaps[1:] -= self.separation_keV
        shares = gaps.clamp(min=0.5) / self.free_keV(n, tube_voltage_kV)
        return (shares / shares.sum()).log()
