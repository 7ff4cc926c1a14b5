"""The differentiable chain: linearise, correct, decompose, reconstruct, image."""

from dataclasses import replace

import torch
from torch import nn

from pcctlearn.decomposition.base import Decomposition
from pcctlearn.physics.pileup import PileUp
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import STAGES, Scan
from pcctlearn.scatter.base import ScatterCorrection
from pcctlearn.shapes import Counts, channels_first, channels_last


class Chain(nn.Module):
    """Counts to line integrals to density maps to monoenergetic images.

    ``linearise`` corrects the counts for pile-up; rays that it does not resolve are not converged.
    ``correct`` estimates the scattered fraction, which is subtracted from the counts; without it
    the uncorrected counts are decomposed. The expected counts of the line integrals are a side
    branch, computed on request. Under autocast only the correction runs in mixed precision; later
    stages keep the precision of the counts.
    """

    def __init__(
        self,
        decompose: Decomposition,
        reconstruct: nn.Module | None = None,
        image: MonoenergeticImages | None = None,
        correct: ScatterCorrection | None = None,
        linearise: PileUp | None = None,
    ) -> None:
        super().__init__()
        if image is not None and reconstruct is None:
            raise ValueError("a chain with an image step needs a reconstruct step before it")
        self.decompose, self.reconstruct, self.image = decompose, reconstruct, image
        self.correct, self.linearise = correct, linearise

    def forward(self, counts: Counts, until: str = "vmi", expect: bool = False) -> Scan:
        """Compute all stages up to ``until``, and with ``expect`` the expected counts."""
        return self.resume(Scan(counts=counts), until, expect)

    def resume(self, scan: Scan, until: str = "vmi", expect: bool = False) -> Scan:
        """Compute missing stages up to ``until``, and with ``expect`` the expected counts."""
        if until not in STAGES:
            raise ValueError(f"until must be one of {STAGES}, got {until!r}")
        missing = [s for s in STAGES[: STAGES.index(until) + 1] if getattr(scan, s) is None]
        counts = "counts"
        if self.linearise is not None:
            counts = "linear_counts"
            if counts in missing:
                rays, resolved = self.linearise.corrected(channels_last(scan.at("counts")))
                scan = replace(scan, linear_counts=channels_first(rays), resolved=resolved)
        if self.correct is not None:
            if "scatter_fraction" in missing:
                scan = replace(scan, scatter_fraction=self.correct(scan.at(counts)))
            if "corrected_counts" in missing:
                primary = scan.at(counts) * (1 - scan.at("scatter_fraction"))
                scan = replace(scan, corrected_counts=primary)
        with torch.autocast(self.decompose.model.energies_keV.device.type, enabled=False):
            if "line_integrals" in missing:
                ready = counts if self.correct is None else "corrected_counts"
                x, converged = self.decompose(scan.at(ready))
                if scan.resolved is not None:
                    converged = converged & scan.resolved
                scan = replace(scan, line_integrals=x, converged=converged)
            if "maps" in missing and self.reconstruct is not None:
                scan = replace(scan, maps=self.reconstruct(scan.at("line_integrals")))
            if "vmi" in missing and self.image is not None:
                scan = replace(scan, vmi=self.image(scan.at("maps")))
        if expect or until == "expected_counts":
            rays = self.decompose.model(channels_last(scan.at("line_integrals")))
            scan = replace(scan, expected_counts=channels_first(rays))
        return scan
