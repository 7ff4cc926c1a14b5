"""A loss on any stage of the chain, and sums of them."""

from collections.abc import Mapping

from torch import Tensor, nn

from pcctlearn.scan import STAGES, Scan


class StageLoss(nn.Module):
    """weight · distance(predicted.<stage>, target.<stage>)."""

    def __init__(self, stage: str, distance: nn.Module, weight: float = 1.0) -> None:
        super().__init__()
        if stage not in STAGES:
            raise ValueError(f"stage must be one of {STAGES}, got {stage!r}")
        self.stage, self.distance, self.weight = stage, distance, weight

    def forward(self, predicted: Scan, target: Scan) -> Tensor:
        """Compare one stage of two scans."""
        return self.weight * self.distance(predicted.at(self.stage), target.at(self.stage))


class TotalLoss(nn.Module):
    """Named terms, the ``deepest`` stage the chain must reach for them, and its side branch.

    ``expects`` says that a term looks at the expected counts.
    """

    def __init__(self, terms: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if not terms:
            raise ValueError("a loss needs one term at least")
        self.terms = nn.ModuleDict(dict(terms))
        self.stages = {str(term.stage) for term in terms.values()}
        self.deepest = max(self.stages, key=STAGES.index)
        self.expects = "expected_counts" in self.stages

    def forward(self, predicted: Scan, target: Scan) -> dict[str, Tensor]:
        """The value of each term."""
        return {name: term(predicted, target) for name, term in self.terms.items()}
