"""Positions of source, rotation axis and panel of a cone-beam scanner; cm and rad.

In x and y each row of the panel has the fan beam of planar.py. The row index increases along z, so
that row 0 is the lowest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, degrees, floor, pi

import numpy as np
from numpy.typing import NDArray

from pcctlearn.tomography.geometry.planar import DivergentGeometry
from pcctlearn.tomography.grids import SliceGrid, VolumeGrid
from pcctlearn.validation import FloatArray, one_or_each, require_finite, require_positive


@dataclass(frozen=True)
class ConeBeam(DivergentGeometry):
    """A cone beam onto a flat panel; row 0 has the smallest z.

    pixel_cm is a number or (row, column). offset_cm along the columns and row_offset_cm along the
    rows are the distances from the point where the central ray meets the panel to its center.
    """

    n_views: int
    n_rows: int
    n_columns: int
    pixel_cm: float | Sequence[float] | FloatArray
    source_to_axis_cm: float
    source_to_detector_cm: float
    arc_rad: float = 2 * pi
    offset_cm: float = 0.0
    row_offset_cm: float = 0.0
    start_rad: float = 0.0
    axis_offset_cm: float = 0.0
    view_angles_rad: Sequence[float] | FloatArray | None = None

    grid_type = VolumeGrid

    def __post_init__(self) -> None:
        if len(self._pixel_cm) != 2:
            raise ValueError(f"pixel_cm must be a number or (row, column), got {self.pixel_cm}")
        if np.ndim(self.pixel_cm):
            object.__setattr__(self, "pixel_cm", self._pixel_cm)
        require_positive(n_rows=self.n_rows, pixel_cm=self.row_cm)
        require_finite(row_offset_cm=self.row_offset_cm)
        self._check_orbit()

    @property
    def row_cm(self) -> float:
        """Distance from row to row."""
        return self._pixel_cm[0]

    @property
    def column_cm(self) -> float:  # noqa: D102
        return self._pixel_cm[1]

    @property
    def shape(self) -> tuple[int, int, int]:  # noqa: D102
        return self.n_views, self.n_rows, self.n_columns

    @property
    def rows_cm(self) -> FloatArray:  # noqa: D102
        return (np.arange(self.n_rows) - (self.n_rows - 1) / 2) * self.row_cm + self.row_offset_cm

    @property
    def axial_range_cm(self) -> tuple[float, float]:
        """Range of z on the axis that is projected onto the panel in every view."""
        edge = self.row_cm / 2
        low, high = self.rows_cm[0] - edge, self.rows_cm[-1] + edge
        return low / self.magnification, high / self.magnification

    def default_grid(self) -> VolumeGrid:
        """Volume of the field of view; the voxel size is the pixel size demagnified to the axis.

        The volume contains the slices that are projected onto the panel in every view. Its radius
        is at most half of source_to_axis_cm. Voxels are larger if there would be more than 512
        along an axis.
        """
        radius = self._default_radius_cm(self.fov_radius_cm)
        bottom, top = self._axial_range_at(radius)
        if not bottom < top:
            bottom, top = self.axial_range_cm
        n_z, dz = self._default_voxels(top - bottom, self.row_cm)
        n_x, dx = self._default_voxels(2 * radius, self.column_cm)
        return VolumeGrid(n_z, n_x, n_x, (dz, dx, dx), ((bottom + top) / 2, 0.0, 0.0))

    def visible_in_z(self, grid: SliceGrid) -> NDArray[np.bool_]:
        """(z, y, x): voxels whose center falls between the first and last row in every view.

        The point (x, y, z) is projected to v = magnification · z / depth, with the depth of (x, y)
        in the view in units of source_to_axis_cm. FDK lacks data for all other voxels.
        """
        assert isinstance(grid, VolumeGrid)
        bottom, top = self._visible_slices_cm(self._depth_range(grid))
        z = grid.slices_cm[:, None, None]
        return (z >= bottom) & (z <= top)

    def whole_slices(self, grid: VolumeGrid) -> NDArray[np.bool_]:
        """(z): slices whose inscribed ellipse falls between the first and last row in all views."""
        bottom, top = self._axial_range_at(grid.fov_radius_cm)
        return (grid.slices_cm >= bottom) & (grid.slices_cm <= top)

    def require_grid(self, grid: SliceGrid) -> None:  # noqa: D102
        super().require_grid(grid)
        assert isinstance(grid, VolumeGrid)
        nearest = self.source_to_axis_cm - grid.corner_radius_cm
        if nearest < 2 * max(grid.slice_spacing_cm):
            raise ValueError(
                f"the source is {nearest:.4g} cm from the volume's corners, less than two voxels: "
                "enlarge source_to_axis_cm or shrink the volume"
            )
        if not self._panel_shows(grid):
            (low, high), (bottom, top) = self.axial_range_cm, grid.axial_range_cm
            raise ValueError(
                f"the volume is projected beside the panel, which covers z from {low:.4g} to "
                f"{high:.4g} cm on the axis; the volume extends from {bottom:.4g} to {top:.4g} cm: "
                "change center_cm, offset_cm or row_offset_cm"
            )

    def truncations(self, grid: SliceGrid) -> list[str]:
        """Warnings: an object that fills the grid is projected beyond the columns or the rows."""
        sentences = super().truncations(grid)
        assert isinstance(grid, VolumeGrid)
        whole = self.whole_slices(grid)
        if whole.all():
            return sentences
        radius = min(grid.fov_radius_cm * self.source_curvature, 0.999)
        depths = np.array([1 - radius, 1 + radius])
        ends = self.magnification * np.divide.outer(grid.slices_cm[[0, -1]], depths)
        half_cm = float(np.abs(ends - self.row_offset_cm).max())
        remedy = f"use n_rows={ceil(2 * half_cm / self.row_cm + 1e-6)}"
        bottom, top = self._axial_range_at(grid.fov_radius_cm)
        center, spacing = grid.center_cm[0], grid.spacing_cm[0]
        if (half := min(top - center, center - bottom)) >= 0:
            remedy += f" or a volume of n_z={max(floor(2 * half / spacing - 1e-6), 0) + 1}"
        return [
            *sentences,
            f"truncated along z: {whole.sum()} of the {grid.n_z} slices are projected onto the "
            f"panel in every view, and densities in the others are wrong; {remedy}, or exclude "
            "voxels for which visible_in_z() is False",
        ]

    def frames(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Unit vectors along the columns, along the central ray, and along the rows."""
        c, s = np.cos(self.angles_rad), np.sin(self.angles_rad)
        zero = np.zeros_like(c)
        return np.stack([c, s, zero], -1), np.stack([-s, c, zero], -1), np.array([0.0, 0.0, 1.0])

    def sources_cm(self) -> FloatArray:
        """Position (x, y, z) of the source in every view."""
        along, toward, _ = self.frames()
        return -self.axis_offset_cm * along - self.source_to_axis_cm * toward

    def pixels_cm(self) -> FloatArray:
        """Position (x, y, z) of the center of every pixel: view, row, column, 3."""
        along, toward, up = self.frames()
        center = self.sources_cm() + self.source_to_detector_cm * toward
        rows, columns = self.rows_cm[:, None, None], self.columns_cm[:, None]
        return center[:, None, None] + rows * up + columns * along[:, None, None]

    def rays(self) -> tuple[FloatArray, FloatArray]:
        """Points on the rays, their sources, and unit vectors along them: view, row, column, 3."""
        pixels = self.pixels_cm()
        sources = self.sources_cm()[:, None, None] + np.zeros_like(pixels)
        directions = pixels - sources
        return sources, directions / np.linalg.norm(directions, axis=-1, keepdims=True)

    def obliquity(self) -> FloatArray:
        """(row, column): length of a ray over that of its projection onto the orbit's plane."""
        slope = np.cos(self.gammas_rad) * self.rows_cm[:, None] / self.source_to_detector_cm
        return np.hypot(1, slope)

    def _summary(self) -> list[str]:
        views, orbit, _, field = super()._summary()
        low, high = self.axial_range_cm
        half_fan, half_cone = (
            degrees(float(np.arctan(np.abs(a).max() / self.source_to_detector_cm)))
            for a in (self.columns_cm, self.rows_cm)
        )
        return [
            views,
            orbit,
            f"panel of {self.n_rows} rows × {self.n_columns} columns of {self.row_cm:.4g} × "
            f"{self.column_cm:.4g} cm; half fan {half_fan:.3g}°, half cone {half_cone:.3g}°",
            f"offsets (cm): columns {self.offset_cm:.4g}, rows {self.row_offset_cm:.4g}, axis "
            f"{self.axis_offset_cm:.4g}",
            f"{field}, z from {low:.4g} to {high:.4g} cm on it",
        ]

    @property
    def _pixel_cm(self) -> tuple[float, ...]:
        """(row, column)."""
        return one_or_each(self.pixel_cm, 2)

    def _depth_range(self, grid: VolumeGrid) -> FloatArray:
        """(2, y, x): smallest and largest depth of every voxel over the views."""
        x, y = grid.positions_cm()
        nearest, farthest = np.inf, -np.inf
        for of_x, of_y, constant in self.projections()[:, 1]:
            depth = of_x * x + of_y * y + constant
            nearest, farthest = np.minimum(nearest, depth), np.maximum(farthest, depth)
        return np.stack([nearest, farthest])

    def _visible_slices_cm(self, depths: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Smallest and largest z projected onto the rows at all depths of the first axis."""
        low, high = self.axial_range_cm
        return (low * depths).max(0, keepdims=True), (high * depths).min(0, keepdims=True)

    def _axial_range_at(self, radius_cm: float) -> tuple[float, float]:
        """Smallest and largest z projected onto the rows in all views within this radius."""
        radius = min(radius_cm * self.source_curvature, 0.999)
        bottom, top = self._visible_slices_cm(np.array([1 - radius, 1 + radius]))
        return float(bottom[0]), float(top[0])

    def _panel_shows(self, grid: VolumeGrid) -> bool:
        """Whether the cylinder around the volume is projected onto the panel in any view."""
        radius, magnification = grid.corner_radius_cm * self.source_curvature, self.magnification
        depths = 1 + np.array([-radius, radius])
        ends = magnification * np.divide.outer(grid.axial_range_cm, depths)
        low, high = (magnification * z for z in self.axial_range_cm)
        beyond = self._circle_extent_cm(grid.corner_radius_cm)
        sees_z = ends.max() > low and ends.min() < high
        # the panel may end before the projected axis if the volume extends farther on that side
        left, right = self.detector_extent_cm
        return bool(sees_z and left > -beyond[1] and right > -beyond[0])
