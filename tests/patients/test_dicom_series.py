"""A series reads to the same volume however it is stored; each fault is named with its remedy."""

import re
import zipfile

import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)
from support.ct_files import (
    LOWEST_MM,
    REAL_CT,
    SERIES,
    VOXEL_MM,
    series_datasets,
    small_patient,
    store,
    write_dicom,
    write_nifti,
)

from pcctlearn.patients.dicom_series import read_dicom_series
from pcctlearn.patients.nifti import read_nifti

needs_real_ct = pytest.mark.skipif(not REAL_CT.exists(), reason=f"needs the real CT in {REAL_CT}")


def unpacked(name, folder):
    with zipfile.ZipFile(REAL_CT / name) as archive:
        archive.extractall(folder)
    return folder


def changed(index, **elements):
    """A sound series with other elements in one slice, or in all of them."""
    datasets = series_datasets()
    for dataset in datasets if index is None else [datasets[index]]:
        for tag, value in elements.items():
            setattr(dataset, tag, value)
    return datasets


def test_hounsfield_units_and_axes_are_those_written(tmp_path):
    volume = read_dicom_series(write_dicom(tmp_path / "series"))
    np.testing.assert_array_equal(volume.hounsfield, small_patient())
    assert volume.voxel_cm == pytest.approx(np.array(VOXEL_MM) / 10)
    assert volume.name == "series"


def test_the_same_patient_reads_the_same_from_nifti(tmp_path):
    from_dicom = read_dicom_series(write_dicom(tmp_path / "series"))
    from_nifti = read_nifti(write_nifti(tmp_path / "ct.nii"))
    assert (from_dicom.hounsfield == from_nifti.hounsfield).all()
    assert from_dicom.voxel_cm == pytest.approx(from_nifti.voxel_cm)


def test_a_patient_who_lies_on_the_face_feet_first(tmp_path):
    datasets = series_datasets()
    for dataset in datasets:
        values = np.frombuffer(dataset.PixelData, np.int16).reshape(12, 10)
        x, y, z = dataset.ImagePositionPatient
        dataset.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        dataset.ImagePositionPatient = [x + 9 * 0.8, y + 11 * 0.9, z]
        store(dataset, np.ascontiguousarray(values[::-1, ::-1]))
    volume = read_dicom_series(write_dicom(tmp_path, datasets))
    np.testing.assert_array_equal(volume.hounsfield, small_patient())


def test_every_slice_has_its_own_slope_and_intercept(tmp_path):
    datasets = series_datasets(small_patient() // 2 * 2)
    for k, dataset in enumerate(datasets):
        hounsfield = np.frombuffer(dataset.PixelData, np.int16)
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + k % 2, -1024 - 2 * k
        store(dataset, ((hounsfield + 1024 + 2 * k) // (1 + k % 2)).astype(np.uint16))
    volume = read_dicom_series(write_dicom(tmp_path, datasets))
    np.testing.assert_array_equal(volume.hounsfield, small_patient() // 2 * 2)


@pytest.mark.parametrize(("padding", "tag"), [(-1500, -1500), (-2000, 63536), (3000, 3000)])
def test_padding_reads_as_air(tmp_path, padding, tag):
    datasets = series_datasets()
    for dataset in datasets:
        values = np.frombuffer(dataset.PixelData, np.int16).copy()
        values[:10] = padding
        store(dataset, values)
        dataset.add_new("PixelPaddingValue", "US" if tag > 0 else "SS", tag)
    volume = read_dicom_series(write_dicom(tmp_path, datasets))
    np.testing.assert_array_equal(volume.hounsfield, small_patient())


SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big-endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
PADDING = {  # pixel type, padding value, its limit, values that are padding
    "signed": ("i2", -2000, None, [-2000]),
    "high": ("i2", 3000, None, [3000]),
    "as unsigned": ("i2", 63536, None, [-2000]),
    "range": ("i2", -3000, -1500, [-3000, -2500, -1500]),
    "range downwards": ("i2", -1500, -3000, [-3000, -2500, -1500]),
    "range as unsigned": ("i2", 2**16 - 3000, 2**16 - 1500, [-3000, -2500, -1500]),
    "unsigned": ("u2", 65000, None, [65000]),
    "unsigned range": ("u2", 64000, 65535, [64000, 65000, 65535]),
    "as signed": ("u2", -536, -1, [65000, 65535]),
}


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("kind", PADDING)
def test_padding_of_every_type_and_byte_order_is_air(tmp_path, syntax, kind):
    """It is found among stored values, before slope and intercept, and never mixed with tissue."""
    dtype, value, limit, padded = PADDING[kind]
    order = ">" if syntax == "big-endian" else "<"
    vr = "SS" if value < 0 or (limit or 0) < 0 else "US"
    ramp = small_patient()
    ramp[:, 4, 4] = 10 * np.arange(6)
    datasets = series_datasets(ramp)
    for dataset in datasets:
        hounsfield = np.frombuffer(dataset.PixelData, np.int16).astype(np.int64)
        slope, intercept = (2, -2048) if dtype == "u2" else (1, 0)
        stored = (hounsfield - intercept) // slope
        stored[:20] = np.resize(padded, 20)  # air, above the tissue
        store(dataset, stored.astype(order + dtype))
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        dataset.add_new("PixelPaddingValue", vr, value)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", vr, limit)
        dataset.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
    rounding = slope - 1  # HU
    found = read_dicom_series(write_dicom(tmp_path / "all", datasets)).hounsfield
    np.testing.assert_array_equal(found[:, :2], -1000)
    np.testing.assert_allclose(found, ramp, rtol=0, atol=rounding)
    del datasets[2]
    found = read_dicom_series(write_dicom(tmp_path / "some", datasets), resample=True).hounsfield
    np.testing.assert_array_equal(found[:, :2], -1000)
    np.testing.assert_allclose(found[:, 4, 4], ramp[:, 4, 4], rtol=1e-5, atol=rounding)


def test_padding_that_changes_from_slice_to_slice_is_not_mixed_with_tissue(tmp_path):
    """Half of −2048 and 40 HU would be −1004; half of air and 40 HU is −480."""
    hounsfield = small_patient()
    hounsfield[0, 5, 5] = -2048
    datasets = series_datasets(hounsfield)
    heights_mm = [0.0, 6.0, 9.0, 12.0, 15.0, 18.0]
    for dataset, height_mm in zip(datasets, heights_mm, strict=True):
        dataset.ImagePositionPatient[2] = LOWEST_MM + height_mm
    volume = read_dicom_series(write_dicom(tmp_path, datasets), resample=True)
    np.testing.assert_allclose(volume.hounsfield[:3, 5, 5], [-1000, -480, 40], rtol=1e-5)


def test_padding_does_not_pass_raw_counts_as_hounsfield_units(tmp_path):
    datasets = series_datasets()
    for dataset in datasets:
        raw = np.frombuffer(dataset.PixelData, np.int16) + 1024
        store(dataset, raw.astype(np.uint16))
        dataset.add_new("PixelPaddingValue", "US", 24)
        del dataset.RescaleSlope, dataset.RescaleIntercept
    with pytest.raises(ValueError, match=r"raw counts, not HU.*slope and intercept"):
        read_dicom_series(write_dicom(tmp_path, datasets))


def test_rle_needs_no_other_package(tmp_path):
    datasets = series_datasets()
    for dataset in datasets:
        dataset.compress(RLELossless, generate_instance_uid=False)
    volume = read_dicom_series(write_dicom(tmp_path, datasets))
    np.testing.assert_array_equal(volume.hounsfield, small_patient())


def test_scouts_plans_and_notes_are_passed_over(tmp_path):
    folder = write_dicom(tmp_path)
    scout, plan, index = changed(0, SeriesInstanceUID="1.2.3")[:3]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.save_as(folder / "scout.dcm", enforce_file_format=True)
    plan.Modality = "RTSTRUCT"
    plan.save_as(folder / "plan.dcm", enforce_file_format=True)
    index.SOPClassUID = index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.save_as(folder / "DICOMDIR", enforce_file_format=True)
    (folder / "LICENSE.txt").write_text("ours")
    (folder / "._000.dcm").write_text("left by another system")
    np.testing.assert_array_equal(read_dicom_series(folder).hounsfield, small_patient())


def test_one_of_several_series_is_chosen(tmp_path):
    folder = write_dicom(tmp_path)
    other = changed(None, SeriesInstanceUID="1.2.3", SeriesDescription="lung kernel")
    write_dicom(folder / "other", other[:3])
    for k, file in enumerate((folder / "other").iterdir()):
        file.rename(folder / f"other{k}.dcm")
    (folder / "other").rmdir()
    with pytest.raises(ValueError, match=r"2 series.*series=UID.*1\.2\.3 \(lung kernel, CT, 3"):
        read_dicom_series(folder)
    assert len(read_dicom_series(folder, series="1.2.3").hounsfield) == 3
    assert len(read_dicom_series(folder, series=str(SERIES)).hounsfield) == 6
    with pytest.raises(ValueError, match=r"no series '9\.9'; it holds"):
        read_dicom_series(folder, series="9.9")


def test_a_missing_slice_is_refused_or_interpolated(tmp_path):
    ramp = small_patient()
    ramp[:, 4, 4] = 10 * np.arange(6)
    datasets = series_datasets(ramp)
    del datasets[2]
    folder = write_dicom(tmp_path, datasets)
    with pytest.raises(
        ValueError, match=r"6\.00 mm between 101\.dcm and 062\.dcm.*3\.00 mm is usual"
    ):
        read_dicom_series(folder)
    with pytest.raises(ValueError, match=r"as if 1 were missing.*again.*resample=true"):
        read_dicom_series(folder)
    volume = read_dicom_series(folder, resample=True)
    assert volume.voxel_cm == pytest.approx(np.array(VOXEL_MM) / 10)
    np.testing.assert_allclose(volume.hounsfield[:, 4, 4], ramp[:, 4, 4], rtol=1e-6)


def test_thin_slices_below_thick_ones_are_interpolated(tmp_path):
    ramp = small_patient()
    heights_mm = np.array([0, 2, 4, 8, 12, 16])
    ramp[:, 4, 4] = 10 * heights_mm
    datasets = series_datasets(ramp)
    for dataset, height_mm in zip(datasets, heights_mm, strict=True):
        dataset.ImagePositionPatient[2] = LOWEST_MM + height_mm
    volume = read_dicom_series(write_dicom(tmp_path, datasets), resample=True)
    assert volume.voxel_cm[0] == pytest.approx(0.4)
    np.testing.assert_allclose(volume.hounsfield[:, 4, 4], [0, 40, 80, 120, 160], rtol=1e-6)


def test_straight_slices_stay_as_they_are(tmp_path):
    folder = write_dicom(tmp_path)
    asked, unasked = read_dicom_series(folder, straighten=True), read_dicom_series(folder)
    assert torch.equal(asked.hounsfield, unasked.hounsfield)
    assert asked.voxel_cm == unasked.voxel_cm


def head_under_a_tilted_gantry():
    """A box of 20 × 30 × 40 mm (x, y, z of the patient) with a bead before and above its middle."""
    c, s = np.cos(np.radians(18.5)), np.sin(np.radians(18.5))
    datasets = series_datasets(np.zeros((36, 70, 50), np.int16), (2.0, 0.8, 0.8))
    for dataset in datasets:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, float(c), float(-s)]
        left, back, up = dataset.ImagePositionPatient
        row, column = np.indices((70, 50)) * 0.8
        place_mm = np.stack([left + column, back + c * row, up - s * row], axis=-1) - MIDDLE_MM
        hounsfield = np.where((np.abs(place_mm) <= [10, 15, 20]).all(-1), 40, -1000)
        hounsfield[np.linalg.norm(place_mm - BEAD_MM, axis=-1) < 3] = 1200
        store(dataset, hounsfield.astype(np.int16))
    return datasets


MIDDLE_MM, BEAD_MM = np.array([-10.0, 5.0, -13.0]), np.array([4.0, -8.0, 10.0])  # left, back, up


def test_a_stack_tilted_by_the_gantry_is_straightened(tmp_path):
    folder = write_dicom(tmp_path, head_under_a_tilted_gantry())
    with pytest.raises(ValueError, match=r"tilted by 18\.5°.*datasets\.straighten=true"):
        read_dicom_series(folder)
    volume = read_dicom_series(folder, straighten=True)
    assert volume.voxel_cm == pytest.approx((0.2, 0.08, 0.08))  # 2 mm: the step of the table
    voxel_mm = 10 * np.array(volume.voxel_cm)

    # the lowest row of the lowest slice is the last one
    first_mm = np.array([LOWEST_MM - np.sin(np.radians(18.5)) * 69 * 0.8, -20.0, -30.0])
    box = np.argwhere(volume.hounsfield.numpy() > -480)
    bead = np.argwhere(volume.hounsfield.numpy() > 620)
    middle_mm = first_mm + (box.min(0) + box.max(0)) / 2 * voxel_mm
    assert (np.abs(middle_mm - MIDDLE_MM[::-1]) < voxel_mm).all()
    assert (np.abs(np.ptp(box, axis=0) * voxel_mm - [40, 30, 20]) < 1.5 * voxel_mm).all()
    assert (np.abs(first_mm + bead.mean(0) * voxel_mm - (MIDDLE_MM + BEAD_MM)[::-1]) < 0.8).all()


def stack_tilted_by_the_gantry():
    c, s = np.cos(np.radians(18.5)), np.sin(np.radians(18.5))
    return changed(None, ImageOrientationPatient=[1, 0, 0, 0, float(c), float(-s)])


def sheared(mm_per_slice):
    datasets = series_datasets()
    for k, dataset in enumerate(datasets):
        dataset.ImagePositionPatient[1] += mm_per_slice * k
    return datasets


def one_slice_aside():
    return changed(2, ImagePositionPatient=[-30.0, -10.0, LOWEST_MM + 6.0])


def coronal():
    datasets = changed(None, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    for k, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [0, 3.0 * k, 0]
    return datasets


def twice():
    return [*series_datasets(), series_datasets()[3]]


def of_another_size():
    datasets = series_datasets()
    datasets[3].Rows, datasets[3].Columns = 10, 12
    return datasets


def coloured():
    datasets = changed(1, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    datasets[1].PlanarConfiguration = 0
    return datasets


def compressed():
    datasets = series_datasets()
    for dataset in datasets:
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = JPEGLossless
    return datasets


def without(tag):
    datasets = series_datasets()
    delattr(datasets[2], tag)
    return datasets


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        (stack_tilted_by_the_gantry(), r"tilted by 18\.5°.*straighten=true.*dcm2niix"),
        (sheared(0.5), r"tilted by 9\.5°"),
        (one_slice_aside(), r"062?.*\.dcm is shifted by 10\.0 mm.*slices of one scan"),
        (coronal(), "is not axial.*give the axial series"),
        (twice(), r"\.dcm and .*\.dcm lie at the same place.*keep one"),
        (of_another_size(), r"\.dcm has Rows 1[02], .* has 1[02]:.*move the others away"),
        (coloured(), r"\.dcm is a colour image \(RGB\).*original slices"),
        (compressed(), r"\.dcm is compressed as JPEG Lossless.*pylibjpeg.*gdcmconv"),
        (changed(2, Modality="MR"), r"\.dcm is MR, not CT; give a CT series"),
        (changed(None, Modality="PT"), r"\.dcm is PT, not CT; give a CT series"),
        (changed(None, NumberOfFrames=20), r"20 frames.*dcm2niix"),
        (changed(None, RescaleType="Z_EFF"), r"\.dcm holds Z_EFF, not HU; give the CT"),
        (without("ImagePositionPatient"), r"\.dcm has no ImagePositionPatient.*copy it again"),
        (without("PixelSpacing"), r"\.dcm has no PixelSpacing.*copy it again"),
        (without("PixelData"), r"\.dcm is damaged or not .*copy it again"),
        (changed(None, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "only scouts.*axial CT"),
        (changed(None, Modality="SEG"), "only SEG, no slices; give"),
        (series_datasets()[:1], "one slice; a volume needs two"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_faults(tmp_path, datasets, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words) as told:
        read_dicom_series(write_dicom(tmp_path / "bad", datasets))
    assert str(tmp_path / "bad") in str(told.value)


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        (one_slice_aside(), "is shifted by"),
        (coronal(), "is not axial"),
        (stack_tilted_by_the_gantry()[::3] + stack_tilted_by_the_gantry()[4:5], "unevenly spaced"),
    ],
    ids=["aside", "coronal", "uneven"],
)
def test_what_straightening_does_not_mend(tmp_path, datasets, words):
    with pytest.raises(ValueError, match=words):
        read_dicom_series(write_dicom(tmp_path, datasets), straighten=True)


@pytest.mark.parametrize("kept", np.linspace(0.0, 0.99, 23))
def test_truncated(tmp_path, kept):
    folder = write_dicom(tmp_path)
    file = sorted(folder.iterdir())[2]
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))} .*(copy it again|CT series)"):
        read_dicom_series(folder)


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone is not a folder; give the folder"):
        read_dicom_series(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="holds nothing; give the folder of a DICOM series"):
        read_dicom_series(tmp_path)
    (tmp_path / "notes.txt").write_text("CT")
    with pytest.raises(FileNotFoundError, match=r"1 files, none of them DICOM; give.*unpacked"):
        read_dicom_series(tmp_path)
    write_dicom(tmp_path / "series")
    with pytest.raises(FileNotFoundError, match=r"1 folders below it do; give.*series"):
        read_dicom_series(tmp_path)


@needs_real_ct
def test_real_slices_agree_with_the_nifti_of_their_series(tmp_path):
    folder = unpacked("upper_abdomen_dicom_24_slices.zip", tmp_path)
    from_dicom = read_dicom_series(folder)
    from_nifti = read_nifti(REAL_CT / "chest_upper_abdomen.nii.gz")
    assert from_dicom.hounsfield.shape == (24, 512, 512)
    assert from_dicom.voxel_cm == pytest.approx(from_nifti.voxel_cm)
    # their lowest slices lie at z = −236.5 and −266.5 mm, 3 mm apart
    assert (from_dicom.hounsfield == from_nifti.hounsfield[10:34]).all()


@needs_real_ct
@pytest.mark.parametrize("resample", [False, True])
def test_a_real_tilted_head_is_refused(tmp_path, resample):
    folder = unpacked("head_dicom_tilted_28_slices.zip", tmp_path)
    with pytest.raises(ValueError, match=r"tilted by 18\.5°.*dcm2niix"):
        read_dicom_series(folder, resample=resample)


def spread_mm2(density, place_mm):
    """Covariance (z, y, x) of where the mass lies."""
    return np.cov(place_mm.T, aweights=density)


def spread_of_slices(folder, orientation):
    """The same from each pixel's own place, a slice as thick as half its steps to the next ones."""
    slices = [pydicom.dcmread(file) for file in folder.glob("*.dcm")]
    slices.sort(key=lambda s: s.ImagePositionPatient[2])
    step_mm = np.diff([s.ImagePositionPatient[2] for s in slices])
    thickness_mm = (np.append(0, step_mm) + np.append(step_mm, 0)) / 2
    row_and_column = np.indices((512, 512))[:, ::2, ::2].reshape(2, -1)
    columns, rows = np.reshape(orientation, (2, 3)) * slices[0].PixelSpacing[0]
    in_slice_mm = row_and_column.T @ np.stack([rows, columns])
    places, densities = [], []
    for s, thickness in zip(slices, thickness_mm, strict=True):
        hounsfield = s.pixel_array[::2, ::2].ravel() * s.RescaleSlope + s.RescaleIntercept
        places.append((in_slice_mm + np.array(s.ImagePositionPatient))[:, ::-1])
        densities.append(thickness * (hounsfield.clip(min=-1000) + 1000))
    return spread_mm2(np.concatenate(densities), np.concatenate(places))


@needs_real_ct
def test_a_real_tilted_head_is_straightened(tmp_path):
    """Its mass lies about its centre as each pixel's own position says, which a shear changes."""
    folder = unpacked("head_dicom_tilted_28_slices.zip", tmp_path)
    with pytest.raises(ValueError, match=r"unevenly spaced.*datasets\.resample=true"):
        read_dicom_series(folder, straighten=True)
    volume = read_dicom_series(folder, resample=True, straighten=True)
    hounsfield = volume.hounsfield.numpy()
    assert hounsfield.shape == (56, 486, 512)
    assert volume.voxel_cm == pytest.approx((0.422, 0.0488, 0.0488), abs=1e-4)
    voxel_cm3 = np.prod(volume.voxel_cm)
    assert 150 < (hounsfield > 700).sum() * voxel_cm3 < 500  # skull
    assert 1000 < ((hounsfield > 15) & (hounsfield < 60)).sum() * voxel_cm3 < 2000  # brain

    place_mm = np.argwhere(hounsfield > -1000) * 10 * np.array(volume.voxel_cm)
    spread = spread_mm2(hounsfield[hounsfield > -1000] + 1000.0, place_mm)
    tilted = [1, 0, 0, 0, 0.9483237, -0.3173047]  # ImageOrientationPatient of these files
    np.testing.assert_allclose(spread, spread_of_slices(folder, tilted), rtol=0.05, atol=15)
    as_if_straight = spread_of_slices(folder, [1, 0, 0, 0, 1, 0])
    assert abs(as_if_straight[0, 1] - spread[0, 1]) > 500
