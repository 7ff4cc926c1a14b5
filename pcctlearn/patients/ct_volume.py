"""A CT volume in HU with its position in the patient, and the checks that all readers share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

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
ORIENTATION = "SPL"  # z increases to superior, y (rows) to posterior, x (columns) to the left


@dataclass(frozen=True, eq=False)
class CtVolume:
    """A patient in HU: slice 0 most inferior, row 0 anterior, column 0 patient right.

    Args:
        hounsfield: (z, y, x) in HU, float32, at least −1000.
        voxel_cm: voxel size along z, y and x.
        index_to_patient: takes (slice, row, column, 1) to (R, A, S, 1) of the patient, in cm.
        densities: for a resampled volume, water and calcium in g/cm³ as a function of the bone
            threshold in HU, converted before resampling because densities are not linear in HU.
    """

    hounsfield: Float[Tensor, "z y x"]
    voxel_cm: tuple[float, float, float]
    index_to_patient: np.ndarray
    densities: Callable[[float], Float[Tensor, "material z y x"]] | None = None


def ct_volume(
    source: Path,
    stored: np.ndarray,
    affine: np.ndarray,
    straighten: bool = False,
    evenly_spaced: Resampling | None = None,
) -> CtVolume:
    """Build a CtVolume from an array returned by ``air_for_padding`` and its affine (RAS, mm).

    ``evenly_spaced`` resamples both if the slices are unevenly spaced. Raises ValueError for an
    array that is not 3-D, and for a tilted one unless ``straighten`` is set.
    """
    if stored.ndim != 3:
        raise ValueError(f"{source} has shape {stored.shape}; give one 3-D volume at a time")

    def resampled(values: np.ndarray, outside: float) -> tuple[np.ndarray, np.ndarray]:
        even = (values, affine) if evenly_spaced is None else evenly_spaced(values, affine)
        return straightened(source, *even, outside) if straighten else even

    hounsfield, resampled_affine = resampled(stored, AIR_HU)
    require_straight(source, resampled_affine)

    def densities(threshold_HU: float) -> Tensor:
        both = water_and_calcium(torch.from_numpy(stored), threshold_HU).numpy()
        return torch.stack([reoriented(*resampled(density, 0.0))[0] for density in both])

    values, affine_mm = reoriented(hounsfield, resampled_affine)
    z, y, x = (mm_to_cm(float(size)) for size in voxel_sizes(affine_mm))
    affine_cm = np.diag([mm_to_cm(1.0)] * 3 + [1.0]) @ affine_mm
    return CtVolume(values, (z, y, x), affine_cm, None if hounsfield is stored else densities)


def air_for_padding(source: Path, stored: np.ndarray, part: str = "this volume") -> np.ndarray:
    """HU in float32 with padding (all values below −1000 HU) replaced by air.

    Call this before any interpolation, which would mix padding with tissue. Raises ValueError for
    values that are not HU.
    """
    check_hounsfield(source, stored, part)
    return np.asarray(stored, dtype=np.float32).clip(min=AIR_HU)


def straightened(
    source: Path, values: np.ndarray, affine: np.ndarray, outside: float = AIR_HU
) -> tuple[np.ndarray, np.ndarray]:
    """Resample a tilted or sheared array to axes along R, A and S; others are returned unchanged.

    The voxel size along S is the distance between slices along S, which for a tilted gantry is the
    table increment; along R and A it is the smaller pixel size. ``outside`` fills voxels beyond
    the array.
    """
    if tilt_deg(source, affine) <= MAX_TILT_DEG:
        return values, affine
    across = slice_axis(affine)
    pixel_mm = np.delete(voxel_sizes(affine), across).min()
    straight = resample_to_output(
        nib.Nifti1Image(values, affine),
        (pixel_mm, pixel_mm, abs(affine[2, across])),
        order=1,
        mode="grid-constant",  # with "constant", rounding turns the outermost voxels into air
        cval=outside,
    )
    return np.asarray(straight.dataobj), straight.affine


def tilt_deg(source: Path, affine: np.ndarray) -> float:
    """Largest angle between an array axis and the nearest axis of the patient."""
    if not abs(np.linalg.det(affine[:3, :3])) > 0:
        raise ValueError(
            f"{source} has voxel sizes that are not positive; convert it again from DICOM"
        )
    return float(np.degrees(obliquity(affine)).max())


def require_straight(source: Path, affine: np.ndarray) -> None:
    """Raise ValueError if the axes of the array are tilted against the patient's axes."""
    tilt = tilt_deg(source, affine)
    if tilt > MAX_TILT_DEG:
        raise ValueError(
            f"{source} is tilted by {tilt:.1f}° against the patient's axes, more than "
            f"{MAX_TILT_DEG:g}°; read the whole volume with datasets.straighten=true, or resample "
            "it to straight axes first, as dcm2niix does for a tilted gantry"
        )


def slice_axis(affine: np.ndarray) -> int:
    """Axis of the array along which slices are stacked, in either direction."""
    return nib.io_orientation(affine)[:, 0].tolist().index(2)


def reoriented(values: np.ndarray, affine: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Reorder and flip the axes to (z, y, x); returns the values and their affine (RAS, mm)."""
    from monai.data import MetaTensor
    from monai.transforms import Orientation

    stored = MetaTensor(torch.from_numpy(values)[None], torch.from_numpy(affine))
    oriented = cast(MetaTensor, Orientation(ORIENTATION, labels=None)(stored))
    return oriented.as_tensor()[0].contiguous(), oriented.affine.numpy()


def check_hounsfield(source: Path, values: np.ndarray, part: str) -> None:
    """Reject NaN and infinite values, and volumes without air near −1000 HU (probably not HU)."""
    n_bad = int((~np.isfinite(values)).sum())
    if n_bad:
        raise ValueError(f"{source} holds {n_bad} NaN or infinite values in {part}; set them to HU")
    if not ((values > -1100) & (values < -900)).any():
        measured = values[values > -1100]  # without padding
        raw = " and are raw counts, not HU" if measured.size and measured.min() >= 0 else ""
        raise ValueError(
            f"{source} has no air near {AIR_HU:g} HU: its values run from {values.min():g} to "
            f"{values.max():g}{raw}; give a CT volume in HU (rescale slope and intercept applied)"
        )
