"""First iterates of three materials from a polynomial, and the energies of the first evaluation.

The polynomial is that of ``polynomial.py``, of second degree, in float32 for 64 rays at a time. At
its distance from the minimum, pairs of energies are as good as all energies.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from pcctlearn.decomposition.lanes_numba import FASTMATH, LANES, f4, log, rows
from pcctlearn.instructions_numba import use_wide_vectors


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def in_pairs(spectra, attenuation):
    """Spectra and mean attenuation of pairs of energies."""
    use_wide_vectors()
    n_bins, n_energies = spectra.shape
    n_pairs = (n_energies + 1) // 2
    S = np.zeros((n_bins, n_pairs), np.float32)
    mu = np.zeros((len(attenuation), n_pairs), np.float32)
    weights = np.zeros(n_energies, np.float32)
    for e in range(n_energies):
        for b in range(n_bins):
            S[b, e // 2] += spectra[b, e]
            weights[e] += spectra[b, e]
    for e in range(n_energies):
        first = e // 2 * 2
        photons = weights[first] + f4(1e-30)
        if first + 1 < n_energies:
            photons += weights[first + 1]
        for k in range(len(attenuation)):
            mu[k, e // 2] += attenuation[k, e] * (weights[e] / photons)
    return S, mu


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def start_at_polynomial(w, air, polynomial, materials, bins):
    """A from the polynomial of second degree in log(air/n), between zero and its largest values."""
    use_wide_vectors()
    A, _, _, _, _, _, N, M, _ = rows(materials, bins)
    coefficients, most = polynomial
    for b in range(len(bins)):
        for r in range(LANES):
            w[(M + b) * LANES + r] = log(air[b] / max(w[(N + b) * LANES + r], f4(0.5)))
    for k in range(len(materials)):
        for r in range(LANES):
            w[(A + k) * LANES + r] = f4(0)
        row = 0
        for b in range(len(bins)):
            c = coefficients[row, k]
            row += 1
            for r in range(LANES):
                w[(A + k) * LANES + r] += c * w[(M + b) * LANES + r]
        for b in range(len(bins)):
            for other in range(b, len(bins)):
                c = coefficients[row, k]
                row += 1
                for r in range(LANES):
                    p = w[(M + b) * LANES + r] * w[(M + other) * LANES + r]
                    w[(A + k) * LANES + r] += c * p
        for r in range(LANES):
            w[(A + k) * LANES + r] = min(max(w[(A + k) * LANES + r], f4(0)), most[k])
