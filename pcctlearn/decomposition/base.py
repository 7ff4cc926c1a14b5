"""The protocol of a material decomposition: counts to line integrals and their mask."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.shapes import Counts, LineIntegrals, channels_last
from pcctlearn.solvers.quadratic import Solution
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.grids import SliceGrid


class Decomposition(nn.Module):
    """Counts to basis-material line integrals; a subclass defines ``forward``.

    Args:
        model: the scanner; its ``materials`` are the basis.
    """

    def __init__(self, model: SpectralModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, counts: Counts) -> Solution:
        """Line integrals x (batch, material, view, *pixel) in g/cm², and ``converged``.

        ``converged`` (batch, view, *pixel) is False for rays whose x is not reliable: it is finite
        but passes no gradient.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(counts)")

    def of_scan(
        self, geometry: Geometry, grid: SliceGrid, reconstruct: Callable[[Tensor], Tensor]
    ) -> "Decomposition":
        """This decomposition for one scan; one that needs images of it keeps the reconstruction.

        Args:
            geometry, grid: of the scan.
            reconstruct: line integrals (…, view, [row,] column) to maps.
        """
        return self

    def count_jacobian(
        self, counts: Counts, line_integrals: LineIntegrals | None = None
    ) -> Float[Tensor, "batch view *pixel material bin"]:
        """∂x/∂n of each ray in g/cm² per photon; by default by autograd.

        Args:
            counts: as in ``forward``.
            line_integrals: result of ``forward``, if it is known.
        """
        with torch.enable_grad():  # rays are independent: one backward pass for each material
            n = counts.detach().requires_grad_()
            x = self(n).x
            rows = [torch.autograd.grad(one.sum(), n, retain_graph=True)[0] for one in x.unbind(1)]
        return torch.stack([channels_last(row) for row in rows], -2)

    def covariance(
        self,
        counts: Counts,
        of_counts: Float[Tensor, "batch view *pixel bin bin"] | None = None,
        line_integrals: LineIntegrals | None = None,
    ) -> Float[Tensor, "batch view *pixel material material"]:
        """J Cov(n) Jᵀ, covariance of the noise of the line integrals of a ray in (g/cm²)².

        J = ∂x/∂n is that of the measured counts, so that no model of the noise enters but that of
        the counts. It is linear in the noise: with few photons in a bin the estimate is biased and
        its variance greater than this.

        Args:
            counts: as in ``forward``.
            of_counts: covariance of the counts; by default they are Poisson, Cov(n) = diag n.
            line_integrals: result of ``forward``, if it is known.
        """
        J = self.count_jacobian(counts, line_integrals)
        if of_counts is None:
            return (J * channels_last(counts)[..., None, :]) @ J.mT
        return J @ of_counts @ J.mT

    def bounds(self) -> list[list[float]] | None:
        """Lower and upper limits of the materials in g/cm², or None if all materials are free.

        Line integrals on a limit do not depend on the thresholds.
        """
        return None
