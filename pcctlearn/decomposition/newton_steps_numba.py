"""Steps of ``DampedNewton`` in float32 for 64 rays at a time, for the likelihood.

``propose`` writes a trial within the box, ``judge`` tells whether the search ends, and after an
evaluation at the trial ``accept`` decides whether the step is taken.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from pcctlearn.decomposition.lanes_numba import (
    DEFINITE,
    EPS,
    FASTMATH,
    FATE,
    LANES,
    MOST_INFLATED,
    TOTAL,
    VALUE,
    f4,
    half_deviance,
    inverse_diagonal,
    pair,
    rows,
    solve_rows,
)
from pcctlearn.instructions_numba import use_wide_vectors

_TOLERANCE = f4(1e-10)  # of ``DampedNewton``
# Newton decrement below which a search is close to its minimum. The ray is lost if float32 does not
# resolve that minimum; a second search ends if it is less likely than the first minimum, or is the
# same: the square of their distance is at most ``_AT`` variances
_CLOSE, _AT = f4(1e-2), f4(2.5e-3)

# scalars of a lane, besides those of lanes_numba; ``FIRST_VALUE`` is that of the first search
PREDICTED, DAMPING, FIRST_VALUE, EXACT, _END, IS_CLOSE, SURE = 0, 3, 6, 7, 8, 9, 10
SEARCHING, RESOLVED, LOST, ENDED = f4(0), f4(1), f4(2), f4(3)  # fates
_SAME_MINIMUM, _LESS_LIKELY = f4(1), f4(2)  # ends of a second search


@no_type_check
@njit(inline="always")
def scratch_rows(M, K):
    """Rows of a damped Hessian, free unknowns, a trial, and the minimum of the first search;
    an evaluation overwrites them."""
    F = M + K * (K + 1) // 2
    return M, F, F + K, F + 2 * K


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def measure(w, exact, materials, bins):
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
            curved = f4(1) if exact else w[(Q + SURE) * LANES + r]
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
def propose(w, box, materials, bins):
    """Newton's step D of the damped model within the box (``newton_trial``)."""
    use_wide_vectors()
    K = len(materials)
    lower, upper = box
    A, S, G, H, D, Q, _, M, _ = rows(materials, bins)
    L, F, T, _ = scratch_rows(M, K)
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
                h += w[(Q + DAMPING) * LANES + r] * abs(h)
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
def judge(w, again, box, limits, materials, bins):
    """The decrease g·D − ½ DᵀHD that a step predicts, and the fate of the ray.

    Near its minimum (``DampedNewton``) a ray is resolved if float32 is fine enough (``resolved``),
    and lost if not. A second search ends at the minimum of the first, or at one less likely.
    """
    use_wide_vectors()
    K = len(materials)
    lower, upper = box
    distance, gap = limits
    A, S, G, H, D, Q, _, M, _ = rows(materials, bins)
    L, F, T, X = scratch_rows(M, K)
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
        w[(Q + PREDICTED) * LANES + r] = decrement - f4(0.5) * bent
        total = w[(Q + TOTAL) * LANES + r]
        convex = (w[(Q + DEFINITE) * LANES + r] > f4(0)) & (w[(Q + EXACT) * LANES + r] > f4(0))
        convex = convex & (w[(Q + DAMPING) * LANES + r] <= f4(0))
        close = convex & (decrement <= _CLOSE)
        w[(Q + IS_CLOSE) * LANES + r] = f4(1) if close else f4(0)
        near = convex & (decrement <= _TOLERANCE + f4(64) * EPS * EPS * total)
        w[(Q + FATE) * LANES + r] = RESOLVED if near else SEARCHING
        rise = w[(Q + VALUE) * LANES + r] - decrement - w[(Q + FIRST_VALUE) * LANES + r]
        end = _LESS_LIKELY if rise > gap + f4(8) * EPS * total else _SAME_MINIMUM
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
            fate = SEARCHING if abs(w[(D + unit) * LANES + r]) > distance else w[o]
            close = w[(Q + IS_CLOSE) * LANES + r] > f4(0)
            w[o] = fate if sharp | (not close) else LOST
            # At a limit rounding may decide which minimum a search comes to, and another may lie
            # along it; with three materials, also on the way.
            convex = w[(Q + DEFINITE) * LANES + r] > f4(0)
            at_limit = convex & ((x <= lower[unit]) | (x >= upper[unit]))
            lost = at_limit & (close | (K > 2))
            w[o] = LOST if lost else w[o]
            i = (Q + IS_CLOSE) * LANES + r
            w[i] = f4(0) if lost else w[i]
            apart = x - w[(X + unit) * LANES + r]
            at = apart * apart <= (_AT * variance if free else distance * distance)
            o = (Q + _END) * LANES + r
            w[o] = w[o] if at | (w[o] != _SAME_MINIMUM) else f4(0)
    for r in range(LANES):
        o = (Q + FATE) * LANES + r
        ended = (w[(Q + _END) * LANES + r] > f4(0)) & (w[o] != LOST)
        w[o] = ENDED if ended else w[o]


@no_type_check
@njit(inline="always")
def accept(w, value, damping, r, Q):
    """Whether a step is taken, and the next damping."""
    rounding = f4(4) * EPS * w[(Q + TOTAL) * LANES + r]
    predicted = w[(Q + PREDICTED) * LANES + r]
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
def move(w, materials, bins):
    """A to the trial."""
    use_wide_vectors()
    A, _, _, _, _, _, _, M, _ = rows(materials, bins)
    _, _, T, _ = scratch_rows(M, len(materials))
    for i in range(len(materials) * LANES):
        w[A * LANES + i] = w[T * LANES + i]
