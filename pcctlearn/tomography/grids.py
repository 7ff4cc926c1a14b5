"""Positions of the voxels of an image or a volume; cm.

x points right, y up and z out of the slice. Column 0 has the smallest x, row 0 the largest y, and
slice 0 the smallest z.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot

import numpy as np

from pcctlearn.validation import FloatArray, one_or_each, require_finite, require_positive


class SliceGrid:
    """Formulas shared by an image and the slices of a volume."""

    n_y: int
    n_x: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of voxels, ([z,] y, x)."""
        raise NotImplementedError(f"{type(self).__name__} must define shape")

    @property
    def slice_spacing_cm(self) -> tuple[float, float]:
        """(y, x) distance from voxel to voxel."""
        raise NotImplementedError(f"{type(self).__name__} must define slice_spacing_cm")

    @property
    def slice_center_cm(self) -> tuple[float, float]:
        """(y, x) of the center."""
        return 0.0, 0.0

    @property
    def fov_radius_cm(self) -> float:
        """Radius of a circle around the axis that contains the ellipse inscribed in a slice."""
        dy, dx = self.slice_spacing_cm
        return hypot(*self.slice_center_cm) + max(self.n_y * dy, self.n_x * dx) / 2

    def positions_cm(self) -> tuple[FloatArray, FloatArray]:
        """x (1, x) and y (y, 1) of the voxels of a slice."""
        (dx, _, left), (_, dy, top), _ = self.index_to_cm
        return left + dx * np.arange(self.n_x)[None], top + dy * np.arange(self.n_y)[:, None]

    @property
    def corner_radius_cm(self) -> float:
        """Distance from the axis to the farthest corner."""
        (dy, dx), (y, x) = self.slice_spacing_cm, self.slice_center_cm
        return hypot(abs(y) + self.n_y / 2 * dy, abs(x) + self.n_x / 2 * dx)

    @property
    def index_to_cm(self) -> FloatArray:
        """Matrix from (column, row, 1) to (x, y, 1)."""
        (dy, dx), (y, x) = self.slice_spacing_cm, self.slice_center_cm
        left, top = x - (self.n_x - 1) / 2 * dx, y + (self.n_y - 1) / 2 * dy
        return np.array([[dx, 0, left], [0, -dy, top], [0, 0, 1]])


@dataclass(frozen=True)
class ImageGrid(SliceGrid):
    """Square voxels centered on the rotation axis."""

    n_y: int
    n_x: int
    voxel_cm: float

    def __post_init__(self) -> None:
        require_positive(n_y=self.n_y, n_x=self.n_x, voxel_cm=self.voxel_cm)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_y, n_x)."""
        return self.n_y, self.n_x

    @property
    def slice_spacing_cm(self) -> tuple[float, float]:  # noqa: D102
        return self.voxel_cm, self.voxel_cm

    def as_volume(self) -> "VolumeGrid":
        """The same voxels as a volume of one slice, z = 0 in its middle."""
        return VolumeGrid(1, self.n_y, self.n_x, self.voxel_cm)

    def __str__(self) -> str:
        """Numbers of voxels and lengths."""
        return _summary("ImageGrid", "y, x", self.shape, self.slice_spacing_cm, (0.0, 0.0))


@dataclass(frozen=True)
class VolumeGrid(SliceGrid):
    """Equal voxels: voxel_cm is a number or (z, y, x), and center_cm is (z, y, x)."""

    n_z: int
    n_y: int
    n_x: int
    voxel_cm: float | Sequence[float] | FloatArray
    center_cm: Sequence[float] | FloatArray = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for name, numbers in (("voxel_cm", self.spacing_cm), ("center_cm", self.center_cm)):
            if len(numbers) != 3:
                raise ValueError(f"{name} must have one number for each of z, y, x, got {numbers}")
        require_positive(n_z=self.n_z, n_y=self.n_y, n_x=self.n_x)
        for size in self.spacing_cm:
            require_positive(voxel_cm=size)
        # stored in one form, so that equal grids compare equal
        same = len(set(self.spacing_cm)) == 1
        object.__setattr__(self, "voxel_cm", self.spacing_cm[0] if same else self.spacing_cm)
        object.__setattr__(self, "center_cm", one_or_each(self.center_cm, 3))
        for position in self.center_cm:
            require_finite(center_cm=position)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n_z, n_y, n_x)."""
        return self.n_z, self.n_y, self.n_x

    @property
    def spacing_cm(self) -> tuple[float, ...]:
        """(z, y, x) distance from voxel to voxel."""
        return one_or_each(self.voxel_cm, 3)

    @property
    def slice_spacing_cm(self) -> tuple[float, float]:  # noqa: D102
        return self.spacing_cm[1], self.spacing_cm[2]

    @property
    def slice_center_cm(self) -> tuple[float, float]:  # noqa: D102
        return self.center_cm[1], self.center_cm[2]

    @property
    def slices_cm(self) -> FloatArray:
        """z of every slice."""
        dz = self.spacing_cm[0]
        return self.center_cm[0] + (np.arange(self.n_z) - (self.n_z - 1) / 2) * dz

    @property
    def axial_range_cm(self) -> tuple[float, float]:
        """z of the lower and the upper face."""
        half = self.n_z / 2 * self.spacing_cm[0]
        return self.center_cm[0] - half, self.center_cm[0] + half

    def __str__(self) -> str:
        """Numbers of voxels and lengths."""
        return _summary("VolumeGrid", "z, y, x", self.shape, self.spacing_cm, self.center_cm)


def changed_grid(
    grid: VolumeGrid,
    n_z: int | None = None,
    n_y: int | None = None,
    n_x: int | None = None,
    voxel_cm: float | Sequence[float] | None = None,
    center_cm: Sequence[float] | None = None,
) -> VolumeGrid:
    """A grid with other numbers of voxels, voxel size or center; ``None`` keeps that of ``grid``.

    With another voxel size, axes without a given number of voxels keep their extent, rounded to
    whole voxels.
    """
    other = replace(
        grid,
        voxel_cm=grid.voxel_cm if voxel_cm is None else voxel_cm,
        center_cm=grid.center_cm if center_cm is None else center_cm,
    )
    scales = np.divide(grid.spacing_cm, other.spacing_cm)
    kept = (max(1, round(n * scale)) for n, scale in zip(grid.shape, scales, strict=True))
    n_z, n_y, n_x = (n if n is not None else k for n, k in zip((n_z, n_y, n_x), kept, strict=True))
    return replace(other, n_z=n_z, n_y=n_y, n_x=n_x)


def _summary(
    name: str,
    axes: str,
    shape: Sequence[int],
    spacing_cm: Sequence[float],
    center_cm: Sequence[float] | FloatArray,
) -> str:
    """Text such as "ImageGrid: 4 × 5 voxels (y, x) of 1 × 1 cm, 4 × 5 cm in all, …"."""
    sizes = [n * step for n, step in zip(shape, spacing_cm, strict=True)]
    voxel, size = (" × ".join(f"{cm:.4g}" for cm in lengths) for lengths in (spacing_cm, sizes))
    middle = ", ".join(f"{cm:.4g}" for cm in center_cm)
    voxels = " × ".join(map(str, shape))
    return f"{name}: {voxels} voxels ({axes}) of {voxel} cm, {size} cm in all, center ({middle}) cm"
