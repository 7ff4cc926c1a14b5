"""Where source, rotation axis, image and detector are, in two dimensions; cm and rad.

x points right and y up. View k turns the detector line by θ = k · arc / n_views: it runs along
(cos θ, sin θ), and the rays of its centre run along (−sin θ, cos θ). The source of a fan is at
source_to_axis · (sin θ, −cos θ); as it recedes to infinity the fan becomes the parallel beam.
"""

import warnings
from dataclasses import dataclass
from math import hypot, inf, pi, sqrt

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
_ARC_TOLERANCE_RAD = 1e-4  # an arc typed as 3.1416 is π


def _require_positive(**numbers: int | float) -> None:
    for name, number in numbers.items():
        if not 0 < number < inf:
            raise ValueError(f"{name} must be positive and finite, got {number}")


@dataclass(frozen=True)
class ImageGrid:
    """Square voxels centred on the rotation axis; row 0 has the largest y, column 0 the least x."""

    n_y: int
    n_x: int
    voxel_cm: float

    def __post_init__(self) -> None:
        _require_positive(n_y=self.n_y, n_x=self.n_x, voxel_cm=self.voxel_cm)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_y, n_x)."""
        return self.n_y, self.n_x

    @property
    def inscribed_radius_cm(self) -> float:
        """Radius of the largest circle inside the image."""
        return min(self.shape) / 2 * self.voxel_cm

    @property
    def corner_radius_cm(self) -> float:
        """Distance from the axis to a corner."""
        return hypot(*self.shape) / 2 * self.voxel_cm

    @property
    def index_to_cm(self) -> FloatArray:
        """The matrix that takes (column, row, 1) to (x, y, 1)."""
        v = self.voxel_cm
        left, top = -(self.n_x - 1) / 2 * v, (self.n_y - 1) / 2 * v
        return np.array([[v, 0, left], [0, -v, top], [0, 0, 1]])


class Beam:
    """What the beams share. A parallel beam is a fan whose source is at infinity."""

    n_views: int
    n_columns: int
    pixel_cm: float
    image: ImageGrid
    arc_rad: float
    offset_cm: float

    @property
    def source_curvature(self) -> float:
        """1 / source_to_axis_cm."""
        return 0.0

    @property
    def magnification(self) -> float:
        """source_to_detector_cm / source_to_axis_cm."""
        return 1.0

    @property
    def is_short_scan(self) -> bool:
        """Whether the arc measures some rays once and others twice."""
        return False

    @property
    def shape(self) -> tuple[int, int]:
        """(n_views, n_columns)."""
        return self.n_views, self.n_columns

    @property
    def angles_rad(self) -> FloatArray:
        """θ of every view, half-open: the arc's end is not measured."""
        return np.arange(self.n_views) * (self.arc_rad / self.n_views)

    @property
    def columns_cm(self) -> FloatArray:
        """Position of every detector column along the detector line."""
        center = (self.n_columns - 1) / 2
        return (np.arange(self.n_columns) - center) * self.pixel_cm + self.offset_cm

    @property
    def gammas_rad(self) -> FloatArray:
        """γ of every column, from the central ray; the ray also belongs to parallel view θ − γ."""
        return np.arctan(self.columns_cm * self.source_curvature / self.magnification)

    def projections(self) -> FloatArray:
        """Per view P (2 × 3): the point p = (x, y, 1) falls on detector column P₀·p / P₁·p.

        P₁·p is the depth of the point in units of source_to_axis_cm; one for a parallel beam.
        """
        c, s = np.cos(self.angles_rad), np.sin(self.angles_rad)
        zero, one = np.zeros_like(c), np.ones_like(c)
        depth = np.stack([-self.source_curvature * s, self.source_curvature * c, one], -1)
        along = self.magnification / self.pixel_cm * np.stack([c, s, zero], -1)
        center = (self.n_columns - 1) / 2 - self.offset_cm / self.pixel_cm
        return np.stack([along + center * depth, depth], 1)

    def lines(self) -> FloatArray:
        """Per view and column (a, b, c): its ray is where a x + b y + c = 0."""
        numerator, depth = self.projections()[:, :, None].swapaxes(0, 1)
        return numerator - np.arange(self.n_columns)[:, None] * depth

    def rays(self) -> tuple[FloatArray, FloatArray]:
        """Points on the rays, nearest to the axis, and unit vectors along them: view, column, 2."""
        a, b, c = np.moveaxis(self.lines(), -1, 0)
        norm = np.hypot(a, b)
        normals = np.stack([a, b], -1) / norm[..., None]
        directions = np.stack([-b, a], -1) / norm[..., None]
        return -(c / norm)[..., None] * normals, directions

    def _check_detector(self) -> None:
        _require_positive(n_views=self.n_views, n_columns=self.n_columns, pixel_cm=self.pixel_cm)
        radius = self.image.inscribed_radius_cm
        needed = self.magnification * radius / sqrt(1 - (radius * self.source_curvature) ** 2)
        reach = self.n_columns * self.pixel_cm / 2 - abs(self.offset_cm)
        if reach < needed * (1 - 1e-9):
            warnings.warn(
                f"truncated: the detector reaches {reach:.4g} cm to one side of the axis, and the "
                f"circle inscribed in the image needs {needed:.4g} cm; add columns, enlarge "
                "pixel_cm or shrink the image",
                stacklevel=4,  # where the beam is constructed
            )


@dataclass(frozen=True)
class ParallelBeam(Beam):
    """Parallel rays; column k measures x cos θ + y sin θ = (k − (n − 1)/2) · pixel + offset."""

    n_views: int
    n_columns: int
    pixel_cm: float
    image: ImageGrid
    arc_rad: float = pi
    offset_cm: float = 0.0

    def __post_init__(self) -> None:
        self._check_detector()
        _require_positive(arc_rad=self.arc_rad)
        half_turns = max(1, round(self.arc_rad / pi))
        if abs(self.arc_rad - half_turns * pi) > _ARC_TOLERANCE_RAD:
            raise ValueError(
                f"arc_rad of a parallel beam must be a multiple of π, got {self.arc_rad}; "
                f"the nearest is {half_turns * pi}"
            )


@dataclass(frozen=True)
class FanBeam(Beam):
    """A fan onto a flat detector line, on which pixel_cm and offset_cm are measured."""

    n_views: int
    n_columns: int
    pixel_cm: float
    image: ImageGrid
    source_to_axis_cm: float
    source_to_detector_cm: float
    arc_rad: float = 2 * pi
    offset_cm: float = 0.0

    def __post_init__(self) -> None:
        corner = self.image.corner_radius_cm
        if not corner < self.source_to_axis_cm < inf:
            raise ValueError(
                f"source_to_axis_cm must exceed {corner:.4g} cm, where the corners of the image "
                f"are, got {self.source_to_axis_cm}"
            )
        if not self.source_to_axis_cm <= self.source_to_detector_cm < inf:
            raise ValueError(
                "source_to_detector_cm must be at least source_to_axis_cm = "
                f"{self.source_to_axis_cm}, got {self.source_to_detector_cm}"
            )
        self._check_detector()
        shortest = pi + 2 * float(np.abs(self.gammas_rad).max())
        if not shortest - _ARC_TOLERANCE_RAD <= self.arc_rad <= 2 * pi + _ARC_TOLERANCE_RAD:
            raise ValueError(
                f"arc_rad must lie between π + fan angle = {shortest:.6g} (short scan) and "
                f"2π (full scan), got {self.arc_rad}"
            )

    @property
    def source_curvature(self) -> float:  # noqa: D102
        return 1 / self.source_to_axis_cm

    @property
    def magnification(self) -> float:  # noqa: D102
        return self.source_to_detector_cm / self.source_to_axis_cm

    @property
    def is_short_scan(self) -> bool:  # noqa: D102
        return self.arc_rad < 2 * pi - _ARC_TOLERANCE_RAD
