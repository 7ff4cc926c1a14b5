"""Levenberg–Marquardt for many small least-squares problems at once."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.solvers.small_systems import solve_positive_definite

_FIRST_DAMPING, _LESS, _MORE, _STUCK = 1e-3, 0.2, 8.0, 1e12
_CLOSE = 1e-2  # standard deviations


class Residuals(NamedTuple):
    """Residuals r of independent problems, J = ∂r/∂x, and the rounding error of r."""

    value: Float[Tensor, "problem row"]
    jacobian: Float[Tensor, "problem row unknown"]
    rounding: Float[Tensor, "problem"]


class LeastSquares(NamedTuple):
    """The minimum of ½ Σ r² of each problem, the normal matrix JᵀJ there, and which converged."""

    x: Float[Tensor, "problem unknown"]
    normal: Float[Tensor, "problem unknown unknown"]
    converged: Bool[Tensor, "problem"]


class LevenbergMarquardt:
    """x ← x − (JᵀJ + δ diag JᵀJ)⁻¹ Jᵀr, with a damping δ for each problem (D. W. Marquardt, J. SIAM
    11 (1963) 431).

    δ falls fivefold after a step that lowers ½ Σ r² and rises eightfold after one that does not,
    which is taken back. A problem has converged when the length √(sᵀJᵀJ s) of the step s, in
    standard deviations where the residuals have one of 1, is at most ``tolerance`` plus what the
    rounding of residuals and cost hides; this last step is still made.

    Args:
        tolerance: largest step of a converged problem.
        max_steps: largest number of steps.
    """

    def __init__(self, tolerance: float = 1e-9, max_steps: int = 50) -> None:
        if tolerance <= 0 or max_steps < 1:
            raise ValueError(f"tolerance and max_steps must be positive: {tolerance}, {max_steps}")
        self.tolerance, self.max_steps = tolerance, max_steps

    def __call__(
        self,
        residuals: Callable[[Float[Tensor, "problem unknown"]], Residuals],
        start: Float[Tensor, "problem unknown"],
        longest: Float[Tensor, "unknown"] | None = None,
    ) -> LeastSquares:
        """Minimise from ``start``; problems that do not converge keep their best iterate.

        Args:
            residuals: of all problems at x.
            start: first iterate.
            longest: step of each unknown, by default without limit.
        """
        x = start
        at = residuals(x)
        cost = at.value.square().sum(-1)
        damping = torch.full_like(cost, _FIRST_DAMPING)
        converged = torch.zeros_like(cost, dtype=torch.bool)
        for _ in range(self.max_steps):
            step, sound, size = _step(at, damping)
            if longest is not None:
                step = step.clamp(-longest, longest)
            # a step of length s changes the cost Σ r² by s², which rounding of r may hide
            eps = torch.finfo(cost.dtype).eps
            hidden = 2 * (cost.sqrt() * at.rounding + eps * cost).sqrt()
            near = sound & (size <= self.tolerance + at.rounding + hidden) & ~converged
            x = torch.where(near[:, None], x - step, x)
            converged = converged | near
            if bool((converged | (damping > _STUCK)).all()):
                break
            trial = x - step
            at_trial = residuals(trial)
            at_cost = at_trial.value.square().sum(-1)
            taken = sound & (at_cost <= cost + 4 * cost.sqrt() * at.rounding) & ~converged
            x = torch.where(taken[:, None], trial, x)
            at = Residuals(
                torch.where(taken[:, None], at_trial.value, at.value),
                torch.where(taken[:, None, None], at_trial.jacobian, at.jacobian),
                at.rounding,
            )
            cost = torch.where(taken, at_cost, cost)
            damping = torch.where(taken, _LESS * damping, _MORE * damping)
        return LeastSquares(x, at.jacobian.mT @ at.jacobian, converged)


def _step(at: Residuals, damping: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The damped step, whether the system is positive definite, and √(gᵀ(JᵀJ)⁻¹g).

    The length is that of the step without damping, which does not get short far from the minimum.
    """
    normal = at.jacobian.mT @ at.jacobian
    gradient = (at.jacobian.mT @ at.value[..., None])[..., 0]
    scale = normal.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(normal.dtype).tiny).sqrt()
    scaled = normal / scale[:, :, None] / scale[:, None, :]
    step, sound = solve_positive_definite(scaled, gradient / scale, lift=damping)
    undamped, regular = solve_positive_definite(scaled, gradient / scale)
    length = (undamped * gradient / scale).sum(-1).clamp(min=0).sqrt()
    # Close to the minimum damping would only slow the unknowns that the data determine least, as
    # long as steps without it do not fail.
    close = (length < _CLOSE) & (damping <= _FIRST_DAMPING)
    step = torch.where(close[:, None], undamped, step)
    return step / scale, sound & regular, length
