"""What the kernels on a CUDA device share: expected counts and their moments, and 3 × 3 systems.

A thread block holds some rays of one pixel. A quantity of every bin is an array (ray, bin) whose
bins are padded to a power of two; a padded bin expects one count, whatever the materials. Three
unknowns are written out, because kernels have no arrays that an index addresses: those that a beam
does not have are zero. ``no_type_check`` exempts kernels from the shape checks of the tests.
"""

from typing import no_type_check

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
F32_EPS = tl.constexpr(2.0**-23)
F64_EPS = tl.constexpr(2.0**-52)
F64_SMALLEST = tl.constexpr(2.0**-511)  # ``negligible``


@no_type_check
@triton.jit
def transmission(a0, a1, a2, e, attenuation, K: tl.constexpr, N_ENERGIES: tl.constexpr):
    """exp(−μ(E)·A), limited to normal numbers, and μ(E) of the three materials."""
    mu0 = tl.load(attenuation + e)
    mu1, mu2 = mu0 * 0, mu0 * 0
    exponent = mu0 * a0
    if K > 1:
        mu1 = tl.load(attenuation + N_ENERGIES + e)
        exponent += mu1 * a1
    if K > 2:
        mu2 = tl.load(attenuation + 2 * N_ENERGIES + e)
        exponent += mu2 * a2
    exponent *= -LOG2_E
    if a0.dtype == tl.float64:
        exponent = tl.minimum(tl.maximum(exponent, -511.0), 1000.0)
    else:
        exponent = tl.minimum(tl.maximum(exponent, -126.0), 126.0)
    return tl.exp2(exponent), mu0, mu1, mu2


@no_type_check
@triton.jit
def moments(
    a0, a1, a2, spectra, attenuation,
    K: tl.constexpr, N_ENERGIES: tl.constexpr, N_BINS: tl.constexpr, BINS: tl.constexpr,
    RAYS: tl.constexpr,
):  # fmt: skip
    """Σ_E S_b exp(−μ·A) times 1, μ_k and μ_k μ_m, in the precision of A.

    Args:
        a0, a1, a2: area densities A of the rays.
        spectra: pointer to those of the pixel, (bin, energy).
        attenuation: pointer, (material, energy).
    """
    bins = tl.arange(0, BINS)
    is_bin = bins < N_BINS
    zero = tl.zeros([RAYS, BINS], a0.dtype)
    y, d0, d1, d2 = zero, zero, zero, zero
    c00, c10, c11, c20, c21, c22 = zero, zero, zero, zero, zero, zero
    for e in range(N_ENERGIES):
        t, mu0, mu1, mu2 = transmission(a0, a1, a2, e, attenuation, K, N_ENERGIES)
        S = tl.load(spectra + bins * N_ENERGIES + e, is_bin, 0.0).to(a0.dtype)
        if a0.dtype == tl.float64:
            S = tl.where(S > F64_SMALLEST, S, 0.0)
        u = t[:, None] * S[None, :]
        v = u * mu0
        y += u
        d0 += v
        c00 += v * mu0
        if K > 1:
            c10 += v * mu1
            v = u * mu1
            d1 += v
            c11 += v * mu1
        if K > 2:
            c21 += v * mu2
            v = u * mu2
            d2 += v
            c20 += v * mu0
            c22 += v * mu2
    return tl.where(is_bin[None, :], y, 1.0), d0, d1, d2, c00, c10, c11, c20, c21, c22


@no_type_check
@triton.jit
def likelihood(n, exact, y, d0, d1, d2, c00, c10, c11, c20, c21, c22):
    """Half the deviance, its gradient and its exact or expected Hessian, from the ``moments``."""
    ratio = n / y
    excess = ratio - 1.0  # of −∂ȳ/∂A = d
    weight = tl.where(exact[:, None], ratio, 1.0) / y
    bent = tl.where(exact[:, None], -excess, 0.0)
    value = tl.sum(y - n + n * tl.log(tl.maximum(ratio, F64_SMALLEST)), 1)
    g0, g1, g2 = tl.sum(excess * d0, 1), tl.sum(excess * d1, 1), tl.sum(excess * d2, 1)
    h00 = tl.sum(weight * d0 * d0 + bent * c00, 1)
    h10 = tl.sum(weight * d1 * d0 + bent * c10, 1)
    h11 = tl.sum(weight * d1 * d1 + bent * c11, 1)
    h20 = tl.sum(weight * d2 * d0 + bent * c20, 1)
    h21 = tl.sum(weight * d2 * d1 + bent * c21, 1)
    h22 = tl.sum(weight * d2 * d2 + bent * c22, 1)
    return value, g0, g1, g2, h00, h10, h11, h20, h21, h22


@no_type_check
@triton.jit
def is_free(x, g, limits, unit, K: tl.constexpr):
    """``free_unknowns`` of one unknown; those without a material are not free."""
    held = ((x <= tl.load(limits + unit)) & (g > 0)) | ((x >= tl.load(limits + 3 + unit)) & (g < 0))
    return ~held & (unit < K)


@no_type_check
@triton.jit
def factor(h00, h10, h11, h20, h21, h22, f0, f1, f2):
    """L diag(p) Lᵀ of the free unknowns, with a unit row for the others; if positive definite."""
    least = 4 * (F64_EPS if h00.dtype == tl.float64 else F32_EPS)
    h00, h11, h22 = tl.where(f0, h00, 1.0), tl.where(f1, h11, 1.0), tl.where(f2, h22, 1.0)
    h10, h20 = tl.where(f0 & f1, h10, 0.0), tl.where(f0 & f2, h20, 0.0)
    h21 = tl.where(f1 & f2, h21, 0.0)
    positive = h00 > least * tl.abs(h00)
    p0 = tl.where(positive, h00, 1.0)
    l10, l20 = h10 / p0, h20 / p0
    p1 = h11 - l10 * l10 * p0
    sound = p1 > least * tl.abs(h11)
    positive &= sound
    p1 = tl.where(sound, p1, 1.0)
    l21 = (h21 - l20 * l10 * p0) / p1
    p2 = h22 - l20 * l20 * p0 - l21 * l21 * p1
    sound = p2 > least * tl.abs(h22)
    return l10, l20, l21, p0, p1, tl.where(sound, p2, 1.0), positive & sound


@no_type_check
@triton.jit
def solve(l10, l20, l21, p0, p1, p2, g0, g1, g2):
    """u with L diag(p) Lᵀ u = g."""
    z1 = g1 - l10 * g0
    u2 = (g2 - l20 * g0 - l21 * z1) / p2
    u1 = z1 / p1 - l21 * u2
    return g0 / p0 - l10 * u1 - l20 * u2, u1, u2


@no_type_check
@triton.jit
def variances(l10, l20, l21, p0, p1, p2):
    """Diagonal of the inverse of L diag(p) Lᵀ."""
    m20 = l10 * l21 - l20
    return 1 / p0 + l10 * l10 / p1 + m20 * m20 / p2, 1 / p1 + l21 * l21 / p2, 1 / p2


@no_type_check
@triton.jit
def load_unknowns(table, active, K: tl.constexpr):
    """Three unknowns of the active rays; those of others, and those without a material, are 0."""
    a0 = tl.load(table, active, 0.0)
    a1, a2 = a0 * 0, a0 * 0
    if K > 1:
        a1 = tl.load(table + 1, active, 0.0)
    if K > 2:
        a2 = tl.load(table + 2, active, 0.0)
    return a0, a1, a2


@no_type_check
@triton.jit
def store_unknowns(table, a0, a1, a2, active, K: tl.constexpr):
    """Write the unknowns of the active rays."""
    tl.store(table, a0, active)
    if K > 1:
        tl.store(table + 1, a1, active)
    if K > 2:
        tl.store(table + 2, a2, active)


@no_type_check
@triton.jit
def _clamped(a, lower, upper):
    a = tl.where(a > lower, a, lower)
    return tl.where(a < upper, a, upper)


@no_type_check
@triton.jit
def clamped(a0, a1, a2, lower, upper):
    """The unknowns within limits, each a pointer to three numbers; the lower one instead of NaN."""
    a0 = _clamped(a0, tl.load(lower), tl.load(upper))
    a1 = _clamped(a1, tl.load(lower + 1), tl.load(upper + 1))
    a2 = _clamped(a2, tl.load(lower + 2), tl.load(upper + 2))
    return a0, a1, a2
