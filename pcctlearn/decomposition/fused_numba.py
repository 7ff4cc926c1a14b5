"""Minima of easy rays in float32: two evaluations of all energies for most.

Newton steps minimise the likelihood of the model of ``lanes_numba`` at the cost of one exponential
for each bin, whereas those of ``DampedNewton`` cost one for each energy. With two materials they
begin at the minima of the profile (``profile_numba``), where most rays need one or two evaluations
of all energies; with three, at a polynomial. A ray is solved if the rest of the model and the
rounding of float32 move its minimum by no more than ``DISTANCE``; others are left to
``find_minima``.
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
    LOG2_E,
    MOST_INFLATED,
    SAFE,
    SPREAD,
    TILE,
    TOTAL,
    VALUE,
    count,
    differentiate,
    exp2,
    f4,
    half_deviance,
    inverse_diagonal,
    log,
    look_at,
    packed,
    pair,
    rows,
    solve,
)
from pcctlearn.decomposition.profile_numba import scan
from pcctlearn.instructions_numba import flush_denormals, restore_denormals, use_wide_vectors

A_MINIMUM, SOLVED, BLURRED = 1, 2, 3
_CLOSE = f4(0.1)  # standard errors, from which Newton's method in double precision converges
_IS_CLOSE, _IS_BLURRED, _ONLY = 6, 7, 8  # scalars of a lane, besides those of lanes_numba
_MOST_LOOKS = 3, 6  # evaluations of all energies, of two materials and of three
_INNER_STEPS = 3  # minimising the model
# third cumulant of μ·s over the 3/2 power of its variance: as hostile beams needed, with a few soft
# photons
_MOST_SKEWED = f4(60)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _in_pairs(spectra, attenuation):
    """Pairs of energies as one, with the mean attenuation of both: enough for the first look."""
    use_wide_vectors()
    n_bins, n_energies = spectra.shape
    n_pairs = (n_energies + 1) // 2
    S = np.zeros((n_bins, n_pairs), np.float32)
    mu = np.zeros((len(attenuation), n_pairs), np.float32)
    weights = np.zeros(n_energies, np.float32)
    for e in range(n_energies):
        for b in range(n_bins):
            S[b, e // 2] += spectra[b, e]
            weights[e] += spectra[b, e]
    for e in range(n_energies):
        first = e // 2 * 2
        photons = weights[first] + f4(1e-30)
        if first + 1 < n_energies:
            photons += weights[first + 1]
        for k in range(len(attenuation)):
            mu[k, e // 2] += attenuation[k, e] * (weights[e] / photons)
    return S, mu


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
def _begin(w, air, coefficients, most, materials, bins):
    """A from the polynomial of second degree in log(air/n), within 0 … ``most``."""
    use_wide_vectors()
    A, _, _, _, _, _, N, M, _ = rows(materials, bins)
    for b in range(len(bins)):
        for r in range(LANES):
            w[(M + b) * LANES + r] = log(air[b] / max(w[(N + b) * LANES + r], f4(0.5)))
    for k in range(len(materials)):
        for r in range(LANES):
            w[(A + k) * LANES + r] = f4(0)
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
            w[(A + k) * LANES + r] = min(max(w[(A + k) * LANES + r], f4(0)), most[k])


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _minimise_model(w, materials, bins):
    """Newton steps from s = 0 to the minimum of the model; D is the last of them."""
    use_wide_vectors()
    K = len(materials)
    _, S, G, _, D, _, _, _, _ = rows(materials, bins)
    for i in range(S * LANES, G * LANES):
        w[i] = f4(0)
    for _ in range(_INNER_STEPS):  # as many for all lanes: a ray does not depend on others
        differentiate(w, materials, bins)
        solve(w, materials, bins)
        for i in range(K * LANES):
            w[S * LANES + i] -= w[D * LANES + i]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _misfit(w, materials, bins):
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


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _judge(w, lower, upper, limits, materials, bins):
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
    distance, _, misfit, _ = limits
    count(w, materials, bins)
    _misfit(w, materials, bins)
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
        fits = w[(Q + VALUE) * LANES + r] <= misfit * w[(Q + TOTAL) * LANES + r]
        fits = fits | (w[(Q + _ONLY) * LANES + r] > f4(0))
        blurred = f4(BLURRED) * w[(Q + _IS_CLOSE) * LANES + r] * w[(Q + _IS_BLURRED) * LANES + r]
        w[o] = (f4(SOLVED) if w[o] > f4(0) else blurred) if fits else w[o]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _look(w, counts, only, rays, beams, start, box, limits, materials, bins, x, value, known):
    """Minima of the rays of a tile from x, and what is known of them.

    ``beams`` are the packed tables of all energies, of pairs of energies, and the air counts.
    """
    use_wide_vectors()
    K = len(materials)
    A, S, _, _, _, Q, N, _, _ = rows(materials, bins)
    (exponents, weights), (rough_exponents, rough_weights), air = beams
    coefficients, most = start
    lower, upper = box
    active, n_active = rays
    saddle = np.full(len(counts), f4(1) if K > 2 else f4(0), np.float32)
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
                _begin(w, air, coefficients, most, materials, bins)
                look_at(w, rough_exponents, rough_weights, materials, bins)
            else:
                look_at(w, exponents, weights, materials, bins)
            _minimise_model(w, materials, bins)
            _judge(w, lower, upper, limits, materials, bins)
            for r in range(lanes):
                i = active[first + r]
                inside = True
                for k in range(K):
                    there = w[(A + k) * LANES + r] + w[(S + k) * LANES + r]
                    x[i, k] = min(max(there, lower[k]), upper[k])
                    inside = inside and x[i, k] == there
                value[i] = w[(Q + VALUE) * LANES + r]
                fate = w[(Q + FATE) * LANES + r]
                if fate > f4(0) and not rough:
                    known[i] = fate
                elif inside or look == 0:  # after a saddle with a Hessian that is positive definite
                    active[n_left] = i
                    saddle[i] = f4(1) - w[(Q + DEFINITE) * LANES + r]
                    n_left += 1
        n_active = n_left


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _compare(
    w, counts, only, rays, beams, start, box, limits, materials, bins, x, value, known, second
):  # fmt: skip
    """Search again from the second start: the likelier minimum, if float32 tells which it is."""
    use_wide_vectors()
    distance, telling = limits[0], limits[3]
    active, n_active = rays
    again, of_again = np.zeros(len(counts), np.int8), np.zeros(len(counts), np.float32)
    chosen = active[:n_active].copy()
    _look(
        w, counts, only, rays, beams, start, box, limits, materials, bins, second, of_again, again
    )
    for i in chosen:
        if again[i] != A_MINIMUM and again[i] != SOLVED:
            continue
        total, apart = f4(0), f4(0)
        for b in range(len(bins)):
            total += counts[i, b]
        for k in range(len(materials)):
            apart = max(apart, abs(second[i, k] - x[i, k]))
        gap = value[i] - of_again[i]
        told = abs(gap) > telling + f4(8) * EPS * total
        if told or apart <= f4(2) * distance:
            known[i] = SOLVED
            if told and gap > f4(0):
                for k in range(len(materials)):
                    x[i, k] = second[i, k]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _minimise_tile(
    counts, spectra, attenuation, beam, start, profiles, box, limits, materials, bins, x, known
):  # fmt: skip
    """``minimise`` for the rays of a tile; arrays without the pixel axis."""
    use_wide_vectors()
    K = len(materials)
    height = rows(materials, bins)[-1]
    air = np.zeros(len(spectra), np.float32)
    for b in range(len(spectra)):
        for e in range(spectra.shape[1]):
            air[b] += spectra[b, e]
    w = np.zeros(height * LANES, np.float32)
    active, only = np.empty(len(counts), np.int64), np.zeros(len(counts), np.float32)
    value = np.zeros(len(counts), np.float32)
    n_active = _enough(counts, limits[1], active, materials, bins)
    if K > 2:
        fewer = _in_pairs(spectra, attenuation)
        beams = beam, packed(*fewer, materials, bins), air
        _look(
            w, counts, only, (active, n_active), beams, start, box, limits, materials, bins,
            x, value, known,
        )  # fmt: skip
    else:
        beams = beam, beam, air
        table, window, of_air, certain = profiles
        second, n_minima = np.empty((len(counts), K), np.float32), np.empty(len(counts), np.int8)
        factors = of_air / air
        for b in range(len(bins)):
            if abs(factors[b] - f4(1)) <= f4(1e-5):  # two sums of the same spectra
                factors[b] = f4(1)
        scan(counts, factors, table, window[0], window[1], x, second, n_minima)
        for i in range(len(counts)):
            only[i] = f4(1) if certain and n_minima[i] == 1 else f4(0)
        _look(
            w, counts, only, (active, n_active), beams, start, box, limits, materials, bins,
            x, value, known,
        )  # fmt: skip
        n_active = 0
        for i in range(len(counts)):
            if certain and n_minima[i] == 2 and known[i] == A_MINIMUM:
                active[n_active] = i
                n_active += 1
        if n_active > 0:
            _compare(
                w, counts, only, (active, n_active), beams, start, box, limits, materials, bins,
                x, value, known, second,
            )  # fmt: skip


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH, parallel=True)
def minimise(
    counts, spectra, attenuation, coefficients, most, table, scale, spans, window, of_air, lower,
    upper, limits, materials, bins, x, known,
):  # fmt: skip
    """Minima x of the rays that float32 resolves, and what is known of them.

    Args:
        counts: (pixel, ray, bin).
        spectra: (pixel, bin, energy), or one for all pixels.
        attenuation: (material, energy).
        coefficients, most: polynomial of the start, and the largest area densities of its fit, for
            three materials.
        table, scale, spans: for two materials, those of ``scan``; ``scale`` also tells whether the
            profiles show all minima.
        window, of_air: limits of the table, and counts without an object of its spectra.
        lower, upper: limits of the area densities; rays on one of them are not solved here.
        limits: largest shift of a minimum, least photons, largest misfit per photon of a ray that
            may have several minima, and least difference of the values of two minima.
        materials, bins: tuples with one entry for each.
        x: (pixel, ray, material), zero; written.
        known: (pixel, ray), zero; written: ``SOLVED``, ``A_MINIMUM`` if there may be a likelier, or
            ``BLURRED`` if x is as close to the minimum as float32 tells.
    """
    use_wide_vectors()
    per_pixel = (counts.shape[1] + TILE - 1) // TILE
    shared, of_shared = packed(spectra[0], attenuation, materials, bins)
    for tile in prange(counts.shape[0] * per_pixel):
        p, i = tile // per_pixel, tile % per_pixel * TILE
        j = i + TILE
        own = p if len(spectra) > 1 else 0
        before = flush_denormals()
        beam = shared, of_shared
        if len(spectra) > 1:
            beam = packed(spectra[own], attenuation, materials, bins)
        _minimise_tile(
            counts[p, i:j], spectra[own], attenuation, beam, (coefficients, most),
            ((table, scale[0], scale[1], spans), window, of_air, scale[2] > f4(0)), (lower, upper),
            limits, materials, bins, x[p, i:j], known[p, i:j],
        )  # fmt: skip
        restore_denormals(before)
