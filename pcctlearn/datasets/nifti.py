"""Any NIfTI volume in HU, or one axial slice of it, KiTS cases included."""

import math
import zlib
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Float
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from torch import Tensor

from pcctlearn.datasets.ct_volume import (
    CtVolume,
    anatomical_axes,
    check_hounsfield,
    ct_volume,
    house_order,
    in_house_axes,
)
from pcctlearn.units import AIR_HU, mm_to_cm

SUFFIXES = (".nii.gz", ".nii")
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
    image = open_nifti(file)
    axes = anatomical_axes(file, image.affine)
    slice_axis, *plane_axes = house_order(axes)
    n_slices = image.shape[slice_axis]
    index = n_slices // 2 if index is None else index
    if not 0 <= index < n_slices:
        raise ValueError(f"{file} has slices 0 to {n_slices - 1}, got index {index}")
    where: list[slice | int] = [slice(None)] * 3
    where[slice_axis] = index
    stored = stored_values(file, image, *where)
    check_hounsfield(file, stored, "this slice")

    plane = in_house_axes(stored, axes[:slice_axis] + axes[slice_axis + 1 :])
    rows_cm, columns_cm = (mm_to_cm(float(mm)) for mm in voxel_sizes(image.affine)[plane_axes])
    return torch.from_numpy(plane.clip(min=AIR_HU)), (rows_cm, columns_cm)


def read_nifti(path: str | Path, straighten: bool = False) -> CtVolume:
    """The whole volume in HU and house axes; ``path`` as ``read_slice`` takes it.

    Raises FileNotFoundError for what is not there, ValueError for a file that is damaged, without
    an orientation, not in HU, or tilted, unless ``straighten`` resamples it.
    """
    file = _find_file(Path(path))
    image = open_nifti(file)
    stored = stored_values(file, image, slice(None), slice(None), slice(None))
    return ct_volume(file, stored, image.affine, without_suffix(file.name), straighten)


def without_suffix(name: str) -> str:
    """The name of a file without .nii or .nii.gz."""
    return name.removesuffix(next((s for s in SUFFIXES if name.endswith(s)), ""))


def imaging_files(root: Path) -> list[Path]:
    """imaging.nii.gz of a KiTS case, or of every case of a KiTS21 or KiTS23 root, in order."""
    for folder in ("", "case_*/", "*/case_*/", "*/*/case_*/"):
        if files := sorted(root.glob(f"{folder}imaging.nii.gz")):
            return files
    raise FileNotFoundError(
        f"no imaging.nii.gz in {root} or in its case_* folders; give a .nii or .nii.gz file, "
        "or fetch the images with the KiTS download command"
    )


def _find_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist; give a .nii or .nii.gz file in HU")
    return imaging_files(path)[0]


def open_nifti(file: Path) -> nib.Nifti1Image:
    """The header of a 3-D volume of numbers that says how the patient lies."""
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
    if image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
        raise ValueError(
            f"{file} does not say how the patient lies (sform_code = qform_code = 0); "
            "convert it again from DICOM with its orientation"
        )
    return image


def stored_values(file: Path, image: nib.Nifti1Image, *where: slice | int) -> np.ndarray:
    """A part of the volume, its header's slope and intercept applied, in the file's own axes."""
    frame = (0,) * (image.ndim - 3)
    try:
        _check_whole(file, image)
        return np.asarray(image.dataobj[where + frame], dtype=np.float32)
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
