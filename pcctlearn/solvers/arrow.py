"""Least squares of many small problems that share a few unknowns: arrow-shaped equations."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Local = Float[Tensor, "problem unknown"]
Shared = Float[Tensor, "shared"]

_FIRST_DAMPING, _LESS, _MORE, _STUCK = 1e-3, 0.2, 8.0, 1e12


class Arrow(NamedTuple):
    """The symmetric matrix of unknowns x_i of each problem i and shared unknowns g,

        ⎡ H_1           B_1 ⎤
        ⎢      ⋱        ⋮   ⎥
        ⎢          H_n  B_n ⎥
        ⎣ B_1ᵀ  …  B_nᵀ  C  ⎦

    Eliminating the x_i leaves the Schur complement C − Σ B_iᵀ H_i⁻¹ B_i for g.
    """

    blocks: Float[Tensor, "problem unknown unknown"]
    border: Float[Tensor, "problem unknown shared"]
    corner: Float[Tensor, "shared shared"]

    @classmethod
    def of(
        cls,
        local: Float[Tensor, "problem row unknown"],
        shared: Float[Tensor, "problem row shared"],
    ) -> "Arrow":
        """JᵀJ of residuals with these derivatives."""
        return cls(local.mT @ local, local.mT @ shared, (shared.mT @ shared).sum(0))

    def holding(self, local: Bool[Tensor, "unknown"], shared: Bool[Tensor, "shared"]) -> "Arrow":
        """The matrix of the other unknowns; those held have 1 on the diagonal and no covariance."""
        x, g = (~local).to(self.corner), (~shared).to(self.corner)
        return Arrow(
            self.blocks * x[:, None] * x + torch.diag(1 - x),
            self.border * x[:, None] * g,
            self.corner * g[:, None] * g + torch.diag(1 - g),
        )

    def solve(self, local: Local, shared: Shared, lift: float = 0.0) -> tuple[Local, Shared]:
        """(x, g) of M (x, g) = (local, shared), with M + lift · diag M.

        Problems whose block is not positive definite take no part: their x is zero.

        Raises:
            torch.linalg.LinAlgError: the Schur complement is not positive definite.
        """
        scale_x, scale_g, scaled = self._scaled(lift)
        root, sound = scaled._roots()
        right = (local / scale_x)[..., None] * sound[:, None, None]
        both = torch.cat([right, scaled.border * sound[:, None, None]], -1)
        solved = torch.cholesky_solve(both, root)
        schur = scaled.corner - torch.einsum("pug,puh->gh", scaled.border, solved[..., 1:])
        rest = shared / scale_g - torch.einsum("pug,pu->g", scaled.border, solved[..., 0])
        g = torch.cholesky_solve(rest[:, None], torch.linalg.cholesky(schur))[:, 0]
        x = solved[..., 0] - solved[..., 1:] @ g
        return x / scale_x, g / scale_g

    def covariance(self) -> "ArrowCovariance":
        """The inverse; NaN for problems whose block is not positive definite.

        Raises:
            torch.linalg.LinAlgError: the Schur complement is not positive definite.
        """
        scale_x, scale_g, scaled = self._scaled(0.0)
        root, sound = scaled._roots()
        inverse = torch.cholesky_inverse(root)
        follow = -inverse @ scaled.border * sound[:, None, None]
        schur = scaled.corner + torch.einsum("pug,puh->gh", scaled.border, follow)
        shared = torch.cholesky_inverse(torch.linalg.cholesky(schur))
        alone = torch.where(sound[:, None, None], inverse, torch.nan)
        return ArrowCovariance(
            alone / scale_x[:, :, None] / scale_x[:, None, :],
            follow * scale_g / scale_x[..., None],
            shared / scale_g[:, None] / scale_g,
            sound,
        )

    def _scaled(self, lift: float) -> tuple[Tensor, Tensor, "Arrow"]:
        """Square roots of the diagonal, and the matrix whose diagonal is 1 + lift."""
        tiny = torch.finfo(self.corner.dtype).tiny
        scale_x = self.blocks.diagonal(dim1=-2, dim2=-1).clamp(min=tiny).sqrt()
        scale_g = self.corner.diagonal().clamp(min=tiny).sqrt()
        eye_x = torch.eye(scale_x.shape[-1], dtype=scale_x.dtype)
        # a shared unknown without effect does not move
        idle = (self.corner.diagonal() == 0).to(scale_g)
        return scale_x, scale_g, Arrow(
            self.blocks / scale_x[:, :, None] / scale_x[:, None, :] + lift * eye_x,
            self.border / scale_x[..., None] / scale_g,
            self.corner / scale_g[:, None] / scale_g + torch.diag(lift + idle),
        )  # fmt: skip

    def _roots(self) -> tuple[Tensor, Tensor]:
        """Cholesky factors of the blocks, and which blocks are positive definite."""
        root, failed = torch.linalg.cholesky_ex(self.blocks)
        smallest = root.diagonal(dim1=-2, dim2=-1).square().amin(-1)
        # of a diagonal of one: rounding leaves a singular matrix a tiny pivot
        sound = (failed == 0) & (smallest > 8 * torch.finfo(root.dtype).eps)
        eye = torch.eye(root.shape[-1], dtype=root.dtype)
        return torch.where(sound[:, None, None], root, eye), sound


class ArrowCovariance(NamedTuple):
    """Covariance of all unknowns: that of x_i is alone_i + D_i S D_iᵀ, between i and k D_i S D_kᵀ.

    Args:
        alone: of each problem, with the shared unknowns known.
        follow: D_i = ∂x_i/∂g, how the minimum of each problem follows the shared unknowns.
        shared: S, of the shared unknowns.
        sound: problems that took part.
    """

    alone: Float[Tensor, "problem unknown unknown"]
    follow: Float[Tensor, "problem unknown shared"]
    shared: Float[Tensor, "shared shared"]
    sound: Bool[Tensor, "problem"]

    def of_problems(self) -> Float[Tensor, "problem unknown unknown"]:
        """Of the unknowns of each problem, the shared ones being unknown."""
        return self.alone + self.follow @ self.shared @ self.follow.mT

    def of_means(self) -> Float[Tensor, "both both"]:
        """Of (mean of x over the problems, g)."""
        n = int(self.sound.sum())
        alone, follow = self.alone[self.sound], self.follow[self.sound].mean(0)
        both = torch.cat([follow, torch.eye(len(self.shared), dtype=follow.dtype)])
        covariance = both @ self.shared @ both.T
        u = follow.shape[0]
        covariance[:u, :u] += alone.mean(0) / n
        return covariance


class ArrowEquations(NamedTuple):
    """Gauss–Newton's equations at one place: Jᵀr and JᵀJ, and Σ r² of each problem.

    ``offset`` is the part of Σ r² of no single problem.
    """

    local: Local
    shared: Shared
    arrow: Arrow
    chi2: Float[Tensor, "problem"]
    offset: Float[Tensor, ""]

    @property
    def cost(self) -> float:
        """Σ r² of all."""
        return float(self.chi2.sum() + self.offset)

    def holding(
        self, local: Bool[Tensor, "unknown"], shared: Bool[Tensor, "shared"]
    ) -> "ArrowEquations":
        """The equations of the other unknowns."""
        return self._replace(
            local=self.local.masked_fill(local, 0.0),
            shared=self.shared.masked_fill(shared, 0.0),
            arrow=self.arrow.holding(local, shared),
        )


class ArrowMinimum(NamedTuple):
    """The minimum, the equations there, and whether the last step was short enough."""

    local: Local
    shared: Shared
    at: ArrowEquations
    converged: bool


Equations = Callable[[Local, Shared], ArrowEquations]
Projection = Callable[[Local, Shared], tuple[Local, Shared]]


def arrow_minimum(
    equations: Equations,
    local: Local,
    shared: Shared,
    project: Projection,
    tolerance: float = 1e-2,
    max_steps: int = 40,
) -> ArrowMinimum:
    """Minimise Σ r² over all unknowns by Levenberg and Marquardt's method (``LevenbergMarquardt``).

    One damping serves all problems. The minimum is found when the step without damping is shorter
    than ``tolerance`` standard deviations of all unknowns together, √(sᵀ JᵀJ s).

    Args:
        equations: at given unknowns.
        local, shared: first iterate.
        project: into the limits of the unknowns; applied to every iterate.
        tolerance: largest step of a minimum.
        max_steps: largest number of steps.
    """
    x, g = project(local, shared)
    at, damping, failed = equations(x, g), _FIRST_DAMPING, False
    for _ in range(max_steps):
        free = _without_blocked(at, x, g, project)
        dx, dg = free.arrow.solve(free.local, free.shared)
        length = float(((dx * free.local).sum() + (dg * free.shared).sum()).clamp(min=0)) ** 0.5
        if length > 1 or failed:
            dx, dg = free.arrow.solve(free.local, free.shared, lift=damping)
        trial = project(x - dx, g - dg)
        at_trial = equations(*trial)
        if at_trial.cost <= at.cost or length <= tolerance:
            (x, g), at, damping, failed = trial, at_trial, _LESS * damping, False
            if length <= tolerance:
                return ArrowMinimum(x, g, at, True)
        else:
            damping, failed = _MORE * max(damping, _FIRST_DAMPING), True
            if damping > _STUCK:
                break
    return ArrowMinimum(x, g, at, False)


def _without_blocked(
    at: ArrowEquations, x: Local, g: Shared, project: Projection
) -> ArrowEquations:
    """The equations without shared unknowns at a limit that the step would cross."""
    dx, dg = at.arrow.solve(at.local, at.shared)
    reached = project(x - dx, g - dg)[1]
    blocked = (reached == g) & (dg != 0)
    if not bool(blocked.any()):
        return at
    return at.holding(torch.zeros(x.shape[1], dtype=torch.bool), blocked)
