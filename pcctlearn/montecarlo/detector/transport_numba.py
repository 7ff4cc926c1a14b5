"""Photon transport in a semiconductor and tallies of the charge in its pixels (numba).

Tallies are integers and energies multiples of 2⁻¹² keV, so that all sums are exact: results are
bit-identical on any number of threads, and energy is conserved exactly.
"""

import math
from typing import NamedTuple, no_type_check

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from pcctlearn.montecarlo.detector.charge_numba import (
    MAX_HITS,
    Hits,
    add_noise,
    anti_coincidence,
    collect,
)
from pcctlearn.montecarlo.interactions import COMPTON, PHOTOELECTRIC, RAYLEIGH
from pcctlearn.montecarlo.photons_numba import (
    compton_energy,
    draw,
    rate_at,
    rotated,
    sample_cosine,
    stream,
)

EMITTED, DEPOSITED, ESCAPED, ABSORBED = range(4)  # columns of a ledger, keV
INTERACTING, FIRST_COMPTON, FIRST_RAYLEIGH, ENTIRE, UNBALANCED = range(4, 9)  # photons
N_LEDGER = 9
HIT_keV, PAIR_keV = 0.125, 0.5  # cell widths of the tallies, centered on multiples
LOWEST_TRACKED_keV = 2.0  # absorbed locally: the mean free path in silicon is 2 µm
_QUANTUM_keV = 2.0**-12

Array = NDArray[np.float64]


class Rates(NamedTuple):
    """Interactions of the sensor at the energies of ``interactions``: 1/cm, cos θ, probability."""

    total: Array
    photo: Array
    compton: Array
    compton_cosines: Array
    rayleigh_cosines: Array
    emission: Array  # (element, energy): K lines per photoelectric event
    edges_keV: Array
    lines_keV: Array  # (element, line)
    cumulative_lines: Array


@njit(cache=True, error_model="numpy")
@no_type_check
def rounded(energy_keV):
    """Round to the nearest multiple of the energy quantum."""
    return math.floor(energy_keV / _QUANTUM_keV + 0.5) * _QUANTUM_keV


@njit(cache=True, error_model="numpy")
@no_type_check
def _sample_line(rates, energy, state):
    """Sample the K line of a photoelectric event, keV, 0 for none; returns it and the state."""
    r, state = draw(state)
    for element in range(rates.edges_keV.size):
        r -= rate_at(rates.emission[element], energy)
        if r < 0.0:
            if energy <= rates.edges_keV[element]:
                return 0.0, state
            q, state = draw(state)
            line = np.searchsorted(rates.cumulative_lines[element], q, side="right")
            line = min(line, rates.cumulative_lines.shape[1] - 1)
            return rounded(rates.lines_keV[element, line]), state
    return 0.0, state


@njit(cache=True, error_model="numpy")
@no_type_check
def _sample_interaction(rates, energy, total, state):
    """Sample process, energy of the outgoing photon (0: none) and cos θ; returns the state too."""
    r, state = draw(state)
    left = r * total - rate_at(rates.photo, energy)
    if left < 0.0:
        line, state = _sample_line(rates, energy, state)
        return PHOTOELECTRIC, line, 1.0, state
    if left < rate_at(rates.compton, energy):
        cosine, state = sample_cosine(rates.compton_cosines, energy, state)
        return COMPTON, rounded(compton_energy(energy, cosine)), cosine, state
    cosine, state = sample_cosine(rates.rayleigh_cosines, energy, state)
    return RAYLEIGH, energy, cosine, state


@njit(cache=True, error_model="numpy")
@no_type_check
def _collects(sensor, x, y, z):
    """True if charge created at this position relative to the pixel center is collected."""
    across = abs(y) <= sensor.sensitive_y and (sensor.edge_on or abs(x) <= sensor.sensitive_x)
    return across and z > sensor.dead


@njit(cache=True, error_model="numpy")
@no_type_check
def _lost(sensor, y, z, v, w, step):
    """ABSORBED if the step meets a foil, ESCAPED if it leaves the sensor, otherwise 0."""
    if sensor.foil and abs(y + v * step) > sensor.sensitive_y:
        at_foil = z + w * (math.copysign(sensor.sensitive_y, v) - y) / v
        if 0.0 <= at_foil <= sensor.depth:
            return ABSORBED
    return 0 if 0.0 <= z + w * step <= sensor.depth else ESCAPED


@njit(cache=True, error_model="numpy")
@no_type_check
def _record(ledger, emitted, deposited, escaped, absorbed):
    """Add one photon to the ledger."""
    ledger[EMITTED] += emitted
    ledger[DEPOSITED] += deposited
    ledger[ESCAPED] += escaped
    ledger[ABSORBED] += absorbed
    ledger[ENTIRE] += 1.0 if deposited == emitted else 0.0
    ledger[UNBALANCED] += 0.0 if deposited + escaped + absorbed == emitted else 1.0


@njit(cache=True, error_model="numpy")
@no_type_check
def history(sensor, rates, energy, state, hits, ledger):
    """Follow one photon and its fluorescence; returns the number of hits and the state.

    A photoelectric event emits at most one photon, the K line, so no stack is needed.
    """
    emitted, deposited, escaped, absorbed = energy, 0.0, 0.0, 0.0
    r, state = draw(state)
    x = sensor.pitch_x * (r - 0.5)
    r, state = draw(state)
    y = sensor.pitch_y * (r - 0.5)
    z, u, v, w = 0.0, 0.0, 0.0, 1.0
    i, j = 0, 0
    n_hits, first = 0, True
    if sensor.foil and abs(y) > sensor.sensitive_y:
        absorbed, energy = energy, 0.0
    while energy > 0.0:
        r, state = draw(state)
        total = rate_at(rates.total, energy)
        step = -math.log(1.0 - r) / total
        lost = _lost(sensor, y, z, v, w, step)
        if lost != 0:
            escaped += energy if lost == ESCAPED else 0.0
            absorbed += energy if lost == ABSORBED else 0.0
            break
        x, y, z = x + u * step, y + v * step, z + w * step
        # coordinates relative to the center of the current pixel
        across_x = math.floor(x / sensor.pitch_x + 0.5)
        across_y = math.floor(y / sensor.pitch_y + 0.5)
        x, y = x - across_x * sensor.pitch_x, y - across_y * sensor.pitch_y
        i, j = i + int(across_x), j + int(across_y)
        process, after, cosine, state = _sample_interaction(rates, energy, total, state)
        if first:
            first = False
            ledger[INTERACTING] += 1.0
            ledger[FIRST_COMPTON] += 1.0 if process == COMPTON else 0.0
            ledger[FIRST_RAYLEIGH] += 1.0 if process == RAYLEIGH else 0.0
        if after < LOWEST_TRACKED_keV or n_hits > MAX_HITS - 10:
            after = 0.0
        deposit = energy - after
        if deposit > 0.0:
            if _collects(sensor, x, y, z):
                deposited += deposit
                n_hits = collect(sensor, hits, n_hits, i, j, x, y, z, deposit)
            else:
                absorbed += deposit
        energy = after
        if energy > 0.0:
            r, state = draw(state)
            if process == PHOTOELECTRIC:
                cosine, state = draw(state)
                cosine, u, v, w = 2.0 * cosine - 1.0, 0.0, 0.0, 1.0
            u, v, w = rotated(u, v, w, cosine, 2.0 * math.pi * r)
    _record(ledger, emitted, deposited, escaped, absorbed)
    return n_hits, state


@njit(cache=True, error_model="numpy", parallel=True)
@no_type_check
def simulate(sensor, rates, energy_keV, seed, first, n_histories, singles, pairs, ledger):
    """Run n_histories, divided over the chunks; the first history has number ``first``.

    singles (chunk, energy) counts hits; pairs (chunk, energy, energy) counts pairs of hits of one
    photon.
    """
    n_chunks = singles.shape[0]
    for chunk in prange(n_chunks):
        hits = Hits(
            np.zeros(MAX_HITS, np.int64),
            np.zeros(MAX_HITS, np.int64),
            np.zeros(MAX_HITS, np.int64),
            np.zeros(MAX_HITS),
        )
        single, pair, chunk_ledger = singles[chunk], pairs[chunk], ledger[chunk]
        energy = rounded(energy_keV)
        for n in range(chunk * n_histories // n_chunks, (chunk + 1) * n_histories // n_chunks):
            n_hits, state = history(
                sensor, rates, energy, stream(seed, first + n), hits, chunk_ledger
            )
            if sensor.noise_keV > 0.0:
                state = add_noise(sensor, hits, n_hits, state)
            if sensor.anti_coincidence:
                n_hits = anti_coincidence(sensor, hits, n_hits)
            for i in range(n_hits):
                if hits.keV[i] < 0.0:
                    continue
                at = int(hits.keV[i] / HIT_keV + 0.5)
                single[min(at, single.size - 1)] += 1
                a = min(int(hits.keV[i] / PAIR_keV + 0.5), pair.shape[0] - 1)
                for k in range(i):
                    if hits.keV[k] >= 0.0:
                        b = min(int(hits.keV[k] / PAIR_keV + 0.5), pair.shape[0] - 1)
                        pair[a, b] += 1
