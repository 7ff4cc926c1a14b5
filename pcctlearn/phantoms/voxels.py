"""Patients as phantoms: a CT slice in HU becomes water and calcium maps on the image grid."""

from math import ceil

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from pcctlearn.physics.attenuation import mass_attenuation
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
    steps = max(1, round(0.5 / max(spacing_cm)))
    pieces, n_pieces = ndimage.label(
        ndimage.binary_opening(hounsfield.numpy() > SKIN_HU, iterations=steps)
    )
    if n_pieces == 0:
        raise ValueError(f"no body in this slice: no region above {SKIN_HU:g} HU; choose another")
    sizes = np.bincount(pieces.ravel())[1:]
    return torch.from_numpy(ndimage.binary_fill_holes(pieces == 1 + sizes.argmax()))


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
    mask = body_mask(hounsfield, spacing_cm)
    spacing = np.array(spacing_cm)
    positions = mask.nonzero().numpy()
    center = positions.mean(axis=0)
    radius_cm = np.linalg.norm((positions - center) * spacing, axis=1).max() + spacing.max()
    field_cm = min(n_y, n_x) * voxel_cm
    if 2 * radius_cm > field_cm and not fit:
        width_cm = np.ptp(positions[:, 1]) * spacing[1]
        raise ValueError(
            f"the body is {width_cm:.1f} cm wide and needs a field of {2 * radius_cm:.1f} cm, the "
            f"grid's is {field_cm:.1f} cm: take {ceil(2 * radius_cm / voxel_cm)} voxels a side, or "
            "datasets.fit=true to shrink the patient"
        )
    scale = min(1.0, field_cm / (2 * radius_cm))
    step = voxel_cm / (spacing * scale)  # pixels from one voxel to the next
    body = torch.where(mask, hounsfield, AIR_HU).numpy()
    smooth = ndimage.gaussian_filter(
        body, np.maximum(step - 1, 0) / 2, cval=AIR_HU, mode="constant"
    )
    first = center - step * (np.array([n_y, n_x]) - 1) / 2
    placed = ndimage.affine_transform(smooth, step, first, (n_y, n_x), order=1, cval=AIR_HU)
    return torch.from_numpy(placed), float(scale)
