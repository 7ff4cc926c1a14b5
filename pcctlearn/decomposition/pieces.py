"""Rays ordered by pixel, and split into pieces that fit into the cache."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcctlearn.decomposition.polynomial import Polynomial
from pcctlearn.solvers.quadratic import Solution

PIECE = 32768  # rays whose transmission at a hundred energies stays in the cache
_CUDA_PIECE = 2**18  # enough rays for a CUDA device
_PIXELS = 8  # rays whose transmission costs as much as the spectra of a pixel


class Rays(NamedTuple):
    """Counts (ray, bin) with shared spectra (bin, energy), or both with a leading pixel axis.

    ``start`` is the first iterate (…, material), None until it is known."""

    counts: Tensor
    spectra: Tensor
    start: Tensor | None

    def starting_at(self, x: Tensor) -> "Rays":
        """The same rays with the flat ``x`` as their start."""
        return self._replace(start=x.reshape(*self.counts.shape[:-1], x.shape[-1]))

    def pieces(self) -> list["Rays"]:
        """Pieces, split by pixel and then by ray; the backward pass of ``split`` is cheap."""
        n, S, x = self
        size = _CUDA_PIECE if n.is_cuda else PIECE
        if S.ndim == 2:
            return [
                Rays(part, S, begin)
                for part, begin in zip(n.split(size), _split(x, size, 0, n), strict=True)
            ]
        at_once = max(1, size // max(n.shape[1], _PIXELS))
        return [
            Rays(rays, spectra, begin)
            for part, spectra, first in zip(
                n.split(at_once), S.split(at_once), _split(x, at_once, 0, n), strict=True
            )
            for rays, begin in zip(part.split(size, 1), _split(first, size, 1, part), strict=True)
        ]

    def take(self, mask: Tensor) -> tuple["Rays", Tensor]:
        """The rays of a flat mask, and the flat index of each.

        If spectra differ between pixels, rays keep the form (pixel, ray): the row of each pixel is
        padded with rays outside the mask, whose index is −1.
        """
        n, S, x = self
        if S.ndim == 2:
            index = mask.nonzero()[:, 0]
            return Rays(n[index], S, None if x is None else x[index]), index
        mask = mask.reshape(n.shape[:2])
        pixels = mask.any(1).nonzero()[:, 0]
        most = int(mask.sum(1).max()) if len(pixels) else 0
        wanted, order = mask[pixels].to(torch.uint8).sort(dim=1, descending=True, stable=True)
        index = pixels[:, None] * n.shape[1] + order[:, :most]
        start = None if x is None else x.flatten(0, 1)[index]
        taken = Rays(n.flatten(0, 1)[index], S[pixels], start)
        return taken, torch.where(wanted[:, :most] == 1, index, -1)


class RayLayout:
    """Converts any axes of rays and spectra to the order of ``Rays``, and back."""

    def __init__(self, ray_shape: torch.Size, pixel_shape: torch.Size) -> None:
        padded = [1] * (len(ray_shape) - len(pixel_shape)) + list(pixel_shape)
        pixel = [i for i, size in enumerate(padded) if size != 1]
        if len(pixel_shape) > len(ray_shape) or any(padded[i] != ray_shape[i] for i in pixel):
            raise ValueError(
                f"spectra for pixels {tuple(pixel_shape)} do not match rays {tuple(ray_shape)}: "
                "their axes must be the last axes of the rays"
            )
        self.order = [*pixel, *(i for i in range(len(ray_shape)) if i not in pixel)]
        self.ordered_shape = [ray_shape[i] for i in self.order]
        self.shared = not pixel
        self.n_pixels = math.prod(ray_shape[i] for i in pixel)
        self.n_rays = math.prod(ray_shape) // max(self.n_pixels, 1)

    def ordered(self, counts: Tensor, spectra: Tensor, start: Tensor | None = None) -> Rays:
        """The rays pixel by pixel."""
        pixels = [] if self.shared else [self.n_pixels]
        return Rays(
            self._ordered(counts),
            spectra.reshape(*pixels, *spectra.shape[-2:]),
            None if start is None else self._ordered(start),
        )

    def restored(self, solution: Solution) -> Solution:
        """The flat solution of the ordered rays, with the original axes."""
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        x, converged = solution
        return Solution(
            x.reshape(*self.ordered_shape, x.shape[-1]).permute(*back, -1),
            converged.reshape(self.ordered_shape).permute(back),
        )

    def _ordered(self, values: Tensor) -> Tensor:
        ordered = values.permute(*self.order, -1)
        shape = [self.n_rays] if self.shared else [self.n_pixels, self.n_rays]
        return ordered.reshape(*shape, values.shape[-1])


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


def rays_contiguous(values: Tensor) -> Tensor:
    """(…, ray, channel) stored channel by channel, so that arithmetic runs along the rays."""
    return values.mT.contiguous().mT


def flat(solutions: Sequence[Solution]) -> Solution:
    """Solutions of pieces, concatenated along one flat ray axis."""
    return Solution(
        torch.cat([s.x.flatten(0, -2) for s in solutions]),
        torch.cat([s.converged.flatten() for s in solutions]),
    )


def put_back(solution: Solution, index: Tensor, part: Solution) -> Solution:
    """The flat solution, with the rays of ``Rays.take`` replaced by those of ``part``."""
    index = index.flatten()
    if not index.numel():
        return solution
    kept = index >= 0
    where = (index[kept],)
    return Solution(
        solution.x.index_put(where, part.x[kept].to(solution.x)),
        solution.converged.index_put(where, part.converged[kept]),
    )


def _split(values: Tensor | None, size: int, axis: int, like: Tensor) -> Sequence[Tensor | None]:
    if values is None:
        return [None] * len(like.split(size, axis))
    return values.split(size, axis)
