"""Repeated noisy scans of a phantom with inserts: decomposed, reconstructed, and measured."""

import logging
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.console import without_warnings
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.metrics.inserts import disc
from pcctlearn.phantoms.ellipses import voxel_centers
from pcctlearn.phantoms.inserts import Insert
from pcctlearn.physics.noise import draw_counts, generator_of
from pcctlearn.shapes import RayCounts, channels_first
from pcctlearn.tomography.grids import ImageGrid

log = logging.getLogger(__name__)

MARGIN_CM = 0.3  # of the edge of an insert, which is blurred

Maps = Float[Tensor, "draw material y x"]
Reconstruct = Callable[[Tensor], Tensor]


def regions(inserts: list[Insert], grid: ImageGrid) -> dict[str, Tensor]:
    """{name: voxels of the insert without its edge}."""
    points = voxel_centers(*grid.shape, grid.voxel_cm, dtype=torch.float64)
    return {one.name: disc(points, one.center_cm, one.radius_cm - MARGIN_CM) for one in inserts}


def noisy_counts(
    expected: RayCounts,
    n_draws: int,
    seed: int,
    name: str,
    covariance: Float[Tensor, "*ray bin bin"] | None = None,
    at_once: int = 10,
) -> Iterator[Float[Tensor, "draw *ray bin"]]:
    """Draws of the noise of these rays: independent Poisson, or normal with a covariance.

    The normal distribution of correlated counts is that of many photons; counts below zero are set
    to zero. The draws depend on seed and name only.
    """
    generator = generator_of(seed, name)
    factor = None if covariance is None else torch.linalg.cholesky(covariance)
    for first in range(0, n_draws, at_once):
        shape = (min(at_once, n_draws - first), *expected.shape)
        if factor is None:
            yield draw_counts(expected.expand(shape), generator)
        else:
            normal = torch.randn(shape, generator=generator, dtype=torch.float64)
            noise = (factor @ normal[..., None])[..., 0]
            yield (expected + noise).clamp(min=0)


@torch.no_grad()
def decomposed_maps(
    layer: Decomposition,
    reconstruct: Reconstruct,
    draws: Iterator[Float[Tensor, "draw view column bin"]],
) -> tuple[Maps, float]:
    """Maps of all draws in g/cm³, and the percentage of rays that were not solved."""
    maps, failed = [], []
    with without_warnings():  # of rays that were not solved, which are counted here
        for counts in draws:
            x, converged = layer(channels_first(counts).float())
            maps.append(reconstruct(x.double()))
            failed.append((~converged).double().mean())
    return torch.cat(maps), 100 * torch.stack(failed).mean().item()
