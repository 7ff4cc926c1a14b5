"""The settings of a scanner whose field holds a body that is too wide for it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np

from pcctlearn.phantoms.placement import BodyTooWideError
from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.tomography.geometry import FlatBeam


@contextmanager
def advice_of_settings(beam: ConeBeam | FlatBeam) -> Iterator[None]:
    """Add to a BodyTooWideError what to type for a wider field."""
    try:
        yield
    except BodyTooWideError as error:
        try:
            settings = wider_field(beam, error.radius_cm)
        except ValueError:  # the body is as wide as the orbit of the source
            raise error from None
        typed = " ".join(f"{key}={n}" for key, n in settings.items())
        message = f"{error}, or widen the field with {typed}"
        raise BodyTooWideError(message, error.radius_cm) from None


def wider_field(beam: ConeBeam | FlatBeam, radius_cm: float) -> dict[str, int]:
    """Numbers of voxels and pixels, by setting, for a circle of this radius about the axis.

    Voxels and pixels keep their sizes, and the detector sees as much of the wider image as it saw
    of the image before.
    """
    image = "volume" if isinstance(beam, ConeBeam) else "image"
    (dy, dx), (y, x) = beam.grid.slice_spacing_cm, beam.grid.slice_center_cm
    sides: dict[str, Any] = {
        "n_y": max(beam.grid.n_y, ceil(2 * (radius_cm + abs(y)) / dy)),
        "n_x": max(beam.grid.n_x, ceil(2 * (radius_cm + abs(x)) / dx)),
    }
    grid: Any = beam.grid
    wide, _ = _changed(beam, **{image: replace(grid, **sides)})
    was_truncated = np.array(beam.is_truncated)
    while (wide.is_truncated & ~was_truncated).any():
        wide, _ = _changed(wide, n_columns=wide.n_columns + 1)
    settings = {f"tomography.{image}.{side}": n for side, n in sides.items()}
    settings["tomography.n_columns"] = wide.n_columns
    if isinstance(beam, ConeBeam) and not _changed(beam)[1]:
        while _changed(wide)[1]:  # rays far from the axis need more rows, too
            wide, _ = _changed(wide, n_rows=wide.n_rows + 1)
        settings["tomography.n_rows"] = wide.n_rows
    return settings


def _changed(beam: Any, **changes: Any) -> tuple[Any, bool]:
    """The beam with other parameters, and whether its construction warns."""
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        changed = replace(beam, **changes)
    return changed, bool(raised)
