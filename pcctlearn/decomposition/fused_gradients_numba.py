"""Gradients of the minima of ``fused_numba`` by one more evaluation.

With u = H⁻¹ v, the gradient of v·A in the counts is −u·d_b. In spectra and attenuation it is the
negative product of u with their derivative of the gradient of the likelihood: with p_b = (n/ȳ) u·d
and q_b = (1 − n/ȳ) u,

    exp(−μ·A) (p_b + q_b·μ)                              in S_b(E),
    exp(−μ·A) Σ_b S_b [q_bk − A_k (p_b + q_b·μ)]         in μ_k(E).
"""

from typing import no_type_check

import numpy as np
from numba import njit, prange

from pcctlearn.decomposition.lanes_numba import (
    DEFINITE,
    FASTMATH,
    LANES,
    TILE,
    differentiate,
    exp2,
    f4,
    look_at,
    packed,
    rows,
    solve,
)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _pull(w, materials, bins):
    """p_b and q_b of u in D; ȳ and d are overwritten."""
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    _, _, _, _, D, _, N, M, _ = rows(materials, bins)
    for b in range(len(bins)):
        m = (M + b * n_moments) * LANES
        for r in range(LANES):
            ratio, along = w[(N + b) * LANES + r] / w[m + r], f4(0)
            for k in range(K):
                along += w[(D + k) * LANES + r] * w[m + (1 + k) * LANES + r]
            w[m + r] = ratio * along
            for k in range(K):
                w[m + (1 + k) * LANES + r] = (f4(1) - ratio) * w[(D + k) * LANES + r]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _add_to_tables(  # noqa: PLR0912
    w, exponents, spectra, attenuation, sums, materials, bins
):
    """Add the gradients in spectra and, if there is room, attenuation to the sums of each lane.

    p and q are in the rows of ȳ and d; the first two rows are exp(−μ·A) and Σ_b S_b (p_b + q_b·μ).
    """
    K, B = len(materials), len(bins)
    n_moments = 1 + K + K * (K + 1) // 2
    n_energies = attenuation.shape[1]
    of_mu = len(sums) > B * n_energies * LANES
    A, _, _, _, _, _, _, M, _ = rows(materials, bins)
    for e in range(n_energies):
        for r in range(LANES):
            w[r] = w[LANES + r] = f4(0)
        for k in range(K):
            factor = exponents[e * K + k]
            for r in range(LANES):
                w[r] += factor * w[(A + k) * LANES + r]
        for r in range(LANES):
            w[r] = exp2(w[r])
        for b in range(B):
            S = spectra[b, e]
            m, o = (M + b * n_moments) * LANES, (b * n_energies + e) * LANES
            for r in range(LANES):
                pull = w[m + r]
                for k in range(K):
                    pull += attenuation[k, e] * w[m + (1 + k) * LANES + r]
                sums[o + r] += w[r] * pull
                w[LANES + r] += S * pull
            if of_mu:
                for k in range(K):
                    o = ((B + k) * n_energies + e) * LANES
                    for r in range(LANES):
                        sums[o + r] += w[r] * S * w[m + (1 + k) * LANES + r]
        if of_mu:
            for k in range(K):
                o = ((B + k) * n_energies + e) * LANES
                for r in range(LANES):
                    sums[o + r] -= w[r] * w[LANES + r] * w[(A + k) * LANES + r]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _write_of_counts(w, gradient, first, lanes, materials, bins):
    """−u·d_b of every ray, with u in D."""
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    _, _, _, _, D, _, _, M, _ = rows(materials, bins)
    for r in range(lanes):
        for b in range(len(bins)):
            value = f4(0)
            for k in range(K):
                value -= w[(D + k) * LANES + r] * w[(M + b * n_moments + 1 + k) * LANES + r]
            gradient[first + r, b] = value


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH, parallel=True)
def gradients(
    x, counts, spectra, attenuation, passes, cotangent, materials, bins, of_counts, of_tables
):
    """Gradients of Σ v·A in counts, spectra and attenuation.

    Args:
        x, counts, spectra, attenuation, materials, bins: as in ``minimise``.
        passes: (pixel, ray), whether a ray passes a gradient.
        cotangent: v, (pixel, ray, material).
        of_counts: (pixel, ray, bin), written; empty if not wanted.
        of_tables: (pixel, tile, bin + material, energy), written: the gradients in spectra and
            attenuation; (pixel, tile, bin, energy) for spectra alone, empty if not wanted.
    """
    K = len(materials)
    n_rays = counts.shape[1]
    per_pixel = (n_rays + TILE - 1) // TILE
    A, _, G, _, D, Q, N, _, height = rows(materials, bins)
    for tile in prange(counts.shape[0] * per_pixel):
        pixel, start = tile // per_pixel, tile % per_pixel * TILE
        own = pixel if len(spectra) > 1 else 0
        exponents, weights = packed(spectra[own], attenuation, materials, bins)
        w = np.zeros(height * LANES, np.float32)
        n_sums = of_tables.shape[2] * attenuation.shape[1] if of_tables.size > 0 else 0
        sums = np.zeros(n_sums * LANES, np.float32)
        stop = min(start + TILE, n_rays)
        for first in range(start, stop, LANES):
            lanes = min(LANES, stop - first)
            for r in range(LANES):
                i = first + min(r, lanes - 1)
                for b in range(len(bins)):
                    w[(N + b) * LANES + r] = counts[pixel, i, b]
                for k in range(K):  # an empty beam for rays that pass nothing: no 0 · NaN
                    w[(A + k) * LANES + r] = x[pixel, i, k] if passes[pixel, i] else f4(0)
            look_at(w, exponents, weights, materials, bins)
            differentiate(w, materials, bins)  # s and SAFE are zero
            for r in range(LANES):
                i = first + min(r, lanes - 1)
                through = r < lanes and passes[pixel, i]
                for k in range(K):
                    w[(G + k) * LANES + r] = cotangent[pixel, i, k] if through else f4(0)
            solve(w, materials, bins)
            for i in range(K * LANES):
                definite = w[(Q + DEFINITE) * LANES + i % LANES] > f4(0)
                w[D * LANES + i] = w[D * LANES + i] if definite else f4(0)
            if of_counts.size > 0:
                _write_of_counts(w, of_counts[pixel], first, lanes, materials, bins)
            if of_tables.size > 0:
                _pull(w, materials, bins)
                _add_to_tables(w, exponents, spectra[own], attenuation, sums, materials, bins)
        for i in range(n_sums):
            row, e = i // attenuation.shape[1], i % attenuation.shape[1]
            of_tables[pixel, tile % per_pixel, row, e] = sums[i * LANES : (i + 1) * LANES].sum()


def tiles_of(n_rays: int) -> int:
    """Number of tiles of a pixel."""
    return -(-n_rays // TILE)
