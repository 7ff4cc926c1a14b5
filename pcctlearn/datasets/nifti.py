"""One axial CT slice out of any NIfTI volume in HU, KiTS cases included."""

import math
import zlib
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Float
from nibabel.affines import obliquity, voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from torch import Tensor

from pcctlearn.units import AIR_HU, mm_to_cm

MAX_TILT_DEG = 2.0
DAMAGED = (OSError, EOFError, ValueError, zlib.error)  # what nibabel and gzip raise on bad bytes


def read_slice(
    path: str | Path, index: int | None = None
) -> tuple[Float[Tensor, "y x"], tuple[float, float]]:
    """Axial slice in HU, row 0 anterior and column 0 patient right, with its (dy, dx) in cm.

    ``path`` is a NIfTI file, a KiTS case folder or a KiTS root (its first case). ``index`` counts
    slices as the file stores them, from 0; None takes the middle one. Padding below air reads as
    air, −1000 HU.
    """
    file = _find_file(Path(path))
    image = _open(file)
    axes = _anatomical_axes(file, image)
    slice_axis = next(axis for axis, towards in enumerate(axes) if towards in "IS")
    hounsfield = _read_plane(file, image, slice_axis, index)
    _check_hounsfield(file, hounsfield)

    sizes_cm = [mm_to_cm(float(size)) for size in voxel_sizes(image.affine)]
    rows, columns = (axis for axis in range(3) if axis != slice_axis)
    if axes[rows] in "LR":
        hounsfield, rows, columns = hounsfield.T, columns, rows
    if axes[rows] == "A":
        hounsfield = hounsfield[::-1]
    if axes[columns] == "R":
        hounsfield = hounsfield[:, ::-1]
    picture = torch.from_numpy(hounsfield.clip(min=AIR_HU))
    return picture, (sizes_cm[rows], sizes_cm[columns])


def _find_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist; give a .nii or .nii.gz file in HU")
    for folder in ("", "case_*/", "*/case_*/", "*/*/case_*/"):
        if cases := sorted(path.glob(f"{folder}imaging.nii.gz")):
            return cases[0]
    raise FileNotFoundError(
        f"no imaging.nii.gz in {path} or in its case_* folders; give a .nii or .nii.gz file, "
        "or fetch the images with the KiTS download command"
    )


def _open(file: Path) -> nib.Nifti1Image:
    try:
        image = nib.load(file)
    except (ImageFileError, HeaderDataError, *DAMAGED) as error:
        raise ValueError(
            f"{file} is not a readable NIfTI ({error}); give a .nii or .nii.gz file"
        ) from error
    if not isinstance(image, nib.Nifti1Image):
        kind = type(image).__name__
        raise ValueError(f"{file} is a {kind}, not a NIfTI; convert it to .nii.gz")
    if image.ndim < 3 or image.shape[3:] not in ((), (1,)):
        raise ValueError(
            f"{file} has shape {image.shape}; give one 3-D volume, a frame or series at a time"
        )
    if image.get_data_dtype().kind not in "iuf":
        raise ValueError(f"{file} holds {image.get_data_dtype()}, not HU; give numbers in HU")
    return image


def _anatomical_axes(file: Path, image: nib.Nifti1Image) -> tuple[str, ...]:
    """Where each array axis points: one of L/R, A/P and I/S each."""
    if image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
        raise ValueError(
            f"{file} does not say how the patient lies (sform_code = qform_code = 0); "
            "convert it again from DICOM with its orientation"
        )
    tilt_deg = np.degrees(obliquity(image.affine)).max()
    if not tilt_deg <= MAX_TILT_DEG:  # a singular affine gives NaN
        raise ValueError(
            f"{file} is tilted by {tilt_deg:.1f}° against the patient's axes, more than "
            f"{MAX_TILT_DEG:g}°; resample it to straight axes first"
        )
    return nib.aff2axcodes(image.affine)


def _read_plane(
    file: Path, image: nib.Nifti1Image, slice_axis: int, index: int | None
) -> Float[np.ndarray, "row column"]:
    n_slices = image.shape[slice_axis]
    index = n_slices // 2 if index is None else index
    if not 0 <= index < n_slices:
        raise ValueError(f"{file} has slices 0 to {n_slices - 1}, got index {index}")
    where: list[int | slice] = [slice(None)] * 3 + [0] * (image.ndim - 3)
    where[slice_axis] = index
    try:
        _check_whole(file, image)
        return np.asarray(image.dataobj[tuple(where)], dtype=np.float32)
    except DAMAGED as error:
        raise ValueError(
            f"{file} is truncated or damaged ({error}); download or copy it again"
        ) from error


def _check_whole(file: Path, image: nib.Nifti1Image) -> None:
    """A slice of a truncated file may look sound, so count all bytes; this checks the CRC too."""
    stored = cast(ArrayProxy, image.dataobj)
    needed = stored.offset + math.prod(stored.shape) * stored.dtype.itemsize
    if file.suffix == ".nii":
        found = file.stat().st_size
    else:
        with ImageOpener(str(file)) as stream:
            found = sum(len(chunk) for chunk in iter(lambda: stream.read(1 << 24), b""))
    if found < needed:
        raise EOFError(f"{found} of {needed} bytes")


def _check_hounsfield(file: Path, values: Float[np.ndarray, "row column"]) -> None:
    n_bad = int((~np.isfinite(values)).sum())
    if n_bad:
        raise ValueError(
            f"{file} holds {n_bad} NaN or infinite values in this slice; set them to HU"
        )
    if not ((values > -1100) & (values < -900)).any():
        raise ValueError(
            f"{file} has no air near {AIR_HU:g} HU, its values run from {values.min():g} to "
            f"{values.max():g}; give a CT volume in HU (rescale slope and intercept applied)"
        )
