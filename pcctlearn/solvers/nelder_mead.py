"""The downhill simplex for many small problems at once: a reference without derivatives."""

import torch
from torch import Tensor

from pcctlearn.solvers.minimum import last_step
from pcctlearn.solvers.quadratic import Bounds, Objective, Solution


class NelderMead:
    """Downhill simplex method with one simplex per ray.

    The search ends when the values at the corners agree within ``tolerance`` or rounding, and the
    corners within ``spread``. The best corner then takes a Newton step with the exact Hessian,
    which decides about convergence (``last_step``). Trial points are projected into the box.

    J. A. Nelder and R. Mead, Comput. J. 7 (1965) 308.
    """

    def __init__(
        self, tolerance: float = 1e-10, spread: float = 1e-6, max_steps: int = 400
    ) -> None:
        self.tolerance, self.spread, self.max_steps = tolerance, spread, max_steps

    def __call__(
        self,
        objective: Objective,
        start: Tensor,
        theta: tuple[Tensor, ...] = (),
        bounds: Bounds | None = None,
    ) -> Solution:
        """Minimise from a simplex at ``start`` with edges of |start| / 10, at least 0.1."""

        def boxed(x: Tensor) -> Tensor:
            return x if bounds is None else x.clamp(*bounds)

        def value(x: Tensor) -> Tensor:
            return objective(x, *theta, exact=False).value.nan_to_num(nan=torch.inf)

        n = start.shape[-1]
        width = torch.diag_embed((0.1 * start.abs()).clamp(min=0.1))
        corners = [boxed(start), *(boxed(start + width[..., i]) for i in range(n))]
        x = torch.stack(corners)  # corner, *ray, unknown
        f = torch.stack([value(corner) for corner in corners])
        resolvable = self.tolerance + objective(start, *theta, exact=False).rounding
        converged = torch.zeros_like(f[0], dtype=torch.bool)
        for _ in range(self.max_steps):
            f, order = f.sort(0)
            x = x.gather(0, order[..., None].expand_as(x))
            narrow = (16 * torch.finfo(x.dtype).eps * x[0].abs().amax(-1)).clamp(min=self.spread)
            wide = (x - x[:1]).abs().amax((0, -1))
            converged = (f[-1] - f[0] <= resolvable) & (wide <= narrow)
            if bool(converged.all()):
                break
            x, f = _move_worst(x, f, boxed, value, converged)
        best = f.argmin(0)[None, ..., None].expand_as(x[:1])
        x = x.gather(0, best)[0]
        x, near = last_step(x, objective(x, *theta), bounds)
        return Solution(x, converged & near)


def _move_worst(x, f, boxed, value, done):  # type: ignore[no-untyped-def]
    """Reflect, expand or contract the worst corner of each ray, or shrink to the best one."""
    center = x[:-1].mean(0)
    reflected = boxed(2 * center - x[-1])
    f_reflected = value(reflected)
    further = f_reflected < f[0]
    outside = f_reflected < f[-1]
    toward = torch.where(outside[..., None], reflected, x[-1])
    second = torch.where(
        further[..., None], boxed(3 * center - 2 * x[-1]), 0.5 * center + 0.5 * toward
    )
    f_second = value(second)
    good_enough = (f_reflected < f[-2]) & ~further
    use_second = ~good_enough & (f_second < torch.minimum(f_reflected, f[-1]))
    use_reflected = (good_enough | further) & ~use_second
    shrink = ~(use_second | use_reflected) & ~done
    move = (use_second | use_reflected) & ~done

    corner = torch.where(use_second[..., None], second, reflected)
    f_corner = torch.where(use_second, f_second, f_reflected)
    x = torch.cat([x[:-1], torch.where(move[..., None], corner, x[-1])[None]])
    f = torch.cat([f[:-1], torch.where(move, f_corner, f[-1])[None]])
    if bool(shrink.any()):
        shrunk = 0.5 * (x + x[:1])
        x = torch.where(shrink[..., None], shrunk, x)
        f = torch.where(shrink, torch.stack([value(corner) for corner in shrunk]), f)
    return x, f
