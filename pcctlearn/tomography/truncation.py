"""Extrapolation of detector rows where the detector is narrower than the object."""

from dataclasses import replace
from itertools import product
from math import ceil, cos, pi
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import SliceGrid
from pcctlearn.tomography.linear_operator import LinearOperator
from pcctlearn.validation import require_positive

_FITTED_COLUMNS, _FITTED_CM = 8, 2.0  # smallest number and width of the columns in a fit
_SMALLEST_CM2 = 1e-12
AnyGeometry = TypeVar("AnyGeometry", bound=Geometry)


class EdgeExtension(LinearOperator):
    """Extrapolation of rows by the edge value, falling to zero as a squared cosine.

    Without extrapolation the ramp filter treats the missing rays as air, and the jump at the edge
    becomes a bright rim (cupping). The extension removes most of the rim; values remain
    approximate. An edge whose rays have zero weight, as that of a displaced detector, is extended
    by zeros. The transpose adds the new columns back onto the edges.

    B. Ohnesorge, T. Flohr, K. Schwarz, J. P. Heiken and K. T. Bae, "Efficient correction for CT
    image artifacts caused by objects extending outside the scan field of view",
    Med. Phys. 27 (2000), in its simplest form. doi:10.1118/1.598855
    """

    def __init__(self, shape: tuple[int, ...], n_before: int, n_after: int) -> None:
        super().__init__(shape, (*shape[:-1], n_before + shape[-1] + n_after))
        for name, n_added in (("before", n_before), ("after", n_after)):
            steps = torch.arange(1, n_added + 1) / (n_added + 1)
            self.register_buffer(name, torch.cos(pi / 2 * steps) ** 2, persistent=False)

    def matvec(self, x: Tensor) -> Tensor:  # noqa: D102
        before, after = (self.get_buffer(name).to(x) for name in ("before", "after"))
        return torch.cat([x[..., :1] * before.flip(0), x, x[..., -1:] * after], -1)


def widened(beam: AnyGeometry, grid: SliceGrid, to_corners: bool) -> tuple[AnyGeometry, int, int]:
    """The geometry with more columns on truncated sides, and their numbers before and after.

    They cover the ellipse inscribed in a slice, and the corners as well with ``to_corners``.
    """
    missing_cm = np.subtract(beam.needed_extent_cm(grid), beam.detector_extent_cm)
    corners = columns_beyond(beam, grid) if to_corners else (0, 0)
    n_before, n_after = (
        max(ceil(missing / beam.column_cm), n_corner) if is_truncated else 0
        for missing, n_corner, is_truncated in zip(
            missing_cm, corners, beam.is_truncated(grid), strict=True
        )
    )
    return with_columns(beam, n_before, n_after), n_before, n_after


def columns_beyond(beam: Geometry, grid: SliceGrid) -> tuple[int, int]:
    """Numbers of columns before and after the detector onto which voxels are projected."""
    corners = np.array(list(product((0, grid.n_x - 1), (0, grid.n_y - 1), (1,))))
    along, depth = np.moveaxis(beam.projections() @ grid.index_to_cm @ corners.T, 1, 0)
    columns = along / depth
    return max(0, ceil(-columns.min())), max(0, ceil(columns.max()) - beam.n_columns + 1)


def with_columns(beam: AnyGeometry, n_before: int, n_after: int) -> AnyGeometry:
    """The geometry with columns added before the first and after the last one."""
    return replace(
        beam,  # type: ignore[type-var]
        n_columns=n_before + beam.n_columns + n_after,
        offset_cm=beam.offset_cm + (n_after - n_before) / 2 * beam.column_cm,
    )


class WaterExtension(nn.Module):
    """Extrapolation of rows by a water cylinder, fitted to the columns at each edge.

    A ray at the signed distance s from the axis crosses a cylinder of density ρ and radius R,
    whose center lies at x in this view, on a chord p with (p / 2ρ)² + s² = R² − x² + 2 x s. The
    right-hand side is a straight line in s, fitted to the outermost columns; beyond the edge p
    follows from it. The fit is not linear in the data, so this is not a LinearOperator.

    J. Hsieh et al., "A novel reconstruction algorithm to extend the CT scan field-of-view",
    Med. Phys. 31 (2004). doi:10.1118/1.1776673
    """

    def __init__(self, wide: Geometry, n_before: int, n_after: int, water_density: float) -> None:
        super().__init__()
        require_positive(water_density=water_density)
        self.water_density, self.n_before, self.n_after = water_density, n_before, n_after
        n_inner = wide.n_columns - n_before - n_after
        spacing_cm = wide.column_cm / wide.magnification
        n_fitted = max(_FITTED_COLUMNS, ceil(_FITTED_CM / spacing_cm))
        self.n_fitted = min(n_fitted, max(2, n_inner // 4))
        s = _distances_cm(wide)
        obliquity = wide.obliquity() if isinstance(wide, ConeBeam) else np.ones_like(s)
        for name, array in (("distances_cm", s), ("obliquity", obliquity)):
            tensor = torch.from_numpy(np.ascontiguousarray(array))
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The sinogram (…, [row,] column), extended by n_before and n_after columns."""
        first, last, m = self.n_before, self.n_before + x.shape[-1], self.n_fitted
        before = self._chords(x[..., :m], slice(first, first + m), slice(0, first))
        after = self._chords(x[..., -m:], slice(last - m, last), slice(last, None))
        return torch.cat([before, x, after], -1)

    def _chords(self, x: Tensor, fitted: slice, beyond: slice) -> Tensor:
        s, obliquity = (self.get_buffer(name).to(x) for name in ("distances_cm", "obliquity"))
        p = x / obliquity[..., fitted]
        middle = s[fitted].mean()
        near, far = s[fitted] - middle, s[beyond] - middle
        line = (p / (2 * self.water_density)) ** 2 + s[fitted] ** 2
        slope = (line * near).sum(-1, keepdim=True) / (near**2).sum()
        half_squared = line.mean(-1, keepdim=True) + slope * far - s[beyond] ** 2
        half = half_squared.clamp(min=_SMALLEST_CM2).sqrt()  # clamped for a finite derivative
        half = torch.where(half_squared > _SMALLEST_CM2, half, 0)
        sign = p.mean(-1, keepdim=True).sign()  # a basis material may have a negative density
        return sign * 2 * self.water_density * half * obliquity[..., beyond]


class WaterExtended(nn.Module):
    """Reconstruction after ``WaterExtension``; not linear.

    It is used as ``A @ x`` like a LinearOperator and is differentiable, but has no transpose.
    """

    def __init__(self, reconstruct: LinearOperator, extend: WaterExtension, n_columns: int) -> None:
        super().__init__()
        self.reconstruct, self.extend = reconstruct, extend
        self.in_shape = (*reconstruct.in_shape[:-1], n_columns)
        self.out_shape = reconstruct.out_shape

    def forward(self, x: Tensor) -> Tensor:
        """The image of a sinogram."""
        if tuple(x.shape[-len(self.in_shape) :]) != self.in_shape:
            raise ValueError(f"{self!r} cannot take an array of shape {tuple(x.shape)}")
        return self.reconstruct(self.extend(x))

    def __matmul__(self, x: Tensor) -> Tensor:
        return self(x)

    def __repr__(self) -> str:
        return f"WaterExtended {self.in_shape} → {self.out_shape}"


def _distances_cm(beam: Geometry) -> np.ndarray:
    """Signed distance of every column's rays from the axis."""
    if beam.source_curvature == 0:
        return beam.columns_cm
    radius_cm = 1 / (beam.source_curvature * cos(beam.axis_gamma_rad))
    return radius_cm * np.sin(beam.gammas_rad - beam.axis_gamma_rad)
