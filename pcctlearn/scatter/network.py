"""A convolutional network that estimates the scattered fraction of the counts, view by view."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scatter.base import ScatterCorrection, fraction_of
from pcctlearn.shapes import Counts
from pcctlearn.tomography.geometry.cone import ConeBeam

_LEAST_TRANSMISSION = 1e-5
_MOST_STAGES, _MOST_CHANNELS = 64, 4096
_MOST_PIXELS = 2**16  # along a side of the panel, and in the whole grid
_MOST_WEIGHTS = 2**26  # 268 MB


class ScatterNetwork(ScatterCorrection):
    """Scattered fraction of the counts in every pixel and bin, with 0 < fraction < 1.

    The network of [1] has stages of two 3 × 3 convolutions each, with batch normalisation and ReLU,
    followed by two more convolutions and a coarse grid, because scatter is smooth on the scale of
    centimetres. The panel may have any size: strides of two and an average reduce it to the grid. A
    cubic B-spline, whose weights are positive and sum to one, interpolates the grid to the pixels.

    The grid contains scatter over air, s, which is smooth. Scatter over counts, x = s · air /
    counts, has the edges of the primary counts. The fraction is x up to 0.5, and 1 − 1/(4 x)
    beyond, so that corrected counts are positive for any network output. With
    ``predicts="fraction"`` the grid contains the fraction, after a sigmoid, as in [1].

    Args:
        geometry, model: the scanner; the input of the network is −log(counts / air).
        channels: numbers of channels of the stages.
        grid: (rows, columns) of the coarse output.
        initial_scatter: scatter over air, or the fraction, that the untrained network predicts.
        predicts: "scatter" or "fraction", the quantity on the grid.
        panel: (rows, columns) of the training scans, which determine the strides; by default those
            of the geometry.
    """

    title = "A network"
    needs_scans = True
    air: Tensor

    def __init__(
        self,
        geometry: ConeBeam,
        model: SpectralModel,
        channels: Sequence[int] = (64, 128, 128, 64),
        grid: Sequence[int] = (8, 12),
        initial_scatter: float = 3e-3,
        predicts: Literal["scatter", "fraction"] = "scatter",
        panel: Sequence[int] | None = None,
    ) -> None:
        panel = (geometry.n_rows, geometry.n_columns) if panel is None else panel
        _check_sizes(channels=channels, grid=grid, panel=panel)
        super().__init__(
            channels=list(channels), grid=list(grid), predicts=predicts, panel=list(panel)
        )
        if not 0 < initial_scatter < 1:
            raise ValueError(f"initial_scatter must lie between 0 and 1, got {initial_scatter}")
        if predicts not in ("scatter", "fraction"):
            raise ValueError(f"predicts must be scatter or fraction, got {str(predicts)[:60]!r}")
        air = model.air().detach()
        air = air.reshape(-1, air.shape[-1]).mean(0).float()  # one for all pixels
        widths = [len(air), *channels]
        _check_weights(widths)
        self.predicts = predicts
        self.register_buffer("air", air, persistent=False)
        self.grid = (grid[0], grid[1])
        halvings = max(0, round(math.log2(panel[1] / grid[1])))
        strides = [2 if k < halvings - 1 else 1 for k in range(len(channels))]
        stages = [
            _stage(n_in, n_out, stride)
            for n_in, n_out, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        ]
        self.encoder = nn.Sequential(*stages, _layer(widths[-1], widths[-1], 1))
        self.shrink = _layer(widths[-1], widths[-1], 2 if halvings else 1)
        self.head = nn.Conv2d(widths[-1], len(air), 1)
        nn.init.zeros_(self.head.weight)
        bias = _bias(initial_scatter, predicts)
        self.head.bias = nn.Parameter(torch.full((len(air),), bias))

    def coarse(self, counts: Counts) -> Float[Tensor, "image bin grid_row grid_column"]:
        """Predicted quantity on the coarse grid, one image for each view of each scan."""
        air = self.air.to(counts)[:, None, None]
        images = counts.movedim(1, 2).flatten(0, 1)  # batch and view
        thickness = -torch.log((images / air).clamp(min=_LEAST_TRANSMISSION))
        thickness = thickness.contiguous(memory_format=torch.channels_last)  # faster on a CPU
        features = self.shrink(self.encoder(thickness))
        if features.shape[-2:] != self.grid:
            features = nn.functional.adaptive_avg_pool2d(features, self.grid)
        predicted = self.head(features)
        # scatter spans decades: with the exponential, steps are relative
        return torch.sigmoid(predicted) if self.predicts == "fraction" else torch.exp(predicted)

    def forward(self, counts: Counts) -> Counts:
        """Scattered fraction of counts (batch, bin, view, row, column) in photons."""
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


def spline_matrix(n_fine: int, n_coarse: int) -> Float[Tensor, "fine coarse"]:
    """Cubic B-splines on n_coarse knots over n_fine pixels; the end knots are repeated."""
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


def _check_sizes(**sizes: Sequence[int]) -> None:
    """Raise ValueError for impossible sizes of the network."""
    lengths = {"channels": range(1, _MOST_STAGES + 1), "grid": range(2, 3), "panel": range(2, 3)}
    for name, values in sizes.items():
        most = _MOST_CHANNELS if name == "channels" else _MOST_PIXELS
        if (
            not isinstance(values, Sequence)
            or len(values) not in lengths[name]
            or not all(type(n) is int and 1 <= n <= most for n in values)
            or (name == "grid" and math.prod(values) > _MOST_PIXELS)
        ):
            raise ValueError(
                f"{name} of the network must be {'a few' if name == 'channels' else 'two'} whole "
                f"numbers of 1 … {most}, got {str(values)[:60]}"
            )


def _check_weights(widths: Sequence[int]) -> None:
    """Raise ValueError for a network that may not fit into memory."""
    stages = sum(9 * a * b + 9 * b * b for a, b in pairwise(widths))
    if (n_weights := stages + 18 * widths[-1] ** 2) > _MOST_WEIGHTS:
        raise ValueError(
            f"channels {widths[1:]} give {n_weights:.3g} weights, more than {_MOST_WEIGHTS:.3g}: "
            "choose fewer or smaller stages"
        )


def _bias(initial: float, predicts: str) -> float:
    """The value before the sigmoid or the exponential."""
    return math.log(initial / (1 - initial)) if predicts == "fraction" else math.log(initial)


def _layer(n_in: int, n_out: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
    )


def _stage(n_in: int, n_out: int, stride: int) -> nn.Module:
    return nn.Sequential(_layer(n_in, n_out, stride), _layer(n_out, n_out, 1))
