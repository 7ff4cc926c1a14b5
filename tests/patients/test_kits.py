"""KiTS cases are found in both releases, and labels lie where their volume does."""

import nibabel as nib
import numpy as np
import pytest
import torch
from support.ct_files import small_patient, write_nifti

from pcctlearn.patients.kits import kits_cases, read_case, read_segmentation


def labels():
    """Kidney where the tissue is, a tumour where the bone is, a cyst beside it."""
    hounsfield = small_patient()
    found = (hounsfield > 0).astype(np.uint8)
    found[4, 7, 3], found[4, 7, 4] = 2, 3
    return found


def write_case(case, seg="segmentation.nii.gz", codes="IPL", seg_codes=None):
    write_nifti(case / "imaging.nii.gz", small_patient().astype(np.float64), codes=codes)
    write_nifti(case / seg, labels(), codes=seg_codes or codes)
    return case


@pytest.mark.parametrize("below", ["dataset", "data", "kits21/data", "."])
def test_cases_of_every_release_are_listed(tmp_path, below):
    for name in ("case_00010", "case_00002"):
        write_case(tmp_path / below / name)
    (tmp_path / below / "case_00001").mkdir()  # images not fetched
    assert [case.name for case in kits_cases(tmp_path)] == ["case_00002", "case_00010"]
    assert kits_cases(tmp_path / below / "case_00002") == [tmp_path / below / "case_00002"]


def test_volume_and_labels_share_their_axes(tmp_path):
    case = write_case(tmp_path / "case_00000")
    volume, segmentation = read_case(case), read_segmentation(case)
    np.testing.assert_array_equal(volume.hounsfield, small_patient())
    assert volume.name == "case_00000"
    np.testing.assert_array_equal(segmentation, labels())
    assert (volume.hounsfield[segmentation == 2] == 900).all()
    assert segmentation.dtype == torch.uint8


def test_the_other_release_names_its_labels_otherwise(tmp_path):
    case = write_case(tmp_path / "case_00000", "aggregated_MAJ_seg.nii.gz")
    write_nifti(case / "aggregated_AND_seg.nii.gz", labels() // 2, codes="IPL")
    assert read_segmentation(case).max() == 3
    assert read_segmentation(case, "aggregated_AND_seg.nii.gz").max() == 1


def test_labels_of_another_volume_are_refused(tmp_path):
    case = write_case(tmp_path / "case_00000", seg_codes="RAS")
    with pytest.raises(
        ValueError, match=r"segmentation\.nii\.gz.*agree in shape and affine; fetch"
    ):
        read_segmentation(case)
    image = nib.load(case / "imaging.nii.gz")
    moved = image.affine + np.eye(4)[:, [3, 3, 3, 2]]
    nib.save(nib.Nifti1Image(labels(), moved), case / "segmentation.nii.gz")
    with pytest.raises(
        ValueError, match=r"segmentation\.nii\.gz.*agree in shape and affine; fetch"
    ):
        read_segmentation(case)


def test_not_labels(tmp_path):
    case = write_case(tmp_path / "case_00000")
    write_nifti(case / "segmentation.nii.gz", labels() * 2, codes="IPL")
    with pytest.raises(ValueError, match=r"segmentation\.nii\.gz holds \[4\.0, 6\.0\], not labels"):
        read_segmentation(case)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no imaging\.nii\.gz in .*KiTS download command"):
        kits_cases(tmp_path)
    case = write_case(tmp_path / "case_00000")
    (case / "segmentation.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no segmentation\.nii\.gz or aggr.*case_00000; "):
        read_segmentation(case)


def test_truncated(tmp_path):
    case = write_case(tmp_path / "case_00000")
    for name, read in (("imaging", read_case), ("segmentation", read_segmentation)):
        file = case / f"{name}.nii.gz"
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=rf"{name}\.nii\.gz is damaged or not"):
            read(case)
        file.write_bytes(whole)
