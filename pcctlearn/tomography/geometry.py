"""Where source, rotation axis, image and detector are; cm and rad.

x points right, y up and z out of the slice, along the rotation axis. View k turns the scanner by
θ: detector columns run along (cos θ, sin θ, 0) and rows along z, and the central ray, which meets
the detector at right angles, runs along (−sin θ, cos θ, 0). The source of a fan or a cone is at
source_to_axis · (sin θ, −cos θ, 0); as it recedes to infinity the fan becomes the parallel beam.
A cone is a fan for each detector row, and shares its formulas in x and y.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import asin, atan, cos, inf, pi, tan

import numpy as np

from pcctlearn.tomography.angular_coverage import AngularCoverage
from pcctlearn.tomography.grids import (
    FloatArray,
    ImageGrid,
    SliceGrid,
    require_finite,
    require_positive,
)

ARC_TOLERANCE_RAD = 1e-4  # an arc typed as 3.1416 is π
_MOST_TURNS = 4  # of start_rad
_BRIDGED_STEPS = 2.5  # between listed views of one arc
# In half-fan scans of 180 to 1440 views one gap raises the RMS error in a disc by 3 % at 5°, by
# 30 % at 8° and by 70 % at 10°, whatever the step
_BRIDGED_RAD = 5 / 180 * pi


class Beam:
    """What the beams share. A parallel beam is a fan whose source is at infinity."""

    n_views: int
    n_columns: int
    arc_rad: float
    offset_cm: float

    @property
    def grid(self) -> SliceGrid:
        """The image, or the slices of the volume."""
        raise NotImplementedError(f"{type(self).__name__} must say where its voxels are")

    @property
    def column_cm(self) -> float:
        """Distance from column to column."""
        raise NotImplementedError(f"{type(self).__name__} must say how far apart its columns are")

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
        """How far along the columns the rotation axis lies from the central ray."""
        return 0.0

    @property
    def is_short_scan(self) -> bool:
        """Whether the views leave a gap in the turn."""
        return bool(self.arc_rad < 2 * pi - ARC_TOLERANCE_RAD)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_views, n_columns), with n_rows between them for a cone."""
        return self.n_views, self.n_columns

    @property
    def angles_rad(self) -> FloatArray:
        """θ of every view; half-open where they are equally spaced: the end is not measured."""
        return np.arange(self.n_views) * (self.arc_rad / self.n_views)

    @property
    def steps_rad(self) -> FloatArray:
        """The share of the arc that each view stands for."""
        return np.full(self.n_views, self.arc_rad / self.n_views)

    @property
    def columns_cm(self) -> FloatArray:
        """Position of every detector column, from where the central ray meets the detector."""
        center = (self.n_columns - 1) / 2
        return (np.arange(self.n_columns) - center) * self.column_cm + self.offset_cm

    @property
    def gammas_rad(self) -> FloatArray:
        """γ of every column, from the central ray; the ray also belongs to parallel view θ − γ."""
        return np.arctan(self.columns_cm * self.source_curvature / self.magnification)

    @property
    def axis_gamma_rad(self) -> float:
        """γ of the ray through the rotation axis."""
        return atan(self.axis_shift_cm * self.source_curvature)

    @property
    def reaches_cm(self) -> tuple[float, float]:
        """How far the detector goes from the shadow of the axis, towards column 0 and the other."""
        half, middle = self.n_columns * self.column_cm / 2, self.magnification * self.axis_shift_cm
        return half - self.offset_cm + middle, half + self.offset_cm - middle

    @property
    def needed_reaches_cm(self) -> tuple[float, float]:
        """How far the shadow of the ellipse inscribed in the image may go, likewise."""
        return self._shadow_reaches_cm(self.grid.field_radius_cm)

    def _shadow_reaches_cm(self, radius_cm: float) -> tuple[float, float]:
        """How far the shadow of a circle around the axis goes, likewise."""
        curvature = self.source_curvature
        if curvature == 0:
            return radius_cm, radius_cm
        axis = self.axis_gamma_rad
        tangent = asin(min(radius_cm * curvature * cos(axis), 0.999))  # γ from the axis
        scale = self.magnification / curvature
        return scale * (tan(axis) - tan(axis - tangent)), scale * (tan(axis + tangent) - tan(axis))

    @property
    def is_truncated(self) -> tuple[bool, bool]:
        """Whether the detector ends before that shadow, towards column 0 and towards the other."""
        pairs = zip(self.reaches_cm, self.needed_reaches_cm, strict=True)
        left, right = (bool(reach < needed * (1 - 1e-9)) for reach, needed in pairs)
        return left, right

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
        """Per view and column (a, b, c): its ray is where a x + b y + c = 0."""
        numerator, depth = self.projections()[:, :, None].swapaxes(0, 1)
        return numerator - np.arange(self.n_columns)[:, None] * depth

    def _check_detector(self, n_callers: int) -> None:
        require_positive(n_views=self.n_views, n_columns=self.n_columns, pixel_cm=self.column_cm)
        require_finite(offset_cm=self.offset_cm)
        if any(self.is_truncated):
            reach, needed = min(zip(self.reaches_cm, self.needed_reaches_cm, strict=True))
            warnings.warn(
                f"truncated: the detector reaches {reach:.4g} cm to one side of the axis, and an "
                f"object that fills the image needs {needed:.4g} cm; add columns, enlarge "
                "pixel_cm or shrink the image",
                stacklevel=3 + n_callers,  # where the beam is constructed
            )


class FlatBeam(Beam):
    """A beam whose image is a plane: parallel or fan."""

    pixel_cm: float
    image: ImageGrid

    @property
    def grid(self) -> ImageGrid:  # noqa: D102
        return self.image

    @property
    def column_cm(self) -> float:  # noqa: D102
        return self.pixel_cm

    def rays(self) -> tuple[FloatArray, FloatArray]:
        """Points on the rays, nearest to the axis, and unit vectors along them: view, column, 2."""
        a, b, c = np.moveaxis(self.lines(), -1, 0)
        norm = np.hypot(a, b)
        normals = np.stack([a, b], -1) / norm[..., None]
        directions = np.stack([-b, a], -1) / norm[..., None]
        return -(c / norm)[..., None] * normals, directions


@dataclass(frozen=True)
class ParallelBeam(FlatBeam):
    """Parallel rays; column k measures x cos θ + y sin θ = (k − (n − 1)/2) · pixel + offset."""

    n_views: int
    n_columns: int
    pixel_cm: float
    image: ImageGrid
    arc_rad: float = pi
    offset_cm: float = 0.0

    def __post_init__(self) -> None:
        self._check_detector(n_callers=1)
        require_positive(arc_rad=self.arc_rad)
        half_turns = max(1, round(self.arc_rad / pi))
        if abs(self.arc_rad - half_turns * pi) > ARC_TOLERANCE_RAD:
            raise ValueError(
                f"arc_rad of a parallel beam must be a multiple of π, got {self.arc_rad}; "
                f"the nearest is {half_turns * pi}"
            )


class DivergentBeam(Beam):
    """What fan and cone share: a source on a circle.

    arc_rad is what n_views equally spaced views cover, from start_rad on. Views that are spaced
    in another way are listed, in any order and of any turn, as measured_angles_rad; arc_rad then
    is the sum of what the views stand for (AngularCoverage), a turn if no gap is left.
    axis_offset_cm is how far along the columns the axis lies from the central ray.
    """

    source_to_axis_cm: float
    source_to_detector_cm: float
    start_rad: float
    axis_offset_cm: float
    measured_angles_rad: Sequence[float] | FloatArray | None

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
    def angles_rad(self) -> FloatArray:  # noqa: D102
        if self.measured_angles_rad is not None:
            return np.asarray(self.measured_angles_rad, dtype=np.float64)
        return self.start_rad + super().angles_rad

    @property
    def steps_rad(self) -> FloatArray:
        """The share of the arc that each view stands for: half the way to either neighbour."""
        return self.coverage().steps_rad

    def coverage(self) -> AngularCoverage:
        """Which angles the views stand for, and the gaps between them."""
        if self.measured_angles_rad is None:
            step = self.arc_rad / self.n_views
            bridged_rad = max(step + ARC_TOLERANCE_RAD, _BRIDGED_RAD)
            return AngularCoverage.of(self.angles_rad, step, bridged_rad)
        step = AngularCoverage.usual_step_rad(self.angles_rad)
        return AngularCoverage.of(self.angles_rad, step, max(_BRIDGED_STEPS * step, _BRIDGED_RAD))

    def _check_orbit(self) -> None:
        corner = self.grid.corner_radius_cm
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
        if not abs(self.axis_offset_cm) < self.source_to_axis_cm:
            raise ValueError(
                f"axis_offset_cm must be less than source_to_axis_cm = {self.source_to_axis_cm}, "
                f"got {self.axis_offset_cm}"
            )
        self._check_detector(n_callers=2)
        if self.measured_angles_rad is not None:
            object.__setattr__(self, "measured_angles_rad", tuple(self.measured_angles_rad))
            n_angles = len(self.measured_angles_rad)
            if n_angles != self.n_views or n_angles < 2 or not np.isfinite(self.angles_rad).all():
                raise ValueError(
                    f"measured_angles_rad must list n_views = {self.n_views} finite angles, two or "
                    f"more, got {n_angles}"
                )
            object.__setattr__(self, "arc_rad", self.coverage().arc_rad)
        require_finite(start_rad=self.start_rad)
        if abs(self.start_rad) > _MOST_TURNS * 2 * pi:
            raise ValueError(
                f"start_rad is {self.start_rad:g} rad, more than {_MOST_TURNS} turns: is it in "
                "degrees? Multiply by π / 180"
            )
        if not 0 < self.arc_rad <= 2 * pi + ARC_TOLERANCE_RAD:
            raise ValueError(
                f"arc_rad must be positive and at most 2π (full scan), got {self.arc_rad}"
            )


@dataclass(frozen=True)
class FanBeam(DivergentBeam, FlatBeam):
    """A fan onto a flat detector line, on which pixel_cm and offset_cm are measured."""

    n_views: int
    n_columns: int
    pixel_cm: float
    image: ImageGrid
    source_to_axis_cm: float
    source_to_detector_cm: float
    arc_rad: float = 2 * pi
    offset_cm: float = 0.0
    start_rad: float = 0.0
    axis_offset_cm: float = 0.0
    measured_angles_rad: Sequence[float] | FloatArray | None = None

    def __post_init__(self) -> None:
        self._check_orbit()
