"""Random numbers and random textures that do not depend on the grid."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pcctlearn.validation import one_or_each

PERIOD_CM = 38.4  # of every texture

Positions = tuple[Float[Tensor, "_"], Float[Tensor, "_"], Float[Tensor, "_"]]  # z, y, x in cm


class Texture:
    """Periodic noise of unit variance: cubic B-splines with random coefficients (knots).

    ``knots_cm`` is the distance between knots, along all axes or along z, y and x.
    """

    def __init__(
        self, generator: Generator, knots_cm: float | Sequence[float], channels: int = 1
    ) -> None:
        counts = [round(PERIOD_CM / size) for size in one_or_each(knots_cm, 3)]
        variance = (151 / 315) ** 3  # Σ w² of the spline, mean over space, for each axis
        self.knots = normal(generator, channels, *counts) / variance**0.5

    def on(self, positions: Positions) -> Float[Tensor, "channel z y x"]:
        """The texture at positions on a grid, evaluated along one axis after another."""
        field = self.knots
        for axis, along in enumerate(positions, start=1):
            weights = _spline_weights(along, self.knots.shape[axis])
            field = torch.tensordot(field, weights, dims=([1], [1]))
        return field


def _spline_weights(
    positions_cm: Float[Tensor, "position"], n_knots: int
) -> Float[Tensor, "position knot"]:
    """Cubic B-spline weights of the knots at each position; four of them are not zero."""
    u = positions_cm * (n_knots / PERIOD_CM)
    first, f = u.floor(), u - u.floor()
    four = [(1 - f) ** 3, 4 - 6 * f**2 + 3 * f**3, 1 + 3 * f + 3 * f**2 - 3 * f**3, f**3]
    columns = (first[:, None].long() + torch.arange(-1, 3)) % n_knots
    return torch.zeros(len(u), n_knots).to(u).scatter_add_(1, columns, torch.stack(four, 1) / 6)


def uniform(generator: Generator, *ranges: tuple[float, float]) -> list[float]:
    """One uniform random number in each range."""
    draws = torch.rand(len(ranges), generator=generator, dtype=torch.float32).tolist()
    return [low + (high - low) * draw for (low, high), draw in zip(ranges, draws, strict=True)]


def normal(generator: Generator, *shape: int) -> Tensor:
    """Standard normal numbers, always float32 so that a seed gives one patient."""
    return torch.randn(shape, generator=generator, dtype=torch.float32)
