"""Read a NIfTI volume in HU, or one axial slice of it; a KiTS case is such a volume."""

import math
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from jaxtyping import Float
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener
from torch import Tensor

from pcctlearn.files.names import is_hidden
from pcctlearn.patients.ct_volume import (
    CtVolume,
    air_for_padding,
    ct_volume,
    reoriented,
    require_straight,
    slice_axis,
)
from pcctlearn.patients.nifti_frame import affine_mm
from pcctlearn.reading.damaged import readable
from pcctlearn.reading.sizes import require_size
from pcctlearn.units import mm_to_cm

SUFFIXES = (".nii.gz", ".nii")
_AGAIN = "download or copy it again"
_MAX_INFLATION = 1100  # largest ratio of gzip
_BLOCK_BYTES = 1 << 24


def read_slice(
    path: str | Path, index: int | None = None
) -> tuple[Float[Tensor, "y x"], tuple[float, float]]:
    """Read an axial slice in HU, row 0 anterior and column 0 patient right, and its (dy, dx) in cm.

    ``path`` is a NIfTI file, a KiTS case folder or a KiTS root (its first case). ``index`` counts
    slices as the file stores them, from 0; None takes the middle one. Values below −1000 HU are
    padding and become air.
    """
    file = _find_file(Path(path))
    image = open_nifti(file)
    affine = affine_mm(file, image)
    require_straight(file, affine)
    axis = slice_axis(affine)
    n_slices = image.shape[axis]
    index = n_slices // 2 if index is None else index
    if not 0 <= index < n_slices:
        raise ValueError(f"{file} has slices 0 to {n_slices - 1}, got index {index}")
    where = [slice(None)] * 3
    where[axis] = slice(index, index + 1)
    stored = stored_values(file, image, *where)
    hounsfield = air_for_padding(file, stored, "this slice")
    values, new_affine = reoriented(hounsfield, affine)
    _, row_cm, column_cm = (mm_to_cm(float(size)) for size in voxel_sizes(new_affine))
    return values[0], (row_cm, column_cm)


def read_nifti(path: str | Path, straighten: bool = False) -> CtVolume:
    """Read a whole volume in HU; ``path`` as for ``read_slice``.

    Raises FileNotFoundError if there is no such file, ValueError if it is damaged, has no
    orientation, is not in HU, or is tilted and ``straighten`` is not set.
    """
    file = _find_file(Path(path))
    image = open_nifti(file)
    affine = affine_mm(file, image)
    stored = stored_values(file, image, slice(None), slice(None), slice(None))
    hounsfield = air_for_padding(file, stored)
    return ct_volume(file, hounsfield, affine, straighten)


def without_suffix(name: str) -> str:
    """Name of a file without .nii or .nii.gz."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def imaging_files(root: Path) -> list[Path]:
    """Find imaging.nii.gz of a KiTS case, or of every case of a KiTS21 or KiTS23 root."""
    for folder in ("", "case_*/", "*/case_*/", "*/*/case_*/"):
        found = sorted(root.glob(f"{folder}imaging.nii.gz"))
        if files := [file for file in found if not is_hidden(file, root)]:
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
    """Open a 3-D volume of numbers without reading its values."""
    with readable(file, "a NIfTI file", f"{_AGAIN}, or give a .nii or .nii.gz file"):
        image = nib.load(file)
    if not isinstance(image, nib.Nifti1Image):
        kind = type(image).__name__
        raise ValueError(f"{file} is a {kind}, not a NIfTI file; convert it to .nii.gz")
    if image.ndim < 3 or image.shape[3:] not in ((), (1,)) or min(image.shape) < 1:
        raise ValueError(
            f"{file} has shape {image.shape}; give one 3-D volume, such as a single frame"
        )
    if image.get_data_dtype().kind not in "iuf":
        raise ValueError(f"{file} holds {image.get_data_dtype()}, not HU; give numbers in HU")
    return image


def stored_values(file: Path, image: nib.Nifti1Image, *where: slice) -> np.ndarray:
    """Read part of the volume in the file's axes, with slope and intercept applied."""
    frame = (0,) * (image.ndim - 3)
    n_values = math.prod(
        len(range(*part.indices(n))) for n, part in zip(image.shape, where, strict=False)
    )
    with readable(file, "a whole NIfTI file", _AGAIN):
        _check_whole(file, image)
    require_size(file, 4 * n_values, "give a volume of fewer voxels, or use more memory")
    with readable(file, "a whole NIfTI file", _AGAIN):
        return np.asarray(image.dataobj[where + frame], dtype=np.float32)


def _check_whole(file: Path, image: nib.Nifti1Image) -> None:
    """Count all bytes, because part of a truncated file can be readable; also checks the CRC."""
    stored = cast(ArrayProxy, image.dataobj)
    needed = int(stored.offset) + math.prod(map(int, stored.shape)) * stored.dtype.itemsize
    on_disk = file.stat().st_size
    if file.suffix.lower() == ".nii":
        found = on_disk
    else:
        if needed > _MAX_INFLATION * on_disk:
            raise EOFError(f"the header declares {needed} bytes, the file has {on_disk}")
        found = 0
        with ImageOpener(str(file)) as stream:
            while block := stream.read(_BLOCK_BYTES):
                found += len(block)
                if found > needed + _BLOCK_BYTES:  # a zip bomb
                    raise EOFError(f"more than the {needed} bytes that the header declares")
    if found < needed:
        raise EOFError(f"truncated: {found} of {needed} bytes")
