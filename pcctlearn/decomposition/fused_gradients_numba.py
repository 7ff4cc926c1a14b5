"""Gradients of the minima of ``fused_numba`` by one more evaluation.

With u = H⁻¹ v, the gradient of v·A in the counts is −u·d_b. In spectra and attenuation it is the
negative product of u with their derivative of the gradient of the likelihood: with p_b = (n/ȳ) u·d
and q_b = (1 − n/ȳ) u,

    exp(−μ·A) (p_b + q_b·μ)                              in S_b(E),
    exp(−μ·A) Σ_b S_b [q_bk − A_k (p_b + q_b·μ)]         in μ_k(E).

The sums over the rays are matrix products of exp(−μ·A), energies by rays, with p, q, A p and A q.
"""

from typing import no_type_check

import numpy as np
from numba import njit, prange

from pcctlearn.decomposition.lanes_numba import (
    FASTMATH,
    LANES,
    TILE,
    exp2,
    f4,
    look_at,
    packed,
    pair,
    rows,
    solve_rows,
)
from pcctlearn.instructions_numba import (
    flush_denormals,
    multiply_add,
    restore_denormals,
    use_wide_vectors,
)

f8 = np.float64
_CHUNK = 256  # rays whose products are summed in float32
_STRIP = 3  # products that are summed together, beside 4 energies: as many as registers hold


@no_type_check
@njit(inline="always")
def _products(of_mu, K, B):
    """Number of products of a ray for the tables: p_b and q_b, and those times each A_k."""
    n = B * (1 + K) * (1 + K if of_mu else 1)
    return (n + _STRIP - 1) // _STRIP * _STRIP


@no_type_check
@njit(inline="always")
def _system(K):
    """First rows of the Hessian, the gradient, the solution, and whether it is definite."""
    pairs = K * (K + 1) // 2
    return 0, pairs, pairs + K, pairs + 2 * K


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _differentiate(w, system, materials, bins):
    """Gradient and exact Hessian at A in double precision, from ȳ, d and C in float32.

    The relative error of the inverse may be ``MOST_INFLATED`` times that of the Hessian.
    """
    use_wide_vectors()
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    _, _, _, _, _, _, N, M, _ = rows(materials, bins)
    H, G, U, _ = _system(K)
    for i in range(U * LANES):
        system[i] = 0.0
    for b in range(len(bins)):
        m = (M + b * n_moments) * LANES
        for k in range(K):
            for r in range(LANES):
                mean, slope = f8(w[m + r]), f8(w[m + (1 + k) * LANES + r])
                excess = f8(w[(N + b) * LANES + r]) - mean
                system[(G + k) * LANES + r] += excess * slope
                for j in range(k + 1):
                    other = f8(w[m + (1 + j) * LANES + r])
                    C = f8(w[m + (1 + K + pair(k, j)) * LANES + r])
                    system[(H + pair(k, j)) * LANES + r] += mean * slope * other - excess * C


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _adjoint(w, system, lower, upper, cotangent, passes, first, lanes, materials, bins):
    """u = H⁻¹ v in D for the unknowns that are free to move, and zero where H is not definite."""
    use_wide_vectors()
    K = len(materials)
    A, _, _, _, D, _, _, _, _ = rows(materials, bins)
    H, G, U, definite = _system(K)
    for k in range(K):
        for r in range(LANES):
            x, g = w[(A + k) * LANES + r], system[(G + k) * LANES + r]
            held = ((x <= lower[k]) & (g > 0.0)) | ((x >= upper[k]) & (g < 0.0))
            w[(D + k) * LANES + r] = f4(0) if held else f4(1)
    for k in range(K):
        for r in range(LANES):
            free = w[(D + k) * LANES + r]
            for j in range(k + 1):
                o = (H + pair(k, j)) * LANES + r
                both = free * w[(D + j) * LANES + r]
                system[o] = system[o] if both > f4(0) else (1.0 if j == k else 0.0)
    for r in range(LANES):
        i = first + min(r, lanes - 1)
        through = r < lanes and passes[i]
        for k in range(K):
            free = w[(D + k) * LANES + r]
            system[(G + k) * LANES + r] = free * cotangent[i, k] if through else 0.0
    solve_rows(system, H, G, U, definite, K)
    for k in range(K):
        for r in range(LANES):
            sound = system[definite * LANES + r] > 0.0
            w[(D + k) * LANES + r] = f4(system[(U + k) * LANES + r]) if sound else f4(0)


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _pull(w, products, of_mu, place, materials, bins):
    """p_b and q_b of u in D, and their products with A, as rows of ``products`` at a lane."""
    use_wide_vectors()
    K, B = len(materials), len(bins)
    n_moments = 1 + K + K * (K + 1) // 2
    A, _, _, _, D, _, N, M, _ = rows(materials, bins)
    for b in range(B):
        m = (M + b * n_moments) * LANES
        for r in range(LANES):
            ratio, along = w[(N + b) * LANES + r] / w[m + r], f4(0)
            for k in range(K):
                along += w[(D + k) * LANES + r] * w[m + (1 + k) * LANES + r]
            w[m + r] = ratio * along
            for k in range(K):
                w[m + (1 + k) * LANES + r] = (f4(1) - ratio) * w[(D + k) * LANES + r]
        for i in range(1 + K):
            row = b * (1 + K) + i
            for r in range(LANES):
                products[row, place + r] = w[m + i * LANES + r]
            if of_mu:
                for k in range(K):
                    row = (1 + k) * B * (1 + K) + b * (1 + K) + i
                    for r in range(LANES):
                        products[row, place + r] = w[m + i * LANES + r] * w[(A + k) * LANES + r]


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _transmissions(line_integrals, exponents, e, t):
    """exp(−μ·A) at four energies from e on."""
    use_wide_vectors()
    K, n = line_integrals.shape
    for i in range(4):
        for r in range(n):
            t[i, r] = f4(0)
        for k in range(K):
            factor = exponents[(e + i) * K + k]
            for r in range(n):
                t[i, r] = multiply_add(factor, line_integrals[k, r], t[i, r])
        for r in range(n):
            t[i, r] = exp2(t[i, r])


@no_type_check
@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})
def _add_products(t, products, first, sums, e):
    """Sums over the rays of a chunk of four transmissions times three products, in double."""
    use_wide_vectors()
    n = t.shape[1]
    a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = d0 = d1 = d2 = f4(0)
    for r in range(n):
        x, y, z = products[first, r], products[first + 1, r], products[first + 2, r]
        a, b, c, d = t[0, r], t[1, r], t[2, r], t[3, r]
        a0 += a * x
        a1 += a * y
        a2 += a * z
        b0 += b * x
        b1 += b * y
        b2 += b * z
        c0 += c * x
        c1 += c * y
        c2 += c * z
        d0 += d * x
        d1 += d * y
        d2 += d * z
    sums[e, first] += a0
    sums[e, first + 1] += a1
    sums[e, first + 2] += a2
    sums[e + 1, first] += b0
    sums[e + 1, first + 1] += b1
    sums[e + 1, first + 2] += b2
    sums[e + 2, first] += c0
    sums[e + 2, first + 1] += c1
    sums[e + 2, first + 2] += c2
    sums[e + 3, first] += d0
    sums[e + 3, first + 1] += d1
    sums[e + 3, first + 2] += d2


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _add_chunk(line_integrals, products, exponents, t, sums):
    use_wide_vectors()
    for e in range(0, len(sums), 4):
        _transmissions(line_integrals, exponents, e, t)
        for first in range(0, len(products), _STRIP):
            _add_products(t, products, first, sums, e)


@no_type_check
@njit(cache=True, error_model="numpy")
def _tables(sums, spectra, attenuation, of_mu, materials, bins, of_tables):
    """Gradients in spectra and, if wanted, attenuation from the sums over the rays."""
    use_wide_vectors()
    K, B = len(materials), len(bins)
    size = B * (1 + K)
    for e in range(attenuation.shape[1]):
        for b in range(B):
            o = b * (1 + K)
            of_tables[b, e] = sums[e, o]
            for k in range(K):
                of_tables[b, e] += attenuation[k, e] * sums[e, o + 1 + k]
        if of_mu:
            for k in range(K):
                total = 0.0
                for b in range(B):
                    o = b * (1 + K)
                    bent = sums[e, (1 + k) * size + o]
                    for j in range(K):
                        bent += attenuation[j, e] * sums[e, (1 + k) * size + o + 1 + j]
                    total += spectra[b, e] * (sums[e, o + 1 + k] - bent)
                of_tables[B + k, e] = total


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _write_of_counts(w, gradient, first, lanes, materials, bins):
    """−u·d_b of every ray, with u in D."""
    use_wide_vectors()
    K = len(materials)
    n_moments = 1 + K + K * (K + 1) // 2
    _, _, _, _, D, _, _, M, _ = rows(materials, bins)
    for r in range(lanes):
        for b in range(len(bins)):
            value = f4(0)
            for k in range(K):
                value -= w[(D + k) * LANES + r] * w[(M + b * n_moments + 1 + k) * LANES + r]
            gradient[first + r, b] = value


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH)
def _gradients_tile(
    x, counts, spectra, attenuation, lower, upper, passes, cotangent, materials, bins, of_counts,
    of_tables,
):  # fmt: skip
    """``gradients`` for the rays of a tile; arrays without the pixel axis."""
    use_wide_vectors()
    K, B = len(materials), len(bins)
    n_energies = attenuation.shape[1]
    A, _, _, _, _, _, N, _, height = rows(materials, bins)
    exponents, weights = packed(spectra, attenuation, materials, bins)
    w = np.zeros(height * LANES, np.float32)
    system = np.empty((_system(K)[-1] + 1) * LANES)
    of_mu = of_tables.shape[1] > B
    n_products = _products(of_mu, K, B) if len(of_tables) > 0 else 0
    products = np.zeros((n_products, _CHUNK), np.float32)
    line_integrals, t = np.zeros((K, _CHUNK), np.float32), np.empty((4, _CHUNK), np.float32)
    sums = np.zeros((len(exponents) // K, n_products))
    for first in range(0, len(x), LANES):
        lanes = min(LANES, len(x) - first)
        place = first % _CHUNK
        for r in range(LANES):
            i = first + min(r, lanes - 1)
            for b in range(B):
                w[(N + b) * LANES + r] = counts[i, b]
            for k in range(K):  # an empty beam for rays that pass nothing: no 0 · NaN
                w[(A + k) * LANES + r] = x[i, k] if passes[i] else f4(0)
                line_integrals[k, place + r] = w[(A + k) * LANES + r]
        look_at(w, exponents, weights, materials, bins)
        _differentiate(w, system, materials, bins)
        _adjoint(w, system, lower, upper, cotangent, passes, first, lanes, materials, bins)
        _write_of_counts(w, of_counts, first, lanes, materials, bins)
        if n_products > 0:
            _pull(w, products, of_mu, place, materials, bins)
            if place + LANES == _CHUNK or first + LANES >= len(x):
                for row in range(n_products):
                    for r in range(place + LANES, _CHUNK):
                        products[row, r] = f4(0)
                _add_chunk(line_integrals, products, exponents, t, sums)
    if n_products > 0:
        _tables(sums[:n_energies], spectra, attenuation, of_mu, materials, bins, of_tables[0])


@no_type_check
@njit(cache=True, error_model="numpy", fastmath=FASTMATH, parallel=True)
def gradients(
    x, counts, spectra, attenuation, lower, upper, passes, cotangent, materials, bins, of_counts,
    of_tables,
):  # fmt: skip
    """Gradients of Σ v·A in counts, spectra and attenuation.

    Args:
        x, counts, spectra, attenuation, lower, upper, materials, bins: as in
            ``fused_numba.minimise``; only unknowns that are free to move pass a gradient.
        passes: (pixel, ray), whether a ray passes a gradient.
        cotangent: v, (pixel, ray, material).
        of_counts: (pixel, ray, bin), written.
        of_tables: (pixel, tile, bin + material, energy), written: the gradients in spectra and
            attenuation; (pixel, tile, bin, energy) for spectra alone; no tiles if not wanted.
    """
    use_wide_vectors()
    n_rays = counts.shape[1]
    per_pixel = (n_rays + TILE - 1) // TILE
    for tile in prange(counts.shape[0] * per_pixel):
        pixel, i = tile // per_pixel, tile % per_pixel * TILE
        j = i + TILE
        spectrum = pixel if len(spectra) > 1 else 0
        before = flush_denormals()
        _gradients_tile(
            x[pixel, i:j], counts[pixel, i:j], spectra[spectrum], attenuation, lower, upper,
            passes[pixel, i:j], cotangent[pixel, i:j], materials, bins,
            of_counts[pixel, i:j], of_tables[pixel, tile % per_pixel :],
        )  # fmt: skip
        restore_denormals(before)
