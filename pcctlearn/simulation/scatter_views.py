"""Scatter of all views from a simulation of every n-th: it changes slowly with the view angle."""

from math import tau

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from pcctlearn.tomography.geometry.base import Geometry

_LEAST_VIEWS = 8  # with fewer on a circle, the spline misses how the scatter of a head changes


def simulated_views(beam: Geometry, every: int | None) -> NDArray[np.int64]:
    """Numbers of the views whose scatter is simulated, the first and (in an arc) the last included.

    Raises:
        ValueError: ``every`` is below one or leaves too few views, or the angles do not increase.
    """
    if every is None:
        return np.arange(beam.n_views)
    if every < 1:
        raise ValueError(f"scatter_every must be 1 or more, got {every}: use scan.scatter_every=4")
    angles_rad = beam.angles_rad
    if every > 1 and ((np.diff(angles_rad) <= 0).any() or np.ptp(angles_rad) >= tau):
        raise ValueError(
            f"scatter_every={every} needs view angles that increase within one turn: use "
            "scan.scatter_every=null"
        )
    views = np.arange(0, beam.n_views, every)
    if beam.is_short_scan and views[-1] != beam.n_views - 1:
        views = np.append(views, beam.n_views - 1)
    if every > 1 and len(views) < _LEAST_VIEWS:
        most = max(1, beam.n_views // _LEAST_VIEWS)
        raise ValueError(
            f"scatter_every={every} leaves {len(views)} of {beam.n_views} views, too few to "
            f"interpolate between: use scan.scatter_every={most} or less"
        )
    return views


def between_views(beam: Geometry, views: NDArray[np.int64]) -> Float[Tensor, "view simulated"]:
    """Weights of a cubic spline through the simulated views, periodic over a full turn."""
    angles_rad = beam.angles_rad
    knots_rad, values = angles_rad[views], np.eye(len(views))
    if beam.is_short_scan:
        return torch.from_numpy(CubicSpline(knots_rad, values)(angles_rad))
    knots_rad = np.append(knots_rad, knots_rad[0] + tau)
    values = np.concatenate([values, values[:1]])
    return torch.from_numpy(CubicSpline(knots_rad, values, bc_type="periodic")(angles_rad))
