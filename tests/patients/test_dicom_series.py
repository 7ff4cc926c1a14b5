"""A series gives the same volume in any encoding; every fault raises with its remedy."""

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
    """A valid series with these elements changed in one slice, or in all for index None."""
    datasets = series_datasets()
    for dataset in datasets if index is None else [datasets[index]]:
        for tag, value in elements.items():
            setattr(dataset, tag, value)
    return datasets


def test_values_and_voxel_size(tmp_path):
    volume = read_dicom_series(write_dicom(tmp_path / "series"))
    np.testing.assert_array_equal(volume.hounsfield, small_patient())
    assert volume.voxel_cm == pytest.approx(np.array(VOXEL_MM) / 10)


def test_dicom_and_nifti_of_a_patient_agree(tmp_path):
    from_dicom = read_dicom_series(write_dicom(tmp_path / "series"))
    from_nifti = read_nifti(write_nifti(tmp_path / "ct.nii"))
    assert (from_dicom.hounsfield == from_nifti.hounsfield).all()
    assert from_dicom.voxel_cm == pytest.approx(from_nifti.voxel_cm)


def test_prone_patient(tmp_path):
    datasets = series_datasets()
    for dataset in datasets:
        values = np.frombuffer(dataset.PixelData, np.int16).reshape(12, 10)
        x, y, z = dataset.ImagePositionPatient
        dataset.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        dataset.ImagePositionPatient = [x + 9 * 0.8, y + 11 * 0.9, z]
        store(dataset, np.ascontiguousarray(values[::-1, ::-1]))
    volume = read_dicom_series(write_dicom(tmp_path, datasets))
    np.testing.assert_array_equal(volume.hounsfield, small_patient())


def test_slope_and_intercept_of_each_slice(tmp_path):
    datasets = series_datasets(small_patient() // 2 * 2)
    for k, dataset in enumerate(datasets):
        hounsfield = np.frombuffer(dataset.PixelData, np.int16)
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + k % 2, -1024 - 2 * k
        store(dataset, ((hounsfield + 1024 + 2 * k) // (1 + k % 2)).astype(np.uint16))
    volume = read_dicom_series(write_dicom(tmp_path, datasets))
    np.testing.assert_array_equal(volume.hounsfield, small_patient() // 2 * 2)


@pytest.mark.parametrize(("padding", "tag"), [(-1500, -1500), (-2000, 63536), (3000, 3000)])
def test_padding_becomes_air(tmp_path, padding, tag):
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
def test_padding_of_every_type_and_byte_order_becomes_air(tmp_path, syntax, kind):
    """Padding is detected in stored values and replaced before any interpolation."""
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


def test_padding_is_replaced_before_interpolation(tmp_path):
    """The mean of −2048 and 40 HU would be −1004; the mean of air and 40 HU is −480."""
    hounsfield = small_patient()
    hounsfield[0, 5, 5] = -2048
    datasets = series_datasets(hounsfield)
    heights_mm = [0.0, 6.0, 9.0, 12.0, 15.0, 18.0]
    for dataset, height_mm in zip(datasets, heights_mm, strict=True):
        dataset.ImagePositionPatient[2] = LOWEST_MM + height_mm
    volume = read_dicom_series(write_dicom(tmp_path, datasets), resample=True)
    np.testing.assert_allclose(volume.hounsfield[:3, 5, 5], [-1000, -480, 40], rtol=1e-5)


def test_raw_counts_with_padding_raise(tmp_path):
    datasets = series_datasets()
    for dataset in datasets:
        raw = np.frombuffer(dataset.PixelData, np.int16) + 1024
        store(dataset, raw.astype(np.uint16))
        dataset.add_new("PixelPaddingValue", "US", 24)
        del dataset.RescaleSlope, dataset.RescaleIntercept
    with pytest.raises(ValueError, match=r"raw counts.*slope and intercept"):
        read_dicom_series(write_dicom(tmp_path, datasets))


def test_rle_is_decoded_without_other_packages(tmp_path):
    datasets = series_datasets()
    for dataset in datasets:
        dataset.compress(RLELossless, generate_instance_uid=False)
    volume = read_dicom_series(write_dicom(tmp_path, datasets))
    np.testing.assert_array_equal(volume.hounsfield, small_patient())


def test_files_other_than_slices_are_skipped(tmp_path):
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


def test_one_of_several_series(tmp_path):
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
    with pytest.raises(ValueError, match=r"9\.9"):
        read_dicom_series(folder, series="9.9")


def test_missing_slice_raises_or_is_interpolated(tmp_path):
    ramp = small_patient()
    ramp[:, 4, 4] = 10 * np.arange(6)
    datasets = series_datasets(ramp)
    del datasets[2]
    folder = write_dicom(tmp_path, datasets)
    fault = r"6\.00 mm between 101\.dcm and 062\.dcm.*1 .*missing.* 3\.00 mm.*resample=true"
    with pytest.raises(ValueError, match=fault):
        read_dicom_series(folder)
    volume = read_dicom_series(folder, resample=True)
    assert volume.voxel_cm == pytest.approx(np.array(VOXEL_MM) / 10)
    np.testing.assert_allclose(volume.hounsfield[:, 4, 4], ramp[:, 4, 4], rtol=1e-6)


def test_two_slice_spacings_are_interpolated(tmp_path):
    ramp = small_patient()
    heights_mm = np.array([0, 2, 4, 8, 12, 16])
    ramp[:, 4, 4] = 10 * heights_mm
    datasets = series_datasets(ramp)
    for dataset, height_mm in zip(datasets, heights_mm, strict=True):
        dataset.ImagePositionPatient[2] = LOWEST_MM + height_mm
    volume = read_dicom_series(write_dicom(tmp_path, datasets), resample=True)
    assert volume.voxel_cm[0] == pytest.approx(0.4)
    np.testing.assert_allclose(volume.hounsfield[:, 4, 4], [0, 40, 80, 120, 160], rtol=1e-6)


def test_straight_slices_are_unchanged_by_straighten(tmp_path):
    folder = write_dicom(tmp_path)
    straight, plain = read_dicom_series(folder, straighten=True), read_dicom_series(folder)
    assert torch.equal(straight.hounsfield, plain.hounsfield)
    assert straight.voxel_cm == plain.voxel_cm


def head_under_a_tilted_gantry():
    """A box of 20 × 30 × 40 mm (x, y, z of the patient) with a bead off its center."""
    c, s = np.cos(np.radians(18.5)), np.sin(np.radians(18.5))
    datasets = series_datasets(np.zeros((36, 70, 50), np.int16), (2.0, 0.8, 0.8))
    for dataset in datasets:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, float(c), float(-s)]
        left, back, up = dataset.ImagePositionPatient
        row, column = np.indices((70, 50)) * 0.8
        position_mm = np.stack([left + column, back + c * row, up - s * row], axis=-1) - MIDDLE_MM
        hounsfield = np.where((np.abs(position_mm) <= [10, 15, 20]).all(-1), 40, -1000)
        hounsfield[np.linalg.norm(position_mm - BEAD_MM, axis=-1) < 3] = 1200
        store(dataset, hounsfield.astype(np.int16))
    return datasets


MIDDLE_MM, BEAD_MM = np.array([-10.0, 5.0, -13.0]), np.array([4.0, -8.0, 10.0])  # left, back, up


def test_tilted_stack_is_straightened(tmp_path):
    folder = write_dicom(tmp_path, head_under_a_tilted_gantry())
    with pytest.raises(ValueError, match=r"18\.5°.*datasets\.straighten=true"):
        read_dicom_series(folder)
    volume = read_dicom_series(folder, straighten=True)
    assert volume.voxel_cm == pytest.approx((0.2, 0.08, 0.08))  # 2 mm: the table increment
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


def one_slice_shifted():
    return changed(2, ImagePositionPatient=[-30.0, -10.0, LOWEST_MM + 6.0])


def coronal():
    datasets = changed(None, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    for k, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [0, 3.0 * k, 0]
    return datasets


def duplicated():
    return [*series_datasets(), series_datasets()[3]]


def of_different_sizes():
    datasets = series_datasets()
    datasets[3].Rows, datasets[3].Columns = 10, 12
    return datasets


def in_color():
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
        (stack_tilted_by_the_gantry(), r"18\.5°.*straighten=true"),
        (sheared(0.5), r"9\.5°"),
        (one_slice_shifted(), r"062?.*\.dcm .* 10\.0 mm"),
        (coronal(), "axial series"),
        (duplicated(), r"\.dcm and .*\.dcm .*duplicate"),
        (of_different_sizes(), r"\.dcm .*Rows 1[02] .* 1[02];"),
        (in_color(), r"\.dcm .*\(RGB\).*original slices"),
        (compressed(), r"\.dcm .*JPEG Lossless.*pylibjpeg.*gdcmconv"),
        (changed(2, Modality="MR"), r"\.dcm .* MR, not CT"),
        (changed(None, Modality="PT"), r"\.dcm .* PT, not CT"),
        (changed(None, NumberOfFrames=20), r"20 frames.*dcm2niix"),
        (changed(None, RescaleType="Z_EFF"), r"\.dcm .*Z_EFF, not HU"),
        (without("ImagePositionPatient"), r"\.dcm .*ImagePositionPatient"),
        (without("PixelSpacing"), r"\.dcm .*PixelSpacing"),
        (without("PixelData"), r"\.dcm .*damaged.*copy it again"),
        (changed(None, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "scouts"),
        (changed(None, Modality="SEG"), "SEG"),
        (series_datasets()[:1], "one slice"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_faults_raise(tmp_path, datasets, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        read_dicom_series(write_dicom(tmp_path / "bad", datasets))
    assert str(tmp_path / "bad") in str(error.value)


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        (one_slice_shifted(), "shifted"),
        (coronal(), "not axial"),
        (stack_tilted_by_the_gantry()[::3] + stack_tilted_by_the_gantry()[4:5], "uneven"),
    ],
    ids=["shifted", "coronal", "uneven"],
)
def test_faults_that_straightening_does_not_correct(tmp_path, datasets, words):
    with pytest.raises(ValueError, match=words):
        read_dicom_series(write_dicom(tmp_path, datasets), straighten=True)


@pytest.mark.parametrize("kept", np.linspace(0.0, 0.99, 23))
def test_truncated_slice_raises(tmp_path, kept):
    folder = write_dicom(tmp_path)
    file = sorted(folder.iterdir())[2]
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))} .*(copy it again|CT series)"):
        read_dicom_series(folder)


def test_folder_without_slices_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.*not a folder"):
        read_dicom_series(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"no slices.*empty"):
        read_dicom_series(tmp_path)
    (tmp_path / "notes.txt").write_text("CT")
    with pytest.raises(FileNotFoundError, match=r"1 files.*DICOM"):
        read_dicom_series(tmp_path)
    write_dicom(tmp_path / "series")
    with pytest.raises(FileNotFoundError, match=r"no DICOM files.* 1 folders.*series"):
        read_dicom_series(tmp_path)


@needs_real_ct
def test_real_slices_agree_with_nifti(tmp_path):
    folder = unpacked("upper_abdomen_dicom_24_slices.zip", tmp_path)
    from_dicom = read_dicom_series(folder)
    from_nifti = read_nifti(REAL_CT / "chest_upper_abdomen.nii.gz")
    assert from_dicom.hounsfield.shape == (24, 512, 512)
    assert from_dicom.voxel_cm == pytest.approx(from_nifti.voxel_cm)
    # the lowest slices are at z = −236.5 and −266.5 mm, with a spacing of 3 mm
    assert (from_dicom.hounsfield == from_nifti.hounsfield[10:34]).all()


@needs_real_ct
@pytest.mark.parametrize("resample", [False, True])
def test_real_tilted_head_raises(tmp_path, resample):
    folder = unpacked("head_dicom_tilted_28_slices.zip", tmp_path)
    with pytest.raises(ValueError, match=r"18\.5°"):
        read_dicom_series(folder, resample=resample)


def spread_mm2(density, position_mm):
    """Covariance (z, y, x) of the mass distribution."""
    return np.cov(position_mm.T, aweights=density)


def spread_of_slices(folder, orientation):
    """The same from the position of each pixel in the files, with slices that touch halfway."""
    slices = [pydicom.dcmread(file) for file in folder.glob("*.dcm")]
    slices.sort(key=lambda s: s.ImagePositionPatient[2])
    step_mm = np.diff([s.ImagePositionPatient[2] for s in slices])
    thickness_mm = (np.append(0, step_mm) + np.append(step_mm, 0)) / 2
    row_and_column = np.indices((512, 512))[:, ::2, ::2].reshape(2, -1)
    columns, rows = np.reshape(orientation, (2, 3)) * slices[0].PixelSpacing[0]
    in_slice_mm = row_and_column.T @ np.stack([rows, columns])
    positions, densities = [], []
    for s, thickness in zip(slices, thickness_mm, strict=True):
        hounsfield = s.pixel_array[::2, ::2].ravel() * s.RescaleSlope + s.RescaleIntercept
        positions.append((in_slice_mm + np.array(s.ImagePositionPatient))[:, ::-1])
        densities.append(thickness * (hounsfield.clip(min=-1000) + 1000))
    return spread_mm2(np.concatenate(densities), np.concatenate(positions))


@needs_real_ct
def test_real_tilted_head_is_straightened(tmp_path):
    """The covariance of its mass matches the pixel positions in the files; a shear changes it."""
    folder = unpacked("head_dicom_tilted_28_slices.zip", tmp_path)
    with pytest.raises(ValueError, match=r"datasets\.resample=true"):
        read_dicom_series(folder, straighten=True)
    volume = read_dicom_series(folder, resample=True, straighten=True)
    hounsfield = volume.hounsfield.numpy()
    assert hounsfield.shape == (56, 486, 512)
    assert volume.voxel_cm == pytest.approx((0.422, 0.0488, 0.0488), abs=1e-4)
    voxel_cm3 = np.prod(volume.voxel_cm)
    assert 150 < (hounsfield > 700).sum() * voxel_cm3 < 500  # skull
    assert 1000 < ((hounsfield > 15) & (hounsfield < 60)).sum() * voxel_cm3 < 2000  # brain

    position_mm = np.argwhere(hounsfield > -1000) * 10 * np.array(volume.voxel_cm)
    spread = spread_mm2(hounsfield[hounsfield > -1000] + 1000.0, position_mm)
    tilted = [1, 0, 0, 0, 0.9483237, -0.3173047]  # ImageOrientationPatient of these files
    np.testing.assert_allclose(spread, spread_of_slices(folder, tilted), rtol=0.05, atol=15)
    as_if_straight = spread_of_slices(folder, [1, 0, 0, 0, 1, 0])
    assert abs(as_if_straight[0, 1] - spread[0, 1]) > 500
