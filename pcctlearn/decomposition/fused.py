"""Easy rays on the CPU: compiled minima and their gradient in the counts (``fused_numba``)."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pcctlearn.decomposition.pieces import Rays
from pcctlearn.decomposition.polynomial import Polynomial
from pcctlearn.shapes import Attenuation
from pcctlearn.solvers.minimum import DISTANCE
from pcctlearn.solvers.quadratic import Bounds, Solution

_MOST_MATERIALS = 3


class Problem(NamedTuple):
    """Counts (pixel, ray, bin), spectra (pixel, bin, energy) or one for all pixels, and the box."""

    counts: Tensor
    spectra: Tensor
    attenuation: Tensor
    bounds: Bounds | None

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Counts, spectra and attenuation."""
        parts = self.counts, self.spectra, self.attenuation
        return tuple(part.detach().contiguous().numpy() for part in parts)

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limits of the materials."""
        if self.bounds is not None:
            return self.bounds.lower.float().numpy(), self.bounds.upper.float().numpy()
        free = np.full(len(self.attenuation), np.inf, np.float32)
        return -free, free

    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tuples as long as there are materials and bins, which the compiler counts."""
        return (0,) * len(self.attenuation), (0,) * self.counts.shape[-1]


def is_compiled(rays: Rays, attenuation: Attenuation) -> bool:
    """Whether compiled functions exist for these rays: float32 on the CPU, up to 3 materials."""
    return (
        rays.counts.dtype == torch.float32
        and rays.counts.device.type == "cpu"
        and len(attenuation) <= _MOST_MATERIALS
        and rays.counts.numel() > 0
    )


def problem(rays: Rays, attenuation: Attenuation, bounds: Bounds | None) -> Problem:
    """The rays with a pixel axis."""
    n, S, _ = rays
    shared = S.ndim == 2
    return Problem(n[None] if shared else n, S[None] if shared else S, attenuation, bounds)


def easy_minima(
    given: Problem, polynomial: Polynomial, least_photons: float, gross_misfit: float
) -> Solution:
    """Flat minima of the rays that float32 resolves, and which these are.

    Args:
        given: the rays.
        polynomial: of the second degree, for the first iterate.
        least_photons, gross_misfit: rays with fewer photons, or a larger half deviance per photon,
            may have several minima and are left out.
    """
    from pcctlearn.decomposition.fused_numba import minimise

    shape = given.counts.shape[:2]
    x = np.zeros((*shape, len(given.attenuation)), np.float32)
    solved = np.zeros(shape, np.uint8)
    minimise(
        *given.arrays(),
        polynomial.coefficients.detach().float().numpy(),
        polynomial.range.detach().float().numpy(),
        *given.limits(),
        tuple(np.float32(v) for v in (DISTANCE, least_photons, gross_misfit)),
        *given.sizes(),
        x,
        solved,
    )
    return Solution(
        torch.from_numpy(x).flatten(0, 1), torch.from_numpy(solved).flatten().to(torch.bool)
    )


def with_count_gradient(known: Solution, given: Problem) -> Solution:
    """Attach dA/dn = −H⁻¹ ∂g/∂n to flat minima, as ``implicit_derivative`` does for all inputs."""
    return Solution(_Minimum.apply(given.counts, known.x, known.converged, given), known.converged)


class _Minimum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, counts, x, converged, given):  # type: ignore[no-untyped-def]
        ctx.given = given._replace(counts=counts)
        ctx.save_for_backward(x, converged)
        return x.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent):  # type: ignore[no-untyped-def]
        from pcctlearn.decomposition.fused_numba import count_gradient

        given, (x, converged) = ctx.given, ctx.saved_tensors
        shape = given.counts.shape
        gradient = np.empty(shape, np.float32)
        count_gradient(
            x.reshape(*shape[:2], -1).contiguous().numpy(),
            *given.arrays(),
            converged.reshape(shape[:2]).numpy(),
            *given.limits(),
            cotangent.reshape(*shape[:2], -1).contiguous().numpy(),
            *given.sizes(),
            gradient,
        )
        return torch.from_numpy(gradient), None, None, None
