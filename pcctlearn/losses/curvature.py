"""Second derivatives of a loss with respect to line integrals and thresholds."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.chain import Chain
from pcctlearn.scan import Scan
from pcctlearn.shapes import RayLineIntegrals, channels_last
from pcctlearn.tomography.linear_operator import LinearOperator

RaySystem = Float[Tensor, "view pixel material material"]
EdgeSystem = Float[Tensor, "pixel edge edge"]
Sinograms = Float[Tensor, "material view pixel"]


@dataclass(frozen=True)
class Curvature:
    """∂²L/∂A² in the line integrals, and the part of ∂²L/∂D² that does not act through them.

    Args:
        of_rays: diagonal blocks of ∂²L/∂A², one for each ray.
        of_edges: the part of ∂²L/∂D² that does not act through the line integrals.
        coupling: product with ∂²L/∂A² if it couples rays, as FᵀF does for a loss on images;
            ``None`` if it is block-diagonal.
    """

    of_rays: RaySystem
    of_edges: EdgeSystem | None = None
    coupling: Callable[[Sinograms], Sinograms] | None = None

    def __add__(self, other: "Curvature") -> "Curvature":
        """The curvature of the sum of two losses."""
        edges = [part.of_edges for part in (self, other) if part.of_edges is not None]
        coupled = self.coupling is not None or other.coupling is not None
        return Curvature(
            self.of_rays + other.of_rays,
            torch.stack(edges).sum(0) if edges else None,
            (lambda sinograms: self @ sinograms + other @ sinograms) if coupled else None,
        )

    def __matmul__(self, sinograms: Sinograms) -> Sinograms:
        """∂²L/∂A² times sinograms."""
        if self.coupling is not None:
            return self.coupling(sinograms)
        return torch.einsum("vpkm,mvp->kvp", self.of_rays, sinograms)


@dataclass(frozen=True)
class Linearisation:
    """A predicted scan and the Jacobian dA/dD of its line integrals.

    Args:
        chain: the chain, with the thresholds D of ``predicted``.
        predicted, target: the scans that a loss compares.
        jacobian: dA/dD in g/cm² per keV; zero for fixed edges and rays.
    """

    chain: Chain
    predicted: Scan
    target: Scan
    jacobian: Float[Tensor, "view pixel material edge"]

    @property
    def rays(self) -> RayLineIntegrals:
        """The predicted line integrals, (view, pixel, material)."""
        return channels_last(self.predicted.at("line_integrals"))[0].detach()

    def of_stage(self, stage: str, diagonal: Tensor) -> Curvature:
        """Jᵀ diag(h) J, with J = ∂stage/∂A and h the second derivative in each element."""
        if stage == "line_integrals":
            return Curvature(torch.diag_embed(channels_last(diagonal)[0]))
        if stage != "maps":
            raise ValueError(
                f"Gauss–Newton needs a loss on line_integrals or maps, got one on {stage}: use "
                "training=adam"
            )
        F = self.chain.reconstruct
        if not isinstance(F, LinearOperator):
            raise ValueError(
                f"Gauss–Newton needs a linear reconstruction, got {type(F).__name__}: build it "
                'with truncation="cosine"'
            )
        one = torch.eye(self.rays.shape[-1]).to(self.rays)  # approximates FᵀF in every ray
        return Curvature(
            diagonal.mean() * one.expand(*self.rays.shape, -1),
            coupling=lambda sinograms: F.T @ (diagonal[0] * (F @ sinograms)),
        )
