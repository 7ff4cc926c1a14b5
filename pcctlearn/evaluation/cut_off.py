"""Objects that extend beyond the detector."""

from math import ceil

from torch import Tensor

from pcctlearn.scan import SHADOW_G_CM2, Scan
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.grids import VolumeGrid

_MOST_VIEWS = 8
_MOST_PERCENT = 1.0  # single rays can be wrong
_WIDER = 1.1  # grid that causes extrapolation, over the field that is measured


def cut_off_percent(outcome: Scan, geometry: Geometry) -> float:
    """Percentage of the rays at an end of the detector that cross the object; the larger end's.

    The shorter end of a displaced detector in a full turn does not count: the longer side measures
    its lines.
    """
    totals = outcome.at("line_integrals").sum(1)[0]  # (view, row, column)
    shares = (
        _smooth(totals[..., -side]) > SHADOW_G_CM2  # column 0 and column −1
        for side in geometry.deciding_sides
    )
    return max((100 * share.double().mean().item() for share in shares), default=0.0)


def _smooth(totals: Tensor) -> Tensor:
    """Means (block, row) over blocks of views, at most eight: fewer photons than 1000 are noisy."""
    n = max(1, min(_MOST_VIEWS, len(totals) // 16))
    return totals[: len(totals) // n * n].unflatten(0, (-1, n)).mean(1)


def cut_off_warning(percent: float, geometry: Geometry, grid: VolumeGrid) -> str:
    """A sentence for an object that is cut off; empty if hardly any rays at the ends cross it.

    Rows are extrapolated where the grid is wider than the detector.
    """
    if percent < _MOST_PERCENT:
        return ""
    crossed = (
        f"{percent:.3g} % of the rays at one end of the detector cross the object, which is "
        "therefore cut off"
    )
    is_extrapolated = geometry.is_truncated(grid)
    if all(is_extrapolated[side] for side in geometry.deciding_sides):
        return (
            f"{crossed}; its rows are extrapolated with water, and densities remain wrong by tens "
            "of HU, most of all near the ends of the detector: scan with more columns"
        )
    (dy, dx), diameter_cm = grid.slice_spacing_cm, 2 * _WIDER * geometry.measured_radius_cm
    n_y, n_x = max(grid.n_y, ceil(diameter_cm / dy)), max(grid.n_x, ceil(diameter_cm / dx))
    return (
        f"{crossed}, and densities are wrong by 100 HU or more; a grid wider than the "
        f"detector (grid.n_y={n_y} grid.n_x={n_x}) extrapolates the rows"
    )
