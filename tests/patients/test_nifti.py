"""Slices and volumes are the same in any storage order; every bad file raises with its fault."""

import gzip
import pickle

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from support.ct_files import REAL_CT

from pcctlearn.patients.nifti import read_nifti, read_slice

CHEST = REAL_CT / "chest_upper_abdomen.nii.gz"
SPACING_MM = (0.8, 0.9, 3.0)  # right-left, front-back, up-down


def volume_hounsfield():
    """(x, y, z) along right, anterior and superior, without any symmetry."""
    volume = np.full((12, 10, 5), -1000, np.int16)
    volume[2:9, 3:8] = 40
    volume[7, 6] = 900
    volume += np.arange(5, dtype=np.int16)
    return volume


def save(path, volume=None, codes="RAS", affine=None):
    """Write a volume, given along R, A, S, with its axes stored along ``codes``."""
    volume = volume_hounsfield() if volume is None else volume
    affine = np.diag([*SPACING_MM, 1]) if affine is None else affine
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    stored = nib.apply_orientation(volume, turn)
    nib.save(nib.Nifti1Image(stored, affine @ inv_ornt_aff(turn, volume.shape)), path)
    return path


@pytest.mark.parametrize("codes", ["RAS", "LPS", "IPL", "SAR", "ALI", "PIR"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slice_is_the_same_in_every_storage_order(tmp_path, codes, suffix):
    hounsfield, spacing_cm = read_slice(save(tmp_path / f"ct{suffix}", codes=codes))
    anterior_first_right_first = volume_hounsfield()[::-1, ::-1, 2].T.astype(np.float32)
    expected = torch.tensor(anterior_first_right_first.clip(min=-1000))
    torch.testing.assert_close(hounsfield, expected)
    assert spacing_cm == pytest.approx((0.09, 0.08))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "IPL", "SAR", "ALI", "PIR"])
@pytest.mark.parametrize("kind", [np.int16, np.float64])
def test_volume_is_the_same_in_every_storage_order(tmp_path, codes, kind):
    volume = read_nifti(save(tmp_path / "case.nii.gz", volume_hounsfield().astype(kind), codes))
    lowest_anterior_right_first = volume_hounsfield()[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(volume.hounsfield, lowest_anterior_right_first.clip(min=-1000))
    assert volume.hounsfield.dtype == torch.float32
    assert volume.voxel_cm == pytest.approx((0.3, 0.09, 0.08))


def test_read_slice_agrees_with_read_nifti(tmp_path):
    file = save(tmp_path / "ct.nii", codes="LPS")
    for index in range(5):
        torch.testing.assert_close(read_slice(file, index)[0], read_nifti(file).hounsfield[index])


def test_slope_and_intercept_are_applied(tmp_path):
    image = nib.Nifti1Image((volume_hounsfield() + 1024).astype(np.uint16), np.eye(4))
    image.header.set_slope_inter(1, -1024)
    nib.save(image, tmp_path / "ct.nii")
    assert read_nifti(tmp_path / "ct.nii").hounsfield.unique().tolist()[-1] == 904


def test_slice_index_follows_the_file(tmp_path):
    for codes, index in (("RAS", 1), ("IPL", 3)):
        hounsfield, _ = read_slice(save(tmp_path / "ct.nii.gz", codes=codes), index)
        assert hounsfield.max() == 901


def test_padding_becomes_air_and_a_single_frame_is_a_volume(tmp_path):
    volume = volume_hounsfield()
    volume[0] = -2048
    hounsfield, _ = read_slice(save(tmp_path / "ct.nii.gz", volume))
    assert hounsfield.min() == -1000
    framed = nib.Nifti1Image(volume[..., None], np.eye(4))
    nib.save(framed, tmp_path / "framed.nii")
    torch.testing.assert_close(read_slice(tmp_path / "framed.nii")[0], hounsfield)


@pytest.mark.parametrize(
    "folder", ["", "case_00003", "dataset/case_00003", "kits21/data/case_00003"]
)
def test_slice_of_a_kits_folder(tmp_path, folder):
    case = tmp_path / folder
    case.mkdir(parents=True, exist_ok=True)
    save(case / "imaging.nii.gz", codes="IPL")
    assert read_slice(tmp_path)[0].shape == (10, 12)


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.nii.*not exist"):
        read_slice(tmp_path / "gone.nii")
    with pytest.raises(FileNotFoundError, match=r"no imaging\.nii\.gz.*KiTS download"):
        read_slice(tmp_path)


def text(path):
    path.write_text("HU HU HU")


def pickled(path):
    path.write_bytes(pickle.dumps({"HU": 0}))


def zipped_text(path):
    path.write_bytes(gzip.compress(b"HU HU HU"))


def empty(path):
    path.write_bytes(b"")


def another_format(path):
    nib.save(nib.MGHImage(volume_hounsfield().astype(np.int32), np.eye(4)), path.parent / "ct.mgz")
    path.write_bytes(gzip.decompress((path.parent / "ct.mgz").read_bytes()))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("write", [text, pickled, zipped_text, empty, another_format])
def test_other_file_types_raise(tmp_path, write, suffix):
    write(tmp_path / f"ct{suffix}")
    with pytest.raises(ValueError, match="NIfTI"):
        read_slice(tmp_path / f"ct{suffix}")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("codes", ["RAS", "IPL"])
def test_truncated_file_raises(tmp_path, suffix, kept, codes):
    noise = np.random.default_rng(0).integers(0, 99, (60, 50, 5), dtype=np.int16)
    file = save(tmp_path / f"ct{suffix}", noise - 1000, codes)
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    for read in (read_slice, read_nifti):
        with pytest.raises(ValueError, match=r"ct\.nii.*damaged.*copy it again"):
            read(file)


def test_wrong_checksum_raises(tmp_path):
    file = save(tmp_path / "ct.nii.gz")
    content = bytearray(file.read_bytes())
    content[-8] ^= 1  # in the checksum at the end
    file.write_bytes(content)
    with pytest.raises(ValueError, match="CRC"):
        read_slice(file)


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 5, 2)])
def test_other_dimensions_raise(tmp_path, shape):
    nib.save(nib.Nifti1Image(np.full(shape, -1000, np.int16), np.eye(4)), tmp_path / "ct.nii")
    with pytest.raises(ValueError, match=r"\(12, 10"):
        read_slice(tmp_path / "ct.nii")


@pytest.mark.parametrize("lowest", [0, -100])
def test_values_that_are_not_hu_raise(tmp_path, lowest):
    photograph = np.linspace(lowest, 255, 600).reshape(12, 10, 5).astype(np.int16)
    for read in (read_slice, read_nifti):
        with pytest.raises(ValueError, match="no air"):
            read(save(tmp_path / "ct.nii", photograph))


def test_colors_raise(tmp_path):
    colors = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colors, np.eye(4)), tmp_path / "ct.nii")
    with pytest.raises(ValueError, match="not HU"):
        read_slice(tmp_path / "ct.nii")


def test_nan_raises(tmp_path):
    volume = volume_hounsfield().astype(np.float32)
    volume[3, 4, 2] = np.nan
    for read in (read_slice, read_nifti):
        with pytest.raises(ValueError, match=r"ct\.nii .* 1 NaN"):
            read(save(tmp_path / "ct.nii", volume))


@pytest.mark.parametrize("codes", ["RAS", "IPL"])
def test_tilted_file_raises_or_is_straightened(tmp_path, codes):
    def tilted(degrees):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
        return turn @ np.diag([*SPACING_MM, 1])

    read_slice(save(tmp_path / "ct.nii", codes=codes, affine=tilted(1.5)))
    file = save(tmp_path / "ct.nii", codes=codes, affine=tilted(18.5))
    for read in (read_slice, read_nifti):
        with pytest.raises(ValueError, match=r"18\.5°.* 2°.*straighten=true"):
            read(file)
    volume = read_nifti(file, straighten=True)
    assert volume.voxel_cm == pytest.approx((0.3 * np.cos(np.radians(18.5)), 0.08, 0.08))
    assert volume.hounsfield[0, 0, 0] == -1000


@pytest.mark.parametrize("codes", ["RAS", "IPL"])
def test_straight_file_is_unchanged_by_straighten(tmp_path, codes):
    file = save(tmp_path / "ct.nii", codes=codes)
    straight, plain = read_nifti(file, straighten=True), read_nifti(file)
    assert torch.equal(straight.hounsfield, plain.hounsfield)
    assert straight.voxel_cm == plain.voxel_cm


@pytest.mark.parametrize("index", [-1, 5])
def test_slice_out_of_range_raises(tmp_path, index):
    with pytest.raises(ValueError, match=rf"0 to 4.* {index}$"):
        read_slice(save(tmp_path / "ct.nii"), index)


@pytest.mark.skipif(not CHEST.exists(), reason=f"needs the real CT at {CHEST}")
def test_real_abdomen():
    hounsfield, spacing_cm = read_slice(CHEST, 14)
    assert hounsfield.shape == (512, 512)
    assert spacing_cm == pytest.approx((0.0883, 0.0883), abs=1e-4)
    assert hounsfield.min() == -1000
    bone = (hounsfield > 400).nonzero().double().mean(0)
    assert bone[0] > 256  # the spine is at the back, below the middle
    liver, fat = hounsfield[170:290, 90:130].median(), hounsfield[300:340, 200:220].median()
    assert 60 < liver < 160
    assert fat < -50


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_volume_without_voxels_raises(tmp_path, axis):
    shape = [4, 5, 6]
    shape[axis] = 0
    path = tmp_path / "empty.nii"
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), path)
    with pytest.raises(ValueError, match=r"empty\.nii .*shape"):
        read_nifti(path)
