"""Newton's step within a box, and the convergence test of all solvers."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.solvers.quadratic import Bounds, Quadratic, Solution, free_unknowns
from pcctlearn.solvers.small_systems import solve_positive_definite

DISTANCE = 2e-5  # largest Newton step at a converged ray, in the unit of the unknowns (g/cm²)


def last_step(
    x: Float[Tensor, "*ray unknown"],
    model: Quadratic,
    bounds: Bounds | None = None,
    distance: float = DISTANCE,
    resolved_by: torch.dtype | None = None,
) -> Solution:
    """One Newton step, and whether a minimum lies within ``distance`` of x.

    ``model`` is the objective at x. A ray has converged if three conditions hold for its free
    unknowns: the exact Hessian is positive definite, no component of the step −H⁻¹g exceeds
    ``distance``, and rounding moves the minimum by at most ``distance`` (``resolved``). Other rays
    keep their x.
    """
    trial, positive = newton_trial(x, model, torch.zeros_like(model.value), bounds)
    near = positive & ((trial - x).abs().amax(-1) <= distance)
    near = near & resolved(x, model, bounds, distance, resolved_by)
    return Solution(torch.where(near[..., None], trial, x), near)


def resolved(
    x: Float[Tensor, "*ray unknown"],
    model: Quadratic,
    bounds: Bounds | None,
    distance: float,
    dtype: torch.dtype | None = None,
) -> Bool[Tensor, "*ray"]:
    """True where the Hessian is positive definite and rounding moves the minimum by at most
    ``distance`` in every free unknown.

    A relative error δ of each expected count n_b changes the gradient of a Poisson likelihood by
    δ n_b d_b, with d_b = ∂ log ȳ_b. Its covariance is at most δ² max_b n_b · H, so the square of
    the shift of unknown k is at most δ² Σ_b n_b (H⁻¹)_kk. With rounding = 4 eps Σ_b n_b and
    δ = 4 eps (measured: 0.5 eps in the median) the shift is √(4 eps · rounding · (H⁻¹)_kk).

    The inverse must be accurate to half the digits: H_kk (H⁻¹)_kk, the factor by which the other
    unknowns raise the variance of this one, must stay below eps^(−1/2). ``dtype`` tests another
    precision than that of x.
    """
    free = None if bounds is None else free_unknowns(x, model.gradient, bounds)
    eps = torch.finfo(dtype or x.dtype).eps
    rounding = model.rounding * (eps / torch.finfo(x.dtype).eps)
    most = distance**2 / (4 * eps * rounding)
    sound = torch.ones_like(model.value, dtype=torch.bool)
    for k in range(x.shape[-1]):
        unit = torch.zeros_like(x)
        unit[..., k] = 1
        column, positive = solve_positive_definite(model.hessian, unit, free)
        variance = column[..., k]
        inflation = variance * model.hessian[..., k, k]
        sound = sound & positive & (variance <= most) & (inflation <= eps**-0.5)
    return sound


def newton_trial(
    x: Float[Tensor, "*ray unknown"],
    model: Quadratic,
    damping: Float[Tensor, "*ray"],
    bounds: Bounds | None,
) -> tuple[Float[Tensor, "*ray unknown"], Bool[Tensor, "*ray"]]:
    """Minimum of the damped quadratic model within the box, and whether the model is convex.

    Unknowns are fixed at limits where the descent leads out of the box, and Newton's system is
    solved for the others (D. P. Bertsekas, SIAM J. Control Optim. 20 (1982) 221).
    """
    step, positive = solve_positive_definite(model.hessian, model.gradient, lift=damping)
    trial = x - step
    if bounds is None:
        return trial, positive
    free = free_unknowns(x, model.gradient, bounds)
    inside = (trial >= bounds.lower) & (trial <= bounds.upper)
    if bool((free & inside).all()):  # the usual case, and cheaper
        return trial, positive
    matrix = model.hessian + torch.diag_embed(
        damping[..., None] * model.hessian.diagonal(dim1=-2, dim2=-1).abs()
    )
    trial, everywhere = x, torch.ones_like(damping, dtype=torch.bool)
    for _ in range(x.shape[-1]):  # fix unknowns until none leaves the box
        held = torch.where(free, 0, trial - x)
        pull = model.gradient + (matrix @ held[..., None])[..., 0]
        step, positive = solve_positive_definite(matrix, pull, free)
        target = torch.where(free, x - step, trial)
        everywhere = everywhere & positive
        trial = target.clamp(*bounds)
        leaving = free & (trial != target)
        if not bool(leaving.any()):
            break
        free = free & ~leaving
    return trial, everywhere
