"""Total variation Σ |∇x| of images of any number of axes: ∇ and the proximal operator."""

from collections.abc import Sequence
from math import inf, sqrt

import torch
from torch import Tensor

from pcctlearn.tomography.iterative.monitor import per_image
from pcctlearn.tomography.linear_operator import LinearOperator


class Gradient(LinearOperator):
    """∇: forward differences over the spacing along each axis, zero at the last voxel.

    From images (*axes) to fields (axis, *axes), in operand / cm; the spacing is 1 unless given.
    """

    def __init__(self, shape: tuple[int, ...], spacing_cm: Sequence[float] | None = None) -> None:
        spacing_cm = [1.0] * len(shape) if spacing_cm is None else list(spacing_cm)
        if len(spacing_cm) != len(shape) or not all(0 < h < inf for h in spacing_cm):
            raise ValueError(
                f"spacing_cm needs {len(shape)} positive numbers, one for each axis, "
                f"got {spacing_cm}"
            )
        super().__init__(shape, (len(shape), *shape))
        self.axes = list(zip(range(-len(shape), 0), spacing_cm, strict=True))

    @property
    def squared_norm_bound(self) -> float:
        """‖∇‖² ≤ Σ 4 / spacing², which is tight for large images."""
        return sum(4 / h**2 for _, h in self.axes)

    def matvec(self, x: Tensor) -> Tensor:  # noqa: D102
        field = x.new_zeros(*x.shape[: x.ndim - len(self.in_shape)], *self.out_shape)
        for i, (axis, h) in enumerate(self.axes):
            component = field.select(-len(self.out_shape), i)
            component.narrow(axis, 0, x.shape[axis] - 1).copy_(x.diff(dim=axis)).div_(h)
        return field

    def rmatvec(self, y: Tensor) -> Tensor:  # noqa: D102
        image = y.new_zeros(*y.shape[: y.ndim - len(self.out_shape)], *self.in_shape)
        for i, (axis, h) in enumerate(self.axes):
            n = image.shape[axis] - 1
            component = y.select(-len(self.out_shape), i).narrow(axis, 0, n)
            image.narrow(axis, 0, n).sub_(component, alpha=1 / h)
            image.narrow(axis, 1, n).add_(component, alpha=1 / h)
        return image


def total_variation_prox(
    gradient: Gradient,
    image: Tensor,
    strength: Tensor,
    dual: Tensor | None = None,
    *,
    nonnegative: bool = False,
    n_iterations: int = 100,
) -> tuple[Tensor, Tensor]:
    """argmin over x of ½‖x − image‖² + strength · Σ |∇x|, optionally with x ≥ 0, and its dual p.

    x = image − ∇ᵀp, with |p| ≤ strength in every voxel, by fast gradient projection on p.

    A. Beck and M. Teboulle, "Fast gradient-based algorithms for constrained total variation image
    denoising and deblurring problems", IEEE Trans. Image Process. 18 (2009) 2419.
    doi:10.1109/TIP.2009.2028250

    Args:
        gradient: ∇.
        image: (*batch, *gradient.in_shape).
        strength: (*batch), or one number for all.
        dual: p of a similar problem, the first iterate.
        nonnegative: require x ≥ 0.
        n_iterations: number of projections of p.
    """

    def primal(p: Tensor) -> Tensor:
        x = image - gradient.rmatvec(p)  # @ would check for NaN, which synchronises a GPU
        return x.clamp(min=0) if nonnegative else x

    step = 1 / gradient.squared_norm_bound
    p = gradient.matvec(torch.zeros_like(image)) if dual is None else dual
    radius = per_image(strength, p)
    q, t = p, 1.0
    for _ in range(n_iterations):
        p_before, t_before = p, t
        p = _into_ball(
            q.add(gradient.matvec(primal(q)), alpha=step), radius, -len(gradient.out_shape)
        )
        t = (1 + sqrt(1 + 4 * t_before**2)) / 2
        q = torch.lerp(p_before, p, 1 + (t_before - 1) / t)  # extrapolates in one pass
    return primal(p), p


def _into_ball(p: Tensor, radius: Tensor, axis: int) -> Tensor:
    """The vectors, projected onto the ball of this radius."""
    # squares are much faster than torch.norm and smooth at 0; the clamp is for a radius of 0
    squares = torch.maximum(p.square().sum(axis, keepdim=True), radius.square())
    return p * (radius / squares.clamp(min=torch.finfo(p.dtype).tiny).sqrt())
