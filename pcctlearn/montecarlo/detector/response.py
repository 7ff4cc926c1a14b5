"""Response densities and statistics from Monte Carlo tallies, and their files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr

from pcctlearn.files.atomic import written_whole
from pcctlearn.montecarlo.detector.transport_numba import (
    ABSORBED,
    DEPOSITED,
    EMITTED,
    ENTIRE,
    ESCAPED,
    FIRST_COMPTON,
    FIRST_RAYLEIGH,
    INTERACTING,
    HIT_keV,
    PAIR_keV,
)
from pcctlearn.physics.response.pairs import Pairs, write_pairs
from pcctlearn.physics.response.table import Table

PAIR_CELL_keV = 2.0  # cell width of the pairs that are stored
_DIGITS = 5  # significant digits of the table, far beyond its statistical error

Array = NDArray[np.float64]


class Tallies(NamedTuple):
    """Tallies of one photon energy, summed over chunks."""

    singles: NDArray[np.int64]
    pairs: NDArray[np.int32]
    ledger: Array


class Statistics(NamedTuple):
    """Interaction probabilities and mean energy balance of a photon, each (energy).

    first_compton and first_rayleigh are the fractions of interacting photons with that first
    interaction; entire is the probability that all energy is deposited in sensitive material.
    """

    interacting: Array
    first_compton: Array
    first_rayleigh: Array
    entire: Array
    deposited_keV: Array
    escaped_keV: Array
    absorbed_keV: Array


@dataclass(eq=False)
class SimulatedResponse:
    """Density h(E; E') of registered energy, and pairs of events of the same photon.

    Electronic noise is convolved, not sampled: tallies of charge, in cells of 0.125 keV (pairs:
    0.5 keV), are registered in [a, b] with probability Φ((b − q)/σ) − Φ((a − q)/σ). This is the
    exact expectation over the noise and reduces the statistical error of a cell about threefold,
    with correlations within the width of the noise. With anti-coincidence the noise is sampled.

    Args:
        energies_keV: photon energies.
        borders_keV: borders of the cells of registered energy, equally spaced.
        response_per_keV: (deposited, energy), events per keV and photon.
        pairs: second moments of the events of one photon.
        statistics: interaction probabilities and energy balance.
        n_histories: photons of each energy.
    """

    energies_keV: Array
    borders_keV: Array
    response_per_keV: Array
    pairs: Pairs
    statistics: Statistics
    n_histories: int

    @classmethod
    def from_tallies(
        cls,
        energies_keV: Array,
        tallies: Sequence[Tallies],
        n_histories: int,
        noise_keV: float,
        lowest_keV: float,
        step_keV: float,
        highest_keV: float,
    ) -> "SimulatedResponse":
        """Convolve the tallies with the noise and bin them into cells from lowest_keV on."""
        n_cells = math.ceil((highest_keV - lowest_keV) / step_keV)
        borders = lowest_keV + step_keV * np.arange(n_cells + 1, dtype=np.float64)
        n_pair = math.ceil((highest_keV - lowest_keV) / PAIR_CELL_keV)
        pair_borders = lowest_keV + PAIR_CELL_keV * np.arange(n_pair + 1, dtype=np.float64)
        singles = np.array([tally.singles for tally in tallies])
        density = _registered(borders, singles.shape[1], HIT_keV, noise_keV) @ singles.T
        fold = _registered(pair_borders, len(tallies[0].pairs), PAIR_keV, noise_keV)
        pairs = np.array(
            [fold @ (t.pairs + t.pairs.T).astype(np.float64) @ fold.T for t in tallies]
        )
        ledger = np.array([tally.ledger for tally in tallies]).T
        interacting = ledger[INTERACTING]
        return cls(
            energies_keV,
            borders,
            density / (n_histories * step_keV),
            Pairs(*map(torch.from_numpy, (energies_keV, pair_borders, pairs / n_histories))),
            Statistics(
                interacting / n_histories,
                ledger[FIRST_COMPTON] / np.maximum(interacting, 1),
                ledger[FIRST_RAYLEIGH] / np.maximum(interacting, 1),
                ledger[ENTIRE] / n_histories,
                *(ledger[[DEPOSITED, ESCAPED, ABSORBED]] / ledger[EMITTED] * energies_keV),
            ),
            n_histories,
        )

    @cached_property
    def table(self) -> Table:
        """The response as a table for the spectral model."""
        deposited = (self.borders_keV[1:] + self.borders_keV[:-1]) / 2
        return Table(*map(torch.from_numpy, (self.energies_keV, deposited, self.response_per_keV)))

    def moments(self, low_keV: float, high_keV: float = math.inf) -> tuple[Array, Array]:
        """E[n] and E[n²] of the events of one photon between two energies, (energy)."""
        edges = torch.tensor([low_keV, min(high_keV, self.borders_keV[-1])], dtype=torch.float64)
        energies = torch.from_numpy(self.energies_keV)
        above = self.table.above(edges, energies)
        mean = above[0] - above[1]
        return mean.numpy(), (mean + self.pairs.between(edges, energies)[:, 0, 0]).numpy()

    def standard_error(self, low_keV: float, high_keV: float = math.inf) -> Array:
        """Standard error of E[n], at most √((E[n²] − E[n]²)/N), since the noise is exact."""
        mean, square = self.moments(low_keV, high_keV)
        return np.sqrt((square - mean**2) / self.n_histories)

    def write(self, folder: Path, name: str, passport: Sequence[str] = ()) -> list[Path]:
        """Write <name>.csv, whose header records its origin, and <name>_pairs.npz, reproducibly.

        Densities are rounded to five digits, pairs to 1e-6 of a photon.
        """
        table, pairs = folder / f"{name}.csv", folder / f"{name}_pairs.npz"
        lines = ["# unit: 1/keV", *(f"# {line}" for line in (*passport, *self._summary()))]
        lines.append(",".join(["deposited_keV", *(f"{e:g}" for e in self.energies_keV)]))
        centers = (self.borders_keV[1:] + self.borders_keV[:-1]) / 2
        for center, row in zip(centers, self.response_per_keV, strict=True):
            lines.append(",".join([f"{center:g}", *(f"{h:.{_DIGITS}g}" for h in row)]))
        with written_whole(table) as part:
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with written_whole(pairs) as part:
            write_pairs(part, self.pairs)
        return [table, pairs]

    def _summary(self) -> list[str]:
        """Header lines with statistics of photons at five energies."""
        at = np.unique(np.linspace(0, len(self.energies_keV) - 1, 5).astype(int))
        threshold = max(5.0, self.borders_keV[0])
        mean, square = self.moments(threshold)
        columns = {"photon energy keV": self.energies_keV, **self.statistics._asdict()}
        columns[f"counts above {threshold:g} keV"] = mean
        columns["their standard error, at most"] = self.standard_error(threshold)
        columns["their E[n²]/E[n]"] = square / mean
        return [
            f"{key.replace('_', ' ')}: " + ", ".join(f"{value:.4g}" for value in values[at])
            for key, values in columns.items()
        ]


def _registered(borders_keV: Array, n_charges: int, charge_keV: float, noise_keV: float) -> Array:
    """Probability (cell, charge) that a hit of each charge is registered in each energy cell."""
    sigma = max(noise_keV, charge_keV / math.sqrt(12))  # at least the width of a charge cell
    charges = charge_keV * np.arange(n_charges)
    below = ndtr((borders_keV[:, None] - charges) / sigma)
    below[-1] = 1.0  # the last cell includes everything above
    return np.diff(below, axis=0)
