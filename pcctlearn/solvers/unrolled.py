"""Unrolled Newton steps: a reference for the implicit derivative.

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

    On an active bound only the free unknowns step. A ray whose Hessian is not positive definite, or
    whose step leads to a value that is not finite, keeps its x. A ray that did not converge
    (``last_step``) passes no gradient.
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
        """Step from ``start`` and project into the box; the gradient is zero outside the box."""
        x = last = start if bounds is None else start.clamp(*bounds)
        converged = torch.zeros_like(start[..., 0], dtype=torch.bool)
        for _ in range(self.steps):
            model = objective(x, *theta)
            finite = _finite(model)
            if not bool(finite.all()):  # evaluate again: 0 · NaN would reach θ in the backward
                x = torch.where(finite[..., None], x, last)
                model = objective(x, *theta)
            free = bounds and free_unknowns(x.detach(), model.gradient.detach(), bounds)
            step, positive = solve_positive_definite(model.hessian, model.gradient, free)
            trial = x - step if bounds is None else (x - step).clamp(*bounds)
            last, x = x, torch.where(positive[..., None], trial, x)
            decrement = ((last - trial) * model.gradient).sum(-1).abs()
            resolvable = resolvable_decrease(self.tolerance, model)
            converged = finite & positive & (decrement <= resolvable)
        with torch.no_grad():
            end = x.detach()
            converged = converged & last_step(end, objective(end, *theta), bounds).converged
        return Solution(torch.where(converged[..., None], x, x.detach()), converged)


def _finite(model: Quadratic) -> Tensor:
    hessian = model.hessian.flatten(-2)
    return model.value.isfinite() & model.gradient.isfinite().all(-1) & hessian.isfinite().all(-1)
