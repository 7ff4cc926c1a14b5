"""Emission, delta tracking, scattering and scoring of photons between source and panel (numba).

A tally is (kind, row, column, group); a ledger holds energies and numbers of photons. Each chunk of
histories has its own tally and ledger, so that results are bit-identical on any number of threads.
"""

import math
from typing import NamedTuple, no_type_check

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pcctlearn.montecarlo.interactions import Interactions
from pcctlearn.montecarlo.photons_numba import (
    compton_energy,
    draw,
    rate_at,
    rotated,
    sample_cosine,
)

PRIMARY, COMPTON_ONCE, RAYLEIGH_ONCE, MULTIPLE = range(4)  # kinds
EMITTED, ABSORBED, ESCAPED, N_PHOTO, N_COMPTON, N_RAYLEIGH, N_SCATTERED = range(
    7
)  # columns of a ledger
N_LEDGER = 7
LOWEST_TRACKED_keV = 5.0  # below every threshold: absorbed locally

FASTMATH = {"contract", "arcp", "nsz", "reassoc"}


class Panel(NamedTuple):
    """Source and panel of one view, cm; the origin on the panel is the foot of the central ray."""

    source: NDArray[np.float64]
    center: NDArray[np.float64]
    along: NDArray[np.float64]  # the columns
    toward: NDArray[np.float64]
    up: NDArray[np.float64]  # the rows
    low: NDArray[np.float64]  # (column, row) edges of the first pixel
    pixel: NDArray[np.float64]  # (column, row)
    opening: NDArray[np.float64]  # of the beam on the panel: (left, right, bottom, top)


class EmissionTable(NamedTuple):
    """Energies that the tube emits and groups in which photons are tallied, keV."""

    emitted: NDArray[np.float64]
    cumulative: NDArray[np.float64]  # probability of the emitted energies, ends at 1
    majorant: NDArray[np.float64]  # 1/cm, largest of any voxel, on the energies of the rates
    first_group: float
    group_step: float


@njit(cache=True, error_model="numpy")
@no_type_check
def emit_photon(panel, energies, state):
    """Emit a photon towards a random point of the opening.

    Returns direction, energy, relative fluence and state. The fluence of a point source on a flat
    panel is proportional to cos³ of the angle of incidence.
    """
    r_u, state = draw(state)
    r_v, state = draw(state)
    opening = panel.opening
    a = opening[0] + r_u * (opening[1] - opening[0])
    b = opening[2] + r_v * (opening[3] - opening[2])
    u = panel.center[0] + a * panel.along[0] + b * panel.up[0] - panel.source[0]
    v = panel.center[1] + a * panel.along[1] + b * panel.up[1] - panel.source[1]
    w = panel.center[2] + a * panel.along[2] + b * panel.up[2] - panel.source[2]
    length = math.sqrt(u * u + v * v + w * w)
    u, v, w = u / length, v / length, w / length
    incidence = u * panel.toward[0] + v * panel.toward[1] + w * panel.toward[2]
    r, state = draw(state)
    i = np.searchsorted(energies.cumulative, r, side="right")
    energy = energies.emitted[min(i, energies.emitted.size - 1)]
    return u, v, w, energy, incidence**3, state


@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
@no_type_check
def next_interaction(voxels, tables, majorant, x, y, z, u, v, w, energy, state):
    """Delta (Woodcock) tracking to the next interaction.

    Returns position, voxel indices, total attenuation there (1/cm) and the random state; k = −1 if
    the photon has left the volume.

    E. Woodcock et al., Argonne National Laboratory ANL-7050 (1965) 557.
    """
    density, lower, size = voxels.density, voxels.lower_cm, voxels.size_cm
    n_z, n_y, n_x, n_materials = density.shape
    while True:
        r, state = draw(state)
        step = -math.log(1.0 - r) / majorant
        x, y, z = x + u * step, y + v * step, z + w * step
        a, b, c = (x - lower[0]) / size[0], (y - lower[1]) / size[1], (z - lower[2]) / size[2]
        if a < 0 or b < 0 or c < 0 or a >= n_x or b >= n_y or c >= n_z:
            return x, y, z, 0, 0, -1, 0.0, state
        i, j, k = int(a), int(b), int(c)
        total = 0.0
        for m in range(n_materials):
            if density[k, j, i, m] > 0:
                total += density[k, j, i, m] * rate_at(tables.total[m], energy)
        r, state = draw(state)
        if r * majorant < total:
            return x, y, z, i, j, k, total, state


@njit(cache=True, error_model="numpy")
@no_type_check
def sample_interaction(tables, densities, energy, first_process, total, state):
    """Sample material and process of an interaction; processes begin at ``first_process``."""
    r, state = draw(state)
    left = r * total
    material, process = densities.size - 1, 2
    for m in range(densities.size):
        for p in range(first_process, 3):
            left -= densities[m] * rate_at(tables.rates[m, p], energy)
            if left < 0:
                return m, p, state
            if densities[m] > 0:
                material, process = m, p
    return material, process, state


@njit(cache=True, error_model="numpy")
@no_type_check
def sample_scattering(tables, material, process, u, v, w, energy, state):
    """Sample direction and energy after Compton or Rayleigh scattering."""
    cosine, state = sample_cosine(tables.cosines[material, process - 1], energy, state)
    r, state = draw(state)
    u, v, w = rotated(u, v, w, cosine, 2 * math.pi * r)
    if process == 1:
        energy = compton_energy(energy, cosine)
    return u, v, w, energy, state


@njit(cache=True, error_model="numpy")
@no_type_check
def score(tally, kind, row, column, energies, energy, value):
    """Add a value to the two groups on either side of its energy, by linear interpolation."""
    position = (energy - energies.first_group) / energies.group_step
    n_groups = tally.shape[3]
    if position < 0:
        return
    g = min(int(position), n_groups - 1)
    share = position - g if g < n_groups - 1 else 0.0
    tally[kind, row, column, g] += value * (1 - share)
    if share > 0:
        tally[kind, row, column, g + 1] += value * share


@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
@no_type_check
def panel_intersection(panel, x, y, z, u, v, w):
    """Row and column of the intersection with the panel, −1 if there is none, and its distance."""
    forward = u * panel.toward[0] + v * panel.toward[1] + w * panel.toward[2]
    if forward <= 1e-6:
        return -1, -1, 0.0
    dx, dy, dz = x - panel.center[0], y - panel.center[1], z - panel.center[2]
    t = -(dx * panel.toward[0] + dy * panel.toward[1] + dz * panel.toward[2]) / forward
    dx, dy, dz = dx + u * t, dy + v * t, dz + w * t
    a = dx * panel.along[0] + dy * panel.along[1] + dz * panel.along[2] - panel.low[0]
    b = dx * panel.up[0] + dy * panel.up[1] + dz * panel.up[2] - panel.low[1]
    return math.floor(b / panel.pixel[1]), math.floor(a / panel.pixel[0]), t


def majorant(density: NDArray[np.uint16], tables: Interactions) -> NDArray[np.float64]:
    """Largest attenuation of any voxel at each energy of the rates, 1/cm."""
    # densities are rounded up to one byte, which leaves few different mixtures
    rounded = (density.reshape(-1, density.shape[-1]).astype(np.uint32) + 255) // 256
    mixtures = np.unique(rounded, axis=0) * 256
    return (mixtures @ tables.total).max(0)
