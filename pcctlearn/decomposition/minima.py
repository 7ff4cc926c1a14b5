"""Minima of the likelihood: most rays in their own precision, the others in double precision."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcctlearn.decomposition.ambiguity import SAME_VALUE, ambiguous, half_deviance, informative
from pcctlearn.decomposition.compiled_minima import CompiledSearch
from pcctlearn.decomposition.fused import is_compiled
from pcctlearn.decomposition.pieces import Rays, flat, put_back, rays_contiguous, started
from pcctlearn.decomposition.polynomial import Polynomial
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.shapes import Attenuation
from pcctlearn.solvers.implicit import Adjoint, implicit_minimum
from pcctlearn.solvers.minimum import DISTANCE
from pcctlearn.solvers.newton import DampedNewton
from pcctlearn.solvers.quadratic import Bounds, Solution, Solver

# Five steps solve nearly all rays with many counts, twelve nearly all others. The first steps use
# the Fisher matrix, which is positive definite at any distance from the minimum. Minima that
# float32 cannot resolve are unsolved in float64 too, so that both precisions take the same path.
WARM_START: tuple[Solver, ...] = (
    DampedNewton(max_steps=5, scoring_steps=3, resolved_by=torch.float32),
    DampedNewton(max_steps=12, scoring_steps=5),
)


class Found(NamedTuple):
    """Minima of rays, flat, found in the precision of the rays and in double precision."""

    single: Solution
    hard: Tensor  # mask of the rays solved in double precision
    double: Solution  # of ``Rays.take(hard)``
    compiled: bool  # whether the others are the minima of compiled functions


def find_minima(
    rays: Rays,
    attenuation: Attenuation,
    solver: Solver | None,
    warm_start: Sequence[Solver] | None,
    bounds: Bounds | None,
    polynomial: Polynomial | None = None,
) -> Found:
    """Minimise ray by ray; rays are independent.

    The first solver of ``warm_start``, by default ``WARM_START``, solves all rays in their own
    precision. Without a ``warm_start`` of the caller, compiled functions do it where they exist
    (``CompiledSearch``), also in double precision if ``solver`` is the default. A ray that does not
    converge, because it needs more steps or because rounding moves its minimum too far, is solved
    in double precision by the other solvers of ``warm_start`` and then by ``solver``, from the same
    start and, if that fails, from zero material. With three materials the start may be separated
    from the minimum by a maximum; from zero material the expected counts decrease monotonically to
    the measured ones. A ray whose likelihood may have several minima (``ambiguous``) is also solved
    in double precision, because in float32 rounding would choose among them.

    Rays without a start begin at the ``polynomial``; in double precision they are solved from both
    starts, and the likelier minimum is kept, but compiled functions solve a ray only once if
    float32 comes close to its minimum and cannot resolve it. With two materials, compiled functions
    on a CPU begin at the minima of the profile (``profile_starts``) instead, once if a ray has a
    single one. With an empty warm start all rays are solved in double precision.
    """
    possible = informative(rays.counts).flatten()
    likelier = rays.start is None
    compiled = likelier and warm_start is None and is_compiled(rays, attenuation)
    warm_start = WARM_START if warm_start is None else warm_start
    solver = solver or DampedNewton()
    if compiled:
        assert polynomial is not None
        search = CompiledSearch.of(rays, attenuation, bounds, polynomial)
        single, near = search.in_float32(possible)
        if solver != DampedNewton():
            rays = started(rays, polynomial)
    else:
        rays = started(rays, polynomial)
        assert rays.start is not None
        single = Solution(rays.start.flatten(0, -2), torch.zeros_like(possible))
        if warm_start:
            x, converged = _solve(rays, attenuation, bounds, warm_start[0])
            clear = ~ambiguous(rays.starting_at(x), attenuation)
            single = Solution(x, converged & possible & clear)
    hard = possible & ~single.converged
    double = Solution(single.x.new_empty(0, single.x.shape[-1]), possible.new_empty(0))
    if bool(hard.any()):
        if compiled and solver == DampedNewton():
            double = search.in_double(hard, single.x, near)
        else:
            rest, index = rays.take(hard)
            done = (index < 0).flatten()
            solvers = [*warm_start[1:], solver]
            double = _solve_in_double(rest, done, attenuation, solvers, bounds, likelier)
        # float32 does not resolve a large area density to the distance of a converged ray
        blurred = double.x.abs() * (0.5 * torch.finfo(single.x.dtype).eps) > DISTANCE
        double = Solution(double.x, double.converged & ~blurred.any(-1))
    return Found(single, hard, double, compiled)


def minimum(
    piece: Rays,
    attenuation: Attenuation,
    bounds: Bounds | None,
    solver: Solver,
    adjoint: Adjoint = "implicit",
) -> Solution:
    """Minimum of a piece, with its derivative."""
    assert piece.start is not None
    theta = rays_contiguous(piece.counts), piece.spectra, attenuation
    start = rays_contiguous(piece.start)
    return implicit_minimum(poisson_likelihood, solver, start, theta, bounds, adjoint)


def in_double(
    rays: Rays, attenuation: Attenuation, bounds: Bounds | None
) -> tuple[Rays, Attenuation, Bounds | None]:
    """The same problem in double precision."""
    n, S, x = rays
    box = None if bounds is None else Bounds(bounds.lower.double(), bounds.upper.double())
    start = None if x is None else x.double()
    return Rays(n.double(), S.double(), start), attenuation.double(), box


def _solve_in_double(
    rays: Rays,
    done: Tensor,
    attenuation: Attenuation,
    solvers: Sequence[Solver],
    bounds: Bounds | None,
    likelier: bool,
) -> Solution:
    """Minima in double precision of rays that are not ``done``, from their start and from zero."""
    assert rays.start is not None
    x = rays.start.flatten(0, -2).double()
    first = _solve_in_turn(rays, Solution(x, done), attenuation, solvers, bounds)
    empty = Solution(torch.zeros_like(x), done if likelier else first.converged)
    again = _solve_in_turn(rays, empty, attenuation, solvers, bounds)
    better = again.converged & ~first.converged
    if likelier:
        first_value, rounding = half_deviance(
            _doubles(rays.starting_at(first.x)), attenuation.double()
        )
        again_value, _ = half_deviance(_doubles(rays.starting_at(again.x)), attenuation.double())
        # two searches that end at the same minimum differ by rounding
        better = better | (
            again.converged & ~done & (again_value < first_value - SAME_VALUE - 2 * rounding)
        )
    x = torch.where(better[:, None], again.x, first.x)
    return Solution(x, first.converged | again.converged)


def _doubles(rays: Rays) -> Iterator[Rays]:
    """Pieces of the rays, converted to double precision one by one."""
    for n, S, x in rays.pieces():
        assert x is not None
        yield Rays(n.double(), S.double(), x.double())


def _solve_in_turn(
    rays: Rays,
    solution: Solution,
    attenuation: Attenuation,
    solvers: Sequence[Solver],
    bounds: Bounds | None,
) -> Solution:
    """Apply the solvers in turn, each to the rays that have not converged yet."""
    for solver in solvers:
        part, index = rays.starting_at(solution.x).take(~solution.converged)
        if index.numel():
            solved = _solve(*in_double(part, attenuation, bounds), solver)
            solution = put_back(solution, index, solved)
    return solution


def _solve(rays: Rays, attenuation: Attenuation, bounds: Bounds | None, solver: Solver) -> Solution:
    return flat([minimum(piece, attenuation, bounds, solver) for piece in rays.pieces()])
