"""Minima of compiled functions: in float32, and in double precision where float32 is too coarse."""

from typing import NamedTuple

import torch
from torch import Tensor

from pcctlearn.decomposition.ambiguity import GROSS_MISFIT, SAME_VALUE, least_photons
from pcctlearn.decomposition.fused import (
    Problem,
    ambiguous_minima,
    easy_minima,
    hard_minima,
    problem,
)
from pcctlearn.decomposition.pieces import Rays, put_back, started
from pcctlearn.decomposition.polynomial import Polynomial
from pcctlearn.decomposition.profiles import Profiles, Starts, profile_starts, tabulated_profiles
from pcctlearn.shapes import Attenuation
from pcctlearn.solvers.quadratic import Bounds, Solution

_FEW, _MOST_BINS = 32, 12  # counts that many rays share, and bins whose counts fit into an integer


class CompiledSearch(NamedTuple):
    """Two searches of compiled functions, first in float32 and then in double precision."""

    rays: Rays
    attenuation: Attenuation
    bounds: Bounds | None
    polynomial: Polynomial
    profiles: Profiles | None

    @classmethod
    def of(
        cls, rays: Rays, attenuation: Attenuation, bounds: Bounds | None, polynomial: Polynomial
    ) -> "CompiledSearch":
        """The search of these rays, with the table of profiles for two materials on a CPU."""
        given, table = problem(rays, attenuation, bounds), None
        if len(attenuation) == 2 and not rays.counts.is_cuda:
            _, spectra, mu = given.tensors()
            table = tabulated_profiles(
                spectra, mu, polynomial.range.detach(), torch.stack(given.limits())
            )
        return cls(rays, attenuation, bounds, polynomial, table)

    def in_float32(self, possible: Tensor) -> tuple[Solution, "Near"]:
        """Minima of the ``possible`` rays that float32 resolves, and of those that it is near."""
        few = least_photons(self.attenuation)
        given = problem(self.rays, self.attenuation, self.bounds)
        single, close = easy_minima(given, self.polynomial, self.profiles, few, GROSS_MISFIT)
        if len(self.attenuation) > 2:
            # there may be likelier minima also where the counts fit and float32 is blurred
            close = torch.zeros_like(close)
        others, index, same = self._distinct(possible & ~(single.converged | close))
        if not index.numel():
            return single, Near(close, index, single.x[:0])
        given = problem(others, self.attenuation, self.bounds)
        found = ambiguous_minima(given, self._starts(others, given), index[same.first] >= 0)
        found = found._replace(**{name: getattr(found, name)[same.of] for name in found._fields})
        single = put_back(single, index, Solution(found.x, found.solved))
        close[index[found.close]] = True
        both, order = index[found.both].sort()
        return single, Near(close, both, found.second[found.both][order])

    def in_double(self, hard: Tensor, x: Tensor, near: "Near") -> Solution:
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
        found = hard_minima(given, polished, index >= 0, close, SAME_VALUE)
        missed = (close | both) & ~found.converged
        if bool(missed.any()):  # no minimum is near
            again = hard_minima(given, begin, missed, torch.zeros_like(close), SAME_VALUE)
            found = Solution(
                torch.where(missed[:, None], again.x, found.x), found.converged | again.converged
            )
        return Solution(found.x[same.of], found.converged[same.of])

    def _distinct(self, mask: Tensor) -> tuple[Rays, Tensor, "EqualRays"]:
        """Distinct rays of a flat mask, the index of all its rays, and the groups of equal ones."""
        rays, index = self.rays.take(mask)
        index = index.flatten()
        if self.rays.spectra.ndim > 2:
            each = torch.arange(len(index), device=index.device)
            return rays, index, EqualRays(each, each)
        same = EqualRays.counts(rays.counts)
        return Rays(rays.counts[same.first], rays.spectra, None), index, same

    def _starts(self, rays: Rays, given: Problem) -> Starts:
        """The minima of the profiles where they are certain; else the polynomial and zero."""
        if self.profiles is None or not self.profiles.certain:
            return self._usual_starts(rays)
        found = profile_starts(*given.tensors()[:2], self.profiles)
        return found if bool(found.sure.all()) else found.or_else(self._usual_starts(rays))

    def _usual_starts(self, rays: Rays) -> Starts:
        """The polynomial, and zero material."""
        start = started(rays._replace(start=None), self.polynomial).start
        assert start is not None
        first = start.flatten(0, -2)
        return Starts(first, torch.zeros_like(first), torch.zeros(len(first), dtype=torch.bool))


class Near(NamedTuple):
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


class EqualRays(NamedTuple):
    """Groups of equal rays: the ``first`` of each, and the group ``of`` every ray."""

    first: Tensor
    of: Tensor

    @classmethod
    def counts(cls, counts: Tensor) -> "EqualRays":
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
