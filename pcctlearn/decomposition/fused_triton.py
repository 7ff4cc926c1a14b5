"""Easy rays on a CUDA device: the method of ``fused_numba``, one thread block for some rays."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcctlearn.decomposition.lanes_triton import (
    F32_EPS,
    LOG2_E,
    clamped,
    moments,
    solve,
    store_unknowns,
    variances,
)

_RAYS = 128  # of a thread block
_WARPS = 4
_MOST_LOOKS = tl.constexpr(6)  # these four as in fused_numba and model_numba
_INNER_STEPS = tl.constexpr(3)
_MOST_INFLATED = tl.constexpr(4e-5 * 2.0**23)
_MOST_SKEWED = tl.constexpr(60.0)


def minimise(
    counts: Tensor,
    spectra: Tensor,
    attenuation: Tensor,
    coefficients: Tensor,
    most: Tensor,
    lower: Tensor,
    upper: Tensor,
    limits: tuple[float, float, float],
) -> tuple[Tensor, Tensor]:
    """Minima (pixel, ray, material) of the rays that float32 resolves, and which these are.

    Arguments are those of ``fused_numba.minimise``, on a CUDA device and one by one; ``limits`` are
    the largest shift of a minimum, the least photons and the gross misfit.
    """
    n_pixels, n_rays, n_bins = counts.shape
    K = len(attenuation)
    bins = triton.next_power_of_2(n_bins)
    linear = counts.new_zeros(K, bins)
    linear[:, :n_bins] = coefficients[:n_bins].T
    b, other = torch.triu_indices(n_bins, n_bins)
    quadratic = counts.new_zeros(K, bins, bins)
    quadratic[:, other, b] = coefficients[n_bins:].T
    log_air = counts.new_zeros(len(spectra), bins)
    log_air[:, :n_bins] = spectra.sum(-1).log()
    x = counts.new_zeros(n_pixels, n_rays, K)
    solved = torch.zeros(n_pixels, n_rays, dtype=torch.bool, device=counts.device)
    blocks = triton.cdiv(n_rays, _RAYS)
    unknowns = torch.nn.functional.pad(
        torch.stack([0 * most, most, lower, upper]).to(counts), (0, 3 - K)
    )
    _minimise[(n_pixels * blocks,)](
        counts,
        spectra,
        attenuation,
        linear,
        quadratic,
        log_air,
        unknowns,
        x,
        solved,
        n_rays,
        blocks,
        *limits,
        K=K,
        N_ENERGIES=attenuation.shape[1],
        OF_PIXELS=len(spectra) > 1,
        N_BINS=n_bins,
        BINS=bins,
        RAYS=_RAYS,
        num_warps=_WARPS,
    )
    return x, solved


@no_type_check
@triton.jit
def _differentiate(
    n, y, d0, d1, d2, c00, c10, c11, c20, c21, c22, s0, s1, s2, safe, K: tl.constexpr
):
    """As in ``model_numba``: gradient, Hessian, half the deviance, variance of μ·s."""
    s0, s1, s2 = s0[:, None], s1[:, None], s2[:, None]
    b0 = c00 * s0 + c10 * s1 + c20 * s2
    b1 = c10 * s0 + c11 * s1 + c21 * s2
    b2 = c20 * s0 + c21 * s1 + c22 * s2
    along = s0 * d0 + s1 * d1 + s2 * d2
    variance = s0 * b0 + s1 * b1 + s2 * b2
    exponent = -LOG2_E * (along - 0.5 * variance)
    mean = y * tl.exp2(tl.minimum(tl.maximum(exponent, -126.0), 126.0))
    excess = n - mean
    outer = mean + safe[:, None] * tl.maximum(excess, 0.0)
    curved = tl.where(safe[:, None] > 0, tl.maximum(-excess, 0.0), -excess)
    d0, d1, d2 = d0 - b0, d1 - b1, d2 - b2
    g0, g1, g2 = tl.sum(excess * d0, 1), tl.sum(excess * d1, 1), tl.sum(excess * d2, 1)
    h00 = tl.sum(outer * d0 * d0 + curved * c00, 1)
    h10 = tl.sum(outer * d1 * d0 + curved * c10, 1)
    h11 = tl.sum(outer * d1 * d1 + curved * c11, 1)
    h20 = tl.sum(outer * d2 * d0 + curved * c20, 1)
    h21 = tl.sum(outer * d2 * d1 + curved * c21, 1)
    h22 = tl.sum(outer * d2 * d2 + curved * c22, 1)
    if K < 2:
        h11 += 1.0
    if K < 3:
        h22 += 1.0
    logs = tl.log(tl.maximum(n, 1e-30) / mean)  # 0 · log 0 = 0
    value, spread = tl.sum(n * logs - excess, 1), tl.max(variance, 1)
    return g0, g1, g2, h00, h10, h11, h20, h21, h22, value, spread


@no_type_check
@triton.jit
def _factor(h00, h10, h11, h20, h21, h22):
    """H = L diag(p) Lᵀ, and whether H is positive definite."""
    l10, l20 = h10 / h00, h20 / h00
    p1 = h11 - l10 * l10 * h00
    l21 = (h21 - l20 * l10 * h00) / p1
    p2 = h22 - l20 * l20 * h00 - l21 * l21 * p1
    definite = (h00 > 0) & (p1 > 4 * F32_EPS * h11) & (p2 > 4 * F32_EPS * h22)
    return l10, l20, l21, h00, p1, p2, definite


@no_type_check
@triton.jit
def _is_near(x, step, variance, diagonal, error, limits, distance):
    """Whether one unknown is at its minimum, as in ``fused_numba._classify``."""
    lower, upper = tl.load(limits), tl.load(limits + 3)
    near = (x > lower) & (x < upper) & (error * tl.sqrt(variance) <= distance)
    near &= (tl.abs(step) <= distance) & (tl.abs(x) * (0.5 * F32_EPS) <= distance)
    return near & (variance * diagonal <= _MOST_INFLATED)


@no_type_check
@triton.jit
def _start(p, linear, quadratic, unit, N_BINS: tl.constexpr, BINS: tl.constexpr):
    """One unknown of the polynomial of second degree in p = log(air/n)."""
    bins = tl.arange(0, BINS)
    slope = tl.zeros_like(p) + tl.load(linear + unit * BINS + bins)[None, :]
    for other in range(N_BINS):
        one = tl.sum(tl.where((bins == other)[None, :], p, 0.0), 1)
        slope += one[:, None] * tl.load(quadratic + (unit * BINS + other) * BINS + bins)[None, :]
    return tl.sum(p * slope, 1)


@no_type_check
@triton.jit
def _minimise(  # noqa: PLR0915
    counts, spectra, attenuation, linear, quadratic, log_air, unknowns, x, solved,
    n_rays, blocks, distance, least, misfit,
    K: tl.constexpr, N_ENERGIES: tl.constexpr, OF_PIXELS: tl.constexpr,
    N_BINS: tl.constexpr, BINS: tl.constexpr, RAYS: tl.constexpr,
):  # fmt: skip
    """``unknowns``: limits of the start and of the minimum for the three, each lower and upper."""
    pixel = (tl.program_id(0) // blocks).to(tl.int64)
    ray = tl.program_id(0) % blocks * RAYS + tl.arange(0, RAYS)
    bins = tl.arange(0, BINS)
    is_bin = (bins < N_BINS)[None, :]
    first = pixel * n_rays
    if OF_PIXELS:
        spectra += pixel * (N_BINS * N_ENERGIES)
        log_air += pixel * BINS
    mask = (ray < n_rays)[:, None] & is_bin
    n = tl.load(counts + first * N_BINS + ray[:, None] * N_BINS + bins[None, :], mask, 1.0)
    total = tl.sum(tl.where(is_bin, n, 0.0), 1)
    p = tl.load(log_air + bins)[None, :] - tl.log(tl.maximum(n, 0.5))
    p = tl.where(is_bin, p, 0.0)
    zero = tl.zeros([RAYS], tl.float32)
    a0, a1, a2 = _start(p, linear, quadratic, 0, N_BINS, BINS), zero, zero
    if K > 1:
        a1 = _start(p, linear, quadratic, 1, N_BINS, BINS)
    if K > 2:
        a2 = _start(p, linear, quadratic, 2, N_BINS, BINS)
    a0, a1, a2 = clamped(a0, a1, a2, unknowns, unknowns + 3)
    active = (ray < n_rays) & (total >= least)
    done = active & (total < 0)
    safe = zero + 1.0
    look = 0
    while (look < _MOST_LOOKS) & (tl.max(active.to(tl.int32), 0) > 0):
        y, d0, d1, d2, c00, c10, c11, c20, c21, c22 = moments(
            a0, a1, a2, spectra, attenuation, K, N_ENERGIES, N_BINS, BINS, RAYS
        )
        d0, d1, d2 = d0 / y, d1 / y, d2 / y
        c00, c10, c11 = c00 / y - d0 * d0, c10 / y - d1 * d0, c11 / y - d1 * d1
        c20, c21, c22 = c20 / y - d2 * d0, c21 / y - d2 * d1, c22 / y - d2 * d2
        s0, s1, s2, u0, u1, u2 = zero, zero, zero, zero, zero, zero
        l10, l20, l21, p0, p1, p2 = zero, zero, zero, zero, zero, zero
        value, spread, definite = zero, zero, done
        for _ in range(_INNER_STEPS):
            g0, g1, g2, h00, h10, h11, h20, h21, h22, value, spread = _differentiate(
                n, y, d0, d1, d2, c00, c10, c11, c20, c21, c22, s0, s1, s2, safe, K
            )
            l10, l20, l21, p0, p1, p2, definite = _factor(h00, h10, h11, h20, h21, h22)
            u0, u1, u2 = solve(l10, l20, l21, p0, p1, p2, g0, g1, g2)
            s0, s1, s2 = s0 - u0, s1 - u1, s2 - u2
        a0, a1, a2 = a0 + s0, a1 + s1, a2 + s2
        error = 4 * F32_EPS + _MOST_SKEWED / 6 * spread * tl.sqrt(spread)
        error *= tl.sqrt(total)
        error += 0.5 * _MOST_SKEWED * spread * tl.sqrt(2 * tl.maximum(value, 0.0))
        v0, v1, v2 = variances(l10, l20, l21, p0, p1, p2)
        h1 = p1 + l10 * l10 * p0
        h2 = p2 + l20 * l20 * p0 + l21 * l21 * p1
        near = active & definite & (safe == 0.0)
        near &= _is_near(a0, u0, v0, p0, error, unknowns + 6, distance)
        if K > 1:
            near &= _is_near(a1, u1, v1, h1, error, unknowns + 7, distance)
        if K > 2:
            near &= _is_near(a2, u2, v2, h2, error, unknowns + 8, distance)
        a0, a1, a2 = clamped(a0, a1, a2, unknowns + 6, unknowns + 9)
        store_unknowns(x + (first + ray) * K, a0, a1, a2, active, K)
        done |= near & (value <= misfit * total)
        active &= ~near
        safe = tl.where(definite, 0.0, 1.0)
        look += 1
    tl.store(solved + first + ray, done, ray < n_rays)
