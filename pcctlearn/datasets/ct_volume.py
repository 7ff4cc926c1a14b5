"""A CT volume as the house holds it, and what every reader checks before it makes one."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Float
from nibabel.affines import obliquity
from torch import Tensor

from pcctlearn.units import AIR_HU

MAX_TILT_DEG = 2.0
HOUSE_DIRECTIONS = ("IS", "AP", "RL")  # z upwards, y (rows) from the front, x from the right


@dataclass(frozen=True, eq=False)
class CtVolume:
    """A patient in HU: slice 0 most inferior, row 0 anterior, column 0 patient right.

    Args:
        hounsfield: (z, y, x) in HU, float32, nothing below air.
        voxel_cm: distance from voxel to voxel along z, y and x.
        name: of the case, for captions and messages.
    """

    hounsfield: Float[Tensor, "z y x"]
    voxel_cm: tuple[float, float, float]
    name: str


def ct_volume(
    source: Path, stored: np.ndarray, affine: np.ndarray, voxel_cm: list[float], name: str
) -> CtVolume:
    """The volume in house axes of an array in HU whose axes point where ``affine`` says.

    Raises ValueError for what is tilted, not a volume or not in HU; padding reads as air.
    """
    if stored.ndim != 3:
        raise ValueError(f"{source} has shape {stored.shape}; give one 3-D volume at a time")
    axes = anatomical_axes(source, affine)
    check_hounsfield(source, stored, "this volume")
    z, y, x = (voxel_cm[axis] for axis in house_order(axes))
    values = np.ascontiguousarray(in_house_axes(stored, axes), dtype=np.float32)
    return CtVolume(torch.from_numpy(values.clip(min=AIR_HU)), (z, y, x), name)


def anatomical_axes(source: Path, affine: np.ndarray) -> tuple[str, ...]:
    """Where each array axis points: one of L/R, A/P and I/S each; ``affine`` leads to R, A, S."""
    if not abs(np.linalg.det(affine[:3, :3])) > 0:
        raise ValueError(f"{source} gives its voxels no size; convert it again from the scanner's")
    tilt_deg = np.degrees(obliquity(affine)).max()
    if tilt_deg > MAX_TILT_DEG:
        raise ValueError(
            f"{source} is tilted by {tilt_deg:.1f}° against the patient's axes, more than "
            f"{MAX_TILT_DEG:g}°; resample it to straight axes first, as dcm2niix does for a "
            "tilted gantry"
        )
    return nib.aff2axcodes(affine)


def house_order(axes: tuple[str, ...]) -> list[int]:
    """Which array axis is z, y and x; a plane of a volume lacks one of them."""
    return [axis for pair in HOUSE_DIRECTIONS for axis, code in enumerate(axes) if code in pair]


def in_house_axes(stored: np.ndarray, axes: tuple[str, ...]) -> np.ndarray:
    """A view of a volume, or of a plane of one, with its axes in the order and sense of ours."""
    order = house_order(axes)
    grows_our_way = [any(axes[axis] == pair[1] for pair in HOUSE_DIRECTIONS) for axis in order]
    turned = tuple(slice(None, None, 1 if ours else -1) for ours in grows_our_way)
    return stored.transpose(order)[turned]


def check_hounsfield(source: Path, values: np.ndarray, part: str) -> None:
    """Refuse what is not a number, and what has no air and so is hardly in HU."""
    n_bad = int((~np.isfinite(values)).sum())
    if n_bad:
        raise ValueError(f"{source} holds {n_bad} NaN or infinite values in {part}; set them to HU")
    if not ((values > -1100) & (values < -900)).any():
        measured = values[values > -1100]  # padding aside
        raw = ": raw counts, not HU" if measured.size and measured.min() >= 0 else ""
        raise ValueError(
            f"{source} has no air near {AIR_HU:g} HU, its values run from {values.min():g} to "
            f"{values.max():g}{raw}; give a CT volume in HU (rescale slope and intercept applied)"
        )
