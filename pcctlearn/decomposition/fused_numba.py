"""Minima of easy rays in float32: 64 rays at a time as vector lanes, two evaluations for most.

One evaluation of all energies at A gives, for every bin b, the expected counts ȳ_b and mean d_b and
covariance C_b of the attenuation μ under S_b(E) exp(−μ·A). They make a model of the counts whose
error is of third order in the step s,

    log ȳ_b(A + s) ≈ log ȳ_b − d_b·s + ½ sᵀ C_b s.

Newton steps minimise the likelihood of this model at the cost of one exponential for each bin,
whereas those of ``DampedNewton`` cost one for each energy. A ray is solved if the rest of the model
and the rounding of float32 move its minimum by no more than ``DISTANCE``; others are left to
``find_minima``.

The 64 values of each quantity are one row of a scratch array whose offset the compiler knows, since
it follows from the lengths of the tuples ``materials`` and ``bins``, which are part of the types.
``no_type_check`` exempts compiled functions from the shape checks of the tests.
"""

from typing import no_type_check

import numpy as np
from numba import njit, prange

LANES = 64  # four vectors of AVX-512, eight of AVX2
_TILE = 2048  # rays of one pixel that a thread takes at a time
_MOST_LOOKS = 6  # evaluations of all energies
_INNER_STEPS = 3  # minimising the model
_FASTMATH = {"contract", "nsz", "arcp"}  # NaN stays NaN, and sums keep their order
_f4, _i4 = np.float32, np.int32
_EPS = _f4(np.finfo(np.float32).eps)
_MOST_INFLATED = _f4(4e-5) / _EPS  # variances: rounding changes gradients by 1e-4 at most
# third cumulant of μ·s over the 3/2 power of its variance, in beams with few soft photons
_MOST_SKEWED = _f4(60)

# 2^x for |x| ≤ 1/2 to 2e-9
_NODES = 0.5 * np.cos(np.pi * (np.arange(4000) + 0.5) / 4000)
_POWERS = np.vander(_NODES, 7, increasing=True) / 2 ** _NODES[:, None]
_E0, _E1, _E2, _E3, _E4, _E5, _E6 = (
    _f4(c) for c in np.linalg.lstsq(_POWERS, np.ones(4000), rcond=None)[0]
)
_LOG2_E, _LN_2 = _f4(np.log2(np.e)), _f4(np.log(2))
_ROUND = _f4(1.5 * 2**23)  # adding it rounds to a whole number


@no_type_check
@njit(inline="always")
def _exp2(y):
    """2^y, limited to normal numbers of float32."""
    y = min(max(y, _f4(-126)), _f4(126))
    shifted = y + _ROUND
    r = y - (shifted - _ROUND)
    p = _E0 + r * (_E1 + r * (_E2 + r * (_E3 + r * (_E4 + r * (_E5 + r * _E6)))))
    return _i4(_f4(p).view(_i4) + (_f4(shifted).view(_i4) << _i4(23))).view(_f4)


@no_type_check
@njit(inline="always")
def _log(x):
    """ln x to 3e-5, for starts."""
    bits = _f4(x).view(_i4)
    exponent = (bits - _i4(0x3F3504F3)) >> _i4(23)  # of x/√½
    m = _i4(bits - (exponent << _i4(23))).view(_f4) - _f4(1)
    p = _f4(0.2) + m * (_f4(-0.1666) + m * _f4(0.1))
    p = _f4(1) + m * (_f4(-0.5) + m * (_f4(1 / 3) + m * (_f4(-0.25) + m * p)))
    return _LN_2 * _f4(exponent) + m * p


@no_type_check
@njit(inline="always")
def _pair(k, m):
    """Index of the element (k, m) of a symmetric matrix, stored by the rows of its lower half."""
    return max(k, m) * (max(k, m) + 1) // 2 + min(k, m)


@no_type_check
@njit(inline="always")
def _rows(materials, bins):
    """First rows of the quantities in the scratch array, and its height.

    Four transmissions; the area densities A; the step s; gradient; Hessian; Newton's step; nine
    scalars (``_SCALARS``); counts; and for each bin ȳ, d and C.
    """
    K = len(materials)
    pairs = K * (K + 1) // 2
    A = 4
    S, G, H, D = A + K, A + 2 * K, A + 3 * K, A + 3 * K + pairs
    Q = D + K
    N = Q + 6
    M = N + len(bins)
    return A, S, G, H, D, Q, N, M, M + _padded(len(bins) * (1 + K + pairs))


# rows after Q
_SPREAD = 0  # largest variance of μ·s in a bin
_DEFINITE = 1  # whether the Hessian is positive definite
_CHI2 = 2  # Pearson's
_SAFE = 3  # whether the Hessian leaves out what could make it indefinite
_TOTAL = 4  # photons in all bins
_MINIMUM = 5  # see ``_judge``


@no_type_check
@njit(inline="always")
def _padded(n):
    return (n + 3) // 4 * 4


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _packed(spectra, attenuation, materials, bins):
    """Exponents −μ log₂ e, and S_b, S_b μ_k, S_b μ_k μ_m in blocks of 4 rows by 4 energies."""
    K = len(materials)
    n_energies = attenuation.shape[1]
    n_moments = 1 + K + K * (K + 1) // 2
    n_rows, n_nodes = _padded(len(bins) * n_moments), _padded(n_energies)
    exponents = np.zeros(n_nodes * K, np.float32)
    weights = np.zeros(n_nodes * n_rows, np.float32)
    for e in range(n_energies):
        for k in range(K):
            exponents[e * K + k] = -_LOG2_E * attenuation[k, e]
        for b in range(len(bins)):
            for i in range(n_moments):
                value = spectra[b, e]
                if 1 <= i <= K:
                    value *= attenuation[i - 1, e]
                for k in range(K):
                    for m in range(k + 1):
                        if i == 1 + K + _pair(k, m):
                            value *= attenuation[k, e] * attenuation[m, e]
                row = b * n_moments + i
                block = e // 4 * (n_rows // 4) + row // 4
                weights[block * 16 + row % 4 * 4 + e % 4] = value
    return exponents, weights


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _in_pairs(spectra, attenuation):
    """Pairs of energies as one, with the mean attenuation of both: enough for the first look."""
    n_bins, n_energies = spectra.shape
    n_pairs = (n_energies + 1) // 2
    S = np.zeros((n_bins, n_pairs), np.float32)
    mu = np.zeros((len(attenuation), n_pairs), np.float32)
    for e in range(n_energies):
        S[:, e // 2] += spectra[:, e]
    for pair in range(n_pairs):
        first, last = 2 * pair, min(2 * pair + 2, n_energies)
        photons = S[:, pair].sum() + _f4(1e-30)
        for e in range(first, last):
            mu[:, pair] += attenuation[:, e] * (spectra[:, e].sum() / photons)
    return S, mu


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _look(w, exponents, weights, materials, bins):
    """ȳ_b, d_b and C_b at A."""
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    n_rows = _padded(len(bins) * n_moments)
    A, _, _, _, _, _, _, M, height = _rows(materials, bins)
    for i in range(M * LANES, height * LANES):
        w[i] = _f4(0)
    for e in range(0, len(exponents) // K, 4):
        for i in range(4):
            for r in range(LANES):
                w[i * LANES + r] = _f4(0)
            for k in range(K):
                factor = exponents[(e + i) * K + k]
                for r in range(LANES):
                    w[i * LANES + r] += factor * w[(A + k) * LANES + r]
            for r in range(LANES):
                w[i * LANES + r] = _exp2(w[i * LANES + r])
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
                w[o + r] += a0 * t0 + a1 * t1 + a2 * t2 + a3 * t3
                w[o + LANES + r] += b0 * t0 + b1 * t1 + b2 * t2 + b3 * t3
                w[o + 2 * LANES + r] += c0 * t0 + c1 * t1 + c2 * t2 + c3 * t3
                w[o + 3 * LANES + r] += d0 * t0 + d1 * t1 + d2 * t2 + d3 * t3
    _divide_by_counts(w, materials, bins)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _divide_by_counts(w, materials, bins):
    """d_b and C_b from the sums over the energies."""
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    _, _, _, _, _, _, _, M, _ = _rows(materials, bins)
    for b in range(len(bins)):
        m = (M + b * n_moments) * LANES
        for r in range(LANES):
            inverse = _f4(1) / w[m + r]
            for k in range(K):
                w[m + (1 + k) * LANES + r] *= inverse
            for k in range(K):
                for j in range(k + 1):
                    o = m + (1 + K + _pair(k, j)) * LANES + r
                    w[o] = w[o] * inverse - w[m + (1 + k) * LANES + r] * w[m + (1 + j) * LANES + r]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _differentiate(w, materials, bins):
    """Gradient and Hessian of the model's likelihood at the step s.

    g = Σ_b (n_b − ȳ_b) d_b and H = Σ_b ȳ_b d_b d_bᵀ + (ȳ_b − n_b) C_b, with ȳ and d of the model at
    s. Where ȳ_b < n_b the last term can make H indefinite; a safe Hessian has n_b d_b d_bᵀ there.
    """
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    _, S, G, H, D, Q, N, M, _ = _rows(materials, bins)
    for i in range(G * LANES, D * LANES):
        w[i] = _f4(0)
    for r in range(LANES):
        w[(Q + _CHI2) * LANES + r] = w[(Q + _SPREAD) * LANES + r] = _f4(0)
    for b in range(len(bins)):
        m, n = (M + b * n_moments) * LANES, (N + b) * LANES
        for r in range(LANES):
            along, variance = _f4(0), _f4(0)
            for k in range(K):
                bent = _f4(0)
                for j in range(K):
                    C = w[m + (1 + K + _pair(k, j)) * LANES + r]
                    bent += C * w[(S + j) * LANES + r]
                along += w[(S + k) * LANES + r] * w[m + (1 + k) * LANES + r]
                variance += w[(S + k) * LANES + r] * bent
                w[(D + k) * LANES + r] = w[m + (1 + k) * LANES + r] - bent
            mean = w[m + r] * _exp2(-_LOG2_E * (along - _f4(0.5) * variance))
            excess = w[n + r] - mean
            safe = w[(Q + _SAFE) * LANES + r]
            outer = mean + safe * max(excess, _f4(0))
            curved = max(-excess, _f4(0)) if safe > _f4(0) else -excess
            w[(Q + _CHI2) * LANES + r] += excess * excess / mean
            w[(Q + _SPREAD) * LANES + r] = max(w[(Q + _SPREAD) * LANES + r], variance)
            for k in range(K):
                dk = w[(D + k) * LANES + r]
                w[(G + k) * LANES + r] += excess * dk
                for j in range(k + 1):
                    C = w[m + (1 + K + _pair(k, j)) * LANES + r]
                    w[(H + _pair(k, j)) * LANES + r] += (
                        outer * dk * w[(D + j) * LANES + r] + curved * C
                    )


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _solve(w, materials, bins):
    """D = H⁻¹ G by H = L diag(p) Lᵀ, in place, and what H says about the minimum."""
    K = len(materials)
    _, _, G, H, D, Q, _, _, _ = _rows(materials, bins)
    for r in range(LANES):
        definite = _f4(1)
        for j in range(K):
            jj = (H + _pair(j, j)) * LANES + r
            full = w[jj]
            for k in range(j):
                w[jj] -= w[(H + _pair(j, k)) * LANES + r] ** 2 * w[(H + _pair(k, k)) * LANES + r]
            definite = definite if w[jj] > _f4(4) * _EPS * full else _f4(0)
            for i in range(j + 1, K):
                value = w[(H + _pair(i, j)) * LANES + r]
                for k in range(j):
                    value -= (
                        w[(H + _pair(i, k)) * LANES + r]
                        * w[(H + _pair(j, k)) * LANES + r]
                        * w[(H + _pair(k, k)) * LANES + r]
                    )
                w[(H + _pair(i, j)) * LANES + r] = value / w[jj]
        for i in range(K):
            value = w[(G + i) * LANES + r]
            for k in range(i):
                value -= w[(H + _pair(i, k)) * LANES + r] * w[(D + k) * LANES + r]
            w[(D + i) * LANES + r] = value
        for i in range(K):
            w[(D + i) * LANES + r] /= w[(H + _pair(i, i)) * LANES + r]
        for back in range(K):
            i = K - 1 - back
            value = w[(D + i) * LANES + r]
            for k in range(i + 1, K):
                value -= w[(H + _pair(k, i)) * LANES + r] * w[(D + k) * LANES + r]
            w[(D + i) * LANES + r] = value
        w[(Q + _DEFINITE) * LANES + r] = definite


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _judge(w, lower, upper, limits, materials, bins):
    """Whether A + s is a minimum: 2, or 1 if there may be a likelier one elsewhere, or 0.

    Relative errors δ of the expected counts shift unknown k by δ √(Σ_b n_b (H⁻¹)_kk) at most; they
    are rounding and the third order, κ₃/6 with the cumulant κ₃ of μ·s.
    """
    K = len(materials)
    A, S, G, H, D, Q, N, _, _ = _rows(materials, bins)
    distance, _, misfit = limits
    for r in range(LANES):
        w[(Q + _TOTAL) * LANES + r] = _f4(0)
    for b in range(len(bins)):
        for r in range(LANES):
            w[(Q + _TOTAL) * LANES + r] += w[(N + b) * LANES + r]
    for r in range(LANES):
        exact = w[(Q + _SAFE) * LANES + r] == _f4(0)
        w[(Q + _MINIMUM) * LANES + r] = w[(Q + _DEFINITE) * LANES + r] if exact else _f4(0)
    for unit in range(K):
        for r in range(LANES):
            variance, diagonal = _f4(0), _f4(0)
            for i in range(unit, K):  # column of L⁻¹
                value = _f4(1) if i == unit else _f4(0)
                for k in range(unit, i):
                    value -= w[(H + _pair(i, k)) * LANES + r] * w[(G + k) * LANES + r]
                w[(G + i) * LANES + r] = value
                variance += value * value / w[(H + _pair(i, i)) * LANES + r]
            for k in range(unit + 1):
                factor = w[(H + _pair(unit, k)) * LANES + r] if k < unit else _f4(1)
                diagonal += factor * factor * w[(H + _pair(k, k)) * LANES + r]
            spread = w[(Q + _SPREAD) * LANES + r]
            error = _f4(4) * _EPS + _MOST_SKEWED / _f4(6) * spread * np.sqrt(spread)
            shift = error * np.sqrt(w[(Q + _TOTAL) * LANES + r] * variance)
            x = w[(A + unit) * LANES + r] + w[(S + unit) * LANES + r]
            near = (x > lower[unit]) & (x < upper[unit]) & (shift <= distance)
            near = near & (abs(w[(D + unit) * LANES + r]) <= distance)
            near = near & (abs(x) * _f4(0.5) * _EPS <= distance)
            near = near & (variance * diagonal <= _MOST_INFLATED)
            o = (Q + _MINIMUM) * LANES + r
            w[o] = w[o] if near else _f4(0)
    for r in range(LANES):
        o = (Q + _MINIMUM) * LANES + r
        fits = w[(Q + _CHI2) * LANES + r] <= _f4(2) * misfit * w[(Q + _TOTAL) * LANES + r]
        w[o] = _f4(2) * w[o] if fits else w[o]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _begin(w, air, coefficients, most, materials, bins):
    """A from the polynomial of second degree in log(air/n), within 0 … ``most``."""
    A, _, _, _, _, _, N, M, _ = _rows(materials, bins)
    for b in range(len(bins)):
        for r in range(LANES):
            w[(M + b) * LANES + r] = _log(air[b] / max(w[(N + b) * LANES + r], _f4(0.5)))
    for k in range(len(materials)):
        for r in range(LANES):
            w[(A + k) * LANES + r] = _f4(0)
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
            w[(A + k) * LANES + r] = min(max(w[(A + k) * LANES + r], _f4(0)), most[k])


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _minimise_model(w, materials, bins):
    """Newton steps from s = 0 to the minimum of the model; D is the last of them."""
    K = len(materials)
    _, S, G, _, D, _, _, _, _ = _rows(materials, bins)
    for i in range(S * LANES, G * LANES):
        w[i] = _f4(0)
    for _ in range(_INNER_STEPS):  # as many for all lanes: a ray does not depend on others
        _differentiate(w, materials, bins)
        _solve(w, materials, bins)
        for i in range(K * LANES):
            w[S * LANES + i] -= w[D * LANES + i]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _enough(counts, pixel, start, least, active, materials, bins):
    """The rays of a tile with ``least`` photons or more, written to ``active``; their number."""
    n = 0
    for i in range(start, min(start + _TILE, counts.shape[1])):
        total = _f4(0)
        for b in range(len(bins)):
            total += counts[pixel, i, b]
        if total >= least:
            active[n] = i
            n += 1
    return n


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH, parallel=True)
def minimise(
    counts,
    spectra,
    attenuation,
    coefficients,
    most,
    lower,
    upper,
    limits,
    materials,
    bins,
    x,
    solved,
):
    """Minima x of the rays that float32 resolves, and which these are.

    Args:
        counts: (pixel, ray, bin).
        spectra: (pixel, bin, energy), or one for all pixels.
        attenuation: (material, energy).
        coefficients, most: polynomial of the start, and the largest area densities of its fit.
        lower, upper: limits of the area densities; rays on one of them are not solved here.
        limits: largest shift of a minimum, least photons, and largest misfit per photon.
        materials, bins: tuples with one entry for each.
        x: (pixel, ray, material), written for rays with enough photons.
        solved: (pixel, ray), zero; written.
    """
    K = len(materials)
    n_rays = counts.shape[1]
    per_pixel = (n_rays + _TILE - 1) // _TILE
    A, S, _, _, _, Q, N, _, height = _rows(materials, bins)
    for tile in prange(counts.shape[0] * per_pixel):
        pixel, start = tile // per_pixel, tile % per_pixel * _TILE
        own = pixel if len(spectra) > 1 else 0
        exponents, weights = _packed(spectra[own], attenuation, materials, bins)
        fewer, of_fewer = _in_pairs(spectra[own], attenuation)
        rough_exponents, rough_weights = _packed(fewer, of_fewer, materials, bins)
        air = spectra[own].sum(-1)
        w = np.zeros(height * LANES, np.float32)
        active, saddle = np.empty(_TILE, np.int64), np.ones(_TILE, np.float32)
        n_active = _enough(counts, pixel, start, limits[1], active, materials, bins)
        for look in range(_MOST_LOOKS):
            n_left = 0
            for first in range(0, n_active, LANES):
                lanes = min(LANES, n_active - first)
                for r in range(LANES):
                    j = first + min(r, lanes - 1)
                    for b in range(len(bins)):
                        w[(N + b) * LANES + r] = counts[pixel, active[j], b]
                    for k in range(K):
                        w[(A + k) * LANES + r] = x[pixel, active[j], k]
                    w[(Q + _SAFE) * LANES + r] = saddle[j]
                if look == 0:
                    _begin(w, air, coefficients, most, materials, bins)
                    _look(w, rough_exponents, rough_weights, materials, bins)
                else:
                    _look(w, exponents, weights, materials, bins)
                _minimise_model(w, materials, bins)
                _judge(w, lower, upper, limits, materials, bins)
                for r in range(lanes):
                    i = active[first + r]
                    for k in range(K):
                        value = w[(A + k) * LANES + r] + w[(S + k) * LANES + r]
                        x[pixel, i, k] = min(max(value, lower[k]), upper[k])
                    minimum = w[(Q + _MINIMUM) * LANES + r]
                    if minimum > _f4(0):
                        solved[pixel, i] = minimum == _f4(2)
                    else:  # once more; after a saddle with a Hessian that is positive definite
                        active[n_left] = i
                        saddle[n_left] = _f4(1) - w[(Q + _DEFINITE) * LANES + r]
                        n_left += 1
            n_active = n_left


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _pull(w, materials, bins):
    """Per bin p = (n/ȳ) u·d and q_k = (1 − n/ȳ) u_k, of u = H⁻¹ v in D; d and C are overwritten.

    The gradient of v·A in the spectrum S_b(E) is exp(−μ·A) (p_b + Σ_k q_bk μ_k), the negative
    product of u with ∂/∂S_b(E) of the gradient of the likelihood.
    """
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    _, _, _, _, D, _, N, M, _ = _rows(materials, bins)
    for b in range(len(bins)):
        m = (M + b * n_moments) * LANES
        for r in range(LANES):
            ratio, along = w[(N + b) * LANES + r] / w[m + r], _f4(0)
            for k in range(K):
                along += w[(D + k) * LANES + r] * w[m + (1 + k) * LANES + r]
            w[m + r] = ratio * along
            for k in range(K):
                w[m + (1 + k) * LANES + r] = (_f4(1) - ratio) * w[(D + k) * LANES + r]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _add_to_spectra(w, exponents, attenuation, sums, materials, bins):
    """Add the gradient in the spectra to the sums of each lane; p and q are in the rows of ȳ, d."""
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    A, _, _, _, _, _, _, M, _ = _rows(materials, bins)
    for e in range(attenuation.shape[1]):
        for r in range(LANES):
            w[r] = _f4(0)
        for k in range(K):
            factor = exponents[e * K + k]
            for r in range(LANES):
                w[r] += factor * w[(A + k) * LANES + r]
        for r in range(LANES):
            w[r] = _exp2(w[r])
        for b in range(len(bins)):
            m, o = (M + b * n_moments) * LANES, (b * attenuation.shape[1] + e) * LANES
            for r in range(LANES):
                pull = w[m + r]
                for k in range(K):
                    pull += attenuation[k, e] * w[m + (1 + k) * LANES + r]
                sums[o + r] += w[r] * pull


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH)
def _write_of_counts(w, gradient, first, lanes, materials, bins):
    """−u·d_b of every ray, with u in D."""
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    _, _, _, _, D, _, _, M, _ = _rows(materials, bins)
    for r in range(lanes):
        for b in range(len(bins)):
            value = _f4(0)
            for k in range(K):
                value -= w[(D + k) * LANES + r] * w[(M + b * n_moments + 1 + k) * LANES + r]
            gradient[first + r, b] = value


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=_FASTMATH, parallel=True)
def gradients(
    x, counts, spectra, attenuation, passes, cotangent, materials, bins, of_counts, of_spectra
):
    """Gradients of Σ v·A in the counts, −u·d_b with u = H⁻¹ v, and in the spectra (``_pull``).

    Args:
        x, counts, spectra, attenuation, materials, bins: as in ``minimise``.
        passes: (pixel, ray), whether a ray passes a gradient.
        cotangent: v, (pixel, ray, material).
        of_counts: (pixel, ray, bin), written; empty if not wanted.
        of_spectra: (pixel, tile, bin, energy), zero, written; empty if not wanted.
    """
    K = len(materials)
    n_rays = counts.shape[1]
    per_pixel = (n_rays + _TILE - 1) // _TILE
    A, _, G, _, D, Q, N, _, height = _rows(materials, bins)
    for tile in prange(counts.shape[0] * per_pixel):
        pixel, start = tile // per_pixel, tile % per_pixel * _TILE
        own = pixel if len(spectra) > 1 else 0
        exponents, weights = _packed(spectra[own], attenuation, materials, bins)
        w = np.zeros(height * LANES, np.float32)
        n_sums = len(bins) * attenuation.shape[1] if of_spectra.size > 0 else 0
        sums = np.zeros(n_sums * LANES, np.float32)
        stop = min(start + _TILE, n_rays)
        for first in range(start, stop, LANES):
            lanes = min(LANES, stop - first)
            for r in range(LANES):
                i = first + min(r, lanes - 1)
                for b in range(len(bins)):
                    w[(N + b) * LANES + r] = counts[pixel, i, b]
                for k in range(K):  # an empty beam for rays that pass nothing: no 0 · NaN
                    w[(A + k) * LANES + r] = x[pixel, i, k] if passes[pixel, i] else _f4(0)
            _look(w, exponents, weights, materials, bins)
            _differentiate(w, materials, bins)  # s and _SAFE are zero
            for r in range(LANES):
                i = first + min(r, lanes - 1)
                through = r < lanes and passes[pixel, i]
                for k in range(K):
                    w[(G + k) * LANES + r] = cotangent[pixel, i, k] if through else _f4(0)
            _solve(w, materials, bins)
            for i in range(K * LANES):
                definite = w[(Q + _DEFINITE) * LANES + i % LANES] > _f4(0)
                w[D * LANES + i] = w[D * LANES + i] if definite else _f4(0)
            if of_counts.size > 0:
                _write_of_counts(w, of_counts[pixel], first, lanes, materials, bins)
            if of_spectra.size > 0:
                _pull(w, materials, bins)
                _add_to_spectra(w, exponents, attenuation, sums, materials, bins)
        for i in range(n_sums):
            b, e = i // attenuation.shape[1], i % attenuation.shape[1]
            of_spectra[pixel, tile % per_pixel, b, e] = sums[i * LANES : (i + 1) * LANES].sum()


def tiles_of(n_rays: int) -> int:
    """Number of tiles of a pixel."""
    return -(-n_rays // _TILE)
