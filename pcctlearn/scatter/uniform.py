"""Corrections that ignore the object: constant scatter, and a constant share of the counts."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scan import Scan
from pcctlearn.scatter.base import ScatterCorrection, fraction_of
from pcctlearn.shapes import Counts
from pcctlearn.tomography.geometry.cone import ConeBeam

_BEHIND = 0.5  # transmission below which a ray counts as crossing the object


class UniformScatter(ScatterCorrection):
    """Scatter fraction s_b a_b / n, for counts n, air counts a_b, and one number s_b per bin.

    It is the baseline of learned corrections, because it contains no information on the object.
    """

    title = "Uniform scatter"
    needs_scans = True
    air: Tensor
    scatter_over_air: Tensor

    def __init__(self, geometry: ConeBeam, model: SpectralModel) -> None:
        super().__init__()
        air = model.air().detach()
        self.register_buffer("air", air.reshape(-1, air.shape[-1]).mean(0), persistent=False)
        self.register_buffer("scatter_over_air", torch.zeros_like(self.air))

    def fit(
        self, scans: Sequence[Scan], fit_by_gradient: Callable[[], dict[str, float]]
    ) -> dict[str, float]:
        """The least-squares s: mean scatter over all rays of the scans, relative to air."""
        scatter = torch.cat([scan.at("counts") * scan.at("scatter_fraction") for scan in scans])
        self.scatter_over_air.copy_(scatter.mean((0, 2, 3, 4)) / self.air)
        fitted = self.scatter_over_air.tolist()
        return {f"scatter_over_air_bin_{b}": s for b, s in enumerate(fitted, 1)}

    def forward(self, counts: Counts) -> Counts:
        """Scattered fraction of counts (batch, bin, view, row, column) in photons."""
        scatter = (self.scatter_over_air * self.air).to(counts)[:, None, None, None]
        return fraction_of(scatter / counts.clamp(min=torch.finfo(counts.dtype).tiny))


class UniformFraction(ScatterCorrection):
    """Scatter fraction f_b, one number per bin.

    Like ``UniformScatter`` it contains no information on the object, but it assumes scatter in
    proportion to the counts of a ray rather than to air.
    """

    title = "A constant scatter fraction"
    needs_scans = True
    air: Tensor
    fraction: Tensor

    def __init__(self, geometry: ConeBeam, model: SpectralModel) -> None:
        super().__init__()
        air = model.air().detach()
        self.register_buffer("air", air.reshape(-1, air.shape[-1]).mean(0), persistent=False)
        self.register_buffer("fraction", torch.zeros_like(self.air))

    def fit(
        self, scans: Sequence[Scan], fit_by_gradient: Callable[[], dict[str, float]]
    ) -> dict[str, float]:
        """f = Σ scatter / Σ counts over the rays that lose more than half of their photons.

        Rays beside the object have next to no scatter, and would lower f. A ratio of sums is not
        biased by the noise of single rays.
        """
        for number, air in enumerate(self.air):
            counts = torch.cat([scan.at("counts")[:, number] for scan in scans])
            fraction = torch.cat([scan.at("scatter_fraction")[:, number] for scan in scans])
            behind = counts < _BEHIND * air
            if behind.any():
                scatter = (counts * fraction)[behind].sum()
                self.fraction[number] = (scatter / counts[behind].sum()).clamp(0, 1)
        return {f"scatter_fraction_bin_{b}": f for b, f in enumerate(self.fraction.tolist(), 1)}

    def forward(self, counts: Counts) -> Counts:
        """Scattered fraction of counts (batch, bin, view, row, column) in photons."""
        return self.fraction.to(counts)[:, None, None, None].expand_as(counts)
