"""Vector lanes in float32: one evaluation of all energies for 64 rays, and the model it makes.

One evaluation at A gives, for every bin b, the expected counts ȳ_b and mean d_b and covariance C_b
of the attenuation μ under S_b(E) exp(−μ·A). They make a model of the counts whose error is of third
order in the step s,

    log ȳ_b(A + s) ≈ log ȳ_b − d_b·s + ½ sᵀ C_b s.

The 64 values of each quantity are one row of a scratch array whose offset the compiler knows, since
it follows from the lengths of the tuples ``materials`` and ``bins``, which are part of the types.
``no_type_check`` exempts compiled functions from the shape checks of the tests.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from pcctlearn.instructions_numba import multiply_add, use_wide_vectors

LANES = 64  # four vectors of AVX-512, eight of AVX2
TILE = 2048  # rays of one pixel that a thread takes at a time
FASTMATH = {"nsz"}  # NaN stays NaN, and every lane gets the same result
f4, i4 = np.float32, np.int32
EPS = f4(np.finfo(np.float32).eps)
MOST_INFLATED = f4(4e-5) / EPS  # variances: rounding changes gradients by 1e-4 at most

# 2^x for |x| ≤ 1/2 to 2e-9
_NODES = 0.5 * np.cos(np.pi * (np.arange(4000) + 0.5) / 4000)
_POWERS = np.vander(_NODES, 7, increasing=True) / 2 ** _NODES[:, None]
_E0, _E1, _E2, _E3, _E4, _E5, _E6 = (
    f4(c) for c in np.linalg.lstsq(_POWERS, np.ones(4000), rcond=None)[0]
)
LOG2_E = f4(np.log2(np.e))
_ROUND = f4(1.5 * 2**23)  # adding it rounds to a whole number

_LN_2 = f4(np.log(2))
_TINY = f4(np.finfo(np.float32).tiny)

# rows after Q, of scalars
SPREAD = 0  # largest variance of μ·s in a bin
DEFINITE = 1  # whether the Hessian is positive definite
VALUE = 2  # half the deviance
SAFE = 3  # whether the Hessian leaves out what could make it indefinite
TOTAL = 4  # photons in all bins
FATE = 5  # result of a search, numbered in its file
N_SCALARS = 11


@no_type_check
@njit(inline="always")
def exp2(y):
    """2^y, limited to normal numbers of float32."""
    y = min(max(y, f4(-126)), f4(126))
    shifted = y + _ROUND
    r = y - (shifted - _ROUND)
    p = multiply_add(r, _E6, _E5)
    p = multiply_add(r, multiply_add(r, multiply_add(r, p, _E4), _E3), _E2)
    p = multiply_add(r, multiply_add(r, p, _E1), _E0)
    return i4(f4(p).view(i4) + (f4(shifted).view(i4) << i4(23))).view(f4)


@no_type_check
@njit(inline="always")
def log(x):
    """ln x to 1e-7, with m = x/2^k in √½ … √2 and s = (m − 1)/(m + 1): k ln 2 + 2 artanh s."""
    bits = f4(x).view(i4)
    exponent = (bits - i4(0x3F3504F3)) >> i4(23)
    m = i4(bits - (exponent << i4(23))).view(f4)
    s = (m - f4(1)) / (m + f4(1))
    q = s * s
    p = f4(1) + q * (f4(1 / 3) + q * (f4(1 / 5) + q * (f4(1 / 7) + q * f4(1 / 9))))
    return _LN_2 * f4(exponent) + f4(2) * s * p


@no_type_check
@njit(inline="always")
def half_deviance(n, mean):
    """ȳ − n + n ln(n/ȳ)."""
    return mean - n + n * log(max(n / mean, _TINY))


@no_type_check
@njit(inline="always")
def _padded(n):
    return (n + 3) // 4 * 4


@no_type_check
@njit(inline="always")
def pair(k, m):
    """Index of the element (k, m) of a symmetric matrix, stored by the rows of its lower half."""
    return max(k, m) * (max(k, m) + 1) // 2 + min(k, m)


@no_type_check
@njit(inline="always")
def rows(materials, bins):
    """First rows of the quantities in the scratch array, and its height.

    Four transmissions; the area densities A; the step s; gradient; Hessian; Newton's step; scalars
    (from ``SPREAD`` on); counts; and for each bin ȳ, d and C.
    """
    K = len(materials)
    pairs = K * (K + 1) // 2
    A = 4
    S, G, H, D = A + K, A + 2 * K, A + 3 * K, A + 3 * K + pairs
    Q = D + K
    N = Q + N_SCALARS
    M = N + len(bins)
    return A, S, G, H, D, Q, N, M, M + _padded(len(bins) * (1 + K + pairs))


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def packed(spectra, attenuation, materials, bins):
    """Exponents −μ log₂ e, and S_b, S_b μ_k, S_b μ_k μ_m in blocks of 4 rows by 4 energies."""
    use_wide_vectors()
    K = len(materials)
    n_energies = attenuation.shape[1]
    n_moments = 1 + K + K * (K + 1) // 2
    n_rows, n_nodes = _padded(len(bins) * n_moments), _padded(n_energies)
    exponents = np.zeros(n_nodes * K, np.float32)
    weights = np.zeros(n_nodes * n_rows, np.float32)
    for e in range(n_energies):
        for k in range(K):
            exponents[e * K + k] = -LOG2_E * attenuation[k, e]
        for b in range(len(bins)):
            for i in range(n_moments):
                value = spectra[b, e]
                if 1 <= i <= K:
                    value *= attenuation[i - 1, e]
                for k in range(K):
                    for m in range(k + 1):
                        if i == 1 + K + pair(k, m):
                            value *= attenuation[k, e] * attenuation[m, e]
                row = b * n_moments + i
                block = e // 4 * (n_rows // 4) + row // 4
                weights[block * 16 + row % 4 * 4 + e % 4] = value
    return exponents, weights


@no_type_check
@njit(inline="always")
def _add_products(total, a, s, b, t, c, u, d, v):
    """total + a s + b t + c u + d v."""
    low = multiply_add(a, s, multiply_add(b, t, total))
    return multiply_add(c, u, multiply_add(d, v, low))


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def look_at(w, exponents, weights, materials, bins):
    """ȳ_b, d_b and C_b at A."""
    use_wide_vectors()
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    n_rows = _padded(len(bins) * n_moments)
    A, _, _, _, _, _, _, M, height = rows(materials, bins)
    for i in range(M * LANES, height * LANES):
        w[i] = f4(0)
    for e in range(0, len(exponents) // K, 4):
        for i in range(4):
            for r in range(LANES):
                w[i * LANES + r] = f4(0)
            for k in range(K):
                factor = exponents[(e + i) * K + k]
                for r in range(LANES):
                    o = i * LANES + r
                    w[o] = multiply_add(factor, w[(A + k) * LANES + r], w[o])
            for r in range(LANES):
                w[i * LANES + r] = exp2(w[i * LANES + r])
        for q in range(0, n_rows, 4):
            c = (e // 4 * (n_rows // 4) + q // 4) * 16
            a0, a1, a2, a3 = weights[c], weights[c + 1], weights[c + 2], weights[c + 3]
            b0, b1, b2, b3 = weights[c + 4], weights[c + 5], weights[c + 6], weights[c + 7]
            c0, c1, c2, c3 = weights[c + 8], weights[c + 9], weights[c + 10], weights[c + 11]
            d0, d1, d2, d3 = weights[c + 12], weights[c + 13], weights[c + 14], weights[c + 15]
            o = (M + q) * LANES
            for r in range(LANES):
                t0, t1 = w[r], w[LANES + r]
                t2, t3 = w[2 * LANES + r], w[3 * LANES + r]
                w[o + r] = _add_products(w[o + r], a0, t0, a1, t1, a2, t2, a3, t3)
                i = o + LANES + r
                w[i] = _add_products(w[i], b0, t0, b1, t1, b2, t2, b3, t3)
                i += LANES
                w[i] = _add_products(w[i], c0, t0, c1, t1, c2, t2, c3, t3)
                i += LANES
                w[i] = _add_products(w[i], d0, t0, d1, t1, d2, t2, d3, t3)
    _divide_by_counts(w, materials, bins)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _divide_by_counts(w, materials, bins):
    """d_b and C_b from the sums over the energies."""
    use_wide_vectors()
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    _, _, _, _, _, _, _, M, _ = rows(materials, bins)
    for b in range(len(bins)):
        m = (M + b * n_moments) * LANES
        for r in range(LANES):
            inverse = f4(1) / w[m + r]
            for k in range(K):
                w[m + (1 + k) * LANES + r] *= inverse
            for k in range(K):
                for j in range(k + 1):
                    o = m + (1 + K + pair(k, j)) * LANES + r
                    w[o] = w[o] * inverse - w[m + (1 + k) * LANES + r] * w[m + (1 + j) * LANES + r]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def count(w, materials, bins):
    """Photons in all bins."""
    use_wide_vectors()
    _, _, _, _, _, Q, N, _, _ = rows(materials, bins)
    for r in range(LANES):
        w[(Q + TOTAL) * LANES + r] = f4(0)
    for b in range(len(bins)):
        for r in range(LANES):
            w[(Q + TOTAL) * LANES + r] += w[(N + b) * LANES + r]


@no_type_check
@njit(inline="always")
def inverse_diagonal(w, H, G, unit, r, K):
    """(H⁻¹)_kk and H_kk of k = ``unit`` after ``solve``; overwrites G from ``unit`` on."""
    variance, diagonal = f4(0), f4(0)
    for i in range(unit, K):  # column of L⁻¹
        value = f4(1) if i == unit else f4(0)
        for k in range(unit, i):
            value -= w[(H + pair(i, k)) * LANES + r] * w[(G + k) * LANES + r]
        w[(G + i) * LANES + r] = value
        variance += value * value / w[(H + pair(i, i)) * LANES + r]
    for k in range(unit + 1):
        factor = w[(H + pair(unit, k)) * LANES + r] if k < unit else f4(1)
        diagonal += factor * factor * w[(H + pair(k, k)) * LANES + r]
    return variance, diagonal


@no_type_check
@njit(inline="always")
def solve_rows(w, H, G, D, definite_row, K):
    """D = H⁻¹ G by H = L diag(p) Lᵀ, in place, and whether H is positive definite.

    H, G and D are the first rows of K unknowns.
    """
    for r in range(LANES):
        definite = f4(1)
        for j in range(K):
            jj = (H + pair(j, j)) * LANES + r
            full = w[jj]
            for k in range(j):
                w[jj] -= w[(H + pair(j, k)) * LANES + r] ** 2 * w[(H + pair(k, k)) * LANES + r]
            definite = definite if w[jj] > f4(4) * EPS * full else f4(0)
            for i in range(j + 1, K):
                value = w[(H + pair(i, j)) * LANES + r]
                for k in range(j):
                    value -= (
                        w[(H + pair(i, k)) * LANES + r]
                        * w[(H + pair(j, k)) * LANES + r]
                        * w[(H + pair(k, k)) * LANES + r]
                    )
                w[(H + pair(i, j)) * LANES + r] = value / w[jj]
        for i in range(K):
            value = w[(G + i) * LANES + r]
            for k in range(i):
                value -= w[(H + pair(i, k)) * LANES + r] * w[(D + k) * LANES + r]
            w[(D + i) * LANES + r] = value
        for i in range(K):
            w[(D + i) * LANES + r] /= w[(H + pair(i, i)) * LANES + r]
        for back in range(K):
            i = K - 1 - back
            value = w[(D + i) * LANES + r]
            for k in range(i + 1, K):
                value -= w[(H + pair(k, i)) * LANES + r] * w[(D + k) * LANES + r]
            w[(D + i) * LANES + r] = value
        w[definite_row * LANES + r] = definite
