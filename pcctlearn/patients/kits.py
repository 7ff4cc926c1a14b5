"""KiTS21 and KiTS23: kidneys in CT, with the labels of each case in the axes of its volume."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from pcctlearn.patients.ct_volume import CtVolume, in_house_axes, require_straight
from pcctlearn.patients.nifti import imaging_files, open_nifti, read_nifti, stored_values
from pcctlearn.patients.nifti_frame import affine_mm

LABELS = {0: "background", 1: "kidney", 2: "tumour", 3: "cyst"}
SEGMENTATIONS = ("segmentation.nii.gz", "aggregated_MAJ_seg.nii.gz")  # KiTS23, KiTS21
SAME_MM = 1e-3


def kits_cases(root: str | Path) -> list[Path]:
    """The folders with an imaging.nii.gz, of a case itself, a KiTS21 or a KiTS23 root."""
    return [file.parent for file in imaging_files(Path(root))]


def read_case(case: str | Path, straighten: bool = False) -> CtVolume:
    """The volume of a case folder in HU and house axes, named after the folder.

    ``straighten`` resamples a tilted volume, but not its labels.
    """
    volume = read_nifti(imaging_files(Path(case))[0], straighten)
    return replace(volume, name=Path(case).resolve().name)


def read_segmentation(case: str | Path, file_name: str | None = None) -> UInt8[Tensor, "z y x"]:
    """Labels of a case, in the axes of ``read_case``: 1 kidney, 2 tumour, 3 cyst.

    ``file_name`` chooses another of KiTS21's aggregations, such as aggregated_AND_seg.nii.gz.
    Raises FileNotFoundError where there are no labels, ValueError where they belong elsewhere.
    """
    case = Path(case)
    names = SEGMENTATIONS if file_name is None else (file_name,)
    file = next((case / name for name in names if (case / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"no {' or '.join(names)} in {case}; clone the KiTS repository again"
        )
    labels, imaging = open_nifti(file), open_nifti(case / "imaging.nii.gz")
    affine = affine_mm(file, labels)
    wanted = affine_mm(case / "imaging.nii.gz", imaging)
    if labels.shape != imaging.shape or not np.allclose(affine, wanted, rtol=0, atol=SAME_MM):
        raise ValueError(
            f"{file} and imaging.nii.gz have shapes {labels.shape} and {imaging.shape} and must "
            "agree in shape and affine; fetch both from the same release of KiTS"
        )
    stored = stored_values(file, labels, slice(None), slice(None), slice(None))
    strange = sorted(set(np.unique(stored).tolist()) - set(LABELS))
    if strange:
        raise ValueError(f"{file} holds {strange[:5]}, not labels 0 to 3; give a KiTS segmentation")
    require_straight(file, affine)
    return in_house_axes(stored.astype(np.uint8), affine)[0]
