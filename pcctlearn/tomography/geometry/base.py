"""Formulas shared by parallel, fan and cone beam, in the frame of planar.py; cm and rad."""

from collections.abc import Sequence
from math import asin, atan, cos, degrees, floor, inf, pi, sin, tan

import numpy as np
from numpy.typing import NDArray

from pcctlearn.tomography.geometry.angular_coverage import AngularCoverage
from pcctlearn.tomography.grids import ImageGrid, SliceGrid, VolumeGrid
from pcctlearn.validation import FloatArray, require_finite, require_positive

ARC_TOLERANCE_RAD = 1e-4  # accepts 3.1416 as π
# Columns of a displaced detector beyond the projected axis. Errors at the axis are a few percent
# with three such columns, and exceed 100 % with less than one.
_MIN_OVERLAP_COLUMNS = 4
_MOST_VOXELS = 512  # along an axis of a default grid
_MOST_TURNS = 4  # largest |start_rad|
_BRIDGED_STEPS = 2.5  # largest step within an arc of listed views, over their median step
# In half-fan scans of 180 to 1440 views a single gap raises the RMS error in a disc by 3 % at 5°,
# by 30 % at 8° and by 70 % at 10°, for all of these steps.
_BRIDGED_RAD = 5 / 180 * pi


class Geometry:
    """Formulas shared by all geometries; a parallel beam is a fan whose source is at infinity."""

    n_views: int
    n_rows: int
    n_columns: int
    arc_rad: float
    offset_cm: float
    start_rad: float
    view_angles_rad: Sequence[float] | FloatArray | None
    grid_type: type[SliceGrid] = ImageGrid

    @property
    def column_cm(self) -> float:
        """Distance from column to column."""
        raise NotImplementedError(f"{type(self).__name__} must define column_cm")

    @property
    def source_curvature(self) -> float:
        """1 / source_to_axis_cm."""
        return 0.0

    @property
    def magnification(self) -> float:
        """source_to_detector_cm / source_to_axis_cm."""
        return 1.0

    @property
    def axis_shift_cm(self) -> float:
        """Distance along the columns from the central ray to the rotation axis."""
        return 0.0

    @property
    def is_short_scan(self) -> bool:
        """Whether the views leave a gap in the full turn."""
        return bool(self.arc_rad < 2 * pi - ARC_TOLERANCE_RAD)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_views, n_columns), with n_rows between them for a cone."""
        return self.n_views, self.n_columns

    def sinogram_shape(self, grid: SliceGrid) -> tuple[int, ...]:
        """Shape of the sinogram of a grid, ``shape`` unless a flat geometry projects a volume."""
        return self.shape

    @property
    def angles_rad(self) -> FloatArray:
        """θ of every view; no equally spaced view lies at the end of the arc."""
        if self.view_angles_rad is not None:
            return np.asarray(self.view_angles_rad, dtype=np.float64)
        return self.start_rad + np.arange(self.n_views) * (self.arc_rad / self.n_views)

    @property
    def view_weights_rad(self) -> FloatArray:
        """Angular width of every view, its weight in an integral over θ."""
        return np.full(self.n_views, self.arc_rad / self.n_views)

    def coverage(self) -> AngularCoverage:
        """Angular widths of the views, and the gaps between them, modulo 2π."""
        return self._coverage()

    @property
    def columns_cm(self) -> FloatArray:
        """Position of every detector column, from the point where the central ray meets it."""
        center = (self.n_columns - 1) / 2
        return (np.arange(self.n_columns) - center) * self.column_cm + self.offset_cm

    @property
    def gammas_rad(self) -> FloatArray:
        """Fan angle γ of every column; the ray (θ, γ) belongs to the parallel view θ − γ."""
        return np.arctan(self.columns_cm * self.source_curvature / self.magnification)

    @property
    def axis_gamma_rad(self) -> float:
        """γ of the ray through the rotation axis."""
        return atan(self.axis_shift_cm * self.source_curvature)

    @property
    def detector_extent_cm(self) -> tuple[float, float]:
        """Extent of the detector on either side of the projected axis; column 0 first."""
        half, middle = self.n_columns * self.column_cm / 2, self.magnification * self.axis_shift_cm
        return half - self.offset_cm + middle, half + self.offset_cm - middle

    @property
    def deciding_sides(self) -> tuple[int, ...]:
        """Sides of the detector, 0 or 1, beyond which lines are not measured; the shorter first.

        In a full turn the longer side of a displaced detector measures the lines of both sides.
        """
        first, last = self.detector_extent_cm
        shorter, longer = (0, 1) if first <= last else (1, 0)
        return (longer,) if self._is_displaced and not self.is_short_scan else (shorter, longer)

    @property
    def _is_displaced(self) -> bool:
        """Whether the sides of the detector differ by more than a column."""
        first, last = self.detector_extent_cm
        return abs(first - last) > self.column_cm

    @property
    def fov_radius_cm(self) -> float:
        """Radius of the field of view, the largest circle around the axis inside every fan."""
        return max(0.0, min(self._outermost_cm))

    @property
    def measured_radius_cm(self) -> float:
        """Radius of the largest circle around the axis of which every line is measured.

        It is larger than fov_radius_cm for a displaced detector and a full turn, in which the
        longer side of the detector measures all lines.
        """
        shorter, longer = sorted(self._outermost_cm)
        return 0.0 if shorter <= 0 else shorter if self.is_short_scan else longer

    @property
    def _outermost_cm(self) -> tuple[float, float]:
        """Distance from the axis to the outermost ray on either side, negative before the axis."""
        if self.source_curvature == 0:
            return self.detector_extent_cm
        axis, half = self.axis_gamma_rad, self.n_columns * self.column_cm / 2
        ends_cm = self.offset_cm - half, self.offset_cm + half
        first, last = (atan(end * self.source_curvature / self.magnification) for end in ends_cm)
        radius_cm = 1 / (self.source_curvature * cos(axis))
        return radius_cm * sin(axis - first), radius_cm * sin(last - axis)

    @property
    def rows_cm(self) -> FloatArray:
        """z of every detector row."""
        return np.zeros(self.n_rows)

    def relative_flux(self) -> FloatArray:
        """(row, column): fluence with nothing in the beam, over that of the central ray."""
        return np.ones((self.n_rows, self.n_columns))

    def visible_in_z(self, grid: SliceGrid) -> NDArray[np.bool_]:
        """([z,] y, x): voxels projected onto the rows of the detector in every view."""
        return np.ones(grid.shape, dtype=bool)

    def visible_in_all_views(self, grid: SliceGrid) -> NDArray[np.bool_]:
        """([z,] y, x): voxels of visible_in_z() in the field of view."""
        x, y = grid.positions_cm()
        return (np.hypot(x, y) <= self.fov_radius_cm) & self.visible_in_z(grid)

    def fully_measured(self, grid: SliceGrid) -> NDArray[np.bool_]:
        """([z,] y, x): voxels of visible_in_z() in the circle of which every line is measured."""
        x, y = grid.positions_cm()
        return (np.hypot(x, y) <= self.measured_radius_cm) & self.visible_in_z(grid)

    def default_grid(self) -> VolumeGrid:
        """Volume of the field of view; the voxel size is the pixel size demagnified to the axis.

        Its radius is at most half of source_to_axis_cm. Voxels are larger if there would be more
        than 512 along an axis.
        """
        raise NotImplementedError(f"{type(self).__name__} must define default_grid")

    def needed_extent_cm(self, grid: SliceGrid) -> tuple[float, float]:
        """Extent of the projection of the ellipse inscribed in a slice, on either side."""
        return self._circle_extent_cm(grid.fov_radius_cm)

    def is_truncated(self, grid: SliceGrid) -> tuple[bool, bool]:
        """Whether the detector is narrower than needed_extent_cm, on either side of the axis."""
        pairs = zip(self.detector_extent_cm, self.needed_extent_cm(grid), strict=True)
        left, right = (bool(extent < needed * (1 - 1e-9)) for extent, needed in pairs)
        return left, right

    def require_grid(self, grid: SliceGrid) -> None:
        """Raise TypeError or ValueError for a grid that this geometry cannot project."""
        if not isinstance(grid, self.grid_type):
            raise TypeError(
                f"{type(self).__name__} needs a grid of type {self.grid_type.__name__}, "
                f"got {type(grid).__name__}"
            )

    def truncations(self, grid: SliceGrid) -> list[str]:
        """Warnings: the detector truncates the grid, or hardly extends beyond the axis."""
        truncated, extents = self.is_truncated(grid), self.detector_extent_cm
        shorter = extents.index(min(extents))
        sentences = [
            f"truncated: the detector extends {extents[side]:.4g} cm to one side of the axis, and "
            f"an object that fills the grid needs {self.needed_extent_cm(grid)[side]:.4g} cm; add "
            "columns, enlarge pixel_cm or, if the object is smaller, use a smaller grid"
            for side in self.deciding_sides
            if truncated[side]
        ][:1]
        extent = extents[shorter]
        lacking_cm = _MIN_OVERLAP_COLUMNS * self.column_cm - extent
        if lacking_cm > 1e-9 and self._is_displaced and truncated[shorter]:
            shift_cm = lacking_cm if shorter == 1 else -lacking_cm
            sentences.append(
                f"truncated beside the axis: the detector extends {extent / self.column_cm:.3g} "
                f"columns beyond it, and fewer than {_MIN_OVERLAP_COLUMNS} cause artefacts at the "
                f"axis; use offset_cm={self.offset_cm + shift_cm:.6g}"
            )
        return sentences

    def projections(self) -> FloatArray:
        """Per view P (2 × 3): the point p = (x, y, 1) falls on detector column P₀·p / P₁·p.

        P₁·p is the depth of the point in units of source_to_axis_cm; one for a parallel beam.
        """
        c, s = np.cos(self.angles_rad), np.sin(self.angles_rad)
        one = np.ones_like(c)
        depth = np.stack([-self.source_curvature * s, self.source_curvature * c, one], -1)
        along = self.magnification / self.column_cm * np.stack([c, s, self.axis_shift_cm * one], -1)
        center = (self.n_columns - 1) / 2 - self.offset_cm / self.column_cm
        return np.stack([along + center * depth, depth], 1)

    def lines(self) -> FloatArray:
        """(view, column, 3): a, b and c of the line a x + b y + c = 0 along each ray."""
        numerator, depth = self.projections()[:, :, None].swapaxes(0, 1)
        return numerator - np.arange(self.n_columns)[:, None] * depth

    def __str__(self) -> str:
        """Summary of the geometry in numbers."""
        return f"{type(self).__name__}: " + "\n  ".join(self._summary())

    def _summary(self) -> list[str]:
        start = "" if self.view_angles_rad else f" from {degrees(self.start_rad):.4g}°"
        return [
            f"{self.n_views} views over {degrees(self.arc_rad):.4g}°{start}",
            f"detector of {self.n_columns} columns of {self.column_cm:.4g} cm, offset "
            f"{self.offset_cm:.4g} cm",
            f"field of view: {self.fov_radius_cm:.4g} cm around the axis",
        ]

    def _circle_extent_cm(self, radius_cm: float) -> tuple[float, float]:
        """Extent of the projection of a circle around the axis, on either side."""
        curvature = self.source_curvature
        if curvature == 0:
            return radius_cm, radius_cm
        axis = self.axis_gamma_rad
        tangent = asin(min(radius_cm * curvature * cos(axis), 0.999))  # γ from the axis
        scale = self.magnification / curvature
        return scale * (tan(axis) - tan(axis - tangent)), scale * (tan(axis + tangent) - tan(axis))

    def _default_radius_cm(self, field_cm: float) -> float:
        """Radius of the default grid for a field of this radius."""
        radius = min(field_cm, self._largest_radius_cm)
        if radius == 0:
            raise ValueError(
                "the detector does not reach the projected axis: there is no field of view; "
                "change offset_cm or axis_offset_cm"
            )
        return radius

    @property
    def _largest_radius_cm(self) -> float:
        return inf

    def _default_voxels(self, length_cm: float, pixel_cm: float) -> tuple[int, float]:
        """Number and size of the voxels of the default grid along one axis."""
        size = max(pixel_cm / self.magnification, length_cm / _MOST_VOXELS)
        return max(1, floor(length_cm / size + 1e-6)), size

    def _coverage(self, half_turn: bool = False) -> AngularCoverage:
        """Coverage modulo 2π, or modulo π for a half turn of parallel rays."""
        step = self.arc_rad / self.n_views
        bridged_rad = max(step + ARC_TOLERANCE_RAD, _BRIDGED_RAD)
        if self.view_angles_rad is not None:
            step = AngularCoverage.median_step_rad(self.angles_rad)
            bridged_rad = max(_BRIDGED_STEPS * step, _BRIDGED_RAD)
        scale = 2 if half_turn else 1  # from a circle of π to one of 2π
        found = AngularCoverage.of(scale * self.angles_rad, scale * step, scale * bridged_rad)
        return AngularCoverage(*(values / scale for values in found))

    def _check_views(self) -> None:
        """Check start_rad or the listed angles, whose widths give arc_rad."""
        if self.view_angles_rad is not None:
            object.__setattr__(self, "view_angles_rad", tuple(self.view_angles_rad))
            n_angles = len(self.view_angles_rad)
            if n_angles != self.n_views or n_angles < 2 or not np.isfinite(self.angles_rad).all():
                raise ValueError(
                    f"view_angles_rad must list n_views = {self.n_views} finite angles, two or "
                    f"more, got {n_angles}"
                )
            object.__setattr__(self, "arc_rad", self.coverage().arc_rad)
        require_finite(start_rad=self.start_rad)
        if abs(self.start_rad) > _MOST_TURNS * 2 * pi:
            raise ValueError(
                f"start_rad={self.start_rad:g} is more than {_MOST_TURNS} turns: if it is in "
                "degrees, multiply it by π / 180"
            )

    def _check_detector(self) -> None:
        require_positive(n_views=self.n_views, n_columns=self.n_columns, pixel_cm=self.column_cm)
        require_finite(offset_cm=self.offset_cm)
