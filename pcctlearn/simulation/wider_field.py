"""Settings that widen the field of view for a body that does not fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from typing import Any, cast

import numpy as np

from pcctlearn.phantoms.placement import BodyTooWideError
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import SliceGrid, VolumeGrid


@contextmanager
def advice_of_settings(geometry: Geometry, grid: SliceGrid) -> Iterator[None]:
    """Add to a BodyTooWideError the settings that widen the field of view."""
    try:
        yield
    except BodyTooWideError as error:
        try:
            settings = wider_field(geometry, grid, error.radius_cm)
        except ValueError:  # the body is as wide as the orbit of the source
            raise error from None
        typed = " ".join(f"{key}={n}" for key, n in settings.items())
        message = f"{error}, or widen the field with {typed}"
        raise BodyTooWideError(message, error.radius_cm) from None


def wider_field(geometry: Geometry, grid: SliceGrid, radius_cm: float) -> dict[str, int]:
    """{setting: number of voxels or pixels} for a circle of this radius about the axis.

    Voxels and pixels keep their sizes. The wider grid has no truncated edge that the given grid
    does not have.

    Raises:
        ValueError: the wider grid reaches the source.
    """
    (dy, dx), (y, x) = grid.slice_spacing_cm, grid.slice_center_cm
    sides = {
        "n_y": max(grid.n_y, ceil(2 * (radius_cm + abs(y)) / dy)),
        "n_x": max(grid.n_x, ceil(2 * (radius_cm + abs(x)) / dx)),
    }
    wide: Any = geometry
    wide_grid = replace(cast(Any, grid), **sides)
    wide.require_grid(wide_grid)
    was_truncated = np.array(geometry.is_truncated(grid))
    while (wide.is_truncated(wide_grid) & ~was_truncated).any():
        wide = replace(wide, n_columns=wide.n_columns + 1)
    settings = {f"tomography.grid.{side}": n for side, n in sides.items()}
    settings["tomography.geometry.n_columns"] = wide.n_columns
    if isinstance(geometry, ConeBeam) and geometry.whole_slices(cast(VolumeGrid, grid)).all():
        while not wide.whole_slices(wide_grid).all():  # wider slices need more detector rows
            wide = replace(wide, n_rows=wide.n_rows + 1)
        settings["tomography.geometry.n_rows"] = wide.n_rows
    return settings
