"""``DampedNewton`` on a CUDA device for the likelihood, in float32 or double precision.

The steps are those of ``newton_numba`` and ``newton_lanes_numba``. All rays of a thread block take
steps until the last of them has converged.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcctlearn.decomposition.lanes_triton import (
    F32_EPS,
    F64_EPS,
    clamped,
    factor,
    is_free,
    likelihood,
    load_unknowns,
    moments,
    solve,
    store_unknowns,
    variances,
)

_RAYS = 32  # of a thread block
_WARPS = 4
_TOLERANCE = tl.constexpr(1e-10)  # of ``DampedNewton``
_STUCK = tl.constexpr(1e12)


def search(
    counts: Tensor,
    spectra: Tensor,
    attenuation: Tensor,
    start: Tensor,
    wanted: Tensor,
    lower: Tensor,
    upper: Tensor,
    distance: float,
    same: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The likelier of the minima that are reached from the start and from zero material.

    In double precision a ray has converged if one search ends; in float32 if both end at one
    minimum, or at two whose likelihoods it tells apart.

    Args:
        counts: (pixel, ray, bin).
        spectra: (pixel, bin, energy), or one for all pixels.
        attenuation: (material, energy).
        start: (pixel, ray, material).
        wanted: (pixel, ray); other rays are left at zero.
        lower, upper: limits of the area densities.
        distance, same: ``DISTANCE``, and the largest difference of the values of one minimum.
        dtype: float32 or float64.

    Returns:
        Minima (pixel, ray, material) in this precision, and which rays have converged.
    """
    n_pixels, n_rays, n_bins = counts.shape
    K = len(attenuation)
    x = start.new_zeros(n_pixels, n_rays, K, dtype=dtype)
    converged = torch.zeros(n_pixels, n_rays, dtype=torch.bool, device=counts.device)
    limits = torch.nn.functional.pad(torch.stack([lower, upper]).to(dtype), (0, 3 - K))
    blocks = triton.cdiv(n_rays, _RAYS)
    _search_both[(n_pixels * blocks,)](
        counts,
        spectra,
        attenuation.to(dtype),
        start,
        wanted,
        limits,
        x,
        converged,
        n_rays,
        blocks,
        distance,
        same,
        K=K,
        N_ENERGIES=attenuation.shape[1],
        OF_PIXELS=len(spectra) > 1,
        N_BINS=n_bins,
        BINS=triton.next_power_of_2(n_bins),
        RAYS=_RAYS,
        SINGLE=dtype == torch.float32,
        num_warps=_WARPS,
    )
    return x, converged


@no_type_check
@triton.jit
def _likelihood(
    x0, x1, x2, n, exact, spectra, attenuation,
    K: tl.constexpr, N_ENERGIES: tl.constexpr, N_BINS: tl.constexpr, BINS: tl.constexpr,
    RAYS: tl.constexpr,
):  # fmt: skip
    y, d0, d1, d2, c00, c10, c11, c20, c21, c22 = moments(
        x0, x1, x2, spectra, attenuation, K, N_ENERGIES, N_BINS, BINS, RAYS
    )
    return likelihood(n, exact, y, d0, d1, d2, c00, c10, c11, c20, c21, c22)


@no_type_check
@triton.jit
def _trial(x0, x1, x2, g0, g1, g2, h00, h10, h11, h20, h21, h22, damping, limits, K: tl.constexpr):
    """``newton_trial``: minimum of the damped quadratic model in the box; if it is convex."""
    f0, f1 = is_free(x0, g0, limits, 0, K), is_free(x1, g1, limits, 1, K)
    f2 = is_free(x2, g2, limits, 2, K)
    m00, m11 = h00 + damping * tl.abs(h00), h11 + damping * tl.abs(h11)
    m22 = h22 + damping * tl.abs(h22)
    t0, t1, t2 = x0, x1, x2
    everywhere = damping >= 0
    moving = damping >= 0
    for _ in range(K):
        l10, l20, l21, p0, p1, p2, positive = factor(m00, h10, m11, h20, h21, m22, f0, f1, f2)
        e0, e1 = tl.where(f0, 0.0, t0 - x0), tl.where(f1, 0.0, t1 - x1)
        e2 = tl.where(f2, 0.0, t2 - x2)
        r0 = tl.where(f0, g0 + m00 * e0 + h10 * e1 + h20 * e2, 0.0)
        r1 = tl.where(f1, g1 + h10 * e0 + m11 * e1 + h21 * e2, 0.0)
        r2 = tl.where(f2, g2 + h20 * e0 + h21 * e1 + m22 * e2, 0.0)
        u0, u1, u2 = solve(l10, l20, l21, p0, p1, p2, r0, r1, r2)
        c0, c1, c2 = clamped(x0 - u0, x1 - u1, x2 - u2, limits, limits + 3)
        t0, t1 = tl.where(moving & f0, c0, t0), tl.where(moving & f1, c1, t1)
        t2 = tl.where(moving & f2, c2, t2)
        everywhere &= positive | ~moving
        leaves0, leaves1 = moving & f0 & (c0 != x0 - u0), moving & f1 & (c1 != x1 - u1)
        leaves2 = moving & f2 & (c2 != x2 - u2)
        f0, f1, f2 = f0 & ~leaves0, f1 & ~leaves1, f2 & ~leaves2
        moving = leaves0 | leaves1 | leaves2
    return t0, t1, t2, everywhere


@no_type_check
@triton.jit
def _resolved(
    x0, x1, x2, g0, g1, g2, h00, h10, h11, h20, h21, h22, total, distance, limits,
    K: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """``resolved``: whether rounding moves the minimum by no more than the distance."""
    most = distance * distance / (4 * EPS * (4 * EPS * total))
    f0, f1 = is_free(x0, g0, limits, 0, K), is_free(x1, g1, limits, 1, K)
    f2 = is_free(x2, g2, limits, 2, K)
    l10, l20, l21, p0, p1, p2, sound = factor(h00, h10, h11, h20, h21, h22, f0, f1, f2)
    v0, v1, v2 = variances(l10, l20, l21, p0, p1, p2)
    # in float32 as in fused_numba, for gradients
    inflated: tl.constexpr = F64_EPS**-0.5 if EPS < 1e-10 else 4e-5 / F32_EPS
    longest = tl.maximum(tl.maximum(tl.abs(x0), tl.abs(x1)), tl.abs(x2))
    sound &= longest * (0.5 * EPS) <= distance
    sound &= ~f0 | ((v0 <= most) & (v0 * h00 <= inflated))
    sound &= ~f1 | ((v1 <= most) & (v1 * h11 <= inflated))
    return sound & (~f2 | ((v2 <= most) & (v2 * h22 <= inflated)))


@no_type_check
@triton.jit
def _descend(
    x0, x1, x2, n, wanted, spectra, attenuation, limits, distance, most_steps, scoring_steps,
    K: tl.constexpr, N_ENERGIES: tl.constexpr, N_BINS: tl.constexpr, BINS: tl.constexpr,
    RAYS: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """``DampedNewton(max_steps=…, scoring_steps=…)`` of the wanted rays; which converged."""
    is_bin = (tl.arange(0, BINS) < N_BINS)[None, :]
    total = tl.sum(tl.where(is_bin, n, 0.0), 1)
    rounding = 4 * EPS * total
    resolvable = _TOLERANCE + 16 * EPS * rounding
    t0, t1, t2 = clamped(x0, x1, x2, limits, limits + 3)
    x0, x1, x2 = tl.where(wanted, t0, x0), tl.where(wanted, t1, x1), tl.where(wanted, t2, x2)
    never = total < 0
    exact = never | (scoring_steps == 0)
    value, g0, g1, g2, h00, h10, h11, h20, h21, h22 = _likelihood(
        x0, x1, x2, n, exact, spectra, attenuation, K, N_ENERGIES, N_BINS, BINS, RAYS
    )
    damping = total * 0
    converged = never
    searching = wanted
    number = 1
    while tl.max(searching.to(tl.int32), 0) > 0:
        t0, t1, t2, positive = _trial(
            x0, x1, x2, g0, g1, g2, h00, h10, h11, h20, h21, h22, damping, limits, K
        )
        m0, m1, m2 = x0 - t0, x1 - t1, x2 - t2
        decrement = m0 * g0 + m1 * g1 + m2 * g2
        bent = m0 * m0 * h00 + m1 * m1 * h11 + m2 * m2 * h22
        bent += 2 * (m0 * m1 * h10 + m0 * m2 * h20 + m1 * m2 * h21)
        longest = tl.maximum(tl.maximum(tl.abs(m0), tl.abs(m1)), tl.abs(m2))
        near = positive & (damping <= 0) & (decrement <= resolvable) & (longest <= distance)
        near &= searching & exact
        sharp = _resolved(
            t0, t1, t2, g0, g1, g2, h00, h10, h11, h20, h21, h22, total, distance, limits, K, EPS
        )
        converged |= near & sharp
        x0, x1, x2 = tl.where(near, t0, x0), tl.where(near, t1, x1), tl.where(near, t2, x2)
        searching &= ~near & (number <= most_steps)
        exact_there = never | (number >= scoring_steps)
        there, n0, n1, n2, n00, n10, n11, n20, n21, n22 = _likelihood(
            t0, t1, t2, n, exact_there, spectra, attenuation, K, N_ENERGIES, N_BINS, BINS, RAYS
        )
        taken = positive & (there <= value + rounding)
        predicted = decrement - 0.5 * bent
        clear = predicted > resolvable + rounding
        gain = tl.where(clear, (value - there) / tl.where(clear, predicted, 1.0), 1.0)
        more = tl.maximum(10 * damping, 1e-2)
        less = tl.where(damping > 1e-2, damping / 10, 0.0)
        damping = tl.where(~taken | (gain < 0.25), more, tl.where(gain > 0.75, less, damping))
        taken &= searching
        x0, x1, x2 = tl.where(taken, t0, x0), tl.where(taken, t1, x1), tl.where(taken, t2, x2)
        value, exact = tl.where(taken, there, value), (taken & exact_there) | (~taken & exact)
        g0, g1, g2 = tl.where(taken, n0, g0), tl.where(taken, n1, g1), tl.where(taken, n2, g2)
        h00, h10, h11 = (
            tl.where(taken, n00, h00), tl.where(taken, n10, h10), tl.where(taken, n11, h11)
        )  # fmt: skip
        h20, h21, h22 = (
            tl.where(taken, n20, h20), tl.where(taken, n21, h21), tl.where(taken, n22, h22)
        )  # fmt: skip
        searching &= damping <= _STUCK
        number += 1
    return x0, x1, x2, converged


@no_type_check
@triton.jit
def _search(
    x0, x1, x2, n, wanted, spectra, attenuation, limits, distance,
    K: tl.constexpr, N_ENERGIES: tl.constexpr, N_BINS: tl.constexpr, BINS: tl.constexpr,
    RAYS: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Twelve steps, the first five with the Fisher matrix; then sixty exact ones. The deviance."""
    done = wanted & ~wanted
    for attempt in range(2):
        steps = 12 + 48 * attempt
        scoring = 5 - 5 * attempt
        x0, x1, x2, found = _descend(
            x0, x1, x2, n, wanted & ~done, spectra, attenuation, limits, distance, steps, scoring,
            K, N_ENERGIES, N_BINS, BINS, RAYS, EPS,
        )  # fmt: skip
        done |= found
    value, _, _, _, _, _, _, _, _, _ = _likelihood(
        x0, x1, x2, n, done, spectra, attenuation, K, N_ENERGIES, N_BINS, BINS, RAYS
    )
    return x0, x1, x2, done, value


@no_type_check
@triton.jit
def _search_both(
    counts, spectra, attenuation, start, wanted, limits, x, converged,
    n_rays, blocks, distance, same,
    K: tl.constexpr, N_ENERGIES: tl.constexpr, OF_PIXELS: tl.constexpr,
    N_BINS: tl.constexpr, BINS: tl.constexpr, RAYS: tl.constexpr, SINGLE: tl.constexpr,
):  # fmt: skip
    EPS: tl.constexpr = F32_EPS if SINGLE else F64_EPS
    dtype: tl.constexpr = tl.float32 if SINGLE else tl.float64
    pixel = (tl.program_id(0) // blocks).to(tl.int64)
    ray = tl.program_id(0) % blocks * RAYS + tl.arange(0, RAYS)
    bins = tl.arange(0, BINS)
    if OF_PIXELS:
        spectra += pixel * (N_BINS * N_ENERGIES)
    first = pixel * n_rays
    mask = (ray < n_rays)[:, None] & (bins < N_BINS)[None, :]
    n = tl.load(counts + first * N_BINS + ray[:, None] * N_BINS + bins[None, :], mask, 1.0)
    n = n.to(dtype)
    active = tl.load(wanted + first + ray, ray < n_rays, 0) != 0
    at = (first + ray) * K
    zero = tl.zeros([RAYS], dtype)
    x0, x1, x2 = load_unknowns(start + at, active, K)
    x0, x1, x2, done, value = _search(
        x0.to(dtype), x1.to(dtype), x2.to(dtype), n, active, spectra, attenuation, limits, distance,
        K, N_ENERGIES, N_BINS, BINS, RAYS, EPS,
    )  # fmt: skip
    z0, z1, z2, again, there = _search(
        zero, zero, zero, n, active, spectra, attenuation, limits, distance,
        K, N_ENERGIES, N_BINS, BINS, RAYS, EPS,
    )  # fmt: skip
    total = tl.sum(tl.where((bins < N_BINS)[None, :], n, 0.0), 1)
    rounding = 2 * 4 * EPS * total
    better = there < value - same - rounding
    if SINGLE:
        apart = tl.maximum(tl.maximum(tl.abs(x0 - z0), tl.abs(x1 - z1)), tl.abs(x2 - z2))
        told = tl.abs(there - value) > same + rounding
        done = done & again & ((apart <= 2 * distance) | told)
    else:
        better = again & (~done | better)
        done |= again
    x0, x1, x2 = tl.where(better, z0, x0), tl.where(better, z1, x1), tl.where(better, z2, x2)
    store_unknowns(x + at, x0, x1, x2, active, K)
    tl.store(converged + first + ray, done, active)
