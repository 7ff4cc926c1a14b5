"""Preconditioned conjugate gradients for a matrix that is only applied."""

from collections.abc import Callable

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]


def conjugate_gradients(
    matrix: Apply, right: Tensor, precondition: Apply, goal: float | Tensor, max_iterations: int
) -> Tensor:
    """Solve M x = b for a positive definite M, from x = 0, until rᵀ P r of r = b − M x is ``goal``.

    Args:
        matrix: M, applied to a tensor of the shape of b.
        right: b.
        precondition: P, an approximate inverse of M.
        goal: at most.
        max_iterations: after which x is returned as it is.
    """
    x, r = torch.zeros_like(right), right
    z = precondition(r)
    direction, energy = z, (r * z).sum()
    for _ in range(max_iterations):
        if energy <= goal:
            break
        image = matrix(direction)
        length = energy / (direction * image).sum()
        x, r = x + length * direction, r - length * image
        z = precondition(r)
        before, energy = energy, (r * z).sum()
        direction = z + energy / before * direction
    return x
