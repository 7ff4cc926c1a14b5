"""``DampedNewton`` in float32 for 64 rays at a time, for the likelihood.

For rays whose likelihood may have several minima, but which float32 resolves. They take the first
steps of ``find_minima`` in double precision: up to twelve, of which five with the Fisher matrix.
Rays that leave the box or need more steps are left to double precision.
"""

from typing import no_type_check

import numpy as np
from numba import njit, prange

from pcctlearn.decomposition.lanes_numba import (
    DEFINITE,
    EPS,
    FASTMATH,
    LANES,
    TILE,
    TOTAL,
    f4,
    i4,
    look_at,
    packed,
    pair,
    rows,
    solve,
)

# turns of a ray: it starts, takes twelve steps, of which five with the Fisher matrix, and is looked
# at; then it starts again where it is, takes sixty steps, and is looked at for the last time
_SCORING, _AGAIN, _LAST = 5, 14, 75
_TOLERANCE, _STUCK = f4(1e-10), f4(1e12)  # of ``DampedNewton``
_TINY = f4(np.finfo(np.float32).tiny)
_LN_2 = f4(np.log(2))

# scalars of a lane; DEFINITE and TOTAL are those of lanes_numba
_PREDICTED, _VALUE, _DAMPING, _FATE = 0, 2, 3, 5
_SEARCHING, _FOUND, _LOST = f4(0), f4(1), f4(2)


@no_type_check
@njit(inline="always")
def _log(x):
    """ln x to 1e-7, with m = x/2^k in √½ … √2 and s = (m − 1)/(m + 1): k ln 2 + 2 artanh s."""
    bits = f4(x).view(i4)
    exponent = (bits - i4(0x3F3504F3)) >> i4(23)
    m = i4(bits - (exponent << i4(23))).view(f4)
    s = (m - f4(1)) / (m + f4(1))
    q = s * s
    p = f4(1) + q * (f4(1 / 3) + q * (f4(1 / 5) + q * (f4(1 / 7) + q * f4(1 / 9))))
    return _LN_2 * f4(exponent) + f4(2) * s * p


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _measure(w, exact, materials, bins):
    """Half the deviance, its gradient and its exact or expected Hessian after ``look_at``."""
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    _, _, G, H, D, Q, N, M, _ = rows(materials, bins)
    for i in range(G * LANES, D * LANES):
        w[i] = f4(0)
    for r in range(LANES):
        w[(Q + _VALUE) * LANES + r] = f4(0)
    curved = f4(1) if exact else f4(0)
    for b in range(len(bins)):
        m, n = (M + b * n_moments) * LANES, (N + b) * LANES
        for r in range(LANES):
            mean = w[m + r]
            excess = w[n + r] - mean
            w[(Q + _VALUE) * LANES + r] += w[n + r] * _log(max(w[n + r] / mean, _TINY)) - excess
            for k in range(K):
                dk = w[m + (1 + k) * LANES + r]
                w[(G + k) * LANES + r] += excess * dk
                for j in range(k + 1):
                    C = w[m + (1 + K + pair(k, j)) * LANES + r]
                    w[(H + pair(k, j)) * LANES + r] += (
                        mean * dk * w[m + (1 + j) * LANES + r] - curved * excess * C
                    )


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _load(w, state, counts, active, first, lanes, materials, bins):
    """State and counts of 64 active rays; the last ray is repeated."""
    K = len(materials)
    A, _, G, _, D, Q, N, _, _ = rows(materials, bins)
    for r in range(LANES):
        i = active[first + min(r, lanes - 1)]
        for k in range(K):
            w[(A + k) * LANES + r] = state[k, i]
        for row in range(D - G):
            w[(G + row) * LANES + r] = state[K + row, i]
        w[(Q + _DAMPING) * LANES + r] = state[K + D - G + 1, i]
        total = f4(0)
        for b in range(len(bins)):
            w[(N + b) * LANES + r] = counts[i, b]
            total += counts[i, b]
        w[(Q + TOTAL) * LANES + r] = total


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _step(w, lower, upper, distance, materials, bins):
    """Newton's step D of the damped model, the predicted decrease, and the fate of the ray.

    The prediction of a step D with (H + δ diag|H|) D = g is D·g − ½ DᵀHD. A ray near its minimum
    (``DampedNewton``) is found if float32 resolves it (``resolved``), and lost if not.
    """
    K = len(materials)
    A, S, G, H, D, Q, _, _, _ = rows(materials, bins)
    for k in range(K):
        for r in range(LANES):
            o = (H + pair(k, k)) * LANES + r
            w[(S + k) * LANES + r] = w[(Q + _DAMPING) * LANES + r] * abs(w[o])
            w[o] += w[(S + k) * LANES + r]
    solve(w, materials, bins)
    for r in range(LANES):
        decrement, held = f4(0), f4(0)
        for k in range(K):
            step = w[(D + k) * LANES + r]
            decrement += step * w[(G + k) * LANES + r]
            held += w[(S + k) * LANES + r] * step * step
        w[(Q + _PREDICTED) * LANES + r] = f4(0.5) * (decrement + held)
        resolvable = _TOLERANCE + f4(64) * EPS * EPS * w[(Q + TOTAL) * LANES + r]
        near = (w[(Q + DEFINITE) * LANES + r] > f4(0)) & (decrement <= resolvable)
        near = near & (w[(Q + _DAMPING) * LANES + r] <= f4(0))
        w[(Q + _FATE) * LANES + r] = _FOUND if near else _SEARCHING
    for unit in range(K):
        for r in range(LANES):
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
            total = w[(Q + TOTAL) * LANES + r]
            step = w[(D + unit) * LANES + r]
            x = w[(A + unit) * LANES + r] - step
            w[(A + unit) * LANES + r] = x
            sharp = f4(4) * EPS * np.sqrt(total * variance) <= distance
            sharp = sharp & (variance * diagonal <= f4(4e-5) / EPS)
            sharp = sharp & (abs(x) * f4(0.5) * EPS <= distance)
            o = (Q + _FATE) * LANES + r
            fate = _SEARCHING if abs(step) > distance else w[o]
            fate = _LOST if (fate == _FOUND) & (not sharp) else fate
            inside = (x > lower[unit]) & (x < upper[unit])
            definite = w[(Q + DEFINITE) * LANES + r] > f4(0)
            w[o] = _LOST if definite & (not inside) else fate


@no_type_check
@njit(inline="always")
def _taken(w, value, damping, r, Q):
    """Whether a step is taken, and the next damping."""
    rounding = f4(4) * EPS * w[(Q + TOTAL) * LANES + r]
    predicted = w[(Q + _PREDICTED) * LANES + r]
    decrease = value - w[(Q + _VALUE) * LANES + r]
    taken = (w[(Q + DEFINITE) * LANES + r] > f4(0)) & (decrease >= -rounding)
    clear = predicted > _TOLERANCE + (f4(1) + f4(16) * EPS) * rounding
    gain = decrease / predicted if clear else f4(1)
    if not taken or gain < f4(0.25):
        damping = max(f4(10) * damping, f4(1e-2))
    elif gain > f4(0.75):
        damping = damping / f4(10) if damping > f4(1e-2) else f4(0)
    return taken, damping


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _store(w, state, active, first, lanes, turn, n_left, materials, bins):
    """Take or refuse the steps of 64 rays; those still searching stay active; their number."""
    K = len(materials)
    A, _, G, _, D, Q, _, _, _ = rows(materials, bins)
    V = K + D - G
    starts, moves = turn in (0, _AGAIN), turn not in (_AGAIN - 1, _LAST)
    for r in range(lanes):
        i = active[first + r]
        taken = starts
        if starts:
            state[V + 1, i] = f4(0)
        elif w[(Q + _FATE) * LANES + r] != _SEARCHING:
            continue
        elif moves:
            taken, state[V + 1, i] = _taken(w, state[V, i], state[V + 1, i], r, Q)
        if taken:
            for k in range(K):
                state[k, i] = w[(A + k) * LANES + r]
            for row in range(D - G):
                state[K + row, i] = w[(G + row) * LANES + r]
            state[V, i] = w[(Q + _VALUE) * LANES + r]
            state[V + 2, i] = f4(1) if turn >= _SCORING else f4(0)
        if state[V + 1, i] <= _STUCK:
            active[n_left] = i
            n_left += 1
    return n_left


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _write(w, state, active, first, lanes, x, value, found, materials, bins):
    """The minima of the rays that are found, at an exact Hessian; others go on."""
    K = len(materials)
    A, _, G, _, D, Q, _, _, _ = rows(materials, bins)
    V = K + D - G
    for r in range(lanes):
        i = active[first + r]
        o = (Q + _FATE) * LANES + r
        if w[o] == _FOUND and state[V + 2, i] == f4(0):
            w[o] = _SEARCHING
        if w[o] == _FOUND:
            found[i] = True
            value[i] = state[V, i] - w[(Q + _PREDICTED) * LANES + r]
            for k in range(K):
                x[i, k] = w[(A + k) * LANES + r]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _descend_tile(
    n, spectra, attenuation, start, wanted, lower, upper, distance, materials, bins, x, value, found
):
    """``descend`` for the rays of a tile; arrays without the pixel axis."""
    K = len(materials)
    _, _, G, _, D, _, _, _, height = rows(materials, bins)
    active = np.empty(len(n), np.int64)
    n_active = 0
    # A, gradient, Hessian, half the deviance, damping, and whether the Hessian is exact
    state = np.zeros((K + D - G + 3, len(n)), np.float32)
    for i in range(len(n)):
        if wanted[i]:
            active[n_active] = i
            n_active += 1
            for k in range(K):
                state[k, i] = min(max(start[i, k], lower[k]), upper[k])
    if n_active == 0:
        return
    exponents, weights = packed(spectra, attenuation, materials, bins)
    w = np.zeros(height * LANES, np.float32)
    for turn in range(_LAST + 1):
        n_left = 0
        for first in range(0, n_active, LANES):
            lanes = min(LANES, n_active - first)
            _load(w, state, n, active, first, lanes, materials, bins)
            if turn not in (0, _AGAIN):
                _step(w, lower, upper, distance, materials, bins)
                _write(w, state, active, first, lanes, x, value, found, materials, bins)
            if turn not in (_AGAIN - 1, _LAST):
                look_at(w, exponents, weights, materials, bins)
                _measure(w, turn >= _SCORING, materials, bins)
            n_left = _store(w, state, active, first, lanes, turn, n_left, materials, bins)
        n_active = n_left


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH, parallel=True)
def descend(
    counts, spectra, attenuation, start, wanted, lower, upper, distance, materials, bins,
    x, value, found,
):  # fmt: skip
    """Minima that are reached from the start.

    Args:
        counts, spectra, attenuation, lower, upper, materials, bins: as in ``fused_numba.minimise``.
        start: (pixel, ray, material), the first iterate.
        wanted: (pixel, ray), the rays to solve.
        distance: largest shift of a minimum.
        x: (pixel, ray, material), written for the rays that are found.
        value: (pixel, ray), half the deviance of the minimum, written likewise.
        found: (pixel, ray), zero; written.
    """
    per_pixel = (counts.shape[1] + TILE - 1) // TILE
    for tile in prange(counts.shape[0] * per_pixel):
        p, i = tile // per_pixel, tile % per_pixel * TILE
        j = i + TILE
        own = p if len(spectra) > 1 else 0
        _descend_tile(
            counts[p, i:j], spectra[own], attenuation, start[p, i:j], wanted[p, i:j], lower, upper,
            distance, materials, bins, x[p, i:j], value[p, i:j], found[p, i:j],
        )  # fmt: skip
