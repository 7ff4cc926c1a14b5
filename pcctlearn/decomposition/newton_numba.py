"""``DampedNewton`` in double precision as compiled functions, ray by ray, for the likelihood.

For rays that float32 does not solve or whose likelihood may have several minima. They take the same
steps as ``find_minima`` takes in torch, from the same starts and in the same order; where all
minima have a start close to them, they take exact Newton steps from each.
"""

from typing import NamedTuple, no_type_check

import numpy as np
from numba import njit, prange

from pcctlearn.decomposition.likelihood_numba import likelihood, packed

_EPS = np.finfo(np.float64).eps
_TOLERANCE, _STUCK = 1e-10, 1e12  # of ``DampedNewton``
_TILE = 64  # rays that a thread takes at a time


class _Scratch(NamedTuple):
    """Arrays for one ray: transmission and its sums, K numbers each, and K by K each."""

    of_energies: tuple[np.ndarray, np.ndarray]
    g: np.ndarray
    next_g: np.ndarray
    step: np.ndarray
    trial: np.ndarray
    pull: np.ndarray
    slope: np.ndarray
    unit: np.ndarray
    free: np.ndarray
    H: np.ndarray
    next_H: np.ndarray
    matrix: np.ndarray
    L: np.ndarray


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
def _trial(x, damping, box, scratch):
    """``newton_trial``: writes the minimum of the damped quadratic model in the box; if convex."""
    K = len(x)
    lower, upper = box
    g, H, free, matrix = scratch.g, scratch.H, scratch.free, scratch.matrix
    pull, step, trial = scratch.pull, scratch.step, scratch.trial
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
        everywhere = solve(matrix, pull, free, scratch.L, step) and everywhere
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
def _resolved(x, total, box, distance, scratch):
    """``resolved`` in double precision."""
    K = len(x)
    lower, upper = box
    g, H, free = scratch.g, scratch.H, scratch.free
    unit, step = scratch.unit, scratch.step
    for k in range(K):
        free[k] = not ((x[k] <= lower[k] and g[k] > 0) or (x[k] >= upper[k] and g[k] < 0))
    most = distance**2 / (4 * _EPS * (4 * _EPS * total))
    for k in range(K):
        for m in range(K):
            unit[m] = 1.0 if m == k else 0.0
        positive = solve(H, unit, free, scratch.L, step)
        sound = positive and step[k] <= most and step[k] * H[k, k] <= _EPS**-0.5
        if not sound:
            return False
    return True


@no_type_check
@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _descend(x, n, beam, box, distance, max_steps, scoring_steps, scratch):
    """``DampedNewton(max_steps=…, scoring_steps=…)`` from x, which is written; if it converged."""
    K = len(x)
    lower, upper = box
    sums, slope, trial = scratch.of_energies, scratch.slope, scratch.trial
    g, H, next_g, next_H = scratch.g, scratch.H, scratch.next_g, scratch.next_H
    total = _sum(n)
    rounding = 4 * _EPS * total
    resolvable = _TOLERANCE + 16 * _EPS * rounding
    for k in range(K):
        x[k] = min(max(x[k], lower[k]), upper[k])
    exact = scoring_steps == 0
    value = likelihood(x, n, beam, exact, sums, slope, g, H)
    damping = 0.0
    for number in range(1, max_steps + 2):
        positive = _trial(x, damping, box, scratch)
        decrement, bent, longest = 0.0, 0.0, 0.0
        for k in range(K):
            move = x[k] - trial[k]
            longest = max(longest, abs(move))
            decrement += move * g[k]
            for m in range(K):
                bent += move * H[k, m] * (x[m] - trial[m])
        near = positive and damping <= 0 and decrement <= resolvable and longest <= distance
        if near and exact:
            sharp = _resolved(trial, total, box, distance, scratch)
            _copy(trial, x)
            return sharp
        if number > max_steps:
            break
        next_exact = number >= scoring_steps
        next_value = likelihood(trial, n, beam, next_exact, sums, slope, next_g, next_H)
        taken = positive and next_value <= value + rounding
        predicted = decrement - 0.5 * bent
        gain = (value - next_value) / predicted if predicted > resolvable + rounding else 1.0
        more = max(10 * damping, 1e-2)
        if not taken or gain < 0.25:
            damping = more
        elif gain > 0.75:
            damping = damping / 10 if damping > 1e-2 else 0.0
        if taken:
            _copy(trial, x)
            value, exact = next_value, next_exact
            _copy(next_g, g)
            for k in range(K):
                _copy(next_H[k], H[k])
        if damping > _STUCK:
            break
    return False


@no_type_check
@njit(cache=True, error_model="numpy")
def _allocate(n_energies, materials, bins):
    """Scratch arrays of one ray."""
    K = len(materials)
    n_sums = len(bins) * (1 + K + K * (K + 1) // 2)
    return _Scratch(
        (np.empty(n_energies), np.empty((n_sums + 3) // 4 * 4)),
        np.empty(K), np.empty(K), np.empty(K), np.empty(K), np.empty(K), np.empty(K), np.empty(K),
        np.ones(K, np.bool_),
        np.empty((K, K)), np.empty((K, K)), np.empty((K, K)), np.empty((K, K)),
    )  # fmt: skip


@no_type_check
@njit(cache=True, error_model="numpy")
def _solve_tile(
    pixels, rays, counts, spectra, attenuation, starts, close, box, limits, materials, bins, x,
    converged,
):  # fmt: skip
    """``solve_in_double`` for a few rays."""
    K = len(materials)
    first, second, sures = starts
    scratch = _allocate(attenuation.shape[1], materials, bins)
    n, found, done = np.empty(len(bins)), np.empty((2, K)), np.zeros(2, np.bool_)
    packed_for, nothing = -1, np.zeros(K)
    beam = np.empty((K, 1)), np.empty((1, 1)), materials, bins
    for i in range(len(rays)):
        pixel, ray = pixels[i], rays[i]
        spectrum = pixel if len(spectra) > 1 else 0
        if spectrum != packed_for:
            beam = packed(spectra[spectrum].astype(np.float64), attenuation, materials, bins)
            packed_for = spectrum
        for k in range(len(bins)):
            n[k] = counts[pixel, ray, k]
        for k in range(K):
            found[0, k], found[1, k] = first[pixel, ray, k], second[pixel, ray, k]
        done[0] = done[1] = False
        is_close, sure = close[pixel, ray], sures[pixel, ray]
        alone = is_close or np.isnan(found[1, 0])
        if np.isnan(found[1, 0]):
            _copy(nothing, found[1])
        for turn in range(0 if is_close or sure else 1, 5):
            which = 1 if turn > 2 else 0
            if done[which] or (alone and done[0]):
                continue
            steps, scoring = (60, 0) if turn in (2, 4) else (12, 0 if turn == 0 else 5)
            if turn == 3 and sure and not alone:
                scoring = 0
            done[which] = _descend(
                found[which], n, beam, box, limits.distance, steps, scoring, scratch
            )
            alone = alone and done[0]
        better = done[1] and not done[0]
        if done[0] and done[1]:
            sums, slope, g, H = scratch.of_energies, scratch.slope, scratch.g, scratch.H
            value = likelihood(found[0], n, beam, False, sums, slope, g, H)
            other = likelihood(found[1], n, beam, False, sums, slope, g, H)
            better = other < value - limits.gap - 2 * 4 * _EPS * _sum(n)
        for k in range(K):
            x[pixel, ray, k] = found[1 if better else 0, k]
        converged[pixel, ray] = done[0] or done[1]


@no_type_check
@njit(cache=True, error_model="numpy", parallel=True)
def solve_in_double(
    pixels, rays, counts, spectra, attenuation, starts, close, box, limits, materials, bins, x,
    converged,
):  # fmt: skip
    """The likelier of the minima that are reached from two starts.

    Args:
        pixels, rays: indices of the rays.
        counts: (pixel, ray, bin).
        spectra: (pixel, bin, energy), or one for all pixels.
        attenuation: (material, energy), in double precision.
        starts: ``Starts`` (pixel, ray, material); where the second is NaN, it is zero material, and
            used only if the first search does not end.
        close: (pixel, ray), whether the start is close to the only minimum.
        box, limits: ``Box`` and ``Limits``, in double precision.
        materials, bins: tuples with one entry for each.
        x: (pixel, ray, material), written for these rays.
        converged: (pixel, ray), written for these rays.
    """
    n_tiles = (len(rays) + _TILE - 1) // _TILE
    for tile in prange(n_tiles):
        i, j = tile * _TILE, (tile + 1) * _TILE
        _solve_tile(
            pixels[i:j], rays[i:j], counts, spectra, attenuation, starts, close, box, limits,
            materials, bins, x, converged,
        )  # fmt: skip
