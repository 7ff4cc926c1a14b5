"""Minima of the likelihood: most rays in their own precision, the others in double precision."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcctlearn.decomposition.fused import (
    Problem,
    ambiguous_minima,
    easy_minima,
    hard_minima,
    is_compiled,
    problem,
)
from pcctlearn.decomposition.pieces import Rays, flat, put_back, rays_contiguous
from pcctlearn.decomposition.polynomial import Polynomial
from pcctlearn.decomposition.profiles import Profiles, Starts, profiles, starts
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.shapes import Attenuation, RayCounts, RayMask
from pcctlearn.solvers.implicit import Adjoint, implicit_minimum
from pcctlearn.solvers.minimum import DISTANCE
from pcctlearn.solvers.newton import DampedNewton
from pcctlearn.solvers.quadratic import Bounds, Solution, Solver

_LEAST_PHOTONS = 0.5
# Half deviance per photon, above which a second minimum may be likelier. Two minima of one ray
# predict counts of different proportions, and the counts must fit both badly, at any number of
# photons: of a million rays of silicon and CdTe with a likelier second minimum none had less than
# 0.027 at the first, and only silicon less than 0.09.
_GROSS_MISFIT = 0.02
_FEW_PHOTONS_OF_THREE = 3000.0  # minima of three materials lie close to one another
_FEW, _MOST_BINS = 32, 12  # counts that many rays share, and bins whose counts fit into an integer
_SAME = 1e-9  # largest difference of the half deviance at the same minimum

# Five steps solve nearly all rays with many counts, twelve nearly all others. The first steps use
# the Fisher matrix, which is positive definite at any distance from the minimum. Minima that
# float32 cannot resolve are unsolved in float64 too, so that both precisions take the same path.
WARM_START: tuple[Solver, ...] = (
    DampedNewton(max_steps=5, scoring_steps=3, resolved_by=torch.float32),
    DampedNewton(max_steps=12, scoring_steps=5),
)


def _least_photons(attenuation: Attenuation) -> float:
    """Photons, with fewer of which a ray is searched twice, or is not solved."""
    return _FEW_PHOTONS_OF_THREE if len(attenuation) > 2 else _LEAST_PHOTONS


class Found(NamedTuple):
    """Minima of rays, flat, found in the precision of the rays and in double precision."""

    single: Solution
    hard: Tensor  # mask of the rays solved in double precision
    double: Solution  # of ``Rays.take(hard)``
    compiled: bool  # whether the others are the minima of compiled functions


def informative(counts: RayCounts) -> RayMask:
    """True where all bins together hold half a photon or more.

    Counts are whole numbers: a total below one half is a measurement of zero photons, whose
    likelihood has no finite minimum.
    """
    return counts.sum(-1) >= _LEAST_PHOTONS


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
    precision. Without a ``warm_start`` of the caller compiled functions do where they exist
    (``easy_minima``, and ``ambiguous_minima``, which makes both searches in float32), also in
    double precision if ``solver`` is the default. A ray that does not converge, because it needs
    more steps or because rounding moves its minimum too far, is solved in double precision by the
    other solvers of ``warm_start`` and then by ``solver``, from the same
    start and, if that fails, from zero material. With three materials the start may be separated
    from the minimum by a maximum; from zero material the expected counts decrease monotonically to
    the measured ones. A ray whose likelihood may have several minima (``_ambiguous``) is also
    solved in double precision, because in float32 rounding would choose among them. Rays without a
    start begin at the ``polynomial``; in double precision they are solved from both starts, and the
    likelier minimum is kept, but compiled functions solve a ray only once if float32 comes close to
    its minimum and cannot resolve it. With two materials, compiled functions on a CPU begin at the
    minima of the profile (``profiles``) instead, once if a ray has a single one. With an empty warm
    start all rays are solved in double precision.
    """
    possible = informative(rays.counts).flatten()
    likelier = rays.start is None
    compiled = likelier and warm_start is None and is_compiled(rays, attenuation)
    warm_start = WARM_START if warm_start is None else warm_start
    solver = solver or DampedNewton()
    if compiled:
        assert polynomial is not None
        search = _Compiled.of(rays, attenuation, bounds, polynomial)
        single, near = search.in_float32(possible)
        if solver != DampedNewton():
            rays = started(rays, polynomial)
    else:
        rays = started(rays, polynomial)
        assert rays.start is not None
        single = Solution(rays.start.flatten(0, -2), torch.zeros_like(possible))
        if warm_start:
            x, converged = _solve(rays, attenuation, bounds, warm_start[0])
            clear = ~_ambiguous(rays.starting_at(x), attenuation)
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


class _Near(NamedTuple):
    """Rays with minima that float32 is near and does not resolve.

    ``close`` (ray) marks those with one minimum, near x. Those of the sorted indices ``both`` have
    another one, near ``second`` (both, material).
    """

    close: Tensor
    both: Tensor
    second: Tensor

    def places(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Of rays, whether they have two minima, and their place in ``second``."""
        if not len(self.both):
            return torch.zeros_like(index, dtype=torch.bool), index
        place = torch.searchsorted(self.both, index).clamp(max=len(self.both) - 1)
        return self.both[place] == index, place


class _Same(NamedTuple):
    """Groups of equal rays: the ``first`` of each, and the group ``of`` every ray."""

    first: Tensor
    of: Tensor

    @classmethod
    def counts(cls, counts: Tensor) -> "_Same":
        """Groups of rays with the same whole counts, if they are few; others are alone."""
        n = torch.arange(len(counts), device=counts.device)
        few = (counts < _FEW).all(-1) & (counts == counts.round()).all(-1)
        places = _FEW ** torch.arange(counts.shape[-1], device=counts.device)
        if counts.shape[-1] > _MOST_BINS:
            return cls(n, n)
        key = torch.where(few, (counts.long() * places).sum(-1), -1 - n)
        _, of = key.unique(return_inverse=True)
        first = n.new_empty(int(of.max()) + 1 if len(n) else 0)
        first[of.flip(0)] = n.flip(0)
        return cls(first, of)


class _Compiled(NamedTuple):
    """The searches of compiled functions."""

    rays: Rays
    attenuation: Attenuation
    bounds: Bounds | None
    polynomial: Polynomial
    profiles: Profiles | None

    @classmethod
    def of(
        cls, rays: Rays, attenuation: Attenuation, bounds: Bounds | None, polynomial: Polynomial
    ) -> "_Compiled":
        given, table = problem(rays, attenuation, bounds), None
        if len(attenuation) == 2 and not rays.counts.is_cuda:
            _, spectra, mu = given.tensors()
            table = profiles(spectra, mu, polynomial.range.detach(), torch.stack(given.limits()))
        return cls(rays, attenuation, bounds, polynomial, table)

    def in_float32(self, possible: Tensor) -> tuple[Solution, "_Near"]:
        """Minima of the ``possible`` rays that float32 resolves, and of those that it is near."""
        few = _least_photons(self.attenuation)
        given = problem(self.rays, self.attenuation, self.bounds)
        single, close = easy_minima(given, self.polynomial, self.profiles, few, _GROSS_MISFIT)
        if len(self.attenuation) > 2:
            # there may be likelier minima also where the counts fit and float32 is blurred
            close = torch.zeros_like(close)
        others, index, same = self._distinct(possible & ~(single.converged | close))
        if not index.numel():
            return single, _Near(close, index, single.x[:0])
        given = problem(others, self.attenuation, self.bounds)
        found = ambiguous_minima(given, self._starts(others, given), index[same.first] >= 0)
        found = found._replace(**{name: getattr(found, name)[same.of] for name in found._fields})
        single = put_back(single, index, Solution(found.x, found.solved))
        close[index[found.close]] = True
        both, order = index[found.both].sort()
        return single, _Near(close, both, found.second[found.both][order])

    def in_double(self, hard: Tensor, x: Tensor, near: "_Near") -> Solution:
        """Minima of the hard rays in double precision, from x of those that float32 is near."""
        rest, every, same = self._distinct(hard)
        index = every[same.first]
        close, (both, place) = near.close[index], near.places(index)
        given = problem(rest, self.attenuation, self.bounds)
        begin = self._usual_starts(rest)
        first = torch.where((close | both)[:, None], x[index], begin.first)
        second = begin.second.clone()
        second[both] = near.second[place[both]]
        polished = Starts(first, second, both)
        found = hard_minima(given, polished, index >= 0, close, _SAME)
        missed = (close | both) & ~found.converged
        if bool(missed.any()):  # no minimum is there
            again = hard_minima(given, begin, missed, torch.zeros_like(close), _SAME)
            found = Solution(
                torch.where(missed[:, None], again.x, found.x), found.converged | again.converged
            )
        return Solution(found.x[same.of], found.converged[same.of])

    def _distinct(self, mask: Tensor) -> tuple[Rays, Tensor, "_Same"]:
        """Rays of a flat mask, of those with the same few counts the first; the index of all."""
        rays, index = self.rays.take(mask)
        index = index.flatten()
        if self.rays.spectra.ndim > 2:
            each = torch.arange(len(index), device=index.device)
            return rays, index, _Same(each, each)
        same = _Same.counts(rays.counts)
        return Rays(rays.counts[same.first], rays.spectra, None), index, same

    def _starts(self, rays: Rays, given: Problem) -> Starts:
        """The minima of the profiles where they are certain; else the polynomial and zero."""
        if self.profiles is None or not self.profiles.certain:
            return self._usual_starts(rays)
        found = starts(*given.tensors()[:2], self.profiles)
        return found if bool(found.sure.all()) else found.or_else(self._usual_starts(rays))

    def _usual_starts(self, rays: Rays) -> Starts:
        """The polynomial and zero."""
        start = started(rays._replace(start=None), self.polynomial).start
        assert start is not None
        first = start.flatten(0, -2)
        return Starts(first, torch.zeros_like(first), torch.zeros(len(first), dtype=torch.bool))


def started(rays: Rays, polynomial: Polynomial | None) -> Rays:
    """The rays, starting at the polynomial if they have no start.

    It is rounded to float32 in both precisions, so that rays with several minima agree.
    """
    if rays.start is not None or polynomial is None:
        return rays
    starts = []
    for piece in rays.pieces():
        n, air = piece.counts.detach().double(), piece.spectra.detach().double().sum(-1)
        start = polynomial.clamped(polynomial(n, air if air.ndim == 1 else air[:, None]))
        starts.append(start.float().to(piece.counts).flatten(0, -2))
    none = rays.counts.new_empty(0, len(polynomial.range))
    return rays.starting_at(torch.cat(starts) if starts else none)


def _ambiguous(rays: Rays, attenuation: Attenuation) -> Tensor:
    """True where the model at the start fits the counts badly, or photons are few for three
    materials; flat."""
    total = rays.counts.sum(-1).flatten()
    misfit, _ = _half_deviance(rays.pieces(), attenuation)
    return (misfit > _GROSS_MISFIT * total) | (total < _least_photons(attenuation))


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
        first_value, rounding = _half_deviance(
            _doubles(rays.starting_at(first.x)), attenuation.double()
        )
        again_value, _ = _half_deviance(_doubles(rays.starting_at(again.x)), attenuation.double())
        # two searches that end at the same minimum differ by rounding
        better = better | (
            again.converged & ~done & (again_value < first_value - _SAME - 2 * rounding)
        )
    x = torch.where(better[:, None], again.x, first.x)
    return Solution(x, first.converged | again.converged)


def _half_deviance(pieces: Iterable[Rays], attenuation: Attenuation) -> tuple[Tensor, Tensor]:
    """Half the deviance at the start of the rays and its rounding error, flat."""
    values, roundings = [], []
    for n, S, x in pieces:
        assert x is not None
        likelihood = poisson_likelihood(x, n, S, attenuation, exact=False)
        values.append(likelihood.value.flatten())
        roundings.append(likelihood.rounding.flatten())
    return torch.cat(values), torch.cat(roundings)


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
