"""A volume that is written is read as it was, and lies where its grid says."""

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


def test_the_reader_gives_it_back(tmp_path):
    path, volume = tmp_path / "vmi_60keV.nii.gz", hounsfield()
    write_nifti(path, volume, GRID, "HU")
    back = read_nifti(path)
    assert torch.equal(back.hounsfield, volume)  # to the bit
    assert back.voxel_cm == pytest.approx((0.45, 0.3, 0.2), rel=1e-6)
    assert back.name == "vmi_60keV"


@pytest.mark.parametrize("place", [(0, 0, 0), (2, 1, 3), (1, 3, 4)])
def test_a_voxel_lies_where_the_grid_says(tmp_path, place):
    volume = torch.zeros(GRID.shape)
    volume[place] = 7.0
    write_nifti(tmp_path / "a.nii.gz", volume, GRID, "HU")
    image = nib.load(tmp_path / "a.nii.gz")
    (stored,) = np.argwhere(np.asarray(image.dataobj) == 7)
    z, row, column = place
    x_cm, y_cm, _ = GRID.index_to_cm @ [column, row, 1]
    right_anterior_superior = [-10 * x_cm, 10 * y_cm, 10 * GRID.slices_cm[z]]
    np.testing.assert_allclose(
        apply_affine(image.affine, stored), right_anterior_superior, atol=1e-4
    )


def test_the_header_is_that_of_a_patient(tmp_path):
    write_nifti(tmp_path / "water.nii.gz", hounsfield(), GRID, "mg/mL")
    image = nib.load(tmp_path / "water.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(voxel_sizes(image.affine), (2.0, 3.0, 4.5), rtol=1e-6)
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header["descrip"].item().decode() == "pcctlearn, mg/mL"
    assert image.get_data_dtype() == np.float32
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)


def test_the_front_is_the_first_row_and_the_right_the_first_column(tmp_path):
    volume = torch.zeros(GRID.shape)
    volume[2, 0, 0] = 1.0  # head, front, patient's right
    write_nifti(tmp_path / "a.nii.gz", volume, GRID, "HU")
    stored = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    assert stored[-1, -1, -1] == 1  # the most R, A and S
    assert stored.sum() == 1


def test_the_same_volume_gives_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, hounsfield(), GRID, "HU")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("name", "volume", "sentence"),
    [
        ("a.nii", torch.zeros(GRID.shape), "must end in .nii.gz"),
        ("a.nii.gz", torch.zeros(4, 3, 5), r"the volume is \(4, 3, 5\), its grid \(3, 4, 5\)"),
        ("a.nii.gz", torch.full(GRID.shape, torch.nan), "not written: 60 of its values are NaN"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, volume, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_nifti(tmp_path / name, volume, GRID, "HU")
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_what_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    write_nifti(path, torch.zeros(GRID.shape), GRID, "HU")
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti_writer.gzip, "compress", full)
    with pytest.raises(OSError, match=r"cannot write .*a.nii.gz: No space left"):
        write_nifti(path, hounsfield(), GRID, "HU")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("shear", [0.0, 0.02])
def test_a_volume_lies_over_its_ct(tmp_path, shear):
    """Turned, scaled and shifted: each voxel goes where the matrix takes its scanner position."""
    frame = np.diag([-1.25, 1.25, 1.25, 1.0])
    frame[:3, 3] = 3.0, -12.0, 40.0
    frame[1, 2] = shear
    volume = torch.zeros(GRID.shape)
    volume[2, 1, 3] = 1.0
    write_nifti(tmp_path / "a.nii.gz", volume, GRID, "HU", frame)
    image = nib.load(tmp_path / "a.nii.gz")
    (stored,) = np.argwhere(np.asarray(image.dataobj) == 1)
    x_cm, y_cm, _ = GRID.index_to_cm @ [3, 1, 1]
    wanted_mm = 10 * (frame @ [x_cm, y_cm, GRID.slices_cm[2], 1])[:3]
    np.testing.assert_allclose(apply_affine(image.affine, stored), wanted_mm, atol=1e-3)
    assert image.header["qform_code"] == (0 if shear else 1)


def test_unknown_voxels_are_nan_and_no_others_may_be(tmp_path):
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
        with pytest.raises(ValueError, match="1 of its values"):
            write_nifti(path, volume, GRID, "HU", unknown=unknown)
