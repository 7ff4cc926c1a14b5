"""Units are converted, inconsistent headers raise, and the suggested commands repair them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat

from pcctlearn.patients.nifti import read_nifti, read_slice

SPACING_MM = np.array([0.8, 0.9, 3.0])
UNITS = {"unknown": 1.0, "meter": 1e-3, "mm": 1.0, "micron": 1e3}  # of one mm


def image_of(affine=None):
    values = np.full((12, 10, 5), -1000, np.int16)
    values[2:9, 3:8] = 40
    values[7, 6] = 900
    affine = from_matvec(np.diag(SPACING_MM), (-4, -5, -6)) if affine is None else affine
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    return image


def saved(image, path):
    nib.save(image, path)
    return path


def typed(message, folder):
    """Run the first command of a message in a shell; returns the file that it writes."""
    command, copy = re.search(r"type: (python -c .*?) and read (mended\.nii\.gz)", message).groups()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, shell=True, check=True, cwd=folder, env={**os.environ, "PATH": path})
    return folder / copy


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("form", ["both", "sform", "qform"])
@pytest.mark.parametrize("time", ["unknown", "sec"])
def test_lengths_are_converted_from_the_unit_of_the_header(tmp_path, unit, form, time):
    image = image_of()
    affine = np.diag([*[UNITS[unit]] * 3, 1]) @ image.affine
    image.set_sform(affine, int(form != "qform"))
    image.set_qform(affine, int(form != "sform"))
    image.header.set_xyzt_units(unit, time)
    path = saved(image, tmp_path / "ct.nii")
    volume = read_nifti(path)
    assert volume.voxel_cm == pytest.approx(SPACING_MM[::-1] / 10, rel=1e-5)
    assert read_slice(path)[1] == pytest.approx(SPACING_MM[1::-1] / 10, rel=1e-5)
    corner_cm = volume.index_to_patient @ [0, 9, 11, 1]
    np.testing.assert_allclose(corner_cm[:3], [-0.4, -0.5, -0.6], rtol=1e-4)


def test_micrometers_of_a_micro_ct(tmp_path):
    image = image_of(np.diag([40.0, 40.0, 40.0, 1.0]))
    image.header.set_xyzt_units("micron")
    path = saved(image, tmp_path / "ct.nii.gz")
    assert read_nifti(path).voxel_cm == pytest.approx((0.004, 0.004, 0.004))


@pytest.mark.parametrize("scale", [25.0, 40.0, 1e-3, 1e-4])
@pytest.mark.parametrize("unit", ["unknown", "mm", "meter"])
def test_implausible_voxel_size_raises_and_remedy_works(tmp_path, scale, unit):
    image = image_of(np.diag([scale, scale, scale, 1.0]))
    image.header.set_xyzt_units(unit)
    path = saved(image, tmp_path / "ct.nii")
    if unit == "meter" and scale < 0.01:
        assert read_nifti(path).voxel_cm[0] == pytest.approx(100 * scale)
        return
    with pytest.raises(ValueError, match=r"ct\.nii .*xyzt_units") as error:
        read_nifti(path)
    mended = read_nifti(typed(str(error.value), tmp_path))
    assert 1e-4 <= mended.voxel_cm[0] <= 1


@pytest.mark.parametrize("code", [4, 5, 7])
def test_unknown_unit_raises_and_remedy_works(tmp_path, code):
    image = image_of()
    image.header["xyzt_units"] = code
    with pytest.raises(ValueError, match=rf"xyzt_units {code}\b") as error:
        read_nifti(saved(image, tmp_path / "ct.nii"))
    mended = read_nifti(typed(str(error.value), tmp_path))
    assert mended.voxel_cm == pytest.approx(SPACING_MM[::-1] / 10)


def turned(degrees):
    return from_matvec(euler2mat(z=np.radians(degrees)) @ np.diag(SPACING_MM), (-4, -5, -6))


CONTRADICTIONS = {
    "size": (from_matvec(np.diag(SPACING_MM * [1, 1, 1.02])), "pixdim"),
    "sizes": (from_matvec(np.diag(SPACING_MM / 10)), "pixdim"),
    "turned": (turned(90), r"qform .* 90\.0°"),
    "tilted": (turned(1.5), r"qform .* 1\.5°"),
    "mirrored": (from_matvec(np.diag(SPACING_MM * [-1, 1, 1])), "qform .*mirrored"),
    "upside down": (from_matvec(np.diag(SPACING_MM * [1, -1, -1])), "qform .* 180"),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
@pytest.mark.parametrize("name", ["ct.nii", "my $(file) it's.nii.gz"])
def test_qform_that_contradicts_the_sform_raises_and_remedy_works(tmp_path, kind, name):
    qform, words = CONTRADICTIONS[kind]
    image = image_of()
    image.set_qform(qform, 1)
    path = saved(image, tmp_path / name)
    for read in (read_nifti, read_slice):
        with pytest.raises(ValueError, match=words) as error:
            read(path)
    mended = read_nifti(typed(str(error.value), tmp_path))
    expected = read_nifti(saved(image_of(), tmp_path / "right.nii"))
    assert mended.voxel_cm == pytest.approx(expected.voxel_cm)
    np.testing.assert_allclose(mended.index_to_patient, expected.index_to_patient, atol=1e-5)
    np.testing.assert_array_equal(mended.hounsfield, expected.hounsfield)


def test_pixdim_that_contradicts_the_sform_raises(tmp_path):
    image = image_of()
    image.set_qform(None, 0)
    image.header["pixdim"][1:4] = 1
    with pytest.raises(ValueError, match=r"0\.8 × 0\.9 × 3 .*sform.* 1 × 1 × 1 .*pixdim"):
        read_nifti(saved(image, tmp_path / "ct.nii"))


@pytest.mark.parametrize("error", [0.001, 0.005])
def test_rounding_differences_are_accepted(tmp_path, error):
    image = image_of()
    image.set_qform(turned(100 * error) @ np.diag([1 + error, 1, 1, 1]), 1)
    read_nifti(saved(image, tmp_path / "ct.nii"))


def test_shear_that_a_qform_cannot_hold_is_accepted(tmp_path):
    tilted = from_matvec(np.diag(SPACING_MM))
    tilted[1, 2] = 3.0 * np.tan(np.radians(18.5))
    path = saved(image_of(tilted), tmp_path / "ct.nii")
    with pytest.raises(ValueError, match="tilted"):
        read_nifti(path)
    read_nifti(path, straighten=True)


def test_different_origins_raise_a_warning(tmp_path):
    image = image_of()
    image.set_qform(image.affine + from_matvec(np.zeros((3, 3)), (30, 0, 0)), 1)
    with pytest.warns(UserWarning, match="30 units"):
        volume = read_nifti(saved(image, tmp_path / "ct.nii"))
    assert (volume.index_to_patient @ [0, 9, 11, 1])[0] == pytest.approx(-0.4)


def test_missing_orientation_raises(tmp_path):
    image = nib.Nifti1Image(np.full((4, 4, 4), -1000, np.int16), None)
    with pytest.raises(ValueError, match="sform_code = qform_code = 0"):
        read_nifti(saved(image, tmp_path / "ct.nii"))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_invalid_voxel_size_raises(tmp_path, value):
    path = saved(image_of(), tmp_path / "ct.nii")
    content = bytearray(path.read_bytes())
    content[280:284] = np.float32(value).tobytes()  # the first number of the sform
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"ct\.nii .*voxel sizes"):
        read_nifti(path)
