"""``DampedNewton`` in double precision as compiled functions, ray by ray, for the likelihood.

For rays that float32 does not solve or whose likelihood may have several minima. They take the same
steps as ``find_minima`` takes in torch, from the same starts and in the same order; where all
minima have a start close to them, they take exact Newton steps from each.
``no_type_check`` exempts compiled functions from the shape checks of the tests.
"""

from math import log
from typing import no_type_check

import numpy as np
from numba import njit, prange

_f8, _i8 = np.float64, np.int64
_EPS = np.finfo(np.float64).eps
_SMALLEST = np.finfo(np.float64).tiny ** 0.5  # ``negligible``
_LOG2_E = np.log2(np.e)
_LEAST_EXPONENT = np.log2(_SMALLEST)
_ROUND = 1.5 * 2.0**52  # adding it rounds to a whole number
_TOLERANCE, _STUCK = 1e-10, 1e12  # of ``DampedNewton``
_TILE = 64  # rays that a thread takes at a time

# 2^x for |x| ≤ 1/2 to 1e-16: Σ (x ln 2)^k / k!
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13 = (
    float(np.log(2) ** k / np.prod(np.arange(1.0, k + 1))) for k in range(14)
)


@no_type_check
@njit(inline="always")
def _copy(vector, to):
    """Element by element: an assignment of arrays takes a second to compile."""
    for k in range(len(to)):
        to[k] = vector[k]


@no_type_check
@njit(inline="always")
def _sum(vector):
    total = 0.0
    for value in vector:
        total += value
    return total


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


@no_type_check
@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def solve(matrix, right, free, L, out):
    """``solve_positive_definite``: writes the solution; whether the matrix is positive definite."""
    K = len(right)
    positive = True
    for j in range(K):
        for i in range(j, K):
            both = free[i] and free[j]
            L[i, j] = matrix[i, j] if both else (1.0 if i == j else 0.0)
        diagonal = abs(L[j, j])
        for k in range(j):
            L[j, j] -= L[j, k] ** 2 * L[k, k]
        if not L[j, j] > 4 * _EPS * diagonal:
            positive = False
            L[j, j] = 1.0
        for i in range(j + 1, K):
            for k in range(j):
                L[i, j] -= L[i, k] * L[j, k] * L[k, k]
            L[i, j] /= L[j, j]
    for i in range(K):
        out[i] = right[i] if free[i] else 0.0
        for k in range(i):
            out[i] -= L[i, k] * out[k]
    for i in range(K):
        out[i] /= L[i, i]
    for i in range(K - 1, -1, -1):
        for k in range(i + 1, K):
            out[i] -= L[k, i] * out[k]
    return positive


@no_type_check
@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _trial(x, g, H, damping, lower, upper, free, matrix, L, pull, step, trial):
    """``newton_trial``: writes the minimum of the damped quadratic model in the box; if convex."""
    K = len(x)
    for k in range(K):
        trial[k] = x[k]
        free[k] = not ((x[k] <= lower[k] and g[k] > 0) or (x[k] >= upper[k] and g[k] < 0))
        for m in range(K):
            matrix[k, m] = H[k, m]
        matrix[k, k] += damping * abs(H[k, k])
    everywhere = True
    for _ in range(K):
        for k in range(K):
            pull[k] = g[k]
            for m in range(K):
                pull[k] += matrix[k, m] * (0.0 if free[m] else trial[m] - x[m])
        everywhere = solve(matrix, pull, free, L, step) and everywhere
        leaving = False
        for k in range(K):
            if free[k]:
                target = x[k] - step[k]
                trial[k] = min(max(target, lower[k]), upper[k])
                if trial[k] != target:
                    free[k], leaving = False, True
        if not leaving:
            break
    return everywhere


@no_type_check
@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _resolved(x, g, H, total, lower, upper, distance, free, L, unit, step):
    """``resolved`` in double precision."""
    K = len(x)
    for k in range(K):
        free[k] = not ((x[k] <= lower[k] and g[k] > 0) or (x[k] >= upper[k] and g[k] < 0))
    most = distance**2 / (4 * _EPS * (4 * _EPS * total))
    for k in range(K):
        for m in range(K):
            unit[m] = 1.0 if m == k else 0.0
        positive = solve(H, unit, free, L, step)
        sound = positive and step[k] <= most and step[k] * H[k, k] <= _EPS**-0.5
        if not sound:
            return False
    return True


@no_type_check
@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _descend(
    x, n, beam, lower, upper, distance, max_steps, scoring_steps, t, free, vectors, matrices
):
    """``DampedNewton(max_steps=…, scoring_steps=…)`` from x, which is written; if it converged."""
    K = len(x)
    g, g_there, step, trial, pull, slope, unit = vectors
    H, H_there, matrix, L = matrices
    total = _sum(n)
    rounding = 4 * _EPS * total
    resolvable = _TOLERANCE + 16 * _EPS * rounding
    for k in range(K):
        x[k] = min(max(x[k], lower[k]), upper[k])
    exact = scoring_steps == 0
    value = likelihood(x, n, beam, exact, t, slope, g, H)
    damping = 0.0
    for number in range(1, max_steps + 2):
        positive = _trial(x, g, H, damping, lower, upper, free, matrix, L, pull, step, trial)
        decrement, bent, longest = 0.0, 0.0, 0.0
        for k in range(K):
            move = x[k] - trial[k]
            longest = max(longest, abs(move))
            decrement += move * g[k]
            for m in range(K):
                bent += move * H[k, m] * (x[m] - trial[m])
        near = positive and damping <= 0 and decrement <= resolvable and longest <= distance
        if near and exact:
            sharp = _resolved(trial, g, H, total, lower, upper, distance, free, L, unit, step)
            _copy(trial, x)
            return sharp
        if number > max_steps:
            break
        exact_there = number >= scoring_steps
        there = likelihood(trial, n, beam, exact_there, t, slope, g_there, H_there)
        taken = positive and there <= value + rounding
        predicted = decrement - 0.5 * bent
        gain = (value - there) / predicted if predicted > resolvable + rounding else 1.0
        more = max(10 * damping, 1e-2)
        if not taken or gain < 0.25:
            damping = more
        elif gain > 0.75:
            damping = damping / 10 if damping > 1e-2 else 0.0
        if taken:
            _copy(trial, x)
            value, exact = there, exact_there
            _copy(g_there, g)
            for k in range(K):
                _copy(H_there[k], H[k])
        if damping > _STUCK:
            break
    return False


@no_type_check
@njit(cache=True, error_model="numpy")
def _solve_tile(
    pixels, rays, counts, spectra, attenuation, start, second, sure, close, lower, upper,
    distance, same, materials, bins, x, converged,
):  # fmt: skip
    """``solve_in_double`` for a few rays."""
    K = len(materials)
    n_sums = len(bins) * (1 + K + K * (K + 1) // 2)
    t = np.empty(attenuation.shape[1]), np.empty((n_sums + 3) // 4 * 4)
    vectors = (
        np.empty(K), np.empty(K), np.empty(K), np.empty(K),
        np.empty(K), np.empty(K), np.empty(K),
    )  # fmt: skip
    free = np.ones(K, np.bool_)
    matrices = np.empty((K, K)), np.empty((K, K)), np.empty((K, K)), np.empty((K, K))
    n, found, done = np.empty(len(bins)), np.empty((2, K)), np.zeros(2, np.bool_)
    packed_for, nothing = -1, np.zeros(K)
    beam = np.empty((K, 1)), np.empty((1, 1)), materials, bins
    for i in range(len(rays)):
        pixel, ray = pixels[i], rays[i]
        own = pixel if len(spectra) > 1 else 0
        if own != packed_for:
            beam = packed(spectra[own].astype(np.float64), attenuation, materials, bins)
            packed_for = own
        for k in range(len(bins)):
            n[k] = counts[pixel, ray, k]
        for k in range(K):
            found[0, k], found[1, k] = start[pixel, ray, k], second[pixel, ray, k]
        done[0] = done[1] = False
        alone = close[pixel, ray] or np.isnan(found[1, 0])
        if np.isnan(found[1, 0]):
            _copy(nothing, found[1])
        near = close[pixel, ray] or sure[pixel, ray]
        for turn in range(0 if near else 1, 5):
            which = 1 if turn > 2 else 0
            if done[which] or (alone and done[0]):
                continue
            steps, scoring = (60, 0) if turn in (2, 4) else (12, 0 if turn == 0 else 5)
            if turn == 3 and sure[pixel, ray] and not alone:
                scoring = 0
            done[which] = _descend(
                found[which],
                n,
                beam,
                lower,
                upper,
                distance,
                steps,
                scoring,
                t,
                free,
                vectors,
                matrices,
            )
            alone = alone and done[0]
        better = done[1] and not done[0]
        if done[0] and done[1]:
            g, slope, H = vectors[0], vectors[5], matrices[0]
            value = likelihood(found[0], n, beam, False, t, slope, g, H)
            other = likelihood(found[1], n, beam, False, t, slope, g, H)
            better = other < value - same - 2 * 4 * _EPS * _sum(n)
        for k in range(K):
            x[pixel, ray, k] = found[1 if better else 0, k]
        converged[pixel, ray] = done[0] or done[1]


@no_type_check
@njit(cache=True, error_model="numpy", parallel=True)
def solve_in_double(
    pixels, rays, counts, spectra, attenuation, start, second, sure, close, lower, upper,
    distance, same, materials, bins, x, converged,
):  # fmt: skip
    """The likelier of the minima that are reached from two starts.

    Args:
        pixels, rays: indices of the rays.
        counts: (pixel, ray, bin).
        spectra: (pixel, bin, energy), or one for all pixels.
        attenuation: (material, energy), in double precision.
        start, second: (pixel, ray, material); where the second is NaN, it is zero material, and
            used only if the first search does not end.
        sure: (pixel, ray), whether all minima have a start close to them.
        close: (pixel, ray), whether the start is close to the only minimum.
        lower, upper: limits of the area densities.
        distance, same: ``DISTANCE``, and the largest difference of the values of one minimum.
        materials, bins: tuples with one entry for each.
        x: (pixel, ray, material), written for these rays.
        converged: (pixel, ray), written for these rays.
    """
    n_tiles = (len(rays) + _TILE - 1) // _TILE
    for tile in prange(n_tiles):
        i, j = tile * _TILE, (tile + 1) * _TILE
        _solve_tile(
            pixels[i:j], rays[i:j], counts, spectra, attenuation, start, second, sure, close,
            lower, upper, distance, same, materials, bins, x, converged,
        )  # fmt: skip
