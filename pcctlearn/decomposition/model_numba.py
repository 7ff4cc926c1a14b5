"""Minimum of the model of the counts near an evaluation, in float32 for 64 rays at a time.

The model is that of ``lanes_numba``, of third order in the step s. Its likelihood takes one
exponential for each bin, and three Newton steps minimise it.
"""

from typing import no_type_check

from numba import njit

from pcctlearn.decomposition.lanes_numba import (
    DEFINITE,
    FASTMATH,
    LANES,
    LOG2_E,
    SAFE,
    SPREAD,
    VALUE,
    exp2,
    f4,
    half_deviance,
    pair,
    rows,
    solve_rows,
)
from pcctlearn.instructions_numba import use_wide_vectors

_STEPS = 3


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _differentiate(w, materials, bins):
    """Gradient and Hessian of the model's likelihood at the step s.

    g = Σ_b (n_b − ȳ_b) d_b and H = Σ_b ȳ_b d_b d_bᵀ + (ȳ_b − n_b) C_b, with ȳ and d of the model at
    s. Where ȳ_b < n_b the last term can make H indefinite; a safe Hessian has n_b d_b d_bᵀ there.
    """
    use_wide_vectors()
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    _, S, G, H, D, Q, N, M, _ = rows(materials, bins)
    for i in range(G * LANES, D * LANES):
        w[i] = f4(0)
    for r in range(LANES):
        w[(Q + SPREAD) * LANES + r] = f4(0)
    for b in range(len(bins)):
        m, n = (M + b * n_moments) * LANES, (N + b) * LANES
        for r in range(LANES):
            along, variance = f4(0), f4(0)
            for k in range(K):
                bent = f4(0)
                for j in range(K):
                    C = w[m + (1 + K + pair(k, j)) * LANES + r]
                    bent += C * w[(S + j) * LANES + r]
                along += w[(S + k) * LANES + r] * w[m + (1 + k) * LANES + r]
                variance += w[(S + k) * LANES + r] * bent
                w[(D + k) * LANES + r] = w[m + (1 + k) * LANES + r] - bent
            mean = w[m + r] * exp2(-LOG2_E * (along - f4(0.5) * variance))
            excess = w[n + r] - mean
            safe = w[(Q + SAFE) * LANES + r]
            outer = mean + safe * max(excess, f4(0))
            curved = max(-excess, f4(0)) if safe > f4(0) else -excess
            w[(Q + SPREAD) * LANES + r] = max(w[(Q + SPREAD) * LANES + r], variance)
            for k in range(K):
                dk = w[(D + k) * LANES + r]
                w[(G + k) * LANES + r] += excess * dk
                for j in range(k + 1):
                    C = w[m + (1 + K + pair(k, j)) * LANES + r]
                    w[(H + pair(k, j)) * LANES + r] += (
                        outer * dk * w[(D + j) * LANES + r] + curved * C
                    )


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _solve(w, materials, bins):
    """``solve_rows`` of the Hessian and the gradient."""
    use_wide_vectors()
    _, _, G, H, D, Q, _, _, _ = rows(materials, bins)
    solve_rows(w, H, G, D, Q + DEFINITE, len(materials))


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def minimise_model(w, materials, bins):
    """Newton steps from s = 0 to the minimum of the model; D is the last of them."""
    use_wide_vectors()
    K = len(materials)
    _, S, G, _, D, _, _, _, _ = rows(materials, bins)
    for i in range(S * LANES, G * LANES):
        w[i] = f4(0)
    for _ in range(_STEPS):  # as many for all lanes: a ray does not depend on others
        _differentiate(w, materials, bins)
        _solve(w, materials, bins)
        for i in range(K * LANES):
            w[S * LANES + i] -= w[D * LANES + i]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def misfit(w, materials, bins):
    """Half the deviance of the model at s."""
    use_wide_vectors()
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    _, S, _, _, _, Q, N, M, _ = rows(materials, bins)
    for r in range(LANES):
        w[(Q + VALUE) * LANES + r] = f4(0)
    for b in range(len(bins)):
        m, n = (M + b * n_moments) * LANES, (N + b) * LANES
        for r in range(LANES):
            y = f4(0)
            for k in range(K):
                slope = w[m + (1 + k) * LANES + r]
                for j in range(K):
                    C = w[m + (1 + K + pair(k, j)) * LANES + r]
                    slope -= f4(0.5) * C * w[(S + j) * LANES + r]
                y += w[(S + k) * LANES + r] * slope
            w[(Q + VALUE) * LANES + r] += half_deviance(w[n + r], w[m + r] * exp2(-LOG2_E * y))
