"""Covariance of the counts that are decomposed, carried from the photons that were counted."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.shapes import Counts, channels_last

CountCovariance = Float[Tensor, "batch view *pixel bin bin"]
_STEP = 0.01  # relative


def count_covariance(
    prepare: Callable[[Counts], Counts], counts: Counts, generator: torch.Generator
) -> CountCovariance:
    """J diag(n) Jᵀ for Poisson counts n and prepared counts c(n), with J = ∂c/∂n of each ray.

    A correction for pile-up changes the counts of a ray by those counts alone. A correction of
    scatter also depends on the counts of many other rays, smoothly: its estimate hardly changes
    with the noise of one of them. All rays are therefore changed at once, each by a random sign, so
    that what other rays contribute averages out; one evaluation of ``prepare`` for each bin gives
    J. The noise of the scatter estimate itself, which neighbouring rays share, is left out.

    Args:
        prepare: counts as they were measured to counts as they are decomposed.
        counts: n, measured; NaN where there are none.
        generator: of the signs.
    """
    prepared, columns = prepare(counts), []
    for b in range(counts.shape[1]):
        n = counts[:, b]
        sign = torch.randint(0, 2, n.shape, generator=generator).to(n) * 2 - 1
        step = _STEP * n.clamp(min=1)
        step = torch.where(n < step, step, sign * step)  # counts are not negative
        moved = counts.clone()
        moved[:, b] += step
        change = prepare(moved) - prepared
        columns.append(channels_last(change / (moved[:, b] - n)[:, None]))
    J = torch.stack(columns, -1)
    return (J * channels_last(counts)[..., None, :]) @ J.mT


def scaled_covariance(gain: Float[Tensor, "bin #view *#pixel"], counts: Counts) -> CountCovariance:
    """gain² n on the diagonal, for counts that are only multiplied by a gain."""
    return torch.diag_embed(channels_last(gain.square() * counts))
