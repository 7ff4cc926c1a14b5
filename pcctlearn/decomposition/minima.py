"""Find the likelihood's minimum for every ray: most in their own precision, the rest in double."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcctlearn.decomposition.pieces import Rays, flat, put_back, rays_contiguous
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.shapes import Attenuation, RayCounts, RayMask
from pcctlearn.solvers.implicit import implicit_minimum
from pcctlearn.solvers.minimum import DISTANCE
from pcctlearn.solvers.newton import DampedNewton
from pcctlearn.solvers.quadratic import Bounds, Solution, Solver

_LEAST_PHOTONS = 0.5
_SCORING_STEPS = 3
_FIRST_STEPS = 5  # after which nearly all rays with many counts are done
_MORE_STEPS = 12  # after which nearly all the others are


class Found(NamedTuple):
    """Minima of rays, flat: those found in their own precision, and those found in double."""

    own: Solution
    hard: Tensor  # mask of the rays that went on in double
    double: Solution  # of ``Rays.take(hard)``


def informative(counts: RayCounts) -> RayMask:
    """True where all bins together hold half a photon or more.

    N photons determine the logarithm of the transmission to ±1/√N at best. Photons are counted
    whole: a total below one half is a measurement of zero photons, whose likelihood has no finite
    minimum, and the minimum for the fraction is set by the fraction alone.
    """
    return counts.sum(-1) >= _LEAST_PHOTONS


def find_minima(
    rays: Rays, attenuation: Attenuation, solver: Solver, bounds: Bounds | None
) -> Found:
    """Minimise ray by ray; no decision about a ray depends on another.

    All rays begin in their own precision. A ray that does not converge there, because it needs
    more steps or because rounding moves its minimum too far, goes on in double precision from
    where it is, and from an empty beam where that fails: with three materials the start may lie on
    the far side of a ridge, and from an empty beam the expected counts only fall towards the
    measured ones.
    """
    first, more, anew = _stages(solver)
    possible = informative(rays.counts).flatten()
    assert rays.start is not None
    own = Solution(rays.start.flatten(0, -2), torch.zeros_like(possible))
    if first is not None:
        x, converged = _each(rays, attenuation, bounds, first)
        own = Solution(x, converged & possible)
    hard = possible & ~own.converged
    rest, index = rays.starting_at(own.x).take(hard)
    double = Solution(own.x.new_empty(0, own.x.shape[-1]), possible.new_empty(0))
    if index.numel():
        double = _persist(rest, (index < 0).flatten(), attenuation, more, anew, bounds)
        # float32 cannot hold a large area density to the distance that convergence stands for
        blurred = double.x.abs() * (0.5 * torch.finfo(own.x.dtype).eps) > DISTANCE
        double = Solution(double.x, double.converged & ~blurred.any(-1))
    return Found(own, hard, double)


def minimum(
    piece: Rays, attenuation: Attenuation, bounds: Bounds | None, solver: Solver
) -> Solution:
    """Minimum of a piece by ``solver``, with its derivative."""
    assert piece.start is not None
    n, x = rays_contiguous(piece.counts), rays_contiguous(piece.start)
    return implicit_minimum(
        poisson_likelihood, solver, x, n, piece.spectra, attenuation, bounds=bounds
    )


def in_double(
    rays: Rays, attenuation: Attenuation, bounds: Bounds | None
) -> tuple[Rays, Attenuation, Bounds | None]:
    """The same problem in double precision."""
    n, S, x = rays
    assert x is not None
    box = None if bounds is None else Bounds(bounds.lower.double(), bounds.upper.double())
    return Rays(n.double(), S.double(), x.double()), attenuation.double(), box


def _persist(
    rays: Rays,
    done: Tensor,
    attenuation: Attenuation,
    more: Sequence[Solver],
    anew: Sequence[Solver],
    bounds: Bounds | None,
) -> Solution:
    """Minima in double precision of the rays not ``done``: from where they are, then anew."""
    assert rays.start is not None
    x = rays.start.flatten(0, -2).double()
    first = _pursue(rays, Solution(x, done), attenuation, more, bounds)
    empty = Solution(torch.zeros_like(x), first.converged)
    again = _pursue(rays, empty, attenuation, anew, bounds)
    return Solution(torch.where(first.converged[:, None], first.x, again.x), again.converged)


def _pursue(
    rays: Rays,
    solution: Solution,
    attenuation: Attenuation,
    solvers: Sequence[Solver],
    bounds: Bounds | None,
) -> Solution:
    """One solver after the other, each for the rays that have not converged before."""
    for solver in solvers:
        part, index = rays.starting_at(solution.x).take(~solution.converged)
        if index.numel():
            solved = _each(*in_double(part, attenuation, bounds), solver)
            solution = put_back(solution, index, solved)
    return solution


def _each(rays: Rays, attenuation: Attenuation, bounds: Bounds | None, solver: Solver) -> Solution:
    return flat([minimum(piece, attenuation, bounds, solver) for piece in rays.pieces()])


def _stages(solver: Solver) -> tuple[Solver | None, list[Solver], list[Solver]]:
    """Solvers for all rays, for those left, and for those that begin anew.

    Newton's method runs in stages, each for the rays that the one before has not solved. Any other
    solver works in double precision: one that compares values needs the digits.
    """
    if not isinstance(solver, DampedNewton):
        return None, [solver], [solver]
    first = solver.variant(min(solver.max_steps, _FIRST_STEPS), _SCORING_STEPS)
    more = solver.variant(min(solver.max_steps, _MORE_STEPS), 0)
    anew = solver.variant(min(solver.max_steps, _MORE_STEPS), _FIRST_STEPS)
    return first, [more, solver], [anew, solver]
