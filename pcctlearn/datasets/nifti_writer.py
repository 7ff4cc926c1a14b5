"""A volume written as NIfTI, where ``read_nifti`` and any viewer find it as it lies here."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float
from torch import Tensor

from pcctlearn.files import written_whole
from pcctlearn.tomography.grids import FloatArray, VolumeGrid

_MM = 10.0  # in a cm


def write_nifti(
    path: str | Path, volume: Float[Tensor, "z y x"], grid: VolumeGrid, unit: str
) -> None:
    """A volume on its grid, float32 in ``unit``, as ``path``.nii.gz, whole or not at all.

    It is stored with its axes along R, A and S. As the readers have it, our x leads to the
    patient's left, y to the front and z to the head: R = −x, A = y, S = z, in mm.

    Raises:
        ValueError: another shape than the grid's, values that are not finite, or another suffix.
    """
    path = Path(path)
    if not path.name.endswith(".nii.gz"):
        raise ValueError(f"{path} must end in .nii.gz")
    if tuple(volume.shape) != grid.shape:
        raise ValueError(f"{path}: the volume is {tuple(volume.shape)}, its grid {grid.shape}")
    if n_bad := int((~volume.isfinite()).sum()):
        raise ValueError(f"{path} is not written: {n_bad} of its values are NaN or infinite")
    values = volume.detach().cpu().float().numpy()
    # columns begin at the right, rows at the front: R and A grow against both
    image = nib.Nifti1Image(np.ascontiguousarray(values.transpose(2, 1, 0)[::-1, ::-1]), None)
    affine = patient_affine(grid)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"pcctlearn, {unit}".encode()
    with written_whole(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def patient_affine(grid: VolumeGrid) -> FloatArray:
    """The matrix that takes (i, j, k, 1) of the stored array to (R, A, S, 1), mm."""
    dz, dy, dx = grid.spacing_cm
    x, y, _ = grid.index_to_cm @ [grid.n_x - 1, grid.n_y - 1, 1.0]  # stored first: both ends
    affine = np.diag([dx, dy, dz, 1.0])
    affine[:3, 3] = -x, y, grid.slices_cm[0]
    affine[:3] *= _MM
    return affine
