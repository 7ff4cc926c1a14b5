"""Implicit derivative of a minimum: dx/dθ = −H⁻¹ ∂g/∂θ."""

from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pcctlearn.solvers.quadratic import Bounds, Objective, Solution, Solver, free_unknowns
from pcctlearn.solvers.small_systems import solve_positive_definite

Adjoint = Literal["implicit", "unrolled"]


def implicit_minimum(
    objective: Objective,
    solver: Solver,
    start: Tensor,
    theta: tuple[Tensor, ...] = (),
    bounds: Bounds | None = None,
    adjoint: Adjoint = "implicit",
) -> Solution:
    """argmin over x of objective(x, *theta), differentiable in θ.

    ``adjoint="implicit"`` differentiates the minimum (``implicit_derivative``), for any solver.
    ``"unrolled"`` differentiates the solver's steps by autograd, for ``UnrolledNewton``. The start
    receives no gradient.
    """
    start = start.detach()
    if adjoint == "unrolled":
        return solver(objective, start, theta, bounds)
    with torch.no_grad():
        solution = solver(objective, start, theta, bounds)
    return implicit_derivative(objective, solution, theta, bounds)


def implicit_derivative(
    objective: Objective,
    solution: Solution,
    theta: tuple[Tensor, ...],
    bounds: Bounds | None = None,
) -> Solution:
    """Attach dx/dθ = −H⁻¹ ∂g/∂θ to a known minimum, with the exact Hessian H.

    On an active bound the minimum is the constrained one, and only the free unknowns depend on θ.
    A ray that did not converge, or whose H is not positive definite, passes no gradient.
    """
    x = _Minimum.apply(objective, bounds, solution.x, solution.converged, *theta)
    return Solution(x, solution.converged)


def implicit_tangent(
    objective: Objective, x: Tensor, theta: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> Tensor:
    """Directional derivative of the minimum, dx = −H⁻¹ (∂g/∂θ) dθ, at a free minimum x."""
    # the Hessian is computed once; the directional derivative of the gradient needs none
    hessian = objective(x, *theta).hessian
    moved = torch.func.jvp(lambda *t: objective(x, *t, exact=False).gradient, theta, tangents)[1]
    return -solve_positive_definite(hessian, moved)[0]


class _Minimum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, objective, bounds, x, converged, *theta):  # type: ignore[no-untyped-def]
        x = x.detach()  # autograd requires an output that is not an input
        ctx.objective, ctx.bounds = objective, bounds
        ctx.save_for_backward(x, converged, *theta)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent):  # type: ignore[no-untyped-def]
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
