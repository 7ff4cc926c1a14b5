"""The protocol of a decomposition: counts in, line integrals and their mask out."""

from torch import nn

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.shapes import Counts
from pcctlearn.solvers.quadratic import Solution


class Decomposition(nn.Module):
    """Counts to basis-material line integrals through the scanner's ``model``.

    A subclass writes ``forward``.
    """

    def __init__(self, model: SpectralModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, counts: Counts) -> Solution:
        """Line integrals x (batch, material, view, *pixel) in g/cm² and ``converged``.

        ``converged`` (batch, view, *pixel) is False for rays whose x is not to be trusted. They
        hold finite values and pass no gradient.
        """
        raise NotImplementedError

    def bounds(self) -> list[list[float]] | None:
        """Lower and upper limits of the materials in g/cm², or None where every material is free.

        A ray on a limit does not follow a change of the scanner.
        """
        return None
