"""Tensor products of cubic B-splines through values on an even grid, evaluated at many points."""

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag


class SplineTable(NamedTuple):
    """f(z) = Σ_i c_i Π_k β(u_k − i_k), with u = (n − 1)(z − low)/(high − low), β a cubic B-spline.

    ``coefficients`` (table · coefficient, value) of one or more tables on the same grid of n nodes
    on each of its axes; ``low`` and ``high`` (axis) are its ends. The error is h⁴ f⁗/384 in the
    spacing h.
    """

    coefficients: Tensor
    low: Tensor
    high: Tensor
    n_nodes: int

    def __call__(
        self, z: Float[Tensor, "*ray axis"], table: Tensor | int = 0
    ) -> Float[Tensor, "*ray value"]:
        """The values at z, of one table or of a table for each ray; extrapolated off the grid."""
        n, (*shape, n_axes) = self.n_nodes + 2, z.shape
        u = (z - self.low) * ((self.n_nodes - 1) / (self.high - self.low))
        cell = u.detach().floor().clamp(0, self.n_nodes - 2)
        weights = _basis(u - cell)  # (*ray, axis, 4)
        first = cell.long()
        index = table * n**n_axes + sum(
            first[..., k] * n ** (n_axes - 1 - k) for k in range(n_axes)
        )
        steps = [range(0, 4 * stride, stride) for stride in (n**k for k in reversed(range(n_axes)))]
        offsets = torch.tensor([sum(step) for step in itertools.product(*steps)], device=z.device)
        product = weights[..., 0, :]
        for k in range(1, n_axes):
            product = (product[..., None] * weights[..., k, None, :]).flatten(-2)
        values = embedding_bag(
            (index[..., None] + offsets).reshape(-1, len(offsets)),
            self.coefficients,
            per_sample_weights=product.reshape(-1, len(offsets)),
            mode="sum",
        )
        return values.reshape(*shape, -1)

    def holds(self, z: Float[Tensor, "*ray axis"]) -> Tensor:
        """True for points within the grid."""
        return ((z >= self.low) & (z <= self.high)).all(-1)


def grid(low: Tensor, high: Tensor, n_nodes: int) -> Float[Tensor, "node axis"]:
    """The nodes of a table, the last axis first."""
    along = torch.linspace(0, 1, n_nodes, dtype=low.dtype, device=low.device)
    share = torch.cartesian_prod(*[along] * len(low)).reshape(-1, len(low))
    return low + (high - low) * share


def spline_coefficients(
    values: Float[Tensor, "node value"], n_axes: int
) -> Float[Tensor, "coefficient value"]:
    """Coefficients of the splines through the values at the nodes of ``grid``.

    The third derivative is continuous at the second and at the last but one node of each axis
    ("not a knot"). Differentiable in the values.
    """
    n = round(len(values) ** (1 / n_axes))
    system = torch.zeros(n + 2, n + 2, dtype=values.dtype, device=values.device)
    for node in range(n):
        system[node + 1, node : node + 3] = values.new_tensor([1, 4, 1]) / 6
    ends = values.new_tensor([1, -4, 6, -4, 1])
    system[0, :5], system[-1, -5:] = ends, ends
    inverse = torch.linalg.inv(system)[:, 1:-1]  # the ends have no value
    found = values.reshape(*[n] * n_axes, -1)
    for k in range(n_axes):
        found = torch.tensordot(inverse, found.movedim(k, 0), dims=1).movedim(0, k)
    return found.flatten(0, n_axes - 1)


def _basis(t: Tensor) -> Float[Tensor, "*point 4"]:
    """The four B-splines that are not zero at a share t of a cell."""
    s = 1 - t
    return torch.stack([s**3, 4 - 3 * t * t * (1 + s), 4 - 3 * s * s * (1 + t), t**3], -1) / 6
