"""The differentiable chain: decompose, reconstruct, image."""

from dataclasses import replace

from torch import nn

from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import STAGES, Scan
from pcctlearn.shapes import Counts
from pcctlearn.tomography.linear_operator import LinearOperator


class Chain(nn.Module):
    """Counts to line integrals to density maps to monoenergetic images.

    Each step is named for the stage it leads to. A chain may end early: without a ``reconstruct``
    it ends at the line integrals, without an ``image`` at the maps.
    """

    def __init__(
        self,
        decompose: MaximumLikelihood,
        reconstruct: LinearOperator | None = None,
        image: MonoenergeticImages | None = None,
    ) -> None:
        super().__init__()
        steps: list[nn.Module | None] = [decompose, reconstruct, image]
        given = [step for step in steps if step is not None]
        if given != steps[: len(given)]:
            raise ValueError("a chain with an image step needs a reconstruct step before it")
        self.steps = nn.ModuleDict(dict(zip(STAGES[1:], given, strict=False)))

    def forward(self, counts: Counts, until: str | None = None) -> Scan:
        """Every stage up to ``until``, or as far as the chain goes."""
        stages = ["counts", *self.steps]
        if until is not None and until not in stages:
            raise ValueError(f"until must be one of {stages}, got {until!r}")
        scan, value = Scan(counts=counts), counts
        for stage, step in self.steps.items():
            if until is not None and stages.index(stage) > stages.index(until):
                break
            value = step(value)
            scan = replace(scan, **{stage: value})
        return scan
