"""The differentiable chain: correct, decompose, reconstruct, image."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import STAGES, Scan
from pcctlearn.shapes import Counts


class Chain(nn.Module):
    """Counts to line integrals to density maps to monoenergetic images, as far as it has steps.

    ``correct`` estimates the scattered fraction of the counts, which is then taken from them; a
    chain without it decomposes the counts as they are. The expected counts behind the line
    integrals are a side branch, taken where it is asked for. Under autocast the correction alone
    has mixed precision: what follows keeps that of the counts.
    """

    def __init__(
        self,
        decompose: MaximumLikelihood,
        reconstruct: nn.Module | None = None,
        image: MonoenergeticImages | None = None,
        correct: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if image is not None and reconstruct is None:
            raise ValueError("a chain with an image step needs a reconstruct step before it")
        self.decompose, self.reconstruct, self.image = decompose, reconstruct, image
        self.correct = correct

    def forward(self, counts: Counts, until: str = "vmi", expect: bool = False) -> Scan:
        """Every stage up to ``until``; with ``expect`` the side branch too."""
        return self.onward(Scan(counts=counts), until, expect)

    def onward(self, scan: Scan, until: str = "vmi", expect: bool = False) -> Scan:
        """The stages the scan still lacks, up to ``until``; with ``expect`` the side branch too."""
        if until not in STAGES:
            raise ValueError(f"until must be one of {STAGES}, got {until!r}")
        for stage, step in self._steps().items():
            if STAGES.index(stage) > STAGES.index(until) or step is None:
                break
            if getattr(scan, stage) is None:
                with _precision(scan, mixed=stage == "scatter_fraction"):
                    scan = replace(scan, **{stage: step(scan)})
        if expect or until == "expected_counts":
            rays = self.decompose.model(scan.at("line_integrals").movedim(1, -1))
            scan = replace(scan, expected_counts=rays.movedim(-1, 1))
        return scan

    def _steps(self) -> dict[str, Callable[[Scan], Tensor] | None]:
        """What makes each stage of a scan that has come to the one before, in their order."""
        correct, reconstruct, image = self.correct, self.reconstruct, self.image
        correction: dict[str, Callable[[Scan], Tensor] | None] = {}
        counted = "counts"
        if correct is not None:
            counted = "corrected_counts"
            correction = {
                "scatter_fraction": lambda scan: correct(scan.at("counts")),
                counted: lambda scan: scan.at("counts") * (1 - scan.at("scatter_fraction")),
            }
        return {
            **correction,
            "line_integrals": lambda scan: self.decompose(scan.at(counted)),
            "maps": reconstruct and (lambda scan: reconstruct(scan.at("line_integrals"))),
            "vmi": image and (lambda scan: image(scan.at("maps"))),
        }


def _precision(scan: Scan, mixed: bool) -> torch.autocast:
    """Autocast as it is where ``mixed``, else none."""
    device = next(held for held in vars(scan).values() if held is not None).device.type
    return torch.autocast(device, enabled=mixed and torch.is_autocast_enabled(device))
