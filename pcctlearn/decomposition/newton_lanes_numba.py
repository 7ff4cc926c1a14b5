"""``DampedNewton`` in float32 for 64 rays at a time, for the likelihood.

For rays whose likelihood may have several minima, or whose minimum is on a limit. Where all minima
have a start (``profile_numba``), they are searched from each, with the exact Hessian from the first
step on. Other rays are searched from two starts, and the steps are the first of those that
``find_minima`` takes in double precision: up to twelve, of which five with the Fisher matrix, and
then up to sixty.
"""

from typing import no_type_check

import numpy as np
from numba import njit, prange

from pcctlearn.decomposition.lanes_numba import (
    DEFINITE,
    EPS,
    FASTMATH,
    FATE,
    LANES,
    MOST_INFLATED,
    TILE,
    TOTAL,
    VALUE,
    count,
    f4,
    half_deviance,
    inverse_diagonal,
    look_at,
    packed,
    pair,
    rows,
    solve_rows,
)
from pcctlearn.instructions_numba import flush_denormals, restore_denormals, use_wide_vectors

# turns of a ray: it starts, takes twelve steps, of which five with the Fisher matrix, and is looked
# at; then it starts again where it is, takes sixty steps, and is looked at for the last time
_SCORING, _AGAIN, _LAST = 5, 14, 75
_TOLERANCE, _STUCK = f4(1e-10), f4(1e12)  # of ``DampedNewton``
# A Newton decrement, below which a search comes to its minimum: it is lost if float32 does not
# resolve it, and a second search ends if the minimum is less likely than the known one, or is that
# one, at a square of the distance over the variance of no more than ``_AT``
_CLOSE, _AT = f4(1e-2), f4(2.5e-3)

# scalars of a lane, besides those of lanes_numba
_PREDICTED, _DAMPING, _KNOWN, _EXACT, _END, _IS_CLOSE, _SURE = 0, 3, 6, 7, 8, 9, 10
_SEARCHING, _FOUND, _LOST, _ENDED = f4(0), f4(1), f4(2), f4(3)
_KNOWN_ONE, _LESS_LIKELY = f4(1), f4(2)
FOUND, CLOSE, BOTH = 1, 2, 3  # of a ray


@no_type_check
@njit(inline="always")
def _scratch(M, K):
    """Rows of a damped Hessian, free unknowns, a trial and the known minimum, before a look."""
    F = M + K * (K + 1) // 2
    return M, F, F + K, F + 2 * K


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _measure(w, exact, materials, bins):
    """Half the deviance, its gradient and its exact or expected Hessian after ``look_at``."""
    use_wide_vectors()
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    _, _, G, H, D, Q, N, M, _ = rows(materials, bins)
    for i in range(G * LANES, D * LANES):
        w[i] = f4(0)
    for r in range(LANES):
        w[(Q + VALUE) * LANES + r] = f4(0)
    for b in range(len(bins)):
        m, n = (M + b * n_moments) * LANES, (N + b) * LANES
        for r in range(LANES):
            mean = w[m + r]
            excess = w[n + r] - mean
            curved = f4(1) if exact else w[(Q + _SURE) * LANES + r]
            w[(Q + VALUE) * LANES + r] += half_deviance(w[n + r], mean)
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
def _load(w, state, counts, sure, before, x, value, active, first, lanes, materials, bins):
    """State, counts and known minima of 64 active rays; the last ray is repeated.

    A minimum that float32 does not resolve is no place at which a second search may end.
    """
    use_wide_vectors()
    K = len(materials)
    A, _, G, _, D, Q, N, M, _ = rows(materials, bins)
    _, _, _, X = _scratch(M, K)
    for r in range(LANES):
        i = active[first + min(r, lanes - 1)]
        for k in range(K):
            w[(A + k) * LANES + r] = state[k, i]
            w[(X + k) * LANES + r] = x[i, k] if before[i] == FOUND else f4(np.nan)
        w[(Q + _KNOWN) * LANES + r] = value[i]
        w[(Q + _SURE) * LANES + r] = f4(1) if sure[i] else f4(0)
        for row in range(D - G):
            w[(G + row) * LANES + r] = state[K + row, i]
        w[(Q + VALUE) * LANES + r] = state[K + D - G, i]
        w[(Q + _DAMPING) * LANES + r] = state[K + D - G + 1, i]
        w[(Q + _EXACT) * LANES + r] = state[K + D - G + 2, i]
        for b in range(len(bins)):
            w[(N + b) * LANES + r] = counts[i, b]
    count(w, materials, bins)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _propose(w, lower, upper, materials, bins):
    """Newton's step D of the damped model within the box (``newton_trial``)."""
    use_wide_vectors()
    K = len(materials)
    A, S, G, H, D, Q, _, M, _ = rows(materials, bins)
    L, F, T, _ = _scratch(M, K)
    for k in range(K):
        for r in range(LANES):
            x, g = w[(A + k) * LANES + r], w[(G + k) * LANES + r]
            held = ((x <= lower[k]) & (g > f4(0))) | ((x >= upper[k]) & (g < f4(0)))
            w[(F + k) * LANES + r] = f4(0) if held else f4(1)
            w[(T + k) * LANES + r] = x
    for _ in range(K):
        for k in range(K):
            for r in range(LANES):
                free = w[(F + k) * LANES + r]
                pull = w[(G + k) * LANES + r]
                for j in range(K):
                    h, others = w[(H + pair(k, j)) * LANES + r], w[(F + j) * LANES + r]
                    moved = w[(T + j) * LANES + r] - w[(A + j) * LANES + r]
                    pull += (f4(1) - others) * h * moved
                    if j < k:
                        w[(L + pair(k, j)) * LANES + r] = free * others * h
                h = w[(H + pair(k, k)) * LANES + r]
                h += w[(Q + _DAMPING) * LANES + r] * abs(h)
                w[(L + pair(k, k)) * LANES + r] = h if free > f4(0) else f4(1)
                w[(S + k) * LANES + r] = free * pull
        solve_rows(w, L, S, D, Q + DEFINITE, K)
        for k in range(K):
            for r in range(LANES):
                target = w[(A + k) * LANES + r] - w[(D + k) * LANES + r]
                inside = min(max(target, lower[k]), upper[k])
                free = w[(F + k) * LANES + r] > f4(0)
                o = (T + k) * LANES + r
                w[o] = inside if free else w[o]
                w[(F + k) * LANES + r] = f4(1) if free & (inside == target) else f4(0)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _judge(w, again, lower, upper, distance, telling, materials, bins):
    """The decrease g·D − ½ DᵀHD that a step predicts, and the fate of the ray.

    A ray near its minimum (``DampedNewton``) is found if float32 resolves it (``resolved``), and
    lost if not. A second search ends where it comes to the known minimum or to one less likely.
    """
    use_wide_vectors()
    K = len(materials)
    A, S, G, H, D, Q, _, M, _ = rows(materials, bins)
    L, F, T, X = _scratch(M, K)
    for k in range(K):
        for r in range(LANES):
            w[(D + k) * LANES + r] = w[(A + k) * LANES + r] - w[(T + k) * LANES + r]
    for r in range(LANES):
        decrement, bent = f4(0), f4(0)
        for k in range(K):
            step = w[(D + k) * LANES + r]
            decrement += step * w[(G + k) * LANES + r]
            for j in range(K):
                bent += step * w[(H + pair(k, j)) * LANES + r] * w[(D + j) * LANES + r]
        w[(Q + _PREDICTED) * LANES + r] = decrement - f4(0.5) * bent
        total = w[(Q + TOTAL) * LANES + r]
        convex = (w[(Q + DEFINITE) * LANES + r] > f4(0)) & (w[(Q + _EXACT) * LANES + r] > f4(0))
        convex = convex & (w[(Q + _DAMPING) * LANES + r] <= f4(0))
        close = convex & (decrement <= _CLOSE)
        w[(Q + _IS_CLOSE) * LANES + r] = f4(1) if close else f4(0)
        near = convex & (decrement <= _TOLERANCE + f4(64) * EPS * EPS * total)
        w[(Q + FATE) * LANES + r] = _FOUND if near else _SEARCHING
        rise = w[(Q + VALUE) * LANES + r] - decrement - w[(Q + _KNOWN) * LANES + r]
        end = _LESS_LIKELY if rise > telling + f4(8) * EPS * total else _KNOWN_ONE
        w[(Q + _END) * LANES + r] = end if again & close & (K < 3) else f4(0)
    for unit in range(K):
        for r in range(LANES):
            variance, diagonal = inverse_diagonal(w, L, S, unit, r, K)
            free = w[(F + unit) * LANES + r] > f4(0)
            x = w[(T + unit) * LANES + r]
            sharp = f4(4) * EPS * np.sqrt(w[(Q + TOTAL) * LANES + r] * variance) <= distance
            sharp = (sharp & (variance * diagonal <= MOST_INFLATED)) | (not free)
            sharp = sharp & (abs(x) * f4(0.5) * EPS <= distance)
            o = (Q + FATE) * LANES + r
            fate = _SEARCHING if abs(w[(D + unit) * LANES + r]) > distance else w[o]
            close = w[(Q + _IS_CLOSE) * LANES + r] > f4(0)
            w[o] = fate if sharp | (not close) else _LOST
            # At a limit rounding may decide which minimum a search comes to, and another may lie
            # along it; with three materials, also on the way.
            convex = w[(Q + DEFINITE) * LANES + r] > f4(0)
            at_limit = convex & ((x <= lower[unit]) | (x >= upper[unit]))
            lost = at_limit & (close | (K > 2))
            w[o] = _LOST if lost else w[o]
            i = (Q + _IS_CLOSE) * LANES + r
            w[i] = f4(0) if lost else w[i]
            apart = x - w[(X + unit) * LANES + r]
            at = apart * apart <= (_AT * variance if free else distance * distance)
            o = (Q + _END) * LANES + r
            w[o] = w[o] if at | (w[o] != _KNOWN_ONE) else f4(0)
    for r in range(LANES):
        o = (Q + FATE) * LANES + r
        ended = (w[(Q + _END) * LANES + r] > f4(0)) & (w[o] != _LOST)
        w[o] = _ENDED if ended else w[o]


@no_type_check
@njit(inline="always")
def _taken(w, value, damping, r, Q):
    """Whether a step is taken, and the next damping."""
    rounding = f4(4) * EPS * w[(Q + TOTAL) * LANES + r]
    predicted = w[(Q + _PREDICTED) * LANES + r]
    decrease = value - w[(Q + VALUE) * LANES + r]
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
def _move(w, materials, bins):
    """A to the trial."""
    use_wide_vectors()
    A, _, _, _, _, _, _, M, _ = rows(materials, bins)
    _, _, T, _ = _scratch(M, len(materials))
    for i in range(len(materials) * LANES):
        w[A * LANES + i] = w[T * LANES + i]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _store(w, state, active, first, lanes, turn, n_left, materials, bins):
    """Take or refuse the steps of 64 rays; those still searching stay active; their number."""
    use_wide_vectors()
    K = len(materials)
    A, _, G, _, D, Q, _, _, _ = rows(materials, bins)
    V = K + D - G
    starts, moves = turn in (0, _AGAIN), turn not in (_AGAIN - 1, _LAST)
    for r in range(lanes):
        i = active[first + r]
        taken = starts
        if starts:
            state[V + 1, i] = f4(0)
        elif w[(Q + FATE) * LANES + r] != _SEARCHING:
            continue
        elif moves:
            taken, state[V + 1, i] = _taken(w, state[V, i], state[V + 1, i], r, Q)
        if taken:
            for k in range(K):
                state[k, i] = w[(A + k) * LANES + r]
            for row in range(D - G):
                state[K + row, i] = w[(G + row) * LANES + r]
            state[V, i] = w[(Q + VALUE) * LANES + r]
            state[V + 2, i] = f4(1) if turn >= _SCORING else w[(Q + _SURE) * LANES + r]
        if state[V + 1, i] <= _STUCK:
            active[n_left] = i
            n_left += 1
    return n_left


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _write(
    w, state, active, first, lanes, again, before, distance, telling, second, x, value, found,
    materials, bins,
):  # fmt: skip
    """The minima of the rays whose search ends.

    After a second search (``again``) the likelier minimum stays, and rays are found if both are one
    or float32 tells which is likelier. Where all minima have a start, those that float32 comes
    close to and does not resolve are kept for double precision, as are two that it does not tell
    apart.
    """
    use_wide_vectors()
    K = len(materials)
    _, _, G, _, D, Q, _, M, _ = rows(materials, bins)
    _, _, T, _ = _scratch(M, K)
    for r in range(lanes):
        i = active[first + r]
        fate = w[(Q + FATE) * LANES + r]
        found[i] = before[i] if fate == _ENDED else 0
        is_close = (w[(Q + _IS_CLOSE) * LANES + r] > f4(0)) & (w[(Q + _SURE) * LANES + r] > f4(0))
        is_close = is_close & (fate == _LOST)
        if fate != _FOUND and not is_close:
            continue
        there = state[K + D - G, i] - w[(Q + _PREDICTED) * LANES + r]
        gap = value[i] - there
        told = abs(gap) > telling + f4(8) * EPS * w[(Q + TOTAL) * LANES + r]
        same = True
        for k in range(K):
            same = same and abs(w[(T + k) * LANES + r] - x[i, k]) <= f4(2) * distance
        resolved = fate == _FOUND and before[i] == FOUND
        if not again:
            found[i] = FOUND if fate == _FOUND else CLOSE
        else:
            found[i] = FOUND if resolved and (told or same) else BOTH
        if not again or (resolved and told and gap > f4(0)):
            value[i] = there
            for k in range(K):
                x[i, k] = w[(T + k) * LANES + r]
        elif found[i] == BOTH:
            for k in range(K):
                second[i, k] = w[(T + k) * LANES + r]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _search(
    w, state, active, n_active, n, sure, exponents, weights, again, before, limits, lower, upper,
    materials, bins, second, x, value, found,
):  # fmt: skip
    """``DampedNewton`` of the active rays from the area densities in their state."""
    use_wide_vectors()
    distance, telling = limits
    for turn in range(_LAST + 1):
        n_left = 0
        for first in range(0, n_active, LANES):
            lanes = min(LANES, n_active - first)
            _load(w, state, n, sure, before, x, value, active, first, lanes, materials, bins)
            if turn not in (0, _AGAIN):
                _propose(w, lower, upper, materials, bins)
                _judge(w, again, lower, upper, distance, telling, materials, bins)
                _write(
                    w, state, active, first, lanes, again, before, distance, telling, second, x,
                    value, found, materials, bins,
                )  # fmt: skip
                _move(w, materials, bins)
            if turn not in (_AGAIN - 1, _LAST):
                look_at(w, exponents, weights, materials, bins)
                _measure(w, turn >= _SCORING, materials, bins)
            n_left = _store(w, state, active, first, lanes, turn, n_left, materials, bins)
        n_active = n_left


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _search_tile(
    n, spectra, attenuation, start, second, sure, wanted, lower, upper, limits, materials, bins,
    x, value, found,
):  # fmt: skip
    """``search`` for the rays of a tile; arrays without the pixel axis."""
    use_wide_vectors()
    K = len(materials)
    _, _, G, _, D, _, _, _, height = rows(materials, bins)
    exponents, weights = packed(spectra, attenuation, materials, bins)
    w = np.zeros(height * LANES, np.float32)
    active = np.empty(len(n), np.int64)
    # A, gradient, Hessian, half the deviance, damping, and whether the Hessian is exact
    state = np.zeros((K + D - G + 3, len(n)), np.float32)
    before = np.full(len(n), FOUND, np.int8)
    for again in (False, True):
        n_active = 0
        for i in range(len(n)):
            if wanted[i] and (not again or (found[i] > 0 and not np.isnan(second[i, 0]))):
                before[i] = found[i] if again else FOUND
                active[n_active] = i
                n_active += 1
                for k in range(K):
                    begin = second[i, k] if again else start[i, k]
                    state[k, i] = min(max(begin, lower[k]), upper[k])
        if n_active == 0:
            continue
        _search(
            w, state, active, n_active, n, sure, exponents, weights, again, before, limits, lower,
            upper, materials, bins, second, x, value, found,
        )  # fmt: skip


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH, parallel=True)
def search(
    counts, spectra, attenuation, start, second, sure, wanted, lower, upper, limits, materials,
    bins, x, value, found,
):  # fmt: skip
    """The likelier of the minima that are reached from two starts.

    Args:
        counts, spectra, attenuation, lower, upper, materials, bins: as in ``fused_numba.minimise``.
        start, second: (pixel, ray, material), the first iterates; NaN for no second search.
        sure: (pixel, ray), whether all minima have a start, close to it.
        wanted: (pixel, ray), the rays to solve.
        limits: largest shift of a minimum, and least difference of the values of two minima.
        x: (pixel, ray, material), written for the rays whose first search ended.
        value: (pixel, ray), half the deviance of the minimum, written likewise.
        found: (pixel, ray), zero; written: ``FOUND`` if all searches ended, at one minimum or at
            two of which float32 tells the likelier; ``CLOSE`` if x is as close to the likelier
            minimum as float32 tells; ``BOTH`` if x and ``second``, which is then written, are.
    """
    use_wide_vectors()
    per_pixel = (counts.shape[1] + TILE - 1) // TILE
    for tile in prange(counts.shape[0] * per_pixel):
        p, i = tile // per_pixel, tile % per_pixel * TILE
        j = i + TILE
        own = p if len(spectra) > 1 else 0
        before = flush_denormals()
        _search_tile(
            counts[p, i:j], spectra[own], attenuation, start[p, i:j], second[p, i:j],
            sure[p, i:j], wanted[p, i:j], lower, upper, limits, materials, bins, x[p, i:j],
            value[p, i:j], found[p, i:j],
        )  # fmt: skip
        restore_denormals(before)
