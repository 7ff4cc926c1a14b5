"""Damped Newton's method with bounds, for many small problems at once."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pcctlearn.solvers.minimum import DISTANCE, last_step, newton_trial, resolved
from pcctlearn.solvers.quadratic import Bounds, Objective, Quadratic, Solution, n_of_rays, take
from pcctlearn.solvers.small_systems import quadratic_form

_STUCK = 1e12  # damping at which no step makes progress
_LEAST_RAYS = 1024  # that continue without the others


@dataclass(frozen=True)
class DampedNewton:
    """x ← x − (H + δ diag|H|)⁻¹ g, with a damping δ for each ray.

    A step that lowers the value is accepted. δ falls towards 0 while the quadratic model predicts
    the decrease; it rises where the prediction fails or the Hessian is not positive definite. A
    ray has converged if the exact Hessian is positive definite, the Newton decrement gᵀH⁻¹g (twice
    the remaining decrease) is below ``tolerance`` or below what rounding resolves, no component of
    the step exceeds ``distance``, and rounding moves the minimum by at most ``distance``
    (``last_step``). A converged ray still takes its last step. Rays are independent. Where half of
    many rays have ended, the others continue without them if the objective allows it (``of_rays``).

    Args:
        tolerance: largest Newton decrement of a converged ray.
        max_steps: largest number of steps.
        exact: False uses the expected Hessian in all steps (Fisher scoring); the exact one still
            decides about convergence.
        scoring_steps: number of first steps that use the expected Hessian, which is positive
            definite at any distance from the minimum.
        distance: largest last step of a converged ray, in the unit of the unknowns.
        resolved_by: dtype that must resolve the minimum of a converged ray, by default that of the
            unknowns.
    """

    tolerance: float = 1e-10
    max_steps: int = 60
    exact: bool = True
    scoring_steps: int = 0
    distance: float = DISTANCE
    resolved_by: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.tolerance <= 0 or self.max_steps < 1:
            raise ValueError(
                f"tolerance and max_steps must be positive: {self.tolerance}, {self.max_steps}"
            )

    def __call__(
        self,
        objective: Objective,
        start: Tensor,
        theta: tuple[Tensor, ...] = (),
        bounds: Bounds | None = None,
    ) -> Solution:
        """Minimise from ``start``; rays that do not converge keep their best iterate."""
        x = start if bounds is None else start.clamp(*bounds)
        model = objective(x, *theta, exact=self._exact_at(0))
        none = torch.zeros_like(model.value, dtype=torch.bool)
        begin = _State(
            x=x,
            model=model,
            exact=none | self._exact_at(0),
            damping=torch.zeros_like(model.value),
            converged=none,
            stuck=none,
            resolvable=resolvable_decrease(self.tolerance, model),
        )
        return self._descend(1, begin, objective, theta, bounds)

    def _descend(
        self,
        first: int,
        state: "_State",
        objective: Objective,
        theta: tuple[Tensor, ...],
        bounds: Bounds | None,
    ) -> Solution:
        """Continue with step ``first``; once half of the rays have ended, without these."""
        x, model, exact, damping, converged, stuck, resolvable = state
        for step in range(first, self.max_steps + 2):
            trial, positive = newton_trial(x, model, damping, bounds)
            move = x - trial
            decrement = (move * model.gradient).sum(-1)
            # far from the minimum a damped step may be short too; scoring, which may stay damped,
            # is tested with an exact step after the loop
            near = positive & (damping <= (0 if self.exact else 0.1)) & (decrement <= resolvable)
            near = near & (move.abs().amax(-1) <= self.distance)
            near = near & (exact | (not self.exact)) & ~converged & ~stuck
            x = torch.where(near[..., None], trial, x)
            converged = converged | near
            ended = converged | stuck
            if step > self.max_steps or bool(ended.all()):
                break
            if _few_remain(ended, objective, theta):
                now = _State(x, model, exact, damping, converged, stuck, resolvable)
                rest = (~ended).nonzero()[:, 0]
                some = _of(rest, objective, theta)
                # they begin this step again
                others = self._descend(step, now.of(rest), objective, some, bounds)
                solution = self._finish(now, objective, theta, bounds)
                return Solution(
                    solution.x.index_copy(0, rest, others.x),
                    solution.converged.index_copy(0, rest, others.converged),
                )
            at_trial = objective(trial, *theta, exact=self._exact_at(step))
            lower = at_trial.value <= model.value + model.rounding
            taken = positive & ~converged & ~stuck & lower
            predicted = _predicted(model, move)
            # a decrease below rounding does not test the model
            gain = torch.where(
                predicted > resolvable + model.rounding,
                (model.value - at_trial.value) / predicted,
                1,
            )
            x = torch.where(taken[..., None], trial, x)
            model = _choose(taken, at_trial, model)
            exact = torch.where(taken, self._exact_at(step), exact)
            damping = _adapt(damping, gain, taken)
            stuck = stuck | (damping > _STUCK)
        end = _State(x, model, exact, damping, converged, stuck, resolvable)
        return self._finish(end, objective, theta, bounds)

    def _finish(
        self,
        state: "_State",
        objective: Objective,
        theta: tuple[Tensor, ...],
        bounds: Bounds | None,
    ) -> Solution:
        """The last test of rays that take no more steps."""
        x, model, converged = state.x, state.model, state.converged
        if self.exact:
            sharp = resolved(x, model, bounds, self.distance, self.resolved_by)
            return Solution(x, converged & sharp)
        x, near = last_step(x, objective(x, *theta), bounds, self.distance, self.resolved_by)
        return Solution(x, converged & near)

    def _exact_at(self, step: int) -> bool:
        return self.exact and step >= self.scoring_steps


class _State(NamedTuple):
    """What each ray has reached."""

    x: Tensor
    model: Quadratic
    exact: Tensor
    damping: Tensor
    converged: Tensor
    stuck: Tensor
    resolvable: Tensor

    def of(self, index: Tensor) -> "_State":
        """Some of the rays."""
        x, model, *others, resolvable = self
        # one rounding error may hold for all rays
        model = model._replace(rounding=model.rounding.expand_as(model.value))
        others.append(resolvable.expand_as(model.value))
        some = Quadratic(*(take(part, index) for part in model))
        return _State(take(x, index), some, *(take(part, index) for part in others))


def _few_remain(ended: Tensor, objective: Objective, theta: tuple[Tensor, ...]) -> bool:
    """Whether it is possible and worth while to continue without the rays that have ended.

    It is possible for one axis of rays, unless autograd differentiates the steps, if the arguments
    are as ``of_rays`` says: a row for each ray in the first, no axis of rays in the others. Few
    rays stay together: a matrix product of one column, for instance, rounds differently, and a ray
    would depend on the number of the others.
    """
    n, n_rays = n_of_rays(objective), ended.numel()
    if ended.ndim != 1 or torch.is_grad_enabled() or not n:
        return False
    rows = all(part.shape[:1] == (n_rays,) for part in theta[:n])
    if not rows or any(n_rays in part.shape for part in theta[n:]):
        return False
    n_rest = n_rays - int(ended.sum())
    return _LEAST_RAYS <= n_rest <= n_rays / 2


def _of(index: Tensor, objective: Objective, theta: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The arguments of some of the rays."""
    n = n_of_rays(objective)
    return *(take(part, index) for part in theta[:n]), *theta[n:]


def resolvable_decrease(tolerance: float, model: Quadratic) -> Tensor:
    """Largest Newton decrement of a converged ray: the tolerance plus the rounding error."""
    return tolerance + 16 * torch.finfo(model.value.dtype).eps * model.rounding


def _predicted(model: Quadratic, step: Tensor) -> Tensor:
    """Decrease of the quadratic model along a step, g·s − ½ sᵀ H s."""
    return (step * model.gradient).sum(-1) - 0.5 * quadratic_form(model.hessian, step)


def _adapt(damping: Tensor, gain: Tensor, taken: Tensor) -> Tensor:
    """More damping where the model predicted too large a decrease, less where it was right."""
    less = torch.where(damping > 1e-2, damping / 10, 0)
    more = (10 * damping).clamp(min=1e-2)
    kept = torch.where(gain > 0.75, less, torch.where(gain < 0.25, more, damping))
    return torch.where(taken, kept, more)


def _choose(taken: Tensor, at_trial: Quadratic, model: Quadratic) -> Quadratic:
    return Quadratic(
        torch.where(taken, at_trial.value, model.value),
        torch.where(taken[..., None], at_trial.gradient, model.gradient),
        torch.where(taken[..., None, None], at_trial.hessian, model.hessian),
        at_trial.rounding,
    )
