"""Sobolev loss: errors of line integrals and of their derivative in the log counts.

L = mean_rays Σ_m [ (A_m − A*_m)² / τ_m² + ‖J_m − J*_m‖² / (ε ‖J*_m‖)² ], with J = ∂A/∂p and
p_b = log(air_b / n_b); A* and J* are those of the maximum-likelihood decomposition.

W. M. Czarnecki et al., "Sobolev training for neural networks", NIPS (2017). arXiv:1706.04859
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.decomposition.sensitivity import count_jacobian
from pcctlearn.shapes import Attenuation, RayCounts, RayLineIntegrals, RayMask
from pcctlearn.validation import require_positive

LogCountJacobian = Float[Tensor, "ray material bin"]


class SobolevTarget(NamedTuple):
    """Log counts p (ray, bin), line integrals A* in g/cm², and J* = ∂A*/∂p in g/cm²."""

    log_counts: Tensor
    line_integrals: Tensor
    jacobian: Tensor


def sobolev_target(
    counts: Float[Tensor, "ray bin"],
    spectra: Float[Tensor, "bin energy"],
    attenuation: Attenuation,
) -> tuple[SobolevTarget, RayMask]:
    """Values and derivatives of the maximum-likelihood decomposition without bounds.

    ∂A/∂p_b = −n_b ∂A/∂n_b. Rays that are not solved or have an empty bin are left out; the mask is
    True for the others.
    """
    solution = decompose(counts, spectra, attenuation)
    kept = solution.converged & (counts > 0).all(-1)
    n, A = counts[kept], solution.x[kept]
    jacobian = -n[:, None] * count_jacobian(A, n, spectra, attenuation)
    return SobolevTarget(torch.log(spectra.sum(-1) / n), A, jacobian), kept


def jacobian_of(
    function: Callable[[RayCounts], RayLineIntegrals], log_counts: Float[Tensor, "ray bin"]
) -> tuple[Float[Tensor, "ray material"], LogCountJacobian]:
    """The line integrals of a function of each ray's log counts, and ∂A/∂p by autograd.

    The result has a graph if gradients are enabled.
    """
    keep = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():  # Lightning validates in inference mode
        p = log_counts.detach().clone().requires_grad_()
        A = function(p)
        rows = [
            torch.autograd.grad(one.sum(), p, create_graph=keep, retain_graph=True)[0]
            for one in A.unbind(-1)
        ]
    return (A if keep else A.detach()), torch.stack(rows, -2)


def relative_errors(
    found: LogCountJacobian, known: LogCountJacobian
) -> Float[Tensor, "ray material"]:
    """‖J_m − J*_m‖ / ‖J*_m‖ of each ray and material."""
    return (found - known).norm(dim=-1) / known.norm(dim=-1)


class SobolevLoss(nn.Module):
    """Errors of values and Jacobian of a decomposition, each in units of its tolerance.

    Args:
        value_tolerance_g_cm2: {material: τ}; in the order of the basis materials.
        jacobian_tolerance: ε, relative to the norm of each material's row; ``None`` for a loss on
            the values alone.
    """

    def __init__(
        self,
        value_tolerance_g_cm2: Mapping[str, float],
        jacobian_tolerance: float | None = 0.01,
    ) -> None:
        super().__init__()
        require_positive(
            **{f"value_tolerance_g_cm2.{m}": v for m, v in value_tolerance_g_cm2.items()}
        )
        if jacobian_tolerance is not None:
            require_positive(jacobian_tolerance=jacobian_tolerance)
        self.materials = list(value_tolerance_g_cm2)
        self.tolerance = list(value_tolerance_g_cm2.values())
        self.jacobian_tolerance = jacobian_tolerance

    def forward(
        self, function: Callable[[RayCounts], RayLineIntegrals], target: SobolevTarget
    ) -> dict[str, Tensor]:
        """The terms "values" and "jacobian" of a function from log counts to line integrals."""
        p, known, known_jacobian = target
        tolerance = known.new_tensor(self.tolerance)
        if self.jacobian_tolerance is None:
            return {"values": ((function(p) - known) / tolerance).square().sum(-1).mean()}
        A, jacobian = jacobian_of(function, p)
        relative = relative_errors(jacobian, known_jacobian) / self.jacobian_tolerance
        return {
            "values": ((A - known) / tolerance).square().sum(-1).mean(),
            "jacobian": relative.square().sum(-1).mean(),
        }
