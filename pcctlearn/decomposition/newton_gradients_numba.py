"""Gradients of minima in double precision, ray by ray; equations: ``fused_gradients_numba``."""

from typing import no_type_check

import numpy as np
from numba import njit, prange

from pcctlearn.decomposition.likelihood_numba import likelihood, packed
from pcctlearn.decomposition.newton_numba import solve

TILE = 256  # rays of one pixel that a thread takes at a time


@no_type_check
@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _add_to_tables(x, ratio, along, u, beam, t, spectra, attenuation, of_tables):
    """Add the gradients in spectra and attenuation of one ray."""
    _, _, materials, bins = beam
    K, B = len(materials), len(bins)
    for e in range(attenuation.shape[1]):
        weight = 0.0
        for k in range(K):
            weight += u[k] * attenuation[k, e]
        bent = 0.0
        for b in range(B):
            pull = t[e] * (ratio[b] * along[b] + (1 - ratio[b]) * weight)
            of_tables[b, e] += pull
            bent += spectra[b, e] * pull
            for k in range(K):
                of_tables[B + k, e] += t[e] * spectra[b, e] * (1 - ratio[b]) * u[k]
        for k in range(K):
            of_tables[B + k, e] -= bent * x[k]


@no_type_check
@njit(cache=True, error_model="numpy")
def _gradients_tile(
    x, counts, spectra, attenuation, lower, upper, passes, cotangent, materials, bins, of_counts,
    of_tables,
):  # fmt: skip
    """``gradients`` for the rays of a tile; arrays without the pixel axis."""
    K, B = len(materials), len(bins)
    beam = packed(spectra, attenuation, materials, bins)
    n_moments = 1 + K + K * (K + 1) // 2
    scratch = np.empty(attenuation.shape[1]), np.empty((B * n_moments + 3) // 4 * 4)
    t, sums = scratch
    g, slope, u, free = np.empty(K), np.empty(K), np.empty(K), np.ones(K, np.bool_)
    H, L = np.empty((K, K)), np.empty((K, K))
    ratio, along = np.empty(B), np.empty(B)
    for ray in range(len(x)):
        if not passes[ray]:
            continue
        n, at = counts[ray], x[ray]
        likelihood(at, n, beam, True, scratch, slope, g, H)
        for k in range(K):
            free[k] = not ((at[k] <= lower[k] and g[k] > 0) or (at[k] >= upper[k] and g[k] < 0))
        if not solve(H, cotangent[ray], free, L, u):
            continue
        for b in range(B):
            ratio[b], along[b] = n[b] / sums[b * n_moments], 0.0
            for k in range(K):
                along[b] += u[k] * sums[b * n_moments + 1 + k] / sums[b * n_moments]
            of_counts[ray, b] = -along[b]
        if len(of_tables) > 0:
            _add_to_tables(
                at, ratio, along, u, beam, t, spectra, attenuation, of_tables[0]
            )  # fmt: skip


@no_type_check
@njit(cache=True, error_model="numpy", parallel=True)
def gradients(
    x, counts, spectra, attenuation, lower, upper, passes, cotangent, materials, bins,
    of_counts, of_tables,
):  # fmt: skip
    """Gradients of Σ v·A in counts, spectra and attenuation, all arrays in double precision.

    Args:
        lower, upper: limits of the area densities; only unknowns that are free to move pass a
            gradient.
        of_counts: (pixel, ray, bin), zero, written.
        of_tables: (pixel, tile, bin + material, energy), zero, written: the gradients in spectra
            and attenuation; empty if not wanted.
        x, counts, spectra, attenuation, passes, cotangent, materials, bins: as in
            ``fused_gradients_numba.gradients``.
    """
    n_rays = counts.shape[1]
    per_pixel = (n_rays + TILE - 1) // TILE
    for tile in prange(counts.shape[0] * per_pixel):
        pixel, i = tile // per_pixel, tile % per_pixel * TILE
        j = i + TILE
        spectrum = pixel if len(spectra) > 1 else 0
        _gradients_tile(
            x[pixel, i:j], counts[pixel, i:j], spectra[spectrum], attenuation, lower, upper,
            passes[pixel, i:j], cotangent[pixel, i:j], materials, bins,
            of_counts[pixel, i:j], of_tables[pixel, tile % per_pixel :],
        )  # fmt: skip
