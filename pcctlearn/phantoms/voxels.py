"""Patients as phantoms: a CT in HU becomes water and calcium maps on the grid of the scan."""

from math import ceil, inf

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.units import AIR_HU

SKIN_HU = -300.0


def water_and_calcium(
    hounsfield: Float[Tensor, "*voxel"], threshold_HU: float = 200.0, effective_keV: float = 70.0
) -> Float[Tensor, "material *voxel"]:
    """Densities (w, c) in g/cm³ of water and calcium, with h = HU/1000 and r = μ_c/μ_w per gram.

    HU ≤ threshold: c = 0, w = 1 + h.   HU > threshold: c = (h − 0.024) / (r + 0.62),
    w = 1.024 + 0.62 c. Both give HU = 1000 (w + r c − 1) at effective_keV, where a clinical
    120 kVp scale acts as if monoenergetic; a threshold of 24 makes the maps continuous.
    """
    if threshold_HU < 24:
        raise ValueError(f"threshold_HU must be 24 or more, got {threshold_HU:g}: calcium < 0")
    water, calcium = (mass_attenuation(m, [effective_keV]).item() for m in ("water", "calcium"))
    r = calcium / water
    h = hounsfield.clamp(min=AIR_HU) / 1000
    c = torch.where(hounsfield > threshold_HU, (h - 0.024) / (r + 0.62), 0.0)
    w = torch.where(hounsfield > threshold_HU, 1.024 + 0.62 * c, 1 + h)
    return torch.stack([w, c])


def body_mask(
    hounsfield: Float[Tensor, "y x"], spacing_cm: tuple[float, float]
) -> Bool[Tensor, "y x"]:
    """The patient without the table: the largest piece left after an opening of 0.5 cm, filled."""
    return volume_body_mask(hounsfield[None], (inf, *spacing_cm))[0]


def volume_body_mask(
    hounsfield: Float[Tensor, "z y x"], voxel_cm: tuple[float, float, float]
) -> Bool[Tensor, "z y x"]:
    """The patient without the table: the largest 3-D piece, opened and filled slice by slice."""
    steps = max(1, round(0.5 / max(voxel_cm[1:])))
    in_plane = ndimage.generate_binary_structure(2, 1)[None]  # thick slices stay as they are
    pieces, n_pieces = ndimage.label(
        ndimage.binary_opening(hounsfield.numpy() > SKIN_HU, in_plane, iterations=steps)
    )
    if n_pieces == 0:
        where = "slice" if len(hounsfield) == 1 else "volume"
        raise ValueError(f"no body in this {where}: no region above {SKIN_HU:g} HU; choose another")
    sizes = np.bincount(pieces.ravel())[1:]
    body = pieces == 1 + sizes.argmax()
    return torch.from_numpy(np.stack([ndimage.binary_fill_holes(plane) for plane in body]))


def centered_body(
    hounsfield: Float[Tensor, "y x"],
    spacing_cm: tuple[float, float],
    n_y: int,
    n_x: int,
    voxel_cm: float,
    fit: bool = False,
) -> tuple[Float[Tensor, "n_y n_x"], float]:
    """The body alone in air on the image grid, its centroid on the axis; and its scale, mostly 1.

    A body that leaves the grid's inscribed circle is refused, or shrunk into it with ``fit``.
    Pixels are smoothed to the size of a voxel before they are sampled, so that area is kept.
    """
    grid = VolumeGrid(1, n_y, n_x, voxel_cm)
    placed, scale = centered_volume(hounsfield[None], (voxel_cm, *spacing_cm), grid, fit)
    return placed[0], scale


def centered_volume(
    hounsfield: Float[Tensor, "z y x"],
    voxel_cm: tuple[float, float, float],
    grid: VolumeGrid,
    fit: bool = False,
) -> tuple[Float[Tensor, "n_z n_y n_x"], float]:
    """The body alone in air on the grid, its centroid on the axis; and its scale, mostly 1.

    The middle of its length lies at the grid's central slice, and what is longer than the grid is
    cut off. A body wider than the circle about the axis that the grid holds is refused, or shrunk
    into it with ``fit``. Voxels are smoothed to the grid's size first, so that mass is kept.
    """
    mask = volume_body_mask(hounsfield, voxel_cm)
    spacing = np.array(voxel_cm)
    size = np.array(grid.spacing_cm)
    offset = np.array([1, -1, 1]) * grid.center_cm  # of the grid, towards higher indices
    offset[0] = 0
    halves = np.array(grid.shape) * size / 2
    field_cm = 2 * (halves - np.abs(offset))[1:].min()
    if field_cm <= 0:
        raise ValueError(
            f"the grid must hold the axis x = y = 0, its center_cm is {grid.center_cm}"
        )

    center, radius_cm, width_cm = _extent(mask, spacing, half_length_cm=halves[0])
    if 2 * radius_cm > field_cm:
        if not fit:
            raise ValueError(
                f"the body is {width_cm:.1f} cm wide and needs a field of {2 * radius_cm:.1f} cm, "
                f"the grid's is {field_cm:.1f} cm: take {ceil(2 * radius_cm / size[1:].min())} "
                "voxels a side, or datasets.fit=true to shrink the patient"
            )
        center, radius_cm, _ = _extent(mask, spacing, half_length_cm=inf)
    scale = min(1.0, field_cm / (2 * radius_cm))
    step = size / (spacing * scale)  # voxels of the CT from one of the grid to the next
    body = torch.where(mask, hounsfield, AIR_HU).numpy()
    smooth = ndimage.gaussian_filter(
        body,
        np.maximum(step - 1, 0) / 2,
        cval=AIR_HU,
        mode=["nearest", "constant", "constant"],  # a patient goes on beyond the first and last
    )
    first = center + (offset - (halves - size / 2)) / size * step
    placed = ndimage.affine_transform(smooth, step, first, grid.shape, order=1, cval=AIR_HU)
    return torch.from_numpy(placed), float(scale)


def _extent(
    mask: Bool[Tensor, "z y x"], spacing: np.ndarray, half_length_cm: float
) -> tuple[np.ndarray, float, float]:
    """Indices of the middle; how far from the axis and how wide the body is near that middle."""
    slices = mask.any(2).any(1).nonzero()[:, 0].numpy()
    middle = (slices[0] + slices[-1]) / 2
    near = np.abs(np.arange(len(mask)) - middle) * spacing[0] <= max(half_length_cm, spacing[0] / 2)
    lengths = mask[torch.from_numpy(near)].sum(0).numpy()  # how many slices deep the body is
    positions = np.argwhere(lengths)
    center = np.average(positions, axis=0, weights=lengths[lengths > 0])
    distances_cm = np.linalg.norm((positions - center) * spacing[1:], axis=1)
    radius_cm = distances_cm.max() + spacing[1:].max()
    return np.array([middle, *center]), radius_cm, np.ptp(positions[:, 1]) * spacing[2]
