"""Where source, rotation axis, volume and panel of a cone-beam scanner are; cm and rad.

In x and y a cone beam is the fan beam of geometry.py, for each row of its panel. Rows run along z,
and row 0 is the lowest.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, ceil, cos, degrees, floor, pi, sin

import numpy as np
from numpy.typing import NDArray

from pcctlearn.tomography.geometry import DivergentBeam
from pcctlearn.tomography.grids import (
    FloatArray,
    VolumeGrid,
    one_or_each,
    require_finite,
    require_positive,
)


@dataclass(frozen=True)
class ConeBeam(DivergentBeam):
    """A cone onto a flat panel; row 0 is its lowest, with the least z.

    pixel_cm is a number, or one for rows and one for columns. Where the central ray meets the
    panel is offset_cm along the columns and row_offset_cm along the rows before its middle.
    """

    n_views: int
    n_rows: int
    n_columns: int
    pixel_cm: float | Sequence[float] | FloatArray
    volume: VolumeGrid
    source_to_axis_cm: float
    source_to_detector_cm: float
    arc_rad: float = 2 * pi
    offset_cm: float = 0.0
    row_offset_cm: float = 0.0
    start_rad: float = 0.0
    axis_offset_cm: float = 0.0
    measured_angles_rad: Sequence[float] | FloatArray | None = None

    def __post_init__(self) -> None:
        if len(self._pixel_cm) != 2:
            raise ValueError(f"pixel_cm must be a number or (row, column), got {self.pixel_cm}")
        if np.ndim(self.pixel_cm):
            object.__setattr__(self, "pixel_cm", self._pixel_cm)
        require_positive(n_rows=self.n_rows, pixel_cm=self.row_cm)
        require_finite(row_offset_cm=self.row_offset_cm)
        self._check_orbit()
        nearest = self.source_to_axis_cm - self.volume.corner_radius_cm
        if nearest < 2 * max(self.volume.slice_spacing_cm):
            raise ValueError(
                f"the source is within two voxels of the volume's corners, {nearest:.4g} cm; "
                "enlarge source_to_axis_cm or shrink the volume"
            )
        if not self._sees(self.volume):
            (low, high), (bottom, top) = self.axial_range_cm, self.volume.axial_range_cm
            raise ValueError(
                f"the panel sees nothing of the volume: at the axis it sees z from {low:.4g} to "
                f"{high:.4g} cm, the volume lies from {bottom:.4g} to {top:.4g} cm; move one of "
                "them with center_cm, offset_cm or row_offset_cm"
            )
        self._warn_if_rows_are_few()

    @property
    def grid(self) -> VolumeGrid:  # noqa: D102
        return self.volume

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
    def rows_cm(self) -> FloatArray:
        """z of every detector row."""
        return (np.arange(self.n_rows) - (self.n_rows - 1) / 2) * self.row_cm + self.row_offset_cm

    @property
    def axial_range_cm(self) -> tuple[float, float]:
        """The z that every view sees on the axis."""
        edge = self.row_cm / 2
        low, high = self.rows_cm[0] - edge, self.rows_cm[-1] + edge
        return low / self.magnification, high / self.magnification

    def seen_in_z(self) -> NDArray[np.bool_]:
        """(z, y, x): voxels whose centre falls between the first and last row in every view.

        The shadow of (x, y, z) lies at v = magnification · z / depth, with the depth of (x, y) in
        the view, in units of source_to_axis_cm. FDK has no data, or too few, for other voxels.
        """
        bottom, top = self._seen_slices_cm(self._depth_range())
        z = self.volume.slices_cm[:, None, None]
        return (z >= bottom) & (z <= top)

    def seen_by_all_views(self) -> NDArray[np.bool_]:
        """(z, y, x): voxels of seen_in_z() within seen_radius_cm of the axis."""
        x, y = self._voxels_cm()
        return (np.hypot(x, y) <= self.seen_radius_cm) & self.seen_in_z()

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
        """Position (x, y, z) of the centre of every pixel: view, row, column, 3."""
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
        """(row, column): length of a ray over that of its shadow in the plane of the orbit."""
        slope = np.cos(self.gammas_rad) * self.rows_cm[:, None] / self.source_to_detector_cm
        return np.hypot(1, slope)

    @property
    def seen_radius_cm(self) -> float:
        """Of the largest circle around the axis in every view; it touches an outermost ray."""
        axis, half = self.axis_gamma_rad, self.n_columns * self.column_cm / 2
        ends_cm = self.offset_cm - half, self.offset_cm + half
        first, last = (atan(end / self.source_to_detector_cm) for end in ends_cm)
        outermost = max(0.0, min(axis - first, last - axis))
        return self.source_to_axis_cm / cos(axis) * sin(outermost)

    def __str__(self) -> str:
        """The scanner in numbers that can be checked against its drawing."""
        turn = f"{self.n_views} views over {degrees(self.arc_rad):.4g}°"
        if self.measured_angles_rad is None:
            turn += f" from {degrees(self.start_rad):.4g}°"
        sizes = " × ".join(
            f"{n * s:.4g}" for n, s in zip(self.grid.shape, self.grid.spacing_cm, strict=True)
        )
        low, high = self.axial_range_cm
        half_fan, half_cone = (
            degrees(float(np.arctan(np.abs(a).max() / self.source_to_detector_cm)))
            for a in (self.columns_cm, self.rows_cm)
        )
        return (
            f"ConeBeam: {turn}\n"
            f"  source to axis {self.source_to_axis_cm:.4g} cm, to panel "
            f"{self.source_to_detector_cm:.4g} cm, magnification {self.magnification:.4g}\n"
            f"  panel {self.n_rows} rows × {self.n_columns} columns of {self.row_cm:.4g} × "
            f"{self.column_cm:.4g} cm; half fan {half_fan:.3g}°, half cone {half_cone:.3g}°\n"
            f"  offsets (cm): columns {self.offset_cm:.4g}, rows {self.row_offset_cm:.4g}, axis "
            f"{self.axis_offset_cm:.4g}\n"
            f"  volume {' × '.join(map(str, self.grid.shape))} voxels (z, y, x), {sizes} cm\n"
            f"  seen by every view: {self.seen_radius_cm:.4g} cm around the axis, z from {low:.4g} "
            f"to {high:.4g} cm on it"
        )

    @property
    def _pixel_cm(self) -> tuple[float, ...]:
        """(row, column)."""
        return one_or_each(self.pixel_cm, 2)

    def _voxels_cm(self) -> tuple[FloatArray, FloatArray]:
        """X (1, x) and y (y, 1) of the voxels of a slice."""
        (dx, _, left), (_, dy, top), _ = self.volume.index_to_cm
        x, y = left + dx * np.arange(self.volume.n_x), top + dy * np.arange(self.volume.n_y)
        return x[None], y[:, None]

    def _depth_range(self) -> FloatArray:
        """(2, y, x): least and largest depth of every voxel over the views."""
        x, y = self._voxels_cm()
        nearest, farthest = np.inf, -np.inf
        for of_x, of_y, constant in self.projections()[:, 1]:
            depth = of_x * x + of_y * y + constant
            nearest, farthest = np.minimum(nearest, depth), np.maximum(farthest, depth)
        return np.stack([nearest, farthest])

    def _seen_slices_cm(self, depths: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Least and largest z whose shadow falls on the rows at all depths of the first axis."""
        low, high = self.axial_range_cm
        return (low * depths).max(0, keepdims=True), (high * depths).min(0, keepdims=True)

    def _warn_if_rows_are_few(self) -> None:
        """Warn if an object that fills the slices is cut by the first or the last row."""
        radius = min(self.volume.field_radius_cm * self.source_curvature, 0.999)
        depths = np.array([1 - radius, 1 + radius])
        bottom, top = (float(z[0]) for z in self._seen_slices_cm(depths))
        slices = self.volume.slices_cm
        is_whole = (slices >= bottom) & (slices <= top)
        if is_whole.all():
            return
        shadows = self.magnification * np.divide.outer(slices[[0, -1]], depths)
        half_cm = float(np.abs(shadows - self.row_offset_cm).max())
        remedy = f"take n_rows={ceil(2 * half_cm / self.row_cm + 1e-6)}"
        center, spacing = self.volume.center_cm[0], self.volume.spacing_cm[0]
        if (half := min(top - center, center - bottom)) >= 0:
            remedy += f" or a volume of n_z={max(floor(2 * half / spacing - 1e-6), 0) + 1}"
        warnings.warn(
            f"truncated along z: every view sees the whole field in {is_whole.sum()} of the "
            f"{self.volume.n_z} slices, and densities in the others are wrong; {remedy}, or leave "
            "out the voxels for which seen_in_z() is False",
            stacklevel=4,  # where the beam is constructed
        )

    def _sees(self, volume: VolumeGrid) -> bool:
        """Whether the shadow of the cylinder around the volume touches the panel in some view."""
        radius, magnification = volume.corner_radius_cm * self.source_curvature, self.magnification
        depths = 1 + np.array([-radius, radius])
        shadows = magnification * np.divide.outer(volume.axial_range_cm, depths)
        low, high = (magnification * z for z in self.axial_range_cm)
        beyond = self._shadow_reaches_cm(volume.corner_radius_cm)
        sees_z = shadows.max() > low and shadows.min() < high
        # an edge of the panel before the axis, by more than the shadow goes on that side
        left, right = self.reaches_cm
        return bool(sees_z and left > -beyond[1] and right > -beyond[0])
