"""Differentiate a minimum without differentiating the road to it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pcctlearn.solvers.quadratic import Bounds, Quadratic, Solution, Solver, free_unknowns
from pcctlearn.solvers.small_systems import solve_positive_definite


def implicit_minimum(
    objective: Callable[..., Quadratic],
    solver: Solver,
    start: Tensor,
    *theta: Tensor,
    bounds: Bounds | None = None,
) -> Solution:
    """argmin over x of objective(x, *theta), differentiable in θ: dx/dθ = −H⁻¹ ∂g/∂θ.

    On an active bound the minimum is the constrained one and only the free unknowns move with θ.
    A ray that did not converge, or at whose end H is not positive definite, passes no gradient.
    A solver that is itself ``differentiable`` is left to autograd.
    """
    if getattr(solver, "differentiable", False):
        return solver(_bind(objective, theta), start.detach(), bounds)
    return Solution(*_ImplicitMinimum.apply(objective, solver, bounds, start.detach(), *theta))


def implicit_tangent(
    objective: Callable[..., Quadratic],
    x: Tensor,
    theta: tuple[Tensor, ...],
    tangents: tuple[Tensor, ...],
) -> Tensor:
    """Directional derivative of the minimum, dx = −H⁻¹ (∂g/∂θ) dθ, at a free minimum x."""
    # exact Hessian, computed once; the directional derivative of the gradient needs none
    hessian = objective(x, *theta).hessian
    _, moved = torch.func.jvp(lambda *t: objective(x, *t, exact=False).gradient, theta, tangents)
    return -solve_positive_definite(hessian, moved)[0]


def _bind(objective: Callable[..., Quadratic], theta: tuple[Tensor, ...]) -> Callable[..., Any]:
    def bound(x: Tensor, **options: Any) -> Quadratic:
        return objective(x, *theta, **options)

    return bound


class _ImplicitMinimum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, objective, solver, bounds, start, *theta):  # type: ignore[no-untyped-def]
        x, converged = solver(_bind(objective, theta), start, bounds)
        ctx.objective, ctx.bounds = objective, bounds
        ctx.save_for_backward(x, converged, *theta)
        ctx.mark_non_differentiable(converged)
        return x, converged

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent, _):  # type: ignore[no-untyped-def]
        x, converged, *theta = ctx.saved_tensors
        wanted = ctx.needs_input_grad[4:]
        theta = [t.detach().requires_grad_(w) for t, w in zip(theta, wanted, strict=True)]
        hessian = ctx.objective(x, *(t.detach() for t in theta)).hessian
        with torch.enable_grad():
            gradient = ctx.objective(x, *theta, exact=False).gradient
        free = ctx.bounds and free_unknowns(x, gradient.detach(), ctx.bounds)
        adjoint, positive = solve_positive_definite(hessian, cotangent, free)
        # masked after the solve: zeroing the cotangent alone would let 0 · NaN reach θ
        adjoint = torch.where((converged & positive)[..., None], adjoint, 0)
        leaves = [t for t in theta if t.requires_grad]
        grads = iter(torch.autograd.grad(gradient, leaves, -adjoint, allow_unused=True))
        return None, None, None, None, *(next(grads) if w else None for w in wanted)
