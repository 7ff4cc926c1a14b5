"""Photon-counting detector model and Monte Carlo simulation of its response.

Not modeled: Doppler broadening, Fano statistics of charge creation (0.1 keV in silicon), trapping,
diffusion along the depth, pile-up, and noise counts of pixels without charge, which matter for
thresholds below three standard deviations of the noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xraylib
from numpy.typing import NDArray

from pcctlearn.montecarlo.detector.charge_numba import Sensor
from pcctlearn.montecarlo.detector.response import SimulatedResponse, Tallies
from pcctlearn.montecarlo.detector.transport_numba import (
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
from pcctlearn.physics.attenuation import DENSITY_G_CM3, Material
from pcctlearn.validation import require_positive

BOLTZMANN_V_PER_K = 8.617333e-5
_SEGMENT_keV = 70.0  # segments absorb equally many photons of this, the mean energy behind a body
_LOWEST_LINE_keV = 5.0  # lower lines are absorbed locally
_N_CHUNKS = 16
_HISTORIES_PER_eV = 2**32  # random streams reserved for every eV of photon energy

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Detector:
    """Pixelated semiconductor, face-on, or edge-on wafers divided into strips.

    The charge cloud at the electrode is Gaussian with σ² = σ₀(E)² + 2 (kT/q) d L / V, where d is
    the drift distance and L the distance between the electrodes. σ₀ = 1 µm + R/4, with the range R
    of K. Kanaya and S. Okayama (J. Phys. D 5 (1972) 43). The cloud is shared among 3×3 pixels
    (edge-on: 3×1, since a foil or gap separates the wafers). Noise is independent between pixels,
    and each pixel and segment above a threshold counts.

    Args:
        sensor: silicon, CdTe, a formula, or a mixture {material: mass fraction}.
        thickness_cm: active thickness along the beam.
        pitch_cm: (x, y) of a pixel; edge-on, y is the pitch of the wafers.
        bias_V: across the wafer (edge-on) or across the thickness (face-on).
        density_g_cm3: by default that of a named material.
        edge_on: charge drifts along y to the electrode at the far face of its wafer, instead of
            along the beam to the exit side.
        segments: number of depth segments, which absorb equally many photons of 70 keV.
        foil: opaque foils fill the gaps between wafers, of any width.
        gap_cm: part of the pitch (edge-on: of y; face-on: of x and y) that collects no charge;
            without a foil it is sensor material.
        dead_layer_cm: sensor material in front of the active thickness that collects no charge.
        noise_keV: standard deviation of the electronic noise of every pixel.
        anti_coincidence: the largest hit of a photon is summed with its neighbors, including their
            noise, to one event.
        fluorescence: transport K lines above 5 keV; otherwise they are absorbed locally.

    Raises:
        ValueError: a parameter outside its physical range, or a material unknown to xraylib.
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
            raise ValueError(f"density_g_cm3 is needed for the sensor {self.sensor}")
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
                f"gap_cm={self.gap_cm:g} must be smaller than the pitch of {narrowest:g} cm"
            )
        if self.foil and not self.edge_on:
            raise ValueError("foil needs edge_on=true: foils separate edge-on wafers")

    @property
    def density(self) -> float:
        """Density of the sensor, g/cm³."""
        given = self.density_g_cm3
        return DENSITY_G_CM3[str(self.sensor)] if given is None else given

    def for_kernel(self) -> Sensor:
        """Parameters for the kernels."""
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
            # anti-coincidence picks the largest hit, which depends on the noise
            noise_keV=float(self.noise_keV) if self.anti_coincidence else 0.0,
            widening_cm=2 * thermal_V * electrodes_cm / self.bias_V,
            track_cm=1e-4,
            track_per=0.25 * 0.0276e-4 * A / (Z**0.889 * self.density),
            segment_ends=self.segment_ends_cm(),
        )

    def segment_ends_cm(self) -> Array:
        """Depths of segment borders, z_k = −ln(1 − k/n (1 − e^(−μt)))/μ, plus the dead layer."""
        mu = np.interp(_SEGMENT_keV, rate_energies_keV(), interactions([self.sensor]).total[0])
        mu = mu * self.density
        share = np.arange(1, self.segments) / self.segments
        depths = -np.log1p(share * np.expm1(-mu * self.thickness_cm)) / mu
        return self.dead_layer_cm + depths

    def rates(self) -> Rates:
        """Interactions of the sensor for the kernels."""
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
    """Simulate the response to n_histories photons of each energy, from lowest_keV on.

    Every photon has a random stream given by seed, energy and number: the result for an energy
    does not depend on the other energies or on the number of threads. ``progress`` is called with
    the number of energies done and their total.

    Raises:
        ValueError: energies are outside the tables or do not increase, or a size is not positive.
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


@dataclass
class ResponseSimulation:
    """Configured simulation of a detector response, and the files it writes.

    Photon energies run from ``first_keV`` to ``last_keV`` in steps of ``energy_step_keV``; the
    other parameters are those of ``simulate_response``. ``name`` is the stem of the files.
    """

    name: str
    detector: Detector
    n_histories: int
    seed: int = 0
    first_keV: float = 10.5
    last_keV: float = 140.5
    energy_step_keV: float = 1.0
    lowest_keV: float = 1.0
    step_keV: float = 0.5
    simulated: SimulatedResponse | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.energy_step_keV > 0 or self.last_keV < self.first_keV:
            raise ValueError(
                "first_keV must not exceed last_keV and energy_step_keV must be positive, got "
                f"{self.first_keV:g}, {self.last_keV:g} and "
                f"energy_step_keV={self.energy_step_keV:g}"
            )

    @property
    def energies_keV(self) -> Array:
        """Photon energies of the simulation."""
        n_steps = int((self.last_keV - self.first_keV) / self.energy_step_keV + 1e-6)
        return self.first_keV + self.energy_step_keV * np.arange(n_steps + 1, dtype=np.float64)

    def run(self, progress: Callable[[int, int], None] | None = None) -> SimulatedResponse:
        """Simulate all energies; ``progress`` is called with the number done and their total."""
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
        """Write <name>.csv for ``Table.from_file`` and <name>_pairs.npz for ``Pairs.from_file``.

        Runs the simulation unless it has run before. The same seed gives the same bytes.
        """
        simulated = self.simulated or self.run()
        return simulated.write(Path(folder), self.name, self._passport())

    def _passport(self) -> list[str]:
        parameters = ", ".join(f"{name}={value}" for name, value in vars(self.detector).items())
        return [
            f"quantity: events registered per keV and photon by {self.name}",
            "source: own simulation, pcctlearn.montecarlo.detector; cross sections of xraylib "
            f"{xraylib.XRAYLIB_MAJOR}.{xraylib.XRAYLIB_MINOR}   licence: MIT",
            f"command: python simulate.py, a choice of conf/detector   seed: {self.seed}   "
            f"histories: {self.n_histories} for each energy",
            f"detector: {parameters}",
        ]
