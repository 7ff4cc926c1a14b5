"""Analog photon transport (numba): unbiased reference for the variance-reduced kernel."""

from typing import no_type_check

from numba import njit, prange

from pcctlearn.montecarlo.object.tracking_numba import (
    ABSORBED,
    EMITTED,
    ESCAPED,
    MULTIPLE,
    N_PHOTO,
    PRIMARY,
    LOWEST_TRACKED_keV,
    emit_photon,
    next_interaction,
    panel_intersection,
    sample_interaction,
    sample_scattering,
    score,
)
from pcctlearn.montecarlo.photons_numba import rate_at, stream, volume_intersection


@njit(cache=True, error_model="numpy")
@no_type_check
def analog_history(panel, voxels, tables, energies, state, tally, ledger):
    """Follow one photon without variance reduction; the tally has all four kinds."""
    u, v, w, energy, weight, state = emit_photon(panel, energies, state)
    x, y, z = panel.source
    ledger[EMITTED] += weight * energy
    kind = PRIMARY
    near, far = volume_intersection(voxels, x, y, z, u, v, w)
    if near < far:
        x, y, z = x + u * near, y + v * near, z + w * near
        while True:
            majorant = rate_at(energies.majorant, energy)
            x, y, z, i, j, k, total, state = next_interaction(
                voxels, tables, majorant, x, y, z, u, v, w, energy, state
            )
            if k < 0:
                break
            m, process, state = sample_interaction(
                tables, voxels.density[k, j, i], energy, 0, total, state
            )
            ledger[N_PHOTO + process] += 1.0
            if process == 0:
                ledger[ABSORBED] += weight * energy
                return
            before = energy
            u, v, w, energy, state = sample_scattering(tables, m, process, u, v, w, energy, state)
            ledger[ABSORBED] += weight * (before - energy)
            kind = process if kind == PRIMARY else MULTIPLE
            if energy < LOWEST_TRACKED_keV:
                ledger[ABSORBED] += weight * energy
                return
    ledger[ESCAPED] += weight * energy
    row, column, _ = panel_intersection(panel, x, y, z, u, v, w)
    if 0 <= column < tally.shape[2] and 0 <= row < tally.shape[1]:
        score(tally, kind, row, column, energies, energy, weight)


@njit(cache=True, error_model="numpy", parallel=True)
@no_type_check
def analog(panel, voxels, tables, energies, seed, first, n_histories, tally, ledger):
    """Run n_histories for each chunk of the tally; the first history has number ``first``."""
    for chunk in prange(tally.shape[0]):
        for n in range(n_histories):
            state = stream(seed, first + chunk * n_histories + n)
            analog_history(panel, voxels, tables, energies, state, tally[chunk], ledger[chunk])
