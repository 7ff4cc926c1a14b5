"""Least squares with total variation, by FISTA."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pcctlearn.tomography.iterative.monitor import (
    Monitor,
    Reconstruction,
    check_sinogram,
    dot,
    first_iterate,
    norm,
    per_image,
)
from pcctlearn.tomography.iterative.total_variation import Gradient, total_variation_prox
from pcctlearn.tomography.linear_operator import LinearOperator


def fista_tv(
    A: LinearOperator,
    y: Tensor,
    strength: float | Tensor,
    *,
    start: Tensor | None = None,
    spacing_cm: Sequence[float] | None = None,
    nonnegative: bool = False,
    inner_iterations: int = 20,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    noise_level: float | None = None,
    progress: bool = False,
) -> Reconstruction:
    """argmin over x of ½‖A x − y‖² + strength · TV(x), with TV(x) = Σ |∇x| over the voxels.

    x ← prox(z + Aᵀ(y − A z) / ‖A‖²), z ← x + (t_before − 1) / t · (x − x_before); the
    momentum of an image restarts where the objective would increase.

    A. Beck and M. Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems", SIAM J. Imaging Sci. 2 (2009) 183. doi:10.1137/080716542
    B. O'Donoghue and E. Candès, "Adaptive restart for accelerated gradient schemes", Found.
    Comput. Math. 15 (2015) 715. doi:10.1007/s10208-013-9150-3

    Differentiable through all outer and inner iterations. Autograd keeps all their gradient
    fields, which limits this to a few iterations of small images.

    Args:
        A: from images of any number of spatial axes to sinograms; leading axes are independent
            problems.
        y: (*batch, *A.out_shape), operand · cm.
        strength: a number, or a tensor that broadcasts to the batch; in operand · cm³ with
            ``spacing_cm``, in operand · cm² without.
        start: (*batch, *A.in_shape); zero unless given.
        spacing_cm: distance of voxels along each axis; by default ∇x is the difference of
            neighbours.
        nonnegative: require x ≥ 0.
        inner_iterations: of the proximal operator, which starts from the previous dual.
        max_iterations, tolerance, noise_level: stopping rules of each image, see ``Monitor``.
        progress: show a progress bar.
    """
    monitor = Monitor("FISTA-TV", max_iterations, tolerance, noise_level, progress)
    if inner_iterations < 1:
        raise ValueError(f"inner_iterations must be at least 1, got {inner_iterations}")
    check_sinogram(A, y)
    x = first_iterate(A, y, start)
    y_norm = norm(y, A.out_shape)
    strength = _strength_per_image(strength, y_norm)
    gradient = Gradient(A.in_shape, spacing_cm)
    A_norm_squared = squared_norm(A, y.dtype, y.device)
    if not A_norm_squared > 0:
        raise ValueError(f"{A!r} maps every image to zero")
    step = 1 / (1.02 * A_norm_squared)  # the power iteration underestimates the norm

    def prox(image: Tensor, dual: Tensor | None) -> tuple[Tensor, Tensor]:
        return total_variation_prox(
            gradient,
            image,
            step * strength,
            dual,
            nonnegative=nonnegative,
            n_iterations=inner_iterations,
        )

    return monitor.follow(_fista(A, y, x, step, prox), x, y_norm)


def _fista(
    A: LinearOperator,
    y: Tensor,
    x: Tensor,
    step: Tensor,
    prox: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]],
) -> Iterator[tuple[Tensor, Tensor]]:
    residual, dual = y - A @ x, None
    z, z_residual, t = x, residual, torch.ones_like(norm(x, A.in_shape))
    while True:
        x_before, residual_before = x, residual
        x, dual = prox(z + step * (A.T @ z_residual), dual)
        residual = y - A @ x
        climbs = dot((z - x).detach(), (x - x_before).detach(), A.in_shape) > 0
        t_before = torch.where(climbs, 1, t)
        t = (1 + (1 + 4 * t_before.square()).sqrt()) / 2
        momentum = (t_before - 1) / t
        z = x + per_image(momentum, x) * (x - x_before)
        z_residual = residual + per_image(momentum, y) * (residual - residual_before)
        yield x, norm(residual, A.out_shape)


def squared_norm(
    A: LinearOperator,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    n_iterations: int = 20,
) -> Tensor:
    """‖A‖², the largest eigenvalue of AᵀA, from below by power iteration."""
    generator = torch.Generator().manual_seed(0)
    # positive, as the first singular image of a projector; random, to suit other operators
    x = torch.rand(A.in_shape, generator=generator, dtype=dtype).to(device)
    tiny = torch.finfo(x.dtype).tiny
    with torch.no_grad():
        for _ in range(n_iterations):
            x = A.T @ (A @ (x / x.norm().clamp(min=tiny)))
    return x.norm()


def _strength_per_image(strength: float | Tensor, y_norm: Tensor) -> Tensor:
    strength = torch.as_tensor(strength, dtype=y_norm.dtype, device=y_norm.device)
    if not bool((strength >= 0).all() & strength.isfinite().all()):
        raise ValueError(f"strength must be 0 or positive, got {strength.tolist()}")
    try:
        return strength.expand_as(y_norm)
    except RuntimeError:
        raise ValueError(
            f"strength must be one number or broadcast to the batch {tuple(y_norm.shape)}, "
            f"got shape {tuple(strength.shape)}"
        ) from None
