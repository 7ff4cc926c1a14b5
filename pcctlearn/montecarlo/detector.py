"""A photon-counting detector, and the simulation of what it registers of photons of each energy.

Left out: Doppler broadening, the statistics of charge creation (Fano; 0.1 keV in silicon),
trapping, diffusion along the depth, pile-up, and noise counts of pixels that no charge reached:
below three standard deviations of the noise a real detector counts those as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xraylib
from numpy.typing import NDArray

from pcctlearn.montecarlo.charge_kernel import Sensor
from pcctlearn.montecarlo.detector_kernel import (
    N_LEDGER,
    HIT_keV,
    PAIR_keV,
    Rates,
    simulate,
)
from pcctlearn.montecarlo.interactions import (
    HIGHEST_keV,
    composition,
    fluorescence,
    interactions,
    rate_energies_keV,
)
from pcctlearn.montecarlo.simulated_response import SimulatedResponse, Tallies, regular
from pcctlearn.physics.attenuation import DENSITY_G_CM3, Material
from pcctlearn.tomography.grids import require_positive

BOLTZMANN_V_PER_K = 8.617333e-5
_SEGMENT_keV = 70.0  # photons that every segment meets alike: about the mean behind a body
_LOWEST_LINE_keV = 5.0  # softer lines stay where they are made
_N_CHUNKS = 16
_HISTORIES_PER_eV = 2**32  # streams set aside for every eV of photon energy

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Detector:
    """A semiconductor cut into pixels, or wafers of it on edge, cut into strips.

    Charge is a Gaussian cloud with σ² = σ₀(E)² + 2 (kT/q) d L / V at the electrode: it drifts
    d of the L between the electrodes. σ₀ = 1 µm + R/4, with the range R of K. Kanaya and
    S. Okayama (J. Phys. D 5 (1972) 43). The cloud is split over 3×3 pixels (on edge: 3×1; a foil or
    gap parts the wafers), each with a noise of its own, and every pixel and segment that registers
    more than a threshold counts.

    Args:
        sensor: silicon, CdTe, a formula, or a mixture {material: mass fraction}.
        thickness_cm: along the beam, what collects charge.
        pitch_cm: (x, y) of a pixel; on edge, y goes from wafer to wafer.
        bias_V: over the wafer on edge, else over the thickness.
        density_g_cm3: where None, that of the named materials.
        edge_on: charge drifts along y to the electrode at the far face of its wafer; else along
            the beam to the far side.
        segments: channels along the depth, which count photons of 70 keV about equally.
        foil: opaque foils fill the gaps between wafers, however thin.
        gap_cm: of the pitch (on edge of y, else of x and y), what collects no charge; without a
            foil it is sensor material.
        dead_layer_cm: sensor material before the thickness that collects no charge.
        noise_keV: electronic, standard deviation, of every pixel.
        anti_coincidence: of the pixels a photon hits, the largest one takes what those of its
            neighbourhood have registered, with their noise, as one event.
        fluorescence: follow K lines above 5 keV; else they stay where they are made.

    Raises:
        ValueError: a parameter that no detector can have, or a material that xraylib lacks.
    """

    sensor: Material
    thickness_cm: float
    pitch_cm: Sequence[float]
    bias_V: float
    density_g_cm3: float | None = None
    temperature_K: float = 300.0
    noise_keV: float = 1.6
    edge_on: bool = False
    segments: int = 1
    foil: bool = False
    gap_cm: float = 0.0
    dead_layer_cm: float = 0.0
    anti_coincidence: bool = False
    fluorescence: bool = True

    def __post_init__(self) -> None:
        composition(self.sensor)
        if self.density_g_cm3 is None and str(self.sensor) not in DENSITY_G_CM3:
            raise ValueError(f"give density_g_cm3 of the sensor {self.sensor}: it is not known")
        if len(self.pitch_cm) != 2:
            raise ValueError(f"pitch_cm needs two numbers, x and y, got {list(self.pitch_cm)}")
        positive = {
            "thickness_cm": self.thickness_cm,
            "pitch_cm": min(self.pitch_cm),
            "bias_V": self.bias_V,
            "density_g_cm3": self.density,
            "temperature_K": self.temperature_K,
            "segments": self.segments,
        }
        for name, value in positive.items():
            if not 0 < value < np.inf:
                raise ValueError(f"{name} of the detector must be positive, got {value:g}")
        for name in ("noise_keV", "gap_cm", "dead_layer_cm"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name):g}")
        narrowest = self.pitch_cm[1] if self.edge_on else min(self.pitch_cm)
        if self.gap_cm >= narrowest:
            raise ValueError(
                f"gap_cm={self.gap_cm:g} leaves nothing of a pitch of {narrowest:g} cm"
            )
        if self.foil and not self.edge_on:
            raise ValueError("foil lies between wafers: set edge_on as well")

    @property
    def density(self) -> float:
        """g/cm³."""
        given = self.density_g_cm3
        return DENSITY_G_CM3[str(self.sensor)] if given is None else given

    def for_kernel(self) -> Sensor:
        """The same in the kernel's terms."""
        elements = composition(self.sensor)
        atoms = {Z: weight / xraylib.AtomicWeight(Z) for Z, weight in elements.items()}
        n_atoms = sum(atoms.values())
        Z = sum(n * Z for Z, n in atoms.items()) / n_atoms
        A = sum(elements.values()) / n_atoms
        electrodes_cm = self.pitch_cm[1] - self.gap_cm if self.edge_on else self.thickness_cm
        thermal_V = BOLTZMANN_V_PER_K * self.temperature_K
        return Sensor(
            pitch_x=float(self.pitch_cm[0]),
            pitch_y=float(self.pitch_cm[1]),
            sensitive_x=(self.pitch_cm[0] - self.gap_cm) / 2,
            sensitive_y=(self.pitch_cm[1] - self.gap_cm) / 2,
            dead=float(self.dead_layer_cm),
            depth=float(self.dead_layer_cm + self.thickness_cm),
            edge_on=self.edge_on,
            foil=self.foil,
            anti_coincidence=self.anti_coincidence,
            # the largest of several hits can only be chosen with their noise
            noise_keV=float(self.noise_keV) if self.anti_coincidence else 0.0,
            widening_cm=2 * thermal_V * electrodes_cm / self.bias_V,
            track_cm=1e-4,
            track_per=0.25 * 0.0276e-4 * A / (Z**0.889 * self.density),
            segment_ends=self.segment_ends_cm(),
        )

    def segment_ends_cm(self) -> Array:
        """Depths between the segments, z_k = −ln(1 − k/n (1 − e^(−μt)))/μ, dead layer included."""
        mu = np.interp(_SEGMENT_keV, rate_energies_keV(), interactions([self.sensor]).total[0])
        mu = mu * self.density
        share = np.arange(1, self.segments) / self.segments
        depths = -np.log1p(share * np.expm1(-mu * self.thickness_cm)) / mu
        return self.dead_layer_cm + depths

    def rates(self) -> Rates:
        """Interactions of the sensor as the kernel reads them."""
        tables, lines = interactions([self.sensor]), fluorescence(self.sensor)
        followed = (lines.edges_keV > _LOWEST_LINE_keV) & self.fluorescence
        emission = lines.shares * lines.k_shares * lines.yields[:, None]
        return Rates(
            total=tables.total[0] * self.density,
            photo=tables.rates[0, 0] * self.density,
            compton=tables.rates[0, 1] * self.density,
            compton_cosines=tables.cosines[0, 0],
            rayleigh_cosines=tables.cosines[0, 1],
            emission=np.ascontiguousarray(emission[followed]),
            edges_keV=lines.edges_keV[followed],
            lines_keV=np.ascontiguousarray(lines.lines_keV[followed]),
            cumulative_lines=np.ascontiguousarray(lines.line_shares[followed].cumsum(1)),
        )


def simulate_response(
    detector: Detector,
    energies_keV: Sequence[float] | Array,
    n_histories: int,
    seed: int = 0,
    lowest_keV: float = 1.0,
    step_keV: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
) -> SimulatedResponse:
    """What a detector registers of n_histories photons of each energy, from lowest_keV on.

    Every photon has a random stream of its own, named by seed, energy and number: an energy gives
    the same numbers alone and among others, on one thread and on many. ``progress`` is told how
    many energies are done, and of how many.

    Raises:
        ValueError: energies that the tables lack or that do not increase, or numbers that are not
            positive.
    """
    energies = np.asarray(energies_keV, np.float64)
    if not (energies.size and (np.diff(energies) > 0).all()):
        raise ValueError(f"energies_keV must increase, got {energies.tolist()}")
    if not 2 < energies[0] <= energies[-1] < HIGHEST_keV:
        raise ValueError(
            f"energies_keV must lie between 2 and {HIGHEST_keV:g}, got {energies[0]:g} … "
            f"{energies[-1]:g}"
        )
    require_positive(n_histories=n_histories, step_keV=step_keV)
    if not 0 <= lowest_keV < energies[0]:
        raise ValueError(f"lowest_keV={lowest_keV:g} must lie between 0 and {energies[0]:g}")
    sensor, rates = detector.for_kernel(), detector.rates()
    highest_keV = energies[-1] + 6 * detector.noise_keV * (3 if detector.anti_coincidence else 1)
    tallies = []
    for done, energy in enumerate(energies):
        singles = np.zeros((_N_CHUNKS, int(highest_keV / HIT_keV) + 2), np.int64)
        n_pair = int(highest_keV / PAIR_keV) + 2
        pairs = np.zeros((_N_CHUNKS, n_pair, n_pair), np.int32)
        ledger = np.zeros((_N_CHUNKS, N_LEDGER))
        first = round(float(energy) * 1000) * _HISTORIES_PER_eV
        simulate(sensor, rates, energy, seed, first, n_histories, singles, pairs, ledger)
        tallies.append(Tallies(singles.sum(0), pairs.sum(0), ledger.sum(0)))
        if progress is not None:
            progress(done + 1, len(energies))
    unresolved_keV = 0.0 if detector.anti_coincidence else detector.noise_keV
    return SimulatedResponse.from_tallies(
        energies, tallies, n_histories, unresolved_keV, lowest_keV, step_keV, highest_keV
    )


class ResponseSimulation:
    """The simulation of a detector as a configuration writes it down, and the files it makes.

    Photon energies go from ``first_keV`` to ``last_keV`` in steps of ``energy_step_keV``; the other
    parameters are those of ``simulate_response``. ``name`` is that of the files.
    """

    def __init__(
        self,
        name: str,
        detector: Detector,
        n_histories: int,
        seed: int = 0,
        first_keV: float = 10.5,
        last_keV: float = 140.5,
        energy_step_keV: float = 1.0,
        lowest_keV: float = 1.0,
        step_keV: float = 0.5,
    ) -> None:
        if not energy_step_keV > 0 or last_keV < first_keV:
            raise ValueError(
                "photon energies go from first_keV up to last_keV in positive steps, got "
                f"{first_keV:g}, {last_keV:g} and energy_step_keV={energy_step_keV:g}"
            )
        self.name, self.detector = name, detector
        self.n_histories, self.seed = n_histories, seed
        self.lowest_keV, self.step_keV = lowest_keV, step_keV
        n_steps = int((last_keV - first_keV) / energy_step_keV + 1e-6)
        self.energies_keV = regular(first_keV, energy_step_keV, n_steps + 1)
        self.simulated: SimulatedResponse | None = None

    def run(self, progress: Callable[[int, int], None] | None = None) -> SimulatedResponse:
        """Simulate every energy; ``progress`` is told how many are done, and of how many."""
        self.simulated = simulate_response(
            self.detector,
            self.energies_keV,
            self.n_histories,
            self.seed,
            self.lowest_keV,
            self.step_keV,
            progress,
        )
        return self.simulated

    def write(self, folder: str | Path) -> list[Path]:
        """<name>.csv for ``Table.from_file`` and <name>_pairs.npz for ``Pairs.from_file``.

        What was run last, or a run if there was none. The same seed gives the same bytes.
        """
        simulated = self.simulated or self.run()
        return simulated.write(Path(folder), self.name, self._passport())

    def _passport(self) -> list[str]:
        parameters = ", ".join(f"{name}={value}" for name, value in vars(self.detector).items())
        return [
            f"quantity: events registered per keV and photon by {self.name}",
            "source: own simulation, pcctlearn.montecarlo.detector; cross sections of xraylib "
            f"{xraylib.XRAYLIB_MAJOR}.{xraylib.XRAYLIB_MINOR}   licence: MIT",
            f"command: python simulate.py, a choice of conf/response   seed: {self.seed}   "
            f"histories: {self.n_histories} for each energy",
            f"detector: {parameters}",
        ]
