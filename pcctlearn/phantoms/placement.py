"""Place a CT in HU on the grid of a scan: water and calcium maps, and the patient's position."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.phantoms.body import find_body
from pcctlearn.phantoms.volume_average import average_weights
from pcctlearn.phantoms.voxels import water_and_calcium
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.validation import FloatArray


class BodyTooWideError(ValueError):
    """The body is wider than the grid; it needs a field of view of radius ``radius_cm``."""

    def __init__(self, message: str, radius_cm: float) -> None:
        super().__init__(message)
        self.radius_cm = radius_cm


@dataclass(frozen=True, eq=False)
class PlacedBody:
    """A patient on the grid of a scan.

    Args:
        maps: water and calcium in g/cm³; air around the body is zero.
        scanner_to_index: takes (x, y, z, 1) of the scanner in cm to (slice, row, column, 1) of the
            CT, which are integers at voxel centers.
        scale: size on the grid over true size; below 1 if ``fit`` shrank the body.
        left_out: mass of each piece of the CT that was left out, relative to the patient.
    """

    maps: Float[Tensor, "material z y x"]
    scanner_to_index: FloatArray
    scale: float
    left_out: tuple[float, ...]


def place_body(
    hounsfield: Float[Tensor, "z y x"],
    voxel_cm: tuple[float, float, float],
    grid: VolumeGrid,
    threshold_HU: float = 200.0,
    fit: bool = False,
    densities: Float[Tensor, "material z y x"] | None = None,
    middle_cm: float = 0.0,
) -> PlacedBody:
    """Maps of the body without the table on the grid, with its centroid on the axis x = y = 0.

    HU are converted to densities in each voxel of the CT, and the densities are averaged over the
    voxels of the grid (``average_weights``), so that the mass of each material is kept. The center
    of the grid is ``middle_cm`` above the middle of the body along z, and a body that extends
    beyond the grid is cut off.

    Args:
        densities: of the CT, if it was resampled after conversion; otherwise they follow from HU.
        fit: shrink a body that is wider than the largest circle in the grid around the axis.
        middle_cm: center of the grid along z, in cm of the patient from the middle of the body.

    Raises:
        BodyTooWideError: the body is wider than that circle and ``fit`` is not set.
        ValueError: there is no body, the axis is outside the grid, or the grid is above or below
            the body.
    """
    body = find_body(hounsfield, voxel_cm)
    spacing, size = np.array(voxel_cm), np.array(grid.spacing_cm)
    field_cm = _field_cm(grid)
    half_length_cm = grid.n_z * size[0] / 2
    middle, radius_cm, width_cm = _extent(body.mask, spacing, half_length_cm, middle_cm)
    if 2 * radius_cm > field_cm:
        if not fit:
            raise BodyTooWideError(
                f"the body is {width_cm:.1f} cm wide and needs a field of view of "
                f"{2 * radius_cm:.1f} cm, the grid has {field_cm:.1f} cm: shrink the patient with "
                "datasets.fit=true",
                radius_cm,
            )
        middle, radius_cm, _ = _extent(body.mask, spacing, inf, middle_cm)
    scale = min(1.0, field_cm / (2 * radius_cm))
    scanner_to_index = _scanner_to_index(middle, spacing * scale, grid.center_cm[0])

    def of_slice(index: int) -> Float[Tensor, "material y x"]:
        if densities is not None:
            return densities[:, index]
        return water_and_calcium(hounsfield[index], threshold_HU)

    maps = _averaged(of_slice, body.mask, scanner_to_index, grid, hounsfield)
    return PlacedBody(maps, scanner_to_index, float(scale), body.left_out)


def _field_cm(grid: VolumeGrid) -> float:
    """Diameter of the largest circle around the axis within a slice of the grid."""
    halves = np.array(grid.shape[1:]) * grid.slice_spacing_cm / 2
    field_cm = 2 * float((halves - np.abs(grid.slice_center_cm)).min())
    if field_cm <= 0:
        raise ValueError(
            f"the grid must contain the axis x = y = 0, its center_cm is {grid.center_cm}"
        )
    return field_cm


def _scanner_to_index(middle: FloatArray, spacing_cm: FloatArray, center_z_cm: float) -> FloatArray:
    """Matrix to indices: slices increase with z, rows with −y and columns with x."""
    matrix = np.zeros((4, 4))
    matrix[[0, 1, 2], [2, 1, 0]] = np.array([1, -1, 1]) / spacing_cm
    matrix[:, 3] = *middle, 1
    matrix[0, 3] -= center_z_cm / spacing_cm[0]
    return matrix


def _averaged(
    of_slice: Callable[[int], Tensor],
    mask: Bool[Tensor, "z y x"],
    scanner_to_index: FloatArray,
    grid: VolumeGrid,
    like: Tensor,
) -> Float[Tensor, "material n_z n_y n_x"]:
    """Densities within the mask, averaged over the voxels of the grid."""
    x, y, _ = grid.index_to_cm @ [0, 0, 1]
    first = scanner_to_index @ [x, y, grid.slices_cm[0], 1]
    steps = np.abs(scanner_to_index[[0, 1, 2], [2, 1, 0]]) * grid.spacing_cm
    along_z, along_y, along_x = (
        torch.from_numpy(average_weights(n_source, n_target, start, step)).to(like)
        for n_source, n_target, start, step in zip(
            mask.shape, grid.shape, first, steps, strict=False
        )
    )
    maps = like.new_zeros(2, *grid.shape)
    for index in along_z.any(0).nonzero()[:, 0].tolist():  # one slice at a time: CTs are large
        if mask[index].any():
            densities = of_slice(index) * mask[index]
            reached = along_z[:, index].nonzero()[:, 0]
            share = along_z[reached, index, None, None]
            maps[:, reached] += share * (along_y @ densities @ along_x.T)[:, None]
    return maps


def _extent(
    mask: Bool[Tensor, "z y x"], spacing: FloatArray, half_length_cm: float, middle_cm: float
) -> tuple[FloatArray, float, float]:
    """Point on the axis in indices, and the radius and width of the body around it.

    The point is ``middle_cm`` above the middle of the body along z, and at the centroid of the part
    of the body within ``half_length_cm`` of it.
    """
    slices = mask.any(2).any(1).nonzero()[:, 0].numpy()
    middle = (slices[0] + slices[-1]) / 2 + middle_cm / spacing[0]
    beside = max(half_length_cm / spacing[0], 0.5 + 1e-6)  # at least one slice, despite rounding
    near = np.abs(np.arange(len(mask)) - middle) <= beside
    lengths = mask[torch.from_numpy(near)].sum(0).numpy()  # number of slices that contain the body
    positions = np.argwhere(lengths)
    if not len(positions):
        half_cm = (np.ptp(slices) + 1) / 2 * spacing[0]
        raise ValueError(
            f"the grid lies {middle_cm:g} cm from the middle of the body, which extends from "
            f"{-half_cm:.1f} to {half_cm:.1f} cm: choose a datasets.slice_cm between these"
        )
    center = np.average(positions, axis=0, weights=lengths[lengths > 0])
    distances_cm = np.linalg.norm((positions - center) * spacing[1:], axis=1)
    radius_cm = distances_cm.max() + spacing[1:].max()
    return np.array([middle, *center]), float(radius_cm), np.ptp(positions[:, 1]) * spacing[2]
