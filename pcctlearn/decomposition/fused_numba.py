"""Minima of easy rays in float32: two evaluations of all energies for most.

Newton steps minimise the likelihood of the model of ``lanes_numba`` at the cost of one exponential
for each bin, whereas those of ``DampedNewton`` cost one for each energy. With two materials they
begin at the minima of the profile (``profile_numba``), where most rays need one or two evaluations
of all energies; with three, at a polynomial. A ray is solved if the rest of the model and the
rounding of float32 move its minimum by no more than ``DISTANCE``; others are left to
``find_minima``.
"""

from typing import NamedTuple, no_type_check

import numpy as np
from numba import njit, prange

from pcctlearn.decomposition.compiled_arguments import Box, EasyRays, Limits, Minima
from pcctlearn.decomposition.lanes_numba import (
    DEFINITE,
    EPS,
    FASTMATH,
    FATE,
    LANES,
    MOST_INFLATED,
    SAFE,
    SPREAD,
    TILE,
    TOTAL,
    VALUE,
    count,
    f4,
    inverse_diagonal,
    look_at,
    packed,
    rows,
)
from pcctlearn.decomposition.model_numba import minimise_model, misfit
from pcctlearn.decomposition.polynomial_numba import in_pairs, start_at_polynomial
from pcctlearn.decomposition.profile_numba import scan
from pcctlearn.instructions_numba import flush_denormals, restore_denormals, use_wide_vectors

A_MINIMUM, SOLVED, BLURRED = 1, 2, 3
_CLOSE = f4(0.1)  # standard errors, from which Newton's method in double precision converges
_IS_CLOSE, _IS_BLURRED, _ONLY = 6, 7, 8  # scalars of a lane, besides those of lanes_numba
_MOST_LOOKS = 3, 6  # evaluations of all energies, of two materials and of three
# third cumulant of μ·s over the 3/2 power of its variance: as hostile beams needed, with a few soft
# photons
_MOST_SKEWED = f4(60)


class _Tile(NamedTuple):
    """What all evaluations of the rays of a tile share.

    ``only`` is 1 for rays with a single minimum. The beams are packed tables of all energies, and
    of those for the first evaluation with three materials.
    """

    counts: np.ndarray
    only: np.ndarray
    beam: tuple[np.ndarray, np.ndarray]
    rough_beam: tuple[np.ndarray, np.ndarray]
    air: np.ndarray
    polynomial: tuple[np.ndarray, np.ndarray]
    box: Box
    limits: Limits
    easy: EasyRays


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _enough(counts, least, active, materials, bins):
    """The rays of a tile with ``least`` photons or more, written to ``active``; their number."""
    use_wide_vectors()
    n = 0
    for i in range(len(counts)):
        total = f4(0)
        for b in range(len(bins)):
            total += counts[i, b]
        if total >= least:
            active[n] = i
            n += 1
    return n


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _classify(w, box, limits, easy, materials, bins):
    """Whether A + s is the minimum, a minimum and there may be a likelier one, or close to it.

    Relative errors δ of the expected counts shift unknown k by δ √(Σ_b n_b (H⁻¹)_kk) at most; they
    are rounding and the third order, κ₃/6 with the cumulant κ₃ of μ·s. Where counts do not fit, the
    error of d, of second order, counts too: it shifts k by about ½ κ₃/√(sᵀCs) √(χ² (H⁻¹)_kk), and
    rounding more, as H is smaller than Σ_b n_b d_b d_bᵀ. The model may contribute a quarter of
    ``DISTANCE``, because gradients in spectra at low energies change with exp(−μ·x).
    """
    use_wide_vectors()
    K = len(materials)
    A, S, G, H, D, Q, _, _, _ = rows(materials, bins)
    lower, upper = box
    distance = limits.distance
    count(w, materials, bins)
    misfit(w, materials, bins)
    for r in range(LANES):
        exact = w[(Q + SAFE) * LANES + r] == f4(0)
        w[(Q + FATE) * LANES + r] = w[(Q + DEFINITE) * LANES + r] if exact else f4(0)
        w[(Q + _IS_CLOSE) * LANES + r] = w[(Q + FATE) * LANES + r]
        w[(Q + _IS_BLURRED) * LANES + r] = f4(0)
    for unit in range(K):
        for r in range(LANES):
            variance, diagonal = inverse_diagonal(w, H, G, unit, r, K)
            spread, total = w[(Q + SPREAD) * LANES + r], w[(Q + TOTAL) * LANES + r]
            error = _MOST_SKEWED / f4(6) * spread * np.sqrt(spread)
            chi2 = f4(2) * w[(Q + VALUE) * LANES + r]
            of_slopes = f4(0.5) * _MOST_SKEWED * spread * np.sqrt(chi2 * variance)
            step = w[(D + unit) * LANES + r]
            x = w[(A + unit) * LANES + r] + w[(S + unit) * LANES + r]
            inside = (x > lower[unit]) & (x < upper[unit])
            close = inside & (step * step <= _CLOSE * _CLOSE * variance)
            close = close & (error * np.sqrt(total) <= _CLOSE)
            o = (Q + _IS_CLOSE) * LANES + r
            w[o] = w[o] if close else f4(0)
            flatter = max(f4(1), chi2 / total * chi2 / total)  # than with counts that fit
            rounding = f4(4) * EPS * flatter * np.sqrt(total * variance)
            sharp = rounding <= distance
            sharp = sharp & (abs(x) * f4(0.5) * EPS <= distance)
            sharp = sharp & (variance * diagonal <= MOST_INFLATED)
            o = (Q + _IS_BLURRED) * LANES + r
            w[o] = w[o] if sharp else f4(1)
            shift = rounding + f4(4) * (error * np.sqrt(total * variance) + of_slopes)
            near = sharp & inside & (shift <= distance) & (abs(step) <= distance)
            o = (Q + FATE) * LANES + r
            w[o] = w[o] if near else f4(0)
    for r in range(LANES):
        o = (Q + FATE) * LANES + r
        fits = w[(Q + VALUE) * LANES + r] <= easy.gross_misfit * w[(Q + TOTAL) * LANES + r]
        fits = fits | (w[(Q + _ONLY) * LANES + r] > f4(0))
        blurred = f4(BLURRED) * w[(Q + _IS_CLOSE) * LANES + r] * w[(Q + _IS_BLURRED) * LANES + r]
        w[o] = (f4(SOLVED) if w[o] > f4(0) else blurred) if fits else w[o]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _look(w, tile, active, n_active, materials, bins, minima):
    """Evaluate and step until the first ``n_active`` rays in ``active`` have a minimum, or no step.

    The first iterates are in ``minima``; those of three materials come from the polynomial.
    """
    use_wide_vectors()
    K = len(materials)
    A, S, _, _, _, Q, N, _, _ = rows(materials, bins)
    exponents, weights = tile.beam
    rough_exponents, rough_weights = tile.rough_beam
    lower, upper = tile.box
    counts, only, air = tile.counts, tile.only, tile.air  # in a loop references would be counted
    x, value, fate = minima
    saddle = np.full(len(x), f4(1) if K > 2 else f4(0), np.float32)
    for look in range(_MOST_LOOKS[1] if K > 2 else _MOST_LOOKS[0]):
        rough = K > 2 and look == 0
        n_left = 0
        for first in range(0, n_active, LANES):
            lanes = min(LANES, n_active - first)
            for r in range(LANES):
                j = active[first + min(r, lanes - 1)]
                for b in range(len(bins)):
                    w[(N + b) * LANES + r] = counts[j, b]
                for k in range(K):
                    w[(A + k) * LANES + r] = x[j, k]
                w[(Q + SAFE) * LANES + r] = saddle[j]
                w[(Q + _ONLY) * LANES + r] = only[j]
            if rough:
                start_at_polynomial(w, air, tile.polynomial, materials, bins)
                look_at(w, rough_exponents, rough_weights, materials, bins)
            else:
                look_at(w, exponents, weights, materials, bins)
            minimise_model(w, materials, bins)
            _classify(w, tile.box, tile.limits, tile.easy, materials, bins)
            for r in range(lanes):
                i = active[first + r]
                inside = True
                for k in range(K):
                    target = w[(A + k) * LANES + r] + w[(S + k) * LANES + r]
                    x[i, k] = min(max(target, lower[k]), upper[k])
                    inside = inside and x[i, k] == target
                value[i] = w[(Q + VALUE) * LANES + r]
                result = w[(Q + FATE) * LANES + r]
                if result > f4(0) and not rough:
                    fate[i] = result
                elif inside or look == 0:  # after a saddle with a Hessian that is positive definite
                    active[n_left] = i
                    saddle[i] = f4(1) - w[(Q + DEFINITE) * LANES + r]
                    n_left += 1
        n_active = n_left


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _compare(w, tile, active, n_active, materials, bins, minima, second):
    """Search again from the second start: the likelier minimum, if float32 tells which it is."""
    use_wide_vectors()
    counts, (x, value, fate) = tile.counts, minima
    second_value, second_fate = np.zeros(len(x), np.float32), np.zeros(len(x), np.int8)
    chosen = active[:n_active].copy()
    _look(w, tile, active, n_active, materials, bins, Minima(second, second_value, second_fate))
    for i in chosen:
        if second_fate[i] != A_MINIMUM and second_fate[i] != SOLVED:
            continue
        total, apart = f4(0), f4(0)
        for b in range(len(bins)):
            total += counts[i, b]
        for k in range(len(materials)):
            apart = max(apart, abs(second[i, k] - x[i, k]))
        gap = value[i] - second_value[i]
        differ = abs(gap) > tile.limits.gap + f4(8) * EPS * total
        if differ or apart <= f4(2) * tile.limits.distance:
            fate[i] = SOLVED
            if differ and gap > f4(0):
                for k in range(len(materials)):
                    x[i, k] = second[i, k]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _start_at_profiles(tile, profiles, x, second, n_minima, bins):
    """First iterates of two materials; marks rays with a single minimum in ``tile.only``."""
    use_wide_vectors()
    only, factors = tile.only, profiles.air / tile.air
    for b in range(len(bins)):
        if abs(factors[b] - f4(1)) <= f4(1e-5):  # two sums of the same spectra
            factors[b] = f4(1)
    scan(tile.counts, factors, profiles, x, second, n_minima)
    for i in range(len(x)):
        only[i] = f4(1) if profiles.certain and n_minima[i] == 1 else f4(0)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _minimise_tile(
    counts, spectra, attenuation, beam, polynomial, profiles, box, limits, easy, materials, bins,
    x, fate,
):  # fmt: skip
    """``minimise`` for the rays of a tile; arrays without the pixel axis."""
    use_wide_vectors()
    K, n = len(materials), len(counts)
    height = rows(materials, bins)[-1]
    air = np.zeros(len(spectra), np.float32)
    for b in range(len(spectra)):
        for e in range(spectra.shape[1]):
            air[b] += spectra[b, e]
    w = np.zeros(height * LANES, np.float32)
    active, only = np.empty(n, np.int64), np.zeros(n, np.float32)
    minima = Minima(x, np.zeros(n, np.float32), fate)
    n_active = _enough(counts, easy.least_photons, active, materials, bins)
    if K > 2:
        rough = packed(*in_pairs(spectra, attenuation), materials, bins)
        tile = _Tile(counts, only, beam, rough, air, polynomial, box, limits, easy)
        _look(w, tile, active, n_active, materials, bins, minima)
    else:
        tile = _Tile(counts, only, beam, beam, air, polynomial, box, limits, easy)
        second, n_minima = np.empty((n, K), np.float32), np.empty(n, np.int8)
        _start_at_profiles(tile, profiles, x, second, n_minima, bins)
        _look(w, tile, active, n_active, materials, bins, minima)
        n_active = 0
        for i in range(n):
            if profiles.certain and n_minima[i] == 2 and fate[i] == A_MINIMUM:
                active[n_active] = i
                n_active += 1
        if n_active > 0:
            _compare(w, tile, active, n_active, materials, bins, minima, second)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH, parallel=True)
def minimise(
    counts, spectra, attenuation, polynomial, profiles, box, limits, easy, materials, bins, x, fate
):  # fmt: skip
    """Minima x of the rays that float32 resolves, and their fate.

    Args:
        counts: (pixel, ray, bin).
        spectra: (pixel, bin, energy), or one for all pixels.
        attenuation: (material, energy).
        polynomial: coefficients, and the largest area densities of the fit, for three materials.
        profiles: ``Profiles``, for two materials.
        box: ``Box``; rays on one of its limits are not solved here.
        limits: ``Limits``, in float32.
        easy: ``EasyRays``: those with fewer photons are left out, and those with a larger misfit
            may have a likelier minimum.
        materials, bins: tuples with one entry for each.
        x: (pixel, ray, material), zero; written.
        fate: (pixel, ray), zero; written: ``SOLVED``, ``A_MINIMUM`` if there may be a likelier, or
            ``BLURRED`` if x is as close to the minimum as float32 tells.
    """
    use_wide_vectors()
    per_pixel = (counts.shape[1] + TILE - 1) // TILE
    shared = packed(spectra[0], attenuation, materials, bins)
    for tile in prange(counts.shape[0] * per_pixel):
        p, i = tile // per_pixel, tile % per_pixel * TILE
        j = i + TILE
        spectrum = p if len(spectra) > 1 else 0
        before = flush_denormals()
        beam = shared
        if len(spectra) > 1:
            beam = packed(spectra[spectrum], attenuation, materials, bins)
        _minimise_tile(
            counts[p, i:j], spectra[spectrum], attenuation, beam, polynomial, profiles, box, limits,
            easy, materials, bins, x[p, i:j], fate[p, i:j],
        )  # fmt: skip
        restore_denormals(before)
