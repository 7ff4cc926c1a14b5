"""Minima from two starts in float32, 64 rays at a time, by ``DampedNewton``.

For rays whose likelihood may have several minima, or whose minimum is on a limit. Where all minima
have a start (``profile_numba``), they are searched from each, with the exact Hessian from the first
step on. Other rays are searched from two starts, and the steps are the first of those that
``find_minima`` takes in double precision: up to twelve, of which five with the Fisher matrix, and
then up to sixty.
"""

from typing import NamedTuple, no_type_check

import numpy as np
from numba import njit, prange

from pcctlearn.decomposition.compiled_arguments import Box, Limits, Minima
from pcctlearn.decomposition.lanes_numba import (
    EPS,
    FASTMATH,
    FATE,
    LANES,
    TILE,
    TOTAL,
    VALUE,
    count,
    f4,
    look_at,
    packed,
    rows,
)
from pcctlearn.decomposition.newton_steps_numba import (
    DAMPING,
    ENDED,
    EXACT,
    FIRST_VALUE,
    IS_CLOSE,
    LOST,
    PREDICTED,
    RESOLVED,
    SEARCHING,
    SURE,
    accept,
    judge,
    measure,
    move,
    propose,
    scratch_rows,
)
from pcctlearn.decomposition.profiles import Starts
from pcctlearn.instructions_numba import flush_denormals, restore_denormals, use_wide_vectors

# turns of a ray: it starts, takes twelve steps, of which five with the Fisher matrix, and is looked
# at; then it starts again where it is, takes sixty steps, and is looked at for the last time
_SCORING, _AGAIN, _LAST = 5, 14, 75
_STUCK = f4(1e12)  # of ``DampedNewton``
FOUND, CLOSE, BOTH = 1, 2, 3  # fates of a ray


class _Tile(NamedTuple):
    """Rays of a tile and the state of their search.

    ``state`` has A, gradient, Hessian, half the deviance, damping, and whether the Hessian is exact
    (row, ray); ``before`` is the fate after the first search, or ``FOUND`` while it lasts.
    """

    counts: np.ndarray
    starts: Starts
    beam: tuple[np.ndarray, np.ndarray]
    state: np.ndarray
    before: np.ndarray
    box: Box
    limits: Limits
    minima: Minima


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _load(w, tile, chosen, materials, bins):
    """State, counts and first minima of up to 64 ``chosen`` rays; the last ray is repeated.

    A second search cannot end at a first minimum that float32 does not resolve.
    """
    use_wide_vectors()
    K = len(materials)
    A, _, G, _, D, Q, N, M, _ = rows(materials, bins)
    _, _, _, X = scratch_rows(M, K)
    counts, sure = tile.counts, tile.starts.sure  # in a loop references would be counted
    state, before, (x, value, _) = tile.state, tile.before, tile.minima
    for r in range(LANES):
        i = chosen[min(r, len(chosen) - 1)]
        for k in range(K):
            w[(A + k) * LANES + r] = state[k, i]
            w[(X + k) * LANES + r] = x[i, k] if before[i] == FOUND else f4(np.nan)
        w[(Q + FIRST_VALUE) * LANES + r] = value[i]
        w[(Q + SURE) * LANES + r] = f4(1) if sure[i] else f4(0)
        for row in range(D - G):
            w[(G + row) * LANES + r] = state[K + row, i]
        w[(Q + VALUE) * LANES + r] = state[K + D - G, i]
        w[(Q + DAMPING) * LANES + r] = state[K + D - G + 1, i]
        w[(Q + EXACT) * LANES + r] = state[K + D - G + 2, i]
        for b in range(len(bins)):
            w[(N + b) * LANES + r] = counts[i, b]
    count(w, materials, bins)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _store(w, state, chosen, turn, active, n_left, materials, bins):
    """Take or refuse the steps of the chosen rays; returns the number of rays that stay active."""
    use_wide_vectors()
    K = len(materials)
    A, _, G, _, D, Q, _, _, _ = rows(materials, bins)
    V = K + D - G
    starts, moves = turn in (0, _AGAIN), turn not in (_AGAIN - 1, _LAST)
    for r in range(len(chosen)):
        i = chosen[r]
        taken = starts
        if starts:
            state[V + 1, i] = f4(0)
        elif w[(Q + FATE) * LANES + r] != SEARCHING:
            continue
        elif moves:
            taken, state[V + 1, i] = accept(w, state[V, i], state[V + 1, i], r, Q)
        if taken:
            for k in range(K):
                state[k, i] = w[(A + k) * LANES + r]
            for row in range(D - G):
                state[K + row, i] = w[(G + row) * LANES + r]
            state[V, i] = w[(Q + VALUE) * LANES + r]
            state[V + 2, i] = f4(1) if turn >= _SCORING else w[(Q + SURE) * LANES + r]
        if state[V + 1, i] <= _STUCK:
            active[n_left] = i
            n_left += 1
    return n_left


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _write(w, tile, chosen, again, materials, bins):
    """The minima of the chosen rays whose search ends.

    After a second search (``again``) the likelier minimum stays, and rays are found if both are one
    or float32 tells which is likelier. Where all minima have a start, those that float32 comes
    close to and does not resolve are kept for double precision, as are two that it does not tell
    apart.
    """
    use_wide_vectors()
    K = len(materials)
    _, _, G, _, D, Q, _, M, _ = rows(materials, bins)
    _, _, T, _ = scratch_rows(M, K)
    (x, value, fates), state = tile.minima, tile.state
    before, second = tile.before, tile.starts.second
    for r in range(len(chosen)):
        i = chosen[r]
        fate = w[(Q + FATE) * LANES + r]
        fates[i] = before[i] if fate == ENDED else 0
        is_close = (w[(Q + IS_CLOSE) * LANES + r] > f4(0)) & (w[(Q + SURE) * LANES + r] > f4(0))
        is_close = is_close & (fate == LOST)
        if fate != RESOLVED and not is_close:
            continue
        reached = state[K + D - G, i] - w[(Q + PREDICTED) * LANES + r]
        gap = value[i] - reached
        differ = abs(gap) > tile.limits.gap + f4(8) * EPS * w[(Q + TOTAL) * LANES + r]
        same = True
        for k in range(K):
            apart = abs(w[(T + k) * LANES + r] - x[i, k])
            same = same and apart <= f4(2) * tile.limits.distance
        resolved = fate == RESOLVED and before[i] == FOUND
        if not again:
            fates[i] = FOUND if fate == RESOLVED else CLOSE
        else:
            fates[i] = FOUND if resolved and (differ or same) else BOTH
        if not again or (resolved and differ and gap > f4(0)):
            value[i] = reached
            for k in range(K):
                x[i, k] = w[(T + k) * LANES + r]
        elif fates[i] == BOTH:
            for k in range(K):
                second[i, k] = w[(T + k) * LANES + r]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _search_active(w, tile, active, n_active, again, materials, bins):
    """``DampedNewton`` of the active rays from the area densities in their state."""
    use_wide_vectors()
    exponents, weights = tile.beam
    state = tile.state
    for turn in range(_LAST + 1):
        n_left = 0
        for first in range(0, n_active, LANES):
            chosen = active[first : min(first + LANES, n_active)]
            _load(w, tile, chosen, materials, bins)
            if turn not in (0, _AGAIN):
                propose(w, tile.box, materials, bins)
                judge(w, again, tile.box, tile.limits, materials, bins)
                _write(w, tile, chosen, again, materials, bins)
                move(w, materials, bins)
            if turn not in (_AGAIN - 1, _LAST):
                look_at(w, exponents, weights, materials, bins)
                measure(w, turn >= _SCORING, materials, bins)
            n_left = _store(w, state, chosen, turn, active, n_left, materials, bins)
        n_active = n_left


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _search_tile(
    counts, spectra, attenuation, starts, wanted, box, limits, materials, bins, x, fate
):
    """``search`` for the rays of a tile; arrays without the pixel axis."""
    use_wide_vectors()
    K, n = len(materials), len(counts)
    first, second, _ = starts
    lower, upper = box
    _, _, G, _, D, _, _, _, height = rows(materials, bins)
    w = np.zeros(height * LANES, np.float32)
    active = np.empty(n, np.int64)
    state = np.zeros((K + D - G + 3, n), np.float32)
    before = np.full(n, FOUND, np.int8)
    minima = Minima(x, np.zeros(n, np.float32), fate)
    beam = packed(spectra, attenuation, materials, bins)
    tile = _Tile(counts, starts, beam, state, before, box, limits, minima)
    for again in (False, True):
        n_active = 0
        for i in range(n):
            if wanted[i] and (not again or (fate[i] > 0 and not np.isnan(second[i, 0]))):
                before[i] = fate[i] if again else FOUND
                active[n_active] = i
                n_active += 1
                for k in range(K):
                    begin = second[i, k] if again else first[i, k]
                    state[k, i] = min(max(begin, lower[k]), upper[k])
        if n_active > 0:
            _search_active(w, tile, active, n_active, again, materials, bins)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH, parallel=True)
def search(counts, spectra, attenuation, starts, wanted, box, limits, materials, bins, x, fate):
    """The likelier of the minima that are reached from two starts.

    Args:
        counts, spectra, attenuation, box, limits, materials, bins: as in ``fused_numba.minimise``.
        starts: ``Starts`` (pixel, ray, material); the second is NaN for no second tile.
        wanted: (pixel, ray), the rays to solve.
        x: (pixel, ray, material), zero; written for the rays whose first search ended.
        fate: (pixel, ray), zero; written: ``FOUND`` if all searches ended, at one minimum or at
            two of which float32 tells the likelier; ``CLOSE`` if x is as close to the likelier
            minimum as float32 tells; ``BOTH`` if x and the second start, which is then overwritten,
            are.
    """
    use_wide_vectors()
    per_pixel = (counts.shape[1] + TILE - 1) // TILE
    for tile in prange(counts.shape[0] * per_pixel):
        p, i = tile // per_pixel, tile % per_pixel * TILE
        j = i + TILE
        spectrum = p if len(spectra) > 1 else 0
        of_tile = Starts(starts.first[p, i:j], starts.second[p, i:j], starts.sure[p, i:j])
        before = flush_denormals()
        _search_tile(
            counts[p, i:j], spectra[spectrum], attenuation, of_tile, wanted[p, i:j], box, limits,
            materials, bins, x[p, i:j], fate[p, i:j],
        )  # fmt: skip
        restore_denormals(before)
