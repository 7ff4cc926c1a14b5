"""Losses on a stage of the chain, and their sum."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from pcctlearn.losses.curvature import Curvature, Linearisation
from pcctlearn.scan import STAGES, Scan


class Loss(nn.Module):
    """A scalar distance of two scans at ``stage`` of the chain.

    ``compares`` is False if the loss needs the predicted scan alone.
    """

    stage: str
    compares = True

    def forward(self, predicted: Scan, target: Scan) -> Tensor:
        """The loss of a predicted scan."""
        raise NotImplementedError

    def curvature(self, at: Linearisation) -> Curvature:
        """Its second derivative, positive semidefinite, for Gauss–Newton steps."""
        raise ValueError(f"{type(self).__name__} has no curvature: use training=adam")


class StageLoss(Loss):
    """weight · distance(predicted.<stage>, target.<stage>)."""

    def __init__(self, stage: str, distance: nn.Module, weight: float = 1.0) -> None:
        super().__init__()
        if stage not in STAGES:
            raise ValueError(f"stage must be one of {STAGES}, got {stage!r}")
        self.stage, self.distance, self.weight = stage, distance, weight

    def forward(self, predicted: Scan, target: Scan) -> Tensor:
        """Compare one stage of two scans."""
        return self.weight * self.distance(predicted.at(self.stage), target.at(self.stage))

    def curvature(self, at: Linearisation) -> Curvature:
        """Curvature of a distance that is a sum over elements, such as ``torch.nn.MSELoss``."""
        x = at.predicted.at(self.stage).detach().requires_grad_()
        distance = self.weight * self.distance(x, at.target.at(self.stage))
        (slope,) = torch.autograd.grad(distance, x, create_graph=True)
        (diagonal,) = torch.autograd.grad(slope.sum(), x, materialize_grads=True)
        if not ((diagonal >= 0).all() and diagonal.any()):
            raise ValueError(
                f"Gauss–Newton needs a distance with a positive second derivative, got "
                f"{type(self.distance).__name__}: use torch.nn.MSELoss, or training=adam"
            )
        return at.of_stage(self.stage, diagonal)


class TotalLoss(nn.Module):
    """Sum of named losses.

    ``deepest`` is the last stage of the chain that they need, ``compared`` the stages at which they
    need a target; ``expects`` is True if one of them needs the expected counts, a side branch of
    the chain.
    """

    def __init__(self, terms: Mapping[str, Loss]) -> None:
        super().__init__()
        if not terms:
            raise ValueError("a loss needs at least one term")
        self.terms = nn.ModuleDict(dict(terms))
        self.stages = {str(term.stage) for term in terms.values()}
        self.compared = {str(term.stage) for term in terms.values() if term.compares}
        self.deepest = max(self.stages, key=STAGES.index)
        self.expects = "expected_counts" in self.stages

    def forward(self, predicted: Scan, target: Scan) -> dict[str, Tensor]:
        """The value of each term."""
        return {name: term(predicted, target) for name, term in self.terms.items()}

    def curvature(self, at: Linearisation) -> Curvature:
        """The curvature of the sum."""
        first, *others = (cast(Loss, term).curvature(at) for term in self.terms.values())
        return sum(others, first)
