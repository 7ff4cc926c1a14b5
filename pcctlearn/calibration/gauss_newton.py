"""Gauss–Newton steps for the thresholds of all pixels at once."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.losses.curvature import Curvature
from pcctlearn.solvers.conjugate_gradients import conjugate_gradients
from pcctlearn.validation import require_positive

EdgeVector = Float[Tensor, "pixel edge"]


@dataclass
class GaussNewton:
    """ΔD = −(Jᵀ W J + Wᴰ + δ diag(Jᵀ W J + Wᴰ))⁻¹ ∂L/∂D, with J = dA/dD of every ray.

    W and Wᴰ are the curvature of the loss in the line integrals and in the thresholds. Second
    derivatives of A are neglected, and δ damps the step (K. Levenberg, Quart. Appl. Math. 2 (1944)
    164). If W is block-diagonal each pixel has a small system of its own. Otherwise matrix-free
    conjugate gradients, preconditioned by these systems, solve for all pixels together.

    Args:
        damping: δ of the first step.
        tolerance: conjugate gradients stop when the residual has fallen by this factor.
        max_iterations: largest number of iterations of conjugate gradients.
    """

    damping: float = 1e-2
    tolerance: float = 1e-3
    max_iterations: int = 100

    def __post_init__(self) -> None:
        require_positive(damping=self.damping)

    def step(
        self,
        jacobian: Float[Tensor, "view pixel material edge"],
        gradient: EdgeVector,
        curvature: Curvature,
        damping: float,
    ) -> EdgeVector:
        """The change of the edges in keV; an edge without effect on the loss does not move."""
        blocks = torch.einsum("vpkj,vpkm,vpml->pjl", jacobian, curvature.of_rays, jacobian)
        if curvature.of_edges is not None:
            blocks = blocks + curvature.of_edges
        diagonal = blocks.diagonal(dim1=1, dim2=2)
        lift = torch.where(diagonal > 0, damping * diagonal, 1)
        factor = torch.linalg.cholesky(blocks + torch.diag_embed(lift))

        def precondition(r: Tensor) -> Tensor:
            return torch.cholesky_solve(r[..., None], factor)[..., 0]

        def normal(step: Tensor) -> Tensor:
            moved = torch.einsum("vpkj,pj->kvp", jacobian, step)
            image = torch.einsum("vpkj,kvp->pj", jacobian, curvature @ moved) + lift * step
            if curvature.of_edges is not None:
                image = image + torch.einsum("pjl,pl->pj", curvature.of_edges, step)
            return image

        if curvature.coupling is None:
            return -precondition(gradient)
        right = -gradient
        goal = self.tolerance**2 * (right * precondition(right)).sum()
        return conjugate_gradients(normal, right, precondition, goal, self.max_iterations)
