"""Newton's steps kept as a graph: what the implicit layer is compared with.

Memory grows with every step, and the derivative is that of the iteration, not of the minimum.
"""

import torch
from torch import Tensor

from pcctlearn.solvers.minimum import last_step
from pcctlearn.solvers.newton import resolvable_decrease
from pcctlearn.solvers.quadratic import Bounds, Objective, Quadratic, Solution, free_unknowns
from pcctlearn.solvers.small_systems import solve_positive_definite


class UnrolledNewton:
    """A fixed number of undamped Newton steps, differentiated through by autograd.

    On an active side of the box the step is that of the free unknowns. A ray whose Hessian is not
    positive definite, or whose step led to no finite value, stays where it is; a ray that did not
    converge (``last_step``) passes no gradient.
    """

    def __init__(self, steps: int = 8, tolerance: float = 1e-10) -> None:
        if tolerance <= 0 or steps < 1:
            raise ValueError(f"tolerance and steps must be positive: {tolerance}, {steps}")
        self.steps, self.tolerance = steps, tolerance

    def __call__(
        self,
        objective: Objective,
        start: Tensor,
        theta: tuple[Tensor, ...] = (),
        bounds: Bounds | None = None,
    ) -> Solution:
        """Step from ``start``; the box is kept by projection, whose gradient is zero outside."""
        x = last = start if bounds is None else start.clamp(*bounds)
        converged = torch.zeros_like(start[..., 0], dtype=torch.bool)
        for _ in range(self.steps):
            here = objective(x, *theta)
            finite = _finite(here)
            if not bool(finite.all()):  # evaluated anew: 0 · NaN would reach θ in the backward pass
                x = torch.where(finite[..., None], x, last)
                here = objective(x, *theta)
            free = bounds and free_unknowns(x.detach(), here.gradient.detach(), bounds)
            step, positive = solve_positive_definite(here.hessian, here.gradient, free)
            trial = x - step if bounds is None else (x - step).clamp(*bounds)
            last, x = x, torch.where(positive[..., None], trial, x)
            decrement = ((last - trial) * here.gradient).sum(-1).abs()
            converged = finite & positive & (decrement <= resolvable_decrease(self.tolerance, here))
        with torch.no_grad():
            end = x.detach()
            converged = converged & last_step(end, objective(end, *theta), bounds).converged
        return Solution(torch.where(converged[..., None], x, x.detach()), converged)


def _finite(here: Quadratic) -> Tensor:
    hessian = here.hessian.flatten(-2)
    return here.value.isfinite() & here.gradient.isfinite().all(-1) & hessian.isfinite().all(-1)
