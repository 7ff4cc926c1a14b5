"""Derivative of compiled minima, by Numba on the CPU and by Triton on CUDA."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pcctlearn.decomposition.fused import Problem, announced, arrays, problem
from pcctlearn.decomposition.minima import Found, in_double
from pcctlearn.decomposition.pieces import Rays, put_back
from pcctlearn.shapes import Attenuation
from pcctlearn.solvers.quadratic import Bounds, Solution


def with_derivative(
    found: Found, rays: Rays, attenuation: Attenuation, bounds: Bounds | None
) -> Solution:
    """Flat minima with their derivative dA/dθ = −H⁻¹ ∂g/∂θ in counts, spectra and attenuation."""
    x, converged = _Minimum.apply(*rays[:2], attenuation, found, bounds)
    return Solution(x, converged)


class _Minimum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, counts, spectra, attenuation, found, bounds):  # type: ignore[no-untyped-def]
        _, index = Rays(counts, spectra, None).take(found.hard)
        x, converged = put_back(found.single, index, found.double)
        ctx.save_for_backward(counts, spectra, attenuation, x)
        ctx.easy, ctx.double, ctx.bounds = found.single.converged, found.double, bounds
        ctx.hard = found.hard.nonzero()[:, 0]  # a mask takes a byte for every ray
        ctx.mark_non_differentiable(converged)
        return x, converged

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent, _):  # type: ignore[no-untyped-def]
        """Gradients of all rays in float32, replaced by those in double where the minima are."""
        counts, spectra, attenuation, x = ctx.saved_tensors
        rays, wanted = Rays(counts, spectra, None), ctx.needs_input_grad[:3]
        given = problem(rays, attenuation, ctx.bounds)
        found = list(_gradients(given, Solution(x, ctx.easy), cotangent, *wanted[1:]))
        if len(ctx.hard):
            taken, index = rays.take(torch.zeros_like(ctx.easy).index_fill(0, ctx.hard, True))
            kept, flat = index.flatten() >= 0, index.flatten().clamp(min=0)
            minima = Solution(ctx.double.x, ctx.double.converged & kept)
            of_hard = _gradients(
                problem(*in_double(taken, attenuation, ctx.bounds)),
                minima,
                cotangent[flat].double(),
                *wanted[1:],
            )
            of_rays = of_hard[0].flatten(0, 1)[kept].to(counts)
            found[0].view(-1, counts.shape[-1])[flat[kept]] = of_rays
            if wanted[1]:
                pixels = index.amax(1) // counts.shape[1] if spectra.ndim > 2 else flat.new_zeros(1)
                found[1].index_add_(0, pixels, of_hard[1].to(counts))
            if wanted[2]:
                found[2] += of_hard[2].to(counts)
        shapes = counts.shape, spectra.shape, attenuation.shape
        results = (
            g.reshape(s) if w else None for g, s, w in zip(found, shapes, wanted, strict=True)
        )
        return *results, None, None


def _gradients(
    given: Problem, minima: Solution, cotangent: Tensor, of_spectra: bool, of_mu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in counts and, if wanted, in spectra and attenuation; zero for other rays."""
    shape = given.counts.shape[:2]
    x, passes, cotangent = (
        t.reshape(*shape, *t.shape[1:]).contiguous() for t in (*minima, cotangent)
    )
    with announced("derivative", given):
        on_device = _on_cuda if given.counts.is_cuda else _on_cpu
        return on_device(given, x, passes, cotangent, of_spectra, of_mu)


def _on_cpu(
    given: Problem, x: Tensor, passes: Tensor, cotangent: Tensor, of_spectra: bool, of_mu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from pcctlearn.decomposition import fused_gradients_numba, newton_gradients_numba

    counts, spectra, attenuation = given.tensors()
    n_pixels, n_rays, n_bins = counts.shape
    in_counts = torch.zeros_like(counts)
    in_double = counts.dtype == torch.float64
    module = newton_gradients_numba if in_double else fused_gradients_numba
    n_tiles = -(-n_rays // module.TILE) if of_spectra or of_mu else 0
    n_rows = n_bins + len(attenuation) if of_mu or in_double else n_bins
    tables = counts.new_zeros(n_pixels, n_tiles, n_rows, spectra.shape[-1])
    limits = (side.to(counts) for side in given.limits())
    module.gradients(
        *arrays(x, counts, spectra, attenuation, *limits, passes, cotangent),
        *given.sizes(),
        *arrays(in_counts, tables),
    )
    sums = tables.double().sum(1).to(counts)
    return in_counts, sums[:, :n_bins], sums[:, n_bins:].sum(0)


def _on_cuda(
    given: Problem, x: Tensor, passes: Tensor, cotangent: Tensor, of_spectra: bool, of_mu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from pcctlearn.decomposition.gradients_triton import gradients

    of_tables = of_spectra or of_mu
    return gradients(x, *given.tensors(), *given.limits(), passes, cotangent, of_tables)
