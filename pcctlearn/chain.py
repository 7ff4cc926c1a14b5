"""The differentiable chain: decompose, reconstruct, image."""

from dataclasses import replace

from torch import nn

from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import STAGES, Scan
from pcctlearn.shapes import Counts
from pcctlearn.tomography.linear_operator import LinearOperator


class Chain(nn.Module):
    """Counts to line integrals to density maps to monoenergetic images, as far as it has steps.

    The expected counts behind the line integrals are a side branch, taken where it is asked for.
    """

    def __init__(
        self,
        decompose: MaximumLikelihood,
        reconstruct: LinearOperator | None = None,
        image: MonoenergeticImages | None = None,
    ) -> None:
        super().__init__()
        if image is not None and reconstruct is None:
            raise ValueError("a chain with an image step needs a reconstruct step before it")
        self.decompose, self.reconstruct, self.image = decompose, reconstruct, image

    def forward(self, counts: Counts, until: str = "vmi") -> Scan:
        """Every stage up to ``until``."""
        return self.onward(Scan(counts=counts), until)

    def onward(self, scan: Scan, until: str = "vmi", expect: bool = False) -> Scan:
        """The stages the scan still lacks, up to ``until``; with ``expect`` the side branch too."""
        if until not in STAGES:
            raise ValueError(f"until must be one of {STAGES}, got {until!r}")
        steps = {
            "line_integrals": ("counts", self.decompose),
            "maps": ("line_integrals", self.reconstruct),
            "vmi": ("maps", self.image),
        }
        for stage, (source, step) in steps.items():
            if STAGES.index(stage) > STAGES.index(until) or step is None:
                break
            if getattr(scan, stage) is None:
                scan = replace(scan, **{stage: step(getattr(scan, source))})
        if expect or until == "expected_counts":
            rays = self.decompose.model(scan.at("line_integrals").movedim(1, -1))
            scan = replace(scan, expected_counts=rays.movedim(-1, 1))
        return scan
