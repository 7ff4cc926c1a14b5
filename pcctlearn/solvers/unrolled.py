"""Newton's steps kept as a graph: what the implicit layer is compared with.

Memory grows with every step, and the derivative is that of the iteration, not of the minimum.
"""

import torch
from torch import Tensor

from pcctlearn.solvers.quadratic import Bounds, Objective, Solution


class UnrolledNewton:
    """A fixed number of undamped Newton steps, differentiated through by autograd."""

    differentiable = True

    def __init__(self, steps: int = 8, tolerance: float = 1e-10) -> None:
        self.steps, self.tolerance = steps, tolerance

    def __call__(
        self, objective: Objective, start: Tensor, bounds: Bounds | None = None
    ) -> Solution:
        """Step from ``start``; the box is kept by projection, whose gradient is zero outside."""
        x = start
        decrement = torch.full_like(start[..., 0], torch.inf)
        for _ in range(self.steps):
            _, gradient, hessian, _ = objective(x)
            step = torch.linalg.solve(hessian, gradient)
            x = x - step if bounds is None else (x - step).clamp(*bounds)
            decrement = (step * gradient).sum(-1).detach()
        return Solution(x, decrement.abs() <= self.tolerance)
