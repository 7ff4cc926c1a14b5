"""A written volume is read back unchanged, at the positions of its grid."""

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine, voxel_sizes

from pcctlearn.patients import nifti_writer
from pcctlearn.patients.nifti import read_nifti
from pcctlearn.patients.nifti_writer import write_nifti
from pcctlearn.tomography.grids import VolumeGrid

GRID = VolumeGrid(3, 4, 5, (0.45, 0.3, 0.2), center_cm=(0.3, 0.1, -0.2))


def hounsfield(shape=GRID.shape):
    generator = torch.Generator().manual_seed(0)
    values = 1500 * torch.rand(shape, generator=generator, dtype=torch.float32) - 999
    values[0, 0, 0] = -1000.0
    return values


def test_round_trip(tmp_path):
    path, volume = tmp_path / "vmi_60keV.nii.gz", hounsfield()
    write_nifti(path, volume, GRID, "HU")
    back = read_nifti(path)
    assert torch.equal(back.hounsfield, volume)
    assert back.voxel_cm == pytest.approx((0.45, 0.3, 0.2), rel=1e-6)


@pytest.mark.parametrize("voxel", [(0, 0, 0), (2, 1, 3), (1, 3, 4)])
def test_voxel_positions_follow_the_grid(tmp_path, voxel):
    volume = torch.zeros(GRID.shape)
    volume[voxel] = 7.0
    write_nifti(tmp_path / "a.nii.gz", volume, GRID, "HU")
    image = nib.load(tmp_path / "a.nii.gz")
    (stored,) = np.argwhere(np.asarray(image.dataobj) == 7)
    z, row, column = voxel
    x_cm, y_cm, _ = GRID.index_to_cm @ [column, row, 1]
    right_anterior_superior = [-10 * x_cm, 10 * y_cm, 10 * GRID.slices_cm[z]]
    np.testing.assert_allclose(
        apply_affine(image.affine, stored), right_anterior_superior, atol=1e-4
    )


def test_header(tmp_path):
    write_nifti(tmp_path / "water.nii.gz", hounsfield(), GRID, "mg/mL")
    image = nib.load(tmp_path / "water.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(voxel_sizes(image.affine), (2.0, 3.0, 4.5), rtol=1e-6)
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header["descrip"].item().decode() == "pcctlearn, mg/mL"
    assert image.get_data_dtype() == np.float32
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)


def test_first_row_is_the_front_and_first_column_the_right(tmp_path):
    volume = torch.zeros(GRID.shape)
    volume[2, 0, 0] = 1.0  # head, front, patient's right
    write_nifti(tmp_path / "a.nii.gz", volume, GRID, "HU")
    stored = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    assert stored[-1, -1, -1] == 1  # the most R, A and S
    assert stored.sum() == 1


def test_written_bytes_are_reproducible(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, hounsfield(), GRID, "HU")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("name", "volume", "words"),
    [
        ("a.nii", torch.zeros(GRID.shape), r"\.nii\.gz"),
        ("a.nii.gz", torch.zeros(4, 3, 5), r"\(4, 3, 5\).* \(3, 4, 5\)"),
        ("a.nii.gz", torch.full(GRID.shape, torch.nan), "60 values"),
    ],
)
def test_invalid_volumes_are_not_written(tmp_path, name, volume, words):
    with pytest.raises(ValueError, match=words):
        write_nifti(tmp_path / name, volume, GRID, "HU")
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    write_nifti(path, torch.zeros(GRID.shape), GRID, "HU")
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti_writer.gzip, "compress", full)
    with pytest.raises(OSError, match=r"a\.nii\.gz.*No space left"):
        write_nifti(path, hounsfield(), GRID, "HU")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("shear", [0.0, 0.02])
def test_volume_is_registered_to_its_ct(tmp_path, shear):
    """Voxel positions follow a matrix that scales, shifts and shears."""
    frame = np.diag([-1.25, 1.25, 1.25, 1.0])
    frame[:3, 3] = 3.0, -12.0, 40.0
    frame[1, 2] = shear
    volume = torch.zeros(GRID.shape)
    volume[2, 1, 3] = 1.0
    write_nifti(tmp_path / "a.nii.gz", volume, GRID, "HU", frame)
    image = nib.load(tmp_path / "a.nii.gz")
    (stored,) = np.argwhere(np.asarray(image.dataobj) == 1)
    x_cm, y_cm, _ = GRID.index_to_cm @ [3, 1, 1]
    expected_mm = 10 * (frame @ [x_cm, y_cm, GRID.slices_cm[2], 1])[:3]
    np.testing.assert_allclose(apply_affine(image.affine, stored), expected_mm, atol=1e-3)
    assert image.header["qform_code"] == (0 if shear else 1)


def test_only_unknown_voxels_may_be_nan(tmp_path):
    unknown = torch.zeros(GRID.shape, dtype=torch.bool)
    unknown[2] = True
    path = tmp_path / "a.nii.gz"
    write_nifti(path, hounsfield(), GRID, "HU", unknown=unknown)
    stored = np.asarray(nib.load(path).dataobj)
    assert np.isnan(stored[..., 2]).all()
    assert np.isfinite(stored[..., :2]).all()
    for wrong in (torch.nan, torch.inf):
        volume = hounsfield()
        volume[0, 0, 0] = wrong
        with pytest.raises(ValueError, match="1 values"):
            write_nifti(path, volume, GRID, "HU", unknown=unknown)
