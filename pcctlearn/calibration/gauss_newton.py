"""Gauss–Newton steps for the thresholds of all pixels at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Jacobian = Float[Tensor, "view pixel material edge"]
RaySystem = Float[Tensor, "view pixel material material"]
EdgeVector = Float[Tensor, "pixel edge"]
EdgeSystem = Float[Tensor, "pixel edge edge"]


class Curvature(NamedTuple):
    """Second derivatives of a loss: in the line integrals of each ray, and beside them.

    ``of_rays`` is block-diagonal; ``coupling`` maps sinograms (material, view, pixel) onto
    themselves and ties the pixels together, as FᵀF does for a loss in images.
    """

    of_rays: RaySystem
    of_edges: EdgeSystem | None = None
    coupling: Callable[[Tensor], Tensor] | None = None


@dataclass
class GaussNewton:
    """ΔD = −(Jᵀ W J + δ diag(Jᵀ W J))⁻¹ ∂L/∂D, with J = dA/dD of every ray.

    The gradient ∂L/∂D is the chain's own; J W J stands in for its second derivative (K. Levenberg,
    Quart. Appl. Math. 2 (1944) 164). Without coupling each pixel has a small system of its own;
    with it, conjugate gradients, preconditioned by these systems, need no matrix.

    Args:
        damping: δ at the start; a step that lowers the loss divides it by ten.
        tolerance: conjugate gradients end when the residual has fallen by this factor,
        max_iterations: or after so many.
    """

    damping: float = 1e-2
    tolerance: float = 1e-3
    max_iterations: int = 100

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise ValueError(f"damping must be positive, got {self.damping:g}")

    def step(
        self, jacobian: Jacobian, gradient: EdgeVector, curvature: Curvature, damping: float
    ) -> EdgeVector:
        """The change of the edges, in keV; edges without any effect stay where they are."""
        own = torch.einsum("vpkj,vpkm,vpml->pjl", jacobian, curvature.of_rays, jacobian)
        if curvature.of_edges is not None:
            own = own + curvature.of_edges
        diagonal = own.diagonal(dim1=1, dim2=2)
        lift = torch.where(diagonal > 0, damping * diagonal, 1)
        factor = torch.linalg.cholesky(own + torch.diag_embed(lift))

        def precondition(r: Tensor) -> Tensor:
            return torch.cholesky_solve(r[..., None], factor)[..., 0]

        if curvature.coupling is None:
            return -precondition(gradient)
        coupling = curvature.coupling

        def normal(step: Tensor) -> Tensor:
            moved = torch.einsum("vpkj,pj->kvp", jacobian, step)
            image = torch.einsum("vpkj,kvp->pj", jacobian, coupling(moved)) + lift * step
            if curvature.of_edges is not None:
                image = image + torch.einsum("pjl,pl->pj", curvature.of_edges, step)
            return image

        return self._conjugate_gradients(normal, -gradient, precondition)

    def _conjugate_gradients(
        self,
        normal: Callable[[Tensor], Tensor],
        right: Tensor,
        precondition: Callable[[Tensor], Tensor],
    ) -> Tensor:
        x, r = torch.zeros_like(right), right
        z = precondition(r)
        direction, energy = z, (r * z).sum()
        goal = self.tolerance**2 * energy
        for _ in range(self.max_iterations):
            if energy <= goal:
                break
            image = normal(direction)
            length = energy / (direction * image).sum()
            x, r = x + length * direction, r - length * image
            z = precondition(r)
            before, energy = energy, (r * z).sum()
            direction = z + energy / before * direction
        return x
