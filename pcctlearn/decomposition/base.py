"""The protocol of a material decomposition: counts to line integrals and their mask."""

from collections.abc import Callable

from torch import Tensor, nn

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.shapes import Counts
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

    def covariance(self, counts: Counts, variance: Counts | None = None) -> Tensor | None:
        """Covariance (batch, view, *pixel, material, material) of the noise in (g/cm²)², or None.

        None: this decomposition does not compute it.

        Args:
            counts: as in ``forward``.
            variance: of the counts; by default the counts.
        """
        return None

    def bounds(self) -> list[list[float]] | None:
        """Lower and upper limits of the materials in g/cm², or None if all materials are free.

        Line integrals on a limit do not depend on the thresholds.
        """
        return None
