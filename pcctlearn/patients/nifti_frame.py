"""The affine matrix of a NIfTI file in mm, with checks that the header is consistent."""

import json
import shlex
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown, meter, millimeter, micrometer
_UNIT_NAMES = {0: "missing, which means mm", 1: "meters", 2: "mm", 3: "micrometers"}
# plausible voxels of a CT, from the finest micro-CT to slices taken 2 cm apart
_LEAST_MM, _MOST_PIXEL_MM, _MOST_MM = 0.004, 10.0, 30.0
_SAME_SIZE = 0.01
_SAME_DIRECTION_DEG = 1.0


def affine_mm(file: Path, image: nib.Nifti1Image) -> np.ndarray:
    """The matrix that takes voxel indices to (R, A, S) in mm: the sform, or else the qform.

    Lengths are converted from the unit of the header (xyzt_units); no unit means mm. A shift
    between sform and qform raises a warning.

    Raises:
        ValueError: the header has no orientation; its sform, qform and pixdim differ by more than
        1 % in size or 1° in direction; or its voxel size is implausible for a CT.
    """
    header = image.header
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        raise ValueError(
            f"{file} has no orientation (sform_code = qform_code = 0); convert it again from DICOM "
            "with its orientation"
        )
    code = int(header["xyzt_units"]) & 7
    if code not in _UNITS_MM:
        raise ValueError(
            f"{file} gives its lengths in an unknown unit (xyzt_units {code}); if they are in mm, "
            f"{_mended(file, 'i.header.set_xyzt_units(2)')}"
        )
    affine = image.affine.astype(np.float64)
    _check_sizes(file, affine, np.asarray(header.get_zooms()[:3], dtype=np.float64))
    if header["sform_code"] > 0 and header["qform_code"] > 0:
        _check_directions(file, affine, image.get_qform())
    _check_plausible(file, voxel_sizes(affine), code)
    affine[:3] *= _UNITS_MM[code]
    return affine


def _check_plausible(file: Path, sizes: np.ndarray, code: int) -> None:
    """Reject voxel sizes implausible for a CT, and suggest a unit that makes them plausible."""

    def plausible(unit: int) -> bool:
        least, most = sizes.min() * _UNITS_MM[unit], sizes.max() * _UNITS_MM[unit]
        return bool(_LEAST_MM <= least <= _MOST_PIXEL_MM and most <= _MOST_MM)

    if plausible(code):
        return
    right = next((unit for unit in (2, 3, 1) if plausible(unit)), None)
    remedy = "convert it again from DICOM"
    if right is not None:
        command = _mended(file, f"i.header.set_xyzt_units({right})")
        remedy = f"if they are in {_UNIT_NAMES[right]}, {command}"
    raise ValueError(
        f"{file} has voxels of {_sizes(sizes * _UNITS_MM[code])} mm, implausible for a CT: the "
        f"unit of its header is {_UNIT_NAMES[code]} (xyzt_units {code}); {remedy}"
    )


def _check_sizes(file: Path, affine: np.ndarray, pixdim: np.ndarray) -> None:
    sizes = voxel_sizes(affine)
    if not np.isfinite(affine).all() or not (sizes > 0).all():
        raise ValueError(
            f"{file} has voxel sizes that are not positive; convert it again from DICOM"
        )
    if not np.allclose(pixdim, sizes, rtol=_SAME_SIZE, atol=0):
        raise ValueError(
            f"{file} has voxels of {_sizes(sizes)} by its sform, {_sizes(pixdim)} by its pixdim; "
            f"if the sform is right, {_mended(file, _BY_SFORM)}; otherwise convert it again from "
            "DICOM"
        )


def _check_directions(file: Path, sform: np.ndarray, qform: np.ndarray) -> None:
    """Compare the nearest rotations of both, because a qform cannot hold a shear."""
    turn = _rotation(qform) @ _rotation(sform).T
    angle_deg = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    mirrored = np.linalg.det(turn) < 0
    if mirrored or angle_deg > _SAME_DIRECTION_DEG:
        how = "mirrored" if mirrored else f"turned by {angle_deg:.1f}°"
        raise ValueError(
            f"{file} has a qform that is {how} relative to its sform; if the sform is right, "
            f"{_mended(file, _BY_SFORM)}; if the qform is right, {_mended(file, _BY_QFORM)}"
        )
    shift = sform[:3, 3] - qform[:3, 3]
    if np.abs(shift).max() > voxel_sizes(sform).max():
        warnings.warn(
            f"{file}: sform and qform place the patient {np.linalg.norm(shift):.3g} units apart; "
            "the sform is used",
            stacklevel=4,
        )


def _rotation(affine: np.ndarray) -> np.ndarray:
    """The nearest orthogonal matrix."""
    left, _, right = np.linalg.svd(affine[:3, :3] / voxel_sizes(affine))
    return left @ right


_BY_SFORM = 'i.set_qform(i.get_sform(), int(i.header["sform_code"]))'
_BY_QFORM = 'i.set_sform(i.get_qform(), int(i.header["qform_code"]))'


def _mended(file: Path, change: str) -> str:
    """The command that writes a copy with a corrected header."""
    path = json.dumps(str(file.resolve()), ensure_ascii=False)  # in double quotes
    program = f'import nibabel as n; i = n.load({path}); {change}; n.save(i, "mended.nii.gz")'
    return f"type: python -c {shlex.quote(program)} and read mended.nii.gz"


def _sizes(sizes: np.ndarray) -> str:
    return " × ".join(f"{size:.4g}" for size in sizes)
