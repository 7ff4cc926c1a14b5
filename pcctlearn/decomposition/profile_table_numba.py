"""Expected counts along lines of equal totals: the table for ``profile_numba``."""

from typing import no_type_check

import numpy as np
from numba import njit, prange

from pcctlearn.decomposition.lanes_numba import (
    FASTMATH,
    LANES,
    LOG2_E,
    exp2,
    f4,
    log,
    look_at,
    packed,
    rows,
)
from pcctlearn.instructions_numba import flush_denormals, restore_denormals, use_wide_vectors

# last rows of the table: Σ_b ȳ_b − N, w, and Fisher information on c per photon, in nodes
EXCESS, W, INFORMATION = -3, -2, -1
OTHERS = 3
_TINY = f4(1e-30)  # least share of a bin, and least slope of the total
_MOST = f4(1e30)  # largest total: beyond, sums overflow in float32
_NEWTON_STEPS = 2  # to the area density of a total


def n_rows(n_bins: int) -> int:
    """Rows of the table at one total: bins, padded to a multiple of four, and ``OTHERS``."""
    return (n_bins + 3) // 4 * 4 + OTHERS


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _counts_along(c, lower, step, n, beam, materials, bins):
    """ȳ_b, and mean and variance of μ_w in each bin, at n area densities w; and Σ_b ȳ_b."""
    use_wide_vectors()
    exponents, weights = beam
    A, _, _, _, _, _, _, M, height = rows(materials, bins)
    n_moments = 6  # of two materials
    w = np.zeros(height * LANES, np.float32)
    found, total = np.empty((3, len(bins), n), np.float32), np.zeros(n, np.float32)
    for first in range(0, n, LANES):
        for r in range(LANES):
            w[A * LANES + r] = lower + step * f4(first + r)
            w[(A + 1) * LANES + r] = c
        look_at(w, exponents, weights, materials, bins)
        for b in range(len(bins)):
            m = (M + b * n_moments) * LANES
            for r in range(LANES):
                found[0, b, first + r] = w[m + r]
                found[1, b, first + r] = w[m + LANES + r]
                found[2, b, first + r] = w[m + 3 * LANES + r]
                total[first + r] += w[m + r]
    for i in range(n):
        total[i] = total[i] if total[i] < _MOST else _MOST
    return found, total


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _counts_near(delta, at, found, y):
    """Write ȳ_b at a distance from a node; Σ_b ȳ_b and its derivative there, with a minus sign."""
    use_wide_vectors()
    total, falls = f4(0), f4(0)
    for b in range(len(y)):
        slope, variance = found[1, b, at], found[2, b, at]
        exponent = delta * (slope - f4(0.5) * variance * delta)
        y[b] = found[0, b, at] * exp2(-LOG2_E * exponent)
        total += y[b]
        falls += y[b] * (slope - variance * delta)
    return total, max(falls, _TINY)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _write_column(table, node, c, totals, lower, upper, n, beam, materials, bins):
    """Rows of the table at one area density c."""
    use_wide_vectors()
    step = (upper - lower) / f4(n - 1)
    found, total = _counts_along(c, lower, step, n, beam, materials, bins)
    y = np.empty(len(bins), np.float32)
    n_rows = table.shape[1]
    at = n - 1
    for i in range(len(totals)):
        while at > 0 and total[at] < totals[i]:  # totals rise, and fall with w
            at -= 1
        nearest = at
        if at < n - 1 and totals[i] / total[at + 1] < total[at] / totals[i]:
            nearest += 1
        delta = f4(0)
        reached, falls = _counts_near(delta, nearest, found, y)
        for _ in range(_NEWTON_STEPS):  # for the logarithm of the total
            delta += log(reached / totals[i]) * reached / falls
            delta = min(max(delta, -step * f4(nearest)), step * f4(n - 1 - nearest))
            reached, falls = _counts_near(delta, nearest, found, y)
        fits = reached < _MOST
        for b in range(n_rows - OTHERS):
            used = fits and b < len(bins)
            table[i, b, node] = log(max(y[b] / totals[i], _TINY)) if used else f4(0)
        # falling with c, so that P has no minimum
        excess = reached - totals[i] if fits else _MOST * f4(table.shape[2] - node)
        table[i, n_rows + EXCESS, node] = excess
        table[i, n_rows + W, node] = lower + step * f4(nearest) + (delta if fits else f4(0))


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _inform(table, n_bins):
    """Write the Fisher information on c, for one photon, per square of the distance of nodes."""
    last = table.shape[2] - 1
    for i in range(len(table)):
        for j in range(last + 1):
            below, above = max(j - 1, 0), min(j + 1, last)
            total, mean, square = _TINY, f4(0), f4(0)
            for b in range(n_bins):
                change = (table[i, b, above] - table[i, b, below]) / f4(above - below)
                share = exp2(LOG2_E * table[i, b, j])
                total += share
                mean += share * change
                square += share * change * change
            mean /= total  # where w is at a limit, Σ_b ȳ_b changes, too
            table[i, table.shape[1] + INFORMATION, j] = square / total - mean * mean


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH, parallel=True)
def tabulate(spectra, attenuation, lower, upper, totals, n, materials, bins, table):
    """log(ȳ_b/N), Σ_b ȳ_b − N, w and the information for totals N and evenly spaced c.

    Args:
        spectra: (bin, energy).
        attenuation: (material, energy), above zero for the first material.
        lower, upper: limits of the area densities; w is clamped to them.
        totals: N in photons, increasing.
        n: the expected counts are evaluated at as many w, a multiple of 64.
        materials, bins: tuples with one entry for each.
        table: (total, ``n_rows``, node), written.
    """
    use_wide_vectors()
    for j in prange(table.shape[2]):
        before = flush_denormals()
        beam = packed(spectra, attenuation, materials, bins)
        c = lower[1] + (upper[1] - lower[1]) * f4(j) / f4(table.shape[2] - 1)
        _write_column(table, j, c, totals, lower[0], upper[0], n, beam, materials, bins)
        restore_denormals(before)
    _inform(table, len(bins))
