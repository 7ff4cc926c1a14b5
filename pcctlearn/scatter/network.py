"""A network that looks at the counts of one view and tells which share of them is scatter."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pcctlearn.shapes import Counts

_LEAST_TRANSMISSION = 1e-5


class ScatterNetwork(nn.Module):
    """Scatter over all counts in every pixel and bin, from the counts of a view; 0 < fraction < 1.

    Four stages of two 3 × 3 convolutions each, with batch normalisation and ReLU, then two more and
    a coarse grid: scatter is smooth on the scale of centimetres. The panel may have any size;
    strides of two bring it near the grid, and averaging the rest of the way. A cubic B-spline
    brings the grid back to the pixels: its weights are positive and sum to one.

    On the grid lies scatter over air, s, which is smooth. Scatter over counts, x = s · air /
    counts, is not: it has the edges of primary counts. The fraction is x up to a half, and
    1 − 1/(4 x) beyond, so that some counts are left whatever the network says. With
    ``predicts="fraction"`` the fraction itself is on the grid, after a sigmoid, as in the article
    that this network is from.

    Args:
        air: (bin) counts with nothing in the beam; the network looks at −log(counts / air).
        channels: of the stages.
        grid: (rows, columns) of the coarse output.
        panel: (rows, columns) of what it will learn from, which decide the strides.
        start: what the untrained network begins near: scatter over air, or the fraction.
        predicts: "scatter" or "fraction", what is smooth.
    """

    air: Tensor

    def __init__(
        self,
        air: Float[Tensor, "bin"],
        channels: Sequence[int] = (64, 128, 128, 64),
        grid: Sequence[int] = (8, 12),
        panel: Sequence[int] = (64, 96),
        start: float = 3e-3,
        predicts: Literal["scatter", "fraction"] = "scatter",
    ) -> None:
        super().__init__()
        if not 0 < start < 1:
            raise ValueError(f"start is a fraction between 0 and 1, got {start}")
        self.predicts = predicts
        self.settings = {
            "channels": list(channels),
            "grid": list(grid),
            "panel": list(panel),
            "predicts": predicts,
        }  # what builds it again, in plain words
        self.register_buffer("air", air.detach().clone())
        self.grid = (grid[0], grid[1])
        halvings = max(0, round(math.log2(panel[1] / grid[1])))
        strides = [2 if k < halvings - 1 else 1 for k in range(len(channels))]
        widths = [len(air), *channels]
        stages = [
            _stage(before, after, stride)
            for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        ]
        self.encoder = nn.Sequential(*stages, _layer(widths[-1], widths[-1], 1))
        self.shrink = _layer(widths[-1], widths[-1], 2 if halvings else 1)
        self.head = nn.Conv2d(widths[-1], len(air), 1)
        nn.init.zeros_(self.head.weight)
        self.head.bias = nn.Parameter(torch.full((len(air),), _before(start, predicts)))

    def coarse(self, counts: Counts) -> Float[Tensor, "image bin grid_row grid_column"]:
        """What is predicted, on the coarse grid, one image for each view of each scan."""
        air = self.air.to(counts)[:, None, None]
        images = counts.movedim(1, 2).flatten(0, 1)  # batch and view
        thickness = -torch.log((images / air).clamp(min=_LEAST_TRANSMISSION))
        features = self.shrink(self.encoder(thickness))
        if features.shape[-2:] != self.grid:
            features = nn.functional.adaptive_avg_pool2d(features, self.grid)
        predicted = self.head(features)
        # scatter spans decades: an exponential, so that steps are relative
        return torch.sigmoid(predicted) if self.predicts == "fraction" else torch.exp(predicted)

    def forward(self, counts: Counts) -> Counts:
        """(batch, bin, view, row, column) photons to the fraction of them that is scatter."""
        n_batch, _, n_views, n_rows, n_columns = counts.shape
        coarse = self.coarse(counts)
        rows = spline_matrix(n_rows, self.grid[0]).to(coarse)
        columns = spline_matrix(n_columns, self.grid[1]).to(coarse)
        fine = rows @ coarse @ columns.mT
        smooth = fine.unflatten(0, (n_batch, n_views)).movedim(1, 2).to(counts.dtype)
        if self.predicts == "fraction":
            return smooth
        air = self.air.to(counts)[:, None, None, None]
        return fraction_of(smooth * air / counts.clamp(min=_LEAST_TRANSMISSION * air))


def fraction_of(ratio: Tensor) -> Tensor:
    """x up to a half and 1 − 1/(4 x) beyond: smooth (C¹), and below one."""
    return torch.where(ratio <= 0.5, ratio, 1 - 0.25 / ratio.clamp(min=0.5))


def spline_matrix(n_fine: int, n_coarse: int) -> Float[Tensor, "fine coarse"]:
    """Cubic B-splines on n_coarse knots over a line of n_fine pixels; at its ends they repeat."""
    position = (np.arange(n_fine) + 0.5) * n_coarse / n_fine - 0.5
    first = np.floor(position).astype(int)
    t = position - first
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1
    )
    matrix = np.zeros((n_fine, n_coarse))
    for k in range(4):
        knot = np.clip(first + k - 1, 0, n_coarse - 1)
        np.add.at(matrix, (np.arange(n_fine), knot), weights[:, k] / 6)
    return torch.from_numpy(matrix)


def _before(start: float, predicts: str) -> float:
    return math.log(start / (1 - start)) if predicts == "fraction" else math.log(start)


def _layer(before: int, after: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


def _stage(before: int, after: int, stride: int) -> nn.Module:
    return nn.Sequential(_layer(before, after, stride), _layer(after, after, 1))
