"""Every layout lists its cases in order, ignores other files and reads the same volume."""

import re
import shutil

import numpy as np
import pytest
from pydicom.uid import (
    EncapsulatedPDFStorage,
    MediaStorageDirectoryStorage,
    RawDataStorage,
    SecondaryCaptureImageStorage,
)
from support.ct_files import SERIES, round_patient, series_datasets, write_dicom, write_nifti

from pcctlearn.patients.ct_layouts import DicomCases, KitsCases, NiftiCases, SinoctCases

VOXEL_MM = (5.0, 5.0, 5.0)
LAYOUTS = {
    "nifti": (NiftiCases, "one"),
    "kits": (KitsCases, "case_00007"),
    "dicom": (DicomCases, "head/axial"),
    "sinoct": (SinoctCases, "batch_1/series_2"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_the_same_volume(ct, layout):
    cases_of, name = LAYOUTS[layout]
    cases = cases_of(str(ct / layout))
    assert (len(cases), cases.names) == (1, [name])
    volume = cases.volume(0)
    np.testing.assert_array_equal(volume.hounsfield, round_patient())
    assert volume.voxel_cm == pytest.approx(np.array(VOXEL_MM) / 10)


def test_path_of_a_single_case(ct):
    assert NiftiCases(str(ct / "nifti/one.nii.gz")).names == ["one"]
    assert DicomCases(str(ct / "dicom/head/axial")).names == ["axial"]
    assert KitsCases(str(ct / "kits/case_00007")).names == ["case_00007"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_path_raises(tmp_path, layout):
    cases_of, _ = LAYOUTS[layout]
    with pytest.raises(ValueError, match=r"datasets\.path"):
        len(cases_of(None))
    with pytest.raises(FileNotFoundError, match=r"datasets\.path .*gone"):
        cases_of(str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        cases_of(str(tmp_path))


HIDDEN = {
    "nifti": ["._one.nii.gz", ".one.nii.gz.part.nii.gz"],
    "kits": ["._case_00007/imaging.nii.gz", ".Trash/case_00001/imaging.nii.gz"],
    "dicom": ["head/axial/._000.dcm", ".Trash/a/1.dcm", "head/.cache/1.dcm", "._1.dcm"],
    "sinoct": [".Trash/batch_1/series_1/reconstructed_image/1.dcm",
               "batch_1/._series_3/reconstructed_image/1.dcm",
               "batch_1/series_2/reconstructed_image/._1.dcm"],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("readable", [False, True])
def test_hidden_files_are_ignored(ct, layout, readable):
    """Such as ._ files of macOS, partly written files and trash folders."""
    cases_of, name = LAYOUTS[layout]
    whole = next(path for path in sorted((ct / layout).rglob("*")) if path.is_file()).read_bytes()
    for hidden in HIDDEN[layout]:
        path = ct / layout / hidden
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole if readable else b"\x00\x05\x16\x07 left by another system")
    cases = cases_of(str(ct / layout))
    assert cases.names == [name]
    np.testing.assert_array_equal(cases.volume(0).hounsfield, round_patient())


def test_hidden_folder_is_read_if_it_is_the_path(ct):
    (ct / "nifti").rename(ct / ".private")
    assert NiftiCases(str(ct / ".private")).names == ["one"]


@pytest.mark.parametrize("below", ["dataset", "data", "kits21/data", "."])
def test_kits_cases_of_every_release(tmp_path, below):
    for name in ("case_00010", "case_00002"):
        write_nifti(tmp_path / below / name / "imaging.nii.gz")
    (tmp_path / below / "case_00001").mkdir()  # images not downloaded
    cases = KitsCases(str(tmp_path)).cases
    assert [case.path.name for case in cases] == ["case_00002", "case_00010"]
    single = tmp_path / below / "case_00002"
    assert [case.path for case in KitsCases(str(single)).cases] == [single]


def test_sinoct_series_are_in_numerical_order(tmp_path):
    numbers = [(1, 9), (2, 3), (2, 10), (10, 4)]
    expected = [tmp_path / f"head_ct/batch_{batch}/series_{series}" for batch, series in numbers]
    for folder in expected:
        folder.mkdir(parents=True)
    for path in (tmp_path, tmp_path / "head_ct"):
        assert [case.path for case in SinoctCases(str(path)).cases] == expected
    with pytest.raises(FileNotFoundError, match="reconstructed_image"):
        SinoctCases(str(tmp_path)).volume(0)


def patient_cd(root):
    """A study as hospitals export it: a DICOMDIR, and a folder for every series."""
    write_dicom(root / "DICOM/ST0/SE2", series_datasets(round_patient(), VOXEL_MM))
    thin = series_datasets(round_patient(), VOXEL_MM)
    for dataset in thin:
        dataset.SeriesInstanceUID = "1.2.3"
    write_dicom(root / "DICOM/ST0/SE3", thin)
    for number, changes in enumerate(NOT_SLICES.values(), 4):
        (dataset,) = series_datasets(round_patient(), VOXEL_MM)[:1]
        dataset.SeriesInstanceUID = f"9.{number}"
        for tag, value in changes.items():
            setattr(dataset, tag, value)
        if "SOPClassUID" in changes:
            dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        for tag in changes.get("without", ()):
            delattr(dataset, tag)
        write_dicom(root / f"DICOM/ST0/SE{number}", [dataset])
    (index,) = series_datasets(round_patient(), VOXEL_MM)[:1]
    index.SOPClassUID = index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.save_as(root / "DICOMDIR", enforce_file_format=True)
    (root / "AUTORUN.INF").write_text("[autorun]")
    return root


POSITION = ("ImagePositionPatient", "ImageOrientationPatient")
NOT_SLICES = {
    "scout": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "dose report": {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "without": POSITION},
    "dose report with position": {"ImageType": ["ORIGINAL", "SECONDARY", "DOSE_INFO"]},
    "protocol": {"ImageType": ["ORIGINAL", "SECONDARY", "OTHER", "CT_SOM5 PROT"]},
    "capture": {"SOPClassUID": SecondaryCaptureImageStorage},
    "structured report": {"Modality": "SR", "without": ("Rows", "PixelData")},
    "document": {
        "SOPClassUID": EncapsulatedPDFStorage, "Modality": "DOC", "without": ("Rows", "PixelData"),
    },
    "raw data": {"SOPClassUID": RawDataStorage, "without": ("Rows", "PixelData")},
}  # fmt: skip


def test_cases_of_a_patient_cd_are_its_ct_series(tmp_path):
    root = patient_cd(tmp_path / "CD")
    cases = DicomCases(str(root))
    assert cases.names == ["DICOM/ST0/SE2", "DICOM/ST0/SE3"]
    for index in range(2):
        np.testing.assert_array_equal(cases.volume(index).hounsfield, round_patient())
    with pytest.raises(ValueError, match="DICOMDIR") as error:
        DicomCases(str(root / "DICOMDIR"))
    suggested = re.search(r"datasets\.path=(.*)", str(error.value))[1]
    assert DicomCases(suggested).names == cases.names


def test_several_series_in_one_folder(tmp_path):
    root, folder = patient_cd(tmp_path / "CD"), tmp_path / "all"
    folder.mkdir()
    for number, file in enumerate(sorted(root.rglob("*.dcm"))):
        file.rename(folder / f"{number}.dcm")
    with pytest.raises(ValueError, match=r"2 series.*1\.2\.3") as error:
        DicomCases(str(folder)).volume(0)
    assert set(re.findall(r"datasets\.series=(\w+)", str(error.value))) == {"UID", "all"}
    chosen = DicomCases(str(folder), series="1.2.3")
    np.testing.assert_array_equal(chosen.volume(0).hounsfield, round_patient())
    assert chosen.names == ["all"]
    both = DicomCases(str(folder), series="all", cache=False)
    assert both.names == sorted(["all/1.2.3", f"all/{SERIES}"])
    assert [len(both.volume(index).hounsfield) for index in range(2)] == [24, 24]
    assert DicomCases(str(root.parent), series="1.2.3").names == ["all"]
    with pytest.raises(ValueError, match=r"datasets\.series=7.*1\.2\.3"):
        DicomCases(str(folder), series="7")


def test_study_without_slices_raises(tmp_path):
    root = patient_cd(tmp_path / "CD")
    for name in ("SE2", "SE3"):
        shutil.rmtree(root / "DICOM/ST0" / name)
    with pytest.raises(FileNotFoundError, match="scouts"):
        DicomCases(str(root))
