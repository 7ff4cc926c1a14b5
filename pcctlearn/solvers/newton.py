"""Newton's method for many small problems at once, damped and boxed ray by ray."""

import torch
from torch import Tensor

from pcctlearn.solvers.quadratic import Bounds, Objective, Quadratic, Solution, free_unknowns
from pcctlearn.solvers.small_systems import quadratic_form, solve_positive_definite


class DampedNewton:
    """x ← x − (H + δ diag|H|)⁻¹ g, with a damping δ of its own for each ray.

    A step that lowers the value is taken; δ relaxes towards 0 while the quadratic model keeps its
    promise, and rises where it does not, or where the Hessian is not positive definite. A ray has
    converged when the Newton decrement gᵀH⁻¹g (twice the decrease still to be had) is below
    ``tolerance``, or below what rounding can resolve; the step that showed it is still taken. In
    the box an unknown is held at a side while the descent leads out, and Newton's system is solved
    for the others (D. P. Bertsekas, SIAM J. Control Optim. 20 (1982) 221).

    ``exact=False`` asks the objective for the expected Hessian: Fisher scoring.
    """

    def __init__(self, tolerance: float = 1e-10, max_steps: int = 60, exact: bool = True) -> None:
        if tolerance <= 0 or max_steps < 1:
            raise ValueError(f"tolerance and max_steps must be positive: {tolerance}, {max_steps}")
        self.tolerance, self.max_steps, self.exact = tolerance, max_steps, exact

    def __call__(
        self, objective: Objective, start: Tensor, bounds: Bounds | None = None
    ) -> Solution:
        """Minimise from ``start``; rays that do not get there keep their best iterate."""
        x = start if bounds is None else start.clamp(*bounds)
        here = objective(x, exact=self.exact)
        damping = torch.zeros_like(here.value)
        converged = torch.zeros_like(here.value, dtype=torch.bool)
        resolvable = resolvable_decrease(self.tolerance, here)
        for _ in range(self.max_steps):
            trial, positive = _newton_trial(x, here, damping, bounds)
            decrement = ((x - trial) * here.gradient).sum(-1)
            there = objective(trial, exact=self.exact)
            taken = positive & ~converged & (there.value <= here.value + here.rounding)
            promised = _promised(here, x - trial)
            # what is below rounding says nothing about the model
            gain = torch.where(
                promised > resolvable + here.rounding, (here.value - there.value) / promised, 1
            )
            x = torch.where(taken[..., None], trial, x)
            here = _choose(taken, there, here)
            # a heavily damped step is short for another reason than nearness
            converged = converged | (taken & (decrement <= resolvable) & (damping < 0.1))
            damping = _adapt(damping, gain, taken)
            if bool((converged | (damping > 1e12)).all()):
                break
        return Solution(x, converged)


def resolvable_decrease(tolerance: float, here: Quadratic) -> Tensor:
    """Newton decrement below which a ray is done: the tolerance, or what rounding can resolve."""
    eps = torch.finfo(here.value.dtype).eps
    return max(tolerance, 8 * eps) + 16 * eps * here.rounding


def _newton_trial(
    x: Tensor, here: Quadratic, damping: Tensor, bounds: Bounds | None
) -> tuple[Tensor, Tensor]:
    """Where the damped quadratic model is least within the box, and whether it has a minimum."""
    step, positive = solve_positive_definite(here.hessian, here.gradient, lift=damping)
    trial = x - step
    if bounds is None:
        return trial, positive
    free = free_unknowns(x, here.gradient, bounds)
    inside = (trial >= bounds.lower) & (trial <= bounds.upper)
    if bool((free & inside).all()):  # nearly always, and cheaper
        return trial, positive
    matrix = here.hessian + torch.diag_embed(
        damping[..., None] * here.hessian.diagonal(dim1=-2, dim2=-1).abs()
    )
    trial, everywhere = x, torch.ones_like(damping, dtype=torch.bool)
    for _ in range(x.shape[-1]):  # unknowns that would leave the box are held at its side, in turn
        held = torch.where(free, 0, trial - x)
        pull = here.gradient + (matrix @ held[..., None])[..., 0]
        step, positive = solve_positive_definite(matrix, pull, free)
        target = torch.where(free, x - step, trial)
        everywhere = everywhere & positive
        trial = target.clamp(*bounds)
        leaving = free & (trial != target)
        if not bool(leaving.any()):
            break
        free = free & ~leaving
    return trial, everywhere


def _promised(here: Quadratic, step: Tensor) -> Tensor:
    """Decrease of the quadratic model along a step, g·s − ½ sᵀ H s."""
    return (step * here.gradient).sum(-1) - 0.5 * quadratic_form(here.hessian, step)


def _adapt(damping: Tensor, gain: Tensor, taken: Tensor) -> Tensor:
    """More damping where the model promised too much, less where it kept its word."""
    less = torch.where(damping > 1e-2, damping / 10, 0)
    more = (10 * damping).clamp(min=1e-2)
    kept = torch.where(gain > 0.75, less, torch.where(gain < 0.25, more, damping))
    return torch.where(taken, kept, more)


def _choose(taken: Tensor, there: Quadratic, here: Quadratic) -> Quadratic:
    return Quadratic(
        torch.where(taken, there.value, here.value),
        torch.where(taken[..., None], there.gradient, here.gradient),
        torch.where(taken[..., None, None], there.hessian, here.hessian),
        there.rounding,
    )
