"""What tells scatter from the counts of one scanner: a network, or kernels of its own pencil beams.

Both are modules that give scatter over all counts, ``Chain.correct``.
"""

from collections.abc import Sequence
from typing import Literal

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scatter.kernel import KernelScatter
from pcctlearn.scatter.network import ScatterNetwork
from pcctlearn.scatter.pencil_beams import THICKNESSES_cm, fit_kernels
from pcctlearn.tomography.cone_geometry import ConeBeam


def network(
    geometry: ConeBeam,
    model: SpectralModel,
    channels: Sequence[int] = (64, 128, 128, 64),
    grid: Sequence[int] = (8, 12),
    start: float = 3e-3,
    predicts: Literal["scatter", "fraction"] = "scatter",
) -> ScatterNetwork:
    """An untrained ``ScatterNetwork`` for this panel and these bins."""
    panel = (geometry.n_rows, geometry.n_columns)
    return ScatterNetwork(model.air().detach().float(), channels, grid, panel, start, predicts)


def kernel(
    geometry: ConeBeam,
    model: SpectralModel,
    thicknesses_cm: Sequence[float] = THICKNESSES_cm,
    borders_cm: Sequence[float] = (6.0, 12.0),
    n_histories: int = 64_000,
    grid_transmission: float | Sequence[float] = 1.0,
    seed: int = 0,
) -> KernelScatter:
    """``KernelScatter`` fitted to this scanner's pencil beams; without a grid, as they stand."""
    parameters = fit_kernels(
        geometry, model, thicknesses_cm, borders_cm, seed=seed, n_histories=n_histories
    )
    return KernelScatter(
        parameters,
        model.air().detach().double(),
        (geometry.row_cm, geometry.column_cm),
        grid_transmission,
        offset_cm=(geometry.row_offset_cm, geometry.offset_cm),
    )
