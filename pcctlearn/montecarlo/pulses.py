"""Counters simulated pulse by pulse: dead time and pile-up without a formula for either."""

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.montecarlo import pulses_numba
from pcctlearn.physics.response.base import Response
from pcctlearn.shapes import Edges, Energies
from pcctlearn.validation import require_positive

STEP_keV = 0.25  # of the table of pulse heights
_MOST_OVERLAP = 8.0  # mean number of pulses that overlap


class PulseCounters:
    """Photons arrive at random times; each makes a rectangular pulse as high as what it deposits.

    Pulses that overlap add up. A threshold counts whenever the sum rises above it, unless it has
    counted within ``dead_s``: so it is paralysable with ``pulse_s`` for pulses above it,
    nonparalysable with ``dead_s``, and lower pulses that overlap may reach it together. Photons
    that the response registers in two pixels count as two independent pulses, one in each.

    Args:
        response: of the detector; its events above zero energy are the pulses.
        pulse_s: length of a pulse.
        dead_s: time after a count in which the threshold does not count again.
        highest_keV: end of the table of pulse heights; by default that of the spectrum.
    """

    def __init__(
        self,
        response: Response,
        pulse_s: float,
        dead_s: float = 0.0,
        highest_keV: float | None = None,
    ) -> None:
        require_positive(pulse_s=pulse_s)
        if not 0 <= dead_s < float("inf"):
            raise ValueError(f"dead_s must be 0 or more, got {dead_s}")
        self.response, self.pulse_s, self.dead_s = response, pulse_s, dead_s
        self.highest_keV = highest_keV

    @torch.no_grad()
    def count(
        self,
        spectra: Float[Tensor, "counter energy"],
        energies_keV: Energies,
        thresholds_keV: Edges,
        time_s: float,
        seed: int,
    ) -> Float[Tensor, "counter threshold"]:
        """Counts above each threshold.

        Args:
            spectra: photons per energy sample that reach each counter, in ``time_s``.
            energies_keV: of the spectra.
            thresholds_keV: of all counters, or of each.
            time_s: counting time.
            seed: of the pulses.

        Raises:
            ValueError: more pulses overlap than the simulation can tell apart.
        """
        require_positive(time_s=time_s)
        top = float(self.highest_keV or energies_keV[-1])
        nodes = torch.arange(0.0, top + 2 * STEP_keV, STEP_keV, dtype=torch.float64)
        above = self.response.above(nodes, energies_keV)  # (node, energy)
        pulses = spectra.double() @ above.double().T
        rates = pulses[:, 0] / time_s
        if bool((rates * self.pulse_s > _MOST_OVERLAP).any()):
            raise ValueError(
                f"{float(rates.max() * self.pulse_s):.3g} pulses overlap on average, more than "
                f"{_MOST_OVERLAP:g}: reduce the photons, pulse_s, or lengthen time_s"
            )
        survival = (pulses / pulses[:, :1].clamp(min=1e-300)).cummin(-1).values
        counts = torch.zeros(len(spectra), thresholds_keV.shape[-1], dtype=torch.int64)
        thresholds = thresholds_keV.double().expand(counts.shape) / STEP_keV
        pulses_numba.count_pulses(
            rates.numpy(),
            survival.contiguous().numpy(),
            thresholds.contiguous().numpy(),
            time_s,
            self.pulse_s,
            self.dead_s,
            seed,
            counts.numpy(),
        )
        return counts.double()
