"""Forced-detection transport with implicit capture and Russian roulette (numba).

Every history is forced to scatter. Each interaction is scored on the panel by a next-event
estimator, absorption reduces the weight of the photon (implicit capture), and histories of low
weight are terminated by Russian roulette.

``zeros`` is a tuple with a zero for each material. Its length gives the compiler the number of
materials, so that path integrals stay in registers.
"""

import math
from typing import no_type_check

from numba import njit, prange
from numba.extending import overload

from pcctlearn.montecarlo.object.tracking_numba import (
    COMPTON_ONCE,
    FASTMATH,
    N_SCATTERED,
    RAYLEIGH_ONCE,
    LOWEST_TRACKED_keV,
    emit_photon,
    next_interaction,
    panel_intersection,
    sample_interaction,
    sample_scattering,
    score,
)
from pcctlearn.montecarlo.photons_numba import (
    compton_energy,
    cosine_at,
    density_per_sr,
    draw,
    rate_at,
    rotated,
    stream,
    walk,
)

_ROULETTE_WEIGHT = 0.02  # below it, half of the histories survive with twice the weight
_MAX_ORDERS = 50
_FAR_cm = 1e9
# steps of the R2 low-discrepancy sequence (M. Roberts): 1/p and 1/p², with p the plastic number
_STEP_U, _STEP_V = 0.7548776662466927, 0.5698402909980532


def scatter_rates(zeros, tables, energy, m=0):
    """Compton plus Rayleigh rate of each material, from material m on, cm²/g."""
    return tuple(
        rate_at(tables.rates[k, 1], energy) + rate_at(tables.rates[k, 2], energy)
        for k in range(m, m + len(zeros))
    )


@overload(scatter_rates)
def _scatter_rates(zeros, tables, energy, m=0):
    if len(zeros) == 0:
        return lambda zeros, tables, energy, m=0: ()

    @no_type_check
    def rates(zeros, tables, energy, m=0):
        rate = rate_at(tables.rates[m, 1], energy) + rate_at(tables.rates[m, 2], energy)
        return (rate, *scatter_rates(zeros[1:], tables, energy, m + 1))

    return rates


def scatter_chances(zeros, tables, densities, energy, scatter, m=0):
    """(Compton, Rayleigh) probability of each material in one voxel, from material m on."""
    return tuple(
        tuple(d * rate_at(tables.rates[k, p], energy) / scatter for p in (1, 2))
        for k, d in enumerate(densities[m:], m)
    )


@overload(scatter_chances)
def _scatter_chances(zeros, tables, densities, energy, scatter, m=0):
    if len(zeros) == 0:
        return lambda zeros, tables, densities, energy, scatter, m=0: ()

    @no_type_check
    def chances(zeros, tables, densities, energy, scatter, m=0):
        share = densities[m] / scatter
        compton = share * rate_at(tables.rates[m, 1], energy)
        rayleigh = share * rate_at(tables.rates[m, 2], energy)
        others = scatter_chances(zeros[1:], tables, densities, energy, scatter, m + 1)
        return ((compton, rayleigh), *others)

    return chances


@njit(cache=True, error_model="numpy")
@no_type_check
def per_cm(rates, densities):
    """Σ_m rates_m · density_m."""
    total = 0.0
    for m in range(len(rates)):
        total += rates[m] * densities[m]
    return total


@njit(cache=True, error_model="numpy")
@no_type_check
def sample_rayleigh_cosine(tables, chances, total, energy, quantile, state):
    """cos θ of Rayleigh scattering at a quantile, in a material drawn by its probability."""
    r, state = draw(state)
    left, material = r * total, len(chances) - 1
    for m in range(len(chances)):
        left -= chances[m][1]
        if left < 0:
            material = m
            break
    return cosine_at(tables.cosines[material, 1], energy, quantile, state)


@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
@no_type_check
def score_compton(panel, voxels, tables, energies, photon, chances, p_u, p_v, zeros, kind, tally):
    """Next-event estimate of a Compton scattering at one point of the panel.

    weight · Σ_m P_m p_m(θ) · cos α / d² · area · exp(−τ'), with P_m from ``chances``, p_m per
    steradian, and τ' the optical depth at the energy after scattering.
    """
    x, y, z, u, v, w, energy, weight = photon
    n_rows, n_columns = tally.shape[1], tally.shape[2]
    a, b = p_u * n_columns, p_v * n_rows
    column, row = int(a), int(b)
    a = panel.low[0] + a * panel.pixel[0]
    b = panel.low[1] + b * panel.pixel[1]
    to_x = panel.center[0] + a * panel.along[0] + b * panel.up[0] - x
    to_y = panel.center[1] + a * panel.along[1] + b * panel.up[1] - y
    to_z = panel.center[2] + a * panel.along[2] + b * panel.up[2] - z
    length = math.sqrt(to_x * to_x + to_y * to_y + to_z * to_z)
    to_x, to_y, to_z = to_x / length, to_y / length, to_z / length
    incidence = to_x * panel.toward[0] + to_y * panel.toward[1] + to_z * panel.toward[2]
    if incidence <= 0:
        return
    cosine = u * to_x + v * to_y + w * to_z
    path = walk(voxels, x, y, z, to_x, to_y, to_z, length, zeros)[0]
    after = compton_energy(energy, cosine)
    per_sr, tau = 0.0, 0.0
    for m in range(len(path)):
        tau += path[m] * rate_at(tables.total[m], after)
        if chances[m][0] > 0:
            per_sr += chances[m][0] * density_per_sr(tables.shapes[m, 0], energy, cosine)
    area = panel.pixel[0] * panel.pixel[1] * n_rows * n_columns
    value = weight * per_sr * incidence / (length * length) * area * math.exp(-tau)
    score(tally, kind, row, column, energies, after, value)


@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
@no_type_check
def score_rayleigh(panel, voxels, tables, energies, photon, cosine, azimuth, zeros, kind, tally):
    """Next-event estimate of a Rayleigh scattering in one direction, weight · exp(−τ).

    Directions are sampled from p(θ) because p(θ) is so peaked that only a few of uniformly sampled
    points of the panel would contribute.
    """
    x, y, z, u, v, w, energy, weight = photon
    u, v, w = rotated(u, v, w, cosine, azimuth)
    row, column, length = panel_intersection(panel, x, y, z, u, v, w)
    if 0 <= column < tally.shape[2] and 0 <= row < tally.shape[1]:
        path = walk(voxels, x, y, z, u, v, w, length, zeros)[0]
        tau = 0.0
        for m in range(len(path)):
            tau += path[m] * rate_at(tables.total[m], energy)
        score(tally, kind, row, column, energies, energy, weight * math.exp(-tau))


@njit(cache=True, error_model="numpy")
@no_type_check
def first_scattering(panel, voxels, tables, energies, state, zeros):
    """Sample the first scattering: photon, voxel indices and state; weight 0 if the ray misses.

    The site is sampled along the whole ray in proportion to the scattering coefficient, without
    the attenuation before it, which enters the weight. Forward-scattered photons from any depth
    cross about the same amount of material in total, so that their weights are nearly equal.
    """
    u, v, w, energy, weight, state = emit_photon(panel, energies, state)
    x, y, z = panel.source
    rates = scatter_rates(zeros, tables, energy)
    through = walk(voxels, x, y, z, u, v, w, _FAR_cm, zeros)[0]
    power = 0.0
    for m in range(len(zeros)):
        power += rates[m] * through[m]
    r, state = draw(state)
    before, distance, i, j, k = walk(voxels, x, y, z, u, v, w, _FAR_cm, zeros, rates, r * power)
    tau = 0.0
    for m in range(len(zeros)):
        tau += before[m] * rate_at(tables.total[m], energy)
    weight *= power * math.exp(-tau)
    photon = (x + u * distance, y + v * distance, z + w * distance, u, v, w, energy, weight)
    return photon, i, j, k, state


@njit(cache=True, error_model="numpy")
@no_type_check
def score_interaction(
    panel, voxels, tables, energies, photon, chances, n_points, kinds, zeros, tally, state
):
    """Score one interaction at n_points (Compton) and in n_points directions (Rayleigh)."""
    x, y, z, u, v, w, energy, weight = photon
    share = (x, y, z, u, v, w, energy, weight / n_points)
    a, state = draw(state)
    b, state = draw(state)
    for _ in range(n_points):
        score_compton(panel, voxels, tables, energies, share, chances, a, b, zeros, kinds[0], tally)
        a, b = a + _STEP_U, b + _STEP_V
        a, b = a - math.floor(a), b - math.floor(b)
    rayleigh = 0.0
    for m in range(len(zeros)):
        rayleigh += chances[m][1]
    share = (x, y, z, u, v, w, energy, weight * rayleigh / n_points)
    a, state = draw(state)
    b, state = draw(state)
    for _ in range(n_points):
        cosine, state = sample_rayleigh_cosine(tables, chances, rayleigh, energy, a, state)
        azimuth = 2 * math.pi * b
        score_rayleigh(
            panel, voxels, tables, energies, share, cosine, azimuth, zeros, kinds[1], tally
        )
        a, b = a + _STEP_U, b + _STEP_V
        a -= math.floor(a)
    return state


@njit(cache=True, error_model="numpy")
@no_type_check
def forced_history(panel, voxels, tables, energies, n_points, state, zeros, tally, ledger):
    """Follow one history from its first scattering; absorption only reduces its weight."""
    photon, i, j, k, state = first_scattering(panel, voxels, tables, energies, state, zeros)
    x, y, z, u, v, w, energy, weight = photon
    last = tally.shape[0] - 1  # a tally of one kind takes all scatter
    kinds = (COMPTON_ONCE, RAYLEIGH_ONCE) if last else (last, last)
    for _ in range(_MAX_ORDERS):
        if weight < _ROULETTE_WEIGHT:  # Russian roulette
            r, state = draw(state)
            if r < 0.5 or weight == 0:
                return
            weight *= 2
        densities = voxels.density[k, j, i]
        rates = scatter_rates(zeros, tables, energy)
        scatter = per_cm(rates, densities)
        if scatter <= 0:  # rounding placed the site in air at the far side of the object
            return
        ledger[N_SCATTERED] += 1
        chances = scatter_chances(zeros, tables, densities, energy, scatter)
        photon = (x, y, z, u, v, w, energy, weight)
        state = score_interaction(
            panel, voxels, tables, energies, photon, chances, n_points, kinds, zeros, tally, state
        )
        m, process, state = sample_interaction(tables, densities, energy, 1, scatter, state)
        u, v, w, energy, state = sample_scattering(tables, m, process, u, v, w, energy, state)
        kinds = (last, last)
        if energy < LOWEST_TRACKED_keV:
            return
        majorant = rate_at(energies.majorant, energy)
        x, y, z, i, j, k, total, state = next_interaction(
            voxels, tables, majorant, x, y, z, u, v, w, energy, state
        )
        if k < 0:
            return
        rates = scatter_rates(zeros, tables, energy)
        scatter = per_cm(rates, voxels.density[k, j, i])
        weight *= scatter / total  # implicit capture


@njit(cache=True, error_model="numpy", parallel=True)
@no_type_check
def forced(
    panel, voxels, tables, energies, n_points, seed, first, n_histories, zeros, tally, ledger
):
    """Run n_histories for each chunk of the tally; the first history has number ``first``."""
    for chunk in prange(tally.shape[0]):
        for n in range(n_histories):
            state = stream(seed, first + chunk * n_histories + n)
            forced_history(
                panel,
                voxels,
                tables,
                energies,
                n_points,
                state,
                zeros,
                tally[chunk],
                ledger[chunk],
            )
