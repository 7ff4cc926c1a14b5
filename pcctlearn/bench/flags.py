"""Pixels of a bench that must not be used, by kind."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from pcctlearn.bench.panel import Panel

SATURATED = "saturated"

OnPanel = Bool[np.ndarray, "row column"]


class Flags:
    """Pixels in gaps, and by kind those that were masked, noisy or saturated.

    Args:
        panel: of the detector.
        kinds: {kind: pixels of the raw frames}.
    """

    def __init__(
        self, panel: Panel, kinds: Mapping[str, Bool[np.ndarray, "raw_row raw_column"]]
    ) -> None:
        self.kinds: dict[str, OnPanel] = {"in gaps": panel.gaps() > 0}
        for kind, found in kinds.items():
            earlier = self.dead()
            self.kinds[kind] = panel.spread(found, False) & ~earlier  # each pixel counts once

    def dead(self) -> OnPanel:
        """Pixels of any kind."""
        return np.any([*self.kinds.values()], 0)

    def saturated(self) -> OnPanel:
        """Pixels whose counters reached their limit."""
        return self.kinds.get(SATURATED, np.zeros_like(self.dead()))

    @property
    def share(self) -> float:
        """Share of the panel."""
        return float(self.dead().mean())

    def __str__(self) -> str:
        """Numbers of pixels of each kind."""
        dead = self.dead()
        parts = [f"{int(found.sum())} {kind}" for kind, found in self.kinds.items() if found.any()]
        listed = f" ({', '.join(parts)})" if parts else ""
        return f"{int(dead.sum())} of {dead.size} pixels are dead{listed}, {100 * self.share:.3g} %"
