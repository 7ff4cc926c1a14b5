"""Write a volume as NIfTI, positioned so that ``read_nifti`` and viewers show it correctly."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.files.atomic import written_whole
from pcctlearn.patients.patient_frame import UPRIGHT
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.validation import FloatArray

_MM = 10.0  # in a cm
_SAME_MM = 1e-3


def write_nifti(
    path: str | Path,
    volume: Float[Tensor, "z y x"],
    grid: VolumeGrid,
    unit: str,
    scanner_to_patient: FloatArray | None = None,
    unknown: Bool[Tensor, "z y x"] | None = None,
) -> None:
    """Write a volume on its grid as float32 in ``unit``; the file is complete or not written.

    Args:
        path: ends in .nii.gz.
        scanner_to_patient: takes (x, y, z, 1) to (R, A, S, 1) in cm, as scan files record it, so
            that the file is registered to the CT that was scanned. By default R = −x, A = y and
            S = z: x points to the patient's left, y to the front and z to the head.
        unknown: voxels that are stored as NaN.

    Raises:
        ValueError: the shape is not that of the grid, a value outside ``unknown`` is not finite, or
        the suffix is not .nii.gz.
    """
    path = Path(path)
    if not path.name.endswith(".nii.gz"):
        raise ValueError(f"{path} must end in .nii.gz")
    if tuple(volume.shape) != grid.shape:
        raise ValueError(
            f"{path}: the volume has shape {tuple(volume.shape)}, its grid {grid.shape}"
        )
    known = volume if unknown is None else volume[~unknown]
    if n_bad := int((~known.isfinite()).sum()):
        raise ValueError(f"{path} is not written: {n_bad} values are NaN or infinite")
    if unknown is not None:
        volume = volume.masked_fill(unknown, torch.nan)
    values = volume.detach().cpu().float().numpy()
    # column 0 is on the patient's right and row 0 the front: R and A decrease along both
    image = nib.Nifti1Image(np.ascontiguousarray(values.transpose(2, 1, 0)[::-1, ::-1]), None)
    affine = patient_affine(grid, UPRIGHT if scanner_to_patient is None else scanner_to_patient)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    if not np.allclose(image.get_qform(), affine, rtol=0, atol=_SAME_MM):
        image.set_qform(None, code="unknown")  # a qform cannot hold a shear, which a CT may have
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"pcctlearn, {unit}".encode()
    with written_whole(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def patient_affine(grid: VolumeGrid, scanner_to_patient: FloatArray) -> FloatArray:
    """The matrix that takes (i, j, k, 1) of the stored array to (R, A, S, 1) in mm."""
    dz, dy, dx = grid.spacing_cm
    x, y, _ = grid.index_to_cm @ [grid.n_x - 1, grid.n_y - 1, 1.0]  # the stored array is flipped
    stored_to_scanner = np.diag([-dx, dy, dz, 1.0])
    stored_to_scanner[:3, 3] = x, y, grid.slices_cm[0]
    return np.diag([_MM, _MM, _MM, 1.0]) @ scanner_to_patient @ stored_to_scanner
