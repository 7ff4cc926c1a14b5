"""The protocol of a material decomposition: counts to line integrals and their mask."""

from torch import nn

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.shapes import Counts
from pcctlearn.solvers.quadratic import Solution


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

    def bounds(self) -> list[list[float]] | None:
        """Lower and upper limits of the materials in g/cm², or None if all materials are free.

        Line integrals on a limit do not depend on the thresholds.
        """
        return None
