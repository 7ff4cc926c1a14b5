"""A CT volume as the house holds it, and what every reader checks before it makes one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Float
from nibabel.affines import obliquity, voxel_sizes
from nibabel.processing import resample_to_output
from torch import Tensor

from pcctlearn.phantoms.voxels import water_and_calcium
from pcctlearn.units import AIR_HU, mm_to_cm

Resampling = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

MAX_TILT_DEG = 2.0
HOUSE_DIRECTIONS = ("IS", "AP", "RL")  # z upwards, y (rows) from the front, x from the right


@dataclass(frozen=True, eq=False)
class CtVolume:
    """A patient in HU: slice 0 most inferior, row 0 anterior, column 0 patient right.

    Args:
        hounsfield: (z, y, x) in HU, float32, nothing below air.
        voxel_cm: distance from voxel to voxel along z, y and x.
        name: of the case, for captions and messages.
        index_to_patient: takes (slice, row, column, 1) to (R, A, S, 1) of the patient, in cm.
        densities: of a resampled volume, water and calcium in g/cm³ for a threshold in HU, made
            voxel by voxel before they were resampled, as HU are no linear measure of materials.
    """

    hounsfield: Float[Tensor, "z y x"]
    voxel_cm: tuple[float, float, float]
    name: str
    index_to_patient: np.ndarray
    densities: Callable[[float], Float[Tensor, "material z y x"]] | None = None


def ct_volume(
    source: Path,
    stored: np.ndarray,
    affine: np.ndarray,
    name: str,
    straighten: bool = False,
    evenly_spaced: Resampling | None = None,
) -> CtVolume:
    """The volume in house axes of an array of ``air_for_padding``.

    ``affine`` takes its indices to R, A and S in mm, and ``evenly_spaced`` changes both where
    slices are not. Raises ValueError for what is not a volume, and for what is tilted unless
    ``straighten`` resamples it.
    """
    if stored.ndim != 3:
        raise ValueError(f"{source} has shape {stored.shape}; give one 3-D volume at a time")

    def resampled(values: np.ndarray, outside: float) -> tuple[np.ndarray, np.ndarray]:
        even = (values, affine) if evenly_spaced is None else evenly_spaced(values, affine)
        return straightened(source, *even, outside) if straighten else even

    hounsfield, new_affine = resampled(stored, AIR_HU)
    axes = anatomical_axes(source, new_affine)

    def in_house(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(in_house_axes(values, axes)))

    def densities(threshold_HU: float) -> Tensor:
        both = water_and_calcium(torch.from_numpy(stored), threshold_HU).numpy()
        return torch.stack([in_house(resampled(density, 0.0)[0]) for density in both])

    z, y, x = (mm_to_cm(float(voxel_sizes(new_affine)[axis])) for axis in house_order(axes))
    in_cm = np.diag([mm_to_cm(1.0)] * 3 + [1.0]) @ new_affine @ _from_house(hounsfield.shape, axes)
    is_resampled = hounsfield is not stored
    return CtVolume(
        in_house(hounsfield), (z, y, x), name, in_cm, densities if is_resampled else None
    )


def air_for_padding(source: Path, stored: np.ndarray, part: str = "this volume") -> np.ndarray:
    """HU in float32 with air in place of padding, which is all that lies below air.

    Call it before any interpolation, which would mix padding with tissue. Raises ValueError for
    what is not in HU.
    """
    check_hounsfield(source, stored, part)
    return np.asarray(stored, dtype=np.float32).clip(min=AIR_HU)


def straightened(
    source: Path, values: np.ndarray, affine: np.ndarray, outside: float = AIR_HU
) -> tuple[np.ndarray, np.ndarray]:
    """A tilted or sheared array on axes along R, A and S, and its affine; others as they are.

    Along S the voxels are as far apart as the slices are along S, which under a tilted gantry is
    the step of the table; along R and A they are as fine as the finest in a slice. What lies
    around the slices is ``outside``, the value of air.
    """
    if tilt_deg(source, affine) <= MAX_TILT_DEG:
        return values, affine
    slice_axis, *plane_axes = house_order(nib.aff2axcodes(affine))
    pixel_mm = voxel_sizes(affine)[plane_axes].min()
    straight = resample_to_output(
        nib.Nifti1Image(values, affine),
        (pixel_mm, pixel_mm, abs(affine[2, slice_axis])),
        order=1,
        mode="grid-constant",  # "constant" turns the outermost voxels to air by rounding
        cval=outside,
    )
    return np.asarray(straight.dataobj), straight.affine


def tilt_deg(source: Path, affine: np.ndarray) -> float:
    """The largest angle between an array axis and the patient's axis nearest to it."""
    if not abs(np.linalg.det(affine[:3, :3])) > 0:
        raise ValueError(
            f"{source} has voxel sizes that are not positive; convert it again from DICOM"
        )
    return float(np.degrees(obliquity(affine)).max())


def anatomical_axes(source: Path, affine: np.ndarray) -> tuple[str, ...]:
    """Where each array axis points: one of L/R, A/P and I/S each; ``affine`` leads to R, A, S."""
    tilt = tilt_deg(source, affine)
    if tilt > MAX_TILT_DEG:
        raise ValueError(
            f"{source} is tilted by {tilt:.1f}° against the patient's axes, more than "
            f"{MAX_TILT_DEG:g}°; read the whole volume with datasets.straighten=true, or resample "
            "it to straight axes first, as dcm2niix does for a tilted gantry"
        )
    return nib.aff2axcodes(affine)


def house_order(axes: tuple[str, ...]) -> list[int]:
    """Which array axis is z, y and x; a plane of a volume lacks one of them."""
    return [axis for pair in HOUSE_DIRECTIONS for axis, code in enumerate(axes) if code in pair]


def in_house_axes(stored: np.ndarray, axes: tuple[str, ...]) -> np.ndarray:
    """A view of a volume, or of a plane of one, with its axes in the order and sense of ours."""
    order = house_order(axes)
    turned = tuple(slice(None, None, _sense(axes[axis])) for axis in order)
    return stored.transpose(order)[turned]


def _from_house(shape: tuple[int, ...], axes: tuple[str, ...]) -> np.ndarray:
    """The matrix that takes house indices (slice, row, column, 1) to those of the stored array."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for house_axis, axis in enumerate(house_order(axes)):
        matrix[axis, house_axis] = sense = _sense(axes[axis])
        matrix[axis, 3] = 0 if sense == 1 else shape[axis] - 1
    return matrix


def _sense(code: str) -> int:
    """1 for an axis that points as ours does, −1 for its opposite."""
    return 1 if any(code == pair[1] for pair in HOUSE_DIRECTIONS) else -1


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
