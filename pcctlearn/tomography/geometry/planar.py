"""Parallel and fan beam: positions of source, rotation axis and detector; cm and rad.

x points right, y up and z out of the slice, along the rotation axis. A view rotates the scanner by
θ: the column index increases along (cos θ, sin θ, 0) and the row index along z, and the central
ray, which meets the detector at right angles, points along (−sin θ, cos θ, 0). The source of a fan
or a cone is at source_to_axis · (sin θ, −cos θ, 0). A parallel beam is the limit of a distant
source. A cone is a fan for each detector row, with the same formulas in x and y.

A geometry does not contain voxels: methods that depend on them take a grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, pi
from typing import Any

import numpy as np

from pcctlearn.tomography.geometry.angular_coverage import AngularCoverage
from pcctlearn.tomography.geometry.base import ARC_TOLERANCE_RAD, Geometry
from pcctlearn.tomography.grids import SliceGrid, VolumeGrid
from pcctlearn.validation import FloatArray, require_positive


class FlatGeometry(Geometry):
    """A geometry in the plane of one slice, with one row of pixels: parallel or fan.

    The slice is an ImageGrid with sinograms (view, column), or a VolumeGrid of n_z = 1 with
    sinograms (view, row, column) of one row.
    """

    n_rows = 1
    pixel_cm: float

    @property
    def column_cm(self) -> float:  # noqa: D102
        return self.pixel_cm

    def sinogram_shape(self, grid: SliceGrid) -> tuple[int, ...]:  # noqa: D102
        return (self.n_views, *(1,) * (len(grid.shape) - 2), self.n_columns)

    def require_grid(self, grid: SliceGrid) -> None:  # noqa: D102
        if not isinstance(grid, VolumeGrid):
            super().require_grid(grid)
        elif grid.n_z != 1:
            raise ValueError(
                f"{type(self).__name__} measures one slice, got a volume of {grid.n_z}: set n_z to "
                "1, and center_cm to the slice"
            )

    def default_grid(self) -> VolumeGrid:
        """Slice of measured_radius_cm; the voxel size is the pixel size demagnified to the axis.

        Its radius is at most half of source_to_axis_cm. Voxels are larger if there would be more
        than 512 along an axis.
        """
        radius = self._default_radius_cm(self.measured_radius_cm)
        n, size = self._default_voxels(2 * radius, self.pixel_cm)
        return VolumeGrid(1, n, n, size)

    def rays(self) -> tuple[FloatArray, FloatArray]:
        """Points on the rays, nearest to the axis, and unit vectors along them: view, column, 2."""
        a, b, c = np.moveaxis(self.lines(), -1, 0)
        norm = np.hypot(a, b)
        normals = np.stack([a, b], -1) / norm[..., None]
        directions = np.stack([-b, a], -1) / norm[..., None]
        return -(c / norm)[..., None] * normals, directions


@dataclass(frozen=True)
class ParallelBeam(FlatGeometry):
    """Parallel rays; column k measures x cos θ + y sin θ = (k − (n − 1)/2) · pixel + offset.

    n_views equally spaced views cover arc_rad, a multiple of π, from start_rad on. Other angles are
    listed as view_angles_rad, in any order; arc_rad is then the sum of their angular widths: 2π for
    views without gaps in the full turn, otherwise π less the gaps, because (θ, s) and (θ + π, −s)
    are the same line.
    """

    n_views: int
    n_columns: int
    pixel_cm: float
    arc_rad: float = pi
    offset_cm: float = 0.0
    start_rad: float = 0.0
    view_angles_rad: Sequence[float] | FloatArray | None = None

    @property
    def view_weights_rad(self) -> FloatArray:
        """Angular width of every view; for listed views half the distance to either neighbour."""
        if self.view_angles_rad is None:
            return super().view_weights_rad
        return self.coverage().view_weights_rad

    def coverage(self) -> AngularCoverage:
        """Angular widths of the views, modulo π if listed views leave a gap in the full turn."""
        of_turn = super().coverage()
        return self._coverage(half_turn=True) if len(of_turn.gaps_rad) else of_turn

    def __post_init__(self) -> None:
        self._check_detector()
        self._check_views()
        require_positive(arc_rad=self.arc_rad)
        if self.view_angles_rad is not None:
            return
        half_turns = max(1, round(self.arc_rad / pi))
        if abs(self.arc_rad - half_turns * pi) > ARC_TOLERANCE_RAD:
            raise ValueError(
                f"arc_rad of a parallel beam must be a multiple of π, got {self.arc_rad}; "
                f"the nearest is {half_turns * pi}"
            )


class DivergentGeometry(Geometry):
    """Formulas shared by fan and cone: a source on a circle.

    n_views equally spaced views cover arc_rad, from start_rad on. Other angles are listed as
    view_angles_rad, in any order and modulo 2π; arc_rad is then the sum of their angular widths
    (AngularCoverage), which is 2π without gaps. axis_offset_cm is the distance along the columns
    from the central ray to the axis.
    """

    source_to_axis_cm: float
    source_to_detector_cm: float
    axis_offset_cm: float

    @property
    def source_curvature(self) -> float:  # noqa: D102
        return 1 / self.source_to_axis_cm

    @property
    def magnification(self) -> float:  # noqa: D102
        return self.source_to_detector_cm / self.source_to_axis_cm

    @property
    def axis_shift_cm(self) -> float:  # noqa: D102
        return self.axis_offset_cm

    @property
    def is_short_scan(self) -> bool:  # noqa: D102
        return len(self.coverage().gaps_rad) > 0

    @property
    def view_weights_rad(self) -> FloatArray:
        """Angular width of every view: half the distance to either neighbour."""
        return self.coverage().view_weights_rad

    def relative_flux(self) -> FloatArray:
        """(row, column): fluence of a point source, over that of the central ray."""
        return point_source_flux(self.rows_cm, self.columns_cm, self.source_to_detector_cm)

    def require_grid(self, grid: SliceGrid) -> None:  # noqa: D102
        super().require_grid(grid)
        corner = grid.corner_radius_cm
        if not corner < self.source_to_axis_cm:
            raise ValueError(
                f"source_to_axis_cm must exceed {corner:.4g} cm, the distance from the axis to the "
                f"corners of the grid, got {self.source_to_axis_cm}"
            )

    def _summary(self) -> list[str]:
        views, detector, field = super()._summary()
        orbit = (
            f"source to axis {self.source_to_axis_cm:.4g} cm, to detector "
            f"{self.source_to_detector_cm:.4g} cm, magnification {self.magnification:.4g}"
        )
        return [views, orbit, f"{detector}, axis offset {self.axis_offset_cm:.4g} cm", field]

    @property
    def _largest_radius_cm(self) -> float:
        return self.source_to_axis_cm / 2

    def _check_orbit(self) -> None:
        require_positive(source_to_axis_cm=self.source_to_axis_cm)
        if not self.source_to_axis_cm <= self.source_to_detector_cm < inf:
            raise ValueError(
                "source_to_detector_cm must be at least source_to_axis_cm = "
                f"{self.source_to_axis_cm}, got {self.source_to_detector_cm}"
            )
        if not abs(self.axis_offset_cm) < self.source_to_axis_cm:
            raise ValueError(
                f"axis_offset_cm must be less than source_to_axis_cm = {self.source_to_axis_cm}, "
                f"got {self.axis_offset_cm}"
            )
        self._check_detector()
        self._check_views()
        if not 0 < self.arc_rad <= 2 * pi + ARC_TOLERANCE_RAD:
            raise ValueError(
                f"arc_rad must be positive and at most 2π (full scan), got {self.arc_rad}"
            )


@dataclass(frozen=True)
class FanBeam(DivergentGeometry, FlatGeometry):
    """A fan beam onto a flat line detector; pixel_cm and offset_cm are lengths on the detector."""

    n_views: int
    n_columns: int
    pixel_cm: float
    source_to_axis_cm: float
    source_to_detector_cm: float
    arc_rad: float = 2 * pi
    offset_cm: float = 0.0
    start_rad: float = 0.0
    axis_offset_cm: float = 0.0
    view_angles_rad: Sequence[float] | FloatArray | None = None

    def __post_init__(self) -> None:
        self._check_orbit()


def point_source_flux(rows_cm: Any, columns_cm: Any, source_to_detector_cm: float) -> Any:
    """(row, column): cos³ of the angle of incidence, for arrays or tensors of positions.

    The fluence of a point source on a plane falls with the inverse square of the distance, and
    with the obliquity of the rays.
    """
    return (1 + (rows_cm[:, None] ** 2 + columns_cm**2) / source_to_detector_cm**2) ** -1.5
