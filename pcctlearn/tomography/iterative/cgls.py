"""CGLS: conjugate gradients for the least-squares problem, with optional damping."""

from collections.abc import Iterator
from math import inf

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
from pcctlearn.tomography.linear_operator import LinearOperator


def cgls(
    A: LinearOperator,
    y: Tensor,
    *,
    start: Tensor | None = None,
    damping: float = 0.0,
    max_iterations: int = 20,
    tolerance: float = 0.0,
    noise_level: float | None = None,
    progress: bool = False,
) -> Reconstruction:
    """argmin over x of ½‖A x − y‖² + ½ damping · ‖x‖², independently for each image.

    Without damping the number of iterations regularises: noise is fitted last. For rays of unequal
    noise use ``cgls(Diagonal(w) @ A, w * y)``, with w one over their standard deviation.

    M. R. Hestenes and E. Stiefel, "Methods of conjugate gradients for solving linear systems",
    J. Res. Natl. Bur. Stand. 49 (1952) 409. doi:10.6028/jres.049.044

    Differentiable in y and start; autograd keeps the images of all iterations.

    Args:
        A: from images to sinograms; leading axes are independent problems.
        y: (*batch, *A.out_shape), operand · cm.
        start: (*batch, *A.in_shape); zero unless given.
        damping: Tikhonov parameter, cm².
        max_iterations, tolerance, noise_level: stopping rules of each image, see ``Monitor``.
        progress: show a progress bar.
    """
    monitor = Monitor("CGLS", max_iterations, tolerance, noise_level, progress)
    if not 0 <= damping < inf:
        raise ValueError(f"damping must be 0 or positive, got {damping}")
    check_sinogram(A, y)
    x = first_iterate(A, y, start)
    return monitor.follow(_cgls(A, y, x, damping), x, norm(y, A.out_shape))


def _cgls(
    A: LinearOperator, y: Tensor, x: Tensor, damping: float
) -> Iterator[tuple[Tensor, Tensor]]:
    residual, direction = y - A @ x, torch.zeros_like(x)
    nothing = torch.zeros_like(norm(x, A.in_shape))
    energy_before, A_norm_squared, resolvable = nothing, nothing, nothing
    while True:
        descent = A.T @ residual - damping * x
        energy = dot(descent, descent, A.in_shape)
        energy = torch.where(energy > resolvable, energy, 0)  # rounding errors would grow
        direction = descent + per_image(_ratio(energy, energy_before), x) * direction
        rays, size = A @ direction, dot(direction, direction, A.in_shape)
        curvature = dot(rays, rays, A.out_shape) + damping * size
        length = _ratio(energy, curvature)
        x = x + per_image(length, x) * direction
        residual = residual - per_image(length, rays) * rays
        energy_before = energy
        A_norm_squared = torch.maximum(A_norm_squared, _ratio(curvature, size).detach())
        residual_norm = norm(residual, A.out_shape)
        resolvable = A_norm_squared * (torch.finfo(x.dtype).eps * residual_norm).square()
        yield x, residual_norm


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and zero where b is zero, so that a solved image does not change."""
    return a / torch.where(b > 0, b, inf)
