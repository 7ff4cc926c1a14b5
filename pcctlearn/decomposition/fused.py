"""Easy rays on the CPU: compiled minima and their gradient in the counts (``fused_numba``)."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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

log = logging.getLogger(__name__)

_MOST_MATERIALS = 3
_LOADED_S = 2.0  # compiled functions are loaded from the disk in less


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
    with _announced("decomposition", given):
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


def hard_minima(given: Problem, start: Tensor, hard: Tensor, same: float) -> Solution:
    """Minima in double precision of the rays of a mask, one after the other.

    The steps are those of ``find_minima`` in torch.

    Args:
        given: the rays.
        start: flat, the first iterate of every ray.
        hard: flat mask of the rays to solve.
        same: largest difference of the half deviance at the same minimum.
    """
    from pcctlearn.decomposition.newton_numba import solve_in_double

    shape = given.counts.shape[:2]
    n, S, mu = given.arrays()
    index = hard.nonzero()[:, 0]
    x = np.empty((len(index), len(mu)))
    converged = np.empty(len(index), np.uint8)
    with _announced("decomposition in double precision", given):
        solve_in_double(
            (index // shape[1]).numpy(),
            (index % shape[1]).numpy(),
            n,
            S,
            mu.astype(np.float64),
            start.reshape(*shape, -1).contiguous().numpy(),
            *(side.astype(np.float64) for side in given.limits()),
            DISTANCE,
            same,
            *given.sizes(),
            x,
            converged,
        )
    return Solution(torch.from_numpy(x), torch.from_numpy(converged).to(torch.bool))


@contextmanager
def _announced(what: str, given: Problem) -> Iterator[None]:
    """Say so if functions are compiled, which takes seconds, once for each number of bins."""
    n_materials, n_bins = map(len, given.sizes())
    message = f"compiling the {what} of {n_bins} bins into {n_materials} materials"
    timer = threading.Timer(_LOADED_S, log.info, [f"{message}, once: up to 20 s"])
    timer.daemon = True
    if message not in _used:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _used.add(message)


_used: set[str] = set()


def with_derivative(known: Solution, given: Problem) -> Solution:
    """Attach dA/dθ = −H⁻¹ ∂g/∂θ for counts and spectra to flat minima inside the box."""
    x = _Minimum.apply(given.counts, given.spectra, known.x, known.converged, given.attenuation)
    return Solution(x, known.converged)


class _Minimum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, counts, spectra, x, converged, attenuation):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(counts, spectra, x, converged, attenuation)
        return x.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent):  # type: ignore[no-untyped-def]
        from pcctlearn.decomposition.fused_gradients_numba import gradients, tiles_of

        counts, spectra, x, converged, attenuation = ctx.saved_tensors
        given = Problem(counts, spectra, attenuation, None)
        n_pixels, n_rays, n_bins = counts.shape
        wanted = ctx.needs_input_grad
        of_counts = np.empty(counts.shape if wanted[0] else (0, 0, 0), np.float32)
        tiles = (n_pixels, tiles_of(n_rays), n_bins, spectra.shape[-1])
        of_spectra = np.zeros(tiles if wanted[1] else (0, 0, 0, 0), np.float32)
        shape = (n_pixels, n_rays, -1)
        with _announced("derivative", given):
            gradients(
                x.reshape(shape).contiguous().numpy(),
                *given.arrays(),
                converged.reshape(shape[:2]).contiguous().numpy(),
                cotangent.reshape(shape).contiguous().numpy(),
                *given.sizes(),
                of_counts,
                of_spectra,
            )
        sums = torch.from_numpy(of_spectra).double().sum(1).to(spectra) if wanted[1] else None
        return torch.from_numpy(of_counts) if wanted[0] else None, sums, None, None, None
