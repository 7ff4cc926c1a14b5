"""Rays cut into pieces of a cache's size, each with the spectra of its pixels."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcctlearn.solvers.quadratic import Solution

PIECE = 32768  # rays whose transmission at a hundred energies stays in the cache


class Piece(NamedTuple):
    """Some rays of some pixels: (ray, bin) with shared spectra (bin, energy), or with a pixel axis
    in front of both. ``start`` and ``air`` may be missing."""

    counts: Tensor
    spectra: Tensor
    start: Tensor | None
    air: Tensor | None


def rays_contiguous(values: Tensor) -> Tensor:
    """(…, ray, channel) as before, in memory channel by channel: arithmetic runs along the rays."""
    return values.mT.contiguous().mT


class RayLayout:
    """Rays in any order of axes, as pieces in which the rays of one pixel share its spectra."""

    def __init__(self, ray_shape: torch.Size, pixel_shape: torch.Size) -> None:
        padded = [1] * (len(ray_shape) - len(pixel_shape)) + list(pixel_shape)
        own = [i for i, size in enumerate(padded) if size != 1]
        if len(pixel_shape) > len(ray_shape) or any(padded[i] != ray_shape[i] for i in own):
            raise ValueError(
                f"spectra for pixels {tuple(pixel_shape)} do not fit rays of {tuple(ray_shape)}: "
                "their axes must be the last ones of the rays"
            )
        self.order = [*own, *(i for i in range(len(ray_shape)) if i not in own)]
        self.ordered_shape = [ray_shape[i] for i in self.order]
        self.shared = not own
        self.n_pixels = math.prod(ray_shape[i] for i in own)
        self.n_rays = math.prod(ray_shape) // max(self.n_pixels, 1)

    def cut(
        self, counts: Tensor, spectra: Tensor, start: Tensor | None, air: Tensor | None
    ) -> list[Piece]:
        """Pieces, pixels first, then the rays of a pixel; ``split`` keeps gradients cheap."""
        n, x = self._ordered(counts), None if start is None else self._ordered(start)
        if self.shared:
            spectra = spectra.reshape(spectra.shape[-2:])
            return [
                Piece(some, spectra, begin, air)
                for some, begin in zip(n.split(PIECE), _split(x, PIECE, 0, n), strict=True)
            ]
        at_once = max(1, PIECE // max(self.n_rays, 1))
        S = spectra.reshape(self.n_pixels, *spectra.shape[-2:])
        pieces = []
        for some, own, begin, a in zip(
            n.split(at_once),
            S.split(at_once),
            _split(x, at_once, 0, n),
            _split(air, at_once, 0, n),
            strict=True,
        ):
            pieces += [
                Piece(few, own, first, a)
                for few, first in zip(
                    some.split(PIECE, 1), _split(begin, PIECE, 1, some), strict=True
                )
            ]
        return pieces

    def join(self, solutions: Sequence[Solution]) -> Solution:
        """The pieces' solutions put together, with the axes back in their order."""
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        x = torch.cat([s.x.flatten(0, -2) for s in solutions])
        converged = torch.cat([s.converged.flatten() for s in solutions])
        return Solution(
            x.reshape(*self.ordered_shape, x.shape[-1]).permute(*back, -1),
            converged.reshape(self.ordered_shape).permute(back),
        )

    def _ordered(self, values: Tensor) -> Tensor:
        ordered = values.permute(*self.order, -1)
        shape = [self.n_rays] if self.shared else [self.n_pixels, self.n_rays]
        return ordered.reshape(*shape, values.shape[-1])


def left_over(pieces: Sequence[Piece], solutions: Sequence[Solution]) -> list[Tensor]:
    """For each piece the flat indices of the rays that have not converged but have counts."""
    return [
        (~s.converged & (p.counts.detach().sum(-1) > 0)).flatten().nonzero()[:, 0]
        for p, s in zip(pieces, solutions, strict=True)
    ]


def gather(
    pieces: Sequence[Piece], solutions: Sequence[Solution], rays: Sequence[Tensor]
) -> list[Piece]:
    """These rays of all pieces as new ones, each ray with the spectra of its pixel."""
    counts, starts, spectra = [], [], []
    for piece, solution, some in zip(pieces, solutions, rays, strict=True):
        counts.append(piece.counts.detach().flatten(0, -2)[some])
        starts.append(solution.x.flatten(0, -2)[some])
        if piece.spectra.ndim == 3:
            spectra.append(piece.spectra.detach()[some // piece.counts.shape[1]])
    n, x = torch.cat(counts), torch.cat(starts)
    if not spectra:
        shared = pieces[0].spectra.detach()
        return [
            Piece(a, shared, b, None) for a, b in zip(n.split(PIECE), x.split(PIECE), strict=True)
        ]
    few = PIECE // 8  # every ray brings its own spectra
    return [
        Piece(a[:, None], S, b[:, None], None)
        for a, S, b in zip(n.split(few), torch.cat(spectra).split(few), x.split(few), strict=True)
    ]


def scatter(
    solutions: Sequence[Solution], rays: Sequence[Tensor], solved: Sequence[Solution]
) -> list[Solution]:
    """Put what was solved for these rays back into the pieces they came from."""
    x = torch.cat([s.x.flatten(0, -2) for s in solved])
    converged = torch.cat([s.converged.flatten() for s in solved])
    sizes = [len(some) for some in rays]
    mended = []
    for s, some, new_x, new_converged in zip(
        solutions, rays, x.split(sizes), converged.split(sizes), strict=True
    ):
        mended.append(
            Solution(
                s.x.flatten(0, -2).index_copy(0, some, new_x).reshape(s.x.shape),
                s.converged.flatten().index_copy(0, some, new_converged).reshape(s.converged.shape),
            )
        )
    return mended


def _split(values: Tensor | None, size: int, axis: int, like: Tensor) -> Sequence[Tensor | None]:
    if values is None:
        return [None] * len(like.split(size, axis))
    return values.split(size, axis)
