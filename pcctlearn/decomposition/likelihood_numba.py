"""Half the deviance of one ray with its derivatives, in double precision.

``no_type_check`` exempts compiled functions from the shape checks of the tests.
"""

from math import log
from typing import no_type_check

import numpy as np
from numba import njit

_f8, _i8 = np.float64, np.int64
_SMALLEST = np.finfo(np.float64).tiny ** 0.5  # ``negligible``
_LOG2_E = np.log2(np.e)
_LEAST_EXPONENT = np.log2(_SMALLEST)
_ROUND = 1.5 * 2.0**52  # adding it rounds to a whole number

# 2^x for |x| ≤ 1/2 to 1e-16: Σ (x ln 2)^k / k!
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13 = (
    float(np.log(2) ** k / np.prod(np.arange(1.0, k + 1))) for k in range(14)
)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def _transmit(x, exponents, materials, t):
    """exp(−μ·x) at every energy, not less than ``_SMALLEST``."""
    for e in range(len(t)):
        y = 0.0
        for k in range(len(materials)):
            y += exponents[k, e] * x[k]
        y = min(max(y, _LEAST_EXPONENT), 1000.0)
        shifted = y + _ROUND
        r = y - (shifted - _ROUND)
        p = _C9 + r * (_C10 + r * (_C11 + r * (_C12 + r * _C13)))
        p = _C5 + r * (_C6 + r * (_C7 + r * (_C8 + r * p)))
        p = _C0 + r * (_C1 + r * (_C2 + r * (_C3 + r * (_C4 + r * p))))
        power = _i8(_f8(shifted).view(_i8)) << _i8(52)
        t[e] = _i8(_f8(p).view(_i8) + power).view(_f8)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "reassoc"})
def _sums(t, weights, sums):
    """Σ_e t(e) of the rows of ``weights``, whose number is a multiple of four."""
    n = len(t)
    for i in range(0, len(sums), 4):
        a, b, c, d = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        s, u, v, w = 0.0, 0.0, 0.0, 0.0
        for e in range(n):
            s += t[e] * a[e]
            u += t[e] * b[e]
            v += t[e] * c[e]
            w += t[e] * d[e]
        sums[i], sums[i + 1], sums[i + 2], sums[i + 3] = s, u, v, w


@no_type_check
@njit(cache=True, error_model="numpy")
def packed(spectra, attenuation, materials, bins):
    """−μ log₂ e, and for each energy S_b, S_b μ_k and S_b μ_k μ_m of every bin."""
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    weights = np.zeros(((len(bins) * n_moments + 3) // 4 * 4, spectra.shape[1]))
    for e in range(spectra.shape[1]):
        for b in range(len(bins)):
            i = b * n_moments
            weights[i, e] = spectra[b, e] if spectra[b, e] > _SMALLEST else 0.0
            row = i + 1 + K
            for k in range(K):
                weights[i + 1 + k, e] = weights[i, e] * attenuation[k, e]
                for m in range(k + 1):
                    weights[row, e] = weights[i + 1 + k, e] * attenuation[m, e]
                    row += 1
    return -_LOG2_E * attenuation, weights, materials, bins


@no_type_check
@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def likelihood(x, n, beam, exact, scratch, slope, g, H):
    """Half the deviance; writes its gradient and its exact or expected Hessian."""
    exponents, weights, materials, bins = beam
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    t, sums = scratch
    _transmit(x, exponents, materials, t)
    _sums(t, weights, sums)
    value = 0.0
    for k in range(K):
        g[k] = 0.0
        for m in range(K):
            H[k, m] = 0.0
    for b in range(len(bins)):
        i = b * n_moments
        mean = sums[i]
        ratio = n[b] / mean
        excess = 1.0 - ratio
        weight = ratio / mean if exact else 1.0 / mean
        value += mean - n[b] + n[b] * log(max(ratio, _SMALLEST))
        row = i + 1 + K
        for k in range(K):
            slope[k] = -sums[i + 1 + k]
            g[k] += excess * slope[k]
            for m in range(k + 1):
                H[k, m] += weight * slope[k] * slope[m]
                if exact:
                    H[k, m] += excess * sums[row]
                row += 1
    for k in range(K):
        for m in range(k):
            H[m, k] = H[k, m]
    return value
