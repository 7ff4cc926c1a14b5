"""Counters simulated pulse by pulse: dead time and pile-up without a formula for either."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.montecarlo import pulses_numba
from pcctlearn.physics.response.base import Response
from pcctlearn.shapes import Edges, Energies
from pcctlearn.validation import require_positive

STEP_keV = 0.25  # of the table of pulse heights
_MARGIN_keV = 15.0
_MOST_OVERLAP = 8.0  # mean number of pulses that overlap


class Counted(NamedTuple):
    """Counts above each threshold, and those of a counter that misses none of the same pulses."""

    registered: Float[Tensor, "counter threshold"]
    pulses: Float[Tensor, "counter threshold"]


class PulseCounters:
    """Photons arrive at random times; each makes a rectangular pulse as high as what it deposits.

    A threshold counts a pulse above it unless another one above it is still there or it has counted
    within ``dead_s``: it is paralysable with ``pulse_s`` and nonparalysable with ``dead_s``. With
    ``adds`` overlapping pulses add up, and a threshold counts whenever the sum rises above it, so
    that pulses below it may reach it together. Photons that the response registers in two pixels
    count as two independent pulses, one in each.

    Args:
        response: of the detector; its events above ``lowest_keV`` are the pulses.
        pulse_s: length of a pulse.
        dead_s: time after a count in which the threshold does not count again.
        adds: whether overlapping pulses add up.
        lowest_keV: pulses below it are left out; a response table may begin at 1 keV.
    """

    def __init__(
        self,
        response: Response,
        pulse_s: float,
        dead_s: float = 0.0,
        adds: bool = True,
        lowest_keV: float = 1.0,
    ) -> None:
        require_positive(pulse_s=pulse_s, lowest_keV=lowest_keV)
        if not 0 <= dead_s < float("inf"):
            raise ValueError(f"dead_s must be 0 or more, got {dead_s}")
        self.response, self.pulse_s, self.dead_s = response, pulse_s, dead_s
        self.adds, self.lowest_keV = adds, lowest_keV

    @torch.no_grad()
    def count(
        self,
        spectra: Float[Tensor, "counter energy"],
        energies_keV: Energies,
        thresholds_keV: Edges,
        time_s: float,
        seed: int,
    ) -> Counted:
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
        # a response with noise registers more than the energy of the photon
        top = float(energies_keV[-1]) + _MARGIN_keV
        nodes = torch.arange(self.lowest_keV, top, STEP_keV, dtype=torch.float64)
        above = self.response.above(nodes, energies_keV)  # (node, energy)
        pulses = (spectra.double() @ above.double().T).clamp(min=0)
        rates = pulses[:, 0] / time_s
        if bool((rates * self.pulse_s > _MOST_OVERLAP).any()):
            raise ValueError(
                f"{float(rates.max() * self.pulse_s):.3g} pulses overlap on average, more than "
                f"{_MOST_OVERLAP:g}: reduce the photons, pulse_s, or lengthen time_s"
            )
        survival = (pulses / pulses[:, :1].clamp(min=1e-300)).cummin(-1).values
        counts = torch.zeros(2, len(spectra), thresholds_keV.shape[-1], dtype=torch.int64)
        thresholds = thresholds_keV.double().expand(counts.shape[1:])
        pulses_numba.count_pulses(
            rates.numpy(),
            survival.contiguous().numpy(),
            (self.lowest_keV, STEP_keV),
            thresholds.contiguous().numpy(),
            time_s,
            self.pulse_s,
            self.dead_s,
            self.adds,
            seed,
            *counts.numpy(),
        )
        return Counted(*counts.double())
