"""Uniform scatter: the same scatter in every pixel and view, a correction that sees no object."""

import torch
from torch import Tensor, nn

from pcctlearn.scatter.network import fraction_of
from pcctlearn.shapes import Counts


class UniformScatter(nn.Module):
    """Scatter fraction s_b a_b / n, for counts n, air a_b, and one number s_b for each bin.

    A correction that learns must be better than this to have learned anything from the object.

    Args:
        scatter_over_air: s (bin).
        air: a (bin) photons.
    """

    scatter: Tensor

    def __init__(self, scatter_over_air: Tensor, air: Tensor) -> None:
        super().__init__()
        self.register_buffer("scatter", (scatter_over_air * air)[:, None, None, None])

    @classmethod
    def fitted(cls, counts: Counts, scatter: Counts, air: Tensor) -> "UniformScatter":
        """The least-squares s: mean scatter over all rays of some scans, relative to air."""
        return cls(scatter.mean((0, 2, 3, 4)) / air, air)

    def forward(self, counts: Counts) -> Counts:
        """(batch, bin, view, row, column) photons to the fraction of them that is scatter."""
        return fraction_of(
            self.scatter.to(counts) / counts.clamp(min=torch.finfo(counts.dtype).tiny)
        )
