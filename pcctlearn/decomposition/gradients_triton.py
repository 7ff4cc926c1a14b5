"""Gradients of minima on a CUDA device, in the precision of the rays, by one more evaluation."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcctlearn.decomposition.lanes_triton import (
    factor,
    is_free,
    likelihood,
    load_unknowns,
    moments,
    solve,
    transmission,
)

_RAYS = 128  # of a thread block
_WARPS = 4


def gradients(
    x: Tensor,
    counts: Tensor,
    spectra: Tensor,
    attenuation: Tensor,
    lower: Tensor,
    upper: Tensor,
    passes: Tensor,
    cotangent: Tensor,
    of_tables: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of Σ v·A in counts, spectra and attenuation.

    Args:
        x: minima, (pixel, ray, material).
        counts, spectra, attenuation, lower, upper: as in ``fused_triton.minimise``.
        passes: (pixel, ray), whether a ray passes a gradient.
        cotangent: v, (pixel, ray, material).
        of_tables: whether the gradients in spectra and attenuation are wanted; zero if not.
    """
    n_pixels, n_rays, n_bins = counts.shape
    K, n_energies = attenuation.shape
    bins = triton.next_power_of_2(n_bins)
    limits = torch.nn.functional.pad(torch.stack([lower, upper]).to(counts), (0, 3 - K))
    blocks = triton.cdiv(n_rays, _RAYS)
    in_counts = torch.empty_like(counts)
    of_blocks = (n_pixels, blocks if of_tables else 0, n_energies)
    in_spectra = counts.new_empty(*of_blocks, bins)
    in_attenuation = counts.new_empty(*of_blocks, K)
    _gradients[(n_pixels * blocks,)](
        counts,
        spectra,
        attenuation,
        limits,
        x,
        passes,
        cotangent,
        in_counts,
        in_spectra,
        in_attenuation,
        n_rays,
        blocks,
        K=K,
        N_ENERGIES=n_energies,
        OF_PIXELS=len(spectra) > 1,
        N_BINS=n_bins,
        BINS=bins,
        RAYS=_RAYS,
        OF_TABLES=of_tables,
        num_warps=_WARPS,
    )
    sums = in_spectra.sum(1, dtype=torch.float64).mT[:, :n_bins].to(counts)
    return in_counts, sums, in_attenuation.sum((0, 1), dtype=torch.float64).T.to(counts)


@no_type_check
@triton.jit
def _gradients(
    counts, spectra, attenuation, limits, x, passes, cotangent,
    in_counts, in_spectra, in_attenuation, n_rays, blocks,
    K: tl.constexpr, N_ENERGIES: tl.constexpr, OF_PIXELS: tl.constexpr,
    N_BINS: tl.constexpr, BINS: tl.constexpr, RAYS: tl.constexpr, OF_TABLES: tl.constexpr,
):  # fmt: skip
    """See ``fused_gradients_numba`` for the equations."""
    pixel = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    ray = block * RAYS + tl.arange(0, RAYS)
    bins = tl.arange(0, BINS)
    is_bin = bins < N_BINS
    if OF_PIXELS:
        spectra += pixel * (N_BINS * N_ENERGIES)
    first = pixel * n_rays
    place = first * N_BINS + ray[:, None] * N_BINS + bins[None, :]
    mask = (ray < n_rays)[:, None] & is_bin[None, :]
    n = tl.load(counts + place, mask, 1.0)
    through = tl.load(passes + first + ray, ray < n_rays, 0) != 0
    # an empty beam for rays that pass nothing: no 0 · NaN
    a0, a1, a2 = load_unknowns(x + (first + ray) * K, through, K)
    v0, v1, v2 = load_unknowns(cotangent + (first + ray) * K, through, K)
    y, d0, d1, d2, c00, c10, c11, c20, c21, c22 = moments(
        a0, a1, a2, spectra, attenuation, K, N_ENERGIES, N_BINS, BINS, RAYS
    )
    _, g0, g1, g2, h00, h10, h11, h20, h21, h22 = likelihood(
        n, ray >= 0, y, d0, d1, d2, c00, c10, c11, c20, c21, c22
    )
    f0, f1 = is_free(a0, g0, limits, 0, K), is_free(a1, g1, limits, 1, K)
    f2 = is_free(a2, g2, limits, 2, K)
    l10, l20, l21, p0, p1, p2, positive = factor(h00, h10, h11, h20, h21, h22, f0, f1, f2)
    u0, u1, u2 = solve(
        l10, l20, l21, p0, p1, p2,
        tl.where(f0, v0, 0.0), tl.where(f1, v1, 0.0), tl.where(f2, v2, 0.0),
    )  # fmt: skip
    through &= positive
    u0 = tl.where(through, u0, 0.0)[:, None]
    u1 = tl.where(through, u1, 0.0)[:, None]
    u2 = tl.where(through, u2, 0.0)[:, None]
    along = (u0 * d0 + u1 * d1 + u2 * d2) / y
    tl.store(in_counts + place, -along, mask)
    if OF_TABLES:
        ratio = n / y
        push = ratio * along
        q0, q1, q2 = (1 - ratio) * u0, (1 - ratio) * u1, (1 - ratio) * u2
        in_spectra += (pixel * blocks + block) * (N_ENERGIES * BINS) + bins
        in_attenuation += (pixel * blocks + block) * (N_ENERGIES * K)
        for e in range(N_ENERGIES):
            t, mu0, mu1, mu2 = transmission(a0, a1, a2, e, attenuation, K, N_ENERGIES)
            pull = t[:, None] * (push + q0 * mu0 + q1 * mu1 + q2 * mu2)
            tl.store(in_spectra + e * BINS, tl.sum(pull, 0))
            S = tl.load(spectra + bins * N_ENERGIES + e, is_bin, 0.0)[None, :].to(n.dtype)
            bent, u = pull * S, t[:, None] * S
            tl.store(in_attenuation + e * K, tl.sum(tl.sum(u * q0 - bent * a0[:, None], 1), 0))
            if K > 1:
                row = tl.sum(u * q1 - bent * a1[:, None], 1)
                tl.store(in_attenuation + e * K + 1, tl.sum(row, 0))
            if K > 2:
                row = tl.sum(u * q2 - bent * a2[:, None], 1)
                tl.store(in_attenuation + e * K + 2, tl.sum(row, 0))
