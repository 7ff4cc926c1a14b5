"""Compiled minima in float32, by Numba on the CPU and by Triton on CUDA."""

import importlib.util
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcctlearn.decomposition.compiled_arguments import Box, EasyRays, FirstIterates, Limits
from pcctlearn.decomposition.pieces import Rays
from pcctlearn.decomposition.polynomial import Polynomial
from pcctlearn.decomposition.profiles import NO_PROFILES, Profiles, Starts
from pcctlearn.shapes import Attenuation
from pcctlearn.solvers.minimum import DISTANCE
from pcctlearn.solvers.quadratic import Bounds, Solution

log = logging.getLogger(__name__)

_MOST_MATERIALS = 3
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_GAP = 1e-5  # least difference of the half deviances of two minima, in float32
_SINGLE_LIMITS = Limits(np.float32(DISTANCE), np.float32(_GAP))
_LOADED_S = 2.0  # compiled functions are loaded from the disk in less


class Problem(NamedTuple):
    """Counts (pixel, ray, bin), spectra (pixel, bin, energy) or one for all pixels, and the box."""

    counts: Tensor
    spectra: Tensor
    attenuation: Tensor
    bounds: Bounds | None

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Counts, spectra and attenuation."""
        n, S, mu = (part.detach().contiguous() for part in self[:3])
        return n, S, mu

    def limits(self) -> tuple[Tensor, Tensor]:
        """Lower and upper limits of the materials."""
        if self.bounds is not None:
            return self.bounds.lower.float(), self.bounds.upper.float()
        free = torch.full_like(self.attenuation[:, 0], torch.inf)
        return -free, free

    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tuples with one entry for each material and each bin: their types carry the numbers."""
        return (0,) * len(self.attenuation), (0,) * self.counts.shape[-1]


def is_compiled(rays: Rays, attenuation: Attenuation) -> bool:
    """Whether compiled functions exist for these rays: float32, up to 3 materials, and on a CUDA
    device an installed Triton."""
    return (
        rays.counts.dtype == torch.float32
        and (rays.counts.device.type == "cpu" or (rays.counts.is_cuda and _HAS_TRITON))
        and len(attenuation) <= _MOST_MATERIALS
        and rays.counts.numel() > 0
    )


def problem(rays: Rays, attenuation: Attenuation, bounds: Bounds | None) -> Problem:
    """The rays with a pixel axis."""
    n, S, _ = rays
    shared = S.ndim == 2
    return Problem(n[None] if shared else n, S[None] if shared else S, attenuation, bounds)


class Single(NamedTuple):
    """Flat minima of two searches in float32.

    Rays that are ``close`` have one minimum, near x; those with ``both`` have two, near x and
    ``second``. They are to be polished in double precision.
    """

    x: Tensor
    solved: Tensor
    close: Tensor
    both: Tensor
    second: Tensor


def easy_minima(
    given: Problem,
    polynomial: Polynomial,
    profiles: Profiles | None,
    least_photons: float,
    gross_misfit: float,
) -> tuple[Solution, Tensor]:
    """Flat minima of the rays that float32 resolves, and a mask of those that it is close to.

    Close rays have one minimum, near x, to be polished in double precision.

    Args:
        given: the rays.
        polynomial: of the second degree, for the first iterate.
        profiles: for the first iterate of two materials, and for the number of their minima.
        least_photons: rays with fewer photons are left out.
        gross_misfit: rays with a larger half deviance per photon may have a likelier minimum.
    """
    start = polynomial.coefficients.detach().float(), polynomial.range.detach().float()
    shape = given.counts.shape[:2]
    with announced("decomposition", given):
        if given.counts.is_cuda:
            from pcctlearn.decomposition import fused_triton

            limits = DISTANCE, least_photons, gross_misfit
            x, solved = fused_triton.minimise(*given.tensors(), *start, *given.limits(), limits)
            close = torch.zeros_like(solved)
        else:
            from pcctlearn.decomposition import fused_numba

            x = given.counts.new_zeros(*shape, len(given.attenuation))
            fate = torch.zeros(shape, dtype=torch.int8)
            fused_numba.minimise(
                *arrays(*given.tensors()),
                tuple(arrays(*start)),
                profiles or NO_PROFILES,
                Box(*arrays(*given.limits())),
                _SINGLE_LIMITS,
                EasyRays(np.float32(least_photons), np.float32(gross_misfit)),
                *given.sizes(),
                *arrays(x, fate),
            )
            solved, close = fate == fused_numba.SOLVED, fate == fused_numba.BLURRED
    return Solution(x.flatten(0, 1), solved.flatten()), close.flatten()


def arrays(*tensors: Tensor) -> Iterator[np.ndarray]:
    """The tensors as arrays of numpy, which share their memory."""
    return (t.numpy() for t in tensors)


def ambiguous_minima(given: Problem, begin: Starts, wanted: Tensor) -> Single:
    """Flat minima in float32, the likelier of those from two starts.

    Rays are solved if both searches end, at one minimum or at two whose likelihoods float32
    tells apart. Arguments are flat.

    Args:
        given: the rays.
        begin: first iterates, on a CUDA device of the first search only.
        wanted: the rays to solve.
    """
    shape = given.counts.shape[:2]
    theta, limits = given.tensors(), given.limits()
    first, second, sure, wanted = _of_pixels(shape, *begin, wanted)
    with announced("search for two minima", given):
        if given.counts.is_cuda:
            from pcctlearn.decomposition import newton_triton

            x, solved = newton_triton.search(
                *theta, first, wanted, *limits, DISTANCE, _GAP, torch.float32
            )
            close = both = torch.zeros_like(solved)
        else:
            from pcctlearn.decomposition import newton_lanes_numba

            x, fate = torch.zeros_like(first), torch.zeros(shape, dtype=torch.int8)
            newton_lanes_numba.search(
                *arrays(*theta),
                FirstIterates(*arrays(first, second, sure)),
                *arrays(wanted),
                Box(*arrays(*limits)),
                _SINGLE_LIMITS,
                *given.sizes(),
                *arrays(x, fate),
            )
            fates = newton_lanes_numba.FOUND, newton_lanes_numba.CLOSE, newton_lanes_numba.BOTH
            solved, close, both = (fate == one for one in fates)
    return Single(
        x.flatten(0, 1),
        solved.flatten(),
        close.flatten(),
        both.flatten(),
        second.flatten(0, 1),
    )


def hard_minima(
    given: Problem, begin: Starts, wanted: Tensor, close: Tensor, same: float
) -> Solution:
    """Flat minima in double precision of the rays of a mask; others are not converged.

    The steps are those of ``find_minima`` in torch.

    Args:
        given: the rays.
        begin: first iterates, on a CUDA device of the first search only.
        wanted: the rays to solve.
        close: those that start close to their only minimum.
        same: largest difference of the half deviance at the same minimum.
    """
    shape = given.counts.shape[:2]
    first, second, sure, wanted, close = _of_pixels(shape, *begin, wanted, close)
    with announced("decomposition in double precision", given):
        if given.counts.is_cuda:
            from pcctlearn.decomposition import newton_triton

            theta = given.tensors()
            x, converged = newton_triton.search(
                *theta, first, wanted, *given.limits(), DISTANCE, same, torch.float64
            )
        else:
            from pcctlearn.decomposition import newton_numba

            x, converged = torch.zeros(first.shape, dtype=torch.float64), torch.zeros_like(wanted)
            lower, upper = given.limits()
            counts, spectra, attenuation = given.tensors()
            newton_numba.solve_in_double(
                *arrays(*wanted.nonzero(as_tuple=True), counts, spectra, attenuation.double()),
                FirstIterates(*arrays(first, second, sure)),
                *arrays(close),
                Box(*arrays(lower.double(), upper.double())),
                Limits(DISTANCE, same),
                *given.sizes(),
                *arrays(x, converged),
            )
    return Solution(x.flatten(0, 1), converged.flatten())


def _of_pixels(shape: torch.Size, *flat: Tensor) -> Iterator[Tensor]:
    """Flat tensors with the axes pixel and ray."""
    return (t.reshape(*shape, *t.shape[1:]).contiguous() for t in flat)


@contextmanager
def announced(what: str, given: Problem) -> Iterator[None]:
    """Log a message if functions are compiled: seconds, once for each number of bins."""
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
