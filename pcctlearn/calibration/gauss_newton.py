"""Gauss–Newton steps for thresholds, with residuals in line integrals or in images."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.tomography.linear_operator import LinearOperator

Jacobian = Float[Tensor, "view pixel material edge"]


@dataclass
class GaussNewton:
    """Least-squares step ΔD = argmin ‖F (r + J ΔD)‖²_W + δ ‖ΔD‖²_diag, solved iteratively.

    J is dA/dD of each ray and F the reconstruction, or the identity. Seen in line integrals the
    pixels are independent and 4 × 4 systems give the step; F couples them all, and conjugate
    gradients, preconditioned by these systems, find it without forming a matrix.

    Args:
        damping: δ, relative to the diagonal of Jᵀ J.
        tolerance: conjugate gradients end when the residual has fallen by this factor,
        max_iterations: or after so many.
    """

    damping: float = 1e-9
    tolerance: float = 1e-3
    max_iterations: int = 60

    def step(
        self,
        jacobian: Jacobian,
        residual: Float[Tensor, "view pixel material"],
        reconstruct: LinearOperator | None = None,
        precision: Float[Tensor, "view pixel material material"] | None = None,
    ) -> Float[Tensor, "pixel edge"]:
        """The change of the edges that best explains the residual A − A_true of the rays."""

        def weigh(sinogram: Tensor) -> Tensor:
            if precision is not None:
                sinogram = torch.einsum("vpkm,vpm->vpk", precision, sinogram)
            if reconstruct is not None:
                channels = sinogram.movedim(-1, 0)
                sinogram = (reconstruct.T @ (reconstruct @ channels)).movedim(0, -1)
            return sinogram

        def adjoint(sinogram: Tensor) -> Tensor:
            return torch.einsum("vpkj,vpk->pj", jacobian, sinogram)

        if precision is None:
            own = torch.einsum("vpkj,vpkl->pjl", jacobian, jacobian)
        else:
            own = torch.einsum("vpkj,vpkm,vpml->pjl", jacobian, precision, jacobian)
        lift = self.damping * own.diagonal(dim1=1, dim2=2)
        lift = torch.where(own.diagonal(dim1=1, dim2=2) > 0, lift, 1)  # edges without any effect
        factor = torch.linalg.cholesky(own + torch.diag_embed(lift))

        def precondition(r: Tensor) -> Tensor:
            return torch.cholesky_solve(r[..., None], factor)[..., 0]

        def normal(step: Tensor) -> Tensor:
            moved = torch.einsum("vpkj,pj->vpk", jacobian, step)
            return adjoint(weigh(moved)) + lift * step

        downhill = -adjoint(weigh(residual))
        if reconstruct is None:
            return precondition(downhill)
        return self._conjugate_gradients(normal, downhill, precondition)

    def _conjugate_gradients(self, normal, right, precondition) -> Tensor:  # type: ignore[no-untyped-def]
        x, r = torch.zeros_like(right), right
        z = precondition(r)
        direction, energy = z, (r * z).sum()
        first = energy
        for _ in range(self.max_iterations):
            if energy <= self.tolerance**2 * first:
                break
            image = normal(direction)
            length = energy / (direction * image).sum()
            x, r = x + length * direction, r - length * image
            z = precondition(r)
            before, energy = energy, (r * z).sum()
            direction = z + energy / before * direction
        return x
