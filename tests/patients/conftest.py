"""One synthetic CT in every layout, and an empty cache for each test."""

import pytest
from support.ct_files import round_patient, series_datasets, write_dicom, write_nifti

VOXEL_MM = (5.0, 5.0, 5.0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PCCTLEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def ct(tmp_path):
    """Folder with the round patient in one subfolder for each layout."""
    hounsfield = round_patient()
    write_nifti(tmp_path / "nifti/one.nii.gz", hounsfield, VOXEL_MM)
    write_nifti(tmp_path / "kits/case_00007/imaging.nii.gz", hounsfield, VOXEL_MM, "IPL")
    slices = series_datasets(hounsfield, VOXEL_MM)
    write_dicom(tmp_path / "dicom/head/axial", slices)
    write_dicom(tmp_path / "sinoct/batch_1/series_2/reconstructed_image", slices)
    return tmp_path
